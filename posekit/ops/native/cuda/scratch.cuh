// Memory that a call needs besides inputs and outputs.
#ifndef POSEKIT_CUDA_SCRATCH_CUH_
#define POSEKIT_CUDA_SCRATCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "posekit_cuda.h"

namespace posekit {

// Belongs to the work of a stream.
class Scratch {
 public:
  Scratch(cudaStream_t stream, const PosekitMemory* memory) : stream_(stream), memory_(memory) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    for (int i = 0; i < used_; ++i) cudaFreeAsync(blocks_[i], stream_);
  }

  template <class T>
  T* get(int64_t count) {
    const int64_t bytes = std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T));
    if (error_ != cudaSuccess) return nullptr;
    if (memory_) {
      void* const given = memory_->allocate(memory_->owner, bytes);
      if (!given) error_ = cudaErrorMemoryAllocation;
      return static_cast<T*>(given);
    }
    void* own = nullptr;
    error_ = used_ < kMost ? cudaMallocAsync(&own, bytes, stream_) : cudaErrorMemoryAllocation;
    if (error_ != cudaSuccess) return nullptr;
    blocks_[used_++] = own;
    return static_cast<T*>(own);
  }

  cudaError_t error() const { return error_; }

 private:
  static constexpr int kMost = 8;
  cudaStream_t stream_;
  const PosekitMemory* memory_;
  void* blocks_[kMost];
  int used_ = 0;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace posekit

#endif  // POSEKIT_CUDA_SCRATCH_CUH_
