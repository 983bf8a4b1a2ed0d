// Nearest neighbours between rows of two batches of point sets; see posekit/ops/nearest_neighbors.py.
//
// Work: points * references; with two dimensions 6 operations a pair. Memory: as much again as the outputs, up to half
// as much again as inputs and outputs where there are too few points to fill the GPU.
#include "nearest_neighbors.cuh"

// All pointers are to the device's memory. `points` [total, dims] in rows [point_splits[b], point_splits[b + 1]), and so
// the references; `most_points` and `most_references` are those of the longest rows. Writes positions within the row,
// -1 for none, and distances, [total] each. Returns a cudaError_t.
extern "C" int posekit_cuda_nearest_neighbors_f32(const float* points, const int64_t* point_splits,
                                                  const float* references, const int64_t* reference_splits,
                                                  int64_t batch, int dims, int64_t total, int64_t most_points,
                                                  int64_t most_references, int32_t* indices, float* distances,
                                                  cudaStream_t stream) {
  return posekit::nearest_neighbors(points, point_splits, references, reference_splits, batch, dims, total,
                                    most_points, most_points, most_references, indices, distances, stream);
}

extern "C" int posekit_cuda_nearest_neighbors_f64(const double* points, const int64_t* point_splits,
                                                  const double* references, const int64_t* reference_splits,
                                                  int64_t batch, int dims, int64_t total, int64_t most_points,
                                                  int64_t most_references, int32_t* indices, double* distances,
                                                  cudaStream_t stream) {
  return posekit::nearest_neighbors(points, point_splits, references, reference_splits, batch, dims, total,
                                    most_points, most_points, most_references, indices, distances, stream);
}
