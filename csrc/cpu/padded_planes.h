// Source images as planes in scratch memory that kernels whose lanes are pixels read without
// looking at edges, strides, layouts or types: zeros lie where the image is padded, a strided image
// is taken apart into phases (the source positions h with h mod step alike), everything is in C.
//
// The rows of a plane follow each other at `pitch` elements, and the filled position (i, j) of a
// class is position i * pitch + j of one long line: through a tap it reads the line at a constant
// offset. So vectors run over row ends, and a plane of 7 x 7 fills them nearly as well as one of
// 56 x 56; the few positions between rows are computed and dropped.

// One axis of the source, for all classes of a gather. The tap with offset q * step + phase reads,
// at the i-th position of its class, element i + q of that phase.
struct PaddedAxis {
  explicit PaddedAxis(const AxisTaps& axis)
      : taps(axis), step(axis.classes().count ? axis.classes()[0].source_step : 1) {
    bool any = false;
    for (const AxisClass& positions : axis.classes()) {
      if (positions.count > count) count = positions.count;
      for (const Tap& tap : positions.taps) {
        const std::int64_t q = quotient(tap);
        if (!any || q < first) first = q;
        if (!any || q > last) last = q;
        any = true;
      }
    }
    phases = step == 1 ? 1 : 0;
    for (std::int64_t phase = 0; step > 1 && phase < step; ++phase) phases += is_used(phase);
  }

  std::int64_t quotient(const Tap& tap) const { return floor_divide(tap.offset, step); }
  std::int64_t phase(const Tap& tap) const { return tap.offset - quotient(tap) * step; }
  bool is_used(std::int64_t phase) const {
    if (step == 1) return true;
    for (const AxisClass& positions : taps.classes()) {
      for (const Tap& tap : positions.taps) {
        if (this->phase(tap) == phase) return true;
      }
    }
    return false;
  }
  // Phases that no tap reads have no place.
  std::int64_t place(std::int64_t phase) const {
    std::int64_t place = 0;
    for (std::int64_t before = 0; step > 1 && before < phase; ++before) place += is_used(before);
    return place;
  }
  std::int64_t elements(std::int64_t phase) const {
    return phase < taps.source_size ? ceil_divide(taps.source_size - phase, step) : 0;
  }

  const AxisTaps& taps;
  std::int64_t step;
  std::int64_t phases = 0;           // that taps read
  std::int64_t count = 0;            // positions of the longest class
  std::int64_t first = 0, last = 0;  // quotients of taps
};

// The planes of some rows of some channels.
template <class T>
class PaddedPlanes {
 public:
  using C = Compute<T>;
  static constexpr std::int64_t L = kLanes<C>;

  explicit PaddedPlanes(const Gather& gather)
      : rows(gather.rows),
        columns(gather.columns),
        lead_(columns.first < 0 ? -columns.first : 0),
        pitch_(pitch_of(columns, lead_)) {}

  std::int64_t pitch() const { return pitch_; }
  // Rows of one phase that `count` filled rows read.
  std::int64_t source_rows(std::int64_t count) const { return count + rows.last - rows.first; }
  // In elements; a vector may start at the last position of the last row.
  std::int64_t phase_elements(std::int64_t filled_rows) const {
    return (source_rows(filled_rows) * pitch_ + lead_ + 3 * L - 1) / L * L;
  }
  std::int64_t channel_elements(std::int64_t filled_rows) const {
    return rows.phases * columns.phases * phase_elements(filled_rows);
  }
  // What a channel's planes are apart, for planes of at most `filled_rows` rows: an odd number of
  // lines, so that channels do not fall on each other in the cache.
  std::int64_t channel_step(std::int64_t filled_rows) const {
    return (channel_elements(filled_rows) / L | 1) * L;
  }
  // Whether a block of work should have so many filled rows: those that fit, or more while taps far
  // apart read mostly rows of other blocks.
  bool is_worth(std::int64_t filled_rows, std::int64_t channels, std::int64_t fit) const {
    const std::int64_t elements = channels * channel_elements(filled_rows);
    return elements <= fit || (filled_rows <= 4 * (rows.last - rows.first) && elements <= 6 * fit);
  }
  // Where position 0 reads through a tap, from the channel's first element.
  std::int64_t offset(const Tap& row, const Tap& column, std::int64_t filled_rows) const {
    const std::int64_t phase =
        rows.place(rows.phase(row)) * columns.phases + columns.place(columns.phase(column));
    return phase * phase_elements(filled_rows) + (rows.quotient(row) - rows.first) * pitch_ +
           lead_ + columns.quotient(column);
  }
  // A line of the source converted, which strided planes are made from.
  std::int64_t line_elements() const { return converts_lines() ? columns.taps.source_size + L : 0; }

  // Channels [channel, channel + channels) of an image, for the filled rows [first_row, first_row +
  // count) of every class. `most_rows` is what the steps were made for.
  void fill(const T* image, const ImageStrides& strides, std::int64_t channel,
            std::int64_t channels, std::int64_t first_row, std::int64_t count,
            std::int64_t most_rows, C* planes, C* line) const {
    const Block block{first_row, count, most_rows, channels, planes, line};
    image += channel * strides.channel;
    if constexpr (std::is_same_v<T, C>) {
      if (strides.channel != 1 && columns.step == 2 && columns.phases == 2 &&
          rows.phases == rows.step)
        return fill_pairs(block, image, strides);
    }
    std::int64_t place = 0;
    for (std::int64_t phase = 0; phase < rows.step; ++phase) {
      if (!rows.is_used(phase)) continue;
      strides.channel == 1 ? fill_from_pixels(block, image, strides, phase, place)
                           : fill_from_planes(block, image, strides, phase, place);
      ++place;
    }
  }

  const PaddedAxis rows, columns;

 private:
  struct Block {
    std::int64_t first_row, count, most_rows, channels;
    C* planes;
    C* line;
  };

  static std::int64_t pitch_of(const PaddedAxis& columns, std::int64_t lead) {
    const std::int64_t reach = columns.count + (columns.last > 0 ? columns.last : 0);
    std::int64_t existing = 0;
    for (std::int64_t phase = 0; phase < columns.step; ++phase) {
      if (!columns.is_used(phase)) continue;
      const std::int64_t elements = columns.elements(phase);
      if (elements > existing) existing = elements;
    }
    // Elements past the last that a tap reads are not kept.
    if (existing > reach) existing = reach;
    return lead + existing > reach ? lead + existing : reach;
  }

  bool converts_lines() const { return !std::is_same_v<T, C> && columns.step > 1; }

  // Calls visit(phase, planes of the phase, elements of it that are kept).
  template <class Visit>
  HANDCONV_INLINE void for_column_phases(const Block& block, std::int64_t row_place,
                                         const Visit& visit) const {
    std::int64_t place = row_place * columns.phases;
    for (std::int64_t phase = 0; phase < columns.step; ++phase) {
      if (!columns.is_used(phase)) continue;
      const std::int64_t elements = columns.elements(phase), kept = pitch_ - lead_;
      visit(phase, block.planes + place * phase_elements(block.most_rows),
            elements < kept ? elements : kept);
      ++place;
    }
  }

  static void write_zeros(C* p, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += L) store(p + i, Vector<C>{});
  }

  // Rows and lines are written from the first to the last: each vector may reach into the next.
  void fill_from_planes(const Block& block, const T* image, const ImageStrides& strides,
                        std::int64_t row_phase, std::int64_t row_place) const {
    const std::int64_t channel_step = this->channel_step(block.most_rows);
    const std::int64_t source_rows = this->source_rows(block.count);
    for_column_phases(block, row_place, [&](std::int64_t phase, C* planes, std::int64_t elements) {
      for (std::int64_t c = 0; c < block.channels; ++c) {
        C* to = planes + c * channel_step;
        for (std::int64_t r = 0; r < source_rows; ++r, to += pitch_) {
          const std::int64_t h = (block.first_row + rows.first + r) * rows.step + row_phase;
          if (h < 0 || h >= rows.taps.source_size) {
            write_zeros(to, pitch_);
            continue;
          }
          const T* from = image + c * strides.channel + h * strides.row;
          prefetch_line(from + strides.channel);
          if (columns.step == 1) {
            copy_line(from, elements, 1, to);
          } else if constexpr (std::is_same_v<T, C>) {
            copy_line(from + phase, elements, columns.step, to);
          } else {
            for (std::int64_t w = 0; w < columns.taps.source_size; w += L) {
              const auto mask = mask_between<C>(0, columns.taps.source_size - w);
              store(block.line + w, load_masked(from + w, mask));
            }
            copy_line(block.line + phase, elements, columns.step, to);
          }
        }
        write_zeros(to, lead_);
      }
    });
  }

  // All phases, of columns of step 2, at once: each channel's rows in the order of memory.
  void fill_pairs(const Block& block, const T* image, const ImageStrides& strides) const {
    const std::int64_t channel_step = this->channel_step(block.most_rows);
    const std::int64_t phase_step = phase_elements(block.most_rows);
    const std::int64_t source_rows = this->source_rows(block.count);
    for (std::int64_t c = 0; c < block.channels; ++c) {
      C* planes = block.planes + c * channel_step;
      for (std::int64_t j = 0; j < pitch_; j += L) {
        const std::int64_t first = 2 * (j - lead_), rest = columns.taps.source_size - first;
        const auto low = mask_between<C>(-first, rest),
                   high = mask_between<C>(-first - L, rest - L),
                   kept = mask_between<C>(0, pitch_ - j);
        const T* from = image + c * strides.channel + first;
        for (std::int64_t r = 0; r < source_rows; ++r) {
          for (std::int64_t phase = 0; phase < rows.phases; ++phase) {
            const std::int64_t h = (block.first_row + rows.first + r) * rows.step + phase;
            C* even = planes + 2 * phase * phase_step + r * pitch_ + j;
            Vector<C> a{}, b{};
            if (h >= 0 && h < rows.taps.source_size) {
              const T* pair = from + h * strides.row;
              __builtin_prefetch(pair + strides.channel);
              __builtin_prefetch(pair + strides.channel + L);
              a = load_masked(pair, low);
              b = load_masked(pair + L, high);
            }
            store_masked(even, every_second<C>(a, b, 0), kept);
            store_masked(even + phase_step, every_second<C>(a, b, 1), kept);
          }
        }
      }
      for (std::int64_t place = 0; place < rows.phases * columns.phases; ++place)
        write_zeros(planes + place * phase_step + source_rows * pitch_, lead_);
    }
  }

  template <class E>
  HANDCONV_INLINE void copy_line(const E* from, std::int64_t elements, std::int64_t step,
                                 C* to) const {
    from -= lead_ * step;
    const std::int64_t last = lead_ + elements;
    for (std::int64_t j = 0; j < pitch_; j += L) {
      const bool inside = j >= lead_ && j + L <= last;
      store(to + j, inside && step == 1 ? load(from + j)
                                        : load_strided(from + j * step, step,
                                                       mask_between<C>(lead_ - j, last - j)));
    }
  }

  // Few rows of a channel are too short a stream for the processor to foresee the next channel's.
  HANDCONV_INLINE void prefetch_line(const T* from) const {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t i = 0; i < columns.taps.source_size; i += kLine) __builtin_prefetch(from + i);
  }

  // Squares of pixels by channels are transposed.
  void fill_from_pixels(const Block& block, const T* image, const ImageStrides& strides,
                        std::int64_t row_phase, std::int64_t row_place) const {
    const std::int64_t channel_step = this->channel_step(block.most_rows);
    const std::int64_t source_rows = this->source_rows(block.count);
    for_column_phases(block, row_place, [&](std::int64_t phase, C* planes, std::int64_t elements) {
      C* to = planes;
      for (std::int64_t r = 0; r < source_rows; ++r, to += pitch_) {
        const std::int64_t h = (block.first_row + rows.first + r) * rows.step + row_phase;
        if (h < 0 || h >= rows.taps.source_size) {
          for (std::int64_t c = 0; c < block.channels; ++c)
            write_zeros(to + c * channel_step, pitch_);
          continue;
        }
        const T* line = image + h * strides.row + phase * strides.column;
        const std::int64_t step = columns.step * strides.column;
        for (std::int64_t j = 0; j < pitch_; j += L) {
          for (std::int64_t c = 0; c < block.channels; c += L) {
            transpose_to_planes(line + c + (j - lead_) * step, step, lead_ - j,
                                lead_ + elements - j, block.channels - c, to + c * channel_step + j,
                                channel_step);
          }
        }
      }
      for (std::int64_t c = 0; c < block.channels; ++c) write_zeros(to + c * channel_step, lead_);
    });
  }

  std::int64_t lead_;   // zeros before the first element of a row
  std::int64_t pitch_;  // at least the positions of a row, and what they read of it
};
