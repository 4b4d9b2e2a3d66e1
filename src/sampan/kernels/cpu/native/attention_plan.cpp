#include "attention_plan.h"

#include <algorithm>

namespace sampan {

constexpr int kTokens = 16;  // of one item at most
constexpr int kItemsForEachThread = 8;

// Whole pages before a span's own tokens.
static int pages_before(const Span& span) { return span.past / kPage; }

static int common_pages(const Span& a, const Span& b) {
  const int most = std::min(pages_before(a), pages_before(b));
  return static_cast<int>(std::mismatch(a.pages, a.pages + most, b.pages).first - a.pages);
}

static int length_of(const Queries& q) { return q.span.past + q.row + q.count; }

void AttentionPlan::build(const std::vector<Span>& spans, const CacheShape& cache, int group, int threads) {
  queries_.clear();
  items_.clear();
  groups_.clear();
  used_ = 0;
  threads_ = threads;
  const int tokens = std::max(1, std::min(kAttendRows / group, kTokens));
  row_floats_ = static_cast<size_t>(group) * part_floats(cache.value_size);
  int whole = 0;
  for (const Span& span : spans) whole += ceiling(span.count, tokens) * cache.kv_heads;
  const bool split = whole < kItemsForEachThread * threads;
  std::vector<Span> single;
  for (const Span& span : spans) {
    if (span.count == 1 && !split) {
      single.push_back(span);
      continue;
    }
    for (int row = 0; row < span.count; row += tokens)
      add(span, row, std::min(tokens, span.count - row), cache.kv_heads, split);
  }
  // Several items for each thread, or one waits for another.
  build_short(single, std::max(1, std::min(kAttendRows / group, whole / (4 * threads))), cache.kv_heads);
  // The longest first, so that nobody waits for a last long one.
  std::stable_sort(items_.begin(), items_.end(),
                   [](const Item& a, const Item& b) { return a.cost > b.cost; });
  if (parts_.size() < used_) parts_.resize(used_);
  left_ = std::make_unique<Left[]>(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g)
    left_[g].value.store(groups_[g].splits, std::memory_order_relaxed);
}

void AttentionPlan::add(const Span& span, int row, int count, int heads, bool split) {
  for (int head = 0; head < heads; ++head) {
    const Queries queries{span, row, count, head};
    const int length = length_of(queries), splits = ceiling(length, kSplit);
    if (split && splits > 1) {
      add_splits(queries, splits);
      continue;
    }
    items_.push_back({queries_.size(), 1, 0, 0, length, -1, static_cast<int64_t>(length) * count});
    queries_.push_back(queries);
  }
}

void AttentionPlan::add_splits(const Queries& queries, int splits) {
  const int length = length_of(queries);
  for (int begin = 0; begin < length; begin += kSplit) {
    const int end = std::min(begin + kSplit, length);
    items_.push_back({queries_.size(), 1, 0, begin, end, static_cast<int>(groups_.size()),
                      static_cast<int64_t>(end - begin) * queries.count});
  }
  groups_.push_back({splits, used_});
  queries_.push_back(queries);
  used_ += static_cast<size_t>(splits * queries.count) * row_floats_;
}

// Spans of one token each: neighbours in the order of their pages share the most.
void AttentionPlan::build_short(std::vector<Span>& spans, int most, int heads) {
  std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::lexicographical_compare(a.pages, a.pages + pages_before(a), b.pages,
                                        b.pages + pages_before(b));
  });
  for (size_t first = 0; first < spans.size();) {
    size_t last = first + 1;
    while (last < spans.size() && common_pages(spans[first], spans[last]) >= kPagesTogether) ++last;
    // As many to each item.
    const size_t count = last - first,
                 parts = (count + static_cast<size_t>(most) - 1) / static_cast<size_t>(most);
    for (size_t part = 0; part < parts; ++part)
      add_sharing(spans, first + count * part / parts, first + count * (part + 1) / parts, heads);
    first = last;
  }
}

// The spans [first, last) as one item for each KV head.
void AttentionPlan::add_sharing(const std::vector<Span>& spans, size_t first, size_t last, int heads) {
  int shared = last - first > 1 ? pages_before(spans[first]) : 0;
  for (size_t s = first + 1; s < last; ++s) shared = std::min(shared, common_pages(spans[first], spans[s]));
  shared -= shared % kPagesTogether;
  for (int head = 0; head < heads; ++head) {
    const size_t at = queries_.size();
    int64_t cost = 0;
    for (size_t s = first; s < last; ++s) {
      queries_.push_back({spans[s], 0, 1, head});
      cost += length_of(queries_.back());
    }
    items_.push_back({at, static_cast<int>(last - first), shared * kPage, 0, 0, -1, cost});
  }
}

// The pages that a thread is likely to read after an item: those of the one that is left when each thread has
// taken one.
void AttentionPlan::look_ahead(AttendArgs& args, int index) const {
  const size_t next = static_cast<size_t>(index + threads_);
  if (next >= items_.size()) return;
  const Item& item = items_[next];
  const Queries& queries = queries_[item.first];
  for (int p = 0; p < kPagesTogether; ++p) {
    const int at = item.begin + p * kPage;
    if (at < length_of(queries))
      args.after[p] = page_at(args.cache, queries.span.pages[at / kPage], queries.head / args.parts);
  }
}

void AttentionPlan::run(const Kernels& kernels, AttendArgs args, int index, float* scratch) {
  look_ahead(args, index);
  const Item& item = items_[static_cast<size_t>(index)];
  const Queries* queries = queries_.data() + item.first;
  if (item.group < 0) return kernels.attend(args, queries, item.count, item.shared, scratch);
  const size_t group = static_cast<size_t>(item.group);
  const Group& whole = groups_[group];
  const size_t stride = static_cast<size_t>(queries->count) * row_floats_;
  float* parts = parts_.data() + whole.parts;
  kernels.attend_split(args, *queries, item.begin, item.end,
                       parts + static_cast<size_t>(item.begin / kSplit) * stride, scratch);
  if (left_[group].value.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  kernels.merge(args, *queries, parts, whole.splits, scratch);
  left_[group].value.store(whole.splits, std::memory_order_relaxed);  // for the next layer
}

}  // namespace sampan
