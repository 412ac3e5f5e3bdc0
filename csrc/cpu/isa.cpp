#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace handconv {
namespace {

constexpr Isa kAll[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512};

Isa best_of_cpu() {
  Isa best = Isa::kBaseline;
  for (const Isa isa : kAll) {
    if (cpu_has(isa)) best = isa;
  }
  return best;
}

Isa read_limit() {
  const char* value = std::getenv("HANDCONV_ISA");
  if (value == nullptr || *value == '\0') return best_of_cpu();
  for (const Isa isa : kAll) {
    if (std::string(value) != to_string(isa)) continue;
    if (cpu_has(isa)) return isa;
    throw std::runtime_error(std::string("HANDCONV_ISA=") + value +
                             ", but this processor does not have it");
  }
  throw std::runtime_error(std::string("HANDCONV_ISA=") + value +
                           " is none of avx512, avx2 and baseline");
}

}  // namespace

const char* to_string(Isa isa) {
  constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(isa)];
}

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             cpu_has(Isa::kAvx2);
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return isa == Isa::kBaseline;
#endif
}

bool isa_is_usable(Isa isa) {
  static const Isa limit = read_limit();
  return isa <= limit && cpu_has(isa);
}

}  // namespace handconv
