// The logits, and what is summed up of them.
//
// A step in which some rows have targets never holds those rows' logits: each piece computes a chunk of the
// vocabulary for some rows and sums it up while it is in the cache. The sums are those of a step that holds
// all.

#include <algorithm>

#include "program.h"

namespace sampan {

// Whether one product is all that the logits are.
bool Program::takes_targets() const {
  if (head_ < 0) return false;
  const Instruction& head = instructions_[static_cast<size_t>(head_)];
  return head.op == Op::linear && head.sampled && !head.accumulate && head.out.offset == 0;
}

// Where each sampled row's logits are kept.
void Program::hold(const Step& step) {
  held_.assign(static_cast<size_t>(step.sampled), -1);
  chosen_.assign(step.targets.size(), 0.0f);
  held_rows_ = 0;
  for (size_t row = 0; row < held_.size(); ++row)
    if (step.targets.empty() || step.targets[row] < 0) held_[row] = held_rows_++;
}

void Program::stats(const Instruction& i, const Step& step, int begin, int end, int thread) {
  for (int w = begin; w < end; ++w) {
    if (!step.targets.empty()) {
      head_piece(step, w, thread);
      continue;
    }
    const int row = w / stats_chunks(), chunk = w % stats_chunks();
    kernels_.stats(at(i.x) + static_cast<ptrdiff_t>(row) * width(i.x), chunk * kStatsChunk,
                   std::min(vocabulary_, (chunk + 1) * kStatsChunk), &stats_[static_cast<size_t>(w)]);
  }
}

// Rows of a piece of the head: as many as lie in the L2 cache with their logits, fewer where threads would be
// left without one.
int Program::head_rows(int count) const {
  int rows = kHeadRows;
  while (rows > kMaxRowsDirect && stats_chunks() * ceiling(count, rows) < 8 * pool_.size()) rows /= 2;
  return rows;
}

// Some rows' logits of one chunk of the vocabulary, summed up while they are in the cache; what is kept of
// them is asked for.
void Program::head_piece(const Step& step, int item, int thread) {
  const Instruction& i = instructions_[static_cast<size_t>(head_)];
  const int most = head_rows(step.sampled), blocks = ceiling(step.sampled, most);
  const int chunk = item / blocks, row = item % blocks * most, end = std::min(row + most, step.sampled);
  const int first = chunk * kStatsChunk, count = std::min(vocabulary_ - first, kStatsChunk);
  const int panel = first / kLanes, last = std::min(panel + kStatsChunk / kLanes, panels(i.matrix));
  float* logits = head_scratch_[static_cast<size_t>(thread)].as<float>();
  const int stride = std::min(logits_width(), kStatsChunk);
  const LinearArgs a{i.matrix, acts(i.act, true),      logits, stride, i.weight,
                     false,    in_place(step.sampled), row,    panel};
  kernels_.linear(a, panel, last, row, end, linear_scratch_[static_cast<size_t>(thread)].data());
  for (int r = row; r < end; ++r, logits += stride) {
    const size_t at = static_cast<size_t>(r);
    Stats& found = stats_[at * static_cast<size_t>(stats_chunks()) + static_cast<size_t>(chunk)];
    kernels_.stats(logits, 0, count, &found);
    found.argmax += first;
    const int target = step.targets[at] - first;
    if (target >= 0 && target < count) chosen_[at] = logits[target];
    if (held_[at] >= 0)
      std::copy_n(logits, count,
                  logits_memory_.as<float>() + static_cast<ptrdiff_t>(held_[at]) * logits_width() + first);
  }
}

}  // namespace sampan
