// What callers without CUDA's headers need beside the ops.
#include <cuda_runtime.h>

#include "posekit_cuda.h"

extern "C" const char* posekit_cuda_message(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

extern "C" int posekit_cuda_copy_in(void* device, const void* host, int64_t bytes, cudaStream_t stream) {
  // From memory that is not locked in place the driver takes a copy of its own before it returns.
  return cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream);
}

extern "C" int posekit_cuda_copy_out(void* host, const void* device, int64_t bytes, cudaStream_t stream) {
  const cudaError_t error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream);
  return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
}
