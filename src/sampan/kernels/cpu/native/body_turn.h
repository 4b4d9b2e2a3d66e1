// Heads of q and k: norm, rotation and scale, and their way into the cache. Written once against a vec_*.h.

namespace sampan::SAMPAN_ISA {

static inline void turn_pairs(float scale, F cosines, F sines, F& low, F& high) {
  const F x = low, y = high;
  low = mul(sub(mul(x, cosines), mul(y, sines)), set1(scale));
  high = mul(add(mul(y, cosines), mul(x, sines)), set1(scale));
}

// `count` pairs, sixteen at most, of which element i is at low[i * step] and high[i * step].
static inline void turn_some(float scale, const float* cosines, const float* sines, float* low, float* high,
                             int step, int count) {
  float c[kLanes] = {}, s[kLanes] = {}, x[kLanes] = {}, y[kLanes] = {};
  for (int i = 0; i < count; ++i) {
    c[i] = cosines[i], s[i] = sines[i];
    x[i] = low[i * step], y[i] = high[i * step];
  }
  F a = load(x), b = load(y);
  turn_pairs(scale, load(c), load(s), a, b);
  store(x, a);
  store(y, b);
  for (int i = 0; i < count; ++i) low[i * step] = x[i], high[i * step] = y[i];
}

static inline void rotate_pairs(const Turn& t, float* x, int row) {
  const int half = t.size / 2, step = t.interleaved ? 2 : 1;
  float* high = x + (t.interleaved ? 1 : half);
  const float* cosines = t.cos + static_cast<ptrdiff_t>(row) * half;
  const float* sines = t.sin + static_cast<ptrdiff_t>(row) * half;
  for (int i = 0; i < half; i += kLanes) {
    if (t.interleaved || half - i < kLanes) {
      turn_some(t.scale, cosines + i, sines + i, x + i * step, high + i * step, step,
                half - i < kLanes ? half - i : kLanes);
      continue;
    }
    F a = load(x + i), b = load(high + i);
    turn_pairs(t.scale, load(cosines + i), load(sines + i), a, b);
    store(x + i, a);
    store(high + i, b);
  }
}

// In place; d features.
static inline void turn_head(const Turn& t, float* x, int d, int row) {
  if (t.norm) {
    float inverse[1];
    inverse_rms({x}, d, t.eps, inverse);
    for (int i = 0; i < d; i += kLanes)
      store(x + i, mul(mul(load(x + i), set1(inverse[0])), load(t.norm + i)));
  }
  if (t.size > 0) rotate_pairs(t, x + t.first, row);
  for (int i = 0; i < t.first; ++i) x[i] *= t.scale;
  for (int i = t.first + t.size; i < d; ++i) x[i] *= t.scale;
}

static void rotate(const RotateArgs& a, int begin, int end) {
  for (int row = begin; row < end; ++row)
    for (int h = 0; h < a.heads; ++h) turn_head(a.turn, a.x + row * a.stride + h * a.size, a.size, row);
}

static inline void append_bf16(uint16_t* keys, const CacheShape& s, const float* k, const float* v,
                               int slot) {
  uint16_t* values = keys + kPage * s.key_size + slot / 2 * 2 * s.value_size + slot % 2;
  keys += 2 * slot;
  uint16_t column[kLanes];
  for (int i = 0; i < s.key_size; i += kLanes) {
    store_bf16(column, load(k + i));
    for (int j = 0; j < kLanes; j += 2) std::memcpy(keys + (i + j) * kPage, column + j, 4);
  }
  for (int i = 0; v && i < s.value_size; i += kLanes) {
    store_bf16(column, load(v + i));
    for (int j = 0; j < kLanes; ++j) values[2 * (i + j)] = column[j];
  }
}

// Codes at `to`, `step` apart; returns the scale. A scale that is not finite tells the reader.
static inline float append_codes(int8_t* to, int step, const float* x, int d) {
  float top = 0.0f;
  for (int i = 0; i < d; i += 2 * kLanes) {
    const float block = max_magnitude(load(x + i), load(x + i + kLanes));
    top = block > top || block != block ? block : top;
  }
  const bool usable = top > 1e-30f && top < INFINITY;
  const F inverse = set1(usable ? 127.0f / top : 0.0f);
  int8_t codes[kLanes];
  for (int i = 0; i < d; i += kLanes) {
    store_i8(codes, nearest(mul(usable ? load(x + i) : set1(0.0f), inverse)));
    for (int j = 0; j < kLanes; ++j) to[(i + j) * step] = codes[j];
  }
  return top / 127.0f;
}

static inline void append_token(const CacheView& c, const float* k, const float* v, int page, int slot,
                                int head) {
  const CacheShape& s = c.shape;
  uint8_t* base = page_at(c, page, head);
  if (c.type == Cache::bf16) return append_bf16(reinterpret_cast<uint16_t*>(base), s, k, v, slot);
  if (c.type == Cache::int8) {
    int8_t* codes = reinterpret_cast<int8_t*>(base);
    float* scales = reinterpret_cast<float*>(base + kPage * (s.key_size + (v ? s.value_size : 0)));
    scales[slot] = append_codes(codes + slot, kPage, k, s.key_size);
    if (v)
      scales[kPage + slot] =
          append_codes(codes + kPage * s.key_size + slot * s.value_size, 1, v, s.value_size);
    return;
  }
  float* keys = reinterpret_cast<float*>(base);
  for (int i = 0; i < s.key_size; ++i) keys[i * kPage + slot] = k[i];
  if (v)
    std::memcpy(keys + kPage * s.key_size + slot * s.value_size, v, static_cast<size_t>(s.value_size) * 4);
}

static void append(const AppendArgs& a, int begin, int end) {
  const CacheShape& s = a.cache.shape;
  for (int row = begin; row < end; ++row) {
    float* q = a.q + row * a.q_stride;
    for (int h = 0; h < a.heads; ++h) turn_head(a.q_turn, q + h * s.key_size, s.key_size, row);
    for (int h = 0; h < s.kv_heads; ++h) {
      float* k = a.k + row * a.k_stride + h * s.key_size;
      turn_head(a.k_turn, k, s.key_size, row);
      const float* v = s.latent ? nullptr : a.v + row * a.v_stride + h * s.value_size;
      append_token(a.cache, k, v, a.row_page[row], a.positions[row] % kPage, h);
    }
  }
}

}  // namespace sampan::SAMPAN_ISA
