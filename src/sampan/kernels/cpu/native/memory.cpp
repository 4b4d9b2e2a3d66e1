#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <utility>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace sampan {

// AddressSanitizer knows malloc's memory by itself; here it learns where ours ends.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kFence = 256;
static void forbid(uint8_t* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
static void allow(uint8_t* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
constexpr size_t kFence = 0;
static void forbid(uint8_t*, size_t) {}
static void allow(uint8_t*, size_t) {}
#endif

constexpr size_t kHugePage = size_t{2} << 20;

static std::atomic<bool> huge_pages{true};

void use_huge_pages(bool use) { huge_pages.store(use); }

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = mmap(nullptr, bytes + kFence, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return;
  data_ = static_cast<uint8_t*>(p);
  forbid(data_ + bytes, kFence);
#ifdef MADV_HUGEPAGE
  if (bytes >= 2 * kHugePage) madvise(p, bytes, huge_pages.load() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

Memory::~Memory() {
  if (!data_) return;
  allow(data_, bytes_ + kFence);
  munmap(data_, bytes_ + kFence);
}

Piece Arena::take(size_t bytes) {
  const size_t size = (bytes + 63) / 64 * 64 + kFence;
  if (!chunk_ || used_ + size > chunk_->bytes()) {
    chunk_ = std::make_shared<Memory>(std::max(size, chunk_bytes_));
    used_ = 0;
  }
  if (!chunk_->data()) return {};
  uint8_t* data = chunk_->data() + used_;
  used_ += size;
  forbid(data + bytes, size - bytes);
  return {chunk_, data};
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace sampan
