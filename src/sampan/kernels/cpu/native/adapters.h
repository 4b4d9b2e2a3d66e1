// Low-rank adapters (arXiv:2106.09685) of a program: y += B (A x) for the rows whose sequence has one. Both
// products are the float kernels' own, one chain for each output, so a row's bits depend on the row and its
// adapter alone.
#pragma once

#include <vector>

#include "experts.h"
#include "kernels.h"
#include "memory.h"

namespace sampan {

// For one part of a linear. No data: the adapter leaves the part alone.
struct LowRank {
  Matrix a{};  // [rank, inputs]
  Matrix b{};  // [outputs, rank padded to whole panels], with the adapter's scale
};

// Where parts are matrices of heads, which do not all read and write the same features: from one part's
// inputs to the next one's, and from its outputs.
struct HeadStrides {
  int from = 0, to = 0;
};

// The rows that a linear works on: the step's, the sampled ones, or the slots of experts.
enum class Rows { all, sampled, slots };

class Adapters {
 public:
  // Room for `slots` adapters of at most `rank`; before the first site.
  void reserve(int slots, int rank, int max_rows);
  // A linear that may be adapted: outputs of its parts, which lie one after another from whole panels on, for
  // so many rows. Returns its number; its parts are numbered on. `ok` is cleared when memory is refused. The
  // linears of a layer's experts have numbers one after another.
  int site(const std::vector<int>& outputs, int inputs, int rows, bool& ok, HeadStrides heads = {});

  const char* fault(int slot, int part, const LowRank& low) const;  // what is wrong with it, or null
  void set(int slot, int part, const LowRank& low) {
    low_[static_cast<size_t>(slot)][static_cast<size_t>(part)] = low;
  }
  void clear(int slot);

  // `slots`: of every row, -1 for none.
  void plan(const std::vector<int32_t>& slots, int rows, const int32_t* sampled_rows, int sampled);
  // Of the slots of a step whose rows chose, once they are sorted. `sampled_rows`: of these, or null.
  void plan_slots(const Routing& routing, const std::vector<int32_t>& slots, const int32_t* sampled_rows);
  int shrink_items(int site, Rows which) const;
  int expand_items(int site, Rows which) const;
  void shrink(const Kernels& kernels, const Activations& x, int site, Rows which, int begin, int end) const;
  void expand(const Kernels& kernels, float* out, ptrdiff_t stride, int site, Rows which, int begin,
              int end) const;

  int slots() const { return static_cast<int>(low_.size()); }
  int outputs(int site) const;  // floats from the first of its outputs to the last
  size_t bytes() const { return inner_.bytes(); }

 private:
  struct Site {
    int first;                // number of its first part
    std::vector<int> starts;  // panels before each part, and all of them
    HeadStrides heads;
    int parts() const { return static_cast<int>(starts.size()) - 1; }
  };
  struct Part {
    int panels, inputs;
  };
  struct Run {  // neighbouring rows of one adapter, and of one expert
    int slot, begin, end, expert = 0;
  };

  // Of the site that a run is of.
  const Site& site_of(int site, const Run& run) const {
    return sites_[static_cast<size_t>(site + run.expert)];
  }
  static void collect(std::vector<Run>& runs, int begin, int end, int expert, auto slot_of);
  const LowRank& low(const Run& run, int part) const {
    return low_[static_cast<size_t>(run.slot)][static_cast<size_t>(part)];
  }
  const std::vector<Run>& runs(Rows which) const { return runs_[static_cast<size_t>(which)]; }
  float* inner(int part, const Run& run) const;

  int rank_panels_ = 0, max_rows_ = 0, most_parts_ = 0;
  std::vector<Site> sites_;
  std::vector<Part> parts_;
  std::vector<std::vector<LowRank>> low_;  // [slot][part]
  std::vector<Run> runs_[3];               // by Rows
  Memory inner_;                           // A x: [part of a site][row][rank]
};

}  // namespace sampan
