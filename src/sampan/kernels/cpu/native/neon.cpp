#define SAMPAN_ISA neon
#include "vec_neon.h"
#include "body_count.h"
#include "body_flush.h"
#include "body_rows.h"
#include "body_float.h"
#include "body_matmul.h"
#include "body_linear.h"
#include "body_pages.h"
#include "body_attend.h"

namespace sampan {
static const Kernels kTable = {"neon",     neon::embed,  neon::prepare,      neon::linear, neon::gated,
                               neon::rope, neon::attend, neon::attend_split, neon::merge,  neon::stats};

const Kernels* kernels_neon() { return &kTable; }
}  // namespace sampan
