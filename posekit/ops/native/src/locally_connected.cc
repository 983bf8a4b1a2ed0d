// Flags: -ffp-contract=fast
#include "locally_connected.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "tile.h"

namespace posekit {
namespace {

using Lists = std::vector<std::vector<int64_t>>;  // of joints, for every joint

template <class T>
Lists neighbours(const LocallyConnected<T>& layer, bool outgoing) {
  Lists lists(layer.joints);
  for (int64_t from = 0; from < layer.joints; ++from) {
    for (int64_t to = 0; to < layer.joints; ++to) {
      if (layer.support[from * layer.joints + to]) lists[outgoing ? from : to].push_back(outgoing ? to : from);
    }
  }
  return lists;
}

// What blocks are multiplied by because of the norm. A kernel that is not finite gives nothing that is a number.
double clip(double square, double max_norm) {
  const double norm = std::sqrt(square);
  return norm <= max_norm ? 1.0 : norm < std::numeric_limits<double>::infinity() ? max_norm / norm : std::nan("");
}

// Calls body(task, scratch) for all tasks in the order of `tasks`, each worker with `size` numbers of its own.
template <class T, class Body>
void with_scratch(const std::vector<int64_t>& tasks, int64_t size, const Body& body) {
  const int64_t count = static_cast<int64_t>(tasks.size());
  const int64_t workers = std::min<int64_t>(num_threads(), count);
  size = (size + 15) / 16 * 16;
  const Scratch<T> scratch(workers * size);
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t task; (task = next.fetch_add(1)) < count;) body(tasks[task], scratch.data() + worker * size);
    }
  });
}

// Tasks by falling cost, so that the last ones are short.
template <class Cost>
std::vector<int64_t> longest_first(int64_t count, const Cost& cost) {
  std::vector<int64_t> tasks(count);
  std::iota(tasks.begin(), tasks.end(), 0);
  std::stable_sort(tasks.begin(), tasks.end(), [&](int64_t a, int64_t b) { return cost(a) > cost(b); });
  return tasks;
}

// result [batch, joints * width] = x [batch, joints * depth] times the blocks of its sources: of the kernel, or of the
// transposed kernel. A task packs the blocks of one panel of one joint and multiplies a part of all rows by them.
template <class T, bool TRANSPOSED>
void multiply(const LocallyConnected<T>& layer, double square, int64_t batch, const T* x, const T* bias, T* result) {
  const Lists sources = neighbours(layer, TRANSPOSED);
  const int64_t joints = layer.joints;
  const int64_t depth = TRANSPOSED ? layer.out : layer.in, width = TRANSPOSED ? layer.in : layer.out;
  const int64_t stride = joints * layer.out;
  if (batch == 0 || joints * width == 0) return;

  // Tiles of rows, packed.
  const int64_t long_row = joints * depth;
  const Scratch<T> packed(batch * long_row);
  const int64_t part = std::max<int64_t>(kTileRows, 4096 / std::max<int64_t>(1, long_row) / kTileRows * kTileRows);
  parallel_for(batch, part, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end;) {
      const int rows = tile_rows(end - row);
      pack_left(x + row * long_row, long_row, rows, long_row, packed.data() + row * long_row);
      row += rows;
    }
  });

  const double scale = clip(square, layer.max_norm);
  const int64_t panels = (width + Simd<T>::kColumns - 1) / Simd<T>::kColumns;
  // Only with many threads and many rows is the work of a panel divided: each part packs it anew.
  const int64_t most_parts = std::max<int64_t>(1, batch / 256);
  const int64_t wanted = (3 * num_threads() + joints * panels - 1) / (joints * panels);
  const int64_t parts = num_threads() == 1 ? 1 : std::min(most_parts, wanted);
  const int64_t rows_of_part = ((batch + parts - 1) / parts + part - 1) / part * part;
  size_t most = 0;
  for (const auto& list : sources) most = std::max(most, list.size());
  const int64_t tile = kTileRows * Simd<T>::kColumns;
  const auto tasks = longest_first(joints * panels * parts, [&](int64_t task) {
    return sources[task / parts / panels].size() * std::min<int64_t>(Simd<T>::kColumns, width);
  });
  with_scratch<T>(tasks, tile + most * depth * Simd<T>::kColumns, [&](int64_t task, T* c) {
    const int64_t joint = task / parts / panels, first = task / parts % panels * Simd<T>::kColumns;
    const int64_t columns = std::min<int64_t>(Simd<T>::kColumns, width - first);
    const int64_t padded = panel_width<T>(columns);
    T* const panel = c + tile;
    T* into = panel;
    std::vector<int64_t> starts;
    for (int64_t source : sources[joint]) {
      const int64_t from = TRANSPOSED ? joint : source, to = TRANSPOSED ? source : joint;
      const T factor = layer.mask[from * joints + to] * static_cast<T>(scale);
      const T* block = layer.kernel + from * layer.in * stride + to * layer.out;
      if (TRANSPOSED) {
        pack_right_transposed(block + first * stride, stride, depth, columns, factor, padded, into);
      } else {
        pack_right(block + first, stride, depth, columns, factor, padded, into);
      }
      into += depth * padded;
      starts.push_back(source * depth);
    }
    const int64_t begin = task % parts * rows_of_part, end = std::min(batch, begin + rows_of_part);
    for (int64_t row = begin; row < end;) {
      // As packed: tiles do not cross the borders of what was packed in one piece.
      const int rows = tile_rows(std::min(end, (row / part + 1) * part) - row);
      const T* a = packed.data() + row * long_row;
      multiply_tile<T>(rows, {a, starts.data(), static_cast<int64_t>(starts.size()), depth, panel}, padded, c);
      for (int line = 0; line < rows; ++line, ++row) {
        T* to = result + row * joints * width + joint * width + first;
        const T* product = c + line * padded;
        for (int64_t n = 0; n < columns; ++n) to[n] = product[n] + (bias ? bias[joint * width + first + n] : T(0));
      }
    }
  });
}

// Writes past the caches, where the processor can. Others see it after finish_streams().
template <class T>
void stream(typename Simd<T>::Vector value, T* to) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
#else
  *reinterpret_cast<typename Simd<T>::Vector*>(to) = value;
#endif
}

void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The gradient of weights without a neighbour: both factors times them, or zeros.
template <class T>
void write_unused(const T* weights, T inverse, T factor, bool zeros, bool streamed, int64_t count, T* to) {
  typedef typename Simd<T>::Vector Vector;
  typedef Vector Loaded __attribute__((aligned(sizeof(T)), may_alias));
  int64_t n = 0;
  if (streamed && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0) {
    for (; n + Simd<T>::kWidth <= count; n += Simd<T>::kWidth) {
      stream<T>(zeros ? Vector{} : *reinterpret_cast<const Loaded*>(weights + n) * inverse * factor, to + n);
    }
  }
  for (; n < count; ++n) to[n] = zeros ? T(0) : weights[n] * inverse * factor;
}

// Rows summed in one go by the gradient of the kernel; more are added up in pieces, for the sake of rounding.
constexpr int64_t kRowsAtOnce = 1024;

// Rows whose upstream gradient is packed at a time.
constexpr int64_t kRowsPacked = 16 * kRowsAtOnce;

// Packs `used` columns of the upstream gradient and adds up their sums; returns the sum of their products with
// values - bias (0 without values).
template <class T>
double pack_changes(const T* upstream, int64_t stride, int64_t batch, int64_t used, const T* values, const T* bias,
                    T* into, double* of_bias) {
  constexpr int64_t kRows = 32;  // added up in T, between sums of double precision
  double totals[Simd<T>::kColumns] = {}, along = 0;
  const int64_t padded = panel_width<T>(used);
  T offsets[Simd<T>::kColumns] = {};
  std::copy(bias, bias + used, offsets);
  const auto add = [&](int64_t begin, int64_t end, int64_t columns) __attribute__((always_inline)) {
    T sums[Simd<T>::kColumns] = {}, products[Simd<T>::kColumns] = {};
    for (int64_t row = begin; row < end; ++row) {
      const T* from = upstream + row * stride;
      for (int64_t n = 0; n < columns; ++n) {
        into[row * padded + n] = from[n];
        sums[n] += from[n];
      }
      for (int64_t n = columns; n < padded; ++n) into[row * padded + n] = 0;
      if (!values) continue;
      for (int64_t n = 0; n < columns; ++n) products[n] += from[n] * (values[row * stride + n] - offsets[n]);
    }
    for (int64_t n = 0; n < columns; ++n) {
      totals[n] += sums[n];
      along += products[n];
    }
  };
  for (int64_t row = 0; row < batch; row += kRows) {
    if (used == Simd<T>::kColumns) {
      add(row, std::min(batch, row + kRows), Simd<T>::kColumns);
    } else {
      add(row, std::min(batch, row + kRows), used);
    }
  }
  for (int64_t n = 0; n < used; ++n) of_bias[n] += totals[n];
  return along;
}

// What the gradients of the weights are computed from.
template <class T>
struct Samples {
  int64_t batch;
  const T *rows, *bias, *output, *upstream;
};

// The gradients of kernel, mask and bias. The upstream gradient is packed in panels, each of which begins a cache line;
// of a long batch, one part after another. A task computes whole lines of the kernel's gradient, of one joint and at
// most kTileRows of its features, which are then written from end to end.
template <class T>
class KernelGradient {
 public:
  KernelGradient(const LocallyConnected<T>& layer, double square, const Samples<T>& given, T* of_kernel)
      : layer_(layer),
        given_(given),
        of_kernel_(of_kernel),
        norm_(std::sqrt(square)),
        scale_(clip(square, layer.max_norm)),
        clipped_(square > layer.max_norm * layer.max_norm),
        streamed_(layer.in * layer.out * layer.joints * layer.joints * static_cast<int64_t>(sizeof(T)) > 1 << 20),
        targets_(neighbours(layer, true)),
        of_masks_(layer.joints * tiles_ * layer.joints),
        along_(layer.joints * panels_),
        of_biases_(long_out_),
        changes_(std::min(given.batch, kRowsPacked) * layer.joints * wide_) {}

  void compute(T* of_mask, T* of_bias) {
    const int64_t joints = layer_.joints;
    const auto tasks = longest_first(joints * tiles_, [&](int64_t task) {
      return targets_[task / tiles_].size() * std::min<int64_t>(kTileRows, layer_.in - task % tiles_ * kTileRows);
    });
    // Once for an empty batch too: its gradient is zeros.
    for (int64_t first = 0; first == 0 || first < given_.batch; first += kRowsPacked) {
      const Part part = pack(first, std::min(kRowsPacked, given_.batch - first));
      with_scratch<T>(tasks, kTileRows * (part.rows + layer_.out + 2 * kColumns), [&](int64_t task, T* scratch) {
        const int64_t end = std::min<int64_t>(layer_.in, (task % tiles_ + 1) * kTileRows);
        for (int64_t feature = task % tiles_ * kTileRows; feature < end;) {
          const int lines = tile_rows(end - feature);
          write_lines(part, {task, task / tiles_, feature, lines}, scratch);
          feature += lines;
        }
        finish_streams();
      });
    }
    std::copy(of_biases_.begin(), of_biases_.end(), of_bias);
    for (int64_t block = 0; block < joints * joints; ++block) {
      T sum = 0;
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        sum += of_masks_[(block / joints * tiles_ + tile) * joints + block % joints];
      }
      of_mask[block] = layer_.support[block] ? sum * static_cast<T>(scale_) : 0;
    }
  }

 private:
  static constexpr int64_t kColumns = Simd<T>::kColumns;

  // Rows of the batch that are packed together. The scale is one number, so its gradient, `shrink` times the kernel by
  // its norm, reaches every entry, in blocks without a neighbour too: it is known with the last part.
  struct Part {
    int64_t first, rows;
    bool last, shrinks;
    T shrink;
  };

  // Lines of the kernel that are computed together.
  struct Lines {
    int64_t task, source, feature;
    int count;
  };

  T* panel_of(const Part& part, int64_t joint, int64_t panel) const {
    return changes_.data() + part.rows * (joint * wide_ + panel * kColumns);
  }

  int64_t columns_of(int64_t panel) const { return std::min(kColumns, layer_.out - panel * kColumns); }

  Part pack(int64_t first, int64_t rows) {
    Part part{first, rows, first + rows == given_.batch, false, 0};
    parallel_for(layer_.joints * panels_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t joint = task / panels_, panel = task % panels_, offset = joint * layer_.out + panel * kColumns;
        const T* const values = clipped_ ? given_.output + first * long_out_ + offset : nullptr;
        along_[task] +=
            pack_changes(given_.upstream + first * long_out_ + offset, long_out_, rows, columns_of(panel), values,
                         given_.bias + offset, panel_of(part, joint, panel), of_biases_.data() + offset);
      }
    });
    part.shrinks = clipped_ && part.last;
    if (part.shrinks) part.shrink = static_cast<T>(std::accumulate(along_.begin(), along_.end(), 0.0) / norm_);
    return part;
  }

  void write_lines(const Part& part, const Lines& lines, T* scratch) {
    T* const products = scratch;
    T* const left = scratch + kTileRows * (layer_.out + kColumns);
    const int64_t column = lines.source * layer_.in + lines.feature;
    for (int64_t row = 0; row < part.rows; ++row) {
      const T* from = given_.rows + (part.first + row) * long_in_ + column;
      for (int line = 0; line < lines.count; ++line) left[row * lines.count + line] = from[line];
    }
    for (int64_t joint = 0; joint < layer_.joints; ++joint) {
      const int64_t offset = column * long_out_ + joint * layer_.out;
      if (layer_.support[lines.source * layer_.joints + joint] && given_.batch) {
        write_block(part, lines, joint, left, products, layer_.kernel + offset, of_kernel_ + offset);
      } else if (part.last) {
        for (int64_t at = offset; at < offset + lines.count * long_out_; at += long_out_) {
          write_unused(layer_.kernel + at, inverse_norm_, -part.shrink, !clipped_, streamed_, layer_.out,
                       of_kernel_ + at);
        }
      }
    }
  }

  // Lines of the block of a neighbour.
  void write_block(const Part& part, const Lines& lines, int64_t joint, const T* left, T* products, const T* kernel,
                   T* to) {
    const T factor = layer_.mask[lines.source * layer_.joints + joint] * static_cast<T>(scale_);
    T together[kColumns] = {};
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const int64_t used = columns_of(panel), padded = panel_width<T>(used);
      const T* const right = panel_of(part, joint, panel);
      for (int64_t row = 0; row < part.rows; row += kRowsAtOnce) {
        const int64_t count = std::min(kRowsAtOnce, part.rows - row);
        multiply_tile<T>(lines.count, {left, &row, 1, count, right + row * padded}, padded, products, row > 0);
      }
      for (int line = 0; line < lines.count; ++line) {
        const T *product = products + line * padded, *weight = kernel + line * long_out_ + panel * kColumns;
        T* result = to + line * long_out_ + panel * kColumns;
        for (int64_t n = 0; n < used; ++n) {
          together[n] += product[n] * weight[n];
          const T before = part.first ? result[n] : T(0);
          result[n] =
              before + times(product[n], factor) - (part.shrinks ? weight[n] * inverse_norm_ * part.shrink : T(0));
        }
      }
    }
    of_masks_[lines.task * layer_.joints + joint] += std::accumulate(together, together + kColumns, T(0));
  }

  const LocallyConnected<T>& layer_;
  const Samples<T> given_;
  T* const of_kernel_;
  const double norm_, scale_;
  const T inverse_norm_ =
      static_cast<T>(1 / norm_);  // multiplies before `shrink`: both together may be too small for a T
  const bool clipped_;
  const bool streamed_;  // a large gradient is not in the caches any more when somebody reads it
  const int64_t long_in_ = layer_.joints * layer_.in, long_out_ = layer_.joints * layer_.out;
  const int64_t panels_ = (layer_.out + kColumns - 1) / kColumns;
  const int64_t wide_ =
      (panels_ - 1) * kColumns + panel_width<T>(columns_of(panels_ - 1));  // a joint's panels together
  const int64_t tiles_ = (layer_.in + kTileRows - 1) / kTileRows;
  const Lists targets_;
  std::vector<T> of_masks_;    // of the rows of a task each
  std::vector<double> along_;  // parts of the sum of upstream * (output - bias)
  std::vector<double> of_biases_;
  const Scratch<T> changes_;
};

}  // namespace

template <class T>
double squared_norm(const LocallyConnected<T>& layer) {
  if (std::isinf(layer.max_norm)) return 0;
  const int64_t size = layer.joints * layer.in * layer.joints * layer.out, piece = 1 << 15;
  std::vector<double> partial((size + piece - 1) / piece);
  parallel_for(static_cast<int64_t>(partial.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const T* from = layer.kernel + index * piece;
      const int64_t count = std::min(piece, size - index * piece);
      double lanes[16] = {};
      for (int64_t k = 0; k + 16 <= count; k += 16) {
        for (int lane = 0; lane < 16; ++lane) {
          const double value = from[k + lane];
          lanes[lane] += value * value;
        }
      }
      double sum = 0;
      for (int64_t k = count / 16 * 16; k < count; ++k) sum += static_cast<double>(from[k]) * from[k];
      for (double lane : lanes) sum += lane;
      partial[index] = sum;
    }
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

template <class T>
void locally_connected(const LocallyConnected<T>& layer, double square, int64_t batch, const T* rows, const T* bias,
                       T* output) {
  multiply<T, false>(layer, square, batch, rows, bias, output);
}

template <class T>
void locally_connected_rows_gradient(const LocallyConnected<T>& layer, double square, int64_t batch, const T* upstream,
                                     T* of_rows) {
  multiply<T, true>(layer, square, batch, upstream, nullptr, of_rows);
}

template <class T>
void locally_connected_kernel_gradient(const LocallyConnected<T>& layer, double square, int64_t batch, const T* rows,
                                       const T* bias, const T* output, const T* upstream, T* of_kernel, T* of_mask,
                                       T* of_bias) {
  KernelGradient<T>(layer, square, {batch, rows, bias, output, upstream}, of_kernel).compute(of_mask, of_bias);
}

#define POSEKIT_INSTANTIATE(T)                                                                                     \
  template double squared_norm(const LocallyConnected<T>&);                                                        \
  template void locally_connected(const LocallyConnected<T>&, double, int64_t, const T*, const T*, T*);            \
  template void locally_connected_rows_gradient(const LocallyConnected<T>&, double, int64_t, const T*, T*);        \
  template void locally_connected_kernel_gradient(const LocallyConnected<T>&, double, int64_t, const T*, const T*, \
                                                  const T*, const T*, T*, T*, T*);
POSEKIT_INSTANTIATE(float)
POSEKIT_INSTANTIATE(double)

}  // namespace posekit
