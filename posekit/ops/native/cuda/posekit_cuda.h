// The functions of posekit_cuda.so. Needs none of CUDA's headers.
//
// All pointers are to the device's memory where nothing else is said. Each function puts its work into a stream and
// returns a cudaError_t. Scratch memory comes from `memory`, or, where that is null, from the device's own pool.
#ifndef POSEKIT_CUDA_POSEKIT_CUDA_H_
#define POSEKIT_CUDA_POSEKIT_CUDA_H_

#include <cstdint>

typedef struct CUstream_st* cudaStream_t;

struct PosekitMemory {
  // Gives memory that nobody else uses before what is in the stream by the end of the call is done; null for none.
  void* (*allocate)(void* owner, int64_t bytes);
  void* owner;
};

extern "C" {

// What an error code means.
const char* posekit_cuda_message(int code);

// Between the host's memory, which may be used again at once, and the device's. The second waits for the stream.
int posekit_cuda_copy_in(void* device, const void* host, int64_t bytes, cudaStream_t stream);
int posekit_cuda_copy_out(void* host, const void* device, int64_t bytes, cudaStream_t stream);

// The pixels of silhouettes [batch, height, width] (bytes that are not 0) before each row, [batch * height], and before
// each image, [batch + 1].
int posekit_cuda_count_pixels(const uint8_t* silhouettes, int64_t batch, int64_t height, int64_t width,
                              int64_t* row_begins, int64_t* pixel_splits, cudaStream_t stream);

// `plan` is what PiecewiseLinear.encode gives (posekit/ops/piecewise_linear.py), and it is on the host, as are the
// sizes of inputs and the shapes of kernels and grams. Numbers that the penalty leaves for its gradients; -1 if there
// are too many steps, sources of one, or numbers of a sample for the kernels.
int64_t posekit_cuda_gradient_penalty_state(const int32_t* plan, int64_t batch, const int32_t* sizes,
                                            const int32_t* kernel_shapes, const int32_t* gram_shapes);

// Finds peaks. The 4 strides of `maps` [batch, height, width, joints or more] (in elements, on the host) may be of any
// order; maps whose columns lie side by side are read quickest. `times`: of the exact mode 1, or 8 for maps that are
// enlarged first, of which `high` x `wide` pixels are used; of the others, how often a cell is divided. `gaussian` [25]
// and `profiles` [times, 7] are on the host. Writes peaks of 40 bytes (joint, row, column, unused as int32; x, y, score
// as float64) into [batch, most], in no order, and adds their numbers to counts [batch], which must be 0 before.
int posekit_cuda_paf_peaks(const float* maps, const int64_t* strides, int64_t batch, int64_t joints, int64_t height,
                           int64_t width, int64_t mode, int64_t times, int64_t high, int64_t wide,
                           const double* gaussian, const float* profiles, double threshold, int64_t most, void* peaks,
                           int32_t* counts, cudaStream_t stream);

// Scores pairs of peaks. `fields` as `maps` above. places [peaks, 2]: x and y. groups [count, 6]: image, limb, number
// of the first start and of the first end among the peaks, numbers of starts and of ends; offsets [count]: where the
// group's scores begin. `most` is the number of pairs of the largest group. Writes scores, 0 for no limb.
int posekit_cuda_paf_limbs(const float* fields, const int64_t* strides, int64_t height, int64_t width, int64_t mode,
                           int64_t times, int64_t high, int64_t wide, double threshold, const double* places,
                           const int64_t* groups, const int64_t* offsets, int64_t count, int64_t most, double* scores,
                           cudaStream_t stream);

// Adds the number of values that are not finite to `total`.
int posekit_cuda_paf_not_finite(const float* values, int64_t count, unsigned long long* total, cudaStream_t stream);

#define POSEKIT_CUDA_DECLARE(T, SUFFIX)                                                                                \
  /* `points` [total, dims] in rows [point_splits[b], point_splits[b + 1]), and so the references; `most_points` and   \
     `most_references` are those of the longest rows. Writes positions within the row, -1 for none, and distances,     \
     [total] each. */                                                                                                  \
  int posekit_cuda_nearest_neighbors_##SUFFIX(                                                                         \
      const T* points, const int64_t* point_splits, const T* references, const int64_t* reference_splits,              \
      int64_t batch, int64_t dims, int64_t total, int64_t most_points, int64_t most_references, int32_t* indices,      \
      T* distances, cudaStream_t stream, const PosekitMemory* memory);                                                 \
  /* After posekit_cuda_count_pixels: `total` pixels, `most` in an image; `vertices` [batch, per_image, 2]. Writes     \
     both sums [batch]; the vertices nearest to the pixels, [total]; and the pixels y * width + x nearest to the       \
     vertices, [batch, per_image]; -1 for none. */                                                                     \
  int posekit_cuda_mesh_reprojection_##SUFFIX(                                                                         \
      const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height, int64_t width, int64_t per_image,  \
      const int64_t* row_begins, const int64_t* pixel_splits, int64_t total, int64_t most, T* pixels_to_mesh,          \
      T* mesh_to_pixels, int32_t* nearest_vertex, int32_t* nearest_pixel, cudaStream_t stream,                         \
      const PosekitMemory* memory);                                                                                    \
  /* `nearest_vertex` [total] and `nearest_pixel` from above, and two factors an image. Writes the gradient            \
     [batch, per_image, 2] with respect to the vertices. */                                                            \
  int posekit_cuda_mesh_reprojection_gradient_##SUFFIX(                                                                \
      const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height, int64_t width, int64_t per_image,  \
      const int64_t* row_begins, int64_t total, const int32_t* nearest_vertex, const int32_t* nearest_pixel,           \
      const T* mesh_factors, const T* pixel_factors, T* gradient, cudaStream_t stream, const PosekitMemory* memory);   \
  /* The lists of pointers are on the host, as are plan and slopes. A coefficient belongs to each number of an input,  \
     or to each sample. Writes the penalty [1], not a number without a sample, and the state. */                       \
  int posekit_cuda_gradient_penalty_##SUFFIX(                                                                          \
      const int32_t* plan, const double* slopes, int64_t batch, const T* const* real, const T* const* fake,            \
      const T* const* coefficients, const int32_t* sizes, const int32_t* for_each_number, const T* const* kernels,     \
      const int32_t* kernel_shapes, const T* const* biases, const T* const* grams, const int32_t* gram_shapes,         \
      T* penalty, T* state, cudaStream_t stream, const PosekitMemory* memory);                                         \
  /* The gradients of the kernels, times `upstream` [1]. */                                                            \
  int posekit_cuda_gradient_penalty_gradients_##SUFFIX(                                                                \
      const int32_t* plan, const double* slopes, int64_t batch, const int32_t* sizes, const T* const* kernels,         \
      const int32_t* kernel_shapes, const T* const* grams, const int32_t* gram_shapes, const T* state,                 \
      const T* upstream, T* const* of_kernels, cudaStream_t stream, const PosekitMemory* memory);                      \
  /* `max_norm` is infinite or not positive for no limit. `support` has a byte for each block. `square` [1] is written \
     by the forward pass and read by the others. */                                                                    \
  int posekit_cuda_locally_connected_##SUFFIX(const T* rows, const T* bias, const T* kernel, const T* mask,            \
                                              const uint8_t* support, double max_norm, int64_t batch, int64_t joints,  \
                                              int64_t in, int64_t out, T* output, double* square, cudaStream_t stream, \
                                              const PosekitMemory* memory);                                            \
  int posekit_cuda_locally_connected_rows_gradient_##SUFFIX(                                                           \
      const T* upstream, const double* square, const T* kernel, const T* mask, const uint8_t* support,                 \
      double max_norm, int64_t batch, int64_t joints, int64_t in, int64_t out, T* of_rows, cudaStream_t stream);       \
  int posekit_cuda_locally_connected_kernel_gradient_##SUFFIX(                                                         \
      const T* upstream, const double* square, const T* rows, const T* bias, const T* output, const T* kernel,         \
      const T* mask, const uint8_t* support, double max_norm, int64_t batch, int64_t joints, int64_t in, int64_t out,  \
      T* of_kernel, T* of_mask, T* of_bias, cudaStream_t stream, const PosekitMemory* memory);
POSEKIT_CUDA_DECLARE(float, f32)
POSEKIT_CUDA_DECLARE(double, f64)
#undef POSEKIT_CUDA_DECLARE

}  // extern "C"

#endif  // POSEKIT_CUDA_POSEKIT_CUDA_H_
