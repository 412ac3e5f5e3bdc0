// Threads for kernels. A kernel cuts its work into items by the shape alone, and an item is computed the same way whichever thread
// takes it: that is what makes results independent of the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace handconv {

int max_threads();

// body(context, item, thread) for every item in [0, count), thread in [0, max_threads()).
void parallel_for(std::int64_t count, void (*body)(void* context, std::int64_t item, int thread), void* context);

// body(item, thread) for every item in [0, count).
template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  const auto call = [](void* context, std::int64_t item, int thread) {
    (*static_cast<const Body*>(context))(item, thread);
  };
  parallel_for(count, call, const_cast<Body*>(std::addressof(body)));
}

}  // namespace handconv
