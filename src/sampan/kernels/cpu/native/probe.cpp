#include "probe.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sampan {
namespace {

constexpr size_t kMegabyte = size_t{1} << 20;
constexpr int64_t kRounds = 200000;
constexpr int kChains = 12;  // covers latency 4-5 on two or three ports, and fits sixteen registers

struct Unit {
  const char* instruction;
  double operations;  // of one round
  void (*work)(int64_t rounds);
};

// Makes values unknown to the compiler and seen by somebody: it would compute equal chains once, and unread
// ones never.
inline void touch(void* values) { asm volatile("" : : "r"(values) : "memory"); }

Peak measure(Pool& pool, const Unit& unit) {
  const double time = fastest([&] { pool.run([&](int) { unit.work(kRounds); }); });
  return {unit.instruction, unit.operations * kRounds * pool.size() / time};
}

size_t working_set() {
  size_t cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
  cache = static_cast<size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
#endif
  return std::clamp(4 * cache, 128 * kMegabyte, 512 * kMegabyte);
}

void read(const uint64_t* data, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8)
    for (size_t j = 0; j < 8; ++j) sums[j] += data[i + j];
  touch(sums);
}

void plain_int8(int64_t rounds) {
  int8_t a[64], b[64];
  int32_t sums[64] = {};
  std::memset(a, 3, sizeof a);
  std::memset(b, 5, sizeof b);
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+m"(a), "+m"(b));
    for (int i = 0; i < 64; ++i) sums[i] += a[i] * b[i];
  }
  touch(sums);
}

void plain_float(int64_t rounds) {
  float a[64], sums[64] = {};
  std::fill(a, a + 64, 0.5f);
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+m"(a));
    for (int i = 0; i < 64; ++i) sums[i] = sums[i] * 0.5f + a[i];
  }
  touch(sums);
}

constexpr Unit kPlainInt8 = {"portable code", 2 * 64, plain_int8};
constexpr Unit kPlainFloat = {"portable code", 2 * 64, plain_float};

#if defined(__x86_64__)

__attribute__((target("avx512f,avx512vnni"))) void avx512_int8(int64_t rounds) {
  __m512i sums[kChains] = {};
  touch(sums);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
  touch(sums);
}

__attribute__((target("avx512f,avx512bf16"))) void avx512_bf16(int64_t rounds) {
  __m512 sums[kChains] = {};
  touch(sums);
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3f00);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  touch(sums);
}

__attribute__((target("avx512f"))) void avx512_fma(int64_t rounds) {
  __m512 sums[kChains] = {};
  touch(sums);
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  touch(sums);
}

__attribute__((target("avx2"))) void avx2_int8(int64_t rounds) {
  __m256i sums[4] = {};
  touch(sums);
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      asm volatile("" : "+x"(a));  // otherwise the product is computed once
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  touch(sums);
}

__attribute__((target("avx2,fma"))) void avx2_fma(int64_t rounds) {
  __m256 sums[kChains] = {};
  touch(sums);
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  touch(sums);
}

Unit int8_unit() {
  if (__builtin_cpu_supports("avx512vnni")) return {"vpdpbusd zmm", kChains * 64 * 2, avx512_int8};
  if (__builtin_cpu_supports("avx2")) return {"vpmaddubsw ymm", 4 * 32 * 2, avx2_int8};
  return kPlainInt8;
}

Unit float_unit() {
  if (__builtin_cpu_supports("avx512bf16")) return {"vdpbf16ps zmm", kChains * 32 * 2, avx512_bf16};
  if (__builtin_cpu_supports("avx512f")) return {"vfmadd ps zmm", kChains * 16 * 2, avx512_fma};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {"vfmadd ps ymm", kChains * 8 * 2, avx2_fma};
  return kPlainFloat;
}

#else

Unit int8_unit() { return kPlainInt8; }
Unit float_unit() { return kPlainFloat; }

#endif

}  // namespace

double read_bandwidth(Pool& pool) {
  const Memory memory(working_set());
  if (!memory.data()) return 0;
  const size_t part = memory.bytes() / static_cast<size_t>(pool.size()) / 64 * 64;
  const auto share = [&](int thread) { return memory.data() + part * static_cast<size_t>(thread); };
  pool.run([&](int t) { std::memset(share(t), t + 1, part); });  // untouched pages all read the same zeros
  const double time =
      fastest([&] { pool.run([&](int t) { read(reinterpret_cast<const uint64_t*>(share(t)), part / 8); }); });
  return static_cast<double>(part) * pool.size() / time;
}

Peak int8_peak(Pool& pool) { return measure(pool, int8_unit()); }
Peak float_peak(Pool& pool) { return measure(pool, float_unit()); }

}  // namespace sampan
