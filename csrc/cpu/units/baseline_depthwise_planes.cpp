#define HANDCONV_FAMILY depthwise_planes
#define HANDCONV_FAMILY_HEADER "cpu/families/depthwise_planes.h"
#include "cpu/units/baseline.h"
