// Rows of queries against pages of keys and values, written once against a vec_*.h. Dots are single FMA
// chains and lanes are tokens (scores) or features (values), so nothing is summed across lanes here. With a
// bf16 cache queries and probabilities are rounded to bf16 too, and a chain takes two elements at a time
// (`dot_bf16`).

namespace sampan::SAMPAN_ISA {

// One query row against one KV head: running maximum, sum and (unnormalised) output of a split and in all.
struct AttendRow {
  const float* q;
  float* out;
  int32_t length;    // tokens visible: position + 1
  float top, total;  // of all finished splits
  float split_top;
  float* merged;   // [head_dim]
  float* partial;  // [head_dim]
  float* sums;     // [16] of the split
  Scalar* pairs;   // [key_size] the query rounded to bf16, for a bf16 cache
};
constexpr float kNoTop = -3.0e38f;
constexpr int kPages = kPagesTogether;
static_assert(kPages == 2 && kSplit % (kPages * kPage) == 0);
// Floats of one row's merged, partial, sums and pairs.
static inline ptrdiff_t row_state(const CacheShape& s) { return 2 * s.value_size + kLanes + s.key_size; }

// A page's keys and values (CacheView has their order); scales of int8 pages, or null. `next`: the page that
// is read after it and asked for meanwhile, as pages lie too far apart for the machine to guess.
struct Page {
  const uint8_t* keys;
  const uint8_t* values;
  const uint8_t* next;
  const float* key_scales;
  const float* value_scales;
};

static inline Page page_of(const CacheView& c, const uint8_t* data, const uint8_t* next) {
  const size_t token = element_bytes(c.type) * kPage;
  const uint8_t* values = data + token * static_cast<size_t>(c.shape.key_size);
  const uint8_t* end = c.shape.latent ? values : values + token * static_cast<size_t>(c.shape.value_size);
  const float* scales = reinterpret_cast<const float*>(end);
  if (c.type != Cache::int8) return {data, values, next, nullptr, nullptr};
  return {data, values, next, scales, c.shape.latent ? scales : scales + kPage};
}

template <Cache C>
constexpr int kElement = C == Cache::f32    ? 4
                         : C == Cache::bf16 ? 2
                                            : 1;  // bytes

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
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2 * P; ++v) acc[r][v] = set1(0.0f);
  constexpr int kStep = C == Cache::bf16 ? 2 : 1, kBytes = kPage * kElement<C>;
  for (int i = 0; i < d; i += kStep) {
    for (int p = 0; p < P; ++p)
      for (int line = 0; line < kStep * kBytes; line += 64) prefetch_far(pages[p].next + i * kBytes + line);
    if constexpr (C == Cache::bf16) {
      B keys[2 * P];
      for (int v = 0; v < 2 * P; ++v)
        keys[v] =
            load_pairs(reinterpret_cast<const uint16_t*>(pages[v / 2].keys) + i * kPage + v % 2 * 2 * kLanes);
      for (int r = 0; r < R; ++r) {
        const auto q = set1_pair(rows[r].pairs + i);
        for (int v = 0; v < 2 * P; ++v) acc[r][v] = dot_bf16(acc[r][v], keys[v], q);
      }
    } else {
      F keys[2 * P];
      for (int v = 0; v < 2 * P; ++v)
        keys[v] = load_element<C>(pages[v / 2].keys, i * kPage + v % 2 * kLanes);
      for (int r = 0; r < R; ++r) {
        const F q = set1(rows[r].q[i]);
        for (int v = 0; v < 2 * P; ++v) acc[r][v] = fma(q, keys[v], acc[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2 * P; ++v) scores[r][v] = acc[r][v];
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

// A row's scores of N pages, turned into the values' weights: floats, or bf16 for a bf16 cache. A page beyond
// the row's length changes nothing, so that a row may be taken through it with others.
template <int N, Cache C>
static inline void page_softmax(AttendRow& row, F (&scores)[2 * kPages], const Page* pages, int d, int first,
                                float* weights) {
  for (int v = 0; C == Cache::int8 && v < 2 * N; ++v)
    scores[v] = mul(scores[v], load(pages[v / 2].key_scales + v % 2 * kLanes));
  for (int v = 0; row.length < first + N * kPage && v < 2 * N; ++v)
    scores[v] = first_lanes(scores[v], row.length - first - v * kLanes);
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
      store_scalars(reinterpret_cast<Scalar*>(weights) + n * kPage, low, high);
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

// acc += weights x V times 16 features of one token, or of two of a bf16 page. `Odd`: the second is not this
// sequence's.
template <int R, int V, Cache C, bool Odd>
static inline void token_values(F (&acc)[R][V], const float (*weights)[kPages * kPage], int token,
                                const uint8_t* values) {
  if constexpr (C == Cache::bf16) {
    B x[V];
    for (int v = 0; v < V; ++v) {
      x[v] = load_pairs(reinterpret_cast<const uint16_t*>(values) + 2 * v * kLanes);
      if constexpr (Odd) x[v] = even_only(x[v]);
    }
    for (int r = 0; r < R; ++r) {
      const auto weight = set1_pair(reinterpret_cast<const Scalar*>(weights[r]) + token);
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
static inline void page_values(F (&acc)[R][V], const float (*weights)[kPages * kPage], int n,
                               const Page& page, int d, int at, int tokens) {
  constexpr int kStep = C == Cache::bf16 ? 2 : 1;
  const uint8_t* values = page.values + kStep * at * kElement<C>;
  const ptrdiff_t next = page.next - page.keys, step = kStep * d * kElement<C>;
  int t = 0;
  for (; t + kStep <= tokens; t += kStep, values += step) {
    for (int line = 0; line < kStep * V * kLanes * kElement<C>; line += 64)
      prefetch_far(values + next + line);
    token_values<R, V, C, false>(acc, weights, n * kPage + t, values);
  }
  if (t < tokens) token_values<R, V, C, true>(acc, weights, n * kPage + t, values);
}

// partial += weights x the values of N pages.
template <int R, int V, int N, Cache C>
static inline void add_values(const AttendRow* rows, const float (*weights)[kPages * kPage],
                              const Page* pages, int d, int at, int tokens) {
  F acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = load(rows[r].partial + at + v * kLanes);
  for (int n = 0; n < N; ++n)
    page_values<R, V, C>(acc, weights, n, pages[n], d, at,
                         tokens - n * kPage < kPage ? tokens - n * kPage : kPage);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(rows[r].partial + at + v * kLanes, acc[r][v]);
}

// R rows against N pages, of which the second may lie beyond some rows.
template <int R, int N, Cache C>
static inline void pages_step(AttendRow* rows, const Page* pages, const CacheShape& s, int first) {
  F scores[R][2 * kPages];
  float weights[R][kPages * kPage];
  page_dots<R, N, C>(rows, pages, s.key_size, scores);
  const int d = s.value_size;
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    page_softmax<N, C>(rows[r], scores[r], pages, d, first, weights[r]);
    tokens = rows[r].length - first > tokens ? rows[r].length - first : tokens;
  }
  int at = 0;
  for (; at + 4 * kLanes <= d; at += 4 * kLanes) add_values<R, 4, N, C>(rows, weights, pages, d, at, tokens);
  if (at < d) add_values<R, 2, N, C>(rows, weights, pages, d, at, tokens);
}

}  // namespace sampan::SAMPAN_ISA
