// Counts what nearest neighbours and mesh reprojection hold at most while they
// run, and prints it for all kinds of input as a multiple of inputs and
// outputs. Linked with posekit_kernels.so, whose memory comes from the
// functions here.
#include <errno.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "mesh_reprojection.h"
#include "nearest_neighbors.h"

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);
}

namespace {

std::atomic<int64_t> held{0}, peak{0};

void* counted(void* memory) {
  if (!memory) return nullptr;
  const int64_t now = held += static_cast<int64_t>(malloc_usable_size(memory));
  for (int64_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
  }
  return memory;
}

}  // namespace

extern "C" {
void* malloc(size_t size) { return counted(__libc_malloc(size)); }

int posix_memalign(void** memory, size_t alignment, size_t size) {
  *memory = counted(__libc_memalign(alignment, size));
  return *memory ? 0 : ENOMEM;
}

void free(void* memory) {
  if (memory) held -= static_cast<int64_t>(malloc_usable_size(memory));
  __libc_free(memory);
}
}

namespace {

uint64_t state = 1;

double random_number() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(state >> 11) / (uint64_t{1} << 53);
}

template <class Call>
void report(const char* name, int coordinates, size_t number_size, int64_t inputs_and_outputs, const Call& call) {
  const int64_t before = held;
  peak = before;
  call();
  std::printf("%.3f %s, %d coordinates of %zu bytes\n",
              static_cast<double>(peak - before) / static_cast<double>(inputs_and_outputs), name, coordinates,
              number_size);
}

// `density` of the pixels are in the silhouettes; below 0 all but those that
// leave every other one on the outline.
template <class T>
void mesh(const char* name, int64_t batch, int64_t height, int64_t width, double density, int64_t vertices) {
  std::vector<uint8_t> silhouettes(batch * height * width);
  for (size_t i = 0; i < silhouettes.size(); ++i) {
    const int64_t x = static_cast<int64_t>(i) % width, y = static_cast<int64_t>(i) / width;
    silhouettes[i] = density < 0 ? (x + 2 * y) % 5 != 0 : random_number() < density;
  }
  std::vector<T> positions(2 * batch * vertices);
  for (T& position : positions) position = static_cast<T>(random_number() * std::max(height, width));
  const posekit::Meshes<T> meshes = {silhouettes.data(), positions.data(), batch, height, width, vertices};
  const int64_t pixels = posekit::pixel_splits(meshes).back();
  std::vector<T> to_mesh(batch), to_pixels(batch);
  std::vector<int32_t> nearest_vertex(pixels), nearest_pixel(batch * vertices);
  const int64_t bytes =
      silhouettes.size() + sizeof(T) * (positions.size() + 2 * batch) + 4 * (pixels + batch * vertices);
  report(name, 2, sizeof(T), bytes, [&] {
    posekit::mesh_reprojection(meshes, posekit::pixel_splits(meshes), to_mesh.data(), to_pixels.data(),
                               nearest_vertex.data(), nearest_pixel.data());
  });
}

template <class T>
void neighbors(const char* name, int dims, int64_t rows, int64_t count, int64_t others, double extent = 1) {
  std::vector<T> points(rows * count * dims), references(rows * others * dims);
  for (T& value : points) value = static_cast<T>(random_number() * extent);
  for (T& value : references) value = static_cast<T>(random_number() * extent);
  std::vector<int64_t> splits(rows + 1), other_splits(rows + 1);
  for (int64_t row = 0; row <= rows; ++row) {
    splits[row] = row * count;
    other_splits[row] = row * others;
  }
  std::vector<int32_t> indices(rows * count);
  std::vector<T> distances(rows * count);
  const int64_t bytes =
      sizeof(T) * (points.size() + references.size() + distances.size()) + 4 * indices.size() + 16 * (rows + 1);
  report(name, dims, sizeof(T), bytes, [&] {
    posekit::nearest_neighbors(points.data(), splits.data(), references.data(), other_splits.data(), rows, dims,
                               indices.data(), distances.data());
  });
}

template <class T>
void all() {
  mesh<T>("noise", 1, 600, 600, 0.5, 50);
  mesh<T>("dense noise", 1, 600, 600, 0.8, 50);
  mesh<T>("a batch of noise", 16, 100, 100, 0.6, 500);
  mesh<T>("all pixels on the outline", 1, 600, 600, -1, 50);
  mesh<T>("full pictures", 4, 400, 400, 1, 3000);
  mesh<T>("sparse noise", 1, 1000, 1000, 1e-3, 500);
  mesh<T>("a row", 1, 1, 100000, 1, 50);
  mesh<T>("two rows", 1, 2, 100000, 1, 50);
  mesh<T>("a column", 1, 100000, 1, 1, 50);
  mesh<T>("many vertices", 1, 20, 20, 0.5, 100000);
  mesh<T>("many small pictures", 5000, 12, 12, 0.5, 12);
  for (int dims : {1, 2, 3, 7}) {
    neighbors<T>("as many points as references", dims, 1, 50000, 50000);
    neighbors<T>("more references", dims, 1, 300, 200000);
    neighbors<T>("more points", dims, 1, 200000, 300);
    neighbors<T>("equal points", dims, 1, 50000, 50000, 0);
    neighbors<T>("many rows", dims, 100000, 1, 1);
    neighbors<T>("rows", dims, 50, 700, 900);
  }
  neighbors<T>("long points", 100000, 1, 1, 1);
  neighbors<T>("long points", 2000, 1, 9, 12);
}

}  // namespace

int main() {
  neighbors<float>("the threads begin", 2, 1, 20000, 20000);
  all<float>();
  all<double>();
  return 0;
}
