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

#include "parallel.h"
#include "point_tree.h"

namespace posekit {
namespace {

constexpr int kTile = 4;
constexpr int64_t kRowsAtOnce = 32;
constexpr int64_t kLeavesAtOnce = 64;
constexpr int64_t kWord = 8;

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

template <class T>
struct Image {
  const uint8_t* silhouette;
  const T* vertices;
  int64_t height, width, per_image, pixels;
  int32_t* nearest_vertex;
  int32_t* nearest_pixel;
  std::vector<int32_t> row_starts;  // pixels before each row
  std::vector<int32_t> outline;     // y * width + x
  std::unique_ptr<PointTree<T>> outline_tree, vertex_tree;

  void find_outline() {
    row_starts.resize(height);
    std::vector<uint8_t> outer(width), blank(width);
    int32_t before = 0;
    for (int64_t y = 0; y < height; ++y) {
      row_starts[y] = before;
      const uint8_t* row = silhouette + y * width;
      const uint8_t* above = y ? row - width : blank.data();
      const uint8_t* below = y + 1 < height ? row + width : blank.data();
      for (int64_t x = 0; x < width; ++x) outer[x] = row[x] && !(above[x] && below[x]);
      for (int64_t x = 1; x < width; ++x) outer[x] |= row[x] && !row[x - 1];
      for (int64_t x = 1; x < width; ++x) outer[x - 1] |= row[x - 1] && !row[x];
      outer[0] |= row[0] != 0;
      outer[width - 1] |= row[width - 1] != 0;
      each_pixel(outer.data(), width, [&](int64_t x) { outline.push_back(static_cast<int32_t>(y * width + x)); });
      int32_t here = 0;
      for (int64_t x = 0; x < width; ++x) here += row[x] != 0;
      before += here;
    }
    Buffer<T> points(2 * outline.size());
    for (size_t i = 0; i < outline.size(); ++i) {
      points[2 * i] = static_cast<T>(outline[i] % width);
      points[2 * i + 1] = static_cast<T>(outline[i] / width);
    }
    outline_tree = std::make_unique<PointTree<T>>(points.get(), outline.size(), 2);
  }

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
  template <class Found>
  void run(Search<T, 2>& search, const Found& found) {
    if (!count) return;
    for (int lane = count; lane < kLanes; ++lane) {
      values[lane] = values[count - 1];
      values[kLanes + lane] = values[kLanes + count - 1];
    }
    typename Search<T, 2>::Number index[kLanes];
    search.run(values, index);
    for (int lane = 0; lane < count; ++lane) found(lane, static_cast<int32_t>(index[lane]));
    count = 0;
  }
};

// Finds the vertices nearest to the pixels of some rows; returns the sum of the distances.
template <class T>
double search_vertices(const Image<T>& image, int64_t first_row, int64_t last_row) {
  Search<T, 2> search(*image.vertex_tree);
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
    for (int64_t row = 0; row < rows; ++row) place[row] = image.row_starts[top + row];
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
  Search<T, 2> search(*image.outline_tree);
  Waiting<T> waiting;
  double sum = 0;
  const auto keep = [&](int32_t vertex, int32_t pixel) {
    image.nearest_pixel[vertex] = pixel;
    sum += Apart<T>(image.vertices + 2 * int64_t{vertex}, pixel, image.width).length;
  };
  const auto found = [&](int lane, int32_t place) { keep(waiting.place[lane], image.outline[place]); };
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

template <class T>
struct Piece {
  const Image<T>* image;
  bool pixels;  // rows of pixels, or leaves of vertices
  int64_t begin, end;
  double sum;
};

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
      const uint8_t* silhouette = meshes.silhouettes + image * size;
      int32_t count = 0;
      for (int64_t i = 0; i < size; ++i) count += silhouette[i] != 0;
      splits[image + 1] = count;
    }
  });
  for (int64_t image = 0; image < meshes.batch; ++image) splits[image + 1] += splits[image];
  return splits;
}

template <class T>
void mesh_reprojection(const Meshes<T>& meshes, const std::vector<int64_t>& splits, T* pixels_to_mesh,
                       T* mesh_to_pixels, int32_t* nearest_vertex, int32_t* nearest_pixel) {
  std::vector<Image<T>> images(meshes.batch);
  for (int64_t i = 0; i < meshes.batch; ++i) {
    Image<T>& image = images[i];
    image.silhouette = meshes.silhouettes + i * meshes.height * meshes.width;
    image.vertices = meshes.vertices + i * meshes.per_image * 2;
    image.height = meshes.height;
    image.width = meshes.width;
    image.per_image = meshes.per_image;
    image.pixels = splits[i + 1] - splits[i];
    image.nearest_vertex = nearest_vertex + splits[i];
    image.nearest_pixel = nearest_pixel + i * meshes.per_image;
    std::fill_n(image.nearest_vertex, meshes.per_image ? 0 : image.pixels, -1);
    std::fill_n(image.nearest_pixel, image.pixels ? 0 : meshes.per_image, -1);
  }
  parallel_for(2 * meshes.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Image<T>& image = images[i / 2];
      if (!image.pixels || !image.per_image) continue;
      if (i % 2) {
        image.find_outline();
      } else {
        image.vertex_tree = std::make_unique<PointTree<T>>(image.vertices, image.per_image, 2);
      }
    }
  });
  std::vector<Piece<T>> pieces;
  for (const Image<T>& image : images) {
    if (!image.pixels || !image.per_image) continue;
    for (int64_t row = 0; row < image.height; row += kRowsAtOnce) {
      pieces.push_back({&image, true, row, std::min(row + kRowsAtOnce, image.height), 0});
    }
    const int64_t leaves = image.vertex_tree->leaves();
    for (int64_t leaf = 0; leaf < leaves; leaf += kLeavesAtOnce) {
      pieces.push_back({&image, false, leaf, std::min(leaf + kLeavesAtOnce, leaves), 0});
    }
  }
  parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Piece<T>& piece = pieces[i];
      piece.sum = piece.pixels ? search_vertices(*piece.image, piece.begin, piece.end)
                               : search_pixels(*piece.image, piece.begin, piece.end);
    }
  });
  // Pieces are the same for any number of threads, and so are the sums.
  std::vector<double> to_mesh(meshes.batch), to_pixels(meshes.batch);
  for (const Piece<T>& piece : pieces) (piece.pixels ? to_mesh : to_pixels)[piece.image - images.data()] += piece.sum;
  std::copy(to_mesh.begin(), to_mesh.end(), pixels_to_mesh);
  std::copy(to_pixels.begin(), to_pixels.end(), mesh_to_pixels);
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

#define INSTANTIATE(T)                                                                                               \
  template std::vector<int64_t> pixel_splits(const Meshes<T>&);                                                     \
  template void mesh_reprojection(const Meshes<T>&, const std::vector<int64_t>&, T*, T*, int32_t*, int32_t*);       \
  template void mesh_reprojection_gradient(const Meshes<T>&, const std::vector<int64_t>&, const int32_t*,           \
                                           const int32_t*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace posekit
