// Sixteen lanes in two registers: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace sampan::SAMPAN_ISA {

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct W {
  __m256i a, b;
};  // 64 codes: [16 features][4 inputs]

static inline __m256i at(const void* p, int i) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p) + i);
}
static inline void put(void* p, int i, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p) + i, x); }

static inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline F pick_less(F x, F limit, F b, F a) {
  return {_mm256_blendv_ps(a.a, b.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(a.b, b.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
static inline I nearest(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
// Largest magnitude by bit pattern: exact in any order, and NaN wins.
static inline __m256i magnitude(__m256 x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
static inline __m256i larger_magnitudes(F x, F y) {
  return _mm256_max_epi32(_mm256_max_epi32(magnitude(x.a), magnitude(x.b)),
                          _mm256_max_epi32(magnitude(y.a), magnitude(y.b)));
}
static inline float max_magnitude(F x, F y) {
  const __m256i top = larger_magnitudes(x, y);
  __m128i r = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(r));
}
// Of four pairs: unpacking transposes them, so that the last fold is of all four.
static inline void max_magnitudes(const F (&a)[kQuad], const F (&b)[kQuad], float* top) {
  __m256i x[kQuad];
  for (int r = 0; r < kQuad; ++r) x[r] = larger_magnitudes(a[r], b[r]);
  const __m256i even = _mm256_max_epi32(_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[0], x[1]));
  const __m256i odd = _mm256_max_epi32(_mm256_unpacklo_epi32(x[2], x[3]), _mm256_unpackhi_epi32(x[2], x[3]));
  const __m256i all = _mm256_max_epi32(_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));
  _mm_storeu_ps(
      top, _mm_castsi128_ps(_mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1))));
}
static inline int32_t sum(I x) {
  const __m256i both = _mm256_add_epi32(x.a, x.b);
  __m128i r = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  r = _mm_add_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  r = _mm_add_epi32(r, _mm_shuffle_epi32(r, 0xb1));
  return _mm_cvtsi128_si32(r);
}
static inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline F power_of_two(I n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))};
}
static inline void store_i8(int8_t* p, I x) {
  const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
static inline __m256i pack_quad(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
static inline __m256i sums_of_fours(__m256i codes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
}
// Codes of four rows, four of each by turns, and their sums. A code fits eight bits.
static inline void store_quad(int8_t* p, const I (&x)[kQuad], int32_t* sums) {
  const __m256i a = pack_quad(x[0].a, x[1].a, x[2].a, x[3].a), b = pack_quad(x[0].b, x[1].b, x[2].b, x[3].b);
  put(p, 0, a);
  put(p, 1, b);
  const __m256i fours = _mm256_add_epi32(sums_of_fours(a), sums_of_fours(b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                   _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1)));
}
static inline F load_f16(const void* p) {
  const __m128i* h = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
static inline __m256 even_bf16(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline __m256 odd_bf16(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// To nearest even; NaN stays NaN.
static inline __m256i round_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i round =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(round, _mm256_set1_epi32(0x7fc0), nan);
}
static inline void store_bf16(uint16_t* p, F x) {
  put(p, 0, _mm256_permute4x64_epi64(_mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b)), 0xd8));
}
struct B {
  __m256i a, b;
};  // sixteen pairs of bf16
static inline B load_pairs(const uint16_t* p) { return {at(p, 0), at(p, 1)}; }
static inline B set1_pair(const uint16_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
static inline __m256i widened_e4m3(__m256i code) {  // of the upper bytes; a denormal's bits are looked up
  const __m256i size = _mm256_and_si256(_mm256_srli_epi16(code, 4), _mm256_set1_epi16(0x7f0));
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kE4m3Small)));
  const __m256i at = _mm256_and_si256(_mm256_srli_epi16(code, 7), _mm256_set1_epi16(0xe));
  const __m256i both =
      _mm256_or_si256(_mm256_or_si256(at, _mm256_slli_epi16(at, 8)), _mm256_set1_epi16(0x100));
  const __m256i value =
      _mm256_blendv_epi8(_mm256_add_epi16(size, _mm256_set1_epi16(0x3c00)), _mm256_shuffle_epi8(table, both),
                         _mm256_cmpgt_epi16(_mm256_set1_epi16(0x80), size));
  return _mm256_or_si256(value, _mm256_and_si256(code, _mm256_set1_epi16(-0x8000)));
}
// Two pairs of E4M3 inputs, exactly.
static inline void load_e4m3(const uint8_t* p, B& first, B& second) {
  const __m256i a = at(p, 0), b = at(p, 1), zero = _mm256_setzero_si256();
  first = {widened_e4m3(_mm256_unpacklo_epi8(zero, a)), widened_e4m3(_mm256_unpacklo_epi8(zero, b))};
  second = {widened_e4m3(_mm256_unpackhi_epi8(zero, a)), widened_e4m3(_mm256_unpackhi_epi8(zero, b))};
}
static inline B even_only(B x) {
  const __m256i even = _mm256_set1_epi32(0xffff);
  return {_mm256_and_si256(x.a, even), _mm256_and_si256(x.b, even)};
}
// Elements to be broadcast are kept as floats, rounded to bf16.
using Scalar = float;
struct Pair {
  F even, odd;
};
static inline void store_scalars(float* p, F low, F high) {
  put(p, 0, _mm256_slli_epi32(round_bf16(low.a), 16));
  put(p, 1, _mm256_slli_epi32(round_bf16(low.b), 16));
  put(p, 2, _mm256_slli_epi32(round_bf16(high.a), 16));
  put(p, 3, _mm256_slli_epi32(round_bf16(high.b), 16));
}
static inline Pair set1_pair(const float* p) { return {set1(p[0]), set1(p[1])}; }
static inline Pair widened(B x) { return {{even_bf16(x.a), even_bf16(x.b)}, {odd_bf16(x.a), odd_bf16(x.b)}}; }
// Two multiply-adds, the odd elements first.
static inline F dot_bf16(F acc, B x, Pair y) {
  const Pair wide = widened(x);
  return fma(wide.even, y.even, fma(wide.odd, y.odd, acc));
}
static inline F dot_bf16(F acc, B x, B y) { return dot_bf16(acc, x, widened(y)); }
static inline bool any_greater(F x, float limit) {
  const __m256 top = _mm256_set1_ps(limit);
  return _mm256_movemask_ps(
             _mm256_or_ps(_mm256_cmp_ps(x.a, top, _CMP_GT_OQ), _mm256_cmp_ps(x.b, top, _CMP_GT_OQ))) != 0;
}
static inline __m256 eight_i8(const char* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline F load_i8(const void* p) {
  return {eight_i8(static_cast<const char*>(p)), eight_i8(static_cast<const char*>(p) + 8)};
}

static inline I set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline I shift8(I x) { return {_mm256_slli_epi32(x.a, 8), _mm256_slli_epi32(x.b, 8)}; }
static inline I add_i32(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline I sub_i32(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
static inline I mul_i32(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
static inline __m256i high_byte8(__m256i x) {
  return _mm256_srai_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(128)), 8);
}
static inline I high_byte(I x) { return {high_byte8(x.a), high_byte8(x.b)}; }
// Lanes folded in halves: a fixed order.
static inline float fold_lanes(F x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float max_lanes(F x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline W load_codes(const uint8_t* p) { return {at(p, 0), at(p, 1)}; }
static inline void store_codes(uint8_t* p, W w) {
  put(p, 0, w.a);
  put(p, 1, w.b);
}
static inline W low_nibbles(W w) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(w.a, m), _mm256_and_si256(w.b, m)};
}
static inline W high_nibbles(W w) {
  return low_nibbles({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)});
}
static inline __m256i high2(__m256i x, int s) {
  const __m256i bits = _mm256_and_si256(_mm256_srli_epi16(x, 2 * s), _mm256_set1_epi8(3));
  return _mm256_slli_epi16(bits, 4);
}
static inline W add_high2(W low, W high, int s) {  // low | ((high >> 2s) & 3) << 4
  return {_mm256_or_si256(low.a, high2(high.a, s)), _mm256_or_si256(low.b, high2(high.b, s))};
}
static inline I four(const int8_t* a) {  // four activations in every lane
  int32_t x;
  std::memcpy(&x, a, 4);
  return set1_i32(x);
}
template <bool Wide>
static inline __m256i dot8(__m256i acc, __m256i w, __m256i a) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (!Wide) return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), ones));
  // 255 * 127 * 2 would saturate 16 bits: low seven bits and the top bit apart.
  const __m256i low = _mm256_and_si256(w, _mm256_set1_epi8(127));
  const __m256i top = _mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1));
  const __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(low, a), ones);
  const __m256i tops = _mm256_madd_epi16(_mm256_maddubs_epi16(top, a), _mm256_set1_epi16(128));
  return _mm256_add_epi32(acc, _mm256_add_epi32(products, tops));
}
// acc + sum of four u8 x s8 products a lane. `Wide`: codes may exceed 127.
template <bool Wide>
static inline I dot(I acc, W w, I a) {
  return {dot8<Wide>(acc.a, w.a, a.a), dot8<Wide>(acc.b, w.b, a.b)};
}
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
static inline void prefetch_far(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}  // to the L2 cache

constexpr int kDirectRows = 2;
constexpr int kTileRows = 2, kTilePanels = 1;
constexpr int kFloatRows = 4, kFloatPanels = 1;
constexpr int kBf16Rows = 4;
constexpr int kAttendTile = 2;

}  // namespace sampan::SAMPAN_ISA
