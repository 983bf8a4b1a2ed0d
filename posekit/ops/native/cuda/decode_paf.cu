// Peaks of joints and scores of limbs for the decoding of part affinity fields; see posekit/ops/decode_paf.py. Putting
// people together, which is little work, stays with the host.
//
// Every number is rounded like the CPU's, operation by operation: both find the same peaks, scores and people.
//
// Work: with the exact mode 25 + 25 products in double precision for a pixel of a joint, only in tiles that hold values
// above the threshold; else 7 + 7 for each place that a cell is divided into; 10 points of a field for each pair of
// peaks. Memory: inputs and outputs, nothing else; smoothed and enlarged maps stay in shared memory.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "block.cuh"
#include "posekit_cuda.h"

namespace posekit {
namespace {

enum Mode { kExact = 0, kFast = 1, kTfPose = 2 };

constexpr int kTile = 32;             // places along a side of what a block searches
constexpr int kRadius = 12;           // of the exact smoothing
constexpr int kSmoothed = kTile + 2;  // and one more on both sides
constexpr int kPatch = kSmoothed + 2 * kRadius;
constexpr int kTaps = 7;                       // of the other smoothings
constexpr int kCells = kSmoothed + kTaps - 1;  // at most, where cells are not divided
constexpr int kEnlarged = 8;
constexpr int kPoints = 10;       // along a limb
constexpr int kMostRows = 65535;  // of a grid

// [batch, height, width, channels] in any order: strides are counted in elements.
struct Maps {
  const float* data;
  int64_t image, row, column, channel;
};

struct Half {
  double weights[kRadius + 1];  // of pixels 0 to 12 away
};

struct Profiles {
  float weights[kEnlarged][kTaps];
};

struct Peak {
  int32_t joint, row, column, unused;
  double x, y, score;
};

struct Peaks {
  Peak* peaks;      // [batch, most], in no order
  int32_t* counts;  // [batch]; may end above `most`, and the rest is lost
  int32_t most;

  __device__ void add(int64_t image, const Peak& peak) const {
    const int32_t place = atomicAdd(counts + image, 1);
    if (place < most) peaks[image * most + place] = peak;
  }
};

__device__ inline int64_t mirrored(int64_t index, int64_t size) {
  index %= 2 * size;
  if (index < 0) index += 2 * size;
  return index < size ? index : 2 * size - 1 - index;
}

__device__ inline int64_t clamped(int64_t index, int64_t size) {
  return index < 0 ? 0 : index < size ? index : size - 1;
}

__device__ inline float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ inline double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double add(double a, double b) { return __dadd_rn(a, b); }
__device__ inline double sub(double a, double b) { return __dsub_rn(a, b); }

// Cubic weights of the 4 cells around a place of 8 within a cell; returns how far before the cell the first of them is.
__device__ inline int cubic(int place, float* w) {
  const float a = -0.75f, at = (place + 0.5f) / kEnlarged - 0.5f, low = floorf(at), t = sub(at, low), u = sub(1.0f, t);
  const float outer = add(t, 1.0f);
  w[0] = sub(mul(add(mul(sub(mul(a, outer), mul(5.0f, a)), outer), mul(8.0f, a)), outer), mul(4.0f, a));
  w[1] = add(mul(mul(sub(mul(add(a, 2.0f), t), add(a, 3.0f)), t), t), 1.0f);
  w[2] = add(mul(mul(sub(mul(add(a, 2.0f), u), add(a, 3.0f)), u), u), 1.0f);
  w[3] = sub(sub(sub(1.0f, w[0]), w[1]), w[2]);
  return static_cast<int>(low) - 1;
}

// As cv2.resize adds up: cells from left to right, then rows from below.
__device__ inline float across(const float* v, const float* w) {
  return add(add(add(mul(v[0], w[0]), mul(v[1], w[1])), mul(v[2], w[2])), mul(v[3], w[3]));
}
__device__ inline float down(const float* v, const float* w) {
  return add(mul(v[0], w[0]), add(mul(v[1], w[1]), add(mul(v[2], w[2]), mul(v[3], w[3]))));
}

// A pixel of maps that are enlarged 8 times.
__device__ inline float enlarged(const float* data, int64_t row, int64_t column, int64_t height, int64_t width,
                                 int64_t y, int64_t x) {
  float wx[4], wy[4], lines[4];
  const int64_t left = x / kEnlarged + cubic(static_cast<int>(x % kEnlarged), wx);
  const int64_t top = y / kEnlarged + cubic(static_cast<int>(y % kEnlarged), wy);
  for (int i = 0; i < 4; ++i) {
    const float* from = data + clamped(top + i, height) * row;
    float cells[4];
    for (int j = 0; j < 4; ++j) cells[j] = from[clamped(left + j, width) * column];
    lines[i] = across(cells, wx);
  }
  return down(lines, wy);
}

// Middle, then pairs from the outside in, as scipy.ndimage.correlate1d.
template <class From>
__device__ inline double correlated(const From& from, const Half& half) {
  double total = mul(from(0), half.weights[0]);
  for (int away = kRadius; away > 0; --away) total = add(total, mul(add(from(-away), from(away)), half.weights[away]));
  return total;
}

// Grid: x tiles, y joints, z images. high and wide are the sides of the maps that are searched, enlarged if they are.
template <bool Enlarge>
__global__ void exact_peaks(Maps maps, int64_t batch, int joints, int64_t height, int64_t width, int64_t high,
                            int64_t wide, Half half, double threshold, Peaks peaks) {
  __shared__ float patch[kPatch][kPatch + 1];
  __shared__ double once[kSmoothed][kPatch + 1];
  __shared__ double twice[kSmoothed][kSmoothed + 1];
  const int64_t tiles = (wide + kTile - 1) / kTile;
  const int64_t top = blockIdx.x / tiles * kTile - 1, left = blockIdx.x % tiles * kTile - 1;
  const int joint = blockIdx.y;
  for (int64_t image = blockIdx.z; image < batch; image += gridDim.z) {
    const float* data = maps.data + image * maps.image + joint * maps.channel;
    int any = threshold < 0;
    for (int i = threadIdx.x; i < kPatch * kPatch; i += kThreads) {
      const int y = i / kPatch, x = i % kPatch;
      const int64_t row = mirrored(top - kRadius + y, high), column = mirrored(left - kRadius + x, wide);
      const float value = Enlarge ? enlarged(data, maps.row, maps.column, height, width, row, column)
                                  : data[row * maps.row + column * maps.column];
      patch[y][x] = value;
      any |= value > threshold * (1 - 1e-6);
    }
    // No smoothed value is above the highest that it was made of.
    if (!__syncthreads_or(any)) continue;
    for (int i = threadIdx.x; i < kSmoothed * kPatch; i += kThreads) {
      const int y = i / kPatch, x = i % kPatch;
      once[y][x] = correlated([&](int away) { return static_cast<double>(patch[y + kRadius + away][x]); }, half);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kSmoothed * kSmoothed; i += kThreads) {
      const int y = i / kSmoothed, x = i % kSmoothed;
      twice[y][x] = correlated([&](int away) { return once[y][x + kRadius + away]; }, half);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
      const int y = i / kTile + 1, x = i % kTile + 1;
      const int64_t row = top + y, column = left + x;
      if (row >= high || column >= wide) continue;
      const double value = twice[y][x];
      const double above = row > 0 ? twice[y - 1][x] : 0, below = row < high - 1 ? twice[y + 1][x] : 0;
      const double before = column > 0 ? twice[y][x - 1] : 0, after = column < wide - 1 ? twice[y][x + 1] : 0;
      if (value > threshold && value >= above && value >= below && value >= before && value >= after) {
        peaks.add(image,
                  {joint, static_cast<int32_t>(row), static_cast<int32_t>(column), 0, static_cast<double>(column),
                   static_cast<double>(row), static_cast<double>(patch[y + kRadius][x + kRadius])});
      }
    }
    __syncthreads();  // before the next image overwrites the tile
  }
}

// Grid: x tiles, y joints, z images. Places are parts of cells, `times` along each side of a cell.
__global__ void small_peaks(Maps maps, int64_t batch, int joints, int64_t height, int64_t width, int times, int mode,
                            Profiles profiles, float lowest, double threshold, Peaks peaks) {
  __shared__ float cells[kCells][kCells + 1];
  __shared__ float lines[kCells][kSmoothed + 1];
  __shared__ float fine[kSmoothed][kSmoothed + 1];
  constexpr int reach = kTaps / 2;
  const int64_t high = height * times, wide = width * times, tiles = (wide + kTile - 1) / kTile;
  const int64_t top = blockIdx.x / tiles * kTile - 1, left = blockIdx.x % tiles * kTile - 1;
  // Rounded down, also the -1 before the first place.
  const int64_t first_row = (top + times) / times - 1 - reach, first_column = (left + times) / times - 1 - reach;
  const int side = (kSmoothed + times - 2) / times + 1 + 2 * reach;  // cells that kSmoothed places touch, at most
  const int joint = blockIdx.y;
  const bool fast = mode == kFast;
  for (int64_t image = blockIdx.z; image < batch; image += gridDim.z) {
    const float* data = maps.data + image * maps.image + joint * maps.channel;
    for (int i = threadIdx.x; i < side * side; i += kThreads) {
      const int64_t row = first_row + i / side, column = first_column + i % side;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      cells[i / side][i % side] =
          fast || inside ? data[mirrored(row, height) * maps.row + mirrored(column, width) * maps.column] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < side * kSmoothed; i += kThreads) {
      const int y = i / kSmoothed, x = i % kSmoothed;
      const int64_t place = left + x + times;
      const int cell = static_cast<int>(place / times - 1 - first_column) - reach;
      const float* w = profiles.weights[place % times];
      float total = mul(cells[y][cell], w[0]);
      for (int tap = 1; tap < kTaps; ++tap) total = __fmaf_rn(cells[y][cell + tap], w[tap], total);
      lines[y][x] = total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kSmoothed * kSmoothed; i += kThreads) {
      const int y = i / kSmoothed, x = i % kSmoothed;
      const int64_t place = top + y + times;
      const int cell = static_cast<int>(place / times - 1 - first_row) - reach;
      const float* w = profiles.weights[place % times];
      float total = mul(lines[cell][x], w[0]);
      for (int tap = 1; tap < kTaps; ++tap) total = add(total, mul(lines[cell + tap][x], w[tap]));
      fine[y][x] = total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
      const int y = i / kTile + 1, x = i % kTile + 1;
      const int64_t row = top + y, column = left + x;
      const float value = fine[y][x];
      if (row >= high || column >= wide || !(value > lowest)) continue;
      bool largest = true;
      for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
          if (row + dy < 0 || row + dy >= high || column + dx < 0 || column + dx >= wide) continue;
          const float other = fine[y + dy][x + dx];
          // Of neighbours that are equally high, the first is the peak.
          largest &= fast && (dy < 0 || (dy == 0 && dx < 0)) ? value > other : value >= other;
        }
      }
      if (!largest) continue;
      Peak peak{joint, static_cast<int32_t>(row),   static_cast<int32_t>(column),
                0,     static_cast<double>(column), static_cast<double>(row),
                0};
      if (!fast) {
        peak.score = data[row / times * maps.row + column / times * maps.column];
        peaks.add(image, peak);
        continue;
      }
      peak.score = value;
      for (int axis = 0; axis < 2; ++axis) {  // the top of a parabola, down and across
        const int64_t here = axis ? column : row, size = axis ? wide : high;
        const int low = here > 0 ? -1 : 1, next = here < size - 1 ? 1 : -1;
        const float before = axis ? fine[y][x + low] : fine[y + low][x],
                    after = axis ? fine[y][x + next] : fine[y + next][x];
        const float slope = mul(sub(after, before), 0.5f), bend = sub(sub(mul(2.0f, value), before), after);
        const float shift = bend > 0 ? fminf(fmaxf(__fdiv_rn(slope, bend), -0.5f), 0.5f) : 0.0f;
        const float rise = sub(mul(slope, shift), mul(mul(bend, mul(shift, shift)), 0.5f));
        peak.score = add(peak.score, static_cast<double>(rise));
        const double place = add(add(static_cast<double>(here), static_cast<double>(shift)), 0.5);
        (axis ? peak.x : peak.y) = sub(__ddiv_rn(place, static_cast<double>(times)), 0.5);
      }
      if (peak.score > threshold) peaks.add(image, peak);
    }
    __syncthreads();
  }
}

struct Fields {
  Maps maps;
  int64_t height, width, high, wide;
  int enlarge, times;
  double threshold;
};

__device__ inline double far(double length, double height) {
  const double part = sub(__ddiv_rn(mul(0.5, height), length), 1.0);
  return part < 0 ? part : 0.0;
}

// Each returns the score of a limb from one place to another; 0 where there is none.
__device__ double exact_score(const Fields& f, const float* data, double x, double y, double to_x, double to_y) {
  const double dx = sub(to_x, x), dy = sub(to_y, y), norm = __dsqrt_rn(add(mul(dx, dx), mul(dy, dy)));
  if (!(norm > 0)) return 0;
  const double ux = __ddiv_rn(dx, norm), uy = __ddiv_rn(dy, norm);
  const double sx = __ddiv_rn(dx, kPoints - 1.0), sy = __ddiv_rn(dy, kPoints - 1.0);
  double total = 0;
  int missing = 0;
  for (int point = 0; point < kPoints && missing < 2; ++point) {
    const bool last = point == kPoints - 1;
    const int64_t px = llrint(last ? add(x, dx) : add(x, mul(static_cast<double>(point), sx)));
    const int64_t py = llrint(last ? add(y, dy) : add(y, mul(static_cast<double>(point), sy)));
    double value[2];
    for (int part = 0; part < 2; ++part) {
      const float* plane = data + part * f.maps.channel;
      value[part] = f.enlarge ? enlarged(plane, f.maps.row, f.maps.column, f.height, f.width, py, px)
                              : plane[py * f.maps.row + px * f.maps.column];
    }
    const double product = add(mul(value[0], ux), mul(value[1], uy));
    missing += !(product > f.threshold);
    total = add(total, product);
  }
  return missing < 2 ? add(__ddiv_rn(total, static_cast<double>(kPoints)), far(norm, static_cast<double>(f.high))) : 0;
}

__device__ double fast_score(const Fields& f, const float* data, double x, double y, double to_x, double to_y) {
  const double dx = sub(to_x, x), dy = sub(to_y, y), norm = __dsqrt_rn(add(mul(dx, dx), mul(dy, dy)));
  if (!(norm > 0)) return 0;
  const float ux = __double2float_rn(__ddiv_rn(dx, norm)), uy = __double2float_rn(__ddiv_rn(dy, norm));
  const float threshold = __double2float_rn(f.threshold);
  const int64_t right = f.width > 1 ? f.maps.column : 0, below = f.height > 1 ? f.maps.row : 0;
  double products[kPoints];
  int missing = 0;
  for (int point = 0; point < kPoints && missing < 2; ++point) {
    const double along = __ddiv_rn(static_cast<double>(point), kPoints - 1.0);
    const double px = fmin(fmax(add(x, mul(dx, along)), 0.0), static_cast<double>(f.width - 1));
    const double py = fmin(fmax(add(y, mul(dy, along)), 0.0), static_cast<double>(f.height - 1));
    const int64_t left = min(static_cast<int64_t>(px), max(f.width - 2, static_cast<int64_t>(0)));
    const int64_t top = min(static_cast<int64_t>(py), max(f.height - 2, static_cast<int64_t>(0)));
    const float wx = __double2float_rn(sub(px, static_cast<double>(left)));
    const float wy = __double2float_rn(sub(py, static_cast<double>(top)));
    float value[2];
    for (int part = 0; part < 2; ++part) {
      const float* c = data + part * f.maps.channel + top * f.maps.row + left * f.maps.column;
      const float upper = add(c[0], mul(sub(c[right], c[0]), wx));
      const float lower = add(c[below], mul(sub(c[below + right], c[below]), wx));
      value[part] = add(upper, mul(sub(lower, upper), wy));
    }
    const float product = add(mul(value[0], ux), mul(value[1], uy));
    missing += !(product > threshold);
    products[point] = product;
  }
  if (missing >= 2) return 0;
  // As NumPy adds ten numbers up.
  const double* p = products;
  double total = add(add(add(p[0], p[1]), add(p[2], p[3])), add(add(p[4], p[5]), add(p[6], p[7])));
  total = add(add(total, p[8]), p[9]);
  return add(__ddiv_rn(total, static_cast<double>(kPoints)), far(norm, static_cast<double>(f.height)));
}

__device__ double tf_pose_score(const Fields& f, const float* data, double x, double y, double to_x, double to_y) {
  const float dx = __double2float_rn(sub(to_x, x)), dy = __double2float_rn(sub(to_y, y));
  const float norm = __fsqrt_rn(add(mul(dx, dx), mul(dy, dy)));
  if (!(norm > 0)) return 0;
  const float ux = __fdiv_rn(dx, norm), uy = __fdiv_rn(dy, norm);
  const float sx = __fdiv_rn(dx, static_cast<float>(kPoints)), sy = __fdiv_rn(dy, static_cast<float>(kPoints));
  const float begin_x = __double2float_rn(x), begin_y = __double2float_rn(y),
              threshold = __double2float_rn(f.threshold);
  float total = 0;
  int missing = 0;
  for (int point = 0; point < kPoints && missing < 4; ++point) {
    const float px = add(begin_x, mul(static_cast<float>(point), sx)),
                py = add(begin_y, mul(static_cast<float>(point), sy));
    const int64_t column = static_cast<int64_t>(add(static_cast<double>(px), 0.5)) / f.times;
    const int64_t row = static_cast<int64_t>(add(static_cast<double>(py), 0.5)) / f.times;
    const float* at = data + row * f.maps.row + column * f.maps.column;
    const float product = add(mul(at[0], ux), mul(at[f.maps.channel], uy));
    missing += !(product > threshold);
    total = add(total, product);
  }
  if (missing >= 4) return 0;
  const double mean = __fdiv_rn(total, static_cast<float>(kPoints));
  return __double2float_rn(add(mean, far(norm, static_cast<double>(f.height * f.times))));
}

// Grid: x pairs, y groups: limbs of images. A group's pairs are all starts with all ends, in rows of the ends.
__global__ void limb_scores(Fields fields, int mode, const double* places, const int64_t* groups,
                            const int64_t* offsets, int64_t count, double* scores) {
  for (int64_t group = blockIdx.y; group < count; group += gridDim.y) {
    const int64_t* g = groups + 6 * group;  // image, limb, first start, first end, starts, ends
    const float* data = fields.maps.data + g[0] * fields.maps.image + 2 * g[1] * fields.maps.channel;
    const int64_t pairs = g[4] * g[5];
    for (int64_t pair = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; pair < pairs;
         pair += gridDim.x * static_cast<int64_t>(kThreads)) {
      const double *one = places + 2 * (g[2] + pair / g[5]), *other = places + 2 * (g[3] + pair % g[5]);
      const double score = mode == kExact  ? exact_score(fields, data, one[0], one[1], other[0], other[1])
                           : mode == kFast ? fast_score(fields, data, one[0], one[1], other[0], other[1])
                                           : tf_pose_score(fields, data, one[0], one[1], other[0], other[1]);
      scores[offsets[group] + pair] = score > 0 ? score : 0;
    }
  }
}

__global__ void not_finite(const float* values, int64_t count, unsigned long long* total) {
  unsigned long long bad = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count;
       i += gridDim.x * static_cast<int64_t>(kThreads)) {
    bad += !isfinite(values[i]);
  }
  if (bad) atomicAdd(total, bad);
}

Maps maps_of(const float* data, const int64_t* strides) {
  return {data, strides[0], strides[1], strides[2], strides[3]};
}

}  // namespace
}  // namespace posekit

extern "C" int posekit_cuda_paf_peaks(const float* maps, const int64_t* strides, int64_t batch, int64_t joints,
                                      int64_t height, int64_t width, int64_t mode, int64_t times, int64_t high,
                                      int64_t wide, const double* gaussian, const float* profiles, double threshold,
                                      int64_t most, void* peaks, int32_t* counts, cudaStream_t stream) {
  using namespace posekit;
  if (batch < 1 || joints < 1) return cudaSuccess;
  const bool exact = mode == kExact;
  if (height < 1 || width < 1 || joints > kMostRows || times < 1 || times > kEnlarged || mode < kExact ||
      mode > kTfPose || (exact && times != 1 && times != kEnlarged)) {
    return cudaErrorInvalidValue;
  }
  if (!exact) high = height * times, wide = width * times;
  const int64_t tiles = ((high + kTile - 1) / kTile) * ((wide + kTile - 1) / kTile);
  if (high < 1 || wide < 1 || tiles > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(joints),
                  static_cast<unsigned>(std::min<int64_t>(batch, kMostRows)));
  const Maps source = maps_of(maps, strides);
  const Peaks found{static_cast<Peak*>(peaks), counts, static_cast<int32_t>(std::min<int64_t>(most, INT32_MAX))};
  const int count = static_cast<int>(joints);
  if (exact) {
    Half half;
    for (int away = 0; away <= kRadius; ++away) half.weights[away] = gaussian[kRadius - away];
    if (times == 1) {
      exact_peaks<false>
          <<<grid, kThreads, 0, stream>>>(source, batch, count, height, width, high, wide, half, threshold, found);
    } else {
      exact_peaks<true>
          <<<grid, kThreads, 0, stream>>>(source, batch, count, height, width, high, wide, half, threshold, found);
    }
  } else {
    Profiles weights{};
    std::copy(profiles, profiles + times * kTaps, &weights.weights[0][0]);
    const float lowest = static_cast<float>(mode == kFast ? 0.6 * threshold : threshold);
    small_peaks<<<grid, kThreads, 0, stream>>>(source, batch, count, height, width, static_cast<int>(times),
                                               static_cast<int>(mode), weights, lowest, threshold, found);
  }
  return cudaGetLastError();
}

extern "C" int posekit_cuda_paf_limbs(const float* fields, const int64_t* strides, int64_t height, int64_t width,
                                      int64_t mode, int64_t times, int64_t high, int64_t wide, double threshold,
                                      const double* places, const int64_t* groups, const int64_t* offsets,
                                      int64_t count, int64_t most, double* scores, cudaStream_t stream) {
  using namespace posekit;
  if (count < 1 || most < 1) return cudaSuccess;
  if (height < 1 || width < 1 || times < 1 || times > kEnlarged || mode < kExact || mode > kTfPose ||
      (mode == kExact && times != 1 && times != kEnlarged)) {
    return cudaErrorInvalidValue;
  }
  const Fields all{maps_of(fields, strides), height,   width, high, wide, mode == kExact && times > 1,
                   static_cast<int>(times),  threshold};
  const int64_t across = std::min<int64_t>((most + kThreads - 1) / kThreads, 1024);
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(std::min<int64_t>(count, kMostRows)));
  limb_scores<<<grid, kThreads, 0, stream>>>(all, static_cast<int>(mode), places, groups, offsets, count, scores);
  return cudaGetLastError();
}

extern "C" int posekit_cuda_paf_not_finite(const float* values, int64_t count, unsigned long long* total,
                                           cudaStream_t stream) {
  using namespace posekit;
  if (count < 1) return cudaSuccess;
  const int64_t blocks = std::min<int64_t>((count + kThreads - 1) / kThreads, 4096);
  not_finite<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(values, count, total);
  return cudaGetLastError();
}
