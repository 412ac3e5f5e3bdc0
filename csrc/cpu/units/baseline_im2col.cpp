#define HANDCONV_FAMILY im2col
#define HANDCONV_FAMILY_HEADER "cpu/families/im2col.h"
#include "cpu/units/baseline.h"
