#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <utility>

namespace sampan {

constexpr size_t kHugePage = size_t{2} << 20;

static std::atomic<bool> huge_pages{true};

void use_huge_pages(bool use) { huge_pages.store(use); }

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return;
  data_ = static_cast<uint8_t*>(p);
#ifdef MADV_HUGEPAGE
  if (bytes >= 2 * kHugePage) madvise(p, bytes, huge_pages.load() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_) munmap(data_, bytes_);
}

constexpr size_t kChunk = size_t{64} << 20;

Piece Arena::take(size_t bytes) {
  const size_t size = (bytes + 63) / 64 * 64;
  if (!chunk_ || used_ + size > chunk_->bytes()) {
    chunk_ = std::make_shared<Memory>(size > kChunk ? size : kChunk);
    used_ = 0;
  }
  if (!chunk_->data()) return {};
  uint8_t* data = chunk_->data() + used_;
  used_ += size;
  return {chunk_, data};
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace sampan
