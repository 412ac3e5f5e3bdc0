// The register tile of direct.grouped: rows by P pixels by one vector of filled channels, of Q
// interleaved groups, through K taps of each row of the kernel.

// Sums of kRows x P pixels through K taps of each row of the kernel, STEP source columns apart.
template <class C>
struct GroupedSums {
  const C* source;          // what pixel 0 reads through the first tap of the run, in row 0
  std::int64_t source_row;  // to what the tile's next row of pixels reads
  std::int64_t step;        // columns between what pixels read, where STEP is 0
  Span<Tap> rows;
  std::int64_t first_row, line;  // the tap offset of row 0, elements of a line
  std::int64_t channels;         // of a group
  const C* weights;              // [row of the kernel][source channel][K][lane]
  C* sums;                       // [kRows][P][lane]
};

constexpr int kGroupedRows = kVectorBytes == 64 ? 2 : 1;

template <class C, int P, int K, int STEP, int Q>
[[gnu::noinline]] void add_grouped_taps(const GroupedSums<C>& in) {
  constexpr int L = kLanes<C>, R = kGroupedRows;
  constexpr int kColumns = STEP == 0 ? P : (P - 1) * STEP + K;
  Vector<C> tile[R][P];
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) tile[row][p] = load(in.sums + (row * P + p) * L);
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
#pragma GCC unroll 16
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
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) store(in.sums + (row * P + p) * L, tile[row][p]);
  }
}
