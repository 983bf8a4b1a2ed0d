import numpy as np
import pytest

from posekit.data.synthetic_depth import draw_cones
from posekit.data.synthetic_hand import (
    ANGLES,
    FACING,
    FINGERS,
    GESTURES,
    NYU_NAMES,
    HandShape,
    msra_frames,
    msra_joints,
    nyu_frames,
    nyu_joints,
    pose_hand,
    sample_gesture,
    sample_hand_shape,
)
from posekit.geometry.depth import DepthCamera, dataset_camera, world_to_pixel
from posekit.skeletons import MSRA21

FLAT = np.zeros((1, len(ANGLES)))
# Fingers and the thumb that each gesture holds up.
UP = {
    "1": "i", "2": "im", "3": "tim", "4": "imrp", "5": "timrp", "6": "imr", "7": "imp", "8": "irp", "9": "mrp",
    "I": "p", "IP": "ip", "L": "ti", "MP": "mp", "RP": "rp", "T": "t", "TIP": "tip", "Y": "tp",
}  # fmt: skip
MEETING = {"6": "pinky", "7": "ring", "8": "middle", "9": "index"}


def posed(gesture):
    angles = np.array([[GESTURES[gesture][name] for name in ANGLES]])
    return pose_hand(HandShape(), angles, FACING[None], np.array([[0, 60, 500.0]]))


def lengths(joints):
    child, parent = np.array(MSRA21.bones).T
    return np.linalg.norm(joints[:, child] - joints[:, parent], axis=-1)


def test_a_flat_hand_is_one_of_a_grown_up():
    points = pose_hand(HandShape(), FLAT).points
    assert 170 < points["middle_tip"][0, 1] < 190
    tips = [points[f"{finger}_tip"][0] for finger in FINGERS]
    assert [tip[0] for tip in tips] == sorted((tip[0] for tip in tips), reverse=True)
    assert np.argmax([tip[1] for tip in tips]) == 1
    bones = lengths(msra_joints(points))[0]
    assert bones.min() > 15 and bones.max() < 95
    # Fingers bend towards the palm, which faces z.
    for finger in FINGERS:
        bent = FLAT.copy()
        bent[0, ANGLES.index(f"{finger}_pip")] = 60
        assert pose_hand(HandShape(), bent).points[f"{finger}_tip"][0, 2] > points[f"{finger}_tip"][0, 2] + 20
        bent = FLAT.copy()
        bent[0, ANGLES.index(f"{finger}_aside")] = 10
        assert pose_hand(HandShape(), bent).points[f"{finger}_tip"][0, 0] > points[f"{finger}_tip"][0, 0] + 8


def test_bones_keep_their_lengths_in_all_poses():
    rng = np.random.default_rng(0)
    for gesture in GESTURES:
        shape = sample_hand_shape(rng)
        angles, rotations = sample_gesture(rng, gesture, 5)
        bones = lengths(msra_joints(pose_hand(shape, angles, rotations, np.zeros((5, 3))).points))
        np.testing.assert_allclose(bones, bones[:1].repeat(5, 0), atol=1e-9)


@pytest.mark.parametrize("gesture", GESTURES)
def test_gestures_show_the_fingers_they_are_named_for(gesture):
    points = posed(gesture).points
    up = UP[gesture]
    for finger in FINGERS:
        reach = np.linalg.norm(points[f"{finger}_tip"] - points[f"{finger}_mcp"])
        bones = sum(
            np.linalg.norm(points[f"{finger}_{a}"] - points[f"{finger}_{b}"])
            for a, b in (("mcp", "pip"), ("pip", "dip"), ("dip", "tip"))
        )
        assert (reach > 0.97 * bones) == (finger[0] in up), finger
    assert (points["thumb_tip"][0, 0] > points["index_mcp"][0, 0] + 30) == ("t" in up)
    if gesture in MEETING:
        assert np.linalg.norm(points["thumb_tip"] - points[f"{MEETING[gesture]}_tip"]) < 16


@pytest.mark.parametrize("gesture", GESTURES)
def test_joints_lie_in_the_flesh_and_flesh_hardly_in_flesh(gesture):
    hand = posed(gesture)
    joints = np.concatenate([msra_joints(hand.points)[0], nyu_joints(hand.points)[0]])
    inside = hand.flesh[0].depth_inside(joints)
    assert inside.min() > 4
    # Bones of the thumb's last two segments do not run through fingers that they do not belong to.
    others = hand.flesh[0][:12]
    for a, b in (("pip", "dip"), ("dip", "tip")):
        share = np.linspace(0.2, 1, 6)[:, None]
        bone = hand.points[f"thumb_{a}"] * (1 - share) + hand.points[f"thumb_{b}"] * share
        assert others.depth_inside(bone).max() < -3


def test_the_pose_can_be_seen():
    camera = DepthCamera(600, 600, 160, 160, width=320, height=320)
    for gesture in GESTURES:
        hand = posed(gesture)
        depth = draw_cones(hand.flesh[0], camera)
        column, row = np.rint(world_to_pixel(msra_joints(hand.points)[0], camera)[:, :2]).astype(int).T
        below = msra_joints(hand.points)[0, :, 2] - depth[row, column]
        assert np.isfinite(below).all() and below.min() > 3
        assert (below < 20).mean() > 0.7, gesture


def test_sequences_stay_within_the_limits_and_differ():
    rng = np.random.default_rng(3)
    for gesture in (*GESTURES, None):
        angles, rotations = sample_gesture(rng, gesture, 30)
        assert angles.shape == (30, 23) and rotations.shape == (30, 3, 3)
        assert angles.min() >= -130 and angles.max() <= 108
        np.testing.assert_allclose(np.linalg.det(rotations), 1)
        assert (rotations[:, 2, 2] < -0.3).all()  # the palm faces the camera
        assert angles.std(0).mean() > 2
        steps = np.abs(np.diff(sample_gesture(rng, gesture, 600)[0], axis=0))
        assert steps.max() < 30  # a sequence of many frames moves smoothly
    assert sample_gesture(rng, None, 0)[0].shape == (0, 23)
    with pytest.raises(ValueError, match=r"'11' is not known.*'TIP'"):
        sample_gesture(rng, "11", 3)


def test_shapes_differ_within_reason():
    rng = np.random.default_rng(0)
    shapes = [sample_hand_shape(rng) for _ in range(200)]
    sizes = np.array([np.linalg.norm(pose_hand(shape, FLAT).points["middle_tip"]) for shape in shapes])
    assert 135 < sizes.min() and sizes.max() < 200 and 5 < sizes.std() < 15


def check_on_hand(frame, camera, joints):
    """Joints project onto the hand and lie a finger's thickness behind its surface or deeper."""
    left, top, right, bottom = frame.box
    assert frame.depth.shape == (bottom - top, right - left) and frame.depth.dtype == np.float32
    column, row = np.rint(world_to_pixel(joints, camera)[:, :2]).astype(int).T
    shown = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    before = frame.depth[row[shown] - top, column[shown] - left]
    below = (joints[shown, 2] - before)[before > 0]
    assert len(below) > 0.8 * len(joints)
    assert below.min() > -4
    return (below < 22).mean()


def test_msra_frames():
    camera, near = dataset_camera("msra"), []
    for number, gesture in enumerate(GESTURES):
        rng = np.random.default_rng([5, number])
        for frame in msra_frames(rng, sample_hand_shape(rng), gesture, 2):
            assert frame.joints.shape == (21, 3)
            left, top, right, bottom = frame.box
            assert 0 <= left < right <= 320 and 0 <= top < bottom <= 240
            measured = frame.depth[frame.depth > 0]
            assert 250 < measured.min() and measured.max() < 560 and len(measured) > 1500
            assert np.linalg.norm(frame.center - frame.joints[MSRA21.index("middle_mcp")]) < 25
            assert np.abs(frame.joints - frame.center).max() < 120
            near.append(check_on_hand(frame, camera, frame.joints))
            # y points up: the fingers are above the wrist.
            assert frame.joints[MSRA21.index("middle_mcp"), 1] > frame.joints[0, 1]
    assert np.mean(near) > 0.75


def test_nyu_frames():
    assert len(NYU_NAMES) == 36 and NYU_NAMES[0] == "F1_KNU3_A" and NYU_NAMES[24] == "TH_KNU3_A"
    rng = np.random.default_rng(6)
    camera, near = dataset_camera("nyu"), []
    for frame in nyu_frames(rng, sample_hand_shape(rng), 3):
        assert frame.box == (0, 0, 640, 480) and frame.joints.shape == (36, 3)
        assert (frame.depth == np.round(frame.depth)).all() and frame.depth.max() == 2001
        body = (frame.depth > 0) & (frame.depth < 2001)
        # The arm and somebody to whom it belongs are in the picture, farther away than the hand.
        assert body.mean() > 0.1 and 350 < frame.depth[body].min() and frame.depth[body].max() < 1700
        assert frame.depth[body].max() > frame.center[2] + 200
        assert np.linalg.norm(frame.center - frame.joints[NYU_NAMES.index("PALM_3")]) < 25
        near.append(check_on_hand(frame, camera, frame.joints))
    assert np.mean(near) > 0.7


def test_same_seed_same_frames():
    first, again = (list(msra_frames(np.random.default_rng(8), HandShape(), "7", 2)) for _ in range(2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.joints, b.joints)
        assert a.box == b.box
