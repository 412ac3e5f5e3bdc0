#define HANDCONV_FAMILY depthwise_planes_weight
#define HANDCONV_FAMILY_HEADER "cpu/families/depthwise_planes_weight.h"
#include "cpu/units/avx512.h"
