// GGUF's types: how a matrix keeps each exactly, and their blocks read.
#pragma once

#include "kernels.h"

namespace sampan {

// GGUF's type numbers.
enum class Source : int32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

// Store, group, scale width, mins and zero point that keep `source` exactly; false when it is unknown.
bool layout_of(Source source, Matrix& m);
size_t row_bytes(Source source, int k);
int block_inputs(Source source);  // inputs of one block: k is a multiple

// One block of 32 inputs of one row: codes and, per 16 or 32 inputs, scale and min as f16 bits or floats.
struct Block {
  uint8_t q[kBlock];
  uint16_t scale16, min16;
  float scale[2], min[2];
};

// Block `index` (of 32 inputs) of a row.
void read_block(Block& b, Source source, const uint8_t* row, int index);

}  // namespace sampan
