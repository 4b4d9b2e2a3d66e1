#include "source.h"

#include <cstring>

namespace sampan {

static float half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u,
                 mantissa = h & 0x3ffu;
  float r;
  if (exponent == 0) {
    r = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -r : r;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  std::memcpy(&r, &bits, 4);
  return r;
}

static uint16_t u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

bool layout_of(Source source, Matrix& m) {
  switch (source) {
    case Source::f32: m.store = Store::f32; break;
    case Source::f16: m.store = Store::f16; break;
    case Source::bf16: m.store = Store::bf16; break;
    case Source::q4_0:
      m.store = Store::u4;
      m.zero = 8;
      break;
    case Source::q4_1:
      m.store = Store::u4;
      m.has_min = true;
      break;
    case Source::q5_0:
      m.store = Store::u6;
      m.zero = 16;
      break;
    case Source::q5_1:
      m.store = Store::u6;
      m.has_min = true;
      break;
    case Source::q8_0:
      m.store = Store::u8;
      m.zero = 128;
      break;
    case Source::q2_k:
      m.store = Store::u4;
      m.group = 16;
      m.wide = m.has_min = true;
      break;
    case Source::q3_k:
      m.store = Store::u4;
      m.group = 16;
      m.wide = true;
      m.zero = 4;
      break;
    case Source::q4_k:
      m.store = Store::u4;
      m.wide = m.has_min = true;
      break;
    case Source::q5_k:
      m.store = Store::u6;
      m.wide = m.has_min = true;
      break;
    case Source::q6_k:
      m.store = Store::u6;
      m.group = 16;
      m.wide = true;
      m.zero = 32;
      break;
    default: return false;
  }
  return true;
}

size_t row_bytes(Source source, int k) {
  const size_t n = static_cast<size_t>(k);
  switch (source) {
    case Source::f32: return n * 4;
    case Source::f16:
    case Source::bf16: return n * 2;
    case Source::q4_0: return n / 32 * 18;
    case Source::q4_1: return n / 32 * 20;
    case Source::q5_0: return n / 32 * 22;
    case Source::q5_1: return n / 32 * 24;
    case Source::q8_0: return n / 32 * 34;
    case Source::q2_k: return n / 256 * 84;
    case Source::q3_k: return n / 256 * 110;
    case Source::q4_k: return n / 256 * 144;
    case Source::q5_k: return n / 256 * 176;
    case Source::q6_k: return n / 256 * 210;
  }
  return 0;
}

int block_inputs(Source source) {
  if (source < Source::q4_0 || source == Source::bf16) return 1;
  return source < Source::q2_k ? 32 : 256;
}

static void nibbles(Block& b, const uint8_t* qs) {
  for (int j = 0; j < 16; ++j) {
    b.q[j] = qs[j] & 15;
    b.q[j + 16] = qs[j] >> 4;
  }
}

static void fifth_bits(Block& b, const uint8_t* p) {
  uint32_t high;
  std::memcpy(&high, p, 4);
  nibbles(b, p + 4);
  for (int j = 0; j < kBlock; ++j) b.q[j] = static_cast<uint8_t>(b.q[j] | ((high >> j) & 1u) << 4);
}

// Six-bit scale and min of sub-block j of Q4_K and Q5_K.
static void k_scale(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

static void read_q2_k(Block& b, const uint8_t* p, int at) {
  const uint8_t* qs = p + 16 + at / 4 * 32;
  for (int l = 0; l < kBlock; ++l) b.q[l] = (qs[l] >> (2 * (at % 4))) & 3;
  for (int g = 0; g < 2; ++g) {
    const int s = p[2 * at + g];
    b.scale[g] = half(p + 80) * static_cast<float>(s & 15);
    b.min[g] = -(half(p + 82) * static_cast<float>(s >> 4));
  }
}

static void read_q3_k(Block& b, const uint8_t* p, int at) {
  const uint8_t* qs = p + 32 + at / 4 * 32;
  const uint8_t* s = p + 96;
  for (int l = 0; l < kBlock; ++l)
    b.q[l] = static_cast<uint8_t>(((qs[l] >> (2 * (at % 4))) & 3) | ((p[l] >> at) & 1) << 2);
  for (int g = 0; g < 2; ++g) {
    const int i = 2 * at + g, low = i < 8 ? s[i] & 15 : s[i - 8] >> 4,
              high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
    b.scale[g] = half(p + 108) * static_cast<float>((low | high << 4) - 32);
  }
}

static void read_q45_k(Block& b, const uint8_t* p, int at, bool five) {
  const uint8_t* qs = p + (five ? 48 : 16) + at / 2 * 32;
  for (int l = 0; l < kBlock; ++l) {
    const int low = at % 2 ? qs[l] >> 4 : qs[l] & 15;
    b.q[l] = static_cast<uint8_t>(five ? low | ((p[16 + l] >> at) & 1) << 4 : low);
  }
  int scale, min;
  k_scale(p + 4, at, scale, min);
  b.scale[0] = half(p) * static_cast<float>(scale);
  b.min[0] = -(half(p + 2) * static_cast<float>(min));
}

static void read_q6_k(Block& b, const uint8_t* p, int at) {
  const int j = at % 4;
  const uint8_t* low = p + at / 4 * 64 + j % 2 * 32;
  const uint8_t* high = p + 128 + at / 4 * 32;
  for (int l = 0; l < kBlock; ++l)
    b.q[l] = static_cast<uint8_t>((j >= 2 ? low[l] >> 4 : low[l] & 15) | ((high[l] >> (2 * j)) & 3) << 4);
  for (int g = 0; g < 2; ++g)
    b.scale[g] = half(p + 208) * static_cast<float>(static_cast<int8_t>(p[192 + 2 * at + g]));
}

void read_block(Block& b, Source source, const uint8_t* row, int index) {
  const size_t i = static_cast<size_t>(index);
  const uint8_t* p;
  switch (source) {
    case Source::q4_0:
      p = row + i * 18;
      b.scale16 = u16(p);
      return nibbles(b, p + 2);
    case Source::q4_1:
      p = row + i * 20;
      b.scale16 = u16(p);
      b.min16 = u16(p + 2);
      return nibbles(b, p + 4);
    case Source::q5_0:
      p = row + i * 22;
      b.scale16 = u16(p);
      return fifth_bits(b, p + 2);
    case Source::q5_1:
      p = row + i * 24;
      b.scale16 = u16(p);
      b.min16 = u16(p + 2);
      return fifth_bits(b, p + 4);
    case Source::q8_0:
      p = row + i * 34;
      b.scale16 = u16(p);
      for (int l = 0; l < kBlock; ++l) b.q[l] = p[2 + l] ^ 0x80;
      return;
    case Source::q2_k: return read_q2_k(b, row + i / 8 * 84, index % 8);
    case Source::q3_k: return read_q3_k(b, row + i / 8 * 110, index % 8);
    case Source::q4_k: return read_q45_k(b, row + i / 8 * 144, index % 8, false);
    case Source::q5_k: return read_q45_k(b, row + i / 8 * 176, index % 8, true);
    case Source::q6_k: return read_q6_k(b, row + i / 8 * 210, index % 8);
    default: return;
  }
}

}  // namespace sampan
