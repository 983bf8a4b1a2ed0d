// Locally connected layer of a graph: TensorFlow ops.
#include "tf_locally_connected.h"

namespace posekit {
namespace {

template <class T>
void forward(Call& call) {
  const Tensor rows = call.input(0), bias = call.input(1);
  const Layer<T> given(call, 2, rows, "input", false);
  expect("bias", bias, {given.kernel.dim(1)}, given.kernel);
  const Tensor output = call.output<T>(0, {given.batch, given.kernel.dim(1)});
  const double square = *call.output<double>(1, {}).template data<double>() = squared_norm(given.layer);
  locally_connected(given.layer, square, given.batch, rows.data<T>(), bias.data<T>(), output.data<T>());
}

template <class T>
void rows_gradient(Call& call) {
  const Tensor upstream = call.input(0);
  const double square = call.input(1).scalar<double>();
  const Layer<T> given(call, 2, upstream, "gradient", true);
  const Tensor of_rows = call.output<T>(0, {given.batch, given.kernel.dim(0)});
  locally_connected_rows_gradient(given.layer, square, given.batch, upstream.data<T>(), of_rows.data<T>());
}

template <class T>
void kernel_gradient(Call& call) {
  const Tensor upstream = call.input(0), rows = call.input(2), bias = call.input(3), output = call.input(4);
  const double square = call.input(1).scalar<double>();
  const Layer<T> given(call, 5, upstream, "gradient", true);
  expect("input", rows, {given.batch, given.kernel.dim(0)}, given.kernel);
  expect("bias", bias, {given.kernel.dim(1)}, given.kernel);
  expect("output", output, upstream.shape(), given.kernel);
  const Tensor of_kernel = call.output<T>(0, given.kernel.shape()), of_mask = call.output<T>(1, given.mask.shape());
  const Tensor of_bias = call.output<T>(2, bias.shape());
  locally_connected_kernel_gradient(given.layer, square, given.batch, rows.data<T>(), bias.data<T>(), output.data<T>(),
                                    upstream.data<T>(), of_kernel.data<T>(), of_mask.data<T>(), of_bias.data<T>());
}

Registration here([] {
  define_op("PosekitLocallyConnected", {"T: {float, double}"},
            {"rows: T", "bias: T", "kernel: T", "mask: T", "support: bool", "max_norm: double"},
            {"output: T", "square: double"});
  cpu_kernel<float, forward<float>>("PosekitLocallyConnected");
  cpu_kernel<double, forward<double>>("PosekitLocallyConnected");
  define_op("PosekitLocallyConnectedRowsGrad", {"T: {float, double}"},
            {"upstream: T", "square: double", "kernel: T", "mask: T", "support: bool", "max_norm: double"},
            {"of_rows: T"});
  cpu_kernel<float, rows_gradient<float>>("PosekitLocallyConnectedRowsGrad");
  cpu_kernel<double, rows_gradient<double>>("PosekitLocallyConnectedRowsGrad");
  define_op("PosekitLocallyConnectedKernelGrad", {"T: {float, double}"},
            {"upstream: T", "square: double", "rows: T", "bias: T", "output: T", "kernel: T", "mask: T",
             "support: bool", "max_norm: double"},
            {"of_kernel: T", "of_mask: T", "of_bias: T"});
  cpu_kernel<float, kernel_gradient<float>>("PosekitLocallyConnectedKernelGrad");
  cpu_kernel<double, kernel_gradient<double>>("PosekitLocallyConnectedKernelGrad");
});

}  // namespace
}  // namespace posekit
