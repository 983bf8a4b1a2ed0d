"""The depth sets of tools/create_sample_data.py, read back by hand."""

import hashlib
import os
import pathlib
import struct
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

ROOT = pathlib.Path(__file__).resolve().parents[2]
GESTURES = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "I", "IP", "L", "MP", "RP", "T", "TIP", "Y"]
SMALL = ("--msra_frames_per_gesture=1", "--num_nyu_frames=26", "--num_itop_frames=26")
ALL = ("--msra", "--nyu", "--itop")


def run(*flags, status=0):
    command = [sys.executable, str(ROOT / "tools" / "create_sample_data.py"), *map(str, flags)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    text = run(f"--data_dir={folder}", *SMALL, *ALL, "--seed=3", "--num_workers=1")
    assert "create_dataset.py --msra --nyu --itop_front --itop_top --data_dir" in text
    return folder


def read_bin(path):
    content = path.read_bytes()
    width, height, left, top, right, bottom = struct.unpack("<6i", content[:24])
    assert (width, height) == (320, 240) and 0 <= left < right <= 320 and 0 <= top < bottom <= 240
    crop = np.frombuffer(content[24:], "<f4").reshape(bottom - top, right - left)
    depth = np.zeros((240, 320), np.float32)
    depth[top:bottom, left:right] = crop
    return depth


def read_centers(path):
    lines = path.read_text().split("\n")
    assert lines.pop() == ""
    valid = np.array([line != "invalid" for line in lines])
    return np.array([line.split() for line in lines if line != "invalid"], float), valid


def below_surface(joints_px, joints_z, depth):
    """How far joints lie behind what was measured at their pixel; NaN where nothing was or it is not in the picture."""
    height, width = depth.shape
    column, row = np.rint(joints_px).astype(int).T
    shown = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    before = depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(float)
    return np.where(shown & (before > 0), joints_z - before, np.nan)


def test_msra(data):
    folder, near, joints = data / "msra", [], {}
    for subject in range(9):
        assert sorted(path.name for path in (folder / f"P{subject}").iterdir()) == sorted(GESTURES)
        for gesture in GESTURES:
            place = folder / f"P{subject}" / gesture
            first, *lines = (place / "joint.txt").read_text().splitlines()
            assert first == "1" and len(lines) == 1
            names = sorted(path.name for path in place.glob("*.bin"))
            assert names == ["000000_depth.bin"]
            for name, line in zip(names, lines):
                points = np.array(line.split(), float).reshape(21, 3)
                assert (points[:, 2] < -200).all()
                points[:, 2] *= -1
                depth = read_bin(place / name)
                measured = depth[depth > 0]
                assert 100 < measured.min() and measured.max() < 700 and len(measured) > 1000
                pixels = points[:, :2] * (1, -1) * 241.42 / points[:, 2:] + (160, 120)
                below = below_surface(pixels, points[:, 2], depth)
                assert np.isfinite(below).mean() > 0.75 and np.nanmin(below) > -5
                near.append(np.nanmean(below < 22))
                joints.setdefault(subject, []).append(points)
    assert np.mean(near) > 0.75
    # People differ in size, and the bones of one person do not.
    bones = np.linalg.norm(np.diff(np.array([joints[s] for s in range(9)])[:, :, 5:9], axis=2), axis=-1)
    assert bones.std(1).max() < 1e-3 and bones.mean(1).std(0).min() > 0.5
    invalid = 0
    for left_out in range(9):
        others = np.concatenate([joints[subject] for subject in range(9) if subject != left_out])
        for split, truth in (("test", np.array(joints[left_out])), ("train", others)):
            centers, valid = read_centers(folder / f"center/center_{split}_{left_out}_refined.txt")
            assert len(valid) == len(truth)
            assert np.linalg.norm(centers - truth[valid, 5], axis=-1).max() < 25
            assert split == "train" or valid.all()
            invalid += (~valid).sum()
    assert 9 <= invalid < 60


def test_nyu(data):
    names = scipy.io.loadmat(data / "nyu/train/joint_data.mat")["joint_names"]
    assert names.shape == (1, 36) and names[0, 0].item() == "F1_KNU3_A" and names[0, -1].item() == "PALM_6"
    palms = []
    for split, count in (("train", 21), ("test", 5)):
        labels = scipy.io.loadmat(data / f"nyu/{split}/joint_data.mat")
        world, pixels = labels["joint_xyz"], labels["joint_uvd"]
        assert world.shape == pixels.shape == (3, count, 36, 3) and world.dtype == float
        np.testing.assert_allclose(pixels[0, ..., 0], world[0, ..., 0] * 588.036865 / world[0, ..., 2] + 320)
        np.testing.assert_allclose(pixels[0, ..., 1], 240 - world[0, ..., 1] * 587.075073 / world[0, ..., 2])
        np.testing.assert_allclose(pixels[0, ..., 2], world[0, ..., 2])
        files = sorted(path.name for path in (data / f"nyu/{split}").glob("*.png"))
        assert files == [f"depth_1_{number:07d}.png" for number in range(1, count + 1)]
        for index, name in enumerate(files[:8]):
            image = cv2.imread(str(data / f"nyu/{split}/{name}"), cv2.IMREAD_UNCHANGED)
            assert image.shape == (480, 640, 3) and image.dtype == np.uint8 and (image[..., 2] == 0).all()
            depth = image[..., 1] * 256.0 + image[..., 0]
            assert depth.max() == 2001
            below = below_surface(pixels[0, index, :, :2], pixels[0, index, :, 2], depth)
            assert np.isfinite(below).mean() > 0.8 and np.nanmin(below) > -5 and np.nanmean(below < 22) > 0.5
        centers, valid = read_centers(data / f"nyu/center/center_{split}_refined.txt")
        assert len(valid) == count and valid.all() == (split == "test")
        assert np.linalg.norm(centers - world[0, valid, 32], axis=-1).max() < 25
        palms.append(np.linalg.norm(world[0, :, 32] - world[0, :, 35], axis=-1))
    assert np.ptp(palms[0]) < 1e-6 and np.abs(palms[1] - palms[0][0]).max() > 0.1  # another person in the test


@pytest.mark.parametrize("view", ["side", "top"])
def test_itop(data, view):
    for split, count, persons in (("train", 21, range(4, 20)), ("test", 5, range(4))):
        with (
            h5py.File(data / f"itop/ITOP_{view}_{split}_depth_map.h5") as pictures,
            h5py.File(data / f"itop/ITOP_{view}_{split}_labels.h5") as file,
        ):
            assert set(pictures) == {"data", "id"} and pictures["data"].dtype == np.float16
            labels = {key: file[key][()] for key in file}
            depth, ids = pictures["data"][()], pictures["id"][()]
        assert {key: (value.shape, value.dtype.str[1:]) for key, value in labels.items()} == {
            "id": ((count,), "S8"),
            "image_coordinates": ((count, 15, 2), "i2"),
            "is_valid": ((count,), "u1"),
            "real_world_coordinates": ((count, 15, 3), "f2"),
            "segmentation": ((count, 240, 320), "i1"),
            "visible_joints": ((count, 15), "i2"),
        }
        assert depth.shape == (count, 240, 320) and (ids == labels["id"]).all()
        assert {int(name[:2]) for name in ids} == set(persons) and len(set(ids)) == count
        valid = labels["is_valid"] == 1
        assert valid.all() == (split == "test")
        joints = labels["real_world_coordinates"].astype(float)
        assert (joints[~valid] == 0).all() and (labels["segmentation"][~valid] == -1).all()
        pixels = np.stack([160 + joints[..., 0] / (0.0035 * joints[..., 2].clip(0.1)),
                           120 - joints[..., 1] / (0.0035 * joints[..., 2].clip(0.1))], -1)  # fmt: skip
        assert np.abs(pixels - labels["image_coordinates"])[valid].max() < 1.5
        for index in np.flatnonzero(valid):
            assert labels["segmentation"][index].max() <= 14
            below = below_surface(pixels[index], joints[index, :, 2], depth[index])
            assert np.isfinite(below).mean() > 0.6 and np.nanmin(below) > -0.08
            seen = labels["visible_joints"][index] == 1
            assert np.nanmax(below[seen]) < 0.18
        centers, known = read_centers(data / f"itop/center/{view}_view/center_{split}.txt")
        assert (known == valid).all()
        assert np.abs(joints[valid] - centers[:, None]).max() < 1.2


def test_both_views_have_the_same_moments(data):
    places = (data / f"itop/ITOP_{view}_test_labels.h5" for view in ("side", "top"))
    with h5py.File(next(places)) as side, h5py.File(next(places)) as top:
        assert (side["id"][()] == top["id"][()]).all()
        np.testing.assert_allclose(
            side["real_world_coordinates"][..., 0].astype(float),
            top["real_world_coordinates"][..., 0].astype(float),
            atol=2e-3,
        )


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_files_and_other_settings_leave_no_old_ones(data, tmp_path):
    run(f"--data_dir={tmp_path}", *SMALL, "--nyu", "--itop", "--seed=3", "--num_workers=2")
    same, everything = digests(tmp_path), digests(data)
    assert same.items() <= everything.items() and len(same) == 26 + 2 + 2 + 8 + 4 + 2
    run(f"--data_dir={tmp_path}", "--num_nyu_frames=5", "--nyu", "--seed=4", "--num_workers=1")
    assert len(list((tmp_path / "nyu").rglob("*.png"))) == 5
    assert len(scipy.io.loadmat(tmp_path / "nyu/train/joint_data.mat")["joint_xyz"][0]) == 4


def test_foreign_data_is_left_alone(tmp_path):
    (tmp_path / "msra").mkdir()
    (tmp_path / "msra/joint.txt").write_text("real")
    text = run(f"--data_dir={tmp_path}", "--msra", "--num_workers=1", status=1)
    assert "holds data that is not sample data" in text and "--overwrite" in text and "Traceback" not in text
    assert [path.name for path in (tmp_path / "msra").iterdir()] == ["joint.txt"]


def test_what_is_written_becomes_records(data, tmp_path):
    flags = ["--msra", "--nyu", "--itop_front", "--itop_top", f"--data_dir={data}", f"--output_dir={tmp_path}"]
    command = [sys.executable, str(ROOT / "tools/create_dataset.py"), *flags, "--num_workers=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if len(line.split()) == 6}
    for subject in range(9):
        assert rows[f"msra_p{subject}"][1:3] == ["17", "17"]
    assert rows["nyu_test"][1:3] == ["5", "5"] and rows["itop_top_test"][1:3] == ["5", "5"]
    assert int(rows["nyu_train"][2]) < 21 and int(rows["itop_front_train"][2]) < 21
