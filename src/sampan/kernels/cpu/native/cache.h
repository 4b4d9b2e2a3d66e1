// The paged cache of keys and values: its layout, and where a page lies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sampan {

constexpr int kPage = 32;  // tokens of one KV page
constexpr int kRun = 8;    // pages of one layer and KV head that lie together

enum class Cache : int32_t { bf16 = 0, f32 = 1, int8 = 2 };

// What one layer keeps of a token: keys and values of each KV head. `latent`: a value is the first features
// of its key, and is not kept a second time.
struct CacheShape {
  int32_t kv_heads, key_size, value_size;
  bool latent = false;
};

// Paged cache [run of pages][layer][KV head][page of the run]: neighbours are read as one stream, and a short
// sequence touches little memory. A page holds K as [key_size][32], then V as [32][value_size]; in bf16, by
// pairs of what is summed over, K as [key_size / 2][32][2] and V as [16][value_size][2]. int8 pages end with
// one f32 scale for each key and each value. Latent pages hold K alone. A view is one layer of it.
struct CacheView {
  uint8_t* data;  // the layer's first page of the first run
  Cache type;
  CacheShape shape;
  ptrdiff_t run_bytes;  // from a run to the next, of all layers
};
[[maybe_unused]] static inline size_t element_bytes(Cache type) {
  return type == Cache::f32 ? 4 : type == Cache::bf16 ? 2 : 1;
}
[[maybe_unused]] static inline size_t page_bytes(Cache type, const CacheShape& s) {  // of one KV head
  const size_t scales = type == Cache::int8 ? (s.latent ? 1 : 2) * kPage * sizeof(float) : 0;
  const int features = s.key_size + (s.latent ? 0 : s.value_size);
  return static_cast<size_t>(kPage * features) * element_bytes(type) + scales;
}
[[maybe_unused]] static inline size_t run_bytes(Cache type, const CacheShape& s) {  // of one layer
  return page_bytes(type, s) * static_cast<size_t>(s.kv_heads * kRun);
}
[[maybe_unused]] static inline uint8_t* page_at(const CacheView& c, int page, int head) {
  return c.data + page / kRun * c.run_bytes +
         static_cast<size_t>(head * kRun + page % kRun) * page_bytes(c.type, c.shape);
}

}  // namespace sampan
