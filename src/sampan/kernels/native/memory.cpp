#include "memory.h"

#include <sys/mman.h>

#include <utility>

namespace sampan {

constexpr size_t kHugePage = size_t{2} << 20;

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return;
  data_ = static_cast<uint8_t*>(p);
#ifdef MADV_HUGEPAGE
  if (bytes >= 2 * kHugePage) madvise(p, bytes, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_) munmap(data_, bytes_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace sampan
