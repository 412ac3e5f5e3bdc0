// direct.gemm in either layout: pixels are rows of its tiles in channels_last, lanes in NCHW.

template <class T>
struct GemmByLayout {
  static WorkspaceSize workspace(const Problem& problem) {
    return problem.layout == Layout::kNhwc ? GemmKernel<T, true>::workspace(problem)
                                           : GemmKernel<T, false>::workspace(problem);
  }
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if (problem.layout == Layout::kNhwc) {
      GemmKernel<T, true>::run(problem, buffers, workspace);
    } else {
      GemmKernel<T, false>::run(problem, buffers, workspace);
    }
  }
};
