// A step's experts: rows choose, are sorted, go through each expert's matrices, and come together again.

#include <algorithm>

#include "program.h"

namespace sampan {

int Program::router(const Router& router) {
  routers_.push_back(router);
  routing_.reserve(router, max_rows_);
  return static_cast<int>(routers_.size()) - 1;
}

int Program::group(std::vector<Matrix> matrices) {
  groups_.push_back({std::move(matrices)});
  return static_cast<int>(groups_.size()) - 1;
}

int Program::adapted(const std::vector<int>& outputs, int inputs, int router, HeadStrides heads) {
  const int rows = router < 0 ? max_rows_ : most_slots(routers_[static_cast<size_t>(router)], max_rows_);
  return adapters_.site(outputs, inputs, rows, ok_, heads);
}

bool Program::is_routed(const Instruction& i) {
  if (i.op == Op::shrink || i.op == Op::expand) return i.router >= 0;
  return i.op == Op::gather || i.op == Op::each || i.op == Op::gate_each || i.op == Op::stored;
}

// Panels of an expert's product, or pairs of panels and their ups.
int Program::columns_of(const Instruction& i) const {
  const Matrix& m = groups_[static_cast<size_t>(i.group)].matrices[0];
  return i.op == Op::gate_each ? m.n / 2 / kLanes / 2 : panels(m);
}

int Program::tiles_of(const Instruction& i, int rows) const {
  if (rows == 0) return 0;
  const Tile t = tile(columns_of(i), rows);
  return ceiling(columns_of(i), t.panels) * ceiling(rows, t.rows);
}

int Program::routed_items(const Instruction& i) const {
  if (i.staged) return 0;
  if (i.op == Op::gather) return routing_.slots();
  if (i.op == Op::shrink) return adapters_.shrink_items(i.site, Rows::slots);
  if (i.op == Op::expand) return adapters_.expand_items(i.site, Rows::slots);
  if (i.op == Op::stored)
    return expert_step_.failed.load(std::memory_order_relaxed) ? 0 : static_cast<int>(routing_.used().size());
  int items = 0;
  for (int expert : routing_.used()) items += tiles_of(i, routing_.count(expert));
  return items;
}

void Program::route(const Instruction& i, int begin, int end) {
  const Router& r = routers_[static_cast<size_t>(i.router)];
  for (int row = begin; row < end; ++row)
    routing_.route(r, at(i.x) + static_cast<ptrdiff_t>(row) * width(i.x), row);
}

// Gives every instruction up to `combine` its items: no thread looks for them before this phase is done.
void Program::sort(const Instruction& i, const Step& step) {
  const Router& r = routers_[static_cast<size_t>(i.router)];
  routing_.sort(r, rows(i, step), i.sampled ? nullptr : fine_rows_.data());
  if (!step.slots.empty()) adapters_.plan_slots(routing_, row_slots_, step_rows(i, step));
  const size_t here = static_cast<size_t>(&i - instructions_.data());
  for (size_t next = here + 1; next < instructions_.size() && instructions_[next].op != Op::combine; ++next) {
    const Instruction& other = instructions_[next];
    if (!is_routed(other) || !applies(other, step)) continue;
    const int items = routed_items(other);
    if (other.op == Op::stored && items > 0) begin_stored(other);
    routed_[next].value.store(items, std::memory_order_relaxed);
    remaining_[static_cast<size_t>(other.phase)].value.fetch_add(items, std::memory_order_release);
  }
}

Activations Program::slot_acts(int act, bool all_fine) const {
  Activations a = activations_[static_cast<size_t>(act)];
  a.fine = all_fine ? nullptr : routing_.fine();
  return a;
}

// Slots' rows of activations: of the step's rows (`gathers`), or of the slots' own.
void Program::gather(const Instruction& i, int begin, int end) {
  const int32_t* from = routing_.rows();
  const PrepArgs a{i.prep,
                   at(i.x),
                   width(i.x),
                   i.up,
                   i.weight,
                   i.eps,
                   i.gathers ? from : nullptr,
                   slot_acts(i.act, i.fine || i.sampled),
                   nullptr,
                   0,
                   nullptr,
                   i.width};
  while (begin < end) {
    while (begin < end && from[begin] < 0) ++begin;
    int stop = begin;
    while (stop < end && from[stop] >= 0) ++stop;
    if (begin < stop) kernels_.prepare(a, begin, stop);
    begin = stop;
  }
}

// One item of an expert's product.
void Program::tile_of(const Instruction& i, const Matrix& m, int expert, int item, int thread) {
  uint8_t* scratch = linear_scratch_[static_cast<size_t>(thread)].data();
  const int count = routing_.count(expert), columns = columns_of(i), begin = routing_.first(expert);
  const Tile t = tile(columns, count);
  const int across = ceiling(columns, t.panels);
  const int column = item % across * t.panels, row = item / across * t.rows;
  const int last = std::min(column + t.panels, columns), last_row = begin + std::min(row + t.rows, count);
  const bool fine = i.fine || i.sampled, direct = in_place(count);
  if (i.op == Op::each) {
    const LinearArgs a{m, slot_acts(i.act, fine), at(i.out), width(i.out), nullptr, false, direct};
    kernels_.linear(a, column, last, begin + row, last_row, scratch);
  } else {
    const GatedArgs a{m, slot_acts(i.act, fine), slot_acts(i.result, i.result_fine || i.sampled),
                      m.n / 2 / kLanes, direct};
    kernels_.gated(a, column, last, begin + row, last_row, scratch);
  }
}

void Program::each(const Instruction& i, int item, int thread) {
  for (int expert : routing_.used()) {
    const int own = tiles_of(i, routing_.count(expert));
    if (item < own) {
      const ExpertGroup& group = groups_[static_cast<size_t>(i.group)];
      return tile_of(i, group.matrices[static_cast<size_t>(expert)], expert, item, thread);
    }
    item -= own;
  }
}

// The weighted sum of a row's slots, in the order of the experts.
void Program::combine(const Instruction& i, int begin, int end) {
  const Router& r = routers_[static_cast<size_t>(i.router)];
  for (int row = begin; row < end; ++row) {
    float* out = at(i.out) + static_cast<ptrdiff_t>(row) * width(i.out);
    for (int c = 0; c < r.chosen; ++c) {
      const ptrdiff_t slot = routing_.slots_of(r, row)[c];
      const float* x = at(i.x) + slot * width(i.x);
      const float weight = routing_.weights_of(r, row)[c];
      if (c == 0) {
        for (int f = 0; f < i.width; ++f) out[f] = weight * x[f];
      } else {
        for (int f = 0; f < i.width; ++f) out[f] += weight * x[f];
      }
    }
  }
}

// Whether what the instruction names has room for all slots of a step.
bool Program::has_slots(const Instruction& i) const {
  const int slots = most_slots(routers_[static_cast<size_t>(i.router)], max_rows_);
  const auto rows = [&](int act) { return activations_[static_cast<size_t>(act)].capacity; };
  const auto room = [&](const Place& p) { return buffers_[static_cast<size_t>(p.buffer)].rows; };
  switch (i.op) {
    case Op::gather: return rows(i.act) >= slots && (i.gathers || room(i.x) >= slots);
    case Op::each: return rows(i.act) >= slots && room(i.out) >= slots;
    case Op::gate_each: return rows(i.act) >= slots && rows(i.result) >= slots;
    case Op::combine: return room(i.x) >= slots;
    case Op::shrink: return rows(i.act) >= slots;
    case Op::expand: return room(i.out) >= slots;
    default: return true;
  }
}

std::string Program::fault_of_experts(const Instruction& i) const {
  if (i.router < 0 || i.router >= static_cast<int>(routers_.size())) return "unknown router";
  if (i.op == Op::stored || i.op == Op::expect) return fault_of_stored(i);
  if (i.op == Op::sort) return "";
  if (i.op == Op::route)
    return holds(i.x, routers_[static_cast<size_t>(i.router)].experts) ? "" : "the scores are not there";
  if (i.op == Op::combine)
    return holds(i.x, i.width) && holds(i.out, i.width) && has_slots(i) ? "" : "a buffer has no room";
  if (i.op == Op::gather) {
    const std::string fault = fault_of_prepare(i);
    return !fault.empty() || has_slots(i) ? fault : "there is no room for the slots";
  }
  if (i.group < 0 || i.group >= static_cast<int>(groups_.size()) ||
      groups_[static_cast<size_t>(i.group)].matrices.empty())
    return "unknown experts";
  const ExpertGroup& group = groups_[static_cast<size_t>(i.group)];
  const std::vector<Matrix>& all = group.matrices;
  if (i.staged != (group.layer >= 0)) return "experts of the store are stages";
  if ((i.staged ? store_->experts(group.layer) : static_cast<int>(all.size())) !=
      routers_[static_cast<size_t>(i.router)].experts)
    return "the router has other experts";
  for (const Matrix& m : all) {
    if (m.n != all[0].n || m.k != all[0].k) return "experts differ in their sizes";
    Instruction one = i;
    one.matrix = m;
    if (i.staged) one.matrix.data = reinterpret_cast<const uint8_t*>(&one);  // it has none before it is read
    const std::string fault = i.op == Op::each ? fault_of_linear(one) : fault_of_gated(one);
    if (!fault.empty()) return fault;
  }
  return has_slots(i) ? "" : "there is no room for the slots";
}

}  // namespace sampan
