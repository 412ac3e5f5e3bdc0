#include "cpu/threads.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace handconv {
namespace {

// Multiply-adds that take about as long as it takes to wake a thread (some microseconds).
constexpr std::int64_t kWorthAThread = 1 << 15;

// A range of items for each thread. It is the same in every call, so that a thread finds in its
// cache what it wrote in the last one; but threads are not equally fast where others use the
// machine or half of the core, so whoever is done takes items of others.
class Shares {
 public:
  Shares(std::int64_t items, std::int64_t count) : shares_(static_cast<std::size_t>(count)) {
    for (std::int64_t i = 0; i < count; ++i) {
      shares_[i].next.store(items * i / count, std::memory_order_relaxed);
      shares_[i].last = items * (i + 1) / count;
    }
  }

  std::int64_t count() const { return static_cast<std::int64_t>(shares_.size()); }

  // body(item) for the items of share `own`, then for those that are left of others.
  template <class Body>
  void run(std::int64_t own, const Body& body) {
    for (std::int64_t i = 0; i < count(); ++i) {
      Share& share = shares_[(own + i) % count()];
      for (std::int64_t item = share.take(); item < share.last; item = share.take()) body(item);
    }
  }

 private:
  struct alignas(64) Share {  // a cache line of its own
    std::atomic<std::int64_t> next;
    std::int64_t last;

    // The first look writes nothing: most shares are found empty by most threads.
    std::int64_t take() {
      if (next.load(std::memory_order_relaxed) >= last) return last;
      return next.fetch_add(1, std::memory_order_relaxed);
    }
  };

  std::vector<Share> shares_;
};

}  // namespace

int max_threads() { return at::get_num_threads(); }

void parallel_for(std::int64_t count, std::int64_t cost,
                  void (*body)(void* context, std::int64_t item, int thread), void* context) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, cost));
  const std::int64_t threads =
      at::in_parallel_region() ? 1
                               : std::min<std::int64_t>(max_threads(), (count + grain - 1) / grain);
  if (threads <= 1) {
    // Not at::get_thread_num(), which inside of a region that is not ours has no bound here.
    for (std::int64_t item = 0; item < count; ++item) body(context, item, 0);
    return;
  }
  Shares shares(count, threads);
  at::parallel_for(0, threads, 1, [&](std::int64_t first, std::int64_t last) {
    const int thread = at::get_thread_num();
    for (std::int64_t own = first; own < last; ++own)
      shares.run(own, [&](std::int64_t item) { body(context, item, thread); });
  });
}

}  // namespace handconv
