// A model's forward as a list of instructions over named buffers, run in one entry per step.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "adapters.h"
#include "attention_plan.h"
#include "expert_run.h"
#include "experts.h"
#include "kernels.h"
#include "memory.h"
#include "pool.h"
#include "step.h"

namespace sampan {

// Every operation of a program, once: the enumeration, its names and Python's know this list.
// clang-format off
#define SAMPAN_EACH_OP(X) \
  X(embed) X(angles) X(prepare) X(linear) X(gated) X(norm) X(map) X(rotate) X(append) X(attend) X(stats) \
  X(shrink) X(expand) X(route) X(sort) X(gather) X(each) X(gate_each) X(combine) X(per_head) \
  X(stored) X(expect) X(convolve) X(delta)
// clang-format on

enum class Op : int32_t {
#define SAMPAN_NAME(op) op,
  SAMPAN_EACH_OP(SAMPAN_NAME)
#undef SAMPAN_NAME
};

// Steps that an instruction is part of: those in which some row has an adapter, those in which none has, or
// all.
enum class When : int32_t { always = 0, plain = 1, adapted = 2 };

// Features of a float buffer from `offset` on.
struct Place {
  int buffer = -1;
  int64_t offset = 0;
};

// How heads are turned: a norm's weight, a table of angles (-1: no rotation) and where it applies.
struct Turning {
  const float* norm = nullptr;
  float eps = 0.0f;
  int table = -1, first = 0;
  bool interleaved = false;
  float scale = 1.0f;
};

// One instruction; buffers are named by index and resolved when a step runs. `joined`: it runs beside the one
// before it. A phase is an instruction with those joined to it.
struct Instruction {
  Op op;
  When when = When::always;
  bool joined = false;
  int phase = 0;
  bool sampled = false;        // works on the sampled rows, one after another
  bool gathers = false;        // prepare, map: reads them from where they are in the step
  bool fine = false;           // every row keeps 16 bits, not only early positions
  Place x{}, y{}, z{}, out{};  // append: q, k and v
  int act = -1;                // activations
  int result = -1;             // activations that `gated` makes
  bool result_fine = false;
  int up = 0;  // prepare: where swiglu's second input is, after the first
  Prep prep = Prep::copy;
  Map map = Map::copy;
  int mark = 0;  // norm: its number
  Matrix matrix{};
  const float* weight = nullptr;  // norm or bias
  float eps = 0.0f, factor = 1.0f;
  bool accumulate = false, single = false;
  int width = 0, size = 0;  // features (prepare, gather: 0 for all), and those of a run or a head
  int kept = 0, fill = 0;   // map: as MapArgs has them
  int heads = 0, key_heads = 0, layer = 0, table = -1;
  const float* bias = nullptr;  // delta: beside its decay
  int64_t state = 0;            // convolve, delta: where theirs begins in a slot, in floats
  Turning turn{}, k_turn{};
  int next_product = -1;  // of a product: the one after it
  int site = -1;          // shrink and expand: the linear that they adapt
  int plan = -1;          // attend: how its step is cut; stored: its run
  int router = -1;        // route, sort, combine, and what works on slots: which
  int group = -1;         // each, gate_each: the experts' matrices; per_head: the heads'
  int parts = 1;          // attend: of each KV head's query heads
  int stages = 0;       // stored: the instructions behind it that each expert goes through, once it is there
  bool staged = false;  // one of those
  bool ahead = false;   // part of finding out what the next layer will ask for
};

class Program {
 public:
  // `shapes`: what each layer caches.
  Program(Pool& pool, const Kernels& kernels, int max_rows, Cache type, std::vector<CacheShape> shapes);

  // All buffers and rows of activations lie in one piece of memory, where the plan says, in bytes; a negative
  // number is a fault.
  bool reserve(size_t bytes);
  int buffer(size_t offset, int width, int rows = 0);  // [rows, or max_rows][width] floats
  int activations(size_t offset, int k, Operand operand, int rows = 0);
  int angles(size_t offset, std::vector<double> inverse_frequency, float scale);
  int logits(int width);  // [rows whose logits are wanted][width], grown on demand
  void set_state(size_t floats) { state_floats_ = floats; }  // of one slot
  size_t state_floats() const { return state_floats_; }
  int router(const Router& router);
  int experts(int router) const {  // of a router; 0: there is no such one
    const bool there = router >= 0 && router < static_cast<int>(routers_.size());
    return there ? routers_[static_cast<size_t>(router)].experts : 0;
  }
  int group(std::vector<Matrix> matrices);  // of all experts of a layer
  // The same, of experts that `store` brings: a matrix at `offset` of each of them.
  int stored_group(const Matrix& matrix, int layer, int64_t offset);
  void set_store(ExpertStore* store) { store_ = store; }
  const std::string& failure() const {
    return expert_step_.failure;
  }  // of the last step: why it gave nothing

  std::string fault(const Instruction& instruction) const;  // what is wrong with it, or nothing
  int inputs(int act) const;                                // k of activations, or -1
  void add(Instruction instruction);                        // without a fault
  void record_for(When when) { when_ = when; }              // instructions from here on
  Adapters& adapters() { return adapters_; }
  // A linear's place among those that adapters know; `router`: of an expert's linear, or -1.
  int adapted(const std::vector<int>& outputs, int inputs, int router = -1, HeadStrides heads = {});
  // Runs every instruction. Returns false when memory for the logits is refused.
  bool run(const Step& step);

  size_t workspace_bytes() const;  // of everything but the logits
  size_t cache_run_bytes() const { return run_bytes_; }
  // In all layers.
  void copy_page(uint8_t* cache, int from, int to) const;
  int key_size(int layer) const {  // 0: no such layer
    const bool there = layer >= 0 && layer < static_cast<int>(shapes_.size());
    return there ? shapes_[static_cast<size_t>(layer)].key_size : 0;
  }
  int max_rows() const { return max_rows_; }
  int stats_chunks() const { return (vocabulary_ + kStatsChunk - 1) / kStatsChunk; }
  int vocabulary() const { return vocabulary_; }
  const Stats* stats() const { return stats_.data(); }  // [sampled][chunks]
  bool has_logits() const { return logits_ >= 0; }
  const float* logits_data() const { return logits_memory_.as<float>(); }
  bool takes_targets() const;
  int held_rows() const { return held_rows_; }
  const std::vector<int32_t>& held() const { return held_; }    // the sampled rows' rows of logits, or -1
  const std::vector<float>& chosen() const { return chosen_; }  // the targets' logits
  int logits_width() const { return buffers_[static_cast<size_t>(logits_)].width; }
  bool holds(const Place& place, int64_t count) const;  // features inside the buffer
  const float* data(const Place& place) const { return at(place); }
  float* data(const Place& place) { return at(place); }
  int rows(const Place& place) const { return buffers_[static_cast<size_t>(place.buffer)].rows; }
  int width(const Place& place) const { return buffers_[static_cast<size_t>(place.buffer)].width; }
  bool ok() const { return ok_; }  // all memory was granted
  void set_vocabulary(int n) { vocabulary_ = n; }
  void tune(Tuning tuning) { tuning_ = tuning; }
  // Of a sampled row in the last step: the number of the first norm that read something not finite, or -1.
  int unsound(const Step& step, int sampled) const {
    return unsound_[static_cast<size_t>(step.sampled_rows[sampled])];
  }

 private:
  struct Buffer {
    float* data;
    int width, rows;
  };
  struct Tile {  // of a matrix product: one item
    int panels, rows;
  };
  struct alignas(64) Counter {
    std::atomic<int> value{0};
  };
  struct Cut {  // how a step's attention is cut, for layers alike
    CacheShape shape;
    int group;
    std::unique_ptr<AttentionPlan> plan;
  };

  Activations acts(int act, bool all_fine) const;
  float* at(const Place& p) const { return buffers_[static_cast<size_t>(p.buffer)].data + p.offset; }
  uint8_t* inside(size_t offset, size_t bytes) const;
  bool known(int buffer) const;
  bool holds_operand(int act, const Matrix& m) const;  // known activations that hold what the matrix reads
  std::string fault_of_linear(const Instruction& i) const;
  std::string fault_of_gated(const Instruction& i) const;
  std::string fault_of_prepare(const Instruction& i) const;
  std::string fault_of_norm(const Instruction& i) const;
  std::string fault_of_map(const Instruction& i) const;
  std::string fault_of_turning(const Turning& t, int size) const;
  std::string fault_of_rotate(const Instruction& i) const;
  std::string fault_of_append(const Instruction& i) const;
  std::string fault_of_attend(const Instruction& i) const;
  std::string fault_of_experts(const Instruction& i) const;
  bool has_slots(const Instruction& i) const;
  std::string fault_of_heads(const Instruction& i) const;
  int cut_of(const CacheShape& shape, int group);
  void plan(const Step& step);
  void hold(const Step& step);
  void execute(const Instruction& i, const Step& step, Counter& next, int thread);
  void wait_for(int phase) const;
  int items(const Instruction& i, const Step& step) const;
  bool applies(const Instruction& i, const Step& step) const {
    return i.when == When::always || (i.when == When::adapted) == !step.slots.empty();
  }
  int grain(const Instruction& i, int items) const;
  int rows(const Instruction& i, const Step& step) const { return i.sampled ? step.sampled : step.rows; }
  Tile tile(int panels, int rows) const;
  const uint8_t* next_panels(const Instruction& i, int column, int width, int thread) const;
  int tiles(const Instruction& i, int rows) const;
  int head_rows(int rows) const;
  void head_piece(const Step& step, int item, int thread);
  bool in_place(int rows) const { return rows <= tuning_.direct_rows; }
  CacheView layer(int index) const;
  Turn turn(const Turning& t) const;
  const int32_t* step_rows(const Instruction& i, const Step& step) const {
    return i.sampled ? step.sampled_rows : nullptr;
  }
  void gated(const Instruction& i, const Step& step, int begin, int end, int thread);
  void piece(const Instruction& i, const Step& step, int begin, int end, int thread);
  void angles(const Instruction& i, const Step& step, int begin, int end);
  void linear(const Instruction& i, const Step& step, int begin, int end, int thread);
  void embed(const Instruction& i, const Step& step, int begin, int end);
  void prepare(const Instruction& i, const Step& step, int begin, int end);
  void norm(const Instruction& i, const Step& step, int begin, int end);
  void map(const Instruction& i, const Step& step, int begin, int end);
  void append(const Instruction& i, const Step& step, int begin, int end);
  void attend(const Instruction& i, int begin, int end, int thread);
  void stats(const Instruction& i, const Step& step, int begin, int end, int thread);
  static bool is_routed(const Instruction& i);  // works on slots, whose number `sort` finds out
  static Rows rows_of(const Instruction& i) {
    return i.router >= 0 ? Rows::slots : i.sampled ? Rows::sampled : Rows::all;
  }
  int columns_of(const Instruction& i) const;
  int tiles_of(const Instruction& i, int rows) const;
  int routed_items(const Instruction& i) const;
  Activations slot_acts(int act, bool all_fine) const;
  void begin_step(int rows);
  void begin_stored(const Instruction& i);
  void stored(const Instruction& i, int thread);
  bool advance(const Instruction& i, int thread);
  void stage(const Instruction& part, ExpertWork& work, int item, int thread);
  void expect(const Instruction& i, int rows);
  std::string fault_of_stored(const Instruction& i) const;
  void route(const Instruction& i, int begin, int end);
  void sort(const Instruction& i, const Step& step);
  void gather(const Instruction& i, int begin, int end);
  void each(const Instruction& i, int item, int thread);
  void tile_of(const Instruction& i, const Matrix& m, int expert, int item, int thread);
  void combine(const Instruction& i, int begin, int end);
  std::string fault_of_per_head(const Instruction& i) const;
  void per_head(const Instruction& i, const Step& step, int begin, int end, int thread);
  const float* state_before(const Instruction& i, const Step& step, size_t span) const;
  float* state_behind(const Instruction& i, const Step& step, size_t span) const;
  bool has_state(const Instruction& i, int64_t floats) const;
  std::string fault_of_convolve(const Instruction& i) const;
  std::string fault_of_delta(const Instruction& i) const;
  void convolve(const Instruction& i, const Step& step, int begin, int end);
  void delta(const Instruction& i, const Step& step, int begin, int end);

  Pool& pool_;
  const Kernels& kernels_;
  const int max_rows_;
  const Cache type_;
  const std::vector<CacheShape> shapes_;
  std::vector<ptrdiff_t> layer_offset_;
  size_t run_bytes_ = 0, state_floats_ = 0;
  uint8_t* cache_ = nullptr;
  Memory arena_, logits_memory_;
  std::vector<Instruction> instructions_;
  std::vector<Buffer> buffers_;
  std::vector<Activations> activations_;
  std::vector<Angles> angles_;
  std::vector<Cut> cuts_;
  std::vector<Router> routers_;
  std::vector<ExpertGroup> groups_;
  ExpertStore* store_ = nullptr;
  std::vector<ExpertRun> runs_;
  ExpertStep expert_step_;
  Routing routing_;
  std::vector<int32_t> row_page_;
  std::vector<uint8_t> fine_rows_;
  std::vector<int32_t> row_slots_;
  std::vector<int32_t> unsound_;
  Tuning tuning_;
  Adapters adapters_;
  When when_ = When::always;
  std::vector<Stats> stats_;
  std::vector<float> chosen_;
  std::vector<int32_t> held_;             // [sampled] the row of the logits that it keeps, or -1
  std::unique_ptr<Counter[]> next_;       // [instructions] the next piece to hand out
  std::unique_ptr<Counter[]> remaining_;  // [phases] items not done yet
  std::unique_ptr<Counter[]> routed_;     // [instructions] items that `sort` has found out
  std::vector<Memory> linear_scratch_, attend_scratch_, head_scratch_;
  int last_product_ = -1, head_ = -1, logits_ = -1, held_rows_ = 0, vocabulary_ = 0, max_k_ = 0;
  bool ok_ = true;
};

}  // namespace sampan
