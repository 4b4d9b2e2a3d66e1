// How weights lie: matrices packed in panels of output features.
//
// Helpers have internal linkage on purpose (kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sampan {

constexpr int kLanes = 16;  // output features of one panel
constexpr int kBlock = 32;  // input features that share one activation scale

[[maybe_unused]] static inline int ceiling(int n, int divisor) { return (n + divisor - 1) / divisor; }

enum class Store : int32_t { u4 = 0, u6 = 1, u8 = 2, f16 = 3, bf16 = 4, f32 = 5, e4m3 = 6 };

// A weight [n, k] packed in panels of 16 output features. Integer stores: w = scale * (q - zero) + min,
// one scale (and min) per `group` input features. A panel is a sequence of superblocks of
// max(group, 32) input features: scales | mins | codes. Codes of 32 input features are eight chunks of
// [16 features][4 inputs] bytes: u8 in order; u4 as four vectors (chunk v low, v+4 high nibble);
// u6 as u4 plus two vectors of 2-bit highs (chunk 4h+s at bits 2s). Float stores: [k][16] elements; bf16, by
// pairs of inputs, [k / 2][16][2].
// E4M3 (OCP 8-bit floats): w = scale * code, one float32 scale per `group` inputs, the last of which may be
// fewer, for each feature (`wide`) or for all sixteen of a panel: all scales, in whole lines of 64 bytes,
// then codes by two pairs of inputs, [k / 4][4 fours of features][2 pairs][4 features][2]. NaN's codes count
// as 480.
struct Matrix {
  const uint8_t* data;
  int32_t n, k;
  Store store;
  int32_t group;
  bool wide;  // scales and mins are f32, otherwise f16; of E4M3 as above
  bool has_min;
  int32_t zero;
};

[[maybe_unused]] static inline bool is_integer(const Matrix& m) { return m.store <= Store::u8; }
// Inputs by pairs, multiplied with rows of bf16.
[[maybe_unused]] static inline bool is_paired(const Matrix& m) {
  return m.store == Store::bf16 || m.store == Store::e4m3;
}
// What the rows of activations hold that a matrix is multiplied with.
enum class Operand : int32_t { f32 = 0, int8 = 1, bf16 = 2 };
[[maybe_unused]] static inline Operand operand_of(const Matrix& m) {
  return is_integer(m) ? Operand::int8 : is_paired(m) ? Operand::bf16 : Operand::f32;
}
// Where a float panel has input `k` of one feature, in elements; of E4M3, behind its scales.
[[maybe_unused]] static inline size_t float_index(const Matrix& m, int k, int lane) {
  if (m.store == Store::e4m3)
    return static_cast<size_t>(k / 4 * 64 + lane / 4 * 16 + k % 4 / 2 * 8 + lane % 4 * 2 + k % 2);
  const bool pairs = m.store == Store::bf16;
  return static_cast<size_t>(pairs ? (k / 2 * kLanes + lane) * 2 + k % 2 : k * kLanes + lane);
}
[[maybe_unused]] static inline int panels(const Matrix& m) { return (m.n + kLanes - 1) / kLanes; }
[[maybe_unused]] static inline int fold(const Matrix& m) { return m.group < kBlock ? m.group : kBlock; }
[[maybe_unused]] static inline int superblock(const Matrix& m) { return m.group < kBlock ? kBlock : m.group; }
[[maybe_unused]] static inline size_t code_bytes(const Matrix& m) {  // of 32 input features
  return m.store == Store::u4 ? 256 : m.store == Store::u6 ? 384 : 512;
}
[[maybe_unused]] static inline size_t scale_bytes(const Matrix& m) {  // of one superblock: scales alone
  return static_cast<size_t>(superblock(m) / m.group) * kLanes * (m.wide ? 4 : 2);
}
[[maybe_unused]] static inline size_t superblock_bytes(const Matrix& m) {
  return scale_bytes(m) * (m.has_min ? 2 : 1) + code_bytes(m) * static_cast<size_t>(superblock(m) / kBlock);
}
[[maybe_unused]] static inline size_t e4m3_scale_bytes(const Matrix& m) {  // of one panel
  return static_cast<size_t>(ceiling(ceiling(m.k, m.group) * (m.wide ? kLanes : 1), kLanes)) * 64;
}
[[maybe_unused]] static inline size_t panel_bytes(const Matrix& m) {
  if (is_integer(m)) return static_cast<size_t>(m.k / superblock(m)) * superblock_bytes(m);
  if (m.store == Store::e4m3) return e4m3_scale_bytes(m) + static_cast<size_t>(m.k) * kLanes;
  return static_cast<size_t>(m.k) * kLanes * (m.store == Store::f32 ? 4 : 2);
}

}  // namespace sampan
