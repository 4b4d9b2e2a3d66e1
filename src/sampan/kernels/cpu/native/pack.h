// Packs GGUF blocks, plain codes and float rows into panels (layout: kernels.h).
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

// Panels [begin, end) of one part: `rows` output features starting at the feature panel `first`, read from
// `raw` ([rows][k] of `source`), row i taken from raw row order[i] when order is given.
struct PackArgs {
  const uint8_t* raw;
  Source source;
  int rows;
  const int32_t* order;
  int first;
};
void pack(const Matrix& m, uint8_t* data, const PackArgs& a, int begin, int end);

// The same from codes [rows][k] with scales and mins [rows][k / group], f16 or, where the matrix is wide,
// f32.
struct CodesArgs {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* mins;  // or null
  int rows, first;
};
void pack_codes(const Matrix& m, uint8_t* data, const CodesArgs& a, int begin, int end);

}  // namespace sampan
