// Programs: recorded instruction by instruction, then run a step at a time.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bind_program.h"

namespace sampan {

static Recorded* make_program(nb::object pool, const std::string& isa, int max_rows, int pages, int cache_type, int layers,
                              int kv_heads, int head_dim, std::vector<double> inverse_frequency, float rope_scale) {
  require(max_rows > 0 && pages > 0 && layers > 0 && kv_heads > 0 && head_dim > 0 && head_dim % 32 == 0,
          "program: sizes must be positive and head_dim a multiple of 32");
  require(static_cast<int>(inverse_frequency.size()) * 2 == head_dim, "program: one frequency for each pair of a head");
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

static int add_activations(Recorded& r, int k, bool integer) {
  require(k > 0 && k % (integer ? kBlock : kLanes) == 0, "activations: k must be a multiple of 32");
  return r.program->activations(k, integer);
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

static void add_prepare(Recorded& r, int op, int in, int in_offset, int up, std::optional<Floats> weight, float eps, int act, bool sampled,
                        bool gathers, bool fine, bool joined) {
  Instruction i{Op::prepare};
  i.fine = fine;
  i.joined = joined;
  require(op != static_cast<int>(Prep::norm) || (weight && static_cast<int>(weight->size()) == r.program->inputs(act)),
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

static void add_linear(Recorded& r, nb::object matrix, int act, int out, int out_offset, std::optional<Floats> bias,
                       bool accumulate, bool sampled, bool fine, bool joined) {
  Instruction i{Op::linear};
  i.matrix = nb::cast<Packed&>(matrix).matrix;
  require(!bias || static_cast<int>(bias->size()) == panels(i.matrix) * kLanes, "linear: bias must cover whole panels");
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
  require(direct_rows >= 1 && direct_rows <= kMaxRowsDirect && row_block >= kQuad && row_block % kQuad == 0, "tune: values outside the kernels'");
  r.program->tune({direct_rows, row_block});
}

static void add_gated(Recorded& r, nb::object matrix, int act, int result, bool fine, bool result_fine, bool sampled) {
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
  require((!q_norm || q_norm->size() == d) && (!k_norm || k_norm->size() == d), "rope: a head norm needs one weight for each feature");
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
  require(!r.program->has_logits() || (vocabulary > 0 && vocabulary <= r.program->logits_width()), "stats: vocabulary outside the logits");
  r.program->set_vocabulary(vocabulary);
  add(r, i);
}

// The adapters of a step's spans; none where no span has one.
static std::vector<int32_t> slots_of(const Recorded& r, const std::optional<Ints>& slots, size_t spans) {
  if (!slots) return {};
  require(slots->size() == spans, "run: one adapter slot for each span");
  bool any = false;
  for (size_t s = 0; s < spans; ++s) {
    const int32_t slot = slots->data()[s];
    require(slot >= -1 && slot < static_cast<int32_t>(r.adapters.size()), "run: adapter slot outside the room");
    any = any || slot >= 0;
  }
  return any ? std::vector<int32_t>(slots->data(), slots->data() + spans) : std::vector<int32_t>();
}

static void check_step(const Recorded& r, const Ints& ids, const Ints& positions, const IntTable& spans, const IntTable& pages, const Ints& sampled) {
  const int rows = static_cast<int>(ids.size());
  require(rows > 0 && rows <= r.program->max_rows() && positions.size() == ids.size(), "run: rows must be 1..max_rows, with positions");
  require(spans.shape(1) == 3 && spans.shape(0) == pages.shape(0), "run: spans are [n, 3], with a page table each");
  for (int i = 0; i < rows; ++i) {
    require(ids.data()[i] >= 0 && ids.data()[i] < r.vocabulary_in, "run: token id outside the vocabulary");
    require(positions.data()[i] >= 0, "run: negative position");
  }
  int next = 0;
  for (size_t s = 0; s < spans.shape(0); ++s) {
    const int32_t* span = spans.data() + 3 * s;
    require(span[0] == next && span[1] > 0 && span[1] <= rows - next && span[2] >= 0, "run: spans must cover the rows in order");
    next += span[1];
    const int64_t used = (static_cast<int64_t>(span[2]) + span[1] + kPage - 1) / kPage;
    require(used <= static_cast<int64_t>(pages.shape(1)), "run: a span reaches past its pages");
    for (int64_t i = 0; i < used; ++i) {
      const int32_t page = pages.data()[s * pages.shape(1) + static_cast<size_t>(i)];
      require(page >= 0 && page < r.pages, "run: page outside the cache");
    }
  }
  require(next == rows, "run: spans must cover the rows in order");
  require(sampled.size() <= ids.size(), "run: more sampled rows than rows");
  for (size_t i = 0; i < sampled.size(); ++i) require(sampled.data()[i] >= 0 && sampled.data()[i] < rows, "run: sampled row outside the step");
}

using FloatTable = nb::ndarray<nb::numpy, const float>;

// Runs a step. Returns logits [sampled, vocabulary] (valid until the next step) and chunk statistics
// [sampled, chunks, 4]: max, sum of exp(x - max), argmax, all finite; and for each sampled row the number of the first norm
// that read something not finite, or -1.
static nb::object run_program(nb::handle self, Ints ids, Ints positions, IntTable spans, IntTable pages, Ints sampled, const std::optional<Ints>& slots) {
  Recorded& r = nb::cast<Recorded&>(self);
  Program& p = *r.program;
  if (!p.ok()) throw std::bad_alloc();
  require(p.has_logits(), "run: the program has no logits");
  check_step(r, ids, positions, spans, pages, sampled);
  Step step;
  step.slots = slots_of(r, slots, spans.shape(0));
  step.rows = static_cast<int>(ids.size());
  step.sampled = static_cast<int>(sampled.size());
  step.ids = ids.data();
  step.positions = positions.data();
  step.sampled_rows = sampled.data();
  step.cache = r.cache_memory.data();
  for (size_t s = 0; s < spans.shape(0); ++s) {
    const int32_t* span = spans.data() + 3 * s;
    step.spans.push_back({span[0], span[1], span[2], pages.data() + s * pages.shape(1)});
  }
  bool done;
  {
    Pool& pool = nb::cast<Pool&>(r.pool_owner);
    nb::gil_scoped_release release;
    const std::lock_guard turn(pool.turn());
    done = p.run(step);
  }
  if (!done) throw std::bad_alloc();
  const size_t n = sampled.size(), chunks = static_cast<size_t>(p.stats_chunks());
  float* copy = new float[n * chunks * 4 + 1];
  for (size_t i = 0; i < n * chunks; ++i) {
    const Stats& s = p.stats()[i];
    const float row[4] = {s.max, s.sum, static_cast<float>(s.argmax), static_cast<float>(s.finite)};
    std::copy(row, row + 4, copy + 4 * i);
  }
  nb::capsule owner(copy, [](void* x) noexcept { delete[] static_cast<float*>(x); });
  const int64_t strides[] = {p.logits_width(), 1};
  FloatTable logits(p.logits_data(), {n, static_cast<size_t>(p.vocabulary())}, self, {strides[0], strides[1]});
  nb::list unsound;
  for (int i = 0; i < step.sampled; ++i) unsound.append(p.unsound(step, i));
  return nb::make_tuple(logits, FloatTable(copy, {n, chunks, 4}, owner), unsound);
}

void bind_program(nb::module_& m) {
  nb::class_<Recorded> program(m, "Program");
  program.def(nb::new_(&make_program), nb::arg("pool"), nb::arg("isa"), nb::arg("max_rows"), nb::arg("pages"), nb::arg("cache_type"),
           nb::arg("layers"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("inverse_frequency"), nb::arg("rope_scale"))
      .def("buffer", [](Recorded& r, int width) { require(width > 0, "buffer: width must be positive"); return r.program->buffer(width); })
      .def("logits", &add_logits)
      .def("activations", &add_activations)
      .def("embed", &add_embed)
      .def("prepare", &add_prepare, nb::arg("op"), nb::arg("source"), nb::arg("offset"), nb::arg("up"), nb::arg("weight").none(), nb::arg("eps"), nb::arg("act"), nb::arg("sampled"), nb::arg("gathers"), nb::arg("fine"), nb::arg("joined"))
      .def("linear", &add_linear, nb::arg("matrix"), nb::arg("act"), nb::arg("out"), nb::arg("offset"), nb::arg("bias").none(), nb::arg("accumulate"), nb::arg("sampled"), nb::arg("fine"), nb::arg("joined"))
      .def("gated", &add_gated, nb::arg("matrix"), nb::arg("act"), nb::arg("result"), nb::arg("fine"), nb::arg("result_fine"), nb::arg("sampled"))
      .def("gather", &add_gather, nb::arg("source"), nb::arg("out"))
      .def("tune", &tune, nb::arg("direct_rows"), nb::arg("row_block"))
      .def("rope", &add_rope, nb::arg("qkv"), nb::arg("heads"), nb::arg("k_offset"), nb::arg("v_offset"), nb::arg("q_scale"), nb::arg("layer"), nb::arg("q_norm").none(), nb::arg("k_norm").none(), nb::arg("eps"))
      .def("attend", &add_attend, nb::arg("qkv"), nb::arg("out"), nb::arg("heads"), nb::arg("layer"))
      .def("stats", &add_stats, nb::arg("logits"), nb::arg("vocabulary"))
      .def("run", [](nb::handle self, Ints a, Ints b, IntTable c, IntTable d, Ints e, std::optional<Ints> f) { return run_program(self, a, b, c, d, e, f); },
           nb::arg("ids"), nb::arg("positions"), nb::arg("spans"), nb::arg("pages"), nb::arg("sampled"), nb::arg("slots") = nb::none())
      .def_prop_ro("workspace_bytes", [](const Recorded& r) { return r.program->workspace_bytes(); })
      .def_prop_ro("pages", [](const Recorded& r) { return r.pages; });
  bind_adapters(program);
}

}  // namespace sampan
