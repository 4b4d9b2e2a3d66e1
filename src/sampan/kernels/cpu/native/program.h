// A model's forward as a list of instructions over named buffers, run in one entry per step.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "adapters.h"
#include "attention_plan.h"
#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace sampan {

enum class Op : int32_t {
  embed,
  angles,
  prepare,
  linear,
  gated,
  rope,
  attend,
  gather,
  stats,
  shrink,
  expand
};

// Steps that an instruction is part of: those in which some row has an adapter, those in which none has, or
// all.
enum class When : int32_t { always = 0, plain = 1, adapted = 2 };

// One instruction; buffers are named by index and resolved when a step runs. `joined`: it runs beside the one
// before it. A phase is an instruction with those joined to it.
struct Instruction {
  Op op;
  When when = When::always;
  bool joined = false;
  int phase = 0;
  bool sampled = false;   // works on the sampled rows, one after another
  bool gathers = false;   // prepare: reads them from where they are in the step
  bool fine = false;      // every row keeps 16 bits, not only early positions
  int in = -1, out = -1;  // float buffers
  int act = -1;           // activations
  int result = -1;        // activations that `gated` makes
  bool result_fine = false;
  int in_offset = 0, out_offset = 0, up = 0;
  Prep prep = Prep::copy;
  int mark = 0;  // norm: its number
  Matrix matrix{};
  const float* weight = nullptr;  // norm or bias
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float eps = 0.0f, q_scale = 1.0f;
  bool accumulate = false;
  int heads = 0, layer = 0, k_offset = 0, v_offset = 0;
  int next_product = -1;  // of a product: the one after it
  int site = -1;          // shrink and expand: the linear that they adapt
};

// One step's inputs; spans cover the rows in order.
struct Step {
  int rows = 0, sampled = 0;
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* sampled_rows = nullptr;
  std::vector<Span> spans;
  uint8_t* cache = nullptr;
  std::vector<int32_t> slots{};  // of the spans: their adapters, -1 for none; empty: no span has one
};

// What a short measurement chooses; results do not depend on it.
struct Tuning {
  int direct_rows = 8;  // up to which weights are read in place
  int row_block = 256;  // rows that share unpacked weights
};

struct Angles {
  std::vector<double> inverse_frequency;  // [head_dim / 2]
  float scale = 1.0f;
};

class Program {
 public:
  Program(Pool& pool, const Kernels& kernels, int max_rows, CacheView cache, Angles angles);

  int buffer(int width);  // [max_rows][width] floats
  int logits(int width);  // [sampled][width], grown on demand
  int activations(int k, Operand operand);
  const char* fault(const Instruction& instruction) const;  // what is wrong with it, or null
  int inputs(int act) const;                                // k of activations, or -1
  bool holds_operand(int act, const Matrix& m) const;  // known activations that hold what the matrix reads
  void add(Instruction instruction);                   // without a fault
  void record_for(When when) { when_ = when; }         // instructions from here on
  Adapters& adapters() { return adapters_; }
  int adapted(const std::vector<int>& outputs, int inputs) { return adapters_.site(outputs, inputs, ok_); }
  // Runs every instruction. Returns false when memory for the logits is refused.
  bool run(const Step& step);

  size_t workspace_bytes() const;  // of everything but the logits
  int max_rows() const { return max_rows_; }
  int stats_chunks() const { return (vocabulary_ + kStatsChunk - 1) / kStatsChunk; }
  int vocabulary() const { return vocabulary_; }
  const Stats* stats() const { return stats_.data(); }  // [sampled][chunks]
  bool has_logits() const { return logits_ >= 0; }
  const float* logits_data() const { return buffers_[static_cast<size_t>(logits_)].memory.as<float>(); }
  int logits_width() const { return buffers_[static_cast<size_t>(logits_)].width; }
  bool ok() const { return ok_; }  // every buffer was granted
  void set_vocabulary(int n) { vocabulary_ = n; }
  void tune(Tuning tuning) { tuning_ = tuning; }
  // Of a sampled row in the last step: the number of the first norm that read something not finite, or -1.
  int unsound(const Step& step, int sampled) const {
    return unsound_[static_cast<size_t>(step.sampled_rows[sampled])];
  }

 private:
  struct Buffer {
    Memory memory;
    int width;
  };
  struct Tile {  // of a matrix product: one item
    int panels, rows;
  };
  struct alignas(64) Counter {
    std::atomic<int> value{0};
  };

  Activations acts(int act, bool all_fine) const;
  float* at(int buffer) const { return buffers_[static_cast<size_t>(buffer)].memory.as<float>(); }
  int width(int buffer) const { return buffers_[static_cast<size_t>(buffer)].width; }
  bool known(int buffer) const;
  bool holds(int buffer, int64_t offset, int64_t count) const;
  const char* fault_of_linear(const Instruction& i) const;
  const char* fault_of_gated(const Instruction& i) const;
  const char* fault_of_prepare(const Instruction& i) const;
  const char* fault_of_attention(const Instruction& i) const;
  void plan(const Step& step);
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
  bool in_place(int rows) const { return rows <= tuning_.direct_rows; }
  void gather(const Instruction& i, const Step& step, int begin, int end);
  void gated(const Instruction& i, const Step& step, int begin, int end, int thread);
  void piece(const Instruction& i, const Step& step, int begin, int end, int thread);
  void angles(const Step& step, int begin, int end);
  void rope(const Instruction& i, const Step& step, int begin, int end);
  void linear(const Instruction& i, const Step& step, int begin, int end, int thread);
  void prepare(const Instruction& i, const Step& step, int begin, int end);

  Pool& pool_;
  const Kernels& kernels_;
  const int max_rows_;
  CacheView cache_;
  Angles angles_;
  std::vector<Instruction> instructions_;
  std::vector<Buffer> buffers_;
  std::vector<Activations> activations_;
  std::vector<Memory> owned_;
  Memory cos_, sin_;
  std::vector<int32_t> row_page_;
  std::vector<uint8_t> fine_rows_;
  std::vector<int32_t> row_slots_;
  std::vector<int32_t> unsound_;
  Tuning tuning_;
  int norms_ = 0;
  AttentionPlan attention_;
  Adapters adapters_;
  When when_ = When::always;
  std::vector<Stats> stats_;
  std::unique_ptr<Counter[]> next_;       // [instructions] the next piece to hand out
  std::unique_ptr<Counter[]> remaining_;  // [phases] items not done yet
  std::vector<Memory> linear_scratch_, attend_scratch_;
  int last_product_ = -1, logits_ = -1, vocabulary_ = 0, max_k_ = 0;
  bool ok_ = true;
};

}  // namespace sampan
