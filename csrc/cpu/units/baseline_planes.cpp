#define HANDCONV_FAMILY planes
#define HANDCONV_FAMILY_HEADER "cpu/families/planes.h"
#include "cpu/units/baseline.h"
