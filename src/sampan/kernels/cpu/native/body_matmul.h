// Matrix products with integer weights, written once against a vec_*.h with integer dots.
// A block's sum is an exact int32; blocks fold one after another with the same FMA in every tile shape,
// so a row's bits depend on the row alone (scalar.cpp states the arithmetic).

namespace sampan::SAMPAN_ISA {

static inline F load_scale(const uint8_t* p, bool wide) {
  return wide ? load(reinterpret_cast<const float*>(p)) : load_f16(p);
}

// Eight chunks of codes of one packed block.
template <Store S>
static inline void block_codes(const uint8_t* p, W (&w)[8]) {
  if constexpr (S == Store::u8) {
    for (int c = 0; c < 8; ++c) w[c] = load_codes(p + 64 * c);
    return;
  }
  for (int v = 0; v < 4; ++v) {
    const W both = load_codes(p + 64 * v);
    w[v] = low_nibbles(both);
    w[v + 4] = high_nibbles(both);
  }
  if constexpr (S == Store::u6) {
    for (int c = 0; c < 8; ++c) w[c] = add_high2(w[c], load_codes(p + 256 + 64 * (c / 4)), c % 4);
  }
}

// Rows [row, row + R) of a quad: where their blocks and low planes start.
struct Quad {
  const QuadBlock* blocks;
  const int8_t* low;
  int lane;
};
static inline Quad quad_of(const Activations& a, int row) {
  const ptrdiff_t first = block_index(a, row, 0);
  return {a.blocks + first, a.low + first * kLowBytes, row % kQuad};
}

// acc += R rows of a block x a fold's sums, scaled. `Half`: the fold is sixteen inputs, `half` says which.
template <int R, bool Half, bool Min>
static inline void fold_in(F (&acc)[R], const I (&dots)[R], const QuadBlock& x, int lane, int half, F scale,
                           F least) {
  for (int r = 0; r < R; ++r) {
    const F s = set1(x.scale[lane + r]);
    acc[r] = fma(mul(to_float(dots[r]), scale), s, acc[r]);
    if (!Min) continue;
    const F total = Half ? mul(s, to_float(set1_i32(x.isum16[half][lane + r]))) : set1(x.sum[lane + r]);
    acc[r] = fma(least, total, acc[r]);
  }
}

// Sums of a fold start at the correction for the weights' zero point; a minimum takes the zero point's place.
template <bool Half, bool Min>
static inline I first_sum(const QuadBlock& x, int row, int half, I minus_zero) {
  return Min ? set1_i32(0) : mul_i32(set1_i32(Half ? x.isum16[half][row] : x.isum[row]), minus_zero);
}

template <int N>
static inline I folded(const I (&x)[N]) {
  if constexpr (N == 1) return x[0];
  else if constexpr (N == 2) return add_i32(x[0], x[1]);
  else return add_i32(add_i32(x[0], x[1]), add_i32(x[2], x[3]));
}

// One panel against R rows (all fine, or none) of a quad, codes read in place: for few rows, where memory is
// the limit.
template <Store S, int R, bool Half, bool Min, int Planes>
static void direct(const LinearArgs& a, int row, int panel) {
  constexpr bool kWide = S == Store::u8;
  constexpr int kFolds = Half ? 2 : 1, kChunks = 8 / kFolds, kChains = R == 1 ? 4 : R == 2 ? 2 : 1;
  const Matrix& m = a.w;
  const uint8_t* p = m.data + panel_bytes(m) * static_cast<size_t>(panel);
  const size_t scales = scale_bytes(m), vector = static_cast<size_t>(kLanes) * (m.wide ? 4 : 2);
  const int blocks = superblock(m) / kBlock;
  const I minus_zero = set1_i32(-m.zero);
  Quad x = quad_of(a.a, row);
  F acc[R];
  for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
  for (int k = 0; k < m.k;) {
    const uint8_t* codes = p + scales * (Min ? 2 : 1);
    F scale[kFolds], least[kFolds];
    for (int f = 0; f < kFolds; ++f) {
      scale[f] = load_scale(p + static_cast<size_t>(f) * vector, m.wide);
      least[f] = Min ? load_scale(p + scales + static_cast<size_t>(f) * vector, m.wide) : scale[f];
    }
    for (int b = 0; b < blocks; ++b, k += kBlock, codes += code_bytes(m), ++x.blocks, x.low += kLowBytes) {
      for (size_t line = 0; line < code_bytes(m); line += 64) prefetch(codes + 4096 + line);
      W w[8];
      block_codes<S>(codes, w);
      for (int f = 0; f < kFolds; ++f) {
        I dots[R], highs[R][kChains], lows[R][kChains];
        for (int r = 0; r < R; ++r) {
          for (int i = 0; i < kChains; ++i) highs[r][i] = lows[r][i] = set1_i32(0);
          lows[r][0] = first_sum<Half, Min>(*x.blocks, x.lane + r, f, minus_zero);
        }
#pragma GCC unroll 8
        for (int c = 0; c < kChunks; ++c) {
          const int chunk = f * kChunks + c, i = c % kChains;
          for (int r = 0; r < R; ++r) {
            I& last = Planes == 2 ? highs[r][i] : lows[r][i];
            last = dot<kWide>(last, w[chunk], four(x.blocks->codes[chunk][x.lane + r]));
            if (Planes == 2)
              lows[r][i] = dot<kWide>(lows[r][i], w[chunk], four(x.low + (chunk * kQuad + x.lane + r) * 4));
          }
        }
        for (int r = 0; r < R; ++r) {
          dots[r] = folded(lows[r]);
          if (Planes == 2) dots[r] = add_i32(dots[r], shift8(folded(highs[r])));
        }
        fold_in<R, Half, Min>(acc, dots, *x.blocks, x.lane, f, scale[f], least[f]);
      }
    }
    p = codes;
  }
  for (int r = 0; r < R; ++r) finish(a, row + r, panel, acc[r]);
}

// Scratch of one block: [8 chunks][panels][64] codes, then per fold [panels][16] scales, then mins.
template <Store S>
static void unpack_panel(const Matrix& m, int panel, int slot, int count, uint8_t* scratch) {
  const uint8_t* p = m.data + panel_bytes(m) * static_cast<size_t>(panel);
  const size_t scales = scale_bytes(m), vector = static_cast<size_t>(kLanes) * (m.wide ? 4 : 2);
  const int folds = kBlock / fold(m), blocks = superblock(m) / kBlock;
  const size_t panels_bytes = static_cast<size_t>(count) * 64, at = static_cast<size_t>(slot) * 64;
  for (int k = 0; k < m.k; k += superblock(m)) {
    const uint8_t* mins = p + scales;
    const uint8_t* codes = mins + (m.has_min ? scales : 0);
    for (int b = 0; b < blocks; ++b, codes += code_bytes(m)) {
      W w[8];
      block_codes<S>(codes, w);
      for (int c = 0; c < 8; ++c, scratch += panels_bytes) store_codes(scratch + at, w[c]);
      for (int f = 0; f < folds; ++f, scratch += panels_bytes)
        store(reinterpret_cast<float*>(scratch + at),
              load_scale(p + static_cast<size_t>(f) * vector, m.wide));
      for (int f = 0; m.has_min && f < folds; ++f, scratch += panels_bytes)
        store(reinterpret_cast<float*>(scratch + at),
              load_scale(mins + static_cast<size_t>(f) * vector, m.wide));
    }
    p = codes;
  }
}

// dots += four chunks or eight of a fold.
template <int R, int P, int Chunks, bool Wide>
static inline void tile_dots(I (&dots)[R][P], const uint8_t* w, const int8_t* x) {
#pragma GCC unroll 8
  for (int c = 0; c < Chunks; ++c) {
    W v[P];
    for (int p = 0; p < P; ++p) v[p] = load_codes(w + (c * P + p) * 64);
    for (int r = 0; r < R; ++r) {
      const I q = four(x + (c * kQuad + r) * 4);
      for (int p = 0; p < P; ++p) dots[r][p] = dot<Wide>(dots[r][p], v[p], q);
    }
  }
}

// R rows (all fine, or none) of a quad x P unpacked panels: for many rows, where arithmetic is the limit.
template <int R, int P, bool Wide, bool Half, bool Min, int Planes>
static void tile(const LinearArgs& a, int row, int panel, const uint8_t* w) {
  constexpr int kFolds = Half ? 2 : 1, kChunks = 8 / kFolds;
  const int blocks = a.w.k / kBlock;
  const I minus_zero = set1_i32(-a.w.zero);
  Quad x = quad_of(a.a, row);
  F acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  for (int b = 0; b < blocks; ++b, ++x.blocks, x.low += kLowBytes) {
    const float* scales = reinterpret_cast<const float*>(w + 512 * P);
    const float* mins = scales + kFolds * P * kLanes;
    for (int f = 0; f < kFolds; ++f) {
      const ptrdiff_t codes = (f * kChunks * kQuad + x.lane) * 4;
      I dots[R][P];
      for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) dots[r][p] = set1_i32(0);
      if (Planes == 2) {
        tile_dots<R, P, kChunks, Wide>(dots, w + f * kChunks * P * 64, x.blocks->codes[0][0] + codes);
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p) dots[r][p] = shift8(dots[r][p]);
      }
      for (int r = 0; !Min && r < R; ++r) {
        const I start = first_sum<Half, Min>(*x.blocks, x.lane + r, f, minus_zero);
        for (int p = 0; p < P; ++p) dots[r][p] = Planes == 2 ? add_i32(dots[r][p], start) : start;
      }
      tile_dots<R, P, kChunks, Wide>(dots, w + f * kChunks * P * 64,
                                     Planes == 2 ? x.low + codes : x.blocks->codes[0][0] + codes);
      for (int p = 0; p < P; ++p) {
        F sums[R];
        I column[R];
        for (int r = 0; r < R; ++r) sums[r] = acc[r][p], column[r] = dots[r][p];
        fold_in<R, Half, Min>(sums, column, *x.blocks, x.lane, f, load(scales + (f * P + p) * kLanes),
                              Min ? load(mins + (f * P + p) * kLanes) : set1(0.0f));
        for (int r = 0; r < R; ++r) acc[r][p] = sums[r];
      }
    }
    w += P * (512 + 64 * kFolds * (Min ? 2 : 1));
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) finish(a, row + r, panel + p, acc[r][p]);
}

}  // namespace sampan::SAMPAN_ISA
