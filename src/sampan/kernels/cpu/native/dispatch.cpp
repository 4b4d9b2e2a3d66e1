// Picks the kernels this machine can run.

#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace sampan {

#if !defined(__x86_64__)
const Kernels* kernels_avx2() { return nullptr; }
const Kernels* kernels_avx512() { return nullptr; }
const Kernels* kernels_avx512_bf16() { return nullptr; }
#endif
#if !defined(__aarch64__)
const Kernels* kernels_neon() { return nullptr; }
#endif

const Kernels* choose_kernels(const char* forced) {
  const Kernels* candidates[] = {kernels_avx512_bf16(), kernels_avx512(), kernels_avx2(), kernels_neon(),
                                 &kScalar};
  for (const Kernels* k : candidates)
    if (k && (!forced || !*forced || std::strcmp(forced, k->name) == 0)) return k;
  return nullptr;
}

size_t linear_scratch(int max_k) {
  constexpr int features = std::max(kMaxRowsDirect * kDirectBlocks, kGatedRows * kTileBlocks) * 2 * kBlock;
  return linear_scratch_of(max_k, 3) + sizeof(float) * features;
}
size_t attend_scratch(const CacheShape& s) {
  const size_t rows =
      static_cast<size_t>(kAttendRows) * static_cast<size_t>(2 * s.value_size + kLanes + s.key_size);
  // Values of latent pages, turned as other pages have them.
  return rows + (s.latent ? static_cast<size_t>(kPagesTogether * kPage * s.value_size) : 0);
}

}  // namespace sampan
