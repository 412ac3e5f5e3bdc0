// The strip of direct.channels: the source rows that an item meets, one chunk of channels, in C,
// with zeros for the padding along the width: strip[slot of the row][column][channel]. Rows in the
// padding above and below have a slot too, which is never read.

template <class C>
inline void set_to_zero(C* elements, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) elements[i] = C(0);
}

// One row: zeros, [column][channel], zeros.
template <class T>
inline void pack_line(const ChannelsPlan<Compute<T>>& plan, const ImageStrides& strides,
                      const T* source, std::int64_t channels, Compute<T>* line) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  const std::int64_t before = plan.left * channels, inside = plan.columns * channels;
  set_to_zero(line, before);
  set_to_zero(line + before + inside, plan.width * channels - before - inside);
  C* to = line + before;
  if (strides.channel != 1)
    return transpose_matrix(source, strides.channel, channels, plan.columns, to, channels);
  const bool adjoin = strides.column == channels;
  const std::int64_t run = adjoin ? plan.columns * channels : channels;
  const std::int64_t whole = run / L * L;
  const auto tail = mask_between<C>(0, run - whole);
  for (std::int64_t i = 0; i < (adjoin ? 1 : plan.columns); ++i) {
    for (std::int64_t c = 0; c < whole; c += L) store(to + c, load(source + c));
    if (whole < run) store_masked(to + whole, load_masked(source + whole, tail), tail);
    source += strides.column;
    to += channels;
  }
}

template <class T>
class ChannelsStrip {
 public:
  using C = Compute<T>;
  using Plan = ChannelsPlan<C>;

  // For `rows` rows of the class `axis` from its row `first` on.
  ChannelsStrip(const Gather& gather, const Plan& plan, const AxisClass& axis, std::int64_t first,
                std::int64_t rows)
      : gather_(gather),
        plan_(plan),
        axis_(axis),
        first_(first),
        rows_(rows),
        lists_all_(Plan::lists_all_rows(axis, rows)) {}

  // Rows [first, last) of the item, counted from its first, that meet the source through a tap.
  Range rows_inside(std::int64_t tap) const {
    const std::int64_t h = source_row(tap, 0), step = axis_.source_step;
    const std::int64_t begin = larger(0, ceil_divide(-h, step));
    const std::int64_t end =
        smaller(rows_, floor_divide(gather_.rows.source_size - 1 - h, step) + 1);
    return {begin, larger(begin, end)};
  }

  // Elements from the beginning of the strip to source column 0 of what a row of the item sees.
  std::int64_t line(std::int64_t tap, std::int64_t row, std::int64_t channels) const {
    const std::int64_t slot =
        lists_all_ ? source_row(tap, row) - source_row(0, 0) : tap * rows_ + row;
    return (slot * plan_.width + plan_.left) * channels;
  }

  // Channels [channel, channel + channels) of a sample.
  void pack(std::int64_t sample, std::int64_t channel, std::int64_t channels, C* strip) const {
    const ImageStrides& strides = gather_.source_strides;
    const T* source =
        static_cast<const T*>(gather_.source) + sample * strides.sample + channel * strides.channel;
    const std::int64_t taps = axis_.taps.count;
    if (taps == 0) return;
    const std::int64_t h = source_row(0, 0);
    const std::int64_t count = lists_all_ ? source_row(taps - 1, rows_ - 1) + 1 - h : taps * rows_;
    for (std::int64_t slot = 0; slot < count; ++slot) {
      const std::int64_t row = lists_all_ ? h + slot : source_row(slot / rows_, slot % rows_);
      if (row < 0 || row >= gather_.rows.source_size) continue;
      pack_line(plan_, strides, source + row * strides.row, channels,
                strip + slot * plan_.width * channels);
    }
  }

 private:
  std::int64_t source_row(std::int64_t tap, std::int64_t row) const {
    return (first_ + row) * axis_.source_step + tap_in_order(axis_.taps, tap).offset;
  }

  const Gather& gather_;
  const Plan& plan_;
  const AxisClass& axis_;
  const std::int64_t first_, rows_;
  const bool lists_all_;
};
