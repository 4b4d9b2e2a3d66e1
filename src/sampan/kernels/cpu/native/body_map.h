// Float rows from float rows: norms over runs of features, and maps feature by feature. Written once against
// a vec_*.h.

namespace sampan::SAMPAN_ISA {

static void norm(const NormArgs& a, int begin, int end) {
  for (int row = begin; row < end; ++row) {
    const float* x = a.in + row * a.in_stride;
    float* y = a.out + row * a.out_stride;
    for (int run = 0; run < a.runs; ++run, x += a.size, y += a.size) {
      float inverse[1];
      inverse_rms({x}, a.size, a.eps, inverse);
      const int whole = a.size / kLanes * kLanes;
      for (int i = 0; i < whole; i += kLanes)
        store(y + i, mul(mul(load(x + i), set1(inverse[0])), load(a.weight + i)));
      if (const int rest = a.size - whole; rest > 0) {
        const F last = mul(load_some(x + whole, rest), set1(inverse[0]));
        store_some(y + whole, mul(last, load_some(a.weight + whole, rest)), rest);
      }
      if (inverse[0] > 0.0f) continue;
      int32_t& unsound = a.unsound[a.step_rows ? a.step_rows[row] : row];
      if (unsound < 0) unsound = a.mark;
    }
  }
}

static inline F gated_by(F x, F gate) { return div(x, add(set1(1.0f), exponential(sub(set1(0.0f), gate)))); }

static inline F mapped(const MapArgs& a, F x, F y) {
  switch (a.map) {
    case Map::scale: return mul(x, set1(a.factor));
    case Map::add: return add(x, y);
    case Map::gate: return gated_by(x, y);
    case Map::swiglu: return swish(x, y);
    default: return x;
  }
}

static void map_heads(const MapArgs& a, const float* x, float* out) {
  for (int h = 0; h < a.heads; ++h, x += a.size, out += a.width) {
    std::memcpy(out, x, static_cast<size_t>(a.kept) * 4);
    std::memset(out + a.kept, 0, static_cast<size_t>(a.fill - a.kept) * 4);
  }
}

static void map(const MapArgs& a, int begin, int end) {
  for (int row = begin; row < end; ++row) {
    const float* x = a.x + (a.rows ? a.rows[row] : row) * a.x_stride;
    const float* y = a.y ? a.y + row * a.y_stride : nullptr;
    float* out = a.out + row * a.out_stride;
    if (a.map == Map::heads) {
      map_heads(a, x, out);
      continue;
    }
    for (int i = 0; i < a.width; i += kLanes) {
      const int count = a.width - i < kLanes ? a.width - i : kLanes;
      const F left = load_some(x + i, count);
      const F right = !y ? left : a.single ? set1(*y) : load_some(y + i, count);
      store_some(out + i, mapped(a, left, right), count);
    }
  }
}

}  // namespace sampan::SAMPAN_ISA
