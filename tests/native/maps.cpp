// `norm`, `map` and `rotate`: any width, also of parts of a vector, in place or not, gathered or not: always
// the bits of the scalar kernels.

#include "harness.h"

namespace sampan::test {

constexpr int kRows = 5;

static void test_map(Tables& tables, Report& report, Random& random) {
  for (Map map : {Map::copy, Map::scale, Map::add, Map::gate, Map::swiglu})
    for (int width : {1, 15, 16, 17, 64, 100}) {
      const ptrdiff_t stride = width + random.below(4);
      const std::vector<float> x = random.bells(static_cast<size_t>(kRows * stride), 3.0f),
                               y = random.bells(static_cast<size_t>(kRows * stride), 9.0f);
      const bool single = map == Map::gate && random.chance(2), place = random.chance(2);
      const std::vector<int32_t> rows{4, 1, 1, 0, 3};
      const int32_t* gathered = !place && random.chance(2) ? rows.data() : nullptr;
      std::vector<float> want;
      for (Table& t : tables) {
        std::vector<float> out = place ? x : std::vector<float>(x.size(), 7.0f);
        const MapArgs args{map,
                           place ? out.data() : x.data(),
                           map < Map::add ? nullptr : y.data(),
                           out.data(),
                           stride,
                           stride,
                           stride,
                           width,
                           0.37f,
                           single,
                           gathered};
        t.kernels->map(args, 0, kRows);
        t.feed(out);
        if (want.empty()) want = out;
        report.same(want, out,
                    std::string("map ") + t.kernels->name + " " + std::to_string(static_cast<int>(map)) +
                        " of " + std::to_string(width));
      }
    }
}

static void test_norms(Tables& tables, Report& report, Random& random) {
  for (int size : {2, 16, 20, 48, 64, 77, 112})
    for (int runs : {1, 3}) {
      const ptrdiff_t stride = size * runs + random.below(3);
      std::vector<float> x = random.bells(static_cast<size_t>(kRows * stride), 2.0f);
      x[static_cast<size_t>(2 * stride + size / 2)] = float_of(0x7f800000u);
      const std::vector<float> weight = random.bells(static_cast<size_t>(size));
      std::vector<float> want;
      for (Table& t : tables) {
        std::vector<float> out(x.size(), 7.0f);
        std::vector<int32_t> unsound(kRows, -1);
        const NormArgs args{x.data(),      out.data(), stride,         stride, size,   runs,
                            weight.data(), 1e-5f,      unsound.data(), 3,      nullptr};
        t.kernels->norm(args, 0, kRows);
        t.feed(out);
        if (want.empty()) want = out;
        const std::string what = std::string("norm ") + t.kernels->name + " " + std::to_string(size);
        report.same(want, out, what);
        report.same(std::vector<int32_t>{-1, -1, 3, -1, -1}, unsound, what + " tells the row");
      }
    }
}

// Heads longer, shorter and as long, with and without zeros behind what is kept.
static void test_heads(Tables& tables, Report& report, Random& random) {
  for (int size : {2, 20, 32, 100})
    for (int width : {2, 32, 128}) {
      const int heads = 3, kept = size < width ? size : width, fill = random.chance(2) ? width : kept;
      const ptrdiff_t in = size * heads + random.below(3), to = width * heads + random.below(3);
      const std::vector<float> x = random.bells(static_cast<size_t>(kRows * in));
      std::vector<float> want(static_cast<size_t>(kRows * to), 7.0f);
      for (int row = 0; row < kRows; ++row)
        for (int h = 0; h < heads; ++h)
          for (int i = 0; i < fill; ++i)
            want[static_cast<size_t>(row * to + h * width + i)] =
                i < kept ? x[static_cast<size_t>(row * in + h * size + i)] : 0.0f;
      for (Table& t : tables) {
        std::vector<float> out(want.size(), 7.0f);
        const MapArgs args{Map::heads, x.data(), nullptr, out.data(), in,   0,    to,  width,
                           1.0f,       false,    nullptr, heads,      size, kept, fill};
        t.kernels->map(args, 0, kRows);
        t.feed(out);
        report.same(want, out, std::string("heads ") + t.kernels->name + " " + std::to_string(size));
      }
    }
}

static void test_rotate(Tables& tables, Report& report, Random& random) {
  for (int size : {8, 32, 96})
    for (bool interleaved : {false, true}) {
      const int turned = size == 8 ? 6 : size / 2 + 10, first = size - turned, heads = 3;
      const ptrdiff_t stride = size * heads + 1;
      const std::vector<float> x = random.bells(static_cast<size_t>(kRows * stride)),
                               angles = random.bells(static_cast<size_t>(kRows * turned));
      std::vector<float> want;
      for (Table& t : tables) {
        std::vector<float> out = x;
        const Turn turn{nullptr, 0.0f,   angles.data(), angles.data() + kRows * turned / 2,
                        first,   turned, interleaved,   0.5f};
        t.kernels->rotate({out.data(), stride, heads, size, turn}, 0, kRows);
        t.feed(out);
        if (want.empty()) want = out;
        report.same(want, out, std::string("rotate ") + t.kernels->name + " " + std::to_string(size));
      }
    }
}

void test_maps(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 8; ++round) {
    test_map(tables, report, random);
    test_norms(tables, report, random);
    test_heads(tables, report, random);
    test_rotate(tables, report, random);
  }
}

}  // namespace sampan::test
