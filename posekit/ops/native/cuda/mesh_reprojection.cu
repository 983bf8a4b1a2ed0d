// Distances between silhouettes and projected vertices, both ways, and their gradient; see
// posekit/ops/mesh_reprojection.py.
//
// Work: twice pixels * vertices of each image, 6 operations a pair. Memory besides inputs and outputs: two coordinates
// a pixel of the silhouettes, and the scratch of nearest_neighbors; for the gradient, two numbers a vertex. The same
// result in every run: sums go by fixed orders, and what pixels give to the gradient of their vertices is counted in
// integers.
#include "nearest_neighbors.cuh"

namespace posekit {
namespace {

// Turns `values` [kThreads] of a block into the sums up to and with each.
template <class T>
__device__ void add_up_to_each(T* values) {
  for (int step = 1; step < kThreads; step *= 2) {
    __syncthreads();
    const T before = threadIdx.x >= step ? values[threadIdx.x - step] : T(0);
    __syncthreads();
    values[threadIdx.x] += before;
  }
  __syncthreads();
}

// One block a row of pixels.
__global__ void count_pixels(const uint8_t* silhouettes, int64_t width, int64_t* counts) {
  __shared__ int sums[kThreads];
  const uint8_t* row = silhouettes + static_cast<int64_t>(blockIdx.x) * width;
  int count = 0;
  for (int64_t x = threadIdx.x; x < width; x += kThreads) count += row[x] != 0;
  sums[threadIdx.x] = count;
  add_up(sums);
  if (threadIdx.x == 0) counts[blockIdx.x] = sums[0];
}

// One block: turns the counts of `rows` rows into the pixels before each, and before each image.
__global__ void begin_rows(int64_t* counts, int64_t rows, int64_t batch, int64_t height, int64_t* pixel_splits) {
  __shared__ int64_t sums[kThreads];
  __shared__ int64_t before;
  if (threadIdx.x == 0) before = 0;
  for (int64_t base = 0; base < rows; base += kThreads) {
    const int64_t row = base + threadIdx.x;
    const int64_t here = row < rows ? counts[row] : 0;
    sums[threadIdx.x] = here;
    add_up_to_each(sums);
    if (row < rows) {
      counts[row] = before + sums[threadIdx.x] - here;
      if (row % height == 0) pixel_splits[row / height] = counts[row];
    }
    __syncthreads();
    if (threadIdx.x == 0) before += sums[kThreads - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) pixel_splits[batch] = before;
}

__global__ void split_evenly(int64_t batch, int64_t each, int64_t* splits) {
  for (int64_t row = threadIdx.x; row <= batch; row += kThreads) splits[row] = row * each;
}

// One block a row: calls use(place, x) for its pixels, with their place among the pixels of the batch.
template <class Use>
__device__ void for_pixels_of_row(const uint8_t* silhouettes, int64_t width, const int64_t* row_begins,
                                  const Use& use) {
  __shared__ int sums[kThreads];
  const int64_t row = blockIdx.x;
  int64_t place = row_begins[row];
  for (int64_t base = 0; base < width; base += kThreads) {
    const int64_t x = base + threadIdx.x;
    const int here = x < width && silhouettes[row * width + x] != 0;
    sums[threadIdx.x] = here;
    add_up_to_each(sums);
    if (here) use(place + sums[threadIdx.x] - 1, x);
    place += sums[kThreads - 1];
    __syncthreads();
  }
}

// The silhouettes' pixels as positions.
template <class T>
__global__ void list_pixels(const uint8_t* silhouettes, int64_t height, int64_t width, const int64_t* row_begins,
                            T* positions) {
  const T y = static_cast<T>(blockIdx.x % height);
  for_pixels_of_row(silhouettes, width, row_begins, [&](int64_t place, int64_t x) {
    positions[2 * place] = static_cast<T>(x);
    positions[2 * place + 1] = y;
  });
}

// One block an image: both sums, and places in the list of pixels become pixels.
template <class T>
__global__ void sum_distances(const T* vertices, int64_t width, int64_t per_image, const int64_t* pixel_splits,
                              const T* positions, const int32_t* nearest_vertex, int32_t* nearest_pixel,
                              T* pixels_to_mesh, T* mesh_to_pixels) {
  __shared__ double sums[kThreads];
  const int64_t image = blockIdx.x, begin = pixel_splits[image], end = pixel_splits[image + 1];
  const T* own = vertices + image * per_image * 2;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end && per_image; i += kThreads) {
    const T* at = own + 2 * static_cast<int64_t>(nearest_vertex[i]);
    sum += fabs(static_cast<double>(at[0] - positions[2 * i]));
    sum += fabs(static_cast<double>(at[1] - positions[2 * i + 1]));
  }
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) pixels_to_mesh[image] = static_cast<T>(sums[0]);
  __syncthreads();
  sum = 0;
  for (int64_t i = threadIdx.x; i < per_image; i += kThreads) {
    int32_t* nearest = nearest_pixel + image * per_image + i;
    if (*nearest < 0) continue;
    const T* pixel = positions + 2 * (begin + *nearest);
    *nearest = static_cast<int32_t>(static_cast<int64_t>(pixel[1]) * width + static_cast<int64_t>(pixel[0]));
    const double x = own[2 * i] - pixel[0], y = own[2 * i + 1] - pixel[1];
    sum += sqrt(x * x + y * y);
  }
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) mesh_to_pixels[image] = static_cast<T>(sums[0]);
}

template <class T>
__device__ int sign(T value) {
  return (value > 0) - (value < 0);
}

// Counts [batch * per_image, 2] on which side of their pixels the chosen vertices lie. A block each row of pixels.
template <class T>
__global__ void count_sides(const uint8_t* silhouettes, const T* vertices, int64_t height, int64_t width,
                            int64_t per_image, const int64_t* row_begins, int64_t total, const int32_t* nearest_vertex,
                            int* sides) {
  const int64_t image = blockIdx.x / height;
  const T y = static_cast<T>(blockIdx.x % height);
  for_pixels_of_row(silhouettes, width, row_begins, [&](int64_t place, int64_t x) {
    // Positions come from whoever calls; none may lead out of the mesh.
    const int32_t chosen = place < total ? nearest_vertex[place] : -1;
    if (chosen < 0 || chosen >= per_image) return;
    const int64_t vertex = image * per_image + chosen;
    atomicAdd(sides + 2 * vertex, sign(vertices[2 * vertex] - static_cast<T>(x)));
    atomicAdd(sides + 2 * vertex + 1, sign(vertices[2 * vertex + 1] - y));
  });
}

// A vertex that is not a number gets a gradient that is none through its own distance.
template <class T>
__global__ void add_gradients(const T* vertices, int64_t count, int64_t width, int64_t per_image,
                              const int32_t* nearest_pixel, const int* sides, const T* mesh_factors,
                              const T* pixel_factors, T* gradient) {
  const int64_t vertex = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (vertex >= count) return;
  const int64_t image = vertex / per_image;
  const int32_t pixel = nearest_pixel[vertex];
  const T x = vertices[2 * vertex] - static_cast<T>(pixel % width);
  const T y = vertices[2 * vertex + 1] - static_cast<T>(pixel / width);
  const double length = sqrt(static_cast<double>(x) * x + static_cast<double>(y) * y);
  const bool none = pixel < 0 || length == 0;
  gradient[2 * vertex] =
      sides[2 * vertex] * mesh_factors[image] + (none ? T(0) : static_cast<T>(x / length * pixel_factors[image]));
  gradient[2 * vertex + 1] =
      sides[2 * vertex + 1] * mesh_factors[image] + (none ? T(0) : static_cast<T>(y / length * pixel_factors[image]));
}

// Whether the kernels can take images of these sizes.
bool fits(int64_t batch, int64_t height, int64_t width, int64_t per_image) {
  return batch >= 0 && height >= 0 && width >= 0 && per_image >= 0 && height * width <= INT32_MAX &&
         batch * height <= INT32_MAX && batch * per_image <= static_cast<int64_t>(INT32_MAX) * kThreads;
}

cudaError_t count(const uint8_t* silhouettes, int64_t batch, int64_t height, int64_t width, int64_t* row_begins,
                  int64_t* pixel_splits, cudaStream_t stream) {
  if (!fits(batch, height, width, 0)) return cudaErrorInvalidValue;
  const int64_t rows = batch * height;
  if (!rows) return cudaMemsetAsync(pixel_splits, 0, (batch + 1) * sizeof(int64_t), stream);
  count_pixels<<<static_cast<int>(rows), kThreads, 0, stream>>>(silhouettes, width, row_begins);
  begin_rows<<<1, kThreads, 0, stream>>>(row_begins, rows, batch, height, pixel_splits);
  return cudaGetLastError();
}

template <class T>
cudaError_t mesh_reprojection(const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height,
                              int64_t width, int64_t per_image, const int64_t* row_begins, const int64_t* pixel_splits,
                              int64_t total, int64_t most, T* pixels_to_mesh, T* mesh_to_pixels,
                              int32_t* nearest_vertex, int32_t* nearest_pixel, cudaStream_t stream,
                              const PosekitMemory* memory) {
  if (!fits(batch, height, width, per_image)) return cudaErrorInvalidValue;
  if (!batch) return cudaSuccess;
  Scratch scratch(stream, memory);
  int64_t* vertex_splits = scratch.get<int64_t>(batch + 1);
  T* positions = scratch.get<T>(2 * total);
  if (scratch.error() != cudaSuccess) return scratch.error();
  split_evenly<<<1, kThreads, 0, stream>>>(batch, per_image, vertex_splits);
  if (total) {
    const int rows = static_cast<int>(batch * height);
    list_pixels<T><<<rows, kThreads, 0, stream>>>(silhouettes, height, width, row_begins, positions);
  }
  cudaError_t error = nearest_neighbors<T>(positions, pixel_splits, vertices, vertex_splits, batch, 2, total, most,
                                           total / batch, per_image, nearest_vertex, nullptr, stream, memory);
  if (error != cudaSuccess) return error;
  error = nearest_neighbors<T>(vertices, vertex_splits, positions, pixel_splits, batch, 2, batch * per_image, per_image,
                               per_image, most, nearest_pixel, nullptr, stream, memory);
  if (error != cudaSuccess) return error;
  sum_distances<T><<<static_cast<int>(batch), kThreads, 0, stream>>>(vertices, width, per_image, pixel_splits,
                                                                     positions, nearest_vertex, nearest_pixel,
                                                                     pixels_to_mesh, mesh_to_pixels);
  return cudaGetLastError();
}

template <class T>
cudaError_t mesh_reprojection_gradient(const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height,
                                       int64_t width, int64_t per_image, const int64_t* row_begins, int64_t total,
                                       const int32_t* nearest_vertex, const int32_t* nearest_pixel,
                                       const T* mesh_factors, const T* pixel_factors, T* gradient, cudaStream_t stream,
                                       const PosekitMemory* memory) {
  if (!fits(batch, height, width, per_image)) return cudaErrorInvalidValue;
  const int64_t count = batch * per_image, rows = batch * height;
  if (!count) return cudaSuccess;
  Scratch scratch(stream, memory);
  int* sides = scratch.get<int>(2 * count);
  if (scratch.error() != cudaSuccess) return scratch.error();
  const cudaError_t error = cudaMemsetAsync(sides, 0, 2 * count * sizeof(int), stream);
  if (error != cudaSuccess) return error;
  if (rows) {
    count_sides<T><<<static_cast<int>(rows), kThreads, 0, stream>>>(silhouettes, vertices, height, width, per_image,
                                                                    row_begins, total, nearest_vertex, sides);
  }
  add_gradients<T><<<blocks_of(count, kThreads), kThreads, 0, stream>>>(vertices, count, std::max<int64_t>(width, 1),
                                                                        per_image, nearest_pixel, sides, mesh_factors,
                                                                        pixel_factors, gradient);
  return cudaGetLastError();
}

}  // namespace
}  // namespace posekit

extern "C" int posekit_cuda_count_pixels(const uint8_t* silhouettes, int64_t batch, int64_t height, int64_t width,
                                         int64_t* row_begins, int64_t* pixel_splits, cudaStream_t stream) {
  return posekit::count(silhouettes, batch, height, width, row_begins, pixel_splits, stream);
}

#define POSEKIT_DEFINE(T, SUFFIX)                                                                                     \
  extern "C" int posekit_cuda_mesh_reprojection_##SUFFIX(                                                             \
      const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height, int64_t width, int64_t per_image, \
      const int64_t* row_begins, const int64_t* pixel_splits, int64_t total, int64_t most, T* pixels_to_mesh,         \
      T* mesh_to_pixels, int32_t* nearest_vertex, int32_t* nearest_pixel, cudaStream_t stream,                        \
      const PosekitMemory* memory) {                                                                                  \
    return posekit::mesh_reprojection(silhouettes, vertices, batch, height, width, per_image, row_begins,             \
                                      pixel_splits, total, most, pixels_to_mesh, mesh_to_pixels, nearest_vertex,      \
                                      nearest_pixel, stream, memory);                                                 \
  }                                                                                                                   \
  extern "C" int posekit_cuda_mesh_reprojection_gradient_##SUFFIX(                                                    \
      const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height, int64_t width, int64_t per_image, \
      const int64_t* row_begins, int64_t total, const int32_t* nearest_vertex, const int32_t* nearest_pixel,          \
      const T* mesh_factors, const T* pixel_factors, T* gradient, cudaStream_t stream, const PosekitMemory* memory) { \
    return posekit::mesh_reprojection_gradient(silhouettes, vertices, batch, height, width, per_image, row_begins,    \
                                               total, nearest_vertex, nearest_pixel, mesh_factors, pixel_factors,     \
                                               gradient, stream, memory);                                             \
  }

POSEKIT_DEFINE(float, f32)
POSEKIT_DEFINE(double, f64)
