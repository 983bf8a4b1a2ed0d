// Exact nearest neighbours: a tree of bounding boxes over one set of points, searched with sixteen points at a time.
//
// Points are cut into leaves of sixteen neighbours, by ranks along one axis after the other; boxes of leaves are cut
// into nodes of sixteen in the same way, up to one root. Neither scale nor outliers nor clusters matter to ranks. A
// search compares one box around its sixteen points with the sixteen boxes of a node at once, and its sixteen points
// with one point of a leaf at once.
//
// The answer is the reference with the smallest squared distance, in the precision of the input, and among equal ones
// the first. It does not depend on the order in which the tree is walked, so neither on the number of threads.
#ifndef POSEKIT_POINT_TREE_H_
#define POSEKIT_POINT_TREE_H_

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <type_traits>

namespace posekit {

constexpr int kLanes = 16;  // points of a leaf, children of a node, points that are searched for together

// Stands in for coordinates that are not finite: last in every comparison, and its square is still finite in float32.
constexpr double kFar = 1e18;

template <class T>
inline T finite_or_far(T value) {
  return value - value == 0 ? value : static_cast<T>(kFar);
}

// Memory that begins at a cache line and is not set to anything.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) { reset(count); }
  Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  void operator=(const Buffer&) = delete;

  void reset(int64_t count) {
    std::free(data_);
    data_ = nullptr;
    if (count <= 0) return;
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(count) * sizeof(T))) throw std::bad_alloc();
    data_ = static_cast<T*>(memory);
  }
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t index) { return data_[index]; }
  const T& operator[](int64_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
};

// Points cut into leaves of neighbours. Every leaf is full: the last point of a leaf stands there again where there are
// fewer than sixteen. Within a leaf points keep their order.
template <class T>
class PointLeaves {
 public:
  // `points` [count, dims], which need not be finite.
  PointLeaves(const T* points, int64_t count, int dims);

  int64_t leaves() const { return leaves_; }
  int dims() const { return dims_; }
  const T* values(int64_t leaf) const { return values_.get() + leaf * dims_ * kLanes; }  // [dims, kLanes]
  const int32_t* index(int64_t leaf) const { return index_.get() + leaf * kLanes; }      // positions in `points`

 private:
  int dims_;
  int64_t leaves_;
  Buffer<T> values_;
  Buffer<int32_t> index_;
};

// The boxes above leaves, whatever these are. Nodes whose children are leaves come first, the root last.
template <class T>
class Boxes {
 public:
  using Value = T;

  // Of `leaves` leaves, 1 or more: their `boxes` [leaves, dims, low and high], and the lowest position of a point in
  // each.
  void build(int64_t leaves, int dims, Buffer<T> boxes, Buffer<int32_t> first);

  int32_t root() const { return nodes_ - 1; }
  bool above_leaves(int32_t node) const { return node < bottom_nodes_; }
  const T* boxes(int32_t node) const { return boxes_.get() + node * node_size_; }
  const int32_t* first(int32_t node) const { return first_.get() + int64_t{node} * kLanes; }
  const int32_t* child(int32_t node) const { return child_.get() + int64_t{node} * kLanes; }

 private:
  int32_t nodes_, bottom_nodes_;
  int64_t node_size_;
  Buffer<T> boxes_;        // [nodes, dims, low and high, kLanes]
  Buffer<int32_t> first_;  // [nodes, kLanes] the lowest position below each child
  Buffer<int32_t> child_;  // [nodes, kLanes]
};

template <class T>
class PointTree : public PointLeaves<T>, public Boxes<T> {
 public:
  struct Leaf {
    const T* values;       // [dims, kLanes]
    const int32_t* index;  // ascending
  };

  PointTree(const T* points, int64_t count, int dims);

  Leaf leaf(int64_t leaf) const { return {this->values(leaf), this->index(leaf)}; }
};

// Sixteen numbers in as many registers as the processor needs.
template <class T>
struct Lanes {
#if defined(__AVX512F__)
  static constexpr int kBytes = 64;
#elif defined(__AVX__)
  static constexpr int kBytes = 32;
#else
  static constexpr int kBytes = 16;
#endif
  using Number = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  static constexpr int kWidth = kBytes / sizeof(T);
  static constexpr int kParts = kLanes / kWidth;
  typedef T Values __attribute__((vector_size(kBytes)));
  typedef Number Numbers __attribute__((vector_size(kBytes)));
};

// Looks for the nearest points of a tree: Boxes with dims() and leaf(), as PointTree has them. Dims is the number of
// coordinates, or 0 for any number. Neighbouring groups should follow one another: each search begins where the last
// one ended.
template <class Tree, int Dims>
class Search {
  using T = typename Tree::Value;
  using V = typename Lanes<T>::Values;
  using N = typename Lanes<T>::Numbers;
  static constexpr int kWidth = Lanes<T>::kWidth, kParts = Lanes<T>::kParts;

 public:
  using Number = typename Lanes<T>::Number;

  explicit Search(const Tree& tree) : tree_(tree), dims_(Dims ? Dims : tree.dims()), box_(2 * dims_) {}

  // Puts the positions of the references nearest to `values` [dims, kLanes], which are finite, into `index` [kLanes].
  void run(const T* values, Number* index) {
    Group group;
    group.values = values;
    for (int part = 0; part < kParts; ++part) {
      group.best[part] = V{} + std::numeric_limits<T>::infinity();
      group.index[part] = N{} + static_cast<Number>(std::numeric_limits<int32_t>::max());
    }
    surround(group);
    const int32_t begin_node = last_node_, begin_slot = last_slot_;
    if (begin_node >= 0) visit_leaf(group, begin_node, begin_slot);
    group.bound = highest(group.best);
    Entry stack[kDeepest * kLanes];
    int entries = 0;
    push_children(group, tree_.root(), stack, entries);
    while (entries) {
      const Entry entry = stack[--entries];
      if (!hopeful(group, entry)) continue;
      if (!tree_.above_leaves(entry.node)) {
        push_children(group, tree_.child(entry.node)[entry.slot], stack, entries);
      } else if (entry.node != begin_node || entry.slot != begin_slot) {
        visit_leaf(group, entry.node, entry.slot);
        group.bound = highest(group.best);
        last_node_ = entry.node;
        last_slot_ = entry.slot;
      }
    }
    __builtin_memcpy(index, group.index, sizeof group.index);
  }

 private:
  static constexpr int kDeepest = 9;  // sixteen to this power is more than the points that an int32 can count

  struct Group {
    const T* values;
    V best[kParts];
    N index[kParts];
    T bound;  // the greatest of `best`
  };
  struct Entry {
    T gap, order;
    int32_t node, slot;
  };

  template <class Vector, class Element>
  static Vector load(const Element* from) {
    Vector loaded;
    __builtin_memcpy(&loaded, from, sizeof loaded);
    return loaded;
  }

  template <class Vector>
  static auto highest(const Vector* parts) {
    std::decay_t<decltype(parts[0][0])> all[kLanes];
    __builtin_memcpy(all, parts, sizeof all);
    for (int half = kLanes / 2; half; half /= 2) {
      for (int lane = 0; lane < half; ++lane) all[lane] = all[lane] > all[lane + half] ? all[lane] : all[lane + half];
    }
    return all[0];
  }

  static bool any(const N* masks) {
    N either = masks[0];
    for (int part = 1; part < kParts; ++part) either |= masks[part];
    Number lanes[kWidth], all = 0;
    __builtin_memcpy(lanes, &either, sizeof lanes);
    for (int lane = 0; lane < kWidth; ++lane) all |= lanes[lane];
    return all != 0;
  }

  T& low(int axis) { return box_[2 * axis]; }
  T& high(int axis) { return box_[2 * axis + 1]; }

  // The box around the points that are searched for.
  void surround(const Group& group) {
    for (int axis = 0; axis < dims_; ++axis) {
      T least[kLanes], most[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) least[lane] = most[lane] = group.values[axis * kLanes + lane];
      for (int half = kLanes / 2; half; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
          least[lane] = least[lane] < least[lane + half] ? least[lane] : least[lane + half];
          most[lane] = most[lane] > most[lane + half] ? most[lane] : most[lane + half];
        }
      }
      low(axis) = least[0];
      high(axis) = most[0];
    }
  }

  // Puts the children that may hold a nearer point on the stack, the most promising last.
  //
  // Gaps between boxes are worked out by the operations that distances between points are worked out by, in the same
  // order: rounding cannot lift a gap above a distance.
  void push_children(const Group& group, int32_t node, Entry* stack, int& entries) {
    const T* boxes = tree_.boxes(node);
    const int32_t* first = tree_.first(node);
    T gaps[kLanes], orders[kLanes];
    for (int part = 0; part < kParts; ++part) {
      V gap = {}, order = {};
      for (int axis = 0; axis < dims_; ++axis) {
        const V from = load<V>(boxes + 2 * axis * kLanes + part * kWidth);
        const V to = load<V>(boxes + (2 * axis + 1) * kLanes + part * kWidth);
        const T middle = low(axis) / 2 + high(axis) / 2;
        const V zero = {};
        V apart = from - high(axis), below = low(axis) - to;
        apart = apart > below ? apart : below;
        apart = apart > zero ? apart : zero;
        V away = from - middle;
        below = middle - to;
        away = away > below ? away : below;
        away = away > zero ? away : zero;
        gap = axis ? gap + apart * apart : apart * apart;
        order = axis ? order + away * away : away * away;
      }
      __builtin_memcpy(gaps + part * kWidth, &gap, sizeof gap);
      __builtin_memcpy(orders + part * kWidth, &order, sizeof order);
    }
    unsigned hopeful = 0;
    for (int slot = 0; slot < kLanes; ++slot) hopeful |= static_cast<unsigned>(gaps[slot] <= group.bound) << slot;
    const int begin = entries;
    for (; hopeful; hopeful &= hopeful - 1) {
      const int slot = __builtin_ctz(hopeful);
      if (gaps[slot] == group.bound && first[slot] >= highest(group.index)) continue;
      int place = entries++;
      // Among equally promising ones the first goes on top: where points coincide it holds the answer.
      for (; place > begin && stack[place - 1].order <= orders[slot]; --place) stack[place] = stack[place - 1];
      stack[place] = {gaps[slot], orders[slot], node, slot};
    }
  }

  // Whether the box of an entry may hold a point that is nearer to any of the sixteen than what they have.
  bool hopeful(const Group& group, const Entry& entry) {
    if (entry.gap > group.bound) return false;
    const T* box = tree_.boxes(entry.node) + entry.slot;
    const Number first = tree_.first(entry.node)[entry.slot];
    N masks[kParts];
    for (int part = 0; part < kParts; ++part) {
      V gap = {};
      for (int axis = 0; axis < dims_; ++axis) {
        const V at = load<V>(group.values + axis * kLanes + part * kWidth), zero = {};
        V apart = box[2 * axis * kLanes] - at;
        const V below = at - box[(2 * axis + 1) * kLanes];
        apart = apart > below ? apart : below;
        apart = apart > zero ? apart : zero;
        gap = axis ? gap + apart * apart : apart * apart;
      }
      masks[part] = (gap < group.best[part]) | ((gap == group.best[part]) & (first < group.index[part]));
    }
    return any(masks);
  }

  // Compares with all points of a leaf. They stand there in their order: among equal ones the first is kept.
  void visit_leaf(Group& group, int32_t node, int32_t slot) {
    const typename Tree::Leaf leaf = tree_.leaf(tree_.child(node)[slot]);
    const T* others = leaf.values;
    const int32_t* index = leaf.index;
    V best[kParts];
    N chosen[kParts];
    for (int part = 0; part < kParts; ++part) {
      best[part] = squared_distances(group, part, others);
      chosen[part] = N{} + static_cast<Number>(index[0]);
    }
    for (int other = 1; other < kLanes; ++other) {
      const N number = N{} + static_cast<Number>(index[other]);
      for (int part = 0; part < kParts; ++part) {
        const V squared = squared_distances(group, part, others + other);
        chosen[part] = squared < best[part] ? number : chosen[part];
        best[part] = squared < best[part] ? squared : best[part];
      }
    }
    for (int part = 0; part < kParts; ++part) {
      const N nearer =
          (best[part] < group.best[part]) | ((best[part] == group.best[part]) & (chosen[part] < group.index[part]));
      group.best[part] = nearer ? best[part] : group.best[part];
      group.index[part] = nearer ? chosen[part] : group.index[part];
    }
  }

  // From the points that are searched for to one point of a leaf.
  V squared_distances(const Group& group, int part, const T* other) const {
    V squared = {};
    for (int axis = 0; axis < dims_; ++axis) {
      const V apart = load<V>(group.values + axis * kLanes + part * kWidth) - other[axis * kLanes];
      squared = axis ? squared + apart * apart : apart * apart;
    }
    return squared;
  }

  const Tree& tree_;
  const int dims_;
  int32_t last_node_ = -1, last_slot_ = -1;
  Buffer<T> box_;
};

}  // namespace posekit

#endif  // POSEKIT_POINT_TREE_H_
