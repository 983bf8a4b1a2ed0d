// Counts what the ops hold at most while they run, and prints it for many kinds of input as a multiple of inputs and
// outputs. Linked with posekit_kernels.so, whose memory comes from the functions here.
#include <errno.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <memory>

#include "decode_paf.h"
#include "gradient_penalty.h"
#include "locally_connected.h"
#include "mesh_reprojection.h"
#include "nearest_neighbors.h"
#include "rasterize.h"

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

// What a call holds at most, in multiples; `give` tells the bytes of inputs and outputs, when all are there.
template <class Call, class Give>
void report(const char* op, const char* name, size_t number_size, const Call& call, const Give& give) {
  const int64_t before = held;
  peak = before;
  call();
  const int64_t most = peak - before;
  std::printf("%.3f %s: %s, %zu bytes a number\n", static_cast<double>(most) / static_cast<double>(give()), op, name,
              number_size);
}

// `density` of the pixels are in the silhouettes; below 0 all but those that leave every other one on the outline.
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
  const auto run = [&] {
    posekit::mesh_reprojection(meshes, posekit::pixel_splits(meshes), to_mesh.data(), to_pixels.data(),
                               nearest_vertex.data(), nearest_pixel.data());
  };
  report("mesh_reprojection", name, sizeof(T), run, [&] { return bytes; });
  std::vector<T> factors(batch), of_positions(positions.size());
  const std::vector<int64_t> splits = posekit::pixel_splits(meshes);
  const auto back = [&] {
    posekit::mesh_reprojection_gradient(meshes, splits, nearest_vertex.data(), nearest_pixel.data(), factors.data(),
                                        factors.data(), of_positions.data());
  };
  report("mesh_reprojection's gradient", name, sizeof(T), back, [&] { return bytes; });
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
  const auto run = [&] {
    posekit::nearest_neighbors(points.data(), splits.data(), references.data(), other_splits.data(), rows, dims,
                               indices.data(), distances.data());
  };
  char described[100];
  std::snprintf(described, sizeof(described), "%s of %d coordinates", name, dims);
  report("nearest_neighbors", described, sizeof(T), run, [&] { return bytes; });
}

template <class T>
std::vector<T> noise(int64_t count) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(random_number() - 0.5);
  return values;
}

// Joints on a ring, with as many neighbours on each side.
template <class T>
void layer(const char* name, int64_t batch, int64_t joints, int64_t in, int64_t out, int64_t hops) {
  const std::vector<T> rows = noise<T>(batch * joints * in), kernel = noise<T>(joints * in * joints * out);
  const std::vector<T> mask = noise<T>(joints * joints), bias = noise<T>(joints * out);
  const std::vector<T> upstream = noise<T>(batch * joints * out);
  std::unique_ptr<bool[]> support(new bool[joints * joints]);
  for (int64_t i = 0; i < joints * joints; ++i) {
    const int64_t apart = std::abs(i / joints - i % joints);
    support[i] = std::min(apart, joints - apart) <= hops;
  }
  const posekit::LocallyConnected<T> given = {joints, in, out, kernel.data(), mask.data(), support.get(), 1.0};
  std::vector<T> output(upstream.size()), of_rows(rows.size()), of_kernel(kernel.size()), of_mask(mask.size());
  std::vector<T> of_bias(bias.size());
  const double square = posekit::squared_norm(given);
  const int64_t weights = kernel.size() + mask.size() + bias.size();
  const auto forward = [&] {
    posekit::locally_connected(given, posekit::squared_norm(given), batch, rows.data(), bias.data(), output.data());
  };
  report("locally_connected", name, sizeof(T), forward,
         [&] { return sizeof(T) * (rows.size() + weights + output.size()); });
  const auto back = [&] {
    posekit::locally_connected_rows_gradient(given, square, batch, upstream.data(), of_rows.data());
  };
  report("locally_connected's gradient of rows", name, sizeof(T), back,
         [&] { return sizeof(T) * (rows.size() + weights + upstream.size()); });
  const auto of_weights = [&] {
    posekit::locally_connected_kernel_gradient(given, square, batch, rows.data(), bias.data(), output.data(),
                                               upstream.data(), of_kernel.data(), of_mask.data(), of_bias.data());
  };
  report("locally_connected's gradient of weights", name, sizeof(T), of_weights,
         [&] { return sizeof(T) * (rows.size() + 2 * weights + 2 * upstream.size()); });
}

// A critic of dense layers with rectifiers between them. The state is an output of the op.
template <class T>
void penalty(const char* name, int64_t batch, const std::vector<int64_t>& sizes, bool batch_mean) {
  using posekit::CriticStep;
  posekit::CriticGraph graph;
  posekit::Critic<T> critic;
  std::vector<std::vector<T>> kernels, of_kernels;
  graph.batch_mean = batch_mean;
  graph.steps.push_back({CriticStep::kInput, {}, 0, -1, sizes[0]});
  int64_t weights = 0;
  for (size_t i = 1; i < sizes.size(); ++i) {
    const int last = static_cast<int>(graph.steps.size()) - 1;
    kernels.push_back(noise<T>(sizes[i - 1] * sizes[i]));
    of_kernels.emplace_back(kernels.back().size());
    weights += kernels.back().size();
    graph.steps.push_back({CriticStep::kDense, {last}, static_cast<int>(i) - 1, -1, sizes[i]});
    if (i + 1 < sizes.size()) graph.steps.push_back({CriticStep::kLeaky, {last + 1}, 0, -1, sizes[i]});
  }
  for (size_t i = 0; i < kernels.size(); ++i) critic.kernels.push_back({kernels[i].data(), sizes[i], sizes[i + 1]});
  critic.slopes = {0.2};
  graph.outputs = {static_cast<int>(graph.steps.size()) - 1};
  graph.terms = {0};
  const std::vector<T> real = noise<T>(batch * sizes[0]), fake = noise<T>(real.size()), factors = noise<T>(batch);
  const std::vector<posekit::Between<T>> inputs = {{real.data(), fake.data(), factors.data(), false}};
  const int64_t size = posekit::GradientPenalty<T>::make(graph, critic, batch)->state_size();
  std::vector<T> state(size);
  std::vector<T*> results;
  for (std::vector<T>& kernel : of_kernels) results.push_back(kernel.data());
  const auto value = [&] { posekit::GradientPenalty<T>::make(graph, critic, batch)->value(inputs, state.data()); };
  const int64_t given = 2 * real.size() + batch + weights + size;
  report("gradient_penalty", name, sizeof(T), value, [&] { return sizeof(T) * given; });
  const auto back = [&] {
    posekit::GradientPenalty<T>::make(graph, critic, batch)->gradients(state.data(), T(1), results);
  };
  report("gradient_penalty's gradient", name, sizeof(T), back, [&] { return sizeof(T) * (given + weights); });
}

// A wavy grid before the camera.
void picture(const char* name, int64_t side, int64_t height, int64_t width, double focal) {
  std::vector<double> vertices;
  std::vector<int64_t> faces;
  for (int64_t i = 0; i < side; ++i) {
    for (int64_t j = 0; j < side; ++j) {
      const double x = 2.0 * j / side - 1, y = 2.0 * i / side - 1;
      vertices.insert(vertices.end(), {x, y, 2 + 0.3 * std::sin(9 * x + 7 * y)});
      if (i && j) {
        const int64_t at = i * side + j;
        faces.insert(faces.end(), {at, at - 1, at - side, at - 1, at - side - 1, at - side});
      }
    }
  }
  const posekit::RasterProblem problem = {vertices.data(),
                                          side * side,
                                          faces.data(),
                                          (int64_t)faces.size() / 3,
                                          height,
                                          width,
                                          {focal, focal},
                                          {width / 2.0, height / 2.0},
                                          0.1,
                                          1e9};
  const int64_t most = height * width;
  std::vector<int64_t> pixels(most);
  std::vector<int32_t> triangles(most);
  std::vector<double> weights(3 * most), depths(most);
  int64_t covered = 0;
  const auto run = [&] {
    const posekit::Visible visible = posekit::find_visible(problem);
    covered = visible.covered;
    posekit::describe_visible(problem, visible, pixels.data(), triangles.data(), weights.data(), depths.data());
  };
  report("rasterize", name, 8, run, [&] { return 8 * (vertices.size() + faces.size()) + 44 * covered; });
}

// A chain of joints; `blobs` people in it, or noise with a peak in most places.
void people(const char* name, int mode, int64_t times, int64_t batch, int64_t height, int64_t width, int blobs) {
  constexpr int kJoints = 18, kLimbs = 17;
  std::vector<float> heatmaps(batch * height * width * (kJoints + 1)),
      fields(batch * height * width * 2 * kLimbs, 0.7f);
  for (int64_t i = 0; blobs < 0 && i < static_cast<int64_t>(heatmaps.size()); ++i) {
    heatmaps[i] = static_cast<float>(random_number());
  }
  for (int64_t image = 0; image < batch; ++image) {
    for (int blob = 0; blob < blobs * kJoints; ++blob) {
      const int64_t y = static_cast<int64_t>(random_number() * height),
                    x = static_cast<int64_t>(random_number() * width);
      heatmaps[((image * height + y) * width + x) * (kJoints + 1) + blob % kJoints] = 1;
    }
  }
  std::vector<int32_t> ends, order;
  std::vector<uint8_t> opens;
  for (int limb = 0; limb < kLimbs; ++limb) {
    ends.insert(ends.end(), {limb, limb + 1});
    order.push_back(limb);
    opens.push_back(limb < 4);
  }
  std::vector<double> gaussian;
  for (int i = -12; i <= 12; ++i) gaussian.push_back(std::exp(-i * i / 18.0) / 7.5);
  std::vector<float> profiles;
  for (int i = 0; i < 16; ++i) profiles.insert(profiles.end(), {0.02f, 0.08f, 0.22f, 0.36f, 0.22f, 0.08f, 0.02f});
  const bool exact = mode == posekit::kPafExact;
  const posekit::PafProblem problem = {batch,
                                       height,
                                       width,
                                       kJoints,
                                       kLimbs,
                                       kLimbs,
                                       ends.data(),
                                       order.data(),
                                       opens.data(),
                                       gaussian.data(),
                                       profiles.data(),
                                       mode,
                                       times,
                                       height * (exact ? times : 1),
                                       width * (exact ? times : 1),
                                       0.05,
                                       0.05,
                                       4,
                                       0.3,
                                       8};
  const auto maps = [&](const std::vector<float>& values, int64_t channels) {
    return posekit::PafMaps{values.data(), height * width * channels, width * channels, channels, 1};
  };
  int64_t numbers = 0;
  const auto run = [&] {
    const auto found = posekit::decode_paf(problem, maps(heatmaps, kJoints + 1), maps(fields, 2 * kLimbs));
    for (const posekit::PafPeople& image : found) numbers += image.peaks.size() + image.people.size();
  };
  report("decode_paf", name, 4, run, [&] { return 4 * (heatmaps.size() + fields.size()) + 8 * numbers; });
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
  layer<T>("one bone", 200, 17, 64, 64, 1);
  layer<T>("a long batch", 40000, 17, 8, 8, 2);
  layer<T>("a batch of narrow rows", 40000, 17, 2, 2, 1);
  layer<T>("from few to many", 3000, 17, 2, 64, 2);
  layer<T>("from many to few", 3000, 17, 64, 2, 2);
  layer<T>("all joints", 200, 17, 64, 64, 17);
  layer<T>("one pose", 1, 17, 128, 128, 3);
  for (bool batch_mean : {true, false}) {
    penalty<T>("24 bodies", 24, {400, 300, 300, 1}, batch_mean);
    penalty<T>("a large batch", 20000, {3, 200, 200, 1}, batch_mean);
    penalty<T>("a narrow critic", 20000, {100, 5, 1}, batch_mean);
    penalty<T>("many layers", 500, {50, 60, 60, 60, 60, 60, 60, 60, 1}, batch_mean);
  }
}

}  // namespace

int main() {
  neighbors<float>("the threads begin", 2, 1, 20000, 20000);
  all<float>();
  all<double>();
  picture("small", 80, 224, 224, 150);
  picture("large", 80, 720, 1280, 500);
  picture("many triangles in few pixels", 400, 100, 100, 40);
  picture("few triangles in many pixels", 3, 1500, 1500, 1500);
  picture("before the camera's eye", 100, 400, 400, 5000);
  for (const auto& [mode, times] : {std::pair<int, int64_t>{0, 1}, {0, 8}, {1, 8}, {2, 8}}) {
    char name[100];
    for (const auto& [high, wide] : {std::pair<int64_t, int64_t>{46, 82}, {200, 300}}) {
      for (int blobs : {0, 20, -1}) {
        if (blobs < 0 && wide > 100) continue;  // takes long
        std::snprintf(name, sizeof(name), "mode %d, times %d, %d x %d, %d people", mode, static_cast<int>(times),
                      static_cast<int>(high), static_cast<int>(wide), blobs);
        people(name, mode, times, 2, high, wide, blobs);
      }
    }
  }
  return 0;
}
