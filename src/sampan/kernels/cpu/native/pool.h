// A pool of threads that enter a step together and leave it together. Parks when idle.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sampan {

class Pool {
 public:
  explicit Pool(int threads);  // throws std::system_error when the system refuses a thread
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }
  // Callers from several threads hold this around `run`: only one may be inside.
  std::mutex& turn() { return turn_; }
  // Calls job(thread) once on every thread, the caller's included; returns when all are done. The job must
  // not throw.
  void run(const std::function<void(int)>& job);
  // Inside a job: waits until every thread is here.
  void barrier();

 private:
  void work(int thread);
  void end();

  const int size_;
  const pid_t process_;  // whose threads they are: a fork has none of them
  const std::function<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stop_{false};
  std::mutex turn_;
  std::vector<std::thread> threads_;
};

// One turn of a spin loop: a pause at first, then the core for another thread.
void relax(int spins);

// Hands out [0, items) in pieces of `grain`, in any order, from inside a job.
inline bool take(std::atomic<int>& next, int items, int grain, int& begin, int& end) {
  begin = next.fetch_add(grain, std::memory_order_relaxed);
  if (begin >= items) return false;
  end = begin + grain < items ? begin + grain : items;
  return true;
}

}  // namespace sampan
