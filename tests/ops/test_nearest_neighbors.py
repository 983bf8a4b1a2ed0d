"""Nearest neighbours against a NumPy loop that looks at every pair."""

import concurrent.futures
import sys

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import native
from posekit.ops.nearest_neighbors import nearest_neighbors, safe_sqrt
from posekit.testing import load_fixture

pytestmark = pytest.mark.usefixtures("path")


def every_pair(points, references):
    """Distances to the nearest reference, in float64, one point after the other."""
    return np.array([np.sqrt(((references - point) ** 2).sum(-1)).min() for point in points.astype(np.float64)])


def check(points, references, rtol, call=nearest_neighbors):
    indices, distances = (value.numpy() for value in call(points, references))
    expected = every_pair(points, references.astype(np.float64))
    chosen = np.sqrt(((points.astype(np.float64) - references.astype(np.float64)[indices]) ** 2).sum(-1))
    np.testing.assert_allclose(chosen, expected, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(distances, expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (40, 1), (15, 17), (500, 333), (1100, 4500)])
def test_equals_the_loop(dtype, rtol, dims, sizes):
    rng = np.random.default_rng(dims)
    points, references = (rng.normal(0, 50, (size, dims)).astype(dtype) for size in sizes)
    check(points, references, rtol)
    check(points, references, rtol, tf.function(nearest_neighbors))


def clusters(rng, count, centres, spread):
    return centres[rng.integers(len(centres), size=count)] + rng.normal(0, spread, (count, 2))


@pytest.mark.parametrize(
    "name",
    ["all equal", "one line", "far apart", "clusters", "ring around a point", "lattice on lattice", "huge", "outlier"],
)
def test_degenerate_sets_are_exact(name):
    rng = np.random.default_rng(0)
    lattice = np.argwhere(np.ones((23, 31))).astype(np.float32)
    angles = rng.uniform(0, 2 * np.pi, 900)
    points, references = {
        "all equal": (np.full((500, 2), 7.0), np.full((400, 2), 7.0)),
        "one line": (rng.uniform(0, 1, (500, 2)) * [0, 1], rng.uniform(0, 1, (400, 2)) * [0, 1]),
        "far apart": (rng.normal(0, 1, (500, 2)), rng.normal(1e4, 1, (400, 2))),
        "clusters": (
            clusters(rng, 500, rng.uniform(0, 224, (5, 2)), 1e-3),
            clusters(rng, 700, rng.uniform(0, 224, (5, 2)), 1),
        ),
        "ring around a point": (rng.normal(0, 1e-3, (300, 2)), 50 * np.stack([np.cos(angles), np.sin(angles)], 1)),
        "lattice on lattice": (lattice, lattice[::3] + 1),
        "huge": (rng.normal(0, 1e12, (500, 2)), rng.normal(0, 1e12, (500, 2))),
        "outlier": (rng.uniform(0, 9, (500, 2)), np.concatenate([rng.uniform(0, 9, (500, 2)), [[1e7, -1e7]]])),
    }[name]
    check(points.astype(np.float32), references.astype(np.float32), 2e-6)


def test_more_pairs_than_are_compared_at_once(monkeypatch):
    """Blocks and chunks of the plain search meet without a gap."""
    module = sys.modules["posekit.ops.nearest_neighbors"]
    rng = np.random.default_rng(1)
    points, references = rng.uniform(0, 50, (700, 2)), rng.uniform(0, 50, (900, 2))
    monkeypatch.setattr(module, "_TABLE_CELLS", 150)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    indices = tf.function(module._search)(tf.constant(points), tf.constant(references)).numpy()
    np.testing.assert_allclose(np.linalg.norm(points - references[indices], axis=1), every_pair(points, references))


def test_ragged_and_dense_batches_agree_with_single_calls():
    rng = np.random.default_rng(2)
    sizes, other_sizes = (50, 0, 7, 130), (20, 5, 0, 77)
    points = [rng.normal(size=(size, 2)).astype(np.float32) for size in sizes]
    references = [rng.normal(size=(size, 2)).astype(np.float32) for size in other_sizes]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(points), sizes)
    others = tf.RaggedTensor.from_row_lengths(np.concatenate(references), other_sizes)
    for call in (nearest_neighbors, tf.function(nearest_neighbors)):
        indices, distances = call(ragged, others)
        for row, (own, other) in enumerate(zip(points, references)):
            if len(other):
                expected, lengths = nearest_neighbors(own, other)
                np.testing.assert_array_equal(indices[row], expected)
                np.testing.assert_allclose(distances[row], lengths)
            else:
                np.testing.assert_array_equal(indices[row], np.full(len(own), -1))
                assert np.isinf(distances[row]).all()
    dense = np.stack([points[0], points[0][::-1]])
    indices, distances = nearest_neighbors(dense, np.stack([references[0]] * 2))
    assert indices.shape == distances.shape == (2, 50)
    np.testing.assert_array_equal(indices[0], nearest_neighbors(points[0], references[0])[0])
    np.testing.assert_array_equal(indices[1], indices[0][::-1])


def test_no_points_and_no_references():
    for shape in ((0, 2), (3, 2)):
        indices, distances = nearest_neighbors(np.zeros(shape, np.float32), np.zeros((0, 2), np.float32))
        np.testing.assert_array_equal(indices, np.full(shape[0], -1))
        assert np.isinf(distances).all()
    indices, _ = nearest_neighbors(np.zeros((0, 2), np.float32), np.zeros((5, 2), np.float32))
    assert indices.shape == (0,)


def test_not_finite_values_stay_where_they_are():
    rng = np.random.default_rng(3)
    points, references = rng.normal(size=(60, 2)).astype(np.float32), rng.normal(size=(90, 2)).astype(np.float32)
    clean, _ = nearest_neighbors(points, references)
    points[[3, 40]] = [[np.nan, 0], [np.inf, np.nan]]
    spoiled = np.concatenate([references, [[np.nan, 1], [0, -np.inf]]]).astype(np.float32)
    indices, distances = (value.numpy() for value in nearest_neighbors(points, spoiled))
    kept = np.setdiff1d(np.arange(60), [3, 40])
    np.testing.assert_array_equal(indices[kept], clean.numpy()[kept])
    assert np.isfinite(distances[kept]).all() and not np.isfinite(distances[[3, 40]]).any()
    assert ((indices >= 0) & (indices < len(spoiled))).all()


def test_gradient_goes_through_the_chosen_pair():
    rng = np.random.default_rng(4)
    points, references = rng.normal(size=(20, 2)), rng.normal(size=(30, 2))
    for argument in range(2):
        arguments = [tf.constant(points), tf.constant(references)]

        def distances(value, arguments=arguments, argument=argument):
            return nearest_neighbors(*(value if i == argument else other for i, other in enumerate(arguments)))[1]

        theory, numeric = tf.test.compute_gradient(distances, [arguments[argument]], delta=1e-6)
        np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)


def test_gradient_is_finite_at_coincident_points():
    points = tf.constant([[1.0, 2.0], [1.0, 2.0], [5.0, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch(points)
        distances = nearest_neighbors(points, points[:1])[1]
    gradient = tape.gradient(distances, points).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], [0, 0])
    np.testing.assert_array_equal(safe_sqrt(tf.constant([0.0, 4.0])), [0, 2])


def test_unknown_sizes_in_a_graph():
    call = tf.function(nearest_neighbors, input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2])])
    rng = np.random.default_rng(5)
    for sizes in ((30, 20), (1, 0), (17, 160)):
        points, references = (rng.normal(size=(size, 2)).astype(np.float32) for size in sizes)
        np.testing.assert_array_equal(call(points, references)[0], nearest_neighbors(points, references)[0])


def test_batches_that_disagree_when_the_graph_runs_are_named(path):
    dense = [tf.TensorSpec([None, 4, 2]), tf.TensorSpec([None, 5, 2])]
    ragged = [tf.RaggedTensorSpec([None, None, 2], ragged_rank=1)] * 2
    for signature in (dense, ragged):
        call = tf.function(nearest_neighbors, input_signature=signature)
        for rows, others in ((2, 3), (3, 2)):
            given = np.ones((rows, 4, 2), np.float32), np.ones((others, 5, 2), np.float32)
            if signature is ragged:
                given = (tf.RaggedTensor.from_tensor(part) for part in given)
            told = {
                "plain": rf"\[{rows} 4 2\].*\[{others} 5 2\]",
                "compiled": rf"{rows} rows.*{others} rows.*\[{rows * 4}, 2\].*\[{others * 5}, 2\]",
            }[path]
            with pytest.raises(tf.errors.InvalidArgumentError, match=told):
                call(*given)


def test_original_choices():
    values = load_fixture("hmr_mesh_loss")
    np.testing.assert_array_equal(nearest_neighbors(values["nn_A"], values["nn_B"])[0], values["nn_AB"])
    np.testing.assert_array_equal(nearest_neighbors(values["nn_B"], values["nn_A"])[0], values["nn_BA"])


@pytest.mark.parametrize(
    "points, references, message",
    [
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32), "float32 and float64"),
        (np.zeros((2, 2), np.float64), np.zeros((2, 2), np.float32), "cast one"),
        (np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32), "coordinates"),
        (np.zeros((2, 2), np.float32), np.zeros((1, 2, 2), np.float32), "do not fit"),
        (np.zeros(2, np.float32), np.zeros(2, np.float32), "do not fit"),
        (np.zeros((2, 5, 2), np.float32), np.zeros((3, 5, 2), np.float32), r"\(2, 5, 2\).*\(3, 5, 2\).*same batch"),
    ],
)
def test_wrong_input_is_named(points, references, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(points, references)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(200, 100), (900, 700)])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_of_equally_near_references(compiled_ops, dims, sizes, dtype):
    rng = np.random.default_rng(6)
    for extent in (1, 4, 12):
        points, references = (rng.integers(0, extent, (size, dims)).astype(dtype) for size in sizes)
        expected = ((points[:, None] - references) ** 2).sum(-1).argmin(1)
        np.testing.assert_array_equal(nearest_neighbors(points, references)[0], expected)


@pytest.mark.parametrize("dims", [8, 9, 300])
def test_many_dimensions(dims):
    rng = np.random.default_rng(dims)
    points, references = rng.normal(size=(90, dims)), rng.normal(size=(70, dims))
    apart = np.linalg.norm(points[:, None] - references, axis=2)
    indices, distances = nearest_neighbors(points, references)
    np.testing.assert_array_equal(indices, apart.argmin(1))
    np.testing.assert_allclose(distances, apart.min(1))


@pytest.mark.parametrize(
    "splits", [[0, 3, 1, 3], [0, 1, 2, 9], [1, 2, 3, 3], [0, 0, 0, 2], [0, -1, 2, 3], [-3, 0, 0, 3]], ids=str
)
@pytest.mark.parametrize("bad", ["points", "references"])
def test_rows_that_do_not_follow_one_another_are_named(splits, bad):
    def rows(splits):
        return tf.RaggedTensor.from_row_splits(tf.reshape(tf.range(6.0), [3, 2]), splits, validate=False)

    given = {name: rows(splits if name == bad else [0, 1, 2, 3]) for name in ("points", "references")}
    for function in (nearest_neighbors, tf.function(nearest_neighbors)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s)splits of {bad}.*must ascend from 0"):
            function(**given)


def test_any_number_of_threads_gives_the_same(compiled_ops):
    rng = np.random.default_rng(7)
    points, references = (rng.integers(0, 60, (size, 2)).astype(np.float32) for size in (9000, 7000))
    found = []
    for threads in (1, 2, 7):
        native.kernels().posekit_set_num_threads(threads)
        found.append([value.numpy() for value in nearest_neighbors(points, references)])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_callers_at_once(compiled_ops):
    rng = np.random.default_rng(8)
    cases = [tuple(rng.normal(size=(size, 2)) for size in rng.integers(1, 3000, 2)) for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: nearest_neighbors(*case)[1].numpy(), cases))
    for case, distances in zip(cases, found):
        np.testing.assert_array_equal(nearest_neighbors(*case)[1], distances)


@pytest.mark.parametrize("name", ["all equal", "one place far from everything", "two places", "line", "far apart"])
def test_many_points_that_nothing_separates(compiled_ops, name):
    """Each would take minutes if the search compared them all."""
    rng, count = np.random.default_rng(9), 200_000
    spread = rng.uniform(0, 100, (count, 2)).astype(np.float32)
    steps = np.arange(count, dtype=np.float32)
    points, references, expected = {
        "all equal": (np.ones_like(spread), np.ones_like(spread), np.zeros(count)),
        "one place far from everything": (spread, np.full_like(spread, 1e6), np.zeros(count)),
        "two places": (spread, np.repeat(np.float32([[-100, 50], [250, 50]]), count // 2, axis=0), None),
        "line": (steps[:, None] * [0, 1], steps[::-1, None] * [0, 1], steps[::-1]),
        "far apart": (spread, spread[::-1] + np.float32(1e6), None),
    }[name]
    indices, distances = nearest_neighbors(points.astype(np.float32), references.astype(np.float32))
    if expected is not None:
        np.testing.assert_array_equal(indices, expected)
    picked = np.linalg.norm(points - references[indices.numpy()], axis=1)
    np.testing.assert_allclose(distances, picked, rtol=1e-6)


@pytest.mark.parametrize("name", ["line in a cloud", "plane in a cloud", "plane", "thin box", "not finite", "six axes"])
def test_many_points_of_different_kinds(compiled_ops, name):
    """Boxes of blocks are long where the one kind is cut together with the other: exact all the same."""
    rng, count = np.random.default_rng(12), 30_000
    box = rng.uniform(0, 1, (count, 3))
    few = rng.uniform(0, 1, (count, 1)) < 0.05
    points, references = {
        "line in a cloud": (box, np.where(few, box[::-1], box * [1, 0, 0])),
        "plane in a cloud": (box, np.where(few, box[::-1], box * [1, 1, 0])),
        "plane": (box[::-1] * [1, 0, 1], box * [1, 0, 1]),
        "thin box": (box[::-1] * [1e-4, 1, 1], box * [1e-4, 1, 1]),
        "not finite": (box, np.where(few & (box < 0.5), [np.nan, np.inf, -np.inf], box[::-1])),
        "six axes": (np.hstack([box[::-1], box]) * 1e-9 ** np.arange(6), np.hstack([box, box]) * 1e-9 ** np.arange(6)),
    }[name]
    points, references = points.astype(np.float32), references.astype(np.float32)
    indices, distances = (value.numpy() for value in nearest_neighbors(points, references))
    picked = rng.integers(0, count, 300)
    squared = [((references - point) ** 2).sum(-1) for point in points[picked].astype(np.float64)]
    expected = np.sqrt([np.nanmin(row) for row in squared])
    np.testing.assert_allclose(distances[picked], expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(points - references[indices], axis=1), distances, rtol=1e-5, atol=1e-9)


def test_rows_that_do_not_fit_are_named(compiled_ops):
    ragged = [tf.RaggedTensor.from_row_lengths(np.zeros((6, 2), np.float32), sizes) for sizes in ([1, 5], [1, 2, 3])]
    form = tf.RaggedTensorSpec([None, None, 2], ragged_rank=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="2 rows of points do not fit 3 rows of references"):
        tf.function(nearest_neighbors, input_signature=[form, form])(*ragged)
    points, splits = np.zeros((4, 2), np.float32), np.array([0, 4])
    for other, other_splits, message in [
        (np.zeros((4, 3), np.float32), splits, r"\[4, 2\].*\[4, 3\]"),
        (points, np.array([0, 5]), r"shape \[2\].*\[4, 2\]"),
        (points, np.array([0, 3, 2, 4]), "must ascend"),
        (points, np.zeros(0, np.int64), r"shape \[0\]"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            compiled_ops.posekit_nearest_neighbors(points, splits, other, other_splits)


def test_overflowing_distances(path):
    points = np.float32([[3e38, 0], [-3e38, 0], [0, 0]])
    indices, distances = nearest_neighbors(points[:2], points[1:])
    assert ((indices.numpy() >= 0) & (indices.numpy() < 2)).all() and not np.isnan(distances).any()


def test_gradient_of_ragged_batches_with_empty_rows():
    rng = np.random.default_rng(10)
    values, others = tf.constant(rng.normal(size=(12, 2))), tf.constant(rng.normal(size=(14, 2)))

    def total(values, others):
        ragged = tf.RaggedTensor.from_row_lengths(values, [5, 0, 7])
        references = tf.RaggedTensor.from_row_lengths(others, [8, 6, 0])
        distances = nearest_neighbors(ragged, references)[1].flat_values
        return tf.reduce_sum(tf.where(tf.math.is_inf(distances), 0, distances) ** 3)

    theory, numeric = tf.test.compute_gradient(total, [values, others], delta=1e-6)
    for ours, expected in zip(theory, numeric):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
