// Sixteen lanes in one register: AVX-512 F, BW, VL, DQ and VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace sampan::SAMPAN_ISA {

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct W {
  __m512i v;
};  // 64 codes: [16 features][4 inputs]

static inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
static inline F set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F pick_less(F x, F limit, F b, F a) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), a.v, b.v)};
}
static inline I nearest(F a) { return {_mm512_cvtps_epi32(a.v)}; }
// Largest magnitude by bit pattern: exact in any order, and NaN wins.
static inline float max_magnitude(F a, F b) {
  const __m512i top =
      _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(a.v)), _mm512_castps_si512(_mm512_abs_ps(b.v)));
  const int32_t bits = _mm512_reduce_max_epi32(top);
  float r;
  std::memcpy(&r, &bits, 4);
  return r;
}
// Of four pairs: unpacking transposes them, so that the last two folds are of all four.
static inline void max_magnitudes(const F (&a)[kQuad], const F (&b)[kQuad], float* top) {
  __m512i x[kQuad];
  for (int r = 0; r < kQuad; ++r)
    x[r] = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(a[r].v)),
                            _mm512_castps_si512(_mm512_abs_ps(b[r].v)));
  const __m512i even = _mm512_max_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i odd = _mm512_max_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  const __m512i all = _mm512_max_epi32(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
  const __m256i eight = _mm256_max_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_ps(top, _mm_castsi128_ps(
                         _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1))));
}
// Lanes folded in halves: a fixed order.
static inline float fold_lanes(F x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float max_lanes(F x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline int32_t sum(I a) { return _mm512_reduce_add_epi32(a.v); }
static inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
static inline F power_of_two(I n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
static inline void store_i8(int8_t* p, I a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
// Codes of four rows, four of each by turns, and their sums. A code fits eight bits.
static inline void store_quad(int8_t* p, const I (&a)[kQuad], int32_t* sums) {
  const __m512i codes =
      _mm512_packs_epi16(_mm512_packs_epi32(a[0].v, a[1].v), _mm512_packs_epi32(a[2].v, a[3].v));
  _mm512_storeu_si512(p, codes);
  const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
  const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64(fours, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                   _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1)));
}
static inline F load_f16(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
// To nearest even; NaN stays NaN.
static inline __m512i rounded_bf16(F a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i round =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  return _mm512_mask_mov_epi32(round, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
}
static inline void store_bf16(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded_bf16(a)));
}
struct B {
  __m512i v;
};  // sixteen pairs of bf16
static inline B load_pairs(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
static inline B set1_pair(const uint16_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return {_mm512_set1_epi32(x)};
}
// Two pairs of E4M3 inputs, exactly.
#if defined(__AVX512VBMI__)
static inline void load_e4m3(const uint8_t* p, B& first, B& second) {
  const __m512i code = _mm512_loadu_si512(p);
  const auto found = [&](const uint8_t (&table)[128]) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), code, _mm512_load_si512(table + 64));
  };
  const __m512i low = found(kE4m3.low), size = found(kE4m3.high);
  const __m512i high = _mm512_ternarylogic_epi32(code, _mm512_set1_epi8(-0x80), size, 0xea);
  first = {_mm512_unpacklo_epi8(low, high)};
  second = {_mm512_unpackhi_epi8(low, high)};
}
#else
static inline __m512i widened_e4m3(__m512i code) {  // of the upper bytes; a denormal's bits are looked up
  const __m512i size = _mm512_and_si512(_mm512_srli_epi16(code, 4), _mm512_set1_epi16(0x7f0));
  const __m512i value = _mm512_mask_permutexvar_epi16(
      _mm512_add_epi16(size, _mm512_set1_epi16(0x3c00)),
      _mm512_testn_epi16_mask(code, _mm512_set1_epi16(0x7800)), _mm512_srli_epi16(code, 8),
      _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kE4m3Small))));
  return _mm512_ternarylogic_epi32(code, _mm512_set1_epi16(-0x8000), value, 0xea);
}
static inline void load_e4m3(const uint8_t* p, B& first, B& second) {
  const __m512i code = _mm512_loadu_si512(p), zero = _mm512_setzero_si512();
  first = {widened_e4m3(_mm512_unpacklo_epi8(zero, code))};
  second = {widened_e4m3(_mm512_unpackhi_epi8(zero, code))};
}
#endif
static inline B even_only(B x) { return {_mm512_and_si512(x.v, _mm512_set1_epi32(0xffff))}; }
// `dot_bf16`: two multiply-adds, the odd elements first. `vdpbf16ps` is exactly that while denormals are
// flushed. `Scalar`: as what elements to be broadcast are kept, rounded to bf16.
#if defined(__AVX512BF16__)
using Scalar = uint16_t;
static inline void store_scalars(uint16_t* p, F low, F high) {
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v));
}
static inline F dot_bf16(F acc, B x, B y) { return {_mm512_dpbf16_ps(acc.v, (__m512bh)x.v, (__m512bh)y.v)}; }
#else
using Scalar = float;
struct Pair {
  F even, odd;
};
static inline void store_scalars(float* p, F low, F high) {
  _mm512_storeu_si512(p, _mm512_slli_epi32(rounded_bf16(low), 16));
  _mm512_storeu_si512(p + kLanes, _mm512_slli_epi32(rounded_bf16(high), 16));
}
static inline Pair set1_pair(const float* p) { return {set1(p[0]), set1(p[1])}; }
static inline Pair widened(B x) {
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(x.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}};
}
static inline F dot_bf16(F acc, B x, Pair y) {
  const Pair wide = widened(x);
  return fma(wide.even, y.even, fma(wide.odd, y.odd, acc));
}
static inline F dot_bf16(F acc, B x, B y) { return dot_bf16(acc, x, widened(y)); }
#endif
static inline bool any_greater(F x, float limit) {
  return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
}
static inline F load_i8(const void* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
static inline I set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
static inline I shift8(I a) { return {_mm512_slli_epi32(a.v, 8)}; }
static inline I add_i32(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline I sub_i32(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline I mul_i32(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
static inline I high_byte(I a) {
  return {_mm512_srai_epi32(_mm512_add_epi32(a.v, _mm512_set1_epi32(128)), 8)};
}
static inline W load_codes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void store_codes(uint8_t* p, W w) { _mm512_storeu_si512(p, w.v); }
static inline W low_nibbles(W w) { return {_mm512_and_si512(w.v, _mm512_set1_epi8(15))}; }
static inline W high_nibbles(W w) {
  return {_mm512_and_si512(_mm512_srli_epi16(w.v, 4), _mm512_set1_epi8(15))};
}
static inline W add_high2(W low, W high, int s) {  // low | ((high >> 2s) & 3) << 4
  const __m512i bits =
      _mm512_and_si512(_mm512_srli_epi16(high.v, static_cast<unsigned>(2 * s)), _mm512_set1_epi8(3));
  return {_mm512_or_si512(low.v, _mm512_slli_epi16(bits, 4))};
}
static inline I four(const int8_t* a) {  // four activations in every lane
  int32_t x;
  std::memcpy(&x, a, 4);
  return {_mm512_set1_epi32(x)};
}
// acc + sum of four u8 x s8 products a lane. `Wide`: codes may exceed 127.
template <bool Wide>
static inline I dot(I acc, W w, I a) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, a.v)};
}
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
static inline void prefetch_far(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}  // to the L2 cache

constexpr int kDirectRows = 4;
constexpr int kTileRows = 4, kTilePanels = 3;  // 12 + 12 accumulators, 3 weights, 1 broadcast
constexpr int kFloatRows = 6, kFloatPanels = 3;
#if defined(__AVX512BF16__)
constexpr int kBf16Rows = 8;  // 24 accumulators, 3 weights, 1 broadcast
#else
constexpr int kBf16Rows = 6;  // weights and broadcasts are widened
#endif
constexpr int kAttendTile = 6;

}  // namespace sampan::SAMPAN_ISA
