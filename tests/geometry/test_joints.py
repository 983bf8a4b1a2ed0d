"""Joints between skeletons: by name, by rules, and reported honestly."""

import numpy as np
import pytest

from posekit.bodies import sample_body
from posekit.data.synthetic import pose_body, sample_poses
from posekit.geometry.joints import DERIVED, GUESSED, OBSERVED, infer_joints
from posekit.skeletons import (
    BODY25,
    COCO17,
    COCO_PLUS19,
    H36M17,
    H36M32,
    LSP14,
    MPII16,
    OPENPOSE18,
    SMPL24,
    Skeleton,
)


@pytest.fixture(scope="module")
def bodies():
    """Joints of people in everyday poses by name, `[people, 3]` millimetres each."""
    body, rng = sample_body(), np.random.default_rng(3)
    keypoints = np.stack([pose_body(body, pose, np.zeros(10)).keypoints for pose in sample_poses(rng, 60)]) * 1000.0
    named = {name: keypoints[:, index] for index, name in enumerate(COCO_PLUS19.joints)}
    named["pelvis"] = (named["left_hip"] + named["right_hip"]) / 2
    named["mid_shoulders"] = (named["left_shoulder"] + named["right_shoulder"]) / 2
    named["thorax"] = named["neck"]
    named["spine"] = (named["pelvis"] + named["thorax"]) / 2
    return named


def joints_of(bodies, skeleton):
    names = {"neck": "mid_shoulders"} if skeleton in (OPENPOSE18, BODY25) else {}
    zeros = np.zeros_like(bodies["pelvis"])
    return np.stack([bodies.get(names.get(name, name), zeros) for name in skeleton.joints], -2)


def test_shared_names_go_over_untouched(bodies):
    points = joints_of(bodies, COCO17)
    scores = np.random.default_rng(0).uniform(0.1, 1, points.shape[:-1])
    found = infer_joints(points, scores, COCO17, H36M17)
    for name in set(COCO17.joints) & set(H36M17.joints):
        np.testing.assert_array_equal(found.points[:, H36M17.index(name)], points[:, COCO17.index(name)])
        np.testing.assert_array_equal(found.scores[:, H36M17.index(name)], scores[:, COCO17.index(name)])
        assert (found.origin[:, H36M17.index(name)] == OBSERVED).all()
    assert found.derived == ("pelvis", "spine", "thorax", "head_top")
    assert found.guessed == found.missing == () and found.usable.all()


@pytest.mark.parametrize("source", [COCO17, OPENPOSE18, BODY25, COCO_PLUS19, LSP14, H36M17], ids=lambda s: s.name)
def test_derived_joints_lie_where_the_body_has_them(bodies, source):
    found = infer_joints(joints_of(bodies, source)[..., :2], None, source, H36M17)
    distance = np.linalg.norm(found.points - joints_of(bodies, H36M17)[..., :2], axis=-1).mean(0)
    worst = dict(zip(H36M17.joints, distance.round(1)))
    assert found.usable.all() and found.missing == found.guessed == ()
    # In millimetres of a body 1.7 m tall. LSP has no face, so that nothing tells how the head is turned.
    limits = {"head_top": 20, "thorax": 25, "spine": 13, "nose": 60 if source is LSP14 else 1, "pelvis": 1e-6}
    for name, value in worst.items():
        assert value <= limits.get(name, 1e-9), worst


def test_a_top_of_the_head_is_found_without_ears(bodies):
    points = joints_of(bodies, COCO17)[..., :2]
    truth = bodies["head_top"][:, :2]
    for hidden, limit in (
        (("left_ear", "right_ear"), 35),
        (("left_ear", "right_ear", "left_eye"), 40),
        (("left_ear", "right_ear", "left_eye", "right_eye"), 40),
        (("nose", "right_ear", "left_eye", "right_eye"), 60),
        (("nose", "left_ear", "right_ear", "left_eye", "right_eye"), 65),
    ):
        scores = np.ones(points.shape[:-1])
        scores[:, [COCO17.index(name) for name in hidden]] = 0
        found = infer_joints(points, scores, COCO17, H36M17)
        top = found.points[:, H36M17.index("head_top")]
        assert np.linalg.norm(top - truth, axis=-1).mean() < limit, hidden
        assert ("head_top" in found.guessed) == ("nose" in hidden)


def test_scores_of_derived_joints_are_the_lowest_of_their_sources(bodies):
    scores = np.ones((60, 17))
    scores[:, COCO17.index("left_hip")], scores[:, COCO17.index("right_shoulder")] = 0.5, 0.25
    found = infer_joints(joints_of(bodies, COCO17), scores, COCO17, H36M17)
    assert found.scores[0, H36M17.index("pelvis")] == 0.5
    assert found.scores[0, H36M17.index("spine")] == found.scores[0, H36M17.index("thorax")] == 0.25


@pytest.mark.parametrize(
    "name", ["left_ankle", "right_wrist", "left_elbow", "right_knee", "left_hip", "right_shoulder"]
)
@pytest.mark.parametrize("how", ["score", "nan", "threshold"])
def test_one_missing_joint_is_guessed_and_reported(bodies, name, how):
    points, scores = joints_of(bodies, COCO17)[..., :2].copy(), np.ones((60, 17))
    joint = COCO17.index(name)
    if how == "nan":
        points[:, joint] = np.nan
    else:
        scores[:, joint] = 0 if how == "score" else 0.2
        points[:, joint] = 1e9
    found = infer_joints(points, scores, COCO17, H36M17, min_score=0.3)
    place = H36M17.index(name)
    assert name in found.guessed and found.usable.all()
    assert (found.scores[:, place] == 0).all() and (found.origin[:, place] == GUESSED).all()
    assert np.linalg.norm(found.points[:, place] - bodies[name][:, :2], axis=-1).mean() < 160
    if name.endswith("hip"):  # the pelvis hangs on it
        assert "pelvis" in found.guessed and (found.scores[:, H36M17.index("pelvis")] == 0).all()


def test_whole_limbs_are_guessed(bodies):
    scores = np.ones((60, 17))
    scores[:, [COCO17.index(name) for name in ("left_knee", "left_ankle", "right_elbow", "right_wrist")]] = 0
    found = infer_joints(joints_of(bodies, COCO17), scores, COCO17, H36M17)
    assert set(found.guessed) == {"left_knee", "left_ankle", "right_elbow", "right_wrist"}
    assert np.isfinite(found.points).all()


def test_people_without_a_trunk_are_reported_not_invented(bodies):
    scores = np.ones((60, 17))
    scores[3, [COCO17.index("left_hip"), COCO17.index("right_hip")]] = 0
    scores[7, [COCO17.index("left_shoulder"), COCO17.index("right_shoulder")]] = 0
    scores[9] = 0
    found = infer_joints(joints_of(bodies, COCO17), scores, COCO17, H36M17)
    assert np.flatnonzero(~found.usable).tolist() == [3, 7, 9]
    assert np.isnan(found.points[[3, 7, 9]]).all() and (found.scores[[3, 7, 9]] == 0).all()
    assert np.isfinite(np.delete(found.points, [3, 7, 9], 0)).all() and found.missing == ()


def test_one_person_does_not_change_another(bodies):
    points, scores = joints_of(bodies, COCO17), np.ones((60, 17))
    scores[::2, [0, 3, 15]] = 0
    together = infer_joints(points, scores, COCO17, H36M17)
    for person in range(4):
        alone = infer_joints(points[person], scores[person], COCO17, H36M17)
        np.testing.assert_array_equal(alone.points, together.points[person])
        np.testing.assert_array_equal(alone.origin, together.origin[person])


def test_rules_hold_in_any_unit_and_place(bodies):
    points = joints_of(bodies, OPENPOSE18)[..., :2]
    plain = infer_joints(points, None, OPENPOSE18, H36M17).points
    moved = infer_joints(points * 0.4 + [300, -80], None, OPENPOSE18, H36M17).points
    np.testing.assert_allclose(moved, plain * 0.4 + [300, -80], atol=1e-9)


def test_left_and_right_are_treated_alike(bodies):
    points, scores = joints_of(bodies, COCO17)[..., :2], np.random.default_rng(1).integers(0, 2, (60, 17))
    flip = COCO17.flip_permutation
    plain = infer_joints(points, scores, COCO17, H36M17)
    mirrored = infer_joints(points[:, flip] * [-1, 1], scores[:, flip], COCO17, H36M17)
    back = mirrored.points[:, H36M17.flip_permutation] * [-1, 1]
    # One eye or ear alone is taken as it is; with both of a kind missing or there, nothing depends on the side.
    np.testing.assert_allclose(back, plain.points, atol=1e-9, equal_nan=True)


def test_necks_mean_what_their_skeleton_says(bodies):
    points = joints_of(bodies, H36M17)
    to_lsp = infer_joints(points, None, H36M17, LSP14).points[:, LSP14.index("neck")]
    np.testing.assert_allclose(to_lsp, bodies["thorax"])
    to_openpose = infer_joints(points, None, H36M17, OPENPOSE18).points[:, OPENPOSE18.index("neck")]
    np.testing.assert_allclose(to_openpose, bodies["mid_shoulders"])
    mpii = infer_joints(points, None, H36M17, MPII16)
    neck, thorax, top = (mpii.points[0, MPII16.index(name)] for name in ("neck", "thorax", "head_top"))
    np.testing.assert_allclose(neck, 0.7 * thorax + 0.3 * top)
    back = infer_joints(mpii.points, None, MPII16, H36M17)
    np.testing.assert_allclose(back.points[:, H36M17.index("thorax")], bodies["thorax"])
    assert back.derived == ("spine", "nose")


def test_smpl_joints_get_the_pelvis_between_the_hips():
    joints = sample_body().J_regressor @ sample_body().v_template
    found = infer_joints(joints, None, SMPL24, H36M17)
    hips = joints[[SMPL24.index("left_hip"), SMPL24.index("right_hip")]].mean(0)
    np.testing.assert_allclose(found.points[0], hips, atol=1e-6)
    assert found.missing == () and found.points[H36M17.index("head_top"), 1] == pytest.approx(0.552, abs=0.02)


def test_what_no_rule_gives_is_missing(bodies):
    found = infer_joints(joints_of(bodies, H36M17), None, H36M17, COCO17)
    assert found.missing == ("left_eye", "right_eye", "left_ear", "right_ear")
    assert np.isnan(found.points[:, COCO17.index("left_eye")]).all() and found.usable.all()


def test_other_skeletons_and_the_32_joints(bodies):
    seated = Skeleton(
        "seated", ("left_shoulder", "right_shoulder", "nose", "left_hip", "right_hip"), (("nose", "left_shoulder"),)
    )
    found = infer_joints(joints_of(bodies, seated), None, seated, H36M17)
    assert {"left_knee", "left_ankle", "right_wrist"} <= set(found.guessed) and found.missing == ()
    # An upper body is no less usable where hips are not asked for.
    bust = Skeleton("bust", ("left_shoulder", "right_shoulder", "nose"))
    found = infer_joints(joints_of(bodies, bust), None, bust, Skeleton("dots", ("thorax", "nose")))
    assert found.usable.all() and found.derived == ("thorax",)
    h36m = infer_joints(joints_of(bodies, H36M32), None, H36M32, H36M17)
    np.testing.assert_array_equal(h36m.points, joints_of(bodies, H36M17))
    assert (h36m.origin == OBSERVED).all() and DERIVED not in h36m.origin


def test_batches_of_any_shape():
    points = np.random.default_rng(2).normal(size=(2, 3, 17, 3))
    assert infer_joints(points, None, COCO17, H36M17).points.shape == (2, 3, 17, 3)
    empty = infer_joints(np.zeros((0, 17, 2)), np.zeros((0, 17)), COCO17, H36M17)
    assert empty.points.shape == (0, 17, 2) and empty.derived == ()


@pytest.mark.parametrize(
    "shape, words",
    [
        ((5, 16, 2), "'COCO17'.*MPII16 has 16"),
        ((17, 2, 4), "17, 2 or 3"),
        ((20, 2), "No known skeleton"),
        ((17,), "17"),
    ],
)
def test_wrong_sizes_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        infer_joints(np.zeros(shape), None, COCO17, H36M17)


def test_scores_must_fit():
    with pytest.raises(ValueError, match=r"\(4, 17\)"):
        infer_joints(np.zeros((4, 17, 2)), np.zeros((4, 16)), COCO17, H36M17)
