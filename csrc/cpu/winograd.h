// winograd: windows with stride 1 and any dilation, by tiles of what is filled (m outputs along an
// axis of r taps, from m + r - 1 points):
//
//     Y = A^T [ sum over source channels of (G g G^T) * (B^T d B) ] A
//
// The sums are products of matrices, one for each pair of points, M[point] = V[point] U[point], of
// tiles by source channels (V) and source channels by filled channels (U): m r / (m + r - 1) times
// fewer multiplications along each axis than the definition has. Windows of 3x3: 4 for m = 4, 3.24
// for m = 3 and 2.25 for m = 2; of 5x5: 2.78 for m = 2; of 1x3: 2, of 1x5: 1.67. An axis without
// taps has one point. Windows of 1x7 are segments of 4 and 3 taps, which follow each other in the
// sums over source channels: 1.75.
//
// Register tile: 6 tiles by kTileVectors vectors of filled channels. U of a chunk of source
// channels is transformed by the thread that multiplies with it and stays in its second-level
// cache, as M of a strip of tiles does; V is written once and streams in from the third level for
// every block of filled channels. Where U is small, or strips are many, it is transformed once, and
// V stays in the second level.

template <class T, class Tiles>
class WinogradKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const Plan plan(gather);
    const std::int64_t strips = smaller(plan.strips(), plan.strips_per_pass());
    const std::int64_t blocks = plan.blocks(gather.filled_channels).count();
    return {
        bytes_of<C>(plan.keeps_weights ? plan.groups * blocks * plan.chunks * plan.weight_elements()
                                       : plan.groups * strips * plan.v_strip()),
        bytes_of<C>(image_scratch(plan) + plan.m_elements() +
                    (plan.keeps_weights ? plan.v_strip() : plan.weight_elements()))};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    const WinogradKernel kernel(gather, problem, workspace);
    if (kernel.plan_.keeps_weights) {
      kernel.run_with_kept_weights();
    } else {
      kernel.run_with_shared_tiles();
    }
  }

 private:
  using Plan = WinogradPlan<C, Tiles>;

  WinogradKernel(const Gather& gather, const Problem& problem, const Workspace& workspace)
      : gather_(gather),
        plan_(gather),
        workspace_(workspace),
        blocks_(plan_.blocks(gather.filled_channels)),
        weights_(gather, problem.slot == Slot::kInput) {}

  static std::int64_t image_scratch(const Plan& plan) {
    const std::int64_t source =
        WinogradSource<T, Tiles>::scratch_elements(plan.grid, plan.longest_run());
    const std::int64_t filled =
        WinogradFilled<T, Tiles>::scratch_elements(plan.grid, plan.longest_run());
    return round_up(larger(source, filled), Plan::kPadding);
  }

  void run_with_kept_weights() const {
    C* shared = workspace_.shared<C>();
    const std::int64_t blocks = blocks_.count(), chunks = plan_.chunks;
    const auto weights = [&](std::int64_t group, std::int64_t block, std::int64_t chunk) {
      return shared + ((group * blocks + block) * chunks + chunk) * plan_.weight_elements();
    };
    parallel_for(plan_.groups * blocks * chunks, 8 * plan_.weight_elements(),
                 [&](std::int64_t item, int) {
                   const std::int64_t chunk = item % chunks, block = item / chunks % blocks;
                   const std::int64_t group = item / chunks / blocks;
                   transform_weights(group, block, chunk, weights(group, block, chunk));
                 });
    parallel_for(plan_.groups * plan_.strips(), cost_of_strip() * blocks,
                 [&](std::int64_t item, int thread) {
                   const std::int64_t strip = item % plan_.strips(), group = item / plan_.strips();
                   const ThreadScratch scratch = scratch_of(thread);
                   for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                     transform_source(strip, group, chunk, scratch,
                                      scratch.rest + chunk * plan_.v_chunk());
                   }
                   for (std::int64_t block = 0; block < blocks; ++block) {
                     for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                       multiply(strip, block, chunk, scratch.rest + chunk * plan_.v_chunk(),
                                weights(group, block, chunk), scratch.m);
                     }
                     transform_filled(strip, group, block, scratch);
                   }
                 });
  }

  void run_with_shared_tiles() const {
    for (std::int64_t first = 0; first < plan_.strips(); first += plan_.strips_per_pass()) {
      const std::int64_t rest = plan_.strips() - first;
      run_pass(first, rest < plan_.strips_per_pass() ? rest : plan_.strips_per_pass());
    }
  }

  // Strips [first, first + count).
  void run_pass(std::int64_t first, std::int64_t count) const {
    C* shared = workspace_.shared<C>();
    const std::int64_t chunks = plan_.chunks, blocks = blocks_.count();
    const auto tiles = [&](std::int64_t strip, std::int64_t group, std::int64_t chunk) {
      return shared + (strip * plan_.groups + group) * plan_.v_strip() + chunk * plan_.v_chunk();
    };
    parallel_for(count * plan_.groups * chunks, 4 * plan_.v_chunk(),
                 [&](std::int64_t item, int thread) {
                   const std::int64_t chunk = item % chunks, group = item / chunks % plan_.groups;
                   const std::int64_t strip = item / chunks / plan_.groups;
                   transform_source(first + strip, group, chunk, scratch_of(thread),
                                    tiles(strip, group, chunk));
                 });
    parallel_for(plan_.groups * blocks * count, cost_of_strip(),
                 [&](std::int64_t item, int thread) {
                   const std::int64_t strip = item % count, block = item / count % blocks;
                   const std::int64_t group = item / count / blocks;
                   const ThreadScratch scratch = scratch_of(thread);
                   for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                     transform_weights(group, block, chunk, scratch.rest);
                     multiply(first + strip, block, chunk, tiles(strip, group, chunk), scratch.rest,
                              scratch.m);
                   }
                   transform_filled(first + strip, group, block, scratch);
                 });
  }

  struct ThreadScratch {
    C *images, *m, *rest;  // rest: V of a strip, or U of a chunk
  };
  ThreadScratch scratch_of(int thread) const {
    C* base = workspace_.of_thread<C>(thread);
    C* m = base + image_scratch(plan_);
    return {base, m, m + plan_.m_elements()};
  }

  std::int64_t cost_of_strip() const {
    return Plan::kPoints * plan_.strip * plan_.sources * plan_.block_lanes;
  }

  WeightPanels<C> panels(std::int64_t block, std::int64_t chunk) const {
    return {Tiles::kSegments * plan_.chunk_size(chunk), blocks_.vectors(block)};
  }

  void transform_weights(std::int64_t group, std::int64_t block, std::int64_t chunk, C* u) const {
    weights_.transform(group, blocks_.first(block), blocks_.size(block), chunk * plan_.chunk,
                       panels(block, chunk), u);
  }

  // Segments follow each other like channels; what the last vector of one has too much, the next
  // one overwrites.
  void transform_source(std::int64_t strip, std::int64_t group, std::int64_t chunk,
                        const ThreadScratch& scratch, C* v) const {
    const std::int64_t size = plan_.chunk_size(chunk);
    const std::int64_t channel = group * plan_.sources + chunk * plan_.chunk;
    for (int segment = 0; segment < Tiles::kSegments; ++segment, v += size) {
      const TileGrid& grid = plan_.grid;
      const WinogradSource<T, Tiles> source(
          gather_, grid,
          first_offset(gather_.rows) + Tiles::first_row(segment) * grid.rows.dilation(),
          first_offset(gather_.columns) + Tiles::first_column(segment) * grid.columns.dilation(),
          scratch.images);
      for_tile_runs(
          grid, plan_.first_tile(strip), plan_.tile_count(strip), [&](const TileRun& run) {
            for (std::int64_t c = 0; c < size; c += kLanes<C>) {
              const std::int64_t lanes = size - c < kLanes<C> ? size - c : kLanes<C>;
              source.transform(run, channel + c, lanes, v + run.index * plan_.v_tile_step() + c,
                               plan_.v_point_step(), plan_.v_tile_step());
            }
          });
    }
  }

  // Where the first tap reads for filled element 0: those of the transpose run backwards.
  static std::int64_t first_offset(const AxisTaps& axis) {
    const Span<Tap>& taps = axis.classes()[0].taps;
    return smaller(taps[0].offset, taps[taps.count - 1].offset);
  }

  void transform_filled(std::int64_t strip, std::int64_t group, std::int64_t block,
                        const ThreadScratch& scratch) const {
    const WinogradFilled<T, Tiles> filled(gather_, plan_.grid, scratch.images);
    const std::int64_t size = blocks_.size(block);
    const std::int64_t channel = group * gather_.filled_channels + blocks_.first(block);
    for_tile_runs(
        plan_.grid, plan_.first_tile(strip), plan_.tile_count(strip), [&](const TileRun& run) {
          for (std::int64_t c = 0; c < size; c += kLanes<C>) {
            const std::int64_t lanes = size - c < kLanes<C> ? size - c : kLanes<C>;
            filled.transform(run, channel + c, lanes, scratch.m + run.index * plan_.block_lanes + c,
                             plan_.m_point_step(), plan_.block_lanes);
          }
        });
  }

  // M += V U over one chunk of source channels; the first one begins M.
  void multiply(std::int64_t strip, std::int64_t block, std::int64_t chunk, const C* v, const C* u,
                C* m) const {
    const WeightPanels<C> weights = panels(block, chunk);
    const std::int64_t tiles = plan_.tile_count(strip);
    for (int point = 0; point < Plan::kPoints; ++point) {
      const int next = point + 1 < Plan::kPoints ? point + 1 : point;
      for (int p = 0; p < weights.panels(); ++p) {
        const TileProduct<C> product{
            v + point * plan_.v_point_step(),
            u + point * weights.point_step() + weights.panel(p),
            m + point * plan_.m_point_step() + p * kTileVectors * kLanes<C>,
            plan_.v_tile_step(),
            plan_.block_lanes,
            weights.sources,
            chunk == 0,
            v + next * plan_.v_point_step(),
            u + next * weights.point_step() + weights.panel(p)};
        visit_vectors(weights.panel_vectors(p),
                      [&](auto vectors) { product.template run<decltype(vectors)::value>(tiles); });
      }
    }
  }

  const Gather& gather_;
  Plan plan_;
  const Workspace& workspace_;
  LaneBlocks<C> blocks_;
  WinogradWeights<T, Tiles> weights_;
};
