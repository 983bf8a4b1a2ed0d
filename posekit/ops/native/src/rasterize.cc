// Flags: -fno-trapping-math -fno-math-errno
#include "rasterize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "c_api.h"
#include "parallel.h"

namespace posekit {
namespace {

constexpr int64_t kVerticesAtOnce = 4096;
constexpr int64_t kFacesAtOnce = 2048;
constexpr int kLanes = 8;                   // triangles that are drawn, and pixels that are described, together
constexpr int64_t kCellsOfBand = 12 << 10;  // 96 KiB of z-buffer: stays in the cache
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Point {
  double x, y, q;  // pixels, inverse depth
};

using Triangle = Point[3];

struct Cut {
  Triangle corners;
};

// A triangle, or what the near plane leaves of it, that reaches pixel centres.
struct Piece {
  double low, high;
  int32_t face;
  int32_t cut;                // index of the corners, -1 for those of the face
  int32_t first, last, band;  // rows of the box, the last excluded, and the band where they begin
};

// The pieces of some faces, and the box around them.
struct Kept {
  std::vector<Piece> pieces;
  std::vector<Cut> cuts;
  double left = kInfinity, right = -kInfinity, low = kInfinity, high = -kInfinity;
};

struct Placed {
  int32_t first, last;  // rows of the box, the last excluded
  int32_t face, cut;
};

Point projected(const RasterProblem& p, double x, double y, double z) {
  const double q = 1.0 / z;
  return {x * q * p.focal[0] + p.center[0], y * q * p.focal[1] + p.center[1], q};
}

bool is_number(double value) { return value == value; }

void keep(const RasterProblem& p, const Point& a, const Point& b, const Point& c, int64_t face, bool is_cut,
          Kept* kept) {
  if (!is_number(a.x) || !is_number(b.x) || !is_number(c.x)) return;
  if (!is_number(a.y) || !is_number(b.y) || !is_number(c.y)) return;
  const double low = std::min({a.y, b.y, c.y}), high = std::max({a.y, b.y, c.y});
  const double left = std::min({a.x, b.x, c.x}), right = std::max({a.x, b.x, c.x});
  // Most triangles of a body in a small picture miss every pixel centre and are dropped here.
  if (!(std::ceil(low) < std::ceil(high) && std::ceil(left) < std::ceil(right))) return;
  if (!(high > 0 && low <= static_cast<double>(p.height - 1))) return;
  if (!(right > 0 && left <= static_cast<double>(p.width - 1))) return;
  if (!(high - low < kInfinity && right - left < kInfinity)) return;
  kept->left = std::min(kept->left, left), kept->right = std::max(kept->right, right);
  kept->low = std::min(kept->low, low), kept->high = std::max(kept->high, high);
  int32_t cut = -1;
  if (is_cut) {
    cut = static_cast<int32_t>(kept->cuts.size());
    kept->cuts.push_back({{a, b, c}});
  }
  if (kept->pieces.empty()) kept->pieces.reserve(kFacesAtOnce);
  kept->pieces.push_back({low, high, static_cast<int32_t>(face), cut, 0, 0, 0});
}

// Where the side from a to b meets the near plane.
Point cut_side(const RasterProblem& p, const double* a, const double* b) {
  const double share = (p.near - a[2]) / (b[2] - a[2]);
  return projected(p, a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), p.near);
}

void clip_face(const RasterProblem& p, const Point* points, int64_t face, Kept* kept) {
  const int64_t* corners = p.faces + 3 * face;
  const double* at[3];
  bool inside[3];
  int count = 0;
  for (int k = 0; k < 3; ++k) {
    at[k] = p.vertices + 3 * corners[k];
    inside[k] = at[k][2] >= p.near;
    count += inside[k];
  }
  if (count == 0 || !(std::min({at[0][2], at[1][2], at[2][2]}) <= p.far)) return;
  if (count == 3) {
    keep(p, points[corners[0]], points[corners[1]], points[corners[2]], face, false, kept);
    return;
  }
  // The corner that is alone on its side of the near plane comes first.
  const int alone = inside[0] == (count == 1) ? 0 : inside[1] == (count == 1) ? 1 : 2;
  const int second = (alone + 1) % 3, third = (alone + 2) % 3;
  const double *a = at[alone], *b = at[second], *c = at[third];
  if (count == 1) {
    keep(p, points[corners[alone]], cut_side(p, a, b), cut_side(p, a, c), face, true, kept);
    return;
  }
  const Point ab = cut_side(p, b, a), ac = cut_side(p, c, a);
  const Point &whole_b = points[corners[second]], &whole_c = points[corners[third]];
  keep(p, ab, whole_b, whole_c, face, true, kept);
  keep(p, ab, whole_c, ac, face, true, kept);
}

// The pieces of all faces, those of the same first band together, and the box around them.
struct Scene {
  std::unique_ptr<Point[]> points;
  std::vector<Cut> cuts;
  std::vector<Placed> placed;
  std::vector<int64_t> starts;  // of each band in `placed`, and the end
  std::vector<int32_t> reach;   // last row of a band's pieces, excluded
};

int64_t clipped(double value, int64_t most) {
  return static_cast<int64_t>(std::min(std::max(std::ceil(value), 0.0), static_cast<double>(most)));
}

void project_vertices(const RasterProblem& p, Scene* scene) {
  scene->points.reset(new Point[p.num_vertices]);
  parallel_for(p.num_vertices, kVerticesAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double* at = p.vertices + 3 * i;
      scene->points[i] = projected(p, at[0], at[1], at[2]);
    }
  });
}

std::vector<Kept> clip_faces(const RasterProblem& p, const Scene& scene) {
  std::vector<Kept> parts((p.num_faces + kFacesAtOnce - 1) / kFacesAtOnce);
  parallel_for(static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = std::min(p.num_faces, (part + 1) * kFacesAtOnce);
      for (int64_t face = part * kFacesAtOnce; face < last; ++face) {
        clip_face(p, scene.points.get(), face, &parts[part]);
      }
    }
  });
  return parts;
}

void choose_box(const RasterProblem& p, const std::vector<Kept>& parts, Visible* visible) {
  double left = kInfinity, right = -kInfinity, low = kInfinity, high = -kInfinity;
  for (const Kept& part : parts) {
    left = std::min(left, part.left), right = std::max(right, part.right);
    low = std::min(low, part.low), high = std::max(high, part.high);
  }
  if (!(left < right)) return;
  visible->left = clipped(left, p.width), visible->top = clipped(low, p.height);
  visible->box_width = clipped(right, p.width) - visible->left;
  visible->box_height = clipped(high, p.height) - visible->top;
  // Several bands a thread share the work evenly; what they hold does not depend on how many there are.
  const int64_t even = (visible->box_height + 4 * num_threads() - 1) / (4 * num_threads());
  const int64_t small = kCellsOfBand / std::max<int64_t>(1, visible->box_width);
  visible->band_rows = std::max<int64_t>(1, std::min(std::max<int64_t>(even, 4), small));
}

void place_pieces(const Visible& visible, std::vector<Kept>* parts, Scene* scene) {
  const int32_t num_bands = static_cast<int32_t>((visible.box_height + visible.band_rows - 1) / visible.band_rows);
  const double top = static_cast<double>(visible.top);
  parallel_for(static_cast<int64_t>(parts->size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      for (Piece& piece : (*parts)[part].pieces) {
        piece.first = static_cast<int32_t>(clipped(piece.low - top, visible.box_height));
        piece.last = static_cast<int32_t>(clipped(piece.high - top, visible.box_height));
        piece.band = std::min(piece.first / static_cast<int32_t>(visible.band_rows), num_bands - 1);
      }
    }
  });
  std::vector<int64_t> next(num_bands + 1, 0);
  scene->reach.assign(num_bands, 0);
  for (const Kept& part : *parts) {
    for (const Piece& piece : part.pieces) {
      ++next[piece.band + 1];
      scene->reach[piece.band] = std::max(scene->reach[piece.band], piece.last);
    }
  }
  for (int32_t band = 0; band < num_bands; ++band) next[band + 1] += next[band];
  scene->starts = next;
  scene->placed.resize(next[num_bands]);
  for (const Kept& part : *parts) {
    const int32_t before = static_cast<int32_t>(scene->cuts.size());
    for (const Piece& piece : part.pieces) {
      const int32_t cut = piece.cut < 0 ? -1 : piece.cut + before;
      scene->placed[next[piece.band]++] = {piece.first, piece.last, piece.face, cut};
    }
    scene->cuts.insert(scene->cuts.end(), part.cuts.begin(), part.cuts.end());
  }
}

struct Canvas {
  uint64_t* best;  // inverse depth above, complement of the face below
  int64_t width;
  double least;  // inverse of the farthest depth
};

template <bool bounded>
void fill(uint64_t* best, int64_t count, double q, double step, uint64_t code, float least) {
  for (int64_t along = 0; along < count; ++along) {
    const float depth = static_cast<float>(q + static_cast<double>(along) * step);
    uint32_t bits;
    std::memcpy(&bits, &depth, sizeof bits);
    const uint64_t packed = static_cast<uint64_t>(bits) << 32 | code;
    const uint64_t most = packed > best[along] ? packed : best[along];
    best[along] = bounded && !(depth >= least) ? best[along] : most;
  }
}

// Triangles that are drawn together: loops over lanes become vector instructions.
struct alignas(64) Batch {
  double x[3][kLanes] = {}, y[3][kLanes] = {}, q[3][kLanes] = {};  // corners
  double begin[kLanes] = {}, end[kLanes] = {};                     // rows
  uint64_t code[kLanes] = {};
  int size = 0;
};

// Of corners at the same height the earlier one stays before the later one.
void sort_corners(Batch* batch, int upper, int lower) {
  for (int i = 0; i < kLanes; ++i) {
    const double xs[2] = {batch->x[upper][i], batch->x[lower][i]};
    const double ys[2] = {batch->y[upper][i], batch->y[lower][i]};
    const double qs[2] = {batch->q[upper][i], batch->q[lower][i]};
    const bool swap = ys[1] < ys[0];
    batch->x[upper][i] = swap ? xs[1] : xs[0], batch->x[lower][i] = swap ? xs[0] : xs[1];
    batch->y[upper][i] = swap ? ys[1] : ys[0], batch->y[lower][i] = swap ? ys[0] : ys[1];
    batch->q[upper][i] = swap ? qs[1] : qs[0], batch->q[lower][i] = swap ? qs[0] : qs[1];
  }
}

double smaller(double a, double b) { return a < b ? a : b; }
double larger(double a, double b) { return a > b ? a : b; }

// Draws a batch's triangles into a canvas that begins with row `top`.
template <bool bounded>
void draw(const Canvas& canvas, int64_t top, Batch* batch) {
  for (int i = batch->size; i < kLanes; ++i) batch->begin[i] = batch->end[i] = 0;
  sort_corners(batch, 0, 1);
  sort_corners(batch, 1, 2);
  sort_corners(batch, 0, 1);
  const auto &x = batch->x, &y = batch->y, &q = batch->q;
  alignas(64) double long_slope_x[kLanes], long_slope_q[kLanes], slope_x[2][kLanes], slope_q[2][kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const double height = y[2][i] - y[0][i];
    long_slope_x[i] = (x[2][i] - x[0][i]) / height, long_slope_q[i] = (q[2][i] - q[0][i]) / height;
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < kLanes; ++i) {
      const double height = y[half + 1][i] - y[half][i];
      slope_x[half][i] = (x[half + 1][i] - x[half][i]) / height;
      slope_q[half][i] = (q[half + 1][i] - q[half][i]) / height;
    }
  }
  const double width = static_cast<double>(canvas.width);
  const float least = static_cast<float>(canvas.least);
  double num_rows = 0;
  for (int i = 0; i < kLanes; ++i) num_rows = larger(num_rows, batch->end[i] - batch->begin[i]);
  for (double along = 0; along < num_rows; ++along) {
    alignas(64) double starts[kLanes], counts[kLanes], depths[kLanes], steps[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const double row = batch->begin[i] + along;
      // Both triangles at an edge compute its position from the same corner in the same way: no gap, no overlap.
      const bool lower = row >= y[1][i];
      const double from_x = lower ? x[1][i] : x[0][i], from_y = lower ? y[1][i] : y[0][i];
      const double from_q = lower ? q[1][i] : q[0][i];
      const double across = lower ? slope_x[1][i] : slope_x[0][i], away = lower ? slope_q[1][i] : slope_q[0][i];
      const double long_down = row - y[0][i], down = row - from_y;
      const double long_x = x[0][i] + long_down * long_slope_x[i], short_x = from_x + down * across;
      const double long_q = q[0][i] + long_down * long_slope_q[i], short_q = from_q + down * away;
      // What is not a number gives a first that is no less than the last.
      const double first = smaller(larger(std::ceil(smaller(long_x, short_x)), 0.0), width);
      const double last = smaller(larger(std::ceil(larger(long_x, short_x)), 0.0), width);
      const double step = (short_q - long_q) / (short_x - long_x);
      const double depth = long_q + (first - long_x) * step;
      const bool good =
          (row < batch->end[i]) & (first < last) & (std::abs(depth) < kInfinity) & (std::abs(step) < kInfinity);
      starts[i] = (row - static_cast<double>(top)) * width + first;
      counts[i] = good ? last - first : 0.0;
      depths[i] = depth;
      steps[i] = step;
    }
    unsigned drawn = 0;
    for (int i = 0; i < kLanes; ++i) drawn |= static_cast<unsigned>(counts[i] > 0.0) << i;
    for (; drawn; drawn &= drawn - 1) {
      const int i = __builtin_ctz(drawn);
      uint64_t* best = canvas.best + static_cast<int64_t>(starts[i]);
      fill<bounded>(best, static_cast<int64_t>(counts[i]), depths[i], steps[i], batch->code[i], least);
    }
  }
  batch->size = 0;
}

void draw_band(const RasterProblem& p, const Scene& scene, const Visible& visible, int64_t band, uint64_t* cells,
               SeenPixel* found, std::vector<SeenPixel>* seen) {
  const int64_t top = band * visible.band_rows, bottom = std::min(top + visible.band_rows, visible.box_height);
  const double box_left = static_cast<double>(visible.left), box_top = static_cast<double>(visible.top);
  const int64_t num_cells = (bottom - top) * visible.box_width;
  std::fill(cells, cells + num_cells, 0);
  const Canvas canvas{cells, visible.box_width, 1.0 / p.far};
  Batch batch;
  for (int64_t from = 0; from <= band; ++from) {
    if (scene.reach[from] <= top) continue;
    for (int64_t i = scene.starts[from]; i < scene.starts[from + 1]; ++i) {
      const Placed& placed = scene.placed[i];
      if (placed.last <= top) continue;
      const int lane = batch.size++;
      for (int k = 0; k < 3; ++k) {
        const Point& corner = placed.cut < 0 ? scene.points[p.faces[3 * static_cast<int64_t>(placed.face) + k]]
                                             : scene.cuts[placed.cut].corners[k];
        batch.x[k][lane] = corner.x - box_left, batch.y[k][lane] = corner.y - box_top, batch.q[k][lane] = corner.q;
      }
      batch.code[lane] = 0xFFFFFFFFu - static_cast<uint32_t>(placed.face);
      batch.begin[lane] = static_cast<double>(std::max<int64_t>(placed.first, top));
      batch.end[lane] = static_cast<double>(std::min<int64_t>(placed.last, bottom));
      if (batch.size == kLanes) (canvas.least > 0.0 ? draw<true> : draw<false>)(canvas, top, &batch);
    }
  }
  if (batch.size) (canvas.least > 0.0 ? draw<true> : draw<false>)(canvas, top, &batch);
  // Most of a box is empty: whole blocks of it are passed over.
  int64_t count = 0;
  for (int64_t block = 0; block < num_cells; block += kLanes) {
    const int64_t stop = std::min<int64_t>(kLanes, num_cells - block);
    uint64_t any = 0;
    for (int64_t i = 0; i < stop; ++i) any |= cells[block + i];
    if (!any) continue;
    for (int64_t i = 0; i < stop; ++i) {
      const uint64_t cell = cells[block + i];
      const uint32_t face = 0xFFFFFFFFu - static_cast<uint32_t>(cell);
      found[count] = {static_cast<uint32_t>(block + i), static_cast<int32_t>(face)};
      count += cell != 0;
    }
  }
  seen->assign(found, found + count);
}

// The vectors whose products with a ray are the volumes that it spans with a triangle's sides.
struct Sides {
  double normal[3][3];
  double depth[3];
};

Sides sides_of(const RasterProblem& p, int64_t face) {
  const double* at[3];
  Sides sides;
  for (int k = 0; k < 3; ++k) {
    at[k] = p.vertices + 3 * p.faces[3 * face + k];
    sides.depth[k] = at[k][2];
  }
  for (int k = 0; k < 3; ++k) {
    const double *a = at[(k + 1) % 3], *b = at[(k + 2) % 3];
    sides.normal[k][0] = a[1] * b[2] - a[2] * b[1];
    sides.normal[k][1] = a[2] * b[0] - a[0] * b[2];
    sides.normal[k][2] = a[0] * b[1] - a[1] * b[0];
  }
  return sides;
}

// Products of rays and sides, a lane for each pixel, become the pixels' weights and depths.
void weigh(int64_t count, double (*shares)[kLanes], const double (*corner_depths)[kLanes], double* weights,
           double* depths) {
  double depth[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    double total = shares[0][i] + shares[1][i] + shares[2][i];
    const double sign = total > 0.0 ? 1.0 : total < 0.0 ? -1.0 : total;
    double share[3];
    for (int k = 0; k < 3; ++k) {
      share[k] = shares[k][i] * sign;
      share[k] = share[k] < 0.0 ? 0.0 : share[k];  // what is not a number stays so
    }
    total = share[0] + share[1] + share[2];
    const bool flat = total == 0.0;  // a triangle seen exactly from its edge
    total = flat ? 3.0 : total;
    for (int k = 0; k < 3; ++k) shares[k][i] = (flat ? 1.0 : share[k]) / total;
    depth[i] =
        shares[0][i] * corner_depths[0][i] + shares[1][i] * corner_depths[1][i] + shares[2][i] * corner_depths[2][i];
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int k = 0; k < 3; ++k) weights[3 * i + k] = shares[k][i];
    depths[i] = depth[i];
  }
}

}  // namespace

Visible find_visible(const RasterProblem& p) {
  Visible visible;
  Scene scene;
  project_vertices(p, &scene);
  {
    std::vector<Kept> parts = clip_faces(p, scene);
    choose_box(p, parts, &visible);
    if (visible.box_width <= 0 || visible.box_height <= 0) return visible;
    place_pieces(visible, &parts, &scene);
  }
  visible.bands.resize(scene.reach.size());
  parallel_for(static_cast<int64_t>(visible.bands.size()), 1, [&](int64_t begin, int64_t end) {
    const int64_t rows = std::min(visible.band_rows, visible.box_height);
    const std::unique_ptr<uint64_t[]> cells(new uint64_t[rows * visible.box_width]);
    const std::unique_ptr<SeenPixel[]> found(new SeenPixel[rows * visible.box_width + 1]);
    for (int64_t band = begin; band < end; ++band) {
      draw_band(p, scene, visible, band, cells.get(), found.get(), &visible.bands[band].seen);
    }
  });
  for (RasterBand& band : visible.bands) {
    band.first = visible.covered;
    visible.covered += static_cast<int64_t>(band.seen.size());
  }
  return visible;
}

void describe_visible(const RasterProblem& p, const Visible& visible, int64_t* pixels, int32_t* triangles,
                      double* weights, double* depths) {
  std::vector<double> rays_x(visible.box_width);
  for (int64_t x = 0; x < visible.box_width; ++x) {
    rays_x[x] = (static_cast<double>(x + visible.left) - p.center[0]) / p.focal[0];
  }
  parallel_for(static_cast<int64_t>(visible.bands.size()), 1, [&](int64_t begin, int64_t end) {
    Sides sides;
    int32_t known = -1;
    alignas(64) double shares[3][kLanes] = {}, corner_depths[3][kLanes] = {};
    for (int64_t number = begin; number < end; ++number) {
      const RasterBand& band = visible.bands[number];
      const int64_t count = static_cast<int64_t>(band.seen.size());
      int64_t row = number * visible.band_rows + visible.top, row_start = 0;
      double ray_y = (static_cast<double>(row) - p.center[1]) / p.focal[1];
      for (int64_t i = 0; i < count; ++i) {
        const SeenPixel& seen = band.seen[i];
        while (seen.cell - row_start >= visible.box_width) {
          row_start += visible.box_width;
          ++row;
          ray_y = (static_cast<double>(row) - p.center[1]) / p.focal[1];
        }
        if (seen.face != known) {
          sides = sides_of(p, seen.face);
          known = seen.face;
        }
        const int64_t column = seen.cell - row_start, lane = i % kLanes;
        const double ray_x = rays_x[column];
        for (int k = 0; k < 3; ++k) {
          shares[k][lane] = sides.normal[k][0] * ray_x + sides.normal[k][1] * ray_y + sides.normal[k][2];
          corner_depths[k][lane] = sides.depth[k];
        }
        pixels[band.first + i] = row * p.width + visible.left + column;
        triangles[band.first + i] = seen.face;
        if (lane == kLanes - 1 || i == count - 1) {
          const int64_t out = band.first + i - lane;
          weigh(lane + 1, shares, corner_depths, weights + 3 * out, depths + out);
        }
      }
    }
  });
}

}  // namespace posekit

namespace {

struct Result {
  posekit::RasterProblem problem;
  posekit::Visible visible;
};

}  // namespace

// Finds what is seen of `batch` meshes with vertices [batch, sizes[0], 3] and common faces [sizes[1], 3], each in a
// picture of its own of height sizes[2] and width sizes[3]; `cameras` [batch, 6] holds focal lengths, principal point,
// near and far. Gives the numbers of covered pixels [batch], and results [batch] for posekit_rasterize_take, until
// which vertices and faces must stay.
POSEKIT_EXPORT int posekit_rasterize(const double* vertices, const int64_t* faces, const int64_t* sizes,
                                     const double* cameras, int64_t batch, int64_t* covered, void** results) {
  return posekit::guarded([&] {
    std::vector<std::unique_ptr<Result>> made(batch);
    posekit::parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t mesh = begin; mesh < end; ++mesh) {
        const double* const camera = cameras + 6 * mesh;
        made[mesh] = std::make_unique<Result>();
        made[mesh]->problem = {
            vertices + 3 * sizes[0] * mesh, sizes[0],  faces,    sizes[1], sizes[2], sizes[3], {camera[0], camera[1]},
            {camera[2], camera[3]},         camera[4], camera[5]};
        made[mesh]->visible = posekit::find_visible(made[mesh]->problem);
      }
    });
    for (int64_t mesh = 0; mesh < batch; ++mesh) {
      covered[mesh] = made[mesh]->visible.covered;
      results[mesh] = made[mesh].release();
    }
  });
}

// Writes what was found one mesh behind the other, and frees it; writes nothing where `pixels` is null.
POSEKIT_EXPORT int posekit_rasterize_take(void** results, int64_t batch, int64_t* pixels, int32_t* triangles,
                                          double* weights, double* depths) {
  return posekit::guarded([&] {
    std::vector<std::unique_ptr<Result>> taken;
    std::vector<int64_t> first{0};
    for (int64_t mesh = 0; mesh < batch; ++mesh) {
      taken.emplace_back(static_cast<Result*>(results[mesh]));
      first.push_back(first.back() + taken.back()->visible.covered);
    }
    if (!pixels) return;
    posekit::parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t mesh = begin; mesh < end; ++mesh) {
        const int64_t at = first[mesh];
        posekit::describe_visible(taken[mesh]->problem, taken[mesh]->visible, pixels + at, triangles + at,
                                  weights + 3 * at, depths + at);
      }
    });
  });
}
