// What a step is given, and what its rotations turn by.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace sampan {

// One step's inputs; spans cover the rows in order.
struct Step {
  int rows = 0, sampled = 0;
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* sampled_rows = nullptr;
  std::vector<Span> spans;
  uint8_t* cache = nullptr;
  std::vector<int32_t> slots{};  // of the spans: their adapters, -1 for none; empty: no span has one
  // Of the spans: the slots that their states are read from (-1: zeros) and left in.
  std::vector<int32_t> reads{}, writes{};
  float* states = nullptr;
  // Of the sampled rows: the token whose logit alone is wanted, or -1 for all of them; empty: all of every
  // row.
  std::vector<int32_t> targets{};
};

// What a short measurement chooses; results do not depend on it.
struct Tuning {
  int direct_rows = 8;  // up to which weights are read in place
  int row_block = 256;  // rows that share unpacked weights
};

// The numbers that rotations turn by: cosines and sines of the step's positions.
struct Angles {
  std::vector<double> inverse_frequency;  // [pairs]
  float scale = 1.0f;
  float* cos = nullptr;  // [max_rows][pairs]
  float* sin = nullptr;
};

}  // namespace sampan
