// The register tile of the weight gradient of direct.grouped: S input channels by K taps by V
// vectors of output channels, summed over some rows of pixels and then added to totals in memory.

template <class C>
struct PixelProducts {
  const C* x;
  std::int64_t taps[3];        // offsets in x
  std::int64_t x_step, x_row;  // from one pixel of y to the next
  const C* y;                  // [pixel][V vectors]
  std::int64_t rows, columns;
  C* totals;  // [S][K] vectors of V
  std::int64_t channel_step, tap_step;
};

template <class C, int V, int S, int K>
[[gnu::noinline]] void add_pixel_products(const PixelProducts<C>& products) {
  constexpr std::int64_t L = kLanes<C>;
  Vector<C> tile[S][K][V]{};
  const C* y = products.y;
  const std::int64_t x_step = products.x_step;
  for (std::int64_t row = 0; row < products.rows; ++row) {
    const C* x[K];
#pragma GCC unroll 3
    for (int k = 0; k < K; ++k) x[k] = products.x + row * products.x_row + products.taps[k];
    std::int64_t at = 0;
    for (std::int64_t column = 0; column < products.columns; ++column, y += V * L, at += x_step) {
      Vector<C> cotangents[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) cotangents[v] = load(y + v * L);
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) {
#pragma GCC unroll 3
        for (int k = 0; k < K; ++k) {
          const Vector<C> element = broadcast(x[k][at + s]);
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) tile[s][k][v] = fma(element, cotangents[v], tile[s][k][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 3
    for (int k = 0; k < K; ++k) {
      C* total = products.totals + s * products.channel_step + k * products.tap_step;
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store(total + v * L, load(total + v * L) + tile[s][k][v]);
    }
  }
}
