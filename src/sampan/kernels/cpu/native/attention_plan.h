// One step's attention as items of work for the pool's threads.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kernels.h"

namespace sampan {

class AttentionPlan {
 public:
  // As many tokens of one span as fill kAttendRows query rows, for each KV head; short spans whose sequences
  // begin with the same pages become one item, which reads those pages once. Where that is too little work
  // for the threads, the splits of long sequences become items of their own. `group`: query heads of one KV
  // head.
  void build(const std::vector<Span>& spans, const CacheShape& cache, int group, int threads);
  int items() const { return static_cast<int>(items_.size()); }
  // Any thread, any order, each item once a layer. `scratch`: attend_scratch floats.
  void run(const Kernels& kernels, AttendArgs args, int item, float* scratch);

 private:
  struct Item {
    size_t first;  // of its queries
    int count;
    int shared;      // tokens that all of them begin with
    int begin, end;  // tokens of a split
    int group;       // whose part it makes, or -1: it makes the result
    int64_t cost;
  };
  struct Group {  // parts of one result, one for each split
    int splits;
    size_t parts;  // where they start
  };
  struct Left {
    std::atomic<int> value{0};
  };

  void add(const Span& span, int row, int count, int heads, bool split);
  void add_splits(const Queries& queries, int splits);
  void add_sharing(const std::vector<Span>& spans, size_t first, size_t last, int heads);
  void build_short(std::vector<Span>& spans, int most, int heads);
  void look_ahead(AttendArgs& args, int index) const;

  std::vector<Queries> queries_;
  std::vector<Item> items_;
  std::vector<Group> groups_;
  std::vector<float> parts_;
  int threads_ = 1;
  size_t row_floats_ = 0, used_ = 0;  // floats of one token's part, and of all parts
  std::unique_ptr<Left[]> left_;      // [groups] parts that are not made yet
};

}  // namespace sampan
