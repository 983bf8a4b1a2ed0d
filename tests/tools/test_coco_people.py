import copy
import json
import os
import pathlib
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest

from posekit.data.people_hdf5 import open_people_hdf5
from posekit.data.people_records import PEOPLE, TRAINABLE, PeopleRecord, convert_joints
from posekit.data.shards import Skip
from posekit.data.tfrecord import dataset_files, read_records
from posekit.skeletons import COCO17, OPENPOSE18
from posekit.testing import load_fixture, shared_data

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tools_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def run(*arguments, status=0):
    command = [sys.executable, str(ROOT / "tools" / "create_dataset.py"), "--num_workers=1", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def put_coco(folder, content, split="train2017", pictures=True):
    for image in content["images"] if pictures else ():
        path = folder / split / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(image["id"]).integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(path), pixels)
    path = folder / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return folder


def converted(folder, split="train2017", keep_all=False):
    from converters.coco_people import coco_people

    raw = coco_people(folder, split, "coco_people_val" if keep_all else "coco_people_train", keep_all)
    outputs = [output for item in raw.items for output in raw.convert(item)]
    records = {output.image_id: output for output in outputs if isinstance(output, PeopleRecord)}
    return records, [*raw.skips, *(output for output in outputs if isinstance(output, Skip))]


def person(number, image_id=1, box=(10, 10, 60, 90), **fields):
    x, y, w, h = box
    points = np.random.default_rng(number).uniform((x, y), (x + w, y + h), (17, 2)).round()
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": float(w * h),
        "bbox": list(box),
        "num_keypoints": 17,
        "keypoints": np.concatenate([points, np.full((17, 1), 2)], 1).ravel().tolist(),
        "segmentation": [corners],
    } | fields


def image(number, height=120, width=160):
    return {"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width}


# ------------------------------------------------------------------------------------- as the original does it


def test_selection_and_masks_equal_the_original(tmp_path):
    truth = load_fixture("rmpe_coco")
    content = copy.deepcopy(truth["coco_json"])
    records, skips = converted(put_coco(tmp_path, content))
    assert len(records) == truth["n_meta"] == 3
    assert [skip.reason for skip in skips] == ["no person to train on"] and skips[0].by_rule
    for place, record in enumerate(records.values()):
        meta = {key.removeprefix(f"meta{place}_"): value for key, value in truth.items() if key.startswith("meta")}
        assert pathlib.PurePath(str(meta["path"])).name == record.filename
        np.testing.assert_array_equal((record.height, record.width), meta["hw"])
        np.testing.assert_allclose(record.centers[:1], meta["center"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(record.boxes[0], meta["bbox"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(record.boxes[0, 3] / 368, meta["scale"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(record.areas[0], meta["area"], rtol=0, atol=1e-9)
        joints_px, present = convert_joints(record.joints, record.names, OPENPOSE18, (record.height, record.width))
        labels = meta["joints"]
        assert record.trained.sum() == len(labels)
        assert (~record.trained).sum() == meta["n_masks"]
        np.testing.assert_array_equal(present[: len(labels)], labels[..., 2] > 0)
        np.testing.assert_allclose(joints_px[: len(labels)], labels[..., :2], rtol=0, atol=1e-9)
        mask = np.unpackbits(meta["mask_bits"])[: record.height * record.width].reshape(record.height, record.width)
        np.testing.assert_array_equal(record.mask, mask > 0)
        assert record.mask.sum() == meta["mask_sum"]


def test_people_by_the_rules(tmp_path):
    content = {
        "images": [image(1), image(2), image(3)],
        "annotations": [
            person(10, box=(5, 5, 30, 40)),
            person(11, box=(50, 5, 60, 100)),
            person(12, box=(54, 8, 55, 95)),  # next to a larger one
            person(13, box=(120, 5, 30, 60), num_keypoints=4),
            person(14, 2, box=(5, 5, 20, 30)),  # too small
            person(15, 3, iscrowd=1, num_keypoints=0, keypoints=[0] * 51),
        ],
    }
    folder = put_coco(tmp_path, content)
    records, skips = converted(folder)
    assert list(records) == [1]
    assert records[1].boxes.tolist() == [[50, 5, 60, 100], [5, 5, 30, 40], [54, 8, 55, 95], [120, 5, 30, 60]]
    assert records[1].trained.tolist() == [True, True, False, False]
    assert not records[1].mask[30, 130] and not records[1].mask[50, 80] and records[1].mask[20, 10]
    assert records[1].mask_all[20, 10] and not records[1].mask_all[110, 2]
    put_coco(tmp_path, content, "val2017")
    records, skips = converted(folder, "val2017", True)
    assert list(records) == [1, 2, 3] and not skips
    assert records[3].crowd.tolist() == [True] and records[3].counts == {TRAINABLE: 0, PEOPLE: 0}


def test_record_round_trip(tmp_path):
    content = {"images": [image(1)], "annotations": [person(10), person(11, num_keypoints=2, area=500.0)]}
    record = converted(put_coco(tmp_path, content))[0][1]
    again = PeopleRecord.from_example(record.to_example())
    for name in ("joints", "boxes", "areas", "trained", "crowd", "mask", "mask_all"):
        np.testing.assert_allclose(getattr(again, name), getattr(record, name), rtol=1e-6)
    assert (again.image, again.names, again.filename, again.image_id) == (
        record.image,
        COCO17.joints,
        "000000000001.jpg",
        1,
    )
    assert again.pixels().shape == (120, 160, 3)


# ---------------------------------------------------------------------------------------------------- bad input


def test_bad_annotations(tmp_path):
    lengths = {"size": [120, 160], "counts": [5000, 200, 14000]}
    content = {
        "images": [image(1), image(2), image(3), image(3), {"id": 4}, image(5), image(5) | {"width": 170}, image(6)]
        + [image(8, 100, 100), image(9) | {"file_name": "../../etc/a.jpg"}, image(7) | {"file_name": "twice.jpg"}]
        + [image(17) | {"file_name": "twice.jpg"}],
        "annotations": [
            person(10, 1),
            person(10, 1, box=(90, 20, 60, 80)),  # the same number again
            person(11, 2),
            person(11, 2),  # and the very same annotation
            person(12, 3, keypoints=[1, 2, 3]),
            person(13, 3, box=(80, 5, 70, 100)),
            person(14, 99),
            person(15, 5),
            person(16, 6, segmentation=[[1, 2, 3]]),
            person(17, 6, bbox=None, segmentation=lengths, num_keypoints=0),
            person(18, 6, bbox=None, segmentation=None),
            person(19, 6, keypoints=None, box=(90, 20, 60, 80)),
            {k: v for k, v in person(20, 6, box=(2, 90, 30, 25)).items() if k not in ("keypoints", "num_keypoints")},
            person(21, 8, keypoints=[float("nan"), 1, 2, 1e30, 5, 1, 3, 3, 7] + [20, 30, 2] * 14, area=-1),
            person(22, 1, category_id=2),
            person(23, {"a": 1}),
            "person",
            person(24, 7),
            person(25, 9),
        ],
    }
    folder = put_coco(tmp_path, content, pictures=False)
    put_coco(tmp_path, content | {"images": [image(number) for number in (1, 2, 3, 6, 8, 9)]}, pictures=True)
    put_coco(tmp_path, content, pictures=False)
    records, skips = converted(folder)
    reasons = {skip.reason for skip in skips}
    assert sorted(records) == [1, 2, 3, 6]
    assert records[1].trained.tolist() == [True, True]
    assert len(records[2].joints) == 1
    assert records[3].trained.tolist() == [True, False] and not records[3].mask[50, 30]
    assert records[6].trained.tolist() == [True, False, False, False]
    assert [41, 0, 3, 120] in records[6].boxes.tolist()
    assert not records[6].mask[60, 120] and not records[6].mask[100, 10]
    assert reasons == {
        "malformed image entry",
        "image number used more than once",
        "file named by several images",
        "annotation number used more than once (both kept)",
        "annotation listed twice",
        "annotation of an image that is not there",
        "malformed annotation",
        "malformed keypoints (person masked out)",
        "unusable segmentation: polygon that is no list of points (box masked out)",
        "malformed box (that of the segmentation taken)",
        "annotation without a usable place",
        "image of another size than its annotation says",
        "missing image",
    }, reasons


def test_joints_that_are_no_numbers_are_not_labelled():
    from converters.coco_people import choose_people, read_annotation

    keypoints = [float("nan"), 1, 2, 1e30, 5, 1, 3, 3, 7] + [20, 30, 2] * 14
    found, defect = read_annotation(person(1, keypoints=keypoints, area=-1, num_keypoints=None), 120, 160)
    assert defect == "joints of no place or no known state (only those joints)"
    assert found.joints[:3].tolist() == [[0, 0, 0]] * 3 and found.num_keypoints == 14
    assert found.area == found.part()[2].sum() and choose_people([found])[1] == [True]
    far, defect = read_annotation(person(1, keypoints=[99_999.9999, 5, 2] + [20, 30, 2] * 16), 120, 160)
    assert "only those" in defect and not far.joints[0].any() and far.num_keypoints == 16
    # What is not labelled may lie anywhere.
    assert read_annotation(person(1, keypoints=[1e300, 5, 0] + [20, 30, 2] * 16), 120, 160)[1] is None
    flat, _ = read_annotation(person(1, box=(10, 10, 60, 0), area=5000.0, segmentation=None), 120, 160)
    assert choose_people([flat])[1] == [False]


@pytest.mark.parametrize(
    "joint",
    [[float("nan"), 9, 2], [9, float("inf"), 1], [1e300, 9, 2], [10**400, 9, 2], [9, 9, 7], [9, 9, float("nan")]],
)
def test_people_of_spoilt_joints_are_masked_out(tmp_path, joint):
    spoilt = person(11, box=(90, 20, 60, 80), keypoints=joint * 13 + [100, 50, 2] * 4)
    records, skips = converted(put_coco(tmp_path, {"images": [image(1)], "annotations": [person(10), spoilt]}))
    assert [skip.reason for skip in skips] == ["joints of no place or no known state (person masked out)"]
    assert records[1].trained.tolist() == [True, False] and not records[1].mask[60, 120]


@pytest.mark.parametrize("box", [[0, 0, 5e6, 50], [0, 0, 9e8, 50], [0, -99_999.99995, 50, 0], [0, 0, -1, 5]])
def test_boxes_that_no_reader_takes_are_malformed(tmp_path, box):
    """Of masked people too: such a record would end a training."""
    from posekit.data.people_pipeline import parse_people_record

    far = person(11, num_keypoints=0, keypoints=[0] * 51) | {"bbox": box}
    records, skips = converted(put_coco(tmp_path, {"images": [image(1)], "annotations": [person(10), far]}))
    assert [(skip.name, skip.reason) for skip in skips] == [
        ("000000000001.jpg annotation 11", "malformed box (that of the segmentation taken)")
    ]
    parsed = parse_people_record(records[1].to_example())
    assert parsed["joints"].shape == (1, 17, 3)
    far["segmentation"] = None
    records, skips = converted(put_coco(tmp_path, {"images": [image(1)], "annotations": [person(10), far]}))
    assert "annotation 11" in skips[0].name and len(records[1].joints) == 1


def test_pictures_of_too_many_people_are_skipped_at_once(tmp_path, monkeypatch):
    from converters import coco_people

    monkeypatch.setattr(coco_people, "MAX_PEOPLE", 2)
    monkeypatch.setattr(coco_people, "read_annotation", None)
    crowd = [person(number, box=(5, 5, 40, 40)) for number in range(3)]
    records, (skip,) = converted(put_coco(tmp_path, {"images": [image(1)], "annotations": crowd}))
    assert not records and skip.reason == "more than 2 people"


def test_people_take_memory_only_for_themselves(tmp_path):
    crowd = [person(number, box=(number, 5, 20 + number, 40), area=None) for number in range(1, 200)]
    content = {"images": [image(1, 1500, 1500)], "annotations": crowd}
    put_coco(tmp_path, content)
    tracemalloc.start()
    records, _ = converted(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records[1].joints) == 199 and peak < 60 * 1500**2 / 4  # bytes; 199 masks would take 199 * 1500**2


def test_parts_of_the_picture_equal_the_whole():
    from converters.coco import segmentation_mask
    from converters.coco_people import segmentation_part

    lengths = {"size": [20, 30], "counts": [105, 3, 17, 2, 473]}
    everywhere, outside = [[-9, -9, 99, -9, 99, 99, -9, 99]], [[40, 5, 50, 9, 60, 6]]
    tilted = np.random.default_rng(3).uniform(-9, 29, (40, 2, 8)).round(1).tolist()
    for segmentation in ([[3, 4, 12, 5.5, 8, 17]], everywhere, outside, lengths, *tilted):
        expected, whole = segmentation_mask(segmentation, 20, 30) > 0, np.zeros((20, 30), bool)
        top, left, part = segmentation_part(segmentation, 20, 30)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        np.testing.assert_array_equal(whole, expected)
        assert not part.size or (part.any(1)[[0, -1]].all() and part.any(0)[[0, -1]].all())


def test_numbers_and_names_of_pictures(tmp_path):
    """One that no record can hold, and two pictures that would be read from the same file."""
    content = {
        "images": [image(1), image(2) | {"id": 1 << 63}, image(3) | {"file_name": "x/a.jpg"}]
        + [image(4) | {"file_name": "y/a.jpg"}, image((1 << 63) - 1)],
        "annotations": [person(10), person(11, (1 << 63) - 1), person(12, 3), person(13, 4)],
    }
    put_coco(tmp_path, content | {"images": [image(1), image((1 << 63) - 1), image(3) | {"file_name": "a.jpg"}]})
    put_coco(tmp_path, content, pictures=False)
    records, skips = converted(tmp_path)
    again = [PeopleRecord.from_example(record.to_example()) for record in records.values()]
    assert [record.image_id for record in again] == [1, (1 << 63) - 1]
    assert {(skip.name, skip.reason) for skip in skips if "annotation" not in skip.reason} == {
        ("image 1", "image number of more than 64 bits"),
        ("x/a.jpg", "file named by several images"),
        ("y/a.jpg", "file named by several images"),
    }


# -------------------------------------------------------------------------------------------------- the command


def test_both_formats_through_the_command(tmp_path):
    content = {
        "images": [image(1), image(2, 50, 66), image(3)],
        "annotations": [
            person(10, box=(5, 5, 30, 40)),
            person(11, box=(50, 5, 60, 100)),
            person(14, 2, box=(5, 5, 20, 30)),
            person(15, 3, box=(5, 5, 80, 90)),
        ],
    }
    folder = put_coco(tmp_path / "coco", content)
    put_coco(folder, content, "val2017")
    (folder / "val2017" / "000000000003.jpg").unlink()
    flags = ("--coco_people", f"--data_dir={tmp_path}")
    text = run(*flags, status=3)
    assert "coco_people_val: skipped 1: missing image (000000000003.jpg)" in text
    assert "coco_people_train: left out 1: no person to train on (000000000002.jpg)" in text
    # Training would not know which form is meant.
    text = run(*flags, "--format=hdf5", status=1)
    assert "coco_people_train.tfrecords holds this set in another form" in text and "--output_dir" in text
    hdf5 = tmp_path / "hdf5"
    flags += (f"--output_dir={hdf5}",)
    text = run(*flags, "--format=hdf5", status=3)
    assert "coco_people_val: left out 1: no person to train on (000000000002.jpg)" in text
    for split in ("train", "val"):
        stored = [
            PeopleRecord.from_example(record)
            for path in dataset_files(tmp_path, f"coco_people_{split}")
            for record in read_records(path)
        ]
        samples = open_people_hdf5(hdf5 / f"coco_people_{split}.h5")
        kept = [record for record in stored if record.trained.any()]
        assert len(samples) == len(kept) == (2 if split == "train" else 1)
        for place, record in enumerate(kept):
            again = samples.record(place)
            np.testing.assert_allclose(again.joints, record.joints[record.trained], atol=1e-4)
            np.testing.assert_array_equal(again.pixels(), record.pixels())
            np.testing.assert_array_equal(again.mask_all, record.mask_all)
    assert run(*flags, "--format=hdf5", status=3).count("(already there)") == 2
    assert run(*flags, status=1).count(".h5 holds this set in another form") == 2
    (hdf5 / "coco_people_train.h5").write_bytes(b"somebody's")
    assert "--overwrite" in run(*flags, "--format=hdf5", status=1)
    run(*flags, "--format=hdf5", "--overwrite", status=3)
    assert len(open_people_hdf5(hdf5 / "coco_people_train.h5")) == 2


def test_hdf5_is_for_people_alone(tmp_path):
    for flags in (("--coco",), ("--lsp", "--coco_people", "--msra")):
        text = run(*flags, "--format=hdf5", f"--data_dir={tmp_path}", status=1)
        assert f"for --coco_people alone, not {' '.join(flags)}" in text and "Traceback" not in text


def test_nothing_to_make(tmp_path):
    assert "train2017" in run("--coco_people", f"--data_dir={tmp_path}", status=1)
    content = {"images": [image(1)], "annotations": [person(1, num_keypoints=0)]}
    put_coco(tmp_path / "coco", content)
    for form in ("tfrecord", "hdf5"):
        text = run("--coco_people", f"--data_dir={tmp_path}", f"--format={form}", status=1)
        assert "Nothing of coco_people_train" in text
    assert not list(tmp_path.glob("coco_people_*"))
    split = ("--coco_people_val=train2017", "--coco_people_train=train2014")
    assert "train2014" in run("--coco_people", f"--data_dir={tmp_path}", *split, status=1)
    assert (tmp_path / "coco_people_val.tfrecords").is_file()


# ------------------------------------------------------------------------------------------------ real pictures


def test_real_coco_through_the_command(tmp_path):
    folder = shared_data() / "coco"
    text = run("--coco_people", f"--coco_dir={folder}", f"--data_dir={tmp_path}")
    assert "not made, since COCO's training split is not there" in text
    assert "--coco_people --coco_people_train=val2017" in text
    (path,) = dataset_files(tmp_path, "coco_people_val")
    records = [PeopleRecord.from_example(record) for record in read_records(path)]
    truth = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())
    assert len(records) == len(truth["images"]) == 16
    assert sum(len(record.joints) for record in records) == len(truth["annotations"])
    counts = json.loads((tmp_path / "coco_people_val.json").read_text())["counts"]
    assert counts[TRAINABLE] == sum(record.trained.any() for record in records)
    for record in records:
        joints_px, present = convert_joints(record.joints, record.names, OPENPOSE18, (record.height, record.width))
        assert (joints_px[present] < (record.width, record.height)).all()
        seen = record.joints[record.trained][..., 2] == 2
        x, y = np.rint(record.joints[record.trained][seen][:, :2]).astype(int).T
        inside = record.mask_all[y.clip(0, record.height - 1), x.clip(0, record.width - 1)]
        assert not seen.any() or inside.mean() > 0.75
        if record.crowd.any():
            assert record.mask is not None
    assert "(already there)" in run("--coco_people", f"--coco_dir={folder}", f"--data_dir={tmp_path}")
