// Distances between silhouettes and projected vertices, both ways, and their gradient; see
// posekit/ops/mesh_reprojection.py.
//
// Work: twice pixels * vertices of each image, 6 operations a pair. Memory besides inputs and outputs: two coordinates
// a pixel of the images, and the scratch of nearest_neighbors. The same result in every run: sums go by fixed orders,
// and what pixels give to the gradient of their vertices is counted in integers.
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

// One block: turns the counts of `rows` rows into the pixels before each, and fills in the splits of the batch.
__global__ void begin_rows(int64_t* counts, int64_t rows, int64_t batch, int64_t height, int64_t per_image,
                           int64_t* pixel_splits, int64_t* vertex_splits) {
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
  for (int64_t image = threadIdx.x; image <= batch; image += kThreads) vertex_splits[image] = image * per_image;
}

// One block a row: lists its pixels, as y * width + x and as positions.
template <class T>
__global__ void list_pixels(const uint8_t* silhouettes, int64_t height, int64_t width, const int64_t* row_begins,
                            int32_t* pixels, T* positions) {
  __shared__ int sums[kThreads];
  const int64_t row = blockIdx.x, y = row % height;
  int64_t place = row_begins[row];
  for (int64_t base = 0; base < width; base += kThreads) {
    const int64_t x = base + threadIdx.x;
    const int here = x < width && silhouettes[row * width + x] != 0;
    sums[threadIdx.x] = here;
    add_up_to_each(sums);
    if (here) {
      const int64_t to = place + sums[threadIdx.x] - 1;
      pixels[to] = static_cast<int32_t>(y * width + x);
      positions[2 * to] = static_cast<T>(x);
      positions[2 * to + 1] = static_cast<T>(y);
    }
    place += sums[kThreads - 1];
    __syncthreads();
  }
}

// One block an image: both sums, and positions in the list of pixels become pixels.
template <class T>
__global__ void sum_distances(const T* vertices, int64_t width, int64_t per_image, const int64_t* pixel_splits,
                              const int32_t* pixels, const int32_t* nearest_vertex, int32_t* nearest_pixel,
                              T* pixels_to_mesh, T* mesh_to_pixels) {
  __shared__ double sums[kThreads];
  const int64_t image = blockIdx.x, begin = pixel_splits[image], end = pixel_splits[image + 1];
  const T* own = vertices + image * per_image * 2;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end && per_image; i += kThreads) {
    const T* at = own + 2 * static_cast<int64_t>(nearest_vertex[i]);
    sum += fabs(static_cast<double>(at[0] - static_cast<T>(pixels[i] % width)));
    sum += fabs(static_cast<double>(at[1] - static_cast<T>(pixels[i] / width)));
  }
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) pixels_to_mesh[image] = static_cast<T>(sums[0]);
  __syncthreads();
  sum = 0;
  for (int64_t i = threadIdx.x; i < per_image; i += kThreads) {
    int32_t* nearest = nearest_pixel + image * per_image + i;
    if (*nearest < 0) continue;
    const int32_t pixel = pixels[begin + *nearest];
    *nearest = pixel;
    const double x = own[2 * i] - static_cast<T>(pixel % width), y = own[2 * i + 1] - static_cast<T>(pixel / width);
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

// Counts [batch * per_image, 2] on which side of their pixels the chosen vertices lie. Grid: y images.
template <class T>
__global__ void count_sides(const T* vertices, int64_t batch, int64_t width, int64_t per_image,
                            const int64_t* pixel_splits, const int32_t* pixels, const int32_t* nearest_vertex,
                            int* sides) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t image = blockIdx.y; image < batch; image += gridDim.y) {
    const int64_t first = pixel_splits[image] + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (int64_t i = first; i < pixel_splits[image + 1]; i += step) {
      if (nearest_vertex[i] < 0) continue;
      const int64_t vertex = image * per_image + nearest_vertex[i];
      atomicAdd(sides + 2 * vertex, sign(vertices[2 * vertex] - static_cast<T>(pixels[i] % width)));
      atomicAdd(sides + 2 * vertex + 1, sign(vertices[2 * vertex + 1] - static_cast<T>(pixels[i] / width)));
    }
  }
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
  gradient[2 * vertex] = sides[2 * vertex] * mesh_factors[image] +
                         (none ? T(0) : static_cast<T>(x / length * pixel_factors[image]));
  gradient[2 * vertex + 1] = sides[2 * vertex + 1] * mesh_factors[image] +
                             (none ? T(0) : static_cast<T>(y / length * pixel_factors[image]));
}

template <class T>
cudaError_t mesh_reprojection(const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height,
                              int64_t width, int64_t per_image, T* pixels_to_mesh, T* mesh_to_pixels,
                              int64_t* pixel_splits, int32_t* pixels, int32_t* nearest_vertex, int32_t* nearest_pixel,
                              cudaStream_t stream) {
  const int64_t size = height * width, rows = batch * height;
  if (batch < 0 || height < 1 || width < 1 || per_image < 0 || size > INT32_MAX || rows > INT32_MAX) {
    return cudaErrorInvalidValue;
  }
  if (!batch) return cudaMemsetAsync(pixel_splits, 0, sizeof(int64_t), stream);
  Scratch scratch(stream);
  int64_t* begins = scratch.get<int64_t>(rows);
  int64_t* vertex_splits = scratch.get<int64_t>(batch + 1);
  T* positions = scratch.get<T>(2 * batch * size);
  if (scratch.error() != cudaSuccess) return scratch.error();
  count_pixels<<<static_cast<int>(rows), kThreads, 0, stream>>>(silhouettes, width, begins);
  begin_rows<<<1, kThreads, 0, stream>>>(begins, rows, batch, height, per_image, pixel_splits, vertex_splits);
  list_pixels<T><<<static_cast<int>(rows), kThreads, 0, stream>>>(silhouettes, height, width, begins, pixels,
                                                                  positions);
  // How many pixels there are, only the device knows: room is for all.
  cudaError_t error = cudaMemsetAsync(nearest_vertex, -1, batch * size * sizeof(int32_t), stream);
  if (error != cudaSuccess) return error;
  error = nearest_neighbors<T>(positions, pixel_splits, vertices, vertex_splits, batch, 2, batch * size, size,
                               size / 4, per_image, nearest_vertex, nullptr, stream);
  if (error != cudaSuccess) return error;
  error = nearest_neighbors<T>(vertices, vertex_splits, positions, pixel_splits, batch, 2, batch * per_image,
                               per_image, per_image, size, nearest_pixel, nullptr, stream);
  if (error != cudaSuccess) return error;
  sum_distances<T><<<static_cast<int>(batch), kThreads, 0, stream>>>(vertices, width, per_image, pixel_splits, pixels,
                                                                     nearest_vertex, nearest_pixel, pixels_to_mesh,
                                                                     mesh_to_pixels);
  return cudaGetLastError();
}

template <class T>
cudaError_t mesh_reprojection_gradient(const T* vertices, int64_t batch, int64_t width, int64_t per_image,
                                       const int64_t* pixel_splits, const int32_t* pixels,
                                       const int32_t* nearest_vertex, const int32_t* nearest_pixel,
                                       const T* mesh_factors, const T* pixel_factors, T* gradient,
                                       cudaStream_t stream) {
  const int64_t count = batch * per_image;
  if (batch < 0 || width < 1 || per_image < 0 || count > static_cast<int64_t>(INT32_MAX) * kThreads) {
    return cudaErrorInvalidValue;
  }
  if (!count) return cudaSuccess;
  Scratch scratch(stream);
  int* sides = scratch.get<int>(2 * count);
  if (scratch.error() != cudaSuccess) return scratch.error();
  const cudaError_t error = cudaMemsetAsync(sides, 0, 2 * count * sizeof(int), stream);
  if (error != cudaSuccess) return error;
  const dim3 grid(64, static_cast<int>(std::min<int64_t>(batch, kMostRows)));
  count_sides<T><<<grid, kThreads, 0, stream>>>(vertices, batch, width, per_image, pixel_splits, pixels,
                                                nearest_vertex, sides);
  add_gradients<T><<<blocks_of(count, kThreads), kThreads, 0, stream>>>(
      vertices, count, width, per_image, nearest_pixel, sides, mesh_factors, pixel_factors, gradient);
  return cudaGetLastError();
}

}  // namespace
}  // namespace posekit

// All pointers are to the device's memory. `silhouettes` [batch, height, width] bytes, `vertices` [batch, per_image, 2].
// Writes both sums [batch]; the pixels before each image, `pixel_splits` [batch + 1]; and, with room for
// batch * height * width each, the silhouettes' pixels as y * width + x and the vertices nearest to them; and the pixels
// nearest to all vertices, [batch, per_image]. Returns a cudaError_t.
#define FORWARD(name, T)                                                                                              \
  extern "C" int name(const uint8_t* silhouettes, const T* vertices, int64_t batch, int64_t height, int64_t width,   \
                      int64_t per_image, T* pixels_to_mesh, T* mesh_to_pixels, int64_t* pixel_splits,                \
                      int32_t* pixels, int32_t* nearest_vertex, int32_t* nearest_pixel, cudaStream_t stream) {       \
    return posekit::mesh_reprojection<T>(silhouettes, vertices, batch, height, width, per_image, pixels_to_mesh,     \
                                         mesh_to_pixels, pixel_splits, pixels, nearest_vertex, nearest_pixel,        \
                                         stream);                                                                    \
  }
FORWARD(posekit_cuda_mesh_reprojection_f32, float)
FORWARD(posekit_cuda_mesh_reprojection_f64, double)

// Takes what the function above wrote and two factors an image; writes the gradient [batch, per_image, 2] with respect
// to the vertices.
#define BACKWARD(name, T)                                                                                             \
  extern "C" int name(const T* vertices, int64_t batch, int64_t width, int64_t per_image,                            \
                      const int64_t* pixel_splits, const int32_t* pixels, const int32_t* nearest_vertex,             \
                      const int32_t* nearest_pixel, const T* mesh_factors, const T* pixel_factors, T* gradient,      \
                      cudaStream_t stream) {                                                                         \
    return posekit::mesh_reprojection_gradient<T>(vertices, batch, width, per_image, pixel_splits, pixels,           \
                                                  nearest_vertex, nearest_pixel, mesh_factors, pixel_factors,        \
                                                  gradient, stream);                                                 \
  }
BACKWARD(posekit_cuda_mesh_reprojection_gradient_f32, float)
BACKWARD(posekit_cuda_mesh_reprojection_gradient_f64, double)
