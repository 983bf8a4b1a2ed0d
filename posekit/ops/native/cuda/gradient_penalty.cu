// Gradient penalty of piecewise linear critics; see posekit/ops/gradient_penalty.py.
//
// A block of threads takes one sample through all steps of the critic, forward and backward, and, when the penalty's
// derivative is known, forward again; a last kernel multiplies what met at every weight. Work: five multiplications and
// additions for each sample and weight. Memory besides inputs and outputs: three numbers for each sample and unit. The
// same result in every run.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "block.cuh"
#include "scratch.cuh"

namespace posekit {
namespace {

constexpr int kMostSteps = 48, kMostSources = 6;
constexpr int64_t kMostNumbers = 1 << 30;  // of a sample, in all steps: they are counted with int

enum Kind { kInput, kDense, kLeaky, kConcat, kGram };

template <class T>
struct Step {
  int kind, size, offset, sources[kMostSources], num_sources, parameter;
  const T *matrix, *bias;  // the kernel, or the matrix of a gram
  int rows;                // of the matrix
  T slope;
  const T *real, *fake, *coefficients;
  bool for_each_number, is_term;
  int outputs;  // how often its sum is differentiated
};

// Passed to kernels by value.
template <class T>
struct Critic {
  int count, lines;  // steps, and numbers of a sample in all of them
  bool batch_mean;
  int64_t batch;
  Step<T> steps[kMostSteps];
};

// into [columns] = bias + from [rows] times a matrix.
template <class T>
__device__ void times_matrix(const T* from, const T* matrix, int rows, int columns, const T* bias, T* into) {
  for (int n = threadIdx.x; n < columns; n += kThreads) {
    T sum = bias ? bias[n] : T(0);
    for (int k = 0; k < rows; ++k) sum += from[k] * matrix[static_cast<int64_t>(k) * columns + n];
    into[n] = sum;
  }
}

// into [rows] += a matrix times from [columns]; a warp for each row.
template <class T>
__device__ void add_matrix_times(const T* from, const T* matrix, int rows, int columns, T* into) {
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < rows; row += kThreads / 32) {
    T sum = 0;
    for (int n = lane; n < columns; n += 32) sum += matrix[static_cast<int64_t>(row) * columns + n] * from[n];
    for (int half = 16; half; half /= 2) sum += __shfl_down_sync(0xffffffff, sum, half);
    if (lane == 0) into[row] += sum;
  }
}

// Number `axis` of line `line` of a matrix times points.
template <class T>
__device__ T bone(const Step<T>& step, const T* points, int axes, int columns, int line, int axis) {
  T sum = 0;
  const T* const factors = step.matrix + line * columns;
  for (int point = 0; point < columns; ++point) sum += factors[point] * points[point * axes + axis];
  return sum;
}

template <class T>
__device__ T mixed(const Step<T>& step, int64_t sample, int n) {
  const int64_t at = sample * step.size + n;
  const T factor = step.coefficients[step.for_each_number ? at : sample];
  return step.fake[at] + factor * (step.real[at] - step.fake[at]);
}

template <class T>
__device__ void forward(const Critic<T>& critic, int64_t sample, T* values) {
  for (int index = 0; index < critic.count; ++index) {
    const Step<T>& step = critic.steps[index];
    T* const into = values + step.offset;
    const T* const from = values + critic.steps[step.sources[0]].offset;
    __syncthreads();
    if (step.kind == kInput) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) into[n] = mixed(step, sample, n);
    } else if (step.kind == kDense) {
      times_matrix(from, step.matrix, step.rows, step.size, step.bias, into);
    } else if (step.kind == kLeaky) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) into[n] = from[n] > 0 ? from[n] : step.slope * from[n];
    } else if (step.kind == kConcat) {
      T* to = into;
      for (int part = 0; part < step.num_sources; ++part) {
        const Step<T>& source = critic.steps[step.sources[part]];
        for (int n = threadIdx.x; n < source.size; n += kThreads) to[n] = values[source.offset + n];
        to += source.size;
      }
    } else {
      const int columns = step.parameter, axes = critic.steps[step.sources[0]].size / columns;
      for (int n = threadIdx.x; n < step.size; n += kThreads) {
        const int i = n / step.rows, j = n % step.rows;
        T sum = 0;
        for (int axis = 0; axis < axes; ++axis) {
          sum += bone(step, from, axes, columns, i, axis) * bone(step, from, axes, columns, j, axis);
        }
        into[n] = sum;
      }
    }
  }
  __syncthreads();
}

template <class T>
__device__ void backward(const Critic<T>& critic, const T* values, T* adjoints) {
  for (int n = threadIdx.x; n < critic.lines; n += kThreads) adjoints[n] = 0;
  __syncthreads();
  for (int index = critic.count - 1; index >= 0; --index) {
    const Step<T>& step = critic.steps[index];
    T* const change = adjoints + step.offset;
    if (step.outputs) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) change[n] += step.outputs;
      __syncthreads();
    }
    if (step.kind == kInput) continue;
    const Step<T>& source = critic.steps[step.sources[0]];
    T* const into = adjoints + source.offset;
    const T* const from = values + source.offset;
    if (step.kind == kDense) {
      add_matrix_times(change, step.matrix, step.rows, step.size, into);
    } else if (step.kind == kLeaky) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) into[n] += change[n] * (from[n] > 0 ? T(1) : step.slope);
    } else if (step.kind == kConcat) {
      const T* part_change = change;
      for (int part = 0; part < step.num_sources; ++part) {
        const Step<T>& each = critic.steps[step.sources[part]];
        for (int n = threadIdx.x; n < each.size; n += kThreads) adjoints[each.offset + n] += part_change[n];
        part_change += each.size;
        __syncthreads();  // a step may be its own neighbour
      }
    } else {
      const int columns = step.parameter, axes = source.size / columns;
      for (int n = threadIdx.x; n < source.size; n += kThreads) {
        T sum = 0;
        for (int i = 0; i < step.rows; ++i) {
          const T factor = step.matrix[i * columns + n / axes];
          if (factor == 0) continue;
          T through = 0;
          for (int j = 0; j < step.rows; ++j) {
            const T both = change[i * step.rows + j] + change[j * step.rows + i];
            through += both * bone(step, from, axes, columns, j, n % axes);
          }
          sum += factor * through;
        }
        into[n] += sum;
      }
    }
    __syncthreads();
  }
}

// (1 - |g|)^2, and what g has to be multiplied by to give its derivative; 0 where g is 0.
__device__ double penalise(double square, double* factor) {
  const double norm = sqrt(square);
  *factor = norm == 0 ? 0.0 : 2 * (norm - 1) / norm;
  return (1 - norm) * (1 - norm);
}

// A block for each sample; `penalties` [batch] and the derivatives `pulls` [batch, lines] are written if the norm is
// taken of each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    there_and_back(const Critic<T> critic, T* values, T* adjoints, T* pulls, double* penalties) {
  __shared__ double sums[kThreads];
  __shared__ double pull;
  const int64_t sample = blockIdx.x;
  T* const own = adjoints + sample * critic.lines;
  forward(critic, sample, values + sample * critic.lines);
  backward(critic, values + sample * critic.lines, own);
  if (critic.batch_mean) return;
  double square = 0;
  for (int index = 0; index < critic.count; ++index) {
    const Step<T>& step = critic.steps[index];
    for (int n = threadIdx.x; step.is_term && n < step.size; n += kThreads) {
      square += static_cast<double>(own[step.offset + n]) * own[step.offset + n];
    }
  }
  sums[threadIdx.x] = square;
  add_up(sums);
  if (threadIdx.x == 0) penalties[sample] = penalise(sums[0], &pull) / critic.batch;
  __syncthreads();
  for (int index = 0; index < critic.count; ++index) {
    const Step<T>& step = critic.steps[index];
    for (int n = threadIdx.x; step.is_term && n < step.size; n += kThreads) {
      pulls[sample * critic.lines + step.offset + n] = static_cast<T>(pull / critic.batch) * own[step.offset + n];
    }
  }
}

// A block for each step: the penalty of the mean of a term, and its derivative, the same for all samples.
template <class T>
__global__ void penalise_means(const Critic<T> critic, const T* adjoints, T* pulls, double* penalties) {
  __shared__ double sums[kThreads];
  __shared__ double pull;
  const Step<T>& step = critic.steps[blockIdx.x];
  if (threadIdx.x == 0) penalties[blockIdx.x] = 0;
  if (!step.is_term) return;
  double square = 0;
  for (int n = threadIdx.x; n < step.size; n += kThreads) {
    double sum = 0;
    for (int64_t sample = 0; sample < critic.batch; ++sample) sum += adjoints[sample * critic.lines + step.offset + n];
    sum /= critic.batch;
    pulls[step.offset + n] = static_cast<T>(sum);
    square += sum * sum;
  }
  sums[threadIdx.x] = square;
  add_up(sums);
  if (threadIdx.x == 0) penalties[blockIdx.x] = penalise(sums[0], &pull);
  __syncthreads();
  for (int n = threadIdx.x; n < step.size; n += kThreads) pulls[step.offset + n] *= static_cast<T>(pull / critic.batch);
}

template <class T>
__global__ void add_penalties(const double* penalties, int64_t count, T* penalty) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += penalties[i];
  sums[threadIdx.x] = sum;
  add_up(sums);
  if (threadIdx.x == 0) *penalty = static_cast<T>(sums[0]);
}

// A block for each sample: how the penalty's derivative goes forward.
template <class T>
__global__ void __launch_bounds__(kThreads)
    there_again(const Critic<T> critic, const T* values, const T* pulls, T* tangents) {
  const int64_t sample = blockIdx.x;
  const T* const known = values + sample * critic.lines;
  const T* const pull = pulls + (critic.batch_mean ? 0 : sample * critic.lines);
  T* const own = tangents + sample * critic.lines;
  for (int index = 0; index < critic.count; ++index) {
    const Step<T>& step = critic.steps[index];
    const Step<T>& source = critic.steps[step.sources[0]];
    T* const into = own + step.offset;
    const T* const from = own + source.offset;
    __syncthreads();
    if (step.kind == kInput) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) into[n] = step.is_term ? pull[step.offset + n] : T(0);
    } else if (step.kind == kDense) {
      times_matrix<T>(from, step.matrix, step.rows, step.size, nullptr, into);
    } else if (step.kind == kLeaky) {
      for (int n = threadIdx.x; n < step.size; n += kThreads) {
        into[n] = from[n] * (known[source.offset + n] > 0 ? T(1) : step.slope);
      }
    } else if (step.kind == kConcat) {
      T* to = into;
      for (int part = 0; part < step.num_sources; ++part) {
        const Step<T>& each = critic.steps[step.sources[part]];
        for (int n = threadIdx.x; n < each.size; n += kThreads) to[n] = own[each.offset + n];
        to += each.size;
      }
    } else {
      const int columns = step.parameter, axes = source.size / columns;
      const T* const points = known + source.offset;
      for (int n = threadIdx.x; n < step.size; n += kThreads) {
        const int i = n / step.rows, j = n % step.rows;
        T sum = step.is_term ? pull[step.offset + n] : T(0);
        for (int axis = 0; axis < axes; ++axis) {
          sum += bone(step, from, axes, columns, i, axis) * bone(step, points, axes, columns, j, axis);
          sum += bone(step, points, axes, columns, i, axis) * bone(step, from, axes, columns, j, axis);
        }
        into[n] = sum;
      }
    }
  }
}

// A thread for each weight of the kernel `parameter`, [rows, columns].
template <class T>
__global__ void multiply_up(const Critic<T> critic, int parameter, int rows, int columns, const T* tangents,
                            const T* adjoints, const T* upstream, T* of_kernel) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= rows || column >= columns) return;
  T sum = 0;
  for (int index = 0; index < critic.count; ++index) {
    const Step<T>& step = critic.steps[index];
    if (step.kind != kDense || step.parameter != parameter) continue;
    const T* left = tangents + critic.steps[step.sources[0]].offset + row;
    const T* right = adjoints + step.offset + column;
    for (int64_t sample = 0; sample < critic.batch; ++sample) {
      sum += left[sample * critic.lines] * right[sample * critic.lines];
    }
  }
  of_kernel[static_cast<int64_t>(row) * columns + column] = *upstream * sum;
}

// Reads the plan, whose numbers were checked where it was made; false if it is too long for one launch. Lists that are
// null belong to what is not going to be used.
template <class T>
bool read(const int32_t* plan, const double* slopes, const T* const* real, const T* const* fake,
          const T* const* coefficients, const int32_t* sizes, const int32_t* for_each_number, const T* const* kernels,
          const int32_t* kernel_shapes, const T* const* biases, const T* const* grams, const int32_t* gram_shapes,
          Critic<T>* critic) {
  plan += 4;
  critic->batch_mean = *plan++;
  critic->count = *plan++;
  critic->lines = 0;
  if (critic->count > kMostSteps) return false;
  for (int index = 0; index < critic->count; ++index) {
    Step<T>& step = critic->steps[index];
    step = {};
    step.kind = *plan++;
    step.parameter = *plan++;
    const int bias = *plan++ - 1;
    step.num_sources = *plan++;
    if (step.num_sources > kMostSources) return false;
    int64_t size = 0;
    for (int source = 0; source < step.num_sources; ++source) {
      step.sources[source] = *plan++;
      size += critic->steps[step.sources[source]].size;
    }
    const int parameter = step.parameter;
    if (step.kind == kInput) {
      size = sizes[parameter];
      if (real) {
        step.real = real[parameter], step.fake = fake[parameter], step.coefficients = coefficients[parameter];
        step.for_each_number = for_each_number[parameter];
      }
    } else if (step.kind == kDense) {
      step.matrix = kernels ? kernels[parameter] : nullptr;
      step.rows = kernel_shapes[2 * parameter];
      size = kernel_shapes[2 * parameter + 1];
      step.bias = bias < 0 || !biases ? nullptr : biases[bias];
    } else if (step.kind == kLeaky) {
      step.slope = slopes ? static_cast<T>(slopes[parameter]) : T(0);
    } else if (step.kind == kGram) {
      step.matrix = grams ? grams[parameter] : nullptr;
      step.rows = gram_shapes[2 * parameter];
      step.parameter = gram_shapes[2 * parameter + 1];
      size = static_cast<int64_t>(step.rows) * step.rows;
    }
    if (critic->lines + size > kMostNumbers) return false;
    step.size = static_cast<int>(size);
    step.offset = critic->lines;
    critic->lines += step.size;
  }
  for (int left = *plan++; left > 0; --left) ++critic->steps[*plan++].outputs;
  for (int left = *plan++; left > 0; --left) critic->steps[*plan++].is_term = true;
  return true;
}

// The state: all values, all adjoints, and the penalty's derivatives.
template <class T>
struct State {
  State(const Critic<T>& critic, T* state)
      : size(critic.batch * critic.lines),
        pulled(critic.batch_mean ? critic.lines : size),
        values(state),
        adjoints(values + size),
        pulls(adjoints + size) {}

  int64_t size, pulled;
  T *values, *adjoints, *pulls;
};

template <class T>
int compute_value(const Critic<T>& critic, T* penalty, T* state, cudaStream_t stream, const PosekitMemory* memory) {
  if (critic.batch == 0) return cudaMemsetAsync(penalty, 0xff, sizeof(T), stream);  // not a number
  Scratch scratch(stream, memory);
  double* const penalties = scratch.get<double>(std::max<int64_t>(critic.batch, critic.count));
  if (scratch.error() != cudaSuccess) return scratch.error();
  const State<T> kept(critic, state);
  there_and_back<<<critic.batch, kThreads, 0, stream>>>(critic, kept.values, kept.adjoints, kept.pulls, penalties);
  if (critic.batch_mean) {
    penalise_means<<<critic.count, kThreads, 0, stream>>>(critic, kept.adjoints, kept.pulls, penalties);
  }
  const int64_t count = critic.batch_mean ? critic.count : critic.batch;
  add_penalties<<<1, kThreads, 0, stream>>>(penalties, count, penalty);
  return cudaGetLastError();
}

template <class T>
int compute_gradients(const Critic<T>& critic, int num_kernels, const int32_t* shapes, const T* state,
                      const T* upstream, T* const* of_kernels, cudaStream_t stream, const PosekitMemory* memory) {
  Scratch scratch(stream, memory);
  const State<T> kept(critic, const_cast<T*>(state));  // is only read
  T* const tangents = scratch.get<T>(kept.size);
  if (scratch.error() != cudaSuccess) return scratch.error();
  if (critic.batch) there_again<<<critic.batch, kThreads, 0, stream>>>(critic, kept.values, kept.pulls, tangents);
  for (int kernel = 0; kernel < num_kernels; ++kernel) {
    const int rows = shapes[2 * kernel], columns = shapes[2 * kernel + 1];
    if (rows == 0 || columns == 0) continue;
    const dim3 threads(32, 8), grid((columns + 31) / 32, (rows + 7) / 8);
    multiply_up<<<grid, threads, 0, stream>>>(critic, kernel, rows, columns, tangents, kept.adjoints, upstream,
                                              of_kernels[kernel]);
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace posekit

extern "C" int64_t posekit_cuda_gradient_penalty_state(const int32_t* plan, int64_t batch, const int32_t* sizes,
                                                       const int32_t* kernel_shapes, const int32_t* gram_shapes) {
  posekit::Critic<float> critic;
  critic.batch = batch;
  if (!posekit::read<float>(plan, nullptr, nullptr, nullptr, nullptr, sizes, nullptr, nullptr, kernel_shapes, nullptr,
                            nullptr, gram_shapes, &critic)) {
    return -1;
  }
  const posekit::State<float> state(critic, nullptr);
  return 2 * state.size + state.pulled;
}

#define POSEKIT_DEFINE(T, SUFFIX)                                                                                      \
  extern "C" int posekit_cuda_gradient_penalty_##SUFFIX(                                                               \
      const int32_t* plan, const double* slopes, int64_t batch, const T* const* real, const T* const* fake,            \
      const T* const* coefficients, const int32_t* sizes, const int32_t* for_each_number, const T* const* kernels,     \
      const int32_t* kernel_shapes, const T* const* biases, const T* const* grams, const int32_t* gram_shapes,         \
      T* penalty, T* state, cudaStream_t stream, const PosekitMemory* memory) {                                        \
    posekit::Critic<T> critic;                                                                                         \
    critic.batch = batch;                                                                                              \
    if (!posekit::read<T>(plan, slopes, real, fake, coefficients, sizes, for_each_number, kernels, kernel_shapes,      \
                          biases, grams, gram_shapes, &critic)) {                                                      \
      return cudaErrorInvalidValue;                                                                                    \
    }                                                                                                                  \
    return posekit::compute_value<T>(critic, penalty, state, stream, memory);                                          \
  }                                                                                                                    \
  extern "C" int posekit_cuda_gradient_penalty_gradients_##SUFFIX(                                                     \
      const int32_t* plan, const double* slopes, int64_t batch, const int32_t* sizes, const T* const* kernels,         \
      const int32_t* kernel_shapes, const T* const* grams, const int32_t* gram_shapes, const T* state,                 \
      const T* upstream, T* const* of_kernels, cudaStream_t stream, const PosekitMemory* memory) {                     \
    posekit::Critic<T> critic;                                                                                         \
    critic.batch = batch;                                                                                              \
    if (!posekit::read<T>(plan, slopes, nullptr, nullptr, nullptr, sizes, nullptr, kernels, kernel_shapes, nullptr,    \
                          grams, gram_shapes, &critic)) {                                                              \
      return cudaErrorInvalidValue;                                                                                    \
    }                                                                                                                  \
    return posekit::compute_gradients<T>(critic, plan[1], kernel_shapes, state, upstream, of_kernels, stream, memory); \
  }

POSEKIT_DEFINE(float, f32)
POSEKIT_DEFINE(double, f64)
