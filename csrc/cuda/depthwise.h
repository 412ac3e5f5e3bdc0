// Depthwise kernels: groups with one source or one filled channel each (one input channel and any
// number of output channels, or the other way round).
//
// Every kernel is bound by memory for kernels of up to 7x7 or so: it aims at reading each source
// once from memory and its halo out of the caches. The classes are those of rows.h; each is
// defined, for the four element types, in the file of its name.
#pragma once

#include "table.h"

namespace handconv {
namespace cuda {

// depthwise_planes.cu: NCHW, the output and the input slot.
template <class T>
struct DepthwisePlanes {
  static WorkspaceSize workspace(const Problem&) { return {}; }
  static void run(const Problem&, const Buffers&, const Workspace&);
};

// depthwise_channels.cu: the same two slots, channels_last. It is right, but slow, for NCHW too.
template <class T>
struct DepthwiseChannels {
  static WorkspaceSize workspace(const Problem&) { return {}; }
  static void run(const Problem&, const Buffers&, const Workspace&);
};

// depthwise_planes_weight.cu: NCHW, the weight slot.
template <class T>
struct DepthwisePlanesWeight {
  static WorkspaceSize workspace(const Problem&);
  static void run(const Problem&, const Buffers&, const Workspace&);
};

// depthwise_channels_weight.cu: the weight slot, channels_last; right, but slow, for NCHW too.
template <class T>
struct DepthwiseChannelsWeight {
  static WorkspaceSize workspace(const Problem&);
  static void run(const Problem&, const Buffers&, const Workspace&);
};

}  // namespace cuda
}  // namespace handconv
