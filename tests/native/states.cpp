// `convolve` and `delta`: any number of channels, taps and heads, in place or not, from a state or from
// nothing, cut anywhere: always the bits of the scalar kernels.

#include <algorithm>

#include "harness.h"

namespace sampan::test {

constexpr int kRows = 21;

static void test_convolve(Tables& tables, Report& report, Random& random) {
  for (int channels : {16, 48, 272})
    for (int taps : {2, 4, 7}) {
      const ptrdiff_t stride = channels + random.below(4);
      const std::vector<float> x = random.bells(static_cast<size_t>(kRows * stride), 2.0f),
                               weight = random.bells(static_cast<size_t>(channels * taps)),
                               before = random.bells(static_cast<size_t>(channels * (taps - 1)));
      const bool place = random.chance(2), fresh = random.chance(3);
      const int cut = random.below(kRows + 1);
      std::vector<float> want, left;
      for (Table& t : tables) {
        std::vector<float> out = place ? x : std::vector<float>(x.size(), 7.0f), state = before;
        for (int begin : {0, cut}) {
          const int count = begin == 0 ? cut : kRows - cut;
          const ptrdiff_t at = begin * stride;
          const ConvolveArgs args{(place ? out.data() : x.data()) + at,
                                  out.data() + at,
                                  stride,
                                  stride,
                                  count,
                                  channels,
                                  taps,
                                  weight.data(),
                                  fresh && begin == 0 ? nullptr : state.data(),
                                  state.data()};
          if (count == 0) continue;
          for (int c = 0; c < channels; c += kConvolved)
            t.kernels->convolve(args, c, std::min(c + kConvolved, channels));
        }
        t.feed(out);
        t.feed(state);
        if (want.empty()) want = out, left = state;
        const std::string what = std::string("convolve ") + t.kernels->name + " " + std::to_string(channels);
        report.same(want, out, what);
        report.same(left, state, what + " leaves its state");
      }
    }
}

static void test_delta(Tables& tables, Report& report, Random& random) {
  for (int key : {16, 48, 128})
    for (int value : {16, 64, 80}) {
      const int key_heads = random.between(1, 2), heads = key_heads * random.between(1, 3);
      const int keys = 2 * key_heads * key, values = heads * value;
      const ptrdiff_t stride = keys + values + random.below(3);
      const std::vector<float> x = random.bells(static_cast<size_t>(kRows * stride)),
                               b = random.bells(static_cast<size_t>(kRows * heads), 3.0f),
                               a = random.bells(static_cast<size_t>(kRows * heads), 20.0f),
                               decay = random.bells(static_cast<size_t>(heads)),
                               bias = random.bells(static_cast<size_t>(heads)),
                               before = random.bells(static_cast<size_t>(values * key));
      const bool fresh = random.chance(3);
      const int cut = random.between(1, kRows - 1);
      std::vector<float> want, left;
      for (Table& t : tables) {
        std::vector<float> out(static_cast<size_t>(kRows * values), 7.0f), state(before.size(), 5.0f);
        for (int begin : {0, cut}) {
          const float* from = begin ? state.data() : fresh ? nullptr : before.data();
          const DeltaArgs args{x.data() + begin * stride,
                               b.data() + begin * heads,
                               a.data() + begin * heads,
                               out.data() + begin * values,
                               stride,
                               heads,
                               heads,
                               values,
                               begin ? kRows - cut : cut,
                               heads,
                               key_heads,
                               key,
                               value,
                               decay.data(),
                               bias.data(),
                               from,
                               state.data()};
          t.kernels->delta(args, 0, heads);
        }
        t.feed(out);
        t.feed(state);
        if (want.empty()) want = out, left = state;
        const std::string what = std::string("delta ") + t.kernels->name + " " + std::to_string(key);
        report.same(want, out, what);
        report.same(left, state, what + " leaves its state");
      }
    }
}

void test_states(Tables& tables, Report& report, uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 6; ++round) {
    test_convolve(tables, report, random);
    test_delta(tables, report, random);
  }
}

}  // namespace sampan::test
