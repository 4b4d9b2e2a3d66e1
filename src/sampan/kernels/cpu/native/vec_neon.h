// Sixteen lanes in four registers: Armv8.2-A with dotprod.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace sampan::SAMPAN_ISA {

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct W {
  uint8x16_t v[4];
};  // 64 codes: [16 features][4 inputs]

#define SAMPAN_EACH for (int i = 0; i < 4; ++i)

static inline F load(const float* p) {
  F r;
  SAMPAN_EACH r.v[i] = vld1q_f32(p + 4 * i);
  return r;
}
static inline void store(float* p, F a) { SAMPAN_EACH vst1q_f32(p + 4 * i, a.v[i]); }
static inline F set1(float x) {
  F r;
  SAMPAN_EACH r.v[i] = vdupq_n_f32(x);
  return r;
}
static inline F add(F a, F b) {
  SAMPAN_EACH a.v[i] = vaddq_f32(a.v[i], b.v[i]);
  return a;
}
static inline F sub(F a, F b) {
  SAMPAN_EACH a.v[i] = vsubq_f32(a.v[i], b.v[i]);
  return a;
}
static inline F mul(F a, F b) {
  SAMPAN_EACH a.v[i] = vmulq_f32(a.v[i], b.v[i]);
  return a;
}
static inline F div(F a, F b) {
  SAMPAN_EACH a.v[i] = vdivq_f32(a.v[i], b.v[i]);
  return a;
}
static inline F fma(F a, F b, F c) {
  SAMPAN_EACH c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
static inline F pick_less(F x, F limit, F b, F a) {
  SAMPAN_EACH a.v[i] = vbslq_f32(vcltq_f32(x.v[i], limit.v[i]), b.v[i], a.v[i]);
  return a;
}
// Not vmaxq/vminq: those propagate NaN, x86 takes the second operand.
static inline F max(F a, F b) { return pick_less(b, a, a, b); }
static inline F min(F a, F b) { return pick_less(a, b, a, b); }
static inline I nearest(F a) {
  I r;
  SAMPAN_EACH r.v[i] = vcvtnq_s32_f32(a.v[i]);
  return r;
}
// Largest magnitude by bit pattern: exact in any order, and NaN wins.
static inline uint32x4_t larger_magnitudes(F a, F b) {
  uint32x4_t top = vdupq_n_u32(0);
  SAMPAN_EACH {
    top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(a.v[i])));
    top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(b.v[i])));
  }
  return top;
}
static inline float max_magnitude(F a, F b) {
  const uint32_t bits = vmaxvq_u32(larger_magnitudes(a, b));
  float r;
  std::memcpy(&r, &bits, 4);
  return r;
}
// Of four pairs.
static inline void max_magnitudes(const F (&a)[kQuad], const F (&b)[kQuad], float* top) {
  const uint32x4_t even = vpmaxq_u32(larger_magnitudes(a[0], b[0]), larger_magnitudes(a[1], b[1]));
  const uint32x4_t odd = vpmaxq_u32(larger_magnitudes(a[2], b[2]), larger_magnitudes(a[3], b[3]));
  vst1q_f32(top, vreinterpretq_f32_u32(vpmaxq_u32(even, odd)));
}
static inline int32_t sum(I a) {
  int32_t s = 0;
  SAMPAN_EACH s += vaddvq_s32(a.v[i]);
  return s;
}
static inline F to_float(I a) {
  F r;
  SAMPAN_EACH r.v[i] = vcvtq_f32_s32(a.v[i]);
  return r;
}
static inline F power_of_two(I n) {
  F r;
  SAMPAN_EACH r.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23));
  return r;
}
static inline void store_i8(int8_t* p, I a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
// Codes of four rows, four of each by turns, and their sums. A code fits eight bits.
static inline void store_quad(int8_t* p, const I (&a)[kQuad], int32_t* sums) {
  int32x4_t total = vdupq_n_s32(0);
  SAMPAN_EACH {
    const int16x8_t low = vcombine_s16(vmovn_s32(a[0].v[i]), vmovn_s32(a[1].v[i]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a[2].v[i]), vmovn_s32(a[3].v[i]));
    const int8x16_t codes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(p + 16 * i, codes);
    total = vdotq_s32(total, vdupq_n_s8(1), codes);
  }
  vst1q_s32(sums, total);
}
static inline F load_f16(const void* p) {
  const uint16_t* h = static_cast<const uint16_t*>(p);
  F r;
  SAMPAN_EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h + 4 * i)));
  return r;
}
// To nearest even; NaN stays NaN.
static inline uint32x4_t round_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t round = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
  return vbslq_u32(vceqq_f32(x, x), round, vdupq_n_u32(0x7fc0));
}
static inline void store_bf16(uint16_t* p, F a) {
  SAMPAN_EACH vst1_u16(p + 4 * i, vmovn_u32(round_bf16(a.v[i])));
}
struct B {
  uint32x4_t v[4];
};  // sixteen pairs of bf16
static inline B load_pairs(const uint16_t* p) {
  B r;
  SAMPAN_EACH r.v[i] = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
  return r;
}
static inline B set1_pair(const uint16_t* p) {
  uint32_t x;
  std::memcpy(&x, p, 4);
  B r;
  SAMPAN_EACH r.v[i] = vdupq_n_u32(x);
  return r;
}
static inline uint32x4_t widened_e4m3(uint8x8_t p) {  // exactly: a denormal's three bits are looked up
  const uint16x8_t code = vmovl_u8(p), size = vandq_u16(vshlq_n_u16(code, 4), vdupq_n_u16(0x7f0));
  const uint8x16_t table = vreinterpretq_u8_u16(vld1q_u16(kE4m3Small));
  const uint16x8_t at = vshlq_n_u16(vandq_u16(code, vdupq_n_u16(7)), 1);
  const uint16x8_t both = vorrq_u16(vorrq_u16(at, vshlq_n_u16(at, 8)), vdupq_n_u16(0x100));
  const uint16x8_t small = vreinterpretq_u16_u8(vqtbl1q_u8(table, vreinterpretq_u8_u16(both)));
  const uint16x8_t normal = vaddq_u16(size, vdupq_n_u16(0x3c00));
  const uint16x8_t value = vbslq_u16(vcltq_u16(size, vdupq_n_u16(0x80)), small, normal);
  const uint16x8_t sign = vandq_u16(vshlq_n_u16(code, 8), vdupq_n_u16(0x8000));
  return vreinterpretq_u32_u16(vorrq_u16(value, sign));
}
static inline void load_e4m3(const uint8_t* p, B& first, B& second) {  // two pairs of inputs
  SAMPAN_EACH first.v[i] = widened_e4m3(vld1_u8(p + 16 * i));
  SAMPAN_EACH second.v[i] = widened_e4m3(vld1_u8(p + 16 * i + 8));
}
static inline B even_only(B x) {
  SAMPAN_EACH x.v[i] = vandq_u32(x.v[i], vdupq_n_u32(0xffffu));
  return x;
}
static inline float32x4_t even_bf16(uint32x4_t x) { return vreinterpretq_f32_u32(vshlq_n_u32(x, 16)); }
static inline float32x4_t odd_bf16(uint32x4_t x) {
  return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u)));
}
// Elements to be broadcast are kept as floats, rounded to bf16.
using Scalar = float;
struct Pair {
  F even, odd;
};
static inline void store_scalars(float* p, F low, F high) {
  SAMPAN_EACH {
    vst1q_u32(reinterpret_cast<uint32_t*>(p + 4 * i), vshlq_n_u32(round_bf16(low.v[i]), 16));
    vst1q_u32(reinterpret_cast<uint32_t*>(p + kLanes + 4 * i), vshlq_n_u32(round_bf16(high.v[i]), 16));
  }
}
static inline Pair set1_pair(const float* p) { return {set1(p[0]), set1(p[1])}; }
static inline Pair widened(B x) {
  Pair r;
  SAMPAN_EACH r.even.v[i] = even_bf16(x.v[i]), r.odd.v[i] = odd_bf16(x.v[i]);
  return r;
}
// Two multiply-adds, the odd elements first; BFDOT rounds otherwise.
static inline F dot_bf16(F acc, B x, Pair y) {
  const Pair wide = widened(x);
  return fma(wide.even, y.even, fma(wide.odd, y.odd, acc));
}
static inline F dot_bf16(F acc, B x, B y) { return dot_bf16(acc, x, widened(y)); }
static inline bool any_greater(F x, float limit) {
  uint32x4_t found = vdupq_n_u32(0);
  SAMPAN_EACH found = vorrq_u32(found, vcgtq_f32(x.v[i], vdupq_n_f32(limit)));
  return vmaxvq_u32(found) != 0;
}
static inline F load_i8(const void* p) {
  const int8x16_t x = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

static inline I set1_i32(int32_t x) {
  I r;
  SAMPAN_EACH r.v[i] = vdupq_n_s32(x);
  return r;
}
static inline I shift8(I a) {
  SAMPAN_EACH a.v[i] = vshlq_n_s32(a.v[i], 8);
  return a;
}
static inline I add_i32(I a, I b) {
  SAMPAN_EACH a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
static inline I sub_i32(I a, I b) {
  SAMPAN_EACH a.v[i] = vsubq_s32(a.v[i], b.v[i]);
  return a;
}
static inline I mul_i32(I a, I b) {
  SAMPAN_EACH a.v[i] = vmulq_s32(a.v[i], b.v[i]);
  return a;
}
static inline I high_byte(I a) {
  SAMPAN_EACH a.v[i] = vshrq_n_s32(vaddq_s32(a.v[i], vdupq_n_s32(128)), 8);
  return a;
}
// Lanes folded in halves: a fixed order.
static inline float fold_lanes(F x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline float max_lanes(F x) {
  const auto larger = [](float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(b, a), a, b); };
  float v[4];
  vst1q_f32(v, larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3])));
  const float even = v[0] > v[2] ? v[0] : v[2], odd = v[1] > v[3] ? v[1] : v[3];
  return even > odd ? even : odd;
}
static inline W load_codes(const uint8_t* p) {
  W r;
  SAMPAN_EACH r.v[i] = vld1q_u8(p + 16 * i);
  return r;
}
static inline void store_codes(uint8_t* p, W w) { SAMPAN_EACH vst1q_u8(p + 16 * i, w.v[i]); }
static inline W low_nibbles(W w) {
  SAMPAN_EACH w.v[i] = vandq_u8(w.v[i], vdupq_n_u8(15));
  return w;
}
static inline W high_nibbles(W w) {
  SAMPAN_EACH w.v[i] = vshrq_n_u8(w.v[i], 4);
  return w;
}
static inline W add_high2(W low, W high, int s) {  // low | ((high >> 2s) & 3) << 4
  const int8x16_t right = vdupq_n_s8(static_cast<int8_t>(-2 * s));
  SAMPAN_EACH {
    const uint8x16_t bits = vandq_u8(vshlq_u8(high.v[i], right), vdupq_n_u8(3));
    low.v[i] = vorrq_u8(low.v[i], vshlq_n_u8(bits, 4));
  }
  return low;
}
static inline I four(const int8_t* a) {  // four activations in every lane
  int32_t x;
  std::memcpy(&x, a, 4);
  return set1_i32(x);
}
// acc + sum of four u8 x s8 products a lane. `Wide`: codes may exceed 127, and 128 is taken out and put back.
template <bool Wide>
static inline I dot(I acc, W w, I a) {
  SAMPAN_EACH {
    const int8x16_t x = vreinterpretq_s8_s32(a.v[i]);
    if constexpr (Wide) {
      const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(w.v[i], vdupq_n_u8(128)));
      const int32x4_t back = vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(-128), x);
      acc.v[i] = vsubq_s32(vdotq_s32(acc.v[i], centred, x), back);
    } else {
      acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), x);
    }
  }
  return acc;
}
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
static inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }  // to the L2 cache

#undef SAMPAN_EACH

constexpr int kDirectRows = 2;
constexpr int kTileRows = 2, kTilePanels = 1;
constexpr int kFloatRows = 4, kFloatPanels = 1;
constexpr int kBf16Rows = 4;
constexpr int kAttendTile = 2;

}  // namespace sampan::SAMPAN_ISA
