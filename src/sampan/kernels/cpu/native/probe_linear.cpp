// The integer matrix product alone, on numbers that do not matter.

#include <algorithm>
#include <atomic>
#include <cstring>

#include "memory.h"
#include "probe.h"

namespace sampan {

constexpr int kPanels = 3, kRows = 256;     // of a piece, as a program cuts them
constexpr uint8_t kHalf[2] = {0x00, 0x2c};  // 0.0625 as f16

// Every code 1; scales and minima 0.0625.
static void fill(const Matrix& m, uint8_t* to) {
  const size_t scales = scale_bytes(m) * (m.has_min ? 2 : 1), block = superblock_bytes(m);
  const size_t count = panel_bytes(m) * static_cast<size_t>(panels(m)) / block;
  std::memset(to, 0x11, count * block);
  for (size_t b = 0; b < count; ++b)
    for (size_t i = 0; i < scales; i += 2) std::memcpy(to + b * block + i, kHalf, 2);
}

double linear_speed(Pool& pool, const Kernels& kernels, Matrix m, int rows) {
  const size_t blocks = static_cast<size_t>(quads(rows)) * static_cast<size_t>(m.k / kBlock);
  const Memory weights(panel_bytes(m) * static_cast<size_t>(panels(m))),
      quantised(blocks * sizeof(QuadBlock)), low(blocks * kLowBytes);
  const ptrdiff_t stride = panels(m) * kLanes;
  const Memory out(static_cast<size_t>(rows * stride) * 4),
      inputs(static_cast<size_t>(rows) * static_cast<size_t>(m.k) * 4);
  const Memory scratch(linear_scratch(m.k) * static_cast<size_t>(pool.size()));
  for (const Memory* memory : {&weights, &quantised, &low, &out, &inputs, &scratch})
    if (!memory->data()) return 0;
  fill(m, weights.data());
  m.data = weights.data();
  for (size_t i = 0; i < static_cast<size_t>(rows) * static_cast<size_t>(m.k); ++i)
    inputs.as<float>()[i] = static_cast<float>(i % 201) - 100.0f;
  const std::vector<uint8_t> fine(static_cast<size_t>(rows), 0);
  const Activations a{m.k, rows, fine.data(), nullptr, quantised.as<QuadBlock>(), low.as<int8_t>()};
  kernels.prepare({Prep::copy, inputs.as<float>(), m.k, 0, nullptr, 0.0f, nullptr, a, nullptr, 0, nullptr}, 0,
                  rows);
  const LinearArgs whole{m, a, out.as<float>(), stride, nullptr, false, false};
  const int columns = ceiling(panels(m), kPanels), items = columns * ceiling(rows, kRows);
  const double time = fastest([&] {
    std::atomic<int> next{0};
    pool.run([&](int thread) {
      LinearArgs args = whole;
      int begin, end;
      while (take(next, items, 1, begin, end)) {
        const int panel = begin % columns * kPanels, row = begin / columns * kRows;
        args.next = m.data + panel_bytes(m) * static_cast<size_t>((begin + pool.size()) % columns * kPanels);
        kernels.linear(args, panel, std::min(panel + kPanels, panels(m)), row, std::min(row + kRows, rows),
                       scratch.data() + linear_scratch(m.k) * static_cast<size_t>(thread));
      }
    });
  });
  return 2.0 * rows * m.n * m.k / time;
}

}  // namespace sampan
