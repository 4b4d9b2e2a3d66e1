#include "program.h"

#include <algorithm>
#include <cmath>

namespace sampan {

Program::Program(Pool& pool, const Kernels& kernels, int max_rows, Cache type, std::vector<CacheShape> shapes)
    : pool_(pool), kernels_(kernels), max_rows_(max_rows), type_(type), shapes_(std::move(shapes)) {
  row_page_.resize(static_cast<size_t>(max_rows));
  fine_rows_.resize(static_cast<size_t>(max_rows));
  row_slots_.resize(static_cast<size_t>(max_rows));
  unsound_.resize(static_cast<size_t>(max_rows));
  size_t scratch = 0;
  for (const CacheShape& shape : shapes_) {
    layer_offset_.push_back(static_cast<ptrdiff_t>(run_bytes_));
    run_bytes_ += sampan::run_bytes(type, shape);
    scratch = std::max(scratch, attend_scratch(shape));
  }
  for (int t = 0; t < pool.size(); ++t) {
    attend_scratch_.emplace_back(scratch * sizeof(float));
    ok_ = ok_ && (scratch == 0 || attend_scratch_.back().data());
  }
}

// As few parts of a KV head's query heads as there may be, all of one size.
static int parts_of(int group) {
  int parts = ceiling(group, kAttendRows);
  while (group % parts != 0) ++parts;
  return parts;
}

int Program::cut_of(const CacheShape& shape, int group) {
  for (size_t c = 0; c < cuts_.size(); ++c) {
    const Cut& cut = cuts_[c];
    if (cut.group == group && cut.shape.kv_heads == shape.kv_heads &&
        cut.shape.value_size == shape.value_size)
      return static_cast<int>(c);
  }
  cuts_.push_back({shape, group, std::make_unique<AttentionPlan>()});
  return static_cast<int>(cuts_.size()) - 1;
}

void Program::add(Instruction instruction) {
  if (instruction.when == When::always) instruction.when = when_;
  const bool product = instruction.op == Op::linear || instruction.op == Op::gated;
  const int k = product                  ? instruction.matrix.k
                : instruction.group >= 0 ? groups_[static_cast<size_t>(instruction.group)].matrices[0].k
                                         : 0;
  if (k > max_k_) {
    max_k_ = k;
    linear_scratch_.clear();
    for (int t = 0; t < pool_.size(); ++t) {
      linear_scratch_.emplace_back(linear_scratch(max_k_));
      ok_ = ok_ && linear_scratch_.back().data();
    }
  }
  if (instruction.op == Op::gated) instruction.up = instruction.matrix.n / 2 / kLanes;
  if (instruction.op == Op::attend) {
    const CacheShape& shape = shapes_[static_cast<size_t>(instruction.layer)];
    const int group = instruction.heads / shape.kv_heads;
    instruction.parts = parts_of(group);
    CacheShape cut = shape;
    cut.kv_heads *= instruction.parts;
    instruction.plan = cut_of(cut, group / instruction.parts);
  }
  if (product) {
    if (last_product_ >= 0)
      instructions_[static_cast<size_t>(last_product_)].next_product = static_cast<int>(instructions_.size());
    last_product_ = static_cast<int>(instructions_.size());
    if (logits_ >= 0 && instruction.out.buffer == logits_) head_ = head_ == -1 ? last_product_ : -2;
  }
  if (instruction.op == Op::stored) {
    instruction.plan = static_cast<int>(runs_.size());
    const size_t experts = static_cast<size_t>(routers_[static_cast<size_t>(instruction.router)].experts);
    runs_.push_back({std::make_unique<ExpertWork[]>(experts)});
  }
  if (!instructions_.empty()) instruction.phase = instructions_.back().phase + !instruction.joined;
  instructions_.push_back(instruction);
  next_ = std::make_unique<Counter[]>(instructions_.size());
  remaining_ = std::make_unique<Counter[]>(instructions_.size());
  routed_ = std::make_unique<Counter[]>(instructions_.size());
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
  for (const Cut& cut : cuts_) cut.plan->build(step.spans, cut.shape, cut.group, pool_.size());
}

bool Program::run(const Step& step) {
  cache_ = step.cache;
  plan(step);
  std::fill(unsound_.begin(), unsound_.end(), -1);
  stats_.resize(static_cast<size_t>(step.sampled * stats_chunks()));
  if (logits_ >= 0) {
    hold(step);
    const size_t bytes = static_cast<size_t>(held_rows_) * static_cast<size_t>(logits_width()) * 4;
    if (logits_memory_.bytes() < bytes) logits_memory_ = Memory(bytes);
    if (bytes > 0 && !logits_memory_.data()) return false;
    buffers_[static_cast<size_t>(logits_)].data = logits_memory_.as<float>();
  }
  for (size_t i = 0; i < instructions_.size(); ++i) {
    next_[i].value.store(0, std::memory_order_relaxed);
    remaining_[i].value.store(0, std::memory_order_relaxed);
    routed_[i].value.store(0, std::memory_order_relaxed);
  }
  for (const Instruction& i : instructions_) remaining_[static_cast<size_t>(i.phase)].value += items(i, step);
  begin_step(step.rows);
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
  if (i.ahead && count > kRowsReadAhead) return 0;
  if (!step.targets.empty() && i.out.buffer == logits_ && i.op == Op::linear) return 0;
  switch (i.op) {
    case Op::linear:
    case Op::gated: return tiles(i, count);
    case Op::attend: return cuts_[static_cast<size_t>(i.plan)].plan->items();
    case Op::stats: return stats_chunks() * (step.targets.empty() ? count : ceiling(count, head_rows(count)));
    case Op::shrink:
      if (i.router < 0) return adapters_.shrink_items(i.site, rows_of(i));
      break;
    case Op::expand:
      if (i.router < 0) return adapters_.expand_items(i.site, rows_of(i));
      break;
    case Op::sort:
    case Op::expect: return std::min(count, 1);
    case Op::per_head: return i.heads * tiles_of(i, count);
    case Op::convolve: return static_cast<int>(step.spans.size()) * ceiling(i.width, kConvolved);
    case Op::delta: return static_cast<int>(step.spans.size()) * i.heads;
    case Op::gather:
    case Op::each:
    case Op::gate_each:
    case Op::stored: break;
    default: return count;
  }
  return routed_[static_cast<size_t>(&i - instructions_.data())].value.load(std::memory_order_relaxed);
}

int Program::grain(const Instruction& i, int items) const {
  switch (i.op) {
    case Op::attend:
    case Op::stats:
    case Op::linear:
    case Op::gated:
    case Op::shrink:
    case Op::expand:
    case Op::each:
    case Op::gate_each:
    case Op::delta:
    case Op::per_head: return 1;
    case Op::prepare:  // a quad is not cut where every thread gets one
      if (items >= kQuad * pool_.size()) return ceiling(ceiling(items, 4 * pool_.size()), kQuad) * kQuad;
      [[fallthrough]];
    default: return std::max(1, ceiling(items, 4 * pool_.size()));
  }
}

void Program::execute(const Instruction& i, const Step& step, Counter& next, int thread) {
  const int n = items(i, step), g = grain(i, n);
  if (i.op == Op::stored) return n > 0 ? stored(i, thread) : void();
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
    case Op::embed: embed(i, step, begin, end); break;
    case Op::angles: angles(i, step, begin, end); break;
    case Op::prepare: prepare(i, step, begin, end); break;
    case Op::linear: linear(i, step, begin, end, thread); break;
    case Op::gated: gated(i, step, begin, end, thread); break;
    case Op::norm: norm(i, step, begin, end); break;
    case Op::map: map(i, step, begin, end); break;
    case Op::rotate: kernels_.rotate({at(i.x), width(i.x), i.heads, i.size, turn(i.turn)}, begin, end); break;
    case Op::append: append(i, step, begin, end); break;
    case Op::attend: attend(i, begin, end, thread); break;
    case Op::shrink: adapters_.shrink(kernels_, acts(i.act, false), i.site, rows_of(i), begin, end); break;
    case Op::expand:
      adapters_.expand(kernels_, at(i.out), width(i.out), i.site, rows_of(i), begin, end);
      break;
    case Op::stats: stats(i, step, begin, end, thread); break;
    case Op::route: route(i, begin, end); break;
    case Op::sort: sort(i, step); break;
    case Op::gather: gather(i, begin, end); break;
    case Op::each:
    case Op::gate_each:
      for (int item = begin; item < end; ++item) each(i, item, thread);
      break;
    case Op::combine: combine(i, begin, end); break;
    case Op::expect: expect(i, rows(i, step)); break;
    case Op::stored: break;  // its threads find their pieces themselves
    case Op::per_head: per_head(i, step, begin, end, thread); break;
    case Op::convolve: convolve(i, step, begin, end); break;
    case Op::delta: delta(i, step, begin, end); break;
  }
}

void Program::angles(const Instruction& i, const Step& step, int begin, int end) {
  const Angles& a = angles_[static_cast<size_t>(i.table)];
  const size_t half = a.inverse_frequency.size();
  for (int row = begin; row < end; ++row) {
    for (size_t f = 0; f < half; ++f) {
      const double angle = step.positions[row] * a.inverse_frequency[f];
      a.cos[static_cast<size_t>(row) * half + f] = static_cast<float>(std::cos(angle)) * a.scale;
      a.sin[static_cast<size_t>(row) * half + f] = static_cast<float>(std::sin(angle)) * a.scale;
    }
  }
}

Activations Program::acts(int act, bool all_fine) const {
  Activations a = activations_[static_cast<size_t>(act)];
  a.fine = all_fine ? nullptr : fine_rows_.data();
  return a;
}

CacheView Program::layer(int index) const {
  const size_t l = static_cast<size_t>(index);
  return {cache_ + layer_offset_[l], type_, shapes_[l], static_cast<ptrdiff_t>(run_bytes_)};
}

Turn Program::turn(const Turning& t) const {
  if (t.table < 0) return {t.norm, t.eps, nullptr, nullptr, 0, 0, false, t.scale};
  const Angles& a = angles_[static_cast<size_t>(t.table)];
  const int size = 2 * static_cast<int>(a.inverse_frequency.size());
  return {t.norm, t.eps, a.cos, a.sin, t.first, size, t.interleaved, t.scale};
}

void Program::embed(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.embed({i.matrix, step.ids, at(i.out), width(i.out), i.width ? i.width : i.matrix.k}, begin, end);
}

void Program::prepare(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.prepare({i.prep, at(i.x), width(i.x), i.up, i.weight, i.eps,
                    i.gathers ? step.sampled_rows : nullptr, acts(i.act, i.fine || i.sampled),
                    i.joined ? nullptr : unsound_.data(), i.mark, step_rows(i, step), i.width},
                   begin, end);
}

void Program::norm(const Instruction& i, const Step& step, int begin, int end) {
  kernels_.norm({at(i.x), at(i.out), width(i.x), width(i.out), i.size, i.width / i.size, i.weight, i.eps,
                 unsound_.data(), i.mark, step_rows(i, step)},
                begin, end);
}

void Program::map(const Instruction& i, const Step& step, int begin, int end) {
  const bool two = i.y.buffer >= 0;
  kernels_.map(
      {i.map, at(i.x), two ? at(i.y) : nullptr, at(i.out), width(i.x), two ? width(i.y) : 0, width(i.out),
       i.width, i.factor, i.single, i.gathers ? step.sampled_rows : nullptr, i.heads, i.size, i.kept, i.fill},
      begin, end);
}

void Program::append(const Instruction& i, const Step& step, int begin, int end) {
  const bool values = i.z.buffer >= 0;
  kernels_.append(
      {at(i.x), at(i.y), values ? at(i.z) : nullptr, width(i.x), width(i.y), values ? width(i.z) : 0, i.heads,
       turn(i.turn), turn(i.k_turn), step.positions, row_page_.data(), layer(i.layer)},
      begin, end);
}

void Program::attend(const Instruction& i, int begin, int end, int thread) {
  AttendArgs a{at(i.x), width(i.x), at(i.out), width(i.out), i.heads, layer(i.layer)};
  a.parts = i.parts;
  float* scratch = attend_scratch_[static_cast<size_t>(thread)].as<float>();
  for (int item = begin; item < end; ++item)
    cuts_[static_cast<size_t>(i.plan)].plan->run(kernels_, a, item, scratch);
}

}  // namespace sampan
