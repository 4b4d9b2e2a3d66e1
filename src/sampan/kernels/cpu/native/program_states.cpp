// What sequences carry besides their pages: a span's state is read from one slot and left in another, or in
// the same.

#include <algorithm>

#include "program.h"

namespace sampan {

// Of a span, for the instruction: what it reads (null: zeros) and where it writes.
const float* Program::state_before(const Instruction& i, const Step& step, size_t span) const {
  const ptrdiff_t slot = step.reads[span];
  return slot < 0 ? nullptr : step.states + slot * static_cast<ptrdiff_t>(state_floats_) + i.state;
}

float* Program::state_behind(const Instruction& i, const Step& step, size_t span) const {
  return step.states + step.writes[span] * static_cast<ptrdiff_t>(state_floats_) + i.state;
}

void Program::convolve(const Instruction& i, const Step& step, int begin, int end) {
  const int blocks = ceiling(i.width, kConvolved);
  for (int item = begin; item < end; ++item) {
    const size_t place = static_cast<size_t>(item / blocks);
    const Span& span = step.spans[place];
    const ptrdiff_t first = span.start;
    const int channel = item % blocks * kConvolved;
    kernels_.convolve(
        {at(i.x) + first * width(i.x), at(i.out) + first * width(i.out), width(i.x), width(i.out), span.count,
         i.width, i.size, i.weight, state_before(i, step, place), state_behind(i, step, place)},
        channel, std::min(channel + kConvolved, i.width));
  }
}

void Program::delta(const Instruction& i, const Step& step, int begin, int end) {
  for (int item = begin; item < end; ++item) {
    const size_t place = static_cast<size_t>(item / i.heads);
    const Span& span = step.spans[place];
    const ptrdiff_t first = span.start;
    kernels_.delta({at(i.x) + first * width(i.x), at(i.y) + first * width(i.y), at(i.z) + first * width(i.z),
                    at(i.out) + first * width(i.out), width(i.x), width(i.y), width(i.z), width(i.out),
                    span.count, i.heads, i.key_heads, i.size, i.width, i.weight, i.bias,
                    state_before(i, step, place), state_behind(i, step, place)},
                   item % i.heads, item % i.heads + 1);
  }
}

bool Program::has_state(const Instruction& i, int64_t floats) const {
  const int64_t all = static_cast<int64_t>(state_floats_);
  return i.state >= 0 && i.state % kLanes == 0 && i.state + floats <= all;
}

std::string Program::fault_of_convolve(const Instruction& i) const {
  if (i.width <= 0 || i.width % kLanes != 0) return "channels are no multiple of 16";
  if (i.size < 2 || i.size > kMostTaps) return std::to_string(i.size) + " taps, from 2 to 16 are supported";
  if (!i.weight) return "a convolution needs its weight";
  if (!has_state(i, static_cast<int64_t>(i.size - 1) * i.width)) return "its state is outside of a slot";
  return holds(i.x, i.width) && holds(i.out, i.width) ? "" : "a buffer has no room for the channels";
}

std::string Program::fault_of_delta(const Instruction& i) const {
  if (i.heads <= 0 || i.key_heads <= 0 || i.heads % i.key_heads != 0)
    return "key heads must divide the heads";
  if (i.size <= 0 || i.size % kLanes != 0 || i.size > kMostKeys || i.width <= 0 || i.width % kLanes != 0)
    return "keys and values must be multiples of 16, keys of 256 at most";
  if (!i.weight || !i.bias) return "the rule needs its decay and its bias";
  const int64_t values = static_cast<int64_t>(i.heads) * i.width;
  if (!has_state(i, values * i.size)) return "its state is outside of a slot";
  const bool there = holds(i.x, 2LL * i.key_heads * i.size + values) && holds(i.y, i.heads) &&
                     holds(i.z, i.heads) && holds(i.out, values);
  return there ? "" : "a buffer has no room for the heads";
}

}  // namespace sampan
