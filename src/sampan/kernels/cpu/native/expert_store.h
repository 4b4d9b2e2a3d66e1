// Experts that stay on disk: a fixed number of slots in memory, threads that read into them, and a choice of
// what gives way. An expert is one aligned read.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "memory.h"

namespace sampan {

constexpr size_t kDiskBlock = 4096;  // what direct reads are aligned to

// Where an expert lies: `bytes` of the file from `offset` on, both whole blocks, of which [base, end) are its
// own.
struct ExpertRecord {
  int64_t offset = 0, bytes = 0, base = 0, end = 0;
};

// An expert that a step asked for. `state` is written by the store and read by the step's threads.
struct ExpertUse {
  enum State : int32_t { absent = 0, ready = 1, failed = 2 };
  std::atomic<int32_t> state{absent};
  const uint8_t* data = nullptr;  // once it is ready
  std::string fault{};            // once it has failed
  int id = -1, slot = -1;
};

// Since the start. `found`: uses whose expert was there when it was asked for. `ahead`: reads before anybody
// asked; `ahead_used`: those that were then asked for.
struct ExpertCounts {
  int64_t asked = 0, found = 0, reads = 0, bytes = 0, ahead = 0, ahead_used = 0, tokens = 0;
  double waited = 0.0;  // seconds of a step's threads, their mean
};

struct StoreOptions {
  int readers = 2;
  bool recency_only = false;  // least recently used goes first, however often it was
  bool direct = true;         // past the page cache, where the file system can
  double half_life = 256.0;   // tokens after which a use counts half
};

class ExpertStore {
 public:
  // Throws std::system_error where the file cannot be opened or a thread is refused, std::bad_alloc.
  // `labels`: of the layers, for faults.
  ExpertStore(const std::string& path, const std::vector<std::vector<ExpertRecord>>& layers,
              std::vector<std::string> labels, int slots, const StoreOptions& options);
  ~ExpertStore();
  ExpertStore(const ExpertStore&) = delete;
  ExpertStore& operator=(const ExpertStore&) = delete;

  int layers() const { return static_cast<int>(first_.size()) - 1; }
  int experts(int layer) const { return first_[at(layer) + 1] - first_[at(layer)]; }
  int64_t own_bytes(int layer) const;  // of the smallest expert of this layer
  bool direct() const { return direct_; }

  // A step goes through these experts, with so many rows each: they stay from when they are there until
  // `end`. `tokens`: rows of the step, told with its first layer.
  void begin(int layer, const std::vector<int32_t>& experts, const std::vector<int32_t>& rows,
             const std::vector<ExpertUse*>& uses);
  void end(const ExpertUse& use);
  // These are likely to be asked for next.
  void read_ahead(int layer, const std::vector<int32_t>& experts);
  void count_tokens(int tokens);

  // Changes whenever a read has ended: `wait` sleeps while it is still this.
  uint32_t arrivals() const { return arrivals_.load(std::memory_order_acquire); }
  void wait(uint32_t seen) const { arrivals_.wait(seen, std::memory_order_acquire); }
  void add_wait(double seconds);
  ExpertCounts counts();
  std::vector<int32_t> resident(int layer);  // experts that are in memory, ascending

 private:
  enum class Status : int32_t { empty, reading, ready };
  struct Slot {
    Status status = Status::empty;
    int expert = -1, pins = 0;
    bool ahead = false;     // read before anybody asked
    uint32_t expected = 0;  // the read-ahead that last named it
    std::vector<ExpertUse*> waiting{};
  };
  struct Expert {
    ExpertRecord record{};
    int slot = -1;
    bool asked = false, expected = false;  // waits for a reader; the same, before anybody asked
    double score = -1e300;                 // log2 of its uses, each halved with every half-life since
    std::vector<ExpertUse*> waiting{};
  };

  static size_t at(int n) { return static_cast<size_t>(n); }
  void use(int id, int rows, ExpertUse& use);
  void read();
  bool next(int& id, bool& ahead, int& slot);  // what to read now, and where
  int victim() const;
  std::string fetch(const ExpertRecord& record, uint8_t* to, int id);
  void settle(int slot, const std::string& fault);
  void stop();
  uint8_t* data(int slot) const { return memory_.data() + at(slot) * slot_bytes_; }

  const std::string path_;
  const std::vector<std::string> labels_;
  const StoreOptions options_;
  int file_ = -1;
  bool direct_ = false;
  size_t slot_bytes_ = 0;
  Memory memory_;
  std::vector<int> first_;  // [layers + 1] the number of a layer's first expert
  std::vector<Expert> experts_;
  std::vector<Slot> slots_;
  std::deque<int> asked_, expected_;
  std::mutex door_;
  std::unique_ptr<std::condition_variable> work_ = std::make_unique<std::condition_variable>();
  const pid_t process_;  // whose threads read: a fork has none of them
  ExpertCounts counts_;
  uint32_t expectations_ = 0;
  bool stop_ = false;
  mutable std::atomic<uint32_t> arrivals_{0};
  std::vector<std::thread> threads_;
};

}  // namespace sampan
