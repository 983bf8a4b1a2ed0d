// Flags: -ffp-contract=fast
#include "locally_connected.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
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

// What blocks are multiplied by because of the norm. A kernel that is not a number gives nothing that is one.
double clip(double square, double max_norm) {
  const double norm = std::sqrt(square);
  return norm <= max_norm ? 1.0 : max_norm / norm;
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

// The gradient of weights without a neighbour: `factor` times them, or zeros.
template <class T>
void write_unused(const T* weights, T factor, bool zeros, bool streamed, int64_t count, T* to) {
  typedef typename Simd<T>::Vector Vector;
  typedef Vector Loaded __attribute__((aligned(sizeof(T)), may_alias));
  int64_t n = 0;
  if (streamed && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0) {
    for (; n + Simd<T>::kWidth <= count; n += Simd<T>::kWidth) {
      stream<T>(zeros ? Vector{} : *reinterpret_cast<const Loaded*>(weights + n) * factor, to + n);
    }
  }
  for (; n < count; ++n) to[n] = zeros ? T(0) : weights[n] * factor;
}

// Rows summed in one go by the gradient of the kernel; more are added up in pieces, for the sake of rounding.
constexpr int64_t kRowsAtOnce = 1024;

// Rows whose upstream gradient is packed at a time.
constexpr int64_t kRowsPacked = 16 * kRowsAtOnce;

// Packs `used` columns of the upstream gradient and adds up their sums; returns the sum of their products with values - bias
// (0 without values).
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
  const int64_t joints = layer.joints, in = layer.in, out = layer.out;
  const int64_t long_in = joints * in, long_out = joints * out, columns = Simd<T>::kColumns;
  const int64_t panels = (out + columns - 1) / columns, last_panel = panel_width<T>(out - (panels - 1) * columns);
  const int64_t wide = (panels - 1) * columns + last_panel;  // of a joint's panels together
  const bool clipped = square > layer.max_norm * layer.max_norm;
  const double scale = clip(square, layer.max_norm);
  const Lists targets = neighbours(layer, true);
  const int64_t tiles = (in + kTileRows - 1) / kTileRows;
  std::vector<T> of_masks(joints * tiles * joints);  // of the rows of a task each
  std::vector<double> along(joints * panels);        // parts of the sum of upstream * (output - bias)
  std::vector<double> of_biases(long_out);
  const auto tasks = longest_first(joints * tiles, [&](int64_t task) {
    return targets[task / tiles].size() * std::min<int64_t>(kTileRows, in - task % tiles * kTileRows);
  });
  // A large gradient is not in the caches any more when somebody reads it.
  const bool streamed = long_in * long_out * static_cast<int64_t>(sizeof(T)) > 1 << 20;

  // The upstream gradient in panels, each of which begins a cache line; of a long batch, one part after another.
  const int64_t most = std::min(batch, kRowsPacked);
  const Scratch<T> changes(most * joints * wide);
  for (int64_t begun = 0; begun == 0 || begun < batch; begun += kRowsPacked) {
    const int64_t part = std::min(most, batch - begun);
    const bool first_part = begun == 0, last_part = begun + part == batch;
    const auto panel_of = [&](int64_t joint, int64_t panel) {
      return changes.data() + part * (joint * wide + panel * columns);
    };
    parallel_for(joints * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t offset = task / panels * out + task % panels * columns;
        const int64_t used = std::min(columns, out - task % panels * columns);
        const T* const values = clipped ? output + begun * long_out + offset : nullptr;
        along[task] += pack_changes(upstream + begun * long_out + offset, long_out, part, used, values, bias + offset,
                                    panel_of(task / panels, task % panels), of_biases.data() + offset);
      }
    });

    // The scale is one number, so its gradient reaches every entry of the kernel, in blocks without a neighbour too.
    const bool shrinks = clipped && last_part;
    const T shrink = shrinks ? static_cast<T>(std::accumulate(along.begin(), along.end(), 0.0) / square) : T(0);
    // A task computes whole lines of the kernel's gradient, which are then written from end to end.
    with_scratch<T>(tasks, kTileRows * (part + out + 2 * columns), [&](int64_t task, T* scratch) {
      const int64_t source = task / tiles, end = std::min<int64_t>(in, (task % tiles + 1) * kTileRows);
      for (int64_t first = task % tiles * kTileRows; first < end;) {
        const int tile = tile_rows(end - first);
        T* const products = scratch;
        T* const left = scratch + kTileRows * (out + columns);
        for (int64_t row = 0; row < part; ++row) {
          const T* from = rows + (begun + row) * long_in + source * in + first;
          for (int line = 0; line < tile; ++line) left[row * tile + line] = from[line];
        }
        for (int64_t joint = 0; joint < joints; ++joint) {
          const int64_t block = source * joints + joint;
          const T factor = layer.support[block] ? layer.mask[block] * static_cast<T>(scale) : T(0);
          const T* kernel = layer.kernel + (source * in + first) * long_out + joint * out;
          T* to = of_kernel + (source * in + first) * long_out + joint * out;
          if (!layer.support[block] || batch == 0) {
            for (int line = 0; last_part && line < tile; ++line) {
              write_unused(kernel + line * long_out, -shrink, !clipped, streamed, out, to + line * long_out);
            }
            continue;
          }
          T together[Simd<T>::kColumns] = {};
          for (int64_t panel = 0; panel < panels; ++panel) {
            const int64_t used = std::min(columns, out - panel * columns), padded = panel_width<T>(used);
            const T* const right = panel_of(joint, panel);
            for (int64_t row = 0; row < part; row += kRowsAtOnce) {
              const int64_t count = std::min(kRowsAtOnce, part - row);
              multiply_tile<T>(tile, {left, &row, 1, count, right + row * padded}, padded, products, row > 0);
            }
            for (int line = 0; line < tile; ++line) {
              const T *product = products + line * padded, *weight = kernel + line * long_out + panel * columns;
              T* result = to + line * long_out + panel * columns;
              for (int64_t n = 0; n < used; ++n) {
                together[n] += product[n] * weight[n];
                const T before = first_part ? T(0) : result[n];
                result[n] = before + product[n] * factor - (shrinks ? weight[n] * shrink : T(0));
              }
            }
          }
          of_masks[task * joints + joint] += std::accumulate(together, together + columns, T(0));
        }
        first += tile;
      }
      finish_streams();
    });
  }
  std::copy(of_biases.begin(), of_biases.end(), of_bias);
  for (int64_t block = 0; block < joints * joints; ++block) {
    T sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      sum += of_masks[(block / joints * tiles + tile) * joints + block % joints];
    }
    of_mask[block] = layer.support[block] ? sum * static_cast<T>(scale) : 0;
  }
}

#define POSEKIT_INSTANTIATE(T)                                                                                         \
  template double squared_norm(const LocallyConnected<T>&);                                                            \
  template void locally_connected(const LocallyConnected<T>&, double, int64_t, const T*, const T*, T*);                \
  template void locally_connected_rows_gradient(const LocallyConnected<T>&, double, int64_t, const T*, T*);            \
  template void locally_connected_kernel_gradient(const LocallyConnected<T>&, double, int64_t, const T*, const T*,     \
                                                  const T*, const T*, T*, T*, T*);
POSEKIT_INSTANTIATE(float)
POSEKIT_INSTANTIATE(double)

}  // namespace posekit
