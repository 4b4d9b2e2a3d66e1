// Adapters of a program: their places, recorded with it, and their matrices, set between two steps.

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>

#include "bind_program.h"

namespace sampan {

using Part = std::tuple<int, nb::object, nb::object>;  // its number, A and B

static void reserve(Recorded& r, int slots, int rank) {
  require(slots > 0 && slots <= 4096 && rank > 0 && rank <= 4096,
          "adapters: room for 1 to 4096 of them, of rank 1 to 4096");
  require(r.adapters.empty(), "adapters: room is made once");
  r.adapters.resize(static_cast<size_t>(slots));
  r.program->adapters().reserve(slots, rank, r.program->max_rows());
}

static void check(const Recorded& r, const std::vector<int>& outputs) {
  require(!r.adapters.empty(), "adapt: no room was made for adapters");
  require(!outputs.empty(), "adapt: a linear has parts");
  for (int n : outputs) require(n > 0 && n <= INT32_MAX / 64, "adapt: outputs must be positive");
}

static void add_adapted(Recorded& r, Instruction shrink, Instruction expand) {
  for (Instruction* i : {&shrink, &expand}) {
    i->when = When::adapted;
    const std::string fault = r.program->fault(*i);
    if (!fault.empty()) throw std::invalid_argument(fault);
  }
  add(r, shrink);
  add(r, expand);
}

// The linear just recorded may be adapted: `act` are its input rows as floats, `out` is where its outputs
// are. Of matrices of heads: inputs of each, and the strides between them.
static void adapt(Recorded& r, const std::vector<int>& outputs, int act, int out, int offset, bool sampled,
                  int inputs, int from, int to) {
  check(r, outputs);
  const int64_t others = static_cast<int64_t>(outputs.size()) - 1;
  require(inputs >= 0 && from >= 0 && to >= 0 && others * from + inputs <= r.program->inputs(act),
          "adapt: heads read more than the rows have");
  Instruction shrink{Op::shrink}, expand{Op::expand};
  shrink.joined = true;
  shrink.act = act;
  shrink.sampled = expand.sampled = sampled;
  shrink.site = expand.site =
      r.program->adapted(outputs, inputs ? inputs : r.program->inputs(act), -1, {from, to});
  expand.out = {out, offset};
  add_adapted(r, shrink, expand);
}

// The same of a layer's experts, whose linears have the same outputs, on the slots of a router.
static void adapt_each(Recorded& r, const std::vector<int>& outputs, int experts, int act, int out,
                       int offset, int router) {
  check(r, outputs);
  require(r.program->experts(router) == experts, "adapt: the router has other experts");
  Instruction shrink{Op::shrink}, expand{Op::expand};
  shrink.act = act;
  shrink.router = expand.router = router;
  expand.out = {out, offset};
  for (int expert = 0; expert < experts; ++expert) {
    const int site = r.program->adapted(outputs, r.program->inputs(act), router);
    if (expert == 0) shrink.site = expand.site = site;
  }
  add_adapted(r, shrink, expand);
}

static void record_for(Recorded& r, const std::string& steps) {
  require(steps == "all" || steps == "plain" || steps == "adapted",
          "record_for: all, plain or adapted steps");
  r.program->record_for(steps == "all" ? When::always : steps == "plain" ? When::plain : When::adapted);
}

static void clear_adapter(Recorded& r, int slot) {
  require(slot >= 0 && slot < static_cast<int>(r.adapters.size()), "adapter: slot outside the room");
  r.program->adapters().clear(slot);
  r.adapters[static_cast<size_t>(slot)].clear();
}

static void set_adapter(Recorded& r, int slot, const std::vector<Part>& parts) {
  Adapters& adapters = r.program->adapters();
  const auto low = [](const Part& part) {
    return LowRank{nb::cast<Packed&>(std::get<1>(part)).matrix, nb::cast<Packed&>(std::get<2>(part)).matrix};
  };
  for (const Part& part : parts) {
    const char* fault = adapters.fault(slot, std::get<0>(part), low(part));
    if (fault) throw std::invalid_argument(fault);
  }
  clear_adapter(r, slot);
  for (const Part& part : parts) {
    adapters.set(slot, std::get<0>(part), low(part));
    r.adapters[static_cast<size_t>(slot)].push_back(std::get<1>(part));
    r.adapters[static_cast<size_t>(slot)].push_back(std::get<2>(part));
  }
}

void bind_adapters(nb::class_<Recorded>& program) {
  program.def("adapters", &reserve, nb::arg("slots"), nb::arg("rank"))
      .def("adapt", &adapt, nb::arg("outputs"), nb::arg("act"), nb::arg("out"), nb::arg("offset"),
           nb::arg("sampled"), nb::arg("inputs") = 0, nb::arg("from") = 0, nb::arg("to") = 0)
      .def("adapt_each", &adapt_each, nb::arg("outputs"), nb::arg("experts"), nb::arg("act"), nb::arg("out"),
           nb::arg("offset"), nb::arg("router"))
      .def("record_for", &record_for, nb::arg("steps"))
      .def("set_adapter", &set_adapter, nb::arg("slot"), nb::arg("parts"))
      .def("clear_adapter", &clear_adapter, nb::arg("slot"));
}

}  // namespace sampan
