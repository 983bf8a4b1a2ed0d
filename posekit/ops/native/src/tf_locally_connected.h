// Inputs of the ops of the locally connected layer, on any device, checked. The limit is on the host.
#ifndef POSEKIT_TF_LOCALLY_CONNECTED_H_
#define POSEKIT_TF_LOCALLY_CONNECTED_H_

#include <cmath>

#include "locally_connected.h"
#include "tf_ops.h"

namespace posekit {

inline void expect(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape, const Tensor& kernel) {
  if (tensor.shape() == shape) return;
  throw InvalidInput(std::string("locally connected layer: the ") + name + " has the shape " + tensor.shape_text() +
                     ", which does not fit the kernel's, " + kernel.shape_text());
}

// The layer itself, from the inputs kernel, mask, support, max_norm that begin at `first`; `rows` is [batch, joints *
// in], or [batch, joints * out] if `outgoing`.
template <class T>
struct Layer {
  Layer(Call& call, int first, const Tensor& rows, const char* name, bool outgoing)
      : kernel(call.input(first)), mask(call.input(first + 1)), support(call.input(first + 2)) {
    const double max_norm = call.input(first + 3).scalar<double>();
    const int64_t joints = mask.rank() == 2 ? mask.dim(0) : 0;
    if (joints < 1 || kernel.rank() != 2 || kernel.dim(0) % joints || kernel.dim(1) % joints) {
      throw InvalidInput("locally connected layer: the mask has the shape " + mask.shape_text() +
                         ", which does not fit the kernel's, " + kernel.shape_text());
    }
    expect("mask", mask, {joints, joints}, kernel);
    expect("support", support, {joints, joints}, kernel);
    batch = rows.rank() == 2 ? rows.dim(0) : 0;
    expect(name, rows, {batch, kernel.dim(outgoing ? 1 : 0)}, kernel);
    layer = {joints,
             kernel.dim(0) / joints,
             kernel.dim(1) / joints,
             kernel.data<T>(),
             mask.data<T>(),
             support.data<bool>(),
             max_norm > 0 ? max_norm : INFINITY};
  }

  Tensor kernel, mask, support;
  int64_t batch;
  LocallyConnected<T> layer;
};

}  // namespace posekit

#endif  // POSEKIT_TF_LOCALLY_CONNECTED_H_
