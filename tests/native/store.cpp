// Experts on disk: what a step is given is what the file has, whatever gives way meanwhile; the store keeps
// what a simple model of it keeps. Made to run under
// ThreadSanitizer.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <thread>

#include "expert_store.h"
#include "harness.h"

namespace sampan::test {

// A file of experts, each of one block that its number fills, gone with this.
class Experts {
 public:
  Experts(int layers, int each) : layers_(layers), each_(each) {
    file_ = mkstemp(path_.data());
    std::vector<uint8_t> block(kDiskBlock);
    for (int id = 0; id < layers * each; ++id) {
      for (size_t i = 0; i < block.size(); i += 4) std::memcpy(&block[i], &id, 4);
      if (write(file_, block.data(), block.size()) < 0) std::abort();
    }
  }
  ~Experts() {
    close(file_);
    unlink(path_.c_str());
  }
  ExpertStore store(int slots, StoreOptions options) const {
    std::vector<std::vector<ExpertRecord>> records(static_cast<size_t>(layers_));
    const int64_t block = static_cast<int64_t>(kDiskBlock);
    for (int id = 0; id < layers_ * each_; ++id)
      records[static_cast<size_t>(id / each_)].push_back({id * block, block, 0, block});
    return ExpertStore(path_, records, std::vector<std::string>(records.size(), "a layer"), slots, options);
  }
  void truncate(int experts) const {
    if (ftruncate(file_, static_cast<off_t>(experts * static_cast<int>(kDiskBlock))) != 0) std::abort();
  }

 private:
  const int layers_, each_;
  std::string path_ = "/tmp/sampan-experts-XXXXXX";
  int file_;
};

static bool holds(const ExpertUse& use, int id) {
  int32_t first, last;
  std::memcpy(&first, use.data, 4);
  std::memcpy(&last, use.data + kDiskBlock - 4, 4);
  return first == id && last == id;
}

static std::vector<int32_t> some(Random& random, int most, int of) {
  std::vector<int32_t> found;
  for (int e = 0; e < of; ++e)
    if (random.below(of) < most) found.push_back(e);
  if (found.empty()) found.push_back(random.below(of));
  return found;
}

// Begins a layer and ends each of its experts once it is there; false where one held something else.
static bool go_through(ExpertStore& store, int layer, const std::vector<int32_t>& experts, int each) {
  std::vector<ExpertUse> uses(experts.size());
  std::vector<ExpertUse*> places;
  for (ExpertUse& use : uses) places.push_back(&use);
  store.begin(layer, experts, std::vector<int32_t>(experts.size(), 1), places);
  bool right = true;
  std::deque<size_t> left;
  for (size_t i = 0; i < experts.size(); ++i) left.push_back(i);
  while (!left.empty()) {
    const uint32_t seen = store.arrivals();
    const size_t before = left.size();
    for (size_t turn = 0; turn < before; ++turn) {
      const size_t i = left.front();
      left.pop_front();
      if (uses[i].state.load(std::memory_order_acquire) != ExpertUse::ready) {
        left.push_back(i);
        continue;
      }
      right = right && holds(uses[i], layer * each + experts[i]);
      store.end(uses[i]);
    }
    if (left.size() == before) store.wait(seen);
  }
  return right;
}

// Fewer slots than experts of a step, read-ahead of others all the time, two steps side by side.
static void test_contents(Report& report, Random& random) {
  constexpr int kLayers = 3, kEach = 12;
  for (int round = 0; round < 6; ++round) {
    const Experts experts(kLayers, kEach);
    StoreOptions options;
    options.readers = 1 + round % 2;
    options.recency_only = round % 3 == 0;
    options.direct = round % 2 == 0;
    ExpertStore store = experts.store(random.between(2, 20), options);
    std::atomic<int> wrong{0};
    const auto steps = [&](uint64_t seed) {
      Random own(seed);
      for (int step = 0; step < 60; ++step) {
        store.count_tokens(1);
        for (int layer = 0; layer < kLayers; ++layer) {
          if (layer + 1 < kLayers) store.read_ahead(layer + 1, some(own, 3, kEach));
          wrong += !go_through(store, layer, some(own, own.between(1, 9), kEach), kEach);
        }
      }
    };
    std::thread other(steps, random.bits());
    steps(random.bits());
    other.join();
    const ExpertCounts counts = store.counts();
    report.check(wrong == 0, "an expert that a step uses gave way");
    report.check(counts.bytes == counts.reads * static_cast<int64_t>(kDiskBlock) && counts.tokens == 120 &&
                     counts.found <= counts.asked && counts.ahead_used <= counts.ahead,
                 "the counts do not agree");
  }
}

// One expert after another: what stays is what has the highest sum of halved uses, or was used last.
static void test_eviction(Report& report, Random& random, bool recency_only) {
  constexpr int kEach = 24, kSlots = 6;
  const Experts experts(1, kEach);
  StoreOptions options;
  options.recency_only = recency_only;
  options.half_life = 8.0;
  ExpertStore store = experts.store(kSlots, options);
  std::vector<std::vector<int>> used(kEach);  // when
  std::vector<int32_t> kept;
  const auto score = [&](int e, int now) {
    double sum = 0.0;
    for (int when : used[static_cast<size_t>(e)]) sum += std::exp2((when - now) / options.half_life);
    return recency_only ? static_cast<double>(used[static_cast<size_t>(e)].back()) : sum;
  };
  bool same = true;
  int hits = 0;
  for (int now = 1; now <= 400; ++now) {
    const int e = std::min(random.below(kEach), random.below(kEach));  // some more often than others
    const bool there = std::find(kept.begin(), kept.end(), e) != kept.end();
    hits += there;
    if (!there && kept.size() == kSlots)
      kept.erase(std::min_element(kept.begin(), kept.end(),
                                  [&](int a, int b) { return score(a, now) < score(b, now); }));
    if (!there) kept.push_back(e);
    used[static_cast<size_t>(e)].push_back(now);
    store.count_tokens(1);
    go_through(store, 0, {e}, kEach);
    std::sort(kept.begin(), kept.end());
    same = same && store.resident(0) == kept;
  }
  report.check(same, "the store keeps other experts than its model");
  report.check(store.counts().found == hits, "the store finds as many as its model");
}

// A file that ends early fails those behind its end, says where, and goes on when it is whole again.
static void test_damage(Report& report) {
  const Experts experts(2, 4);
  ExpertStore store = experts.store(2, {});
  experts.truncate(5);
  ExpertUse good, bad;
  store.begin(1, {0, 2}, {1, 1}, {&good, &bad});
  while (bad.state.load() == ExpertUse::absent || good.state.load() == ExpertUse::absent)
    std::this_thread::yield();
  report.check(good.state.load() == ExpertUse::ready && holds(good, 4), "an expert before the end");
  report.check(bad.state.load() == ExpertUse::failed &&
                   bad.fault.find("expert 2 of a layer") != std::string::npos &&
                   bad.fault.find("24576") != std::string::npos,
               "an expert behind the end: " + bad.fault);
  store.end(good);
  store.end(bad);
  report.check(go_through(store, 0, {0, 1, 2, 3}, 4), "the store goes on");
}

void test_store(Report& report, uint64_t seed) {
  Random random(seed);
  test_contents(report, random);
  test_eviction(report, random, false);
  test_eviction(report, random, true);
  test_damage(report);
}

}  // namespace sampan::test
