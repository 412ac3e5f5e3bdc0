#define HANDCONV_FAMILY patches
#define HANDCONV_FAMILY_HEADER "cpu/families/patches.h"
#include "cpu/units/baseline.h"
