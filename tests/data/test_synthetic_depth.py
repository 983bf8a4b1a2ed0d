import numpy as np
import pytest

from posekit.data.synthetic_depth import RoundCones, draw_cones, join_cones, measure, sample_jitter
from posekit.geometry.depth import DepthCamera, depth_to_points

CAMERA = DepthCamera(100.0, 110.0, 40.0, 30.0, y_up=True, width=80, height=60)


def cones(*rows):
    rows = np.array(rows, np.float64)
    return RoundCones(rows[:, 0:3], rows[:, 3:6], rows[:, 6], rows[:, 7])


def some(rng, count):
    starts = rng.uniform((-90, -60, 350), (90, 60, 500), (count, 3))
    return RoundCones(starts, starts + rng.normal(0, 30, (count, 3)), *rng.uniform(4, 25, (2, count)))


def test_ball_and_tube_by_hand():
    depth = draw_cones(cones((0, 0, 500, 0, 0, 500, 50, 50)), CAMERA)
    assert depth[30, 40] == pytest.approx(450)
    # The rim: sin of the angle is 50 / 500, so that it is seen 10.05 pixels from the middle.
    assert np.isfinite(depth[30, 50]) and np.isinf(depth[30, 51])
    tube = draw_cones(cones((-60, 0, 500, 60, 0, 500, 20, 20)), CAMERA)
    np.testing.assert_allclose(tube[30, 30:51], 480)
    # y points up: what is above the axis in the world is above it in the picture.
    high = draw_cones(cones((0, 60, 500, 0, 60, 500, 10, 10)), CAMERA)
    rows, columns = np.nonzero(np.isfinite(high))
    assert rows.mean() == pytest.approx(30 - 60 * 110 / 500, abs=0.5) and columns.mean() == pytest.approx(40, abs=0.5)


def test_surface_is_the_first_that_a_ray_meets():
    rng = np.random.default_rng(0)
    scene = some(rng, 25)
    depth = draw_cones(scene, CAMERA)
    seen = np.isfinite(depth)
    assert 300 < seen.sum() < 4000
    points = depth_to_points(np.where(seen, depth, 0), CAMERA)
    assert np.abs(scene.depth_inside(points[seen])).max() < 1e-8
    rays = points / np.where(seen, depth, 1)[..., None]
    for share in (0.7, 0.9, 0.98, 0.999):
        assert scene.depth_inside(rays[seen] * (share * depth[seen])[:, None]).max() < 0
    rays = depth_to_points(np.ones(depth.shape), CAMERA)[~seen]
    for z in np.arange(310, 560, 5.0):
        assert scene.depth_inside(rays * z).max() < 0


@pytest.mark.parametrize("radii", [(30, 3), (3, 30), (10, 10)])
def test_a_ball_within_another_adds_nothing(radii):
    both = draw_cones(cones((0, 0, 500, 5, 2, 503, *radii)), CAMERA)
    larger = (0, 0, 500) if radii[0] >= radii[1] else (5, 2, 503)
    if radii[0] != radii[1]:
        alone = draw_cones(cones((*larger, *larger, max(radii), max(radii))), CAMERA)
        np.testing.assert_allclose(both, alone)
    assert np.isfinite(both).any()


def test_depth_inside_by_hand():
    tube = cones((0, 0, 0, 100, 0, 0, 10, 20))
    inside = tube.depth_inside([[0, 0, 0], [100, 0, 0], [-30, 0, 0], [130, 0, 0], [50, 40, 0]])
    np.testing.assert_allclose(inside[2:4], [-20, -10])
    assert inside[0] >= 10 and inside[1] == pytest.approx(20) and -26 < inside[4] < -24
    pair = join_cones(tube, cones((0, 50, 0, 0, 50, 0, 5, 5)))
    assert pair.depth_inside([[0, 50, 0]])[0] == pytest.approx(5)
    assert pair[1:].depth_inside([[0, 50, 0]])[0] == pytest.approx(5)


def test_what_lies_behind_the_camera_is_refused():
    with pytest.raises(ValueError, match="lies at depth"):
        draw_cones(cones((0, 0, 5, 0, 0, 500, 10, 10)), CAMERA)


def test_outside_the_picture_is_nothing():
    far_right = draw_cones(cones((5000, 0, 500, 5000, 0, 500, 30, 30)), CAMERA)
    assert np.isinf(far_right).all() and far_right.shape == (60, 80)


def test_jitter_frays_the_outline_only():
    rng = np.random.default_rng(1)
    ball = cones((0, 0, 500, 0, 0, 500, 50, 50))
    plain, frayed = draw_cones(ball, CAMERA), draw_cones(ball, CAMERA, sample_jitter(rng, CAMERA))
    y, x = np.mgrid[:60, :80]
    radius = np.hypot(x - 40, (y - 30) * 100 / 110)
    changed = np.isfinite(plain) != np.isfinite(frayed)
    assert changed.any() and np.abs(radius[changed] - 10).max() < 3
    assert np.isfinite(frayed[radius < 7]).all()


def test_measure():
    true = np.full((200, 300), 500.0)
    true[:, 150:] = 700.0
    true[:20] = np.inf
    seen = measure(np.random.default_rng(2), true, noise=1.0)
    assert (seen[:20] == 0).all()
    flat = seen[40:, 10:140]
    assert 0.0005 < (flat == 0).mean() < 0.015
    assert 0.8 < np.std(flat[flat > 0] - 500) < 1.2
    assert 0.1 < (seen[40:, 149:151] == 0).mean() < 0.5
    again = measure(np.random.default_rng(2), true, noise=1.0)
    np.testing.assert_array_equal(seen, again)
