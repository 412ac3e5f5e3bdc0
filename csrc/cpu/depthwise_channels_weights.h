// The weight of direct.depthwise.channels as [vector][tap row][tap column][lane], from blocks
// [blocks.first, blocks.last) of filled channels on, zero behind the last channel. `w_lane` lies
// between the filters of neighbouring output channels.

template <class T>
void pack_depthwise_weights(const DepthwiseChannelsPlan<T>& plan, std::int64_t w_lane, Range blocks,
                            Compute<T>* target) {
  constexpr std::int64_t L = kLanes<Compute<T>>;
  const Gather& gather = plan.gather;
  const std::int64_t area = gather.kernel_area(), width = gather.columns.kernel_size;
  const std::int64_t last = smaller(blocks.last * plan.block_vectors * L, plan.out_channels);
  for (std::int64_t lane = blocks.first * plan.block_vectors * L; lane < last;
       lane += L, target += area * L) {
    const T* w = static_cast<const T*>(gather.w) + lane * w_lane;
    const std::int64_t lanes = smaller(last - lane, L);
    if (lanes < L) {
      for (std::int64_t i = 0; i < area * L; ++i) target[i] = 0;
    }
    if (gather.w_column == 1 && gather.w_row == width) {
      transpose_matrix(w, w_lane, lanes, area, target, L);
      continue;
    }
    for (std::int64_t tap = 0; tap < area; ++tap) {
      const T* element = w + tap / width * gather.w_row + tap % width * gather.w_column;
      for (std::int64_t i = 0; i < lanes; ++i) {
        target[tap * L + i] = to_compute(element[i * w_lane]);
      }
    }
  }
}
