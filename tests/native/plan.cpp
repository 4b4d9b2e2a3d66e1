// A step's attention as its plan hands it out: sequences with common first pages or none, of a token or more,
// short and long, on any number of threads: always the bits of the scalar kernel, row by row.

#include <algorithm>
#include <cmath>

#include "attention_plan.h"
#include "harness.h"
#include "pool.h"

namespace sampan::test {

// Sequences over one cache of random pages. A family of them begins with the same pages.
struct Batch {
  int group, kv_heads, head_dim, rows = 0, pages = 0;
  std::vector<std::vector<int32_t>> tables;
  std::vector<Span> spans;
  std::vector<float> q;
  std::vector<uint16_t> memory;

  Batch(int group_, int kv_heads_, int head_dim_) : group(group_), kv_heads(kv_heads_), head_dim(head_dim_) {
    tables.reserve(256);  // spans point into them
  }
  void family(Random& random, int members, int shared, int own, int most_tokens) {
    const int first = pages;
    pages += shared;
    for (int m = 0; m < members; ++m) {
      const int count = random.between(1, most_tokens), past = shared * kPage + random.below(own * kPage);
      std::vector<int32_t> table;
      for (int i = 0; i < shared; ++i) table.push_back(first + i);
      while (static_cast<int>(table.size()) * kPage < past + count) table.push_back(pages++);
      tables.push_back(table);
      spans.push_back({rows, count, past, tables.back().data()});
      rows += count;
    }
  }
  void fill(Random& random) {
    q = random.bells(static_cast<size_t>(rows * width()));
    memory.resize(run_bytes(Cache::bf16, shape()) * static_cast<size_t>((pages + kRun - 1) / kRun) / 2);
    for (uint16_t& x : memory)
      x = static_cast<uint16_t>(random.below(2) << 15 | random.between(120, 127) << 7 | random.below(128));
  }
  int width() const { return group * kv_heads * head_dim; }
  CacheShape shape() const { return {kv_heads, head_dim, head_dim}; }
  CacheView view() const {
    return {reinterpret_cast<uint8_t*>(const_cast<uint16_t*>(memory.data())), Cache::bf16, shape(),
            static_cast<ptrdiff_t>(run_bytes(Cache::bf16, shape()))};
  }
  AttendArgs args(std::vector<float>& out) const {
    return {q.data(), width(), out.data(), width(), group * kv_heads, view()};
  }
  std::vector<float> blank() const { return std::vector<float>(static_cast<size_t>(rows * width()), 3.0f); }

  std::vector<float> alone() const {
    std::vector<float> out = blank(), scratch(attend_scratch(shape()));
    for (const Span& span : spans)
      for (int row = 0; row < span.count; ++row)
        for (int head = 0; head < kv_heads; ++head) {
          const Queries queries{span, row, 1, head};
          kScalar.attend(args(out), &queries, 1, 0, scratch.data());
        }
    return out;
  }
};

static void check(const Batch& batch, const Kernels& kernels, int threads, Report& report,
                  const std::string& what) {
  const std::vector<float> want = batch.alone();
  AttentionPlan plan;
  plan.build(batch.spans, batch.shape(), batch.group, threads);
  Pool pool(threads);
  std::vector<std::vector<float>> scratch(static_cast<size_t>(threads),
                                          std::vector<float>(attend_scratch(batch.shape()), NAN));
  for (int layer = 0; layer < 2; ++layer) {
    std::vector<float> out = batch.blank();
    std::atomic<int> next{0};
    pool.run([&](int thread) {
      int begin, end;
      while (take(next, plan.items(), 1, begin, end))
        plan.run(kernels, batch.args(out), begin, scratch[static_cast<size_t>(thread)].data());
    });
    report.same(want, out,
                what + " on " + std::to_string(threads) + " threads, layer " + std::to_string(layer));
  }
}

// Many sequences behind one prompt are fewer items than sequences, and the pages of the prompt are read
// together.
static void check_sharing(Random& random, Report& report) {
  Batch batch(3, 3, 64);
  batch.family(random, 64, 8, 2, 1);
  batch.fill(random);
  AttentionPlan plan;
  plan.build(batch.spans, batch.shape(), batch.group, 2);
  report.check(plan.items() > 0 && plan.items() <= 64,
               "64 sequences that share pages are " + std::to_string(plan.items()) + " items");
  check(batch, *choose_kernels(nullptr), 2, report, "64 sequences that share pages");
}

void test_plan(Report& report, uint64_t seed) {
  Random random(seed);
  check_sharing(random, report);
  for (int i = 0; i < 12; ++i) {
    Batch batch(random.between(1, 5), random.between(1, 3), 32 * random.between(1, 3));
    const bool longer = i % 3 == 0;
    for (int families = random.between(1, 4); families > 0; --families)
      batch.family(random, random.between(1, longer ? 3 : 20), random.below(6), longer ? 40 : 4,
                   random.chance(2) ? 1 : 30);
    batch.fill(random);
    const std::string what =
        "a batch of " + std::to_string(batch.spans.size()) + ", case " + std::to_string(i);
    check(batch, *choose_kernels(nullptr), random.between(1, 4), report, what);
  }
}

}  // namespace sampan::test
