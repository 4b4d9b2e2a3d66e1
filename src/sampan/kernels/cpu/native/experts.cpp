#include "experts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels.h"

namespace sampan {

static size_t at(int n) { return static_cast<size_t>(n); }

int most_slots(const Router& router, int rows) {
  const int pairs = rows * router.chosen;
  return pairs + std::min(router.experts, pairs) * (kQuad - 1);
}

void Routing::reserve(const Router& router, int rows) {
  const size_t pairs = at(rows * router.chosen), slots = at(most_slots(router, rows));
  choice_.resize(std::max(choice_.size(), pairs));
  weight_.resize(std::max(weight_.size(), pairs));
  slot_.resize(std::max(slot_.size(), pairs));
  slot_row_.resize(std::max(slot_row_.size(), slots));
  slot_fine_.resize(std::max(slot_fine_.size(), slots));
  first_.resize(std::max(first_.size(), at(router.experts)));
  count_.resize(std::max(count_.size(), at(router.experts)));
}

// Scores as probabilities, in float64: the same on every machine once they are rounded.
static void activate(const Router& r, const float* scores, std::vector<float>& out) {
  out.resize(at(r.experts));
  if (r.sigmoid) {
    for (int e = 0; e < r.experts; ++e)
      out[at(e)] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(scores[e]))));
    return;
  }
  const float most = *std::max_element(scores, scores + r.experts);
  double sum = 0.0;
  for (int e = 0; e < r.experts; ++e) sum += std::exp(static_cast<double>(scores[e]) - most);
  for (int e = 0; e < r.experts; ++e)
    out[at(e)] = static_cast<float>(std::exp(static_cast<double>(scores[e]) - most) / sum);
}

// Numbers of the `count` largest of values [begin, end), the earlier of equal ones first.
static std::vector<int> largest(const std::vector<float>& values, int begin, int end, int count) {
  std::vector<int> order(at(end - begin));
  std::iota(order.begin(), order.end(), begin);
  const auto before = [&](int a, int b) {
    return values[at(a)] != values[at(b)] ? values[at(a)] > values[at(b)] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), before);
  order.resize(at(count));
  return order;
}

// Choices outside of the best groups get no chance at all.
static void limit(const Router& r, std::vector<float>& choice) {
  const int each = r.experts / r.groups;
  std::vector<float> best(at(r.groups));
  for (int g = 0; g < r.groups; ++g)
    for (int e : largest(choice, g * each, (g + 1) * each, r.group_top)) best[at(g)] += choice[at(e)];
  std::vector<bool> kept(at(r.groups));
  for (int g : largest(best, 0, r.groups, r.groups_kept)) kept[at(g)] = true;
  for (int e = 0; e < r.experts; ++e)
    if (!kept[at(e / each)]) choice[at(e)] = -std::numeric_limits<float>::infinity();
}

std::vector<int> chosen_by(const Router& r, const float* scores, std::vector<float>& own) {
  activate(r, scores, own);
  std::vector<float> choice = own;
  for (int e = 0; r.bias && e < r.experts; ++e) choice[at(e)] += r.bias[e];
  for (float& x : choice)  // a number that is none has no order; its weight poisons the row, and no other
    if (std::isnan(x)) x = -std::numeric_limits<float>::infinity();
  if (r.groups > 1) limit(r, choice);
  return largest(choice, 0, r.experts, r.chosen);
}

void Routing::route(const Router& r, const float* scores, int row) {
  std::vector<float> own;
  std::vector<int> chosen = chosen_by(r, scores, own);
  float sum = 0.0f;
  for (int e : chosen) sum += own[at(e)];
  std::sort(chosen.begin(), chosen.end());
  const float divisor = !r.normalised ? 1.0f : r.sigmoid ? sum + 1e-20f : sum;
  for (int c = 0; c < r.chosen; ++c) {
    choice_[at(row * r.chosen + c)] = chosen[at(c)];
    weight_[at(row * r.chosen + c)] = own[at(chosen[at(c)])] / divisor * r.scale;
  }
}

void Routing::sort(const Router& r, int rows, const uint8_t* fine) {
  std::fill(count_.begin(), count_.end(), 0);
  for (int pair = 0; pair < rows * r.chosen; ++pair) ++count_[at(choice_[at(pair)])];
  used_.clear();
  slots_ = 0;
  for (int e = 0; e < r.experts; ++e) {
    if (count_[at(e)] == 0) continue;
    used_.push_back(e);
    first_[at(e)] = slots_;
    slots_ += (count_[at(e)] + kQuad - 1) / kQuad * kQuad;
    count_[at(e)] = 0;
  }
  std::fill(slot_row_.begin(), slot_row_.begin() + slots_, -1);
  for (int row = 0; row < rows; ++row) {
    for (int c = 0; c < r.chosen; ++c) {
      const int pair = row * r.chosen + c, expert = choice_[at(pair)];
      const int slot = first_[at(expert)] + count_[at(expert)]++;
      slot_[at(pair)] = slot;
      slot_row_[at(slot)] = row;
      slot_fine_[at(slot)] = !fine || fine[row];
    }
  }
}

}  // namespace sampan
