#define HANDCONV_FAMILY winograd
#define HANDCONV_FAMILY_HEADER "cpu/families/winograd.h"
#include "cpu/units/avx2.h"
