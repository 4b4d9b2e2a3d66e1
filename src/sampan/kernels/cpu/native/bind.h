// What the files that bind Python share. Shapes, types and indices are checked at this door, once; nothing
// behind it throws.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "memory.h"

namespace nb = nanobind;

namespace sampan {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Halves = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// The kernels of this name, or this machine's best for ""; throws where there are none.
const Kernels& find_kernels(const std::string& isa);

Cache cache_of(const std::string& name);  // throws where it is not known
void check_matrix(const Matrix& m);       // throws for sizes that the kernels do not know

// A packed weight and whatever keeps its bytes alive.
struct Packed {
  Matrix matrix{};
  Piece memory;  // data null: mapped
  nb::object owner;

  uint8_t* writable() const {
    require(memory.data != nullptr, "this matrix is mapped and read-only");
    return memory.data;
  }
  size_t bytes() const { return panel_bytes(matrix) * static_cast<size_t>(panels(matrix)); }
};

void bind_weights(nb::module_& m);
void bind_program(nb::module_& m);
void bind_store(nb::module_& m);

}  // namespace sampan
