#define SAMPAN_ISA avx2
#include "vec_avx2.h"
#include "body_count.h"
#include "body_flush.h"
#include "body_rows.h"
#include "body_map.h"
#include "body_state.h"
#include "body_turn.h"
#include "body_float.h"
#include "body_matmul.h"
#include "body_linear.h"
#include "body_pages.h"
#include "body_attend.h"
#include "body_table.h"

namespace sampan {
static constexpr Kernels kTable = avx2::table("avx2");

const Kernels* kernels_avx2() {
  const bool runs =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &kTable : nullptr;
}
}  // namespace sampan
