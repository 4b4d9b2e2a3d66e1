// How a step's matrix products are cut into items, and what an item computes.

#include <algorithm>

#include "program.h"

namespace sampan {

constexpr int kPiecePanels = 3;

// Few rows: long streams of weights. Many: a few panels, unpacked once for as many rows as the L2 cache
// holds, and enough items that no thread waits long for another's last one.
Program::Tile Program::tile(int panels, int rows) const {
  if (in_place(rows)) return {std::max(kPiecePanels, ceiling(panels, 4 * pool_.size())), rows};
  int block = tuning_.row_block;
  while (block > kMaxRowsDirect && ceiling(panels, kPiecePanels) * ceiling(rows, block) < 8 * pool_.size())
    block /= 2;
  return {kPiecePanels, block};
}

// Panels of a product; of a gated one, pairs of panels and their ups.
static int columns(const Instruction& i) { return i.op == Op::gated ? i.up / 2 : panels(i.matrix); }

int Program::tiles(const Instruction& i, int rows) const {
  if (rows == 0) return 0;
  const Tile t = tile(columns(i), rows);
  return ceiling(columns(i), t.panels) * ceiling(rows, t.rows);
}

// Calls f(first column, end, first row, end) for items [begin, end).
template <class Fn>
static void each_tile(int columns, int rows, int width, int height, int begin, int end, Fn f) {
  const int across = ceiling(columns, width);
  for (int item = begin; item < end; ++item) {
    const int column = item % across * width, row = item / across * height;
    f(column, std::min(column + width, columns), row, std::min(row + height, rows));
  }
}

// Of the tile that is left when each thread has taken one after the tile at `column`: in this product or the
// next.
const uint8_t* Program::next_panels(const Instruction& i, int column, int width, int thread) const {
  const int across = i.op == Op::gated ? 2 : 1, next = column + width * pool_.size();
  if (next < columns(i)) return i.matrix.data + panel_bytes(i.matrix) * static_cast<size_t>(next * across);
  if (i.next_product < 0) return nullptr;
  const Instruction& after = instructions_[static_cast<size_t>(i.next_product)];
  const int first =
      std::min(kPiecePanels * thread * (after.op == Op::gated ? 2 : 1), panels(after.matrix) - 1);
  return after.matrix.data + panel_bytes(after.matrix) * static_cast<size_t>(first);
}

void Program::linear(const Instruction& i, const Step& step, int begin, int end, int thread) {
  const int count = rows(i, step);
  const Tile t = tile(columns(i), count);
  LinearArgs a{
      i.matrix,       acts(i.act, i.fine || i.sampled), at(i.out), width(i.out), i.weight, i.accumulate,
      in_place(count)};
  uint8_t* scratch = linear_scratch_[static_cast<size_t>(thread)].data();
  each_tile(columns(i), count, t.panels, t.rows, begin, end, [&](int panel, int last, int row, int last_row) {
    a.next = next_panels(i, panel, t.panels, thread);
    kernels_.linear(a, panel, last, row, last_row, scratch);
  });
}

void Program::gated(const Instruction& i, const Step& step, int begin, int end, int thread) {
  const int count = rows(i, step);
  const Tile t = tile(columns(i), count);
  GatedArgs a{i.matrix, acts(i.act, i.fine || i.sampled), acts(i.result, i.result_fine || i.sampled), i.up,
              in_place(count)};
  uint8_t* scratch = linear_scratch_[static_cast<size_t>(thread)].data();
  each_tile(columns(i), count, t.panels, t.rows, begin, end, [&](int block, int last, int row, int last_row) {
    a.next = next_panels(i, block, t.panels, thread);
    kernels_.gated(a, block, last, row, last_row, scratch);
  });
}

}  // namespace sampan
