// `linear` and `embed`: every store, group, scale width, min, zero point and form of activations. The scalar
// kernel computes all rows and panels once; every batch of rows and range of panels of every kernel must give
// the same bits.

#include <algorithm>

#include "harness.h"

namespace sampan::test {

constexpr int kRows = 64;

// A packed matrix of random codes and finite scales; padding features hold numbers too.
struct Weights {
  Matrix m;
  std::vector<uint8_t> bytes;
};

static void put(std::vector<uint8_t>& to, size_t at, uint32_t bits, size_t size) {
  std::memcpy(to.data() + at, &bits, size);
}

// Finite, some zero, some denormal.
static uint32_t half_bits(Random& random) {
  const uint32_t sign = static_cast<uint32_t>(random.below(2)) << 15,
                 mantissa = static_cast<uint32_t>(random.below(1024));
  if (random.chance(20)) return random.chance(2) ? sign : sign | mantissa;
  return sign | static_cast<uint32_t>(random.between(5, 16)) << 10 | mantissa;
}

// Finite, some zero, denormal or so small that products are.
static uint32_t brain_bits(Random& random) {
  const uint32_t sign = static_cast<uint32_t>(random.below(2)) << 15;
  if (random.chance(20))
    return sign | static_cast<uint32_t>(random.below(80)) << 7 | static_cast<uint32_t>(random.below(128));
  if (random.chance(20)) return sign | static_cast<uint32_t>(random.below(128));
  return sign | static_cast<uint32_t>(random.between(115, 129)) << 7 |
         static_cast<uint32_t>(random.below(128));
}

static void fill_floats(Weights& w, Random& random) {
  const size_t size = w.m.store == Store::f32 ? 4 : 2;
  for (size_t at = 0; at < w.bytes.size(); at += size) {
    const uint32_t bits = w.m.store == Store::f32   ? bits_of(random.bell())
                          : w.m.store == Store::f16 ? half_bits(random)
                                                    : brain_bits(random);
    put(w.bytes, at, bits, size);
  }
}

// Codes of all values but NaN.
static void fill_e4m3(Weights& w, Random& random) {
  const size_t panel = panel_bytes(w.m), scales = e4m3_scale_bytes(w.m);
  for (size_t at = 0; at < w.bytes.size(); at += panel) {
    for (size_t i = 0; i < scales; i += 4) put(w.bytes, at + i, bits_of(random.bell() * 0.01f), 4);
    for (size_t i = scales; i < panel; ++i) {
      const uint8_t code = static_cast<uint8_t>(random.bits() >> 32);
      w.bytes[at + i] = (code & 0x7f) == 0x7f ? 0 : code;
    }
  }
}

static void fill_integers(Weights& w, Random& random) {
  for (uint8_t& b : w.bytes) b = static_cast<uint8_t>(random.bits() >> 32);
  const size_t scales = scale_bytes(w.m) * (w.m.has_min ? 2 : 1), size = w.m.wide ? 4 : 2;
  for (size_t block = 0; block < w.bytes.size(); block += superblock_bytes(w.m))
    for (size_t at = 0; at < scales; at += size)
      put(w.bytes, block + at, w.m.wide ? bits_of(random.bell() * 0.01f) : half_bits(random), size);
}

static Weights random_weights(Random& random, Matrix m) {
  Weights w{m, std::vector<uint8_t>(panel_bytes(m) * static_cast<size_t>(panels(m)))};
  if (is_integer(m)) fill_integers(w, random);
  else if (m.store == Store::e4m3) fill_e4m3(w, random);
  else fill_floats(w, random);
  w.m.data = w.bytes.data();
  return w;
}

static std::string describe(const Matrix& m, Form form) {
  static const char* const names[] = {"u4", "u6", "u8", "f16", "bf16", "f32", "e4m3"};
  return std::string(names[static_cast<int>(m.store)]) + " n" + std::to_string(m.n) + " k" +
         std::to_string(m.k) + " g" + std::to_string(m.group) + (m.wide ? " wide" : "") +
         (m.has_min ? " min" : "") + " zero" + std::to_string(m.zero) + " " + name_of(form);
}

// One matrix against kRows rows: what a case needs to compute any part of the product.
struct Case {
  const Weights& w;
  const Rows& rows;
  std::vector<float> initial, bias;
  ptrdiff_t stride;
  bool accumulate;
  int in_place;  // rows up to which weights are read in place

  std::vector<float> run(const Kernels& k, int first, int count, int begin, int end) const {
    std::vector<float> out = initial;
    std::vector<uint8_t> scratch(linear_scratch(w.m.k), 0xff);
    part(k, out, scratch, first, count, begin, end);
    return out;
  }
  void part(const Kernels& k, std::vector<float>& out, std::vector<uint8_t>& scratch, int first, int count,
            int begin, int end) const {
    const LinearArgs a{w.m,        rows.view,        out.data(), stride, bias.empty() ? nullptr : bias.data(),
                       accumulate, count <= in_place};
    k.linear(a, begin, end, first, first + count, scratch.data());
  }
  // `initial`, with the given rows and panels from `whole`.
  std::vector<float> expected(const std::vector<float>& whole, int first, int count, int begin,
                              int end) const {
    std::vector<float> out = initial;
    for (int row = first; row < first + count; ++row)
      for (ptrdiff_t i = row * stride + begin * kLanes; i < row * stride + end * kLanes; ++i)
        out[static_cast<size_t>(i)] = whole[static_cast<size_t>(i)];
    return out;
  }
};

// Batches of 1 to 20, 33 and 64 rows at any place, over any range of panels, in one call or several.
static void check_parts(const Case& c, const Kernels& k, const std::vector<float>& whole, Random random,
                        Report& report, const std::string& what) {
  const int all = panels(c.w.m);
  std::vector<uint8_t> scratch(linear_scratch(c.w.m.k), 0xff);
  for (int i = 1; i <= 22; ++i) {
    const int count = i == 21 ? 33 : i == 22 ? kRows : i, first = random.below(kRows - count + 1);
    const int begin = random.below(all), end = random.between(begin + 1, all),
              middle = random.between(begin, end);
    std::vector<float> out = c.initial;
    c.part(k, out, scratch, first, count, begin, middle);
    c.part(k, out, scratch, first, count, middle, end);
    report.same(c.expected(whole, first, count, begin, end), out, what + " rows " + std::to_string(count));
  }
}

static void check_product(const Weights& w, Form form, Random& random, Tables& tables, Report& report) {
  const int k = w.m.k, padded = panels(w.m) * kLanes;
  Rows rows(kRows, k, form);
  const std::vector<float> x = random.bells(static_cast<size_t>(kRows) * static_cast<size_t>(k));
  for (uint16_t& half : rows.halves) half = static_cast<uint16_t>(brain_bits(random));
  if (form == Form::floats) std::memcpy(rows.values.data(), x.data(), x.size() * 4);
  else if (form != Form::bf16)
    kScalar.prepare({Prep::copy, x.data(), k, 0, nullptr, 0.0f, nullptr, rows.view, nullptr, 0, nullptr}, 0,
                    kRows);
  const ptrdiff_t stride = padded + random.below(20);
  const Case c{w,
               rows,
               random.bells(static_cast<size_t>(kRows * stride)),
               random.chance(2) ? random.bells(static_cast<size_t>(padded)) : std::vector<float>(),
               stride,
               random.chance(2),
               random.below(kMaxRowsDirect + 1)};
  const std::vector<float> whole = c.run(kScalar, 0, kRows, 0, panels(w.m));
  for (Table& t : tables) {
    const std::string what = std::string("linear ") + t.kernels->name + " " + describe(w.m, form);
    const std::vector<float> out = c.run(*t.kernels, 0, kRows, 0, panels(w.m));
    t.feed(out);
    report.same(whole, out, what);
    if (t.kernels != &kScalar) check_parts(c, *t.kernels, whole, random, report, what);
  }
}

// Gates and ups in one matrix: the quantised rows that `linear`, then `prepare` with SwiGLU would give.
static void check_gated(Store store, int group, Form form, Random& random, Tables& tables, Report& report) {
  const int bits = store == Store::u4   ? 4
                   : store == Store::u6 ? 6
                                        : 8,
            block = group < kBlock ? kBlock : group;
  const bool has_min = store <= Store::u8 && random.chance(2),
             wide = store == Store::e4m3 && random.chance(2);
  const int blocks = random.between(1, 12), outputs = blocks * kBlock, k = block * random.between(1, 3);
  const Weights w = random_weights(
      random, {nullptr, 2 * outputs, k, store, group, wide, has_min, has_min ? 0 : 1 << (bits - 1)});
  Rows rows(kRows, k, form), want(kRows, outputs, form);
  const std::vector<float> x = random.bells(static_cast<size_t>(kRows) * static_cast<size_t>(k));
  kScalar.prepare({Prep::copy, x.data(), k, 0, nullptr, 0.0f, nullptr, rows.view, nullptr, 0, nullptr}, 0,
                  kRows);
  std::vector<float> product(static_cast<size_t>(kRows * 2 * outputs));
  std::vector<uint8_t> scratch(linear_scratch(k), 0xff);
  kScalar.linear({w.m, rows.view, product.data(), 2 * outputs, nullptr, false, false}, 0, panels(w.m), 0,
                 kRows, scratch.data());
  kScalar.prepare({Prep::swiglu, product.data(), 2 * outputs, outputs, nullptr, 0.0f, nullptr, want.view,
                   nullptr, 0, nullptr},
                  0, kRows);
  const Random begin = random;
  for (Table& t : tables) {
    random = begin;  // the same cuts for every set, however many there are
    const std::string what = std::string("gated ") + t.kernels->name + " " + describe(w.m, form);
    Rows got(kRows, outputs, form);
    GatedArgs args{w.m, rows.view, got.view, outputs / kLanes, false};
    const int middle = random.between(0, blocks);
    for (int row = 0, count; row < kRows;
         row += count) {  // few rows are read in place, many from unpacked panels
      count = std::min(kRows - row, random.between(1, 24));
      args.in_place = count <= kMaxRowsDirect && random.chance(2);
      t.kernels->gated(args, 0, middle, row, row + count, scratch.data());
      t.kernels->gated(args, middle, blocks, row, row + count, scratch.data());
    }
    t.feed_blocks(got.blocks), t.feed(got.low), t.feed(got.halves);
    report.same(want.halves, got.halves, what + " bf16");
    report.same(want.blocks, got.blocks, what + " blocks");
    report.same(want.low, got.low, what + " low");
  }
}

static void check_embed(const Weights& w, Random& random, Tables& tables, Report& report) {
  const int width = random.chance(2) ? w.m.k : w.m.k - random.below(kBlock);
  constexpr int kIds = 9;
  std::vector<int32_t> ids(kIds);
  for (int32_t& id : ids) id = random.below(w.m.n);
  const ptrdiff_t stride = w.m.k + random.below(5);
  const int split = random.between(1, kIds);
  std::vector<float> want;
  for (Table& t : tables) {
    std::vector<float> out(static_cast<size_t>(kIds * stride), 5.0f);
    t.kernels->embed({w.m, ids.data(), out.data(), stride, width}, 1, split);  // row 0 stays as it was
    t.kernels->embed({w.m, ids.data(), out.data(), stride, width}, split, kIds);
    if (want.empty()) want = out;
    t.feed(out);
    report.same(want, out, std::string("embed ") + t.kernels->name + " " + describe(w.m, Form::floats));
  }
}

static void integers(Tables& tables, Report& report, Random& random, Store store, int group) {
  const int bits = store == Store::u4   ? 4
                   : store == Store::u6 ? 6
                                        : 8,
            block = group < kBlock ? kBlock : group;
  for (int shape = 0; shape < 8; ++shape) {
    const bool wide = shape & 1, has_min = shape & 2;  // a minimum takes the zero point's place
    const int zero = !has_min && shape & 4 ? 1 << (bits - 1) : 0;
    for (Form form : {Form::coarse, Form::fine, Form::mixed}) {
      const int n = random.between(1, 7 * kLanes), k = block * random.between(1, group > 64 ? 2 : 5);
      const Weights w = random_weights(random, {nullptr, n, k, store, group, wide, has_min, zero});
      check_product(w, form, random, tables, report);
      check_embed(w, random, tables, report);
    }
  }
}

void test_linear(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  for (Store store : {Store::u4, Store::u6, Store::u8})
    for (int group : {16, 32, 64, 128}) {
      integers(tables, report, random, store, group);
      for (Form form : {Form::coarse, Form::fine, Form::mixed})
        check_gated(store, group, form, random, tables, report);
    }
  for (int group : {32, 128, 4})
    for (bool wide : {false, true}) {
      const Matrix m{
          nullptr, random.between(1, 7 * kLanes), 4 * random.between(1, 100), Store::e4m3, group, wide, false,
          0};
      const Weights w = random_weights(random, m);
      check_product(w, Form::bf16, random, tables, report);
      check_embed(w, random, tables, report);
      check_gated(Store::e4m3, 128, Form::bf16, random, tables, report);
    }
  for (int i = 0; i < 5; ++i) check_gated(Store::bf16, kBlock, Form::bf16, random, tables, report);
  for (Store store : {Store::f16, Store::bf16, Store::f32}) {
    const bool pairs = store == Store::bf16;
    for (int k : {1, 7, 32, 96, 131}) {
      const Weights w = random_weights(
          random, {nullptr, random.between(1, 7 * kLanes), pairs ? 2 * k : k, store, 0, false, false, 0});
      check_product(w, pairs ? Form::bf16 : Form::floats, random, tables, report);
      check_embed(w, random, tables, report);
    }
  }
}

}  // namespace sampan::test
