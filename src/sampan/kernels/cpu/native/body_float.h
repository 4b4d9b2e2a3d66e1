// Matrix products with float weights, written once against a vec_*.h: one chain of multiply-adds over the
// inputs for each output, in every tile shape.

namespace sampan::SAMPAN_ISA {

static inline void finish(const LinearArgs& a, int row, int panel, F y) {
  float* out = a.out + (row - a.first_row) * a.stride + (panel - a.first_panel) * kLanes;
  if (a.bias) y = add(y, load(a.bias + panel * kLanes));
  store(out, a.accumulate ? add(load(out), y) : y);
}

// R rows x P panels of f16 or f32.
template <int R, int P, Store S>
static void float_tile(const LinearArgs& a, int row, int panel) {
  constexpr int kBytes = S == Store::f32 ? 4 : 2;
  const size_t bytes = panel_bytes(a.w);
  const uint8_t* w = a.w.data + bytes * static_cast<size_t>(panel);
  const float* x = a.a.values + static_cast<ptrdiff_t>(row) * a.a.k;
  F acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  for (int k = 0; k < a.w.k; ++k, w += kLanes * kBytes) {
    F v[P];
    for (int p = 0; p < P; ++p) {
      const uint8_t* at = w + bytes * static_cast<size_t>(p);
      v[p] = S == Store::f32 ? load(reinterpret_cast<const float*>(at)) : load_f16(at);
    }
    for (int r = 0; r < R; ++r) {
      const F s = set1(x[static_cast<ptrdiff_t>(r) * a.a.k + k]);
      for (int p = 0; p < P; ++p) acc[r][p] = fma(v[p], s, acc[r][p]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) finish(a, row + r, panel + p, acc[r][p]);
}

template <Store S>
static void linear_float(const LinearArgs& a, int begin, int end, int row_begin, int row_end) {
  for (int panel = begin; panel < end; panel += kFloatPanels)
    with_count<kFloatPanels>(end - panel, [&](auto p) {
      for (int row = row_begin; row < row_end; row += kFloatRows)
        with_count<kFloatRows>(row_end - row, [&](auto r) { float_tile<r, p, S>(a, row, panel); });
    });
}

// acc += R rows, `stride` apart, x P panels of bf16: a chain takes two inputs at a time.
template <int R, int P>
static inline void bf16_dots(F (&acc)[R][P], const uint16_t* const (&w)[P], const uint16_t* x,
                             ptrdiff_t stride, int k) {
  for (int i = 0; i < k; i += 2) {
    B v[P];
    for (int p = 0; p < P; ++p) v[p] = load_pairs(w[p] + i * kLanes);
    for (int r = 0; r < R; ++r) {
      const B s = set1_pair(x + r * stride + i);
      for (int p = 0; p < P; ++p) acc[r][p] = dot_bf16(acc[r][p], v[p], s);
    }
  }
}

// R rows, `stride` apart, x P panels that start at w, which may not be neighbours. Of E4M3, a group's chain
// is one sum; sums fold one after another.
template <Store S, int R, int P>
static inline void paired_dots(F (&acc)[R][P], const Matrix& m, const uint8_t* const (&w)[P],
                               const uint16_t* x, ptrdiff_t stride) {
  if constexpr (S == Store::bf16) {
    const uint16_t* at[P];
    for (int p = 0; p < P; ++p) at[p] = reinterpret_cast<const uint16_t*>(w[p]);
    return bf16_dots<R, P>(acc, at, x, stride, m.k);
  }
  const size_t scales = e4m3_scale_bytes(m);
  for (int k = 0, group = 0; k < m.k; ++group) {
    const int end = k + m.group < m.k ? k + m.group : m.k;
    F sums[R][P];
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) sums[r][p] = set1(0.0f);
    for (; k < end; k += 4) {
      B v[2][P];
      for (int p = 0; p < P; ++p)
        load_e4m3(w[p] + scales + static_cast<ptrdiff_t>(k) * kLanes, v[0][p], v[1][p]);
      for (int pair = 0; pair < 2; ++pair)
        for (int r = 0; r < R; ++r) {
          const B s = set1_pair(x + r * stride + k + 2 * pair);
          for (int p = 0; p < P; ++p) sums[r][p] = dot_bf16(sums[r][p], v[pair][p], s);
        }
    }
    for (int p = 0; p < P; ++p) {
      const float* at = reinterpret_cast<const float*>(w[p]);
      const F scale = m.wide ? load(at + group * kLanes) : set1(at[group]);
      for (int r = 0; r < R; ++r) acc[r][p] = fma(sums[r][p], scale, acc[r][p]);
    }
  }
}

static inline const uint8_t* panel_at(const Matrix& m, int panel) {
  return m.data + panel_bytes(m) * static_cast<size_t>(panel);
}
static inline uint16_t* bf16_row(const Activations& a, int row) {
  return a.bf16 + static_cast<ptrdiff_t>(row) * a.k;
}

template <Store S, int R, int P>
static void paired_tile(const LinearArgs& a, int row, int panel) {
  const uint8_t* w[P];
  for (int p = 0; p < P; ++p) w[p] = panel_at(a.w, panel + p);
  F acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  paired_dots<S, R, P>(acc, a.w, w, bf16_row(a.a, row), a.a.k);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) finish(a, row + r, panel + p, acc[r][p]);
}

template <Store S>
static void linear_paired(const LinearArgs& a, int begin, int end, int row_begin, int row_end) {
  const FlushDenormals flush;
  for (int panel = begin; panel < end; panel += kFloatPanels)
    with_count<kFloatPanels>(end - panel, [&](auto p) {
      for (int row = row_begin; row < row_end; row += kBf16Rows)
        with_count<kBf16Rows>(row_end - row, [&](auto r) { paired_tile<S, r, p>(a, row, panel); });
    });
}

// R rows x 16 gates, the panel `gate`, and their ups.
template <Store S, int R>
static void gated_paired_tile(const GatedArgs& g, int row, int gate) {
  const uint8_t* const w[2] = {panel_at(g.w, gate), panel_at(g.w, g.up + gate)};
  F acc[R][2];
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = set1(0.0f);
  paired_dots<S, R, 2>(acc, g.w, w, bf16_row(g.a, row), g.a.k);
  for (int r = 0; r < R; ++r)
    store_bf16(bf16_row(g.out, row + r) + gate * kLanes, swish(acc[r][0], acc[r][1]));
}

template <Store S>
static void gated_paired(const GatedArgs& g, int begin, int end, int row_begin, int row_end) {
  const FlushDenormals flush;
  for (int gate = 2 * begin; gate < 2 * end; ++gate)
    for (int row = row_begin; row < row_end; row += kBf16Rows)
      with_count<kBf16Rows>(row_end - row, [&](auto r) { gated_paired_tile<S, r>(g, row, gate); });
}

}  // namespace sampan::SAMPAN_ISA
