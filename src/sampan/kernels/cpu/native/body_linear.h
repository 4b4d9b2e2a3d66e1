// Chooses tile shapes for a range of panels.

namespace sampan::SAMPAN_ISA {

// Rows from `row` on, at most `most` and of one quad, that have as many planes as `row`.
static inline int alike(const Activations& a, int row, int end, int most) {
  const int planes = planes_of(a, row), last = row / kQuad * kQuad + kQuad;
  int n = 1;
  while (n < most && row + n < end && row + n < last && planes_of(a, row + n) == planes) ++n;
  return n;
}

// Calls f with the matrix's and the row's compile-time properties: folds of sixteen inputs, a minimum,
// planes.
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

// Bytes of weights that are read later, `step` of them asked for at a time, by turns with tiles.
struct Ask {
  const uint8_t* at;
  ptrdiff_t left, step;
};
static inline void ask(Ask& a) {
  const uint8_t* const until = a.at + (a.left < a.step ? a.left : a.step);
  a.left -= until - a.at;
  for (; a.at < until; a.at += 64) prefetch_far(a.at);
}

template <Store S, int P>
static void tile_rows(const LinearArgs& a, int panel, int row_begin, int row_end, const uint8_t* scratch,
                      Ask next) {
  for (int row = row_begin, n; row < row_end; row += n) {
    n = alike(a.a, row, row_end, kTileRows);
    ask(next);
    with_form(a, row, [&](auto half, auto min, auto planes) {
      with_count<kTileRows>(
          n, [&](auto r) { tile<r, P, S == Store::u8, half, min, planes>(a, row, panel, scratch); });
    });
  }
}

template <Store S>
static void linear_tiled(const LinearArgs& a, int begin, int end, int row_begin, int row_end,
                         uint8_t* scratch) {
  const ptrdiff_t bytes = static_cast<ptrdiff_t>(panel_bytes(a.w)), group = kTilePanels * bytes;
  const ptrdiff_t step = (group / (row_end - row_begin) * kTileRows / 64 + 1) * 64;
  for (int panel = begin; panel < end; panel += kTilePanels) {
    const uint8_t* const next = panel + kTilePanels < end ? a.w.data + (panel + kTilePanels) * bytes : a.next;
    with_count<kTilePanels>(end - panel, [&](auto p) {
      for (int i = 0; i < p; ++i) unpack_panel<S>(a.w, panel + i, i, p, scratch);
      tile_rows<S, p>(a, panel, row_begin, row_end, scratch, {next, next ? group : 0, step});
    });
  }
}

template <Store S>
static void linear_integer(const LinearArgs& a, int begin, int end, int row_begin, int row_end,
                           uint8_t* scratch) {
  if (a.in_place) linear_direct<S>(a, begin, end, row_begin, row_end);
  else linear_tiled<S>(a, begin, end, row_begin, row_end, scratch);
}

// silu(gate) * up of R rows of a block, one or a quad, quantised.
template <int R>
static inline void finish_block(const Activations& out, int row, int block, const float* x, ptrdiff_t stride,
                                ptrdiff_t up) {
  F low[R], high[R];
  for (int r = 0; r < R; ++r, x += stride) {
    low[r] = swish(load(x), load(x + up));
    high[r] = swish(load(x + kLanes), load(x + kLanes + up));
  }
  quantise(out, row, block * kBlock, low, high);
}

// n rows of a block. `x`: [rows][stride], gates, and ups from `up` on.
static inline void finish_gated(const Activations& out, int row, int n, int block, const float* x,
                                ptrdiff_t stride, ptrdiff_t up) {
  for (const int end = row + n; row < end;) {
    const bool quad = together(out, row, end);
    if (quad) finish_block<kQuad>(out, row, block, x, stride, up);
    else finish_block<1>(out, row, block, x, stride, up);
    row += quad ? kQuad : 1, x += quad ? kQuad * stride : stride;
  }
}

// All gates of the blocks, then all their ups. Few rows: each one stream of weights; many: each in whole
// tiles.
template <Store S>
static void gated_blocks(const GatedArgs& g, int begin, int end, int row_begin, int row_end, float* product,
                         uint8_t* scratch) {
  const int width = (end - begin) * kBlock, gate = 2 * begin, up = g.up + gate;
  const ptrdiff_t stride = 2 * width;
  const LinearArgs gates{
      g.w,   g.a,        product,   stride, nullptr,
      false, g.in_place, row_begin, gate,   g.w.data + panel_bytes(g.w) * static_cast<size_t>(up)};
  const LinearArgs ups{g.w, g.a, product + width, stride, nullptr, false, g.in_place, row_begin, up, g.next};
  linear_integer<S>(gates, gate, 2 * end, row_begin, row_end, scratch);
  linear_integer<S>(ups, up, g.up + 2 * end, row_begin, row_end, scratch);
  for (int row = row_begin; row < row_end; row += kQuad) {
    const int n = row_end - row < kQuad ? row_end - row : kQuad;
    for (int block = begin; block < end; ++block)
      finish_gated(g.out, row, n, block, product + (row - row_begin) * stride + (block - begin) * kBlock,
                   stride, width);
  }
}

template <Store S>
static void gated_integer(const GatedArgs& g, int begin, int end, int row_begin, int row_end,
                          uint8_t* scratch) {
  float* const product = reinterpret_cast<float*>(scratch + linear_scratch_of(g.w.k, kTilePanels));
  const int blocks = g.in_place ? kDirectBlocks : kTileBlocks,
            rows = g.in_place ? kMaxRowsDirect : kGatedRows;
  for (int row = row_begin; row < row_end; row += rows) {
    const int last_row = row + rows < row_end ? row + rows : row_end;
    for (int block = begin; block < end; block += blocks)
      gated_blocks<S>(g, block, block + blocks < end ? block + blocks : end, row, last_row, product, scratch);
  }
}

static void gated(const GatedArgs& g, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  switch (g.w.store) {
    case Store::u4: return gated_integer<Store::u4>(g, begin, end, row_begin, row_end, scratch);
    case Store::u6: return gated_integer<Store::u6>(g, begin, end, row_begin, row_end, scratch);
    case Store::bf16: return gated_paired<Store::bf16>(g, begin, end, row_begin, row_end);
    case Store::e4m3: return gated_paired<Store::e4m3>(g, begin, end, row_begin, row_end);
    default: return gated_integer<Store::u8>(g, begin, end, row_begin, row_end, scratch);
  }
}

static void linear(const LinearArgs& a, int begin, int end, int row_begin, int row_end, uint8_t* scratch) {
  switch (a.w.store) {
    case Store::u4: return linear_integer<Store::u4>(a, begin, end, row_begin, row_end, scratch);
    case Store::u6: return linear_integer<Store::u6>(a, begin, end, row_begin, row_end, scratch);
    case Store::u8: return linear_integer<Store::u8>(a, begin, end, row_begin, row_end, scratch);
    case Store::f16: return linear_float<Store::f16>(a, begin, end, row_begin, row_end);
    case Store::bf16: return linear_paired<Store::bf16>(a, begin, end, row_begin, row_end);
    case Store::e4m3: return linear_paired<Store::e4m3>(a, begin, end, row_begin, row_end);
    case Store::f32: return linear_float<Store::f32>(a, begin, end, row_begin, row_end);
  }
}

}  // namespace sampan::SAMPAN_ISA
