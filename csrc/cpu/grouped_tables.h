// What direct.grouped prepares for all of its items: the packed weight and bias, how lanes lie
// within a vector, and where each tap is packed.

template <class T>
class GroupedTables {
 public:
  using C = Compute<T>;
  using Plan = GroupedPlan<C>;

  // Taps of a row of the kernel that lie next to each other, or one, by ascending offset.
  struct Run {
    std::int64_t first, count;
  };

  // What a class of rows and one of columns share.
  struct ClassPair {
    const AxisClass &rows, &columns;
    std::int64_t weights;  // of the pairs before it
  };

  // `base`: plan.shared_bytes() of memory.
  GroupedTables(const Gather& gather, const Plan& plan, C* base)
      : gather_(gather), plan_(plan), base_(base) {}

  // Of a vector of filled channels.
  C* weights(std::int64_t block) const { return base_ + block * plan_.block_weights(); }
  C* bias(std::int64_t block) const { return weights(plan_.blocks) + block * L; }
  // The channel of a vector in memory that is a lane, and the lane that is a channel.
  LaneIndex<C>* interleaved() const {
    return static_cast<LaneIndex<C>*>(static_cast<void*>(bias(plan_.blocks)));
  }
  LaneIndex<C>* adjacent() const { return interleaved() + L; }

  // The i-th tap by ascending offset.
  static const Tap& ascending(const AxisClass& columns, std::int64_t i) {
    const Span<Tap>& taps = columns.taps;
    return taps[taps[0].offset <= taps[taps.count - 1].offset ? i : taps.count - 1 - i];
  }

  // visit(run) over the taps of a row of the kernel.
  template <class Visit>
  HANDCONV_INLINE static void for_runs(const AxisClass& columns, const Visit& visit) {
    const std::int64_t count = columns.taps.count;
    const bool adjoin = count > 1 && columns.source_step <= 2 &&
                        ascending(columns, 1).offset - ascending(columns, 0).offset == 1;
    for (std::int64_t first = 0; first < count;) {
      const Run run{first, adjoin ? smaller(kTaps, count - first) : 1};
      visit(run);
      first += run.count;
    }
  }

  template <class Visit>
  HANDCONV_INLINE void for_classes(const Visit& visit) const {
    std::int64_t weights = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        visit(ClassPair{rows, columns, weights});
        weights += rows.taps.count * columns.taps.count * gather_.source_channels * L;
      }
    }
  }

  void write() const {
    const std::int64_t size = gather_.filled_channels, held = L / size;
    for (std::int64_t lane = 0; lane < L; ++lane) {
      const std::int64_t channel = lane % held * size + lane / held;
      interleaved()[lane] = static_cast<LaneIndex<C>>(channel);
      adjacent()[channel] = static_cast<LaneIndex<C>>(lane);
    }
    for (std::int64_t tap = 0; tap < gather_.kernel_area(); ++tap) places()[tap] = {0, 0};
    std::int64_t first = 0;
    for_classes([&](const ClassPair& pair) {
      for_runs(pair.columns, [&](Run run) {
        for (const Tap& row : pair.rows.taps) {
          for (std::int64_t k = 0; k < run.count; ++k) {
            const Tap& column = ascending(pair.columns, run.first + k);
            places()[row.kernel * gather_.columns.kernel_size + column.kernel] = {first + k,
                                                                                  run.count};
          }
          first += size * run.count;
        }
      });
    });
  }

  void pack_block(std::int64_t block) const {
    const std::int64_t group = block * (L / gather_.filled_channels);
    const GroupedWeightPacker<T> packer(gather_, places(), group, gather_.groups - group);
    packer.pack(interleaved(), weights(block));
    const auto* biases = static_cast<const T*>(gather_.bias);
    C* to = bias(block);
    for (std::int64_t lane = 0; lane < L; ++lane) {
      const std::int64_t channel = block * L + interleaved()[lane];
      to[lane] = biases && channel < plan_.channels ? to_compute(biases[channel]) : C(0);
    }
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr int kTaps = 3;

  TapPlace* places() const { return static_cast<TapPlace*>(static_cast<void*>(adjacent() + L)); }

  const Gather& gather_;
  const Plan& plan_;
  C* const base_;
};
