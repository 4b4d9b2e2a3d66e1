// What kernels that make float rows of float rows are given: norms, maps, and what carries a state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sampan {

constexpr int kConvolved = 512;  // channels of a convolution that one item computes
constexpr int kMostTaps = 16;    // of a convolution
constexpr int kMostKeys = 256;   // features of a key of the delta rule
constexpr int kDeltaRows = 8;    // rows that go over a part of a state while it is near
constexpr int kDeltaTile = 4;    // vectors of values in such a part, while so many are left

// RMSNorm over runs of `size` features, as floats.
struct NormArgs {
  const float* in;  // [rows][in_stride]
  float* out;       // [rows][out_stride]
  ptrdiff_t in_stride, out_stride;
  int32_t size, runs;
  const float* weight;  // [size]
  float eps;
  int32_t* unsound;  // as PrepArgs has them
  int32_t mark;
  const int32_t* step_rows;
};

enum class Map : int32_t { copy = 0, scale = 1, add = 2, gate = 3, swiglu = 4, heads = 5 };

// Feature by feature. copy: x; scale: x * factor; add: x + y; gate: x * sigmoid(y); swiglu: silu(x) * y.
// heads: heads of `size` features become heads of `width`: `kept` features of each, then zeros up to `fill`.
struct MapArgs {
  Map map;
  const float* x;  // [rows][x_stride]
  const float* y;  // [rows][y_stride], or null
  float* out;      // [rows][out_stride]; may be x or y
  ptrdiff_t x_stride, y_stride, out_stride;
  int32_t width;
  float factor;
  bool single;          // y has one feature, for all of x's
  const int32_t* rows;  // row i reads x[rows[i]], or null
  int32_t heads = 0, size = 0, kept = 0, fill = 0;
};

// One span's rows through a causal convolution of each channel, then SiLU; what its last rows leave.
struct ConvolveArgs {
  const float* x;  // [rows][x_stride]
  float* out;      // [rows][out_stride]; may be x
  ptrdiff_t x_stride, out_stride;
  int32_t rows, channels, taps;
  const float* weight;  // [taps][channels]
  const float* from;    // [taps - 1][channels], or null: zeros
  float* to;            // may be `from`
};

// One span's rows through the gated delta rule.
struct DeltaArgs {
  const float* x;  // [rows][x_stride]: q and k of the key heads, v of the heads
  const float *b, *a;
  float* out;  // [rows][out_stride]
  ptrdiff_t x_stride, b_stride, a_stride, out_stride;
  int32_t rows, heads, key_heads, key_size, value_size;
  const float *decay, *bias;  // [heads]
  const float* from;          // as below, or null: zeros
  float* to;  // [heads][tile][key_size][values of a tile], kDeltaTile vectors or one; may be `from`
};

}  // namespace sampan
