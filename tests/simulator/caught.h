// Errors on their way to Python.
#pragma once

#include <exception>
#include <string>

namespace handconv {
namespace cuda {

// What work() throws, or null; it stands until the next call.
template <class Work>
const char* caught(const Work& work) {
  static std::string message;
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace cuda
}  // namespace handconv

#define HANDCONV_EXPORT extern "C" __attribute__((visibility("default")))
