// What a program works on: buffers, rows of activations and tables of angles, in one piece of memory.

#include <cstring>

#include "program.h"

namespace sampan {

bool Program::reserve(size_t bytes) {
  arena_ = Memory(bytes);
  return bytes == 0 || arena_.data();
}

// Null where the arena does not reach so far.
uint8_t* Program::inside(size_t offset, size_t bytes) const {
  return offset <= arena_.bytes() && bytes <= arena_.bytes() - offset && offset % 64 == 0
             ? arena_.data() + offset
             : nullptr;
}

int Program::buffer(size_t offset, int width, int rows) {
  rows = rows > 0 ? rows : max_rows_;
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof(float);
  uint8_t* data = inside(offset, bytes);
  if (!data) return -1;
  buffers_.push_back({reinterpret_cast<float*>(data), width, rows});
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::logits(int width) {
  buffers_.push_back({nullptr, width, 0});
  logits_ = static_cast<int>(buffers_.size()) - 1;
  for (int t = 0; t < pool_.size(); ++t) {
    head_scratch_.emplace_back(head_scratch(width));
    ok_ = ok_ && head_scratch_.back().data();
  }
  return logits_;
}

int Program::activations(size_t offset, int k, Operand operand, int rows) {
  rows = rows > 0 ? rows : max_rows_;
  uint8_t* data = inside(offset, activation_bytes(rows, k, operand));
  if (!data) return -1;
  Activations a{};
  a.k = k;
  a.capacity = rows;
  if (operand == Operand::f32) a.values = reinterpret_cast<float*>(data);
  else if (operand == Operand::bf16) a.bf16 = reinterpret_cast<uint16_t*>(data);
  else {
    a.blocks = reinterpret_cast<QuadBlock*>(data);
    const size_t blocks = static_cast<size_t>(quads(rows)) * static_cast<size_t>(k / kBlock);
    a.low = reinterpret_cast<int8_t*>(data + blocks * sizeof(QuadBlock));
  }
  activations_.push_back(a);
  return static_cast<int>(activations_.size()) - 1;
}

int Program::angles(size_t offset, std::vector<double> inverse_frequency, float scale) {
  const size_t each = static_cast<size_t>(max_rows_) * inverse_frequency.size();
  uint8_t* data = inside(offset, 2 * each * sizeof(float));
  if (!data) return -1;
  float* cosines = reinterpret_cast<float*>(data);
  angles_.push_back({std::move(inverse_frequency), scale, cosines, cosines + each});
  return static_cast<int>(angles_.size()) - 1;
}

void Program::copy_page(uint8_t* cache, int from, int to) const {
  for (size_t l = 0; l < shapes_.size(); ++l) {
    const CacheView view{cache + layer_offset_[l], type_, shapes_[l], static_cast<ptrdiff_t>(run_bytes_)};
    for (int head = 0; head < shapes_[l].kv_heads; ++head)
      std::memcpy(page_at(view, to, head), page_at(view, from, head), page_bytes(type_, shapes_[l]));
  }
}

size_t Program::workspace_bytes() const {
  size_t bytes = arena_.bytes() + adapters_.bytes();
  for (const std::vector<Memory>* all : {&linear_scratch_, &attend_scratch_, &head_scratch_})
    for (const Memory& memory : *all) bytes += memory.bytes();
  return bytes;
}

}  // namespace sampan
