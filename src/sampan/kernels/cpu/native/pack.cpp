#include "pack.h"

#include <cstring>

namespace sampan {

static void put_codes(Store store, uint8_t* codes, int lane, const uint8_t* q) {
  uint32_t chunk[8];
  std::memcpy(chunk, q, kBlock);
  const auto put = [&](int at, uint32_t v) { std::memcpy(codes + at * 64 + lane * 4, &v, 4); };
  if (store == Store::u8) {
    for (int c = 0; c < 8; ++c) put(c, chunk[c]);
    return;
  }
  for (int v = 0; v < 4; ++v) put(v, (chunk[v] & 0x0f0f0f0fu) | (chunk[v + 4] & 0x0f0f0f0fu) << 4);
  if (store == Store::u4) return;
  for (int h = 0; h < 2; ++h) {
    uint32_t high = 0;
    for (int s = 0; s < 4; ++s) high |= (chunk[4 * h + s] >> 4 & 0x03030303u) << (2 * s);
    put(4 + h, high);
  }
}

static void put_scales(const Matrix& m, uint8_t* scales, int lane, const Block& b) {
  uint8_t* mins = scales + scale_bytes(m);
  if (!m.wide) {
    std::memcpy(scales + lane * 2, &b.scale16, 2);
    if (m.has_min) std::memcpy(mins + lane * 2, &b.min16, 2);
    return;
  }
  for (int g = 0; g < kBlock / m.group; ++g) {
    std::memcpy(scales + g * 64 + lane * 4, &b.scale[g], 4);
    if (m.has_min) std::memcpy(mins + g * 64 + lane * 4, &b.min[g], 4);
  }
}

static void pack_floats(const Matrix& m, uint8_t* panel, const PackArgs& a, int first_row) {
  const size_t size = m.store == Store::f32 ? 4 : 2;
  for (int lane = 0; lane < kLanes && first_row + lane < a.rows; ++lane) {
    const int row = a.order ? a.order[first_row + lane] : first_row + lane;
    const uint8_t* from = a.raw + row_bytes(a.source, m.k) * static_cast<size_t>(row);
    for (int k = 0; k < m.k; ++k, from += size)
      std::memcpy(panel + float_index(m, k, lane) * size, from, size);
  }
}

void pack(const Matrix& m, uint8_t* data, const PackArgs& a, int begin, int end) {
  for (int panel = begin; panel < end; ++panel) {
    uint8_t* out = data + panel_bytes(m) * static_cast<size_t>(a.first + panel);
    const int first_row = panel * kLanes;
    if (!is_integer(m)) {
      pack_floats(m, out, a, first_row);
      continue;
    }
    const size_t scales = scale_bytes(m) * (m.has_min ? 2 : 1);
    for (int block = 0; block < m.k / kBlock; ++block, out += superblock_bytes(m)) {
      for (int lane = 0; lane < kLanes && first_row + lane < a.rows; ++lane) {
        const int row = a.order ? a.order[first_row + lane] : first_row + lane;
        Block b{};
        read_block(b, a.source, a.raw + row_bytes(a.source, m.k) * static_cast<size_t>(row), block);
        put_scales(m, out, lane, b);
        put_codes(m.store, out + scales, lane, b.q);
      }
    }
  }
}

// Of rows whose panel shares its scales, those of the first.
static void pack_e4m3(const Matrix& m, uint8_t* data, const CodesArgs& a, int begin, int end) {
  const int groups = ceiling(m.k, m.group);
  for (int panel = begin; panel < end; ++panel) {
    uint8_t* out = data + panel_bytes(m) * static_cast<size_t>(a.first + panel);
    for (int lane = 0; lane < kLanes && panel * kLanes + lane < a.rows; ++lane) {
      const size_t row = static_cast<size_t>(panel * kLanes + lane);
      for (int g = 0; g < groups && (m.wide || lane == 0); ++g)
        std::memcpy(out + 4 * (m.wide ? g * kLanes + lane : g),
                    a.scales + 4 * (row * static_cast<size_t>(groups) + static_cast<size_t>(g)), 4);
      const uint8_t* q = a.codes + row * static_cast<size_t>(m.k);
      for (int k = 0; k < m.k; k += 2)
        std::memcpy(out + e4m3_scale_bytes(m) + float_index(m, k, lane), q + k, 2);
    }
  }
}

void pack_codes(const Matrix& m, uint8_t* data, const CodesArgs& a, int begin, int end) {
  if (m.store == Store::e4m3) return pack_e4m3(m, data, a, begin, end);
  const int groups = m.k / m.group, blocks = superblock(m) / kBlock;
  const size_t size = m.wide ? 4 : 2;
  for (int panel = begin; panel < end; ++panel) {
    uint8_t* out = data + panel_bytes(m) * static_cast<size_t>(a.first + panel);
    for (int s = 0; s < m.k / superblock(m); ++s, out += superblock_bytes(m)) {
      uint8_t* mins = out + scale_bytes(m);
      uint8_t* codes = mins + (m.has_min ? scale_bytes(m) : 0);
      for (int lane = 0; lane < kLanes && panel * kLanes + lane < a.rows; ++lane) {
        const size_t row = static_cast<size_t>(panel * kLanes + lane);
        const uint8_t* q = a.codes + row * static_cast<size_t>(m.k) + static_cast<size_t>(s * superblock(m));
        for (int b = 0; b < blocks; ++b)
          put_codes(m.store, codes + code_bytes(m) * static_cast<size_t>(b), lane, q + b * kBlock);
        for (int g = 0; g < superblock(m) / m.group; ++g) {
          const size_t at =
              row * static_cast<size_t>(groups) + static_cast<size_t>(s * (superblock(m) / m.group) + g);
          const size_t to = static_cast<size_t>(g * kLanes + lane) * size;
          std::memcpy(out + to, a.scales + at * size, size);
          if (m.has_min) std::memcpy(mins + to, a.mins + at * size, size);
        }
      }
    }
  }
}

}  // namespace sampan
