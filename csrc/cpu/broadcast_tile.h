// The register tile of direct.broadcast: R rows by P pixels of a class by V vectors of filled
// channels of one group.
//
//     sums[row][p][lane] = bias[lane] + sum over taps and s of
//         weights[tap][s][lane] * source[s][row * row_step + p * STEP + tap]
//
// Source lines lie channel by channel, so that the pixels of a tile are at constant distances from
// one pointer. With V = 2, a broadcast serves 2 multiply-adds and a load of the weight 14: 28 of
// the 32 AVX-512 registers are sums. With V = 1, K = 3 taps that adjoin share the broadcasts of P +
// 2 pixels where STEP is 1.

// Pixels of a tile: in one row, or half as many in each of two.
constexpr int kBroadcastPixels = kVectorBytes == 64 ? 14 : 6;

template <class C>
struct BroadcastSums {
  const C* source;          // what pixel 0 reads at offset 0
  std::int64_t row_step;    // to what the next row of the tile reads
  std::int64_t line;        // from one source channel to the next
  std::int64_t channels;    // of the source
  Span<std::int64_t> runs;  // offsets of the first of K taps each
  const C* weights;         // [run][source channel][K][V vectors]
  const C* bias;            // V vectors
  C* sums;                  // [R][P][V vectors]
};

template <class C, int R, int V, int K, int STEP>
[[gnu::noinline]] void add_broadcast_tile(const BroadcastSums<C>& in) {
  constexpr int L = kLanes<C>, P = kBroadcastPixels / R, kColumns = (P - 1) * STEP + K;
  Vector<C> tile[R][P][V];
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) tile[row][p][v] = load(in.bias + v * L);
    }
  }
  const C* weights = in.weights;
  const std::int64_t line = in.line, row_step = in.row_step, channels = in.channels;
  for (const std::int64_t offset : in.runs) {
    const C* source = in.source + offset;
    for (std::int64_t s = 0; s < channels; ++s, source += line, weights += K * V * L) {
      Vector<C> lanes[K][V];
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) lanes[k][v] = load(weights + (k * V + v) * L);
      }
#pragma GCC unroll 2
      for (int row = 0; row < R; ++row) {
        const C* pixels = source + row * row_step;
#pragma GCC unroll 32
        for (int c = 0; c < kColumns; ++c) {
          if (K == 1 && c % STEP != 0) continue;
          const Vector<C> element = broadcast(pixels[c]);
#pragma GCC unroll 3
          for (int k = 0; k < K; ++k) {
            if (c < k || (c - k) % STEP != 0 || (c - k) / STEP >= P) continue;
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
              Vector<C>& sum = tile[row][(c - k) / STEP][v];
              sum = fma(element, lanes[k][v], sum);
            }
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store(in.sums + ((row * P + p) * V + v) * L, tile[row][p][v]);
    }
  }
}

// The tile of `vectors` of channels, whose runs are of 1 tap or of 3.
template <class C, int R, int STEP>
void add_broadcast_sums(const BroadcastSums<C>& sums, int vectors, int taps) {
  if (vectors == 2) return add_broadcast_tile<C, R, 2, 1, STEP>(sums);
  taps == 3 ? add_broadcast_tile<C, R, 1, 3, STEP>(sums)
            : add_broadcast_tile<C, R, 1, 1, STEP>(sums);
}
