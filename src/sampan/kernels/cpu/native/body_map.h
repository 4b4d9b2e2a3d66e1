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
      for (int i = 0; i < a.size; i += kLanes)
        store(y + i, mul(mul(load(x + i), set1(inverse[0])), load(a.weight + i)));
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

static inline F load_some(const float* x, int count) {
  float part[kLanes] = {};
  std::memcpy(part, x, static_cast<size_t>(count) * 4);
  return load(part);
}

static void map(const MapArgs& a, int begin, int end) {
  for (int row = begin; row < end; ++row) {
    const float* x = a.x + (a.rows ? a.rows[row] : row) * a.x_stride;
    const float* y = a.y ? a.y + row * a.y_stride : nullptr;
    float* out = a.out + row * a.out_stride;
    for (int i = 0; i < a.width; i += kLanes) {
      const int count = a.width - i < kLanes ? a.width - i : kLanes;
      const F left = load_some(x + i, count);
      const F right = !y ? left : a.single ? set1(*y) : load_some(y + i, count);
      float part[kLanes];
      store(part, mapped(a, left, right));
      std::memcpy(out + i, part, static_cast<size_t>(count) * 4);
    }
  }
}

}  // namespace sampan::SAMPAN_ISA
