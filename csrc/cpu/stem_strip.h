// The strip of direct.stem: the rows of x that an item sees, in C, with zeros for padding, so that
// a term of the sum is an offset that is the same for every pixel.
//
// channels_last: [row][pixel][channel], copied as it lies. NCHW: [channel][row][phase][pixel], in
// which columns are dealt out by their number modulo the stride, so that the pixels of neighbouring
// outputs adjoin.

template <class T, bool kByPixels>
class StemStrip {
 public:
  using C = Compute<T>;

  // For items of at most `rows` rows of at most `columns` outputs.
  StemStrip(const Problem& problem, std::int64_t rows, std::int64_t columns)
      : height_(problem.geometry.height),
        width_(problem.geometry.width),
        channels_(problem.geometry.in_channels),
        strides_(problem.x_strides()),
        planes_(kByPixels ? 1 : channels_),
        phases_(kByPixels ? 1 : width_.stride),
        rows_(source_rows(rows)) {
    const std::int64_t reach = width_.receptive_field() - 1;
    const std::int64_t elements = kByPixels
                                      ? ((columns - 1) * width_.stride + reach + 1) * channels_
                                      : round_up(columns, kLanes<C>) + reach / width_.stride;
    phase_pitch_ = round_up(elements, kLanes<C>);
  }

  std::int64_t elements() const { return planes_ * plane_pitch(); }
  // From row to row, and from output to output of a row.
  std::int64_t row_step() const { return height_.stride * line_pitch(); }
  std::int64_t pixel_step() const { return kByPixels ? width_.stride * channels_ : 1; }

  std::int64_t offset(std::int64_t ic, std::int64_t kh, std::int64_t kw) const {
    const std::int64_t row = kh * height_.dilation * line_pitch(), column = kw * width_.dilation;
    if (kByPixels) return row + column * channels_ + ic;
    return ic * plane_pitch() + row + column % phases_ * phase_pitch_ + column / phases_;
  }

  // For `rows` rows of outputs from (row, column) on; `x` is the sample.
  void fill(const T* x, std::int64_t row, std::int64_t rows, std::int64_t column, C* strip) const {
    const std::int64_t h = height_.input_position(row, 0);
    const std::int64_t step = kByPixels ? channels_ : 1;  // elements of a pixel
    const std::int64_t before = -width_.input_position(column, 0) * step;
    for (std::int64_t plane = 0; plane < planes_; ++plane) {
      const T* from = x + plane * strides_.channel + h * strides_.row - before;
      C* to = strip + plane * plane_pitch();
      for (std::int64_t r = 0; r < source_rows(rows); ++r) {
        const bool exists =
            static_cast<std::uint64_t>(h + r) < static_cast<std::uint64_t>(height_.input);
        fill_line({from, before, exists ? before + width_.input * step : before}, to);
        from += strides_.row;
        to += line_pitch();
      }
    }
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // Elements of a row; those outside [first, last) are padding.
  struct Line {
    const T* from;
    std::int64_t first, last;

    HANDCONV_INLINE Vector<C> operator[](std::int64_t i) const {
      return first <= i && i + L <= last
                 ? load(from + i)
                 : load_masked(from + i, mask_between<C>(first - i, last - i));
    }
  };

  std::int64_t source_rows(std::int64_t rows) const {
    return (rows - 1) * height_.stride + height_.receptive_field();
  }
  std::int64_t line_pitch() const { return phases_ * phase_pitch_; }
  std::int64_t plane_pitch() const { return rows_ * line_pitch(); }

  void fill_line(const Line& line, C* to) const {
    if (phases_ == 1) {
      for (std::int64_t i = 0; i < phase_pitch_; i += L) store(to + i, line[i]);
    } else if (phases_ == 2) {
      for (std::int64_t i = 0; i < phase_pitch_; i += L) {
        const Vector<C> a = line[2 * i], b = line[2 * i + L];
        store(to + i, every_second<C>(a, b, 0));
        store(to + phase_pitch_ + i, every_second<C>(a, b, 1));
      }
    } else if (phases_ == 4) {
      for (std::int64_t i = 0; i < phase_pitch_; i += L) {
        const Vector<C> a = line[4 * i], b = line[4 * i + L];
        const Vector<C> c = line[4 * i + 2 * L], d = line[4 * i + 3 * L];
        for (int odd = 0; odd < 2; ++odd) {
          const Vector<C> ab = every_second<C>(a, b, odd), cd = every_second<C>(c, d, odd);
          store(to + odd * phase_pitch_ + i, every_second<C>(ab, cd, 0));
          store(to + (odd + 2) * phase_pitch_ + i, every_second<C>(ab, cd, 1));
        }
      }
    } else {
      // Outputs whose columns of every phase exist.
      const std::int64_t begin = smaller(ceil_divide(larger(line.first, 0), phases_), phase_pitch_);
      const std::int64_t end = smaller(floor_divide(line.last, phases_), phase_pitch_);
      if (begin < end) {
        transpose_matrix(line.from + begin * phases_, phases_, end - begin, phases_, to + begin,
                         phase_pitch_);
      }
      for (std::int64_t i = 0; i < phase_pitch_; ++i) {
        if (begin <= i && i < end) continue;
        for (std::int64_t phase = 0; phase < phases_; ++phase) {
          const std::int64_t at = i * phases_ + phase;
          const bool exists = line.first <= at && at < line.last;
          to[phase * phase_pitch_ + i] = exists ? to_compute(line.from[at]) : C(0);
        }
      }
    }
  }

  const Axis &height_, &width_;
  std::int64_t channels_;
  ImageStrides strides_;
  std::int64_t planes_, phases_, rows_, phase_pitch_;
};
