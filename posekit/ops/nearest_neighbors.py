"""Exact nearest neighbours between point sets, without the points x references matrix.

For every point p the search finds argmin over references r of |p - r|^2.

The plain path cuts both sets into small groups with bounding boxes. One exact look at the two groups next door gives
every group of points an upper bound; only pairs of groups whose boxes lie closer than that bound are compared, a fixed
number at a time. Any input gets the exact answer; memory stays bounded even where nothing can be pruned.

The compiled op does the same with a tree of boxes above the groups, on all processor cores: about
(points + references) * log(references) work where neighbours are near one another compared with the size of the sets,
or all coincide, or lie far apart; points * references where all references are equally far, as from the centre of a
circle. It holds the coordinates once more, and while it cuts a set up to sixteen bytes a point (float64: thirty-two):
about twice its inputs and outputs, at most three times, where there is one dimension.
"""

import functools

import numpy as np
import tensorflow as tf

from posekit.ops import native

# Measured on 224 x 224 silhouettes against 6890 vertices: 16 to 32 points a group are alike, 8 are slower.
_GROUP = 16
# Group pairs compared in one go: 4096 * 16 * 16 distances are 4 MB in float32, which stays in the cache.
_PAIRS_AT_ONCE = 4096
# Cells of the box-to-box table held at one time.
_TABLE_CELLS = 1 << 21
# Dimensions up to which sums over them are written out.
_MOST_UNROLLED = 8
# Stands in for coordinates that are not finite; its square is finite in float32.
_FAR = 1e18


def nearest_neighbors(points, references):
    """Finds the nearest reference of every point, exactly, and the distance to it.

    The choice of the neighbour is not differentiated; the distance is, through the chosen pair, with gradient zero
    where the two coincide. Distances are compared in the inputs' precision, in direct (not expanded) form. Among
    equally near references one is chosen, always the same one for the same input (the compiled op chooses the first).

    Args:
        points: `[points, dims]` or `[batch, points, dims]`, float32 or float64; the batched form may be a
            `tf.RaggedTensor` with a ragged second axis.
        references: The same form and dtype, with its own number of points; ragged or dense independently of `points`.

    Returns:
        `(indices, distances)`: int32 positions in `references` (of the same batch element) and Euclidean distances,
        both shaped as `points` without the last axis (ragged where `points` is). Without any reference the index is -1
        and the distance infinite. A point that is not finite gets some valid index and a distance that is not finite;
        references that are not finite are chosen last. Coordinates count as finite up to about 1e19 in float32 (1e154
        in float64), beyond which their squares overflow: distances become infinite and the choice arbitrary.

    Raises:
        ValueError: If ranks, dtypes, the number of coordinates or batches do not fit; or while a program for XLA is
            traced, which cannot compile this: use `jit_compile=False`.
        tf.errors.InvalidArgumentError: If batches do not fit whose sizes are known only when a graph runs.

    Example:
        >>> indices, distances = nearest_neighbors(tf.constant([[0.0, 0.0]]), tf.constant([[3.0, 4.0], [9.0, 9.0]]))
        >>> int(indices[0]), float(distances[0])
        (0, 5.0)

    Reference:
        Follows: maxpit/human-pose-estimation:find_nearest_neighbors.
        Differs: no float32 expanded squares (which pick a wrong neighbour for about one point in a hundred).
    """
    points, references = _as_tensor(points, "points"), _as_tensor(references, "references")
    _check(points, references)
    native.refuse_xla("nearest_neighbors")
    compiled = native.ops()
    if compiled is not None:
        return _compiled(compiled, points, references)
    if points.shape.rank == 2:
        indices, distances = nearest_neighbors(points[tf.newaxis], references[tf.newaxis])
        return indices[0], distances[0]
    points, references = _with_ascending_splits(points, "points"), _with_ascending_splits(references, "references")
    points = _with_the_batch_of(points, references)
    ragged = points if isinstance(points, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(points)
    others = references if isinstance(references, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(references)
    flat, flat_others = _flat(ragged), _flat(others)
    chosen = nearest_in_rows(flat, ragged.row_splits, flat_others, others.row_splits)
    distances = _distances(flat, flat_others, chosen)
    first = tf.gather(tf.cast(others.row_starts(), tf.int32), tf.cast(ragged.value_rowids(), tf.int32))
    indices = tf.where(chosen >= 0, chosen - first, -1)
    if isinstance(points, tf.RaggedTensor):
        return ragged.with_flat_values(indices), ragged.with_flat_values(distances)
    shape = tf.shape(points)[:2]
    indices, distances = tf.reshape(indices, shape), tf.reshape(distances, shape)
    indices.set_shape(points.shape[:2])
    distances.set_shape(points.shape[:2])
    return indices, distances


def nearest_in_rows(points, point_splits, references, reference_splits):
    """Nearest references of a batch given as flat values with row splits.

    Args:
        points: `[total points, dims]` float.
        point_splits: `[batch + 1]` integers: row b owns `points[point_splits[b]:point_splits[b + 1]]`.
        references: `[total references, dims]`, the dtype of `points`.
        reference_splits: `[batch + 1]` integers.

    Returns:
        Int32 `[total points]`: positions in the flat `references`, -1 where the row has no reference.
    """
    search = _compiled_search(points.shape[-1], points.dtype)
    return search(
        tf.stop_gradient(points),
        tf.cast(point_splits, tf.int32),
        tf.stop_gradient(references),
        tf.cast(reference_splits, tf.int32),
    )


def safe_sqrt(squared):
    """Square root with gradient zero (not infinite) at zero: lengths that may vanish stay differentiable.

    Args:
        squared: Tensor of values from 0.

    Returns:
        Tensor of the same shape.
    """
    is_zero = tf.equal(squared, 0)
    return tf.where(is_zero, tf.zeros_like(squared), tf.sqrt(tf.where(is_zero, tf.ones_like(squared), squared)))


def _as_tensor(value, name):
    if not isinstance(value, tf.RaggedTensor):
        value = tf.convert_to_tensor(value)
    if value.dtype not in (tf.float32, tf.float64):
        raise ValueError(f"{name} have dtype {value.dtype.name}; allowed are float32 and float64. Cast them first.")
    return value


def _check(points, references):
    ranks = points.shape.rank, references.shape.rank
    if ranks not in ((2, 2), (3, 3)):
        raise ValueError(
            f"points of shape {points.shape} and references of shape {references.shape} do not fit: both must be "
            "[points, dims] or both [batch, points, dims]."
        )
    if points.dtype != references.dtype:
        raise ValueError(f"points are {points.dtype.name} and references {references.dtype.name}; cast one of them.")
    if not points.shape[-1] or points.shape[-1] != references.shape[-1]:
        raise ValueError(
            f"points have {points.shape[-1]} coordinates and references {references.shape[-1]}; both need the same "
            "number, at least 1, known when the graph is built."
        )
    if ranks[0] == 3 and not points.shape[:1].is_compatible_with(references.shape[:1]):
        raise ValueError(
            f"points of shape {points.shape} and references of shape {references.shape} do not fit: both need the "
            "same batch."
        )


def _with_the_batch_of(points, references):
    """The points; sizes that only the running graph knows are compared there."""
    if points.shape[0] is not None and references.shape[0] is not None:
        return points
    sizes = [part.bounding_shape() if isinstance(part, tf.RaggedTensor) else tf.shape(part, tf.int64)
             for part in (points, references)]  # fmt: skip
    told = ["points of shape", sizes[0], "and references of shape", sizes[1], "do not fit: both need the same batch"]
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(sizes[0][0], sizes[1][0]), told)]):
        return tf.identity(points)


def _with_ascending_splits(points, name):
    """The points; rows of ragged ones that are not one after the other are told when the graph runs."""
    if not isinstance(points, tf.RaggedTensor):
        return points
    splits, count = points.row_splits, tf.shape(points.flat_values, points.row_splits.dtype)[:1]
    ends = tf.concat([splits[:1], count - splits[-1:]], axis=0)
    good = tf.logical_and(tf.reduce_all(splits[1:] >= splits[:-1]), tf.reduce_all(tf.equal(ends, 0)))
    told = [f"splits of {name}", splits, "must ascend from 0 to the number of values", count]
    with tf.control_dependencies([tf.debugging.Assert(good, told)]):
        return points.with_flat_values(tf.identity(points.flat_values))


def _compiled(ops, points, references):
    flat, splits = _rows(points)
    flat_others, other_splits = _rows(references)
    indices, distances = ops.posekit_nearest_neighbors(flat, splits, flat_others, other_splits)
    indices.set_shape(flat.shape[:1])
    distances.set_shape(flat.shape[:1])
    if isinstance(points, tf.RaggedTensor):
        return points.with_flat_values(indices), points.with_flat_values(distances)
    if points.shape.rank == 2:
        return indices, distances
    shape = tf.shape(points)[:2]
    indices, distances = tf.reshape(indices, shape), tf.reshape(distances, shape)
    indices.set_shape(points.shape[:2])
    distances.set_shape(points.shape[:2])
    return indices, distances


@tf.RegisterGradient("PosekitNearestNeighbors")
def _compiled_gradient(op, _, upstream):
    """Along the lines between the pairs; where a pair coincides, and where there is none, zero."""
    points, splits, references, other_splits = op.inputs
    indices, distances = op.outputs
    first = tf.repeat(other_splits[:-1], splits[1:] - splits[:-1])
    chosen = tf.where(indices >= 0, first + tf.cast(indices, tf.int64), -1)
    apart = points - _chosen(references, chosen)
    directed = tf.logical_and(chosen >= 0, tf.not_equal(distances, 0))
    factors = tf.where(directed, upstream / tf.where(directed, distances, 1), 0)
    of_points = apart * factors[:, tf.newaxis]
    of_references = -tf.math.unsorted_segment_sum(of_points, chosen, tf.shape(references)[0])
    of_points.set_shape(points.shape)
    of_references.set_shape(references.shape)
    return of_points, None, of_references, None


def _rows(points):
    """Values `[count, dims]` and int64 row splits of a set of points or a batch of them."""
    if isinstance(points, tf.RaggedTensor):
        return _flat(points), tf.cast(points.row_splits, tf.int64)
    sizes = tf.shape(points, tf.int64)
    if points.shape.rank == 2:
        return points, tf.stack([0, sizes[0]])
    return tf.reshape(points, [-1, points.shape[-1]]), tf.range(sizes[0] + 1) * sizes[1]


def _flat(ragged):
    values = ragged.flat_values
    return tf.ensure_shape(values, [None, ragged.shape[-1]])


def _distances(points, references, chosen):
    apart = points - _chosen(references, chosen)
    distances = safe_sqrt(tf.reduce_sum(tf.square(apart), axis=1))
    return tf.where(chosen >= 0, distances, tf.constant(np.inf, points.dtype))


def _chosen(references, chosen):
    """References at positions, zeros where these are negative."""
    # One spare row keeps the lookup valid where a row, or the whole batch, has no reference.
    padded = tf.concat([references, tf.zeros([1, references.shape[-1]], references.dtype)], axis=0)
    return tf.gather(padded, tf.where(chosen >= 0, chosen, tf.shape(references, chosen.dtype)[0]))


@functools.cache
def _compiled_search(dims, dtype):
    """One graph for any sizes: without it an eager caller would pay for every small operation of the search."""
    values, splits = tf.TensorSpec([None, dims], dtype), tf.TensorSpec([None], tf.int32)
    return tf.function(_search_rows, input_signature=[values, splits, values, splits])


def _search_rows(points, point_splits, references, reference_splits):
    dims = points.shape[-1]
    rows = tf.shape(point_splits)[0] - 1
    found = tf.TensorArray(tf.int32, size=rows, infer_shape=False, element_shape=[None])

    def search_row(row, found):
        own = points[point_splits[row] : point_splits[row + 1]]
        start = reference_splits[row]
        others = references[start : reference_splits[row + 1]]
        own, others = tf.ensure_shape(own, [None, dims]), tf.ensure_shape(others, [None, dims])
        possible = tf.logical_and(tf.shape(own)[0] > 0, tf.shape(others)[0] > 0)
        indices = tf.cond(possible, lambda: start + _search(own, others), lambda: tf.fill(tf.shape(own)[:1], -1))
        return row + 1, found.write(row, indices)

    _, found = tf.while_loop(lambda row, _: row < rows, search_row, (0, found), parallel_iterations=2)
    return tf.reshape(found.concat(), [tf.shape(points)[0]])


def _search(points, references):
    """Positions in `references` `[M, D]` (M >= 1) nearest to `points` `[N, D]` (N >= 1)."""
    point_groups, reference_groups = _groups(points), _groups(references)
    count = tf.shape(point_groups.low)[0]
    block = tf.maximum(1, _TABLE_CELLS // tf.shape(reference_groups.low)[0])
    blocks = -(-count // block)
    found = tf.TensorArray(tf.int32, size=blocks, infer_shape=False, element_shape=[None, _GROUP])

    def search_block(step, found):
        part = point_groups.part(step * block, (step + 1) * block)
        return step + 1, found.write(step, _search_block(part, reference_groups))

    _, found = tf.while_loop(lambda step, _: step < blocks, search_block, (0, found), parallel_iterations=1)
    in_order = tf.reshape(found.concat(), [-1])
    # A point that fills up a tile too has the same answer at each of its places.
    return tf.tensor_scatter_nd_update(
        tf.zeros(tf.shape(points)[:1], tf.int32), point_groups.order[:, tf.newaxis], in_order
    )


def _search_block(points, references):
    """Nearest references of one block of point groups, `[groups, _GROUP]` positions."""
    best, group = _first_bound(points, references)
    # Strictly nearer only: where everything coincides nothing survives, instead of everything.
    pairs = tf.cast(tf.where(_box_gaps(points, references) < tf.reduce_max(best, axis=1)[:, tf.newaxis]), tf.int32)

    def compare(start, best, group):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        # The boxes touch often enough; that a point of the group lies near the other box is rarer by half or more.
        left, right = tf.unstack(chunk, axis=1)
        hopeful = tf.reduce_any(_point_gaps(points, left, references, right) < tf.gather(best, left), axis=1)
        left, right = tf.unstack(tf.boolean_mask(chunk, hopeful), axis=1)
        best, group = _improve(points, left, references, right, best, group)
        return start + _PAIRS_AT_ONCE, best, group

    total = tf.shape(pairs)[0]
    _, _, group = tf.while_loop(lambda start, *_: start < total, compare, (0, best, group), parallel_iterations=1)
    return _closest_member(points.values, references, group)


def _first_bound(points, references):
    """Squared distances to, and numbers of, the nearest of the two reference groups with the nearest centres."""
    centres = _squared_table(points.low + points.high, references.low + references.high)
    first = tf.argmin(centres, axis=1, output_type=tf.int32)
    is_first = tf.one_hot(first, tf.shape(references.low)[0], on_value=True, off_value=False)
    second = tf.argmin(tf.where(is_first, centres.dtype.max, centres), axis=1, output_type=tf.int32)
    best = tf.reduce_min(_squared_pairs(points.values, tf.gather(references.values, first)), axis=2)
    group = tf.broadcast_to(first[:, tf.newaxis], tf.shape(best))
    return _improve(points, tf.range(tf.shape(first)[0]), references, second, best, group)


def _improve(points, left, references, right, best, group):
    """Lowers the best squared distances by what pairs of groups offer, and notes which reference group it was."""
    count, last = tf.shape(best)[0], tf.shape(references.low)[0]
    nearest = _squared_pairs(tf.gather(points.values, left), tf.gather(references.values, right))
    nearest = tf.reduce_min(nearest, axis=2)
    improved = tf.minimum(best, tf.math.unsorted_segment_min(nearest, left, count))
    winners = tf.where(nearest <= tf.gather(improved, left), right[:, tf.newaxis], last)
    winner = tf.math.unsorted_segment_min(winners, left, count)
    return improved, tf.where(tf.logical_and(improved < best, winner < last), winner, group)


def _closest_member(points, references, group):
    """The last step inside the group that won: `[groups, _GROUP]` positions in the unsorted references."""
    members = tf.gather(references.values, group)
    squared = _sum_over_axes(
        lambda axis: tf.math.squared_difference(points[:, :, tf.newaxis, axis], members[..., axis]), points.shape[-1]
    )
    position = group * _GROUP + tf.argmin(squared, axis=2, output_type=tf.int32)
    return tf.gather(references.order, position)


class _Groups:
    """Points cut into groups of neighbours: values, bounding boxes, and where each came from."""

    def __init__(self, values, order, low, high):
        self.values, self.order, self.low, self.high = values, order, low, high

    def part(self, start, stop):
        return _Groups(self.values[start:stop], self.order, self.low[start:stop], self.high[start:stop])


def _groups(points):
    # What is not finite becomes large: it sorts to the end and loses every comparison.
    points = tf.where(tf.math.is_finite(points), points, tf.constant(_FAR, points.dtype))
    order = _tile_order(points)
    values = tf.reshape(tf.gather(points, order), [-1, _GROUP, points.shape[-1]])
    return _Groups(values, order, tf.reduce_min(values, axis=1), tf.reduce_max(values, axis=1))


def _tile_order(points):
    """Indices that order points tile by tile, `_GROUP` to a tile; some stand there twice, to fill the last tiles.

    All points are sorted along the first axis and cut into slabs, each slab along the next axis, and so on. Only ranks
    count: neither scale nor outliers nor clusters make the tiles any larger than they must be.
    """
    count, axes = tf.shape(points)[0], min(points.shape[-1], 3)
    left = -(-count // _GROUP)
    cuts = []
    for axis in range(axes):
        # The same number of cuts along every axis that remains; the last takes what is left.
        root = tf.cast(left, tf.float32) ** (1.0 / (axes - axis)) if axis < axes - 1 else tf.cast(left, tf.float32)
        cuts.append(tf.cast(tf.math.ceil(root), tf.int32))
        left = -(-left // cuts[-1])
    order = tf.minimum(tf.range(functools.reduce(tf.multiply, cuts) * _GROUP), count - 1)[tf.newaxis]
    for axis, parts in enumerate(cuts):
        ranks = tf.argsort(tf.gather(points[:, axis], order), axis=1)
        order = tf.reshape(tf.gather(order, ranks, batch_dims=1), [tf.shape(order)[0] * parts, -1])
    return tf.reshape(order, [-1])


def _squared_table(left, right):
    return _sum_over_axes(
        lambda axis: tf.math.squared_difference(left[:, tf.newaxis, axis], right[tf.newaxis, :, axis]), left.shape[-1]
    )


def _squared_pairs(left, right):
    """Squared distances `[pairs, left members, right members]`, one coordinate after the other: no fourth axis."""
    return _sum_over_axes(
        lambda axis: tf.math.squared_difference(left[:, :, tf.newaxis, axis], right[:, tf.newaxis, :, axis]),
        left.shape[-1],
    )


def _box_gaps(points, references):
    """Squared distances between bounding boxes, `[point groups, reference groups]`.

    The same operations in the same order as for pairs of points: rounding cannot lift a gap above a distance.
    """

    def gap(axis):
        before = references.low[tf.newaxis, :, axis] - points.high[:, tf.newaxis, axis]
        after = points.low[:, tf.newaxis, axis] - references.high[tf.newaxis, :, axis]
        return tf.square(tf.maximum(tf.maximum(before, after), 0))

    return _sum_over_axes(gap, points.low.shape[-1])


def _point_gaps(points, left, references, right):
    """Squared distances from each point of a group to the other group's box, `[pairs, _GROUP]`."""
    values = tf.gather(points.values, left)
    low, high = tf.gather(references.low, right), tf.gather(references.high, right)

    def gap(axis):
        inside = tf.minimum(tf.maximum(values[..., axis], low[:, axis, tf.newaxis]), high[:, axis, tf.newaxis])
        return tf.math.squared_difference(values[..., axis], inside)

    return _sum_over_axes(gap, values.shape[-1])


def _sum_over_axes(term, count):
    """The sum of term(axis): operations one after the other, or a loop where they would make a long graph."""
    if count <= _MOST_UNROLLED:
        return functools.reduce(tf.add, map(term, range(count)))

    def add(axis, total):
        return axis + 1, total + term(axis)

    return tf.while_loop(lambda axis, _: axis < count, add, (1, term(0)))[1]
