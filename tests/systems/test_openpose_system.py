import gc
import tracemalloc
import types
import weakref

import cv2
import numpy as np
import pytest
import tensorflow as tf

from posekit.models.openpose import OpenPose
from posekit.predictor import Predictor, people_boxes
from posekit.results import People
from posekit.skeletons import COCO17, OPENPOSE18
from posekit.systems import openpose

JOINTS = np.array([
    (50, 20), (50, 34), (36, 34), (30, 50), (26, 66), (64, 34), (70, 50), (74, 66), (42, 68), (40, 92), (38, 116),
    (58, 68), (60, 92), (62, 116), (46, 14), (54, 14), (40, 17), (60, 17),
], np.float64) * 2  # fmt: skip
COLORS = [(int(level), 255 - int(level), 40) for level in np.linspace(20, 235, 18)]


def photograph(size=(280, 220), offset=(0, 0), scale=1.0):
    """Grey, with a disc of a colour of its own at each joint."""
    image = np.full((*size, 3), 128, np.uint8)
    for (x, y), color in zip(JOINTS * scale + offset, COLORS):
        cv2.circle(image, (round(x), round(y)), max(2, round(6 * scale)), color, -1, cv2.LINE_8)
    return image


class SeesColors:
    """Stands in for a network: finds the discs in what it is given, and answers with the maps that are right."""

    def __init__(self):
        self.seen = []

    def predict_on_batch(self, batch):
        self.seen.append(batch.shape)
        maps = [self.maps(picture) for picture in np.asarray(batch, np.float64)]
        return dict(zip(("heatmaps", "pafs"), (np.float32(part) for part in zip(*maps))))

    def maps(self, picture):
        places, there = np.zeros((1, 18, 2)), np.zeros((1, 18), bool)
        for joint, color in enumerate(COLORS):
            y, x = np.nonzero(np.abs(picture - color).max(-1) < 5)
            if len(x) > 3:
                places[0, joint], there[0, joint] = (x.mean(), y.mean()), True
        if places[0, 2, 0] > places[0, 5, 0]:  # a mirrored person's left is what was the right
            order = OPENPOSE18.flip_permutation
            places, there = places[:, order], there[:, order]
        return openpose.PafCodec().encode_numpy(places, there, picture.shape[:2])


def found(image, **options):
    model = SeesColors()
    (people,) = openpose.predict(openpose.Config(**options), model, [image])
    return people, model


@pytest.mark.parametrize(
    "options",
    [{}, {"decoding": "exact"}, {"decoding": "tf_pose", "min_score": 0.1}, {"scales": ("1", "1.5", "0.75")},
     {"flip_test": True}, {"decoding": "exact", "flip_test": True, "scales": ("1", "1.5")}, {"box_size": 280},
     {"network_size": "432x368"}, {"network_size": "432x368", "decoding": "exact", "scales": ("1", "1.5")},
     {"network_size": "224x440", "scales": ("1", "0.75"), "flip_test": True}],
    ids=str,
)  # fmt: skip
def test_joints_lie_where_they_are_in_the_picture(options):
    people, model = found(photograph(), **options)
    assert len(people) == 1 and people.skeleton == OPENPOSE18 and people.image_size == (280, 220)
    error = np.linalg.norm(people.keypoints_px[0] - JOINTS, axis=-1)
    # tf-pose's peaks lie on a grid of two pixels of the network's input, from the corner of its cells.
    assert error.max() < (6 if options.get("decoding") == "tf_pose" else 2.0)
    assert np.abs((people.keypoints_px[0] - JOINTS).mean(0)).max() < (6 if "tf_pose" in options.values() else 0.7)
    assert all(height % 8 == 0 and width % 8 == 0 for _, height, width, _ in model.seen)
    low, high = JOINTS.min(0), JOINTS.max(0)
    np.testing.assert_allclose(people.boxes[0], [*low, *(high - low)], atol=8)


def test_pictures_are_stretched_to_the_size_of_the_network():
    people, model = found(photograph(), network_size="432x368", scales=("1", "0.5"))
    assert sorted(model.seen) == [(1, 184, 216, 3), (1, 368, 432, 3)]
    assert people.maps["extent"] == pytest.approx((280, 220), abs=0.01)
    assert found(photograph(), network_size="432x368", decoding="exact")[1].seen == [(1, 368, 432, 3)]


@pytest.mark.parametrize("size", ["432", "432x", "x368", "432x368x3", "4x368", "432x5000", "-432x368", "axb"])
def test_sizes_of_the_network_that_are_none(size):
    with pytest.raises(ValueError, match=f"--network_size={size} is no width and height of 8 to 4096 pixels"):
        openpose.Config(network_size=size)


def test_options_of_decoding_are_used():
    assert len(found(photograph(), min_parts=18)[0]) == 1
    assert len(found(photograph(), peak_threshold=1.0)[0]) == 0
    assert len(found(photograph(), decoding="exact", min_score=5.0)[0]) == 0


@pytest.mark.parametrize(("joints", "least"), [(2, 1), (3, 2), (5, 3), (7, 4), (18, 4)])
def test_small_skeletons_need_half_of_their_joints(joints, least, monkeypatch):
    names = tuple("abcdefghijklmnopqr"[:joints])
    limbs = tuple(f"{one}:{other}" for one, other in zip(names, names[1:]))
    monkeypatch.setattr(openpose, "decode_paf", lambda *maps, **options: options)
    config = openpose.Config(joints=names, limbs=limbs)
    assert openpose._decoded(config, None, None)["min_parts"] == least
    assert openpose._decoded(config.replace(min_parts=joints), None, None)["min_parts"] == joints
    with pytest.raises(ValueError, match=f"min_parts={joints + 1} finds nobody: the skeleton has {joints} joints"):
        config.replace(min_parts=joints + 1)


@pytest.mark.parametrize("decoding", openpose.MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("network_size", ["", "432x288"])
def test_pictures_of_any_shape(size, network_size, decoding, monkeypatch):
    monkeypatch.setattr(openpose, "_MAX_INPUT", 1 << 17)
    people, model = found(np.full((*size, 3), 90, np.uint8), decoding=decoding, network_size=network_size)
    assert len(people) == 0 and people.image_size == size
    assert all(height * width <= 1.25 * openpose._MAX_INPUT for _, height, width, _ in model.seen)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)], ids=str)
def test_the_longest_strips_take_bounded_memory(size):
    """Padded before they are made smaller they would take a gigabyte."""

    def predict_on_batch(batch):
        count, height, width, _ = batch.shape
        channels = {"heatmaps": 19, "pafs": 38}
        return {name: np.zeros((count, height // 8, width // 8, depth)) for name, depth in channels.items()}

    image, model = np.full((*size, 3), 128, np.uint8), types.SimpleNamespace(predict_on_batch=predict_on_batch)
    tracemalloc.start()
    (people,) = openpose.predict(openpose.Config(), model, [image])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(people) == 0 and peak < 150 << 20
    assert sum(people.maps[name].size for name in ("heatmaps", "pafs")) < 57 * 2000


@pytest.mark.parametrize("decoding", ["fast", "exact"])
def test_people_in_long_strips_lie_where_they_are(decoding, monkeypatch):
    monkeypatch.setattr(openpose, "_MAX_INPUT", 1 << 19)
    image = np.full((280, 10_000, 3), 128, np.uint8)
    image[:, 6000:6220] = photograph()
    people, model = found(image, decoding=decoding, min_score=0.1)
    assert np.abs(people.keypoints_px[0] - JOINTS - (6000, 0)).max() < 12
    covered = people.maps["extent"]
    assert 280 <= covered[0] < 280 + 8 * 4 and 10_000 <= covered[1] < 10_000 + 8 * 8


@pytest.mark.parametrize("decoding", ["fast", "exact"])
def test_large_pictures_take_bounded_memory(decoding):
    """48 million pixels; maps of that size would take 10 GB."""
    image = np.zeros((6000, 8000, 3), np.uint8)
    image[:] = 128
    scale = 6000 / 280
    small = photograph()
    image[:, : small.shape[1] * 21] = cv2.resize(small, (small.shape[1] * 21, 6000), interpolation=cv2.INTER_NEAREST)
    people, model = found(image, decoding=decoding)
    assert max(height * width for _, height, width, _ in model.seen) <= openpose._MAX_INPUT
    error = np.linalg.norm(people.keypoints_px[0] - JOINTS * (21, scale), axis=-1)
    assert error.max() < 3 * scale
    assert sum(people.maps[name].nbytes for name in ("heatmaps", "pafs")) < 8 << 20


def test_wide_pictures_are_not_read_larger_than_the_network_can(monkeypatch):
    monkeypatch.setattr(openpose, "_MAX_INPUT", 1 << 16)
    people, model = found(photograph((280, 900)))
    assert all(height * width < 1.2 * (1 << 16) for _, height, width, _ in model.seen)
    assert np.linalg.norm(people.keypoints_px[0] - JOINTS, axis=-1).max() < 6


def test_a_scale_that_is_too_large_changes_no_other(monkeypatch):
    monkeypatch.setattr(openpose, "_MAX_INPUT", 400 * 400)
    config = openpose.Config(scales=("1", "4", "8"), box_size=200)
    assert openpose._possible_scales(config, np.zeros((100, 100, 3), np.uint8)) == [1, 2]
    model = SeesColors()
    openpose.predict(config.replace(decoding="exact"), model, [photograph()])
    assert model.seen[0][1:3] == (200, 160) and len(model.seen) == 2


@pytest.mark.parametrize(("people", "filled"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (33, 64)])
def test_xla_sees_few_numbers_of_people(people, filled):
    batch = {"joints_px": np.ones((2, people, 18, 2), np.float32), "present": np.ones((2, people, 18), bool)}
    made = openpose._with_rounded_people(batch)
    assert made["joints_px"].shape == (2, filled, 18, 2) and made["present"].shape == (2, filled, 18)
    assert made["present"].numpy().sum() == 2 * people * 18


def test_a_mirrored_test_needs_limbs_with_twins():
    with pytest.raises(ValueError, match="lacks its twin"):
        openpose.Config(flip_test=True, joints=("nose", "left_eye", "right_eye"), limbs=("nose:left_eye",))


def test_pictures_without_a_number_get_one_that_results_find(monkeypatch):
    class Record:
        def __init__(self, image_id):
            self.image_id = image_id

    ids = [7, 7, -1, 9, 0]
    monkeypatch.setattr(openpose.people_pipeline, "read_people", lambda *_: map(Record, ids))
    monkeypatch.setattr(openpose, "_is_hdf5", lambda *_: False)
    numbers = [number for number, _ in openpose._records(openpose.Config(), "val", 0)]
    assert numbers[0] == 7 and numbers[3:] == [9, 0] and len(set(numbers)) == 5
    assert [number for number, _ in openpose._records(openpose.Config(), "val", 3)] == numbers[:3]


def test_whoever_is_found_where_nobody_is_labelled_counts_neither_way():
    mask = np.ones((40, 40), bool)
    mask[:, 20:] = False
    points = np.array([[(5, 5), (10, 10), (30, 30)], [(5, 5), (30, 10), (30, 30)], [(np.nan,) * 2, (25, 5), (500, 9)]])
    assert openpose._masked(points, mask).tolist() == [False, True, True]


def test_pictures_of_one_size_are_read_together():
    pictures = [photograph(), photograph((280, 300)), photograph(offset=(5, 7))]
    model = SeesColors()
    people = openpose.predict(openpose.Config(), model, pictures, [None] * 3)
    assert sorted(shape[0] for shape in model.seen) == [1, 2]
    for these, offset in zip(people, ((0, 0), (0, 0), (5, 7))):
        assert np.abs(these.keypoints_px[0] - JOINTS - offset).max() < 2
    with pytest.raises(ValueError, match="finds the people itself"):
        openpose.predict(openpose.Config(), model, pictures[:1], [[[0, 0, 5, 5]]])


def test_many_models_and_sizes_are_not_traced_anew(caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    rng, config = np.random.default_rng(0), openpose.Config()
    for number in range(5):
        model = OpenPose("mobilenet_thin", num_stages=1, backbone_width=0.05, stage_width=0.05)
        for dtype in (np.uint8, np.float32):  # of fast and of exact decoding
            for width in (40, 48, 72):
                batch = rng.integers(0, 255, (1 + number, 48, width, 3)).astype(dtype)
                maps = openpose._forward(config, model, batch)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]
    expected = model.predict_on_batch(batch)
    for one, name in zip(maps, ("heatmaps", "pafs")):
        np.testing.assert_allclose(one, expected[name], atol=1e-6)
    left = weakref.ref(model)
    del model
    gc.collect()
    assert left() is None


def test_views_show_people_heatmaps_and_fields(tmp_path):
    image = photograph()
    people, _ = found(image)
    pictures = {view: openpose.draw(people, image, view) for view in openpose.VIEWS}
    assert all(picture.shape == image.shape and picture.dtype == np.uint8 for picture in pictures.values())
    x, y = JOINTS[4].astype(int)  # the right wrist: its heatmap and the end of its limb's field, nothing around
    for view in ("heatmaps", "fields"):
        spread = np.ptp(pictures[view].astype(int), axis=-1)
        assert spread[y - 3 : y + 4, x - 3 : x + 4].mean() > 40 > spread[:20, :20].mean()
    people.image, people.renderer = image, openpose.render
    assert np.array_equal(people.draw(tmp_path / "out.png"), pictures["people"])
    for view, name in (("heatmaps", "heatmaps"), ("fields", "fields"), ("pafs", "fields")):
        assert np.array_equal(people.draw(tmp_path / f"{view}.png", view=view), pictures[name])
        assert (tmp_path / f"{view}.png").stat().st_size > 1000
    assert (people.draw(width=30) != pictures["people"]).any()
    assert people.draw(view="heatmaps", grid=True).shape[0] > 4 * 280
    with pytest.raises(ValueError, match="view='maps': choose one of people, heatmaps, fields"):
        people.draw(view="maps")
    assert (tmp_path / "out.png").exists()
    people.maps = None
    assert openpose.draw(people, image, "fields").shape == image.shape
    with pytest.raises(ValueError, match="carry no image"):
        openpose.render(people, None)


def test_a_skeleton_of_one_s_own():
    config = openpose.Config(joints=("head", "left_hand", "right_hand", "tail"), limbs=(
        "head:left_hand", "head:right_hand", "left_hand:right_hand", "head:tail",
    ))  # fmt: skip
    own = openpose.skeleton(config)
    assert own.num_joints == 4 and len(own.limbs) == 4
    assert own.bone_names == (("left_hand", "head"), ("right_hand", "head"), ("tail", "head"))
    assert openpose.Config.from_dict(config.to_dict()) == config
    assert openpose.skeleton(openpose.Config(skeleton="COCO17")) == COCO17
    for wrong, words in (
        ({"joints": ("head",)}, "go together"),
        ({"joints": ("head", "tail"), "limbs": ("head-tail",)}, "FROM:TO"),
        ({"joints": ("head", "tail"), "limbs": ("head:foot",)}, "foot"),
        ({"scales": ()}, "scales"),
        ({"scales": ("0",)}, "scales"),
        ({"image_size": 100}, "multiple"),
        ({"scale_min": 2.0}, "scale_min"),
        ({"jit_compile": True, "debug_numerics": True}, "debug_numerics"),
    ):
        with pytest.raises(ValueError, match=words):
            openpose.Config(**wrong)


def test_boxes_of_people():
    points, scores = JOINTS[None].copy(), np.ones((1, 18))
    points[0, 10], scores[0, 10] = np.nan, 0
    points[0, 13], scores[0, 13] = (500, 500), 0.1
    people = People(points, scores, OPENPOSE18, (600, 600))
    np.testing.assert_allclose(people_boxes(people), [[52, 28, 148, 184]])
    people.scores[:] = 0.1
    assert people_boxes(people)[0, 2] == 500
    assert people_boxes(None) is None and people_boxes(people[:0]).shape == (0, 4)
    people.keypoints_px[:] = np.nan
    with pytest.raises(ValueError, match="person 0"):
        people_boxes(people)
    with pytest.raises(TypeError, match="give the People"):
        people_boxes([[0, 0, 5, 5]])


def test_people_of_one_system_are_the_boxes_of_another():
    def predict(config, model, images, boxes):
        given.extend(boxes)
        return [People(np.zeros((0, 17, 2)), np.zeros((0, 17)), COCO17, image.shape[:2]) for image in images]

    given, image = [], photograph()
    predictor = Predictor("fake", types.SimpleNamespace(predict=predict), None, None)
    people, _ = found(image)
    predictor(image, people=people)
    predictor([image, image], people=[people, None])
    np.testing.assert_allclose(given[0], given[1])
    assert given[2] is None and given[0].shape == (1, 4)
    with pytest.raises(ValueError, match="not both"):
        predictor(image, people=people, boxes=[[0, 0, 1, 1]])
