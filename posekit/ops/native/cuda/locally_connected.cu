// Locally connected layer of a graph; see posekit/ops/locally_connected.py.
//
// Work: 2 * batch * in * out operations for each block in use, three times that with the gradients. Memory besides
// inputs and outputs: a few numbers for each joint and each block. The same result in every run.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "block.cuh"
#include "scratch.cuh"

namespace posekit {
namespace {

constexpr int kTile = 64;   // rows and columns of the product that a block of threads computes
constexpr int kDepth = 16;  // of the operands that it holds at a time
constexpr int kOwn = 4;     // rows and columns of a thread
constexpr int kPartials = 512;

template <class T>
struct Layer {
  int joints, in, out;
  const T *kernel, *mask;
  const uint8_t* support;
};

template <class T>
__global__ void add_squares(const T* kernel, int64_t size, double* partials) {
  __shared__ double sums[kThreads];
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < size; i += step) {
    sum += static_cast<double>(kernel[i]) * kernel[i];
  }
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) partials[blockIdx.x] = sums[0];
}

// One block: the sum of `count` numbers.
__global__ void add_partials(const double* partials, int64_t count, double* total) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) *total = sums[0];
}

// What blocks are multiplied by because of the norm; `max_norm` 0 is no limit.
__device__ double clip(const double* square, double max_norm) {
  if (!(max_norm > 0)) return 1.0;
  const double norm = sqrt(*square);
  return norm <= max_norm ? 1.0 : isinf(norm) ? nan("") : max_norm / norm;
}

// A thread's part of the product of two operands [kDepth, kTile] in shared memory.
template <class T>
__device__ void add_product(const T (&left)[kDepth][kTile + 1], const T (&right)[kDepth][kTile + 1], int row,
                            int column, T (&sums)[kOwn][kOwn]) {
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    T a[kOwn], b[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      a[i] = left[k][row + i * (kTile / kOwn)];
      b[i] = right[k][column + i * (kTile / kOwn)];
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sums[i][j] += a[i] * b[j];
    }
  }
}

// result [batch, joints * width] = x [batch, joints * depth] times the blocks of the kernel, or of the transposed one.
// Grid: tiles of rows, joints * tiles of columns.
template <class T, bool TRANSPOSED>
__global__ void __launch_bounds__(kThreads) multiply(Layer<T> layer, double max_norm, const double* square,
                                                     int64_t batch, const T* x, const T* bias, T* result) {
  __shared__ T left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int depth = TRANSPOSED ? layer.out : layer.in, width = TRANSPOSED ? layer.in : layer.out;
  const int tiles = (width + kTile - 1) / kTile, joint = blockIdx.y / tiles, first = blockIdx.y % tiles * kTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t long_row = static_cast<int64_t>(layer.joints) * depth;
  const int64_t stride = static_cast<int64_t>(layer.joints) * layer.out;
  const int row = threadIdx.x / (kTile / kOwn), column = threadIdx.x % (kTile / kOwn);
  const T scale = static_cast<T>(clip(square, max_norm));
  T sums[kOwn][kOwn] = {};
  for (int source = 0; source < layer.joints; ++source) {
    const int from = TRANSPOSED ? joint : source, to = TRANSPOSED ? source : joint;
    if (!layer.support[from * layer.joints + to]) continue;
    const T factor = layer.mask[from * layer.joints + to] * scale;
    const T* block = layer.kernel + from * layer.in * stride + static_cast<int64_t>(to) * layer.out;
    for (int base = 0; base < depth; base += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads) {
        const int k = i % kDepth, r = i / kDepth;
        const bool there = begin + r < batch && base + k < depth;
        left[k][r] = there ? x[(begin + r) * long_row + static_cast<int64_t>(source) * depth + base + k] : T(0);
      }
      for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads) {
        // Threads side by side read what lies side by side.
        const int k = TRANSPOSED ? i % kDepth : i / kTile, n = TRANSPOSED ? i / kDepth : i % kTile;
        const bool there = base + k < depth && first + n < width;
        const int64_t at = TRANSPOSED ? (first + n) * stride + base + k : (base + k) * stride + first + n;
        right[k][n] = there && factor != 0 ? block[at] * factor : T(0);
      }
      __syncthreads();
      add_product(left, right, row, column, sums);
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t r = begin + row + i * (kTile / kOwn);
      const int n = first + column + j * (kTile / kOwn);
      if (r >= batch || n >= width) continue;
      const int64_t at = static_cast<int64_t>(joint) * width + n;
      result[r * layer.joints * width + at] = sums[i][j] + (bias ? bias[at] : T(0));
    }
  }
}

// One block a column of the output: the gradient of its bias, and its part of the sum of upstream * (output - bias).
template <class T>
__global__ void add_columns(int64_t batch, int64_t columns, const T* upstream, const T* output, const T* bias,
                            T* of_bias, double* along) {
  __shared__ double totals[kThreads], products[kThreads];
  const int64_t column = blockIdx.x;
  double total = 0, product = 0;
  for (int64_t row = threadIdx.x; row < batch; row += kThreads) {
    const double change = upstream[row * columns + column];
    total += change;
    product += change * (static_cast<double>(output[row * columns + column]) - bias[column]);
  }
  totals[threadIdx.x] = total;
  products[threadIdx.x] = product;
  add_up(totals);
  add_up(products);
  if (threadIdx.x == 0) {
    of_bias[column] = static_cast<T>(totals[0]);
    along[column] = products[0];
  }
}

// The gradient of the kernel. Grid: blocks, tiles of a block's rows, tiles of its columns. `of_masks` receives a number
// for each tile.
template <class T>
__global__ void __launch_bounds__(kThreads)
    kernel_gradient(Layer<T> layer, double max_norm, const double* square, const double* along, int64_t batch,
                    const T* rows, const T* upstream, T* of_kernel, T* of_masks) {
  __shared__ T left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  __shared__ T together[kThreads];
  const int64_t block = blockIdx.x;
  const int source = block / layer.joints, joint = block % layer.joints;
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.z * kTile;
  const int64_t long_in = static_cast<int64_t>(layer.joints) * layer.in;
  const int64_t long_out = static_cast<int64_t>(layer.joints) * layer.out;
  const int row = threadIdx.x / (kTile / kOwn), column = threadIdx.x % (kTile / kOwn);
  const bool seen = layer.support[block];
  T sums[kOwn][kOwn] = {};
  for (int64_t base = 0; seen && base < batch; base += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads) {
      const int k = i / kTile, n = i % kTile;
      const bool there = base + k < batch;
      left[k][n] = there && first_row + n < layer.in
                       ? rows[(base + k) * long_in + static_cast<int64_t>(source) * layer.in + first_row + n]
                       : T(0);
      right[k][n] = there && first_column + n < layer.out
                        ? upstream[(base + k) * long_out + static_cast<int64_t>(joint) * layer.out + first_column + n]
                        : T(0);
    }
    __syncthreads();
    add_product(left, right, row, column, sums);
  }
  const T factor = seen ? layer.mask[block] * static_cast<T>(clip(square, max_norm)) : T(0);
  const bool clipped = max_norm > 0 && *square > max_norm * max_norm;
  // One by one, as their product may be too small for a T.
  const T shrink = clipped ? static_cast<T>(*along / sqrt(*square)) : T(0);
  const T inverse = clipped ? static_cast<T>(1 / sqrt(*square)) : T(0);
  T of_mask = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int r = first_row + row + i * (kTile / kOwn), n = first_column + column + j * (kTile / kOwn);
      if (r >= layer.in || n >= layer.out) continue;
      const int64_t at =
          (static_cast<int64_t>(source) * layer.in + r) * long_out + static_cast<int64_t>(joint) * layer.out + n;
      const T weight = layer.kernel[at];
      if (seen) of_mask += sums[i][j] * weight;
      of_kernel[at] = (factor != 0 ? sums[i][j] * factor : T(0)) - (clipped ? weight * inverse * shrink : T(0));
    }
  }
  together[threadIdx.x] = of_mask;
  add_up(together);
  if (threadIdx.x == 0) of_masks[(block * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z] = together[0];
}

template <class T>
__global__ void mask_gradient(Layer<T> layer, double max_norm, const double* square, int tiles, const T* of_masks,
                              T* of_mask) {
  const int block = blockIdx.x * blockDim.x + threadIdx.x;
  if (block >= layer.joints * layer.joints) return;
  T sum = 0;
  for (int tile = 0; tile < tiles; ++tile) sum += of_masks[static_cast<int64_t>(block) * tiles + tile];
  of_mask[block] = layer.support[block] ? sum * static_cast<T>(clip(square, max_norm)) : T(0);
}

int64_t tiles_of(int64_t count) { return (count + kTile - 1) / kTile; }

template <class T, bool TRANSPOSED>
int product(const Layer<T>& layer, double max_norm, const double* square, int64_t batch, const T* x, const T* bias,
            T* result, cudaStream_t stream) {
  const int64_t width = TRANSPOSED ? layer.in : layer.out;
  if (batch == 0 || width == 0 || layer.joints == 0) return cudaSuccess;
  const dim3 grid(tiles_of(batch), layer.joints * tiles_of(width));
  multiply<T, TRANSPOSED><<<grid, kThreads, 0, stream>>>(layer, max_norm, square, batch, x, bias, result);
  return cudaGetLastError();
}

template <class T>
int forward(const Layer<T>& layer, double max_norm, int64_t batch, const T* rows, const T* bias, T* output,
            double* square, cudaStream_t stream, const PosekitMemory* memory) {
  if (max_norm > 0) {
    Scratch scratch(stream, memory);
    double* const partials = scratch.get<double>(kPartials);
    if (scratch.error() != cudaSuccess) return scratch.error();
    const int64_t size = static_cast<int64_t>(layer.joints) * layer.joints * layer.in * layer.out;
    add_squares<<<kPartials, kThreads, 0, stream>>>(layer.kernel, size, partials);
    add_partials<<<1, kThreads, 0, stream>>>(partials, kPartials, square);
  } else {
    const cudaError_t error = cudaMemsetAsync(square, 0, sizeof(double), stream);
    if (error != cudaSuccess) return error;
  }
  const int error = product<T, false>(layer, max_norm, square, batch, rows, bias, output, stream);
  return error == cudaSuccess ? cudaGetLastError() : error;
}

template <class T>
int gradient_of_kernel(const Layer<T>& layer, double max_norm, const double* square, int64_t batch, const T* rows,
                       const T* bias, const T* output, const T* upstream, T* of_kernel, T* of_mask, T* of_bias,
                       cudaStream_t stream, const PosekitMemory* memory) {
  const int64_t columns = static_cast<int64_t>(layer.joints) * layer.out, blocks = layer.joints * layer.joints;
  if (blocks == 0) return cudaSuccess;
  // Also without features: a mask's gradient is then 0, and a bias has one.
  const int64_t row_tiles = std::max<int64_t>(tiles_of(layer.in), 1);
  const int64_t column_tiles = std::max<int64_t>(tiles_of(layer.out), 1);
  const dim3 grid(blocks, row_tiles, column_tiles);
  Scratch scratch(stream, memory);
  double* const along = scratch.get<double>(columns + 1);
  T* const of_masks = scratch.get<T>(blocks * row_tiles * column_tiles);
  if (scratch.error() != cudaSuccess) return scratch.error();
  double* const total = along + columns;
  if (columns) {
    add_columns<<<columns, kThreads, 0, stream>>>(batch, columns, upstream, output, bias, of_bias, along);
  }
  add_partials<<<1, kThreads, 0, stream>>>(along, columns, total);
  kernel_gradient<<<grid, kThreads, 0, stream>>>(layer, max_norm, square, total, batch, rows, upstream, of_kernel,
                                                 of_masks);
  mask_gradient<<<(blocks + kThreads - 1) / kThreads, kThreads, 0, stream>>>(
      layer, max_norm, square, row_tiles * column_tiles, of_masks, of_mask);
  return cudaGetLastError();
}

}  // namespace
}  // namespace posekit

#define POSEKIT_DEFINE(T, SUFFIX)                                                                                     \
  extern "C" int posekit_cuda_locally_connected_##SUFFIX(                                                             \
      const T* rows, const T* bias, const T* kernel, const T* mask, const uint8_t* support, double max_norm,          \
      int64_t batch, int64_t joints, int64_t in, int64_t out, T* output, double* square, cudaStream_t stream,         \
      const PosekitMemory* memory) {                                                                                  \
    const posekit::Layer<T> layer{int(joints), int(in), int(out), kernel, mask, support};                             \
    return posekit::forward(layer, max_norm < 1e300 ? max_norm : 0.0, batch, rows, bias, output, square, stream,      \
                            memory);                                                                                  \
  }                                                                                                                   \
  extern "C" int posekit_cuda_locally_connected_rows_gradient_##SUFFIX(                                               \
      const T* upstream, const double* square, const T* kernel, const T* mask, const uint8_t* support,                \
      double max_norm, int64_t batch, int64_t joints, int64_t in, int64_t out, T* of_rows, cudaStream_t stream) {     \
    const posekit::Layer<T> layer{int(joints), int(in), int(out), kernel, mask, support};                             \
    return posekit::product<T, true>(layer, max_norm < 1e300 ? max_norm : 0.0, square, batch, upstream, nullptr,      \
                                     of_rows, stream);                                                                \
  }                                                                                                                   \
  extern "C" int posekit_cuda_locally_connected_kernel_gradient_##SUFFIX(                                             \
      const T* upstream, const double* square, const T* rows, const T* bias, const T* output, const T* kernel,        \
      const T* mask, const uint8_t* support, double max_norm, int64_t batch, int64_t joints, int64_t in, int64_t out, \
      T* of_kernel, T* of_mask, T* of_bias, cudaStream_t stream, const PosekitMemory* memory) {                       \
    const posekit::Layer<T> layer{int(joints), int(in), int(out), kernel, mask, support};                             \
    return posekit::gradient_of_kernel(layer, max_norm < 1e300 ? max_norm : 0.0, square, batch, rows, bias, output,   \
                                       upstream, of_kernel, of_mask, of_bias, stream, memory);                        \
  }

POSEKIT_DEFINE(float, f32)
POSEKIT_DEFINE(double, f64)
