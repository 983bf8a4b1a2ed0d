import numpy as np
import pytest

from posekit.bodies import sample_body
from posekit.data.synthetic_room import VIEWS, body_parts, room_frames
from posekit.geometry.depth import dataset_camera, pixel_to_world, world_to_pixel
from posekit.skeletons import ITOP15

I = ITOP15.index  # noqa: E741


@pytest.fixture(scope="module")
def frames():
    return list(room_frames(np.random.default_rng(2), sample_body(), 6))


def test_both_cameras_see_the_same_person(frames):
    for frame in frames:
        side, top = frame["side"].joints, frame["top"].joints
        # From the front camera to the one above: height for depth, depth for what is up in the picture.
        back = np.stack([top[:, 0], 3.2 - top[:, 2] - 1.0, 2.95 + top[:, 1]], -1)
        np.testing.assert_allclose(back, side, atol=1e-9)
        assert 1.2 < side[I("head"), 2] < 4


def test_joints_lie_in_the_body_that_is_seen(frames):
    camera = dataset_camera("itop")
    for frame in frames:
        for view in VIEWS:
            seen = frame[view]
            np.testing.assert_allclose(seen.joints_px, world_to_pixel(seen.joints, camera)[:, :2])
            column, row = np.rint(seen.joints_px).astype(int).T
            shown = (column >= 0) & (column < 320) & (row >= 0) & (row < 240)
            assert shown.mean() > 0.7
            assert np.mean(seen.parts[row[shown], column[shown]] >= 0) > 0.85
            assert (seen.visible <= shown).all()
            before = seen.depth[row[shown], column[shown]]
            below = (seen.joints[shown, 2] - before)[before > 0]
            assert below.min() > -0.06
            assert np.abs(seen.joints - seen.center).max() < 1.15
        # From above, the head hides much.
        assert frame["side"].visible.mean() > frame["top"].visible.mean() - 0.3
        assert frame["side"].visible.sum() >= 9


def test_parts_are_near_their_joints(frames):
    camera = dataset_camera("itop")
    for frame in frames:
        seen = frame["side"]
        assert seen.parts.dtype == np.int8 and seen.parts.min() == -1 and seen.parts.max() <= 14
        assert 0.02 < (seen.parts >= 0).mean() < 0.4
        for part in ("head", "torso"):
            row, column = np.nonzero((seen.parts == I(part)) & (seen.depth > 0))
            if len(row) > 20:
                points = pixel_to_world(np.stack([column, row, seen.depth[row, column]], -1), camera)
                assert np.linalg.norm(points.mean(0) - seen.joints[I(part)]) < 0.3


def test_the_room_is_behind_the_person(frames):
    for frame in frames:
        side, top = frame["side"], frame["top"]
        body = (side.parts >= 0) & (side.depth > 0)
        assert side.depth[body].max() < 4.2 and abs(np.median(side.depth[:100][side.parts[:100] < 0]) - 4.3) < 0.05
        floor = top.depth[(top.parts < 0) & (top.depth > 0)]
        assert abs(np.median(floor) - 3.2) < 0.02
        assert 0.0005 < (side.depth == 0).mean() < 0.05


def test_body_parts_mirror():
    body = sample_body()
    parts = body_parts(body)
    x = body.v_template[:, 0]
    assert set(parts) == set(range(15))
    assert x[parts == I("left_hand")].min() > 0 > x[parts == I("right_hand")].max()
