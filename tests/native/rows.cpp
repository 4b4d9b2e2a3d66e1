// `prepare` and `stats`: rows of every kind (zeros, huge, denormal, infinite, NaN) in every form.

#include <cmath>

#include "harness.h"

namespace sampan::test {

constexpr float kInf = INFINITY, kNan = NAN;

// Kinds of rows; from `infinite` on the row holds a value that is not finite.
enum Kind {
  plain,
  mixed,
  small,
  zeros,
  negative_zeros,
  huge,
  tiny,
  denormal,
  infinite,
  negative_infinite,
  not_a_number,
  kKinds
};

static float value_of(Kind kind, Random& random) {
  const float x = random.bell();
  switch (kind) {
    case mixed: return x * float_of(static_cast<uint32_t>(random.between(80, 170)) << 23);
    case small: return x * 1e-6f;
    case zeros: return 0.0f;
    case negative_zeros: return -0.0f;
    case huge: return x * 1e38f;
    case tiny: return x * 1e-37f;
    case denormal: return x * 1e-40f;
    default: return x;
  }
}

// Row i is of kind i, over the whole stride.
static std::vector<float> rows_of_every_kind(ptrdiff_t stride, int k, ptrdiff_t up, Random& random) {
  std::vector<float> x(static_cast<size_t>(kKinds * stride));
  for (int kind = 0; kind < kKinds; ++kind) {
    float* row = x.data() + kind * stride;
    for (ptrdiff_t i = 0; i < stride; ++i) row[i] = value_of(static_cast<Kind>(kind), random);
    if (kind < infinite) continue;
    row[random.below(k) + (random.chance(2) ? up : 0)] = kind == infinite            ? kInf
                                                         : kind == negative_infinite ? -kInf
                                                                                     : kNan;
  }
  return x;
}

static const char* name_of(Prep op) {
  return op == Prep::copy ? "copy" : op == Prep::norm ? "norm" : "swiglu";
}

static void compare(Table& t, const Rows& want, const Rows& got, Report& report, const std::string& what) {
  t.feed(got.values), t.feed(got.halves), t.feed_blocks(got.blocks), t.feed(got.low);
  report.same(want.values, got.values, what + " values");
  report.same(want.halves, got.halves, what + " bf16");
  report.same(want.blocks, got.blocks, what + " blocks");
  report.same(want.low, got.low, what + " low");
  report.same(want.unsound, got.unsound, what + " unsound");
}

// A row with an infinity or a NaN must not look finite to whoever reads it.
static bool shows_it(const Rows& rows, int row) {
  const int k = rows.view.k;
  float sum = 0.0f;
  for (int i = 0; rows.view.values && i < k; ++i) sum += rows.values[static_cast<size_t>(row * k + i)] * 0.0f;
  for (int i = 0; rows.view.bf16 && i < k; ++i)
    sum += float_of(static_cast<uint32_t>(rows.halves[static_cast<size_t>(row * k + i)]) << 16) * 0.0f;
  for (int i = 0; rows.view.blocks && i < k; i += kBlock)
    sum += rows.view.blocks[block_index(rows.view, row, i)].scale[row % kQuad] * 0.0f;
  return sum != 0.0f;
}

// The product of that row is not finite either: one feature of u8 or bf16 weights, all of them 1.
static bool product_shows_it(const Kernels& k, const Rows& rows, int row) {
  if (rows.view.values) return true;
  Matrix m{nullptr, 1, rows.view.k, rows.view.bf16 ? Store::bf16 : Store::u8, 32, true, false, 128};
  std::vector<uint8_t> bytes(panel_bytes(m), 129), scratch(linear_scratch(m.k));
  const float one = 1.0f;
  const uint16_t half = 0x3f80;  // 1 in bf16
  for (size_t at = 0; rows.view.bf16 && at < bytes.size(); at += 2) std::memcpy(bytes.data() + at, &half, 2);
  for (size_t block = 0; rows.view.blocks && block < bytes.size(); block += superblock_bytes(m))
    for (size_t lane = 0; lane < kLanes; ++lane) std::memcpy(bytes.data() + block + lane * 4, &one, 4);
  m.data = bytes.data();
  std::vector<float> out(static_cast<size_t>(row + 1) * kLanes);
  k.linear({m, rows.view, out.data(), kLanes, nullptr, false, row % 2 == 0}, 0, 1, row, row + 1,
           scratch.data());
  return !std::isfinite(out[static_cast<size_t>(row) * kLanes]);
}

// Behind `width` features rows are zero, whatever lies there in the source.
static bool zeros_behind(const Rows& rows, int width) {
  const int k = rows.view.k;
  bool zero = true;
  for (int row = 0; row < kKinds; ++row)
    for (int i = width; i < k; ++i) {
      const size_t at = static_cast<size_t>(row * k + i);
      if (rows.view.values) zero = zero && rows.values[at] == 0.0f;
      if (rows.view.bf16) zero = zero && rows.halves[at] == 0;
      if (rows.view.blocks)
        zero =
            zero &&
            rows.view.blocks[block_index(rows.view, row, i)].codes[i % kBlock / 4][row % kQuad][i % 4] == 0;
    }
  return zero;
}

static void check_prepare(Prep op, Form form, int k, Random& random, Tables& tables, Report& report) {
  const int width = random.chance(2) ? k : k - random.below(kBlock);
  const ptrdiff_t up = op == Prep::swiglu ? k + 16 * random.below(3) : 0, stride = k + up + random.below(7);
  const std::vector<float> x = rows_of_every_kind(stride, width, up, random),
                           weight = random.bells(static_cast<size_t>(width));
  std::vector<int32_t> order(kKinds);
  for (int i = 0; i < kKinds; ++i) order[static_cast<size_t>(i)] = (i * 3 + 1) % kKinds;
  const bool gathered = random.chance(2);
  const int capacity = kKinds + random.below(3), split = random.below(kKinds);
  const auto run = [&](const Kernels& kernels, Rows& rows, int first, int second) {
    const PrepArgs a{op,
                     x.data(),
                     stride,
                     up,
                     weight.data(),
                     1e-5f,
                     gathered ? order.data() : nullptr,
                     rows.view,
                     rows.unsound.data(),
                     5,
                     nullptr,
                     width};
    kernels.prepare(a, 0, first);
    kernels.prepare(a, second, kKinds);
  };
  Rows want(capacity, k, form);
  run(kScalar, want, kKinds, kKinds);
  for (Table& t : tables) {
    const std::string what = std::string("prepare ") + name_of(op) + " " + t.kernels->name + " k" +
                             std::to_string(k) + " of " + std::to_string(width) + " " + name_of(form);
    Rows got(capacity, k, form);
    run(*t.kernels, got, split, split);
    compare(t, want, got, report, what);
    report.check(zeros_behind(got, width), what + " is not zero behind the features");
    for (int row = 0; row < kKinds; ++row) {
      const int kind = gathered ? order[static_cast<size_t>(row)] : row;
      if (kind < infinite) continue;
      report.check(op != Prep::norm || got.unsound[static_cast<size_t>(row)] == 5,
                   what + " does not mark the kind " + std::to_string(kind));
      report.check(shows_it(got, row), what + " hides the kind " + std::to_string(kind));
      report.check(product_shows_it(*t.kernels, got, row),
                   what + " product hides the kind " + std::to_string(kind));
    }
  }
}

void test_prepare(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  for (Prep op : {Prep::copy, Prep::norm, Prep::swiglu})
    for (Form form : {Form::floats, Form::bf16, Form::coarse, Form::fine, Form::mixed})
      for (int k : {32, 64, 96, 160, 576}) check_prepare(op, form, k, random, tables, report);
}

static Stats summary(const Kernels& k, const std::vector<float>& x, int begin, int end) {
  Stats s{-1.0f, -1.0f, -1, -1};
  k.stats(x.data(), begin, end, &s);
  return s;
}

// The first of the largest, and whether every logit is finite: exact whatever the order.
static void check_meaning(const Stats& s, const std::vector<float>& x, int begin, int end, Report& report,
                          const std::string& what) {
  int best = begin;
  bool finite = true;
  for (int i = begin; i < end; ++i) {
    finite = finite && std::isfinite(x[static_cast<size_t>(i)]);
    if (x[static_cast<size_t>(i)] > x[static_cast<size_t>(best)]) best = i;
  }
  report.check(s.finite == finite, what + ": finite is wrong");
  if (!finite) return;
  report.check(s.argmax == best && s.max == x[static_cast<size_t>(best)], what + ": argmax or max is wrong");
  report.check(s.sum >= 1.0f && s.sum <= static_cast<float>(end - begin) * 1.0001f,
               what + ": sum is impossible");
}

static void check_stats(const std::vector<float>& x, int begin, Tables& tables, Report& report,
                        const std::string& kind) {
  const int end = static_cast<int>(x.size());
  const Stats want = summary(kScalar, x, begin, end);
  for (Table& t : tables) {
    const std::string what =
        std::string("stats ") + t.kernels->name + " " + kind + " " + std::to_string(end - begin);
    const Stats got = summary(*t.kernels, x, begin, end);
    t.feed(std::vector<float>{got.max, got.sum});
    t.feed(std::vector<int32_t>{got.argmax, got.finite});
    report.same(std::vector<float>{want.max, want.sum}, std::vector<float>{got.max, got.sum}, what);
    report.check(want.argmax == got.argmax && want.finite == got.finite, what + ": argmax or finite differ");
    check_meaning(got, x, begin, end, report, what);
  }
}

void test_stats(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  for (int n : {1, 2, 15, 16, 17, 31, 32, 100, 1000, 4095, 4096}) {
    const int begin = random.below(40);
    const size_t last = static_cast<size_t>(begin + n - 1),
                 any = static_cast<size_t>(begin + random.below(n));
    std::vector<float> x = random.bells(static_cast<size_t>(begin + n), 12.0f);
    check_stats(x, begin, tables, report, "random");
    for (float& v : x) v = static_cast<float>(random.between(-3, 3));
    check_stats(x, begin, tables, report, "ties");
    for (float& v : x) v = random.chance(2) ? 0.0f : -0.0f;
    check_stats(x, begin, tables, report, "zeros");
    for (float special : {-kInf, kInf, kNan}) {
      x = random.bells(static_cast<size_t>(begin + n), 100.0f);
      x[any] = special;
      check_stats(x, begin, tables, report, "one " + std::to_string(special));
      x[last] = special;
      check_stats(x, begin, tables, report, "last " + std::to_string(special));
      x.assign(x.size(), special);
      check_stats(x, begin, tables, report, "all " + std::to_string(special));
    }
  }
}

}  // namespace sampan::test
