// The store of experts on disk.

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <system_error>
#include <utility>

#include "bind_program.h"

namespace sampan {

using Records = nb::ndarray<const int64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

static std::vector<ExpertRecord> layer_of(const Records& values) {
  std::vector<ExpertRecord> records;
  for (size_t e = 0; e < values.shape(0); ++e) {
    const ExpertRecord r{values(e, 0), values(e, 1), values(e, 2), values(e, 3)};
    const int64_t block = static_cast<int64_t>(kDiskBlock);
    require(r.offset >= 0 && r.offset % block == 0 && r.bytes > 0 && r.bytes % block == 0,
            "expert store: an expert must be whole blocks of the file");
    require(r.base >= 0 && r.base % 64 == 0 && r.base < r.end && r.end <= r.bytes,
            "expert store: an expert must lie in its blocks");
    records.push_back(r);
  }
  require(!records.empty(), "expert store: a layer without experts");
  return records;
}

static ExpertStore* make_store(const std::string& path, const std::vector<Records>& layers,
                               const std::vector<std::string>& labels, int slots, int readers,
                               bool recency_only, bool direct, double half_life) {
  require(!layers.empty() && labels.size() == layers.size() && slots > 0 && readers > 0 && half_life > 0.0,
          "expert store: sizes must be positive");
  std::vector<std::vector<ExpertRecord>> records;
  for (const Records& layer : layers) records.push_back(layer_of(layer));
  try {
    return new ExpertStore(path, records, labels, slots, {readers, recency_only, direct, half_life});
  } catch (const std::system_error& error) {
    throw std::runtime_error(error.what());
  }
}

static nb::dict counts(ExpertStore& store) {
  const ExpertCounts c = store.counts();
  nb::dict found;
  found["asked"] = c.asked;
  found["found"] = c.found;
  found["reads"] = c.reads;
  found["bytes_read"] = c.bytes;
  found["read_ahead"] = c.ahead;
  found["read_ahead_used"] = c.ahead_used;
  found["tokens"] = c.tokens;
  found["waited_s"] = c.waited;
  return found;
}

// A matrix of each of a store's experts: a tuple of layer, offset, n, k, store, group, wide, has_min and
// zero.
int keep_stored(Recorded& r, const nb::tuple& t) {
  require(t.size() == 9, "a stored matrix has nine parts");
  const auto number = [&](size_t part) { return nb::cast<int>(t[part]); };
  const int layer = number(0), store = number(4);
  const int64_t offset = nb::cast<int64_t>(t[1]);
  require(r.store && layer >= 0 && layer < r.store->layers(), "the store has no such layer");
  require(store >= 0 && store <= static_cast<int>(Store::f32), "matrix: sizes and store must be known");
  Matrix m{nullptr,
           number(2),
           number(3),
           static_cast<Store>(store),
           number(5),
           nb::cast<bool>(t[6]),
           nb::cast<bool>(t[7]),
           number(8)};
  check_matrix(m);
  const int64_t bytes = static_cast<int64_t>(panel_bytes(m)) * panels(m);
  require(offset >= 0 && offset % 64 == 0 && offset + bytes <= r.store->own_bytes(layer),
          "a stored matrix must lie in its expert");
  return r.program->stored_group(m, layer, offset);
}

void set_store(Recorded& r, nb::object store) {
  require(!r.store, "store: one for a program");
  r.store = &nb::cast<ExpertStore&>(store);
  r.keep.push_back(std::move(store));
  r.program->set_store(r.store);
}

void bind_store(nb::module_& m) {
  m.attr("DISK_BLOCK") = kDiskBlock;
  nb::class_<ExpertStore>(m, "ExpertStore")
      .def(nb::new_(&make_store), nb::arg("path"), nb::arg("layers"), nb::arg("labels"), nb::arg("slots"),
           nb::arg("readers") = 2, nb::arg("recency_only") = false, nb::arg("direct") = true,
           nb::arg("half_life") = 256.0)
      .def_prop_ro("direct", &ExpertStore::direct)
      .def("resident", &ExpertStore::resident, nb::arg("layer"))
      .def("counts", &counts);
}

}  // namespace sampan
