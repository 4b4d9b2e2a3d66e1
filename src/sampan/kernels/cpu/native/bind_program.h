// A program as Python holds it.
#pragma once

#include <vector>

#include "bind.h"
#include "program.h"

namespace sampan {

// A program and the Python objects whose memory it reads.
struct Recorded {
  nb::object pool_owner;
  std::unique_ptr<Program> program;
  std::vector<nb::object> keep;
  ExpertStore* store = nullptr;                   // kept alive by `keep`
  std::vector<std::vector<nb::object>> adapters;  // [slot]
  int pages = 0, states = 0;                      // states: their slots
  Memory cache_memory, state_memory;
  int vocabulary_in = 0;
  int rows = 0, sampled = 0;  // of the last step
};

// Adds an instruction that has no fault.
void add(Recorded& r, const Instruction& i);

int keep_stored(Recorded& r, const nb::tuple& matrix);  // as a group of the program
void set_store(Recorded& r, nb::object store);
void bind_adapters(nb::class_<Recorded>& program);
void bind_run(nb::class_<Recorded>& program);

}  // namespace sampan
