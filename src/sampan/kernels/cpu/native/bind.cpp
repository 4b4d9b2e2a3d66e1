// The module: what this machine has, and the pool.

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "memory.h"
#include "pack.h"
#include "pool.h"
#include "probe.h"

namespace sampan {

const Kernels& find_kernels(const std::string& isa) {
  const Kernels* k = choose_kernels(isa.c_str());
  if (!k) throw std::invalid_argument("no kernels '" + isa + "' on this machine");
  return *k;
}

static std::pair<double, std::string> as_pair(const Peak& peak) {
  return {peak.per_second, peak.instruction};
}

}  // namespace sampan

NB_MODULE(_native, m) {
  using namespace sampan;
  m.attr("PAGE") = kPage;
  m.attr("LANES") = kLanes;
  m.def(
      "activation_bytes",
      [](int rows, int k, int operand) { return activation_bytes(rows, k, static_cast<Operand>(operand)); },
      nb::arg("rows"), nb::arg("k"), nb::arg("operand"));
  m.def("linear_scratch", &linear_scratch, nb::arg("k"));
  m.def("head_scratch", &head_scratch, nb::arg("width"));
  m.def(
      "attend_scratch",
      [](int key_size, int value_size, bool latent) {
        return attend_scratch({1, key_size, value_size, latent}) * sizeof(float);
      },
      nb::arg("key_size"), nb::arg("value_size"), nb::arg("latent") = false);
  m.def(
      "run_bytes",
      [](const std::string& cache, int kv_heads, int key_size, int value_size, bool latent) {
        return run_bytes(cache_of(cache), {kv_heads, key_size, value_size, latent});
      },
      nb::arg("cache"), nb::arg("kv_heads"), nb::arg("key_size"), nb::arg("value_size"),
      nb::arg("latent") = false);
  m.attr("RUN") = kRun;
  m.def(
      "isa", [](const std::string& forced) { return std::string(find_kernels(forced).name); },
      nb::arg("forced") = "");
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k :
         {kernels_avx512_bf16(), kernels_avx512(), kernels_avx2(), kernels_neon(), &kScalar})
      if (k) names.emplace_back(k->name);
    return names;
  });
  nb::class_<Pool>(m, "Pool").def(nb::init<int>(), nb::arg("threads")).def_prop_ro("threads", &Pool::size);
  bind_weights(m);
  bind_program(m);
  bind_store(m);
  const nb::call_guard<nb::gil_scoped_release> unlocked;
  m.def("use_huge_pages", &use_huge_pages, nb::arg("use"));
  m.def("read_bandwidth", &read_bandwidth, nb::arg("pool"), unlocked);
  m.def("int8_peak", [](Pool& pool) { return as_pair(int8_peak(pool)); }, nb::arg("pool"), unlocked);
  m.def(
      "linear_speed",
      [](Pool& pool, const std::string& isa, int n, int k, int source, int rows) {
        Matrix m{};
        m.group = kBlock;
        require(layout_of(static_cast<Source>(source), m) && is_integer(m),
                "linear_speed: source must be an integer type");
        require(n > 0 && k > 0 && k % superblock(m) == 0 && rows > 0,
                "linear_speed: sizes must be positive, k a multiple of the group");
        m.n = n;
        m.k = k;
        return linear_speed(pool, find_kernels(isa), m, rows);
      },
      nb::arg("pool"), nb::arg("isa"), nb::arg("n"), nb::arg("k"), nb::arg("source"), nb::arg("rows"),
      unlocked);
  m.def("float_peak", [](Pool& pool) { return as_pair(float_peak(pool)); }, nb::arg("pool"), unlocked);
}
