// What an instruction must satisfy before it joins a program: buffers that exist and are wide enough, layers
// and heads of the cache, sizes that the kernels are written for. A fault is said in words; behind it nothing
// is checked.

#include "program.h"

namespace sampan {

bool Program::known(int buffer) const {
  return buffer >= 0 && buffer < static_cast<int>(buffers_.size()) && buffer != logits_;
}

// Features [offset, offset + count) lie inside the buffer.
bool Program::holds(int buffer, int64_t offset, int64_t count) const {
  return known(buffer) && offset >= 0 && count > 0 && offset + count <= width(buffer);
}

int Program::inputs(int act) const {
  return act >= 0 && act < static_cast<int>(activations_.size()) ? activations_[static_cast<size_t>(act)].k
                                                                 : -1;
}

bool Program::holds_operand(int act, const Matrix& m) const {
  if (inputs(act) < 0) return false;
  const Activations& a = activations_[static_cast<size_t>(act)];
  const Operand operand = operand_of(m);
  return operand == Operand::int8   ? a.blocks != nullptr
         : operand == Operand::bf16 ? a.bf16 != nullptr
                                    : a.values != nullptr;
}

const char* Program::fault_of_linear(const Instruction& i) const {
  if (inputs(i.act) != i.matrix.k) return "linear: the activations do not have the matrix's inputs";
  if (!holds_operand(i.act, i.matrix))
    return "linear: integer weights read quantised rows, bf16 weights bf16 rows, other float weights float "
           "rows";
  const int64_t count = static_cast<int64_t>(panels(i.matrix)) * kLanes;
  if (i.sampled && i.out == logits_ && logits_ >= 0) {
    const bool inside = i.out_offset >= 0 && i.out_offset + count <= width(logits_);
    return inside ? nullptr : "linear: the logits have no room for the outputs";
  }
  return holds(i.out, i.out_offset, count) ? nullptr : "linear: the buffer has no room for the outputs";
}

const char* Program::fault_of_gated(const Instruction& i) const {
  const int outputs = inputs(i.result);
  if (inputs(i.act) != i.matrix.k || operand_of(i.matrix) == Operand::f32 || !holds_operand(i.act, i.matrix))
    return "gated: integer or bf16 weights must read their inputs";
  if (outputs <= 0 || !holds_operand(i.result, i.matrix))
    return "gated: the result must be rows like the inputs";
  if (i.result == i.act) return "gated: the result cannot be its own input";
  if (i.up * kLanes != outputs || 2 * outputs != i.matrix.n)
    return "gated: the matrix must hold as many gates as ups, and the result has their number";
  return nullptr;
}

const char* Program::fault_of_prepare(const Instruction& i) const {
  if (inputs(i.act) < 0) return "prepare: unknown activations";
  if (i.prep < Prep::copy || i.prep > Prep::swiglu) return "prepare: unknown operation";
  if (i.prep == Prep::norm && !i.weight) return "prepare: a norm needs its weight";
  const bool gated = i.prep == Prep::swiglu;
  if (gated && i.up < 0) return "prepare: negative offset";
  const bool inside = holds(i.in, i.in_offset, static_cast<int64_t>(inputs(i.act)) + (gated ? i.up : 0));
  return inside ? nullptr : "prepare: the buffer does not hold the inputs";
}

const char* Program::fault_of_attention(const Instruction& i) const {
  const int d = cache_.head_dim;
  const int64_t q = static_cast<int64_t>(i.heads) * d, kv = static_cast<int64_t>(cache_.kv_heads) * d;
  if (i.heads <= 0 || i.heads % cache_.kv_heads != 0)
    return "attention: query heads must share the KV heads evenly";
  if (i.heads / cache_.kv_heads > kAttendRows) return "attention: too many query heads for each KV head";
  if (i.layer < 0 || i.layer >= cache_.layers) return "attention: layer outside the cache";
  for (const Instruction& other : instructions_)
    if (other.op == Op::attend && other.heads != i.heads)
      return "attention: every layer must have the same heads";
  if (!holds(i.in, 0, q)) return "attention: the buffer does not hold the queries";
  if (i.op == Op::attend)
    return holds(i.out, 0, q) ? nullptr : "attention: the buffer has no room for the result";
  return holds(i.in, i.k_offset, kv) && holds(i.in, i.v_offset, kv)
             ? nullptr
             : "attention: the buffer does not hold the keys and values";
}

const char* Program::fault(const Instruction& i) const {
  switch (i.op) {
    case Op::embed: return holds(i.out, 0, i.matrix.k) ? nullptr : "embed: the buffer has no room for a row";
    case Op::angles: return nullptr;
    case Op::prepare: return fault_of_prepare(i);
    case Op::linear: return fault_of_linear(i);
    case Op::gated: return fault_of_gated(i);
    case Op::rope:
    case Op::attend: return fault_of_attention(i);
    case Op::gather:
      return known(i.in) && known(i.out) && i.in != i.out && width(i.in) == width(i.out)
                 ? nullptr
                 : "gather: two buffers of one width";
    case Op::shrink:
      return inputs(i.act) > 0 && activations_[static_cast<size_t>(i.act)].values
                 ? nullptr
                 : "adapt: unknown activations, or no float ones";
    case Op::expand:
      return holds(i.out, i.out_offset, adapters_.outputs(i.site))
                 ? nullptr
                 : "adapt: the buffer has no room for the outputs";
    case Op::stats: return logits_ >= 0 && i.in == logits_ ? nullptr : "stats: not the program's logits";
  }
  return "unknown instruction";
}

}  // namespace sampan
