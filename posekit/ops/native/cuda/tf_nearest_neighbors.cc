// PosekitNearestNeighbors on a GPU. The splits, which are small and say how much there is to do, come from the host.
#include "tf_nearest_neighbors.h"

#include "tf_gpu.h"

namespace posekit {
namespace {

int64_t longest_row(const Tensor& splits) {
  const int64_t* const split = splits.data<int64_t>();
  int64_t longest = 0;
  for (int64_t row = 1; row < splits.size(); ++row) longest = std::max(longest, split[row] - split[row - 1]);
  return longest;
}

template <class T>
void compute_nearest(Call& call) {
  const PointSets given(call);
  const int64_t count = given.points.dim(0), splits = given.rows() + 1;
  const Tensor indices = call.output<int32_t>(0, {count}), distances = call.output<T>(1, {count});
  if (count == 0) return;
  Gpu gpu(call);
  const int64_t* const point_splits = gpu.copy_in(given.point_splits.data<int64_t>(), splits);
  const int64_t* const reference_splits = gpu.copy_in(given.reference_splits.data<int64_t>(), splits);
  succeed(POSEKIT_CUDA(nearest_neighbors)(given.points.data<T>(), point_splits, given.references.data<T>(),
                                          reference_splits, given.rows(), given.points.dim(1), count,
                                          longest_row(given.point_splits), longest_row(given.reference_splits),
                                          indices.data<int32_t>(), distances.data<T>(), gpu.stream, gpu.memory()));
}

Registration here([] {
  const char* op = "PosekitNearestNeighbors";
  gpu_kernel<float, compute_nearest<float>>(op, {"point_splits", "reference_splits"});
  gpu_kernel<double, compute_nearest<double>>(op, {"point_splits", "reference_splits"});
});

}  // namespace
}  // namespace posekit
