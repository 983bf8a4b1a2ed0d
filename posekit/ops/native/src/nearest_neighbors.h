// Nearest neighbours between rows of two batches of point sets.
#ifndef POSEKIT_NEAREST_NEIGHBORS_H_
#define POSEKIT_NEAREST_NEIGHBORS_H_

#include <cstdint>

namespace posekit {

// Row b of the points is points[point_splits[b]] to points[point_splits[b + 1]], and so for the references; the splits
// [batch + 1] begin with 0 and never fall. Coordinates [count, dims] may be anything. `indices` and `distances` are
// [points]: positions within the row of references, the first among equally near ones, and Euclidean distances; -1 and
// infinity where the row has no reference.
template <class T>
void nearest_neighbors(const T* points, const int64_t* point_splits, const T* references,
                       const int64_t* reference_splits, int64_t batch, int dims, int32_t* indices, T* distances);

}  // namespace posekit

#endif  // POSEKIT_NEAREST_NEIGHBORS_H_
