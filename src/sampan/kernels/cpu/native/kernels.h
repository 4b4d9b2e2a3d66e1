// Data layouts and the kernel table. Every instruction set fills one `Kernels`; `scalar` defines the results.
//
// Helpers here have internal linkage on purpose: a shared inline function compiled with AVX-512 flags
// could be the copy the linker keeps, and crash older machines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cache.h"
#include "e4m3.h"
#include "matrix.h"
#include "row_args.h"

namespace sampan {

constexpr int kQuad = 4;            // rows of activations that lie together
constexpr int kPagesTogether = 2;   // pages whose tokens' scores share one maximum
constexpr int kSplit = 512;         // tokens after which an attention partial is merged
constexpr int kStatsChunk = 4096;   // logits summarised by one partial
constexpr int kHeadRows = 64;       // rows whose logits of a chunk are summarised as they are computed
constexpr int kMaxRowsDirect = 16;  // rows for which packed weights may be read in place
constexpr int kDirectBlocks = 8;    // blocks of a gated product that few rows compute at once
constexpr int kTileBlocks = 3;      // and that many do: tiles of three panels
constexpr int kGatedRows = 256;     // many rows, at most
constexpr int kFinePositions = 64;  // every later token attends to these: their activations keep 16 bits

// Quantised activations lie in quads of rows, so that a tile reads one stream. a = scale * q, one scale for a
// row and 32 inputs; q = code (8 bits) or, in fine rows, 256 * code + low (16 bits). Sums serve zero points
// and minima.
struct QuadBlock {            // four rows x 32 inputs
  int8_t codes[8][kQuad][4];  // [chunk of four inputs][row][input]
  float scale[kQuad];
  float sum[kQuad];          // scale * isum
  int32_t isum[kQuad];       // of q
  int32_t isum16[2][kQuad];  // of either half of the inputs
};

// Rows of activations: float, bf16 or quantised.
struct Activations {
  int32_t k, capacity;       // capacity: rows allocated
  const uint8_t* fine;       // [rows] 0 or 1; null: every row is fine
  float* values;             // [rows][k], or null
  QuadBlock* blocks;         // [quads][k/32], or null
  int8_t* low;               // [quads][k/32][8][kQuad][4], laid out like `codes`
  uint16_t* bf16 = nullptr;  // [rows][k], or null
};

enum class Prep : int32_t { copy = 0, norm = 1, swiglu = 2 };

[[maybe_unused]] static inline int planes_of(const Activations& a, ptrdiff_t row) {
  return !a.fine || a.fine[row] ? 2 : 1;
}
[[maybe_unused]] static inline ptrdiff_t quads(int rows) { return (rows + kQuad - 1) / kQuad; }
// The block of a row's 32 inputs from `k` on, and its low plane.
[[maybe_unused]] static inline ptrdiff_t block_index(const Activations& a, ptrdiff_t row, int k) {
  return row / kQuad * (a.k / kBlock) + k / kBlock;
}
constexpr ptrdiff_t kLowBytes = kBlock * kQuad;  // of one block's low plane
// Of rows of activations, in one piece: quantised ones are all blocks, then all low planes.
[[maybe_unused]] static inline size_t activation_bytes(int rows, int k, Operand operand) {
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(k);
  if (operand == Operand::f32) return n * sizeof(float);
  if (operand == Operand::bf16) return n * sizeof(uint16_t);
  return static_cast<size_t>(quads(rows)) * static_cast<size_t>(k / kBlock) *
         (sizeof(QuadBlock) + static_cast<size_t>(kLowBytes));
}

struct PrepArgs {
  Prep op;
  const float* in;  // [rows][stride]; swiglu: gate at 0, up at `up`
  ptrdiff_t stride;
  ptrdiff_t up;
  const float* weight;  // norm
  float eps;
  const int32_t* rows;  // row i reads in[rows[i]], or null
  Activations out;
  int32_t* unsound;  // norm: [row of the step] `mark` where it is -1 and the row is not finite; or null
  int32_t mark;
  const int32_t* step_rows;  // row i is the step's row step_rows[i], or null
  int32_t width = 0;         // features of a row, behind which `out` has zeros; 0: as many as it has
};

struct LinearArgs {
  Matrix w;
  Activations a;
  float* out;  // [rows][stride], padded to whole panels
  ptrdiff_t stride;
  const float* bias;  // padded to whole panels, or null
  bool accumulate;    // out += result
  bool in_place;      // at most kMaxRowsDirect rows: weights are read where they lie, not unpacked first
  int32_t first_row = 0, first_panel = 0;  // what out[0] is
  const uint8_t* next = nullptr;           // panels that this thread is likely to read next, or null
};

// silu(gate) * up, as the next product's rows, in the form that this one reads: features [0, out.k) of the
// product are gates, those from panel `up` on are ups.
struct GatedArgs {
  Matrix w;
  Activations a, out;
  int32_t up;
  bool in_place;
  const uint8_t* next = nullptr;  // as LinearArgs has it
};

struct EmbedArgs {
  Matrix table;
  const int32_t* ids;
  float* out;
  ptrdiff_t stride;
  int32_t width;  // features of a row; the table may have more, all zero
};

// One step's sequences: tokens [start, start + count) of the batch at positions [past, past + count).
struct Span {
  int32_t start, count, past;
  const int32_t* pages;
};

// What happens to each head of q or k, in this order: RMSNorm where there is a weight, the rotation of `size`
// features from `first` on, and the product with `scale`.
struct Turn {
  const float* norm;  // [features of a head] or null
  float eps;
  const float* cos;  // [rows][size / 2]
  const float* sin;
  int32_t first, size;  // size 0: nothing is rotated
  bool interleaved;     // pairs are (2i, 2i + 1), otherwise (i, i + size / 2)
  float scale;
};

// Turns heads in place.
struct RotateArgs {
  float* x;  // [rows][stride]
  ptrdiff_t stride;
  int32_t heads, size;  // features of a head
  Turn turn;
};

// Turns q and k in place, and appends k and v to the cache.
struct AppendArgs {
  float* q;  // [rows][q_stride]
  float* k;
  const float* v;
  ptrdiff_t q_stride, k_stride, v_stride;
  int32_t heads;
  Turn q_turn, k_turn;
  const int32_t* positions;
  const int32_t* row_page;  // page that holds each row's token
  CacheView cache;
};

struct AttendArgs {
  const float* q;  // [rows][stride]
  ptrdiff_t q_stride;
  float* out;  // [rows][out_stride]
  ptrdiff_t out_stride;
  int32_t heads;
  CacheView cache;
  const uint8_t* after[kPagesTogether] = {};  // pages that this thread is likely to read next, or null
  int32_t parts = 1;                          // of a KV head's query heads: `Queries::head` counts these
};

// Rows [row, row + count) of a span, all query heads of one KV head, or of a part of these.
struct Queries {
  Span span;
  int32_t row, count, head;
};

struct Stats {     // of one chunk of logits
  float max, sum;  // sum of exp(x - max)
  int32_t argmax;
  int32_t finite;
};

// Every kernel of the table below, once.
// clang-format off
#define SAMPAN_EACH_KERNEL(X) \
  X(embed) X(prepare) X(linear) X(gated) X(norm) X(map) X(rotate) X(append) X(attend) X(attend_split) X(merge) \
  X(stats) X(convolve) X(delta)
// clang-format on

struct Kernels {
  const char* name;
  void (*embed)(const EmbedArgs&, int row_begin, int row_end);
  void (*prepare)(const PrepArgs&, int row_begin, int row_end);
  void (*linear)(const LinearArgs&, int panel_begin, int panel_end, int row_begin, int row_end,
                 uint8_t* scratch);
  // Blocks of 32 outputs [begin, end).
  void (*gated)(const GatedArgs&, int begin, int end, int row_begin, int row_end, uint8_t* scratch);
  void (*norm)(const NormArgs&, int row_begin, int row_end);
  void (*map)(const MapArgs&, int row_begin, int row_end);
  void (*rotate)(const RotateArgs&, int row_begin, int row_end);
  void (*append)(const AppendArgs&, int row_begin, int row_end);
  // Queries of one KV head, kAttendRows rows at most, whose sequences have the first `shared` tokens (whole
  // pairs of pages) in common.
  void (*attend)(const AttendArgs&, const Queries*, int count, int shared, float* scratch);
  // Queries against the tokens [begin, end) of one split, whose state [rows][part_floats] is left for
  // `merge`.
  void (*attend_split)(const AttendArgs&, const Queries&, int begin, int end, float* parts, float* scratch);
  // The result of `splits` parts, as if `attend` had gone over all of them.
  void (*merge)(const AttendArgs&, const Queries&, const float* parts, int splits, float* scratch);
  void (*stats)(const float* logits, int begin, int end, Stats* out);
  void (*convolve)(const ConvolveArgs&, int channel_begin, int channel_end);
  void (*delta)(const DeltaArgs&, int head_begin, int head_end);
};

extern const Kernels kScalar;
const Kernels* kernels_avx2();  // null where not built or not runnable
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_neon();
const Kernels* choose_kernels(const char* forced);  // null: unknown or not runnable

// Bytes of unpacked panels of k inputs.
[[maybe_unused]] static inline size_t linear_scratch_of(int k, int panels) {
  return static_cast<size_t>(k / kBlock * panels) * (512 + 4 * 64);
}
// Scratch of `linear` and `gated` in bytes and of `attend` in floats, for any instruction set.
size_t linear_scratch(int max_k);
size_t attend_scratch(const CacheShape& shape);
// Of a piece of a head in bytes, whose rows of logits are so wide.
constexpr size_t head_scratch(int width) {
  return sizeof(float) * kHeadRows * static_cast<size_t>(width < kStatsChunk ? width : kStatsChunk);
}
constexpr int kAttendRows = 64;  // query rows (tokens x heads of one KV head) per attention item
constexpr size_t part_floats(int value_size) {  // of one row of a split
  return static_cast<size_t>(value_size + kLanes + 1);
}

}  // namespace sampan
