// What an error says, and how faults become errors.

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "machine.h"

namespace handconv {
namespace cuda {
namespace simulator {
namespace {

const char* file_of(const Location& location) {
  const char* slash = std::strrchr(location.file_name(), '/');
  return slash ? slash + 1 : location.file_name();
}

// "[+0x1234]", an address in this library, that library.py looks up the line of.
std::string place_in_library(const void* context) {
#if defined(__x86_64__)
  const auto counter = static_cast<std::uintptr_t>(
      static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  Dl_info library;
  if (dladdr(reinterpret_cast<const void*>(counter), &library)) {
    char text[40];
    std::snprintf(text, sizeof(text), " [+0x%llx]",
                  static_cast<unsigned long long>(
                      counter - reinterpret_cast<std::uintptr_t>(library.dli_fbase)));
    return text;
  }
#else
  static_cast<void>(context);
#endif
  return "";
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (machine.running) {
    const bool memory = signal == SIGSEGV || signal == SIGBUS;
    fail(nullptr, "%s %s%s", memory ? "may not access what it accesses:" : "arithmetic fault",
         memory ? describe(info->si_addr).c_str() : "", place_in_library(context).c_str());
  }
  ::signal(signal, SIG_DFL);  // it comes again, and ends the process
}

}  // namespace

std::string text_of(const Location& location) {
  return std::string(file_of(location)) + ":" + std::to_string(location.line());
}

bool same(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string describe(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  const std::byte* const stacks_end = machine.stacks + (kStackBytes + kPage) * kMaxThreads;
  if (machine.stacks && machine.stacks <= at && at < stacks_end) return "the stack of a thread";
  const NamedMemory* nearest = nullptr;
  std::size_t distance = 0;
  const auto distance_to = [at](const NamedMemory& memory) {
    return static_cast<std::size_t>(at < memory.begin ? memory.begin - at
                                    : at < memory.end ? 0
                                                      : at - memory.end);
  };
  std::vector<NamedMemory> all = machine.memory;
  all.push_back(
      {"the shared memory", position.shared, position.shared + machine.grid.shared_bytes});
  for (const NamedMemory& memory : all) {
    if (!nearest || distance_to(memory) < distance)
      nearest = &memory, distance = distance_to(memory);
  }
  if (nearest->begin <= at && at < nearest->end) return std::string("inside ") + nearest->name;
  if (distance > (std::size_t{1} << 30)) return "far from every operand";
  return std::to_string(distance) + " bytes " +
         (at < nearest->begin ? "before the begin of " : "behind the end of ") + nearest->name;
}

void compose(const Location* location, const char* text) {
  const std::string line = location ? " (" + text_of(*location) + ")" : "";
  std::snprintf(machine.message, sizeof(machine.message), "%s: block %lld, thread %d: %s%s",
                machine.grid.name, static_cast<long long>(position.block), position.thread, text,
                line.c_str());
}

FaultHandlers::FaultHandlers() {
  static std::byte* const stack = [] {
    std::byte* memory = map(16 * kPage);
    allow(memory, 16 * kPage, PROT_READ | PROT_WRITE);
    return memory;
  }();
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = 16 * kPage;
  sigaltstack(&alternate, &old_stack_);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < kCount; ++i) sigaction(kSignals[i], &action, &old_[i]);
}

FaultHandlers::~FaultHandlers() {
  for (int i = 0; i < kCount; ++i) sigaction(kSignals[i], &old_[i], nullptr);
  sigaltstack(&old_stack_, nullptr);
}

std::string describe_waiting() {
  struct Group {
    const Fiber* fiber;
    int first, count;
  };
  std::vector<Group> groups;
  int finished = 0;
  for (int thread = 0; thread < machine.grid.threads; ++thread) {
    const Fiber& fiber = machine.fibers[thread];
    if (fiber.state == State::kFinished) {
      ++finished;
      continue;
    }
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return same(group.fiber->location, fiber.location) &&
             group.fiber->instruction == fiber.instruction;
    });
    if (found == groups.end()) {
      groups.push_back({&fiber, thread, 1});
    } else {
      ++found->count;
    }
  }
  std::string text = std::to_string(finished) + " threads have ended";
  for (const Group& group : groups) {
    text += ", " + std::to_string(group.count) + " (thread " + std::to_string(group.first) +
            (group.count > 1 ? " and others)" : ")") + " wait in " + group.fiber->instruction +
            " (" + text_of(group.fiber->location) + ")";
  }
  return text;
}

void fail(const Location* location, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  compose(location, text);
  _longjmp(machine.scheduler, kFailed);
}

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv
