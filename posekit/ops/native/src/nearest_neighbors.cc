#include "nearest_neighbors.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "parallel.h"
#include "point_tree.h"

namespace posekit {
namespace {

// Below this many comparisons for each point of both sets, comparing all costs less than building trees (measured:
// 190 to 400, by dimensions and sizes).
constexpr int64_t kComparisonsPerPoint = 220;
constexpr int64_t kGroupsAtOnce = 64;
constexpr int64_t kComparisonsAtOnce = 1 << 18;
// Up to this many a row is done in one go, and nothing is kept for it: in a batch of many that would be more than they
// are themselves.
constexpr int64_t kFewComparisons = 1 << 14;
constexpr int64_t kFewRowsAtOnce = 4;
constexpr int64_t kDistancesAtOnce = 1 << 14;

// One row of the batch while it is worked on.
template <class T>
struct Row {
  const T* points;
  const T* references;
  int64_t count, reference_count;
  int32_t* indices;
  T* distances;
  std::unique_ptr<PointLeaves<T>> groups;
  std::unique_ptr<PointTree<T>> tree;
  Buffer<T> finite;  // the references, where all are compared

  bool small() const { return count * reference_count <= kFewComparisons; }
  bool compares_all() const { return count * reference_count <= kComparisonsPerPoint * (count + reference_count); }
  int64_t group_count() const { return (count + kLanes - 1) / kLanes; }
};

template <class T>
void copy_references(Row<T>& row, int dims) {
  row.finite.reset(row.reference_count * dims);
  std::transform(row.references, row.references + row.reference_count * dims, row.finite.get(), finite_or_far<T>);
}

template <class T>
struct Piece {
  const Row<T>* row;
  int64_t begin, end;  // groups of kLanes points
};

template <class T, int Dims>
void search_tree(const Row<T>& row, int64_t begin, int64_t end) {
  Search<PointTree<T>, Dims> search(*row.tree);
  typename Search<PointTree<T>, Dims>::Number found[kLanes];
  for (int64_t group = begin; group < end; ++group) {
    search.run(row.groups->values(group), found);
    const int32_t* index = row.groups->index(group);
    for (int lane = 0; lane < kLanes; ++lane) row.indices[index[lane]] = static_cast<int32_t>(found[lane]);
  }
}

template <class T, int Dims>
void compare_all(const Row<T>& row, int runtime_dims, int64_t begin, int64_t end) {
  const int dims = Dims ? Dims : runtime_dims;
  using V = typename Lanes<T>::Values;
  using N = typename Lanes<T>::Numbers;
  using Number = typename Lanes<T>::Number;
  constexpr int kWidth = Lanes<T>::kWidth, kParts = Lanes<T>::kParts;
  Buffer<T> values(int64_t{dims} * kLanes);
  Number found[kLanes];
  for (int64_t group = begin; group < end; ++group) {
    const int64_t from = group * kLanes, used = std::min<int64_t>(kLanes, row.count - from);
    for (int lane = 0; lane < kLanes; ++lane) {
      const T* point = row.points + (from + std::min<int64_t>(lane, used - 1)) * dims;
      for (int axis = 0; axis < dims; ++axis) values[axis * kLanes + lane] = finite_or_far(point[axis]);
    }
    V best[kParts];
    N chosen[kParts];
    for (int part = 0; part < kParts; ++part) {
      best[part] = V{} + std::numeric_limits<T>::infinity();
      chosen[part] = N{};
    }
    const T* other = row.finite.get();
    for (int64_t reference = 0; reference < row.reference_count; ++reference, other += dims) {
      const N number = N{} + static_cast<Number>(reference);
      for (int part = 0; part < kParts; ++part) {
        V squared = {}, at;
        for (int axis = 0; axis < dims; ++axis) {
          __builtin_memcpy(&at, values.get() + axis * kLanes + part * kWidth, sizeof at);
          const V apart = at - other[axis];
          squared = axis ? squared + apart * apart : apart * apart;
        }
        chosen[part] = squared < best[part] ? number : chosen[part];
        best[part] = squared < best[part] ? squared : best[part];
      }
    }
    __builtin_memcpy(found, chosen, sizeof found);
    for (int64_t lane = 0; lane < used; ++lane) row.indices[from + lane] = static_cast<int32_t>(found[lane]);
  }
}

// The same one by one, without a copy: a group of kLanes points, with dims so many that they matter, would be larger
// than all points together.
template <class T>
void compare_few(const Row<T>& row, int dims) {
  for (int64_t point = 0; point < row.count; ++point) {
    T best = std::numeric_limits<T>::infinity();
    row.indices[point] = 0;
    for (int64_t reference = 0; reference < row.reference_count; ++reference) {
      T squared = 0;
      for (int axis = 0; axis < dims; ++axis) {
        const T apart =
            finite_or_far(row.points[point * dims + axis]) - finite_or_far(row.references[reference * dims + axis]);
        squared += apart * apart;
      }
      if (squared < best) {
        best = squared;
        row.indices[point] = static_cast<int32_t>(reference);
      }
    }
  }
}

template <class T>
void search(const Row<T>& row, int dims, int64_t begin, int64_t end) {
  const bool all = row.compares_all();
  if (dims == 2) {
    all ? compare_all<T, 2>(row, dims, begin, end) : search_tree<T, 2>(row, begin, end);
  } else if (dims == 3) {
    all ? compare_all<T, 3>(row, dims, begin, end) : search_tree<T, 3>(row, begin, end);
  } else {
    all ? compare_all<T, 0>(row, dims, begin, end) : search_tree<T, 0>(row, begin, end);
  }
}

// From the points as they were given: what is not finite has a distance that is not finite.
template <class T>
T distance(const T* one, const T* other, int dims) {
  T squared = 0;
  for (int axis = 0; axis < dims; ++axis) squared += (one[axis] - other[axis]) * (one[axis] - other[axis]);
  return std::sqrt(squared);
}

template <class T>
void write_distances(const Row<T>& row, int dims, int64_t begin, int64_t end) {
  for (int64_t point = begin; point < end; ++point) {
    row.distances[point] =
        distance(row.points + point * dims, row.references + int64_t{row.indices[point]} * dims, dims);
  }
}

template <class T>
void finish_small(Row<T> row, int dims) {
  if (!row.reference_count) {
    std::fill_n(row.indices, row.count, -1);
    std::fill_n(row.distances, row.count, std::numeric_limits<T>::infinity());
    return;
  }
  if (row.count + row.reference_count < kLanes) {
    compare_few(row, dims);
  } else {
    copy_references(row, dims);
    search(row, dims, 0, row.group_count());
  }
  write_distances(row, dims, 0, row.count);
}

}  // namespace

template <class T>
void nearest_neighbors(const T* points, const int64_t* point_splits, const T* references,
                       const int64_t* reference_splits, int64_t batch, int dims, int32_t* indices, T* distances) {
  const auto row_of = [&](int64_t b) {
    Row<T> row;
    row.points = points + point_splits[b] * dims;
    row.references = references + reference_splits[b] * dims;
    row.count = point_splits[b + 1] - point_splits[b];
    row.reference_count = reference_splits[b + 1] - reference_splits[b];
    row.indices = indices + point_splits[b];
    row.distances = distances + point_splits[b];
    return row;
  };
  std::vector<Row<T>> rows;  // that are not small
  for (int64_t b = 0; b < batch; ++b) {
    Row<T> row = row_of(b);
    if (std::max(row.count, row.reference_count) > std::numeric_limits<int32_t>::max()) {
      throw InvalidInput("more than 2147483647 points in one row");
    }
    if (!row.small()) rows.push_back(std::move(row));
  }
  parallel_for(batch, kFewRowsAtOnce, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
      Row<T> row = row_of(b);
      if (row.small()) finish_small(std::move(row), dims);
    }
  });
  parallel_for(2 * static_cast<int64_t>(rows.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      Row<T>& row = rows[i / 2];
      if (row.compares_all()) {
        if (i % 2 == 0) copy_references(row, dims);
      } else if (i % 2) {
        row.groups = std::make_unique<PointLeaves<T>>(row.points, row.count, dims);
      } else {
        row.tree = std::make_unique<PointTree<T>>(row.references, row.reference_count, dims);
      }
    }
  });
  std::vector<Piece<T>> pieces;
  for (const Row<T>& row : rows) {
    const int64_t compared = kLanes * row.reference_count;
    const int64_t groups = row.compares_all() ? std::max<int64_t>(1, kComparisonsAtOnce / compared) : kGroupsAtOnce;
    for (int64_t begin = 0; begin < row.group_count(); begin += groups) {
      pieces.push_back({&row, begin, std::min(begin + groups, row.group_count())});
    }
  }
  parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) search(*pieces[i].row, dims, pieces[i].begin, pieces[i].end);
  });
  for (const Row<T>& row : rows) {
    parallel_for(row.count, kDistancesAtOnce,
                 [&](int64_t begin, int64_t end) { write_distances(row, dims, begin, end); });
  }
}

template void nearest_neighbors(const float*, const int64_t*, const float*, const int64_t*, int64_t, int, int32_t*,
                                float*);
template void nearest_neighbors(const double*, const int64_t*, const double*, const int64_t*, int64_t, int, int32_t*,
                                double*);

}  // namespace posekit
