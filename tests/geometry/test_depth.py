import dataclasses

import numpy as np
import pytest

from posekit.geometry import depth
from posekit.geometry.depth import DATASET_CAMERAS, DepthCamera
from posekit.testing import load_fixture


def test_equal_to_the_original():
    fixture = load_fixture("v2v_msra")
    points = depth.depth_to_points(fixture["frame0_depth"], "msra", first_pixel=1)
    np.testing.assert_allclose(points.reshape(-1, 3), fixture["frame0_points"], rtol=1e-6)
    pixels = depth.world_to_pixel(fixture["frame0_points"][::997], "msra")[:, :2]
    np.testing.assert_array_equal(pixels, fixture["points2pixels"])


@pytest.mark.parametrize("name", DATASET_CAMERAS)
def test_there_and_back(name):
    camera = DATASET_CAMERAS[name]
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0, 0.2), (camera.width, camera.height, 1.2), (4, 5, 3))
    world = depth.pixel_to_world(pixels, name)
    np.testing.assert_allclose(depth.world_to_pixel(world, camera), pixels, rtol=1e-12)


# Worked by hand from the originals' formulas: a pixel right of and above the principal point.
@pytest.mark.parametrize(
    "name, pixel, world",
    [
        ("msra", (184.142, 95.858, 300), (30, 30, 300)),
        ("icvl", (184.142, 95.858, 300), (30, -30, 300)),
        ("nyu", (378.8036865, 181.2924927, 700), (70, 70, 700)),
        ("hands2017", (363.4514498, 197.7804933, 500), (50, -50, 500)),
        ("itop", (260, 20, 2), (0.7, 0.7, 2)),
        ("itop_top", (260, 20, 2), (0.7, 0.7, 2)),
    ],
)
def test_axes_of_each_dataset(name, pixel, world):
    np.testing.assert_allclose(depth.pixel_to_world(pixel, name), world, rtol=1e-9)


def test_signed_intrinsics_say_it_all():
    for camera in DATASET_CAMERAS.values():
        fx, fy, cx, cy = camera.signed_intrinsics
        assert (fy < 0) == camera.y_up
        assert camera.unit_mm == (1000.0 if camera.unit == "m" else 1.0)
        world = depth.pixel_to_world([10.0, 20, 3], camera)
        np.testing.assert_allclose(world, [(10 - cx) * 3 / fx, (20 - cy) * 3 / fy, 3])


def test_a_crop_has_the_points_of_the_picture():
    picture = np.random.default_rng(0).uniform(300, 400, (240, 320))
    whole = depth.depth_to_points(picture, "msra")
    crop = depth.depth_to_points(picture[100:130, 50:90], "msra", start_px=(50, 100))
    np.testing.assert_array_equal(crop, whole[100:130, 50:90])
    np.testing.assert_array_equal(depth.depth_to_points(np.zeros((2, 2)), "icvl"), 0)


def test_a_point_without_depth_has_no_pixel():
    pixels = depth.world_to_pixel([[1, 2, 0], [np.nan, 0, 5]], "nyu")
    assert np.isnan(pixels[0, :2]).all() and pixels[0, 2] == 0 and np.isnan(pixels[1, 0])


def test_box_around_a_hand():
    camera = DepthCamera(100.0, 100.0, 50.0, 40.0, width=100, height=80)
    # The near side of the box, at depth 100, is 40 pixels wide.
    assert depth.box_around((0, 0, 120), 20, camera) == (30, 20, 71, 61)
    assert depth.box_around((0, 0, 120), (10, 20, 20), camera) == (40, 20, 61, 61)
    assert depth.box_around((-60, 0, 120), 20, camera) == (0, 20, 23, 61)  # cut by the border
    left, _, right, _ = depth.box_around((-600, 0, 120), 20, camera)
    assert left == right == 0
    assert depth.box_around((0, 0, 10), 20, camera) == (0, 0, 100, 80)
    upwards = dataclasses.replace(camera, y_up=True)
    assert depth.box_around((0, 30, 120), 20, upwards)[1] < depth.box_around((0, 30, 120), 20, camera)[1]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"fx": 0}, "focal lengths"),
        ({"fy": -3}, "focal lengths"),
        ({"cx": np.nan}, "finite"),
        ({"width": 0}, "no pixels"),
        ({"height": 2.5}, "whole numbers"),
        ({"unit": "km"}, "mm, m"),
    ],
)
def test_no_camera(values, message):
    with pytest.raises(ValueError, match=message):
        DepthCamera(**{"fx": 1, "fy": 1, "cx": 0, "cy": 0, **values})


def test_bad_input():
    with pytest.raises(ValueError, match="known are msra"):
        depth.pixel_to_world(np.zeros((2, 3)), "kinect")
    with pytest.raises(ValueError, match=r"\[..., 3\]"):
        depth.world_to_pixel(np.zeros((2, 2)), "nyu")
    with pytest.raises(ValueError, match="height, width"):
        depth.depth_to_points(np.zeros(4), "nyu")
    with pytest.raises(ValueError, match="No box"):
        depth.box_around((0, 0, np.nan), 20, "nyu")
    with pytest.raises(ValueError, match="No box"):
        depth.box_around((0, 0, 300), 0, "nyu")
