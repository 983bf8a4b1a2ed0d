// PosekitMeshReprojection and its gradient on a GPU. How many pixels the silhouettes have, only the device knows: the
// first op waits for that number, as tf.where does.
#include "tf_mesh_reprojection.h"

#include "tf_gpu.h"

namespace posekit {
namespace {

// Where the pixels of each row and of each image begin, in the device's memory.
template <class T>
struct Begins {
  Begins(Gpu& gpu, const Meshes<T>& meshes)
      : rows(gpu.scratch<int64_t>(meshes.batch * meshes.height)), images(gpu.scratch<int64_t>(meshes.batch + 1)) {
    succeed(posekit_cuda_count_pixels(meshes.silhouettes, meshes.batch, meshes.height, meshes.width, rows, images,
                                      gpu.stream));
  }

  int64_t *rows, *images;
};

template <class T>
void compute_sums(Call& call) {
  const Tensor silhouettes = call.input(0), vertices = call.input(1);
  const Meshes<T> meshes = meshes_of<T>(silhouettes, vertices);
  Gpu gpu(call);
  const Begins<T> begins(gpu, meshes);
  const std::vector<int64_t> splits = gpu.copy_out(begins.images, meshes.batch + 1);
  int64_t most = 0;
  for (int64_t image = 0; image < meshes.batch; ++image) most = std::max(most, splits[image + 1] - splits[image]);
  const Tensor to_mesh = call.output<T>(0, {meshes.batch}), to_pixels = call.output<T>(1, {meshes.batch});
  const Tensor nearest_vertex = call.output<int32_t>(2, {splits.back()});
  const Tensor nearest_pixel = call.output<int32_t>(3, {meshes.batch, meshes.per_image});
  succeed(POSEKIT_CUDA(mesh_reprojection)(meshes.silhouettes, meshes.vertices, meshes.batch, meshes.height,
                                          meshes.width, meshes.per_image, begins.rows, begins.images, splits.back(),
                                          most, to_mesh.data<T>(), to_pixels.data<T>(), nearest_vertex.data<int32_t>(),
                                          nearest_pixel.data<int32_t>(), gpu.stream, gpu.memory()));
}

// What stands in the positions is checked where it is used: of a mesh, those that lead out of it count as none.
template <class T>
void compute_gradient(Call& call) {
  const Tensor silhouettes = call.input(0), vertices = call.input(1);
  const Tensor nearest_vertex = call.input(2), nearest_pixel = call.input(3);
  const Tensor mesh_factors = call.input(4), pixel_factors = call.input(5);
  const Meshes<T> meshes = meshes_of<T>(silhouettes, vertices);
  if (nearest_pixel.size() != meshes.batch * meshes.per_image) {
    throw InvalidInput("nearest_pixel of shape " + nearest_pixel.shape_text() + " must be one for each vertex of " +
                       vertices.shape_text());
  }
  check_factors(mesh_factors, pixel_factors, meshes.batch);
  const Tensor gradient = call.output<T>(0, vertices.shape());
  Gpu gpu(call);
  const Begins<T> begins(gpu, meshes);
  succeed(POSEKIT_CUDA(mesh_reprojection_gradient)(
      meshes.silhouettes, meshes.vertices, meshes.batch, meshes.height, meshes.width, meshes.per_image, begins.rows,
      nearest_vertex.size(), nearest_vertex.data<int32_t>(), nearest_pixel.data<int32_t>(), mesh_factors.data<T>(),
      pixel_factors.data<T>(), gradient.data<T>(), gpu.stream, gpu.memory()));
}

Registration here([] {
  gpu_kernel<float, compute_sums<float>>("PosekitMeshReprojection");
  gpu_kernel<double, compute_sums<double>>("PosekitMeshReprojection");
  gpu_kernel<float, compute_gradient<float>>("PosekitMeshReprojectionGradient");
  gpu_kernel<double, compute_gradient<double>>("PosekitMeshReprojectionGradient");
});

}  // namespace
}  // namespace posekit
