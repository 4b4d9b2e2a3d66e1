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
      : random_(11), program_(pool, kernels, kTokens, cache(), angles()) {
    cache_.assign(cache_bytes(cache(), kPages), 0);
    const int x = program_.buffer(kHidden), qkv = program_.buffer(4 * 32),
              attended = program_.buffer(kHidden);
    const int act = program_.activations(kHidden, Operand::int8),
              hidden = program_.activations(kFfn, Operand::int8);
    Instruction embed{Op::embed};
    embed.matrix = weights(kVocabulary, kHidden, Store::u8);
    embed.out = x;
    add(embed);
    Instruction turn{Op::angles};
    turn.joined = true;
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
  static CacheView cache() { return {nullptr, Cache::bf16, 1, 1, kHeadDim}; }
  static Angles angles() {
    Angles a;
    for (int i = 0; i < kHeadDim / 2; ++i) a.inverse_frequency.push_back(1.0 / (1 + i));
    return a;
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
    const char* fault = program_.fault(i);
    if (fault) std::printf("FAILED %s\n", fault);
    else program_.add(i);
  }

  void gated(int act, int result) {
    Instruction i{Op::gated};
    i.matrix = weights(2 * kFfn, kHidden, Store::u4);
    i.act = act;
    i.result = result;
    i.up = kFfn / kLanes;
    add(i);
  }

  void prepare(Prep op, int in, int act) {
    Instruction i{Op::prepare};
    i.prep = op;
    i.in = in;
    i.act = act;
    i.weight = ones_.data();
    i.eps = 1e-5f;
    add(i);
  }

  void linear(int n, int act, int out, int offset, bool joined, bool accumulate) {
    Instruction i{Op::linear};
    i.matrix = weights(n, program_.inputs(act), Store::u4);
    i.act = act;
    i.out = out;
    i.out_offset = offset;
    i.joined = joined;
    i.accumulate = accumulate;
    add(i);
  }

  void attention(int qkv, int out) {
    Instruction rope{Op::rope};
    rope.in = qkv;
    rope.heads = kHeads;
    rope.k_offset = 64;
    rope.v_offset = 96;
    rope.q_scale = 0.18f;
    add(rope);
    Instruction attend{Op::attend};
    attend.in = qkv;
    attend.out = out;
    attend.heads = kHeads;
    add(attend);
  }

  void head(int x, int act) {
    Instruction norm{Op::prepare};
    norm.prep = Prep::norm;
    norm.in = x;
    norm.act = act;
    norm.weight = ones_.data();
    norm.eps = 1e-5f;
    norm.sampled = true;
    add(norm);
    Instruction out{Op::linear};
    out.matrix = weights(kVocabulary, kHidden, Store::u8);
    out.act = act;
    out.out = program_.logits(112);
    out.sampled = true;
    add(out);
    Instruction stats{Op::stats};
    stats.in = out.out;
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
  std::printf("%d passed, %d failed\n", report.passed, report.failed);
  return report.failed == 0 ? 0 : 1;
}
