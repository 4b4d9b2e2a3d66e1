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

int Adapters::site(const std::vector<int>& outputs, int inputs, int rows, bool& ok, HeadStrides heads) {
  Site s{static_cast<int>(parts_.size()), {0}, heads};
  for (int n : outputs) {
    parts_.push_back({ceiling(n, kLanes), inputs});
    s.starts.push_back(s.starts.back() + parts_.back().panels);
  }
  for (std::vector<LowRank>& slot : low_) slot.resize(parts_.size());
  if (s.parts() > most_parts_ || rows > max_rows_) {
    most_parts_ = std::max(most_parts_, s.parts());
    max_rows_ = std::max(max_rows_, rows);
    inner_ = Memory(static_cast<size_t>(most_parts_) * static_cast<size_t>(max_rows_) *
                    static_cast<size_t>(rank_panels_ * kLanes) * 4);
    ok = ok && inner_.data();
  }
  sites_.push_back(std::move(s));
  return static_cast<int>(sites_.size()) - 1;
}

int Adapters::outputs(int site) const {
  const Site& s = sites_[static_cast<size_t>(site)];
  if (s.heads.to == 0) return s.starts.back() * kLanes;
  return (s.parts() - 1) * s.heads.to + s.starts[1] * kLanes;
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

// Rows [begin, end) of one expert, or of none.
void Adapters::collect(std::vector<Run>& runs, int begin, int end, int expert, auto slot_of) {
  for (int i = begin; i < end; ++i) {
    const int slot = slot_of(i);
    if (slot < 0) continue;
    const bool more = i > begin && !runs.empty() && runs.back().slot == slot && runs.back().end == i &&
                      i - runs.back().begin < kRunRows;
    if (more) ++runs.back().end;
    else runs.push_back({slot, i, i + 1, expert});
  }
}

void Adapters::plan(const std::vector<int32_t>& slots, int rows, const int32_t* sampled_rows, int sampled) {
  for (std::vector<Run>& runs : runs_) runs.clear();
  collect(runs_[0], 0, rows, 0, [&](int i) { return slots[static_cast<size_t>(i)]; });
  collect(runs_[1], 0, sampled, 0, [&](int i) { return slots[static_cast<size_t>(sampled_rows[i])]; });
}

void Adapters::plan_slots(const Routing& routing, const std::vector<int32_t>& slots,
                          const int32_t* sampled_rows) {
  runs_[2].clear();
  for (int expert : routing.used()) {
    const int first = routing.first(expert);
    collect(runs_[2], first, first + routing.count(expert), expert, [&](int i) {
      const int row = routing.rows()[i];
      return slots[static_cast<size_t>(sampled_rows ? sampled_rows[row] : row)];
    });
  }
}

int Adapters::shrink_items(int site, Rows which) const {
  return static_cast<int>(runs(which).size()) * sites_[static_cast<size_t>(site)].parts() * rank_panels_;
}

int Adapters::expand_items(int site, Rows which) const {
  return static_cast<int>(runs(which).size()) *
         ceiling(sites_[static_cast<size_t>(site)].starts.back(), kSlicePanels);
}

// A run's rows lie together, each as long as its own adapter's rank in whole panels.
float* Adapters::inner(int part, const Run& run) const {
  return inner_.as<float>() + (static_cast<ptrdiff_t>(part) * max_rows_ + run.begin) * rank_panels_ * kLanes;
}

void Adapters::shrink(const Kernels& kernels, const Activations& x, int site, Rows which, int begin,
                      int end) const {
  const int parts = sites_[static_cast<size_t>(site)].parts();
  for (int item = begin; item < end; ++item) {
    const int panel = item % rank_panels_, part = item / rank_panels_ % parts;
    const Run& run = runs(which)[static_cast<size_t>(item / rank_panels_ / parts)];
    const Site& s = site_of(site, run);
    const Matrix& a = low(run, s.first + part).a;
    if (!a.data || panel >= panels(a)) continue;
    Activations own = x;
    own.values += static_cast<ptrdiff_t>(part) * s.heads.from;
    kernels.linear({a, own, inner(part, run), panels(a) * kLanes, nullptr, false, false, run.begin}, panel,
                   panel + 1, run.begin, run.end, nullptr);
  }
}

void Adapters::expand(const Kernels& kernels, float* out, ptrdiff_t stride, int site, Rows which, int begin,
                      int end) const {
  const int slices = ceiling(sites_[static_cast<size_t>(site)].starts.back(), kSlicePanels);
  for (int item = begin; item < end; ++item) {
    const Run& run = runs(which)[static_cast<size_t>(item / slices)];
    const Site& s = site_of(site, run);
    const int from = item % slices * kSlicePanels, to = std::min(from + kSlicePanels, s.starts.back());
    for (int part = 0; part < s.parts(); ++part) {
      const int start = s.starts[static_cast<size_t>(part)];
      const int first = std::max(from, start), last = std::min(to, s.starts[static_cast<size_t>(part) + 1]);
      const Matrix& b = low(run, s.first + part).b;
      if (!b.data || first >= last) continue;
      Activations x{};
      x.k = b.k;
      x.values = inner(part, run);
      const int at = s.heads.to ? part * s.heads.to + (first - start) * kLanes : first * kLanes;
      kernels.linear({b, x, out + run.begin * stride + at, stride, nullptr, true, false, 0, first - start},
                     first - start, last - start, 0, run.end - run.begin, nullptr);
    }
  }
}

}  // namespace sampan
