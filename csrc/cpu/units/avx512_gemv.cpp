#define HANDCONV_FAMILY gemv
#define HANDCONV_FAMILY_HEADER "cpu/families/gemv.h"
#include "cpu/units/avx512.h"
