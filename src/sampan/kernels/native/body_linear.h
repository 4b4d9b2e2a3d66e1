// Chooses tile shapes for a range of panels.

namespace sampan::SAMPAN_ISA {

// Rows from `row` on, at most `most` and of one quad, that have as many planes as `row`.
static inline int alike(const Activations& a, int row, int end, int most) {
  const int planes = planes_of(a, row), last = row / kQuad * kQuad + kQuad;
  int n = 1;
  while (n < most && row + n < end && row + n < last && planes_of(a, row + n) == planes) ++n;
  return n;
}

// Calls f with the matrix's and the row's compile-time properties: folds of sixteen inputs, a minimum, planes.
template <class Fn>
static inline void with_form(const LinearArgs& a, int row, Fn f) {
  const auto with_planes = [&](auto half, auto min) {
    if (planes_of(a.a, row) == 2) f(half, min, Count<2>{});
    else f(half, min, Count<1>{});
  };
  const auto with_min = [&](auto half) {
    if (a.w.has_min) with_planes(half, Count<1>{});
    else with_planes(half, Count<0>{});
  };
  if (a.w.group < kBlock) with_min(Count<1>{});
  else with_min(Count<0>{});
}

template <Store S>
static void linear_direct(const LinearArgs& a, int begin, int end, int row_begin, int row_end) {
  for (int panel = begin; panel < end; ++panel) {
    for (int row = row_begin, n; row < row_end; row += n) {
      n = alike(a.a, row, row_end, kDirectRows);
      with_form(a, row, [&](auto half, auto min, auto planes) {
        with_count<kDirectRows>(n, [&](auto r) { direct<S, r, half, min, planes>(a, row, panel); });
      });
    }
  }
}

template <Store S, int P>
static void tile_rows(const LinearArgs& a, int panel, int row_begin, int row_end, const uint8_t* scratch) {
  for (int row = row_begin, n; row < row_end; row += n) {
    n = alike(a.a, row, row_end, kTileRows);
    with_form(a, row, [&](auto half, auto min, auto planes) {
      with_count<kTileRows>(n, [&](auto r) { tile<r, P, S == Store::u8, half, min, planes>(a, row, panel, scratch); });
    });
  }
}

template <Store S>
static void linear_tiled(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  for (int panel = begin; panel < end; panel += kTilePanels) {
    with_count<kTilePanels>(end - panel, [&](auto p) {
      for (int i = 0; i < p; ++i) unpack_panel<S>(a.w, panel + i, i, p, scratch);
      tile_rows<S, p>(a, panel, row_begin, row_end, scratch);
    });
  }
}

template <Store S>
static void linear_integer(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  if (a.in_place) linear_direct<S>(a, begin, end, row_begin, row_end);
  else linear_tiled<S>(a, begin, end, row_begin, row_end, scratch);
}

template <Store S>
static void linear_float(const LinearArgs& a, int begin, int end, int row_begin, int row_end) {
  for (int panel = begin; panel < end; panel += kFloatPanels)
    with_count<kFloatPanels>(end - panel, [&](auto p) {
      for (int row = row_begin; row < row_end; row += kFloatRows)
        with_count<kFloatRows>(row_end - row, [&](auto r) { float_tile<r, p, S>(a, row, panel); });
    });
}

// silu(gate) * up of R rows of a block, one or a quad, quantised.
template <int R>
static inline void finish_block(const Activations& out, int row, int block, const float* x, ptrdiff_t stride, ptrdiff_t up) {
  F low[R], high[R];
  for (int r = 0; r < R; ++r, x += stride) {
    low[r] = swish(load(x), load(x + up));
    high[r] = swish(load(x + kLanes), load(x + kLanes + up));
  }
  quantise(out, row, block * kBlock, low, high);
}

// n rows of a block. `x`: [rows][stride], gates, and ups from `up` on.
static inline void finish_gated(const Activations& out, int row, int n, int block, const float* x, ptrdiff_t stride, ptrdiff_t up) {
  for (const int end = row + n; row < end;) {
    const bool quad = together(out, row, end);
    if (quad) finish_block<kQuad>(out, row, block, x, stride, up);
    else finish_block<1>(out, row, block, x, stride, up);
    row += quad ? kQuad : 1, x += quad ? kQuad * stride : stride;
  }
}

// Few rows: all gates of the blocks, then all their ups, each one stream of weights.
template <Store S>
static void gated_direct(const GatedArgs& g, int begin, int end, int row_begin, int row_end, float* product) {
  const int width = (end - begin) * kBlock, gate = 2 * begin, up = g.up + gate;
  const ptrdiff_t stride = 2 * width;
  linear_direct<S>({g.w, g.a, product, stride, nullptr, false, true, row_begin, gate}, gate, 2 * end, row_begin, row_end);
  linear_direct<S>({g.w, g.a, product + width, stride, nullptr, false, true, row_begin, up}, up, g.up + 2 * end, row_begin, row_end);
  for (int block = begin; block < end; ++block)
    finish_gated(g.out, row_begin, row_end - row_begin, block, product + (block - begin) * kBlock, stride, width);
}

// The two panels from `panel` on, side by side or one after the other, as tiles take them.
constexpr int kPair = kTilePanels > 1 ? 2 : 1;
template <Store S>
static inline void unpack_pair(const Matrix& m, int panel, uint8_t* scratch) {
  for (int i = 0; i < 2; ++i) unpack_panel<S>(m, panel + i, i % kPair, kPair, scratch + linear_scratch_of(m.k, i / kPair));
}
template <Store S, int R>
static inline void tile_pair(const LinearArgs& a, int row, int panel, const uint8_t* scratch) {
  with_form(a, row, [&](auto half, auto min, auto planes) {
    for (int i = 0; i < 2; i += kPair)
      tile<R, kPair, S == Store::u8, half, min, planes>(a, row, panel + i, scratch + linear_scratch_of(a.w.k, i));
  });
}

template <Store S>
static void gated_tiled(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  constexpr int kWidth = 2 * kBlock;
  uint8_t* const unpacked_ups = scratch + linear_scratch_of(g.w.k, 2);
  float product[kTileRows * kWidth];
  for (int block = begin; block < end; ++block) {
    const int gate = 2 * block, up = g.up + gate;
    unpack_pair<S>(g.w, gate, scratch);
    unpack_pair<S>(g.w, up, unpacked_ups);
    for (int row = row_begin, n; row < row_end; row += n) {
      n = alike(g.a, row, row_end, kTileRows);
      with_count<kTileRows>(n, [&](auto r) {
        tile_pair<S, r>({g.w, g.a, product, kWidth, nullptr, false, false, row, gate}, row, gate, scratch);
        tile_pair<S, r>({g.w, g.a, product + kBlock, kWidth, nullptr, false, false, row, up}, row, up, unpacked_ups);
      });
      finish_gated(g.out, row, n, block, product, kWidth, kBlock);
    }
  }
}

template <Store S>
static void gated_integer(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  if (!g.in_place) return gated_tiled<S>(g, begin, end, row_begin, row_end, scratch);
  for (int block = begin; block < end; block += kGatedBlocks) {
    const int last = block + kGatedBlocks < end ? block + kGatedBlocks : end;
    gated_direct<S>(g, block, last, row_begin, row_end, reinterpret_cast<float*>(scratch));
  }
}

static void gated(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  switch (g.w.store) {
    case Store::u4: return gated_integer<Store::u4>(g, begin, end, row_begin, row_end, scratch);
    case Store::u6: return gated_integer<Store::u6>(g, begin, end, row_begin, row_end, scratch);
    default: return gated_integer<Store::u8>(g, begin, end, row_begin, row_end, scratch);
  }
}

static void linear(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  switch (a.w.store) {
    case Store::u4: return linear_integer<Store::u4>(a, begin, end, row_begin, row_end, scratch);
    case Store::u6: return linear_integer<Store::u6>(a, begin, end, row_begin, row_end, scratch);
    case Store::u8: return linear_integer<Store::u8>(a, begin, end, row_begin, row_end, scratch);
    case Store::f16: return linear_float<Store::f16>(a, begin, end, row_begin, row_end);
    case Store::bf16: return linear_float<Store::bf16>(a, begin, end, row_begin, row_end);
    case Store::f32: return linear_float<Store::f32>(a, begin, end, row_begin, row_end);
  }
}

}  // namespace sampan::SAMPAN_ISA
