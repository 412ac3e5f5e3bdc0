// A GPU played on one CPU thread, on which cuda/instructions.h beside this file runs the kernels of
// csrc/cuda. Every thread of a block is a fiber that runs until it must wait for others; which one
// runs next is drawn by lot from a seed. Blocks run one after another.
//
// What goes wrong ends the launch as a std::runtime_error that names the kernel, the block, the
// thread and the line: accesses outside the operands and outside the shared memory (both lie
// between pages that may not be touched), misaligned accesses, barriers that not all threads reach,
// copies that nobody waits for. What was not written is NaN. Not simulated: speed, the order in
// which writes become visible between barriers, and rounding inside a tensor core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace handconv {
namespace cuda {
namespace simulator {

using Location = std::source_location;

constexpr int kLanes = 32;

// The thread that runs now.
struct Position {
  int thread;
  std::int64_t block;
  std::byte* shared;
};
extern Position position;

// Waits for all threads of the block.
void meet_block(const char* instruction, const Location& location);

// Waits for all lanes of the warp; the last one to come calls work with what each lane gave. Lanes
// that come from different lines of the source have diverged, which is an error.
using WarpWork = void (*)(void* const (&lanes)[kLanes]);
void meet_warp(const char* instruction, void* mine, WarpWork work, const Location& location);

// copy_async: the destination is poisoned at once, and written when the thread waits for the copy.
void start_copy(void* shared, const void* global, int bytes, bool exists, const Location& location);
void commit_copies();
void wait_for_copies(int pending);

// An error unless all of the bytes lie in the block's shared memory, aligned to as many.
void check_shared(const void* pointer, int bytes, const char* instruction,
                  const Location& location);

// Ends the launch with an error about the thread that runs now.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(const Location* location, const char* format,
                                                  ...);

// Whether a thread of a kernel runs, and not the host's code.
bool in_kernel();

// One launch: run_thread(context) for every thread of every block.
struct Grid {
  const char* name;
  std::int64_t blocks;
  int threads;
  std::size_t shared_bytes;
  void (*run_thread)(const void* context);
  const void* context;
};
void run_grid(const Grid& grid);

// The seed of the launches from now on.
void set_seed(std::uint64_t seed);

// Memory with a name by which an error speaks of what lies in it or beside it.
void name_memory(const char* name, const std::byte* begin, const std::byte* end);
void forget_memory();

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv
