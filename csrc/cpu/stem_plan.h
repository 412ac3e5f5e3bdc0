// How direct.stem cuts its work: by the shape of a sample alone.

template <class T, bool kPixelsAreRows>
struct StemPlan {
  using C = Compute<T>;
  static constexpr std::int64_t L = kLanes<C>;

  explicit StemPlan(const Problem& problem)
      : geometry(problem.geometry),
        terms(geometry.kernel_area() * geometry.in_channels),
        columns(columns_of_item(geometry.width.output)),
        rows(rows_that_fit(problem, columns)),
        strip(problem, rows, columns) {
    // A sum of more terms is made of partial sums, which keeps rounding from growing with it.
    constexpr std::int64_t kTerms = 256;
    block = ceil_divide(terms, larger(1, ceil_divide(terms, kTerms)));
    column_parts = ceil_divide(geometry.width.output, columns);
    row_parts = ceil_divide(geometry.height.output, rows);
    if (!kPixelsAreRows) return;
    // Panels of the weight that stay in the first-level cache.
    constexpr std::int64_t kPanelBytes = 20 << 10;
    std::int64_t most = kPanelBytes / (larger(1, terms) * kVectorBytes);
    most = most < 2 ? 2 : smaller(most, kStemVectors);
    const std::int64_t vectors = ceil_divide(geometry.out_channels, L);
    panels = ceil_divide(vectors, most);
    panel_lanes = ceil_divide(vectors, panels) * L;
  }

  // Elements of one output channel. Rows lie an odd number of cache lines apart, so that they do
  // not push each other out of the cache.
  std::int64_t weight_pitch() const {
    return kPixelsAreRows ? terms : (ceil_divide(terms, L) | 1) * L;
  }
  std::int64_t weights() const {
    const std::int64_t channels = kPixelsAreRows ? panels * panel_lanes : geometry.out_channels;
    return round_up(channels * weight_pitch(), L);
  }
  std::int64_t biases() const { return round_up(geometry.out_channels, kStemVectors * L); }

  const Geometry& geometry;
  std::int64_t terms;
  std::int64_t columns, rows;  // of the output, of an item
  StemStrip<T, kPixelsAreRows> strip;
  std::int64_t column_parts, row_parts;
  std::int64_t block;                        // terms that are summed at a time
  std::int64_t panels = 0, panel_lanes = 0;  // of output channels, where they are lanes

 private:
  static std::int64_t columns_of_item(std::int64_t columns) {
    constexpr std::int64_t kColumns = 112, kGrain = kPixelsAreRows ? 1 : L;
    const std::int64_t parts = larger(1, ceil_divide(columns, kColumns));
    return larger(1, round_up(ceil_divide(columns, parts), kGrain));
  }
  static std::int64_t rows_that_fit(const Problem& problem, std::int64_t columns) {
    constexpr std::int64_t kRows = 4, kStripBytes = 64 << 10;
    std::int64_t rows = 1;
    while (rows < kRows && rows < problem.geometry.height.output &&
           StemStrip<T, kPixelsAreRows>(problem, rows + 1, columns).elements() *
                   static_cast<std::int64_t>(sizeof(C)) <=
               kStripBytes) {
      ++rows;
    }
    return rows;
  }
};
