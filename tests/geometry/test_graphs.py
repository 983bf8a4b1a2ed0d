import numpy as np
import pytest

from posekit.geometry.graphs import (
    full_graph,
    laplacian,
    limb_lengths,
    neighbours_from_edges,
    random_graph,
    row_normalized,
    symmetric_normalized,
)
from posekit.skeletons import H36M17, Skeleton
from posekit.testing import load_fixture

CHAIN = Skeleton("chain", ("a", "b", "c", "d"), (("b", "a"), ("c", "b")))


@pytest.fixture(scope="module")
def original():
    return load_fixture("lcn_graph_tools")


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_neighbours_equal_the_original(original, hops):
    np.testing.assert_array_equal(H36M17.neighbours(hops), original[f"knn{hops}"])
    ours = neighbours_from_edges(original["edges"], 17, hops)
    np.testing.assert_array_equal(ours, original[f"from_edges_knn{hops}"])
    assert ours.dtype == np.float32


def of_poses(skeleton, points, **options):
    return laplacian(skeleton, limb_lengths(skeleton, points), **options)



@pytest.mark.parametrize("normalized", [0, 1])
@pytest.mark.parametrize("rescale", [0, 1])
def test_laplacian_equals_the_original(original, normalized, rescale):
    points = original["lap_data"].reshape(-1, 17, 3)
    ours = of_poses(H36M17, points, normalized=bool(normalized), rescale=bool(rescale))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, original[f"laplacian_norm{normalized}_rescale{rescale}"], rtol=0, atol=1e-6)


def test_neighbours_worked_by_hand():
    edges = [(1, 0), (1, 2)]
    np.testing.assert_array_equal(neighbours_from_edges(edges, 4, 0), np.eye(4))
    np.testing.assert_array_equal(
        neighbours_from_edges(edges, 4), [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(
        neighbours_from_edges(edges, 4, 2), [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(neighbours_from_edges([], 2, 5), np.eye(2))
    with pytest.raises(ValueError, match=r"\[\[1, 4\]\] leave the graph; its nodes are 0 to 3"):
        neighbours_from_edges([(0, 1), (1, 4)], 4)
    with pytest.raises(ValueError, match="hops is -1"):
        neighbours_from_edges(edges, 4, -1)


def test_laplacian_worked_by_hand():
    points = np.zeros((5, 4, 2))
    points[:, 1, 0], points[:, 2, 0] = 3, 3 + 3
    weight = np.exp(-1)  # equal limbs: no deviation, so each is as long as the mean
    expected = np.array([[1, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 1, 0], [0, 0, 0, 0]]) * weight
    np.testing.assert_allclose(of_poses(CHAIN, points, normalized=False, rescale=False), expected, atol=1e-6)
    rescaled = of_poses(CHAIN, points, normalized=False)
    np.testing.assert_allclose(rescaled, expected / (3 * weight) * 2 - np.eye(4), atol=1e-6)
    half = 1 / np.sqrt(2)
    normalized = [[1, -half, 0, 0], [-half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(of_poses(CHAIN, points, rescale=False), normalized, atol=1e-6)
    # A shorter limb counts for more.
    points[:, 2, 0] = 3 + 1
    uneven = of_poses(CHAIN, points, normalized=False, rescale=False)
    assert uneven[1, 2] < uneven[0, 1] < 0


def test_laplacian_refuses_what_has_no_limbs():
    points = np.random.default_rng(0).normal(size=(3, 4, 3))
    with pytest.raises(ValueError, match=r"\(3, 4, 3\) are not in skeleton 'H36M17'; \[poses, 17, coordinates\]"):
        of_poses(H36M17, points)
    with pytest.raises(ValueError, match="at least 1 pose"):
        of_poses(CHAIN, points[:0])
    with pytest.raises(ValueError, match="mean length 0.0"):
        of_poses(CHAIN, np.zeros((3, 4, 3)))
    with pytest.raises(ValueError, match="mean length nan"):
        of_poses(CHAIN, np.full((3, 4, 3), np.nan))
    with pytest.raises(ValueError, match="neither bones nor links"):
        of_poses(Skeleton("dust", ("a", "b", "c", "d")), points)


def test_random_graph_is_the_original_one():
    # What the original prints for 17 nodes and 20 edges after random.seed(146).
    assert random_graph(17, 20, seed=146) == [
        (4, 10), (10, 2), (2, 5), (5, 9), (2, 11), (11, 1), (1, 6), (6, 13), (1, 0), (0, 14), (1, 12), (14, 7),
        (14, 15), (10, 3), (14, 8), (15, 16), (16, 14), (1, 9), (7, 4), (13, 3),
    ]  # fmt: skip
    assert random_graph(17, 20) == random_graph(17, 20, seed=146)
    assert random_graph(5, 10, seed=0) == [
        (3, 0), (0, 2), (2, 4), (4, 1), (2, 1), (2, 3), (4, 3), (0, 4), (0, 1), (1, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("num_nodes, num_edges", [(1, 0), (2, 1), (6, 5), (6, 15), (30, 60)])
def test_random_graphs_are_connected_and_simple(num_nodes, num_edges):
    for seed in range(5):
        edges = random_graph(num_nodes, num_edges, seed)
        assert len({frozenset(edge) for edge in edges}) == num_edges
        assert all(one != other for one, other in edges)
        assert neighbours_from_edges(edges, num_nodes, num_nodes).all()


@pytest.mark.parametrize("num_nodes, num_edges", [(4, 2), (4, 7), (1, 1), (0, 0)])
def test_impossible_random_graphs_are_refused(num_nodes, num_edges):
    with pytest.raises(ValueError, match=f"{num_nodes} nodes cannot have {num_edges} edges"):
        random_graph(num_nodes, num_edges)


def test_full_graph():
    np.testing.assert_array_equal(full_graph(3), np.ones((3, 3)))
    np.testing.assert_array_equal(neighbours_from_edges([(0, 1), (1, 2)], 3, hops=2), full_graph(3))


def test_normalised_rows():
    matrix = H36M17.neighbours(2).astype(np.float32)
    rows = row_normalized(matrix)
    np.testing.assert_allclose(rows, matrix / matrix.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    both = symmetric_normalized(matrix)
    scale = np.diag(1 / np.sqrt(matrix.sum(axis=1)))
    np.testing.assert_allclose(both, scale @ matrix @ scale, atol=1e-6)
    np.testing.assert_allclose(row_normalized([[1, 3], [0, 2]]), [[0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(symmetric_normalized([[1, 3], [0, 4]]), [[0.25, 0.75], [0, 1]])
    for function in (row_normalized, symmetric_normalized):
        with pytest.raises(ValueError, match=r"Rows \[1\]"):
            function([[1, 0], [1, -1]])
        with pytest.raises(ValueError, match=r"\(2, 3\); it must be square"):
            function(np.ones((2, 3)))
