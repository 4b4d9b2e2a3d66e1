// What the native tests share: reproducible data without libm, buffers of exact size (so that
// AddressSanitizer sees every overrun), comparison by bits, and one digest of the results for each
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"

namespace sampan::test {

// SplitMix64 (Steele, Lea and Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool chance(int one_in) { return below(one_in) == 0; }
  float uniform() {
    return static_cast<float>(static_cast<int64_t>(bits() >> 40) - (1 << 23)) * 0x1p-23f;
  }  // [-1, 1)
  float bell() { return uniform() + uniform() + uniform(); }
  std::vector<float> bells(size_t n, float scale = 1.0f) {
    std::vector<float> x(n);
    for (float& v : x) v = bell() * scale;
    return x;
  }

 private:
  uint64_t state_;
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return x != x ? 0x7fc00000u : bits;  // processors differ in the sign and payload of a NaN
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// An instruction set under test and the digest (FNV-1a, by word) of all it computed.
struct Table {
  const Kernels* kernels;
  uint64_t digest = 0xcbf29ce484222325u;

  void word(uint64_t x) { digest = (digest ^ x) * 0x100000001b3u; }
  void feed(const std::vector<float>& x) {
    for (float v : x) word(bits_of(v));
  }
  void feed(const std::vector<int32_t>& x) {
    for (int32_t v : x) word(static_cast<uint32_t>(v));
  }
  void feed(const std::vector<int8_t>& x) {
    for (int8_t v : x) word(static_cast<uint8_t>(v));
  }
  void feed(const std::vector<uint16_t>& x) {
    for (uint16_t v : x) word(v);
  }
  void feed_blocks(const std::vector<int32_t>& x) {  // words of QuadBlocks: floats from `scale` to `sum`
    constexpr size_t size = sizeof(QuadBlock) / 4, begin = offsetof(QuadBlock, scale) / 4,
                     end = offsetof(QuadBlock, isum) / 4;
    for (size_t i = 0; i < x.size(); ++i) {
      const uint32_t bits = static_cast<uint32_t>(x[i]);
      word(i % size >= begin && i % size < end ? bits_of(float_of(bits)) : bits);
    }
  }
};

class Report {
 public:
  int passed = 0, failed = 0;

  bool check(bool holds, const std::string& what) {
    ++(holds ? passed : failed);
    if (!holds && failed <= 20) std::printf("FAILED %s\n", what.c_str());
    return holds;
  }
  bool same(const std::vector<float>& want, const std::vector<float>& got, const std::string& what) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (bits_of(want[i]) == bits_of(got[i])) continue;
      char text[96];
      std::snprintf(text, sizeof text, ": [%zu] is %a, not %a", i, static_cast<double>(got[i]),
                    static_cast<double>(want[i]));
      return check(false, what + text);
    }
    return check(want.size() == got.size(), what + ": sizes differ");
  }
  template <class T>
  bool same(const std::vector<T>& want, const std::vector<T>& got, const std::string& what) {
    for (size_t i = 0; i < want.size() && i < got.size(); ++i)
      if (want[i] != got[i])
        return check(false, what + ": [" + std::to_string(i) + "] is " + std::to_string(got[i]) + ", not " +
                                std::to_string(want[i]));
    return check(want.size() == got.size(), what + ": sizes differ");
  }
};

// tables[0] is scalar, the definition.
using Tables = std::vector<Table>;

void test_linear(Tables& tables, Report& report, uint64_t seed);
void test_prepare(Tables& tables, Report& report, uint64_t seed);
void test_stats(Tables& tables, Report& report, uint64_t seed);
void test_maps(Tables& tables, Report& report, uint64_t seed);
void test_states(Tables& tables, Report& report, uint64_t seed);
void test_attention(Tables& tables, Report& report, uint64_t seed);
void test_plan(Report& report, uint64_t seed);
void test_store(Report& report, uint64_t seed);
void test_mixture(Report& report);

// What activation rows hold: floats, bf16, or codes of 8 bits (coarse), 16 bits (fine) or either, row by row.
enum class Form { floats, bf16, coarse, fine, mixed };

inline const char* name_of(Form form) {
  static const char* const names[] = {"floats", "bf16", "coarse", "fine", "mixed"};
  return names[static_cast<int>(form)];
}

// Rows of activations that own their memory.
struct Rows {
  Activations view{};
  std::vector<uint8_t> fine;
  std::vector<float> values;
  std::vector<uint16_t> halves;  // bf16
  std::vector<int32_t> blocks;   // raw words of the quads' blocks
  std::vector<int8_t> low;
  std::vector<int32_t> unsound;

  Rows(int capacity, int k, Form form) {
    unsound.assign(static_cast<size_t>(capacity), -1);
    const size_t n = static_cast<size_t>(capacity) * static_cast<size_t>(k),
                 all = static_cast<size_t>(quads(capacity)) * static_cast<size_t>(k / kBlock);
    for (int i = 0; form != Form::fine && i < capacity; ++i)  // runs of one row, then of five
      fine.push_back(form == Form::mixed && (i < 20 ? i : i / 5) % 2 == 1);
    if (form == Form::floats) {
      values.assign(n, -7.0f);
    } else if (form == Form::bf16) {
      halves.assign(n, 0x4d4d);
    } else {
      blocks.assign(all * sizeof(QuadBlock) / 4, 0x4d4d4d4d);
      low.assign(all * kLowBytes, 77);
    }
    view = {k,
            capacity,
            form == Form::fine ? nullptr : fine.data(),
            form == Form::floats ? values.data() : nullptr,
            blocks.empty() ? nullptr : reinterpret_cast<QuadBlock*>(blocks.data()),
            low.data(),
            form == Form::bf16 ? halves.data() : nullptr};
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
};

}  // namespace sampan::test
