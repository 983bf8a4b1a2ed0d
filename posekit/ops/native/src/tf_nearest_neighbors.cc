#include "tf_nearest_neighbors.h"

#include "nearest_neighbors.h"

namespace posekit {
namespace {

template <class T>
void compute_nearest(Call& call) {
  const PointSets given(call);
  const int64_t count = given.points.dim(0), dims = given.points.dim(1);
  const Tensor indices = call.output<int32_t>(0, {count}), distances = call.output<T>(1, {count});
  nearest_neighbors(given.points.data<T>(), given.point_splits.data<int64_t>(), given.references.data<T>(),
                    given.reference_splits.data<int64_t>(), given.rows(), static_cast<int>(dims),
                    indices.data<int32_t>(), distances.data<T>());
}

Registration here([] {
  const char* op = "PosekitNearestNeighbors";
  define_op(op, {"T: {float, double}"},
            {"points: T", "point_splits: int64", "references: T", "reference_splits: int64"},
            {"indices: int32", "distances: T"});
  cpu_kernel<float, compute_nearest<float>>(op);
  cpu_kernel<double, compute_nearest<double>>(op);
});

}  // namespace
}  // namespace posekit
