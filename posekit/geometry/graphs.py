"""Graphs of joints as matrices: neighbourhoods, Laplacians, random graphs, normalised rows.

A neighbour matrix is float32 `[joints, joints]`; row j tells how much joint j takes from every joint.
"""

import random

import numpy as np


def neighbours_from_edges(edges, num_nodes, hops=1):
    """Nodes that lie within a number of edges of each other.

    Args:
        edges: `[edges, 2]` node numbers; directions do not matter.
        num_nodes: Number of nodes.
        hops: Longest path in edges; 0 gives the identity.

    Returns:
        Float32 `[num_nodes, num_nodes]` of zeros and ones, one on the diagonal.

    Raises:
        ValueError: If an edge leaves the graph, or `hops` is negative.

    Example:
        >>> neighbours_from_edges([(0, 1), (1, 2)], 3)
        array([[1., 1., 0.],
               [1., 1., 1.],
               [0., 1., 1.]], dtype=float32)

    Follows: CHUNYUWANG/lcn-pose/tools/params_help.py:gen_neighbour_matrix_from_edges.
    """
    edges = _checked_edges(edges, num_nodes)
    if hops < 0:
        raise ValueError(f"hops is {hops}; it must be 0 or more.")
    step = np.eye(num_nodes, dtype=bool)
    step[edges[:, 0], edges[:, 1]] = step[edges[:, 1], edges[:, 0]] = True
    reached = np.eye(num_nodes, dtype=bool)
    for _ in range(min(hops, num_nodes)):
        reached = reached @ step
    return reached.astype(np.float32)


def full_graph(num_nodes):
    """Every node is every node's neighbour: a fully connected layer.

    Args:
        num_nodes: Number of nodes.

    Returns:
        Float32 `[num_nodes, num_nodes]` of ones.
    """
    return np.ones((num_nodes, num_nodes), np.float32)


def random_graph(num_nodes, num_edges, seed=146):
    """Connected random graph: a random spanning tree, and more edges until there are enough.

    Args:
        num_nodes: Number of nodes.
        num_edges: Number of edges, at least `num_nodes - 1`.
        seed: Seed of Python's generator; the original draws its graph of 17 nodes and 20 edges with 146.

    Returns:
        List of `num_edges` pairs of different nodes, none of them twice.

    Raises:
        ValueError: If there cannot be as few or as many edges.

    Reference:
        Wilson, "Generating random spanning trees more quickly than the cover time", STOC 1996.

    Follows: CHUNYUWANG/lcn-pose/tools/random_graph.py:random_walk.
    """
    fewest, most = num_nodes - 1, num_nodes * (num_nodes - 1) // 2
    if num_nodes < 1 or not fewest <= num_edges <= most:
        raise ValueError(
            f"A connected graph of {num_nodes} nodes cannot have {num_edges} edges; "
            f"give at least 1 node and {max(fewest, 0)} to {max(most, 0)} edges."
        )
    generator, nodes = random.Random(seed), range(num_nodes)
    edges = []

    # Walk over all nodes; the first step onto a node is an edge of the tree.
    (here,) = generator.sample(nodes, 1)
    visited = {here}
    while len(visited) < num_nodes:
        (there,) = generator.sample(nodes, 1)
        if there not in visited:
            edges.append((here, there))
            visited.add(there)
        here = there

    known = {frozenset(edge) for edge in edges}
    while len(edges) < num_edges:
        edge = tuple(generator.sample(nodes, 2))
        if frozenset(edge) not in known:
            edges.append(edge)
            known.add(frozenset(edge))
    return edges


def limb_lengths(skeleton, points):
    """Mean lengths of a skeleton's limbs, its bones and links, over poses.

    Args:
        skeleton: `Skeleton`.
        points: `[poses, joints, coordinates]`, in any unit.

    Returns:
        Float32 `[limbs]`, ordered by the limbs' smaller joint number, then by the larger.

    Raises:
        ValueError: If the poses do not fit the skeleton.
    """
    points, count = np.asarray(points, np.float64), skeleton.num_joints
    if points.ndim != 3 or points.shape[1] != count or not len(points):
        raise ValueError(
            f"Poses of shape {points.shape} are not in skeleton {skeleton.name!r}; "
            f"[poses, {count}, coordinates] is needed, with at least 1 pose."
        )
    start, end = _limbs(skeleton).T
    return np.linalg.norm(points[:, start] - points[:, end], axis=-1).mean(axis=0).astype(np.float32)


def laplacian(skeleton, lengths, normalized=True, rescale=True):
    """Laplacian of a skeleton whose joints are the closer connected, the shorter the limb between them.

    With the mean length l of a limb over all poses, and the mean m and standard deviation s of all these lengths, the
    weight of a limb is `exp(-(l / (m + s)) ** 2)`; A holds the weights and D its column sums:

        L = D - A, or normalised I - D^-1/2 A D^-1/2
        rescaled 2 L / (largest eigenvalue) - I; for the normalised one 2 stands for its largest eigenvalue

    Args:
        skeleton: `Skeleton`; its bones and links are the limbs.
        lengths: `[limbs]`, as `limb_lengths` gives them for training poses.
        normalized: Whether to normalise.
        rescale: Whether to rescale.

    Returns:
        Float32 `[joints, joints]`.

    Raises:
        ValueError: If there is not one length a limb, or the lengths are not finite or all zero.

    Follows: CHUNYUWANG/lcn-pose/tools/params_help.py:get_laplacian_matrix.
    """
    limbs, count = _limbs(skeleton), skeleton.num_joints
    lengths = np.asarray(lengths, np.float32)
    if lengths.shape != (len(limbs),):
        raise ValueError(f"Lengths of shape {lengths.shape}; give {len(limbs)}, one a limb of {skeleton.name!r}.")
    scale = lengths.mean() + lengths.std()
    if not np.isfinite(scale) or scale <= 0:
        raise ValueError(f"The limbs of the poses have the mean length {lengths.mean()}; it must be positive.")

    weights = np.zeros((count, count), np.float32)
    weights[limbs[:, 0], limbs[:, 1]] = weights[limbs[:, 1], limbs[:, 0]] = np.exp(-np.square(lengths / scale))
    degrees, identity = weights.sum(axis=0), np.eye(count, dtype=np.float32)
    if normalized:
        # A joint without limbs has the degree 0; the smallest number there is keeps its row finite.
        inverse = 1 / np.sqrt(degrees + np.spacing(np.float32(0)))
        matrix = identity - inverse[:, None] * weights * inverse
        largest = np.float32(2)
    else:
        matrix = np.diag(degrees) - weights
        largest = np.linalg.eigvalsh(matrix)[-1]
    return matrix / (largest / 2) - identity if rescale else matrix


def _limbs(skeleton):
    limbs = np.argwhere(np.triu(skeleton.neighbours(1), 1))
    if not len(limbs):
        raise ValueError(f"Skeleton {skeleton.name!r} has neither bones nor links; its graph has no edges.")
    return limbs


def row_normalized(matrix):
    """Divides every row by its sum: each joint takes the mean of its neighbours ("norm 1").

    Args:
        matrix: `[joints, joints]`.

    Returns:
        Float32 `[joints, joints]`.

    Raises:
        ValueError: If a row's sum is not positive.

    Follows: CHUNYUWANG/lcn-pose/tools/params_help.py:get_params.
    """
    matrix, sums = _positive_rows(matrix)
    return (matrix / sums[:, None]).astype(np.float32)


def symmetric_normalized(matrix):
    """Divides every entry by the roots of its row's and its column's joint's row sums ("norm 2").

    Args:
        matrix: `[joints, joints]`.

    Returns:
        Float32 `[joints, joints]`: `D^-1/2 A D^-1/2`.

    Raises:
        ValueError: If a row's sum is not positive.

    Follows: CHUNYUWANG/lcn-pose/tools/params_help.py:get_params.
    """
    matrix, sums = _positive_rows(matrix)
    roots = np.sqrt(sums)
    return (matrix / roots[:, None] / roots).astype(np.float32)


def _positive_rows(matrix):
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"The matrix has the shape {matrix.shape}; it must be square, [joints, joints].")
    sums = matrix.sum(axis=1)
    wrong = np.flatnonzero(~(sums > 0))
    if len(wrong):
        raise ValueError(f"Rows {wrong.tolist()} of the matrix have no positive sum, so they cannot be normalised.")
    return matrix, sums


def _checked_edges(edges, num_nodes):
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    outside = edges[((edges < 0) | (edges >= num_nodes)).any(axis=1)]
    if len(outside):
        raise ValueError(f"Edges {outside.tolist()} leave the graph; its nodes are 0 to {num_nodes - 1}.")
    return edges
