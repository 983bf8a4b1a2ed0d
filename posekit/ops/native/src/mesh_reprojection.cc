// The search for the vertices nearest to pixels goes through tiles of four by four pixels as they stand in the image.
//
// A vertex inside the silhouette has its nearest pixel under it. Any other's is on the outline: were all four
// neighbours of the nearest pixel in the silhouette, the one towards the vertex would be nearer. So only the outline is
// kept and searched.
#include "mesh_reprojection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "parallel.h"
#include "point_tree.h"

namespace posekit {
namespace {

constexpr int kTile = 4;
constexpr int64_t kRowsAtOnce = 32;
constexpr int64_t kLeavesAtOnce = 64;
constexpr int64_t kWord = 8;
constexpr int64_t kWorthSharing = 1 << 14;  // pixels of an outline from which on several threads sort them
constexpr int64_t kWorthHelp = 1 << 11;     // pixels and vertices of an image from which on several threads work on it

int64_t count_pixels(const uint8_t* silhouette, int64_t size) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i) count += silhouette[i] != 0;
  return count;
}

// Calls visit(x) for every byte of a row that is not 0.
template <class Visit>
void each_pixel(const uint8_t* row, int64_t width, const Visit& visit) {
  for (int64_t x = 0; x < width;) {
    uint64_t word = 1;
    if (x + kWord <= width) std::memcpy(&word, row + x, kWord);
    const int64_t stop = std::min(x + kWord, width);
    if (!word) {
      x = stop;
    } else {
      for (; x < stop; ++x) {
        if (row[x]) visit(x);
      }
    }
  }
}

// Calls visit(y, outer) for every row: `outer` is 1 where the row is in the outline.
template <class Visit>
void each_of_outline(const uint8_t* silhouette, int64_t height, int64_t width, const Visit& visit) {
  std::vector<uint8_t> outer(width), blank(width);
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = silhouette + y * width;
    const uint8_t* above = y ? row - width : blank.data();
    const uint8_t* below = y + 1 < height ? row + width : blank.data();
    for (int64_t x = 0; x < width; ++x) outer[x] = row[x] && !(above[x] && below[x]);
    for (int64_t x = 1; x < width; ++x) outer[x] |= row[x] && !row[x - 1];
    for (int64_t x = 1; x < width; ++x) outer[x - 1] |= row[x - 1] && !row[x];
    outer[0] |= row[0] != 0;
    outer[width - 1] |= row[width - 1] != 0;
    visit(y, outer.data());
  }
}

// A tree over the outline of a silhouette. It keeps the numbers y * width + x of pixels alone: four bytes each, from
// which a leaf's positions are worked out when it is visited. For noise, where all pixels are in the outline, positions
// would take several times the silhouette.
template <class T>
class OutlineTree : public Boxes<T> {
 public:
  struct Leaf {
    T values[2 * kLanes];
    const int32_t* index;
  };

  OutlineTree(const uint8_t* silhouette, int64_t height, int64_t width)
      : width_(static_cast<int32_t>(width)), columns_(1 / static_cast<double>(width)) {
    int64_t count = 0;
    each_of_outline(silhouette, height, width, [&](int64_t, const uint8_t* outer) {
      for (int64_t x = 0; x < width; ++x) count += outer[x];
    });
    const int64_t leaves = (count + kLanes - 1) / kLanes;
    pixels_.reset(leaves * kLanes);
    int32_t* next = pixels_.get();
    each_of_outline(silhouette, height, width, [&](int64_t y, const uint8_t* outer) {
      each_pixel(outer, width, [&](int64_t x) { *next++ = static_cast<int32_t>(y * width + x); });
    });
    cut(count, leaves);
    std::fill(next, pixels_.get() + leaves * kLanes, next[-1]);

    Buffer<T> boxes(leaves * 4);
    Buffer<int32_t> first(leaves);
    for (int64_t i = 0; i < leaves; ++i) {
      const Leaf here = leaf(i);
      for (int axis = 0; axis < 2; ++axis) {
        const auto [least, most] = std::minmax_element(here.values + axis * kLanes, here.values + (axis + 1) * kLanes);
        boxes[4 * i + 2 * axis] = *least;
        boxes[4 * i + 2 * axis + 1] = *most;
      }
      first[i] = here.index[0];
    }
    this->build(leaves, 2, std::move(boxes), std::move(first));
  }

  int dims() const { return 2; }

  Leaf leaf(int64_t leaf) const {
    Leaf here;
    here.index = pixels_.get() + leaf * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t row = row_of(here.index[lane]);
      here.values[lane] = static_cast<T>(here.index[lane] - row * width_);
      here.values[kLanes + lane] = static_cast<T>(row);
    }
    return here;
  }

 private:
  // Without a division, and yet exact: half a column in front of the next row is more than what rounding adds.
  int32_t row_of(int32_t pixel) const { return static_cast<int32_t>((pixel + 0.5) * columns_); }
  int32_t column_of(int32_t pixel) const { return pixel - row_of(pixel) * width_; }

  // Cuts the pixels, which stand row after row, into slabs of rows, and each slab into leaves along the columns.
  void cut(int64_t count, int64_t leaves) {
    int32_t* pixels = pixels_.get();
    // What most of them are spread over, judged by a sample: single ones far away do not count.
    constexpr int64_t kSamples = 64;
    int32_t columns[kSamples];
    const int64_t samples = std::min(count, kSamples), low = samples / 10, high = samples - 1 - low;
    for (int64_t i = 0; i < samples; ++i) columns[i] = column_of(pixels[count * i / samples]);
    std::sort(columns, columns + samples);
    const double wide = columns[high] - columns[low] + 1;
    const double tall = row_of(pixels[count * high / samples]) - row_of(pixels[count * low / samples]) + 1;
    const double wanted = std::min(std::ceil(std::sqrt(leaves * tall / wide)), static_cast<double>(leaves));
    const int64_t slabs = std::max<int64_t>(1, static_cast<int64_t>(wanted));
    const int64_t slab = (leaves + slabs - 1) / slabs * kLanes;
    const auto sort_slabs = [&](int64_t from, int64_t to) {
      Buffer<int32_t> spare(std::min(slab, count));
      std::vector<int32_t> places;
      for (int64_t begin = from * slab; begin < std::min(to * slab, count); begin += slab) {
        sort_slab(pixels + begin, std::min(slab, count - begin), spare.get(), places);
      }
    };
    parallel_for(slabs, count >= kWorthSharing ? std::max<int64_t>(1, slabs / 16) : slabs, sort_slabs);
  }

  // Sorts pixels by columns, and those of a leaf by their numbers again.
  void sort_slab(int32_t* pixels, int64_t count, int32_t* spare, std::vector<int32_t>& places) const {
    if (count <= kLanes) return;
    int32_t least = column_of(pixels[0]), most = least;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t column = column_of(pixels[i]);
      least = std::min(least, column);
      most = std::max(most, column);
    }
    if (most - least < 2 * count) {
      places.assign(int64_t{most} - least + 2, 0);
      int32_t* next = places.data() + 1;
      for (int64_t i = 0; i < count; ++i) ++next[column_of(pixels[i]) - least];
      for (int32_t i = 0; i < most - least; ++i) next[i + 1] += next[i];
      next = places.data();
      for (int64_t i = 0; i < count; ++i) spare[next[column_of(pixels[i]) - least]++] = pixels[i];
      std::copy(spare, spare + count, pixels);
    } else {
      std::sort(pixels, pixels + count, [this](int32_t one, int32_t other) {
        const int32_t left = column_of(one), right = column_of(other);
        return left != right ? left < right : one < other;
      });
    }
    for (int64_t begin = 0; begin < count; begin += kLanes) {
      std::sort(pixels + begin, pixels + std::min(begin + kLanes, count));
    }
  }

  int32_t width_;
  double columns_;  // one by width
  Buffer<int32_t> pixels_;
};

template <class T>
struct Image {
  const uint8_t* silhouette;
  const T* vertices;
  int64_t height, width, per_image;
  int32_t* nearest_vertex;
  int32_t* nearest_pixel;
  std::unique_ptr<OutlineTree<T>> outline_tree;
  std::unique_ptr<PointTree<T>> vertex_tree;

  // The pixel under a vertex, if it is in the silhouette; the first one where the vertex lies between several; else -1.
  int32_t pixel_under(T x, T y) const {
    if (!(x > -1 && x < width && y > -1 && y < height)) return -1;
    const int64_t left = static_cast<int64_t>(std::ceil(x - T(0.5))), right = std::floor(x + T(0.5));
    const int64_t top = static_cast<int64_t>(std::ceil(y - T(0.5))), bottom = std::floor(y + T(0.5));
    for (int64_t row = std::max<int64_t>(top, 0); row <= std::min(bottom, height - 1); ++row) {
      for (int64_t column = std::max<int64_t>(left, 0); column <= std::min(right, width - 1); ++column) {
        if (silhouette[row * width + column]) return static_cast<int32_t>(row * width + column);
      }
    }
    return -1;
  }
};

// Up to sixteen points that wait until they are searched for together.
template <class T>
struct Waiting {
  T values[2 * kLanes];
  int32_t place[kLanes];
  int count = 0;

  void add(T x, T y, int64_t where) {
    values[count] = x;
    values[kLanes + count] = y;
    place[count++] = static_cast<int32_t>(where);
  }

  // Searches, and calls found(place, position) for each.
  template <class Tree, class Found>
  void run(Search<Tree, 2>& search, const Found& found) {
    if (!count) return;
    for (int lane = count; lane < kLanes; ++lane) {
      values[lane] = values[count - 1];
      values[kLanes + lane] = values[kLanes + count - 1];
    }
    typename Search<Tree, 2>::Number index[kLanes];
    search.run(values, index);
    for (int lane = 0; lane < count; ++lane) found(lane, static_cast<int32_t>(index[lane]));
    count = 0;
  }
};

// Finds the vertices nearest to the pixels of some rows, before which there are `pixels`; returns the sum of the
// distances.
template <class T>
double search_vertices(const Image<T>& image, int64_t first_row, int64_t last_row, int32_t pixels) {
  Search<PointTree<T>, 2> search(*image.vertex_tree);
  Waiting<T> waiting;
  double sum = 0;
  const auto found = [&](int lane, int32_t vertex) {
    image.nearest_vertex[waiting.place[lane]] = vertex;
    const T* at = image.vertices + 2 * int64_t{vertex};
    sum += std::abs(waiting.values[lane] - at[0]) + std::abs(waiting.values[kLanes + lane] - at[1]);
  };
  for (int64_t top = first_row; top < last_row; top += kTile) {
    const int64_t rows = std::min<int64_t>(kTile, last_row - top);
    const uint8_t* band = image.silhouette + top * image.width;
    int32_t place[kTile];
    for (int64_t row = 0; row < rows; ++row) {
      place[row] = pixels;
      pixels += static_cast<int32_t>(count_pixels(band + row * image.width, image.width));
    }
    int64_t begin = 0;  // the column of the first point that waits
    for (int64_t x = 0; x < image.width; ++x) {
      if (x + kWord <= image.width) {
        uint64_t any = 0, word;
        for (int64_t row = 0; row < rows; ++row) {
          std::memcpy(&word, band + row * image.width + x, kWord);
          any |= word;
        }
        if (!any) {
          x += kWord - 1;
          continue;
        }
      }
      // Points far from each other are better searched for apart.
      if (waiting.count && x - begin >= kLanes) waiting.run(search, found);
      for (int64_t row = 0; row < rows; ++row) {
        if (!band[row * image.width + x]) continue;
        if (!waiting.count) begin = x;
        waiting.add(static_cast<T>(x), static_cast<T>(top + row), place[row]++);
        if (waiting.count == kLanes) waiting.run(search, found);
      }
    }
    waiting.run(search, found);
  }
  return sum;
}

// From a pixel y * width + x to a vertex.
template <class T>
struct Apart {
  T x, y;
  double length;

  Apart(const T* vertex, int32_t pixel, int64_t width) {
    // Divisions of 32 bits cost less than those of 64.
    const uint32_t place = static_cast<uint32_t>(pixel), columns = static_cast<uint32_t>(width);
    x = vertex[0] - static_cast<T>(place % columns);
    y = vertex[1] - static_cast<T>(place / columns);
    length = std::sqrt(static_cast<double>(x) * x + static_cast<double>(y) * y);
  }
};

// Finds the pixels nearest to the vertices of some leaves of their tree; returns the sum of the distances.
template <class T>
double search_pixels(const Image<T>& image, int64_t begin, int64_t end) {
  Search<OutlineTree<T>, 2> search(*image.outline_tree);
  Waiting<T> waiting;
  double sum = 0;
  const auto keep = [&](int32_t vertex, int32_t pixel) {
    image.nearest_pixel[vertex] = pixel;
    sum += Apart<T>(image.vertices + 2 * int64_t{vertex}, pixel, image.width).length;
  };
  const auto found = [&](int lane, int32_t pixel) { keep(waiting.place[lane], pixel); };
  for (int64_t leaf = begin; leaf < end; ++leaf) {
    const T* values = image.vertex_tree->values(leaf);
    const int32_t* index = image.vertex_tree->index(leaf);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane && index[lane] == index[lane - 1]) break;  // only fills up the leaf
      const T x = values[lane], y = values[kLanes + lane];
      const int32_t pixel = image.pixel_under(x, y);
      if (pixel >= 0) {
        keep(index[lane], pixel);
      } else {
        waiting.add(x, y, index[lane]);
        if (waiting.count == kLanes) waiting.run(search, found);
      }
    }
  }
  waiting.run(search, found);
  return sum;
}

struct Sums {
  double to_mesh, to_pixels;
};

// Everything about one image. Nothing of its trees is left when it returns.
template <class T>
Sums reproject(Image<T>& image) {
  const auto grow = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i) {
        image.outline_tree = std::make_unique<OutlineTree<T>>(image.silhouette, image.height, image.width);
      } else {
        image.vertex_tree = std::make_unique<PointTree<T>>(image.vertices, image.per_image, 2);
      }
    }
  };
  const bool alone = image.height * image.width + image.per_image < kWorthHelp;
  parallel_for(2, alone ? 2 : 1, grow);
  // Pieces are the same for any number of threads, and so are the sums.
  const int64_t of_pixels = (image.height + kRowsAtOnce - 1) / kRowsAtOnce;
  const int64_t leaves = image.vertex_tree->leaves();
  const int64_t pieces = of_pixels + (leaves + kLeavesAtOnce - 1) / kLeavesAtOnce;
  std::vector<double> sums(pieces);
  std::vector<int32_t> before(of_pixels);
  for (int64_t i = 1; i < of_pixels; ++i) {
    const int64_t size = kRowsAtOnce * image.width;
    before[i] = before[i - 1] + static_cast<int32_t>(count_pixels(image.silhouette + (i - 1) * size, size));
  }
  parallel_for(pieces, alone ? pieces : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i < of_pixels) {
        const int64_t row = i * kRowsAtOnce;
        sums[i] = search_vertices(image, row, std::min(row + kRowsAtOnce, image.height), before[i]);
      } else {
        const int64_t leaf = (i - of_pixels) * kLeavesAtOnce;
        sums[i] = search_pixels(image, leaf, std::min(leaf + kLeavesAtOnce, leaves));
      }
    }
  });
  Sums all = {0, 0};
  for (int64_t i = 0; i < pieces; ++i) (i < of_pixels ? all.to_mesh : all.to_pixels) += sums[i];
  return all;
}

}  // namespace

template <class T>
std::vector<int64_t> pixel_splits(const Meshes<T>& meshes) {
  const int64_t size = meshes.height * meshes.width;
  if (size > std::numeric_limits<int32_t>::max() || meshes.per_image > std::numeric_limits<int32_t>::max()) {
    throw InvalidInput("an image of " + std::to_string(meshes.height) + " x " + std::to_string(meshes.width) +
                       " pixels with " + std::to_string(meshes.per_image) + " vertices: allowed are 2147483647 each");
  }
  std::vector<int64_t> splits(meshes.batch + 1);
  parallel_for(meshes.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      splits[image + 1] = count_pixels(meshes.silhouettes + image * size, size);
    }
  });
  for (int64_t image = 0; image < meshes.batch; ++image) splits[image + 1] += splits[image];
  return splits;
}

template <class T>
void mesh_reprojection(const Meshes<T>& meshes, const std::vector<int64_t>& splits, T* pixels_to_mesh,
                       T* mesh_to_pixels, int32_t* nearest_vertex, int32_t* nearest_pixel) {
  // An image at a time for each thread, which those without one help with: memory does not grow with the batch.
  parallel_for(meshes.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Image<T> image;
      image.silhouette = meshes.silhouettes + i * meshes.height * meshes.width;
      image.vertices = meshes.vertices + i * meshes.per_image * 2;
      image.height = meshes.height;
      image.width = meshes.width;
      image.per_image = meshes.per_image;
      image.nearest_vertex = nearest_vertex + splits[i];
      image.nearest_pixel = nearest_pixel + i * meshes.per_image;
      const int64_t pixels = splits[i + 1] - splits[i];
      if (pixels && meshes.per_image) {
        const Sums sums = reproject(image);
        pixels_to_mesh[i] = static_cast<T>(sums.to_mesh);
        mesh_to_pixels[i] = static_cast<T>(sums.to_pixels);
      } else {
        pixels_to_mesh[i] = mesh_to_pixels[i] = 0;
        std::fill_n(image.nearest_vertex, pixels, -1);
        std::fill_n(image.nearest_pixel, meshes.per_image, -1);
      }
    }
  });
}

template <class T>
void mesh_reprojection_gradient(const Meshes<T>& meshes, const std::vector<int64_t>& splits,
                                const int32_t* nearest_vertex, const int32_t* nearest_pixel, const T* mesh_factors,
                                const T* pixel_factors, T* gradient) {
  // Without a branch, which would be guessed wrong half the time. A vertex that is not a number is one that has a
  // pixel: what it gets from there is not a number either.
  const auto sign = [](T value) { return static_cast<T>(int(value > 0) - int(value < 0)); };
  parallel_for(meshes.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      const T* vertices = meshes.vertices + image * meshes.per_image * 2;
      const int32_t* pixels = nearest_pixel + image * meshes.per_image;
      T* to = gradient + image * meshes.per_image * 2;
      for (int64_t vertex = 0; vertex < meshes.per_image; ++vertex) {
        to[2 * vertex] = to[2 * vertex + 1] = 0;
        if (pixels[vertex] < 0) continue;
        const Apart<T> apart(vertices + 2 * vertex, pixels[vertex], meshes.width);
        if (apart.length == 0) continue;
        to[2 * vertex] = static_cast<T>(apart.x / apart.length * pixel_factors[image]);
        to[2 * vertex + 1] = static_cast<T>(apart.y / apart.length * pixel_factors[image]);
      }
      if (!meshes.per_image || splits[image] == splits[image + 1]) continue;
      const int32_t* nearest = nearest_vertex + splits[image];
      for (int64_t y = 0; y < meshes.height; ++y) {
        const uint8_t* row = meshes.silhouettes + (image * meshes.height + y) * meshes.width;
        each_pixel(row, meshes.width, [&](int64_t x) {
          const int64_t vertex = *nearest++;
          if (vertex < 0) return;
          to[2 * vertex] += sign(vertices[2 * vertex] - static_cast<T>(x)) * mesh_factors[image];
          to[2 * vertex + 1] += sign(vertices[2 * vertex + 1] - static_cast<T>(y)) * mesh_factors[image];
        });
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                        \
  template std::vector<int64_t> pixel_splits(const Meshes<T>&);                                               \
  template void mesh_reprojection(const Meshes<T>&, const std::vector<int64_t>&, T*, T*, int32_t*, int32_t*); \
  template void mesh_reprojection_gradient(const Meshes<T>&, const std::vector<int64_t>&, const int32_t*,     \
                                           const int32_t*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace posekit
