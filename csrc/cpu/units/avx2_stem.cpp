#define HANDCONV_FAMILY stem
#define HANDCONV_FAMILY_HEADER "cpu/families/stem.h"
#include "cpu/units/avx2.h"
