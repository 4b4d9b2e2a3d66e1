// Quantisation of activations, written once against a vec_*.h. Included by body_rows.h.

#include <cmath>

namespace sampan::SAMPAN_ISA {

// Chunks of four codes to their places in a quad.
static inline void store_chunks(int8_t (*to)[kQuad][4], int lane, const int8_t* codes) {
  for (int c = 0; c < 8; ++c) std::memcpy(to[c][lane], codes + 4 * c, 4);
}

// Codes, scale and sums of one block of 32 values. Codes are zero where the scale is not finite (the scale
// tells the reader) or too small for its inverse to be finite.
static inline void quantise_row(const Activations& out, ptrdiff_t row, int k, F a, F b) {
  const bool fine = planes_of(out, row) == 2;
  const float limit = fine ? 32512.0f : 127.0f;
  const float top = max_magnitude(a, b);
  const float scale = top / limit;
  const bool usable = top > 1e-30f && top < INFINITY;
  const F inverse = set1(usable ? limit / top : 0.0f);
  if (!usable) a = b = set1(0.0f);
  const I qa = nearest(mul(a, inverse)), qb = nearest(mul(b, inverse));
  const ptrdiff_t at = block_index(out, row, k);
  const int lane = static_cast<int>(row % kQuad);
  QuadBlock& block = out.blocks[at];
  int8_t codes[kBlock];
  if (!fine) {
    store_i8(codes, qa);
    store_i8(codes + kLanes, qb);
  } else {
    const I ha = high_byte(qa), hb = high_byte(qb);
    int8_t low[kBlock];
    store_i8(codes, ha);
    store_i8(codes + kLanes, hb);
    store_i8(low, sub_i32(qa, shift8(ha)));
    store_i8(low + kLanes, sub_i32(qb, shift8(hb)));
    store_chunks(reinterpret_cast<int8_t (*)[kQuad][4]>(out.low + at * kLowBytes), lane, low);
  }
  store_chunks(block.codes, lane, codes);
  const int32_t sa = sum(qa), sb = sum(qb);
  block.scale[lane] = scale;
  block.isum[lane] = sa + sb;
  block.isum16[0][lane] = sa;
  block.isum16[1][lane] = sb;
  block.sum[lane] = scale * static_cast<float>(sa + sb);
}

// Whether rows [row, row + 4) are a quad before `end`, all fine or none.
static inline bool together(const Activations& a, int row, int end) {
  if (row % kQuad != 0 || row + kQuad > end) return false;
  for (int r = 1; r < kQuad; ++r)
    if (planes_of(a, row + r) != planes_of(a, row)) return false;
  return true;
}

// As `quantise_row`, for the four rows of a quad: their chains of instructions overlap, and whole vectors are
// stored.
template <bool Fine>
static inline void quantise_quad(QuadBlock& to, int8_t* low, F (&a)[kQuad], F (&b)[kQuad]) {
  const float limit = Fine ? 32512.0f : 127.0f;
  float top[kQuad], inverse[kQuad];
  max_magnitudes(a, b, top);
  for (int r = 0; r < kQuad; ++r) {
    to.scale[r] = top[r] / limit;
    inverse[r] = limit / top[r];
  }
  I q[2][kQuad];
  for (int r = 0; r < kQuad; ++r) {
    if (!(top[r] > 1e-30f && top[r] < INFINITY)) {
      inverse[r] = 0.0f;
      a[r] = b[r] = set1(0.0f);
    }
    q[0][r] = nearest(mul(a[r], set1(inverse[r])));
    q[1][r] = nearest(mul(b[r], set1(inverse[r])));
  }
  for (int half = 0; half < 2; ++half) {
    int8_t* const codes = to.codes[4 * half][0];
    if constexpr (Fine) {
      int32_t lows[kQuad];
      I high[kQuad];
      for (int r = 0; r < kQuad; ++r) {
        high[r] = high_byte(q[half][r]);
        q[half][r] = sub_i32(q[half][r], shift8(high[r]));
      }
      store_quad(codes, high, to.isum16[half]);
      store_quad(low + half * kLowBytes / 2, q[half], lows);
      for (int r = 0; r < kQuad; ++r) to.isum16[half][r] = 256 * to.isum16[half][r] + lows[r];
    } else {
      store_quad(codes, q[half], to.isum16[half]);
    }
  }
  for (int r = 0; r < kQuad; ++r) {
    to.isum[r] = to.isum16[0][r] + to.isum16[1][r];
    to.sum[r] = to.scale[r] * static_cast<float>(to.isum[r]);
  }
}

// Inputs [k, k + 32) of one row, or of a quad that `together` takes: `a` and `b` hold sixteen each.
template <int R>
static inline void quantise(const Activations& out, ptrdiff_t row, int k, F (&a)[R], F (&b)[R]) {
  if constexpr (R == 1) return quantise_row(out, row, k, a[0], b[0]);
  else {
    const ptrdiff_t at = block_index(out, row, k);
    if (planes_of(out, row) == 2) quantise_quad<true>(out.blocks[at], out.low + at * kLowBytes, a, b);
    else quantise_quad<false>(out.blocks[at], nullptr, a, b);
  }
}

}  // namespace sampan::SAMPAN_ISA
