// Points and references of a batch, one row after the other, and where the rows begin.
#include "nearest_neighbors.h"
#include "tf_ops.h"

namespace posekit {
namespace {

void check_splits(const Tensor& splits, const Tensor& values, const char* name) {
  const int64_t* split = splits.data<int64_t>();
  bool sound = splits.rank() == 1 && splits.dim(0) > 0 && split[0] == 0 && split[splits.dim(0) - 1] == values.dim(0);
  for (int64_t i = 1; sound && i < splits.dim(0); ++i) sound = split[i - 1] <= split[i];
  if (!sound) {
    throw InvalidInput(std::string("splits of ") + name + " of shape " + splits.shape_text() +
                       " must ascend from 0 to the number of values of shape " + values.shape_text());
  }
}

template <class T>
void compute_nearest(Call& call) {
  const Tensor points = call.input(0), point_splits = call.input(1);
  const Tensor references = call.input(2), reference_splits = call.input(3);
  if (points.rank() != 2 || references.rank() != 2 || points.dim(1) != references.dim(1) || points.dim(1) < 1) {
    throw InvalidInput("points of shape " + points.shape_text() + " and references of shape " +
                       references.shape_text() + " must both be [count, dims] with the same dims, 1 or more");
  }
  check_splits(point_splits, points, "points");
  check_splits(reference_splits, references, "references");
  if (point_splits.dim(0) != reference_splits.dim(0)) {
    throw InvalidInput(std::to_string(point_splits.dim(0) - 1) + " rows of points do not fit " +
                       std::to_string(reference_splits.dim(0) - 1) + " rows of references");
  }
  const Tensor indices = call.output<int32_t>(0, {points.dim(0)});
  const Tensor distances = call.output<T>(1, {points.dim(0)});
  nearest_neighbors(points.data<T>(), point_splits.data<int64_t>(), references.data<T>(),
                    reference_splits.data<int64_t>(), point_splits.dim(0) - 1, static_cast<int>(points.dim(1)),
                    indices.data<int32_t>(), distances.data<T>());
}

Registration here([] {
  const char* op = "PosekitNearestNeighbors";
  define_op(op, {"T: {float, double}"}, {"points: T", "point_splits: int64", "references: T", "reference_splits: int64"},
            {"indices: int32", "distances: T"});
  cpu_kernel<float, compute_nearest<float>>(op);
  cpu_kernel<double, compute_nearest<double>>(op);
});

}  // namespace
}  // namespace posekit
