import numpy as np
import pytest

from posekit.geometry import voxels
from posekit.testing import load_fixture


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("v2v_voxel")


def test_equal_to_the_original(fixture):
    occupied = np.flatnonzero(voxels.occupancy(fixture["scatter_in"], 88))
    np.testing.assert_array_equal(occupied, fixture["scatter_out_idx"])
    found = voxels.peaks(fixture["extract_in"])
    np.testing.assert_array_equal(found, fixture["extract_out_nc"])
    np.testing.assert_array_equal(found + 0.5, fixture["extract_out"])


def test_which_voxels_points_fall_into():
    nowhere = [[-1.0, 1, 1], [4.0, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1], [1e30, 1, 1]]
    grid = voxels.occupancy([[0.0, 1.5, 3.999], [-0.999, 0.2, 0.5], *nowhere], 4)
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(np.argwhere(grid), [[0, 0, 0], [0, 1, 3]])
    coords = [[-0.5, 0.49, 0.5], [3.49, 0, 0], [3.5, 0, 0], [-0.51, 0, 0], [np.nan, 0, 0]]
    np.testing.assert_array_equal(np.argwhere(voxels.occupancy(coords, 4, "nearest")), [[0, 0, 1], [3, 0, 0]])


def test_no_points_and_bad_points():
    assert not voxels.occupancy(np.zeros((0, 3)), 4).any()
    with pytest.raises(ValueError, match=r"\[points, 3\]"):
        voxels.occupancy(np.zeros((2, 4)), 4)
    with pytest.raises(ValueError, match="truncate or nearest"):
        voxels.occupancy(np.zeros((2, 3)), 4, "up")


def test_profiles_make_the_gaussian_in_space():
    place = np.array([2.3, 4.0, 1.1])
    volume = voxels.outer_product(voxels.gaussian_profiles(place, 6, 1.7))
    for x, y, z in np.ndindex(6, 6, 6):
        squared = (x + 0.5 - 2.3) ** 2 + (y + 0.5 - 4) ** 2 + (z + 0.5 - 1.1) ** 2
        assert volume[x, y, z] == pytest.approx(np.exp(-squared / 2 / 1.7**2), abs=1e-12)


def test_hats_are_the_weights_of_eight_corners():
    weights = voxels.outer_product(voxels.hat_profiles([[1.25, 0.0, 2.5], [3.0, 3.0, 0.5]], 4))
    assert weights.shape == (2, 4, 4, 4)
    expected = np.zeros((4, 4, 4))
    expected[1, 0, 2:], expected[2, 0, 2:] = 0.375, 0.125
    np.testing.assert_allclose(weights[0], expected)
    np.testing.assert_allclose(weights.sum((1, 2, 3)), 1)
    np.testing.assert_allclose(voxels.expectations(weights), [[1.25, 0, 2.5], [3, 3, 0.5]])


def test_unknown_places_have_empty_volumes():
    place = [[np.nan, 1, 1], [1, 1, 1]]
    for profiles in (voxels.gaussian_profiles(place, 4, 1.0), voxels.hat_profiles(place, 4)):
        volumes = voxels.outer_product(profiles)
        assert not volumes[0].any() and volumes[1].any()
    assert np.isnan(voxels.expectations(np.zeros((2, 3, 3, 3)))).all()


def test_of_equal_peaks_the_first_of_x_then_y_then_z_counts():
    volume = np.zeros((3, 4, 5))
    volume[1, 3, 0] = volume[1, 2, 4] = volume[2, 0, 0] = volume[1, 2, 3] = 1
    np.testing.assert_array_equal(voxels.peaks(volume), [1, 2, 3])
    np.testing.assert_array_equal(voxels.peaks(np.zeros((3, 4, 5))), [0, 0, 0])
    with pytest.raises(ValueError, match="with voxels"):
        voxels.peaks(np.zeros((2, 0, 4, 4)))
    with pytest.raises(ValueError, match="x, y, z"):
        voxels.expectations(np.zeros((4, 4)))
