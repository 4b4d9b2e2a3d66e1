// Zeroed anonymous memory, aligned for huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace sampan {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);  // null data when the system refuses
  ~Memory();
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// Whether large pieces of memory from now on ask for huge pages; they do at first.
void use_huge_pages(bool use);

// A piece of a chunk that several pieces share; data null when the system refused.
struct Piece {
  std::shared_ptr<Memory> chunk;
  uint8_t* data = nullptr;
};

// Hands out pieces of large chunks one after another, so that small matrices lie in huge pages too.
class Arena {
 public:
  // `chunk`: bytes of one. A chunk as large as what it will hold ends in no huge page that is half empty.
  explicit Arena(size_t chunk = kChunk) : chunk_bytes_(chunk) {}
  Piece take(size_t bytes);

 private:
  static constexpr size_t kChunk = size_t{64} << 20;

  const size_t chunk_bytes_;
  std::shared_ptr<Memory> chunk_;
  size_t used_ = 0;
};

}  // namespace sampan
