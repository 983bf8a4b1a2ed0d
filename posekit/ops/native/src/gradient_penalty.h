// Gradient penalty of piecewise linear critics; see posekit/ops/gradient_penalty.py.
#ifndef POSEKIT_GRADIENT_PENALTY_H_
#define POSEKIT_GRADIENT_PENALTY_H_

#include <cstdint>
#include <memory>
#include <vector>

namespace posekit {

// A critic as a list of steps, each of which comes after its sources.
struct CriticStep {
  // kInput: points. kDense: source times kernel plus bias. kLeaky: slope for what is not positive. kConcat: sources
  // behind each other. kGram: inner products of the lines of a matrix times points of a few coordinates each.
  enum Kind { kInput, kDense, kLeaky, kConcat, kGram };
  Kind kind;
  std::vector<int> sources;
  int index = -1;  // of the input, the kernel, the slope or the matrix
  int bias = -1;   // none
  int64_t size = 0;
};

struct CriticGraph {
  std::vector<CriticStep> steps;
  std::vector<int> outputs;  // steps whose sum is differentiated
  std::vector<int> terms;    // steps, inputs or grams, whose gradients are penalised
  bool batch_mean;
};

template <class T>
struct Matrix {
  const T* data;
  int64_t rows, columns;
};

// An input of the critic: [batch, size] between real and fake; one coefficient for each number, or for each sample.
template <class T>
struct Between {
  const T *real, *fake, *coefficients;
  bool for_each_number;
};

template <class T>
struct Critic {
  std::vector<Matrix<T>> kernels, grams;
  std::vector<const T*> biases;
  std::vector<double> slopes;  // none of them negative
};

// One computation; `graph` and `critic` outlive it.
template <class T>
class GradientPenalty {
 public:
  static std::unique_ptr<GradientPenalty> make(const CriticGraph& graph, const Critic<T>& critic, int64_t batch);
  virtual ~GradientPenalty() = default;

  // Numbers that `value` leaves for `gradients`.
  virtual int64_t state_size() const = 0;
  // Returns the penalty and fills the state.
  virtual double value(const std::vector<Between<T>>& inputs, T* state) = 0;
  // The gradients of the kernels, times `upstream`.
  virtual void gradients(const T* state, T upstream, const std::vector<T*>& of_kernels) = 0;
};

}  // namespace posekit

#endif  // POSEKIT_GRADIENT_PENALTY_H_
