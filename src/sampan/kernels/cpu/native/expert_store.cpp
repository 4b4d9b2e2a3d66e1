#include "expert_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <system_error>

namespace sampan {

// As `direct` asks, or through the page cache where the file system has no direct reads.
static int open_file(const std::string& path, bool wanted, bool& direct) {
  direct = false;
#ifdef O_DIRECT
  if (wanted) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file >= 0 || errno != EINVAL) {
      direct = file >= 0;
      return file;
    }
  }
#endif
  return open(path.c_str(), O_RDONLY | O_CLOEXEC);
}

ExpertStore::ExpertStore(const std::string& path, const std::vector<std::vector<ExpertRecord>>& layers,
                         std::vector<std::string> labels, int slots, const StoreOptions& options)
    : path_(path), labels_(std::move(labels)), options_(options), process_(getpid()) {
  for (const std::vector<ExpertRecord>& layer : layers) {
    first_.push_back(static_cast<int>(experts_.size()));
    for (const ExpertRecord& record : layer) {
      experts_.emplace_back();
      experts_.back().record = record;
      slot_bytes_ = std::max(slot_bytes_, static_cast<size_t>(record.bytes));
    }
  }
  first_.push_back(static_cast<int>(experts_.size()));
  slots_.resize(at(slots));
  memory_ = Memory(slot_bytes_ * slots_.size());
  if (!memory_.data()) throw std::bad_alloc();
  file_ = open_file(path, options.direct, direct_);
  if (file_ < 0) throw std::system_error(errno, std::generic_category(), path);
  try {
    for (int r = 0; r < options_.readers; ++r) threads_.emplace_back([this] { read(); });
  } catch (...) {
    stop();
    throw;
  }
}

ExpertStore::~ExpertStore() { stop(); }

void ExpertStore::stop() {
  if (getpid() != process_) {  // nobody is there to be waited for, and what they waited on stays
    static_cast<void>(new std::vector<std::thread>(std::move(threads_)));
    static_cast<void>(work_.release());
  } else {
    {
      const std::lock_guard lock(door_);
      stop_ = true;
    }
    work_->notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  close(file_);
}

int64_t ExpertStore::own_bytes(int layer) const {
  int64_t least = INT64_MAX;
  for (int id = first_[at(layer)]; id < first_[at(layer) + 1]; ++id)
    least = std::min(least, experts_[at(id)].record.end - experts_[at(id)].record.base);
  return least;
}

void ExpertStore::begin(int layer, const std::vector<int32_t>& experts, const std::vector<int32_t>& rows,
                        const std::vector<ExpertUse*>& uses) {
  {
    const std::lock_guard lock(door_);
    for (int id : expected_) experts_[at(id)].expected = false;  // what was not begun comes too late
    expected_.clear();
    for (size_t i = 0; i < experts.size(); ++i) use(first_[at(layer)] + experts[i], rows[i], *uses[i]);
    if (asked_.empty()) return;
  }
  work_->notify_all();
}

void ExpertStore::use(int id, int rows, ExpertUse& use) {
  Expert& expert = experts_[at(id)];
  const double now = static_cast<double>(counts_.tokens) / options_.half_life;
  const double score = now + std::log2(static_cast<double>(rows));
  const double high = std::max(score, expert.score), low = std::min(score, expert.score);
  expert.score = options_.recency_only ? static_cast<double>(counts_.tokens)
                                       : high + std::log2(1.0 + std::exp2(low - high));
  ++counts_.asked;
  use.id = id;
  use.slot = -1;
  if (expert.slot < 0) {
    if (!expert.asked) asked_.push_back(id);
    expert.asked = true;
    expert.waiting.push_back(&use);
    return;
  }
  Slot& slot = slots_[at(expert.slot)];
  use.slot = expert.slot;
  ++slot.pins;
  counts_.ahead_used += slot.ahead;
  slot.ahead = false;
  if (slot.status == Status::reading) {
    slot.waiting.push_back(&use);
    return;
  }
  ++counts_.found;
  use.data = data(use.slot) + expert.record.base;
  use.state.store(ExpertUse::ready, std::memory_order_release);
}

void ExpertStore::end(const ExpertUse& use) {
  {
    const std::lock_guard lock(door_);
    if (use.slot < 0) return;  // it failed
    if (--slots_[at(use.slot)].pins > 0 || asked_.empty()) return;
  }
  work_->notify_one();
}

void ExpertStore::read_ahead(int layer, const std::vector<int32_t>& experts) {
  {
    const std::lock_guard lock(door_);
    ++expectations_;
    for (int32_t e : experts) {
      const int id = first_[at(layer)] + e;
      Expert& expert = experts_[at(id)];
      if (expert.slot >= 0) {
        slots_[at(expert.slot)].expected = expectations_;
      } else if (!expert.asked && !expert.expected) {
        expert.expected = true;
        expected_.push_back(id);
      }
    }
    if (expected_.empty()) return;
  }
  work_->notify_all();
}

void ExpertStore::count_tokens(int tokens) {
  const std::lock_guard lock(door_);
  counts_.tokens += tokens;
}

void ExpertStore::add_wait(double seconds) {
  const std::lock_guard lock(door_);
  counts_.waited += seconds;
}

ExpertCounts ExpertStore::counts() {
  const std::lock_guard lock(door_);
  return counts_;
}

std::vector<int32_t> ExpertStore::resident(int layer) {
  const std::lock_guard lock(door_);
  std::vector<int32_t> found;
  for (int e = 0; e < experts(layer); ++e) {
    const int slot = experts_[at(first_[at(layer)] + e)].slot;
    if (slot >= 0 && slots_[at(slot)].status == Status::ready) found.push_back(e);
  }
  return found;
}

// The slot whose expert counts least, of those that nobody uses; what is expected next goes last.
int ExpertStore::victim() const {
  int best = -1;
  bool best_expected = false;
  double least = 0.0;
  for (size_t s = 0; s < slots_.size(); ++s) {
    const Slot& slot = slots_[s];
    if (slot.status == Status::reading || slot.pins > 0) continue;
    if (slot.status == Status::empty) return static_cast<int>(s);
    const bool expected = slot.expected == expectations_ && expectations_ > 0;
    const double score = experts_[at(slot.expert)].score;
    if (best < 0 || (best_expected && !expected) || (best_expected == expected && score < least)) {
      best = static_cast<int>(s);
      best_expected = expected;
      least = score;
    }
  }
  return best;
}

// What was asked for goes before what is expected.
bool ExpertStore::next(int& id, bool& ahead, int& slot) {
  if (asked_.empty() && expected_.empty()) return false;
  slot = victim();
  if (slot < 0) return false;
  ahead = asked_.empty();
  std::deque<int>& from = ahead ? expected_ : asked_;
  id = from.front();
  from.pop_front();
  return true;
}

void ExpertStore::read() {
  std::unique_lock lock(door_);
  while (true) {
    int id = -1, s = -1;
    bool ahead = false;
    work_->wait(lock, [&] { return stop_ || next(id, ahead, s); });
    if (stop_) return;
    Slot& slot = slots_[at(s)];
    Expert& expert = experts_[at(id)];
    if (slot.expert >= 0) experts_[at(slot.expert)].slot = -1;
    slot.status = Status::reading;
    slot.expert = id;
    slot.ahead = ahead;
    slot.expected = ahead ? expectations_ : 0;
    slot.waiting.swap(expert.waiting);
    slot.pins = static_cast<int>(slot.waiting.size());
    for (ExpertUse* use : slot.waiting) use->slot = s;
    expert.slot = s;
    expert.asked = expert.expected = false;
    const ExpertRecord record = expert.record;
    lock.unlock();
    const std::string fault = fetch(record, data(s), id);
    lock.lock();
    ++counts_.reads;
    counts_.ahead += ahead;
    counts_.bytes += fault.empty() ? record.bytes : 0;
    settle(s, fault);
  }
}

// Tells those who wait for a slot that its read has ended.
void ExpertStore::settle(int s, const std::string& fault) {
  Slot& slot = slots_[at(s)];
  Expert& expert = experts_[at(slot.expert)];
  slot.status = fault.empty() ? Status::ready : Status::empty;
  for (ExpertUse* use : slot.waiting) {
    if (fault.empty()) {
      use->data = data(s) + expert.record.base;
    } else {
      use->fault = fault;
      use->slot = -1;
    }
    use->state.store(fault.empty() ? ExpertUse::ready : ExpertUse::failed, std::memory_order_release);
  }
  slot.waiting.clear();
  if (!fault.empty()) {
    expert.slot = slot.expert = -1;
    slot.pins = 0;
  }
  arrivals_.fetch_add(1, std::memory_order_release);
  arrivals_.notify_all();
}

// Reads one expert; says what went wrong, or nothing.
std::string ExpertStore::fetch(const ExpertRecord& record, uint8_t* to, int id) {
  const auto layer = std::upper_bound(first_.begin(), first_.end(), id) - first_.begin() - 1;
  int64_t done = 0;
  while (done < record.end) {
    const bool ended = done % static_cast<int64_t>(kDiskBlock) != 0;  // a read stops at a block or at the end
    const ssize_t got =
        ended ? 0 : pread(file_, to + done, static_cast<size_t>(record.bytes - done), record.offset + done);
    if (got > 0) {
      done += got;
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    const std::string what = got < 0 ? std::generic_category().message(errno) : "the file ends there";
    return path_ + ": expert " + std::to_string(id - first_[static_cast<size_t>(layer)]) + " of " +
           labels_[static_cast<size_t>(layer)] + " could not be read at offset " +
           std::to_string(record.offset + done) + ": " + what;
  }
  return "";
}

}  // namespace sampan
