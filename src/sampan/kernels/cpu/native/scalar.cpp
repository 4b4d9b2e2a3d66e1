// The definition of every result. Row kernels and attention are the shared bodies on plain C++ lanes; the
// matrix product is written out here, one output at a time, against which the fast tiles are tested.

#include <algorithm>

#define SAMPAN_ISA scalar
#include "vec_scalar.h"
namespace sampan::scalar {
constexpr int kAttendTile = 1;
template <int N>
struct Count {
  constexpr operator int() const { return N; }
};
template <int Max, class Fn>
static inline void with_count(int, Fn f) {
  f(Count<1>{});
}
}  // namespace sampan::scalar
#include "body_flush.h"
#include "body_rows.h"
#include "body_map.h"
#include "body_state.h"
#include "body_turn.h"
#include "body_pages.h"
#include "body_attend.h"

namespace sampan::scalar {

static float scale_at(const Matrix& m, const uint8_t* p, int lane) {
  if (!m.wide) return half_at(p, lane);
  float v;
  std::memcpy(&v, p + lane * 4, 4);
  return v;
}

static int activation(const Activations& a, ptrdiff_t row, int k) {
  const ptrdiff_t at = block_index(a, row, k);
  const int chunk = k % kBlock / 4, lane = static_cast<int>(row % kQuad);
  const int code = a.blocks[at].codes[chunk][lane][k % 4];
  return planes_of(a, row) == 2 ? code * 256 + a.low[at * kLowBytes + (chunk * kQuad + lane) * 4 + k % 4]
                                : code;
}

// Folds of 32 inputs (16 for finer groups), each an exact integer sum, one after another.
static float integer_output(const Matrix& m, const Activations& a, int row, int panel, int lane) {
  const int step = fold(m), vector = kLanes * (m.wide ? 4 : 2);
  float acc = 0.0f;
  for (int k = 0; k < m.k; k += step) {
    const int in = k % superblock(m);
    const uint8_t* block = m.data + panel_bytes(m) * static_cast<size_t>(panel) +
                           superblock_bytes(m) * static_cast<size_t>(k / superblock(m));
    const uint8_t* mins = block + scale_bytes(m);
    const uint8_t* codes =
        mins + (m.has_min ? scale_bytes(m) : 0) + static_cast<size_t>(in / kBlock) * code_bytes(m);
    int32_t total = 0, sum = 0;
    for (int i = 0; i < step; ++i) {
      const int chunk = (in + i) % kBlock / 4, q = activation(a, row, k + i);
      total += (code_at(m, codes, chunk, lane, i % 4) - m.zero) * q;
      sum += q;
    }
    const float scale = a.blocks[block_index(a, row, k)].scale[row % kQuad];
    const int group = in / m.group * vector;
    acc = std::fma(static_cast<float>(total) * scale_at(m, block + group, lane), scale, acc);
    if (m.has_min) acc = std::fma(scale_at(m, mins + group, lane), scale * static_cast<float>(sum), acc);
  }
  return acc;
}

// By pairs of inputs, the odd one first, with denormals as zero: what `vdpbf16ps` does.
static float bf16_output(const Matrix& m, const uint8_t* w, const uint16_t* x, int lane) {
  float acc = 0.0f;
  for (int k = 0; k < m.k; k += 2)
    for (int i = k + 1; i >= k; --i)
      acc = std::fma(bf16_at(w, float_index(m, i, lane)), widen_bf16(x[i]), acc);
  return acc;
}

// The same chain over a group of inputs, and the groups' sums, each times its scale, one after another.
static float e4m3_output(const Matrix& m, const uint8_t* w, const uint16_t* x, int lane) {
  const uint8_t* codes = w + e4m3_scale_bytes(m);
  float acc = 0.0f;
  for (int k = 0, group = 0; k < m.k; ++group) {
    float sum = 0.0f;
    for (const int end = std::min(k + m.group, m.k); k < end; k += 2)
      for (int i = k + 1; i >= k; --i)
        sum = std::fma(e4m3_value(codes[float_index(m, i, lane)]), widen_bf16(x[i]), sum);
    acc = std::fma(sum, e4m3_scale(m, w, group, lane), acc);
  }
  return acc;
}

static float float_output(const Matrix& m, const Activations& a, int row, int panel, int lane) {
  const uint8_t* w = m.data + panel_bytes(m) * static_cast<size_t>(panel);
  if (m.store == Store::bf16) return bf16_output(m, w, a.bf16 + static_cast<ptrdiff_t>(row) * a.k, lane);
  if (m.store == Store::e4m3) return e4m3_output(m, w, a.bf16 + static_cast<ptrdiff_t>(row) * a.k, lane);
  const size_t stride = kLanes * (m.store == Store::f32 ? 4 : 2);
  const float* x = a.values + static_cast<ptrdiff_t>(row) * a.k;
  float acc = 0.0f;
  for (int k = 0; k < m.k; ++k, w += stride) {
    float v;
    if (m.store == Store::f32) std::memcpy(&v, w + lane * 4, 4);
    else v = half_at(w, lane);
    acc = std::fma(v, x[k], acc);
  }
  return acc;
}

static void outputs(const LinearArgs& a, int begin, int end, int row_begin, int row_end) {
  for (int panel = begin; panel < end; ++panel) {
    for (int row = row_begin; row < row_end; ++row) {
      for (int lane = 0; lane < kLanes; ++lane) {
        float y = is_integer(a.w) ? integer_output(a.w, a.a, row, panel, lane)
                                  : float_output(a.w, a.a, row, panel, lane);
        float* out = a.out + (row - a.first_row) * a.stride + (panel - a.first_panel) * kLanes + lane;
        if (a.bias) y += a.bias[panel * kLanes + lane];
        *out = a.accumulate ? *out + y : y;
      }
    }
  }
}

static void linear(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t*) {
  if (!is_paired(a.w)) return outputs(a, begin, end, row_begin, row_end);
  const FlushDenormals flush;
  outputs(a, begin, end, row_begin, row_end);
}

// Thirty-two outputs of a gated product.
static void put_block(const Activations& out, int row, int k, F low, F high) {
  if (!out.bf16) return quantise_row(out, row, k, low, high);
  uint16_t* to = out.bf16 + static_cast<ptrdiff_t>(row) * out.k + k;
  store_bf16(to, low);
  store_bf16(to + kLanes, high);
}

static void gated_blocks(const GatedArgs& g, int begin, int end, int row_begin, int row_end) {
  float gates[kBlock], ups[kBlock];
  for (int block = begin; block < end; ++block) {
    const int gate = 2 * block, up = g.up + gate;
    for (int row = row_begin; row < row_end; ++row) {
      outputs({g.w, g.a, gates, kBlock, nullptr, false, false, row, gate}, gate, gate + 2, row, row + 1);
      outputs({g.w, g.a, ups, kBlock, nullptr, false, false, row, up}, up, up + 2, row, row + 1);
      put_block(g.out, row, block * kBlock, swish(load(gates), load(ups)),
                swish(load(gates + kLanes), load(ups + kLanes)));
    }
  }
}

static void gated(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t*) {
  if (!is_paired(g.w)) return gated_blocks(g, begin, end, row_begin, row_end);
  const FlushDenormals flush;
  gated_blocks(g, begin, end, row_begin, row_end);
}

}  // namespace sampan::scalar

#include "body_table.h"

namespace sampan {
const Kernels kScalar = scalar::table("scalar");
}
