// A step on experts that come from disk has the bits of one on experts in memory, on any number of threads
// and slots. Made to run under ThreadSanitizer.

#include <unistd.h>

#include <cstdlib>
#include <deque>

#include "expert_store.h"
#include "harness.h"
#include "program.h"

namespace sampan::test {

// One layer of experts between embedding and head: in memory, or in a file of which `slots` are in memory.
class Mixture {
 public:
  static constexpr int kHidden = 64, kFfn = 32, kExperts = 12, kChosen = 3, kVocabulary = 96, kTokens = 40;

  Mixture(Pool& pool, int slots)
      : random_(5), program_(pool, *choose_kernels(nullptr), kTokens, Cache::f32, {}) {
    Router router;
    router.experts = kExperts;
    router.chosen = kChosen;
    const int rows = most_slots(router, kTokens);
    program_.reserve(size_t{4} << 20);
    const int x = buffer(kHidden, kTokens), scores = buffer(16, kTokens), y = buffer(kHidden, rows);
    const int floats = activations(kHidden, Operand::f32, kTokens);
    const int gathered = activations(kHidden, Operand::int8, rows),
              inner = activations(kFfn, Operand::int8, rows);
    const int head = activations(kHidden, Operand::f32, kTokens);
    const Matrix table = floats_of(kVocabulary), choice = floats_of(kExperts);
    for (int e = 0; e < kExperts; ++e) {
      gate_.push_back(integers(2 * kFfn, kHidden));
      down_.push_back(integers(kHidden, kFfn));
    }
    if (slots > 0) store_ = written(slots);
    program_.set_store(store_.get());
    const int number = program_.router(router);
    Instruction i{Op::embed};
    i.matrix = table;
    i.out = {x, 0};
    program_.add(i);
    rows_of(x, floats);
    product(choice, floats, scores);
    routed(Op::route, number, {scores, 0});
    if (store_) {  // the same layer's, which costs no bit
      Instruction ahead = base(Op::expect, number);
      ahead.x = {scores, 0};
      ahead.layer = 0;
      ahead.ahead = ahead.joined = true;
      check(ahead);
    }
    routed(Op::sort, number, {});
    Instruction gather = base(Op::gather, number);
    gather.x = {x, 0};
    gather.act = gathered;
    gather.gathers = true;
    check(gather);
    if (store_) {
      Instruction stored = base(Op::stored, number);
      stored.layer = 0;
      stored.stages = 2;
      check(stored);
    }
    each(Op::gate_each, number, gate_, 0, gathered, inner, {});
    each(Op::each, number, down_, gate_bytes_, inner, -1, {y, 0});
    Instruction sum = base(Op::combine, number);
    sum.x = {y, 0};
    sum.out = {x, 0};
    sum.width = kHidden;
    check(sum);
    rows_of(x, head);
    product(floats_of(kVocabulary), head, program_.logits(kVocabulary));
  }

  uint64_t digest() {
    Table t{nullptr};
    for (int count : {kTokens, 1, 2, 1, 9}) {
      std::vector<int32_t> ids(static_cast<size_t>(count)), positions(ids.size(), 100), sampled(ids.size());
      for (int i = 0; i < count; ++i) {
        ids[static_cast<size_t>(i)] = (i * 7 + count) % kVocabulary;
        sampled[static_cast<size_t>(i)] = i;
      }
      const int32_t pages[] = {0, 0};
      Step step{count, count, ids.data(), positions.data(), sampled.data(), {{0, count, 0, pages}}, nullptr};
      program_.run(step);
      t.feed(std::vector<float>(program_.logits_data(), program_.logits_data() + count * kVocabulary));
    }
    return t.digest;
  }
  ExpertCounts counts() { return store_->counts(); }

 private:
  int buffer(int width, int rows) {
    const size_t at = used_;
    used_ += 4 * static_cast<size_t>(width * rows);
    return program_.buffer(at, width, rows);
  }
  int activations(int k, Operand operand, int rows) {
    const size_t at = used_;
    used_ += (activation_bytes(rows, k, operand) + 63) / 64 * 64;
    return program_.activations(at, k, operand, rows);
  }
  Matrix floats_of(int n) {
    Matrix m{nullptr, n, kHidden, Store::f32, 32, true, false, 0};
    std::vector<uint8_t>& bytes = bytes_.emplace_back(panel_bytes(m) * static_cast<size_t>(panels(m)));
    const std::vector<float> values = random_.bells(bytes.size() / 4);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    m.data = bytes.data();
    return m;
  }
  Matrix integers(int n, int k) {
    Matrix m{nullptr, n, k, Store::u4, 32, true, false, 8};
    std::vector<uint8_t>& bytes = bytes_.emplace_back(panel_bytes(m) * static_cast<size_t>(panels(m)));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random_.bits());
    const float scale = 0.02f;
    for (size_t block = 0; block < bytes.size(); block += superblock_bytes(m))
      for (size_t lane = 0; lane < kLanes; ++lane) std::memcpy(bytes.data() + block + lane * 4, &scale, 4);
    m.data = bytes.data();
    return m;
  }
  // Both matrices of an expert lie together somewhere in whole blocks.
  std::unique_ptr<ExpertStore> written(int slots) {
    std::string path = "/tmp/sampan-mixture-XXXXXX";
    const int file = mkstemp(path.data());
    const auto bytes = [](const Matrix& m) { return panel_bytes(m) * static_cast<size_t>(panels(m)); };
    gate_bytes_ = static_cast<int64_t>(bytes(gate_[0]));
    const int64_t own = gate_bytes_ + static_cast<int64_t>(bytes(down_[0]));
    const int64_t block = static_cast<int64_t>(kDiskBlock);
    std::vector<ExpertRecord> records;
    for (int e = 0; e < kExperts; ++e) {
      const int64_t base = 64 * (e % 3), whole = (base + own + block - 1) / block * block;
      records.push_back({e * 4 * block, whole, base, base + own});
      if (pwrite(file, gate_[static_cast<size_t>(e)].data, bytes(gate_[0]), records.back().offset + base) <
              0 ||
          pwrite(file, down_[static_cast<size_t>(e)].data, bytes(down_[0]),
                 records.back().offset + base + gate_bytes_) < 0)
        std::abort();
    }
    close(file);
    auto store = std::make_unique<ExpertStore>(path, std::vector<std::vector<ExpertRecord>>{records},
                                               std::vector<std::string>(1, "it"), slots, StoreOptions{});
    unlink(path.c_str());
    return store;
  }
  Instruction base(Op op, int router) const {
    Instruction i{op};
    i.router = router;
    return i;
  }
  void check(const Instruction& i) {
    const std::string fault = program_.fault(i);
    if (!fault.empty()) std::printf("FAILED %s\n", fault.c_str());
    program_.add(i);
  }
  void routed(Op op, int router, Place x) {
    Instruction i = base(op, router);
    i.x = x;
    check(i);
  }
  void rows_of(int in, int act) {
    Instruction i{Op::prepare};
    i.x = {in, 0};
    i.act = act;
    check(i);
  }
  void product(const Matrix& m, int act, int out) {
    Instruction i{Op::linear};
    i.matrix = m;
    i.act = act;
    i.out = {out, 0};
    i.sampled = m.n == kVocabulary;
    check(i);
  }
  void each(Op op, int router, const std::vector<Matrix>& all, int64_t offset, int act, int result,
            Place out) {
    Instruction i = base(op, router);
    Matrix like = all[0];
    like.data = nullptr;
    i.group = store_ ? program_.stored_group(like, 0, offset) : program_.group(all);
    i.staged = i.joined = store_ != nullptr;
    i.act = act;
    i.result = result;
    i.out = out;
    check(i);
  }

  Random random_;
  std::deque<std::vector<uint8_t>> bytes_;
  std::vector<Matrix> gate_, down_;
  int64_t gate_bytes_ = 0;
  size_t used_ = 0;
  std::unique_ptr<ExpertStore> store_;
  Program program_;
};

void test_mixture(Report& report) {
  Pool alone(1);
  const uint64_t want = Mixture(alone, 0).digest();
  for (int threads : {1, 2, 4}) {
    Pool pool(threads);
    for (int slots : {1, 3, 5, 12}) {
      Mixture mixture(pool, slots);
      for (int run = 0; run < 3; ++run)
        report.check(mixture.digest() == want, std::to_string(slots) + " slots on " +
                                                   std::to_string(threads) + " threads, run " +
                                                   std::to_string(run));
      const ExpertCounts counts = mixture.counts();
      report.check(counts.tokens == 3 * 53 && counts.asked > 0 &&
                       (slots < 12 || counts.reads == counts.asked - counts.found),
                   "what a step asks for is counted");
    }
  }
}

}  // namespace sampan::test
