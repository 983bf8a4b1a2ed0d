// Silhouettes and projected vertices to distances, and to the gradient of these.
#include "tf_mesh_reprojection.h"

namespace posekit {
namespace {

template <class T>
void compute_sums(Call& call) {
  const Tensor silhouettes = call.input(0), vertices = call.input(1);
  const Meshes<T> meshes = meshes_of<T>(silhouettes, vertices);
  const std::vector<int64_t> splits = pixel_splits(meshes);
  const Tensor to_mesh = call.output<T>(0, {meshes.batch}), to_pixels = call.output<T>(1, {meshes.batch});
  const Tensor nearest_vertex = call.output<int32_t>(2, {splits.back()});
  const Tensor nearest_pixel = call.output<int32_t>(3, {meshes.batch, meshes.per_image});
  mesh_reprojection(meshes, splits, to_mesh.data<T>(), to_pixels.data<T>(), nearest_vertex.data<int32_t>(),
                    nearest_pixel.data<int32_t>());
}

// Positions come from the other op, or from whoever called this one by hand.
void check_positions(const Tensor& positions, int64_t size, int64_t limit, const char* name) {
  bool sound = positions.size() == size;
  const int32_t* position = positions.data<int32_t>();
  for (int64_t i = 0; sound && i < size; ++i) sound = position[i] >= -1 && position[i] < limit;
  if (!sound) {
    throw InvalidInput(std::string(name) + " of shape " + positions.shape_text() + " must be " + std::to_string(size) +
                       " positions below " + std::to_string(limit));
  }
}

template <class T>
void compute_gradient(Call& call) {
  const Tensor silhouettes = call.input(0), vertices = call.input(1);
  const Tensor nearest_vertex = call.input(2), nearest_pixel = call.input(3);
  const Tensor mesh_factors = call.input(4), pixel_factors = call.input(5);
  const Meshes<T> meshes = meshes_of<T>(silhouettes, vertices);
  const std::vector<int64_t> splits = pixel_splits(meshes);
  check_positions(nearest_vertex, splits.back(), meshes.per_image, "nearest_vertex");
  check_positions(nearest_pixel, meshes.batch * meshes.per_image, meshes.height * meshes.width, "nearest_pixel");
  check_factors(mesh_factors, pixel_factors, meshes.batch);
  const Tensor gradient = call.output<T>(0, vertices.shape());
  mesh_reprojection_gradient(meshes, splits, nearest_vertex.data<int32_t>(), nearest_pixel.data<int32_t>(),
                             mesh_factors.data<T>(), pixel_factors.data<T>(), gradient.data<T>());
}

Registration here([] {
  const char* op = "PosekitMeshReprojection";
  define_op(op, {"T: {float, double}"}, {"silhouettes: bool", "vertices: T"},
            {"pixels_to_mesh: T", "mesh_to_pixels: T", "nearest_vertex: int32", "nearest_pixel: int32"});
  cpu_kernel<float, compute_sums<float>>(op);
  cpu_kernel<double, compute_sums<double>>(op);
  const char* gradient = "PosekitMeshReprojectionGradient";
  define_op(gradient, {"T: {float, double}"},
            {"silhouettes: bool", "vertices: T", "nearest_vertex: int32", "nearest_pixel: int32", "mesh_factors: T",
             "pixel_factors: T"},
            {"gradient: T"});
  cpu_kernel<float, compute_gradient<float>>(gradient);
  cpu_kernel<double, compute_gradient<double>>(gradient);
});

}  // namespace
}  // namespace posekit
