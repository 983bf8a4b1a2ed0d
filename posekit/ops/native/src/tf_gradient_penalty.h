// Attributes and inputs of the ops of the gradient penalty, on any device, checked.
#ifndef POSEKIT_TF_GRADIENT_PENALTY_H_
#define POSEKIT_TF_GRADIENT_PENALTY_H_

#include "gradient_penalty.h"
#include "tf_ops.h"

namespace posekit {

inline void require(bool condition, const char* message) {
  if (!condition) throw InvalidInput(std::string("gradient penalty: ") + message);
}

// The message is put together where it is needed only.
template <class Message>
void require(bool condition, const Message& message) {
  if (!condition) throw InvalidInput("gradient penalty: " + message());
}

// Numbers of a sample that a step has at most. More fit into no memory, and what is counted with them into no integer.
constexpr int64_t kMostNumbers = int64_t{1} << 40;

inline int64_t limited(bool overflow, int64_t count) {
  require(!overflow && count <= kMostNumbers,
          [&] { return "a step has more than " + std::to_string(kMostNumbers) + " numbers a sample"; });
  return count;
}

inline int64_t limited_sum(int64_t a, int64_t b) {
  int64_t sum = 0;
  const bool overflow = __builtin_add_overflow(a, b, &sum);
  return limited(overflow, sum);
}

inline int64_t limited_product(int64_t a, int64_t b) {
  int64_t product = 0;
  const bool overflow = __builtin_mul_overflow(a, b, &product);
  return limited(overflow, product);
}

// Reads one number after the other.
class PlanReader {
 public:
  explicit PlanReader(const std::vector<int32_t>& plan) : next_(plan.data()), left_(plan.size()) {}

  int number() {
    require(left_ > 0, "the plan ends early");
    --left_;
    return *next_++;
  }

  int below(size_t limit) {
    const int value = number();
    require(value >= 0 && static_cast<size_t>(value) < limit, "the plan names what does not exist");
    return value;
  }

  std::vector<int> list(size_t limit) {
    std::vector<int> values(below(1 << 16));
    for (int& value : values) value = below(limit);
    return values;
  }

 private:
  const int32_t* next_;
  size_t left_;
};

// What the attributes say: a critic without its numbers, and how many of these there are. It begins with the lengths of
// the lists of inputs, which are attributes too.
struct CriticPlan {
  explicit CriticPlan(const Construction& made) : numbers(made.integers("plan")) {
    for (float slope : made.floats("slopes")) slopes.push_back(slope);
    for (double slope : slopes) require(slope >= 0, "a slope is negative or no number");
    PlanReader plan(numbers);
    const auto count = [&](const char* what, const char* attribute) {
      const int named = plan.number(), given = made.number(attribute);
      require(named == given, [&] {
        return "the plan names " + std::to_string(named) + ' ' + what + ", the op was given " + std::to_string(given);
      });
      return given;
    };
    inputs = count("inputs", "inputs"), kernels = count("kernels", "weights"), biases = count("biases", "offsets");
    grams = count("matrices of inner products", "matrices");
    graph.batch_mean = plan.below(2);
    std::vector<bool> taken(inputs);
    graph.steps.resize(plan.below(1 << 16));
    for (size_t index = 0; index < graph.steps.size(); ++index) {
      CriticStep& step = graph.steps[index];
      step.kind = static_cast<CriticStep::Kind>(plan.below(5));
      const size_t limits[] = {static_cast<size_t>(inputs), static_cast<size_t>(kernels), slopes.size(), 1,
                               static_cast<size_t>(grams)};
      step.index = plan.below(limits[step.kind]);
      step.bias = plan.below(biases + 1) - 1;  // 0 for none
      step.sources = plan.list(index);
      require(step.kind == CriticStep::kInput
                  ? step.sources.empty()
                  : !step.sources.empty() && (step.kind == CriticStep::kConcat || step.sources.size() == 1),
              "a step has too many or too few sources");
      if (step.kind == CriticStep::kInput) {
        require(!taken[step.index], "two steps take the same input");
        taken[step.index] = true;
      }
      require(step.kind != CriticStep::kGram || graph.steps[step.sources[0]].kind == CriticStep::kInput,
              "inner products are of inputs only");
    }
    graph.outputs = plan.list(graph.steps.size());
    graph.terms = plan.list(graph.steps.size());
    for (int output : graph.outputs) {
      require(graph.steps[output].kind != CriticStep::kInput, "an output is an input");
    }
    std::vector<bool> named(graph.steps.size());
    for (int term : graph.terms) {
      const auto kind = graph.steps[term].kind;
      require(!named[term], "a term is named twice");
      named[term] = true;
      require(kind == CriticStep::kInput || (kind == CriticStep::kGram && graph.batch_mean), "a term is no input");
    }
  }

  std::vector<int32_t> numbers;
  std::vector<double> slopes;
  int inputs, kernels, biases, grams;
  CriticGraph graph;  // without sizes
};

// The inputs of both ops, from the points on.
template <class T>
struct GivenCritic {
  GivenCritic(Call& call, const CriticPlan& plan, int at) : plan(plan), graph(plan.graph) {
    const int inputs = plan.inputs, kernels = plan.kernels;
    for (int index = 0; index < 3 * inputs + kernels + plan.biases + plan.grams; ++index) {
      held.push_back(call.input(at + index));
    }
    critic.slopes = plan.slopes;
    first_kernel = held.data() + 3 * inputs;
    const Tensor* next = first_kernel;
    for (int index = 0; index < kernels; ++index) critic.kernels.push_back(matrix(*next++));
    for (int index = 0; index < plan.biases; ++index) critic.biases.push_back((next++)->template data<T>());
    for (int index = 0; index < plan.grams; ++index) critic.grams.push_back(matrix(*next++));

    batch = held[0].rank() ? held[0].dim(0) : 0;
    std::vector<int64_t> sizes;
    for (int index = 0; index < inputs; ++index) {
      const Tensor &real = held[index], &fake = held[inputs + index], &factors = held[2 * inputs + index];
      require(real.shape() == fake.shape(),
              [&] { return "real samples have the shape " + real.shape_text() + ", fake ones " + fake.shape_text(); });
      require(real.rank() > 0 && real.dim(0) == batch, [&] {
        return "inputs have the shapes " + held[0].shape_text() + " and " + real.shape_text() +
               ", which are not of one batch";
      });
      require(factors.size() == real.size() || factors.size() == batch, [&] {
        return "coefficients of shape " + factors.shape_text() + " do not fit samples of shape " + real.shape_text();
      });
      sizes.push_back(1);
      for (int axis = 1; axis < real.rank(); ++axis) sizes.back() = limited_product(sizes.back(), real.dim(axis));
      points.push_back({real.template data<T>(), fake.template data<T>(), factors.template data<T>(),
                        factors.size() == real.size()});
    }
    int64_t lines = 64;  // of what is kept: a number of each sample
    for (CriticStep& step : graph.steps) lines += measure(step, sizes);
    require(batch <= (int64_t{1} << 56) / lines,
            [&] { return std::to_string(batch) + " samples of " + std::to_string(lines) + " numbers are too many"; });
  }

  // The size of a step follows from inputs, kernels and the steps before it. Returns how many numbers of a sample are
  // kept of it at most.
  int64_t measure(CriticStep& step, const std::vector<int64_t>& sizes) const {
    int64_t kept = 0;
    for (int source : step.sources) step.size = limited_sum(step.size, graph.steps[source].size);
    if (step.kind == CriticStep::kInput) step.size = sizes[step.index];
    if (step.kind == CriticStep::kDense) {
      const Matrix<T>& kernel = critic.kernels[step.index];
      require(kernel.rows == step.size, [&] {
        return "a kernel of " + std::to_string(kernel.rows) + " rows does not fit " + std::to_string(step.size) +
               " numbers";
      });
      step.size = limited(false, kernel.columns);
      require(step.bias < 0 || first_kernel[plan.kernels + step.bias].size() == step.size,
              "a bias does not fit its kernel");
    }
    if (step.kind == CriticStep::kGram) {
      const Matrix<T>& matrix = critic.grams[step.index];
      require(matrix.columns > 0 && step.size % matrix.columns == 0, [&] {
        return "inner products of " + std::to_string(step.size) + " numbers as " + std::to_string(matrix.columns) +
               " points";
      });
      kept = limited_product(matrix.rows, step.size / matrix.columns);
      step.size = limited_product(matrix.rows, matrix.rows);
    }
    return kept + 3 * step.size;
  }

  static Matrix<T> matrix(const Tensor& tensor) {
    require(tensor.rank() == 2, [&] { return "a kernel has the shape " + tensor.shape_text(); });
    return {tensor.data<T>(), tensor.dim(0), tensor.dim(1)};
  }

  const CriticPlan& plan;
  std::vector<Tensor> held;
  const Tensor* first_kernel;
  int64_t batch;
  Critic<T> critic;
  std::vector<Between<T>> points;
  CriticGraph graph;
};

}  // namespace posekit

#endif  // POSEKIT_TF_GRADIENT_PENALTY_H_
