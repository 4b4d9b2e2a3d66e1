// Packs GGUF blocks, plain codes and float rows into panels (layout: kernels.h).
#pragma once

#include "source.h"

namespace sampan {

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
