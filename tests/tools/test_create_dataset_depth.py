import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from scipy.spatial import cKDTree

from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.data.depth_files import read_depth_bin, read_depth_png
from posekit.data.depth_records import DepthRecord, decode_depth, encode_depth
from posekit.data.shards import NothingUsableError, ShardWriter, Skip
from posekit.data.tfrecord import dataset_files, read_records
from posekit.geometry.depth import dataset_camera, depth_to_points, pixel_to_world, world_to_pixel
from posekit.geometry.depth_centers import estimate_center
from posekit.testing import load_fixture, shared_data

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUBJECTS = range(9)


@pytest.fixture(autouse=True)
def tools_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def run(tool, *arguments, status=0):
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def records(folder, name):
    return [DepthRecord.from_example(data) for path in dataset_files(folder, name) for data in read_records(path)]


def make(output_dir, *raw_sets):
    """Writes sets in this process; their summaries."""
    return [ShardWriter(output_dir, num_workers=1).write(raw) for raw in raw_sets]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def ball(camera, center, radius):
    """Depth picture of half a ball, as float32 in the camera's unit."""
    rows, columns = np.indices((camera.height, camera.width))
    fx, fy, cx, cy = camera.signed_intrinsics
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(rows.shape)], -1)
    along, square = rays @ center, (rays**2).sum(-1)
    inside = along**2 - square * (center @ center - radius**2)
    return np.where(inside > 0, (along - np.sqrt(np.maximum(inside, 0))) / square, 0).astype(np.float32)


def msra_bin(depth):
    rows, columns = np.flatnonzero(depth.any(1)), np.flatnonzero(depth.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    crop = depth[box[1] : box[3], box[0] : box[2]]
    return struct.pack("<6i", depth.shape[1], depth.shape[0], *box) + crop.astype("<f4").tobytes()


def joint_line(joints):
    return " ".join(f"{value:.6f}" for value in np.ravel(joints))


def rng_joints(rng, center, count, spread):
    return center + rng.uniform(-spread, spread, (count, 3))


# ---------------------------------------------------------------------------------------------- MSRA's fixture


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The fixture's files in the folders `msra` and `center`."""
    fixture, folder = load_fixture("v2v_msra"), tmp_path_factory.mktemp("tree")
    for name, start, length in fixture["tree_index_json"]:
        put(folder / name, fixture["tree_blob"][start : start + length].tobytes())
    return folder, fixture


def split_of(folder, split, test_subject):
    """Names, joints, centres and length of one of the originals' datasets, through the converter."""
    from converters import msra
    from converters.depth_frames import Options

    labels = msra.read_all_labels(folder / "msra")
    options = Options(centers_dir=str(folder / "center"))
    names, joints, centers, found = [], [], [], 0
    for subject in SUBJECTS:
        if (subject == test_subject) == (split == "test"):
            raw = msra.msra(subject, labels, options)
            assert raw.name == f"msra_p{subject}" and not raw.skips and not raw.remarks
            found += raw.found
            usable = [frame for frame in raw.items if not np.isnan(frame.centers[test_subject]).any()]
            names += [f"{frame.name}_depth.bin" for frame in usable]
            joints += [frame.joints for frame in usable]
            centers += [frame.centers[test_subject] for frame in usable]
    return names, np.array(joints), np.array(centers), found


@pytest.mark.parametrize("split, test_subject", [("test", 3), ("train", 3), ("test", 0)])
def test_msra_lists_what_the_original_does(tree, split, test_subject):
    folder, fixture = tree
    names, joints, centers, found = split_of(folder, split, test_subject)
    key = f"{split}{test_subject}"
    assert names == fixture[f"{key}_names"].tolist()
    # The original's arrays have a row of zeros at their end for each invalid frame.
    np.testing.assert_array_equal(joints, fixture[f"{key}_joints"][: len(names)])
    np.testing.assert_array_equal(centers, fixture[f"{key}_ref"][: len(names)])
    assert found == fixture[f"{key}_len"]
    assert len(names) == found - (key == "test3")


def test_msra_records_hold_the_pictures(tree, tmp_path):
    from converters import msra
    from converters.depth_frames import Options

    folder, fixture = tree
    raw = msra.msra(3, msra.read_all_labels(folder / "msra"), Options(centers_dir=str(folder / "center")))
    summary = ShardWriter(tmp_path, num_workers=1).write(raw)
    there = records(tmp_path, "msra_p3")
    assert summary.written == len(there) and summary.counts["estimated_centers"] == 0
    marked = summary.skips["centre marked as invalid in its file"]
    assert marked == {"count": 1, "first": ["P3/5/000000"], "by_rule": True}
    # The fixture has only some pictures; the others' frames stay for the sake of result files.
    assert summary.skips["missing file"]["count"] == summary.counts["without_picture"] == 17
    there = [record for record in there if record.depth.any()]
    first = there[0]
    assert first.name == "P3/1/000000" and first.subject == 3 and first.center_source == "file"
    assert first.centers.shape == (9, 3) and not np.isnan(first.centers[3]).any()
    left, top, right, bottom = first.box
    depth = decode_depth(first.depth, "mm")
    original = fixture["frame0_depth"][top:bottom, left:right]
    seen = depth > 0
    assert np.abs(depth - original)[seen].max() <= 0.0501
    # Whatever is missing is not within reach of any centre, with a pixel to spare.
    picture = np.zeros((240, 320), bool)
    picture[top:bottom, left:right] = seen
    points = depth_to_points(fixture["frame0_depth"], "msra")
    missing = points[~picture & (fixture["frame0_depth"] < 700)]
    for center in first.centers:
        assert (np.abs(missing - center) > first.reach).any(1).all()
    assert seen.sum() > 500


@pytest.mark.parametrize("far", [400.0, 640.0])
@pytest.mark.parametrize("convention", ["pytorch", "lua"])
def test_records_make_the_voxels_of_whole_pictures(far, convention):
    """However a cube is turned and scaled, and whether or not the originals' wall at 700 mm is in it."""
    from converters.depth_frames import SCENES, Converter, Frame

    scene, camera = SCENES["msra"], dataset_camera("msra")
    hand = np.array([20.0, -30.0, far])
    depth = decode_depth(encode_depth(ball(camera, hand, 60.0), "mm"), "mm")  # in whole tenths of a millimetre
    depth[20:60, 60:120] = far + 190  # measured, but out of reach
    depth[100:140, 20:60] = 6900  # farther than records can hold
    frame = Frame("a", np.tile(hand, (21, 1)), np.ones(21, bool), np.array([hand, hand + 15]))
    record = Converter(scene, scene.reach(), None).record(frame, depth, (0, 0, 320, 240))
    walled = np.where(depth > 0, depth, 700)
    codec = VoxelCodec(200.0, convention=convention)
    whole = depth_to_points(walled, camera, first_pixel=codec.first_pixel).reshape(-1, 3)
    crop = decode_depth(record.depth, "mm")
    crop = depth_to_points(np.where(crop > 0, crop, 700), camera, record.box[:2], codec.first_pixel).reshape(-1, 3)
    for seed in range(6):
        augmentation = codec.augmentation(np.random.default_rng(seed).integers(0, 2, 5) * 0.9999)  # the extremes
        for center in frame.centers:
            expected, found = (codec.voxels(points, center, augmentation) for points in (whole, crop))
            np.testing.assert_array_equal(found, expected)
    assert (record.depth.max() == 65535) == (far > 600)


def test_records_reach_as_far_as_both_heads_look(tree):
    from converters.depth_frames import SCENES

    for scene in SCENES.values():
        for codec in (
            VoxelCodec(scene.cubic_size), VoxelCodec(scene.cubic_size, head="integral"),
            VoxelCodec(scene.cubic_size, convention="lua"), VoxelCodec(scene.cubic_size, 36, 32),
            VoxelCodec(scene.cubic_size, 18, 16),
        ):  # fmt: skip
            assert (np.float32(scene.reach()) >= np.array(codec.reach)).all()


# ----------------------------------------------------------------------------------------------- MSRA's centres


@pytest.fixture(scope="module")
def whole_msra(tmp_path_factory):
    """Nine persons of a frame a gesture, with all pictures, and centre files for test subjects 0 to 8."""
    gestures = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "I", "IP", "L", "MP", "RP", "T", "TIP", "Y")
    rng, camera, folder = np.random.default_rng(0), dataset_camera("msra"), tmp_path_factory.mktemp("whole")
    balls = {}
    for subject in SUBJECTS:
        for gesture in gestures:
            center = rng.uniform([-50, -50, 300], [50, 50, 400])
            balls[subject, gesture] = center
            joints = rng_joints(rng, center, 21, 40.0) * [1, 1, -1]
            put(folder / f"P{subject}" / gesture / "joint.txt", f"1\n{joint_line(joints)}\n")
            put(folder / f"P{subject}" / gesture / "000000_depth.bin", msra_bin(ball(camera, center, 45.0)))
    for row in SUBJECTS:
        for split in ("train", "test"):
            chosen = [center for (subject, _), center in balls.items() if (subject == row) == (split == "test")]
            lines = [joint_line(center + row) for center in chosen]
            put(folder / "center" / f"center_{split}_{row}_refined.txt", "\n".join(lines) + "\n")
    return folder, balls


@pytest.fixture
def msra_folder(whole_msra, tmp_path):
    """A copy of `whole_msra` to damage."""
    folder, balls = whole_msra
    return pathlib.Path(shutil.copytree(folder, tmp_path / "raw" / "msra")), balls


def msra_set(folder, subject, **options):
    from converters import msra
    from converters.depth_frames import Options

    return msra.msra(subject, msra.read_all_labels(folder), Options(**options))


def test_msra_centers_of_every_test_subject(msra_folder, tmp_path):
    folder, balls = msra_folder
    for subject in (0, 4, 8):
        for frame in msra_set(folder, subject).items:
            center = balls[subject, frame.name.split("/")[1]]
            np.testing.assert_allclose(frame.centers, center + np.arange(9)[:, None], atol=1e-5)
    run("create_dataset.py", "--msra", f"--data_dir={folder.parent}", f"--output_dir={tmp_path / 'out'}")
    for subject in SUBJECTS:
        there = records(tmp_path / "out", f"msra_p{subject}")
        assert [record.name.split("/")[0] for record in there] == [f"P{subject}"] * 17
        for record in there:
            depth = decode_depth(record.depth, "mm")
            points = depth_to_points(depth, record.depth_camera, record.box[:2])[depth > 0]
            assert np.linalg.norm(points - balls[subject, record.name.split("/")[1]], axis=-1).max() < 46
    again = run("create_dataset.py", "--msra", f"--data_dir={folder.parent}", f"--output_dir={tmp_path / 'out'}")
    assert again.stdout.count("(already there)") == 9


def test_msra_without_some_or_all_center_files(msra_folder, tmp_path):
    folder, balls = msra_folder
    for split in ("train", "test"):
        (folder / "center" / f"center_{split}_2_refined.txt").unlink()
    raw = msra_set(folder, 1)
    assert raw.remarks == ("no centre files for test subject 2: those centres are estimated",)
    command = ["--msra", f"--data_dir={folder.parent}", f"--output_dir={tmp_path / 'out'}"]
    output = run("create_dataset.py", *command).stdout
    assert "msra_p1: centres estimated: 17 of 17" in output and f"msra_p1: {raw.remarks[0]}" in output
    for record in records(tmp_path / "out", "msra_p1"):
        center = balls[1, record.name.split("/")[1]]
        assert record.center_source == "estimated"
        assert np.abs(record.centers[2] - center).max() < 40 and record.centers[2, 2] < center[2]
        rows = np.delete(np.arange(9), 2)
        np.testing.assert_allclose(record.centers[rows], center + rows[:, None], atol=1e-4)

    estimated = msra_set(folder, 1, estimate_centers=True)
    assert not estimated.remarks and estimated.options["estimated"] == list(range(9))
    assert estimated.fingerprint(500) != raw.fingerprint(500)
    record = next(iter(estimated.convert(estimated.items[0])))
    assert record.center_source == "estimated" and len(np.unique(record.centers, axis=0)) == 1


def test_msra_center_files_that_do_not_fit(msra_folder):
    folder, _ = msra_folder
    path = folder / "center" / "center_train_5_refined.txt"
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))
    with pytest.raises(NothingUsableError, match="center_train_5_refined.txt: wrong number of centres .135 lines; the "
                       "dataset has 136 frames.*--estimate_centers"):  # fmt: skip
        msra_set(folder, 1)
    with pytest.raises(NothingUsableError, match="There is no folder .*nowhere"):
        msra_set(folder, 1, centers_dir=str(folder / "nowhere"))
    with pytest.raises(NothingUsableError, match="There is no center_test_1_refined.txt in"):
        msra_set(folder, 1, centers_dir=str(folder / "P0"))


def test_msra_with_one_person_only(msra_folder, tmp_path):
    folder, _ = msra_folder
    for subject in SUBJECTS:
        if subject != 3:
            (folder / f"P{subject}").rename(tmp_path / f"P{subject}")
    for path in (folder / "center").glob("center_train_*"):
        path.unlink()
    raw = msra_set(folder, 3)
    assert "P0, P1, P2, P4, P5, P6, P7, P8; their frames are missing" in raw.remarks[1]
    assert np.isfinite(raw.items[0].centers[3]).all() and np.isnan(raw.items[0].centers[4]).all()
    empty = run("create_dataset.py", "--msra", f"--data_dir={tmp_path / 'empty'}", status=1)
    assert "There is no folder" in empty.stderr and "--msra_dir" in empty.stderr


def test_bad_msra_frames_are_skipped_with_a_reason(msra_folder, tmp_path):
    folder, _ = msra_folder
    person = folder / "P1"
    camera = dataset_camera("msra")

    def bad(gesture, content):
        put(person / gesture / "000000_depth.bin", content)

    whole = (person / "1" / "000000_depth.bin").read_bytes()
    bad("1", whole[:-4])
    bad("2", struct.pack("<6i", 320, 240, -5, 0, 10, 10) + bytes(600))
    bad("3", struct.pack("<6i", 320, 240, 0, 0, 10, 10) + bytes(400))  # nothing measured
    bad("4", struct.pack("<6i", 320, 240, 0, 0, 10, 10) + np.full(100, 1200, "<f4").tobytes())  # background only
    bad("5", struct.pack("<6i", 1000, 240, 0, 0, 10, 10) + np.full(100, 300, "<f4").tobytes())
    (person / "6" / "000000_depth.bin").unlink()
    os.mkfifo(person / "6" / "000000_depth.bin")
    joints = (person / "7" / "joint.txt").read_text().split()
    put(person / "7" / "joint.txt", f"1\n{' '.join(['nan', *joints[2:]])}\n")
    put(person / "8" / "joint.txt", f"1\n{joint_line(np.full((21, 3), 300.0))}\n")  # z without its sign
    bad("9", msra_bin(ball(camera, np.array([-250.0, 0.0, 380.0]), 60.0)))  # cut by the border
    for row in SUBJECTS:
        split = "test" if row == 1 else "train"
        path = folder / "center" / f"center_{split}_{row}_refined.txt"
        lines = path.read_text().splitlines()
        start = 0 if row == 1 else 17 * (row != 0)
        lines[start + 8] = "-250 0 380"
        lines[start + 9] = "invalid"
        path.write_text("\n".join(lines) + "\n")
    raw = msra_set(folder, 1)
    outputs = {name: next(iter(raw.convert(frame))) for name, frame in zip(raw.items.names, raw.items)}
    reasons = {name.split("/")[1]: output.reason for name, output in outputs.items() if isinstance(output, Skip)}
    kept = [len(list(raw.convert(frame))) == 2 for frame in raw.items if frame.name.split("/")[1] in reasons]
    assert kept == [True] * 6 + [False] * 3  # 7, 8 and I have no labels, or are left out on purpose
    nothing = "nothing measured where a hand or body is looked for"
    assert reasons == {
        "1": "header promises more than the file holds",
        "2": "box that is no part of its picture",
        "3": nothing,
        "4": nothing,
        "5": "picture of another size than MSRA's",
        "6": "not a regular file",
        "7": "joints that are not numbers, in the label file",
        "8": "joints behind the camera, in the label file",
        "I": "centre marked as invalid in its file",
    }
    by_rule = [output.name for output in outputs.values() if isinstance(output, Skip) and output.by_rule]
    assert by_rule == ["P1/I/000000"]
    cut = outputs["P1/9/000000"]
    assert cut.box[0] == 0 and (cut.depth > 0).any()
    command = ["--msra", f"--data_dir={folder.parent}", f"--output_dir={tmp_path / 'out'}"]
    result = run("create_dataset.py", *command, status=3)
    assert "msra_p1: skipped 1: header promises more than the file holds (P1/1/000000)" in result.stdout
    assert "msra_p1: left out 1: centre marked as invalid in its file (P1/I/000000)" in result.stdout
    assert "msra_p1: without a usable picture: 6 of 14; these are written without a centre" in result.stdout
    from posekit.data.depth_pipeline import count_frames

    there = records(tmp_path / "out", "msra_p1")
    assert [record.name for record in there if np.isnan(record.centers).all()] == [f"P1/{n}/000000" for n in "123456"]
    assert all(record.box == (0, 0, 1, 1) and record.valid.all() for record in there[:6])
    assert count_frames(tmp_path / "out", "msra", "test", 1) == 14
    assert count_frames(tmp_path / "out", "msra", "train", 3) == 7 * 17 + 8


def test_a_failed_estimate_loses_no_frame_that_has_another_centre(msra_folder):
    folder, balls = msra_folder
    for split in ("train", "test"):
        (folder / "center" / f"center_{split}_2_refined.txt").unlink()
    raw = msra_set(folder, 1)
    frame, center = raw.items[0], balls[1, "1"]
    # Behind the range in which centres are looked for, but where the files say that the hand is.
    far = dataclasses.replace(frame, centers=frame.centers + [0, 0, 350])
    depth = ball(dataset_camera("msra"), center + [0, 0, 350], 45.0)
    depth[depth < 700.5] = 0
    outputs = list(dataclasses.replace(raw.convert, read=lambda _: (depth, (0, 0, 320, 240)))(far))
    assert len(outputs) == 1 and outputs[0].center_source == "file"
    assert np.isnan(outputs[0].centers[2]).all() and np.isfinite(np.delete(outputs[0].centers, 2, 0)).all()
    # Without any other centre, it has no picture that is of use.
    alone = dataclasses.replace(far, centers=np.full((9, 3), np.nan))
    skip, record = dataclasses.replace(raw.convert, read=lambda _: (depth, (0, 0, 320, 240)))(alone)
    assert skip.reason == "nothing measured where a hand or body is looked for" and not record.depth.any()


def test_msra_labels_of_another_dataset(msra_folder):
    folder, _ = msra_folder
    put(folder / "P1" / "1" / "joint.txt", f"1\n{joint_line(np.full((16, 3), -300.0))}\n")
    with pytest.raises(NothingUsableError, match="P1/1/joint.txt: line 2 holds 48 numbers instead of 63"):
        msra_set(folder, 1)
    (folder / "P1" / "1" / "joint.txt").unlink()
    with pytest.raises(NothingUsableError, match="P1/1/joint.txt: missing file"):
        msra_set(folder, 1)


# --------------------------------------------------------------------------------------------------------- ICVL


def icvl_folder(folder, frames=3, suffix=".png", centers=True):
    rng, camera = np.random.default_rng(1), dataset_camera("icvl")
    truth = {}
    for part, text, sequence in (
        ("Training", "labels.txt", "201403121135"),
        ("Testing", "test_seq_1.txt", "test_seq_1"),
        ("Testing", "test_seq_2.txt", "test_seq_2"),
    ):
        lines, middles = [], []
        for index in range(frames):
            center = rng.uniform([-40, -40, 300], [40, 40, 400])
            joints = rng_joints(rng, center, 16, 40.0)
            name = f"{sequence}/image_{index:04d}"
            truth[name] = joints
            lines.append(f"{name}.png {joint_line(world_to_pixel(joints, camera))} ")
            middles.append(joint_line(center))
            depth = np.rint(ball(camera, center, 45.0))
            if suffix == ".png":
                put(folder / part / "Depth" / f"{name}.png", cv2.imencode(".png", depth.astype(np.uint16))[1].tobytes())
            else:
                put(folder / part / "Depth" / f"{name}.bin", depth.astype("<f4").tobytes())
        put(folder / part / text, "\n".join(lines) + "\n")
        if centers:
            path = folder / "center" / f"center_{'train' if part == 'Training' else 'test'}_refined.txt"
            put(path, (path.read_text() if path.exists() else "") + "\n".join(middles) + "\n")
    return truth


@pytest.mark.parametrize("suffix", [".png", ".bin"])
def test_icvl(tmp_path, suffix):
    from converters import icvl
    from converters.depth_frames import Options

    truth = icvl_folder(tmp_path / "icvl", suffix=suffix)
    sets = [icvl.icvl(split, tmp_path / "icvl", Options()) for split in ("train", "test")]
    assert [summary.counts["estimated_centers"] for summary in make(tmp_path, *sets)] == [0, 0]
    train, test = records(tmp_path, "icvl_train"), records(tmp_path, "icvl_test")
    assert [record.name for record in train + test] == list(truth)
    for record in train + test:
        np.testing.assert_allclose(record.joints, truth[record.name], atol=1e-2)
        assert record.center_source == "file" and record.unit == "mm" and record.picture == (320, 240)
        assert record.group == record.name.split("/")[0]


def test_icvl_without_centers_and_with_bad_pictures(tmp_path):
    icvl_folder(tmp_path / "icvl", frames=4, centers=False)
    depth = tmp_path / "icvl" / "Training" / "Depth" / "201403121135"
    put(depth / "image_0000.png", cv2.imencode(".png", np.full((240, 320), 200, np.uint8))[1].tobytes())
    put(depth / "image_0001.png", cv2.imencode(".png", np.full((240, 320, 3), 200, np.uint8))[1].tobytes())
    put(depth / "image_0002.png", cv2.imencode(".png", np.full((240, 320), 2000, np.uint16))[1].tobytes())
    output = run("create_dataset.py", "--icvl", f"--data_dir={tmp_path}", status=3).stdout
    assert "icvl_train: centres estimated: 1 of 1" in output and "icvl_test: centres estimated: 8 of 8" in output
    assert "icvl_train: skipped 2: not a PNG of one channel of 16 bits" in output
    assert "icvl_train: skipped 1: nothing measured where a hand or body is looked for" in output
    for record in records(tmp_path, "icvl_test"):
        assert record.center_source == "estimated" and record.centers.shape == (1, 3)


def test_icvl_labels_that_lead_elsewhere(tmp_path):
    from converters import icvl
    from converters.depth_frames import Options

    icvl_folder(tmp_path / "icvl")
    path = tmp_path / "icvl" / "Training" / "labels.txt"
    path.write_text(path.read_text().replace("201403121135/image_0001", "../../secret"))
    with pytest.raises(NothingUsableError, match="names a picture outside its folder"):
        icvl.icvl("train", tmp_path / "icvl", Options())
    path.write_text(path.read_text().replace("../../secret", "201403121135/image_0000"))
    raw = icvl.icvl("train", tmp_path / "icvl", Options())
    assert [skip.reason for skip in raw.skips] == ["picture listed a second time"]
    assert raw.items.names == ["201403121135/image_0000", "201403121135/image_0002"] and raw.found == 3


# ---------------------------------------------------------------------------------------------------------- NYU


def nyu_png(depth):
    depth = depth.astype(np.uint16)
    return cv2.imencode(".png", np.stack([depth & 255, depth >> 8, depth * 0], -1).astype(np.uint8))[1].tobytes()


def nyu_folder(folder, pictures):
    """Pictures and joints `{split: [(depth, [36, 3]), …]}` in NYU's layout."""
    for split, frames in pictures.items():
        for number, (depth, _) in enumerate(frames, 1):
            put(folder / split / f"depth_1_{number:07d}.png", depth if isinstance(depth, bytes) else nyu_png(depth))
        buffer = io.BytesIO()
        joints = np.stack([joints for _, joints in frames])[None].repeat(3, 0)
        joints[1:] += 1000  # the other cameras
        scipy.io.savemat(buffer, {"joint_xyz": joints, "joint_uvd": world_to_pixel(joints, "nyu")}, do_compression=True)
        put(folder / split / "joint_data.mat", buffer.getvalue())


def nyu_frames(count, seed):
    rng, camera = np.random.default_rng(seed), dataset_camera("nyu")
    centers = rng.uniform([-60, -60, 600], [60, 60, 800], (count, 3))
    return [(np.rint(ball(camera, center, 70.0)), rng_joints(rng, center, 36, 60.0)) for center in centers]


def test_nyu(tmp_path):
    frames = {"train": nyu_frames(3, 0), "test": nyu_frames(2, 1)}
    nyu_folder(tmp_path / "nyu", frames)
    output = run("create_dataset.py", "--nyu", f"--data_dir={tmp_path}", "--cubic_size=200").stdout
    assert "nyu_train: centres estimated: 3 of 3" in output
    evaluated = np.array([1, 4, 7, 10, 13, 16, 19, 22, 25, 26, 28, 31, 32, 33]) - 1
    for split, listed in frames.items():
        there = records(tmp_path, f"nyu_{split}")
        assert [record.name for record in there] == [f"depth_1_{number:07d}" for number in range(1, len(listed) + 1)]
        for record, (_, joints) in zip(there, listed):
            np.testing.assert_allclose(record.joints, joints[evaluated], rtol=1e-6)
            np.testing.assert_allclose(record.camera, dataset_camera("nyu").signed_intrinsics)
            assert (record.reach >= np.array(VoxelCodec(200.0).reach)).all()
    assert json.loads((tmp_path / "nyu_train.json").read_text())["options"]["cubic_size"] == 200


def test_nyu_converted_to_bin(tmp_path):
    from converters import nyu
    from converters.depth_frames import Options

    frames = {"train": nyu_frames(2, 0), "test": nyu_frames(1, 1)}
    nyu_folder(tmp_path / "nyu" / "dataset", frames)
    put(tmp_path / "nyu" / "dataset" / "train" / "depth_1_0000009.png", nyu_png(np.zeros((48, 64))))
    result = run("depth_to_bin.py", "--dataset=nyu", f"--data_dir={tmp_path}", status=3)
    assert "nyu train: 2 made, 0 there already, 1 skipped" in result.stdout
    assert "skipped 1: picture of another size (dataset/train/depth_1_0000009.png)" in result.stdout
    path = tmp_path / "nyu" / "dataset" / "test" / "parsed" / "depth_1_0000001.bin"
    np.testing.assert_array_equal(read_depth_bin(path, (640, 480)), frames["test"][0][0])
    again = run("depth_to_bin.py", "--dataset=nyu", f"--data_dir={tmp_path}", "--split=test")
    assert "nyu test: 0 made, 1 there already, 0 skipped" in again.stdout
    for part in ("train", "test"):
        for picture in (tmp_path / "nyu" / "dataset" / part).glob("*.png"):
            picture.unlink()
    (summary,) = make(tmp_path, nyu.nyu("train", tmp_path / "nyu", Options()))
    assert summary.written == 2


def test_test_frames_without_pictures_keep_their_lines(tmp_path):
    """Result files have a line for every frame: reading them by count must not fail for one broken picture."""
    from converters import nyu
    from converters.depth_frames import Options

    from posekit.data.depth_pipeline import depth_batches, read_frames

    frames = {"train": nyu_frames(3, 0), "test": nyu_frames(3, 1)}
    nyu_folder(tmp_path / "nyu", frames)
    for split in frames:
        (tmp_path / "nyu" / split / "depth_1_0000002.png").write_bytes(b"no picture")
    train, test = make(tmp_path, *(nyu.nyu(split, tmp_path / "nyu", Options()) for split in ("train", "test")))
    assert (train.written, train.defects, test.written, test.defects) == (2, 1, 3, 1)
    assert test.counts["without_picture"] == 1 and "without_picture" in train.counts
    read = read_frames(tmp_path, "nyu", "test")
    assert read.names == [f"depth_1_{number:07d}" for number in (1, 2, 3)] and read.valid.all()
    np.testing.assert_array_equal(np.isnan(read.refpoints).any(1), [False, True, False])
    codec = VoxelCodec(250.0, original_size=18, cropped_size=16)
    (batch,) = depth_batches(tmp_path, "nyu", "test", 3, codec=codec)
    batched = codec.batched()
    points = batched.points(batch["depth"], batch["box"], batch["camera"], 0.1, background=1200.0)
    occupied = batched.voxels(points, batch["refpoint"]).numpy().sum((1, 2, 3, 4))
    assert occupied[1] == 0 and (occupied[[0, 2]] > 0).all()

    for number in (1, 3):
        (tmp_path / "nyu" / "test" / f"depth_1_{number:07d}.png").write_bytes(b"no picture")
    with pytest.raises(NothingUsableError, match="Nothing of nyu_test can be used"):
        make(tmp_path / "other", nyu.nyu("test", tmp_path / "nyu", Options()))


def test_the_command_in_the_message_about_crops_helps(tmp_path):
    from posekit.data.depth_pipeline import depth_batches

    nyu_folder(tmp_path / "nyu", {"train": nyu_frames(1, 0), "test": nyu_frames(1, 1)})
    run("create_dataset.py", "--nyu", f"--data_dir={tmp_path}")
    codec = VoxelCodec(250.0, original_size=19, cropped_size=16)
    with pytest.raises(ValueError, match="Make the records again with") as error:
        depth_batches(tmp_path, "nyu", "train", 1, codec=codec)
    command = re.search(r"python tools/create_dataset.py (.*?), or take a smaller", str(error.value))[1]
    run("create_dataset.py", *command.split())
    assert depth_batches(tmp_path, "nyu", "train", 1, codec=codec).cardinality() == 1
    wrong = run("create_dataset.py", "--nyu", f"--data_dir={tmp_path}", "--original_size=80", status=1)
    assert "--original_size=80 is smaller than --cropped_size=88" in wrong.stderr


def test_the_real_frame_of_nyu_goes_through(tmp_path):
    """Reader, centre estimate, records, voxels and back, with the true joints of a real frame."""
    from converters import nyu
    from converters.depth_frames import Options

    source = shared_data() / "nyu"
    uvd = np.loadtxt(source / "depth_1_0000001_uvd.txt").reshape(-1, 3)
    truth = pixel_to_world(uvd, "nyu")
    all_joints = np.full((36, 3), 500.0)
    all_joints[np.array([1, 4, 7, 10, 13, 16, 19, 22, 25, 26, 28, 31, 32, 33]) - 1] = truth
    picture = (source / "depth_1_0000001.png").read_bytes()
    nyu_folder(tmp_path / "nyu", {"train": [(picture, all_joints)], "test": [(picture, all_joints)]})
    make(tmp_path, nyu.nyu("test", tmp_path / "nyu", Options()))
    (record,) = records(tmp_path, "nyu_test")
    np.testing.assert_allclose(record.joints, truth, rtol=1e-6)
    assert record.center_source == "estimated"

    codec, center = VoxelCodec(cubic_size=250.0), record.centers[0].astype(np.float64)
    depth = decode_depth(record.depth, "mm")
    crop = depth_to_points(depth, record.depth_camera, record.box[:2], codec.first_pixel)[depth > 0]
    voxels, _, target = codec.encode(crop, truth, center)
    decoded = codec.decode(target, center)
    # A voxel of the grid, which is two of the cube.
    assert np.abs(decoded - truth).max() <= codec.voxel_size * codec.pool / 2

    whole = read_depth_png(source / "depth_1_0000001.png", "nyu", (640, 480))
    np.testing.assert_allclose(estimate_center(whole, "nyu", (300, 1200), 250), center, atol=1e-3)
    points = depth_to_points(whole, "nyu", first_pixel=codec.first_pixel)[whole > 0]
    np.testing.assert_array_equal(codec.voxels(points, center), voxels)

    surface = codec.cube_to_world(np.argwhere(voxels) + 0.5, center)
    near = cKDTree(surface).query(truth)[0] <= 10
    measured = whole[np.rint(uvd[:, 1]).astype(int), np.rint(uvd[:, 0]).astype(int)]
    inside = (measured <= uvd[:, 2]) & (uvd[:, 2] - measured < 40)  # behind what is seen, within a hand's thickness
    assert (near | inside).sum() >= 12


# ------------------------------------------------------------------------------------------------- HANDS2017, ITOP


def hands2017_folder(folder, count=3):
    rng, camera = np.random.default_rng(2), dataset_camera("hands2017")
    truth = {}
    for part, text in (("training", "Training_Annotation.txt"), ("frame", "BoundingBox.txt")):
        lines, annotations = [], []
        for number in range(1, count + 1):
            center = rng.uniform([-60, -60, 500], [60, 60, 700])
            joints = rng_joints(rng, center, 21, 60.0)
            name = f"image_D{number:08d}"
            truth[part, name] = joints, center
            depth = np.rint(ball(camera, center, 60.0)).astype(np.uint16)
            depth[400:440, 500:600] = 300  # something nearer, outside the box
            put(folder / part / "images" / f"{name}.png", cv2.imencode(".png", depth)[1].tobytes())
            x, y, _ = world_to_pixel(center, camera)
            annotations.append(f"{name}.png\t" + joint_line(joints).replace(" ", "\t"))
            box = f"{name}.png\t{x - 60:.2f}\t{y - 60:.2f}\t{x + 60:.2f}\t{y + 60:.2f}"
            lines.append(annotations[-1] if part == "training" else box)
        put(folder / part / text, "\n".join(lines) + "\n")
        if part == "frame":
            put(folder / "annotations.txt", "\n".join(annotations) + "\n")
    return truth


def test_hands2017(tmp_path):
    from converters import hands2017
    from converters.depth_frames import Options

    folder = tmp_path / "hands2017"
    truth = hands2017_folder(folder)
    output = run("create_dataset.py", "--hands2017", f"--data_dir={tmp_path}").stdout
    assert "hands2017_test: no Test_Annotation.txt: the frames have no true joints" in output
    assert "hands2017_test: centres estimated: 3 of 3" in output
    for record in records(tmp_path, "hands2017_train"):
        np.testing.assert_allclose(record.joints, truth["training", record.name][0], atol=1e-4)
    for record in records(tmp_path, "hands2017_test"):
        center = truth["frame", record.name][1]
        assert not record.valid.any() and record.group == ""
        # Found in its box, not at what is nearer elsewhere.
        assert np.abs(record.centers[0] - center).max() < 50

    (folder / "annotations.txt").rename(folder / "frame" / "Test_Annotation.txt")
    groups = [f"image_D{number:08d}.png {'seen' if number < 3 else 'unseen'}\n" for number in (1, 2, 3)]
    put(folder / "frame" / "groups.txt", "".join(groups))
    centers = "\n".join(joint_line(center) for (part, _), (_, center) in truth.items() if part == "frame")
    put(folder / "center" / "center_test_refined.txt", centers)
    make(tmp_path, hands2017.hands2017("test", folder, Options()))
    there = records(tmp_path, "hands2017_test")
    assert [record.group for record in there] == ["seen", "seen", "unseen"]
    for record in there:
        joints, center = truth["frame", record.name]
        np.testing.assert_allclose(record.joints, joints, atol=1e-4)
        np.testing.assert_allclose(record.centers[0], center, atol=1e-4)
        assert record.valid.all() and record.center_source == "file"


def test_hands2017_converted_to_bin(tmp_path):
    hands2017_folder(tmp_path / "raw", count=2)
    (tmp_path / "raw" / "frame" / "images" / "image_D00000002.png").unlink()
    output = run("depth_to_bin.py", "--dataset=hands2017", f"--dataset_dir={tmp_path / 'raw'}", status=3).stdout
    assert "hands2017 train: 2 made" in output and "hands2017 test: 1 made, 0 there already, 1 skipped" in output
    source = tmp_path / "raw" / "training" / "images" / "image_D00000001"
    np.testing.assert_array_equal(read_depth_bin(f"{source}.bin", (640, 480)), read_depth_png(f"{source}.png"))
    assert "No dataset chosen" in run("depth_to_bin.py", status=1).stderr
    assert "--split= is not" in run("depth_to_bin.py", "--dataset=nyu", "--split=", status=1).stderr
    assert "msra comes as .bin files already" in run("depth_to_bin.py", "--dataset=msra", status=1).stderr


def itop_folder(folder, view, split, count=4, bodies=True):
    rng, camera = np.random.default_rng(3), dataset_camera("itop")
    depth, joints = [], []
    for _ in range(count):
        center = rng.uniform([-0.4, -0.2, 2.2], [0.4, 0.2, 3.0])
        picture = np.where((body := ball(camera, center, 0.5)) > 0, body, 6.0) if bodies else np.zeros((240, 320))
        depth.append(picture)
        joints.append(rng_joints(rng, center, 15, 0.4))
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"ITOP_{view}_{split}_depth_map.h5", "w") as file:
        file["data"] = np.array(depth, np.float16)
    with h5py.File(folder / f"ITOP_{view}_{split}_labels.h5", "w") as file:
        file["real_world_coordinates"] = np.array(joints, np.float32)
        file["is_valid"] = np.array([1, 0, 1, 1], np.uint8)[:count]
        file["id"] = np.array([f"0{n % 2}_{n:05d}".encode() for n in range(count)])
    return np.array(joints)


def test_itop(tmp_path):
    folder = tmp_path / "itop"
    parts = [(view, split) for view in ("side", "top") for split in ("train", "test")]
    truth = {part: itop_folder(folder, *part) for part in parts}
    lines = [joint_line(joints.mean(0)) for joints in truth["side", "train"]]
    put(folder / "center" / "side_view" / "center_train.txt", "\n".join([lines[0], "invalid", lines[2], lines[3]]))
    put(folder / "center" / "side_view" / "center_test.txt", "\n".join(lines))
    output = run("create_dataset.py", "--itop_front", "--itop_top", f"--data_dir={tmp_path}").stdout
    assert "itop_front_train: centres" not in output and "itop_top_test: centres estimated: 4 of 4" in output
    assert "itop_front_train: left out 1: frame whose labels the dataset calls not valid (01_00001)" in output
    for name, view in (("itop_front", "side"), ("itop_top", "top")):
        train, test = records(tmp_path, f"{name}_train"), records(tmp_path, f"{name}_test")
        assert [record.name for record in train] == ["00_00000", "00_00002", "01_00003"]
        assert [int(record.valid.all()) for record in test] == [1, 0, 1, 1]
        np.testing.assert_allclose(train[1].joints, truth[view, "train"][2], rtol=1e-6)
        assert train[0].unit == "m" and train[0].group == ""
        depth = decode_depth(train[0].depth, "m")
        assert 1.5 < depth[depth > 0].min() < 3 and depth.max() < 3.5  # the wall is out of reach
    for record in records(tmp_path, "itop_front_test"):
        assert np.abs(record.centers[0] - record.joints.mean(0)).max() < 0.6 or not record.valid.any()


def test_itop_centers_of_one_view_are_not_taken_for_the_other(tmp_path):
    from converters import itop
    from converters.depth_frames import Options

    folder = tmp_path / "itop"
    joints = itop_folder(folder, "side", "train")
    put(folder / "center" / "center_train.txt", "\n".join(joint_line(part.mean(0)) for part in joints))
    raw = itop.itop("itop_front", "train", folder, Options())
    assert np.isfinite(raw.items[0].centers).all()
    itop_folder(folder, "top", "train")
    with pytest.raises(NothingUsableError, match="may be those of either view; move them to .*side_view"):
        itop.itop("itop_front", "train", folder, Options())


def test_itop_frames_that_show_nobody(tmp_path):
    from converters import itop
    from converters.depth_frames import Options

    itop_folder(tmp_path / "itop", "side", "test", bodies=False)
    raw = itop.itop("itop_front", "test", tmp_path / "itop", Options())
    skips = [next(iter(raw.convert(frame))) for frame in raw.items]
    assert [skip.by_rule for skip in skips] == [False, True, False, False]
    itop_folder(tmp_path / "other", "side", "test", count=3)
    path = tmp_path / "itop" / "ITOP_side_test_depth_map.h5"
    os.replace(tmp_path / "other" / path.name, path)
    with pytest.raises(NothingUsableError, match="not the pictures of the labels .3 pictures, 4 labels"):
        itop.itop("itop_front", "test", tmp_path / "itop", Options())


# ------------------------------------------------------------------------------------------------------ command


def test_records_go_through_the_pipeline(tmp_path):
    from converters import icvl
    from converters.depth_frames import Options

    from posekit.data.depth_pipeline import count_frames, depth_batches

    icvl_folder(tmp_path / "icvl", frames=2)
    make(tmp_path, icvl.icvl("test", tmp_path / "icvl", Options()))
    there = records(tmp_path, "icvl_test")
    codec = VoxelCodec(cubic_size=200.0)
    assert count_frames(tmp_path, "icvl", "test") == 4
    batches = list(depth_batches(tmp_path, "icvl", "test", 3, codec=codec))
    assert [name.decode() for batch in batches for name in batch["name"].numpy()] == [record.name for record in there]
    points = codec.batched().points(batches[0]["depth"], batches[0]["box"], "icvl", unit=0.1)
    voxels = codec.batched().voxels(points, batches[0]["refpoint"]).numpy()
    for index, record in enumerate(there[:3]):
        whole = read_depth_png(tmp_path / "icvl" / "Testing" / "Depth" / f"{record.name}.png")
        expected = codec.voxels(
            depth_to_points(whole, "icvl", first_pixel=codec.first_pixel)[whole > 0], record.centers[0]
        )
        assert np.abs(voxels[index, ..., 0] - expected).sum() <= 2  # float32 at the edge of a voxel
        assert expected.sum() > 300


def test_a_cube_in_another_unit(tmp_path):
    result = run("create_dataset.py", "--itop_front", f"--data_dir={tmp_path}", "--cubic_size=200", status=1)
    assert "--cubic_size=200 is no cube for itop_front, whose own is 2" in result.stderr


def test_several_workers_make_the_same(tmp_path):
    from converters import icvl
    from converters.depth_frames import Options

    icvl_folder(tmp_path / "icvl", frames=3)
    make(tmp_path, icvl.icvl("test", tmp_path / "icvl", Options()))
    one = [record.to_example() for record in records(tmp_path, "icvl_test")]
    command = ["--icvl", f"--data_dir={tmp_path}", "--shard_size=2", "--num_workers=2", "--overwrite"]
    run("create_dataset.py", *command)
    assert [record.to_example() for record in records(tmp_path, "icvl_test")] == one
    assert len(dataset_files(tmp_path, "icvl_test")) == 3


def test_centers_of_several_datasets_in_one_folder(tmp_path):
    icvl_folder(tmp_path / "icvl", centers=True)
    (tmp_path / "icvl" / "center").rename(tmp_path / "all")
    nyu_folder(tmp_path / "nyu", {"train": nyu_frames(1, 0), "test": nyu_frames(1, 0)})
    command = ["--icvl", "--nyu", f"--data_dir={tmp_path}", f"--centers_dir={tmp_path / 'all'}"]
    assert "give one dataset a run, or make a folder for each" in run("create_dataset.py", *command, status=1).stderr
    (tmp_path / "all").rename(tmp_path / "icvl_centers")
    (tmp_path / "all").mkdir()
    (tmp_path / "icvl_centers").rename(tmp_path / "all" / "icvl")
    put(tmp_path / "all" / "nyu" / "center_train_refined.txt", "0 0 700\n")
    put(tmp_path / "all" / "nyu" / "center_test_refined.txt", "0 0 700\ninvalid\n")
    result = run("create_dataset.py", *command, status=1)
    assert "center_test_refined.txt: wrong number of centres (2 lines; the dataset has 1 frames" in result.stderr
    assert "icvl_train" in result.stdout and "estimated" not in result.stdout


@pytest.mark.parametrize("flag", ["msra", "icvl", "nyu", "hands2017", "itop_front", "itop_top"])
def test_raw_data_that_is_not_there(tmp_path, flag):
    result = run("create_dataset.py", f"--{flag}", f"--data_dir={tmp_path}", status=1)
    assert f"There is no folder {tmp_path / flag.split('_')[0]}" in result.stderr
    assert f"--{flag.split('_')[0]}_dir" in result.stderr
