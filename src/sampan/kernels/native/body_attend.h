// Paged attention, written once against a vec_*.h: online softmax over pages of 32 tokens, partials merged
// every kSplit tokens. Dots are single FMA chains and lanes are tokens (scores) or features (values), so
// nothing is summed across lanes except a split's probabilities, in a fixed order. With a bf16 cache queries and
// probabilities are rounded to bf16 too, and a chain takes two elements at a time (`dot_bf16`).

namespace sampan::SAMPAN_ISA {

// One query row against one KV head: running maximum, sum and (unnormalised) output of a split and in all.
struct AttendRow {
  const float* q;
  float* out;
  int32_t length;              // tokens visible: position + 1
  float top, total;            // of all finished splits
  float split_top;
  float* merged;               // [head_dim]
  float* partial;              // [head_dim]
  float* sums;                 // [16] of the split
  uint16_t* pairs;             // [head_dim] the query as bf16, for a bf16 cache
};
constexpr float kNoTop = -3.0e38f;
constexpr int kPages = kPagesTogether;
static_assert(kPages == 2 && kSplit % (kPages * kPage) == 0);
// Floats of one row's merged, partial, sums and pairs.
static inline ptrdiff_t row_state(int d) { return 2 * d + kLanes + d / 2; }

// A page's keys and values (CacheView has their order); scales of int8 pages, or null. `next`: the page that is read
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

// Sixteen elements from `at` on.
template <Cache C>
static inline F load_element(const uint8_t* p, int at) {
  if constexpr (C == Cache::int8) return load_i8(p + at);
  else return load(reinterpret_cast<const float*>(p) + at);
}

// Dots of R queries with the keys of P pages.
template <int R, int P, Cache C>
static inline void page_dots(const AttendRow* rows, const Page* pages, int d, F (*scores)[2 * kPages]) {
  F acc[R][2 * P];
  for (int r = 0; r < R; ++r) for (int v = 0; v < 2 * P; ++v) acc[r][v] = set1(0.0f);
  constexpr int kStep = C == Cache::bf16 ? 2 : 1, kBytes = kPage * kElement<C>;
  for (int i = 0; i < d; i += kStep) {
    for (int p = 0; p < P; ++p)
      for (int line = 0; line < kStep * kBytes; line += 64) prefetch(pages[p].next + i * kBytes + line);
    if constexpr (C == Cache::bf16) {
      B keys[2 * P];
      for (int v = 0; v < 2 * P; ++v) keys[v] = load_pairs(reinterpret_cast<const uint16_t*>(pages[v / 2].keys) + i * kPage + v % 2 * 2 * kLanes);
      for (int r = 0; r < R; ++r) {
        const B q = set1_pair(rows[r].pairs + i);
        for (int v = 0; v < 2 * P; ++v) acc[r][v] = dot_bf16(acc[r][v], keys[v], q);
      }
    } else {
      F keys[2 * P];
      for (int v = 0; v < 2 * P; ++v) keys[v] = load_element<C>(pages[v / 2].keys, i * kPage + v % 2 * kLanes);
      for (int r = 0; r < R; ++r) {
        const F q = set1(rows[r].q[i]);
        for (int v = 0; v < 2 * P; ++v) acc[r][v] = fma(q, keys[v], acc[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) for (int v = 0; v < 2 * P; ++v) scores[r][v] = acc[r][v];
}

static inline float exponential_of(float x) {
  float v[kLanes];
  store(v, exponential(set1(x)));
  return v[0];
}

// Raises the row's maximum to `top`, and rescales what was summed under the old one.
static inline void raise_top(AttendRow& row, float top, int d) {
  const F scale = set1(exponential_of(row.split_top - top));
  store(row.sums, mul(load(row.sums), scale));
  for (int i = 0; i < d; i += kLanes) store(row.partial + i, mul(load(row.partial + i), scale));
  row.split_top = top;
}

// The first `tokens` lanes of x, -inf in the others.
static inline F first_lanes(F x, int tokens) {
  static constexpr float kIndex[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return pick_less(load(kIndex), set1(static_cast<float>(tokens)), x, set1(-INFINITY));
}

// A row's scores of N pages, turned into the values' weights: floats, or bf16 for a bf16 cache. A page beyond the row's
// length changes nothing, so that a row may be taken through it with others.
template <int N, Cache C>
static inline void page_softmax(AttendRow& row, F (&scores)[2 * kPages], const Page* pages, int d, int first, float* weights) {
  for (int v = 0; C == Cache::int8 && v < 2 * N; ++v) scores[v] = mul(scores[v], load(pages[v / 2].key_scales + v % 2 * kLanes));
  for (int v = 0; row.length < first + N * kPage && v < 2 * N; ++v) scores[v] = first_lanes(scores[v], row.length - first - v * kLanes);
  F best = max(scores[0], scores[1]);
  for (int v = 2; v < 2 * N; ++v) best = max(best, scores[v]);
  if (any_greater(best, row.split_top)) raise_top(row, max_lanes(best), d);
  const F shift = set1(row.split_top);
  for (int v = 0; v < 2 * N; ++v) scores[v] = exponential(sub(scores[v], shift));
  F sums = load(row.sums);
  for (int n = 0; n < N; ++n) sums = add(sums, add(scores[2 * n], scores[2 * n + 1]));
  store(row.sums, sums);
  for (int n = 0; n < N; ++n) {
    F low = scores[2 * n], high = scores[2 * n + 1];
    if constexpr (C == Cache::bf16) {
      store_pairs(reinterpret_cast<uint16_t*>(weights) + n * kPage, low, high);
      continue;
    }
    if constexpr (C == Cache::int8) {
      low = mul(low, load(pages[n].value_scales));
      high = mul(high, load(pages[n].value_scales + kLanes));
    }
    store(weights + n * kPage, low);
    store(weights + n * kPage + kLanes, high);
  }
}

// acc += weights x V times 16 features of one token, or of two of a bf16 page. `Odd`: the second is not this sequence's.
template <int R, int V, Cache C, bool Odd>
static inline void token_values(F (&acc)[R][V], const float (*weights)[kPages * kPage], int token, const uint8_t* values) {
  if constexpr (C == Cache::bf16) {
    B x[V];
    for (int v = 0; v < V; ++v) {
      x[v] = load_pairs(reinterpret_cast<const uint16_t*>(values) + 2 * v * kLanes);
      if constexpr (Odd) x[v] = even_only(x[v]);
    }
    for (int r = 0; r < R; ++r) {
      const B weight = set1_pair(reinterpret_cast<const uint16_t*>(weights[r]) + token);
      for (int v = 0; v < V; ++v) acc[r][v] = dot_bf16(acc[r][v], x[v], weight);
    }
  } else {
    F x[V];
    for (int v = 0; v < V; ++v) x[v] = load_element<C>(values, v * kLanes);
    for (int r = 0; r < R; ++r) {
      const F weight = set1(weights[r][token]);
      for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, x[v], acc[r][v]);
    }
  }
}

// acc += weights x the values of tokens [0, tokens) of the n-th page, V times 16 features from `at` on.
template <int R, int V, Cache C>
static inline void page_values(F (&acc)[R][V], const float (*weights)[kPages * kPage], int n, const Page& page, int d, int at, int tokens) {
  constexpr int kStep = C == Cache::bf16 ? 2 : 1;
  const uint8_t* values = page.values + kStep * at * kElement<C>;
  const ptrdiff_t next = page.next - page.keys, step = kStep * d * kElement<C>;
  int t = 0;
  for (; t + kStep <= tokens; t += kStep, values += step) {
    for (int line = 0; line < kStep * V * kLanes * kElement<C>; line += 64) prefetch(values + next + line);
    token_values<R, V, C, false>(acc, weights, n * kPage + t, values);
  }
  if (t < tokens) token_values<R, V, C, true>(acc, weights, n * kPage + t, values);
}

// partial += weights x the values of N pages.
template <int R, int V, int N, Cache C>
static inline void add_values(const AttendRow* rows, const float (*weights)[kPages * kPage], const Page* pages, int d, int at, int tokens) {
  F acc[R][V];
  for (int r = 0; r < R; ++r) for (int v = 0; v < V; ++v) acc[r][v] = load(rows[r].partial + at + v * kLanes);
  for (int n = 0; n < N; ++n) page_values<R, V, C>(acc, weights, n, pages[n], d, at, tokens - n * kPage < kPage ? tokens - n * kPage : kPage);
  for (int r = 0; r < R; ++r) for (int v = 0; v < V; ++v) store(rows[r].partial + at + v * kLanes, acc[r][v]);
}

// R rows against N pages, of which the second may lie beyond some rows.
template <int R, int N, Cache C>
static inline void pages_step(AttendRow* rows, const Page* pages, int d, int first) {
  F scores[R][2 * kPages];
  float weights[R][kPages * kPage];
  page_dots<R, N, C>(rows, pages, d, scores);
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    page_softmax<N, C>(rows[r], scores[r], pages, d, first, weights[r]);
    tokens = rows[r].length - first > tokens ? rows[r].length - first : tokens;
  }
  int at = 0;
  for (; at + 4 * kLanes <= d; at += 4 * kLanes) add_values<R, 4, N, C>(rows, weights, pages, d, at, tokens);
  if (at < d) add_values<R, 2, N, C>(rows, weights, pages, d, at, tokens);
}

// Merges the split's partial into the row and starts a new split. A row that saw none of the split stays as it is.
static inline void merge_split(AttendRow& row, int d) {
  const float split_total = fold_lanes(load(row.sums));
  if (split_total == 0.0f) return;
  const float top = row.split_top > row.top ? row.split_top : row.top;
  const float old = exponential_of(row.top - top), fresh = exponential_of(row.split_top - top);
  row.total = row.total * old + split_total * fresh;
  for (int i = 0; i < d; i += kLanes) {
    const F scaled = mul(load(row.merged + i), set1(old));
    store(row.merged + i, fma(load(row.partial + i), set1(fresh), scaled));
    store(row.partial + i, set1(0.0f));
  }
  store(row.sums, set1(0.0f));
  row.top = top;
  row.split_top = kNoTop;
}

// Rows whose length reaches `first`, a tile at a time; rows are ordered by length, or all reach it.
template <Cache C>
static inline void pages_rows(AttendRow* rows, int count, const Page* pages, int n, int d, int first) {
  int r = 0;
  while (r < count && rows[r].length <= first) ++r;
  for (; r < count; r += kAttendTile) {
    with_count<kAttendTile>(count - r, [&](auto tile) {
      const bool both = n > 1 && rows[r + tile - 1].length > first + kPage;
      if (both) pages_step<tile, 2, C>(rows + r, pages, d, first);
      else pages_step<tile, 1, C>(rows + r, pages, d, first);
    });
  }
}

// The rows of `queries`, ordered by length; their state lies in `state`. Returns how many.
static inline int start_rows(const AttendArgs& a, const Queries& queries, AttendRow* rows, float* state) {
  const int d = a.cache.head_dim, group = a.heads / a.cache.kv_heads;
  int n = 0;
  for (int i = 0; i < queries.count; ++i) {
    const ptrdiff_t at = queries.span.start + queries.row + i;
    for (int g = 0; g < group; ++g, ++n, state += row_state(d)) {
      const ptrdiff_t feature = static_cast<ptrdiff_t>(queries.head * group + g) * d;
      float* sums = state + 2 * d;
      rows[n] = {a.q + at * a.q_stride + feature, a.out + at * a.out_stride + feature, queries.span.past + queries.row + i + 1,
                 kNoTop, 0.0f, kNoTop, state, state + d, sums, reinterpret_cast<uint16_t*>(sums + kLanes)};
      std::memset(state, 0, sizeof(float) * static_cast<size_t>(2 * d + kLanes));
      for (int k = 0; k < d; k += kPage) store_pairs(rows[n].pairs + k, load(rows[n].q + k), load(rows[n].q + k + kLanes));
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

// Rows against the tokens [begin, end) of a sequence, whose splits are merged as they end, and the last one if it `ends`.
// Pages go in pairs from an even one on: a row's maximum is raised once for both.
static inline void attend_pages(const AttendArgs& a, const Queries& queries, AttendRow* rows, int n, int begin, int end, bool merges, bool ends) {
  const int d = a.cache.head_dim;
  const auto data = [&](int at) { return page_at(a.cache, queries.span.pages[at / kPage], a.layer, queries.head); };
  for (int first = begin; first < end; first += kPages * kPage) {
    Page pages[kPages];
    const int count = first + kPage < end ? 2 : 1;
    for (int p = 0; p < count; ++p) {
      const int at = first + p * kPage, next = at + kPages * kPage;
      pages[p] = page_of(a.cache, data(at), data(next < end ? next : at));
    }
    if (a.cache.type == Cache::bf16) pages_rows<Cache::bf16>(rows, n, pages, count, d, first);
    else if (a.cache.type == Cache::int8) pages_rows<Cache::int8>(rows, n, pages, count, d, first);
    else pages_rows<Cache::f32>(rows, n, pages, count, d, first);
    const int done = first + kPages * kPage;
    for (int r = 0; merges && (done % kSplit == 0 || (ends && done >= end)) && r < n; ++r) merge_split(rows[r], d);
  }
}

static void attend(const AttendArgs& a, const Queries* queries, int count, int shared, float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.head_dim;
  AttendRow rows[kAttendRows];
  int n = 0;
  for (int q = 0; q < count; ++q) n += start_rows(a, queries[q], rows + n, scratch + n * row_state(d));
  attend_pages(a, queries[0], rows, n, 0, shared, true, false);
  for (int q = 0, first = 0; q < count; ++q) {
    const int own = queries[q].count * (a.heads / a.cache.kv_heads);
    attend_pages(a, queries[q], rows + first, own, shared, rows[first + own - 1].length, true, true);
    first += own;
  }
  finish_rows(rows, n, d);
}

static void attend_split(const AttendArgs& a, const Queries& queries, int begin, int end, float* parts, float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.head_dim;
  AttendRow rows[kAttendRows];
  const int n = start_rows(a, queries, rows, scratch);
  attend_pages(a, queries, rows, n, begin, end, false, false);
  for (int r = 0; r < n; ++r, parts += d + kLanes + 1) {
    parts[0] = rows[r].split_top;
    std::memcpy(parts + 1, rows[r].sums, sizeof(float) * kLanes);
    std::memcpy(parts + 1 + kLanes, rows[r].partial, sizeof(float) * static_cast<size_t>(d));
  }
}

static void merge(const AttendArgs& a, const Queries& queries, const float* parts, int splits, float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.head_dim;
  AttendRow rows[kAttendRows];
  const int n = start_rows(a, queries, rows, scratch);
  for (int split = 0; split < splits; ++split) {
    for (int r = 0; r < n; ++r, parts += d + kLanes + 1) {
      rows[r].split_top = parts[0];
      std::memcpy(rows[r].sums, parts + 1, sizeof(float) * kLanes);
      std::memcpy(rows[r].partial, parts + 1 + kLanes, sizeof(float) * static_cast<size_t>(d));
      merge_split(rows[r], d);
    }
  }
  finish_rows(rows, n, d);
}

}  // namespace sampan::SAMPAN_ISA
