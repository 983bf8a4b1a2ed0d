// PosekitLocallyConnected and its gradients on a GPU. The limit of the norm comes from the host.
#include "tf_locally_connected.h"

#include "tf_gpu.h"

namespace posekit {
namespace {

const uint8_t* bytes_of(const bool* flags) { return reinterpret_cast<const uint8_t*>(flags); }

template <class T>
void forward(Call& call) {
  const Tensor rows = call.input(0), bias = call.input(1);
  const Layer<T> given(call, 2, rows, "input", false);
  expect("bias", bias, {given.kernel.dim(1)}, given.kernel);
  const Tensor output = call.output<T>(0, {given.batch, given.kernel.dim(1)}), square = call.output<double>(1, {});
  const LocallyConnected<T>& layer = given.layer;
  Gpu gpu(call);
  succeed(POSEKIT_CUDA(locally_connected)(
      rows.data<T>(), bias.data<T>(), layer.kernel, layer.mask, bytes_of(layer.support), layer.max_norm, given.batch,
      layer.joints, layer.in, layer.out, output.data<T>(), square.data<double>(), gpu.stream, gpu.memory()));
}

void expect_square(const Tensor& square) {
  if (square.size() != 1) throw InvalidInput("square is a single number, not of shape " + square.shape_text());
}

template <class T>
void rows_gradient(Call& call) {
  const Tensor upstream = call.input(0), square = call.input(1);
  const Layer<T> given(call, 2, upstream, "gradient", true);
  expect_square(square);
  const Tensor of_rows = call.output<T>(0, {given.batch, given.kernel.dim(0)});
  const LocallyConnected<T>& layer = given.layer;
  Gpu gpu(call);
  succeed(POSEKIT_CUDA(locally_connected_rows_gradient)(
      upstream.data<T>(), square.data<double>(), layer.kernel, layer.mask, bytes_of(layer.support), layer.max_norm,
      given.batch, layer.joints, layer.in, layer.out, of_rows.data<T>(), gpu.stream));
}

template <class T>
void kernel_gradient(Call& call) {
  const Tensor upstream = call.input(0), square = call.input(1);
  const Tensor rows = call.input(2), bias = call.input(3), output = call.input(4);
  const Layer<T> given(call, 5, upstream, "gradient", true);
  expect_square(square);
  expect("input", rows, {given.batch, given.kernel.dim(0)}, given.kernel);
  expect("bias", bias, {given.kernel.dim(1)}, given.kernel);
  expect("output", output, upstream.shape(), given.kernel);
  const Tensor of_kernel = call.output<T>(0, given.kernel.shape()), of_mask = call.output<T>(1, given.mask.shape());
  const Tensor of_bias = call.output<T>(2, bias.shape());
  const LocallyConnected<T>& layer = given.layer;
  Gpu gpu(call);
  succeed(POSEKIT_CUDA(locally_connected_kernel_gradient)(
      upstream.data<T>(), square.data<double>(), rows.data<T>(), bias.data<T>(), output.data<T>(), layer.kernel,
      layer.mask, bytes_of(layer.support), layer.max_norm, given.batch, layer.joints, layer.in, layer.out,
      of_kernel.data<T>(), of_mask.data<T>(), of_bias.data<T>(), gpu.stream, gpu.memory()));
}

Registration here([] {
  gpu_kernel<float, forward<float>>("PosekitLocallyConnected", {"max_norm"});
  gpu_kernel<double, forward<double>>("PosekitLocallyConnected", {"max_norm"});
  gpu_kernel<float, rows_gradient<float>>("PosekitLocallyConnectedRowsGrad", {"max_norm"});
  gpu_kernel<double, rows_gradient<double>>("PosekitLocallyConnectedRowsGrad", {"max_norm"});
  gpu_kernel<float, kernel_gradient<float>>("PosekitLocallyConnectedKernelGrad", {"max_norm"});
  gpu_kernel<double, kernel_gradient<double>>("PosekitLocallyConnectedKernelGrad", {"max_norm"});
});

}  // namespace
}  // namespace posekit
