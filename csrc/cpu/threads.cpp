#include "cpu/threads.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace handconv {
namespace {

// Multiply-adds that take about as long as it takes to wake a thread (some microseconds).
constexpr std::int64_t kWorthAThread = 1 << 15;

}  // namespace

int max_threads() { return at::get_num_threads(); }

void parallel_for(std::int64_t count, std::int64_t cost,
                  void (*body)(void* context, std::int64_t item, int thread), void* context) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, cost));
  at::parallel_for(0, count, grain, [&](std::int64_t begin, std::int64_t end) {
    const int thread = at::get_thread_num();
    for (std::int64_t item = begin; item < end; ++item) body(context, item, thread);
  });
}

}  // namespace handconv
