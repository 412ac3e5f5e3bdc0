// The register tile of direct.grouped: R rows by P pixels by one vector of filled channels, of Q
// interleaved groups, through K taps of each row of the kernel, STEP source columns apart.
template <class C>
struct GroupedSums {
  const C* source;          // what pixel 0 reads through the first tap of the run, in row 0
  std::int64_t source_row;  // to what the tile's next row of pixels reads
  std::int64_t step;        // columns between what pixels read, where STEP is 0
  Span<Tap> rows;
  std::int64_t first_row, line;  // the tap offset of row 0, elements from a row to the next
  std::int64_t channels;         // of a group
  const C* weights;              // [row of the kernel][source channel][K][lane]
  const C* bias;                 // of the lanes, or null where the sums go on
  C* sums;                       // [R][P][lane]
  C* filled;                     // where the sums end up, or null: in `sums`
  std::int64_t filled_row, filled_column;
  const LaneIndex<C>* adjacent;  // the lane of each channel in memory
};

constexpr int kGroupedRows = kVectorBytes == 64 ? 2 : 1;
// Columns of a tile: of several rows, of the last columns, of a single row. Runs of one or two taps
// leave registers for wide tiles, which a strided gradient of few taps a class gains by. (Two taps
// of 14 pixels need 17 registers, but tiles of 12 fit rows of 14 and 28 columns worse.)
constexpr int kGroupedPixels = 7, kGroupedFewPixels = 4;
constexpr int kGroupedLongRow = kGroupedRows * kGroupedPixels;
constexpr int kGroupedWidePixels = 14;
constexpr int kGroupedSums = kGroupedRows * kGroupedWidePixels;

template <class C, int R, int P, int K, int STEP, int Q>
[[gnu::noinline]] void add_grouped_taps(const GroupedSums<C>& in) {
  constexpr int L = kLanes<C>;
  constexpr int kColumns = STEP == 0 ? P : (P - 1) * STEP + K;
  Vector<C> tile[R][P];
  const C* start = in.bias ? in.bias : in.sums;
  const std::int64_t start_step = in.bias ? 0 : L;
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) tile[row][p] = load(start + (row * P + p) * start_step);
  }
  const C* weights = in.weights;
  const std::int64_t step = STEP == 0 ? in.step * L : L, source_row = in.source_row;
  const std::int64_t channels = in.channels;
  for (const Tap& tap : in.rows) {
    const C* source = in.source + (tap.offset - in.first_row) * in.line;
    for (std::int64_t s = 0; s < channels; ++s, source += Q, weights += K * L) {
      Vector<C> lanes[K];
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) lanes[k] = load(weights + k * L);
#pragma GCC unroll 2
      for (int row = 0; row < R; ++row) {
        const C* pixels = source + row * source_row;
#pragma GCC unroll 32
        for (int c = 0; c < kColumns; ++c) {
          const Vector<C> operand = repeat<Q>(pixels + c * step);
#pragma GCC unroll 3
          for (int k = 0; k < K; ++k) {
            const int from = STEP == 0 ? c : c - k;
            constexpr int kStep = STEP == 0 ? 1 : STEP;
            if (from >= 0 && from % kStep == 0 && from / kStep < P)
              tile[row][from / kStep] = fma(operand, lanes[k], tile[row][from / kStep]);
          }
        }
      }
    }
  }
  TileEnd<GroupedSums<C>> ending = in;
  if (ending.filled) {
#pragma GCC unroll 2
    for (int row = 0; row < R; ++row) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        store(ending.filled + row * ending.filled_row + p * ending.filled_column,
              permute(tile[row][p], ending.adjacent));
      }
    }
    return;
  }
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store(ending.sums + (row * P + p) * L, tile[row][p]);
  }
}
