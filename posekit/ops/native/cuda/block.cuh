// What the threads of one block do together.
#ifndef POSEKIT_CUDA_BLOCK_CUH_
#define POSEKIT_CUDA_BLOCK_CUH_

#include <cuda_runtime.h>

namespace posekit {

constexpr int kThreads = 256;  // of a block

// Sums `values` [kThreads] of a block into the first, in a fixed order.
template <class T>
__device__ void add_up(T* values) {
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
  }
  __syncthreads();
}

}  // namespace posekit

#endif  // POSEKIT_CUDA_BLOCK_CUH_
