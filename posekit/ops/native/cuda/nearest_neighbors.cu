// Nearest neighbours between rows of two batches of point sets; see posekit/ops/nearest_neighbors.py.
//
// Work: points * references; with two dimensions 6 operations a pair. Memory: as much again as the outputs, up to half
// as much again as inputs and outputs where there are too few points to fill the GPU.
#include "nearest_neighbors.cuh"

#define POSEKIT_DEFINE(T, SUFFIX)                                                                                     \
  extern "C" int posekit_cuda_nearest_neighbors_##SUFFIX(                                                             \
      const T* points, const int64_t* point_splits, const T* references, const int64_t* reference_splits,             \
      int64_t batch, int64_t dims, int64_t total, int64_t most_points, int64_t most_references, int32_t* indices,     \
      T* distances, cudaStream_t stream, const PosekitMemory* memory) {                                               \
    return posekit::nearest_neighbors(points, point_splits, references, reference_splits, batch, dims, total,         \
                                      most_points, most_points, most_references, indices, distances, stream, memory); \
  }

POSEKIT_DEFINE(float, f32)
POSEKIT_DEFINE(double, f64)
