// How direct.pointwise cuts its product, by the shape alone.
//
//     strip    some pixels of one sample
//     chunk    some filled channels of one group, whose weights stay in L2
//     panel    up to kPointwiseVectors vectors of what lies along the lanes
//     item     a strip by a chunk

struct PointwiseShape {
  std::int64_t batch, groups, sources, filled, pixels;  // channels of a group
  ImageStrides source, target;
  std::int64_t w_group, w_filled, w_source;

  explicit PointwiseShape(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.slot == Slot::kOutput;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    batch = g.batch, groups = g.groups, pixels = g.output_area();
    sources = forward ? in : out, filled = forward ? out : in;
    source = forward ? problem.x_strides() : problem.y_strides();
    target = forward ? problem.y_strides() : problem.x_strides();
    const WeightStrides& w = problem.w_strides;
    w_group = out * w.out_channel;
    w_filled = forward ? w.out_channel : w.in_channel;
    w_source = forward ? w.in_channel : w.out_channel;
  }
};

// The same in whole vectors of lanes, of which the last one may be filled in part.
template <class C>
struct VectorParts {
  static constexpr std::int64_t L = kLanes<C>;
  std::int64_t lanes;
  EvenSplit vectors;

  VectorParts(std::int64_t count, std::int64_t parts)
      : lanes(count), vectors{ceil_divide(count, L), parts} {}
  static VectorParts panels(std::int64_t lanes) {
    return {lanes, ceil_divide(ceil_divide(lanes, L), std::int64_t{kPointwiseVectors})};
  }
  std::int64_t count() const { return vectors.parts; }
  std::int64_t first(std::int64_t part) const { return smaller(vectors.first(part) * L, lanes); }
  std::int64_t size(std::int64_t part) const { return first(part + 1) - first(part); }
  std::int64_t largest() const { return vectors.largest() * L; }
};

template <class C, bool kPixelsAreRows>
class PointwisePlan {
 public:
  // `in_place`: whether planes are read where they lie, which makes long strips cheap.
  PointwisePlan(const PointwiseShape& shape, bool in_place) {
    constexpr std::int64_t kWeightBytes = 384 << 10, kStripBytes = 256 << 10, kItems = 16;
    constexpr std::int64_t kPanel = kPointwiseVectors * kLanes<C>;
    const std::int64_t term_bytes = shape.sources * static_cast<std::int64_t>(sizeof(C));
    const std::int64_t most_channels = larger(kWeightBytes / term_bytes, kPanel);
    const std::int64_t longest = kPixelsAreRows ? 72 : in_place ? 512 : 2 * kPanel;
    const std::int64_t shortest = kPixelsAreRows ? 27 : in_place ? 512 : kPanel;
    const std::int64_t most_pixels = larger(smaller(kStripBytes / term_bytes, longest), shortest);
    // As many channels as pay for packing the pixels again.
    const std::int64_t fewest = kPixelsAreRows ? kPanel : in_place ? 27 : 64;
    strips_ = ceil_divide(shape.pixels, most_pixels);
    chunks_ = larger(ceil_divide(shape.filled, most_channels),
                     smaller(ceil_divide(kItems, strips_), ceil_divide(shape.filled, fewest)));
  }
  std::int64_t strips() const { return strips_; }
  std::int64_t chunks() const { return chunks_; }

 private:
  std::int64_t strips_, chunks_;
};
