// E4M3 (OCP 8-bit floats) as bf16, which holds every value.
#pragma once

#include <cstdint>

namespace sampan {

// Of the codes of denormals, m * 2^-9.
constexpr uint16_t kE4m3Small[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};

// Of a code without its sign; those of NaN count as 480.
[[maybe_unused]] constexpr static uint16_t bf16_of_e4m3(int code) {
  return static_cast<uint16_t>(code < 8 ? kE4m3Small[code] : 0x3c00 + (code << 4));
}

// The same, byte by byte.
struct E4m3Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
  constexpr E4m3Table() : low{}, high{} {
    for (int code = 0; code < 128; ++code) {
      low[code] = static_cast<uint8_t>(bf16_of_e4m3(code));
      high[code] = static_cast<uint8_t>(bf16_of_e4m3(code) >> 8);
    }
  }
};
constexpr E4m3Table kE4m3;

}  // namespace sampan
