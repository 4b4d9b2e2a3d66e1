// Sixteen lanes in plain C++: the definition that every other vec_*.h equals bit for bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace sampan::SAMPAN_ISA {

struct F {
  float v[kLanes];
};
struct I {
  int32_t v[kLanes];
};

#define SAMPAN_EACH for (int i = 0; i < kLanes; ++i)

static inline F load(const float* p) {
  F r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
static inline void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
static inline F set1(float x) {
  F r;
  SAMPAN_EACH r.v[i] = x;
  return r;
}
static inline F add(F a, F b) {
  SAMPAN_EACH a.v[i] += b.v[i];
  return a;
}
static inline F sub(F a, F b) {
  SAMPAN_EACH a.v[i] -= b.v[i];
  return a;
}
static inline F mul(F a, F b) {
  SAMPAN_EACH a.v[i] *= b.v[i];
  return a;
}
static inline F div(F a, F b) {
  SAMPAN_EACH a.v[i] /= b.v[i];
  return a;
}
static inline F fma(F a, F b, F c) {
  SAMPAN_EACH c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
static inline F max(F a, F b) {
  SAMPAN_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
static inline F min(F a, F b) {
  SAMPAN_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
// b where x < limit, else a.
static inline F pick_less(F x, F limit, F b, F a) {
  SAMPAN_EACH a.v[i] = x.v[i] < limit.v[i] ? b.v[i] : a.v[i];
  return a;
}
static inline I nearest(F a) {  // to even; what does not fit becomes INT32_MIN
  I r;
  SAMPAN_EACH r.v[i] =
      std::fabs(a.v[i]) < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(a.v[i])) : INT32_MIN;
  return r;
}
// Largest magnitude by bit pattern: exact in any order, and NaN wins.
static inline float max_magnitude(F a, F b) {
  uint32_t top = 0;
  SAMPAN_EACH {
    uint32_t x, y;
    std::memcpy(&x, &a.v[i], 4);
    std::memcpy(&y, &b.v[i], 4);
    x &= 0x7fffffffu;
    y &= 0x7fffffffu;
    top = x > top ? x : top;
    top = y > top ? y : top;
  }
  float r;
  std::memcpy(&r, &top, 4);
  return r;
}
// Of four pairs.
static inline void max_magnitudes(const F (&a)[kQuad], const F (&b)[kQuad], float* top) {
  for (int r = 0; r < kQuad; ++r) top[r] = max_magnitude(a[r], b[r]);
}
static inline int32_t sum(I a) {
  int32_t s = 0;
  SAMPAN_EACH s += a.v[i];
  return s;
}
static inline F to_float(I a) {
  F r;
  SAMPAN_EACH r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
static inline F power_of_two(I n) {
  F r;
  SAMPAN_EACH {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
static inline void store_i8(int8_t* p, I a) { SAMPAN_EACH p[i] = static_cast<int8_t>(a.v[i]); }
// Codes of four rows, four of each by turns, and their sums. A code fits eight bits.
static inline void store_quad(int8_t* p, const I (&a)[kQuad], int32_t* sums) {
  for (int r = 0; r < kQuad; ++r) {
    SAMPAN_EACH p[(i / 4 * kQuad + r) * 4 + i % 4] = static_cast<int8_t>(a[r].v[i]);
    sums[r] = sum(a[r]);
  }
}
static inline I sub_i32(I a, I b) {
  SAMPAN_EACH a.v[i] -= b.v[i];
  return a;
}
static inline I shift8(I a) {
  SAMPAN_EACH a.v[i] *= 256;
  return a;
}
static inline I high_byte(I a) {
  SAMPAN_EACH a.v[i] = (a.v[i] + 128) >> 8;
  return a;
}  // to nearest
// Lanes folded in halves: a fixed order.
static inline float fold_lanes(F x) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.v[i] += x.v[i + width];
  return x.v[0];
}
static inline float max_lanes(F x) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.v[i] = x.v[i] > x.v[i + width] ? x.v[i] : x.v[i + width];
  return x.v[0];
}

static inline void prefetch(const void*) {}
static inline void prefetch_far(const void*) {}

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, mantissa = h & 0x3ffu;
  const uint32_t exponent = (h >> 10) & 31u;
  float r;
  if (exponent == 0) {
    r = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -r : r;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  std::memcpy(&r, &bits, 4);
  return r;
}
static inline F load_f16(const void* p) {
  uint16_t h[kLanes];
  std::memcpy(h, p, sizeof h);
  F r;
  SAMPAN_EACH r.v[i] = half_to_float(h[i]);
  return r;
}
struct B {
  uint16_t v[kLanes][2];
};  // sixteen pairs of bf16
static inline B load_pairs(const uint16_t* p) {
  B r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
static inline B set1_pair(const uint16_t* p) {
  B r;
  SAMPAN_EACH std::memcpy(r.v[i], p, 4);
  return r;
}
static inline B even_only(B x) {
  SAMPAN_EACH x.v[i][1] = 0;
  return x;
}
static inline float widen_bf16(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float r;
  std::memcpy(&r, &bits, 4);
  return r;
}
// Two multiply-adds, the odd elements first: what `vdpbf16ps` does.
static inline F dot_bf16(F acc, B x, B y) {
  for (int j = 1; j >= 0; --j)
    SAMPAN_EACH acc.v[i] = std::fma(widen_bf16(x.v[i][j]), widen_bf16(y.v[i][j]), acc.v[i]);
  return acc;
}
static inline bool any_greater(F x, float limit) {
  bool found = false;
  SAMPAN_EACH found |= x.v[i] > limit;
  return found;
}
static inline F load_i8(const void* p) {
  F r;
  SAMPAN_EACH r.v[i] = static_cast<float>(static_cast<const int8_t*>(p)[i]);
  return r;
}
static inline void store_bf16(uint16_t* p, F a) {  // to nearest even; NaN stays NaN
  SAMPAN_EACH {
    uint32_t bits;
    std::memcpy(&bits, &a.v[i], 4);
    p[i] = a.v[i] == a.v[i] ? static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)
                            : uint16_t{0x7fc0};
  }
}
// As what elements to be broadcast are kept.
using Scalar = uint16_t;
static inline void store_scalars(uint16_t* p, F low, F high) {
  store_bf16(p, low);
  store_bf16(p + kLanes, high);
}

#undef SAMPAN_EACH

}  // namespace sampan::SAMPAN_ISA
