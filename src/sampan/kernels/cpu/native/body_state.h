// What carries a state from row to row: causal convolutions and the gated delta rule. A span's rows go one
// after another, so that a row's bits do not depend on how its sequence is cut. Written once against a
// vec_*.h.

#include <cmath>
#include <cstring>

namespace sampan::SAMPAN_ISA {

// Channels [begin, end), kConvolved at most.
static void convolve(const ConvolveArgs& a, int begin, int end) {
  const int kept = a.taps - 1, n = end - begin;
  const float* weight = a.weight + begin;
  float seen[kMostTaps - 1][kConvolved];
  const size_t bytes = sizeof(float) * static_cast<size_t>(n);
  for (int t = 0; t < kept; ++t) {
    if (a.from) std::memcpy(seen[t], a.from + static_cast<ptrdiff_t>(t) * a.channels + begin, bytes);
    else std::memset(seen[t], 0, bytes);
  }
  int oldest = 0;
  for (int row = 0; row < a.rows; ++row) {
    const float* x = a.x + row * a.x_stride + begin;
    float* out = a.out + row * a.out_stride + begin;
    for (int c = 0; c < n; c += kLanes) {
      const F own = load(x + c);
      F sum = set1(0.0f);
      for (int t = 0, at = oldest; t < kept; ++t, at = at + 1 < kept ? at + 1 : 0)
        sum = fma(load(seen[at] + c), load(weight + t * a.channels + c), sum);
      sum = fma(own, load(weight + kept * a.channels + c), sum);
      store(seen[oldest] + c, own);
      store(out + c, gated_by(sum, sum));
    }
    oldest = oldest + 1 < kept ? oldest + 1 : 0;
  }
  for (int t = 0, at = oldest; t < kept; ++t, at = at + 1 < kept ? at + 1 : 0)
    std::memcpy(a.to + static_cast<ptrdiff_t>(t) * a.channels + begin, seen[at], bytes);
}

// Some rows of one head, ready for its state.
struct DeltaRows {
  float q[kDeltaRows][kMostKeys], k[kDeltaRows][kMostKeys];
  float kept[kDeltaRows], beta[kDeltaRows];
};

static inline void unit(const float* x, float* out, int n, float scale) {
  F squares = set1(0.0f);
  for (int i = 0; i < n; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  const float inverse = 1.0f / std::sqrt(fold_lanes(squares) + 1e-6f);
  for (int i = 0; i < n; i += kLanes) store(out + i, mul(mul(load(x + i), set1(inverse)), set1(scale)));
}

static inline void ready(const DeltaArgs& a, int head, int row, int count, DeltaRows& to) {
  const int key = head / (a.heads / a.key_heads) * a.key_size, keys = a.key_heads * a.key_size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(a.key_size));
  const double rate = -std::exp(static_cast<double>(a.decay[head]));
  for (int r = 0; r < count; ++r) {
    const float* x = a.x + (row + r) * a.x_stride;
    unit(x + key, to.q[r], a.key_size, scale);
    unit(x + keys + key, to.k[r], a.key_size, 1.0f);
    const double step = static_cast<double>(a.a[(row + r) * a.a_stride + head]) + a.bias[head];
    const double soft = step > 30.0 ? step : std::log1p(std::exp(step));
    to.kept[r] = static_cast<float>(std::exp(rate * soft));
    to.beta[r] =
        static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(a.b[(row + r) * a.b_stride + head]))));
  }
}

// V vectors of values through all of a head's keys, whose state lies together. S^T k is two chains, of the
// even keys and of the odd ones.
template <int V>
static inline void delta_tile(const DeltaRows& rows, int r, int keys, const float* v, float* s, float* out) {
  const F kept = set1(rows.kept[r]), beta = set1(rows.beta[r]);
  F even[V], odd[V], sum[V];
  for (int p = 0; p < V; ++p) even[p] = odd[p] = sum[p] = set1(0.0f);
  for (int i = 0; i < keys; i += 2) {
    const F k = set1(rows.k[r][i]), next = set1(rows.k[r][i + 1]);
    const float* at = s + i * V * kLanes;
    for (int p = 0; p < V; ++p) even[p] = fma(load(at + p * kLanes), k, even[p]);
    for (int p = 0; p < V; ++p) odd[p] = fma(load(at + (V + p) * kLanes), next, odd[p]);
  }
  for (int p = 0; p < V; ++p) even[p] = mul(beta, sub(load(v + p * kLanes), mul(add(even[p], odd[p]), kept)));
  for (int i = 0; i < keys; ++i) {
    const F k = set1(rows.k[r][i]), q = set1(rows.q[r][i]);
    for (int p = 0; p < V; ++p) {
      float* at = s + (i * V + p) * kLanes;
      const F now = fma(k, even[p], mul(load(at), kept));
      store(at, now);
      sum[p] = fma(now, q, sum[p]);
    }
  }
  for (int p = 0; p < V; ++p) store(out + p * kLanes, sum[p]);
}

template <int V>
static inline void delta_tiles(const DeltaArgs& a, const DeltaRows& rows, int head, int row, int count,
                               int at, float* s) {
  const ptrdiff_t values = 2 * a.key_heads * a.key_size, own = head * a.value_size + at;
  for (int r = 0; r < count; ++r)
    delta_tile<V>(rows, r, a.key_size, a.x + (row + r) * a.x_stride + values + own, s + at * a.key_size,
                  a.out + (row + r) * a.out_stride + own);
}

static void delta(const DeltaArgs& a, int begin, int end) {
  const FlushDenormals flush;  // what has decayed so far is nothing, and must not be slow
  const size_t size = static_cast<size_t>(a.key_size) * static_cast<size_t>(a.value_size);
  DeltaRows rows;
  for (int head = begin; head < end; ++head) {
    float* s = a.to + static_cast<size_t>(head) * size;
    if (!a.from) std::memset(s, 0, sizeof(float) * size);
    else if (a.from != a.to) std::memcpy(s, a.from + static_cast<size_t>(head) * size, sizeof(float) * size);
    for (int row = 0; row < a.rows; row += kDeltaRows) {
      const int count = a.rows - row < kDeltaRows ? a.rows - row : kDeltaRows;
      ready(a, head, row, count, rows);
      int at = 0;
      for (; at + kDeltaTile * kLanes <= a.value_size; at += kDeltaTile * kLanes)
        delta_tiles<kDeltaTile>(a, rows, head, row, count, at, s);
      for (; at < a.value_size; at += kLanes) delta_tiles<1>(a, rows, head, row, count, at, s);
    }
  }
}

}  // namespace sampan::SAMPAN_ISA
