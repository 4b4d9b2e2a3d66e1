// Programs: recorded instruction by instruction, then run a step at a time.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <tuple>

#include "bind_program.h"

namespace sampan {

static Recorded* make_program(nb::object pool, const std::string& isa, int max_rows, int pages,
                              int cache_type, int layers, int kv_heads, int head_dim,
                              std::vector<double> inverse_frequency, float rope_scale) {
  require(max_rows > 0 && pages > 0 && layers > 0 && kv_heads > 0 && head_dim > 0 && head_dim % 32 == 0,
          "program: sizes must be positive and head_dim a multiple of 32");
  require(static_cast<int>(inverse_frequency.size()) * 2 == head_dim,
          "program: one frequency for each pair of a head");
  require(cache_type >= 0 && cache_type <= 2, "program: unknown cache type");
  auto r = std::make_unique<Recorded>();
  r->pool_owner = pool;
  r->cache = {nullptr, static_cast<Cache>(cache_type), layers, kv_heads, head_dim};
  r->pages = pages;
  r->cache_memory = Memory(cache_bytes(r->cache, pages));
  if (!r->cache_memory.data()) throw std::bad_alloc();
  r->program = std::make_unique<Program>(nb::cast<Pool&>(pool), find_kernels(isa), max_rows, r->cache,
                                         Angles{std::move(inverse_frequency), rope_scale});
  return r.release();
}

static const float* keep_floats(Recorded& r, const std::optional<Floats>& x) {
  if (!x) return nullptr;
  r.keep.push_back(nb::cast(*x));
  return x->data();
}

void add(Recorded& r, const Instruction& i) {
  const char* fault = r.program->fault(i);
  if (fault) throw std::invalid_argument(fault);
  r.program->add(i);
}

static int add_activations(Recorded& r, int k, int operand) {
  require(operand >= 0 && operand <= static_cast<int>(Operand::bf16), "activations: unknown operand");
  require(k > 0 && k % (operand == static_cast<int>(Operand::int8) ? kBlock : kLanes) == 0,
          "activations: k must be a multiple of 32");
  return r.program->activations(k, static_cast<Operand>(operand));
}

static int add_logits(Recorded& r, int width) {
  require(width > 0 && !r.program->has_logits(), "logits: one positive width for a program");
  return r.program->logits(width);
}

static void add_embed(Recorded& r, nb::object table, int out) {
  Instruction i{Op::embed};
  i.matrix = nb::cast<Packed&>(table).matrix;
  i.out = out;
  r.keep.push_back(table);
  add(r, i);
  r.vocabulary_in = r.vocabulary_in ? std::min(r.vocabulary_in, i.matrix.n) : i.matrix.n;
  Instruction angles{Op::angles};
  angles.joined = true;
  add(r, angles);
}

static void add_prepare(Recorded& r, int op, int in, int in_offset, int up, std::optional<Floats> weight,
                        float eps, int act, bool sampled, bool gathers, bool fine, bool joined) {
  Instruction i{Op::prepare};
  i.fine = fine;
  i.joined = joined;
  require(op != static_cast<int>(Prep::norm) ||
              (weight && static_cast<int>(weight->size()) == r.program->inputs(act)),
          "prepare: a norm needs one weight for each input");
  i.prep = static_cast<Prep>(op);
  i.in = in;
  i.in_offset = in_offset;
  i.up = up;
  i.weight = keep_floats(r, weight);
  i.eps = eps;
  i.act = act;
  i.sampled = sampled;
  i.gathers = gathers;
  add(r, i);
}

static void add_linear(Recorded& r, nb::object matrix, int act, int out, int out_offset,
                       std::optional<Floats> bias, bool accumulate, bool sampled, bool fine, bool joined) {
  Instruction i{Op::linear};
  i.matrix = nb::cast<Packed&>(matrix).matrix;
  require(!bias || static_cast<int>(bias->size()) == panels(i.matrix) * kLanes,
          "linear: bias must cover whole panels");
  r.keep.push_back(matrix);
  i.act = act;
  i.out = out;
  i.out_offset = out_offset;
  i.weight = keep_floats(r, bias);
  i.accumulate = accumulate;
  i.sampled = sampled;
  i.fine = fine;
  i.joined = joined;
  add(r, i);
}

static void add_gather(Recorded& r, int in, int out) {
  Instruction i{Op::gather};
  i.in = in;
  i.out = out;
  i.sampled = true;
  add(r, i);
}

static void tune(Recorded& r, int direct_rows, int row_block) {
  require(direct_rows >= 1 && direct_rows <= kMaxRowsDirect && row_block >= kQuad && row_block % kQuad == 0,
          "tune: values outside the kernels'");
  r.program->tune({direct_rows, row_block});
}

static void add_gated(Recorded& r, nb::object matrix, int act, int result, bool fine, bool result_fine,
                      bool sampled) {
  Instruction i{Op::gated};
  i.matrix = nb::cast<Packed&>(matrix).matrix;
  r.keep.push_back(matrix);
  i.act = act;
  i.result = result;
  i.fine = fine;
  i.result_fine = result_fine;
  i.sampled = sampled;
  i.up = i.matrix.n / 2 / kLanes;
  add(r, i);
}

static void add_rope(Recorded& r, int qkv, int heads, int k_offset, int v_offset, float q_scale, int layer,
                     std::optional<Floats> q_norm, std::optional<Floats> k_norm, float eps) {
  const size_t d = static_cast<size_t>(r.cache.head_dim);
  require((!q_norm || q_norm->size() == d) && (!k_norm || k_norm->size() == d),
          "rope: a head norm needs one weight for each feature");
  Instruction i{Op::rope};
  i.in = qkv;
  i.heads = heads;
  i.k_offset = k_offset;
  i.v_offset = v_offset;
  i.q_scale = q_scale;
  i.layer = layer;
  i.q_norm = keep_floats(r, q_norm);
  i.k_norm = keep_floats(r, k_norm);
  i.eps = eps;
  add(r, i);
}

static void add_attend(Recorded& r, int qkv, int out, int heads, int layer) {
  Instruction i{Op::attend};
  i.in = qkv;
  i.out = out;
  i.heads = heads;
  i.layer = layer;
  add(r, i);
}

static void add_stats(Recorded& r, int logits, int vocabulary) {
  Instruction i{Op::stats};
  i.in = logits;
  i.sampled = true;
  require(!r.program->has_logits() || (vocabulary > 0 && vocabulary <= r.program->logits_width()),
          "stats: vocabulary outside the logits");
  r.program->set_vocabulary(vocabulary);
  add(r, i);
}

// A span as Python hands it over: token ids, tokens before them, pages, how many of its last rows are
// sampled, and the slot of its adapter or -1.
using SpanArgs = std::tuple<std::vector<int32_t>, int, Ints, int, int>;

// What a step reads.
struct Inputs {
  std::vector<int32_t> ids, positions, sampled, slots;
  std::vector<Span> spans;
};

static void add_span(const Recorded& r, const SpanArgs& span, Inputs& to) {
  const auto& [ids, before, pages, sampled, slot] = span;
  const int first = static_cast<int>(to.ids.size()), most = r.program->max_rows() - first;
  require(!ids.empty() && ids.size() <= static_cast<size_t>(most),
          "run: rows must be 1..max_rows, and some in each span");
  const int rows = static_cast<int>(ids.size());
  require(before >= 0, "run: fewer than no tokens before a span");
  require(sampled >= 0 && sampled <= rows, "run: more sampled rows than rows");
  require(slot >= -1 && slot < static_cast<int>(r.adapters.size()), "run: adapter slot outside the room");
  const int64_t used = (static_cast<int64_t>(before) + rows + kPage - 1) / kPage;
  require(used <= static_cast<int64_t>(pages.size()), "run: a span reaches past its pages");
  for (int64_t i = 0; i < used; ++i)
    require(pages.data()[i] >= 0 && pages.data()[i] < r.pages, "run: page outside the cache");
  for (int i = 0; i < rows; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    require(id >= 0 && id < r.vocabulary_in, "run: token id outside the vocabulary");
    to.ids.push_back(id);
    to.positions.push_back(before + i);
    if (i >= rows - sampled) to.sampled.push_back(first + i);
  }
  to.spans.push_back({first, rows, before, pages.data()});
  to.slots.push_back(slot);
}

static Step step_of(Recorded& r, Inputs& from) {
  Step step;
  step.rows = static_cast<int>(from.ids.size());
  step.sampled = static_cast<int>(from.sampled.size());
  step.ids = from.ids.data();
  step.positions = from.positions.data();
  step.sampled_rows = from.sampled.data();
  step.spans = std::move(from.spans);
  step.cache = r.cache_memory.data();
  if (std::any_of(from.slots.begin(), from.slots.end(), [](int slot) { return slot >= 0; }))
    step.slots = std::move(from.slots);
  return step;
}

// Of each sampled row: its most probable token, that one's log-probability, and the log of the sum of
// exponentials, folded in float64 from the chunks in their order; and of each row that is not finite the
// number of the first norm that read something not finite, or -1.
static nb::object summary(const Program& p, const Step& step) {
  nb::list best, logprobs, totals;
  nb::dict unsound;
  for (int row = 0; row < step.sampled; ++row) {
    const Stats* chunks = p.stats() + static_cast<ptrdiff_t>(row) * p.stats_chunks();
    const Stats* end = chunks + p.stats_chunks();
    const Stats& top =
        *std::max_element(chunks, end, [](const Stats& a, const Stats& b) { return a.max < b.max; });
    const double most = static_cast<double>(top.max);
    double sum = 0.0;
    for (const Stats* c = chunks; c < end; ++c)
      sum += static_cast<double>(c->sum) * std::exp(static_cast<double>(c->max) - most);
    const double total = std::log(sum) + most;
    best.append(top.argmax);
    logprobs.append(most - total);
    totals.append(total);
    if (!std::all_of(chunks, end, [](const Stats& c) { return c.finite == 1; }))
      unsound[nb::int_(row)] = p.unsound(step, row);
  }
  return nb::make_tuple(best, logprobs, totals, unsound);
}

// Runs a step of these spans, one after another.
static nb::object run_program(Recorded& r, const std::vector<SpanArgs>& spans) {
  Program& p = *r.program;
  if (!p.ok()) throw std::bad_alloc();
  require(p.has_logits(), "run: the program has no logits");
  require(!spans.empty(), "run: rows must be 1..max_rows");
  Inputs inputs;
  for (const SpanArgs& span : spans) add_span(r, span, inputs);
  const Step step = step_of(r, inputs);
  bool done;
  {
    Pool& pool = nb::cast<Pool&>(r.pool_owner);
    nb::gil_scoped_release release;
    const std::lock_guard turn(pool.turn());
    done = p.run(step);
  }
  if (!done) throw std::bad_alloc();
  r.sampled = step.sampled;
  return summary(p, step);
}

// Of the last step's sampled rows, valid until the next.
static nb::ndarray<nb::numpy, const float> logits_of(nb::handle self) {
  const Recorded& r = nb::cast<Recorded&>(self);
  const Program& p = *r.program;
  return {p.logits_data(),
          {static_cast<size_t>(r.sampled), static_cast<size_t>(p.vocabulary())},
          self,
          {p.logits_width(), 1}};
}

void bind_program(nb::module_& m) {
  nb::class_<Recorded> program(m, "Program");
  program
      .def(nb::new_(&make_program), nb::arg("pool"), nb::arg("isa"), nb::arg("max_rows"), nb::arg("pages"),
           nb::arg("cache_type"), nb::arg("layers"), nb::arg("kv_heads"), nb::arg("head_dim"),
           nb::arg("inverse_frequency"), nb::arg("rope_scale"))
      .def("buffer",
           [](Recorded& r, int width) {
             require(width > 0, "buffer: width must be positive");
             return r.program->buffer(width);
           })
      .def("logits", &add_logits)
      .def("activations", &add_activations)
      .def("embed", &add_embed)
      .def("prepare", &add_prepare, nb::arg("op"), nb::arg("source"), nb::arg("offset"), nb::arg("up"),
           nb::arg("weight").none(), nb::arg("eps"), nb::arg("act"), nb::arg("sampled"), nb::arg("gathers"),
           nb::arg("fine"), nb::arg("joined"))
      .def("linear", &add_linear, nb::arg("matrix"), nb::arg("act"), nb::arg("out"), nb::arg("offset"),
           nb::arg("bias").none(), nb::arg("accumulate"), nb::arg("sampled"), nb::arg("fine"),
           nb::arg("joined"))
      .def("gated", &add_gated, nb::arg("matrix"), nb::arg("act"), nb::arg("result"), nb::arg("fine"),
           nb::arg("result_fine"), nb::arg("sampled"))
      .def("gather", &add_gather, nb::arg("source"), nb::arg("out"))
      .def("tune", &tune, nb::arg("direct_rows"), nb::arg("row_block"))
      .def("rope", &add_rope, nb::arg("qkv"), nb::arg("heads"), nb::arg("k_offset"), nb::arg("v_offset"),
           nb::arg("q_scale"), nb::arg("layer"), nb::arg("q_norm").none(), nb::arg("k_norm").none(),
           nb::arg("eps"))
      .def("attend", &add_attend, nb::arg("qkv"), nb::arg("out"), nb::arg("heads"), nb::arg("layer"))
      .def("stats", &add_stats, nb::arg("logits"), nb::arg("vocabulary"))
      .def("run", &run_program, nb::arg("spans"))
      .def_prop_ro("sampled_logits", &logits_of)
      .def_prop_ro("workspace_bytes", [](const Recorded& r) { return r.program->workspace_bytes(); })
      .def_prop_ro("pages", [](const Recorded& r) { return r.pages; });
  bind_adapters(program);
}

}  // namespace sampan
