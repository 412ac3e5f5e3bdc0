// The planes of a depthwise gather, in the order of the filled ones: a filled plane, and the first
// of the source planes that it gathers from.
template <class T>
struct DepthwisePlane {
  std::int64_t group, channel_of_group;
  const T* source;
  const T* weights;
  T* filled;

  DepthwisePlane(const Gather& gather, std::int64_t index) {
    const std::int64_t channels = gather.groups * gather.filled_channels;
    const std::int64_t n = index / channels, channel = index % channels;
    group = channel / gather.filled_channels;
    channel_of_group = channel % gather.filled_channels;
    source = static_cast<const T*>(gather.source) + n * gather.source_strides.sample +
             group * gather.source_channels * gather.source_strides.channel;
    weights = static_cast<const T*>(gather.w) + group * gather.w_group +
              channel_of_group * gather.w_filled;
    filled = static_cast<T*>(gather.filled) + index * gather.filled_area();
  }

  // Source planes follow each other across samples, as filled planes do.
  void to_next(const Gather& gather) {
    filled += gather.filled_area();
    weights += gather.w_filled;
    if (++channel_of_group < gather.filled_channels) return;
    channel_of_group = 0;
    source += gather.source_channels * gather.source_strides.channel;
    weights += gather.w_group - gather.filled_channels * gather.w_filled;
    if (++group < gather.groups) return;
    group = 0;
    weights = static_cast<const T*>(gather.w);
  }
};
