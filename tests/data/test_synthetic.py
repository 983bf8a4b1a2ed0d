import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posekit.bodies import sample_body
from posekit.data import synthetic
from posekit.data.synthetic import draw_person, pose_body, sample_motion, sample_outfit, sample_picture, sample_poses
from posekit.skeletons import COCO_PLUS19, SMPL24


def pictures(count, **options):
    for index in range(count):
        yield sample_picture(np.random.default_rng([7, index]), sample_body(), **options)


def facing(poses):
    """Where the figures' up (y) and front (z) point, both `[N, 3]`."""
    rotations = Rotation.from_rotvec(np.asarray(poses)[:, :3])
    return rotations.apply((0, 1, 0)), rotations.apply((0, 0, 1))


def test_poses_in_the_camera_frame():
    poses = sample_poses(np.random.default_rng(0), 400)
    assert poses.shape == (400, 72) and poses.dtype == np.float32
    up, front = facing(poses)
    # y points down in the image and z away from the camera: people stand upright and mostly face the camera.
    assert np.median(up[:, 1]) < -0.9 and up[:, 1].max() < 0.2
    assert np.median(front[:, 2]) < -0.5
    assert (poses[:, 0] > -0.01).all()


def test_other_frames_and_unknown_words():
    assert np.median(facing(sample_poses(np.random.default_rng(0), 200, upright="y"))[0][:, 1]) > 0.9
    assert np.median(facing(sample_poses(np.random.default_rng(0), 200, upright="z"))[0][:, 2]) > 0.9
    with pytest.raises(ValueError, match="everyday"):
        sample_poses(np.random.default_rng(0), 1, motion="dance")
    with pytest.raises(ValueError, match="camera"):
        sample_poses(np.random.default_rng(0), 1, upright="x")


@pytest.mark.parametrize("motion", ["everyday", "limits"])
def test_joints_stay_within_their_limits(motion):
    poses = sample_poses(np.random.default_rng(1), 500, motion).reshape(500, 24, 3)
    angles = np.degrees(np.linalg.norm(poses, axis=-1))
    assert np.isfinite(poses).all()
    for name, limit in (("left_knee", 142), ("right_elbow", 145), ("spine1", 35), ("neck", 45), ("left_wrist", 60)):
        assert angles[:, SMPL24.index(name)].max() < limit
    # Knees bend backwards only, elbows forwards only.
    assert poses[:, SMPL24.index("left_knee"), 0].min() > -1e-6
    assert poses[:, SMPL24.index("left_elbow"), 1].max() < 0.2
    assert poses[:, SMPL24.index("right_elbow"), 1].min() > -0.2
    # Left and right take turns.
    left, right = (angles[:, SMPL24.index(name)] for name in ("left_hip", "right_hip"))
    assert abs(left.mean() - right.mean()) < 8


def test_motion_is_smooth():
    frames = sample_motion(np.random.default_rng(2), 240, frame_rate=60.0)
    assert frames.shape == (240, 72) and frames.dtype == np.float32
    rotations = Rotation.from_rotvec(frames.reshape(-1, 3))
    steps = (rotations[:-24].inv() * rotations[24:]).magnitude()
    assert 0.02 < steps.max() < 0.25
    assert sample_motion(np.random.default_rng(2), 1).shape == (1, 72)


def test_pose_body_equals_the_smpl_layer():
    from posekit.layers import SMPL

    body = sample_body()
    rng = np.random.default_rng(3)
    poses, shapes = sample_poses(rng, 3), synthetic.sample_shapes(rng, 3)
    expected = SMPL(body)(poses, shapes)
    for index in range(3):
        posed = pose_body(body, poses[index], shapes[index])
        for key in ("vertices", "joints", "keypoints"):
            np.testing.assert_allclose(getattr(posed, key), np.asarray(expected[key][index]), atol=2e-5)


def test_pictures():
    body = sample_body()
    heights, hidden = [], 0
    for image, (person,) in pictures(12):
        height, width = image.shape[:2]
        assert image.dtype == np.uint8 and 224 <= min(height, width) <= max(height, width) <= 280
        rows, columns = np.nonzero(person.mask)
        assert rows.min() >= 2 and rows.max() < height - 2 and columns.min() >= 2 and columns.max() < width - 2
        heights.append(np.ptp(rows))
        # Joints lie on the silhouette, those of the face within a pixel of it.
        x, y = np.rint(person.keypoints_px[:12]).astype(int).T
        assert person.mask[y, x].all()
        posed = pose_body(body, person.pose, person.shape)
        np.testing.assert_allclose(posed.keypoints[:14], person.joints3d, atol=1e-5)
        projected = posed.keypoints[:, :2] * person.scale + person.offset_px
        np.testing.assert_allclose(projected, person.keypoints_px, atol=1e-6)
        outline = posed.vertices[:, :2] * person.scale + person.offset_px
        np.testing.assert_allclose(outline.min(0), (columns.min(), rows.min()), atol=1.6)
        np.testing.assert_allclose(outline.max(0), (columns.max(), rows.max()), atol=1.6)
        assert person.visible[: COCO_PLUS19.index("nose")].sum() >= 6
        hidden += (~person.visible[:12]).sum()
        # The figure is not the background.
        assert np.abs(image[person.mask].astype(float).mean(0) - image[~person.mask].mean(0)).max() > 3
    assert 95 < np.median(heights) < 195
    assert 0 < hidden < 60


def test_the_one_pixel_test_of_the_camera():
    body = sample_body()
    outfit = sample_outfit(np.random.default_rng(0))
    pose = np.zeros(72)
    pose[0] = np.pi
    image, person = draw_person(np.zeros((240, 200, 3)), body, pose, np.zeros(10), 90.0, (100.0, 100.0), outfit)
    # Seen from the front: left is right, and the head is above the feet.
    points = dict(zip(COCO_PLUS19.joints, person.keypoints_px))
    assert points["left_wrist"][0] > points["right_wrist"][0] + 100
    assert points["head_top"][1] < points["left_ankle"][1] - 100
    visible = dict(zip(COCO_PLUS19.joints, person.visible))
    assert all(visible.values())
    # The T-pose is symmetric about the column of the body's origin.
    np.testing.assert_array_equal(person.mask[:, 1:], person.mask[:, :0:-1])
    top = np.flatnonzero(person.mask[:, 100])[0]
    assert abs(top - points["head_top"][1]) < 1.5
    turned = (Rotation.from_rotvec((np.pi, 0, 0)) * Rotation.from_rotvec((0, np.pi / 2, 0))).as_rotvec()
    pose[:3] = turned
    _, person = draw_person(np.zeros((240, 200, 3)), body, pose, np.zeros(10), 90.0, (100.0, 100.0), outfit)
    visible = dict(zip(COCO_PLUS19.joints, person.visible))
    hidden, seen = ("right", "left") if visible["left_ear"] else ("left", "right")
    for name in ("eye", "ear", "elbow"):
        assert visible[f"{seen}_{name}"] or name == "elbow"
        assert not visible[f"{hidden}_{name}"]


def test_several_people_hide_each_other():
    overlaps = 0
    for image, people in pictures(4, size=(200, 300), num_people=3):
        assert image.shape == (200, 300, 3) and len(people) == 3
        assert np.sum([person.mask for person in people], axis=0).max() <= 1
        overlaps += sum(not person.mask.any() for person in people)
        for person in people:
            x, y = np.rint(person.keypoints_px[person.visible][:8]).astype(int).T
            nearby = [person.mask[max(0, b - 2) : b + 3, max(0, a - 2) : a + 3].any() for a, b in zip(x, y)]
            assert np.mean(nearby) > 0.9
    assert overlaps < 3


def test_pictures_depend_on_the_generator_alone():
    (first, one), (second, two) = (next(pictures(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one[0].keypoints_px, two[0].keypoints_px)
    other, _ = sample_picture(np.random.default_rng(8), sample_body())
    assert other.shape != first.shape or (other != first).any()


def test_outfits_differ():
    outfits = [sample_outfit(np.random.default_rng(seed)) for seed in range(30)]
    assert len({outfit.sleeve for outfit in outfits}) > 2 and len({outfit.pattern for outfit in outfits}) > 2
    colours = np.array([[outfit.shirt, outfit.trousers, outfit.skin] for outfit in outfits])
    assert colours.min() >= 0 and colours.max() <= 1 and colours.std(0).min() > 0.05


def test_poses_do_without_tensorflow():
    code = (
        "import sys, numpy; from posekit.data.synthetic import sample_motion; "
        "sample_motion(numpy.random.default_rng(0), 9); sys.exit('tensorflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
