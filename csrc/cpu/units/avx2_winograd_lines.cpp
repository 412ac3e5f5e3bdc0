#define HANDCONV_FAMILY winograd_lines
#define HANDCONV_FAMILY_HEADER "cpu/families/winograd_lines.h"
#include "cpu/units/avx2.h"
