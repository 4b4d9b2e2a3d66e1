#include "program.h"

#include <algorithm>
#include <cmath>

namespace sampan {

Program::Program(Pool& pool, const Kernels& kernels, int max_rows, CacheView cache, Angles angles)
    : pool_(pool), kernels_(kernels), max_rows_(max_rows), cache_(cache), angles_(std::move(angles)) {
  const size_t bytes = static_cast<size_t>(max_rows) * angles_.inverse_frequency.size() * 4;
  cos_ = Memory(bytes);
  sin_ = Memory(bytes);
  row_page_.resize(static_cast<size_t>(max_rows));
  fine_rows_.resize(static_cast<size_t>(max_rows));
  ok_ = cos_.data() && sin_.data();
  for (int t = 0; t < pool.size(); ++t) {
    attend_scratch_.emplace_back(attend_scratch(cache.head_dim) * 4);
    ok_ = ok_ && attend_scratch_.back().data();
  }
}

int Program::buffer(int width) {
  buffers_.push_back({Memory(static_cast<size_t>(max_rows_) * static_cast<size_t>(width) * 4), width});
  ok_ = ok_ && buffers_.back().memory.data();
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::logits(int width) {
  buffers_.push_back({Memory(), width});
  logits_ = static_cast<int>(buffers_.size()) - 1;
  return logits_;
}

int Program::activations(int k, bool integer) {
  const size_t rows = static_cast<size_t>(max_rows_), n = static_cast<size_t>(k);
  const auto own = [&](size_t bytes) {
    owned_.emplace_back(bytes);
    ok_ = ok_ && (bytes == 0 || owned_.back().data());
    return owned_.back().data();
  };
  Activations a{};
  a.k = k;
  a.capacity = max_rows_;
  if (!integer) {
    a.values = reinterpret_cast<float*>(own(rows * n * 4));
  } else {
    a.codes = reinterpret_cast<int8_t*>(own(rows * n * 2));
    a.scale = reinterpret_cast<float*>(own(rows * n / kBlock * 4));
    a.isum16 = reinterpret_cast<int32_t*>(own(rows * n / 16 * 4));
    a.isum32 = reinterpret_cast<int32_t*>(own(rows * n / 32 * 4));
    a.sum16 = reinterpret_cast<float*>(own(rows * n / 16 * 4));
    a.sum32 = reinterpret_cast<float*>(own(rows * n / 32 * 4));
  }
  activations_.push_back(a);
  return static_cast<int>(activations_.size()) - 1;
}

void Program::add(Instruction instruction) {
  if (instruction.op == Op::linear && instruction.matrix.k > max_k_) {
    max_k_ = instruction.matrix.k;
    linear_scratch_.clear();
    for (int t = 0; t < pool_.size(); ++t) {
      linear_scratch_.emplace_back(linear_scratch(max_k_));
      ok_ = ok_ && linear_scratch_.back().data();
    }
  }
  if (!instructions_.empty()) instruction.phase = instructions_.back().phase + !instruction.joined;
  instructions_.push_back(instruction);
  next_ = std::make_unique<Counter[]>(instructions_.size());
  remaining_ = std::make_unique<Counter[]>(instructions_.size());
}

// Attention items (as many tokens of one span as fill kAttendRows query rows) and each row's page.
void Program::plan(const Step& step) {
  work_.clear();
  const int heads = instructions_.empty() ? 0 : cache_.kv_heads;
  int group = 1;
  for (const Instruction& i : instructions_) if (i.op == Op::attend) group = i.heads / cache_.kv_heads;
  const int tokens = std::max(1, std::min(kAttendRows / group, 16));
  for (size_t s = 0; s < step.spans.size(); ++s) {
    const Span& span = step.spans[s];
    for (int row = 0; row < span.count; row += tokens)
      for (int head = 0; head < heads; ++head)
        work_.push_back({static_cast<int>(s), row, std::min(tokens, span.count - row), head});
    for (int row = 0; row < span.count; ++row)
      row_page_[static_cast<size_t>(span.start + row)] = span.pages[(span.past + row) / kPage];
    for (int row = 0; row < span.count; ++row)
      fine_rows_[static_cast<size_t>(span.start + row)] = span.past + row < kFinePositions;
  }
}

bool Program::run(const Step& step) {
  cache_.data = step.cache;
  plan(step);
  stats_.resize(static_cast<size_t>(step.sampled * stats_chunks()));
  if (logits_ >= 0) {
    Buffer& b = buffers_[static_cast<size_t>(logits_)];
    const size_t bytes = static_cast<size_t>(step.sampled) * static_cast<size_t>(b.width) * 4;
    if (b.memory.bytes() < bytes) b.memory = Memory(bytes);
    if (bytes > 0 && !b.memory.data()) return false;
  }
  for (size_t i = 0; i < instructions_.size(); ++i) {
    next_[i].value.store(0, std::memory_order_relaxed);
    remaining_[i].value.store(0, std::memory_order_relaxed);
  }
  for (const Instruction& i : instructions_) remaining_[static_cast<size_t>(i.phase)].value += items(i, step);
  pool_.run([&](int thread) {
    for (size_t i = 0; i < instructions_.size(); ++i) {
      if (instructions_[i].phase > 0) wait_for(instructions_[i].phase - 1);
      execute(instructions_[i], step, next_[i], thread);
    }
  });
  return true;
}

int Program::items(const Instruction& i, const Step& step) const {
  const int rows = i.sampled ? step.sampled : step.rows;
  switch (i.op) {
    case Op::linear: return rows > 0 ? panels(i.matrix) : 0;
    case Op::attend: return static_cast<int>(work_.size());
    case Op::stats: return rows * stats_chunks();
    default: return rows;
  }
}

int Program::grain(const Instruction& i, int items) const {
  if (i.op == Op::attend || i.op == Op::stats) return 1;
  const int pieces = pool_.size() * 4, even = (items + pieces - 1) / pieces;
  // Twelve panels: whole tiles, and long enough streams.
  if (i.op == Op::linear) return std::max(3, (even + 2) / 3 * 3);
  return std::max(1, even);
}

void Program::execute(const Instruction& i, const Step& step, Counter& next, int thread) {
  const int n = items(i, step), g = grain(i, n);
  int begin, end;
  while (take(next.value, n, g, begin, end)) {
    piece(i, step, begin, end, thread);
    remaining_[static_cast<size_t>(i.phase)].value.fetch_sub(end - begin, std::memory_order_acq_rel);
  }
}

// Until the phase's work is done, not until its threads are here: a thread that the system has put aside holds
// nobody up unless it left in the middle of a piece.
void Program::wait_for(int phase) const {
  const std::atomic<int>& remaining = remaining_[static_cast<size_t>(phase)].value;
  for (int spins = 0; remaining.load(std::memory_order_acquire) > 0; ++spins) relax(spins);
}

void Program::piece(const Instruction& i, const Step& step, int begin, int end, int thread) {
  switch (i.op) {
    case Op::embed:
      kernels_.embed({i.matrix, step.ids, at(i.out), width(i.out)}, begin, end);
      break;
    case Op::angles: angles(step, begin, end); break;
    case Op::prepare: prepare(i, step, begin, end); break;
    case Op::linear: linear(i, step, begin, end, thread); break;
    case Op::rope: rope(i, step, begin, end); break;
    case Op::attend: {
      const AttendArgs a{at(i.in), width(i.in), at(i.out), width(i.out), i.heads, i.layer, cache_};
      for (int w = begin; w < end; ++w) {
        const Work& item = work_[static_cast<size_t>(w)];
        kernels_.attend(a, step.spans[static_cast<size_t>(item.span)], item.row, item.count, item.head,
                        attend_scratch_[static_cast<size_t>(thread)].as<float>());
      }
      break;
    }
    case Op::stats:
      for (int w = begin; w < end; ++w) {
        const int row = w / stats_chunks(), chunk = w % stats_chunks();
        kernels_.stats(at(i.in) + static_cast<ptrdiff_t>(row) * width(i.in), chunk * kStatsChunk,
                       std::min(vocabulary_, (chunk + 1) * kStatsChunk), &stats_[static_cast<size_t>(w)]);
      }
      break;
  }
}

void Program::angles(const Step& step, int begin, int end) {
  const size_t half = angles_.inverse_frequency.size();
  for (int row = begin; row < end; ++row) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = step.positions[row] * angles_.inverse_frequency[i];
      cos_.as<float>()[static_cast<size_t>(row) * half + i] = static_cast<float>(std::cos(angle)) * angles_.scale;
      sin_.as<float>()[static_cast<size_t>(row) * half + i] = static_cast<float>(std::sin(angle)) * angles_.scale;
    }
  }
}

Activations Program::acts(const Instruction& i) const {
  Activations a = activations_[static_cast<size_t>(i.act)];
  a.fine = i.fine || i.sampled ? nullptr : fine_rows_.data();
  return a;
}

void Program::prepare(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.prepare({i.prep, at(i.in) + i.in_offset, width(i.in), i.up, i.weight, i.eps,
                    i.sampled ? step.sampled_rows : nullptr, acts(i)},
                   begin, end);
}

void Program::linear(const Instruction& i, const Step& step, int begin, int end, int thread) {
  kernels_.linear({i.matrix, acts(i), i.sampled ? step.sampled : step.rows,
                   at(i.out) + i.out_offset, width(i.out), i.weight, i.accumulate},
                  begin, end, linear_scratch_[static_cast<size_t>(thread)].data());
}

void Program::rope(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.rope({at(i.in), width(i.in), i.k_offset, i.v_offset, i.heads, i.layer, i.q_scale, i.q_norm, i.k_norm, i.eps,
                 cos_.as<float>(), sin_.as<float>(), step.positions, row_page_.data(), cache_},
                begin, end);
}

}  // namespace sampan
