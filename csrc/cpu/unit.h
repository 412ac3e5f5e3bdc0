// Every header that the kernels of an instruction set need from outside: included before the target
// is set, so that nothing of them is compiled for an instruction set that the processor may lack.
#pragma once

#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/rules.h"
#include "cpu/scalar.h"
#include "cpu/taps.h"
#include "cpu/threads.h"
