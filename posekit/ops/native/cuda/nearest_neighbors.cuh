// Nearest neighbours on a GPU: every point is compared with every reference, tile after tile in shared memory; the
// matrix of distances is never written.
//
// Distances are worked out by the operations of the CPU's search, in the same order and each rounded by itself, and
// among equal ones the first is chosen: both give the same indices.
#ifndef POSEKIT_CUDA_NEAREST_NEIGHBORS_CUH_
#define POSEKIT_CUDA_NEAREST_NEIGHBORS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "block.cuh"
#include "scratch.cuh"

namespace posekit {

constexpr int kTile = 1024;        // references in shared memory at a time
constexpr int kChunk = 32;         // references whose nearest is found before asking which one it was
constexpr int kPerThread = 4;      // points of one thread
constexpr int kTileBytes = 32768;  // for points of many dimensions
constexpr int kMostRows = 65535;   // of a grid

__device__ inline float subtract(float a, float b) { return __fsub_rn(a, b); }
__device__ inline double subtract(double a, double b) { return __dsub_rn(a, b); }
__device__ inline float square(float a) { return __fmul_rn(a, a); }
__device__ inline double square(double a) { return __dmul_rn(a, a); }
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double add(double a, double b) { return __dadd_rn(a, b); }

template <class T>
__device__ inline T infinity() {
  return static_cast<T>(__longlong_as_double(0x7ff0000000000000LL));
}

__device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Coordinates that are not finite become large: last in every comparison.
template <class T>
__device__ inline T finite_or_far(T value) {
  return value - value == 0 ? value : static_cast<T>(1e18);
}

// The part of a row's references, [from, to), that a block looks at.
struct Range {
  int64_t from, to;
};
__device__ inline Range range_of(int64_t count, int parts, int part) {
  const int64_t each = (count + parts - 1) / parts;
  const int64_t from = smaller(each * part, count);
  return {from, smaller(from + each, count)};
}

// Grid: x points of a row, y rows, z parts of the references. Writes squared distances and positions within the row,
// [parts, points]; -1 without references.
template <class T, int Dims>
__global__ void search(const T* points, const int64_t* point_splits, const T* references,
                       const int64_t* reference_splits, int64_t batch, int64_t total, T* squared, int32_t* indices) {
  __shared__ __align__(16) T tile[Dims][kTile];
  for (int64_t row = blockIdx.y; row < batch; row += gridDim.y) {
    const int64_t row_begin = point_splits[row], count = point_splits[row + 1] - row_begin;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kPerThread;
    if (first >= count) continue;  // the same for all threads of the block
    const T* others = references + reference_splits[row] * Dims;
    const Range range = range_of(reference_splits[row + 1] - reference_splits[row], gridDim.z, blockIdx.z);
    T at[kPerThread][Dims], best[kPerThread];
    int64_t chunk[kPerThread];
    for (int k = 0; k < kPerThread; ++k) {
      const int64_t place = smaller(first + k * kThreads + threadIdx.x, count - 1);
      for (int axis = 0; axis < Dims; ++axis) at[k][axis] = finite_or_far(points[(row_begin + place) * Dims + axis]);
      best[k] = infinity<T>();
      chunk[k] = -1;
    }
    for (int64_t base = range.from; base < range.to; base += kTile) {
      __syncthreads();
      for (int i = threadIdx.x; i < kTile; i += kThreads) {
        for (int axis = 0; axis < Dims; ++axis) {
          tile[axis][i] = base + i < range.to ? finite_or_far(others[(base + i) * Dims + axis]) : infinity<T>();
        }
      }
      __syncthreads();
      const int used = static_cast<int>(smaller(kTile, range.to - base));
      for (int begin = 0; begin < used; begin += kChunk) {
        T nearest[kPerThread];
        for (int k = 0; k < kPerThread; ++k) nearest[k] = infinity<T>();
#pragma unroll
        for (int j = 0; j < kChunk; ++j) {
#pragma unroll
          for (int k = 0; k < kPerThread; ++k) {
            T sum = square(subtract(at[k][0], tile[0][begin + j]));
#pragma unroll
            for (int axis = 1; axis < Dims; ++axis) {
              sum = add(sum, square(subtract(at[k][axis], tile[axis][begin + j])));
            }
            nearest[k] = min(nearest[k], sum);
          }
        }
        for (int k = 0; k < kPerThread; ++k) {
          if (nearest[k] < best[k]) {
            best[k] = nearest[k];
            chunk[k] = base + begin;
          }
        }
      }
    }
    for (int k = 0; k < kPerThread; ++k) {
      const int64_t place = first + k * kThreads + threadIdx.x;
      if (place >= count) break;
      // Where every distance is infinite the first reference is as good as any.
      int64_t found = range.from < range.to ? range.from : -1;
      if (chunk[k] >= 0) {
        for (found = chunk[k]; found + 1 < range.to; ++found) {
          T sum = square(subtract(at[k][0], finite_or_far(others[found * Dims])));
          for (int axis = 1; axis < Dims; ++axis) {
            sum = add(sum, square(subtract(at[k][axis], finite_or_far(others[found * Dims + axis]))));
          }
          if (sum == best[k]) break;
        }
      }
      const int64_t to = static_cast<int64_t>(blockIdx.z) * total + row_begin + place;
      squared[to] = best[k];
      indices[to] = static_cast<int32_t>(found);
    }
  }
}

// The same for any number of dimensions, one point a thread.
template <class T>
__global__ void search_many_dims(const T* points, const int64_t* point_splits, const T* references,
                                 const int64_t* reference_splits, int64_t batch, int64_t total, int dims, T* squared,
                                 int32_t* indices) {
  __shared__ __align__(16) unsigned char memory[kTileBytes];
  T* tile = reinterpret_cast<T*>(memory);
  const int in_tile = kTileBytes / (static_cast<int>(sizeof(T)) * dims);
  for (int64_t row = blockIdx.y; row < batch; row += gridDim.y) {
    const int64_t row_begin = point_splits[row], count = point_splits[row + 1] - row_begin;
    if (static_cast<int64_t>(blockIdx.x) * kThreads >= count) continue;
    const int64_t place = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const T* own = points + (row_begin + smaller(place, count - 1)) * dims;
    const T* others = references + reference_splits[row] * dims;
    const Range range = range_of(reference_splits[row + 1] - reference_splits[row], gridDim.z, blockIdx.z);
    T best = infinity<T>();
    int64_t found = range.from < range.to ? range.from : -1;
    for (int64_t base = range.from; base < range.to; base += in_tile) {
      const int used = static_cast<int>(smaller(in_tile, range.to - base));
      __syncthreads();
      for (int i = threadIdx.x; i < used * dims; i += kThreads) tile[i] = finite_or_far(others[base * dims + i]);
      __syncthreads();
      for (int j = 0; j < used; ++j) {
        T sum = square(subtract(finite_or_far(own[0]), tile[j * dims]));
        for (int axis = 1; axis < dims; ++axis) {
          sum = add(sum, square(subtract(finite_or_far(own[axis]), tile[j * dims + axis])));
        }
        if (sum < best) {
          best = sum;
          found = base + j;
        }
      }
    }
    if (place < count) {
      const int64_t to = static_cast<int64_t>(blockIdx.z) * total + row_begin + place;
      squared[to] = best;
      indices[to] = static_cast<int32_t>(found);
    }
  }
}

// Chooses among the parts, and works out distances (if asked for) from the points as they were given.
template <class T>
__global__ void choose(const T* points, const int64_t* point_splits, const T* references,
                       const int64_t* reference_splits, int64_t batch, int64_t total, int dims, int parts,
                       const T* squared, const int32_t* candidates, int32_t* indices, T* distances) {
  for (int64_t row = blockIdx.y; row < batch; row += gridDim.y) {
    const int64_t place = point_splits[row] + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (place >= point_splits[row + 1]) continue;
    T best = squared[place];
    int32_t found = candidates[place];
    for (int part = 1; part < parts; ++part) {
      const T other = squared[part * total + place];
      if (other < best) {
        best = other;
        found = candidates[part * total + place];
      }
    }
    indices[place] = found;
    if (!distances) continue;
    T sum = 0;
    const T* own = points + place * dims;
    const T* other = references + (reference_splits[row] + found) * dims;
    for (int axis = 0; axis < dims && found >= 0; ++axis) sum = add(sum, square(subtract(own[axis], other[axis])));
    distances[place] = found >= 0 ? static_cast<T>(sqrt(sum)) : infinity<T>();
  }
}

inline int blocks_of(int64_t count, int64_t each) { return static_cast<int>((count + each - 1) / each); }

// All pointers are to the device's memory; `distances` may be null. No row has more than `most_points` points or
// `most_references` references; a row of points is likely to have `likely_points`.
template <class T>
cudaError_t nearest_neighbors(const T* points, const int64_t* point_splits, const T* references,
                              const int64_t* reference_splits, int64_t batch, int64_t dims, int64_t total,
                              int64_t most_points, int64_t likely_points, int64_t most_references, int32_t* indices,
                              T* distances, cudaStream_t stream, const PosekitMemory* memory) {
  if (batch < 0 || dims < 1 || dims > kTileBytes / static_cast<int64_t>(sizeof(T)) || total < 0 ||
      most_points > INT32_MAX || most_references > INT32_MAX) {
    return cudaErrorInvalidValue;
  }
  if (!batch || !total || most_points < 1) return cudaSuccess;
  const bool few_dims = dims == 2 || dims == 3;
  const int64_t each = few_dims ? kThreads * kPerThread : kThreads;
  const int rows = static_cast<int>(std::min<int64_t>(batch, kMostRows));
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  // With too few blocks to fill the processors, several share the references of each point; what they find takes no
  // more memory than half as much again as inputs and outputs.
  const int64_t blocks = static_cast<int64_t>(blocks_of(std::max<int64_t>(likely_points, 1), each)) * rows;
  const int64_t found_bytes = total * static_cast<int64_t>(sizeof(T) + sizeof(int32_t));
  const int64_t all_bytes = (total + most_references) * dims * static_cast<int64_t>(sizeof(T)) + found_bytes;
  const int64_t useful = std::min<int64_t>(8 * processors / blocks, most_references / (2 * kTile));
  const int parts = static_cast<int>(std::max<int64_t>(1, std::min(useful, 3 * all_bytes / (2 * found_bytes))));
  Scratch scratch(stream, memory);
  T* squared = scratch.get<T>(parts * total);
  int32_t* candidates = scratch.get<int32_t>(parts * total);
  if (scratch.error() != cudaSuccess) return scratch.error();
  const dim3 grid(blocks_of(most_points, each), rows, parts);
  if (dims == 2) {
    search<T, 2><<<grid, kThreads, 0, stream>>>(points, point_splits, references, reference_splits, batch, total,
                                                squared, candidates);
  } else if (dims == 3) {
    search<T, 3><<<grid, kThreads, 0, stream>>>(points, point_splits, references, reference_splits, batch, total,
                                                squared, candidates);
  } else {
    search_many_dims<T><<<grid, kThreads, 0, stream>>>(points, point_splits, references, reference_splits, batch, total,
                                                       dims, squared, candidates);
  }
  const dim3 flat(blocks_of(most_points, kThreads), rows);
  choose<T><<<flat, kThreads, 0, stream>>>(points, point_splits, references, reference_splits, batch, total, dims,
                                           parts, squared, candidates, indices, distances);
  return cudaGetLastError();
}

}  // namespace posekit

#endif  // POSEKIT_CUDA_NEAREST_NEIGHBORS_CUH_
