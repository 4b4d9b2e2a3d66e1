// Chooses tile shapes for a range of panels.

namespace sampan::SAMPAN_ISA {

template <int N>
struct Count {
  constexpr operator int() const { return N; }
};

// Calls f with Count<min(n, Max)>.
template <int Max, class Fn>
static inline void with_count(int n, Fn f) {
  if constexpr (Max > 1) {
    if (n < Max) return with_count<Max - 1>(n, f);
  }
  f(Count<Max>{});
}

// Rows from `row` on, at most `most`, that have as many planes as `row`.
static inline int alike(const LinearArgs& a, int row, int most) {
  const int planes = planes_of(a.a, row);
  int n = 1;
  while (n < most && row + n < a.rows && planes_of(a.a, row + n) == planes) ++n;
  return n;
}

template <Store S>
static void linear_direct(const LinearArgs& a, int begin, int end) {
  for (int panel = begin; panel < end; ++panel)
    for (int row = 0; row < a.rows;)
      with_count<kMaxRowsDirect>(alike(a, row, kMaxRowsDirect), [&](auto r) {
        direct<S, r>(a, row, panel);
        row += r;
      });
}

template <Store S, bool Fine>
static void linear_tiled(const LinearArgs& a, int begin, int end, uint8_t* scratch) {
  for (int panel = begin; panel < end; panel += kTilePanels) {
    with_count<kTilePanels>(end - panel, [&](auto p) {
      for (int i = 0; i < p; ++i) unpack_panel<S>(a.w, panel + i, i, p, scratch);
      for (int row = 0; row < a.rows;)
        with_count<kTileRows>(alike(a, row, kTileRows), [&](auto r) {
          tile<r, p, S == Store::u8, Fine>(a, row, panel, scratch);
          row += r;
        });
    });
  }
}

template <Store S>
static void linear_integer(const LinearArgs& a, int begin, int end, uint8_t* scratch) {
  if (a.rows <= kMaxRowsDirect) linear_direct<S>(a, begin, end);
  else if (a.w.group < kBlock) linear_tiled<S, true>(a, begin, end, scratch);
  else linear_tiled<S, false>(a, begin, end, scratch);
}

template <Store S>
static void linear_float(const LinearArgs& a, int begin, int end) {
  for (int panel = begin; panel < end; panel += kFloatPanels)
    with_count<kFloatPanels>(end - panel, [&](auto p) {
      for (int row = 0; row < a.rows; row += kFloatRows)
        with_count<kFloatRows>(a.rows - row, [&](auto r) { float_tile<r, p, S>(a, row, panel); });
    });
}

static void linear(const LinearArgs& a, int begin, int end, uint8_t* scratch) {
  switch (a.w.store) {
    case Store::u4: return linear_integer<Store::u4>(a, begin, end, scratch);
    case Store::u6: return linear_integer<Store::u6>(a, begin, end, scratch);
    case Store::u8: return linear_integer<Store::u8>(a, begin, end, scratch);
    case Store::f16: return linear_float<Store::f16>(a, begin, end);
    case Store::bf16: return linear_float<Store::bf16>(a, begin, end);
    case Store::f32: return linear_float<Store::f32>(a, begin, end);
  }
}

}  // namespace sampan::SAMPAN_ISA
