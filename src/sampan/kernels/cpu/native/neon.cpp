#define SAMPAN_ISA neon
#include "vec_neon.h"
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
static constexpr Kernels kTable = neon::table("neon");

const Kernels* kernels_neon() { return &kTable; }
}  // namespace sampan
