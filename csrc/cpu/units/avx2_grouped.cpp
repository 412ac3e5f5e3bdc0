#define HANDCONV_FAMILY grouped
#define HANDCONV_FAMILY_HEADER "cpu/families/grouped.h"
#include "cpu/units/avx2.h"
