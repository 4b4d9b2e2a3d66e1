// Programs: their memory, and their instructions, which Python writes as an operation's name and named
// fields.

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "bind_program.h"

namespace sampan {

template <class T>
using Names = std::vector<std::pair<const char*, T>>;

// What a name stands for; throws where it stands for nothing.
template <class T>
static T named(const Names<T>& names, const std::string& name, const char* what) {
  for (const auto& [known, value] : names)
    if (name == known) return value;
  throw std::invalid_argument(std::string(what) + " '" + name + "' is not known");
}

#define SAMPAN_OP(op) {#op, Op::op},
static const Names<Op> kOps = {SAMPAN_EACH_OP(SAMPAN_OP)};
#undef SAMPAN_OP
static const Names<Cache> kCaches = {{"bf16", Cache::bf16}, {"f32", Cache::f32}, {"int8", Cache::int8}};
static const Names<Prep> kPreps = {{"copy", Prep::copy}, {"norm", Prep::norm}, {"swiglu", Prep::swiglu}};
static const Names<Map> kMaps = {{"copy", Map::copy}, {"scale", Map::scale},   {"add", Map::add},
                                 {"gate", Map::gate}, {"swiglu", Map::swiglu}, {"heads", Map::heads}};

Cache cache_of(const std::string& name) { return named(kCaches, name, "cache"); }

using Layer = std::vector<int>;  // KV heads, key and value size, and 1 where it is latent

static Recorded* make_program(nb::object pool, const std::string& isa, int max_rows, int pages,
                              const std::string& cache, const std::vector<Layer>& layers, int states,
                              size_t state_floats) {
  require(max_rows > 0 && pages > 0 && states >= 0, "program: sizes must be positive");
  std::vector<CacheShape> shapes;
  for (const Layer& layer : layers) {
    require(layer.size() == 3 || layer.size() == 4, "program: a layer has three sizes");
    const int heads = layer[0], key = layer[1], value = layer[2];
    const bool latent = layer.size() == 4 && layer[3] != 0;
    require(heads > 0 && key > 0 && value > 0 && key % 32 == 0 && value % 32 == 0,
            "program: sizes of keys and values must be multiples of 32");
    require(!latent || value <= key, "program: a latent value is a part of its key");
    shapes.push_back({heads, key, value, latent});
  }
  auto r = std::make_unique<Recorded>();
  r->pool_owner = pool;
  r->pages = pages;
  r->program = std::make_unique<Program>(nb::cast<Pool&>(pool), find_kernels(isa), max_rows, cache_of(cache),
                                         std::move(shapes));
  const size_t runs = (static_cast<size_t>(pages) + kRun - 1) / kRun;
  r->cache_memory = Memory(r->program->cache_run_bytes() * runs);
  if (r->cache_memory.bytes() > 0 && !r->cache_memory.data()) throw std::bad_alloc();
  r->states = state_floats > 0 ? states : 0;
  r->program->set_state(state_floats);
  r->state_memory = Memory(static_cast<size_t>(r->states) * state_floats * sizeof(float));
  if (r->state_memory.bytes() > 0 && !r->state_memory.data()) throw std::bad_alloc();
  return r.release();
}

void add(Recorded& r, const Instruction& i) {
  const std::string fault = r.program->fault(i);
  if (!fault.empty()) throw std::invalid_argument(fault);
  r.program->add(i);
}

static const Matrix& keep_matrix(Recorded& r, nb::handle value) {
  r.keep.push_back(nb::borrow(value));
  return nb::cast<Packed&>(value).matrix;
}

static int keep_group(Recorded& r, nb::handle values) {
  std::vector<Matrix> all;
  for (nb::handle value : values) all.push_back(keep_matrix(r, value));
  return r.program->group(std::move(all));
}

// Floats of at least so many elements.
static const float* keep_floats(Recorded& r, nb::handle value, int64_t least) {
  const Floats x = nb::cast<Floats>(value);
  require(static_cast<int64_t>(x.size()) >= least, "fewer weights than features");
  r.keep.push_back(nb::borrow(value));
  return x.data();
}

static Place place_of(nb::handle value) {
  const auto [buffer, offset] = nb::cast<std::pair<int, int64_t>>(value);
  return {buffer, offset};
}

// A tuple of norm (or None), eps, angles (-1: none), first feature, interleaved, scale; of heads of `size`.
static Turning turning_of(Recorded& r, nb::handle value, int size) {
  const nb::tuple t = nb::cast<nb::tuple>(value);
  require(t.size() == 6, "a turning has six parts");
  Turning turning;
  if (!t[0].is_none()) turning.norm = keep_floats(r, t[0], size);
  turning.eps = nb::cast<float>(t[1]);
  turning.table = nb::cast<int>(t[2]);
  turning.first = nb::cast<int>(t[3]);
  turning.interleaved = nb::cast<bool>(t[4]);
  turning.scale = nb::cast<float>(t[5]);
  return turning;
}

using Setter = std::function<void(Instruction&, nb::handle)>;

template <class T>
static Setter sets(T Instruction::* field) {
  return [field](Instruction& i, nb::handle value) { i.*field = nb::cast<T>(value); };
}

static Setter sets_place(Place Instruction::* field) {
  return [field](Instruction& i, nb::handle value) { i.*field = place_of(value); };
}

// Fields that hold numbers and places. Those that keep Python's objects alive are set in `set_field`.
static const std::unordered_map<std::string, Setter>& setters() {
  static const std::unordered_map<std::string, Setter> all = {
      {"joined", sets(&Instruction::joined)},
      {"sampled", sets(&Instruction::sampled)},
      {"gathers", sets(&Instruction::gathers)},
      {"fine", sets(&Instruction::fine)},
      {"result_fine", sets(&Instruction::result_fine)},
      {"accumulate", sets(&Instruction::accumulate)},
      {"single", sets(&Instruction::single)},
      {"act", sets(&Instruction::act)},
      {"result", sets(&Instruction::result)},
      {"up", sets(&Instruction::up)},
      {"mark", sets(&Instruction::mark)},
      {"width", sets(&Instruction::width)},
      {"size", sets(&Instruction::size)},
      {"kept", sets(&Instruction::kept)},
      {"fill", sets(&Instruction::fill)},
      {"heads", sets(&Instruction::heads)},
      {"key_heads", sets(&Instruction::key_heads)},
      {"layer", sets(&Instruction::layer)},
      {"state", sets(&Instruction::state)},
      {"table", sets(&Instruction::table)},
      {"router", sets(&Instruction::router)},
      {"stages", sets(&Instruction::stages)},
      {"staged", sets(&Instruction::staged)},
      {"ahead", sets(&Instruction::ahead)},
      {"eps", sets(&Instruction::eps)},
      {"factor", sets(&Instruction::factor)},
      {"x", sets_place(&Instruction::x)},
      {"y", sets_place(&Instruction::y)},
      {"z", sets_place(&Instruction::z)},
      {"out", sets_place(&Instruction::out)},
      {"prep",
       [](Instruction& i, nb::handle v) { i.prep = named(kPreps, nb::cast<std::string>(v), "prep"); }},
      {"map", [](Instruction& i, nb::handle v) { i.map = named(kMaps, nb::cast<std::string>(v), "map"); }},
  };
  return all;
}

// Features that the instruction's weight must have: a norm's, or a bias of whole panels.
static int64_t weights_of(const Program& p, const Instruction& i) {
  if (i.op == Op::prepare || i.op == Op::gather) return i.width > 0 ? i.width : p.inputs(i.act);
  if (i.op == Op::convolve) return static_cast<int64_t>(i.width) * i.size;
  if (i.op == Op::delta) return i.heads;
  return i.op == Op::norm ? i.size : static_cast<int64_t>(panels(i.matrix)) * kLanes;
}

static void add_named(Recorded& r, const std::string& name, const nb::dict& fields) {
  Instruction i{named(kOps, name, "operation")};
  require(i.op != Op::shrink && i.op != Op::expand, "add: adapters have a call of their own");
  for (const auto& [key, value] : fields) {
    const std::string field = nb::cast<std::string>(key);
    const auto setter = setters().find(field);
    if (setter != setters().end()) setter->second(i, value);
    else if (field == "matrix") i.matrix = keep_matrix(r, value);
    else if (field == "matrices") i.group = keep_group(r, value);
    else if (field == "stored") i.group = keep_stored(r, nb::cast<nb::tuple>(value));
    else if (field != "weight" && field != "bias" && field != "turn" && field != "k_turn")
      throw std::invalid_argument(name + ": no field '" + field + "'");
  }
  const bool heads = i.op == Op::append;
  const int size = heads ? r.program->key_size(i.layer) : i.size;
  if (fields.contains("weight") && !fields["weight"].is_none())
    i.weight = keep_floats(r, fields["weight"], weights_of(*r.program, i));
  if (fields.contains("bias")) i.bias = keep_floats(r, fields["bias"], i.heads);
  if (fields.contains("turn")) i.turn = turning_of(r, fields["turn"], size);
  if (fields.contains("k_turn")) i.k_turn = turning_of(r, fields["k_turn"], size);
  add(r, i);
  if (i.op == Op::embed)
    r.vocabulary_in = r.vocabulary_in ? std::min(r.vocabulary_in, i.matrix.n) : i.matrix.n;
}

static int granted(int index, const char* what) {
  require(index >= 0, what);
  return index;
}

static int add_router(Recorded& r, int experts, int chosen, int groups, int groups_kept, int group_top,
                      bool sigmoid, bool normalised, float scale, nb::handle bias) {
  const bool whole = experts > 0 && groups > 0 && experts % groups == 0;
  require(whole && groups_kept > 0 && groups_kept <= groups && group_top > 0 && group_top <= experts / groups,
          "router: groups must divide the experts");
  require(chosen > 0 && chosen <= experts / groups * groups_kept, "router: more chosen than there are");
  const float* added = bias.is_none() ? nullptr : keep_floats(r, bias, experts);
  return r.program->router(
      {experts, chosen, groups, groups_kept, group_top, sigmoid, normalised, scale, added});
}

static int add_activations(Recorded& r, size_t offset, int k, int operand, int rows) {
  require(rows >= 0, "activations: rows must be positive");
  require(operand >= 0 && operand <= static_cast<int>(Operand::bf16), "activations: unknown operand");
  require(k > 0 && k % (operand == static_cast<int>(Operand::int8) ? kBlock : 1) == 0,
          "activations: k must be a multiple of 32 for integer weights");
  require(k % kLanes == 0, "activations: k must be a multiple of 16");
  const int act = r.program->activations(offset, k, static_cast<Operand>(operand), rows);
  return granted(act, "activations: outside the reserved memory");
}

static int add_logits(Recorded& r, int width, int vocabulary) {
  require(width > 0 && !r.program->has_logits(), "logits: one positive width for a program");
  require(vocabulary > 0 && vocabulary <= width, "logits: vocabulary outside their width");
  r.program->set_vocabulary(vocabulary);
  return r.program->logits(width);
}

static void tune(Recorded& r, int direct_rows, int row_block) {
  require(direct_rows >= 1 && direct_rows <= kMaxRowsDirect && row_block >= kQuad && row_block % kQuad == 0,
          "tune: values outside the kernels'");
  r.program->tune({direct_rows, row_block});
}

static void reserve(Recorded& r, size_t bytes) {
  if (!r.program->reserve(bytes)) throw std::bad_alloc();
}

void bind_program(nb::module_& m) {
  nb::class_<Recorded> program(m, "Program");
  program
      .def(nb::new_(&make_program), nb::arg("pool"), nb::arg("isa"), nb::arg("max_rows"), nb::arg("pages"),
           nb::arg("cache"), nb::arg("layers"), nb::arg("states") = 0, nb::arg("state_floats") = 0)
      .def("reserve", &reserve, nb::arg("bytes"))
      .def(
          "buffer",
          [](Recorded& r, size_t offset, int width, int rows) {
            require(width > 0 && rows >= 0, "buffer: width and rows must be positive");
            return granted(r.program->buffer(offset, width, rows), "buffer: outside the reserved memory");
          },
          nb::arg("offset"), nb::arg("width"), nb::arg("rows") = 0)
      .def("router", &add_router, nb::arg("experts"), nb::arg("chosen"), nb::arg("groups"),
           nb::arg("groups_kept"), nb::arg("group_top"), nb::arg("sigmoid"), nb::arg("normalised"),
           nb::arg("scale"), nb::arg("bias").none())
      .def("activations", &add_activations, nb::arg("offset"), nb::arg("k"), nb::arg("operand"),
           nb::arg("rows") = 0)
      .def(
          "angles",
          [](Recorded& r, size_t offset, std::vector<double> inverse_frequency, float scale) {
            const int table = r.program->angles(offset, std::move(inverse_frequency), scale);
            return granted(table, "angles: outside the reserved memory");
          },
          nb::arg("offset"), nb::arg("inverse_frequency"), nb::arg("scale"))
      .def("logits", &add_logits, nb::arg("width"), nb::arg("vocabulary"))
      .def("add", &add_named, nb::arg("op"), nb::arg("fields"))
      .def("store", &set_store, nb::arg("store"))
      .def("tune", &tune, nb::arg("direct_rows"), nb::arg("row_block"))
      .def_prop_ro("workspace_bytes", [](const Recorded& r) { return r.program->workspace_bytes(); })
      .def_prop_ro("cache_bytes", [](const Recorded& r) { return r.cache_memory.bytes(); })
      .def_prop_ro("state_bytes", [](const Recorded& r) { return r.state_memory.bytes(); })
      .def_prop_ro("pages", [](const Recorded& r) { return r.pages; });
  bind_adapters(program);
  bind_run(program);
}

}  // namespace sampan
