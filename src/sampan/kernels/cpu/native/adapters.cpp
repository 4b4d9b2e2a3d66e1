#include "adapters.h"

#include <algorithm>

namespace sampan {

constexpr int kRunRows = 24;      // rows of one item
constexpr int kSlicePanels = 24;  // outputs of one item, in panels

void Adapters::reserve(int slots, int rank, int max_rows) {
  low_.resize(static_cast<size_t>(slots));
  rank_panels_ = ceiling(rank, kLanes);
  max_rows_ = max_rows;
}

int Adapters::site(const std::vector<int>& outputs, int inputs, bool& ok) {
  Site s{static_cast<int>(parts_.size()), {0}};
  for (int n : outputs) {
    parts_.push_back({ceiling(n, kLanes), inputs});
    s.starts.push_back(s.starts.back() + parts_.back().panels);
  }
  for (std::vector<LowRank>& slot : low_) slot.resize(parts_.size());
  if (s.parts() > most_parts_) {
    most_parts_ = s.parts();
    inner_ = Memory(static_cast<size_t>(most_parts_) * static_cast<size_t>(max_rows_) *
                    static_cast<size_t>(rank_panels_ * kLanes) * 4);
    ok = ok && inner_.data();
  }
  sites_.push_back(std::move(s));
  return static_cast<int>(sites_.size()) - 1;
}

const char* Adapters::fault(int slot, int part, const LowRank& low) const {
  if (slot < 0 || slot >= slots()) return "adapter: slot outside the room";
  if (part < 0 || part >= static_cast<int>(parts_.size())) return "adapter: unknown part";
  if (operand_of(low.a) != Operand::f32 || operand_of(low.b) != Operand::f32)
    return "adapter: A and B must be f32 or f16 matrices";
  const Part& p = parts_[static_cast<size_t>(part)];
  if (low.a.k != p.inputs || panels(low.a) > rank_panels_)
    return "adapter: A must have the part's inputs, and a rank within the room";
  if (panels(low.b) != p.panels || low.b.k != panels(low.a) * kLanes)
    return "adapter: B must have the part's outputs and A's rank in whole panels";
  return nullptr;
}

void Adapters::clear(int slot) {
  for (LowRank& low : low_[static_cast<size_t>(slot)]) low = {};
}

void Adapters::plan(const std::vector<int32_t>& slots, int rows, const int32_t* sampled_rows, int sampled) {
  const auto collect = [](std::vector<Run>& runs, int count, auto slot_of) {
    runs.clear();
    for (int i = 0; i < count; ++i) {
      const int slot = slot_of(i);
      if (slot < 0) continue;
      const bool more = !runs.empty() && runs.back().slot == slot && runs.back().end == i &&
                        i - runs.back().begin < kRunRows;
      if (more) ++runs.back().end;
      else runs.push_back({slot, i, i + 1});
    }
  };
  collect(all_, rows, [&](int i) { return slots[static_cast<size_t>(i)]; });
  collect(sampled_, sampled, [&](int i) { return slots[static_cast<size_t>(sampled_rows[i])]; });
}

int Adapters::shrink_items(int site, bool sampled) const {
  return static_cast<int>(runs(sampled).size()) * sites_[static_cast<size_t>(site)].parts() * rank_panels_;
}

int Adapters::expand_items(int site, bool sampled) const {
  return static_cast<int>(runs(sampled).size()) *
         ceiling(sites_[static_cast<size_t>(site)].starts.back(), kSlicePanels);
}

// A run's rows lie together, each as long as its own adapter's rank in whole panels.
float* Adapters::inner(int part, const Run& run) const {
  return inner_.as<float>() + (static_cast<ptrdiff_t>(part) * max_rows_ + run.begin) * rank_panels_ * kLanes;
}

void Adapters::shrink(const Kernels& kernels, const Activations& x, int site, bool sampled, int begin,
                      int end) const {
  const Site& s = sites_[static_cast<size_t>(site)];
  for (int item = begin; item < end; ++item) {
    const int panel = item % rank_panels_, part = item / rank_panels_ % s.parts();
    const Run& run = runs(sampled)[static_cast<size_t>(item / rank_panels_ / s.parts())];
    const Matrix& a = low(run, s.first + part).a;
    if (!a.data || panel >= panels(a)) continue;
    kernels.linear({a, x, inner(part, run), panels(a) * kLanes, nullptr, false, false, run.begin}, panel,
                   panel + 1, run.begin, run.end, nullptr);
  }
}

void Adapters::expand(const Kernels& kernels, float* out, ptrdiff_t stride, int site, bool sampled, int begin,
                      int end) const {
  const Site& s = sites_[static_cast<size_t>(site)];
  const int slices = ceiling(s.starts.back(), kSlicePanels);
  for (int item = begin; item < end; ++item) {
    const Run& run = runs(sampled)[static_cast<size_t>(item / slices)];
    const int from = item % slices * kSlicePanels, to = std::min(from + kSlicePanels, s.starts.back());
    for (int part = 0; part < s.parts(); ++part) {
      const int start = s.starts[static_cast<size_t>(part)];
      const int first = std::max(from, start), last = std::min(to, s.starts[static_cast<size_t>(part) + 1]);
      const Matrix& b = low(run, s.first + part).b;
      if (!b.data || first >= last) continue;
      Activations x{};
      x.k = b.k;
      x.values = inner(part, run);
      kernels.linear(
          {b, x, out + run.begin * stride + first * kLanes, stride, nullptr, true, false, 0, first - start},
          first - start, last - start, 0, run.end - run.begin, nullptr);
    }
  }
}

}  // namespace sampan
