// Matrix products, written once against a vec_*.h with integer dots.
// A block's sum is an exact int32; blocks fold one after another with the same FMA in every tile shape,
// so a row's bits depend on the row alone (scalar.cpp states the arithmetic).

namespace sampan::SAMPAN_ISA {

static inline F load_scale(const uint8_t* p, bool wide) {
  return wide ? load(reinterpret_cast<const float*>(p)) : load_f16(p);
}

static inline void finish(const LinearArgs& a, int row, int panel, F y) {
  float* out = a.out + row * a.stride + panel * kLanes;
  if (a.bias) y = add(y, load(a.bias + panel * kLanes));
  store(out, a.accumulate ? add(load(out), y) : y);
}

// Eight chunks of codes of one packed block.
template <Store S>
static inline void block_codes(const uint8_t* p, W (&w)[8]) {
  if constexpr (S == Store::u8) {
    for (int c = 0; c < 8; ++c) w[c] = load_codes(p + 64 * c);
    return;
  }
  for (int v = 0; v < 4; ++v) {
    const W both = load_codes(p + 64 * v);
    w[v] = low_nibbles(both);
    w[v + 4] = high_nibbles(both);
  }
  if constexpr (S == Store::u6) {
    for (int c = 0; c < 8; ++c) w[c] = add_high2(w[c], load_codes(p + 256 + 64 * (c / 4)), c % 4);
  }
}

// Integer sums of rows (all fine, or none) x one block of 32 inputs; `low` takes inputs 0..15, `high` 16..31.
template <int R, bool Wide>
static inline void dot_block(const LinearArgs& a, int row, int k, const W (&w)[8], I (&low)[R], I (&high)[R]) {
  const ptrdiff_t plane = static_cast<ptrdiff_t>(a.a.capacity) * a.a.k;
  const bool fine = a.w.group < kBlock;
  for (int r = 0; r < R; ++r) low[r] = high[r] = set1_i32(0);
  const int planes = planes_of(a.a, row);
  for (int p = 0; p < planes; ++p) {
    for (int r = 0; p > 0 && r < R; ++r) {
      low[r] = shift8(low[r]);
      high[r] = shift8(high[r]);
    }
    const int8_t* codes = a.a.codes + p * plane + static_cast<ptrdiff_t>(row) * a.a.k + k;
    for (int c = 0; c < 4; ++c) {
      for (int r = 0; r < R; ++r) {
        low[r] = dot<Wide>(low[r], w[c], four(codes + static_cast<ptrdiff_t>(r) * a.a.k + 4 * c));
        high[r] = dot<Wide>(high[r], w[c + 4], four(codes + static_cast<ptrdiff_t>(r) * a.a.k + 4 * c + 16));
      }
    }
  }
  if (a.w.zero == 0) return;
  for (int r = 0; r < R; ++r) {
    const ptrdiff_t at = static_cast<ptrdiff_t>(row + r) * (a.a.k / kBlock) + k / kBlock;
    low[r] = add_i32(low[r], set1_i32(-a.w.zero * (fine ? a.a.isum16[2 * at] : a.a.isum32[at])));
    if (fine) high[r] = add_i32(high[r], set1_i32(-a.w.zero * a.a.isum16[2 * at + 1]));
  }
}

// One panel against R rows, codes read in place: for few rows, where memory is the limit.
template <Store S, int R>
static void direct(const LinearArgs& a, int row, int panel) {
  constexpr bool wide_codes = S == Store::u8;
  const Matrix& m = a.w;
  const uint8_t* p = m.data + panel_bytes(m) * static_cast<size_t>(panel);
  const size_t scales = scale_bytes(m), vector = static_cast<size_t>(kLanes) * (m.wide ? 4 : 2);
  const bool fine = m.group < kBlock;
  const int blocks = superblock(m) / kBlock;
  F acc[R];
  for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
  for (int k = 0; k < m.k;) {
    const uint8_t* mins = p + scales;
    const uint8_t* codes = mins + (m.has_min ? scales : 0);
    const F scale = load_scale(p, m.wide), scale2 = fine ? load_scale(p + vector, m.wide) : scale;
    const F least = m.has_min ? load_scale(mins, m.wide) : scale, least2 = m.has_min && fine ? load_scale(mins + vector, m.wide) : least;
    for (int b = 0; b < blocks; ++b, k += kBlock, codes += code_bytes(m)) {
      for (size_t line = 0; line < code_bytes(m); line += 64) prefetch(codes + 4096 + line);
      W w[8];
      I low[R], high[R];
      block_codes<S>(codes, w);
      dot_block<R, wide_codes>(a, row, k, w, low, high);
      for (int r = 0; r < R; ++r) {
        const ptrdiff_t at = static_cast<ptrdiff_t>(row + r) * (a.a.k / kBlock) + k / kBlock;
        const F s = set1(a.a.scale[at]);
        if (fine) {
          acc[r] = fma(mul(to_float(low[r]), scale), s, acc[r]);
          if (m.has_min) acc[r] = fma(least, set1(a.a.sum16[2 * at]), acc[r]);
          acc[r] = fma(mul(to_float(high[r]), scale2), s, acc[r]);
          if (m.has_min) acc[r] = fma(least2, set1(a.a.sum16[2 * at + 1]), acc[r]);
        } else {
          acc[r] = fma(mul(to_float(add_i32(low[r], high[r])), scale), s, acc[r]);
          if (m.has_min) acc[r] = fma(least, set1(a.a.sum32[at]), acc[r]);
        }
      }
    }
    p = codes;
  }
  for (int r = 0; r < R; ++r) finish(a, row + r, panel, acc[r]);
}

// Scratch of one block: [8 chunks][panels][64] codes, then per fold [panels][16] scales, then mins.
template <Store S>
static void unpack_panel(const Matrix& m, int panel, int slot, int count, uint8_t* scratch) {
  const uint8_t* p = m.data + panel_bytes(m) * static_cast<size_t>(panel);
  const size_t scales = scale_bytes(m), vector = static_cast<size_t>(kLanes) * (m.wide ? 4 : 2);
  const int folds = kBlock / fold(m), blocks = superblock(m) / kBlock;
  const size_t panels_bytes = static_cast<size_t>(count) * 64, at = static_cast<size_t>(slot) * 64;
  for (int k = 0; k < m.k; k += superblock(m)) {
    const uint8_t* mins = p + scales;
    const uint8_t* codes = mins + (m.has_min ? scales : 0);
    for (int b = 0; b < blocks; ++b, codes += code_bytes(m)) {
      W w[8];
      block_codes<S>(codes, w);
      for (int c = 0; c < 8; ++c, scratch += panels_bytes) store_codes(scratch + at, w[c]);
      for (int f = 0; f < folds; ++f, scratch += panels_bytes)
        store(reinterpret_cast<float*>(scratch + at), load_scale(p + static_cast<size_t>(f) * vector, m.wide));
      for (int f = 0; m.has_min && f < folds; ++f, scratch += panels_bytes)
        store(reinterpret_cast<float*>(scratch + at), load_scale(mins + static_cast<size_t>(f) * vector, m.wide));
    }
    p = codes;
  }
}

// R rows (all fine, or none) x P unpacked panels: for many rows, where arithmetic is the limit. Folds are 32 inputs, or 16 if Fine.
template <int R, int P, bool Wide, bool Fine>
static void tile(const LinearArgs& a, int row, int panel, const uint8_t* w) {
  constexpr int kFold = Fine ? 16 : 32, kFolds = kBlock / kFold, kChunks = kFold / 4;
  const Activations& x = a.a;
  const ptrdiff_t plane = static_cast<ptrdiff_t>(x.capacity) * x.k;
  const int planes = planes_of(x, row);
  const int8_t* codes[R];
  for (int r = 0; r < R; ++r) codes[r] = x.codes + static_cast<ptrdiff_t>(row + r) * x.k;
  const int32_t* isum = Fine ? x.isum16 : x.isum32;
  const float* sums = Fine ? x.sum16 : x.sum32;
  F acc[R][P];
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  for (int b = 0; b < x.k / kBlock; ++b) {
    const float* scales = reinterpret_cast<const float*>(w + 512 * P);
    const float* mins = scales + kFolds * P * kLanes;
    for (int f = 0; f < kFolds; ++f) {
      I dots[R][P];
      for (int r = 0; r < R; ++r) {
        const I start = set1_i32(planes == 1 ? -a.w.zero * isum[(row + r) * (x.k / kFold) + b * kFolds + f] : 0);
        for (int p = 0; p < P; ++p) dots[r][p] = start;
      }
      for (int plane_index = 0; plane_index < planes; ++plane_index) {
        if (plane_index > 0) {
          for (int r = 0; r < R; ++r) {
            const I start = set1_i32(-a.w.zero * isum[(row + r) * (x.k / kFold) + b * kFolds + f]);
            for (int p = 0; p < P; ++p) dots[r][p] = add_i32(shift8(dots[r][p]), start);
          }
        }
        const ptrdiff_t at = plane_index * plane + b * kBlock + f * kFold;
#pragma GCC unroll 8
        for (int c = 0; c < kChunks; ++c) {
          W v[P];
          for (int p = 0; p < P; ++p) v[p] = load_codes(w + ((f * kChunks + c) * P + p) * 64);
          for (int r = 0; r < R; ++r) {
            const I q = four(codes[r] + at + 4 * c);
            for (int p = 0; p < P; ++p) dots[r][p] = dot<Wide>(dots[r][p], v[p], q);
          }
        }
      }
      for (int p = 0; p < P; ++p) {
        const F scale = load(scales + (f * P + p) * kLanes);
        for (int r = 0; r < R; ++r)
          acc[r][p] = fma(mul(to_float(dots[r][p]), scale), set1(x.scale[(row + r) * (x.k / kBlock) + b]), acc[r][p]);
        if (!a.w.has_min) continue;
        const F least = load(mins + (f * P + p) * kLanes);
        for (int r = 0; r < R; ++r) acc[r][p] = fma(least, set1(sums[(row + r) * (x.k / kFold) + b * kFolds + f]), acc[r][p]);
      }
    }
    w += P * (512 + 64 * kFolds * (a.w.has_min ? 2 : 1));
  }
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) finish(a, row + r, panel + p, acc[r][p]);
}

// R rows x P panels of float weights: one FMA chain over k for each output.
template <int R, int P, Store S>
static void float_tile(const LinearArgs& a, int row, int panel) {
  constexpr int kBytes = S == Store::f32 ? 4 : 2;
  const size_t bytes = panel_bytes(a.w);
  const uint8_t* w = a.w.data + bytes * static_cast<size_t>(panel);
  const float* x = a.a.values + static_cast<ptrdiff_t>(row) * a.a.k;
  F acc[R][P];
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  for (int k = 0; k < a.w.k; ++k, w += kLanes * kBytes) {
    F v[P];
    for (int p = 0; p < P; ++p) {
      const uint8_t* at = w + bytes * static_cast<size_t>(p);
      v[p] = S == Store::f32 ? load(reinterpret_cast<const float*>(at)) : S == Store::f16 ? load_f16(at) : load_bf16(at);
    }
    for (int r = 0; r < R; ++r) {
      const F s = set1(x[static_cast<ptrdiff_t>(r) * a.a.k + k]);
      for (int p = 0; p < P; ++p) acc[r][p] = fma(v[p], s, acc[r][p]);
    }
  }
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) finish(a, row + r, panel + p, acc[r][p]);
}

}  // namespace sampan::SAMPAN_ISA
