// Flags: -O1
// The one thing that TensorFlow's C API does not tell of its own GPUs: in which stream the work of an op belongs.
// Nothing else here depends on how this very version of TensorFlow looks inside.
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tf_gpu.h"
#include "xla/stream_executor/stream.h"

namespace posekit {

cudaStream_t stream_of(TF_OpKernelContext* context) {
  const auto* device = reinterpret_cast<tensorflow::OpKernelContext*>(context)->op_device_context();
  if (!device || !device->stream()) throw std::runtime_error("TensorFlow gives no stream of this device");
  return static_cast<cudaStream_t>(device->stream()->platform_specific_handle().stream);
}

}  // namespace posekit
