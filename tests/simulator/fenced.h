// Device memory of the simulator: between pages that may not be touched, flush with one of them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simulator.h"

namespace handconv {
namespace cuda {
namespace simulator {

// Where in its pages the memory lies: up to their end, from their begin, or a few bytes behind
// that, so that it is aligned to its elements and to nothing more.
enum class Placement { kAtEnd, kAtBegin, kUnaligned };

class Fenced {
 public:
  Fenced(const char* name, std::size_t bytes, std::size_t alignment, Placement placement)
      : name_(name), bytes_(bytes) {
    const std::size_t slack = placement == Placement::kUnaligned ? alignment : 0;
    inside_ = (bytes + slack + kPage - 1) / kPage * kPage;
    void* memory =
        mmap(nullptr, inside_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simulator: no memory");
    pages_ = static_cast<std::byte*>(memory) + kPage;
    protect(PROT_READ | PROT_WRITE);
    std::memset(pages_, kNan, inside_);
    data_ = pages_ + slack;
    if (placement == Placement::kAtEnd) data_ += (inside_ - bytes) / alignment * alignment;
    name_memory(name, data_, data_ + bytes);
  }
  Fenced(const Fenced&) = delete;
  ~Fenced() { munmap(pages_ - kPage, inside_ + 2 * kPage); }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  const char* name() const { return name_; }

  void forbid_writes() { protect(PROT_READ); }

  // Throws if something was written beside the memory and yet inside its pages.
  void check_surroundings() const {
    const auto intact = [](const std::byte* begin, const std::byte* end) {
      return std::all_of(begin, end, [](std::byte byte) { return byte == std::byte{kNan}; });
    };
    if (!intact(pages_, data_)) throw std::runtime_error(said("before the begin"));
    if (!intact(data_ + bytes_, pages_ + inside_)) throw std::runtime_error(said("behind the end"));
  }

 private:
  static constexpr std::size_t kPage = 4096;
  static constexpr int kNan = 0xff;

  std::string said(const char* where) const {
    return std::string("something was written ") + where + " of " + name_;
  }
  void protect(int protection) {
    if (inside_ && mprotect(pages_, inside_, protection) != 0) {
      throw std::runtime_error("simulator: mprotect failed");
    }
  }

  const char* name_;
  std::size_t bytes_, inside_;
  std::byte* pages_;
  std::byte* data_;
};

// Forgets the names of all memory in the end.
struct MemoryNames {
  ~MemoryNames() { forget_memory(); }
};

}  // namespace simulator
}  // namespace cuda
}  // namespace handconv
