// What tiles of direct.depthwise.channels ask of memory before the next tile needs it.
//
// Of images that no cache holds the processor foresees little: a vector of channels has pieces in
// every pixel of a tile, and only then comes the next one. So every vector asks for its share of
// the next tile, of what is written as well as of what is read: 1.4 to 2.2 times as fast where
// images come from memory, 0.8 to 0.95 where they lie in a cache. Tried: all lines of the next tile
// at once, half the gain and a loss of a quarter in wide images; what is read alone, half the gain.
// With vectors of 64 bytes it is not measured in this form.

constexpr bool kFetchesAhead = kVectorBytes == 32;
// Pixels of the source for one of the filled image, at most, for it to be worth while.
constexpr std::int64_t kFetchedSteps = 4;

// Pixels of neighbouring lines of an image; none if `pixels` is 0.
template <class T>
struct PixelsAhead {
  const char* first;           // channel 0 of the first
  std::int64_t pixels, pixel;  // of a line, and bytes from one to the next
  std::int64_t lines, line;
};

// Goes through some channels of such pixels in the order in which they lie.
template <class T, int kWrites>
class FetchAhead {
 public:
  // `vectors` vectors of channels from `channel` on, as many steps.
  FetchAhead(const PixelsAhead<T>& ahead, std::int64_t channel, std::int64_t vectors)
      : ahead_(ahead),
        piece_(vectors * kVector),
        at_(ahead.first + channel * static_cast<std::int64_t>(sizeof(T))),
        piece_end_(at_ + piece_) {}

  HANDCONV_INLINE void step() {
    for (std::int64_t bytes = ahead_.pixels * kVector; bytes > 0; bytes -= kLine) {
      for (std::int64_t i = 0; i < ahead_.lines; ++i) {
        __builtin_prefetch(at_ + i * ahead_.line, kWrites, kWrites ? 3 : 2);
      }
      at_ += kLine;
      if (at_ < piece_end_) continue;
      piece_end_ += ahead_.pixel;
      at_ = piece_end_ - piece_;
    }
  }

 private:
  static constexpr std::int64_t kLine = 64;  // of the cache
  static constexpr std::int64_t kVector = kLanes<Compute<T>> * static_cast<std::int64_t>(sizeof(T));

  const PixelsAhead<T> ahead_;
  std::int64_t piece_;  // bytes of a pixel
  const char *at_, *piece_end_;
};

// What `positions` positions from `first` on read that no row before has read. Behind the end of a
// line begins the one that the next row reads.
template <class T>
PixelsAhead<T> next_source(const Gather& gather, std::int64_t n, const AxisClass& rows,
                           std::int64_t row, const ColumnPlan& columns, std::int64_t first,
                           std::int64_t positions) {
  if (positions == 0 || rows.taps.count == 0) return {};
  const ImageStrides& strides = gather.source_strides;
  constexpr std::int64_t kSize = sizeof(T);
  const std::int64_t reach = larger(rows.taps[0].offset, rows.taps[rows.taps.count - 1].offset);
  const std::int64_t h = smaller(row * rows.source_step + reach, gather.rows.source_size - 1);
  const std::int64_t at =
      n * strides.sample + h * strides.row + first * columns.source_step * strides.column;
  return {static_cast<const char*>(gather.source) + at * kSize, positions * columns.source_step,
          strides.column * kSize, rows.source_step, -strides.row * kSize};
}

// What they and the positions between them write of a line.
template <class T>
PixelsAhead<T> next_filled(const Gather& gather, const T* line, const ColumnPlan& columns,
                           std::int64_t first, std::int64_t positions) {
  if (positions == 0) return {};
  const std::int64_t column = gather.filled_strides.column;
  return {reinterpret_cast<const char*>(line + first * columns.step * column),
          positions * columns.step, column * static_cast<std::int64_t>(sizeof(T)), 1, 0};
}
