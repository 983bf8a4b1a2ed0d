// Flags: -fno-math-errno -fno-trapping-math
// Stages, each shared between threads over all images of the batch: looking over the maps (are they finite, where can
// peaks be), peaks, limbs, people. What decides is computed in the order of the plain path, so that both agree to the
// last bit; what only excludes pixels that cannot be peaks is computed in single precision, with slack.
#include "decode_paf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "c_api.h"
#include "parallel.h"

namespace posekit {
namespace {

constexpr int kRadius = kPafRadius;
constexpr int kBlock = 8;
constexpr int kChunk = 8;    // blocks along a side of what is smoothed in one go
constexpr int kPoints = 10;  // along a limb
constexpr int kFirst[] = {4, 2, 7};
constexpr int64_t kMost = 500;  // peaks of a joint that limbs are sought for
constexpr int kNeeded[] = {9, 9, 7};

int64_t mirrored(int64_t index, int64_t size) {
  index %= 2 * size;
  if (index < 0) index += 2 * size;
  return std::min(index, 2 * size - 1 - index);
}

int64_t clamped(int64_t index, int64_t size) { return std::min(std::max<int64_t>(index, 0), size - 1); }

struct Peak {
  int32_t joint, row, column;  // of the smoothed maps
  double x, y, score;

  bool operator<(const Peak& other) const {
    if (joint != other.joint) return joint < other.joint;
    return row != other.row ? row < other.row : column < other.column;
  }
};

struct Limb {
  int32_t start, end;  // numbers among the peaks of the joint
  double score;
};

// ------------------------------------------------------------------------------------------------- looking over

// Rows without gaps: those of the maps, or copies.
class Rows {
 public:
  Rows(const PafMaps& maps, int64_t width, int channels) : maps_(maps), width_(width), channels_(channels) {
    dense_ = maps.channel == 1 && maps.column == channels;
    if (!dense_) copy_.resize(width * channels);
  }
  const float* get(int64_t image, int64_t y) {
    const float* row = maps_.at(image, y, 0);
    if (dense_) return row;
    float* to = copy_.data();
    for (int64_t x = 0; x < width_; ++x, row += maps_.column) {
      for (int channel = 0; channel < channels_; ++channel) *to++ = row[channel * maps_.channel];
    }
    return copy_.data();
  }

 private:
  const PafMaps& maps_;
  int64_t width_;
  int channels_;
  bool dense_;
  std::vector<float> copy_;
};

bool finite(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  return largest < 0x7f800000u;
}

void refuse_not_finite(const PafProblem& problem, const char* name, const PafMaps& maps, int channels, int64_t image) {
  int64_t bad = 0;
  Rows rows(maps, problem.width, channels);
  for (int64_t y = 0; y < problem.height; ++y) {
    const float* row = rows.get(image, y);
    for (int64_t i = 0; i < problem.width * channels; ++i) bad += !std::isfinite(row[i]);
  }
  if (bad) {
    throw InvalidInput(std::string(name) + " hold " + std::to_string(bad) +
                       " values that are not finite; check the image and the weights of the network.");
  }
}

// ---------------------------------------------------------------------------------------- enlarging, as OpenCV does

// Cubic weights of the cells around each place within a cell, and which cell is the first: at most 2 away.
struct Cubic {
  float weights[kPafEnlarged][4];
  int first[kPafEnlarged];

  Cubic() {
    const float a = -0.75f;
    for (int place = 0; place < kPafEnlarged; ++place) {
      const float at = (place + 0.5f) / kPafEnlarged - 0.5f, floor = std::floor(at), t = at - floor, u = 1.0f - t;
      float* w = weights[place];
      first[place] = static_cast<int>(floor) - 1;
      w[0] = ((a * (t + 1.0f) - 5.0f * a) * (t + 1.0f) + 8.0f * a) * (t + 1.0f) - 4.0f * a;
      w[1] = ((a + 2.0f) * t - (a + 3.0f)) * t * t + 1.0f;
      w[2] = ((a + 2.0f) * u - (a + 3.0f)) * u * u + 1.0f;
      w[3] = 1.0f - w[0] - w[1] - w[2];
    }
  }
};

// cv2.resize adds up cells from left to right, then rows from below.
inline float across(float a, float b, float c, float d, const float* w) {
  return ((a * w[0] + b * w[1]) + c * w[2]) + d * w[3];
}
inline float down(float a, float b, float c, float d, const float* w) {
  return ((d * w[3] + c * w[2]) + b * w[1]) + a * w[0];
}

// ------------------------------------------------------------------------------------------------- exact: smoothing

// 64 bytes of numbers; the compiler splits them where the processor takes fewer at a time.
template <class A>
struct Lanes {
  typedef A type __attribute__((vector_size(64), aligned(sizeof(A)), may_alias));
  static constexpr int count = 64 / sizeof(A);
};

// Symmetric correlation of `count` places (rounded up to whole lanes) whose neighbours are `step` apart, added up as
// scipy.ndimage.correlate1d does: the middle, then pairs from the outside in. half: weights of 0 to 12 steps away.
template <class A>
void correlate(const A* from, int64_t step, const A* half, int64_t count, A* to) {
  using V = typename Lanes<A>::type;
  for (int64_t i = 0; i < count; i += Lanes<A>::count) {
    const A* middle = from + i;
    V total = *reinterpret_cast<const V*>(middle) * half[0];
#pragma GCC unroll 12
    for (int away = kRadius; away > 0; --away) {
      total += (*reinterpret_cast<const V*>(middle - away * step) + *reinterpret_cast<const V*>(middle + away * step)) *
               half[away];
    }
    *reinterpret_cast<V*>(to + i) = total;
  }
}

// The largest absolute value, of numbers that are finite. Their bits are in the same order, and compared many at once.
float largest_size(const float* values, int64_t count) {
  int32_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    most = std::max(most, bits & 0x7fffffff);
  }
  float size;
  std::memcpy(&size, &most, sizeof size);
  return size;
}

// Whole lanes fit behind the last place of every row.
template <class A>
int64_t pitch_of(int64_t width) {
  return (width + 2 * Lanes<A>::count - 1) / Lanes<A>::count * Lanes<A>::count;
}

// A part of a joint's map, smoothed: `high` x `wide` places of a patch that is `kRadius` larger on every side.
template <class A>
struct Smoothed {
  std::vector<A> once, twice;
  int64_t pitch = 0;

  void run(const A* patch, int64_t patch_pitch, int64_t high, int64_t wide, const A* half) {
    pitch = patch_pitch;
    once.resize(high * pitch + Lanes<A>::count);
    twice.resize(high * pitch + Lanes<A>::count);
    for (int64_t y = 0; y < high; ++y) {
      correlate(patch + (y + kRadius) * pitch, pitch, half, wide + 2 * kRadius, once.data() + y * pitch);
    }
    for (int64_t y = 0; y < high; ++y) {
      correlate(once.data() + y * pitch + kRadius, 1, half, wide, twice.data() + y * pitch);
    }
  }
};

struct Box {
  int64_t image;
  int joint, island;
  int64_t top, bottom, left, right;  // blocks
};

// Exact mode: what all threads share.
struct Exact {
  const PafProblem& problem;
  const PafMaps& heatmaps;
  int64_t height, width;  // of the maps that are searched
  int64_t rows, columns;  // of blocks
  Cubic cubic;
  double half[kRadius + 1];
  float quick_half[kRadius + 1];
  float weights[5];              // what a block weighs at most, 2, 1, 0, 1, 2 away
  std::vector<float> largest;    // [batch, rows, columns, joints + 1]
  std::vector<int32_t> islands;  // [batch, joints, rows, columns], 0 where there can be no peak

  Exact(const PafProblem& p, const PafMaps& maps) : problem(p), heatmaps(maps) {
    height = p.used_height;
    width = p.used_width;
    rows = (height + kBlock - 1) / kBlock;
    columns = (width + kBlock - 1) / kBlock;
    for (int away = 0; away <= kRadius; ++away) quick_half[away] = half[away] = p.gaussian[kRadius - away];
    double sums[2 * kRadius + 2] = {0.0};
    for (int i = 0; i <= 2 * kRadius; ++i) sums[i + 1] = sums[i] + p.gaussian[i];
    weights[0] = weights[4] = sums[kRadius - kBlock];
    weights[1] = weights[3] = sums[kRadius] - sums[kRadius - kBlock];
    double most = 0;
    for (int i = kBlock; i <= 2 * kRadius + 1; ++i) most = std::max(most, sums[i] - sums[i - kBlock]);
    weights[2] = most;
    largest.resize(p.batch * rows * columns * (p.joints + 1));
    islands.resize(p.batch * p.joints * rows * columns);
  }

  float* largest_of(int64_t image, int64_t row) {
    return largest.data() + (image * rows + row) * columns * (problem.joints + 1);
  }

  // Largest values of a row of blocks; false if not all are finite. Of maps as they are:
  bool look_over(int64_t image, int64_t row) {
    const int channels = problem.joints + 1;
    const int64_t count = width * channels;
    Rows source(heatmaps, width, channels);
    std::vector<float> most(count);
    const int64_t end = std::min(height, (row + 1) * kBlock);
    bool good = true;
    for (int64_t y = row * kBlock; y < end; ++y) {
      const float* values = source.get(image, y);
      good &= finite(values, count);
      if (y == row * kBlock) {
        std::copy(values, values + count, most.begin());
      } else {
        for (int64_t i = 0; i < count; ++i) most[i] = std::max(most[i], values[i]);
      }
    }
    float* to = largest_of(image, row);
    for (int64_t column = 0; column < columns; ++column, to += channels) {
      const int64_t stop = std::min(width, (column + 1) * kBlock);
      float best[256];
      for (int first = 0; first < channels; first += 256) {
        const int some = std::min(256, channels - first);
        std::fill(best, best + some, 0.0f);
        for (int64_t x = column * kBlock; x < stop; ++x) {
          const float* values = most.data() + x * channels + first;
          for (int i = 0; i < some; ++i) best[i] = std::max(best[i], values[i]);
        }
        for (int i = 0; i < some; ++i) to[first + i] = best[i];
      }
    }
    return good;
  }

  // Of maps that are enlarged: cell and block are one.
  bool look_over_enlarged(int64_t image, int64_t row) {
    const int channels = problem.joints + 1;
    const int64_t count = problem.width * channels, padded = count + 4 * channels;
    Rows source(heatmaps, problem.width, channels);
    std::vector<float> around(5 * count), line(padded);
    bool good = true;
    for (int offset = -2; offset <= 2; ++offset) {
      const float* values = source.get(image, clamped(row + offset, problem.height));
      if (offset == 0) good = finite(values, count);
      std::copy(values, values + count, around.begin() + (offset + 2) * count);
    }
    float* to = largest_of(image, row);
    const int64_t used = columns * channels;
    std::fill(to, to + used, 0.0f);
    for (int place = 0; place < kPafEnlarged; ++place) {
      const float* w = cubic.weights[place];
      const float* from = around.data() + (cubic.first[place] + 2) * count;
      float* middle = line.data() + 2 * channels;
      for (int64_t i = 0; i < count; ++i) {
        middle[i] = down(from[i], from[i + count], from[i + 2 * count], from[i + 3 * count], w);
      }
      for (int i = 0; i < channels; ++i) {
        line[i] = line[i + channels] = middle[i];
        middle[count + i] = middle[count + channels + i] = middle[count - channels + i];
      }
      for (int column = 0; column < kPafEnlarged; ++column) {
        const float* v = cubic.weights[column];
        const float* cell = middle + cubic.first[column] * channels;
        for (int64_t i = 0; i < used; ++i) {
          to[i] =
              std::max(to[i], across(cell[i], cell[i + channels], cell[i + 2 * channels], cell[i + 3 * channels], v));
        }
      }
    }
    return good;
  }

  // Finds islands of blocks of a joint's map in which smoothed values may exceed the threshold.
  void find_boxes(int64_t image, int joint, std::vector<Box>* boxes) {
    const int channels = problem.joints + 1;
    const int64_t pitch = columns + 4;
    std::vector<float> plane(rows * pitch), most(rows * pitch), sums(rows * pitch);
    float top = 0;
    for (int64_t y = 0; y < rows; ++y) {
      const float* from = largest_of(image, y) + joint;
      float* to = plane.data() + y * pitch + 2;
      for (int64_t x = 0; x < columns; ++x) top = std::max(top, to[x] = from[x * channels]);
    }
    const float needed = problem.peak_threshold - 1e-5 * std::max(1.0, problem.peak_threshold);
    if (!(top > needed)) return;
    // The mirrored borders of a map that ends within a block hold pixels of the last three.
    if (height % kBlock) {
      float* last = plane.data() + (rows - 1) * pitch;
      for (int64_t before = std::max<int64_t>(0, rows - 3); before < rows - 1; ++before) {
        for (int64_t x = 0; x < pitch; ++x) last[x] = std::max(last[x], plane[before * pitch + x]);
      }
    }
    for (int64_t y = 0; y < rows; ++y) {
      float* row = plane.data() + y * pitch + 2;
      if (width % kBlock) {
        for (int64_t x = std::max<int64_t>(0, columns - 3); x < columns - 1; ++x) {
          row[columns - 1] = std::max(row[columns - 1], row[x]);
        }
      }
      for (int64_t out = 1; out <= 2; ++out) {
        row[-out] = row[mirrored(-out, columns)];
        row[columns - 1 + out] = row[mirrored(columns - 1 + out, columns)];
      }
      float* widest = most.data() + y * pitch;
      float* sum = sums.data() + y * pitch;
      for (int64_t x = 0; x < columns; ++x) {
        const float* c = row + x;
        widest[x] = std::max(std::max(std::max(c[-2], c[-1]), std::max(c[1], c[2])), c[0]);
        sum[x] = (c[-2] + c[2]) * weights[0] + (c[-1] + c[1]) * weights[1] + c[0] * weights[2];
      }
    }
    int32_t* island = islands.data() + (image * problem.joints + joint) * rows * columns;
    for (int64_t y = 0; y < rows; ++y) {
      const float *m[5], *s[5];
      for (int offset = 0; offset < 5; ++offset) {
        const int64_t at = mirrored(y + offset - 2, rows) * pitch;
        m[offset] = most.data() + at;
        s[offset] = sums.data() + at;
      }
      for (int64_t x = 0; x < columns; ++x) {
        const float highest = std::max(std::max(std::max(m[0][x], m[1][x]), std::max(m[3][x], m[4][x])), m[2][x]);
        const float bound = (s[0][x] + s[4][x]) * weights[0] + (s[1][x] + s[3][x]) * weights[1] + s[2][x] * weights[2];
        island[y * columns + x] = std::min(bound, highest) > needed ? -1 : 0;
      }
    }
    std::vector<int64_t> open;
    int count = 0;
    for (int64_t first = 0; first < rows * columns; ++first) {
      if (island[first] >= 0) continue;
      ++count;
      open.assign(1, first);
      island[first] = count;
      int64_t low_y = rows, high_y = 0, low_x = columns, high_x = 0;
      for (size_t next = 0; next < open.size(); ++next) {
        const int64_t y = open[next] / columns, x = open[next] % columns;
        low_y = std::min(low_y, y), high_y = std::max(high_y, y);
        low_x = std::min(low_x, x), high_x = std::max(high_x, x);
        for (int64_t ny = std::max<int64_t>(0, y - 1); ny <= std::min(rows - 1, y + 1); ++ny) {
          for (int64_t nx = std::max<int64_t>(0, x - 1); nx <= std::min(columns - 1, x + 1); ++nx) {
            if (island[ny * columns + nx] >= 0) continue;
            island[ny * columns + nx] = count;
            open.push_back(ny * columns + nx);
          }
        }
      }
      add_boxes(image, joint, count, island, {image, joint, count, low_y, high_y + 1, low_x, high_x + 1}, boxes);
    }
  }

  // The island whole, or in pieces if it is large; each no larger than its blocks need.
  void add_boxes(int64_t image, int joint, int number, const int32_t* island, const Box& box, std::vector<Box>* boxes) {
    if (box.bottom - box.top <= kChunk + 2 && box.right - box.left <= kChunk + 2) {
      boxes->push_back(box);
      return;
    }
    for (int64_t top = box.top; top < box.bottom; top += kChunk) {
      for (int64_t left = box.left; left < box.right; left += kChunk) {
        Box piece{image, joint, number, rows, 0, columns, 0};
        for (int64_t y = top; y < std::min(box.bottom, top + kChunk); ++y) {
          for (int64_t x = left; x < std::min(box.right, left + kChunk); ++x) {
            if (island[y * columns + x] != number) continue;
            piece.top = std::min(piece.top, y), piece.bottom = std::max(piece.bottom, y + 1);
            piece.left = std::min(piece.left, x), piece.right = std::max(piece.right, x + 1);
          }
        }
        if (piece.top < piece.bottom) boxes->push_back(piece);
      }
    }
  }

  // Copies a part of a joint's map, mirrored at the borders.
  void copy_patch(const Box& box, int64_t top, int64_t left, int64_t high, int64_t wide, int64_t pitch, float* patch) {
    std::vector<int64_t> places(wide);
    for (int64_t x = 0; x < wide; ++x) places[x] = mirrored(left + x, width) * heatmaps.column;
    for (int64_t y = 0; y < high; ++y) {
      const float* row = heatmaps.at(box.image, mirrored(top + y, height), 0) + box.joint * heatmaps.channel;
      float* to = patch + y * pitch;
      for (int64_t x = 0; x < wide; ++x) to[x] = row[places[x]];
    }
  }

  void enlarge_patch(const Box& box, int64_t top, int64_t left, int64_t high, int64_t wide, int64_t pitch,
                     float* patch) {
    // Rows of cells as wide as the patch, each when it is first needed.
    std::vector<float> lines(problem.height * pitch);
    std::vector<char> made(problem.height, 0);
    std::vector<int64_t> places(4 * wide);
    std::vector<float> w(4 * pitch);
    for (int64_t x = 0; x < wide; ++x) {
      const int64_t at = mirrored(left + x, width), cell = at / kPafEnlarged, place = at % kPafEnlarged;
      for (int tap = 0; tap < 4; ++tap) {
        places[4 * x + tap] = clamped(cell + cubic.first[place] + tap, problem.width) * heatmaps.column;
        w[4 * x + tap] = cubic.weights[place][tap];
      }
    }
    for (int64_t y = 0; y < high; ++y) {
      const int64_t at = mirrored(top + y, height), cell = at / kPafEnlarged, place = at % kPafEnlarged;
      const float* four[4];
      for (int tap = 0; tap < 4; ++tap) {
        const int64_t row = clamped(cell + cubic.first[place] + tap, problem.height);
        float* line = lines.data() + row * pitch;
        four[tap] = line;
        if (made[row]) continue;
        made[row] = 1;
        const float* from = heatmaps.at(box.image, row, 0) + box.joint * heatmaps.channel;
        for (int64_t x = 0; x < wide; ++x) {
          const int64_t* p = places.data() + 4 * x;
          line[x] = across(from[p[0]], from[p[1]], from[p[2]], from[p[3]], w.data() + 4 * x);
        }
      }
      float* to = patch + y * pitch;
      for (int64_t x = 0; x < wide; ++x)
        to[x] = down(four[0][x], four[1][x], four[2][x], four[3][x], cubic.weights[place]);
    }
  }

  void find_peaks(const Box& box, std::vector<Peak>* peaks) {
    const int64_t top = box.top * kBlock, bottom = std::min(height, box.bottom * kBlock);
    const int64_t left = box.left * kBlock, right = std::min(width, box.right * kBlock);
    // Smoothed values are wanted one pixel beyond the box on every side.
    const int64_t high = bottom - top + 2, wide = right - left + 2;
    const int64_t patch_high = high + 2 * kRadius, patch_wide = wide + 2 * kRadius;
    const int64_t pitch = pitch_of<float>(patch_wide);
    std::vector<float> patch(patch_high * pitch + 16);
    if (problem.times == 1) {
      copy_patch(box, top - 1 - kRadius, left - 1 - kRadius, patch_high, patch_wide, pitch, patch.data());
    } else {
      enlarge_patch(box, top - 1 - kRadius, left - 1 - kRadius, patch_high, patch_wide, pitch, patch.data());
    }
    const float most = largest_size(patch.data(), patch_high * pitch);
    std::vector<std::pair<int32_t, int32_t>> candidates;
    const int64_t many = (bottom - top) * (right - left) / 16 + 4;
    if (most < 1e30f) {
      quick_candidates(box, patch, pitch, high, wide, most, many, &candidates);
      if (static_cast<int64_t>(candidates.size()) <= many) {
        for (const auto& [y, x] : candidates) check_candidate(box, patch.data(), pitch, top, left, y, x, peaks);
        return;
      }
    }
    // As of a map without a slope: all of it is smoothed as the original does.
    std::vector<double> exact(patch.begin(), patch.end());
    Smoothed<double> smoothed;
    smoothed.run(exact.data(), pitch, high, wide, half);
    for (int64_t y = 1; y < high - 1; ++y) {
      for (int64_t x = 1; x < wide - 1; ++x) {
        if (!of_island(box, top + y - 1, left + x - 1)) continue;
        const double* middle = smoothed.twice.data() + y * pitch + x;
        const double around[5] = {middle[0], middle[-pitch], middle[pitch], middle[-1], middle[1]};
        add_if_peak(box, around, top + y - 1, left + x - 1, patch[(y + kRadius) * pitch + x + kRadius], peaks);
      }
    }
  }

  bool of_island(const Box& box, int64_t y, int64_t x) const {
    return islands[((box.image * problem.joints + box.joint) * rows + y / kBlock) * columns + x / kBlock] == box.island;
  }

  void add_if_peak(const Box& box, const double* around, int64_t y, int64_t x, float score,
                   std::vector<Peak>* peaks) const {
    const double value = around[0];
    if (value > problem.peak_threshold && value >= (y > 0 ? around[1] : 0) &&
        value >= (y < height - 1 ? around[2] : 0) && value >= (x > 0 ? around[3] : 0) &&
        value >= (x < width - 1 ? around[4] : 0)) {
      peaks->push_back({box.joint, static_cast<int32_t>(y), static_cast<int32_t>(x), static_cast<double>(x),
                        static_cast<double>(y), static_cast<double>(score)});
    }
  }

  // Places of the smoothed patch that may be peaks, no more than one beyond `many`.
  void quick_candidates(const Box& box, const std::vector<float>& patch, int64_t pitch, int64_t high, int64_t wide,
                        float most, int64_t many, std::vector<std::pair<int32_t, int32_t>>* candidates) const {
    Smoothed<float> smoothed;
    smoothed.run(patch.data(), pitch, high, wide, quick_half);
    const float threshold = problem.peak_threshold;
    const float slack = 1e-5 * std::max<double>(most, problem.peak_threshold);
    const float needed = threshold - slack;
    for (int64_t y = 1; y < high - 1; ++y) {
      const float* row = smoothed.twice.data() + y * pitch;
      const float *above = row - pitch, *below = row + pitch;
      for (int64_t first = 1; first < wide - 1; first += 16) {
        const int64_t end = std::min(first + 16, wide - 1);
        int any = 0;
        for (int64_t x = first; x < end; ++x) {
          const float value = row[x] + slack;
          any |= (row[x] >= needed) & (value >= above[x]) & (value >= below[x]) & (value >= row[x - 1]) &
                 (value >= row[x + 1]);
        }
        if (!any) continue;
        for (int64_t x = first; x < end; ++x) {
          const float value = row[x] + slack;
          if (row[x] < needed || value < above[x] || value < below[x] || value < row[x - 1] || value < row[x + 1])
            continue;
          if (!of_island(box, box.top * kBlock + y - 1, box.left * kBlock + x - 1)) continue;
          candidates->emplace_back(y, x);
          if (static_cast<int64_t>(candidates->size()) > many) return;
        }
      }
    }
  }

  // Smooths a place and its 4 neighbours as the original does.
  void check_candidate(const Box& box, const float* patch, int64_t pitch, int64_t top, int64_t left, int64_t y,
                       int64_t x, std::vector<Peak>* peaks) const {
    constexpr int kSide = 2 * kRadius + 3, kPitch = 32;  // a kernel's width, and one more on both sides
    double values[kSide * kPitch + 8], once[3 * kPitch + 8], around[5];
    const float* corner = patch + (y - 1) * pitch + x - 1;
    for (int row = 0; row < kSide; ++row) {
      for (int column = 0; column < kSide; ++column) values[row * kPitch + column] = corner[row * pitch + column];
      for (int column = kSide; column < kPitch; ++column) values[row * kPitch + column] = 0;
    }
    for (int row = 0; row < 3; ++row) {
      correlate(values + (row + kRadius) * kPitch, kPitch, half, kSide, once + row * kPitch);
    }
    const int at[5][2] = {{1, 1}, {0, 1}, {2, 1}, {1, 0}, {1, 2}};
    for (int i = 0; i < 5; ++i) {
      const double* middle = once + at[i][0] * kPitch + at[i][1] + kRadius;
      double total = middle[0] * half[0];
      for (int away = kRadius; away > 0; --away) total += (middle[-away] + middle[away]) * half[away];
      around[i] = total;
    }
    add_if_peak(box, around, top + y - 1, left + x - 1, patch[(y + kRadius) * pitch + x + kRadius], peaks);
  }
};

// ------------------------------------------------------------------------------------------------- small maps: peaks

inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// A part of a map, finely smoothed: rows `begin` to `end` of places in cells `left` to `right`. Every row is in `times`
// parts, part p holding the places p of all cells: [row, part, cells, joints]. Added up as cv2.sepFilter2D does, first
// across, then down.
class Fine {
 public:
  Fine(const PafProblem& problem, const PafMaps& maps, int64_t image, int64_t begin, int64_t end, int64_t left,
       int64_t right)
      : times_(problem.times), line_((right - left) * problem.joints), begin_(begin), left_(left) {
    constexpr int reach = kPafTaps / 2;
    const int joints = problem.joints;
    const bool mirror = problem.mode == kPafFast;
    const int64_t cells_begin = begin_ / times_, cells_end = (end - 1) / times_ + 1;
    std::vector<float> padded((right - left + 2 * reach) * joints);
    std::vector<float> lines((cells_end - cells_begin + 2 * reach) * times_ * line_);
    for (int64_t y = cells_begin - reach; y < cells_end + reach; ++y) {
      float* out = lines.data() + (y - cells_begin + reach) * times_ * line_;
      if (!mirror && (y < 0 || y >= problem.height)) continue;  // zeros
      const float* row = maps.at(image, mirrored(y, problem.height), 0);
      for (int64_t x = left - reach; x < right + reach; ++x) {
        float* to = padded.data() + (x - left + reach) * joints;
        if (!mirror && (x < 0 || x >= problem.width)) continue;
        const float* from = row + mirrored(x, problem.width) * maps.column;
        for (int joint = 0; joint < joints; ++joint) to[joint] = from[joint * maps.channel];
      }
      for (int64_t part = 0; part < times_; ++part, out += line_) {
        const float* w = problem.profiles + part * kPafTaps;
        const float* from = padded.data();
        for (int64_t i = 0; i < line_; ++i) {
          float total = from[i] * w[0];
#pragma GCC unroll 6
          for (int tap = 1; tap < kPafTaps; ++tap) total = multiply_add(from[i + tap * joints], w[tap], total);
          out[i] = total;
        }
      }
    }
    values_.resize((end - begin) * times_ * line_);
    for (int64_t y = begin; y < end; ++y) {
      const float* w = problem.profiles + y % times_ * kPafTaps;
      const float* from = lines.data() + (y / times_ - cells_begin) * times_ * line_;
      float* out = values_.data() + (y - begin) * times_ * line_;
      const int64_t step = times_ * line_;
      for (int64_t i = 0; i < step; ++i) {
        float total = from[i] * w[0];
#pragma GCC unroll 6
        for (int tap = 1; tap < kPafTaps; ++tap) total += from[i + tap * step] * w[tap];
        out[i] = total;
      }
    }
  }

  const float* line(int64_t y, int64_t part) const { return values_.data() + ((y - begin_) * times_ + part) * line_; }
  float at(int64_t y, int64_t x, int joint, int joints) const {
    return line(y, x % times_)[(x / times_ - left_) * joints + joint];
  }

 private:
  int64_t times_, line_, begin_, left_;
  std::vector<float> values_;
};

// Peaks in the cells of rows `first` to `last` and columns `left` to `right`.
void small_peaks(const PafProblem& problem, const PafMaps& maps, int64_t image, int64_t first, int64_t last,
                 int64_t left, int64_t right, std::vector<Peak>* peaks) {
  const int64_t times = problem.times, height = problem.height * times, width = problem.width * times;
  const int64_t begin = first * times, end = last * times, around = std::max<int64_t>(0, left - 1);
  const int joints = problem.joints;
  const Fine fine(problem, maps, image, std::max<int64_t>(0, begin - 1), std::min(height, end + 1), around,
                  std::min(problem.width, right + 1));
  const bool fast = problem.mode == kPafFast;
  const float threshold = fast ? 0.6 * problem.peak_threshold : problem.peak_threshold;
  const int64_t from = (left - around) * joints, to = (right - around) * joints;
  constexpr int64_t kRun = 64;
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t part = 0; part < times; ++part) {
      const float* line = fine.line(y, part);
      for (int64_t run = from; run < to; run += kRun) {
        const int64_t stop = std::min(to, run + kRun);
        int any = 0;
        for (int64_t i = run; i < stop; ++i) any |= line[i] > threshold;
        if (!any) continue;
        for (int64_t i = run; i < stop; ++i) {
          const float value = line[i];
          if (!(value > threshold)) continue;
          const int joint = static_cast<int>(i % joints);
          const int64_t x = (i / joints + around) * times + part;
          bool largest = true, twin = false;
          for (int64_t ny = std::max<int64_t>(0, y - 1); largest && ny <= std::min(height - 1, y + 1); ++ny) {
            for (int64_t nx = std::max<int64_t>(0, x - 1); nx <= std::min(width - 1, x + 1); ++nx) {
              const float other = fine.at(ny, nx, joint, joints);
              largest &= value >= other;
              // Of neighbours that are equally high, the first is the peak.
              twin |= fast && value == other && (ny < y || (ny == y && nx < x));
            }
          }
          if (!largest || twin) continue;
          Peak peak{joint, static_cast<int32_t>(y), static_cast<int32_t>(x), 0, 0, 0};
          if (!fast) {
            peak.x = static_cast<double>(x);
            peak.y = static_cast<double>(y);
            peak.score = static_cast<double>(maps.at(image, y / times, x / times)[joint * maps.channel]);
            peaks->push_back(peak);
            continue;
          }
          double top = value;
          for (int axis = 0; axis < 2; ++axis) {  // the top of a parabola, down and across
            const int64_t here = axis ? x : y, size = axis ? width : height;
            const int64_t low = here > 0 ? here - 1 : 1, high = here < size - 1 ? here + 1 : size - 2;
            const float before = axis ? fine.at(y, low, joint, joints) : fine.at(low, x, joint, joints);
            const float after = axis ? fine.at(y, high, joint, joints) : fine.at(high, x, joint, joints);
            const float slope = (after - before) / 2, bend = 2 * value - before - after;
            const float shift = bend > 0 ? std::min(std::max(slope / bend, -0.5f), 0.5f) : 0.0f;
            top += static_cast<double>(slope * shift - bend * (shift * shift) / 2);
            (axis ? peak.x : peak.y) = (here + static_cast<double>(shift) + 0.5) / times - 0.5;
          }
          peak.score = top;
          if (top > problem.peak_threshold) peaks->push_back(peak);
        }
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------- limbs

// The highest peaks of a joint, in their order, where there are too many to look at all pairs.
std::vector<const Peak*> highest(const Peak* begin, const Peak* end) {
  std::vector<const Peak*> kept;
  for (const Peak* peak = begin; peak != end; ++peak) kept.push_back(peak);
  if (static_cast<int64_t>(kept.size()) <= kMost) return kept;
  std::sort(kept.begin(), kept.end(), [](const Peak* one, const Peak* other) {
    return one->score != other->score ? one->score > other->score : one < other;
  });
  kept.resize(kMost);
  std::sort(kept.begin(), kept.end());
  return kept;
}

struct Field {
  const PafProblem& problem;
  const Cubic* cubic;  // null where the maps are taken as they are
  const float* data;   // of the image and limb
  int64_t row, column, channel;

  // Value at a pixel of the searched maps.
  void pixel(int64_t y, int64_t x, float* value) const {
    if (!cubic) {
      const float* at = data + y * row + x * column;
      value[0] = at[0];
      value[1] = at[channel];
      return;
    }
    const int place_y = static_cast<int>(y % kPafEnlarged), place_x = static_cast<int>(x % kPafEnlarged);
    const float *wy = cubic->weights[place_y], *wx = cubic->weights[place_x];
    int64_t places[4];
    for (int tap = 0; tap < 4; ++tap) {
      places[tap] = clamped(x / kPafEnlarged + cubic->first[place_x] + tap, problem.width) * column;
    }
    float lines[2][4];
    for (int tap = 0; tap < 4; ++tap) {
      const float* from = data + clamped(y / kPafEnlarged + cubic->first[place_y] + tap, problem.height) * row;
      for (int part = 0; part < 2; ++part, from += channel) {
        lines[part][tap] = across(from[places[0]], from[places[1]], from[places[2]], from[places[3]], wx);
      }
    }
    for (int part = 0; part < 2; ++part) {
      value[part] = down(lines[part][0], lines[part][1], lines[part][2], lines[part][3], wy);
    }
  }

  bool exact(const Peak& one, const Peak& other, double* score) const {
    const double dx = other.x - one.x, dy = other.y - one.y, norm = std::sqrt(dx * dx + dy * dy);
    if (!(norm > 0)) return false;
    const double ux = dx / norm, uy = dy / norm, sx = dx / (kPoints - 1), sy = dy / (kPoints - 1);
    double products[kPoints];
    auto product = [&](int point) {
      const bool last = point == kPoints - 1;
      const double x = last ? one.x + dx : one.x + point * sx, y = last ? one.y + dy : one.y + point * sy;
      float value[2];
      pixel(std::llrint(y), std::llrint(x), value);
      return products[point] = value[0] * ux + value[1] * uy;
    };
    int missing = 0;
    for (int point : kFirst) missing += !(product(point) > problem.paf_threshold);
    if (missing > kPoints - kNeeded[kPafExact]) return false;
    for (int point : {0, 1, 3, 5, 6, 8, 9}) {
      missing += !(product(point) > problem.paf_threshold);
      if (missing > kPoints - kNeeded[kPafExact]) return false;
    }
    double total = 0;
    for (double value : products) total += value;
    *score = total / kPoints + std::min(0.5 * problem.used_height / norm - 1, 0.0);
    return *score > 0;
  }

  bool fast(const Peak& one, const Peak& other, double* score) const {
    const double dx = other.x - one.x, dy = other.y - one.y, norm = std::sqrt(dx * dx + dy * dy);
    if (!(norm > 0)) return false;
    const float ux = dx / norm, uy = dy / norm;
    const int64_t height = problem.height, width = problem.width;
    const int64_t right = width > 1 ? column : 0, below = height > 1 ? row : 0;
    float products[kPoints];
    auto product = [&](int point) {
      const double along = point / static_cast<double>(kPoints - 1);
      const double x = std::min(std::max(one.x + dx * along, 0.0), static_cast<double>(width - 1));
      const double y = std::min(std::max(one.y + dy * along, 0.0), static_cast<double>(height - 1));
      const int64_t left = std::min<int64_t>(static_cast<int64_t>(x), std::max<int64_t>(width - 2, 0));
      const int64_t top = std::min<int64_t>(static_cast<int64_t>(y), std::max<int64_t>(height - 2, 0));
      const float weight = static_cast<float>(x - left), weight_down = static_cast<float>(y - top);
      const float* corner = data + top * row + left * column;
      float value[2];
      for (int part = 0; part < 2; ++part, corner += channel) {
        const float upper = corner[0] + (corner[right] - corner[0]) * weight;
        const float lower = corner[below] + (corner[below + right] - corner[below]) * weight;
        value[part] = upper + (lower - upper) * weight_down;
      }
      return products[point] = value[0] * ux + value[1] * uy;
    };
    const float threshold = problem.paf_threshold;
    int missing = 0;
    for (int point : kFirst) missing += !(product(point) > threshold);
    if (missing > kPoints - kNeeded[kPafFast]) return false;
    for (int point : {0, 1, 3, 5, 6, 8, 9}) {
      missing += !(product(point) > threshold);
      if (missing > kPoints - kNeeded[kPafFast]) return false;
    }
    // As NumPy adds ten numbers up.
    double total =
        ((static_cast<double>(products[0]) + products[1]) + (static_cast<double>(products[2]) + products[3])) +
        ((static_cast<double>(products[4]) + products[5]) + (static_cast<double>(products[6]) + products[7]));
    total = total + products[8] + products[9];
    *score = total / kPoints + std::min(0.5 * height / norm - 1, 0.0);
    return *score > 0;
  }

  bool tf_pose(const Peak& one, const Peak& other, double* score) const {
    const float dx = other.x - one.x, dy = other.y - one.y, norm = std::sqrt(dx * dx + dy * dy);
    if (!(norm > 0)) return false;
    const float ux = dx / norm, uy = dy / norm, sx = dx / static_cast<float>(kPoints),
                sy = dy / static_cast<float>(kPoints);
    const float begin_x = one.x, begin_y = one.y, threshold = problem.paf_threshold;
    float total = 0;
    int missing = 0;
    for (int point = 0; point < kPoints; ++point) {
      const double x = static_cast<double>(begin_x + point * sx) + 0.5,
                   y = static_cast<double>(begin_y + point * sy) + 0.5;
      const float* at =
          data + static_cast<int64_t>(y) / problem.times * row + static_cast<int64_t>(x) / problem.times * column;
      const float value = at[0] * ux + at[channel] * uy;
      missing += !(value > threshold);
      if (missing > kPoints - kNeeded[kPafTfPose]) return false;
      total += value;
    }
    const double far = std::min(0.5 * (problem.height * problem.times) / static_cast<double>(norm) - 1, 0.0);
    const float sum = static_cast<float>(static_cast<double>(total / static_cast<float>(kPoints)) + far);
    *score = sum;
    return sum > 0;
  }
};

std::vector<Limb> connect(const PafProblem& problem, const Cubic* cubic, const PafMaps& fields, int64_t image, int limb,
                          const std::vector<Peak>& peaks, const std::vector<int64_t>& ends) {
  const auto of_joint = [&](int joint) { return highest(peaks.data() + ends[joint], peaks.data() + ends[joint + 1]); };
  const int start_joint = problem.ends[2 * limb], end_joint = problem.ends[2 * limb + 1];
  const std::vector<const Peak*> start = of_joint(start_joint), end = of_joint(end_joint);
  if (start.empty() || end.empty()) return {};
  const Field field{problem,    cubic,         fields.at(image, 0, 0) + 2 * limb * fields.channel,
                    fields.row, fields.column, fields.channel};
  std::vector<Limb> found;
  for (size_t one = 0; one < start.size(); ++one) {
    for (size_t other = 0; other < end.size(); ++other) {
      double score;
      const bool good = problem.mode == kPafExact  ? field.exact(*start[one], *end[other], &score)
                        : problem.mode == kPafFast ? field.fast(*start[one], *end[other], &score)
                                                   : field.tf_pose(*start[one], *end[other], &score);
      if (good) found.push_back({static_cast<int32_t>(one), static_cast<int32_t>(other), score});
    }
  }
  std::sort(found.begin(), found.end(), [](const Limb& one, const Limb& other) {
    if (one.score != other.score) return one.score > other.score;
    return one.start != other.start ? one.start < other.start : one.end < other.end;
  });
  std::vector<char> taken_start(start.size(), 0), taken_end(end.size(), 0);
  std::vector<Limb> chosen;
  const size_t quota = std::min(start.size(), end.size());
  for (const Limb& pair : found) {
    if (taken_start[pair.start] || taken_end[pair.end]) continue;
    taken_start[pair.start] = taken_end[pair.end] = 1;
    chosen.push_back({static_cast<int32_t>(start[pair.start] - peaks.data()),
                      static_cast<int32_t>(end[pair.end] - peaks.data()), pair.score});
    if (chosen.size() == quota) break;
  }
  return chosen;
}

// ------------------------------------------------------------------------------------------------- people

struct People {
  std::vector<std::vector<int32_t>> numbers;  // [joints][people]: one list a joint, for they are searched
  std::vector<double> sums;
  std::vector<int64_t> counts;
};

std::vector<double> group(const PafProblem& problem, const std::vector<Peak>& peaks,
                          const std::vector<std::vector<Limb>>& limbs) {
  const int joints = problem.joints;
  People people;
  people.numbers.resize(joints);
  for (int step = 0; step < problem.steps; ++step) {
    const int limb = problem.order[step];
    std::vector<int32_t>&start = people.numbers[problem.ends[2 * limb]],
    &end = people.numbers[problem.ends[2 * limb + 1]];
    for (const Limb& found : limbs[step]) {
      int64_t rows[2], matches = 0;
      const int64_t count = static_cast<int64_t>(people.sums.size());
      for (int64_t i = 0; i < count && matches < 2; ++i) {
        if (start[i] == found.start || end[i] == found.end) rows[matches++] = i;
      }
      if (matches == 2) {
        bool shared = false;
        for (const auto& numbers : people.numbers) shared |= numbers[rows[0]] >= 0 && numbers[rows[1]] >= 0;
        if (!shared) {
          for (auto& numbers : people.numbers) {
            numbers[rows[0]] += numbers[rows[1]] + 1;
            numbers.erase(numbers.begin() + rows[1]);
          }
          people.sums[rows[0]] += people.sums[rows[1]];
          people.sums[rows[0]] += found.score;
          people.counts[rows[0]] += people.counts[rows[1]];
          people.sums.erase(people.sums.begin() + rows[1]);
          people.counts.erase(people.counts.begin() + rows[1]);
          continue;
        }
      }
      if (matches) {
        if (matches == 2 || end[rows[0]] != found.end) {
          end[rows[0]] = found.end;
          people.sums[rows[0]] += peaks[found.end].score + found.score;
          people.counts[rows[0]] += 1;
        }
      } else if (problem.opens[step]) {
        for (auto& numbers : people.numbers) numbers.push_back(-1);
        start.back() = found.start;
        end.back() = found.end;
        people.sums.push_back(peaks[found.start].score + peaks[found.end].score + found.score);
        people.counts.push_back(2);
      }
    }
  }
  std::vector<double> rows;
  for (size_t i = 0; i < people.sums.size(); ++i) {
    const double count = static_cast<double>(people.counts[i]);
    if (!(count >= problem.min_parts) || !(people.sums[i] / count >= problem.min_score)) continue;
    for (const auto& numbers : people.numbers) rows.push_back(numbers[i]);
    rows.push_back(people.sums[i]);
    rows.push_back(count);
  }
  return rows;
}

void check(const PafProblem& problem) {
  if (problem.batch < 0 || problem.height < 1 || problem.width < 1 || problem.joints < 1 || problem.limbs < 0) {
    throw InvalidInput("maps of " + std::to_string(problem.height) + " x " + std::to_string(problem.width) +
                       " cells, " + std::to_string(problem.joints) + " joints and " + std::to_string(problem.limbs) +
                       " limbs cannot be decoded; all but the limbs must be above 0");
  }
  for (int i = 0; i < 2 * problem.limbs; ++i) {
    if (problem.ends[i] < 0 || problem.ends[i] >= problem.joints) {
      throw InvalidInput("limb " + std::to_string(i / 2) + " ends at joint " + std::to_string(problem.ends[i]) +
                         ", of " + std::to_string(problem.joints));
    }
  }
  for (int step = 0; step < problem.steps; ++step) {
    if (problem.order[step] < 0 || problem.order[step] >= problem.limbs) {
      throw InvalidInput("limb " + std::to_string(problem.order[step]) + " of " + std::to_string(problem.limbs) +
                         " was to be put together");
    }
  }
  const bool exact = problem.mode == kPafExact, enlarged = exact && problem.times == kPafEnlarged;
  const int64_t high = problem.height * (enlarged ? problem.times : 1),
                wide = problem.width * (enlarged ? problem.times : 1);
  if (problem.mode < kPafExact || problem.mode > kPafTfPose || problem.times < 1 ||
      (exact && !enlarged && problem.times != 1) || problem.used_height < 1 || problem.used_width < 1 ||
      problem.used_height > high || problem.used_width > wide ||
      (!enlarged && (problem.used_height != high || problem.used_width != wide))) {
    throw InvalidInput("mode " + std::to_string(problem.mode) + ", " + std::to_string(problem.times) + " times, for " +
                       std::to_string(problem.used_height) + " x " + std::to_string(problem.used_width) +
                       " of them, is none");
  }
}

}  // namespace

std::vector<PafPeople> decode_paf(const PafProblem& problem, const PafMaps& heatmaps, const PafMaps& fields) {
  check(problem);
  const int64_t batch = problem.batch, joints = problem.joints;
  const int channels = problem.joints + 1, field_channels = 2 * problem.limbs;
  const bool exact_mode = problem.mode == kPafExact, enlarged = exact_mode && problem.times > 1;
  std::unique_ptr<Exact> exact;
  if (exact_mode) exact = std::make_unique<Exact>(problem, heatmaps);

  // Are the maps finite, and how high are they? In bands of rows, which come from memory once.
  const int64_t band = enlarged ? 1 : kBlock, bands = (problem.height + band - 1) / band;
  std::vector<char> good(2 * batch * bands, 1);
  parallel_for(batch * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, top = task % bands * band, bottom = std::min(problem.height, top + band);
      Rows heat_rows(heatmaps, problem.width, channels), field_rows(fields, problem.width, field_channels);
      if (exact_mode && top * problem.times < problem.used_height) {
        good[2 * task] =
            enlarged ? exact->look_over_enlarged(image, task % bands) : exact->look_over(image, task % bands);
      } else {  // padding, or a mode that looks for peaks everywhere
        for (int64_t y = top; y < bottom; ++y)
          good[2 * task] &= finite(heat_rows.get(image, y), problem.width * channels);
      }
      for (int64_t y = top; y < bottom; ++y) {
        good[2 * task + 1] &= finite(field_rows.get(image, y), problem.width * field_channels);
      }
    }
  });
  if (std::find(good.begin(), good.end(), 0) != good.end()) {
    for (int64_t image = 0; image < batch; ++image) {
      refuse_not_finite(problem, "Heatmaps", heatmaps, channels, image);
      refuse_not_finite(problem, "Fields", fields, field_channels, image);
    }
  }

  // Peaks.
  std::vector<std::vector<Peak>> peaks(batch);
  if (exact_mode) {
    std::vector<std::vector<Box>> of_joint(batch * joints);
    parallel_for(batch * joints, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        exact->find_boxes(task / joints, static_cast<int>(task % joints), &of_joint[task]);
      }
    });
    std::vector<Box> boxes;
    for (const auto& some : of_joint) boxes.insert(boxes.end(), some.begin(), some.end());
    // Boxes of several joints at one place come one after another: the pixels of all joints lie together.
    std::sort(boxes.begin(), boxes.end(), [](const Box& one, const Box& other) {
      if (one.image != other.image) return one.image < other.image;
      const int64_t row = (one.top + one.bottom) / 16, other_row = (other.top + other.bottom) / 16;
      return row != other_row ? row < other_row : one.left + one.right < other.left + other.right;
    });
    std::vector<std::vector<Peak>> of_box(boxes.size());
    parallel_for(boxes.size(), 8, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) exact->find_peaks(boxes[task], &of_box[task]);
    });
    for (size_t i = 0; i < boxes.size(); ++i) {
      std::vector<Peak>& to = peaks[boxes[i].image];
      to.insert(to.end(), of_box[i].begin(), of_box[i].end());
    }
  } else {
    constexpr int64_t kRows = 4, kColumns = 96;
    const int64_t down = (problem.height + kRows - 1) / kRows, across = (problem.width + kColumns - 1) / kColumns;
    const int64_t parts = down * across;
    std::vector<std::vector<Peak>> of_part(batch * parts);
    parallel_for(batch * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % parts / across * kRows, left = task % across * kColumns;
        small_peaks(problem, heatmaps, task / parts, first, std::min(problem.height, first + kRows), left,
                    std::min(problem.width, left + kColumns), &of_part[task]);
      }
    });
    for (int64_t task = 0; task < batch * parts; ++task) {
      std::vector<Peak>& to = peaks[task / parts];
      to.insert(to.end(), of_part[task].begin(), of_part[task].end());
    }
  }
  std::vector<std::vector<int64_t>> ends(batch, std::vector<int64_t>(joints + 1, 0));
  for (int64_t image = 0; image < batch; ++image) {
    std::sort(peaks[image].begin(), peaks[image].end());
    if (peaks[image].size() > static_cast<size_t>(std::numeric_limits<int32_t>::max() / 2)) throw std::bad_alloc();
    for (const Peak& peak : peaks[image]) ++ends[image][peak.joint + 1];
    for (int64_t joint = 0; joint < joints; ++joint) ends[image][joint + 1] += ends[image][joint];
  }

  // Limbs.
  const int64_t steps = problem.steps;
  std::vector<std::vector<std::vector<Limb>>> limbs(batch, std::vector<std::vector<Limb>>(steps));
  parallel_for(batch * steps, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / steps, step = task % steps;
      limbs[image][step] = connect(problem, enlarged ? &exact->cubic : nullptr, fields, image, problem.order[step],
                                   peaks[image], ends[image]);
    }
  });

  // People.
  std::vector<PafPeople> results(batch);
  parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      PafPeople& result = results[image];
      result.people = group(problem, peaks[image], limbs[image]);
      result.peaks.reserve(5 * peaks[image].size());
      double number = 0;
      for (const Peak& peak : peaks[image]) {
        for (double value : {static_cast<double>(peak.joint), peak.x, peak.y, peak.score, number}) {
          result.peaks.push_back(value);
        }
        ++number;
      }
    }
  });
  return results;
}

void describe_person(const PafProblem& problem, const PafPeople& image, int64_t person, float* keypoints, float* scores,
                     float* person_score) {
  const double* row = image.people.data() + person * (problem.joints + 2);
  for (int joint = 0; joint < problem.joints; ++joint) {
    if (row[joint] < 0) {
      keypoints[2 * joint] = keypoints[2 * joint + 1] = std::numeric_limits<float>::quiet_NaN();
      scores[joint] = 0;
      continue;
    }
    const double* peak = image.peaks.data() + 5 * static_cast<int64_t>(row[joint]);
    for (int axis = 0; axis < 2; ++axis) {
      double place = peak[1 + axis];
      if (problem.mode == kPafFast) place = (place + 0.5) * problem.stride - 0.5;
      if (problem.mode == kPafTfPose) place *= problem.stride / problem.times;
      keypoints[2 * joint + axis] = static_cast<float>(place);
    }
    scores[joint] = static_cast<float>(peak[3]);
  }
  *person_score = static_cast<float>(row[problem.joints] / row[problem.joints + 1]);
}

}  // namespace posekit

// ------------------------------------------------------------------------------------------------- for ctypes

namespace {

struct Result {
  posekit::PafProblem problem;
  std::vector<posekit::PafPeople> images;
};

posekit::PafMaps maps_of(const float* data, const int64_t* strides) {
  return {data, strides[0], strides[1], strides[2], strides[3]};
}

}  // namespace

// Decodes a batch. whole: batch, height, width, joints, limbs, steps, mode, times, used height and width, then 4
// strides each of heatmaps and fields. numbers: thresholds of peaks and fields, fewest parts, lowest score, stride.
// sizes: [batch, 2], filled with numbers of peaks and people. *result must be given to posekit_decode_paf_take.
POSEKIT_EXPORT int posekit_decode_paf(const float* heatmaps, const float* fields, const int64_t* whole,
                                      const double* numbers, const int32_t* ends, const int32_t* order,
                                      const uint8_t* opens, const double* gaussian, const float* profiles,
                                      int64_t* sizes, void** result) {
  return posekit::guarded([&] {
    *result = nullptr;
    auto made = std::make_unique<Result>();
    posekit::PafProblem& p = made->problem;
    p = {whole[0],
         whole[1],
         whole[2],
         static_cast<int>(whole[3]),
         static_cast<int>(whole[4]),
         static_cast<int>(whole[5]),
         ends,
         order,
         opens,
         gaussian,
         profiles,
         static_cast<int>(whole[6]),
         whole[7],
         whole[8],
         whole[9],
         numbers[0],
         numbers[1],
         numbers[2],
         numbers[3],
         numbers[4]};
    made->images = posekit::decode_paf(p, maps_of(heatmaps, whole + 10), maps_of(fields, whole + 14));
    for (const posekit::PafPeople& image : made->images) {
      *sizes++ = static_cast<int64_t>(image.peaks.size() / 5);
      *sizes++ = static_cast<int64_t>(image.people.size() / (p.joints + 2));
    }
    *result = made.release();
  });
}

// Copies what was found, all images' one after another, and frees it; copies nothing where `peaks` is null.
POSEKIT_EXPORT void posekit_decode_paf_take(void* result, double* peaks, double* people, float* keypoints,
                                            float* scores, float* person_scores) {
  std::unique_ptr<Result> taken(static_cast<Result*>(result));
  if (!taken || !peaks) return;
  const int joints = taken->problem.joints;
  for (const posekit::PafPeople& image : taken->images) {
    peaks = std::copy(image.peaks.begin(), image.peaks.end(), peaks);
    people = std::copy(image.people.begin(), image.people.end(), people);
    const int64_t count = static_cast<int64_t>(image.people.size() / (joints + 2));
    for (int64_t person = 0; person < count; ++person) {
      posekit::describe_person(taken->problem, image, person, keypoints, scores, person_scores);
      keypoints += 2 * joints;
      scores += joints;
      ++person_scores;
    }
  }
}
