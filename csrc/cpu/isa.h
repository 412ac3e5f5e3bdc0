// Which instruction sets this processor has, and which of them handconv may use.
#pragma once

#include <string>
#include <vector>

namespace handconv {

enum class Isa { kBaseline, kAvx2, kAvx512 };

const char* to_string(Isa isa);

// What the processor itself has: AVX2 here means AVX2 with FMA and F16C, AVX-512 means F, BW, DQ
// and VL.
bool cpu_has(Isa isa);

// cpu_has, and not above the limit that the environment variable HANDCONV_ISA (avx512, avx2 or
// baseline) sets. Raises std::runtime_error if the variable names something else, or what this
// processor lacks.
bool isa_is_usable(Isa isa);

}  // namespace handconv
