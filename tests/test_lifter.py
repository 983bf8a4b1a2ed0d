"""Lifting keypoints of one's own: `posekit.load("lcn")(keypoints_px, image_size=…)`."""

import dataclasses
import json

import numpy as np
import pytest

import posekit
from posekit.predictor import Lifter
from posekit.results import People
from posekit.skeletons import COCO17, H36M17, OPENPOSE18, Skeleton
from posekit.systems import lcn


@pytest.fixture(scope="module")
def lifter():
    return posekit.load("lcn", weights=None, channels=4, num_layers=1)


def figure(skeleton=H36M17, scale=3.0, middle=(500, 400)):
    """A standing person facing the camera, hands a little out."""
    places = {
        "pelvis": (0, 0), "hip": (10, 0), "knee": (12, 45), "ankle": (13, 90), "spine": (0, -25), "thorax": (0, -50),
        "neck": (0, -48), "nose": (0, -62), "head_top": (0, -75), "shoulder": (15, -48), "elbow": (25, -22),
        "wrist": (35, 2), "eye": (3, -65), "ear": (6, -64),
    }  # fmt: skip
    points = []
    for joint in skeleton.joints:
        side, _, name = joint.partition("_")
        x, y = places[name if side in ("left", "right") else joint]
        points.append((x if side == "left" else -x, y))
    return np.array(points, np.float64) * scale + middle


@pytest.mark.parametrize("skeleton", [H36M17, COCO17, OPENPOSE18], ids=lambda s: s.name)
def test_skeletons_go_over_by_name(lifter, skeleton):
    people = lifter(figure(skeleton), image_size=(1000, 1000), skeleton=skeleton.name)
    assert isinstance(people, People) and people.skeleton is H36M17
    assert people.joints3d.shape == (1, 17, 3) and np.isfinite(people.joints3d).all()
    np.testing.assert_array_equal(people.joints3d[:, 0], 0)
    expected = figure()
    limbs = [H36M17.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("hip", "knee", "wrist")]
    np.testing.assert_allclose(people.keypoints_px[0, limbs], expected[limbs], atol=1e-3)
    np.testing.assert_allclose(people.keypoints_px[0], expected, atol=30)


def test_one_array_several_people_and_lists(lifter):
    one = figure()
    options = {"image_size": (1000, 1000)}
    first = lifter(one, **options)
    both = lifter(np.stack([one, one + 50]), **options)
    assert len(first) == 1 and len(both) == 2
    # Where somebody stands in the picture makes no difference.
    np.testing.assert_allclose(both.joints3d[1], first.joints3d[0], atol=1e-4)
    listed = lifter([one, np.stack([one, one])], **options)
    assert [len(people) for people in listed] == [1, 2]
    assert len(lifter(one.tolist(), **options)) == 1
    again = lifter(People(one[None], np.ones((1, 17)), H36M17, (1000, 1000)))
    np.testing.assert_allclose(again.joints3d, first.joints3d, atol=1e-5)
    assert len(lifter(np.zeros((0, 17, 2)), **options)) == 0


def test_size_of_the_person_makes_no_difference_unless_the_image_places_them(lifter):
    near, far = figure(scale=4.0), figure(scale=1.0)
    size = (1000, 1000)
    person = [lifter(points, image_size=size).joints3d for points in (near, far)]
    np.testing.assert_allclose(*person, atol=1e-3)
    image = [lifter(points, image_size=size, placement="image").joints3d for points in (near, far)]
    assert np.abs(image[0] - image[1]).max() > 1e-3


def test_body_size_is_that_of_the_configuration():
    small = posekit.load("lcn", weights=None, channels=4, num_layers=1, body_size_mm=2000.0)
    joints = small(figure(), image_size=(1000, 1000)).joints3d[0]
    children, parents = np.array(H36M17.bones).T
    np.testing.assert_allclose(np.linalg.norm(joints[children] - joints[parents], axis=-1).sum(), 2.0, rtol=1e-5)


def test_missing_joints_are_guessed_and_a_missing_trunk_is_not(lifter):
    points = figure(COCO17)
    points[COCO17.index("left_ankle")] = np.nan
    scores = np.ones((17, 1))
    scores[COCO17.index("right_wrist")] = 0
    people = lifter(np.hstack([points, scores]), image_size=(1000, 1000), skeleton=COCO17)
    assert np.isfinite(people.joints3d).all()
    guessed = {name for name, score in zip(H36M17.joints, people.scores[0]) if score == 0}
    assert guessed == {"left_ankle", "right_wrist"}

    no_hips = figure(COCO17)
    no_hips[[COCO17.index("left_hip"), COCO17.index("right_hip")]] = np.nan
    both = lifter(np.stack([no_hips, points]), image_size=(1000, 1000), skeleton=COCO17)
    assert np.isnan(both.joints3d[0]).all() and np.isfinite(both.joints3d[1]).all()


def test_confidence_reaches_the_network():
    lifter = posekit.load("lcn", weights=None, channels=4, num_layers=1, in_features=3)
    sure = np.hstack([figure(), np.ones((17, 1))])
    doubtful = np.hstack([figure(), np.full((17, 1), 0.2)])
    results = [lifter(points, image_size=(1000, 1000)).joints3d for points in (sure, doubtful)]
    assert np.abs(results[0] - results[1]).max() > 1e-4


def test_the_folded_network_is_the_model(lifter):
    joints = np.random.default_rng(0).normal(0, 0.3, (5, 17, 2)).astype(np.float32)
    np.testing.assert_allclose(lifter.network(joints), lifter.model(joints), atol=1e-5)
    np.testing.assert_allclose(
        lcn.lift(lifter.config, lifter.network, joints), lcn.lift(lifter.config, lifter.model, joints), atol=1e-6
    )


def test_a_skeleton_of_ones_own(lifter):
    mine = Skeleton("MINE", tuple(reversed(H36M17.joints)))
    people = lifter(figure()[::-1], image_size=(1000, 1000), skeleton=mine)
    expected = lifter(figure(), image_size=(1000, 1000))
    np.testing.assert_allclose(people.joints3d, expected.joints3d, atol=1e-6)


@pytest.mark.parametrize(
    ("keypoints", "options", "message"),
    [
        (np.zeros((16, 2)), {"image_size": (10, 10), "skeleton": "H36M17"}, "17 joints"),
        (np.zeros((13, 2)), {"image_size": (10, 10)}, "13 joints: pass skeleton="),
        (np.zeros((17, 4)), {"image_size": (10, 10)}, "shape"),
        (np.zeros(34), {"image_size": (10, 10)}, "shape"),
        (np.array([["a"] * 2] * 17), {"image_size": (10, 10)}, "type"),
        (np.zeros((17, 2)), {}, "image_size="),
        (np.zeros((17, 2)), {"image_size": (10,)}, "image_size"),
        (np.zeros((17, 2)), {"image_size": (0, 5)}, "image_size"),
        (np.zeros((17, 2)), {"image_size": (10, 10), "skeleton": "COCO71"}, "COCO71"),
        (np.zeros((17, 2)), {"image_size": (10, 10), "placement": "middle"}, "placement"),
        (figure() / 1000, {"image_size": (1000, 1000)}, "normalised"),
        (figure(COCO17), {"image_size": (1000, 1000)}, "skeleton='COCO17'"),
        ("0", {}, "source=keypoints.json"),
        (np.where(np.arange(17)[:, None] == 3, 1e30, figure()), {"image_size": (9, 9)}, "Joint 3 of person 0 .*1e.30"),
        (np.where(np.arange(17)[:, None] == 3, -1e200, figure()), {"image_size": (10, 10)}, "Joint 3 of person 0"),
        (np.full((17, 2), 5.0), {"image_size": (10, 10)}, "person 0 lie on one point, .5.0, 5.0"),
        (np.stack([figure(), np.full((17, 2), 5.0)]), {"image_size": (10, 10)}, "person 1 lie on one point"),
        (People(np.full((1, 17, 2), 1e30), np.ones((1, 17)), H36M17, (9, 9)), {}, "farther out than 1e.07"),
        (figure(), {"image_size": (10, 10), "batch_size": 0}, "batch_size=0: give a whole number"),
        (figure(), {"image_size": (10, 10), "batch_size": "a"}, "batch_size='a'"),
        (figure(), {"image_size": (10**400, 5)}, "image_size"),
        (figure(), {"image_size": (-5, 5)}, "image_size"),
        (figure(), {"image_size": (10**6, 10**6)}, "image_size"),
        ([[1, 2], [3]], {"image_size": (10, 10)}, "rows of one length"),
        ([figure(), None], {"image_size": (10, 10)}, "rows of one length"),
        (np.zeros((0, 2)), {"image_size": (10, 10)}, "0 joints"),
    ],
)
def test_what_cannot_be_lifted_is_refused(lifter, keypoints, options, message):
    with pytest.raises(ValueError, match=message):
        lifter(keypoints, **options)


def test_joints_that_were_not_found_may_lie_anywhere(lifter):
    points = np.hstack([figure(), np.ones((17, 1))])
    wrist = H36M17.index("left_wrist")
    points[wrist] = [1e30, -1e200, 0]
    assert np.isfinite(lifter(points, image_size=(1000, 1000)).joints3d).all()
    points[wrist] = np.inf
    assert np.isfinite(lifter(points, image_size=(1000, 1000)).joints3d).all()


def test_files_in_a_list(lifter, tmp_path):
    for name, count in (("a", 1), ("b", 3)):
        np.savez(tmp_path / f"{name}.npz", keypoints=np.tile(figure(), (count, 1, 1)), image_size=(1000, 800))
    found = lifter([tmp_path / "a.npz", str(tmp_path / "b.npz"), figure()], image_size=(1000, 800), skeleton="H36M17")
    assert [people.source for people in found] == ["a", "b_000000", "b_000001", "b_000002", "image000002"]
    np.testing.assert_allclose(found[1].joints3d, found[4].joints3d, atol=1e-4)
    with pytest.raises(FileNotFoundError, match="c.npz does not exist"):
        lifter([tmp_path / "a.npz", tmp_path / "c.npz"], skeleton="H36M17")


def test_people_on_one_point_in_a_file_are_not_lifted(lifter, tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=np.stack([figure(), np.full((17, 2), 5.0)]), image_size=(1000, 800))
    there, not_there = lifter(tmp_path / "a.npz", skeleton="H36M17")
    assert np.isfinite(there.joints3d).all() and np.isnan(not_there.joints3d).all()


def test_boxes_do_not_go_with_keypoints(lifter):
    with pytest.raises(ValueError, match="Boxes"):
        next(lifter.stream([], boxes=[[0, 0, 1, 1]]))


def test_pictures_are_levelled_by_the_training_cameras(lifter):
    pitch = np.radians(lcn.Config().replace(camera_pitch_deg=20.0).camera_pitch_deg)
    upright = np.array([0.0, -np.cos(pitch), -np.sin(pitch)])
    people = lifter(figure(), image_size=(1000, 800))
    tilted = dataclasses.replace(people, joints3d=upright * np.linspace(0, 1, 17)[None, :, None], up=tuple(upright))
    level = lcn.level(tilted)
    np.testing.assert_allclose(level.joints3d[0, -1], [0, -1, 0], atol=1e-6)
    np.testing.assert_array_equal(lcn.level(dataclasses.replace(people, up=None)).joints3d, people.joints3d)


def test_openpose_json_has_the_3d_joints(lifter, tmp_path):
    people = lifter(figure(), image_size=(1000, 800))
    people.save(tmp_path / "out.json", style="openpose")
    triples = json.loads((tmp_path / "out.json").read_text())["people"][0]["pose_keypoints_3d"]
    wrist = np.reshape(triples, (18, 4))[OPENPOSE18.index("right_wrist")]
    np.testing.assert_allclose(wrist, [*people.joints3d[0, H36M17.index("right_wrist")], 1], atol=1e-5)
    with pytest.raises(ValueError, match="save_npz"):
        people.save(tmp_path / "out.npz")


def test_results_draw_and_save_themselves(lifter, tmp_path):
    people = lifter(figure(), image_size=(1000, 800))
    picture = people.draw(tmp_path / "out.png", image=np.full((800, 1000, 3), 200, np.uint8))
    assert picture.shape[1] > picture.shape[0] and (tmp_path / "out.png").exists()
    people.save(tmp_path / "out.json")
    again = lifter(tmp_path / "out.json")
    np.testing.assert_allclose(again[0].joints3d, people.joints3d, atol=1e-3)
    assert isinstance(lifter, Lifter)
