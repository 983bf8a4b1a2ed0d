#include "point_tree.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "parallel.h"

namespace posekit {
namespace {

constexpr int64_t kWorthSharing = 1 << 14;  // points from which on a set is cut by several threads
constexpr int kAxes = 3;                    // that points are cut along, at most
constexpr int kSamples = 64;
constexpr int kMixtures = 2;  // times that what lies around the core of a set is cut apart from it
constexpr int kAround = 4;    // times the width of the middle half of points, beside it

// A number as an integer of the same order.
template <class T>
struct Key;
template <>
struct Key<float> {
  using Type = uint32_t;
};
template <>
struct Key<double> {
  using Type = uint64_t;
};

template <class T>
struct Item {
  typename Key<T>::Type key;
  int32_t index;
};

template <class T>
typename Key<T>::Type key_of(T value) {
  using Type = typename Key<T>::Type;
  constexpr Type sign = Type{1} << (8 * sizeof(Type) - 1);
  Type bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & sign ? ~bits : bits | sign;
}

// Sorts by keys and keeps the order of equal ones, digit after digit from the lowest; digits that all share cost
// nothing.
template <class T>
void sort_keys(Item<T>* items, Item<T>* spare, int64_t count) {
  constexpr int kDigits = sizeof(typename Key<T>::Type);
  if (count <= 48) {
    for (int64_t i = 1; i < count; ++i) {
      const Item<T> item = items[i];
      int64_t place = i;
      for (; place && items[place - 1].key > item.key; --place) items[place] = items[place - 1];
      items[place] = item;
    }
    return;
  }
  int32_t counts[kDigits][256] = {};
  for (int64_t i = 0; i < count; ++i) {
    for (int digit = 0; digit < kDigits; ++digit) ++counts[digit][items[i].key >> (8 * digit) & 255];
  }
  Item<T>* from = items;
  Item<T>* to = spare;
  for (int digit = 0; digit < kDigits; ++digit) {
    int32_t* places = counts[digit];
    if (places[from[0].key >> (8 * digit) & 255] == count) continue;
    int32_t before = 0;
    for (int value = 0; value < 256; ++value) {
      const int32_t here = places[value];
      places[value] = before;
      before += here;
    }
    for (int64_t i = 0; i < count; ++i) to[places[from[i].key >> (8 * digit) & 255]++] = from[i];
    std::swap(from, to);
  }
  if (from != items) std::copy(from, from + count, items);
}

// Cuts points into blocks of kLanes neighbours: sorted along one axis and cut into slabs, each slab along the next.
template <class T>
class Packing {
 public:
  Packing(const T* points, int64_t count, int dims)
      : points_(points), count_(count), dims_(dims), items_(count), spare_(dims == 1 ? (count + 1) / 2 : count) {
    for (int64_t i = 0; i < count; ++i) items_[i].index = static_cast<int32_t>(i);
    std::vector<int> axes(dims);
    for (int axis = 0; axis < dims; ++axis) axes[axis] = axis;
    int64_t begin = 0;
    for (int round = 0; round < kMixtures && dims > 1; ++round) {
      const int64_t end = gather_core(begin);
      split(begin, end, axes, std::min(dims, kAxes));
      begin = end;
    }
    split(begin, count, axes, std::min(dims, kAxes));
    spare_.reset(0);
  }

  // The block of every point.
  Buffer<int32_t> blocks() const {
    Buffer<int32_t> block(count_);
    parallel_for(count_, kWorthSharing, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) block[items_[i].index] = static_cast<int32_t>(i / kLanes);
    });
    return block;
  }

 private:
  void split(int64_t begin, int64_t end, std::vector<int> axes, int remaining) {
    const int64_t blocks = (end - begin + kLanes - 1) / kLanes;
    if (blocks <= 1) return;
    // The widest axis first. Slabs are as many as make the blocks about as wide as they are long, along the axes that
    // are wider than that: where points lie in a plane, the third would count for nothing.
    int64_t cuts = blocks;
    if (axes.size() > 1) {
      std::vector<T> widths(dims_);
      for (int axis : axes) widths[axis] = width(begin, end, axis);
      std::sort(axes.begin(), axes.end(), [&](int one, int other) {
        return widths[one] != widths[other] ? widths[one] > widths[other] : one < other;
      });
      const T widest = widths[axes[0]];
      for (int wide = remaining; wide > 1; --wide) {
        double ratio = 1, thinnest = 1;
        for (int i = 1; i < wide; ++i) ratio *= thinnest = widest > 0 ? widths[axes[i]] / widest : 1;
        const double wanted = std::pow(blocks / std::max(ratio, 1e-12), 1.0 / wide);
        if (thinnest * wanted < 1) continue;
        cuts = static_cast<int64_t>(std::ceil(std::min(wanted, static_cast<double>(blocks))));
        break;
      }
    }
    const int axis = axes[0];
    for (int64_t i = begin; i < end; ++i) {
      items_[i].key = key_of(finite_or_far(points_[int64_t{items_[i].index} * dims_ + axis]));
    }
    if (dims_ == 1) {
      sort_with_half_the_spare();
    } else {
      sort_keys(items_.get() + begin, spare_.get() + begin, end - begin);
    }
    if (remaining == 1 || cuts == blocks) return;
    axes.erase(axes.begin());
    const int64_t slab = (blocks + cuts - 1) / cuts * kLanes;
    const int64_t slabs = (end - begin + slab - 1) / slab;
    const auto split_slabs = [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        split(begin + i * slab, std::min(begin + (i + 1) * slab, end), axes, remaining - 1);
      }
    };
    if (end - begin >= kWorthSharing) {
      parallel_for(slabs, std::max<int64_t>(1, slabs / 16), split_slabs);
    } else {
      split_slabs(0, slabs);
    }
  }

  // Points of one coordinate are so small that a spare for all of them would be too much.
  void sort_with_half_the_spare() {
    const int64_t half = count_ / 2;
    Item<T>* first = items_.get();
    Item<T>* second = first + half;
    Item<T>* const last = first + count_;
    sort_keys(first, spare_.get(), half);
    sort_keys(second, spare_.get(), last - second);
    std::copy(first, second, spare_.get());
    const Item<T>* waiting = spare_.get();
    const Item<T>* const end = waiting + half;
    for (Item<T>* to = first; waiting < end; ++to) {
      *to = second < last && second->key < waiting->key ? *second++ : *waiting++;
    }
  }

  // Moves points that lie around the core of those from `begin` on behind it; returns where they begin, `begin` if
  // there is none. Cut together with it, as a line in a cloud, they would make long boxes of most blocks: they are few
  // in each.
  int64_t gather_core(int64_t begin) {
    const int64_t count = count_ - begin;
    if (count < kWorthSharing) return begin;
    std::vector<T> least(dims_), most(dims_);
    for (int axis = 0; axis < dims_; ++axis) {
      T sample[kSamples];
      take_sample(begin, count_, axis, sample);
      std::sort(sample, sample + kSamples);
      const T low = sample[kSamples / 4], high = sample[kSamples - 1 - kSamples / 4];
      const T margin = kAround * (high - low);
      least[axis] = low - margin;
      most[axis] = high + margin;
    }
    const auto in_core = [&](const Item<T>& item) {
      const T* point = points_ + int64_t{item.index} * dims_;
      bool inside = true;
      for (int axis = 0; axis < dims_; ++axis) {
        const T at = finite_or_far(point[axis]);
        inside &= at >= least[axis] && at <= most[axis];
      }
      return inside;
    };
    int64_t inside = 0;
    for (int64_t i = begin; i < count_; ++i) inside += in_core(items_[i]);
    inside -= inside % kLanes;  // what comes next begins with a block of its own
    if (inside < count / 2 || count - inside < kLanes) return begin;
    int64_t core = begin, around = 0;
    for (int64_t i = begin; i < count_; ++i) {
      if (core < begin + inside && in_core(items_[i])) {
        items_[core++] = items_[i];
      } else {
        spare_[around++] = items_[i];
      }
    }
    std::copy(spare_.get(), spare_.get() + around, items_.get() + core);
    return core;
  }

  // Coordinates of points all over a range; returns how many.
  int64_t take_sample(int64_t begin, int64_t end, int axis, T* sample) const {
    const int64_t count = std::min<int64_t>(end - begin, kSamples);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = begin + (end - begin) * i / count;
      sample[i] = finite_or_far(points_[int64_t{items_[place].index} * dims_ + axis]);
    }
    return count;
  }

  // How far most points are spread along an axis, judged by a sample: outliers do not count.
  T width(int64_t begin, int64_t end, int axis) const {
    T sample[kSamples];
    const int64_t count = take_sample(begin, end, axis, sample);
    const int64_t low = count / 10, high = count - 1 - low;
    std::nth_element(sample, sample + low, sample + count);
    const T least = sample[low];
    std::nth_element(sample, sample + high, sample + count);
    return std::min(sample[high] - least, std::numeric_limits<T>::max());
  }

  const T* points_;
  const int64_t count_;
  const int dims_;
  Buffer<Item<T>> items_, spare_;
};

template <class T>
Buffer<int32_t> pack(const T* points, int64_t count, int dims) {
  return Packing<T>(points, count, dims).blocks();
}

int64_t blocks_of(int64_t count) { return (count + kLanes - 1) / kLanes; }

}  // namespace

template <class T>
PointLeaves<T>::PointLeaves(const T* points, int64_t count, int dims) : dims_(dims), leaves_(blocks_of(count)) {
  if (count > std::numeric_limits<int32_t>::max()) {
    throw InvalidInput(std::to_string(count) + " points are more than 2147483647 in one set");
  }
  const Buffer<int32_t> leaf_of = pack(points, count, dims);
  values_.reset(leaves_ * dims * kLanes);
  index_.reset(leaves_ * kLanes);
  std::vector<int8_t> filled(leaves_);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t leaf = leaf_of[i];
    const int slot = filled[leaf]++;
    T* to = values_.get() + int64_t{leaf} * dims * kLanes + slot;
    for (int axis = 0; axis < dims; ++axis) to[axis * kLanes] = finite_or_far(points[i * dims + axis]);
    index_[int64_t{leaf} * kLanes + slot] = static_cast<int32_t>(i);
  }
  for (int64_t leaf = 0; leaf < leaves_; ++leaf) {
    const int last = filled[leaf] - 1;
    for (int slot = last + 1; slot < kLanes; ++slot) {
      T* values = values_.get() + leaf * dims * kLanes;
      for (int axis = 0; axis < dims; ++axis) values[axis * kLanes + slot] = values[axis * kLanes + last];
      index_[leaf * kLanes + slot] = index_[leaf * kLanes + last];
    }
  }
}

template <class T>
PointTree<T>::PointTree(const T* points, int64_t count, int dims) : PointLeaves<T>(points, count, dims) {
  const int64_t leaves = this->leaves();
  Buffer<T> boxes(leaves * 2 * dims);
  Buffer<int32_t> first(leaves);
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    for (int axis = 0; axis < dims; ++axis) {
      const T* values = this->values(leaf) + axis * kLanes;
      boxes[(leaf * dims + axis) * 2] = *std::min_element(values, values + kLanes);
      boxes[(leaf * dims + axis) * 2 + 1] = *std::max_element(values, values + kLanes);
    }
    first[leaf] = this->index(leaf)[0];
  }
  this->build(leaves, dims, std::move(boxes), std::move(first));
}

template <class T>
void Boxes<T>::build(int64_t leaves, int dims, Buffer<T> boxes, Buffer<int32_t> first) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  int64_t children = leaves, total = 0;
  for (int64_t left = children; left > 1 || !total; left = blocks_of(left)) total += blocks_of(left);
  nodes_ = static_cast<int32_t>(total);
  bottom_nodes_ = static_cast<int32_t>(blocks_of(children));
  node_size_ = int64_t{2} * dims * kLanes;
  boxes_.reset(total * node_size_);
  std::fill_n(boxes_.get(), total * node_size_, kInfinity);
  first_.reset(total * kLanes);
  std::fill_n(first_.get(), total * kLanes, std::numeric_limits<int32_t>::max());
  child_.reset(total * kLanes);
  std::fill_n(child_.get(), total * kLanes, 0);

  // `boxes` and `first` are those of what stands on the level below: leaves at first, then nodes.
  Buffer<T> middles(children * dims);
  int64_t offset = 0, child_offset = 0;
  while (children > 1 || !offset) {
    const int64_t parents = blocks_of(children);
    for (int64_t i = 0; i < children * dims; ++i) middles[i] = boxes[2 * i] / 2 + boxes[2 * i + 1] / 2;
    const Buffer<int32_t> parent = pack(middles.get(), children, dims);
    std::vector<int8_t> filled(parents);
    for (int64_t i = 0; i < children; ++i) {
      const int64_t node = offset + parent[i];
      const int slot = filled[parent[i]]++;
      T* to = boxes_.get() + node * node_size_ + slot;
      for (int side = 0; side < 2 * dims; ++side) to[side * kLanes] = boxes[i * 2 * dims + side];
      first_[node * kLanes + slot] = first[i];
      child_[node * kLanes + slot] = static_cast<int32_t>(child_offset + i);
    }
    for (int64_t i = 0; i < parents; ++i) {
      const T* sides = boxes_.get() + (offset + i) * node_size_;
      for (int side = 0; side < 2 * dims; ++side) {
        const T* from = sides + side * kLanes;
        const T* to = from + filled[i];
        boxes[i * 2 * dims + side] = side % 2 ? *std::max_element(from, to) : *std::min_element(from, to);
      }
      const int32_t* lowest = first_.get() + (offset + i) * kLanes;
      first[i] = *std::min_element(lowest, lowest + kLanes);
    }
    child_offset = offset;
    offset += parents;
    children = parents;
  }
}

template class PointLeaves<float>;
template class PointLeaves<double>;
template class Boxes<float>;
template class Boxes<double>;
template class PointTree<float>;
template class PointTree<double>;

}  // namespace posekit
