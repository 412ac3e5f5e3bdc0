#define HANDCONV_FAMILY channels_weight
#define HANDCONV_FAMILY_HEADER "cpu/families/channels_weight.h"
#include "cpu/units/avx512.h"
