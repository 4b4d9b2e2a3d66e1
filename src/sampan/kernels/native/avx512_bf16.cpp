// What `vdpbf16ps` changes: attention over a bf16 cache and products of bf16 weights. Everything else is that of AVX-512.
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
  if (a.w.store == Store::bf16) avx512_bf16::linear_bf16(a, begin, end, row_begin, row_end);
  else kernels_avx512()->linear(a, begin, end, row_begin, row_end, scratch);
}

static void gated(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  if (g.w.store == Store::bf16) avx512_bf16::gated_bf16(g, begin, end, row_begin, row_end);
  else kernels_avx512()->gated(g, begin, end, row_begin, row_end, scratch);
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
  if (!base || !__builtin_cpu_supports("avx512bf16")) return nullptr;
  static const Kernels table = with_bf16(*base);
  return &table;
}
}  // namespace sampan
