import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posekit.geometry.alignment import align_root, procrustes
from posekit.testing import load_fixture


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


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("best", {"reflection": "best"}),
        ("noreflect", {"reflection": False}),
        ("reflect", {"reflection": True}),
        ("noscale", {"reflection": "best", "scale": False}),
    ],
)
def test_equals_the_original(kind, options):
    fixture = load_fixture("lcn_data_eval")
    points, target = fixture["camera_frame_test2"][:6], fixture["test_joint_3d_camera"][:6]
    aligned, transform = procrustes(points, target, **options)
    np.testing.assert_allclose(aligned, fixture[f"procr_{kind}_Z"], rtol=0, atol=1e-4)
    for key, name in (("d", "residual"), ("scale", "scale"), ("R", "rotation")):
        np.testing.assert_allclose(transform[name], fixture[f"procr_{kind}_{key}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(transform["translation"], fixture[f"procr_{kind}_t"], rtol=0, atol=1e-4)


def test_mirroring_can_be_asked_for():
    points, target = np.random.default_rng(5).normal(size=(2, 40, 9, 3))
    determinants, residuals = {}, {}
    for reflection in (False, True, "best"):
        aligned, transform = procrustes(points, target, reflection=reflection)
        determinants[reflection] = np.linalg.det(transform["rotation"])
        residuals[reflection] = transform["residual"]
        spread = np.square(target - target.mean(1, keepdims=True)).sum((1, 2))
        np.testing.assert_allclose(transform["residual"], np.square(aligned - target).sum((1, 2)) / spread)
    np.testing.assert_allclose(determinants[False], 1)
    np.testing.assert_allclose(determinants[True], -1)
    np.testing.assert_allclose(residuals["best"], np.minimum(residuals[False], residuals[True]))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("reflection", [True, False, "best"])
def test_degenerate_samples_have_defined_results(scale, reflection):
    rng = np.random.default_rng(6)
    sound, target = rng.normal(300, 100, (2, 17, 3))
    line = np.outer(np.linspace(-1, 1, 17), [1.0, 2, 3])
    plane = sound * [1, 1, 0]
    coinciding = np.full((17, 3), (0.1, 4500.3, 1 / 3))  # their mean is not quite their place
    holes, endless = sound.copy(), sound.copy()
    holes[3] = np.nan
    endless[5, 1] = np.inf
    points = np.stack([sound, line, plane, coinciding, holes, endless, sound, sound * 1e-200])
    targets = np.stack([target, target, target, target, target, target, coinciding, target])
    with np.errstate(all="raise", under="ignore"):
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            aligned, transform = procrustes(points, targets, scale=scale, reflection=reflection)
    np.testing.assert_allclose(aligned[0], procrustes(sound, target, scale, reflection)[0], atol=1e-9)
    assert np.isfinite(aligned[[0, 1, 2, 3, 6, 7]]).all()
    assert np.isnan(aligned[[4, 5]]).all() and np.isnan(transform["residual"][[4, 5]]).all()
    np.testing.assert_allclose(aligned[3], np.tile(target.mean(0), (17, 1)))
    assert transform["scale"][3] == 1 and transform["residual"][3] == 1
    assert np.isnan(transform["residual"][6])
    if scale:
        np.testing.assert_allclose(aligned[6], coinciding, atol=1e-6)


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
        procrustes(np.zeros((3, 3)), np.zeros((3, 3)), reflection="worst")
    with pytest.raises(ValueError, match="reflection is 2"):
        procrustes(np.zeros((3, 3)), np.zeros((3, 3)), reflection=2)


def test_align_root():
    points = np.arange(12.0).reshape(1, 4, 3)
    np.testing.assert_allclose(align_root(points, 1)[0, :, 0], [-3, 0, 3, 6])
    np.testing.assert_allclose(align_root(points, (2, 3))[0, :, 0], [-7.5, -4.5, -1.5, 1.5])
