// What every function that ctypes calls shares: arrays by plain pointers, an exit code, and a message.
#ifndef POSEKIT_C_API_H_
#define POSEKIT_C_API_H_

#include <exception>
#include <new>
#include <string>

#include "parallel.h"

#define POSEKIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace posekit {

enum Code { kOk = 0, kInvalidInput = 1, kOutOfMemory = 2, kFailed = 3 };

std::string& last_error();  // of the calling thread

// Keeps a message for posekit_last_error(), or none where there is no memory even for that.
inline void keep_error(const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    last_error().clear();
  }
}

// Runs `body`; no exception leaves.
template <class Body>
int guarded(const Body& body) {
  try {
    body();
    return kOk;
  } catch (const InvalidInput& error) {
    keep_error(error.what());
    return kInvalidInput;
  } catch (const std::bad_alloc&) {
    keep_error("out of memory");
    return kOutOfMemory;
  } catch (const std::exception& error) {
    keep_error(error.what());
    return kFailed;
  } catch (...) {
    keep_error("unknown error");
    return kFailed;
  }
}

}  // namespace posekit

#endif  // POSEKIT_C_API_H_
