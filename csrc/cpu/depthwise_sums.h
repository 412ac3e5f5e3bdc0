// Sums of a register tile over many taps.

// Long sums are made of blocks, which keeps rounding from growing with the number of terms: as in
// BlockedTile, but the totals lie in the workspace, where they take no registers.
template <class C, int R, int V>
struct PlaneSums {
  static constexpr std::int64_t kTerms = 256;

  Tile<C, R, V> block;
  C* totals;
  std::int64_t most_terms;  // of a block
  std::int64_t terms = 0;
  bool has_totals = false;

  HANDCONV_INLINE explicit PlaneSums(C* totals, std::int64_t most_terms = kTerms)
      : totals(totals), most_terms(most_terms) {}

  HANDCONV_INLINE void note_terms(std::int64_t count) {
    terms += count;
    if (terms < most_terms) return;
    for_each_sum([this](Vector<C>& sum, C* total) {
      store(total, has_totals ? load(total) + sum : sum);
      sum = Vector<C>{};
    });
    has_totals = true;
    terms = 0;
  }

  // Leaves the whole sums in `block`.
  HANDCONV_INLINE void finish() {
    if (!has_totals) return;
    for_each_sum([](Vector<C>& sum, C* total) { sum += load(total); });
  }

 private:
  template <class Visit>
  HANDCONV_INLINE void for_each_sum(const Visit& visit) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) visit(block.sums[r][v], totals + (r * V + v) * kLanes<C>);
    }
  }
};
