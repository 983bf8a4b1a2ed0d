// TensorFlow ops on a GPU: the functions of posekit_cuda.so, in the stream and the memory that TensorFlow gives.
#ifndef POSEKIT_CUDA_TF_GPU_H_
#define POSEKIT_CUDA_TF_GPU_H_

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "posekit_cuda.h"
#include "tf_ops.h"

namespace posekit {

cudaStream_t stream_of(TF_OpKernelContext* context);

// Turns an error of posekit_cuda.so into an exception. Those of work that is still going on show later, elsewhere.
inline void succeed(int code) {
  constexpr int invalid_value = 1, memory_allocation = 2;
  if (code == 0) return;
  if (code == memory_allocation) throw std::bad_alloc();
  const std::string message = std::string("on the GPU: ") + posekit_cuda_message(code);
  if (code == invalid_value) throw InvalidInput(message);
  throw std::runtime_error(message);
}

// The function of the type T.
template <class T, class Float, class Double>
auto of_type(Float* function, Double* function_for_double) {
  if constexpr (std::is_same_v<T, float>) {
    return function;
  } else {
    return function_for_double;
  }
}
#define POSEKIT_CUDA(name) of_type<T>(posekit_cuda_##name##_f32, posekit_cuda_##name##_f64)

// Stream and scratch memory of one call. The memory goes back to TensorFlow with the call: whoever gets it next uses it
// in the same stream, later.
class Gpu {
 public:
  explicit Gpu(Call& call) : stream(stream_of(call.context())), context_(call.context()), memory_{allocate, this} {}
  Gpu(const Gpu&) = delete;

  const PosekitMemory* memory() const { return &memory_; }

  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(bytes(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))));
  }

  // A copy in the device's memory of what is on the host.
  template <class T>
  T* copy_in(const T* host, int64_t count) {
    // TensorFlow's own memory may be locked in place, and would have to stay until it is read; a vector's never is.
    const std::vector<T> pageable(host, host + count);
    T* const device = scratch<T>(count);
    succeed(posekit_cuda_copy_in(device, pageable.data(), count * static_cast<int64_t>(sizeof(T)), stream));
    return device;
  }

  // A copy on the host of what the stream will have written by now: waits for it.
  template <class T>
  std::vector<T> copy_out(const T* device, int64_t count) {
    std::vector<T> host(count);
    succeed(posekit_cuda_copy_out(host.data(), device, count * static_cast<int64_t>(sizeof(T)), stream));
    return host;
  }

  const cudaStream_t stream;

 private:
  void* bytes(int64_t size) {
    TF_AllocatorAttributes on_device{TF_ALLOCATOR_ATTRIBUTES_STRUCT_SIZE, 0};
    Status status;
    TF_Tensor* const tensor = TF_AllocateTemp(context_, TF_UINT8, &size, 1, &on_device, status);
    if (!status.ok()) throw std::bad_alloc();
    held_.emplace_back(tensor);
    return held_.back().data<void>();
  }

  static void* allocate(void* gpu, int64_t size) {
    try {
      return static_cast<Gpu*>(gpu)->bytes(size);
    } catch (const std::exception&) {
      return nullptr;
    }
  }

  TF_OpKernelContext* const context_;
  const PosekitMemory memory_;
  std::vector<Tensor> held_;
};

template <class T, auto body>
void gpu_kernel(const char* op, std::initializer_list<const char*> on_host = {}) {
  using Functions = Kernel<body>;
  register_kernel(op, "GPU", "T", TypeOf<T>::value, Functions::create, Functions::compute, Functions::destroy, on_host);
}

}  // namespace posekit

#endif  // POSEKIT_CUDA_TF_GPU_H_
