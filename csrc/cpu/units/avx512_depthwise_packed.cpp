#define HANDCONV_FAMILY depthwise_packed
#define HANDCONV_FAMILY_HEADER "cpu/families/depthwise_packed.h"
#include "cpu/units/avx512.h"
