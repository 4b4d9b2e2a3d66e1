// Paged attention, written once against a vec_*.h: online softmax over pages of 32 tokens, partials merged
// every kSplit tokens. Dots are single FMA chains and lanes are tokens (scores) or features (values), so
// nothing is summed across lanes except one page's probabilities, in a fixed order.

namespace sampan::SAMPAN_ISA {

// One query row against one KV head: running maximum, sum and (unnormalised) output of a split and in all.
struct AttendRow {
  const float* q;
  float* out;
  int32_t length;              // tokens visible: position + 1
  float top, total;            // of all finished splits
  float split_top, split_total;
  float* merged;               // [head_dim]
  float* partial;              // [head_dim]
};

// A page as floats: keys [head_dim][32], values [32][head_dim].
static inline void widen_page(const CacheView& c, const uint8_t* page, float* keys) {
  const int n = 2 * kPage * c.head_dim;
  if (c.type == Cache::f32) {
    std::memcpy(keys, page, static_cast<size_t>(n) * 4);
    return;
  }
  for (int i = 0; i < n; i += kLanes) store(keys + i, load_bf16(page + 2 * i));
}

// Scores of R rows against a page's 32 keys, masked beyond each row's length.
template <int R>
static inline void page_scores(const AttendRow* rows, const float* keys, int d, int first, float (*scores)[kPage]) {
  F low[R], high[R];
  for (int r = 0; r < R; ++r) low[r] = high[r] = set1(0.0f);
  for (int i = 0; i < d; ++i) {
    const F k0 = load(keys + i * kPage), k1 = load(keys + i * kPage + kLanes);
    for (int r = 0; r < R; ++r) {
      const F q = set1(rows[r].q[i]);
      low[r] = fma(q, k0, low[r]);
      high[r] = fma(q, k1, high[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    store(scores[r], low[r]);
    store(scores[r] + kLanes, high[r]);
    for (int t = rows[r].length - first; t < kPage; ++t) scores[r][t < 0 ? 0 : t] = -INFINITY;
  }
}

// Turns scores into probabilities and rescales the row's partial.
static inline void page_softmax(AttendRow& row, float* scores, int d) {
  float best[kLanes], top = row.split_top;
  store(best, max(load(scores), load(scores + kLanes)));
  for (int i = 0; i < kLanes; ++i) top = best[i] > top ? best[i] : top;
  const F shift = set1(top);
  const F low = exponential(sub(load(scores), shift)), high = exponential(sub(load(scores + kLanes), shift));
  store(scores, low);
  store(scores + kLanes, high);
  float factor[kLanes];
  store(factor, exponential(set1(row.split_top - top)));
  row.split_total = row.split_total * factor[0] + fold_lanes(add(low, high));
  if (top != row.split_top) {
    const F scale = set1(factor[0]);
    for (int i = 0; i < d; i += kLanes) store(row.partial + i, mul(load(row.partial + i), scale));
  }
  row.split_top = top;
}

// partial += probabilities x values, 64 features at a time.
template <int R, int V>
static inline void page_values(const AttendRow* rows, const float (*p)[kPage], const float* values, int d, int at, int tokens) {
  F acc[R][V];
  for (int r = 0; r < R; ++r) for (int v = 0; v < V; ++v) acc[r][v] = load(rows[r].partial + at + v * kLanes);
  for (int t = 0; t < tokens; ++t) {
    F x[V];
    for (int v = 0; v < V; ++v) x[v] = load(values + t * d + at + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const F weight = set1(p[r][t]);
      for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, x[v], acc[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) for (int v = 0; v < V; ++v) store(rows[r].partial + at + v * kLanes, acc[r][v]);
}

template <int R>
static inline void page_step(AttendRow* rows, const float* keys, int d, int first) {
  float scores[R][kPage];
  page_scores<R>(rows, keys, d, first, scores);
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    page_softmax(rows[r], scores[r], d);
    tokens = rows[r].length - first > tokens ? rows[r].length - first : tokens;
  }
  tokens = tokens < kPage ? tokens : kPage;
  const float* values = keys + kPage * d;
  int at = 0;
  for (; at + 4 * kLanes <= d; at += 4 * kLanes) page_values<R, 4>(rows, scores, values, d, at, tokens);
  for (; at < d; at += 2 * kLanes) page_values<R, 2>(rows, scores, values, d, at, tokens);
}

static inline float exponential_of(float x) {
  float v[kLanes];
  store(v, exponential(set1(x)));
  return v[0];
}

// Merges the split's partial into the row and starts a new split.
static inline void merge_split(AttendRow& row, int d) {
  const float top = row.split_top > row.top ? row.split_top : row.top;
  const float old = exponential_of(row.top - top), fresh = exponential_of(row.split_top - top);
  row.total = row.total * old + row.split_total * fresh;
  for (int i = 0; i < d; i += kLanes) {
    const F scaled = mul(load(row.merged + i), set1(old));
    store(row.merged + i, fma(load(row.partial + i), set1(fresh), scaled));
    store(row.partial + i, set1(0.0f));
  }
  row.top = top;
  row.split_top = -3.0e38f;
  row.split_total = 0.0f;
}

// Rows whose length reaches `first`, a tile at a time; rows are ordered by length.
static inline void page_rows(AttendRow* rows, int count, const float* keys, int d, int first) {
  int begin = 0;
  while (begin < count && rows[begin].length <= first) ++begin;
  for (int r = begin; r < count; r += kAttendTile)
    with_count<kAttendTile>(count - r, [&](auto n) { page_step<n>(rows + r, keys, d, first); });
}

static void attend(const AttendArgs& a, const Span& span, int row, int count, int head, float* scratch) {
  const int d = a.cache.head_dim, group = a.heads / a.cache.kv_heads;
  float* keys = scratch;
  float* state = scratch + 2 * kPage * d;
  AttendRow rows[kAttendRows];
  int n = 0;
  for (int i = 0; i < count; ++i) {
    const ptrdiff_t at = span.start + row + i;
    for (int g = 0; g < group; ++g, ++n, state += 2 * d) {
      const ptrdiff_t feature = static_cast<ptrdiff_t>(head * group + g) * d;
      rows[n] = {a.q + at * a.q_stride + feature, a.out + at * a.out_stride + feature, span.past + row + i + 1,
                 -3.0e38f, 0.0f, -3.0e38f, 0.0f, state, state + d};
      for (int k = 0; k < 2 * d; ++k) state[k] = 0.0f;
    }
  }
  const int longest = rows[n - 1].length;
  for (int first = 0; first < longest; first += kPage) {
    widen_page(a.cache, page_at(a.cache, span.pages[first / kPage], a.layer, head), keys);
    page_rows(rows, n, keys, d, first);
    const bool ends = (first + kPage) % kSplit == 0 || first + kPage >= longest;
    for (int r = 0; ends && r < n; ++r) if (rows[r].split_total != 0.0f) merge_split(rows[r], d);
  }
  for (int r = 0; r < n; ++r) {
    const F inverse = set1(1.0f / rows[r].total);
    for (int i = 0; i < d; i += kLanes) store(rows[r].out + i, mul(load(rows[r].merged + i), inverse));
  }
}

}  // namespace sampan::SAMPAN_ISA
