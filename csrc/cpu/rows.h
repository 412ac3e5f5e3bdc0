// The rows of one instruction set, best first. Included inside its namespace, last.

// Groups whose channels, of y and of x, fit in one vector.
inline Refusal needs_nhwc_and_small_groups(const Problem& problem) {
  const int lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  return refuse_all_but_small_groups(problem, lanes);
}

template <template <class> class KernelClass>
void run_for_dtype(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
  visit_dtype(problem.dtype,
              [&](auto zero) { KernelClass<decltype(zero)>::run(problem, buffers, workspace); });
}
template <template <class> class KernelClass>
WorkspaceSize workspace_for_dtype(const Problem& problem) {
  WorkspaceSize size;
  visit_dtype(problem.dtype,
              [&](auto zero) { size = KernelClass<decltype(zero)>::workspace(problem); });
  return size;
}

template <template <class> class KernelClass>
constexpr Kernel make_row(const char* name, Slot slot, Algorithm algorithm, const char* summary,
                          Refusal (*cannot)(const Problem&),
                          Refusal (*should_not)(const Problem&)) {
  return {name,
          slot,
          algorithm,
          summary,
          cannot,
          should_not,
          workspace_for_dtype<KernelClass>,
          run_for_dtype<KernelClass>};
}

constexpr const char* kPlanes = "cpu.direct.planes." HANDCONV_ISA_NAME;
constexpr const char* kDepthwise = "cpu.direct.depthwise." HANDCONV_ISA_NAME;
constexpr const char* kGrouped = "cpu.direct.grouped." HANDCONV_ISA_NAME;
constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kIm2col = "cpu.im2col." HANDCONV_ISA_NAME;

constexpr const char* kAboutPlanes = "lanes are pixels along a row, masked at the edges";
constexpr const char* kAboutDepthwise = "lanes are channels, each a group of its own";
constexpr const char* kAboutGrouped =
    "lanes are channels of several groups, which get their inputs permuted";
constexpr const char* kAboutChannels =
    "lanes are output channels of a group, pixels are reached through pointers";
constexpr const char* kAboutIm2col =
    "columns of pixels are packed by panels and multiplied by the weight matrix";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PlanesKernel>         (kPlanes,    Slot::kOutput, Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
    make_row<PlanesKernel>         (kPlanes,    Slot::kInput,  Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
    make_row<PlanesWeightKernel>   (kPlanes,    Slot::kWeight, Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
    make_row<DepthwiseKernel>      (kDepthwise, Slot::kOutput, Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<DepthwiseKernel>      (kDepthwise, Slot::kInput,  Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<DepthwiseWeightKernel>(kDepthwise, Slot::kWeight, Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<GroupedKernel>        (kGrouped,   Slot::kOutput, Algorithm::kDirect, kAboutGrouped,   needs_nhwc_and_small_groups, never_refuse),
    make_row<GroupedKernel>        (kGrouped,   Slot::kInput,  Algorithm::kDirect, kAboutGrouped,   needs_nhwc_and_small_groups, never_refuse),
    make_row<ChannelsKernel>       (kChannels,  Slot::kOutput, Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
    make_row<ChannelsKernel>       (kChannels,  Slot::kInput,  Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
    make_row<ChannelsWeightKernel> (kChannels,  Slot::kWeight, Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
    make_row<Im2colKernel>         (kIm2col,    Slot::kOutput, Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
    make_row<Im2colInputKernel>    (kIm2col,    Slot::kInput,  Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
    make_row<Im2colWeightKernel>   (kIm2col,    Slot::kWeight, Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
};
// clang-format on
