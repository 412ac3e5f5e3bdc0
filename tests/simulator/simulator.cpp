// Fibers, barriers, copies and shared memory.

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "machine.h"

namespace handconv {
namespace cuda {
namespace simulator {

Position position{};
Machine machine;

std::byte* map(std::size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("simulator: no memory");
  return static_cast<std::byte*>(memory);
}
void allow(std::byte* memory, std::size_t bytes, int protection) {
  if (bytes && mprotect(memory, bytes, protection) != 0) {
    throw std::runtime_error("simulator: mprotect failed");
  }
}

namespace {

// xorshift64*
std::uint32_t draw(std::uint32_t below) {
  machine.random ^= machine.random >> 12;
  machine.random ^= machine.random << 25;
  machine.random ^= machine.random >> 27;
  const std::uint64_t bits = (machine.random * 0x2545f4914f6cdd1dull) >> 32;
  return static_cast<std::uint32_t>((bits * below) >> 32);
}

// Each stack has a page below it that may not be touched.
std::byte* stack_of(int thread) {
  constexpr std::size_t kEach = kStackBytes + kPage;
  if (!machine.stacks) {
    machine.stacks = map(kEach * kMaxThreads);
    for (int i = 0; i < kMaxThreads; ++i) {
      allow(machine.stacks + i * kEach + kPage, kStackBytes, PROT_READ | PROT_WRITE);
    }
  }
  return machine.stacks + thread * kEach + kPage;
}

// Switching between fibers.

void make_ready(int thread) {
  machine.fibers[thread].state = State::kReady;
  machine.ready[machine.ready_count++] = thread;
}

void fiber_main();

[[noreturn]] void run_next() {
  if (machine.ready_count == 0) _longjmp(machine.scheduler, kNothingReady);
  int& drawn = machine.ready[draw(static_cast<std::uint32_t>(machine.ready_count))];
  const int thread = drawn;
  drawn = machine.ready[--machine.ready_count];
  position.thread = thread;
  Fiber& fiber = machine.fibers[thread];
  if (fiber.entered) _longjmp(fiber.resume, 1);
  fiber.entered = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = stack_of(thread);
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
  std::abort();
}

void let_others_run(Fiber& self) {
  if (_setjmp(self.resume) == 0) run_next();
}

void finish_thread(Fiber& self) {
  if (self.copies_done != self.copies.size()) {
    const Copy& copy = self.copies[self.copies_done];
    fail(&copy.location, "ends while a copy_async is under way that nothing waits for");
  }
  self.copies.clear();
  self.copies_done = 0;
  self.groups_closed = 0;
  self.state = State::kFinished;
}

// A fiber lives on from block to block and from launch to launch.
void fiber_main() {
  Fiber& self = machine.fibers[position.thread];
  for (;;) {
    machine.grid.run_thread(machine.grid.context);
    finish_thread(self);
    let_others_run(self);
  }
}

// Shared memory.

// The pages that a block's shared memory lies in: all others around it may not be touched.
std::size_t pages_of(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void set_up_shared_memory(std::size_t bytes) {
  if (!machine.shared) machine.shared = map(pages_of(kMaxSharedBytes) + 2 * kPage) + kPage;
  if (pages_of(bytes) == machine.shared_capacity) return;
  allow(machine.shared, pages_of(kMaxSharedBytes), PROT_NONE);
  allow(machine.shared, pages_of(bytes), PROT_READ | PROT_WRITE);
  machine.shared_capacity = pages_of(bytes);
}

// Blocks lie by turns at the begin and at the end of these pages.
void poison_shared_memory() {
  std::memset(machine.shared, kPoison, machine.shared_capacity);
  const std::size_t slack = machine.shared_capacity - machine.grid.shared_bytes;
  const bool at_end = (static_cast<std::uint64_t>(position.block) + machine.seed) % 2 == 0;
  position.shared = machine.shared + (at_end ? slack / kSharedAlignment * kSharedAlignment : 0);
}

bool is_poison(const std::byte* begin, const std::byte* end) {
  return std::all_of(begin, end, [](std::byte byte) { return byte == std::byte{kPoison}; });
}

const char* what_is_wrong_around_shared_memory() {
  const std::byte* const end = position.shared + machine.grid.shared_bytes;
  if (!is_poison(machine.shared, position.shared)) return "before the begin of";
  if (!is_poison(end, machine.shared + machine.shared_capacity)) return "behind the end of";
  return nullptr;
}

// One block; an error stands in the message.
bool run_block() {
  const int threads = machine.grid.threads;
  poison_shared_memory();
  machine.ready_count = machine.at_block = 0;
  std::fill(std::begin(machine.at_warp), std::end(machine.at_warp), 0);
  for (int thread = 0; thread < threads; ++thread) make_ready(thread);
  machine.running = true;
  const int outcome = _setjmp(machine.scheduler);
  if (outcome == kStarted) run_next();
  machine.running = false;
  if (outcome == kFailed) return false;
  const auto finished = [](const Fiber& fiber) { return fiber.state == State::kFinished; };
  if (!std::all_of(machine.fibers, machine.fibers + threads, finished)) {
    position.thread = static_cast<int>(
        std::find_if_not(machine.fibers, machine.fibers + threads, finished) - machine.fibers);
    compose(nullptr, ("waits for ever: " + describe_waiting()).c_str());
    return false;
  }
  if (const char* where = what_is_wrong_around_shared_memory()) {
    compose(nullptr, (std::string("it or another wrote ") + where + " the shared memory").c_str());
    return false;
  }
  return true;
}

// After an error the fibers stand anywhere: they begin anew.
void abandon_fibers() {
  for (Fiber& fiber : machine.fibers) {
    fiber.entered = false;
    fiber.state = State::kFinished;
    fiber.copies.clear();
    fiber.copies_done = 0;
    fiber.groups_closed = 0;
  }
}

void check_grid(const Grid& grid) {
  const auto demand = [&](bool holds, const char* what) {
    if (!holds) throw std::runtime_error(std::string(grid.name) + ": cannot be launched: " + what);
  };
  demand(grid.blocks > 0, "no blocks");
  demand(grid.blocks <= kMaxBlocks, "more than 2^31 - 1 blocks");
  demand(grid.threads > 0, "no threads");
  demand(grid.threads <= kMaxThreads, "more than 1024 threads a block");
  demand(grid.shared_bytes <= kMaxSharedBytes, "more than 227 KB of shared memory");
}

void run_copy(const Copy& copy) {
  if (copy.exists) {
    std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.bytes));
  } else {
    std::memset(copy.shared, 0, static_cast<std::size_t>(copy.bytes));
  }
}

Fiber& running_fiber() { return machine.fibers[position.thread]; }

void wait_at(Fiber& self, State state, const char* instruction, const Location& location) {
  self.state = state;
  self.instruction = instruction;
  self.location = location;
}

[[noreturn]] void fail_diverged(const Fiber& self, int other) {
  fail(nullptr, "is in %s (%s), but thread %d of the same %s is in %s (%s)", self.instruction,
       text_of(self.location).c_str(), other, self.state == State::kAtWarp ? "warp" : "block",
       machine.fibers[other].instruction, text_of(machine.fibers[other].location).c_str());
}

}  // namespace

void meet_block(const char* instruction, const Location& location) {
  Fiber& self = running_fiber();
  wait_at(self, State::kAtBlock, instruction, location);
  if (++machine.at_block < machine.grid.threads) return let_others_run(self);
  machine.at_block = 0;
  for (int thread = 0; thread < machine.grid.threads; ++thread) {
    if (!same(machine.fibers[thread].location, location)) fail_diverged(self, thread);
    if (thread != position.thread) make_ready(thread);
  }
  self.state = State::kReady;
}

void meet_warp(const char* instruction, void* mine, WarpWork work, const Location& location) {
  Fiber& self = running_fiber();
  const int warp = position.thread / kLanes, first = warp * kLanes;
  if (first + kLanes > machine.grid.threads) {
    fail(&location, "is in %s, but its warp has only %d lanes", instruction,
         machine.grid.threads - first);
  }
  wait_at(self, State::kAtWarp, instruction, location);
  self.given = mine;
  self.work = work;
  if (++machine.at_warp[warp] < kLanes) return let_others_run(self);
  machine.at_warp[warp] = 0;
  void* given[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Fiber& fiber = machine.fibers[first + lane];
    if (fiber.work != work || !same(fiber.location, location)) fail_diverged(self, first + lane);
    given[lane] = fiber.given;
  }
  work(given);
  for (int thread = first; thread < first + kLanes; ++thread) {
    if (thread != position.thread) make_ready(thread);
  }
  self.state = State::kReady;
}

void check_shared(const void* pointer, int bytes, const char* instruction,
                  const Location& location) {
  const auto* at = static_cast<const std::byte*>(pointer);
  if (at < position.shared || at + bytes > position.shared + machine.grid.shared_bytes) {
    fail(&location, "%s: its shared memory lies elsewhere: %s", instruction, describe(at).c_str());
  }
  if (reinterpret_cast<std::uintptr_t>(at) % static_cast<std::uintptr_t>(bytes) != 0) {
    fail(&location, "%s: the address in shared memory is not aligned to %d bytes", instruction,
         bytes);
  }
}

void start_copy(void* shared, const void* global, int bytes, bool exists,
                const Location& location) {
  check_shared(shared, bytes, "copy_async", location);
  const auto* from = static_cast<const std::byte*>(global);
  // Alignment is demanded of a copy that fills with zeros too, as the hardware may.
  if (reinterpret_cast<std::uintptr_t>(from) % static_cast<std::uintptr_t>(bytes) != 0) {
    fail(&location, "copy_async: the address in global memory is not aligned to %d bytes", bytes);
  }
  if (exists) {  // faults here, not where it waits
    static_cast<void>(*static_cast<const volatile std::byte*>(from));
    static_cast<void>(*static_cast<const volatile std::byte*>(from + bytes - 1));
  }
  Fiber& self = running_fiber();
  std::memset(shared, kPoison, static_cast<std::size_t>(bytes));
  self.copies.push_back(
      {static_cast<std::byte*>(shared), from, bytes, exists, self.groups_closed, location});
}

void commit_copies() { ++running_fiber().groups_closed; }

// Others run before the copies are there, and see the poison if they still look at the destination.
void wait_for_copies(int pending) {
  Fiber& self = running_fiber();
  if (self.copies_done == self.copies.size()) return;
  make_ready(position.thread);
  let_others_run(self);
  for (; self.copies_done < self.copies.size(); ++self.copies_done) {
    const Copy& copy = self.copies[self.copies_done];
    if (copy.group >= self.groups_closed - pending) return;
    run_copy(copy);
  }
  self.copies.clear();
  self.copies_done = 0;
}

void run_grid(const Grid& grid) {
  check_grid(grid);
  machine.grid = grid;
  machine.random = (machine.seed + 1) * 0x9e3779b97f4a7c15ull;
  stack_of(0);
  set_up_shared_memory(grid.shared_bytes);
  const FaultHandlers handlers;
  for (std::int64_t i = 0; i < grid.blocks; ++i) {
    position.block = machine.seed % 2 ? grid.blocks - 1 - i : i;
    if (!run_block()) {
      abandon_fibers();
      throw std::runtime_error(machine.message);
    }
  }
}

void set_seed(std::uint64_t seed) { machine.seed = seed; }

void name_memory(const char* name, const std::byte* begin, const std::byte* end) {
  machine.memory.push_back({name, begin, end});
}
void forget_memory() { machine.memory.clear(); }

bool in_kernel() { return machine.running; }

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv
