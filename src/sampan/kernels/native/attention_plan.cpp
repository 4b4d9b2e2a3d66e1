#include "attention_plan.h"

#include <algorithm>

namespace sampan {

constexpr int kTokens = 16;           // of one item at most
constexpr int kItemsForEachThread = 8;

static int ceiling(int n, int divisor) { return (n + divisor - 1) / divisor; }

void AttentionPlan::build(const std::vector<Span>& spans, const CacheView& cache, int group, int threads) {
  items_.clear();
  groups_.clear();
  used_ = 0;
  const int tokens = std::max(1, std::min(kAttendRows / group, kTokens));
  row_floats_ = static_cast<size_t>(group) * static_cast<size_t>(cache.head_dim + 2);
  int whole = 0;
  for (const Span& span : spans) whole += ceiling(span.count, tokens) * cache.kv_heads;
  for (const Span& span : spans)
    for (int row = 0; row < span.count; row += tokens)
      for (int head = 0; head < cache.kv_heads; ++head)
        add({span, row, std::min(tokens, span.count - row), head}, whole < kItemsForEachThread * threads);
  // The longest first, so that nobody waits for a last long one.
  const auto cost = [](const Item& i) { return static_cast<int64_t>(i.end - i.begin) * i.queries.count; };
  std::stable_sort(items_.begin(), items_.end(), [&](const Item& a, const Item& b) { return cost(a) > cost(b); });
  if (parts_.size() < used_) parts_.resize(used_);
  left_ = std::make_unique<Left[]>(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) left_[g].value.store(groups_[g].splits, std::memory_order_relaxed);
}

void AttentionPlan::add(const Queries& queries, bool split) {
  const int length = queries.span.past + queries.row + queries.count, splits = ceiling(length, kSplit);
  if (!split || splits == 1) {
    items_.push_back({queries, 0, length, -1});
    return;
  }
  for (int i = 0; i < splits; ++i)
    items_.push_back({queries, i * kSplit, std::min((i + 1) * kSplit, length), static_cast<int>(groups_.size())});
  groups_.push_back({queries, splits, used_});
  used_ += static_cast<size_t>(splits * queries.count) * row_floats_;
}

void AttentionPlan::run(const Kernels& kernels, const AttendArgs& args, int index, float* scratch) {
  const Item& item = items_[static_cast<size_t>(index)];
  if (item.group < 0) return kernels.attend(args, item.queries, item.begin, item.end, nullptr, scratch);
  const size_t group = static_cast<size_t>(item.group);
  const Group& whole = groups_[group];
  const size_t stride = static_cast<size_t>(whole.queries.count) * row_floats_;
  float* parts = parts_.data() + whole.parts;
  kernels.attend(args, item.queries, item.begin, item.end, parts + static_cast<size_t>(item.begin / kSplit) * stride, scratch);
  if (left_[group].value.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  kernels.merge(args, whole.queries, parts, whole.splits, scratch);
  left_[group].value.store(whole.splits, std::memory_order_relaxed);  // for the next layer
}

}  // namespace sampan
