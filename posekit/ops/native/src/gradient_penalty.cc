// Flags: -ffp-contract=fast
#include "gradient_penalty.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"
#include "tile.h"

namespace posekit {
namespace {

constexpr int64_t kGroup = 32;  // samples that are worked on together, at most

// c[r][n] = (or +=, if more) sum over k of a(r, k) * b[k][n], for one vector of n. a(r, k) lies at r + k * a_stride if
// ADJACENT, else at r * a_stride + k.
template <class T, int BYTES, int ROWS, bool ADJACENT>
__attribute__((noinline)) void add_strip(const T* a, int64_t a_stride, int64_t depth, const T* b, int64_t b_stride,
                                         T* c, int64_t c_stride, bool more) {
  typedef T Vector __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
  Vector sums[ROWS] = {};
  // Few addresses, from each of which the processor reaches four lines: one a line is more than it has room for.
  const T* lines[(ROWS + 3) / 4];
#pragma GCC unroll 4
  for (int row = 0; row < ROWS; row += 4) lines[row / 4] = a + row * a_stride;
  for (int64_t k = 0; k < depth; ++k, b += b_stride) {
    const Vector right = *reinterpret_cast<const Vector*>(b);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
      sums[row] += (ADJACENT ? a[row] : lines[row / 4][row % 4 * a_stride]) * right;
    }
    a += a_stride;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row += 4) {
      ++lines[row / 4];
      if (!ADJACENT) asm("" : "+r"(lines[row / 4]));  // or the compiler makes one address a line of them
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; ++row) {
    Vector& to = *reinterpret_cast<Vector*>(c + row * c_stride);
    to = more ? to + sums[row] : sums[row];
  }
}

template <class T, int BYTES, bool ADJACENT>
void add_rows(int64_t rows, const T* a, int64_t a_stride, int64_t depth, const T* b, int64_t b_stride, T* c,
              int64_t c_stride, bool more) {
  const int64_t step = ADJACENT ? 1 : a_stride;
  while (rows > 0) {
    const int strip = rows >= kTileRows ? kTileRows : rows >= 4 ? 4 : 1;
    if (strip == kTileRows) {
      add_strip<T, BYTES, kTileRows, ADJACENT>(a, a_stride, depth, b, b_stride, c, c_stride, more);
    } else if (strip == 4) {
      add_strip<T, BYTES, 4, ADJACENT>(a, a_stride, depth, b, b_stride, c, c_stride, more);
    } else {
      add_strip<T, BYTES, 1, ADJACENT>(a, a_stride, depth, b, b_stride, c, c_stride, more);
    }
    rows -= strip, a += strip * step, c += strip * c_stride;
  }
}

// Half vectors, where whole ones are wide: less to pad.
template <class T>
constexpr int kStripBytes = kVectorBytes > 16 ? kVectorBytes / 2 : kVectorBytes;
template <class T>
constexpr int64_t kStrip = kStripBytes<T> / sizeof(T);

template <class T>
int64_t padded(int64_t count) {
  return (count + kStrip<T> - 1) / kStrip<T> * kStrip<T>;
}

// c [rows, columns] = (or +=) a [rows, depth] times b [depth, columns]; `columns` is a multiple of kStrip.
template <class T, bool ADJACENT>
void add_product(int64_t rows, const T* a, int64_t a_stride, int64_t depth, const T* b, int64_t b_stride, T* c,
                 int64_t c_stride, int64_t columns, bool more = true) {
  constexpr int64_t whole = kVectorBytes / sizeof(T);
  int64_t column = 0;
  for (; column + whole <= columns; column += whole) {
    add_rows<T, kVectorBytes, ADJACENT>(rows, a, a_stride, depth, b + column, b_stride, c + column, c_stride, more);
  }
  for (; column < columns; column += kStrip<T>) {
    add_rows<T, kStripBytes<T>, ADJACENT>(rows, a, a_stride, depth, b + column, b_stride, c + column, c_stride, more);
  }
}

// One computation. Of every group of samples, each step has its lines: a line holds one number of each sample.
template <class T>
class Penalty : public GradientPenalty<T> {
 public:
  Penalty(const CriticGraph& graph, const Critic<T>& critic, int64_t batch)
      : graph_(graph),
        critic_(critic),
        batch_(batch),
        group_(batch > kGroup ? kGroup : kGroup / 2),
        groups_((batch + group_ - 1) / group_) {
    lay_out();
  }

  int64_t state_size() const override { return state_size_; }

  // Fills the state, which is all that `gradients` needs.
  double value(const std::vector<Between<T>>& inputs, T* state) override {
    inputs_ = &inputs;
    place(state);
    const Scratch<T> values(lines_ * samples());
    values_ = values.data();
    std::memset(adjoints_, 0, lines_ * samples() * sizeof(T));
    penalties_.assign(batch_, 0.0);
    parallel_for(groups_, 1, [this](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        forward(group);
        backward(group);
        if (!graph_.batch_mean) penalise_samples(group);
      }
    });
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      if (roles_[index] == kPaired) count_pairs(index);
    }
    if (graph_.batch_mean) return penalise_means();
    double penalty = 0;
    for (double part : penalties_) penalty += part;
    return penalty / batch_;
  }

  void gradients(const T* state, T upstream, const std::vector<T*>& of_kernels) override {
    if (batch_ == 0) {
      for (size_t index = 0; index < of_kernels.size(); ++index) {
        std::fill_n(of_kernels[index], critic_.kernels[index].rows * critic_.kernels[index].columns, T(0));
      }
      return;
    }
    place(const_cast<T*>(state));  // is only read
    const Scratch<T> tangents(lines_ * samples());
    values_ = tangents.data();
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const T *pull = common_data_[index], *mean = mean_data_[index];
      if (pull) common_[index].assign(pull, pull + graph_.steps[index].size);
      for (T& value : common_[index]) value *= upstream;
      if (mean) means_[index].assign(mean, mean + graph_.steps[index].size);
    }
    parallel_for(groups_, 1, [this, upstream](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) go_forward(group, upstream);
    });
    multiply_all(of_kernels);
  }

 private:
  // What a group knows of itself: where its lines are and how long.
  struct Lines {
    int64_t first, used, width;  // samples
  };

  // With what pads the last group.
  int64_t samples() const { return groups_ ? (groups_ - 1) * group_ + padded<T>(batch_ - (groups_ - 1) * group_) : 0; }

  Lines lines_of(int64_t group) const {
    const int64_t first = group * group_, used = std::min(group_, batch_ - first);
    return {first, used, padded<T>(used)};
  }

  T* of(T* all, int64_t offset, const Lines& at, int64_t total) const {
    return all + total * at.first + offset * at.width;
  }
  // In the end, what comes forward takes this place.
  T* value(int step, const Lines& at) const { return of(values_, offsets_[step], at, lines_); }
  T* adjoint(int step, const Lines& at) const { return of(adjoints_, offsets_[step], at, lines_); }
  T* bones(int step, const Lines& at) const { return of(bones_data_, bone_offsets_[step], at, bones_); }
  T* bends(int step, const Lines& at) const { return of(bends_, sign_offsets_[step], at, signs_); }
  // The penalty's derivative by the gradient at an input, where each sample has its own.
  T* pull(int step, const Lines& at) const { return of(pulls_, pull_offsets_[step], at, pull_lines_); }

  bool is_input(int step) const { return graph_.steps[step].kind == CriticStep::kInput; }

  void lay_out() {
    const size_t count = graph_.steps.size();
    offsets_.assign(count, 0), bone_offsets_.assign(count, 0), sign_offsets_.assign(count, 0);
    pull_offsets_.assign(count, 0);
    common_data_.assign(count, nullptr), mean_data_.assign(count, nullptr), count_data_.assign(count, nullptr);
    std::vector<int> consumers(count);
    spread_.assign(count, !graph_.batch_mean);
    for (const CriticStep& step : graph_.steps) {
      for (int source : step.sources) {
        ++consumers[source];
        if (step.kind != CriticStep::kDense) spread_[source] = true;
      }
    }
    for (int output : graph_.outputs) ++consumers[output];
    share(consumers);
    for (size_t index = 0; index < count; ++index) {
      const CriticStep& step = graph_.steps[index];
      if (step.kind == CriticStep::kLeaky) {
        sign_offsets_[index] = signs_;
        signs_ += step.size;
        // Takes the place of a source that nobody else looks at.
        if (alone(index, consumers)) {
          offsets_[index] = offsets_[step.sources[0]];
          continue;
        }
      }
      if (step.kind == CriticStep::kGram) {
        bone_offsets_[index] = bones_;
        bones_ += critic_.grams[step.index].rows * coordinates(step);
      }
      if (step.kind == CriticStep::kInput && !graph_.batch_mean) {
        pull_offsets_[index] = pull_lines_;
        pull_lines_ += step.size;
      }
      offsets_[index] = lines_;
      lines_ += step.size;
    }
    place(nullptr);
  }

  // Where everything is in the state.
  void place(T* state) {
    T* next = state;
    const auto take = [&next, this](int64_t count) {
      state_size_ += count;
      T* const here = next;
      if (next) next += count;
      return here;
    };
    state_size_ = 0;
    adjoints_ = take(lines_ * samples());
    bones_data_ = take(bones_ * samples());
    bends_ = take(signs_ * samples());
    pulls_ = take(pull_lines_ * samples());
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      const bool dense = step.kind == CriticStep::kDense;
      if (roles_[index] == kPaired) count_data_[index] = take(critic_.kernels[step.index].rows * step.size);
      if (!graph_.batch_mean) continue;
      if (std::count(graph_.terms.begin(), graph_.terms.end(), static_cast<int>(index))) {
        common_data_[index] = take(step.size);
      }
      if (dense && is_input(step.sources[0])) mean_data_[index] = take(step.size);
    }
  }

  // Whether a leaky step has a dense source that nobody else looks at.
  bool alone(int leaky, const std::vector<int>& consumers) const {
    const int source = graph_.steps[leaky].sources[0];
    return consumers[source] == 1 && graph_.steps[source].kind == CriticStep::kDense;
  }

  // Finds what need not be computed sample by sample. Behind the last rectifiers, gradients are the same for all
  // samples. At a dense step right before such a rectifier they are that times its bends: the gradient E * w of its
  // kernel, where E sums what comes forward times the bends, gives what the sum over samples goes on with as well. If
  // the penalty is of means, what comes forward is likewise the same for all behind the inputs: then E is, in turn, a
  // line times the sum C of the products of two rectifiers' bends, which also gives what goes backward.
  void share(const std::vector<int>& consumers) {
    const int count = static_cast<int>(graph_.steps.size());
    std::vector<char> common(count, true);
    uses_.assign(critic_.kernels.size(), 0);
    common_adjoints_.assign(count, {}), totals_.assign(count, {}), means_.assign(count, {}), common_.assign(count, {});
    roles_.assign(count, kEach), leaky_of_.assign(count, -1);
    for (int output : graph_.outputs) {
      for (T& value : room(output)) value += 1;
    }
    for (int index = count - 1; index >= 0; --index) {
      const CriticStep& step = graph_.steps[index];
      const bool linear = step.kind == CriticStep::kDense || step.kind == CriticStep::kConcat;
      if (step.kind == CriticStep::kDense) ++uses_[step.index];
      if (!common[index] || !linear) {
        for (int source : step.sources) common[source] = false;
        if (common[index] && step.kind == CriticStep::kLeaky && alone(index, consumers)) {
          room(index);  // zeros, where nobody looks at it
          roles_[index] = kFolded;
          leaky_of_[step.sources[0]] = index;
        }
        continue;
      }
      roles_[index] = kCommon;
      const std::vector<T>& change = room(index);
      if (step.kind == CriticStep::kConcat) {
        const T* from = change.data();
        for (int source : step.sources) {
          for (T& value : room(source)) value += *from++;
        }
      } else if (graph_.batch_mean && is_input(step.sources[0])) {
        means_[index] = change;
      } else {
        const T* line = critic_.kernels[step.index].data;
        for (T& value : room(step.sources[0])) {
          value += dot(line, change.data(), step.size);
          line += step.size;
        }
      }
    }
    for (int index = 0; index < count; ++index) {
      const CriticStep& step = graph_.steps[index];
      if (leaky_of_[index] < 0) continue;
      if (uses_[step.index] > 1) {
        roles_[leaky_of_[index]] = kEach;
        leaky_of_[index] = -1;
        continue;
      }
      roles_[index] = kFolded;
      const int before = step.sources[0];
      if (!graph_.batch_mean || graph_.steps[before].kind != CriticStep::kLeaky || consumers[before] != 1 ||
          !alone(before, consumers)) {
        continue;
      }
      const int first = graph_.steps[before].sources[0];
      if (!is_input(graph_.steps[first].sources[0])) continue;
      roles_[index] = kPaired;
      roles_[before] = roles_[first] = kBefore;
    }
  }

  std::vector<T>& room(int step) {
    if (common_adjoints_[step].empty()) common_adjoints_[step].resize(graph_.steps[step].size);
    return common_adjoints_[step];
  }

  int64_t coordinates(const CriticStep& gram) const {
    return graph_.steps[gram.sources[0]].size / critic_.grams[gram.index].columns;
  }

  void forward(int64_t group) {
    const Lines at = lines_of(group);
    const int64_t width = at.width;
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      T* const into = value(index, at);
      switch (step.kind) {
        case CriticStep::kInput:
          interpolate(step, at, into);
          break;
        case CriticStep::kDense: {
          const Matrix<T>& kernel = critic_.kernels[step.index];
          for (int64_t n = 0; n < step.size; ++n) {
            std::fill_n(into + n * width, width, step.bias < 0 ? T(0) : critic_.biases[step.bias][n]);
          }
          add_product<T, true>(step.size, kernel.data, step.size, kernel.rows, value(step.sources[0], at), width, into,
                               width, width);
          break;
        }
        case CriticStep::kLeaky: {
          const T* from = value(step.sources[0], at);
          const T slope = static_cast<T>(critic_.slopes[step.index]);
          T* const bend = bends(index, at);
          for (int64_t n = 0; n < step.size * width; ++n) {
            bend[n] = from[n] > 0 ? T(1) : slope;
            into[n] = from[n] * bend[n];
          }
          break;
        }
        case CriticStep::kConcat: {
          T* to = into;
          for (int source : step.sources) {
            to = std::copy_n(value(source, at), graph_.steps[source].size * width, to);
          }
          break;
        }
        case CriticStep::kGram: {
          const int64_t count = critic_.grams[step.index].rows, axes = coordinates(step);
          T* const vectors = bones(index, at);
          apply(critic_.grams[step.index], axes, value(step.sources[0], at), width, vectors);
          for (int64_t at_strip = 0; at_strip < width; at_strip += kStrip<T>) {
            const auto vector = [=](int64_t line) { return strip(vectors + line * width + at_strip); };
            for (int64_t i = 0; i < count; ++i) {
              for (int64_t j = 0; j <= i; ++j) {
                Strip sum = {};
                for (int64_t axis = 0; axis < axes; ++axis) sum += vector(i * axes + axis) * vector(j * axes + axis);
                strip(into + (i * count + j) * width + at_strip) = sum;
                strip(into + (j * count + i) * width + at_strip) = sum;
              }
            }
          }
        }
      }
    }
  }

  void interpolate(const CriticStep& step, const Lines& at, T* into) const {
    const Between<T>& input = (*inputs_)[step.index];
    constexpr int64_t kBlock = 64;
    T mixed[kBlock];
    for (int64_t sample = 0; sample < at.width; ++sample) {
      const int64_t row = at.first + sample;
      for (int64_t begin = 0; begin < step.size; begin += kBlock) {
        const int64_t count = std::min(kBlock, step.size - begin), which = row * step.size + begin;
        if (sample >= at.used) {
          std::fill_n(mixed, count, T(0));
        } else if (input.for_each_number) {
          mix(input, input.coefficients + which, which, count, mixed);
        } else {
          T factors[kBlock];
          std::fill_n(factors, count, input.coefficients[row]);
          mix(input, factors, which, count, mixed);
        }
        for (int64_t n = 0; n < count; ++n) into[(begin + n) * at.width + sample] = mixed[n];
      }
    }
  }

  static void mix(const Between<T>& input, const T* factors, int64_t which, int64_t count, T* __restrict__ mixed) {
    const T *real = input.real + which, *fake = input.fake + which;
    for (int64_t n = 0; n < count; ++n) mixed[n] = fake[n] + factors[n] * (real[n] - fake[n]);
  }

  // Lines consist of these.
  typedef T Strip __attribute__((vector_size(kStripBytes<T>), aligned(sizeof(T)), may_alias));
  static Strip& strip(T* at) { return *reinterpret_cast<Strip*>(at); }
  static const Strip& strip(const T* at) { return *reinterpret_cast<const Strip*>(at); }

  static void add_times(T a, const T* __restrict__ b, int64_t width, T* __restrict__ into) {
    for (int64_t n = 0; n < width; ++n) into[n] += a * b[n];
  }

  // lines of [matrix.rows, axes] = matrix times lines of [matrix.columns, axes]
  static void apply(const Matrix<T>& matrix, int64_t axes, const T* points, int64_t width, T* into) {
    std::fill_n(into, matrix.rows * axes * width, T(0));
    for (int64_t i = 0; i < matrix.rows; ++i) {
      for (int64_t j = 0; j < matrix.columns; ++j) {
        const T factor = matrix.data[i * matrix.columns + j];
        if (factor != 0) add_times(factor, points + j * axes * width, axes * width, into + i * axes * width);
      }
    }
  }

  // The gradients of the summed outputs. Samples that only pad a group have none. Where an average over samples is all
  // that is asked for, inputs of dense layers get none here.
  void backward(int64_t group) {
    const Lines at = lines_of(group);
    const int64_t width = at.width;
    for (int index = static_cast<int>(graph_.steps.size()) - 1; index >= 0; --index) {
      const CriticStep& step = graph_.steps[index];
      if (roles_[index] == kCommon || roles_[index] == kBefore) continue;
      T* const change = adjoint(index, at);
      for (size_t line = 0; line < common_adjoints_[index].size(); ++line) {
        for (int64_t n = 0; n < at.used; ++n) change[line * width + n] += common_adjoints_[index][line];
      }
      if (roles_[index] == kPaired) continue;
      switch (step.kind) {
        case CriticStep::kInput:
          break;
        case CriticStep::kDense: {
          const int source = step.sources[0];
          if (is_input(source) && graph_.batch_mean) break;
          const Matrix<T>& kernel = critic_.kernels[step.index];
          add_product<T, false>(kernel.rows, kernel.data, step.size, step.size, change, width, adjoint(source, at),
                                width, width);
          break;
        }
        case CriticStep::kLeaky: {
          bend(index, at, change, adjoint(step.sources[0], at));
          break;
        }
        case CriticStep::kConcat: {
          const T* from = change;
          for (int source : step.sources) {
            T* into = adjoint(source, at);
            for (int64_t n = 0; n < graph_.steps[source].size * width; ++n) into[n] += *from++;
          }
          break;
        }
        case CriticStep::kGram: {
          const Matrix<T>& matrix = critic_.grams[step.index];
          const int64_t count = matrix.rows, axes = coordinates(step);
          const T* const vectors = bones(index, at);
          T* const into = adjoint(step.sources[0], at);
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t at_strip = 0; at_strip < width; at_strip += kStrip<T>) {
              for (int64_t axis = 0; axis < axes; ++axis) {
                Strip sum = {};
                for (int64_t j = 0; j < count; ++j) {
                  sum += strip(vectors + (j * axes + axis) * width + at_strip) *
                         (strip(change + (i * count + j) * width + at_strip) +
                          strip(change + (j * count + i) * width + at_strip));
                }
                for (int64_t point = 0; point < matrix.columns; ++point) {
                  const T factor = matrix.data[i * matrix.columns + point];
                  if (factor != 0) strip(into + (point * axes + axis) * width + at_strip) += factor * sum;
                }
              }
            }
          }
        }
      }
    }
  }

  // What passes a leaky step, in either direction; `into` may be `from`, and is added to if it is not.
  void bend(int index, const Lines& at, const T* from, T* into) const {
    const T* const factors = bends(index, at);
    const int64_t count = graph_.steps[index].size * at.width;
    if (from == into) {
      for (int64_t n = 0; n < count; ++n) into[n] *= factors[n];
    } else {
      for (int64_t n = 0; n < count; ++n) into[n] += factors[n] * from[n];
    }
  }

  // (1 - |g|)^2, and what its derivative by g has to be multiplied by to give g's; 0 where g is 0.
  static double penalise(double square, double* factor) {
    const double norm = std::sqrt(square);
    *factor = norm > 0 || norm != norm ? 2 * (norm - 1) / norm : 0.0;
    return (1 - norm) * (1 - norm);
  }

  void penalise_samples(int64_t group) {
    const Lines at = lines_of(group);
    double squares[kGroup] = {};
    for (int term : graph_.terms) {
      const T* from = adjoint(term, at);
      for (int64_t line = 0; line < graph_.steps[term].size; ++line, from += at.width) {
        for (int64_t n = 0; n < at.used; ++n) squares[n] += static_cast<double>(from[n]) * from[n];
      }
    }
    T factors[kGroup] = {};
    for (int64_t n = 0; n < at.used; ++n) {
      double factor;
      penalties_[at.first + n] = penalise(squares[n], &factor);
      factors[n] = static_cast<T>(factor / batch_);
    }
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      if (step.kind != CriticStep::kInput) continue;
      const bool counts = std::count(graph_.terms.begin(), graph_.terms.end(), static_cast<int>(index));
      T* into = pull(index, at);
      const T* from = adjoint(index, at);
      for (int64_t line = 0; line < step.size; ++line, into += at.width, from += at.width) {
        for (int64_t n = 0; n < at.width; ++n) into[n] = counts ? factors[n] * from[n] : T(0);
      }
    }
  }

  // The mean over the batch of a step's gradient.
  std::vector<double> mean_adjoint(int step) const {
    std::vector<double> sums(graph_.steps[step].size);
    for (int64_t first = 0; first < batch_; first += group_) {
      const Lines at = lines_of(first / group_);
      const T* from = adjoint(step, at);
      for (double& sum : sums) {
        T line = 0;
        for (int64_t n = 0; n < at.used; ++n) line += from[n];
        sum += line;
        from += at.width;
      }
    }
    for (double& sum : sums) sum /= batch_;
    return sums;
  }

  double penalise_means() {
    double penalty = 0;
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      if (step.kind != CriticStep::kDense || !is_input(step.sources[0]) || !means_[index].empty()) continue;
      const std::vector<double> mean = mean_adjoint(index);
      means_[index].assign(mean.begin(), mean.end());
    }
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      if (mean_data_[index]) std::copy(means_[index].begin(), means_[index].end(), mean_data_[index]);
    }
    for (int term : graph_.terms) {
      std::vector<double> gradient(graph_.steps[term].size);
      if (spread_[term] || !is_input(term)) gradient = mean_adjoint(term);
      for (size_t index = 0; index < graph_.steps.size(); ++index) {
        const CriticStep& step = graph_.steps[index];
        if (step.kind != CriticStep::kDense || step.sources[0] != term || !is_input(term)) continue;
        for (size_t row = 0; row < gradient.size(); ++row) {
          gradient[row] += dot(critic_.kernels[step.index].data + row * step.size, means_[index].data(), step.size);
        }
      }
      double square = 0, factor;
      for (double value : gradient) square += value * value;
      penalty += penalise(square, &factor);
      for (size_t row = 0; row < gradient.size(); ++row) {
        common_data_[term][row] = static_cast<T>(factor / batch_ * gradient[row]);
      }
    }
    return penalty;
  }

  // The sum of a * b, or of a * b * c.
  static T dot(const T* a, const T* b, int64_t count, const T* c = nullptr) {
    typedef T Whole __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
    constexpr int64_t width = kVectorBytes / sizeof(T);
    Whole lanes = {};
    T sum = 0;
    int64_t n = 0;
    for (; n + width <= count; n += width) {
      const Whole both = *reinterpret_cast<const Whole*>(a + n) * *reinterpret_cast<const Whole*>(b + n);
      lanes += c ? both * *reinterpret_cast<const Whole*>(c + n) : both;
    }
    for (; n < count; ++n) sum += a[n] * b[n] * (c ? c[n] : T(1));
    for (int64_t lane = 0; lane < width; ++lane) sum += lanes[lane];
    return sum;
  }

  // How the penalty's derivative by the gradients of the terms goes forward through the critic. A line that is the same
  // for all samples, `common_`, is multiplied by a kernel once.
  void go_forward(int64_t group, T upstream) {
    const Lines at = lines_of(group);
    const int64_t width = at.width;
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      if (roles_[index] != kEach) continue;
      T* const into = value(index, at);
      const int source = step.sources.empty() ? -1 : step.sources[0];
      switch (step.kind) {
        case CriticStep::kInput: {
          if (!graph_.batch_mean) {
            const T* const from = pull(index, at);
            for (int64_t n = 0; n < step.size * width; ++n) into[n] = upstream * from[n];
          }
          if (!graph_.batch_mean || !spread_[index]) break;
          for (int64_t n = 0; n < step.size; ++n) {
            std::fill_n(into + n * width, width, common_[index].empty() ? T(0) : common_[index][n]);
          }
          break;
        }
        case CriticStep::kDense: {
          const Matrix<T>& kernel = critic_.kernels[step.index];
          if (graph_.batch_mean && is_input(source)) {
            const std::vector<T> sums = times(common_[source], kernel);
            for (int64_t n = 0; n < step.size; ++n) std::fill_n(into + n * width, width, sums[n]);
            break;
          }
          std::fill_n(into, step.size * width, T(0));
          add_product<T, true>(step.size, kernel.data, step.size, kernel.rows, value(source, at), width, into, width,
                               width);
          break;
        }
        case CriticStep::kLeaky: {
          const T* const from = value(source, at);
          if (from != into) std::fill_n(into, step.size * width, T(0));
          bend(index, at, from, into);
          break;
        }
        case CriticStep::kConcat: {
          T* to = into;
          for (int part : step.sources) to = std::copy_n(value(part, at), graph_.steps[part].size * width, to);
          break;
        }
        case CriticStep::kGram: {
          const int64_t count = critic_.grams[step.index].rows, axes = coordinates(step);
          const T* const vectors = bones(index, at);
          const bool penalised = graph_.batch_mean && !common_[index].empty();
          std::vector<T> changes(count * axes * width);
          apply(critic_.grams[step.index], axes, value(source, at), width, changes.data());
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < count; ++j) {
              const T common = penalised ? common_[index][i * count + j] : T(0);
              for (int64_t at_strip = 0; at_strip < width; at_strip += kStrip<T>) {
                Strip sum = Strip{} + common;
                for (int64_t axis = 0; axis < axes; ++axis) {
                  const int64_t one = (i * axes + axis) * width, other = (j * axes + axis) * width;
                  sum += strip(changes.data() + one + at_strip) * strip(vectors + other + at_strip);
                  sum += strip(vectors + one + at_strip) * strip(changes.data() + other + at_strip);
                }
                strip(into + (i * count + j) * width + at_strip) = sum;
              }
            }
          }
        }
      }
    }
  }

  // line times kernel; a line of no length stands for zeros.
  static std::vector<T> times(const std::vector<T>& line, const Matrix<T>& kernel) {
    std::vector<T> sums(kernel.columns);
    for (size_t k = 0; k < line.size(); ++k) {
      add_times(line[k], kernel.data + k * kernel.columns, kernel.columns, sums.data());
    }
    return sums;
  }

  // Calls use(row, sums) for every line of the sum over samples of left * right^T, where `left` and `right` give the
  // lines of a group; on any thread.
  template <class Left, class Right, class Use>
  void multiply_up(int64_t rows, int64_t columns, const Left& left, const Right& right, const Use& use) {
    if (columns == 0) return;
    // The right side, with the samples one below the other, and a little room for whole vectors.
    const int64_t wide = padded<T>(columns);
    const Scratch<T> turned(groups_ * group_ * wide);
    parallel_for(groups_, (1 << 16) / (group_ * wide) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const Lines at = lines_of(group);
        const T* from = right(at);
        T* const to = turned.data() + group * group_ * wide;
        for (int64_t n = 0; n < wide; ++n) {
          for (int64_t sample = 0; sample < at.used; ++sample) {
            to[sample * wide + n] = n < columns ? from[n * at.width + sample] : T(0);
          }
        }
      }
    });
    const int64_t work = columns * std::max<int64_t>(1, batch_);
    const int64_t fair = (rows + num_threads() - 1) / num_threads(), most = (1 << 19) / work;
    const int64_t grain = (std::min(fair, std::max<int64_t>(most, 1)) + kTileRows - 1) / kTileRows * kTileRows;
    parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
      const Scratch<T> sums(kTileRows * wide);
      for (int64_t row = begin; row < end; row += kTileRows) {
        const int64_t count = std::min<int64_t>(kTileRows, end - row);
        // Of no samples, the sums are zeros.
        for (int64_t group = 0; group < std::max<int64_t>(1, groups_); ++group) {
          const Lines at = lines_of(group);
          add_product<T, false>(count, left(at) + row * at.width, at.width, at.used,
                                turned.data() + group * group_ * wide, wide, sums.data(), wide, wide, group > 0);
        }
        for (int64_t line = 0; line < count; ++line) use(row + line, sums.data() + line * wide);
      }
    });
  }

  // C of a paired step, and the mean that goes backward.
  void count_pairs(int index) {
    const CriticStep& step = graph_.steps[index];
    const Matrix<T>& kernel = critic_.kernels[step.index];
    const int before = step.sources[0], leaky = leaky_of_[index];
    std::vector<T>& mean = means_[graph_.steps[before].sources[0]];
    mean.resize(kernel.rows);
    const T* const common = common_adjoints_[leaky].data();
    const auto left = [&](const Lines& at) { return bends(before, at); };
    const auto right = [&](const Lines& at) { return bends(leaky, at); };
    multiply_up(kernel.rows, kernel.columns, left, right, [&](int64_t row, const T* counts) {
      std::copy_n(counts, kernel.columns, count_data_[index] + row * kernel.columns);
      mean[row] = dot(counts, kernel.data + row * kernel.columns, kernel.columns, common) / batch_;
    });
  }

  // The sum over samples of what comes forward to a step.
  std::vector<T> total(int index) const {
    const CriticStep& step = graph_.steps[index];
    if (!totals_[index].empty()) return totals_[index];
    std::vector<T> sums;
    if (step.kind == CriticStep::kInput && graph_.batch_mean) {
      for (T value : common_[index]) sums.push_back(value * static_cast<T>(batch_));
      sums.resize(step.size);
    } else if (step.kind == CriticStep::kConcat) {
      for (int source : step.sources) {
        const std::vector<T> part = total(source);
        sums.insert(sums.end(), part.begin(), part.end());
      }
    } else {
      sums.resize(step.size);
      for (int64_t first = 0; first < batch_; first += group_) {
        const Lines at = lines_of(first / group_);
        for (int64_t line = 0; line < step.size; ++line) {
          for (int64_t n = 0; n < at.used; ++n) sums[line] += value(index, at)[line * at.width + n];
        }
      }
    }
    return sums;
  }

  // A line of E, but for a factor, gives one of the kernel's gradient, perhaps in its own place; `sums` increase by
  // what goes on.
  static void finish(const T* line, T factor, const T* weights, const T* changes, int64_t count, T* to, T* sums) {
#pragma GCC ivdep
    for (int64_t n = 0; n < count; ++n) {
      const T sum = line[n] * factor;
      sums[n] += sum * weights[n];
      to[n] = sum * changes[n];
    }
  }

  // The gradient of a kernel that is one product of a line that comes in forward and one that comes in backward.
  struct Outer {
    std::vector<T> line;
    const std::vector<T>& change;
    T* into;

    void write(int64_t begin, int64_t end, bool more) const {
      const int64_t columns = change.size();
      for (int64_t row = begin; row < end; ++row) {
        T* const to = into + row * columns;
        if (more) {
          add_times(line[row], change.data(), columns, to);
        } else {
          for (int64_t n = 0; n < columns; ++n) to[n] = line[row] * change[n];
        }
      }
    }
  };

  static void write(const std::vector<Outer>& products) {
    constexpr size_t kNumbers = 1 << 13;  // of a piece
    struct Piece {
      const Outer* product;
      int64_t begin, end;
    };
    std::vector<Piece> pieces;
    for (const Outer& product : products) {
      const int64_t rows = product.line.size(), step = kNumbers / std::max<size_t>(1, product.change.size()) + 1;
      for (int64_t row = 0; row < rows; row += step) pieces.push_back({&product, row, std::min(rows, row + step)});
    }
    parallel_for(pieces.size(), 1, [&pieces](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        pieces[index].product->write(pieces[index].begin, pieces[index].end, false);
      }
    });
  }

  // Of every kernel: the sum over samples of the products of what comes in forward and what comes in backward.
  void multiply_all(const std::vector<T*>& of_kernels) {
    std::vector<Outer> products;  // of layers that occur once: these are written at the end, by all threads
    std::vector<char> begun(of_kernels.size());
    for (size_t index = 0; index < graph_.steps.size(); ++index) {
      const CriticStep& step = graph_.steps[index];
      if (step.kind != CriticStep::kDense) continue;
      const int source = step.sources[0], role = roles_[index];
      const Matrix<T>& kernel = critic_.kernels[step.index];
      T* const into = of_kernels[step.index];
      const bool more = begun[step.index];  // of a layer that occurs more than once
      begun[step.index] = true;
      if (role == kCommon || (graph_.batch_mean && is_input(source))) {
        Outer product{total(source), role == kCommon ? common_adjoints_[index] : means_[index], into};
        if (role == kCommon) totals_[index] = times(product.line, kernel);
        if (role == kFolded) {
          // What comes forward is the same for all: the sum is that times the sum of the bends.
          totals_[leaky_of_[index]] = times(common_[source], kernel);
          for (int64_t n = 0; n < step.size; ++n) {
            T sum = 0;
            for (int64_t first = 0; first < batch_; first += group_) {
              const Lines at = lines_of(first / group_);
              const T* factors = bends(leaky_of_[index], at) + n * at.width;
              for (int64_t sample = 0; sample < at.used; ++sample) sum += factors[sample];
            }
            totals_[leaky_of_[index]][n] *= sum;
          }
        }
        if (uses_[step.index] > 1) {
          product.write(0, kernel.rows, more);
        } else {
          products.push_back(std::move(product));
        }
        continue;
      }
      const auto left = [&](const Lines& at) { return value(source, at); };
      if (role == kEach) {
        const auto right = [&](const Lines& at) { return adjoint(index, at); };
        multiply_up(kernel.rows, kernel.columns, left, right, [&](int64_t row, const T* sums) {
          T* const to = into + row * kernel.columns;
          for (int64_t n = 0; n < kernel.columns; ++n) to[n] = more ? to[n] + sums[n] : sums[n];
        });
        continue;
      }
      const int leaky = leaky_of_[index];
      std::vector<T> factors(kernel.rows, T(1));
      if (role == kPaired) {
        const CriticStep& first = graph_.steps[graph_.steps[source].sources[0]];
        factors = times(common_[first.sources[0]], critic_.kernels[first.index]);
      } else {
        const auto right = [&](const Lines& at) { return bends(leaky, at); };
        multiply_up(kernel.rows, kernel.columns, left, right, [&](int64_t row, const T* sums) {
          std::copy_n(sums, kernel.columns, into + row * kernel.columns);
        });
      }
      // E is there, but for a factor.
      std::vector<T> sums(kernel.columns);
      for (int64_t row = 0; row < kernel.rows; ++row) {
        const int64_t line = row * kernel.columns;
        finish((role == kPaired ? count_data_[index] : into) + line, factors[row], kernel.data + line,
               common_adjoints_[leaky].data(), kernel.columns, into + line, sums.data());
      }
      totals_[leaky] = sums;
    }
    write(products);
    for (size_t index = 0; index < of_kernels.size(); ++index) {
      const Matrix<T>& unused = critic_.kernels[index];
      if (!begun[index]) std::fill_n(of_kernels[index], unused.rows * unused.columns, T(0));
    }
  }

  const CriticGraph& graph_;
  const Critic<T>& critic_;
  const int64_t batch_, group_, groups_;  // samples, of a group at most, and groups
  const std::vector<Between<T>>* inputs_ = nullptr;
  std::vector<int64_t> offsets_, bone_offsets_, sign_offsets_, pull_offsets_;
  std::vector<char> spread_;  // whether a step's lines are used
  // How a step is computed: sample by sample; or see share(), also for what stands before a paired step.
  enum Role { kEach, kCommon, kFolded, kPaired, kBefore };
  std::vector<Role> roles_;
  std::vector<int> leaky_of_;  // the rectifier of a folded or paired step
  std::vector<int> uses_;      // of each kernel, by dense steps
  int64_t lines_ = 0, bones_ = 0, signs_ = 0, pull_lines_ = 0, state_size_ = 0;
  T *values_, *adjoints_, *bones_data_, *bends_, *pulls_;
  std::vector<T*> common_data_, mean_data_, count_data_;  // lines and sums that the state keeps
  std::vector<double> penalties_;
  // Lines that are the same for all samples: gradients, sums of what comes forward, mean gradients, derivatives.
  std::vector<std::vector<T>> common_adjoints_, totals_, means_, common_;
};

}  // namespace

template <class T>
std::unique_ptr<GradientPenalty<T>> GradientPenalty<T>::make(const CriticGraph& graph, const Critic<T>& critic,
                                                             int64_t batch) {
  return std::make_unique<Penalty<T>>(graph, critic, batch);
}

template class GradientPenalty<float>;
template class GradientPenalty<double>;

}  // namespace posekit
