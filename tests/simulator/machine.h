// The state of the simulated GPU, and what its files share.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "simulator.h"

namespace handconv {
namespace cuda {
namespace simulator {

constexpr int kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // of a block on sm_90
constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kStackBytes = 64 * kPage;
constexpr std::size_t kSharedAlignment = 128;
constexpr int kPoison = 0xff;  // bytes of NaN in every floating point type

struct Copy {
  std::byte* shared;
  const std::byte* global;
  int bytes;
  bool exists;
  int group;  // how many groups this thread closed before
  Location location;
};

enum class State { kReady, kAtBlock, kAtWarp, kFinished };

struct Fiber {
  jmp_buf resume;
  ucontext_t start;
  bool entered = false;  // it stands somewhere in `fiber_main`
  State state = State::kFinished;
  // What it waits in.
  const char* instruction = nullptr;
  Location location;
  void* given = nullptr;
  WarpWork work = nullptr;
  // cp.async.
  std::vector<Copy> copies;
  std::size_t copies_done = 0;
  int groups_closed = 0;
};

struct NamedMemory {
  const char* name;
  const std::byte* begin;
  const std::byte* end;
};

struct Machine {
  Grid grid{};
  std::uint64_t seed = 0, random = 1;
  Fiber fibers[kMaxThreads];
  int ready[kMaxThreads];
  int ready_count = 0;
  int at_block = 0;
  int at_warp[kMaxThreads / kLanes] = {};
  jmp_buf scheduler;
  bool running = false;  // inside a fiber
  std::byte* stacks = nullptr;
  std::byte* shared = nullptr;  // the first page after the one that may not be touched
  std::size_t shared_capacity = 0;
  std::vector<NamedMemory> memory;
  char message[2048];
};
extern Machine machine;

// What brings the scheduler back to the host.
enum Outcome { kStarted, kNothingReady, kFailed };

// Pages that may not be touched, and leave to touch them.
std::byte* map(std::size_t bytes);
void allow(std::byte* memory, std::size_t bytes, int protection);

// "gemm.cu:12", and whether two are the same.
std::string text_of(const Location& location);
bool same(const Location& a, const Location& b);

// "8 bytes behind the end of x"
std::string describe(const void* address);
// Which threads wait where.
std::string describe_waiting();

// Sets the message of an error about the thread that runs, or ran last.
void compose(const Location* location, const char* text);

// Turns faults of kernels into errors while it lives.
class FaultHandlers {
 public:
  FaultHandlers();
  ~FaultHandlers();

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
  static constexpr int kCount = 3;
  struct sigaction old_[kCount];
  stack_t old_stack_{};
};

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv
