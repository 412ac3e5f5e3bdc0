#define HANDCONV_FAMILY depthwise_channels
#define HANDCONV_FAMILY_HEADER "cpu/families/depthwise_channels.h"
#include "cpu/units/avx512.h"
