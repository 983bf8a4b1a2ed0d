import numpy as np
import pytest

from posekit.bodies import sample_body
from posekit.codecs.screen_pose import camera_to_image
from posekit.data.synthetic import pose_body, sample_shapes
from posekit.data.synthetic_motion import (
    ACTIONS,
    FRAME_RATE,
    Actor,
    sample_cameras,
    sample_detections,
    sample_recording,
)
from posekit.skeletons import H36M17, SMPL24

I = H36M17.index  # noqa: E741


@pytest.fixture(scope="module")
def actor():
    return Actor(sample_body(), sample_shapes(np.random.default_rng(4), 1)[0])


@pytest.fixture(scope="module")
def recordings(actor):
    return {action: sample_recording(np.random.default_rng(7), actor, action, 400) for action in ACTIONS}


def bones(joints):
    child, parent = np.array(H36M17.bones).T
    return joints[:, child] - joints[:, parent]


def bend(joints, first, middle, last):
    """Unit vector that points to where the middle joint sticks out, and by how much in metres."""
    way = joints[:, last] - joints[:, first]
    out = joints[:, middle] - joints[:, first]
    out = out - way * ((out * way).sum(-1) / (way * way).sum(-1))[:, None]
    length = np.linalg.norm(out, axis=-1)
    return out / length[:, None], length


def forwards(joints):
    """Unit vectors [F, 3] that the hips face: across from right to left, turned."""
    across = joints[:, I("left_hip")] - joints[:, I("right_hip")]
    trunk = joints[:, I("spine")] - joints[:, I("pelvis")]
    ahead = np.cross(across, trunk)
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def test_an_actor_poses_like_the_body():
    body, rng = sample_body(), np.random.default_rng(0)
    shape, pose = sample_shapes(rng, 1)[0], rng.normal(0, 0.4, 72)
    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_rotvec(pose.reshape(24, 3)).as_matrix()[None]
    joints, _ = Actor(body, shape).pose(rotations)
    expected = pose_body(body, pose, shape).joints
    expected = expected - expected[0]
    for name in [f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist")]:
        np.testing.assert_allclose(joints[0, I(name)], expected[SMPL24.index(name)], atol=1e-6)
    np.testing.assert_allclose(joints[0, I("pelvis")], joints[0, [I("left_hip"), I("right_hip")]].mean(0))
    apart = np.linalg.norm(joints[0, I("left_hip")] - joints[0, I("right_hip")])
    assert 0.17 < apart < 0.25


@pytest.mark.parametrize("action", ACTIONS)
def test_people_are_people(action, recordings):
    joints = recordings[action]
    assert joints.shape == (400, 17, 3) and np.isfinite(joints).all()
    # Limbs keep their lengths, the feet keep to the floor, nobody leaves the room or floats.
    lengths = np.linalg.norm(bones(joints), axis=-1)
    limbs = [k for k, (child, _) in enumerate(H36M17.bones) if H36M17.joints[child].split("_")[-1] in LIMBS]
    assert np.ptp(lengths[:, limbs], axis=0).max() < 1e-6
    assert 0.3 < lengths[:, limbs].max() < 0.6
    assert joints[..., 2].min() > -0.01 and joints[..., 2].min(1).max() < 0.3
    assert np.abs(joints[..., :2]).max() < 2.6 and joints[..., 2].max() < 2.5
    # Knees bend forwards, elbows backwards; heads are up, faces ahead of the head.
    ahead = forwards(joints)
    for side in ("left", "right"):
        out, length = bend(joints, I(f"{side}_hip"), I(f"{side}_knee"), I(f"{side}_ankle"))
        shin = joints[:, I(f"{side}_ankle")] - joints[:, I(f"{side}_hip")]
        upright = (length > 0.03) & (-shin[:, 2] > 0.5)
        assert not upright.any() or ((out * ahead).sum(-1)[upright] > 0.3).all()
    assert np.median(joints[:, I("head_top"), 2] - joints[:, I("thorax"), 2]) > 0.15
    face = joints[:, I("nose")] - (joints[:, I("head_top")] + joints[:, I("thorax")]) / 2
    assert np.median((face * ahead).sum(-1)) > 0.02


LIMBS = ("knee", "ankle", "elbow", "wrist", "hip")


def test_actions_differ_as_their_names_say(recordings):
    height = {action: np.median(joints[:, I("pelvis"), 2]) for action, joints in recordings.items()}
    assert height["SittingDown"] < height["Sitting"] < 0.7 < height["Walking"] < 1.1
    walked = {
        action: np.linalg.norm(np.diff(joints[:, 0, :2], axis=0), axis=-1).sum() / 24
        for action, joints in recordings.items()
    }
    assert 0.6 < walked["Walking"] < 1.6 and walked["Sitting"] < 0.15
    ear = {}
    for action, joints in recordings.items():
        head = joints[:, [I("nose"), I("head_top")]].mean(1)
        hands = joints[:, [I("left_wrist"), I("right_wrist")]] - head[:, None]
        ear[action] = (np.linalg.norm(hands, axis=-1).min(1) < 0.25).mean()
    assert ear["Phoning"] > 0.6 and ear["Walking"] < 0.05 and 0.15 < ear["Eating"] < 0.95
    turn = np.unwrap(np.arctan2(*forwards(recordings["Walking"])[:, :2].T))
    assert np.ptp(turn) > np.pi


def test_many_frames_are_smooth_and_few_are_spread(actor):
    joints = sample_recording(np.random.default_rng(3), actor, "Walking", 1500)
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1) * FRAME_RATE
    assert speed.max() < 9 and speed[:, 0].mean() > 0.6
    left, right = (joints[:, I(f"{side}_ankle")] for side in ("left", "right"))
    standing = np.minimum(*(np.linalg.norm(np.diff(a, axis=0), axis=-1) * FRAME_RATE for a in (left, right)))
    assert np.median(standing) < 0.45  # one foot nearly rests while the other swings
    few = sample_recording(np.random.default_rng(3), actor, "Posing", 5)
    apart = np.linalg.norm(few[1:] - few[:1], axis=-1).mean(-1)
    assert (apart > 0.05).all()
    assert sample_recording(np.random.default_rng(0), actor, "Posing", 0).shape == (0, 17, 3)
    assert sample_recording(np.random.default_rng(0), actor, "Posing", 1).shape == (1, 17, 3)


def test_actions_are_those_of_human36m():
    from posekit.data import h36m

    assert ACTIONS == tuple(h36m.ACTIONS.values())


def test_same_seed_same_recording(actor):
    first, second = (sample_recording(np.random.default_rng(5), actor, "Greeting", 30) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="Directions"):
        sample_recording(np.random.default_rng(5), actor, "Flying", 30)


def test_cameras_see_people_upright_and_the_right_way_round(recordings):
    cameras = sample_cameras(np.random.default_rng(2))
    assert [camera.name for camera in cameras] == ["54138969", "55011271", "58860488", "60457274"]
    assert [camera.size for camera in cameras] == [(1000, 1002), (1000, 1000), (1000, 1000), (1000, 1002)]
    for camera in cameras:
        np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.R) > 0
        assert 4000 < np.linalg.norm(camera.T) < 6000 and 1400 < camera.T[2, 0] < 2000
        joints_mm = 1000 * recordings["Waiting"]
        seen = camera.see(joints_mm)
        image, _ = camera_to_image(seen, (*camera.f, *camera.c))
        assert (image[..., :2] > 0).mean() > 0.99 and (image[..., :2] < 1000).mean() > 0.99
        assert (image[:, I("head_top"), 1] < image[:, I("pelvis"), 1]).all()
        # Whoever faces the camera has the left side on the picture's right.
        facing = forwards(joints_mm) @ camera.R[2] < -0.5
        across = image[:, I("left_hip"), 0] - image[:, I("right_hip"), 0]
        assert (across[facing] > 0).all() and (across[forwards(joints_mm) @ camera.R[2] > 0.5] < 0).all()


def test_detections_err_as_detectors_do():
    rng = np.random.default_rng(0)
    truth = np.tile(rng.uniform(300, 700, (1, 17, 2)), (20_000, 1, 1))
    found, sure = sample_detections(rng, truth, np.full(20_000, 480.0))
    assert found.shape == (20_000, 17, 2) and sure.shape == (20_000, 17, 1)
    error = np.linalg.norm(found - truth, axis=-1)
    median = np.median(error, 0)
    assert 2 < median[I("pelvis")] < 4 and median[I("left_wrist")] > 1.8 * median[I("left_shoulder")]
    assert 0.01 < (error[:, I("right_wrist")] > 40).mean() < 0.08
    assert sure.min() > 0 and sure.max() <= 1 and 0.6 < sure.mean() < 0.9
    assert sure[..., 0][error > 60].mean() < 0.5 < sure[..., 0][error < 5].mean()
    knees = truth[0, [I("left_knee"), I("right_knee")]]
    swapped = np.linalg.norm(found[:, I("left_knee")] - knees[1], axis=-1) < 10
    assert 0.005 < swapped.mean() < 0.05
