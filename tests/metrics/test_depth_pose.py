"""Figures of the depth datasets: worked by hand, equal to the original's, and those of published result files."""

import doctest

import numpy as np
import pytest

from posekit.data.depth_results import read_results
from posekit.geometry.depth import DATASET_CAMERAS, dataset_camera, world_to_pixel
from posekit.metrics import depth_pose
from posekit.metrics.depth_pose import (
    PROTOCOLS,
    accuracy_curves,
    comparison_table,
    dataset_protocol,
    evaluate,
    evaluate_results,
    mean_joint_errors,
)
from posekit.metrics.mpjpe import joint_distances
from posekit.skeletons import HANDS21, ITOP15, MSRA21
from posekit.testing import load_fixture, shared_data


def shifted(distances, seed=0):
    """A truth, and predictions that are these distances away from it, `[frames, joints]`, in some direction."""
    distances = np.asarray(distances, np.float64)
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 60, (*distances.shape, 3)) + [0, 0, 400]
    away = rng.normal(size=truth.shape)
    return truth + distances[..., None] * away / np.linalg.norm(away, axis=-1, keepdims=True), truth


def test_equal_to_the_original():
    fixture = load_fixture("v2v_accuracy")
    predicted, truth = fixture["pred"], fixture["gt"]
    np.testing.assert_allclose(joint_distances(predicted, truth), fixture["dist_err"], rtol=1e-12)
    np.testing.assert_allclose(mean_joint_errors(predicted, truth), fixture["mean_err"], rtol=1e-12)
    flat = mean_joint_errors(predicted.reshape(-1, 1, 3), truth.reshape(-1, 1, 3))
    np.testing.assert_allclose(flat, fixture["mean_err_all"], rtol=1e-12)
    thresholds = np.linspace(0, 40, 100)
    np.testing.assert_array_equal(thresholds, fixture["dist"])
    np.testing.assert_array_equal(accuracy_curves(predicted, truth, thresholds), fixture["acc"])
    custom = accuracy_curves(predicted, truth, fixture["acc_custom_dist"])
    np.testing.assert_array_equal(custom, fixture["acc_custom"])

    scores = evaluate(predicted, truth, MSRA21)
    np.testing.assert_allclose(scores.errors_mm, fixture["dist_err"], rtol=1e-12)
    np.testing.assert_allclose(scores.per_joint(), fixture["mean_err"], rtol=1e-12)
    np.testing.assert_allclose(scores.mean_mm, fixture["mean_err_all"][0], rtol=1e-12)
    np.testing.assert_array_equal(scores.joint_curves(thresholds), fixture["acc"])


def test_figures_worked_by_hand():
    scores = evaluate(*shifted([[3, 9], [5, 31], [50, 70], [1, 2]]))
    assert scores.num_frames == 4
    np.testing.assert_allclose(scores.per_joint(), [14.75, 28])
    np.testing.assert_allclose(scores.mean_mm, 21.375)
    np.testing.assert_allclose(scores.per_frame("max"), [9, 31, 70, 2])
    np.testing.assert_allclose(scores.per_frame("mean"), [6, 18, 60, 1.5])
    np.testing.assert_allclose(scores.success_curve([0, 8, 20, 80]), [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(scores.success_curve([0, 8, 20, 80], by="mean"), [0, 0.5, 0.75, 1])
    np.testing.assert_allclose(scores.joint_curves([4, 40]), [[0.5, 0.75], [0.25, 0.75]])
    np.testing.assert_allclose(scores.precision(), [0.75, 0.5])
    np.testing.assert_allclose(scores.mean_average_precision(20), 0.625)
    assert scores.success_curve().shape == (81,) and scores.joint_curves().shape == (2, 81)
    summary = scores.summary()
    assert summary["frames_within_20mm"] == 0.5 and summary["frames_within_40mm"] == 0.75 and summary["map_10cm"] == 1
    assert scores.notes() == []
    with pytest.raises(ValueError, match="by is 'median'; choose from"):
        scores.per_frame("median")


def test_a_threshold_itself_is_not_within():
    truth = np.zeros((1, 1, 3))
    scores = evaluate(truth + [0, 0, 20], truth)
    np.testing.assert_array_equal(scores.success_curve([19, 20, 21]), [0, 0, 1])


def test_map_of_bodies_counts_valid_joints_only():
    distances = np.full((4, 15), 0.05)
    head, left_hand, right_hand = (ITOP15.index(name) for name in ("head", "left_hand", "right_hand"))
    distances[:2, head] = 0.2
    distances[:, right_hand] = 0.3
    valid = np.ones((4, 15), bool)
    valid[0, head] = False
    predicted, truth = shifted(distances)
    truth[0, head] = np.nan
    scores = evaluate(predicted, truth, ITOP15, valid, within_mm=100, unit_mm=1000)
    precision = scores.precision()
    np.testing.assert_allclose(precision[[head, left_hand, right_hand]], [2 / 3, 1, 0])
    np.testing.assert_allclose(scores.mean_average_precision(), (2 / 3 + 13) / 15)
    np.testing.assert_allclose(scores.mean_mm, (200 + 4 * 300 + 54 * 50) / 59)
    np.testing.assert_allclose(scores.per_frame("mean")[0], (300 + 13 * 50) / 14)
    lines = scores.table(sides=False).splitlines()
    hand = next(line for line in lines if line.startswith("| hand"))
    assert len(lines) == 4 + 9 + 1 and hand.split("|")[2:4] == [" 175.00 ", "      50.00 "]
    assert "1 of 60 joints are not valid" in scores.notes()[0]

    frames = evaluate(predicted, truth, ITOP15, [0, 1, 1, 0], within_mm=100, unit_mm=1000)
    assert frames.num_frames == 2
    np.testing.assert_allclose(frames.precision()[head], 0.5)
    none = evaluate(predicted, truth, ITOP15, np.zeros(4, bool))
    assert none.num_frames == 0 and np.isnan(none.mean_mm) and np.isnan(none.success_curve()).all()
    assert "nan" in none.table()


def test_parts_of_a_test_set():
    distances = np.full((5, 21), 7.0)
    distances[3:] = 12.0
    scores = evaluate(*shifted(distances), HANDS21, groups=["seen"] * 3 + ["unseen"] * 2)
    summary = scores.summary()
    np.testing.assert_allclose(
        [summary[f"mean_error_mm{part}"] for part in ("", "/seen", "/unseen")], [9, 7, 12], rtol=1e-12
    )
    assert scores.parts()["seen"].num_frames == 3 and scores.parts()["seen"].parts() == {}
    assert "seen mm | unseen mm" in scores.table()
    assert evaluate(*shifted(distances)).parts() == {}


def test_bad_predictions_are_named_or_left_out():
    predicted, truth = shifted(np.full((3, 2), 10.0))
    predicted[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 3 predicted frames hold NaN.*number 1.*skip_bad"):
        evaluate(predicted, truth)
    scores = evaluate(predicted, truth, skip_bad=True)
    np.testing.assert_allclose(scores.mean_mm, 10)
    assert scores.num_frames == 2 and scores.bad.tolist() == [False, True, False]
    assert scores.notes() == ["1 of 3 predictions hold NaN or infinity (first: number 1) and count nowhere."]
    sure = evaluate(predicted, truth, valid=[[1, 1], [0, 1], [1, 1]])  # what is not valid may be anything
    assert sure.num_frames == 3 and not sure.bad.any()
    far = predicted.copy()
    far[1, 0, 2] = 1e300
    with np.errstate(over="ignore"):
        assert evaluate(far, truth).mean_mm == np.inf  # not silently left out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(predicted=np.zeros((4, 21, 3))), r"shape \(4, 21, 3\) and truth \(3, 21, 3\)"),
        (dict(predicted=np.zeros((3, 16, 3))), r"shape \(3, 16, 3\)"),
        (dict(predicted=np.zeros((3, 63)), truth=np.zeros((3, 63))), r"\[frames, joints, 3\]"),
        (dict(predicted=np.zeros((3, 0, 3)), truth=np.zeros((3, 0, 3))), r"\[frames, joints, 3\]"),
        (dict(skeleton=ITOP15), "have 21 joints, skeleton 'ITOP15' has 15"),
        (dict(valid=np.ones((3, 20), bool)), r"valid has the shape \(3, 20\).*\(3,\) or \(3, 21\)"),
        (dict(valid=np.full(3, 0.5)), "dtype float64"),
        (dict(groups=["seen"]), "one name for each of the 3 frames"),
        (dict(truth=np.full((3, 21, 3), np.inf)), "truth holds NaN or infinity in 3 frames, first in number 0"),
    ],
)
def test_wrong_input_is_named(change, message):
    arguments = dict(predicted=np.zeros((3, 21, 3)), truth=np.zeros((3, 21, 3))) | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_functions_refuse_other_shapes():
    with pytest.raises(ValueError, match="shape"):
        mean_joint_errors(np.zeros((2, 3, 3)), np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        accuracy_curves(np.zeros((2, 3)), np.zeros((2, 3)), [1.0])
    with pytest.raises(ValueError, match="rising"):
        accuracy_curves(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), [2.0, 1.0])
    assert np.isnan(mean_joint_errors(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)))).all()
    lost = np.zeros((2, 2, 3))
    lost[0, 0] = np.nan
    np.testing.assert_array_equal(mean_joint_errors(lost, np.zeros((2, 2, 3))), [np.nan, 0])
    np.testing.assert_array_equal(accuracy_curves(lost, np.zeros((2, 2, 3)), [1.0]), [[0.5], [1]])


def test_methods_beside_each_other():
    ours, theirs = (evaluate(*shifted(np.full((2, 21), size)), MSRA21) for size in (8.0, 9.5))
    table = comparison_table({"V2V": ours, "other": theirs})
    assert table.splitlines()[1] == "| joint      |  V2V | other |"
    assert table.splitlines()[-2] == "| all        | 8.00 |  9.50 |"
    with pytest.raises(ValueError, match="2 different sets"):
        comparison_table({"a": ours, "b": evaluate(*shifted(np.ones((2, 15))), ITOP15)})


def test_published_result_files_score_as_published():
    folder = shared_data() / "icvl"
    truth, _ = read_results(folder / "icvl_test_groundtruth_label.txt", num_joints=16, count=1596)
    scores = {}
    for name, file in {"V2V-PoseNet": "CVPR18_ICVL_V2V_PoseNet.txt", "Pose-REN": "NEUCOM18_ICVL_Pose_REN.txt"}.items():
        predicted, _ = read_results(folder / file, num_joints=16, count=len(truth))
        scores[name] = evaluate_results(predicted, truth, "icvl")
    assert [f"{score.mean_mm:.2f}" for score in scores.values()] == ["6.28", "6.79"]
    assert comparison_table(scores).splitlines()[-2] == "| all         |        6.28 |     6.79 |"
    assert all(0.95 < score.success_curve([40.0], by="mean")[0] <= 1 for score in scores.values())


@pytest.mark.parametrize("dataset", sorted(PROTOCOLS))
def test_pixels_and_world_score_the_same(dataset):
    protocol = dataset_protocol(dataset)
    unit_mm = 1000.0 if dataset == "itop" else 1.0
    predicted, truth = (joints / unit_mm for joints in shifted(np.full((6, protocol.skeleton.num_joints), 8.0)))
    own = dataset_camera(dataset)
    pixels, true_pixels = world_to_pixel(predicted, own), world_to_pixel(truth, own)
    forms = {"pixel": (pixels, true_pixels), "world": (predicted, truth)}
    for kind, true_kind in ((a, b) for a in forms for b in forms):
        scores = evaluate_results(forms[kind][0], forms[true_kind][1], dataset, kind, true_kind, own)
        np.testing.assert_allclose(scores.errors_mm, 8, rtol=1e-9)
    mixed = evaluate_results(pixels, truth, dataset, "pixel", "world")  # the world's camera is the dataset's own
    np.testing.assert_allclose(mixed.errors_mm, 8, rtol=1e-9)
    published = evaluate_results(*forms[protocol.coordinates], dataset)
    np.testing.assert_allclose(published.mean_mm, 8, rtol=2e-3)
    assert published.within_mm == (100 if dataset == "itop" else 20) and published.joints == protocol.skeleton.joints


def test_datasets_and_coordinates_are_checked():
    assert set(PROTOCOLS) == set(DATASET_CAMERAS)
    assert dataset_protocol("itop_top") is dataset_protocol("itop_front") is PROTOCOLS["itop"]
    joints = np.ones((2, 16, 3))
    with pytest.raises(ValueError, match="dataset is 'coco'; choose from msra, icvl"):
        evaluate_results(joints, joints, "coco")
    with pytest.raises(ValueError, match="coordinates are 'uvd'; choose from"):
        evaluate_results(joints, joints, "icvl", "uvd")
    with pytest.raises(ValueError, match="have 16 joints, skeleton 'MSRA21' has 21"):
        evaluate_results(joints, joints, "msra")
    with pytest.raises(ValueError, match=r"shape \(2, 16, 2\)"):
        evaluate_results(joints[..., :2], joints, "icvl")
    with pytest.raises(ValueError, match="hold NaN"):
        evaluate_results(np.full_like(joints, np.nan), joints, "icvl")


def test_examples():
    assert doctest.testmod(depth_pose).failed == 0
