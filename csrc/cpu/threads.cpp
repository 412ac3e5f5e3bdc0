#include "cpu/threads.h"

#include <ATen/Parallel.h>

namespace handconv {

int max_threads() {
  return at::get_num_threads();
}

void parallel_for(std::int64_t count, void (*body)(void* context, std::int64_t item, int thread), void* context) {
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    const int thread = at::get_thread_num();
    for (std::int64_t item = begin; item < end; ++item) body(context, item, thread);
  });
}

}  // namespace handconv
