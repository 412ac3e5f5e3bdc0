// direct.gemv: windows that see the whole image, such as 1x1 ones of images of one pixel (the
// squeeze of squeeze-and-excitation, a head behind global pooling) or fully connected layers
// written as convolutions. y then has one pixel, and with k = (c, kh, kw), in the one order that
// the elements of a sample and of a filter have in memory, for each group
//
//     y[n, f] = bias[f] + sum over k of w[f, k] x[n, k]
//     x[n, k] = bias[c] + sum over f of y[n, f] w[f, k]
//     w[f, k] = sum over n of y[n, f] x[n, k]
//
// Lanes are neighbouring k, and w is read or written where it lies: each element of it is used once
// a sample, which packing would not pay for. 2 FLOPs a sample and element of w: reading w is what
// limits few samples, and multiplying many.

struct GemvShape {
  std::int64_t batch, groups;
  std::int64_t filters, terms;  // per group; terms: elements of a window
  std::int64_t filter_step;     // from one filter of w to the next

  explicit GemvShape(const Problem& problem)
      : batch(problem.geometry.batch),
        groups(problem.geometry.groups),
        filters(problem.geometry.out_channels_per_group()),
        terms(problem.geometry.in_channels_per_group() * problem.geometry.kernel_area()),
        filter_step(problem.w_strides.out_channel) {}

  // Where a sample's window begins in x, its pixel in y, and a group's first filter in w.
  std::int64_t window(std::int64_t sample, std::int64_t group) const {
    return (sample * groups + group) * terms;
  }
  std::int64_t pixel(std::int64_t sample, std::int64_t group) const {
    return (sample * groups + group) * filters;
  }
  std::int64_t first_filter(std::int64_t group) const { return group * filters * filter_step; }
};

// Fills y. An item is some filters and some samples; it goes over the terms block by block, so that
// those of its filters come from the caches for every sample but the first. A tile is kSums sums of
// one or two samples: with two, F + 2 loads serve 2 F multiply-adds.
template <class T>
class GemvKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    return {0, bytes_of<C>(GemvKernel(problem, {}).filters_per_item() * kSamples)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    GemvKernel(problem, buffers).run_items(workspace);
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr std::int64_t kSamples = 16;
  static constexpr std::int64_t kBlockTerms = 1024;
  // Sums of products by lanes that a tile makes: as many as keep two multipliers busy, or twice
  // that many where there are registers.
  static constexpr int kSums = kVectorBytes == 64 ? 16 : 8;

  GemvKernel(const Problem& problem, const Buffers& buffers)
      : shape_(problem),
        x_(static_cast<const T*>(buffers.x)),
        w_(static_cast<const T*>(buffers.w)),
        bias_(static_cast<const T*>(buffers.bias)),
        y_(static_cast<T*>(buffers.y)) {}

  std::int64_t filters_per_item() const {
    constexpr std::int64_t kElements = 16 << 10, kMost = 256;
    const std::int64_t count = round_up(ceil_divide(kElements, shape_.terms), kSums);
    return smaller(smaller(count, kMost), round_up(shape_.filters, kSums));
  }

  void run_items(const Workspace& workspace) const {
    const std::int64_t per_item = filters_per_item();
    const std::int64_t chunks = ceil_divide(shape_.filters, per_item);
    const std::int64_t blocks = ceil_divide(shape_.batch, kSamples);
    const std::int64_t cost =
        smaller(per_item, shape_.filters) * shape_.terms * smaller(shape_.batch, kSamples);
    parallel_for(shape_.groups * chunks * blocks, cost, [&](std::int64_t item, int thread) {
      const std::int64_t group = item / blocks / chunks;
      const std::int64_t filter = item / blocks % chunks * per_item;
      const std::int64_t sample = item % blocks * kSamples;
      run_item(group, {filter, smaller(shape_.filters, filter + per_item)},
               {sample, smaller(shape_.batch, sample + kSamples)}, workspace.of_thread<C>(thread));
    });
  }

  void run_item(std::int64_t group, Range filters, Range samples, C* totals) const {
    for (std::int64_t k = 0; k < shape_.terms; k += kBlockTerms) {
      const std::int64_t count = smaller(kBlockTerms, shape_.terms - k);
      const T* w = w_ + shape_.first_filter(group) + filters.first * shape_.filter_step + k;
      const std::int64_t filter_count = filters.last - filters.first;
      std::int64_t n = samples.first;
      for (; n + 2 <= samples.last; n += 2) {
        const T* x[2] = {x_ + shape_.window(n, group) + k, x_ + shape_.window(n + 1, group) + k};
        add_block(w, filter_count, x, count, k == 0, totals + (n - samples.first));
      }
      if (n < samples.last) {
        const T* x[1] = {x_ + shape_.window(n, group) + k};
        add_block(w, filter_count, x, count, k == 0, totals + (n - samples.first));
      }
    }
    for (std::int64_t n = samples.first; n < samples.last; ++n) {
      T* y = y_ + shape_.pixel(n, group);
      for (std::int64_t f = filters.first; f < filters.last; ++f) {
        const C total = totals[(f - filters.first) * kSamples + n - samples.first];
        const C bias = bias_ ? to_compute(bias_[group * shape_.filters + f]) : C();
        y[f] = from_compute<T>(total + bias);
      }
    }
  }

  // totals[f][s] = or += the sum over a block of terms.
  template <int S>
  void add_block(const T* w, std::int64_t filter_count, const T* const (&x)[S], std::int64_t count,
                 bool is_first, C* totals) const {
    constexpr int F = kSums / S;
    for (std::int64_t first = 0; first < filter_count; first += F) {
      // Filters past the last are that one again.
      const T* filters[F];
      for (int f = 0; f < F; ++f)
        filters[f] = w + smaller(first + f, filter_count - 1) * shape_.filter_step;
      C sums[kSums];
      sum_products(filters, x, count, sums);
      for (int f = 0; f < F && first + f < filter_count; ++f) {
        C* total = totals + (first + f) * kSamples;
        for (int s = 0; s < S; ++s)
          total[s] = is_first ? sums[f * S + s] : total[s] + sums[f * S + s];
      }
    }
  }

  // sums[f * S + s]: by lanes first, by up to 8 filters at a time, as there are registers for their
  // pointers; then those of the lanes, always in the same order.
  template <int F, int S>
  static void sum_products(const T* const (&filters)[F], const T* const (&x)[S], std::int64_t count,
                           C* sums) {
    constexpr int kPass = F < 8 ? F : 8;
    Vector<C> by_lanes[kSums];
#pragma GCC unroll 2
    for (int pass = 0; pass < F; pass += kPass) {
      const T* some[kPass];
      Vector<C> products[kPass * S];
#pragma GCC unroll 8
      for (int f = 0; f < kPass; ++f) some[f] = filters[pass + f];
      sum_by_lanes(some, x, count, products);
#pragma GCC unroll 16
      for (int i = 0; i < kPass * S; ++i) by_lanes[pass * S + i] = products[i];
    }
#pragma GCC unroll 4
    for (int first = 0; first < kSums; first += L) {
      Vector<C> square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) square[i] = by_lanes[first + i];
      transpose<C>(square);
#pragma GCC unroll 4
      for (int half = L / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) square[i] += square[i + half];
      }
      store(sums + first, square[0]);
    }
  }

  template <int F, int S>
  HANDCONV_INLINE static void sum_by_lanes(const T* const (&filters)[F], const T* const (&x)[S],
                                           std::int64_t count, Vector<C> (&sums)[F * S]) {
#pragma GCC unroll 16
    for (int i = 0; i < F * S; ++i) sums[i] = Vector<C>{};
    std::int64_t k = 0;
    for (; k + L <= count; k += L) add_vector(filters, x, k, FullPanel<T>{}, sums);
    if (k < count) add_vector(filters, x, k, TailPanel<T>{mask_between<C>(0, count - k)}, sums);
  }

  template <int F, int S, class Load>
  HANDCONV_INLINE static void add_vector(const T* const (&filters)[F], const T* const (&x)[S],
                                         std::int64_t k, Load load_lanes,
                                         Vector<C> (&sums)[F * S]) {
    Vector<C> window[S];
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) window[s] = load_lanes(x[s] + k, true);
#pragma GCC unroll 8
    for (int f = 0; f < F; ++f) {
      const Vector<C> filter = load_lanes(filters[f] + k, true);
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) sums[f * S + s] = fma(filter, window[s], sums[f * S + s]);
    }
  }

  const GemvShape shape_;
  const T* x_;
  const T* w_;
  const T* bias_;
  T* y_;
};
