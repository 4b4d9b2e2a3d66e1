// A step's way through the experts of one layer of the store.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "expert_store.h"
#include "kernels.h"

namespace sampan {

constexpr int kExpertStages = 4;   // that an expert goes through at most
constexpr int kRowsReadAhead = 8;  // of a step whose next layer's experts are found out early

// Matrices of all experts, or of all heads; of a layer of the store one for all, `offset` behind an expert's
// data.
struct ExpertGroup {
  std::vector<Matrix> matrices;
  int layer = -1;
  int64_t offset = 0;
};

// An expert that a step goes through: what has been handed out of each stage, and what is left.
struct ExpertWork {
  ExpertUse use;
  int expert = 0, items[kExpertStages] = {};
  std::atomic<int> stage{0};
  std::atomic<int> next[kExpertStages] = {}, left[kExpertStages] = {};
};

struct ExpertRun {
  std::unique_ptr<ExpertWork[]> works;
  int count = 0;
};

// Why a step gave nothing.
struct ExpertStep {
  std::mutex door;
  std::atomic<bool> failed{false};
  std::string failure;
};

}  // namespace sampan
