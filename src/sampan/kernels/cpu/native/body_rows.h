// Row kernels, written once against a vec_*.h: embedding, norm, SwiGLU, RoPE, logits' summary.
// Included by every instruction set's file after its vec header and body_flush.h.

#include <cmath>

#include "body_quantise.h"

namespace sampan::SAMPAN_ISA {

// e^x within 2 ulp (Cephes expf's polynomial); exactly 0 below -87.3. A NaN stays one: it is the second
// operand of min and max.
static inline F exponential(F x) {
  const F low = set1(-87.3f);
  const F y = max(low, min(set1(88.0f), x));
  const I n = nearest(mul(y, set1(1.44269504f)));
  F r = fma(to_float(n), set1(-0.693359375f), y);
  r = fma(to_float(n), set1(2.12194440e-4f), r);
  F p = fma(set1(1.9875691500e-4f), r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return pick_less(x, low, set1(0.0f), mul(p, power_of_two(n)));
}

// Fewer floats than lanes, zeros behind them.
static inline F load_some(const float* x, int count) {
  float part[kLanes] = {};
  std::memcpy(part, x, static_cast<size_t>(count) * 4);
  return load(part);
}

static inline void store_some(float* to, F x, int count) {
  float part[kLanes];
  store(part, x);
  std::memcpy(to, part, static_cast<size_t>(count) * 4);
}

// Of R rows at once: each one's sum is a chain of its own.
template <int R>
static inline void inverse_rms(const float* const (&x)[R], int n, float eps, float (&inverse)[R]) {
  F squares[R];
  for (int r = 0; r < R; ++r) squares[r] = set1(0.0f);
  const int whole = n / kLanes * kLanes;
  for (int i = 0; i < whole; i += kLanes)
    for (int r = 0; r < R; ++r) squares[r] = fma(load(x[r] + i), load(x[r] + i), squares[r]);
  for (int r = 0; whole < n && r < R; ++r) {
    const F rest = load_some(x[r] + whole, n - whole);
    squares[r] = fma(rest, rest, squares[r]);
  }
  for (int r = 0; r < R; ++r)
    inverse[r] = 1.0f / std::sqrt(fold_lanes(squares[r]) / static_cast<float>(n) + eps);
}

static inline float half_at(const uint8_t* p, int lane) {
  float v[kLanes];
  store(v, load_f16(p));
  return v[lane];
}

static inline float bf16_at(const uint8_t* p, size_t index) {
  uint16_t half;
  std::memcpy(&half, p + 2 * index, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

static inline int code_at(const Matrix& m, const uint8_t* codes, int chunk, int lane, int j) {
  const int at = lane * 4 + j;
  if (m.store == Store::u8) return codes[chunk * 64 + at];
  const int low = chunk < 4 ? codes[chunk * 64 + at] & 15 : codes[(chunk - 4) * 64 + at] >> 4;
  if (m.store == Store::u4) return low;
  return low | ((codes[256 + chunk / 4 * 64 + at] >> (2 * (chunk % 4))) & 3) << 4;
}

static inline float e4m3_value(uint8_t code) {
  const uint32_t bits = static_cast<uint32_t>(bf16_of_e4m3(code & 0x7f)) << 16;
  float size;
  std::memcpy(&size, &bits, 4);
  return code & 0x80 ? -size : size;
}

static inline float e4m3_scale(const Matrix& m, const uint8_t* panel, int group, int lane) {
  float scale;
  std::memcpy(&scale, panel + 4 * (m.wide ? group * kLanes + lane : group), 4);
  return scale;
}

// The first features of row `row` of a packed matrix, dequantised.
static void unpack_row(const Matrix& m, int row, int width, float* out) {
  const uint8_t* p = m.data + panel_bytes(m) * static_cast<size_t>(row / kLanes);
  const int lane = row % kLanes;
  if (!is_integer(m)) {
    for (int k = 0; k < width; ++k) {
      if (m.store == Store::f32)
        std::memcpy(out + k, p + (static_cast<size_t>(k) * kLanes + static_cast<size_t>(lane)) * 4, 4);
      else if (m.store == Store::e4m3)
        out[k] = e4m3_value(p[e4m3_scale_bytes(m) + float_index(m, k, lane)]) *
                 e4m3_scale(m, p, k / m.group, lane);
      else if (m.store == Store::f16) out[k] = half_at(p + static_cast<size_t>(k) * kLanes * 2, lane);
      else out[k] = bf16_at(p, float_index(m, k, lane));
    }
    return;
  }
  for (int k = 0; k < width; ++k) {
    const int in = k % superblock(m), group = in / m.group;
    const uint8_t* block = p + static_cast<size_t>(k / superblock(m)) * superblock_bytes(m);
    const uint8_t* mins = block + scale_bytes(m);
    const uint8_t* codes =
        mins + (m.has_min ? scale_bytes(m) : 0) + static_cast<size_t>(in / kBlock) * code_bytes(m);
    const size_t at = static_cast<size_t>(group) * kLanes * (m.wide ? 4 : 2);
    float scale, least = 0.0f;
    if (m.wide) {
      std::memcpy(&scale, block + at + static_cast<size_t>(lane) * 4, 4);
      if (m.has_min) std::memcpy(&least, mins + at + static_cast<size_t>(lane) * 4, 4);
    } else {
      scale = half_at(block + at, lane);
      if (m.has_min) least = half_at(mins + at, lane);
    }
    const int q = code_at(m, codes, in % kBlock / 4, lane, in % 4) - m.zero;
    out[k] = scale * static_cast<float>(q) + least;
  }
}

static void embed(const EmbedArgs& a, int begin, int end) {
  for (int row = begin; row < end; ++row) unpack_row(a.table, a.ids[row], a.width, a.out + row * a.stride);
}

static inline F swish(F gate, F up) {
  const F denominator = add(set1(1.0f), exponential(sub(set1(0.0f), gate)));
  return mul(div(gate, denominator), up);
}

template <Prep Op>
static inline F prepared(const PrepArgs& a, const float* x, int k, F inverse) {
  if constexpr (Op == Prep::norm) return mul(mul(load(x + k), inverse), load(a.weight + k));
  else if constexpr (Op == Prep::swiglu) return swish(load(x + k), load(x + a.up + k));
  else return load(x + k);
}

// The same where the row ends within these lanes, or before them: zeros from there on.
template <Prep Op>
static inline F prepared_last(const PrepArgs& a, const float* x, int k, int width, F inverse) {
  const int count = width - k;
  if (count <= 0) return set1(0.0f);
  F made = load_some(x + k, count);
  if constexpr (Op == Prep::norm) made = mul(mul(made, inverse), load_some(a.weight + k, count));
  if constexpr (Op == Prep::swiglu) made = swish(made, load_some(x + a.up + k, count));
  float part[kLanes];
  store(part, made);
  return load_some(part, count);
}

// Features [k, k + 16) of a row of `width`.
template <Prep Op>
static inline F prepared_of(const PrepArgs& a, const float* x, int k, int width, float inverse) {
  if (k + kLanes <= width) return prepared<Op>(a, x, k, set1(inverse));
  return prepared_last<Op>(a, x, k, width, set1(inverse));
}

// Rows [row, row + R): one, or a quad that `together` takes.
template <Prep Op, int R>
static void prepare_rows(const PrepArgs& a, int row) {
  const int n = a.out.k, width = a.width ? a.width : n;
  const float* x[R];
  for (int r = 0; r < R; ++r) x[r] = a.in + (a.rows ? a.rows[row + r] : row + r) * a.stride;
  float rms[R];
  for (int r = 0; r < R; ++r) rms[r] = 1.0f;
  if constexpr (Op == Prep::norm) inverse_rms(x, width, a.eps, rms);
  for (int r = 0; Op == Prep::norm && a.unsound && r < R; ++r) {
    if (rms[r] > 0.0f) continue;
    int32_t& unsound = a.unsound[a.step_rows ? a.step_rows[row + r] : row + r];
    if (unsound < 0) unsound = a.mark;
  }
  if (a.out.values) {
    for (int r = 0; r < R; ++r) {
      float* y = a.out.values + static_cast<ptrdiff_t>(row + r) * n;
      for (int k = 0; k < n; k += kLanes) store(y + k, prepared_of<Op>(a, x[r], k, width, rms[r]));
    }
    return;
  }
  if (a.out.bf16) {
    for (int r = 0; r < R; ++r) {
      uint16_t* y = a.out.bf16 + static_cast<ptrdiff_t>(row + r) * n;
      for (int k = 0; k < n; k += kLanes) store_bf16(y + k, prepared_of<Op>(a, x[r], k, width, rms[r]));
    }
    return;
  }
  for (int k = 0; k < n; k += kBlock) {
    F low[R], high[R];
    for (int r = 0; r < R; ++r) {
      low[r] = prepared_of<Op>(a, x[r], k, width, rms[r]);
      high[r] = prepared_of<Op>(a, x[r], k + kLanes, width, rms[r]);
    }
    quantise(a.out, row, k, low, high);
  }
}

template <Prep Op>
static void prepare_all(const PrepArgs& a, int begin, int end) {
  for (int row = begin; row < end;) {
    const bool quad = together(a.out, row, end);
    if (quad) prepare_rows<Op, kQuad>(a, row);
    else prepare_rows<Op, 1>(a, row);
    row += quad ? kQuad : 1;
  }
}

static inline void prepare_any(const PrepArgs& a, int begin, int end) {
  if (a.op == Prep::norm) prepare_all<Prep::norm>(a, begin, end);
  else if (a.op == Prep::swiglu) prepare_all<Prep::swiglu>(a, begin, end);
  else prepare_all<Prep::copy>(a, begin, end);
}

static void prepare(const PrepArgs& a, int begin, int end) {
  if (!a.out.bf16) return prepare_any(a, begin, end);
  const FlushDenormals flush;  // as in the products that read these rows
  prepare_any(a, begin, end);
}

static void stats(const float* logits, int begin, int end, Stats* out) {
  constexpr int kChains = 4, kLook = 16 * kLanes;  // chains of latency; logits looked through at once
  float top = -INFINITY, ends[kLanes];
  F tops[kChains], zeros[kChains], total = set1(0.0f);
  for (int c = 0; c < kChains; ++c) tops[c] = set1(-INFINITY), zeros[c] = set1(0.0f);
  const int whole = begin + (end - begin) / kLanes * kLanes;
  for (int i = begin; i < whole;) {
    for (int c = 0; c < kChains && i < whole; ++c, i += kLanes) {
      tops[c] = max(load(logits + i), tops[c]);
      zeros[c] = fma(load(logits + i), set1(0.0f), zeros[c]);
    }
  }
  for (int c = 1; c < kChains; ++c) tops[0] = max(tops[c], tops[0]), zeros[0] = add(zeros[0], zeros[c]);
  float finite = fold_lanes(zeros[0]);
  store(ends, tops[0]);
  for (int i = 0; i < kLanes; ++i) top = ends[i] > top ? ends[i] : top;
  for (int i = whole; i < end; ++i) {
    top = logits[i] > top ? logits[i] : top;
    finite += logits[i] * 0.0f;
  }
  for (int i = begin; i < whole; i += kLanes)
    total = add(total, exponential(sub(load(logits + i), set1(top))));
  for (int i = 0; i < kLanes; ++i) ends[i] = whole + i < end ? logits[whole + i] : -INFINITY;
  if (whole < end) total = add(total, exponential(sub(load(ends), set1(top))));
  int at = begin;
  for (bool found = false; at + kLook <= end; at += kLook) {
    F most = set1(-INFINITY);
    for (int i = 0; i < kLook; i += kLanes) most = max(load(logits + at + i), most);
    store(ends, most);
    for (int i = 0; i < kLanes; ++i) found = found || ends[i] == top;
    if (found) break;
  }
  while (at < end - 1 && logits[at] != top) ++at;
  *out = {top, fold_lanes(total), at, finite == 0.0f};
}

}  // namespace sampan::SAMPAN_ISA
