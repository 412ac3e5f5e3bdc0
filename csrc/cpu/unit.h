// Every header that the kernels of an instruction set need from outside: included before the target
// is set, so that nothing of them is compiled for an instruction set that the processor may lack.
#pragma once

#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "cpu/integers.h"
#include "cpu/kernels.h"
#include "cpu/rules.h"
#include "cpu/scalar.h"
#include "cpu/taps.h"
#include "cpu/threads.h"

// For what touches a register tile: behind a call, or a reference that is not inlined away, its
// registers would be memory.
#define HANDCONV_INLINE inline __attribute__((always_inline))

// The function that returns the rows of the unit's family: avx512_planes for planes under AVX-512.
#define HANDCONV_KERNELS_OF(isa) HANDCONV_JOIN(isa, HANDCONV_FAMILY)
#define HANDCONV_JOIN(isa, family) HANDCONV_JOIN_WORDS(isa, family)
#define HANDCONV_JOIN_WORDS(isa, family) isa##_##family
