// Inputs of the ops for mesh reprojection, on any device, checked.
#ifndef POSEKIT_TF_MESH_REPROJECTION_H_
#define POSEKIT_TF_MESH_REPROJECTION_H_

#include "mesh_reprojection.h"
#include "tf_ops.h"

namespace posekit {

template <class T>
Meshes<T> meshes_of(const Tensor& silhouettes, const Tensor& vertices) {
  if (silhouettes.rank() != 3 || vertices.rank() != 3 || vertices.dim(2) != 2 ||
      silhouettes.dim(0) != vertices.dim(0)) {
    throw InvalidInput("silhouettes of shape " + silhouettes.shape_text() + " and vertices of shape " +
                       vertices.shape_text() + " must be [batch, height, width] and [batch, vertices, 2]");
  }
  return {silhouettes.data<uint8_t>(), vertices.data<T>(), vertices.dim(0),
          silhouettes.dim(1),          silhouettes.dim(2), vertices.dim(1)};
}

inline void check_factors(const Tensor& of_mesh, const Tensor& of_pixels, int64_t batch) {
  if (of_mesh.size() == batch && of_pixels.size() == batch) return;
  throw InvalidInput("factors of shapes " + of_mesh.shape_text() + " and " + of_pixels.shape_text() +
                     " must be one for each of " + std::to_string(batch) + " images");
}

}  // namespace posekit

#endif  // POSEKIT_TF_MESH_REPROJECTION_H_
