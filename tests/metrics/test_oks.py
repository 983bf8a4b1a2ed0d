import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from posekit.metrics import oks
from posekit.skeletons import COCO17


@pytest.fixture
def people():
    """Three true people and two found ones; the second true one has joints without labels, the third none."""
    rng = np.random.default_rng(0)
    true = rng.uniform(20, 200, (3, 17, 2))
    labelled = np.ones((3, 17), bool)
    labelled[1, ::3] = False
    labelled[2] = False
    found = true[[1, 0]] + rng.normal(size=(2, 17, 2)) * 6
    return found, true, labelled, np.array([120.0, 60.0, 70.0]) ** 2


def pictures(people, image_id=7):
    _, true, labelled, areas = people
    joints = np.concatenate([true, 2 * labelled[..., None]], -1) * labelled[..., None]
    low, high = true.min(1), true.max(1)
    boxes = np.concatenate([low, high - low], -1)
    picture = {"image_id": image_id, "height": 240, "width": 240, "joints": joints, "boxes": boxes, "areas": areas}
    return [picture | {"crowd": np.array([0, 0, 1])}, picture | {"image_id": image_id + 1, "crowd": np.zeros(3)}]


def test_similarity_equals_pycocotools(people):
    found, true, labelled, areas = people
    truth = oks.coco_truth(pictures(people), COCO17.joints)
    results = oks.coco_results(7, found, np.ones((2, 17)), np.array([0.9, 0.8]))
    reference, detected = COCO(), COCO()
    reference.dataset, detected.dataset = truth, {**truth, "annotations": oks._as_annotations(results)}
    reference.createIndex()
    detected.createIndex()
    evaluation = COCOeval(reference, detected, "keypoints")
    evaluation._prepare()
    expected = evaluation.computeOks(7, 1)
    mine = oks.keypoint_similarity(found, true, labelled, areas, oks.joint_sigmas(COCO17.joints))
    np.testing.assert_allclose(mine[:, :2], expected[:, :2], rtol=1e-4)  # results are rounded
    assert np.isnan(mine[:, 2]).all()
    assert mine[1, 0] > 0.5 > mine[0, 0]
    np.testing.assert_allclose(oks.joint_sigmas(COCO17.joints), evaluation.params.kpt_oks_sigmas)


def test_joints_that_are_not_found_count_as_far_away(people):
    found, true, labelled, areas = people
    sigmas = oks.joint_sigmas(COCO17.joints)
    found = true[:1].copy()
    found[0, :5] = np.nan
    assert oks.keypoint_similarity(found, true[:1], labelled[:1], areas[:1], sigmas)[0, 0] == pytest.approx(12 / 17)
    assert oks.keypoint_similarity(found[:0], true, labelled, areas, sigmas).shape == (0, 3)
    assert oks.keypoint_similarity(found, true[:0], labelled[:0], areas[:0], sigmas).shape == (1, 0)
    with pytest.raises(ValueError, match="do not fit"):
        oks.keypoint_similarity(found, true[:, :16], labelled, areas, sigmas)


def test_average_precision_of_perfect_missing_and_no_people(people, capsys):
    _, true, labelled, _ = people
    truth = oks.coco_truth(pictures(people), COCO17.joints)
    perfect = [entry for number in (7, 8) for entry in oks.coco_results(number, true[:2], labelled[:2], np.ones(2))]
    values = oks.average_precision(truth, perfect)
    assert set(values) == set(oks.METRICS)
    # Joints without labels count nowhere.
    assert values["ap"] == values["ap50"] == values["ar"] == 1.0
    assert values["ap_medium"] == values["ap_large"] == 1.0
    one_picture = oks.average_precision(truth, perfect[:2])
    assert one_picture["ar"] == pytest.approx(0.5)
    assert oks.average_precision(truth, [])["ap"] == 0.0
    nobody = oks.coco_truth([{**pictures(people)[0], "crowd": np.ones(3)}], COCO17.joints)
    assert oks.average_precision(nobody, [])["ap"] is None
    assert capsys.readouterr().out == ""


def test_joints_that_are_not_coco_s(people):
    """A skeleton of one's own is scored with sigmas of its own."""
    truth = oks.coco_truth(pictures(people), [f"part{number}" for number in range(17)])
    results = oks.coco_results(7, people[1][:2] + 9.0, np.ones((2, 17)), np.ones(2))
    strict, lenient = (oks.average_precision(truth, results, np.full(17, sigma))["ar"] for sigma in (0.02, 0.2))
    assert strict < lenient


def test_results_are_coco_s(people):
    found = people[0].astype(np.float32).copy()
    found[0, 3] = np.nan
    (first, second) = oks.coco_results(7, found, np.full((2, 17), 0.5), np.array([0.9, 0.8]))
    assert first["keypoints"][9:12] == [0, 0, 0] and len(second["keypoints"]) == 51 and second["category_id"] == 1
    truth = oks.coco_truth(pictures(people), COCO17.joints)
    for wrong in ({"image_id": 99}, {"keypoints": [0.0] * 54}):
        with pytest.raises(ValueError, match="99|54 numbers"):
            oks.average_precision(truth, [{**first, **wrong}])
