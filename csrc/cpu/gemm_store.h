// What direct.gemm does with a tile besides multiplying: the bias that it starts from, and the way
// of its elements to where they belong.

template <class T, bool kPixelsAreRows>
class GemmOutput {
 public:
  using C = Compute<T>;

  // `bias` holds `padded` channels of each group, from a whole panel on.
  GemmOutput(const Gather& gather, C* bias, std::int64_t padded)
      : gather_(gather), bias_(bias), padded_(padded) {}

  void pack_bias() const {
    if (!gather_.bias) return;
    const auto* bias = static_cast<const T*>(gather_.bias);
    const std::int64_t channels = gather_.filled_channels;
    for (std::int64_t group = 0; group < gather_.groups; ++group) {
      for (std::int64_t f = 0; f < padded_; ++f) {
        bias_[group * padded_ + f] = f < channels ? to_compute(bias[group * channels + f]) : C(0);
      }
    }
  }

  // Of the tile whose first row and lane are r0 and l0, from a channel of a group on; `scratch`
  // takes a tile.
  void start_with_bias(std::int64_t group, std::int64_t channel, std::int64_t r0, std::int64_t rows,
                       std::int64_t l0, C* scratch, TileJob<C>& job) const {
    const C* bias = bias_ + group * padded_ + channel;
    job.start = kPixelsAreRows ? bias + l0 : scratch;
    job.start_pitch = kPixelsAreRows ? 0 : kPanelLanes<C>;
    if (kPixelsAreRows) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      const Vector<C> value = broadcast(bias[r0 + r]);
      for (int v = 0; v < kPanelVectors; ++v)
        store(scratch + r * kPanelLanes<C> + v * kLanes<C>, value);
    }
  }

  // Whether lanes follow each other in memory.
  static bool lanes_adjoin(const GemmClass& part) {
    return kPixelsAreRows || (part.rows->step == 1 && part.columns->step == 1);
  }

  // Rounds a tile to T and puts its elements where they belong.
  void store_tile(const GemmClass& part, const StripPixels& pixels, const C* tile, std::int64_t r0,
                  std::int64_t rows, std::int64_t l0, std::int64_t lanes, T* filled) const {
    for (std::int64_t r = 0; r < rows; ++r, tile += kPanelLanes<C>) {
      T* row = kPixelsAreRows ? filled + pixels.target[r0 + r] + l0
                              : filled + (r0 + r) * gather_.filled_strides.channel;
      if (lanes_adjoin(part)) {
        if (!kPixelsAreRows) row += pixels.target[l0];
        for (std::int64_t lane = 0; lane < lanes; lane += kLanes<C>)
          store_masked(row + lane, load(tile + lane), mask_between<C>(0, lanes - lane));
      } else {
        for (std::int64_t lane = 0; lane < lanes; ++lane)
          row[pixels.target[l0 + lane]] = from_compute<T>(tile[lane]);
      }
    }
  }

 private:
  const Gather& gather_;
  C* bias_;
  std::int64_t padded_;
};
