#define HANDCONV_FAMILY channels
#define HANDCONV_FAMILY_HEADER "cpu/families/channels.h"
#include "cpu/units/baseline.h"
