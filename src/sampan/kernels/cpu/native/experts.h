// Which experts a step's rows go through, and where: every pair of a row and one of its experts has a slot,
// and an expert's slots lie together, from a whole quad of rows on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sampan {

// How a row chooses: ops.py's Router.
struct Router {
  int experts = 0, chosen = 0, groups = 1, groups_kept = 1, group_top = 1;
  bool sigmoid = false, normalised = true;
  float scale = 1.0f;
  const float* bias = nullptr;  // [experts], or null
};

// Slots of so many rows at the most.
int most_slots(const Router& router, int rows);

// Experts that a row chooses by its scores [experts], the best first; `own`: the probabilities of all.
std::vector<int> chosen_by(const Router& router, const float* scores, std::vector<float>& own);

class Routing {
 public:
  void reserve(const Router& router, int rows);
  // A row's choice by its scores [experts].
  void route(const Router& router, const float* scores, int row);
  // Slots for the choices of all rows. `fine`: [rows], or null where every row is fine.
  void sort(const Router& router, int rows, const uint8_t* fine);

  int slots() const { return slots_; }
  const std::vector<int32_t>& used() const { return used_; }  // experts with rows, ascending
  int first(int expert) const { return first_[static_cast<std::size_t>(expert)]; }
  int count(int expert) const { return count_[static_cast<std::size_t>(expert)]; }
  const int32_t* rows() const {
    return slot_row_.data();
  }  // [slots] the row, or -1 where a quad is filled up
  const uint8_t* fine() const { return slot_fine_.data(); }
  // Of a row's experts, ascending: [chosen].
  const int32_t* slots_of(const Router& r, int row) const { return slot_.data() + row * r.chosen; }
  const float* weights_of(const Router& r, int row) const { return weight_.data() + row * r.chosen; }

 private:
  std::vector<int32_t> choice_, slot_, slot_row_, used_, first_, count_;
  std::vector<float> weight_;
  std::vector<uint8_t> slot_fine_;
  int slots_ = 0;
};

}  // namespace sampan
