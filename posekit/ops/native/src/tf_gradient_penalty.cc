// Gradient penalty of piecewise linear critics: TensorFlow ops.
#include "tf_gradient_penalty.h"

namespace posekit {
namespace {

template <class T>
void value(Call& call, const CriticPlan& plan) {
  const GivenCritic<T> given(call, plan, 0);
  const auto penalty = GradientPenalty<T>::make(given.graph, given.critic, given.batch);
  const Tensor state = call.output<T>(1, {penalty->state_size()});
  *call.output<T>(0, {}).template data<T>() = static_cast<T>(penalty->value(given.points, state.data<T>()));
}

template <class T>
void gradients(Call& call, const CriticPlan& plan) {
  const T upstream = call.input(0).scalar<T>();
  const Tensor state = call.input(1);
  const GivenCritic<T> given(call, plan, 2);
  const auto penalty = GradientPenalty<T>::make(given.graph, given.critic, given.batch);
  const int64_t size = penalty->state_size();
  require(state.size() == size,
          [&] { return "a state of shape " + state.shape_text() + " is not one of " + std::to_string(size); });
  std::vector<Tensor> results;
  std::vector<T*> of_kernels;
  for (size_t index = 0; index < given.critic.kernels.size(); ++index) {
    results.push_back(call.output<T>(static_cast<int>(index), given.first_kernel[index].shape()));
    of_kernels.push_back(results.back().template data<T>());
  }
  penalty->gradients(state.data<T>(), upstream, of_kernels);
}

Registration here([] {
  define_op("PosekitGradientPenalty",
            {"T: {float, double}", "inputs: int >= 1", "weights: int >= 1", "offsets: int >= 0", "matrices: int >= 0",
             "plan: list(int)", "slopes: list(float)"},
            {"real: inputs * T", "fake: inputs * T", "coefficients: inputs * T", "kernels: weights * T",
             "biases: offsets * T", "grams: matrices * T"},
            {"penalty: T", "state: T"});
  cpu_kernel<float, value<float>>("PosekitGradientPenalty");
  cpu_kernel<double, value<double>>("PosekitGradientPenalty");
  define_op("PosekitGradientPenaltyGrad",
            {"T: {float, double}", "inputs: int >= 1", "weights: int >= 1", "offsets: int >= 0", "matrices: int >= 0",
             "plan: list(int)", "slopes: list(float)"},
            {"upstream: T", "state: T", "real: inputs * T", "fake: inputs * T", "coefficients: inputs * T",
             "kernels: weights * T", "biases: offsets * T", "grams: matrices * T"},
            {"of_kernels: weights * T"});
  cpu_kernel<float, gradients<float>>("PosekitGradientPenaltyGrad");
  cpu_kernel<double, gradients<double>>("PosekitGradientPenaltyGrad");
});

}  // namespace
}  // namespace posekit
