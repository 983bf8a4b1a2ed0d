// PosekitGradientPenalty and its gradients on a GPU.
#include "tf_gradient_penalty.h"

#include <limits>

#include "tf_gpu.h"

namespace posekit {
namespace {

constexpr const char* kTooLarge =
    "a critic of so many steps, parts in a step or numbers a sample has no kernel for GPUs: POSEKIT_CUDA=0";

// What the functions of posekit_cuda.so want to know of a critic, on the host.
template <class T>
struct Lists {
  explicit Lists(const GivenCritic<T>& given)
      : plan(given.plan.numbers.data()),
        slopes(given.plan.slopes.data()),
        batch(given.batch),
        sizes(given.points.size()) {
    for (const CriticStep& step : given.graph.steps) {
      if (step.kind == CriticStep::kInput) sizes[step.index] = counted(step.size);
    }
    for (const Between<T>& points : given.points) {
      real.push_back(points.real), fake.push_back(points.fake), coefficients.push_back(points.coefficients);
      for_each_number.push_back(points.for_each_number);
    }
    list(given.critic.kernels, &kernels, &kernel_shapes);
    list(given.critic.grams, &grams, &gram_shapes);
    biases = given.critic.biases;
    const int64_t size =
        posekit_cuda_gradient_penalty_state(plan, batch, sizes.data(), kernel_shapes.data(), gram_shapes.data());
    require(size >= 0, kTooLarge);
    state_size = size;
  }

  // As the kernels count: with 32 bits.
  static int32_t counted(int64_t count) {
    require(count <= std::numeric_limits<int32_t>::max(), kTooLarge);
    return static_cast<int32_t>(count);
  }

  static void list(const std::vector<Matrix<T>>& matrices, std::vector<const T*>* data, std::vector<int32_t>* shapes) {
    for (const Matrix<T>& matrix : matrices) {
      data->push_back(matrix.data);
      shapes->push_back(counted(matrix.rows));
      shapes->push_back(counted(matrix.columns));
    }
  }

  const int32_t* plan;
  const double* slopes;
  int64_t batch, state_size;
  std::vector<const T*> real, fake, coefficients, kernels, biases, grams;
  std::vector<int32_t> sizes, for_each_number, kernel_shapes, gram_shapes;
};

template <class T>
void value(Call& call, const CriticPlan& plan) {
  const GivenCritic<T> given(call, plan, 0);
  const Lists<T> lists(given);
  const Tensor penalty = call.output<T>(0, {}), state = call.output<T>(1, {lists.state_size});
  Gpu gpu(call);
  succeed(POSEKIT_CUDA(gradient_penalty)(lists.plan, lists.slopes, lists.batch, lists.real.data(), lists.fake.data(),
                                         lists.coefficients.data(), lists.sizes.data(), lists.for_each_number.data(),
                                         lists.kernels.data(), lists.kernel_shapes.data(), lists.biases.data(),
                                         lists.grams.data(), lists.gram_shapes.data(), penalty.data<T>(),
                                         state.data<T>(), gpu.stream, gpu.memory()));
}

template <class T>
void gradients(Call& call, const CriticPlan& plan) {
  const Tensor upstream = call.input(0), state = call.input(1);
  const GivenCritic<T> given(call, plan, 2);
  const Lists<T> lists(given);
  if (upstream.size() != 1) throw InvalidInput("upstream is a single number, not of shape " + upstream.shape_text());
  if (state.size() != lists.state_size) {
    throw InvalidInput("a state of shape " + state.shape_text() + " is not one of " + std::to_string(lists.state_size) +
                       ", which the op leaves on a GPU");
  }
  std::vector<Tensor> results;
  std::vector<T*> of_kernels;
  for (size_t index = 0; index < lists.kernels.size(); ++index) {
    results.push_back(call.output<T>(static_cast<int>(index), given.first_kernel[index].shape()));
    of_kernels.push_back(results.back().template data<T>());
  }
  Gpu gpu(call);
  succeed(POSEKIT_CUDA(gradient_penalty_gradients)(lists.plan, lists.slopes, lists.batch, lists.sizes.data(),
                                                   lists.kernels.data(), lists.kernel_shapes.data(), lists.grams.data(),
                                                   lists.gram_shapes.data(), state.data<T>(), upstream.data<T>(),
                                                   of_kernels.data(), gpu.stream, gpu.memory()));
}

Registration here([] {
  gpu_kernel<float, value<float>>("PosekitGradientPenalty");
  gpu_kernel<double, value<double>>("PosekitGradientPenalty");
  gpu_kernel<float, gradients<float>>("PosekitGradientPenaltyGrad");
  gpu_kernel<double, gradients<double>>("PosekitGradientPenaltyGrad");
});

}  // namespace
}  // namespace posekit
