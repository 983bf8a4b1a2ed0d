import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import scipy.io
from pycocotools import mask as coco_mask

from posekit.data.schema import ImageRecord, MocapRecord
from posekit.data.tfrecord import (
    RecordWriter,
    dataset_files,
    mocap_files,
    num_examples,
    num_mocap,
    read_records,
)
from posekit.skeletons import COCO17, COCO_PLUS19, LSP14, MPII16
from posekit.testing import shared_data

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "create_dataset.py"


@pytest.fixture(autouse=True)
def tools_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(*arguments, status=0, **options):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), **options)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def encoded(pixels, suffix=".jpg"):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_mat(path, **arrays):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays)
    put(path, buffer.getvalue())


def put_npz(path, **arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    put(path, buffer.getvalue())


def picture(seed, size=(60, 50)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def labels(count, joints=14, seed=0):
    """`[count, 3, joints]`: inside a picture of 60 x 50, the third row 0 or 1."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(2, 48, (count, 2, joints))
    flags = rng.integers(0, 2, (count, 1, joints))
    # Of each value at least two in an image.
    flags[..., :2], flags[..., 2:4] = 0, 1
    return np.concatenate([points, flags], 1)


def make_lsp(folder, count=6, silhouettes=(1, 2, 5), truth=False):
    values = labels(count)
    put_mat(folder / "lsp_dataset" / "joints.mat", joints=values.transpose(1, 2, 0))
    for number in range(1, count + 1):
        put(folder / "lsp_dataset" / "images" / f"im{number:04d}.jpg", encoded(picture(number)))
        if number in silhouettes:
            mask = np.zeros((60, 50), np.uint8)
            mask[number : number + 9, 5:20] = 255
            put(folder / "upi-s1h" / "data" / "lsp" / f"im{number:04d}_segmentation.png", encoded(mask, ".png"))
    if truth:
        rng = np.random.default_rng(1)
        arrays = {"pose": rng.normal(size=(count, 72)), "shape": rng.normal(size=(count, 10))}
        put_npz(folder / "lsp_dataset" / "sample_truth.npz", joints3d=rng.normal(size=(count, 14, 3)), **arrays)
    return values


def make_lsp_extended(folder, count=4, size=(60, 50), silhouettes=()):
    values = labels(count, seed=1)
    put_mat(folder / "lspet_dataset" / "joints.mat", joints=values.transpose(2, 1, 0))
    for number in range(1, count + 1):
        put(folder / "lspet_dataset" / "images" / f"im{number:05d}.jpg", encoded(picture(number, size)))
        if number in silhouettes:
            mask = np.zeros((60, 50, 3), np.uint8)
            # Red alone, as the original reads it; OpenCV has red last.
            mask[3:9, 4:20, 2] = 255
            mask[30:40, 4:20, 0] = 255
            name = f"im{number:05d}_segmentation.png"
            put(folder / "upi-s1h" / "data" / "lsp_extended" / name, encoded(mask, ".png"))
    return values


def make_mpii(folder, count=3, first=1):
    values = labels(count, 16, seed=2)
    put_npz(folder / "upi-s1h" / "data" / "mpii" / "poses.npz", poses=values.transpose(1, 2, 0))
    for number in range(first, count + first):
        name = folder / "upi-s1h" / "data" / "mpii" / "images" / f"{number:05d}"
        put(name.with_suffix(".png"), encoded(picture(number), ".png"))
        mask = np.full((60, 50, 3), 255, np.uint8) if number != first else np.zeros((60, 50, 3), np.uint8)
        put(name.with_name(f"{name.name}_segmentation.png"), encoded(mask, ".png"))
    return values


def person(image_id, number, **changes):
    rng = np.random.default_rng(number)
    points = np.stack([rng.integers(40, 160, 17), rng.integers(30, 210, 17), np.full(17, 2)], 1)
    points[16] = [0, 0, 0]
    annotation = {
        "id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": [40.0, 30.0, 120.0, 180.0],
        "keypoints": points.ravel().tolist(), "num_keypoints": 16,
        "segmentation": [[40.0, 30.0, 160.0, 30.0, 160.0, 210.0, 40.0, 210.0]],
    }  # fmt: skip
    return annotation | changes


def make_coco(folder, annotations, images=3, split="train2017"):
    entries = []
    for number in range(1, images + 1):
        put(folder / "coco" / split / f"{number:012d}.jpg", encoded(picture(number, (240, 200))))
        entries.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 240, "width": 200})
    content = {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    put(folder / "coco" / "annotations" / f"person_keypoints_{split}.json", json.dumps(content).encode())


def records(folder, name):
    return [ImageRecord.from_example(record) for path in dataset_files(folder, name) for record in read_records(path)]


def poses(folder, name):
    return [MocapRecord.from_example(record) for path in mocap_files(folder, name) for record in read_records(path)]


def mask_of(record):
    return cv2.imdecode(np.frombuffer(record.silhouette, np.uint8), cv2.IMREAD_UNCHANGED)


def nothing_half_written(folder):
    return not [path for path in folder.rglob(".*")]


# ---------------------------------------------------------------------------------------------------------- LSP


def test_lsp_halves_visibility_silhouettes_and_truth(tmp_path):
    values = make_lsp(tmp_path, truth=True)
    result = run("--lsp=True", "--create_lsp_val", "--nolsp_ext", f"--data_dir={tmp_path}", status=0)
    assert "lsp_train" in result.stdout and "lsp_val" in result.stdout and "lsp_ext" not in result.stdout
    train, val = records(tmp_path, "lsp_train"), records(tmp_path, "lsp_val")
    assert [record.filename for record in train] == ["im0001.jpg", "im0002.jpg", "im0003.jpg"]
    assert [record.filename for record in val] == ["im0004.jpg", "im0005.jpg", "im0006.jpg"]
    truth = np.load(tmp_path / "lsp_dataset" / "sample_truth.npz")
    for index, record in enumerate(train + val):
        np.testing.assert_allclose(record.keypoints[:2], values[index, :2], rtol=1e-6)
        np.testing.assert_array_equal(record.keypoints[2], values[index, 2] == 0)
        visible = values[index, :2, values[index, 2] == 0]
        assert record.center == tuple(((visible.min(0) + visible.max(0)) / 2).astype(int))
        stored = (tmp_path / "lsp_dataset" / "images" / record.filename).read_bytes()
        assert record.image == stored and (record.height, record.width) == (60, 50)
        for key in ("pose", "shape", "joints3d"):
            np.testing.assert_allclose(getattr(record, key), truth[key][index], rtol=1e-6)
    assert [record.silhouette is not None for record in train + val] == [True, True, False, False, True, False]
    mask = mask_of(train[0])
    assert mask.ndim == 2 and mask[1:10, 5:20].all() and (mask > 0).sum() == 9 * 15
    assert num_examples(tmp_path, "lsp_train") == 3 and nothing_half_written(tmp_path)


def test_lsp_extended_visibility_and_red_silhouettes(tmp_path):
    values = make_lsp_extended(tmp_path, silhouettes=(2,))
    run("--lsp_ext", f"--data_dir={tmp_path}", "--silhouette_format=jpeg")
    found = records(tmp_path, "lsp_ext")
    np.testing.assert_array_equal([record.keypoints[2] for record in found], values[:, 2])
    assert [record.silhouette is not None for record in found] == [False, True, False, False]
    assert found[1].silhouette.startswith(b"\xff\xd8")
    mask = mask_of(found[1]) > 127
    assert mask[3:9, 4:20].all() and mask.sum() == 6 * 16


def test_real_lsp_extended():
    folder = shared_data() / "lspet_dataset"
    from converters.lsp import lsp_extended

    raw = lsp_extended(folder)
    assert len(raw.items) == 48 and raw.found == 48
    assert {skip.reason for skip in raw.skips} == {"missing image"} and len(raw.skips) == 9952
    assert raw.skips[0].name == "im00049.jpg"
    outputs = [output for item in raw.items for output in raw.convert(item)]
    assert all(isinstance(output, ImageRecord) for output in outputs) and len(outputs) == 48
    for record in outputs:
        visible = record.keypoints[2] > 0
        assert (record.keypoints[:2, visible] > -2).all()
        assert (record.keypoints[0, visible] < record.width + 1).all()
        assert (record.keypoints[1, visible] < record.height + 1).all()


def test_every_kind_of_bad_image_is_counted_by_name(tmp_path):
    values = make_lsp_extended(tmp_path, count=12)
    folder = tmp_path / "lspet_dataset" / "images"
    sound = (folder / "im00001.jpg").read_bytes()
    put(folder / "im00001.jpg", sound[: len(sound) // 2])
    put(folder / "im00002.jpg", b"no image")
    put(folder / "im00003.jpg", b"")
    (folder / "im00004.jpg").unlink()
    values[4, 2] = 0
    values[5, 0, 2] = np.nan
    values[6, :2, 2] = 1e6
    values[7, 2, 2] = np.nan
    values[8, :2] = np.nan
    values[8, 2] = 1
    # Without position but not visible either: that is how a joint is left out.
    values[9, :2, 0], values[9, 2, 0] = np.nan, 0
    put(folder / "im00099.jpg", sound)
    mask = np.full((7, 7), 255, np.uint8)
    put(tmp_path / "upi-s1h" / "data" / "lsp_extended" / "im00011_segmentation.png", encoded(mask, ".png"))
    put(tmp_path / "upi-s1h" / "data" / "lsp_extended" / "im00012_segmentation.png", b"no image")
    put_mat(tmp_path / "lspet_dataset" / "joints.mat", joints=values.transpose(2, 1, 0))
    result = run("--lsp_ext", f"--data_dir={tmp_path}", status=3)
    skipped = json.loads((tmp_path / "lsp_ext.json").read_text())["skipped"]
    assert {reason: entry["first"] for reason, entry in skipped.items()} == {
        "truncated image": ["im00001.jpg"],
        "not a JPEG or PNG image": ["im00002.jpg"],
        "empty image file": ["im00003.jpg"],
        "missing image": ["im00004.jpg"],
        "no visible joint": ["im00005.jpg"],
        "joint that is not a number (only that joint)": ["im00006.jpg", "im00008.jpg"],
        "joint outside the image (only that joint)": ["im00007.jpg"],
        "no visible joint left: joint that is not a number": ["im00009.jpg"],
        "image without labels": ["im00099.jpg"],
        "silhouette: not of the image's size (image kept)": ["im00011_segmentation.png"],
        "silhouette: not a JPEG or PNG image (image kept)": ["im00012_segmentation.png"],
    }
    for reason, entry in skipped.items():
        assert reason in result.stdout and entry["first"][0] in result.stdout
    kept = records(tmp_path, "lsp_ext")
    assert [record.filename for record in kept] == [f"im{number:05d}.jpg" for number in (6, 7, 8, 10, 11, 12)]
    assert all(np.isfinite(record.keypoints).all() for record in kept)
    assert kept[0].keypoints[2, 2] == 0 and kept[1].keypoints[2, 2] == 0
    assert run("--lsp_ext", f"--data_dir={tmp_path}", "--allow_skips").returncode == 0


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "There is no file"),
        (lambda path: path.write_bytes(b"MATLAB 5.0 nonsense" * 40), "cannot be read as a MATLAB file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "cannot be read as a MATLAB file"),
        (lambda path: path.write_bytes(b""), "cannot be read as a MATLAB file"),
        (lambda path: put_mat(path, other=np.ones(3)), "has no array 'joints'; it has ['other']"),
        (lambda path: put_mat(path, joints=np.ones((3, 13, 5))), "labels of shape [3, 13, 5]"),
        (lambda path: put_mat(path, joints=np.ones((3, 14, 0))), "labels of shape [3, 14, 0]"),
        (lambda path: put_mat(path, joints="text"), "an array of numbers"),
        (lambda path: put_mat(path, joints=np.full((3, 14, 2), 1j)), "complex numbers"),
        (lambda path: put_mat(path, joints={"a": 1}), "an array of numbers"),
    ],
)
def test_bad_label_files(tmp_path, spoil, message):
    from converters.lsp import lsp_extended

    from posekit.data.shards import NothingUsableError

    make_lsp_extended(tmp_path)
    spoil(tmp_path / "lspet_dataset" / "joints.mat")
    with pytest.raises(NothingUsableError) as caught:
        lsp_extended(tmp_path / "lspet_dataset")
    assert message in str(caught.value) and "joints.mat" in str(caught.value)


def test_truth_that_does_not_fit(tmp_path):
    from converters.lsp import lsp

    from posekit.data.shards import NothingUsableError

    make_lsp(tmp_path)
    arrays = {"pose": np.zeros((5, 72)), "shape": np.zeros((6, 10)), "joints3d": np.zeros((6, 14, 3))}
    put_npz(tmp_path / "lsp_dataset" / "sample_truth.npz", **arrays)
    with pytest.raises(NothingUsableError, match="'pose' has shape"):
        lsp("train", tmp_path / "lsp_dataset")


# --------------------------------------------------------------------------------------------------------- MPII


@pytest.mark.parametrize("first", [0, 1])
def test_mpii(tmp_path, first):
    values = make_mpii(tmp_path, first=first)
    values[1, :2, 15] = -1
    values[1, :2, 9] = np.nan
    values[2, :2, 8] = 0
    put_npz(tmp_path / "upi-s1h" / "data" / "mpii" / "poses.npz", poses=values.transpose(1, 2, 0))
    run("--create_mpii", f"--data_dir={tmp_path}")
    found = records(tmp_path, "mpii")
    assert [record.filename for record in found] == [f"{number:05d}.png" for number in range(first, first + 3)]
    # The table of the original.
    order = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9]
    np.testing.assert_allclose(found[0].keypoints[:2], values[0][:2, order], rtol=1e-6)
    np.testing.assert_array_equal(found[0].keypoints[2], values[0][2, order] == 0)
    left_wrist, neck, head = (LSP14.index(name) for name in ("left_wrist", "neck", "head_top"))
    assert not found[1].keypoints[2, [left_wrist, head]].any() and found[2].keypoints[2, neck] == 0
    assert [record.silhouette is not None for record in found] == [False, True, True]
    assert found[0].image_format == "PNG"


def test_mpii_with_the_other_convention(tmp_path):
    from converters.mpii import mpii

    values = make_mpii(tmp_path)
    raw = mpii(tmp_path / "upi-s1h" / "data" / "mpii", visible_value=1)
    ankle = MPII16.index("right_ankle")
    for index, item in enumerate(raw.items):
        assert item.keypoints[2, 0] == values[index, 2, ankle]


# --------------------------------------------------------------------------------------------------------- COCO


def test_coco_people_by_the_rules(tmp_path):
    few = person(1, 11)
    few["keypoints"][2::3] = [2] * 5 + [1] * 12
    face = person(1, 12)
    face["keypoints"][2::3] = [2] * 7 + [0] * 10
    annotations = [
        person(1, 10),
        few,
        face,
        person(1, 13, bbox=[0, 0, 60, 60]),
        person(1, 14, iscrowd=1),
        person(2, 15, segmentation=[]),
        person(2, 16, segmentation={"size": [240, 200], "counts": [1000, 500, 46500]}),
        person(2, 17, segmentation={"size": [1, 1], "counts": [1]}),
        person(3, 18, keypoints=[1, 2, 3]),
        person(99, 19),
        person(3, 20, category_id=2),
        "nonsense",
    ]
    make_coco(tmp_path, annotations)
    run("--coco", f"--data_dir={tmp_path}", status=3)
    found = {record.filename: record for record in records(tmp_path, "coco")}
    assert sorted(found) == [f"{image:012d}_{number}.jpg" for image, number in ((1, 10), (2, 15), (2, 16), (2, 17))]
    silhouettes = [found[name].silhouette is not None for name in sorted(found)]
    assert silhouettes == [True, False, True, False]
    summary = json.loads((tmp_path / "coco.json").read_text())
    rules = {reason: entry["count"] for reason, entry in summary["skipped"].items() if entry["by_rule"]}
    assert rules == dict.fromkeys(
        ("fewer than 6 visible joints", "only face and shoulders", "box of at most 60 px", "crowd"), 1
    )
    defects = {reason: entry["count"] for reason, entry in summary["skipped"].items() if not entry["by_rule"]}
    assert defects == {
        "malformed annotation": 3,
        "unusable segmentation: run lengths of another size (image kept)": 1,
    }
    record = found["000000000001_10.jpg"]
    assert record.keypoints.shape == (3, 19)
    hidden = [COCO_PLUS19.index(name) for name in ("neck", "head_top", "right_ankle")]
    assert not record.keypoints[2, hidden].any() and record.keypoints[2].sum() == 16


def test_coco_joints_stay_on_their_pixels(tmp_path):
    """One white pixel a joint: it lands where the joint lands, however the person is scaled."""
    from converters.coco import Person, convert_person

    names = ["left_ankle", "right_shoulder", "left_wrist", "right_hip", "nose", "left_elbow"]
    for spread, corner in ((300, (40, 60)), (90, (300, 200)), (40, (5, 380))):
        for seed, name in enumerate(names):
            rng = np.random.default_rng(seed)
            points = np.zeros((17, 3))
            points[:, :2] = np.array(corner) + rng.integers(0, spread, (17, 2))
            points[0, :2], points[1, :2] = corner, np.array(corner) + spread
            points[:, 2] = 2
            x, y = points[COCO17.index(name), :2].astype(int)
            image = np.zeros((480, 640, 3), np.uint8)
            image[y, x] = 255
            path = tmp_path / f"{spread}_{seed}.png"
            put(path, encoded(image, ".png"))
            (record,) = convert_person(Person(str(path), "p.jpg", 480, 640, points, None))
            pixels = cv2.imdecode(np.frombuffer(record.image, np.uint8), 0).astype(float)
            pixels[pixels < 8] = 0
            rows, columns = np.indices(pixels.shape)
            center = [(grid * pixels).sum() / pixels.sum() for grid in (columns, rows)]
            joint = record.keypoints[:2, COCO_PLUS19.index(name)]
            np.testing.assert_allclose(center, joint, atol=0.7)
            visible = record.keypoints[:2, record.keypoints[2] > 0]
            assert (visible > -1).all() and (visible.T < [record.width, record.height]).all()
            assert max(record.height, record.width) <= 400
            extent = np.linalg.norm(visible.max(1) - visible.min(1))
            assert abs(extent - 150) < 4


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_equal_pycocotools(compressed):
    from converters.coco import segmentation_mask

    mask = (np.random.default_rng(0).random((37, 53)) > 0.6).astype(np.uint8)
    mask[10:30, 5:40] = 1
    lengths = coco_mask.encode(np.asfortranarray(mask))
    if compressed:
        segmentation = {"size": [37, 53], "counts": lengths["counts"].decode()}
    else:
        flat = np.concatenate([[0], mask.ravel("F"), [2]])
        changes = np.flatnonzero(np.diff(flat))
        counts = np.diff(np.concatenate([[0], changes]))
        segmentation = {"size": [37, 53], "counts": counts.tolist()}
    np.testing.assert_array_equal(segmentation_mask(segmentation, 37, 53), mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        "text", [[1, 2, 3]], [[1.0, float("nan")] * 3], [[1, 2, 3, 4]], [["a"] * 6], [[1e12] * 6], 3,
        {"size": [20, 10], "counts": [10, -5, 195]}, {"size": [20, 10], "counts": [1 << 70]},
        {"size": [20, 10], "counts": "_" * 50}, {"size": [20, 10], "counts": "o"}, {"size": [20, 10]},
    ],
)  # fmt: skip
def test_senseless_segmentations(segmentation):
    from converters.coco import segmentation_mask

    with pytest.raises(ValueError):
        segmentation_mask(segmentation, 20, 10)


def test_polygons_far_outside_take_no_memory():
    from converters.coco import segmentation_mask

    mask = segmentation_mask([[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]], 20, 10)
    assert mask.all()


def test_coco_splits_and_names(tmp_path):
    make_coco(tmp_path, [person(1, 10)])
    make_coco(tmp_path, [person(1, 11)], split="val2017")
    run("--coco", "--coco_split=train2017,val2017", f"--data_dir={tmp_path}")
    assert len(records(tmp_path, "coco")) == len(records(tmp_path, "coco_val")) == 1
    assert "twice" in run("--coco", "--coco_split=train2017,train2014", f"--data_dir={tmp_path}", status=1).stderr
    assert "train2014" in run("--coco", "--coco_split=train2014", f"--data_dir={tmp_path}", status=1).stderr


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"images": []}', b"[" * 100000, b'{"images": 3, "annotations": []}', b"\xff\xfe"]
)
def test_bad_coco_annotations(tmp_path, content):
    from converters.coco import coco

    from posekit.data.shards import NothingUsableError

    put(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
    (tmp_path / "val2017").mkdir()
    with pytest.raises(NothingUsableError, match="val2017.json"):
        coco(tmp_path, "val2017")


def test_hostile_coco_annotations(tmp_path):
    from converters.coco import coco

    huge = person(1, 10)
    huge["keypoints"][0] = 10**400
    unhashable = person([1], 11)
    missing = person(1, 12, keypoints=[float("nan")] * 51)
    outside = person(1, 13)
    make_coco(tmp_path, [huge, unhashable, missing, outside, person(1, 14, bbox=None)])
    path = tmp_path / "coco" / "annotations" / "person_keypoints_train2017.json"
    path.write_text(path.read_text().replace("000000000001.jpg", "../../../000000000001.jpg"))
    raw = coco(tmp_path / "coco", "train2017")
    raw.fingerprint(10)
    assert [skip.reason for skip in raw.skips].count("malformed annotation") == 3
    assert [item.path for item in raw.items] == [str(tmp_path / "coco" / "train2017" / "000000000001.jpg")]


@pytest.mark.parametrize("name", ["", "a\0b.jpg", "\ud800.jpg", "line\nbreak.jpg", 300 * "x" + ".jpg"])
def test_coco_file_names_that_cannot_be_are_malformed(tmp_path, name):
    from converters.coco import coco

    make_coco(tmp_path, [person(1, 10), person(2, 11)])
    path = tmp_path / "coco" / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    raw = coco(tmp_path / "coco", "train2017")
    raw.fingerprint(10)
    assert [skip.reason for skip in raw.skips] == ["malformed annotation"] and len(raw.items) == 1


def test_real_coco():
    from converters.coco import coco

    raw = coco(shared_data() / "coco", "val2017")
    outputs = [output for item in raw.items for output in raw.convert(item)]
    assert all(isinstance(output, ImageRecord) for output in outputs) and len(outputs) == 23
    near_person = []
    for record in outputs:
        visible = record.keypoints[2] > 0
        mask = mask_of(record) > 0
        columns, rows = record.keypoints[:2, visible].round().astype(int)
        assert (columns >= 0).all() and (columns < record.width).all() and (rows >= 0).all()
        assert (rows < record.height).all()
        near = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8))
        near_person.extend(near[rows, columns])
    # Joints lie on the person or next to it, but for those behind something else.
    assert np.mean(near_person) > 0.9


# -------------------------------------------------------------------------------------------------------- mocap


def write_mocap(path, count, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for index in range(count):
            writer.write(MocapRecord(np.full(72, start + index), np.ones(10)).to_example())


def test_mocap_records_are_used_as_they_are(tmp_path):
    folder = tmp_path / "raw" / "mocap_neutrMosh"
    write_mocap(folder / "neutrSMPL_CMU_000.tfrecord", 5)
    write_mocap(folder / "neutrSMPL_CMU_001.tfrecord", 3)
    content = (folder / "neutrSMPL_CMU_001.tfrecord").read_bytes()
    (folder / "neutrSMPL_CMU_002.tfrecord").write_bytes(content[:-20])
    with RecordWriter(folder / "neutrSMPL_H3.6_000.tfrecord") as writer:
        writer.write(b"")
    write_mocap(folder / "neutrSMPL_jointLim_000.tfrecord", 2)
    output = tmp_path / "output"
    result = run("--mocap", f"--data_dir={tmp_path / 'raw'}", f"--output_dir={output}", status=1)
    assert "H3.6" in result.stderr and "neutrSMPL_CMU_002.tfrecord is cut short" in result.stdout
    assert num_mocap(output, "CMU") == 8 and num_mocap(output, "jointLim") == 2
    assert sorted(path.name for path in (output / "mocap_neutrMosh").glob("*.tfrecord")) == [
        "neutrSMPL_CMU_000.tfrecord", "neutrSMPL_CMU_001.tfrecord", "neutrSMPL_jointLim_000.tfrecord",
    ]  # fmt: skip
    assert not (folder / "neutrSMPL_CMU.json").exists()


def test_amass_becomes_mixed_records(tmp_path):
    rng = np.random.default_rng(0)
    betas = rng.normal(size=16)
    for number, frames in enumerate((7, 5)):
        values = np.zeros((frames, 156))
        values[:, 0] = 100 * number + np.arange(frames)
        values[:, 66:] = 9
        put_npz(tmp_path / "amass" / "CMU" / f"0{number}_poses.npz", poses=values, betas=betas, gender="female")
    values = np.zeros((3, 156))
    values[1] = np.nan
    put_npz(tmp_path / "amass" / "CMU" / "nan_poses.npz", poses=values, betas=betas)
    put_npz(tmp_path / "amass" / "CMU" / "shape.npz", betas=betas)
    put(tmp_path / "amass" / "KIT" / "broken_poses.npz", b"PK nonsense")
    (tmp_path / "amass" / "KIT" / "loop_poses.npz").symlink_to("loop_poses.npz")
    os.mkfifo(tmp_path / "amass" / "KIT" / "pipe_poses.npz")
    result = run("--mocap", f"--data_dir={tmp_path}", status=3)
    found = poses(tmp_path, "AMASS")
    assert len(found) == 14 == num_mocap(tmp_path, "AMASS")
    numbers = [record.pose[0] for record in found]
    assert sorted(numbers) == sorted([*range(7), *range(100, 105), 0, 0]) and numbers != sorted(numbers)
    np.testing.assert_allclose([record.shape for record in found], np.tile(betas[:10], (14, 1)), rtol=1e-6)
    assert not np.array([record.pose[66:] for record in found]).any()
    for name in ("broken_poses", "loop_poses", "pipe_poses", "nan_poses", "shape"):
        assert f"{name}.npz" in result.stdout
    assert nothing_half_written(tmp_path)
    again = run("--mocap", f"--data_dir={tmp_path}", status=3).stdout
    assert "already there" in again and "mended since are taken in with --overwrite" in again
    run("--mocap", f"--data_dir={tmp_path}", "--amass_stride=2", status=3)
    assert num_mocap(tmp_path, "AMASS") == 4 + 3 + 2


def test_smpl_pickles(tmp_path):
    import pickle

    def recording(path, key, frames, start):
        content = {key: np.full((frames, 72), start, np.float64), "betas": np.arange(10.0)}
        put(path, pickle.dumps(content, protocol=2))

    folder = tmp_path / "neutrMosh"
    recording(folder / "neutrSMPL_CMU" / "01" / "a.pkl", "poses", 4, 1.0)
    recording(folder / "neutrSMPL_CMU" / "02" / "b.pkl", "new_poses", 3, 2.0)
    recording(folder / "neutrSMPL_H3.6" / "S1" / "a.pkl", "poses", 2, 1.0)
    recording(folder / "neutrSMPL_H3.6" / "S9" / "a.pkl", "poses", 2, 1.0)
    recording(folder / "neutrSMPL_H3.6" / "S11" / "a.pkl", "poses", 2, 1.0)
    run("--mocap", f"--data_dir={tmp_path}")
    assert sorted(record.pose[0] for record in poses(tmp_path, "CMU")) == [1] * 4 + [2] * 3
    np.testing.assert_allclose(poses(tmp_path, "CMU")[0].shape, np.arange(10))
    assert num_mocap(tmp_path, "H3.6") == 2
    # Records that somebody else made win over the pickles, unless they are to be replaced.
    write_mocap(tmp_path / "other" / "mocap_neutrMosh" / "neutrSMPL_CMU_000.tfrecord", 1)
    shared = f"--mocap_dir={folder}"
    run("--mocap", f"--data_dir={tmp_path / 'other'}", shared)
    assert num_mocap(tmp_path / "other", "CMU") == 1
    run("--mocap", f"--data_dir={tmp_path / 'other'}", shared, "--overwrite")
    assert num_mocap(tmp_path / "other", "CMU") == 7


# ------------------------------------------------------------------------------------------------------ command


def test_help_names_every_dataset():
    text = run("--help", status=1).stdout
    for word in ("--[no]lsp_ext", "--[no]coco", "--[no]mocap", "--lsp_e_seg", "--mpii_poses_dir", "Exit status"):
        assert word in text


def test_wrong_use(tmp_path):
    assert "--lsp --lsp_val --lsp_ext --mpii --coco --mocap" in run(f"--data_dir={tmp_path}", status=1).stderr
    assert "Unexpected arguments" in run("lsp", status=1).stderr
    assert "Unknown command line flag" in run("--lps", status=1).stderr


def test_one_broken_dataset_does_not_stop_the_others(tmp_path):
    make_lsp(tmp_path)
    (tmp_path / "lspet_dataset" / "images").mkdir(parents=True)
    put_mat(tmp_path / "lspet_dataset" / "joints.mat", joints=labels(2).transpose(2, 1, 0))
    flags = ["--lsp_ext", "--lsp", "--mpii", "--coco", "--mocap", f"--data_dir={tmp_path}"]
    result = run(*flags, status=1)
    reasons = ("lspet_dataset/images holds no image", "poses.npz", "person_keypoints_train2017.json", "motion capture")
    assert all(reason in result.stderr for reason in reasons)
    assert num_examples(tmp_path, "lsp_train") == 3 and nothing_half_written(tmp_path)


def test_folders_by_their_own_flags(tmp_path):
    make_lsp(tmp_path / "a")
    dataset = tmp_path / "a" / "lsp_dataset"
    (dataset / "images").rename(tmp_path / "pictures")
    masks = tmp_path / "a" / "upi-s1h" / "data" / "lsp"
    flags = [f"--lsp_dir={dataset}", f"--lsp_im={tmp_path / 'pictures'}/", f"--lsp_seg={masks}/"]
    run("--lsp", *flags, f"--data_dir={tmp_path / 'empty'}", f"--output_dir={tmp_path / 'new' / 'output'}")
    found = records(tmp_path / "new" / "output", "lsp_train")
    assert [record.silhouette is not None for record in found] == [True, True, False]


def test_output_that_cannot_be_written(tmp_path):
    make_lsp(tmp_path)
    (tmp_path / "file").write_text("in the way")
    result = run("--lsp", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'file'}", status=1)
    assert "cannot write" in result.stderr and "--output_dir" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk_in_the_command(tmp_path):
    import resource

    make_lsp(tmp_path)
    result = run(
        "--lsp", f"--data_dir={tmp_path}", "--shard_size=1", "--num_workers=1", status=1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )  # fmt: skip
    assert "free some space" in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "lsp_train.tfrecords").exists()
    run("--lsp", f"--data_dir={tmp_path}", "--shard_size=1")
    assert num_examples(tmp_path, "lsp_train") == 3 and nothing_half_written(tmp_path)


def test_several_processes_write_the_same_as_one(tmp_path):
    make_lsp_extended(tmp_path, count=14, silhouettes=(3, 9))
    run("--lsp_ext", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'one'}", "--shard_size=4", "--num_workers=1")
    run("--lsp_ext", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'two'}", "--shard_size=4", "--num_workers=2")
    for name in ("lsp_ext/train_0000.tfrecord", "lsp_ext/train_0003.tfrecord", "lsp_ext.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert num_examples(tmp_path / "two", "lsp_ext") == 14


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_in_the_middle_it_continues(tmp_path):
    # Pictures that take a while, so that the middle is long enough to be hit.
    make_lsp_extended(tmp_path, count=60, size=(900, 800))
    output = tmp_path / "output"
    flags = ["--lsp_ext", f"--data_dir={tmp_path}", "--shard_size=3", "--num_workers=2"]
    command = [sys.executable, str(TOOL), *flags, f"--output_dir={output}"]
    staging = output / ".lsp_ext.partial"
    kept = {}
    for wanted in (2, 6):
        process = subprocess.Popen(command, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(staging.glob("0*.tfrecord"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert os.listdir(output) == [".lsp_ext.partial"]
        # The workers notice that they are alone.
        while workers_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not workers_of(process.pid)
        done = json.loads((staging / "progress.json").read_text())["shards"]
        assert len(done) >= wanted - 2
        for index in done:
            modified = (staging / f"{int(index):05d}.tfrecord").stat().st_mtime_ns
            assert kept.setdefault(index, modified) == modified
    run(*flags, f"--output_dir={output}")
    for index, modified in kept.items():
        assert (output / "lsp_ext" / f"train_{int(index):04d}.tfrecord").stat().st_mtime_ns == modified
    run(*flags, f"--output_dir={tmp_path / 'undisturbed'}")
    files = [path.relative_to(output) for path in map(pathlib.Path, dataset_files(output, "lsp_ext"))]
    assert len(files) == 20 and nothing_half_written(output)
    for name in files:
        assert (output / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def workers_of(group):
    """Processes that still run in a killed process' group."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(entry.parent.name)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_interrupted_from_the_keyboard(tmp_path):
    make_lsp_extended(tmp_path, count=60, size=(900, 800))
    output = tmp_path / "output"
    command = [sys.executable, str(TOOL), "--lsp_ext", f"--data_dir={tmp_path}", f"--output_dir={output}"]
    command += ["--shard_size=3", "--num_workers=2"]
    # What is started in the background of a shell ignores Ctrl-C, and so would all that it starts.
    process = subprocess.Popen(
        command,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(output.glob(".lsp_ext.partial/0*.tfrecord")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again" in errors and "Traceback" not in errors
    assert os.listdir(output) == [".lsp_ext.partial"] and not list(output.rglob("*.tmp"))
