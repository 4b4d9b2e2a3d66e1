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
constexpr float kNoTop = -3.0e38f;

// A page's keys [head_dim][32] and values [32][head_dim]; scales of int8 pages, or null. `next`: the page that is read
// after it and asked for meanwhile, as pages lie too far apart for the machine to guess.
struct Page {
  const uint8_t* keys;
  const uint8_t* values;
  const uint8_t* next;
  const float* key_scales;
  const float* value_scales;
};

static inline Page page_of(const CacheView& c, const uint8_t* data, const uint8_t* next) {
  const size_t half = element_bytes(c.type) * static_cast<size_t>(kPage * c.head_dim);
  const float* scales = reinterpret_cast<const float*>(data + 2 * half);
  const bool scaled = c.type == Cache::int8;
  return {data, data + half, next, scaled ? scales : nullptr, scaled ? scales + kPage : nullptr};
}

template <Cache C>
constexpr int kElement = C == Cache::f32 ? 4 : C == Cache::bf16 ? 2 : 1;  // bytes

// Elements [at, at + 32).
template <Cache C>
static inline Pair load_pair(const uint8_t* p, int at) {
  if constexpr (C == Cache::bf16) return load_pair_bf16(p + 2 * at);
  else if constexpr (C == Cache::int8) return {load_i8(p + at), load_i8(p + at + kLanes)};
  else return {load(reinterpret_cast<const float*>(p) + at), load(reinterpret_cast<const float*>(p) + at + kLanes)};
}

// Scores of R rows against a page's 32 keys, masked beyond each row's length.
template <int R, Cache C>
static inline void page_scores(const AttendRow* rows, const Page& page, int d, int first, float (*scores)[kPage]) {
  F low[R], high[R];
  for (int r = 0; r < R; ++r) low[r] = high[r] = set1(0.0f);
  for (int i = 0; i < d; ++i) {
    prefetch(page.next + i * kPage * kElement<C>);
    const Pair k = load_pair<C>(page.keys, i * kPage);
    for (int r = 0; r < R; ++r) {
      const F q = set1(rows[r].q[i]);
      low[r] = fma(q, k.low, low[r]);
      high[r] = fma(q, k.high, high[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    if (page.key_scales) {
      low[r] = mul(low[r], load(page.key_scales));
      high[r] = mul(high[r], load(page.key_scales + kLanes));
    }
    store(scores[r], low[r]);
    store(scores[r] + kLanes, high[r]);
    for (int t = rows[r].length - first; t < kPage; ++t) scores[r][t < 0 ? 0 : t] = -INFINITY;
  }
}

static inline float exponential_of(float x) {
  float v[kLanes];
  store(v, exponential(set1(x)));
  return v[0];
}

// Turns scores into the values' weights and rescales the row's partial.
static inline void page_softmax(AttendRow& row, float* scores, const float* value_scales, int d) {
  const float best = max_lanes(max(load(scores), load(scores + kLanes)));
  const float top = best > row.split_top ? best : row.split_top;
  const F shift = set1(top);
  F low = exponential(sub(load(scores), shift)), high = exponential(sub(load(scores + kLanes), shift));
  const float total = fold_lanes(add(low, high));
  if (value_scales) {
    low = mul(low, load(value_scales));
    high = mul(high, load(value_scales + kLanes));
  }
  store(scores, low);
  store(scores + kLanes, high);
  if (top == row.split_top) {
    row.split_total += total;
    return;
  }
  const float factor = exponential_of(row.split_top - top);
  row.split_total = row.split_total * factor + total;
  const F scale = set1(factor);
  for (int i = 0; i < d; i += kLanes) store(row.partial + i, mul(load(row.partial + i), scale));
  row.split_top = top;
}

// partial += weights x values, V times 32 features from `at` on.
template <int R, int V, Cache C>
static inline void page_values(const AttendRow* rows, const float (*p)[kPage], const Page& page, int d, int at, int tokens) {
  const uint8_t* next = page.next + (page.values - page.keys);
  F acc[R][2 * V];
  for (int r = 0; r < R; ++r) for (int v = 0; v < 2 * V; ++v) acc[r][v] = load(rows[r].partial + at + v * kLanes);
  for (int t = 0; t < tokens; ++t) {
    Pair x[V];
    for (int v = 0; v < V; ++v) {
      prefetch(next + (t * d + at + v * kPage) * kElement<C>);
      x[v] = load_pair<C>(page.values, t * d + at + v * kPage);
    }
    for (int r = 0; r < R; ++r) {
      const F weight = set1(p[r][t]);
      for (int v = 0; v < V; ++v) {
        acc[r][2 * v] = fma(weight, x[v].low, acc[r][2 * v]);
        acc[r][2 * v + 1] = fma(weight, x[v].high, acc[r][2 * v + 1]);
      }
    }
  }
  for (int r = 0; r < R; ++r) for (int v = 0; v < 2 * V; ++v) store(rows[r].partial + at + v * kLanes, acc[r][v]);
}

template <int R, Cache C>
static inline void page_step(AttendRow* rows, const Page& page, int d, int first) {
  float scores[R][kPage];
  page_scores<R, C>(rows, page, d, first, scores);
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    page_softmax(rows[r], scores[r], page.value_scales, d);
    tokens = rows[r].length - first > tokens ? rows[r].length - first : tokens;
  }
  tokens = tokens < kPage ? tokens : kPage;
  int at = 0;
  for (; at + 2 * kPage <= d; at += 2 * kPage) page_values<R, 2, C>(rows, scores, page, d, at, tokens);
  if (at < d) page_values<R, 1, C>(rows, scores, page, d, at, tokens);
}

// Merges the split's partial into the row and starts a new split. A row that saw none of the split stays as it is.
static inline void merge_split(AttendRow& row, int d) {
  if (row.split_total == 0.0f) return;
  const float top = row.split_top > row.top ? row.split_top : row.top;
  const float old = exponential_of(row.top - top), fresh = exponential_of(row.split_top - top);
  row.total = row.total * old + row.split_total * fresh;
  for (int i = 0; i < d; i += kLanes) {
    const F scaled = mul(load(row.merged + i), set1(old));
    store(row.merged + i, fma(load(row.partial + i), set1(fresh), scaled));
    store(row.partial + i, set1(0.0f));
  }
  row.top = top;
  row.split_top = kNoTop;
  row.split_total = 0.0f;
}

// Rows whose length reaches `first`, a tile at a time; rows are ordered by length.
template <Cache C>
static inline void page_rows(AttendRow* rows, int count, const Page& page, int d, int first) {
  int begin = 0;
  while (begin < count && rows[begin].length <= first) ++begin;
  for (int r = begin; r < count; r += kAttendTile)
    with_count<kAttendTile>(count - r, [&](auto n) { page_step<n, C>(rows + r, page, d, first); });
}

// The rows of `queries`, ordered by length; their state lies in `state` [rows][2][head_dim].
static inline int start_rows(const AttendArgs& a, const Queries& queries, AttendRow* rows, float* state) {
  const int d = a.cache.head_dim, group = a.heads / a.cache.kv_heads;
  int n = 0;
  for (int i = 0; i < queries.count; ++i) {
    const ptrdiff_t at = queries.span.start + queries.row + i;
    for (int g = 0; g < group; ++g, ++n, state += 2 * d) {
      const ptrdiff_t feature = static_cast<ptrdiff_t>(queries.head * group + g) * d;
      rows[n] = {a.q + at * a.q_stride + feature, a.out + at * a.out_stride + feature,
                 queries.span.past + queries.row + i + 1, kNoTop, 0.0f, kNoTop, 0.0f, state, state + d};
      for (int k = 0; k < 2 * d; ++k) state[k] = 0.0f;
    }
  }
  return n;
}

static inline void finish_rows(const AttendRow* rows, int n, int d) {
  for (int r = 0; r < n; ++r) {
    const F inverse = set1(1.0f / rows[r].total);
    for (int i = 0; i < d; i += kLanes) store(rows[r].out + i, mul(load(rows[r].merged + i), inverse));
  }
}

static void attend(const AttendArgs& a, const Queries& queries, int begin, int end, float* parts, float* scratch) {
  const int d = a.cache.head_dim;
  AttendRow rows[kAttendRows];
  const int n = start_rows(a, queries, rows, scratch);
  for (int first = begin; first < end; first += kPage) {
    const auto data = [&](int at) { return page_at(a.cache, queries.span.pages[at / kPage], a.layer, queries.head); };
    const Page page = page_of(a.cache, data(first), data(first + kPage < end ? first + kPage : first));
    if (a.cache.type == Cache::bf16) page_rows<Cache::bf16>(rows, n, page, d, first);
    else if (a.cache.type == Cache::int8) page_rows<Cache::int8>(rows, n, page, d, first);
    else page_rows<Cache::f32>(rows, n, page, d, first);
    const bool ends = (first + kPage) % kSplit == 0 || first + kPage >= end;
    for (int r = 0; ends && !parts && r < n; ++r) merge_split(rows[r], d);
  }
  if (!parts) return finish_rows(rows, n, d);
  for (int r = 0; r < n; ++r, parts += d + 2) {
    parts[0] = rows[r].split_top;
    parts[1] = rows[r].split_total;
    std::memcpy(parts + 2, rows[r].partial, static_cast<size_t>(d) * sizeof(float));
  }
}

static void merge(const AttendArgs& a, const Queries& queries, const float* parts, int splits, float* scratch) {
  const int d = a.cache.head_dim;
  AttendRow rows[kAttendRows];
  const int n = start_rows(a, queries, rows, scratch);
  for (int split = 0; split < splits; ++split) {
    for (int r = 0; r < n; ++r, parts += d + 2) {
      rows[r].split_top = parts[0];
      rows[r].split_total = parts[1];
      std::memcpy(rows[r].partial, parts + 2, static_cast<size_t>(d) * sizeof(float));
      merge_split(rows[r], d);
    }
  }
  finish_rows(rows, n, d);
}

}  // namespace sampan::SAMPAN_ISA
