// Locally connected layer of a graph; see posekit/ops/locally_connected.py.
#ifndef POSEKIT_LOCALLY_CONNECTED_H_
#define POSEKIT_LOCALLY_CONNECTED_H_

#include <cstdint>

namespace posekit {

// A kernel [joints * in, joints * out] of blocks [in, out], of which the mask [joints, joints] weighs those where
// `support` is true, from the joint of the row to the joint of the column; the others count as 0.
template <class T>
struct LocallyConnected {
  int64_t joints, in, out;
  const T* kernel;
  const T* mask;
  const bool* support;
  double max_norm;  // of the whole kernel; infinity for no limit
};

// The squared norm of the kernel, the same with any number of threads; 0 where there is no limit.
template <class T>
double squared_norm(const LocallyConnected<T>& layer);

// output [batch, joints * out] = rows [batch, joints * in] times the clipped and masked kernel, plus bias.
template <class T>
void locally_connected(const LocallyConnected<T>& layer, double square, int64_t batch, const T* rows, const T* bias,
                       T* output);

// The gradient of the rows, from that of the output.
template <class T>
void locally_connected_rows_gradient(const LocallyConnected<T>& layer, double square, int64_t batch, const T* upstream,
                                     T* of_rows);

// The gradients of kernel, mask and bias, from that of the output; `output` is what `locally_connected` computed.
template <class T>
void locally_connected_kernel_gradient(const LocallyConnected<T>& layer, double square, int64_t batch, const T* rows,
                                       const T* bias, const T* output, const T* upstream, T* of_kernel, T* of_mask,
                                       T* of_bias);

}  // namespace posekit

#endif  // POSEKIT_LOCALLY_CONNECTED_H_
