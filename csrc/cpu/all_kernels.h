// The algorithms, each written once for vectors of any width. Included inside the namespace of an
// instruction set; the order matters.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/pixel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/channels.h"
#include "cpu/channels_weight.h"
#include "cpu/planes.h"
#include "cpu/im2col.h"
#include "cpu/im2col_gradients.h"
#include "cpu/rows.h"
// clang-format on
