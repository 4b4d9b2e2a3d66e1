// The pool, the program and the plan of its attention: every thread enters once, barriers order memory,
// threads end with their pool, callers take turns, and a model's step gives the same bits on any number of
// threads. Made to run under ThreadSanitizer.

#include <chrono>
#include <filesystem>
#include <numeric>
#include <thread>

#include "harness.h"
#include "program.h"

namespace sampan::test {

// Each thread writes its cell, and after the barrier reads every other's.
static void test_barriers(Report& report, int threads, int runs) {
  Pool pool(threads);
  std::vector<int> cells(static_cast<size_t>(threads), 0), errors(static_cast<size_t>(threads), 0);
  int expected = 0;
  for (int run = 0; run < runs; ++run) {
    if (run % 100 == 9) std::this_thread::sleep_for(std::chrono::milliseconds(30));  // long enough to park
    pool.run([&](int thread) {
      for (int round = 1; round <= 3; ++round) {
        ++cells[static_cast<size_t>(thread)];
        pool.barrier();
        for (int cell : cells) errors[static_cast<size_t>(thread)] += cell != expected + round;
        pool.barrier();
      }
    });
    expected += 3;
  }
  report.check(std::accumulate(errors.begin(), errors.end(), 0) == 0,
               "barriers with " + std::to_string(threads) + " threads");
}

static void test_sharing(Report& report, int threads) {
  Pool pool(threads);
  std::vector<int> taken(1003, 0);
  std::atomic<int> next{0};
  pool.run([&](int) {
    int begin, end;
    while (take(next, static_cast<int>(taken.size()), 7, begin, end))
      for (int i = begin; i < end; ++i) ++taken[static_cast<size_t>(i)];
  });
  report.same(std::vector<int32_t>(taken.size(), 1), std::vector<int32_t>(taken.begin(), taken.end()),
              "items are handed out once");
}

static long threads_of_process() {
  if (!std::filesystem::exists("/proc/self/task")) return 0;  // elsewhere than on Linux nothing is counted
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

static void test_endings(Report& report) {
  { Pool pool(2); }  // a sanitizer may start a thread of its own with the first
  const long before = threads_of_process();
  for (int i = 0; i < 100; ++i) {
    Pool pool(1 + i % 4);
    if (i % 3 == 0) pool.run([](int) {});
  }
  report.check(threads_of_process() == before, "pools leave threads behind");
}

// A model of one layer, small enough to write down: embedding, attention, gated MLP, head.
class Model {
 public:
  static constexpr int kHidden = 64, kHeads = 2, kHeadDim = 32, kFfn = 96, kVocabulary = 100, kTokens = 70,
                       kPrompt = 8 * kTokens, kPages = kPrompt / kPage + 1;

  Model(Pool& pool, const Kernels& kernels)
      : random_(11), program_(pool, kernels, kTokens, Cache::bf16, {shape()}) {
    cache_.assign(run_bytes(Cache::bf16, shape()) * static_cast<size_t>((kPages + kRun - 1) / kRun), 0);
    program_.reserve(size_t{1} << 20);
    const int x = buffer(kHidden), qkv = buffer(4 * 32), attended = buffer(kHidden);
    const int act = activations(kHidden), hidden = activations(kFfn);
    std::vector<double> frequencies;
    for (int i = 0; i < kHeadDim / 2; ++i) frequencies.push_back(1.0 / (1 + i));
    table_ = program_.angles(take(2 * 4 * kTokens * frequencies.size()), frequencies, 1.0f);
    Instruction embed{Op::embed};
    embed.matrix = weights(kVocabulary, kHidden, Store::u8);
    embed.out = {x, 0};
    add(embed);
    Instruction turn{Op::angles};
    turn.joined = true;
    turn.table = table_;
    add(turn);
    prepare(Prep::norm, x, act);
    linear(64, act, qkv, 0, false, false);
    linear(64, act, qkv, 64, true, false);
    attention(qkv, attended);
    prepare(Prep::copy, attended, act);
    linear(kHidden, act, x, 0, false, true);
    prepare(Prep::norm, x, act);
    gated(act, hidden);
    linear(kHidden, hidden, x, 0, false, true);
    head(x, act);
  }

  // A prompt in chunks, then one token, which attends in two splits; the digest of all logits and their
  // summaries.
  uint64_t digest() {
    Table t{nullptr};
    for (int past = 0; past < kPrompt; past += kTokens) step(t, past, kTokens);
    step(t, kPrompt, 1);
    return t.digest;
  }

 private:
  static CacheShape shape() { return {1, kHeadDim, kHeadDim}; }

  size_t take(size_t bytes) {
    const size_t at = used_;
    used_ += (bytes + 63) / 64 * 64;
    return at;
  }
  int buffer(int width) { return program_.buffer(take(4 * kTokens * static_cast<size_t>(width)), width); }
  int activations(int k) {
    return program_.activations(take(activation_bytes(kTokens, k, Operand::int8)), k, Operand::int8);
  }

  Matrix weights(int n, int k, Store store) {
    Matrix m{nullptr, n, k, store, 32, true, false, store == Store::u8 ? 128 : 8};
    std::vector<uint8_t>& bytes = bytes_.emplace_back(panel_bytes(m) * static_cast<size_t>(panels(m)));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random_.bits());
    const float scale = 0.002f;
    for (size_t block = 0; block < bytes.size(); block += superblock_bytes(m))
      for (size_t lane = 0; lane < kLanes; ++lane) std::memcpy(bytes.data() + block + lane * 4, &scale, 4);
    m.data = bytes.data();
    return m;
  }

  void add(const Instruction& i) {
    const std::string fault = program_.fault(i);
    if (!fault.empty()) std::printf("FAILED %s\n", fault.c_str());
    else program_.add(i);
  }

  void gated(int act, int result) {
    Instruction i{Op::gated};
    i.matrix = weights(2 * kFfn, kHidden, Store::u4);
    i.act = act;
    i.result = result;
    add(i);
  }

  void prepare(Prep op, int in, int act) {
    Instruction i{Op::prepare};
    i.prep = op;
    i.x = {in, 0};
    i.act = act;
    i.weight = ones_.data();
    i.eps = 1e-5f;
    add(i);
  }

  void linear(int n, int act, int out, int offset, bool joined, bool accumulate) {
    Instruction i{Op::linear};
    i.matrix = weights(n, program_.inputs(act), Store::u4);
    i.act = act;
    i.out = {out, offset};
    i.joined = joined;
    i.accumulate = accumulate;
    add(i);
  }

  void attention(int qkv, int out) {
    Instruction append{Op::append};
    append.x = {qkv, 0};
    append.y = {qkv, 64};
    append.z = {qkv, 96};
    append.heads = kHeads;
    append.turn.table = append.k_turn.table = table_;
    append.turn.scale = 0.18f;
    add(append);
    Instruction attend{Op::attend};
    attend.x = {qkv, 0};
    attend.out = {out, 0};
    attend.heads = kHeads;
    add(attend);
  }

  void head(int x, int act) {
    Instruction norm{Op::prepare};
    norm.prep = Prep::norm;
    norm.x = {x, 0};
    norm.act = act;
    norm.weight = ones_.data();
    norm.eps = 1e-5f;
    norm.sampled = true;
    add(norm);
    Instruction out{Op::linear};
    out.matrix = weights(kVocabulary, kHidden, Store::u8);
    out.act = act;
    out.out = {program_.logits(112), 0};
    out.sampled = true;
    add(out);
    Instruction stats{Op::stats};
    stats.x = out.out;
    stats.sampled = true;
    program_.set_vocabulary(kVocabulary);
    add(stats);
  }

  void step(Table& t, int past, int count) {
    std::vector<int32_t> ids(static_cast<size_t>(count)), positions(ids), sampled{0, count - 1};
    for (int i = 0; i < count; ++i) {
      ids[static_cast<size_t>(i)] = (past + i) * 7 % kVocabulary;
      positions[static_cast<size_t>(i)] = past + i;
    }
    std::vector<int32_t> pages;
    for (int i = 0; i < kPages; ++i) pages.push_back((i * 5 + 2) % kPages);
    Step step{count,        2, ids.data(), positions.data(), sampled.data(), {{0, count, past, pages.data()}},
              cache_.data()};
    if (!program_.run(step)) return;
    t.feed(std::vector<float>(program_.logits_data(), program_.logits_data() + 2 * 112));
    for (int row = 0; row < 2; ++row)
      t.feed(std::vector<float>{program_.stats()[row].max, program_.stats()[row].sum});
  }

  Random random_;
  std::vector<std::vector<uint8_t>> bytes_;
  std::vector<uint8_t> cache_;
  size_t used_ = 0;
  int table_ = -1;
  std::vector<float> ones_ = std::vector<float>(kHidden, 1.0f);
  Program program_;
};

static void test_program(Report& report) {
  uint64_t want = 0;
  for (int threads : {1, 2, 3, 4, 8}) {
    Pool pool(threads);
    Model model(pool, *choose_kernels(nullptr));
    for (int run = 0; run < 3; ++run) {
      const uint64_t digest = model.digest();
      if (want == 0) want = digest;
      report.check(digest == want,
                   "a step on " + std::to_string(threads) + " threads, run " + std::to_string(run));
    }
  }
  Pool pool(2);
  report.check(Model(pool, kScalar).digest() == want, "a step of the scalar kernels");
}

}  // namespace sampan::test

int main() {
  sampan::test::Report report;
  for (int threads = 1; threads <= 4; ++threads) {
    sampan::test::test_barriers(report, threads, 200);
    sampan::test::test_sharing(report, threads);
  }
  sampan::test::test_barriers(report, 16, 20);
  sampan::test::test_endings(report);
  sampan::test::test_program(report);
  sampan::test::test_plan(report, 20260712);
  sampan::test::test_store(report, 20261126);
  sampan::test::test_mixture(report);
  std::printf("%d passed, %d failed\n", report.passed, report.failed);
  return report.failed == 0 ? 0 : 1;
}
