// Packed weights: made from GGUF blocks, codes or bytes that are packed already.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <atomic>
#include <functional>
#include <optional>
#include <utility>

#include "bind.h"
#include "pack.h"
#include "pool.h"

namespace sampan {

void check_matrix(const Matrix& m) {
  require(m.n > 0 && m.n <= INT32_MAX - kLanes && m.k > 0, "matrix: sizes and store must be known");
  if (is_integer(m)) {
    require(m.group == 16 || m.group == 32 || m.group == 64 || m.group == 128,
            "matrix: group must be 16, 32, 64 or 128");
    require(m.k % kBlock == 0 && m.k % superblock(m) == 0, "matrix: k must be a multiple of the group");
    require(m.zero >= 0 && m.zero <= 255 && (m.zero == 0 || !m.has_min),
            "matrix: zero must be a code, and a minimum takes its place");
  }
  require(m.store != Store::bf16 || m.k % 2 == 0, "matrix: k must be even in bf16");
  const bool quads = m.k % 4 == 0 && m.group > 0 && m.group % 4 == 0;
  require(m.store != Store::e4m3 || (quads && !m.has_min && m.zero == 0),
          "matrix: k and groups must be multiples of four in e4m3, without minima");
}

static Packed* make_packed(int n, int k, int store, int group, bool wide, bool has_min, int zero,
                           std::optional<Bytes> data, Arena* arena) {
  require(store >= 0 && store <= 6, "matrix: sizes and store must be known");
  auto packed = std::make_unique<Packed>();
  Matrix& m = packed->matrix;
  m = {nullptr, n, k, static_cast<Store>(store), group, wide, has_min, zero};
  check_matrix(m);
  if (data) {
    require(data->size() == packed->bytes(), "matrix: packed bytes do not match the shape");
    packed->owner = nb::cast(*data);
    m.data = data->data();
  } else {
    Arena own;
    packed->memory = (arena ? *arena : own).take(packed->bytes());
    if (!packed->memory.data) throw std::bad_alloc();
    m.data = packed->memory.data;
  }
  return packed.release();
}

static Packed* packed_for(int n, int k, int source, Arena* arena) {
  Matrix m{};
  m.group = kBlock;
  require(layout_of(static_cast<Source>(source), m), "matrix: unknown source type");
  require(k % block_inputs(static_cast<Source>(source)) == 0,
          "matrix: k must be a multiple of the source's block");
  return make_packed(n, k, static_cast<int>(m.store), m.group, m.wide, m.has_min, m.zero, std::nullopt,
                     arena);
}

// The store that keeps a source type, and bytes of one panel of k inputs.
static std::pair<int, size_t> panel_of(int k, int source) {
  Matrix m{};
  m.group = kBlock;
  require(layout_of(static_cast<Source>(source), m), "unknown source type");
  require(k > 0 && k % block_inputs(static_cast<Source>(source)) == 0,
          "k must be a multiple of the source's block");
  m.n = kLanes;
  m.k = k;
  return {static_cast<int>(m.store), panel_bytes(m)};
}

static void in_parallel(Pool& pool, int items, const std::function<void(int, int)>& f) {
  nb::gil_scoped_release release;
  const std::lock_guard turn(pool.turn());
  std::atomic<int> next{0};
  pool.run([&](int) {
    int begin, end;
    while (take(next, items, 4, begin, end)) f(begin, end);
  });
}

static void fill(Packed& p, Pool& pool, Bytes raw, int source, int first, int rows,
                 std::optional<Ints> order) {
  const Source type = static_cast<Source>(source);
  Matrix m{};
  m.group = kBlock;
  require(layout_of(type, m) && m.store == p.matrix.store, "fill: source type does not match the matrix");
  require(!is_integer(m) || (m.group == p.matrix.group && m.zero == p.matrix.zero &&
                             m.wide == p.matrix.wide && m.has_min == p.matrix.has_min),
          "fill: source type does not match the matrix");
  require(p.matrix.k % block_inputs(type) == 0, "fill: k must be a multiple of the source's block");
  require(first >= 0 && first % kLanes == 0 && rows > 0 && rows <= panels(p.matrix) * kLanes - first,
          "fill: rows outside the matrix");
  require(raw.size() == row_bytes(type, p.matrix.k) * static_cast<size_t>(rows),
          "fill: raw bytes do not match the shape");
  if (order) {
    require(order->size() == static_cast<size_t>(rows), "fill: order must name every row");
    for (size_t i = 0; i < order->size(); ++i)
      require(order->data()[i] >= 0 && order->data()[i] < rows, "fill: order outside the rows");
  }
  const PackArgs args{raw.data(), type, rows, order ? order->data() : nullptr, first / kLanes};
  uint8_t* data = p.writable();
  in_parallel(pool, (rows + kLanes - 1) / kLanes,
              [&](int begin, int end) { pack(p.matrix, data, args, begin, end); });
}

template <class Scales>
static void fill_codes(Packed& p, Pool& pool, Codes codes, Scales scales, std::optional<Scales> mins,
                       int first) {
  const Matrix& m = p.matrix;
  const size_t rows = codes.shape(0), groups = static_cast<size_t>(ceiling(m.k, m.group));
  require((m.store == Store::e4m3 || (is_integer(m) && m.wide)) == (sizeof(*scales.data()) == 4) &&
              (is_integer(m) || m.store == Store::e4m3),
          "fill_codes: matrix must hold codes, and scales of this type");
  require(first >= 0 && first % kLanes == 0 && static_cast<int64_t>(rows) <= panels(m) * kLanes - first,
          "fill_codes: rows outside the matrix");
  require(codes.shape(1) == static_cast<size_t>(m.k) && scales.shape(0) == rows && scales.shape(1) == groups,
          "fill_codes: shapes differ");
  require(mins.has_value() == m.has_min && (!mins || (mins->shape(0) == rows && mins->shape(1) == groups)),
          "fill_codes: mins do not match");
  const auto bytes = [](const auto* x) { return reinterpret_cast<const uint8_t*>(x); };
  const CodesArgs args{codes.data(), bytes(scales.data()), mins ? bytes(mins->data()) : nullptr,
                       static_cast<int>(rows), first / kLanes};
  uint8_t* data = p.writable();
  in_parallel(pool, (args.rows + kLanes - 1) / kLanes,
              [&](int begin, int end) { pack_codes(m, data, args, begin, end); });
}

static nb::ndarray<nb::numpy, const uint8_t> packed_bytes(nb::handle self) {
  const Packed& p = nb::cast<const Packed&>(self);
  return nb::ndarray<nb::numpy, const uint8_t>(p.matrix.data, {p.bytes()}, self);
}

void bind_weights(nb::module_& m) {
  m.def("panel_of", &panel_of, nb::arg("k"), nb::arg("source"));
  nb::class_<Arena>(m, "Arena").def(nb::init<>()).def(nb::init<size_t>(), nb::arg("chunk"));
  nb::class_<Packed>(m, "Packed")
      .def(nb::new_(&make_packed), nb::arg("n"), nb::arg("k"), nb::arg("store"), nb::arg("group"),
           nb::arg("wide"), nb::arg("has_min"), nb::arg("zero"), nb::arg("data") = nb::none(),
           nb::arg("arena") = nb::none())
      .def_static("of", &packed_for, nb::arg("n"), nb::arg("k"), nb::arg("source"),
                  nb::arg("arena") = nb::none(), nb::rv_policy::take_ownership)
      .def("fill", &fill, nb::arg("pool"), nb::arg("raw"), nb::arg("source"), nb::arg("first"),
           nb::arg("rows"), nb::arg("order") = nb::none())
      .def("fill_codes", &fill_codes<Halves>, nb::arg("pool"), nb::arg("codes"), nb::arg("scales"),
           nb::arg("mins").none(), nb::arg("first"))
      .def("fill_codes", &fill_codes<FloatRows>, nb::arg("pool"), nb::arg("codes"), nb::arg("scales"),
           nb::arg("mins").none(), nb::arg("first"))
      .def_prop_ro("data", &packed_bytes)
      .def_prop_ro("writable", [](const Packed& p) { return p.memory.data != nullptr; })
      .def_prop_ro("n", [](const Packed& p) { return p.matrix.n; })
      .def_prop_ro("k", [](const Packed& p) { return p.matrix.k; })
      .def_prop_ro("store", [](const Packed& p) { return static_cast<int>(p.matrix.store); })
      .def_prop_ro("group", [](const Packed& p) { return p.matrix.group; })
      .def_prop_ro("wide", [](const Packed& p) { return p.matrix.wide; })
      .def_prop_ro("has_min", [](const Packed& p) { return p.matrix.has_min; })
      .def_prop_ro("zero", [](const Packed& p) { return p.matrix.zero; });
}

}  // namespace sampan
