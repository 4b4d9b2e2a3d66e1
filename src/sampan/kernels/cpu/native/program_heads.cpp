// A matrix for each head: of its first features; those behind them are copied behind its panels.

#include <algorithm>
#include <cstring>

#include "program.h"

namespace sampan {

// Rows of activations that begin at a feature: blocks, pairs and floats of one row lie side by side.
static Activations from_feature(Activations a, int feature) {
  if (a.values) a.values += feature;
  if (a.bf16) a.bf16 += feature;
  if (a.blocks) {
    a.blocks += feature / kBlock;
    a.low += feature / kBlock * kLowBytes;
  }
  return a;
}

// Head by head, tiles of its matrix; the first tile of some rows copies the rest of these.
void Program::per_head(const Instruction& i, const Step& step, int begin, int end, int thread) {
  const int count = rows(i, step), columns = columns_of(i), own = tiles_of(i, count);
  const Tile t = tile(columns, count);
  const int across = ceiling(columns, t.panels);
  const Activations all = acts(i.act, i.fine || i.sampled);
  uint8_t* scratch = linear_scratch_[static_cast<size_t>(thread)].data();
  for (int item = begin; item < end; ++item) {
    const int head = item / own, place = item % own;
    const Matrix& m = groups_[static_cast<size_t>(i.group)].matrices[static_cast<size_t>(head)];
    const int rest = i.size - m.k, out_size = panels(m) * kLanes + rest;
    const int column = place % across * t.panels, row = place / across * t.rows;
    const int last = std::min(column + t.panels, columns), last_row = std::min(row + t.rows, count);
    float* const out = at(i.out) + static_cast<ptrdiff_t>(head) * out_size;
    const LinearArgs a{
        m, from_feature(all, head * i.size), out, width(i.out), nullptr, false, in_place(count)};
    kernels_.linear(a, column, last, row, last_row, scratch);
    for (int r = row; rest > 0 && column == 0 && r < last_row; ++r)
      std::memcpy(out + static_cast<ptrdiff_t>(r) * width(i.out) + out_size - rest,
                  at(i.x) + static_cast<ptrdiff_t>(r) * width(i.x) + head * i.size + m.k,
                  sizeof(float) * static_cast<size_t>(rest));
  }
}

std::string Program::fault_of_per_head(const Instruction& i) const {
  if (i.group < 0 || i.group >= static_cast<int>(groups_.size())) return "unknown matrices";
  const std::vector<Matrix>& all = groups_[static_cast<size_t>(i.group)].matrices;
  if (i.heads <= 0 || static_cast<int>(all.size()) != i.heads) return "not a matrix for each head";
  for (const Matrix& m : all) {
    if (!m.data || m.n != all[0].n || m.k != all[0].k) return "heads differ in their sizes";
    if (!holds_operand(i.act, m)) return "the activations are not of the kind that the matrices read";
  }
  const Matrix& m = all[0];
  if (m.k > i.size || i.size % kBlock != 0 || m.k % kBlock != 0) return "heads are not of whole blocks";
  if (inputs(i.act) != i.heads * i.size) return "the activations are not of these heads";
  const bool there = i.size == m.k || holds(i.x, static_cast<int64_t>(i.heads) * i.size);
  const int64_t outputs = static_cast<int64_t>(panels(m)) * kLanes;
  const bool room = holds(i.out, i.heads * (outputs + i.size - m.k));
  return there && room ? "" : "a buffer has no room for the heads";
}

}  // namespace sampan
