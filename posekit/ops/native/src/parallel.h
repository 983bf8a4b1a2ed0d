// Work shared between threads that live as long as the process.
#ifndef POSEKIT_PARALLEL_H_
#define POSEKIT_PARALLEL_H_

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace posekit {

// Input that cannot be used; what() is meant for the caller.
class InvalidInput : public std::invalid_argument {
 public:
  explicit InvalidInput(const std::string& message) : std::invalid_argument(message) {}
};

// Calls work(begin, end) on disjoint ranges that cover [0, count), `grain` items or fewer at a time, on the calling
// thread and any workers that are free. Returns when all are done; the first exception is thrown again here. May be
// called from several threads at once and from within itself: whoever calls does the work where nobody helps.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& work);

// Threads that share work, the caller included.
int num_threads();
void set_num_threads(int count);

}  // namespace posekit

#endif  // POSEKIT_PARALLEL_H_
