// Inputs of the op for nearest neighbours, on any device, checked. The splits are on the host.
#ifndef POSEKIT_TF_NEAREST_NEIGHBORS_H_
#define POSEKIT_TF_NEAREST_NEIGHBORS_H_

#include "tf_ops.h"

namespace posekit {

inline void check_splits(const Tensor& splits, const Tensor& values, const char* name) {
  const int64_t* split = splits.data<int64_t>();
  bool sound = splits.rank() == 1 && splits.dim(0) > 0 && split[0] == 0 && split[splits.dim(0) - 1] == values.dim(0);
  for (int64_t i = 1; sound && i < splits.dim(0); ++i) sound = split[i - 1] <= split[i];
  if (!sound) {
    throw InvalidInput(std::string("splits of ") + name + " of shape " + splits.shape_text() +
                       " must ascend from 0 to the number of values of shape " + values.shape_text());
  }
}

// Points and references of a batch, one row after the other, and where the rows begin.
struct PointSets {
  explicit PointSets(Call& call)
      : points(call.input(0)), point_splits(call.input(1)), references(call.input(2)), reference_splits(call.input(3)) {
    if (points.rank() != 2 || references.rank() != 2 || points.dim(1) != references.dim(1) || points.dim(1) < 1) {
      throw InvalidInput("points of shape " + points.shape_text() + " and references of shape " +
                         references.shape_text() + " must both be [count, dims] with the same dims, 1 or more");
    }
    check_splits(point_splits, points, "points");
    check_splits(reference_splits, references, "references");
    if (point_splits.dim(0) != reference_splits.dim(0)) {
      throw InvalidInput(std::to_string(point_splits.dim(0) - 1) + " rows of points do not fit " +
                         std::to_string(reference_splits.dim(0) - 1) +
                         " rows of references: their values have the "
                         "shapes " +
                         points.shape_text() + " and " + references.shape_text());
    }
  }

  int64_t rows() const { return point_splits.dim(0) - 1; }

  const Tensor points, point_splits, references, reference_splits;
};

}  // namespace posekit

#endif  // POSEKIT_TF_NEAREST_NEIGHBORS_H_
