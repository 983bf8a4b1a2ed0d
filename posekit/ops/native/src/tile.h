// A small matrix product held in registers, of which larger ones are made.
#ifndef POSEKIT_TILE_H_
#define POSEKIT_TILE_H_

#include <cstdint>
#include <cstdlib>
#include <new>

namespace posekit {
// Internal to each file that includes this: files differ in their compiler flags.
namespace {

// Twice as many accumulators as rows, two vectors of the right side and one factor must fit into the registers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileRows = 6;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 14;
#else
constexpr int kVectorBytes = 16, kTileRows = 6;
#endif

template <class T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int kWidth = kVectorBytes / sizeof(T);
  static constexpr int kColumns = 2 * kWidth;  // of a tile
};

// Uninitialised memory at the start of a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, (count > 0 ? count : 1) * sizeof(T))) throw std::bad_alloc();
    data_ = static_cast<T*>(memory);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  T* data() const { return data_; }

 private:
  T* data_;
};

// Rows of the next tile where `left` of them remain.
inline int tile_rows(int64_t left) {
  if (left >= kTileRows) return kTileRows;
  for (int rows : {8, 4, 2}) {
    if (rows < kTileRows && rows <= left) return rows;
  }
  return 1;
}

// Columns that a panel is padded to: one vector or two.
template <class T>
int64_t panel_width(int64_t columns) {
  return columns > Simd<T>::kWidth ? Simd<T>::kColumns : Simd<T>::kWidth;
}

// What a tile is computed from: c[r][n] = sum over segments s and k of a[(starts[s] + k) * ROWS + r] * b[k'][n], where
// k' counts on through all segments. The left side is packed by tiles, the right side by panels.
template <class T>
struct TileSource {
  const T* a;
  const int64_t* starts;
  int64_t segments, length;
  const T* b;
};

template <class T, int ROWS, int VECTORS>
__attribute__((noinline)) void multiply_tile(const TileSource<T>& source, T* c, bool more) {
  using Vector = typename Simd<T>::Vector;
  Vector sums[ROWS][VECTORS] = {};
  const Vector* right = reinterpret_cast<const Vector*>(source.b);
  for (int64_t segment = 0; segment < source.segments; ++segment) {
    const T* left = source.a + source.starts[segment] * ROWS;
    for (int64_t k = 0; k < source.length; ++k, left += ROWS, right += VECTORS) {
#pragma GCC unroll 16
      for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 2
        for (int vector = 0; vector < VECTORS; ++vector) sums[row][vector] += left[row] * right[vector];
      }
    }
  }
  Vector* into = reinterpret_cast<Vector*>(c);
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 2
    for (int vector = 0; vector < VECTORS; ++vector) {
      into[row * VECTORS + vector] = more ? into[row * VECTORS + vector] + sums[row][vector] : sums[row][vector];
    }
  }
}

template <class T, int ROWS>
void multiply_tile(const TileSource<T>& source, int64_t width, T* c, bool more) {
  if (width > Simd<T>::kWidth) {
    multiply_tile<T, ROWS, 2>(source, c, more);
  } else {
    multiply_tile<T, ROWS, 1>(source, c, more);
  }
}

// c, [rows, width] with `rows` of tile_rows and `width` of panel_width, becomes the product, or is increased by it.
template <class T>
void multiply_tile(int rows, const TileSource<T>& source, int64_t width, T* c, bool more = false) {
  switch (rows) {
    case kTileRows:
      return multiply_tile<T, kTileRows>(source, width, c, more);
    case 8:
      return multiply_tile<T, 8>(source, width, c, more);
    case 4:
      return multiply_tile<T, 4>(source, width, c, more);
    case 2:
      return multiply_tile<T, 2>(source, width, c, more);
    default:
      return multiply_tile<T, 1>(source, width, c, more);
  }
}

// Packs `rows` x `depth` numbers, where rows lie `stride` apart, for the left side: by tiles, and in them by depth.
template <class T>
void pack_left(const T* from, int64_t stride, int rows, int64_t depth, T* into) {
  // Piece by piece: what is written in small steps stays in the cache until it is complete.
  constexpr int64_t kPiece = 16;
  for (int64_t first = 0; first < depth; first += kPiece) {
    const int64_t count = depth - first < kPiece ? depth - first : kPiece;
    for (int row = 0; row < rows; ++row) {
      const T* line = from + row * stride + first;
      T* to = into + first * rows + row;
      if (count == kPiece) {
        for (int64_t k = 0; k < kPiece; ++k) to[k * rows] = line[k];
      } else {
        for (int64_t k = 0; k < count; ++k) to[k * rows] = line[k];
      }
    }
  }
}

// A product that is 0 where the factor is, whatever the value, NaN too.
template <class T>
T times(T value, T factor) {
  return factor == 0 ? T(0) : value * factor;
}

// Packs `depth` lines of `columns` numbers, times a factor, for the right side.
template <class T>
void pack_right(const T* from, int64_t stride, int64_t depth, int64_t columns, T factor, int64_t width, T* into) {
  for (int64_t k = 0; k < depth; ++k, from += stride, into += width) {
    for (int64_t n = 0; n < columns; ++n) into[n] = times(from[n], factor);
    for (int64_t n = columns; n < width; ++n) into[n] = 0;
  }
}

// The same of a matrix that is stored transposed: `columns` lines of `depth` numbers.
template <class T>
void pack_right_transposed(const T* from, int64_t stride, int64_t depth, int64_t columns, T factor, int64_t width,
                           T* into) {
  for (int64_t n = 0; n < columns; ++n) {
    const T* line = from + n * stride;
    for (int64_t k = 0; k < depth; ++k) into[k * width + n] = times(line[k], factor);
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = columns; n < width; ++n) into[k * width + n] = 0;
  }
}

}  // namespace
}  // namespace posekit

#endif  // POSEKIT_TILE_H_
