#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sampan {

Program::Program(Pool& pool, const Kernels& kernels, int max_rows, CacheView cache, Angles angles)
    : pool_(pool), kernels_(kernels), max_rows_(max_rows), cache_(cache), angles_(std::move(angles)) {
  const size_t bytes = static_cast<size_t>(max_rows) * angles_.inverse_frequency.size() * 4;
  cos_ = Memory(bytes);
  sin_ = Memory(bytes);
  row_page_.resize(static_cast<size_t>(max_rows));
  fine_rows_.resize(static_cast<size_t>(max_rows));
  row_slots_.resize(static_cast<size_t>(max_rows));
  unsound_.resize(static_cast<size_t>(max_rows));
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

int Program::activations(int k, Operand operand) {
  const size_t rows = static_cast<size_t>(max_rows_), n = static_cast<size_t>(k);
  const auto own = [&](size_t bytes) {
    owned_.emplace_back(bytes);
    ok_ = ok_ && (bytes == 0 || owned_.back().data());
    return owned_.back().data();
  };
  Activations a{};
  a.k = k;
  a.capacity = max_rows_;
  if (operand == Operand::f32) {
    a.values = reinterpret_cast<float*>(own(rows * n * 4));
  } else if (operand == Operand::bf16) {
    a.bf16 = reinterpret_cast<uint16_t*>(own(rows * n * 2));
  } else {
    const size_t blocks = static_cast<size_t>(quads(max_rows_)) * (n / kBlock);
    a.blocks = reinterpret_cast<QuadBlock*>(own(blocks * sizeof(QuadBlock)));
    a.low = reinterpret_cast<int8_t*>(own(blocks * kLowBytes));
  }
  activations_.push_back(a);
  return static_cast<int>(activations_.size()) - 1;
}

void Program::add(Instruction instruction) {
  if (instruction.when == When::always) instruction.when = when_;
  if ((instruction.op == Op::linear || instruction.op == Op::gated) && instruction.matrix.k > max_k_) {
    max_k_ = instruction.matrix.k;
    linear_scratch_.clear();
    for (int t = 0; t < pool_.size(); ++t) {
      linear_scratch_.emplace_back(linear_scratch(max_k_));
      ok_ = ok_ && linear_scratch_.back().data();
    }
  }
  if (instruction.op == Op::prepare && instruction.prep == Prep::norm)
    instruction.mark = instruction.joined ? norms_ - 1 : norms_++;
  if (instruction.op == Op::linear || instruction.op == Op::gated) {
    if (last_product_ >= 0)
      instructions_[static_cast<size_t>(last_product_)].next_product = static_cast<int>(instructions_.size());
    last_product_ = static_cast<int>(instructions_.size());
  }
  if (!instructions_.empty()) instruction.phase = instructions_.back().phase + !instruction.joined;
  instructions_.push_back(instruction);
  next_ = std::make_unique<Counter[]>(instructions_.size());
  remaining_ = std::make_unique<Counter[]>(instructions_.size());
}

size_t Program::workspace_bytes() const {
  size_t bytes = cos_.bytes() + sin_.bytes() + adapters_.bytes();
  for (size_t i = 0; i < buffers_.size(); ++i)
    if (static_cast<int>(i) != logits_) bytes += buffers_[i].memory.bytes();
  for (const std::vector<Memory>* all : {&owned_, &linear_scratch_, &attend_scratch_})
    for (const Memory& memory : *all) bytes += memory.bytes();
  return bytes;
}

// Each row's page, precision and adapter, and the attention's items.
void Program::plan(const Step& step) {
  for (size_t s = 0; s < step.spans.size(); ++s) {
    const Span& span = step.spans[s];
    const auto first = row_slots_.begin() + span.start;
    std::fill(first, first + span.count, step.slots.empty() ? -1 : step.slots[s]);
    for (int row = 0; row < span.count; ++row) {
      row_page_[static_cast<size_t>(span.start + row)] = span.pages[(span.past + row) / kPage];
      fine_rows_[static_cast<size_t>(span.start + row)] = span.past + row < kFinePositions;
    }
  }
  if (!step.slots.empty()) adapters_.plan(row_slots_, step.rows, step.sampled_rows, step.sampled);
  for (const Instruction& i : instructions_)
    if (i.op == Op::attend)
      return attention_.build(step.spans, cache_, i.heads / cache_.kv_heads, pool_.size());
}

bool Program::run(const Step& step) {
  cache_.data = step.cache;
  plan(step);
  std::fill(unsound_.begin(), unsound_.end(), -1);
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
  if (!applies(i, step)) return 0;
  const int count = rows(i, step);
  switch (i.op) {
    case Op::linear:
    case Op::gated: return tiles(i, count);
    case Op::attend: return attention_.items();
    case Op::stats: return count * stats_chunks();
    case Op::shrink: return adapters_.shrink_items(i.site, i.sampled);
    case Op::expand: return adapters_.expand_items(i.site, i.sampled);
    default: return count;
  }
}

int Program::grain(const Instruction& i, int items) const {
  switch (i.op) {
    case Op::attend:
    case Op::stats:
    case Op::linear:
    case Op::gated:
    case Op::shrink:
    case Op::expand: return 1;
    case Op::prepare:  // a quad is not cut where every thread gets one
      if (items >= kQuad * pool_.size()) return ceiling(ceiling(items, 4 * pool_.size()), kQuad) * kQuad;
      [[fallthrough]];
    default: return std::max(1, ceiling(items, 4 * pool_.size()));
  }
}

void Program::execute(const Instruction& i, const Step& step, Counter& next, int thread) {
  const int n = items(i, step), g = grain(i, n);
  int begin, end;
  while (n > 0 && take(next.value, n, g, begin, end)) {
    piece(i, step, begin, end, thread);
    remaining_[static_cast<size_t>(i.phase)].value.fetch_sub(end - begin, std::memory_order_acq_rel);
  }
}

// Until the phase's work is done, not until its threads are here: a thread that the system has put aside
// holds nobody up unless it left in the middle of a piece.
void Program::wait_for(int phase) const {
  const std::atomic<int>& remaining = remaining_[static_cast<size_t>(phase)].value;
  for (int spins = 0; remaining.load(std::memory_order_acquire) > 0; ++spins) relax(spins);
}

void Program::piece(const Instruction& i, const Step& step, int begin, int end, int thread) {
  switch (i.op) {
    case Op::embed: kernels_.embed({i.matrix, step.ids, at(i.out), width(i.out)}, begin, end); break;
    case Op::angles: angles(step, begin, end); break;
    case Op::prepare: prepare(i, step, begin, end); break;
    case Op::linear: linear(i, step, begin, end, thread); break;
    case Op::gated: gated(i, step, begin, end, thread); break;
    case Op::rope: rope(i, step, begin, end); break;
    case Op::attend: {
      const AttendArgs a{at(i.in), width(i.in), at(i.out), width(i.out), i.heads, i.layer, cache_};
      for (int item = begin; item < end; ++item)
        attention_.run(kernels_, a, item, attend_scratch_[static_cast<size_t>(thread)].as<float>());
      break;
    }
    case Op::gather: gather(i, step, begin, end); break;
    case Op::shrink: adapters_.shrink(kernels_, acts(i.act, false), i.site, i.sampled, begin, end); break;
    case Op::expand:
      adapters_.expand(kernels_, at(i.out) + i.out_offset, width(i.out), i.site, i.sampled, begin, end);
      break;
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
      cos_.as<float>()[static_cast<size_t>(row) * half + i] =
          static_cast<float>(std::cos(angle)) * angles_.scale;
      sin_.as<float>()[static_cast<size_t>(row) * half + i] =
          static_cast<float>(std::sin(angle)) * angles_.scale;
    }
  }
}

Activations Program::acts(int act, bool all_fine) const {
  Activations a = activations_[static_cast<size_t>(act)];
  a.fine = all_fine ? nullptr : fine_rows_.data();
  return a;
}

void Program::prepare(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.prepare({i.prep, at(i.in) + i.in_offset, width(i.in), i.up, i.weight, i.eps,
                    i.gathers ? step.sampled_rows : nullptr, acts(i.act, i.fine || i.sampled),
                    i.joined ? nullptr : unsound_.data(), i.mark, i.sampled ? step.sampled_rows : nullptr},
                   begin, end);
}

void Program::gather(const Instruction& i, const Step& step, int begin, int end) {
  const size_t n = static_cast<size_t>(width(i.in));
  for (int row = begin; row < end; ++row)
    std::memcpy(at(i.out) + static_cast<size_t>(row) * n,
                at(i.in) + static_cast<size_t>(step.sampled_rows[row]) * n, n * sizeof(float));
}

void Program::rope(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.rope(
      {at(i.in), width(i.in), i.k_offset, i.v_offset, i.heads, i.layer, i.q_scale, i.q_norm, i.k_norm, i.eps,
       cos_.as<float>(), sin_.as<float>(), step.positions, row_page_.data(), cache_},
      begin, end);
}

}  // namespace sampan
