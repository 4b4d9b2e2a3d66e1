// What this machine can do at best, measured: the limits that `sampan doctor` shows and kernels are held to.
#pragma once

#include <algorithm>
#include <chrono>

#include "kernels.h"
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

// The integer matrix product of `rows` quantised rows and `m`, whose data is not read: operations a second.
double linear_speed(Pool& pool, const Kernels& kernels, Matrix m, int rows);

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The fastest of the runs that fit in a tenth of a second: the others were disturbed.
template <class Run>
double fastest(Run run) {
  double best = 1e30;
  const double end = seconds() + 0.1;
  do {
    const double start = seconds();
    run();
    best = std::min(best, seconds() - start);
  } while (seconds() < end);
  return best;
}

}  // namespace sampan
