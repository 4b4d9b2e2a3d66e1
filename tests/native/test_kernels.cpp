// Every runnable instruction set against the scalar kernels, bit for bit, on random shapes, formats and
// values. Prints one digest of all results for each set: the same seed gives the same digest on every
// processor. Usage: test_kernels [SEED]

#include <cinttypes>
#include <cstdlib>

#include "harness.h"

int main(int argc, char** argv) {
  using namespace sampan;
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  test::Tables tables{{&kScalar}};
  for (const Kernels* k : {kernels_avx2(), kernels_avx512(), kernels_avx512_bf16(), kernels_neon()})
    if (k) tables.push_back({k});
  test::Report report;
  test::test_linear(tables, report, seed);
  test::test_prepare(tables, report, seed + 1);
  test::test_stats(tables, report, seed + 2);
  test::test_attention(tables, report, seed + 3);
  test::test_maps(tables, report, seed + 4);
  test::test_states(tables, report, seed + 5);
  for (const test::Table& t : tables) std::printf("digest %s %016" PRIx64 "\n", t.kernels->name, t.digest);
  std::printf("%d passed, %d failed\n", report.passed, report.failed);
  return report.failed == 0 ? 0 : 1;
}
