// Runs a program a step at a time.

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "bind_program.h"

namespace sampan {

// A span as Python hands it over: token ids, tokens before them, pages, how many of its last rows are
// sampled, the slot of its adapter or -1, the first sampled rows' targets, and the slots that its state is
// read from (-1: zeros) and left in.
using SpanArgs = std::tuple<std::vector<int32_t>, int, Ints, int, int, std::vector<int32_t>, int, int>;

// What a step reads.
struct Inputs {
  std::vector<int32_t> ids, positions, sampled, slots, targets, reads, writes;
  std::vector<Span> spans;
};

static void add_span(const Recorded& r, const SpanArgs& span, Inputs& to) {
  const auto& [ids, before, pages, sampled, slot, targets, reads, writes] = span;
  const int first = static_cast<int>(to.ids.size()), most = r.program->max_rows() - first;
  require(!ids.empty() && ids.size() <= static_cast<size_t>(most),
          "run: rows must be 1..max_rows, and some in each span");
  const int rows = static_cast<int>(ids.size());
  require(before >= 0, "run: fewer than no tokens before a span");
  require(sampled >= 0 && sampled <= rows, "run: more sampled rows than rows");
  require(slot >= -1 && slot < static_cast<int>(r.adapters.size()), "run: adapter slot outside the room");
  require(targets.size() <= static_cast<size_t>(sampled), "run: more targets than sampled rows");
  require(targets.empty() || r.program->takes_targets(),
          "run: targets of logits that no single product makes");
  for (const int32_t id : targets)
    require(id >= 0 && id < r.program->vocabulary(), "run: target outside the vocabulary");
  to.targets.insert(to.targets.end(), targets.begin(), targets.end());
  to.targets.insert(to.targets.end(), static_cast<size_t>(sampled) - targets.size(), -1);
  const int64_t used = (static_cast<int64_t>(before) + rows + kPage - 1) / kPage;
  require(used <= static_cast<int64_t>(pages.size()), "run: a span reaches past its pages");
  for (int64_t i = 0; i < used; ++i)
    require(pages.data()[i] >= 0 && pages.data()[i] < r.pages, "run: page outside the cache");
  for (int i = 0; i < rows; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    require(id >= 0 && id < r.vocabulary_in, "run: token id outside the vocabulary");
    to.ids.push_back(id);
    to.positions.push_back(before + i);
    if (i >= rows - sampled) to.sampled.push_back(first + i);
  }
  to.spans.push_back({first, rows, before, pages.data()});
  to.slots.push_back(slot);
  require(r.states == 0 || (reads >= -1 && reads < r.states && writes >= 0 && writes < r.states),
          "run: state outside the slots");
  to.reads.push_back(reads);
  to.writes.push_back(writes);
}

// Nobody writes what another reads or writes.
static void check_states(const Recorded& r, const Inputs& from) {
  if (r.program->state_floats() == 0) return;
  require(r.states > 0, "run: the program has no slot for states");
  std::vector<bool> written(static_cast<size_t>(r.states));
  for (const int32_t slot : from.writes) {
    require(!written[static_cast<size_t>(slot)], "run: two spans write one state");
    written[static_cast<size_t>(slot)] = true;
  }
  for (size_t s = 0; s < from.reads.size(); ++s) {
    const bool other = from.reads[s] >= 0 && from.reads[s] != from.writes[s];
    require(!other || !written[static_cast<size_t>(from.reads[s])],
            "run: a span reads a state that another writes");
  }
}

static Step step_of(Recorded& r, Inputs& from) {
  Step step;
  step.rows = static_cast<int>(from.ids.size());
  step.sampled = static_cast<int>(from.sampled.size());
  step.ids = from.ids.data();
  step.positions = from.positions.data();
  step.sampled_rows = from.sampled.data();
  step.spans = std::move(from.spans);
  step.cache = r.cache_memory.data();
  step.states = r.state_memory.as<float>();
  step.reads = std::move(from.reads);
  step.writes = std::move(from.writes);
  if (std::any_of(from.slots.begin(), from.slots.end(), [](int slot) { return slot >= 0; }))
    step.slots = std::move(from.slots);
  if (std::any_of(from.targets.begin(), from.targets.end(), [](int token) { return token >= 0; }))
    step.targets = std::move(from.targets);
  return step;
}

// Of each sampled row: its most probable token, that one's log-probability, and the log of the sum of
// exponentials, folded in float64 from the chunks in their order; of each row that is not finite the number
// of the first norm that read something not finite, or -1; and, where there are targets, their logits and the
// rows of logits that are held.
static nb::object summary(const Program& p, const Step& step) {
  nb::list best, logprobs, totals, chosen, held;
  nb::dict unsound;
  for (int row = 0; !p.has_logits() && row < step.sampled; ++row)
    if (p.unsound(step, row) >= 0) unsound[nb::int_(row)] = p.unsound(step, row);
  if (!p.has_logits()) return nb::make_tuple(best, logprobs, totals, unsound, chosen, held);
  for (size_t row = 0; row < p.chosen().size(); ++row) {
    chosen.append(p.chosen()[row]);
    held.append(p.held()[row]);
  }
  for (int row = 0; row < step.sampled; ++row) {
    const Stats* chunks = p.stats() + static_cast<ptrdiff_t>(row) * p.stats_chunks();
    const Stats* end = chunks + p.stats_chunks();
    const Stats& top =
        *std::max_element(chunks, end, [](const Stats& a, const Stats& b) { return a.max < b.max; });
    const double most = static_cast<double>(top.max);
    double sum = 0.0;
    for (const Stats* c = chunks; c < end; ++c)
      sum += static_cast<double>(c->sum) * std::exp(static_cast<double>(c->max) - most);
    const double total = std::log(sum) + most;
    best.append(top.argmax);
    logprobs.append(most - total);
    totals.append(total);
    if (!std::all_of(chunks, end, [](const Stats& c) { return c.finite == 1; }))
      unsound[nb::int_(row)] = p.unsound(step, row);
  }
  return nb::make_tuple(best, logprobs, totals, unsound, chosen, held);
}

// Runs a step of these spans, one after another.
static nb::object run_program(Recorded& r, const std::vector<SpanArgs>& spans) {
  Program& p = *r.program;
  if (!p.ok()) throw std::bad_alloc();
  require(!spans.empty(), "run: rows must be 1..max_rows");
  Inputs inputs;
  for (const SpanArgs& span : spans) add_span(r, span, inputs);
  check_states(r, inputs);
  const Step step = step_of(r, inputs);
  bool done;
  {
    Pool& pool = nb::cast<Pool&>(r.pool_owner);
    nb::gil_scoped_release release;
    const std::lock_guard turn(pool.turn());
    done = p.run(step);
  }
  if (!done) throw std::bad_alloc();
  if (!p.failure().empty()) throw std::runtime_error(p.failure());
  r.rows = step.rows;
  r.sampled = step.sampled;
  return summary(p, step);
}

// Of the last step's sampled rows without a target, valid until the next.
static nb::ndarray<nb::numpy, const float> logits_of(nb::handle self) {
  const Recorded& r = nb::cast<Recorded&>(self);
  const Program& p = *r.program;
  return {p.logits_data(),
          {static_cast<size_t>(p.held_rows()), static_cast<size_t>(p.vocabulary())},
          self,
          {p.logits_width(), 1}};
}

// Values that the last step left in a buffer, valid until the next.
static nb::ndarray<nb::numpy, const float> kept(nb::handle self, int buffer, int64_t offset, int width,
                                                bool sampled) {
  const Recorded& r = nb::cast<Recorded&>(self);
  const Program& p = *r.program;
  const Place place{buffer, offset};
  require(p.holds(place, width), "kept: the buffer does not hold the values");
  const size_t rows = static_cast<size_t>(sampled ? r.sampled : r.rows);
  return {p.data(place), {rows, static_cast<size_t>(width)}, self, {p.width(place), 1}};
}

// What the next step reads beside its tokens: [rows][width].
static void give(Recorded& r, int buffer, int64_t offset,
                 const nb::ndarray<nb::numpy, const float, nb::ndim<2>, nb::c_contig>& values) {
  Program& p = *r.program;
  const Place place{buffer, offset};
  const size_t width = values.shape(1);
  require(
      p.holds(place, static_cast<int64_t>(width)) && values.shape(0) <= static_cast<size_t>(p.rows(place)),
      "give: the buffer does not hold the values");
  for (size_t row = 0; row < values.shape(0); ++row)
    std::copy_n(values.data() + row * width, width,
                p.data(place) + row * static_cast<size_t>(p.width(place)));
}

// The second page of each pair becomes what the first is.
static void copy_pages(Recorded& r, const std::vector<std::tuple<int, int>>& pairs) {
  const auto known = [&](int page) { return page >= 0 && page < r.pages; };
  for (const auto& [from, to] : pairs)
    require(known(from) && known(to) && from != to, "copy_pages: page outside the cache, or onto itself");
  for (const auto& [from, to] : pairs) r.program->copy_page(r.cache_memory.data(), from, to);
}

void bind_run(nb::class_<Recorded>& program) {
  program.def("run", &run_program, nb::arg("spans"))
      .def("copy_pages", &copy_pages, nb::arg("pairs"))
      .def("kept", &kept, nb::arg("buffer"), nb::arg("offset"), nb::arg("width"), nb::arg("sampled"))
      .def("give", &give, nb::arg("buffer"), nb::arg("offset"), nb::arg("values"))
      .def_prop_ro("sampled_logits", &logits_of);
}

}  // namespace sampan
