// What `vdpbf16ps` changes: attention over a bf16 cache and products of bf16 and E4M3 weights. Everything
// else is that of AVX-512. Processors that have it have VBMI, but for one.
#define SAMPAN_ISA avx512_bf16
#pragma GCC diagnostic ignored "-Wunused-function"
#include "vec_avx512.h"
#include "body_count.h"
#include "body_flush.h"
#include "body_rows.h"
#include "body_float.h"
#include "body_pages.h"
#include "body_attend.h"

namespace sampan {
static void linear(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  using namespace avx512_bf16;
  if (a.w.store == Store::bf16) linear_paired<Store::bf16>(a, begin, end, row_begin, row_end);
  else if (a.w.store == Store::e4m3) linear_paired<Store::e4m3>(a, begin, end, row_begin, row_end);
  else kernels_avx512()->linear(a, begin, end, row_begin, row_end, scratch);
}

static void gated(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  using namespace avx512_bf16;
  if (g.w.store == Store::bf16) gated_paired<Store::bf16>(g, begin, end, row_begin, row_end);
  else if (g.w.store == Store::e4m3) gated_paired<Store::e4m3>(g, begin, end, row_begin, row_end);
  else kernels_avx512()->gated(g, begin, end, row_begin, row_end, scratch);
}

// Whether the instruction is the two multiply-adds that `dot_bf16` says: measured on Zen 4 alone.
static bool as_defined() {
  using namespace avx512_bf16;
  const FlushDenormals flush;
  uint32_t state = 1;
  for (int round = 0; round < 256; ++round) {
    uint16_t bits[2][2 * kLanes];
    float sums[kLanes], got[kLanes], want[kLanes];
    for (uint16_t (&row)[2 * kLanes] : bits)
      for (uint16_t& x : row)
        state = state * 1664525u + 1013904223u, x = static_cast<uint16_t>((state >> 16 & 0x87ffu) | 0x3c00u);
    for (float& x : sums)
      state = state * 1664525u + 1013904223u, x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    const B x = load_pairs(bits[0]), y = load_pairs(bits[1]);
    const auto even = [](B b) { return F{_mm512_castsi512_ps(_mm512_slli_epi32(b.v, 16))}; };
    const auto odd = [](B b) {
      return F{_mm512_castsi512_ps(_mm512_and_si512(b.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
    };
    store(got, dot_bf16(load(sums), x, y));
    store(want, fma(even(x), even(y), fma(odd(x), odd(y), load(sums))));
    if (std::memcmp(got, want, sizeof got) != 0) return false;
  }
  return true;
}

static Kernels with_bf16(const Kernels& base) {
  Kernels table = base;
  table.name = "avx512_bf16";
  table.linear = linear;
  table.gated = gated;
  table.attend = avx512_bf16::attend;
  table.attend_split = avx512_bf16::attend_split;
  table.merge = avx512_bf16::merge;
  return table;
}

const Kernels* kernels_avx512_bf16() {
  const Kernels* base = kernels_avx512();
  if (!base || !__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vbmi")) return nullptr;
  static const bool defined = as_defined();
  if (!defined) return nullptr;
  static const Kernels table = with_bf16(*base);
  return &table;
}
}  // namespace sampan
