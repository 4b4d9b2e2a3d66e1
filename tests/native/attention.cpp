// `rope` and `attend`: a sequence fed in chunks of any size, its rows handed out in items of any size, pages
// in any order, beside stale pages full of NaN: always the bits of the scalar kernel fed the whole sequence
// at once.

#include <algorithm>
#include <cmath>

#include "harness.h"

namespace sampan::test {

struct Shape {
  int head_dim, group, kv_heads, tokens;
  Cache type;
  bool norms;
  int attend_from;            // attention is computed for tokens from here on
  int value_size = 0;         // 0: the keys'
  int turned = 0, first = 0;  // features that are rotated, 0: all; from this one on
  bool interleaved = false;
  int value() const { return value_size ? value_size : head_dim; }
  int rotary() const { return turned ? turned : head_dim; }
};

static std::string describe(const Shape& s) {
  return "d" + std::to_string(s.head_dim) + " group" + std::to_string(s.group) + " kv" +
         std::to_string(s.kv_heads) + " tokens" + std::to_string(s.tokens) +
         (s.type == Cache::f32    ? " f32"
          : s.type == Cache::bf16 ? " bf16"
                                  : " int8") +
         (s.norms ? " norms" : "") + " v" + std::to_string(s.value()) + " turned" +
         std::to_string(s.rotary()) + "+" + std::to_string(s.first) + (s.interleaved ? " interleaved" : "");
}

// A sequence's projections, angles and page table. Two layers, of which the second is used.
struct Sequence {
  Shape shape;
  ptrdiff_t stride;  // of a row of q, k and v
  std::vector<float> qkv, cosines, sines, q_norm, k_norm;
  std::vector<int32_t> positions, pages, row_page;

  Sequence(const Shape& s, Random& random)
      : shape(s), stride((s.group + 1) * s.kv_heads * s.head_dim + s.kv_heads * s.value() + random.below(3)) {
    const size_t tokens = static_cast<size_t>(s.tokens);
    qkv = random.bells(tokens * static_cast<size_t>(stride));
    for (size_t i = 0; i < tokens * static_cast<size_t>(s.rotary() / 2); ++i) {
      const float t = random.uniform(),
                  scale = 1.0f / (1.0f + t * t);  // a point of the unit circle, without libm
      cosines.push_back((1.0f - t * t) * scale);
      sines.push_back(2.0f * t * scale);
    }
    if (s.norms) {
      q_norm = random.bells(static_cast<size_t>(s.head_dim));
      k_norm = random.bells(static_cast<size_t>(s.head_dim));
    }
    for (int i = 0; i < page_count(); ++i) pages.push_back(i);
    for (size_t i = pages.size(); i > 1; --i)
      std::swap(pages[i - 1], pages[static_cast<size_t>(random.below(static_cast<int>(i)))]);
    pages.resize(static_cast<size_t>((s.tokens + kPage - 1) / kPage));  // the rest of the cache is another's
    for (int i = 0; i < s.tokens; ++i) {
      positions.push_back(i);
      row_page.push_back(pages[static_cast<size_t>(i / kPage)]);
    }
  }
  int page_count() const { return (shape.tokens + kPage - 1) / kPage + 2; }
  int heads() const { return shape.group * shape.kv_heads; }
  ptrdiff_t q_width() const { return static_cast<ptrdiff_t>(heads()) * shape.head_dim; }
  ptrdiff_t out_width() const { return static_cast<ptrdiff_t>(heads()) * shape.value(); }
  CacheShape cache() const { return {shape.kv_heads, shape.head_dim, shape.value()}; }
};

// What one run leaves: rotated projections, the cache (as raw elements) and the attended rows.
struct Result {
  std::vector<float> qkv, out;
  std::vector<int32_t> cache;
};

class Run {
 public:
  Run(const Sequence& s, const Kernels& k) : s_(s), k_(k) {
    const size_t layer = run_bytes(s.shape.type, s.cache());  // the second of two is used
    const size_t bytes = 2 * layer * static_cast<size_t>((s.page_count() + kRun - 1) / kRun);
    result_.qkv = s.qkv;
    result_.out.assign(static_cast<size_t>(s.shape.tokens * s.out_width()), 3.0f);
    result_.cache.assign(bytes / 4,
                         s.shape.type == Cache::bf16 ? 0x7fc07fc0 : 0x7fc00000);  // NaN, where it is a float
    scratch_.assign(attend_scratch(s.cache()), NAN);
    cache_ = {reinterpret_cast<uint8_t*>(result_.cache.data()) + layer, s.shape.type, s.cache(),
              static_cast<ptrdiff_t>(2 * layer)};
  }
  const Result& result() const { return result_; }

  enum class Way { whole, splits, together };
  // Appends tokens [first, first + count), then attends them in items of at most `most` tokens: over the
  // whole cache, split by split, or as if each were a sequence of its own that shares its first pages with
  // the others.
  void chunk(int first, int count, int most, Way way = Way::whole) {
    const Shape& shape = s_.shape;
    const ptrdiff_t half = static_cast<ptrdiff_t>(first) * (shape.rotary() / 2);
    float* qkv = result_.qkv.data() + first * s_.stride;
    const Turn k_turn{shape.norms ? s_.k_norm.data() : nullptr,
                      1e-6f,
                      s_.cosines.data() + half,
                      s_.sines.data() + half,
                      shape.first,
                      shape.rotary(),
                      shape.interleaved,
                      1.0f};
    Turn q_turn = k_turn;
    q_turn.norm = shape.norms ? s_.q_norm.data() : nullptr;
    q_turn.scale = 0.125f;
    float* k = qkv + s_.q_width();
    k_.append({qkv, k, k + shape.kv_heads * shape.head_dim, s_.stride, s_.stride, s_.stride, s_.heads(),
               q_turn, k_turn, s_.positions.data() + first, s_.row_page.data() + first, cache_},
              0, count);
    const AttendArgs attend{result_.qkv.data(), s_.stride,  result_.out.data(),
                            s_.out_width(),     s_.heads(), cache_};
    const Span span{first, count, first, s_.pages.data()};
    for (int head = 0; head < shape.kv_heads; ++head)
      for (int row = std::max(0, shape.attend_from - first); row < count; row += most)
        if (way == Way::together) together(attend, span, row, std::min(most, count - row), head);
        else item(attend, {span, row, std::min(most, count - row), head}, way == Way::splits);
  }

 private:
  void together(const AttendArgs& a, const Span& span, int row, int count, int head) {
    std::vector<Queries> queries;
    for (int i = row; i < row + count; ++i)
      queries.push_back({{span.start + i, 1, span.past + i, span.pages}, 0, 1, head});
    k_.attend(a, queries.data(), count,
              (span.past + row) / (kPagesTogether * kPage) * (kPagesTogether * kPage), scratch_.data());
  }
  void item(const AttendArgs& a, const Queries& queries, bool splits) {
    const int length = queries.span.past + queries.row + queries.count;
    if (!splits) return k_.attend(a, &queries, 1, 0, scratch_.data());
    const int rows = queries.count * s_.shape.group, count = (length + kSplit - 1) / kSplit;
    const ptrdiff_t stride = rows * static_cast<ptrdiff_t>(part_floats(s_.shape.value()));
    std::vector<float> parts(static_cast<size_t>(count * stride), NAN);
    for (int split = count - 1; split >= 0; --split)
      k_.attend_split(a, queries, split * kSplit, std::min((split + 1) * kSplit, length),
                      parts.data() + split * stride, scratch_.data());
    k_.merge(a, queries, parts.data(), count, scratch_.data());
  }

  const Sequence& s_;
  const Kernels& k_;
  Result result_;
  std::vector<float> scratch_;
  CacheView cache_{};
};

static Result fed(const Sequence& s, const Kernels& k, int largest_chunk, Random random) {
  Run run(s, k);
  const int most = std::max(1, kAttendRows / s.shape.group);
  for (int first = 0, count; first < s.shape.tokens; first += count) {
    count = std::min(s.shape.tokens - first, largest_chunk == 1 ? 1 : random.between(1, largest_chunk));
    run.chunk(first, count, random.between(1, most), static_cast<Run::Way>(random.below(3)));
  }
  return run.result();
}

static void compare(const Result& want, const Result& got, Report& report, const std::string& what) {
  report.same(want.qkv, got.qkv, what + " rotated");
  report.same(want.cache, got.cache, what + " cache");
  report.same(want.out, got.out, what + " attended");
}

// Softmax in double precision over the scalar kernel's own rotated queries and an f32 cache's worth of keys.
static void check_meaning(const Sequence& s, const Result& result, Report& report, const std::string& what) {
  const int d = s.shape.head_dim, v = s.shape.value(), last = s.shape.tokens - 1;
  const float* q = result.qkv.data() + last * s.stride;
  std::vector<double> weights, out(static_cast<size_t>(v));
  double total = 0.0, worst = 0.0;
  for (int t = 0; t <= last; ++t) {
    const float* key = result.qkv.data() + t * s.stride + s.q_width();
    double dot = 0.0;
    for (int i = 0; i < d; ++i) dot += static_cast<double>(q[i]) * static_cast<double>(key[i]);
    weights.push_back(std::exp(dot));
    total += weights.back();
  }
  for (int t = 0; t <= last; ++t)
    for (int i = 0; i < v; ++i)
      out[static_cast<size_t>(i)] +=
          weights[static_cast<size_t>(t)] / total *
          static_cast<double>(
              result.qkv[static_cast<size_t>(t * s.stride + s.q_width() + s.shape.kv_heads * d + i)]);
  for (int i = 0; i < v; ++i)
    worst = std::max(
        worst, std::fabs(out[static_cast<size_t>(i)] -
                         static_cast<double>(result.out[static_cast<size_t>(last * s.out_width() + i)])));
  report.check(worst < 1e-4, what + ": off by " + std::to_string(worst));
}

static void check(const Shape& shape, Random& random, Tables& tables, Report& report) {
  const Sequence s(shape, random);
  const Result want = [&] {
    Run run(s, kScalar);
    run.chunk(0, shape.tokens, std::max(1, kAttendRows / shape.group));
    return run.result();
  }();
  if (shape.type == Cache::f32) check_meaning(s, want, report, "scalar " + describe(shape));
  for (Table& t : tables) {
    const std::string what = std::string("attention ") + t.kernels->name + " " + describe(shape);
    const bool scalar = t.kernels == &kScalar;
    for (int largest : {shape.tokens, 40, 1}) {
      if (scalar && largest == shape.tokens && shape.tokens > 200) continue;  // that is `want`
      const Result got = fed(s, *t.kernels, largest, random);
      compare(want, got, report, what + " in chunks of " + std::to_string(largest));
      if (largest == 40) t.feed(got.qkv), t.feed(got.cache), t.feed(got.out);
    }
  }
}

// A value that is not finite in a query, a key or a value reaches the attended row, even from another split.
static void check_not_finite(Cache type, float special, int feature, int token, Random& random,
                             Tables& tables, Report& report) {
  const Shape shape{32, 2, 1, 600, type, false, 599};
  Sequence s(shape, random);
  for (float& v : s.qkv) v *= 0.25f;  // so that nothing else overflows
  s.qkv[static_cast<size_t>(token * s.stride + feature)] = special;
  for (Table& t : tables) {
    Run run(s, *t.kernels);
    run.chunk(0, shape.tokens, 8);
    const float* out = run.result().out.data() + 599 * s.out_width();
    float sum = 0.0f;
    for (int i = 0; i < 32; ++i) sum += out[i] * 0.0f;
    report.check(sum != 0.0f, std::string("attention ") + t.kernels->name + " hides " +
                                  std::to_string(special) + " of token " + std::to_string(token) +
                                  " feature " + std::to_string(feature));
  }
}

void test_attention(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  constexpr Cache kTypes[] = {Cache::bf16, Cache::f32, Cache::int8};
  for (int head_dim : {32, 64, 96, 128})
    for (int group = 1; group <= 8; ++group)
      check({head_dim, group, random.between(1, 2), random.between(1, 100), kTypes[random.below(3)],
             random.chance(2), 0},
            random, tables, report);
  for (Cache type : kTypes) {
    check({96, 4, 2, 90, type, true, 0, 64, 64, 32, false}, random, tables, report);
    check({64, 3, 1, 70, type, false, 0, 128, 40, 8, true}, random, tables, report);
    check({192, 8, 1, 80, type, false, 0, 32, 64, 128, true}, random, tables, report);
    check({32, 3, 1, 560, type, false, 480}, random, tables, report);
    check({64, 1, 1, 1100, type, true, 1000}, random, tables, report);
    check({128, 4, 1, 1024, type, false, 1000}, random, tables, report);
    check({96, 2, 2, 513, type, true, 505}, random, tables, report);
  }
  for (Cache type : {Cache::bf16, Cache::int8}) {
    for (float special :
         {static_cast<float>(NAN), static_cast<float>(INFINITY), -static_cast<float>(INFINITY)}) {
      check_not_finite(type, special, 3, 599, random, tables, report);     // query
      check_not_finite(type, special, 96 + 3, 5, random, tables, report);  // value of the first split
      check_not_finite(type, special, 96 + 3, 590, random, tables, report);
    }
    for (float special :
         {static_cast<float>(NAN), float_of(0xffffffffu)}) {  // the second rounds to 0 if nothing cares
      check_not_finite(type, special, 64 + 3, 5, random, tables,
                       report);  // key; an infinite one may rightly get no weight
      check_not_finite(type, special, 64 + 3, 590, random, tables, report);
      check_not_finite(type, special, 96 + 3, 5, random, tables, report);
    }
  }
}

}  // namespace sampan::test
