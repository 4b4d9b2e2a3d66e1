// What an instruction must satisfy before it joins a program: buffers that exist and are wide enough, layers
// and heads of the cache, sizes that the kernels are written for. A fault is said in words and numbers;
// behind it nothing is checked.

#include "program.h"

namespace sampan {

static std::string number(int64_t n) { return std::to_string(n); }

bool Program::known(int buffer) const {
  return buffer >= 0 && buffer < static_cast<int>(buffers_.size()) && buffer != logits_;
}

bool Program::holds(const Place& p, int64_t count) const {
  return known(p.buffer) && p.offset >= 0 && count > 0 && p.offset + count <= width(p);
}

int Program::inputs(int act) const {
  const bool there = act >= 0 && act < static_cast<int>(activations_.size());
  return there ? activations_[static_cast<size_t>(act)].k : -1;
}

bool Program::holds_operand(int act, const Matrix& m) const {
  if (inputs(act) < 0) return false;
  const Activations& a = activations_[static_cast<size_t>(act)];
  const Operand operand = operand_of(m);
  return operand == Operand::int8   ? a.blocks != nullptr
         : operand == Operand::bf16 ? a.bf16 != nullptr
                                    : a.values != nullptr;
}

std::string Program::fault_of_linear(const Instruction& i) const {
  if (!i.matrix.data) return "no matrix";
  if (inputs(i.act) != i.matrix.k)
    return "the activations have " + number(inputs(i.act)) + " features, the matrix reads " +
           number(i.matrix.k);
  if (!holds_operand(i.act, i.matrix)) return "the activations are not of the kind that the matrix reads";
  const int64_t count = static_cast<int64_t>(panels(i.matrix)) * kLanes;
  const bool logits = i.sampled && logits_ >= 0 && i.out.buffer == logits_;
  const bool inside =
      logits ? i.out.offset >= 0 && i.out.offset + count <= width(i.out) : holds(i.out, count);
  return inside ? "" : "the buffer has no room for " + number(count) + " outputs";
}

std::string Program::fault_of_gated(const Instruction& i) const {
  const int outputs = inputs(i.result);
  if (!i.matrix.data || inputs(i.act) != i.matrix.k || operand_of(i.matrix) == Operand::f32 ||
      !holds_operand(i.act, i.matrix))
    return "integer or bf16 weights must read their inputs";
  if (outputs <= 0 || !holds_operand(i.result, i.matrix)) return "the result must be rows like the inputs";
  if (i.result == i.act) return "the result cannot be its own input";
  if (outputs % kBlock != 0 || 2 * outputs != i.matrix.n)
    return number(i.matrix.n) + " features are not a gate and an up for each of " + number(outputs);
  return "";
}

std::string Program::fault_of_prepare(const Instruction& i) const {
  const int k = inputs(i.act);
  if (k < 0) return "unknown activations";
  if (i.prep == Prep::norm && !i.weight) return "a norm needs its weight";
  const bool gated = i.prep == Prep::swiglu;
  if (gated && i.up < 0) return "the second input lies before the first";
  if (i.width < 0 || i.width > k) return "the activations have no room for " + number(i.width) + " features";
  const int64_t count = static_cast<int64_t>(i.width ? i.width : k) + (gated ? i.up : 0);
  return holds(i.x, count) ? "" : "the buffer does not hold " + number(count) + " inputs";
}

std::string Program::fault_of_norm(const Instruction& i) const {
  if (!i.weight || i.size <= 0 || i.width % i.size != 0) return "a norm needs whole runs and their weight";
  return holds(i.x, i.width) && holds(i.out, i.width) ? "" : "a buffer has no room for " + number(i.width);
}

std::string Program::fault_of_map(const Instruction& i) const {
  if (i.map == Map::heads) {
    const bool whole = i.heads > 0 && i.kept > 0 && i.kept <= i.size && i.kept <= i.fill && i.fill <= i.width;
    if (!whole || i.out.buffer == i.x.buffer) return "heads cannot be laid out so";
    const int64_t before = i.heads - 1;
    return holds(i.x, before * i.size + i.kept) && holds(i.out, before * i.width + i.fill)
               ? ""
               : "a buffer has no room for the heads";
  }
  const bool two = i.map >= Map::add;
  if (two && !holds(i.y, i.single ? 1 : i.width)) return "the second input is not there";
  if (i.gathers && i.out.buffer == i.x.buffer) return "rows cannot be gathered in place";
  return holds(i.x, i.width) && holds(i.out, i.width) ? "" : "a buffer has no room for " + number(i.width);
}

std::string Program::fault_of_turning(const Turning& t, int size) const {
  if (t.norm && size % kLanes != 0) return "a norm over heads of " + number(size) + " is no multiple of 16";
  if (t.table < 0) return "";
  if (t.table >= static_cast<int>(angles_.size())) return "unknown angles";
  const int64_t pairs = static_cast<int64_t>(angles_[static_cast<size_t>(t.table)].inverse_frequency.size());
  const bool inside = t.first >= 0 && t.first + 2 * pairs <= size;
  return inside ? "" : "a head of " + number(size) + " has no room for " + number(2 * pairs) + " turned";
}

std::string Program::fault_of_rotate(const Instruction& i) const {
  if (i.heads <= 0 || i.size <= 0) return "no heads";
  if (!holds(i.x, static_cast<int64_t>(i.heads) * i.size)) return "the buffer does not hold the heads";
  return fault_of_turning(i.turn, i.size);
}

std::string Program::fault_of_heads(const Instruction& i) const {
  if (i.layer < 0 || i.layer >= static_cast<int>(shapes_.size()))
    return "layer " + number(i.layer) + " of a cache of " + number(static_cast<int64_t>(shapes_.size()));
  const CacheShape& s = shapes_[static_cast<size_t>(i.layer)];
  if (i.heads <= 0 || i.heads % s.kv_heads != 0)
    return number(i.heads) + " query heads cannot share " + number(s.kv_heads) + " KV heads evenly";
  const bool queries = holds(i.x, static_cast<int64_t>(i.heads) * s.key_size);
  return queries ? "" : "the buffer does not hold the queries";
}

std::string Program::fault_of_append(const Instruction& i) const {
  const std::string heads = fault_of_heads(i);
  if (!heads.empty()) return heads;
  const CacheShape& s = shapes_[static_cast<size_t>(i.layer)];
  if (!holds(i.y, static_cast<int64_t>(s.kv_heads) * s.key_size) ||
      (!s.latent && !holds(i.z, static_cast<int64_t>(s.kv_heads) * s.value_size)))
    return "the buffer does not hold the keys and values";
  const std::string q = fault_of_turning(i.turn, s.key_size);
  return q.empty() ? fault_of_turning(i.k_turn, s.key_size) : q;
}

std::string Program::fault_of_attend(const Instruction& i) const {
  const std::string heads = fault_of_heads(i);
  if (!heads.empty()) return heads;
  const int64_t outputs = static_cast<int64_t>(i.heads) * shapes_[static_cast<size_t>(i.layer)].value_size;
  return holds(i.out, outputs) ? "" : "the buffer has no room for the result";
}

std::string Program::fault(const Instruction& i) const {
  switch (i.op) {
    case Op::embed: {
      const bool some = i.matrix.data && i.width >= 0 && i.width <= i.matrix.k;
      return some && holds(i.out, i.width ? i.width : i.matrix.k) ? "" : "the buffer has no room for a row";
    }
    case Op::angles:
      return i.table >= 0 && i.table < static_cast<int>(angles_.size()) ? "" : "unknown angles";
    case Op::prepare: return fault_of_prepare(i);
    case Op::linear: return fault_of_linear(i);
    case Op::gated: return fault_of_gated(i);
    case Op::norm: return fault_of_norm(i);
    case Op::map: return fault_of_map(i);
    case Op::rotate: return fault_of_rotate(i);
    case Op::append: return fault_of_append(i);
    case Op::attend: return fault_of_attend(i);
    case Op::shrink: {
      const bool floats = inputs(i.act) > 0 && activations_[static_cast<size_t>(i.act)].values;
      if (!floats) return "unknown activations, or no float ones";
      return i.router < 0 || has_slots(i) ? "" : "there is no room for the slots";
    }
    case Op::expand:
      if (i.router >= 0 && (!holds(i.out, 1) || !has_slots(i))) return "there is no room for the slots";
      return holds(i.out, adapters_.outputs(i.site)) ? "" : "the buffer has no room for the outputs";
    case Op::route:
    case Op::sort:
    case Op::gather:
    case Op::each:
    case Op::gate_each:
    case Op::combine:
    case Op::stored:
    case Op::expect: return fault_of_experts(i);
    case Op::per_head: return fault_of_per_head(i);
    case Op::convolve: return fault_of_convolve(i);
    case Op::delta: return fault_of_delta(i);
    case Op::stats: return logits_ >= 0 && i.x.buffer == logits_ ? "" : "not the program's logits";
  }
  return "unknown instruction";
}

}  // namespace sampan
