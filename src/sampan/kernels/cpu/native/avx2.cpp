#define SAMPAN_ISA avx2
#include "vec_avx2.h"
#include "body_count.h"
#include "body_flush.h"
#include "body_rows.h"
#include "body_float.h"
#include "body_matmul.h"
#include "body_linear.h"
#include "body_pages.h"
#include "body_attend.h"

namespace sampan {
static const Kernels kTable = {"avx2",     avx2::embed,  avx2::prepare,      avx2::linear, avx2::gated,
                               avx2::rope, avx2::attend, avx2::attend_split, avx2::merge,  avx2::stats};

const Kernels* kernels_avx2() {
  const bool runs =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &kTable : nullptr;
}
}  // namespace sampan
