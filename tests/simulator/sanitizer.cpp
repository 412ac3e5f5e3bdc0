// What -fsanitize calls. Every report begins with the place in the source.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "simulator.h"

namespace handconv {
namespace cuda {
namespace simulator {

struct SourcePlace {
  const char* file;
  std::uint32_t line, column;
};

[[noreturn]] void report(const char* what, const SourcePlace* place) {
  if (in_kernel()) {
    const char* slash = std::strrchr(place->file, '/');
    fail(nullptr, "%s (%s:%u:%u)", what, slash ? slash + 1 : place->file, place->line,
         place->column);
  }
  std::fprintf(stderr, "%s:%u:%u: %s\n", place->file, place->line, place->column, what);
  std::abort();
}

struct TypeMismatch {
  SourcePlace place;
  const void* type;
  unsigned char log_alignment;
};

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv

using handconv::cuda::simulator::report;
using handconv::cuda::simulator::SourcePlace;

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(
    const handconv::cuda::simulator::TypeMismatch* data, std::uintptr_t pointer) {
  report(pointer ? "access through a misaligned pointer" : "access through a null pointer",
         &data->place);
}

#define HANDCONV_REPORT(name, what)                                                         \
  [[noreturn]] void __ubsan_handle_##name##_abort(const SourcePlace* place, void*, void*) { \
    report(what, place);                                                                    \
  }                                                                                         \
  static_assert(true)

HANDCONV_REPORT(out_of_bounds, "index outside an array");
HANDCONV_REPORT(shift_out_of_bounds, "shift by too much, or of a negative number");

#undef HANDCONV_REPORT

}  // extern "C"
