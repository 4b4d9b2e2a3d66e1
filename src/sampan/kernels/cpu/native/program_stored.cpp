// A step's experts that come from disk: threads take the pieces of those that are there, and sleep only while
// none is. Each expert goes through its stages alone, and gives its slot back behind the last.

#include <chrono>

#include "program.h"

namespace sampan {

using Clock = std::chrono::steady_clock;

constexpr int kTurnsBeforeSleep = 200;  // some 20 microseconds: less than a read takes

int Program::stored_group(const Matrix& matrix, int layer, int64_t offset) {
  groups_.push_back({{matrix}, layer, offset});
  return static_cast<int>(groups_.size()) - 1;
}

void Program::begin_step(int rows) {
  expert_step_.failed.store(false, std::memory_order_relaxed);
  expert_step_.failure.clear();
  if (store_) store_->count_tokens(rows);
}

// Asks the store for the experts that `sort` has found.
void Program::begin_stored(const Instruction& i) {
  ExpertRun& run = runs_[static_cast<size_t>(i.plan)];
  const std::vector<int32_t>& used = routing_.used();
  run.count = static_cast<int>(used.size());
  std::vector<int32_t> rows;
  std::vector<ExpertUse*> uses;
  for (size_t w = 0; w < used.size(); ++w) {
    ExpertWork& work = run.works[w];
    const int count = routing_.count(used[w]);
    work.expert = used[w];
    work.use.state.store(ExpertUse::absent, std::memory_order_relaxed);
    work.stage.store(0, std::memory_order_relaxed);
    for (int s = 0; s < i.stages; ++s) {
      const Instruction& part = (&i)[1 + s];
      work.items[s] = part.op == Op::gather ? 1 : tiles_of(part, count);
      work.next[s].store(0, std::memory_order_relaxed);
      work.left[s].store(work.items[s], std::memory_order_relaxed);
    }
    rows.push_back(count);
    uses.push_back(&work.use);
  }
  store_->begin(i.layer, used, rows, uses);
}

// Whether no expert is there that is not done; `any`: whether one is still to come.
static bool starved(const ExpertRun& run, int stages, bool& any) {
  bool others = false;
  for (int w = 0; w < run.count; ++w) {
    const ExpertWork& work = run.works[static_cast<size_t>(w)];
    if (work.stage.load(std::memory_order_acquire) == stages) continue;
    const bool absent = work.use.state.load(std::memory_order_acquire) == ExpertUse::absent;
    (absent ? any : others) = true;
  }
  return any && !others;
}

void Program::stored(const Instruction& i, int thread) {
  const std::atomic<int>& remaining = remaining_[static_cast<size_t>(i.phase)].value;
  Clock::time_point since;
  bool waiting = false;
  int turns = 0;
  const auto done_waiting = [&] {
    if (!waiting) return;
    store_->add_wait(std::chrono::duration<double>(Clock::now() - since).count() / pool_.size());
    waiting = false;
  };
  while (remaining.load(std::memory_order_acquire) > 0) {
    const uint32_t seen = store_->arrivals();
    if (advance(i, thread)) {
      done_waiting();
      turns = 0;
      continue;
    }
    bool absent = false;
    const bool nothing = starved(runs_[static_cast<size_t>(i.plan)], i.stages, absent);
    if (absent && !waiting) since = Clock::now();
    waiting = waiting || absent;
    if (nothing && turns >= kTurnsBeforeSleep) store_->wait(seen);
    else relax(turns);
    ++turns;
  }
  done_waiting();
}

// Does what there is to do on some expert that is there; false where there is nothing.
bool Program::advance(const Instruction& i, int thread) {
  ExpertRun& run = runs_[static_cast<size_t>(i.plan)];
  std::atomic<int>& remaining = remaining_[static_cast<size_t>(i.phase)].value;
  bool done = false;
  for (int w = 0; w < run.count; ++w) {
    ExpertWork& work = run.works[static_cast<size_t>(w)];
    int s = work.stage.load(std::memory_order_acquire);
    if (s == i.stages) continue;
    const int state = work.use.state.load(std::memory_order_acquire);
    if (state == ExpertUse::absent) continue;
    if (state == ExpertUse::failed) {
      if (!work.stage.compare_exchange_strong(s, i.stages)) continue;
      {
        const std::lock_guard lock(expert_step_.door);
        if (expert_step_.failure.empty()) expert_step_.failure = work.use.fault;
        expert_step_.failed.store(true, std::memory_order_relaxed);
      }
      remaining.fetch_sub(1, std::memory_order_acq_rel);
      done = true;
      continue;
    }
    int begin, end;
    while (s < i.stages && take(work.next[s], work.items[s], 1, begin, end)) {
      stage((&i)[1 + s], work, begin, thread);
      done = true;
      if (work.left[s].fetch_sub(1, std::memory_order_acq_rel) > 1) continue;
      if (++s == i.stages) store_->end(work.use);
      work.stage.store(s, std::memory_order_release);
      if (s == i.stages) remaining.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
  return done;
}

// One item of an expert's stage.
void Program::stage(const Instruction& part, ExpertWork& work, int item, int thread) {
  if (part.op == Op::gather) {
    const int first = routing_.first(work.expert);
    return gather(part, first, first + routing_.count(work.expert));
  }
  const ExpertGroup& group = groups_[static_cast<size_t>(part.group)];
  Matrix m = group.matrices[0];
  m.data = work.use.data + group.offset;
  tile_of(part, m, work.expert, item, thread);
}

// What the next layer's router thinks of this layer's hidden state.
void Program::expect(const Instruction& i, int rows) {
  const Router& r = routers_[static_cast<size_t>(i.router)];
  std::vector<float> own;
  std::vector<int32_t> experts;
  for (int row = 0; row < rows; ++row)
    for (int expert : chosen_by(r, at(i.x) + static_cast<ptrdiff_t>(row) * width(i.x), own))
      experts.push_back(expert);
  store_->read_ahead(i.layer, experts);
}

std::string Program::fault_of_stored(const Instruction& i) const {
  const Router& r = routers_[static_cast<size_t>(i.router)];
  if (!store_ || i.layer < 0 || i.layer >= store_->layers() || store_->experts(i.layer) != r.experts)
    return "the store has no such experts";
  if (i.op == Op::expect) return holds(i.x, r.experts) ? "" : "the scores are not there";
  return i.stages > 0 && i.stages <= kExpertStages ? "" : "an expert goes through one to four stages";
}

}  // namespace sampan
