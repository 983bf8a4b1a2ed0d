// Distances between silhouettes and projected vertices, both ways, and their gradient.
#ifndef POSEKIT_MESH_REPROJECTION_H_
#define POSEKIT_MESH_REPROJECTION_H_

#include <cstdint>
#include <vector>

namespace posekit {

// A batch of silhouettes, [batch, height, width] bytes that are not 0 where the person is, and of projected meshes,
// [batch, per_image, 2] positions (x, y) in pixels.
template <class T>
struct Meshes {
  const uint8_t* silhouettes;
  const T* vertices;
  int64_t batch, height, width, per_image;
};

// Silhouette pixels before each image, [batch + 1].
template <class T>
std::vector<int64_t> pixel_splits(const Meshes<T>& meshes);

// Sums [batch] of the L1 distances from pixels to their nearest vertices, and of the Euclidean distances from vertices
// to their nearest pixels; both 0 for an image without pixels. Also the positions of the vertices nearest to all
// silhouette pixels, one row of pixels after the other, and the pixels y * width + x nearest to all vertices; -1 where
// there is none.
template <class T>
void mesh_reprojection(const Meshes<T>& meshes, const std::vector<int64_t>& splits, T* pixels_to_mesh,
                       T* mesh_to_pixels, int32_t* nearest_vertex, int32_t* nearest_pixel);

// Gradient [batch, per_image, 2] with respect to the vertices of the two sums, weighted by two factors an image. Where
// two points coincide it is 0.
template <class T>
void mesh_reprojection_gradient(const Meshes<T>& meshes, const std::vector<int64_t>& splits,
                                const int32_t* nearest_vertex, const int32_t* nearest_pixel, const T* mesh_factors,
                                const T* pixel_factors, T* gradient);

}  // namespace posekit

#endif  // POSEKIT_MESH_REPROJECTION_H_
