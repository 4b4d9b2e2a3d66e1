// What this machine can do at best, measured: the limits that `sampan doctor` shows and kernels are held to.
#pragma once

#include "pool.h"

namespace sampan {

// Operations a second over all threads (a multiply and an add are two), and the instruction that reached it.
struct Peak {
  const char* instruction;
  double per_second;
};

// Bytes a second that all threads read together from memory, over a working set larger than the caches;
// 0 when the system refuses the memory.
double read_bandwidth(Pool& pool);

// 8-bit integer multiply-adds into 32-bit sums.
Peak int8_peak(Pool& pool);

// bfloat16 multiply-adds into float sums where the machine has them, otherwise fused float ones.
Peak float_peak(Pool& pool);

}  // namespace sampan
