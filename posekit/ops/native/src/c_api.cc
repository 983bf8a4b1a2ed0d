#include "c_api.h"

#include "tile.h"

namespace posekit {

std::string& last_error() {
  thread_local std::string message;
  return message;
}

}  // namespace posekit

POSEKIT_EXPORT const char* posekit_last_error() { return posekit::last_error().c_str(); }
POSEKIT_EXPORT int posekit_num_threads() { return posekit::num_threads(); }
POSEKIT_EXPORT void posekit_set_num_threads(int count) { posekit::set_num_threads(count); }
// Of the vectors that products are computed in: as wide as the processor's, or half of that or less where the library
// was compiled for any processor.
POSEKIT_EXPORT int posekit_vector_bytes() { return posekit::kVectorBytes; }
