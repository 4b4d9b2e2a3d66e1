// Paged attention, written once against a vec_*.h: online softmax over pages of 32 tokens, partials merged
// every kSplit tokens.

namespace sampan::SAMPAN_ISA {

// Merges the split's partial into the row and starts a new split. A row that saw none of the split stays as
// it is.
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
static inline void pages_rows(AttendRow* rows, int count, const Page* pages, int n, const CacheShape& s,
                              int first) {
  int r = 0;
  while (r < count && rows[r].length <= first) ++r;
  for (; r < count; r += kAttendTile) {
    with_count<kAttendTile>(count - r, [&](auto tile) {
      const bool both = n > 1 && rows[r + tile - 1].length > first + kPage;
      if (both) pages_step<tile, 2, C>(rows + r, pages, s, first);
      else pages_step<tile, 1, C>(rows + r, pages, s, first);
    });
  }
}

// The rows of `queries`, ordered by length; their state lies in `state`. Returns how many.
static inline int start_rows(const AttendArgs& a, const Queries& queries, AttendRow* rows, float* state) {
  const CacheShape& s = a.cache.shape;
  const int d = s.value_size, group = a.heads / (s.kv_heads * a.parts);
  int n = 0;
  for (int i = 0; i < queries.count; ++i) {
    const ptrdiff_t at = queries.span.start + queries.row + i;
    for (int g = 0; g < group; ++g, ++n, state += row_state(s)) {
      const ptrdiff_t head = static_cast<ptrdiff_t>(queries.head * group + g);
      float* sums = state + 2 * d;
      rows[n] = {a.q + at * a.q_stride + head * s.key_size,
                 a.out + at * a.out_stride + head * d,
                 queries.span.past + queries.row + i + 1,
                 kNoTop,
                 0.0f,
                 kNoTop,
                 state,
                 state + d,
                 sums,
                 reinterpret_cast<Scalar*>(sums + kLanes)};
      std::memset(state, 0, sizeof(float) * static_cast<size_t>(2 * d + kLanes));
      for (int k = 0; k < s.key_size; k += kPage)
        store_scalars(rows[n].pairs + k, load(rows[n].q + k), load(rows[n].q + k + kLanes));
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

// Behind the state of all rows.
static inline uint8_t* turned_in(const CacheShape& s, float* scratch) {
  return reinterpret_cast<uint8_t*>(scratch + kAttendRows * row_state(s));
}

// The values of a latent page, one of those taken together, in the order in which others keep them: what its
// keys begin with.
static inline const uint8_t* turned_values(const CacheView& c, const uint8_t* keys, uint8_t* turned,
                                           int place) {
  const int d = c.shape.value_size;
  uint8_t* const out = turned + static_cast<size_t>(place * kPage * d) * element_bytes(c.type);
  if (c.type == Cache::bf16) {
    const uint16_t* k = reinterpret_cast<const uint16_t*>(keys);
    uint16_t* v = reinterpret_cast<uint16_t*>(out);
    for (int t = 0; t < kPage; t += 2, v += 2 * d)
      for (int f = 0; f < d; f += 2) {  // two features of two tokens
        const uint16_t* from = k + f * kPage + 2 * t;
        const uint16_t to[4] = {from[0], from[2], from[1], from[3]};
        std::memcpy(v + 2 * f, to, sizeof(to));
      }
  } else if (c.type == Cache::int8) {
    for (int f = 0; f < d; ++f)
      for (int t = 0; t < kPage; ++t) out[t * d + f] = keys[f * kPage + t];
  } else {
    const float* k = reinterpret_cast<const float*>(keys);
    float* v = reinterpret_cast<float*>(out);
    for (int f = 0; f < d; ++f)
      for (int t = 0; t < kPage; ++t) v[t * d + f] = k[f * kPage + t];
  }
  return out;
}

// Rows against the tokens [begin, end) of a sequence, whose splits are merged as they end, and the last one
// if it `ends`. Pages go in pairs from an even one on: a row's maximum is raised once for both.
static inline void attend_pages(const AttendArgs& a, const Queries& queries, AttendRow* rows, int n,
                                int begin, int end, bool merges, bool ends, uint8_t* turned) {
  const int d = a.cache.shape.value_size;
  const int head = queries.head / a.parts;
  const auto data = [&](int at) { return page_at(a.cache, queries.span.pages[at / kPage], head); };
  for (int first = begin; first < end; first += kPages * kPage) {
    Page pages[kPages];
    const int count = first + kPage < end ? 2 : 1;
    for (int p = 0; p < count; ++p) {
      const int at = first + p * kPage, next = at + kPages * kPage;
      const uint8_t* const here = data(at);
      pages[p] = page_of(a.cache, here, next < end ? data(next) : a.after[p] ? a.after[p] : here);
      if (a.cache.shape.latent) pages[p].values = turned_values(a.cache, pages[p].keys, turned, p);
    }
    if (a.cache.type == Cache::bf16) pages_rows<Cache::bf16>(rows, n, pages, count, a.cache.shape, first);
    else if (a.cache.type == Cache::int8)
      pages_rows<Cache::int8>(rows, n, pages, count, a.cache.shape, first);
    else pages_rows<Cache::f32>(rows, n, pages, count, a.cache.shape, first);
    const int done = first + kPages * kPage;
    for (int r = 0; merges && (done % kSplit == 0 || (ends && done >= end)) && r < n; ++r)
      merge_split(rows[r], d);
  }
}

static void attend(const AttendArgs& a, const Queries* queries, int count, int shared, float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.shape.value_size;
  AttendRow rows[kAttendRows];
  int n = 0;
  for (int q = 0; q < count; ++q)
    n += start_rows(a, queries[q], rows + n, scratch + n * row_state(a.cache.shape));
  uint8_t* const turned = turned_in(a.cache.shape, scratch);
  attend_pages(a, queries[0], rows, n, 0, shared, true, false, turned);
  for (int q = 0, first = 0; q < count; ++q) {
    const int own = queries[q].count * (a.heads / (a.cache.shape.kv_heads * a.parts));
    attend_pages(a, queries[q], rows + first, own, shared, rows[first + own - 1].length, true, true, turned);
    first += own;
  }
  finish_rows(rows, n, d);
}

static void attend_split(const AttendArgs& a, const Queries& queries, int begin, int end, float* parts,
                         float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.shape.value_size;
  AttendRow rows[kAttendRows];
  const int n = start_rows(a, queries, rows, scratch);
  attend_pages(a, queries, rows, n, begin, end, false, false, turned_in(a.cache.shape, scratch));
  for (int r = 0; r < n; ++r, parts += d + kLanes + 1) {
    parts[0] = rows[r].split_top;
    std::memcpy(parts + 1, rows[r].sums, sizeof(float) * kLanes);
    std::memcpy(parts + 1 + kLanes, rows[r].partial, sizeof(float) * static_cast<size_t>(d));
  }
}

static void merge(const AttendArgs& a, const Queries& queries, const float* parts, int splits,
                  float* scratch) {
  const FlushDenormals flush;
  const int d = a.cache.shape.value_size;
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
