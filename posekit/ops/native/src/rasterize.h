// The nearest triangle at every pixel: the z-buffer of posekit/geometry/rasterize.py, step by step.
//
// Every number is computed by the same operations in the same order as there, and the nearest surface is a maximum,
// which no order changes: results are equal to the last bit, whatever the number of threads.
#ifndef POSEKIT_RASTERIZE_H_
#define POSEKIT_RASTERIZE_H_

#include <cstdint>
#include <vector>

namespace posekit {

struct RasterProblem {
  const double* vertices;  // [num_vertices, 3] in camera coordinates
  int64_t num_vertices;
  const int64_t* faces;  // [num_faces, 3]
  int64_t num_faces;
  int64_t height, width;  // at most 2^31 pixels
  double focal[2], center[2];
  double near, far;
};

struct SeenPixel {
  uint32_t cell;  // row * box width + column within its band
  int32_t face;
};

// Covered pixels of some rows, ascending.
struct RasterBand {
  int64_t first = 0;  // number of pixels in the bands above
  std::vector<SeenPixel> seen;
};

// What is seen, in bands of `band_rows` rows of a box with its upper left corner in column `left`, row `top`.
struct Visible {
  int64_t left = 0, top = 0, box_width = 0, box_height = 0, band_rows = 1, covered = 0;
  std::vector<RasterBand> bands;
};

Visible find_visible(const RasterProblem& problem);

// Writes flat indices [covered], triangles [covered], perspective-correct weights of their corners [covered, 3] and
// depths [covered].
void describe_visible(const RasterProblem& problem, const Visible& visible, int64_t* pixels, int32_t* triangles,
                      double* weights, double* depths);

}  // namespace posekit

#endif  // POSEKIT_RASTERIZE_H_
