"""Nearest neighbours against a NumPy loop that looks at every pair."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops.nearest_neighbors import nearest_neighbors, safe_sqrt
from posekit.testing import load_fixture


def every_pair(points, references):
    """Distances to the nearest reference, in float64, one point after the other."""
    return np.array([np.sqrt(((references - point) ** 2).sum(-1)).min() for point in points.astype(np.float64)])


def check(points, references, rtol):
    indices, distances = (value.numpy() for value in nearest_neighbors(points, references))
    expected = every_pair(points, references.astype(np.float64))
    chosen = np.sqrt(((points.astype(np.float64) - references.astype(np.float64)[indices]) ** 2).sum(-1))
    np.testing.assert_allclose(chosen, expected, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(distances, expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (40, 1), (15, 17), (500, 333)])
def test_equals_the_loop(dtype, rtol, dims, sizes):
    rng = np.random.default_rng(dims)
    points, references = (rng.normal(0, 50, (size, dims)).astype(dtype) for size in sizes)
    check(points, references, rtol)


def clusters(rng, count, centres, spread):
    return centres[rng.integers(len(centres), size=count)] + rng.normal(0, spread, (count, 2))


@pytest.mark.parametrize(
    "name",
    ["all equal", "one line", "far apart", "clusters", "ring around a point", "lattice on lattice", "huge", "outlier"],
)
def test_degenerate_sets_are_exact(name):
    rng = np.random.default_rng(0)
    lattice = np.argwhere(np.ones((23, 31))).astype(np.float32)
    angles = rng.uniform(0, 2 * np.pi, 400)
    points, references = {
        "all equal": (np.full((300, 2), 7.0), np.full((200, 2), 7.0)),
        "one line": (rng.uniform(0, 1, (300, 2)) * [1, 0], rng.uniform(0, 1, (200, 2)) * [1, 0]),
        "far apart": (rng.normal(0, 1, (300, 2)), rng.normal(1e4, 1, (200, 2))),
        "clusters": (
            clusters(rng, 300, rng.uniform(0, 224, (5, 2)), 1e-3),
            clusters(rng, 400, rng.uniform(0, 224, (5, 2)), 1),
        ),
        "ring around a point": (rng.normal(0, 1e-3, (100, 2)), 50 * np.stack([np.cos(angles), np.sin(angles)], 1)),
        "lattice on lattice": (lattice, lattice[::3] + 1),
        "huge": (rng.normal(0, 1e12, (100, 2)), rng.normal(0, 1e12, (100, 2))),
        "outlier": (rng.uniform(0, 9, (100, 2)), np.concatenate([rng.uniform(0, 9, (100, 2)), [[1e7, -1e7]]])),
    }[name]
    check(points.astype(np.float32), references.astype(np.float32), 2e-6)


def test_more_pairs_than_are_compared_at_once(monkeypatch):
    """Blocks and chunks of the search meet without a gap."""
    import sys

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
    ],
)
def test_wrong_input_is_named(points, references, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(points, references)
