import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posekit.geometry.alignment import align_root, procrustes


def random_similarity(rng, batch):
    rotation = Rotation.from_rotvec(rng.normal(size=(batch, 3))).as_matrix()
    return rotation, rng.uniform(0.3, 3, batch), rng.normal(size=(batch, 3))


def test_a_similarity_is_undone():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(6, 14, 3))
    rotation, scale, translation = random_similarity(rng, 6)
    points = scale[:, None, None] * target @ rotation + translation[:, None]
    aligned, transform = procrustes(points, target)
    np.testing.assert_allclose(aligned, target, atol=1e-10)
    np.testing.assert_allclose(transform["scale"], 1 / scale)
    np.testing.assert_allclose(transform["rotation"], rotation.transpose(0, 2, 1), atol=1e-10)
    rebuilt = transform["scale"][:, None, None] * points @ transform["rotation"] + transform["translation"][:, None]
    np.testing.assert_allclose(rebuilt, aligned, atol=1e-12)


def test_by_hand_in_the_plane():
    # A square twice as large, turned by a quarter: exactly undone.
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    turned = 2 * np.array([[0.0, 0], [0, 1], [-1, 1], [-1, 0]]) + [5, 7]
    aligned, transform = procrustes(turned, square)
    np.testing.assert_allclose(aligned, square, atol=1e-12)
    np.testing.assert_allclose(transform["scale"], 0.5)
    kept, transform = procrustes(turned, square, scale=False)
    assert transform["scale"] == 1
    np.testing.assert_allclose(kept, 2 * (square - 0.5) + 0.5, atol=1e-12)


def test_mirrored_points_need_reflection():
    rng = np.random.default_rng(1)
    target = rng.normal(size=(10, 3))
    mirrored = target * [-1, 1, 1]
    proper, transform = procrustes(mirrored, target)
    np.testing.assert_allclose(np.linalg.det(transform["rotation"]), 1)
    assert np.abs(proper - target).max() > 0.1
    best, transform = procrustes(mirrored, target, reflection="best")
    np.testing.assert_allclose(best, target, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(transform["rotation"]), -1)


def test_no_other_similarity_is_better():
    rng = np.random.default_rng(2)
    points, target = rng.normal(size=(2, 14, 3))
    aligned, _ = procrustes(points, target)
    least = np.square(aligned - target).sum()
    for _ in range(50):
        turn = Rotation.from_rotvec(0.1 * rng.normal(size=3)).as_matrix()
        other = rng.uniform(0.9, 1.1) * aligned @ turn + 0.05 * rng.normal(size=3)
        assert np.square(other - target).sum() >= least


def test_coinciding_points_land_on_the_mean():
    aligned, transform = procrustes(np.ones((1, 5, 3)), np.arange(15.0).reshape(1, 5, 3))
    np.testing.assert_allclose(aligned, np.tile([6.0, 7, 8], (1, 5, 1)))
    assert transform["scale"] == 1
    np.testing.assert_allclose(transform["rotation"][0], np.eye(3))


def test_one_bad_sample_leaves_the_others_alone():
    target = np.random.default_rng(3).normal(size=(3, 14, 3))
    points = 2 * target
    points[1, 4] = np.nan
    aligned, _ = procrustes(points, target)
    np.testing.assert_allclose(aligned[[0, 2]], target[[0, 2]], atol=1e-12)
    assert np.isnan(aligned[1]).any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one size"):
        procrustes(np.zeros((3, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="'best'"):
        procrustes(np.zeros((3, 3)), np.zeros((3, 3)), reflection=True)


def test_align_root():
    points = np.arange(12.0).reshape(1, 4, 3)
    np.testing.assert_allclose(align_root(points, 1)[0, :, 0], [-3, 0, 3, 6])
    np.testing.assert_allclose(align_root(points, (2, 3))[0, :, 0], [-7.5, -4.5, -1.5, 1.5])
