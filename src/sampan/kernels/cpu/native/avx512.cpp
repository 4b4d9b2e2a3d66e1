#define SAMPAN_ISA avx512
#include "vec_avx512.h"
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
static constexpr Kernels kTable = avx512::table("avx512");

const Kernels* kernels_avx512() {
  const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
  return runs ? &kTable : nullptr;
}
}  // namespace sampan
