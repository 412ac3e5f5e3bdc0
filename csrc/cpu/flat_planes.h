// direct.flat: lanes are neighbouring pixels of a whole plane, read where it lies. For groups of
// few channels in NCHW whose rows are as long filled as in the source: stride 1 and padding that
// keeps the width, or a kernel one tap wide. Both the convolution and its input gradient.
//
//     filled[n, g, f, p] = bias[g, f] + sum over s and taps of w[g, f, s, tap] * source[n, g, s, p
//     + tap row * width + tap column]
//
// A plane is one line of positions p: through a tap, each reads the source at a constant offset,
// and a table of masks, the same for all planes, says which lanes of each vector find a pixel
// there. So vectors run over row ends, nothing is padded or copied, and planes of 7 x 7 fill
// vectors too.
//
// The register tile is F filled channels by V vectors: V masked loads and F weights, broadcast from
// memory, for F x V multiply-adds. Bytes: a few rows of the group's source planes stay in the
// first-level cache while tiles pass over them; source and filled image move once.

// Positions of a tile, and what it sums.
template <class T>
struct FlatSums {
  using C = Compute<T>;
  const T* source;  // the first position in the first source channel
  std::int64_t source_plane, source_channels;
  const std::int64_t* offsets;  // of the taps
  std::int64_t taps;
  const LaneSet<C>* inside;  // [vector][tap]
  const C* weights;          // [source channel][tap][F]
  const C* bias;
  T* filled;
  std::int64_t filled_plane, channels;  // of F
  std::int64_t positions;               // to the end of the plane
};

template <class T, int F, int V>
[[gnu::noinline]] void fill_flat_tile(const FlatSums<T>& sums) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  Vector<C> tile[F][V];
#pragma GCC unroll 8
  for (int f = 0; f < F; ++f) {
    const Vector<C> start = broadcast(sums.bias[f]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) tile[f][v] = start;
  }
  const std::int64_t taps = sums.taps, plane = sums.source_plane;
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    LaneSet<C> inside[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) inside[v] = sums.inside[v * taps + tap];
    const T* source = sums.source + sums.offsets[tap];
    const C* weights = sums.weights + tap * F;
    for (std::int64_t s = sums.source_channels; s > 0; --s, source += plane, weights += taps * F) {
      Vector<C> pixels[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) pixels[v] = load_masked(source + v * L, inside[v]);
#pragma GCC unroll 8
      for (int f = 0; f < F; ++f) {
        const Vector<C> weight = broadcast(weights[f]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) tile[f][v] = fma(pixels[v], weight, tile[f][v]);
      }
    }
  }
  T* filled = sums.filled;
#pragma GCC unroll 8
  for (int f = 0; f < F; ++f, filled += sums.filled_plane) {
    if (f == sums.channels) return;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      store_masked(filled + v * L, tile[f][v], mask_between<C>(0, sums.positions - v * L));
  }
}

template <class T, int F, int V>
void fill_flat_vectors(const FlatSums<T>& sums, std::int64_t vectors) {
  if constexpr (V == 1) {
    fill_flat_tile<T, F, 1>(sums);
  } else if (vectors == V) {
    fill_flat_tile<T, F, V>(sums);
  } else {
    fill_flat_vectors<T, F, V - 1>(sums, vectors);
  }
}

template <class T>
class FlatPlanesKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    return {Plan(gather).bytes(), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    FlatPlanesKernel(gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // How the work is cut: by the shape of a sample alone.
  struct Plan {
    explicit Plan(const Gather& gather) : gather(gather) {
      constexpr std::int64_t kEnoughItems = 64, kFewest = 6;
      vectors = ceil_divide(gather.filled_area(), L);
      padded_filled = padded_channels(gather.filled_channels);
      const std::int64_t most = larger(1, ceil_divide(vectors, kFewest));
      blocks = smaller(most, ceil_divide(kEnoughItems, gather.groups));
      block_vectors = ceil_divide(vectors, blocks);
      blocks = block_vectors ? ceil_divide(vectors, block_vectors) : 0;
    }

    std::int64_t taps() const { return gather.kernel_area(); }
    std::int64_t group_weights() const { return padded_filled * gather.source_channels * taps(); }
    std::int64_t weights() const { return round_up(gather.groups * group_weights(), L); }
    std::int64_t biases() const { return round_up(gather.groups * padded_filled, L); }
    std::int64_t mask_bytes() const {
      return round_up(vectors * taps() * static_cast<std::int64_t>(sizeof(LaneSet<C>)), 64);
    }
    std::size_t bytes() const {
      return static_cast<std::size_t>(mask_bytes()) +
             static_cast<std::size_t>(weights() + biases()) * sizeof(C) +
             static_cast<std::size_t>(taps()) * sizeof(std::int64_t);
    }

    const Gather& gather;
    std::int64_t vectors;                // of a plane
    std::int64_t blocks, block_vectors;  // a plane's, for items
    std::int64_t padded_filled;          // channels of a group, padded to tiles
  };

  FlatPlanesKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), plan_(gather), workspace_(workspace) {}

  // Stride 1 makes one class of either axis.
  const AxisClass& rows() const { return gather_.rows.classes()[0]; }
  const AxisClass& columns() const { return gather_.columns.classes()[0]; }
  std::int64_t width() const { return gather_.columns.filled_size; }

  LaneSet<C>* masks() const { return workspace_.shared<LaneSet<C>>(); }
  C* weights() const {
    return workspace_.shared<C>() + plan_.mask_bytes() / static_cast<std::int64_t>(sizeof(C));
  }
  C* biases() const { return weights() + plan_.weights(); }
  std::int64_t* offsets() const {
    return static_cast<std::int64_t*>(static_cast<void*>(biases() + plan_.biases()));
  }

  void run_all() const {
    write_masks();
    pack_weights();
    const std::int64_t cost =
        plan_.block_vectors * L * gather_.filled_channels * gather_.cost_per_element();
    parallel_for(gather_.batch * gather_.groups * plan_.blocks, cost, [&](std::int64_t index, int) {
      const std::int64_t first = index % plan_.blocks * plan_.block_vectors,
                         plane = index / plan_.blocks;
      fill_block(plane / gather_.groups, plane % gather_.groups, first,
                 smaller(plan_.block_vectors, plan_.vectors - first));
    });
  }

  void write_masks() const {
    std::int64_t* offset = offsets();
    for (const Tap& row : rows().taps) {
      for (const Tap& column : columns().taps) *offset++ = row.offset * width() + column.offset;
    }
    parallel_for(plan_.vectors, 16 * plan_.taps(), [&](std::int64_t vector, int) {
      LaneSet<C>* to = masks() + vector * plan_.taps();
      for (const Tap& row : rows().taps) {
        for (const Tap& column : columns().taps) {
          *to++ = lane_set<C>(inside(vector * L, row.offset, column.offset));
        }
      }
    });
  }

  // Bit i: whether position first + i reads the source at that offset.
  unsigned inside(std::int64_t first, std::int64_t row_offset, std::int64_t column_offset) const {
    const auto below = [](std::int64_t lane) {
      return (1u << (lane < 0 ? 0 : lane > L ? L : lane)) - 1;
    };
    const std::int64_t from = larger(0, -column_offset),
                       to = smaller(width(), width() - column_offset);
    unsigned bits = 0;
    for (std::int64_t row = first / width(); row * width() < first + L; ++row) {
      const std::int64_t source = row + row_offset, start = row * width() - first;
      if (row >= gather_.rows.filled_size || from >= to) break;
      if (source < 0 || source >= gather_.rows.source_size) continue;
      bits |= below(start + to) & ~below(start + from);
    }
    return bits;
  }

  void pack_weights() const {
    const std::int64_t cost = 2 * plan_.group_weights();
    parallel_for(gather_.groups, cost, [&](std::int64_t group, int) {
      const PlaneWeightPacker<T> packer(gather_, group);
      packer.pack(rows(), columns(), weights() + group * plan_.group_weights());
      packer.pack_bias(plan_.padded_filled, biases() + group * plan_.padded_filled);
    });
  }

  // Vectors [first, first + count) of the planes of one group.
  void fill_block(std::int64_t n, std::int64_t group, std::int64_t first,
                  std::int64_t count) const {
    const T* source = static_cast<const T*>(gather_.source) + n * gather_.source_strides.sample +
                      group * gather_.source_channels * gather_.source_strides.channel;
    T* filled = static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
                group * gather_.filled_channels * gather_.filled_strides.channel;
    const std::int64_t channels = gather_.filled_channels;
    const std::int64_t most = most_vectors(tile_channels(channels));
    for (std::int64_t tiles = ceil_divide(count, most); tiles > 0; --tiles) {
      const std::int64_t vectors = ceil_divide(count, tiles), position = first * L;
      const C* weights = this->weights() + group * plan_.group_weights();
      for (std::int64_t f = 0; f < channels;) {
        const std::int64_t width = tile_channels(channels - f);
        const FlatSums<T> sums{source + position,
                               gather_.source_strides.channel,
                               gather_.source_channels,
                               offsets(),
                               plan_.taps(),
                               masks() + first * plan_.taps(),
                               weights,
                               biases() + group * plan_.padded_filled + f,
                               filled + f * gather_.filled_strides.channel + position,
                               gather_.filled_strides.channel,
                               channels - f,
                               gather_.filled_area() - position};
        visit_tile_channels(width, [&](auto tile) {
          constexpr int F = decltype(tile)::value;
          fill_flat_vectors<T, F, most_vectors(F)>(sums, vectors);
        });
        weights += gather_.source_channels * plan_.taps() * width;
        f += width;
      }
      first += vectors;
      count -= vectors;
    }
  }

  // A mask register for each.
  static constexpr int most_vectors(std::int64_t channels) {
    const int most = most_tile_vectors(static_cast<int>(channels));
    return most < 6 ? most : 6;
  }

  const Gather& gather_;
  const Plan plan_;
  const Workspace& workspace_;
};
