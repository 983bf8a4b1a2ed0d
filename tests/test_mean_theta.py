"""Mean parameters: the original's value, from every file they come in, and clear errors for others."""

import h5py
import numpy as np
import pytest

from posekit.bodies import load_mean_theta
from posekit.testing import load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_config")


@pytest.fixture
def h5_path(original, tmp_path):
    path = tmp_path / "neutral_smpl_mean_params.h5"
    path.write_bytes(original["mean_h5_file"].tobytes())
    return path


def test_h5_as_in_the_original(original, h5_path):
    theta = load_mean_theta(h5_path)
    assert theta.dtype == np.float32
    np.testing.assert_array_equal(theta, original["mean_param"][0])


def test_npz_equals_h5(original, tmp_path):
    path = tmp_path / "mean.npz"
    np.savez(path, pose=original["mean_pose_in"], shape=original["mean_shape_in"])
    np.testing.assert_array_equal(load_mean_theta(str(path)), original["mean_param"][0])
    np.savez(path, pose=original["mean_pose_in"][None], shape=original["mean_shape_in"][None])
    np.testing.assert_array_equal(load_mean_theta(path), original["mean_param"][0])


def test_without_file():
    theta = load_mean_theta()
    assert theta.shape == (85,) and theta.dtype == np.float32
    np.testing.assert_array_equal(theta[:4], np.float32([0.9, 0, 0, np.pi]))
    assert not theta[4:].any()


@pytest.mark.parametrize("num_shape", [4, 10, 16])
def test_number_of_shape_coefficients(num_shape, original, h5_path):
    theta = load_mean_theta(h5_path, num_shape=num_shape)
    assert theta.shape == (75 + num_shape,) and load_mean_theta(None, num_shape).shape == theta.shape
    known = min(num_shape, 10)
    np.testing.assert_array_equal(theta[: 75 + known], original["mean_param"][0, : 75 + known])
    assert not theta[75 + known :].any()


def test_errors(tmp_path, h5_path):
    with pytest.raises(FileNotFoundError, match="neutral_smpl_mean_params"):
        load_mean_theta(tmp_path / "missing.h5")
    with pytest.raises(ValueError, match=r"\.npz"):
        load_mean_theta(tmp_path / "mean.pkl")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(h5_path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.h5 holds no mean parameters"):
        load_mean_theta(cut)
    other = tmp_path / "other.npz"
    for arrays in (
        {"pose": np.zeros(72)},
        {"pose": np.zeros(71), "shape": np.zeros(10)},
        {"pose": np.full(72, np.nan), "shape": np.zeros(10)},
        {"pose": np.array(["a"] * 72), "shape": np.zeros(10)},
        {"pose": np.array([None] * 72), "shape": np.zeros(10)},
        {"pose": np.zeros(72), "shape": np.zeros((2000, 2))},
    ):
        np.savez(other, **arrays)
        with pytest.raises(ValueError, match=r"other\.npz"):
            load_mean_theta(other)


def test_h5_links_are_not_followed(tmp_path, h5_path):
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["pose"] = h5py.ExternalLink(str(h5_path), "/pose")
        file["shape"] = np.zeros(10)
    with pytest.raises(ValueError, match="no dataset 'pose'"):
        load_mean_theta(linked)
    with h5py.File(linked, "w") as file:
        file.create_dataset("pose", (10**9,), "f8")
        file["shape"] = np.zeros(10)
    with pytest.raises(ValueError, match="'pose' has 1000000000 values"):
        load_mean_theta(linked)


def test_h5_that_is_not_stored_plainly_takes_no_memory(tmp_path, h5_path):
    odd = tmp_path / "odd.h5"
    with h5py.File(odd, "w") as file:
        file.create_dataset("pose", (72,), "f8", maxshape=(None,), chunks=(2**24,), compression="gzip")
        file["shape"] = np.zeros(10)
    with pytest.raises(ValueError, match="'pose' is not stored plainly"):
        load_mean_theta(odd)
    with h5py.File(odd, "w") as file:
        file.create_dataset("pose", (72,), "f8", external=[(str(h5_path), 0, 576)])
        file["shape"] = np.zeros(10)
    with pytest.raises(ValueError, match="'pose' is not stored plainly"):
        load_mean_theta(odd)


def test_damaged_h5_never_raises_anything_else(tmp_path, h5_path):
    rng, data = np.random.default_rng(0), h5_path.read_bytes()
    for _ in range(50):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "damaged.h5").write_bytes(damaged.tobytes())
        try:
            assert np.isfinite(load_mean_theta(tmp_path / "damaged.h5")).all()
        except ValueError as error:
            assert "damaged.h5" in str(error)
