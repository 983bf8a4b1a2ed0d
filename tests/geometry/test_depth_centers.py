import dataclasses

import numpy as np
import pytest

from posekit.geometry.depth import DepthCamera, depth_to_points, world_to_pixel
from posekit.geometry.depth_centers import NoForegroundError, estimate_center

CAMERA = DepthCamera(240.0, 240.0, 160.0, 120.0, y_up=True, width=320, height=240)


def put_ball(depth, center, radius, camera=CAMERA):
    """Puts the visible half of a ball into a depth picture, before or behind what is there."""
    rows, columns = np.indices(depth.shape)
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.signed_intrinsics[1]], -1)
    rays = np.concatenate([rays, np.ones((*depth.shape, 1))], -1)
    along, square = rays @ center, (rays**2).sum(-1)
    inside = along**2 - square * (center @ center - radius**2)
    z = (along - np.sqrt(np.maximum(inside, 0))) / square
    put = (inside > 0) & ((depth == 0) | (z < depth))
    depth[put] = z[put]
    return depth


def empty():
    return np.zeros((240, 320))


def test_center_of_one_object():
    depth = empty()
    depth[100:141, 150:171] = 400
    center = estimate_center(depth, CAMERA, (100, 700), 200)
    np.testing.assert_allclose(center, [0, 0, 400], atol=1e-9)


def test_hand_before_a_wall_and_beside_noise():
    hand = np.array([60.0, -40.0, 420.0])
    depth = put_ball(np.full((240, 320), 650.0), hand, 50.0)
    depth[5, 7] = 150  # a flying pixel
    center = estimate_center(depth, CAMERA, (100, 700), 200)
    assert np.abs(center - hand)[:2].max() < 10
    assert 370 < center[2] < 420  # what is seen is the near half


def test_the_nearer_of_two_counts_unless_a_start_is_given():
    near, far = np.array([-90.0, 0.0, 300.0]), np.array([150.0, 0.0, 600.0])
    depth = put_ball(put_ball(empty(), near, 40.0), far, 60.0)
    assert np.abs(estimate_center(depth, CAMERA, (100, 700), 200) - near)[:2].max() < 10
    assert np.abs(estimate_center(depth, CAMERA, (100, 700), 200, start=far) - far)[:2].max() < 10


def test_small_things_before_the_hand_do_not_count():
    hand = np.array([30.0, 10.0, 500.0])
    depth = put_ball(put_ball(empty(), hand, 60.0), np.array([-80.0, 40.0, 250.0]), 8.0)
    assert np.abs(estimate_center(depth, CAMERA, (100, 700), 200) - hand)[:2].max() < 10


def test_a_small_hand_is_found_where_nothing_is_larger():
    hand = np.array([30.0, 10.0, 500.0])
    center = estimate_center(put_ball(empty(), hand, 9.0), CAMERA, (100, 700), 200)
    assert np.abs(center - hand)[:2].max() < 2


@pytest.mark.parametrize("side", [-1, 1])
def test_hand_cut_by_the_border(side):
    hand = np.array([side * 260.0, 0.0, 400.0])
    center = estimate_center(put_ball(empty(), hand, 60.0), CAMERA, (100, 700), 200)
    assert np.isfinite(center).all() and np.abs(center - hand).max() < 60


@pytest.mark.parametrize("elbow", [239, 225])
def test_the_hand_of_an_arm(elbow):
    hand = np.array([0.0, 60.0, 400.0])
    arm = np.where((np.abs(np.arange(320) - 160) < 18) & (np.arange(240)[:, None] >= 90), 410.0, 0)
    arm[elbow:] = 0 if elbow < 239 else arm[elbow:]
    depth = put_ball(arm, hand, 45.0)
    center = estimate_center(depth, CAMERA, (100, 700), 200)
    assert abs(center[0]) < 3 and 20 < center[1] < 70


def test_an_arm_from_the_side():
    hand = np.array([90.0, 0.0, 500.0])
    arm = np.where((np.abs(np.arange(240)[:, None] - 120) < 15) & (np.arange(320) < 200), 510.0, 0)
    center = estimate_center(put_ball(arm, hand, 45.0), CAMERA, (100, 700), 200)
    assert 40 < center[0] < 100 and abs(center[1]) < 3


def test_somebody_on_the_floor_before_a_wall():
    camera = DepthCamera(285.0, 285.0, 160.0, 120.0, y_up=True, width=320, height=240, unit="m")
    rows = np.arange(240.0)[:, None]
    floor = np.where(rows > 120, 0.9 * camera.fy / np.maximum(rows - 120, 1e-9), 9.0)
    depth = np.broadcast_to(np.minimum(floor, 4.4), (240, 320)).copy()
    center = np.array([0.3, 0.0, 3.0])
    for height in np.linspace(-0.8, 0.7, 16):  # a stack of balls, 1.8 m tall
        put_ball(depth, center + [0, height, 0], 0.18, camera)
    depth += np.random.default_rng(0).normal(0, 0.005, depth.shape)
    found = estimate_center(depth, camera, (0.5, 5.0), 2.0)
    assert np.abs(found - center).max() < 0.2


def test_a_crop_gives_the_same_as_the_picture():
    hand = np.array([60.0, -40.0, 420.0])
    depth = put_ball(empty(), hand, 50.0)
    box = (150, 100, 260, 220)
    crop = depth[box[1] : box[3], box[0] : box[2]]
    whole = estimate_center(depth, CAMERA, (100, 700), 200)
    np.testing.assert_allclose(estimate_center(crop, CAMERA, (100, 700), 200, box=box), whole, rtol=1e-12)


def test_units_do_not_matter():
    metres = dataclasses.replace(CAMERA, unit="m")
    depth = put_ball(empty(), np.array([60.0, -40.0, 420.0]), 50.0)
    expected = estimate_center(depth, CAMERA, (100, 700), 200) / 1000
    np.testing.assert_allclose(estimate_center(depth / 1000, metres, (0.1, 0.7), 0.2), expected, rtol=1e-9)


def test_center_looks_at_what_it_is_the_mass_of():
    depth = put_ball(empty(), np.array([10.0, 20.0, 420.0]), 50.0)
    points = depth_to_points(depth, CAMERA)[depth > 0]
    np.testing.assert_allclose(estimate_center(depth, CAMERA, (100, 700), 200), points.mean(0), rtol=1e-9)
    x, y, _ = world_to_pixel(points.mean(0), CAMERA)
    assert depth[round(y), round(x)] > 0


@pytest.mark.parametrize("depth", [np.zeros((240, 320)), np.full((240, 320), 1200.0), np.full((240, 320), 50.0)])
def test_nothing_to_see(depth):
    with pytest.raises(NoForegroundError, match="between 100 and 700 mm; is the depth in mm"):
        estimate_center(depth, "msra", (100, 700), 200)


def test_nothing_near_the_start():
    depth = put_ball(empty(), np.array([0.0, 0.0, 400.0]), 30.0)
    with pytest.raises(NoForegroundError, match="Nothing was measured near"):
        estimate_center(depth, CAMERA, (100, 700), 200, start=(300.0, 0.0, 400.0))


def test_arguments_that_make_no_sense():
    depth = np.full((240, 320), 400.0)
    with pytest.raises(ValueError, match="not .height, width. of the box"):
        estimate_center(depth, "msra", (100, 700), 200, box=(0, 0, 10, 10))
    with pytest.raises(ValueError, match="not .height, width. of the box"):
        estimate_center(depth[..., None].repeat(3, -1)[0], "msra", (100, 700), 200, box=(0, 0, 10, 10))
    with pytest.raises(ValueError, match="make no sense"):
        estimate_center(depth, "msra", (700, 100), 200)
    with pytest.raises(ValueError, match="make no sense"):
        estimate_center(depth, "msra", (100, 700), 0)
    with pytest.raises(ValueError, match="start"):
        estimate_center(depth, "msra", (100, 700), 200, start=(0, 0, np.nan))
    with pytest.raises(ValueError, match="No depth camera"):
        estimate_center(depth, "mrsa", (100, 700), 200)


def test_pixels_that_are_no_numbers_do_not_count():
    depth = put_ball(empty(), np.array([0.0, 0.0, 400.0]), 40.0)
    expected = estimate_center(depth, CAMERA, (100, 700), 200)
    depth[depth == 0] = np.nan
    np.testing.assert_allclose(estimate_center(depth, CAMERA, (100, 700), 200), expected, rtol=1e-12)
