// Threads for kernels. A kernel cuts its work into items by the shape alone, and an item is
// computed the same way whichever thread takes it: that is what makes results independent of the
// number of threads.
#pragma once

#include <cstdint>
#include <memory>

namespace handconv {

int max_threads();

// body(context, item, thread) for every item in [0, count), thread in [0, max_threads()). `cost`
// estimates one item in multiply-adds: work too small to be worth waking a thread stays on the
// caller's.
void parallel_for(std::int64_t count, std::int64_t cost,
                  void (*body)(void* context, std::int64_t item, int thread), void* context);

// body(item, thread) for every item in [0, count).
template <class Body>
void parallel_for(std::int64_t count, std::int64_t cost, const Body& body) {
  const auto call = [](void* context, std::int64_t item, int thread) {
    (*static_cast<const Body*>(context))(item, thread);
  };
  parallel_for(count, cost, call, const_cast<Body*>(std::addressof(body)));
}

}  // namespace handconv
