// What makes a row of the table from a kernel class. Included inside the namespace of a device or
// of an instruction set, which has a kDevice and a visit_dtype.

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
          kDevice,
          slot,
          algorithm,
          summary,
          cannot,
          should_not,
          workspace_for_dtype<KernelClass>,
          run_for_dtype<KernelClass>};
}
