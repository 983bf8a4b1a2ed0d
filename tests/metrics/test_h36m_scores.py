import time

import numpy as np
import pytest

from posekit.codecs.screen_pose import camera_to_image
from posekit.geometry.alignment import procrustes
from posekit.metrics import auc3d, mpjpe, pck3d, procrustes_mpjpe
from posekit.metrics.h36m import Scores, error_table, evaluate
from posekit.testing import load_fixture

TESTS = {"test1": "denormalized", "test2": "denormalized2"}


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("lcn_data_eval")


def truth_of(fixture):
    keys = ("joint_3d_camera", "box", "fxfycxcy", "root_depth", "action")
    return tuple(fixture[f"test_{key}"] for key in keys)


@pytest.fixture(scope="module")
def scores(fixture):
    return {test: evaluate(fixture[key], *truth_of(fixture)) for test, key in TESTS.items()}


def made_up(count=150, noise=5.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 300, (count, 17, 3)) + (0, 0, 4500)
    lens = (1145.0, 1144.0, 512.0, 515.0)
    image, box = camera_to_image(truth, lens)
    return image + rng.normal(0, noise, image.shape), truth, box, lens, truth[:, 0, 2], np.arange(count) % 15 + 2


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_means_equal_the_original(fixture, scores, test, protocol):
    suffix = "_protocol2" if protocol == 2 else ""
    for kind, means in (("action", scores[test].per_action(protocol)), ("joint", scores[test].per_joint(protocol))):
        expected = fixture[f"eval_scale_{kind}{suffix}_{test}"]
        assert means.shape == expected.shape
        np.testing.assert_allclose(means, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("test", TESTS)
def test_every_joint_equals_the_original(fixture, scores, test):
    truth = fixture["test_joint_3d_camera"]
    for protocol, key in ((1, "camera_frame"), (2, "aligned")):
        expected = np.linalg.norm(fixture[f"{key}_{test}"] - truth, axis=-1)
        np.testing.assert_allclose(scores[test].errors(protocol), expected, rtol=0, atol=1e-4)
    aligned, _ = procrustes(fixture[f"camera_frame_{test}"], truth, reflection="best")
    np.testing.assert_allclose(aligned, fixture[f"aligned_{test}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["scale_action", "scale_action_protocol2", "scale_joint", "scale_joint_protocol2"])
def test_tables_equal_the_original_to_the_letter(fixture, scores, kind):
    printed = fixture["printed_tables_json"][kind]
    table = printed[printed.index("+-") :].rstrip("\n")
    per_joint, protocol = "joint" in kind, 2 if "protocol2" in kind else 1
    means = {name: one.per_joint(protocol) if per_joint else one.per_action(protocol) for name, one in scores.items()}
    assert error_table(means, per_joint) == table
    single = scores["test1"].table("test1", protocol, per_joint).splitlines()
    assert len(single) == 5 and all(cell.strip() in table for cell in single[3].split("|"))


def test_an_action_without_poses(fixture):
    there = fixture["test_action"] != 7
    found = evaluate(fixture["denormalized"][there], *(array[there] for array in truth_of(fixture)))
    np.testing.assert_allclose(found.per_action(), fixture["eval_missing_action7"], rtol=0, atol=1e-4)
    present = found.per_action(average="present")
    np.testing.assert_allclose(present[:-1], found.per_action()[:-1])
    assert np.isclose(present[-1], np.nanmean(present[:-1]))
    assert found.missing_actions == [7]
    assert len(found.notes()) == 1 and "action 7" in found.notes()[0] and "nan" in found.notes()[0]
    assert found.table().count("nan") == 2
    assert np.isfinite(list(found.summary().values())).all() and np.isnan(found.summary("all")["mpjpe"])
    with pytest.raises(ValueError, match="'all' or 'present'"):
        found.per_action(average="some")


def test_an_exact_prediction_has_no_error():
    found = evaluate(*made_up(noise=0.0))
    for protocol in (1, 2, "root"):
        assert found.errors(protocol).max() < 1e-9
    summary = found.summary()
    assert summary["pck3d"] == 1 and summary["auc3d"] == 30 / 31 and summary["mpjpe"] < 1e-9
    assert found.notes() == [] and found.missing_actions == []


def test_errors_are_those_of_the_plain_metrics():
    arguments = made_up()
    found = evaluate(*arguments)
    from posekit.codecs.screen_pose import image_to_camera

    predicted = image_to_camera(arguments[0], arguments[2], arguments[3], arguments[4])
    truth = arguments[1]
    np.testing.assert_allclose(found.errors(1).mean(-1), mpjpe(predicted, truth))
    np.testing.assert_allclose(found.errors("root").mean(-1), mpjpe(predicted, truth, root=0))
    np.testing.assert_allclose(found.errors(2).mean(-1), procrustes_mpjpe(predicted, truth, reflection="best"))
    assert np.isclose(found.summary()["pck3d"], pck3d(predicted, truth))
    assert np.isclose(found.summary()["auc3d"], auc3d(predicted, truth))
    # As many poses of every action: the mean over actions is the mean over poses.
    assert np.isclose(found.summary()["mpjpe"], mpjpe(predicted, truth).mean())
    with pytest.raises(ValueError, match=r"\[1, 2, 'root'\]"):
        found.errors(3)


def test_blocks_and_lenses_do_not_matter():
    image, truth, box, lens, depth, actions = made_up(9000)
    whole = evaluate(image, truth, box, lens, depth, actions)
    each = evaluate(image, truth, box, np.tile(lens, (9000, 1)), depth, actions)
    parts = [
        evaluate(*(a[k] for a in (image, truth, box)), lens, depth[k], actions[k]) for k in (np.s_[:50], np.s_[8990:])
    ]
    np.testing.assert_array_equal(whole.errors_mm, each.errors_mm)
    np.testing.assert_allclose(whole.aligned_errors_mm[:50], parts[0].aligned_errors_mm)
    np.testing.assert_allclose(whole.root_errors_mm[8990:], parts[1].root_errors_mm)


def test_bad_predictions_are_an_error_or_counted():
    image, *rest = made_up()
    good = evaluate(image, *rest)
    broken = image.copy()
    broken[[7, 20], 3] = np.nan
    broken[33, 0, 2] = np.inf
    with pytest.raises(ValueError, match=r"3 of 150 .* number 7.*skip_bad=True"):
        evaluate(broken, *rest)
    found = evaluate(broken, *rest, skip_bad=True)
    assert np.flatnonzero(found.bad).tolist() == [7, 20, 33]
    sound = ~found.bad
    for protocol in (1, 2, "root"):
        np.testing.assert_array_equal(found.errors(protocol)[sound], good.errors(protocol)[sound])
        assert np.isnan(found.errors(protocol)[found.bad]).all()
        assert np.isfinite(found.per_action(protocol)).all() and np.isfinite(found.per_joint(protocol)).all()
    assert "3 of 150 predictions" in found.notes()[0] and "number 7" in found.notes()[0]
    assert np.isfinite(list(found.summary().values())).all()


def test_degenerate_predictions_have_defined_errors():
    image, truth, box, lens, depth, actions = made_up()
    image[4] = image[4, 0]  # all joints in one place
    image[5, 1] = image[5, 2]  # a bone without length
    found = evaluate(image, truth, box, lens, depth, actions)
    spread = np.linalg.norm(truth[4] - truth[4].mean(0), axis=-1)
    np.testing.assert_allclose(found.aligned_errors_mm[4], spread, rtol=1e-6)
    assert np.isfinite(found.errors_mm).all() and np.isfinite(found.aligned_errors_mm).all()


def test_no_poses_at_all():
    found = evaluate(*(np.zeros(shape) for shape in ((0, 17, 3), (0, 17, 3), (0, 4), (0, 4), (0,))), np.zeros(0, int))
    assert np.isnan(found.per_action()).all() and np.isnan(found.per_joint()).all() and len(found.per_joint()) == 18
    assert np.isnan(list(found.summary().values())).all() and found.missing_actions == list(range(2, 17))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((150, 16, 3)), r"\(150, 16, 3\).*\(150, 17, 3\)"),
        (0, np.zeros((149, 17, 3)), "same poses"),
        (2, np.zeros((150, 3)), r"box_px has the shape \(150, 3\).*\(150, 4\)"),
        (2, np.zeros((150, 4)), "right of its left"),
        (3, np.zeros((2, 4)), "intrinsics"),
        (4, np.full(150, np.nan), "root_depth_mm holds NaN.*number 0"),
        (1, np.full((150, 17, 3), np.nan), "joints_cam_mm holds NaN"),
        (5, np.zeros(150, int), r"actions hold \[0\].*2 to 16"),
        (5, np.full(150, 17), r"actions hold \[17\]"),
        (5, np.zeros(150), "150 integers"),
    ],
)
def test_wrong_truth_is_named(position, value, message):
    arguments = list(made_up())
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments)


def test_tables_are_centred_as_pretty_tables_are():
    rows = {"a": [1.0, 22.22, 333.333, 0.004], "longer_name": [1000.0, 2.0, float("nan"), 5.0]}
    assert error_table(rows, per_joint=True).splitlines() == [
        "+-------------+---------+-------+--------+------+",
        "|  test_name  |    0    |   1   |   2    | avg  |",
        "+-------------+---------+-------+--------+------+",
        "|      a      |   1.00  | 22.22 | 333.33 | 0.00 |",
        "| longer_name | 1000.00 |  2.00 |  nan   | 5.00 |",
        "+-------------+---------+-------+--------+------+",
    ]
    with pytest.raises(ValueError, match="give every row 15"):
        error_table({"test1": [1.0, 2.0]})
    with pytest.raises(ValueError, match="errors"):
        error_table({})


def test_a_hundred_thousand_poses_take_little_time():
    arguments = made_up(20_000)
    start = time.perf_counter()
    found = evaluate(*arguments)
    found.summary()
    assert isinstance(found, Scores)
    assert 5 * (time.perf_counter() - start) < 5.0 * 3  # aimed for on an idle machine: 5 s; others may use this one
