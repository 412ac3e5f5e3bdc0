// Small kernels, each with a fault and without it, by which test_simulator.py looks that the
// simulator catches what it is for.

#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>

#include "caught.h"
#include "cuda/elements.h"
#include "fenced.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kThreads = 64, kBlocks = 2;

// Every kernel reads `in`, of kThreads numbers for each block, and writes as many.
struct Arrays {
  const float* in;
  float* out;
};

HANDCONV_DEVICE std::int64_t first_of_block() { return block_index() * kThreads; }
HANDCONV_DEVICE float* shared_numbers() { return reinterpret_cast<float*>(shared_memory()); }

// A kernel that is broken, or not.
#define HANDCONV_SAMPLE(name)  \
  template <bool kBroken>      \
  HANDCONV_KERNEL(kThreads, 1) \
  name(Arrays p)

// Each kernel gives back the numbers of `in`, those of the block turned by one place where a
// neighbour's number comes in.

HANDCONV_SAMPLE(missing_barrier) {
  const int t = thread_index();
  shared_numbers()[t] = p.in[first_of_block() + t];
  if (!kBroken) synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(missing_wait) {
  const int t = thread_index();
  copy_async<4>(shared_numbers() + t, p.in + first_of_block() + t, true);
  commit_copies();
  if (!kBroken) wait_for_copies<0>();
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
  wait_for_copies<0>();
}

HANDCONV_SAMPLE(wait_for_too_few) {
  const int t = thread_index();
  copy_async<4>(shared_numbers() + t, p.in + first_of_block() + t, true);
  commit_copies();
  commit_copies();
  wait_for_copies<kBroken ? 2 : 1>();
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
  wait_for_copies<0>();
}

HANDCONV_SAMPLE(copy_left_behind) {
  const int t = thread_index();
  copy_async<4>(shared_numbers() + t, p.in + first_of_block() + t, true);
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads];
  commit_copies();
  if (!kBroken) wait_for_copies<0>();
}

// The copy of a second round overwrites what slower threads still read in the first.
HANDCONV_SAMPLE(copy_too_early) {
  const int t = thread_index();
  for (int round = 0; round < 2; ++round) {
    copy_async<4>(shared_numbers() + t, p.in + first_of_block() + t, true);
    commit_copies();
    wait_for_copies<0>();
    synchronize_block();
    if (round == 0) p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
    if (!kBroken) synchronize_block();
  }
}

HANDCONV_SAMPLE(shared_write_behind_end) {
  const int t = thread_index();
  shared_numbers()[t + (kBroken ? 1 : 0)] = p.in[first_of_block() + t];
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[kBroken ? t + 1 : (t + 1) % kThreads];
}

HANDCONV_SAMPLE(shared_write_before_begin) {
  const int t = thread_index();
  shared_numbers()[kBroken ? t - 1 : t] = p.in[first_of_block() + t];
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(shared_read_behind_end) {
  const int t = thread_index();
  shared_numbers()[t] = p.in[first_of_block() + t];
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[kBroken ? t + 1 : (t + 1) % kThreads];
}

HANDCONV_SAMPLE(shared_not_initialised) {
  const int t = thread_index();
  if (!kBroken || t != 7) shared_numbers()[t] = p.in[first_of_block() + t];
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(global_read_behind_end) {
  const int t = thread_index();
  p.out[first_of_block() + t] = p.in[first_of_block() + (kBroken ? t + 1 : (t + 1) % kThreads)];
}

HANDCONV_SAMPLE(global_read_before_begin) {
  const int t = thread_index();
  const float before = p.in[first_of_block() + t - (kBroken || t > 0 ? 1 : 0)];
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + 0 * before;
}

HANDCONV_SAMPLE(global_write_behind_end) {
  const int t = thread_index();
  const float number = p.in[first_of_block() + (t + 1) % kThreads];
  p.out[first_of_block() + t] = number;
  if (kBroken) p.out[first_of_block() + t + 1] = number;
}

HANDCONV_SAMPLE(global_write_before_begin) {
  const int t = thread_index();
  const float number = p.in[first_of_block() + (t + 1) % kThreads];
  if (kBroken) p.out[first_of_block() + t - 1] = number;
  p.out[first_of_block() + t] = number;
}

HANDCONV_SAMPLE(write_into_operand) {
  const int t = thread_index();
  const float number = p.in[first_of_block() + (t + 1) % kThreads];
  if (kBroken) const_cast<float*>(p.in)[first_of_block() + t] = number;
  p.out[first_of_block() + t] = number;
}

HANDCONV_SAMPLE(not_written) {
  const int t = thread_index();
  if (kBroken && t == 5) return;
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads];
}

HANDCONV_SAMPLE(barrier_in_a_branch) {
  const int t = thread_index();
  if (!kBroken || t < 32) synchronize_block();
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads];
}

HANDCONV_SAMPLE(barriers_of_two_branches) {
  const int t = thread_index();
  if (!kBroken || t % 2 == 0) {
    synchronize_block();
  } else {
    synchronize_block();
  }
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads];
}

HANDCONV_SAMPLE(end_before_barrier) {
  const int t = thread_index();
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads];
  if (kBroken && t == kThreads - 1) return;
  synchronize_block();
}

HANDCONV_SAMPLE(missing_warp_barrier) {
  const int t = thread_index(), neighbour = t / 32 * 32 + (t + 1) % 32;
  shared_numbers()[t] = p.in[first_of_block() + (neighbour + 1) % kThreads];
  if (!kBroken) synchronize_warp();
  const float number = shared_numbers()[t / 32 * 32 + (t + 31) % 32];
  p.out[first_of_block() + t] = number;
}

HANDCONV_SAMPLE(shuffle_without_a_lane) {
  const int t = thread_index();
  float number = p.in[first_of_block() + (t ^ 1)];
  if (!kBroken || t % 32 != 3) number = shuffle_xor(number, 1);
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + 0 * number;
}

HANDCONV_SAMPLE(two_shuffles_at_once) {
  const int t = thread_index();
  float number = p.in[first_of_block() + t];
  if (!kBroken || t % 32 < 16) {
    number = shuffle_xor(number, 1);
  } else {
    number = shuffle_down(number, 1);
  }
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + 0 * number;
}

HANDCONV_SAMPLE(misaligned_pack) {
  const int t = thread_index();
  const float* from = p.in + (kBroken && t == 9 ? 1 : t / 4 * 4);
  const Pack<float, 4> pack = load_pack<4>(from);
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + 0 * pack[t % 4];
}

HANDCONV_SAMPLE(misaligned_store) {
  const int t = thread_index(), first = t % (kThreads / 4) * 4;
  float* to = shared_numbers() + first + (kBroken && t == 9 ? 1 : 0);
  if (t < kThreads / 4) store_pack(to, load_pack<4>(p.in + first_of_block() + first));
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(misaligned_copy) {
  const int t = thread_index(), first = t % (kThreads / 4) * 4;
  if (t < kThreads / 4) {
    copy_async<16>(shared_numbers() + first, p.in + first_of_block() + (kBroken ? t : first), true);
    commit_copies();
    wait_for_copies<0>();
  }
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(copy_to_elsewhere) {
  const int t = thread_index();
  copy_async<4>(shared_numbers() + t + (kBroken ? 1 : 0), p.in + first_of_block() + t, true);
  commit_copies();
  wait_for_copies<0>();
  synchronize_block();
  p.out[first_of_block() + t] = shared_numbers()[(t + 1) % kThreads];
}

HANDCONV_SAMPLE(index_outside_registers) {
  const int t = thread_index();
  float numbers[4] = {0, 0, 0, 0};
  numbers[kBroken ? t / 8 : t % 4] = 1;
  const float zero = 0 * (numbers[0] + numbers[1] + numbers[2] + numbers[3]);
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + zero;
}

HANDCONV_SAMPLE(registers_not_initialised) {
  const int t = thread_index();
  float numbers[4];
  for (int i = 0; i < (kBroken ? 3 : 4); ++i) numbers[i] = 0;
  const float zero = numbers[0] + numbers[1] + numbers[2] + numbers[3];
  p.out[first_of_block() + t] = p.in[first_of_block() + (t + 1) % kThreads] + zero;
}

// What is launched as it should be, or not.

template <bool kBroken>
struct Launch {
  const char* name;
  void (*kernel)(Arrays);
  std::int64_t blocks = kBlocks;
  int threads = kThreads;
  std::size_t shared_bytes = kThreads * sizeof(float);
};

struct Fault {
  const char* name;
  Launch<false> right;
  Launch<true> broken;
};

#define HANDCONV_FAULT(name)                           \
  {                                                    \
    #name, {#name, name<false>}, { #name, name<true> } \
  }

const Fault kFaults[] = {
    HANDCONV_FAULT(missing_barrier),
    HANDCONV_FAULT(missing_wait),
    HANDCONV_FAULT(wait_for_too_few),
    HANDCONV_FAULT(copy_left_behind),
    HANDCONV_FAULT(copy_too_early),
    HANDCONV_FAULT(shared_write_behind_end),
    HANDCONV_FAULT(shared_write_before_begin),
    HANDCONV_FAULT(shared_read_behind_end),
    HANDCONV_FAULT(shared_not_initialised),
    HANDCONV_FAULT(global_read_behind_end),
    HANDCONV_FAULT(global_read_before_begin),
    HANDCONV_FAULT(global_write_behind_end),
    HANDCONV_FAULT(global_write_before_begin),
    HANDCONV_FAULT(write_into_operand),
    HANDCONV_FAULT(not_written),
    HANDCONV_FAULT(barrier_in_a_branch),
    HANDCONV_FAULT(barriers_of_two_branches),
    HANDCONV_FAULT(end_before_barrier),
    HANDCONV_FAULT(missing_warp_barrier),
    HANDCONV_FAULT(shuffle_without_a_lane),
    HANDCONV_FAULT(two_shuffles_at_once),
    HANDCONV_FAULT(misaligned_pack),
    HANDCONV_FAULT(misaligned_store),
    HANDCONV_FAULT(misaligned_copy),
    HANDCONV_FAULT(copy_to_elsewhere),
    HANDCONV_FAULT(index_outside_registers),
    HANDCONV_FAULT(registers_not_initialised),
    {"no blocks", {"right", not_written<false>}, {"launch", not_written<false>, 0}},
    {"too many threads",
     {"right", not_written<false>},
     {"launch", not_written<false>, kBlocks, 1025}},
    {"too much shared memory",
     {"right", not_written<false>},
     {"launch", not_written<false>, kBlocks, kThreads, 228 * 1024}},
    {"no shared memory",
     {"right", missing_barrier<false>},
     {"launch", missing_barrier<false>, kBlocks, kThreads, 0}},
    {"half a warp",
     {"right", shuffle_without_a_lane<false>},
     {"launch", shuffle_without_a_lane<false>, kBlocks, 48}},
};

constexpr int kNumbers = kBlocks * kThreads;

template <bool kBroken>
void run(const Launch<kBroken>& how, simulator::Placement placement) {
  using simulator::Fenced;
  const simulator::MemoryNames names;
  Fenced in("in", kNumbers * sizeof(float), sizeof(float), placement);
  Fenced out("out", kNumbers * sizeof(float), sizeof(float), placement);
  auto* numbers = reinterpret_cast<float*>(in.data());
  for (int i = 0; i < kNumbers; ++i) numbers[i] = static_cast<float>(i + 1);
  in.forbid_writes();
  const auto* found = reinterpret_cast<const float*>(out.data());
  launch(how.name, how.kernel, how.blocks, how.threads, how.shared_bytes, nullptr,
         Arrays{numbers, reinterpret_cast<float*>(out.data())});
  out.check_surroundings();
  for (int i = 0; i < kNumbers; ++i) {
    const float right = numbers[i / kThreads * kThreads + (i + 1) % kThreads];
    if (found[i] == right) continue;
    throw std::runtime_error("result " + std::to_string(i) + " is " +
                             (std::isnan(found[i]) ? "NaN" : "wrong"));
  }
}

}  // namespace
}  // namespace cuda
}  // namespace handconv

// The name of a fault, or null behind the last one.
HANDCONV_EXPORT const char* faults_name(int index) {
  using handconv::cuda::kFaults;
  return index < static_cast<int>(std::size(kFaults)) ? kFaults[index].name : nullptr;
}

// What the simulator says of it, or null.
HANDCONV_EXPORT const char* faults_run(int index, bool broken, std::uint64_t seed, int placement) {
  namespace cuda = handconv::cuda;
  return cuda::caught([&] {
    cuda::simulator::set_seed(seed);
    const cuda::Fault& fault = cuda::kFaults[index];
    const auto place = static_cast<cuda::simulator::Placement>(placement);
    if (broken) {
      cuda::run(fault.broken, place);
    } else {
      cuda::run(fault.right, place);
    }
  });
}
