"""V2V-PoseNet's commands on NYU, ITOP and HANDS2017; their figures are computed again from the files on disk."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from posekit import train, validate
from posekit.systems import evaluation, v2v

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = ["--model=v2v", "--cropped_size=16", "--original_size=18", "--width=2", "--batch_size=20", "--verbose=0"]
# As `validate` numbers NYU's joints among the 36 of its labels.
NYU_EVALUATED = np.array([1, 4, 7, 10, 13, 16, 19, 22, 25, 26, 28, 31, 32, 33]) - 1
ITOP_HANDS = [6, 7]
HANDS2017_CAMERA = (475.065948, 475.065857, 315.944855, 245.287079)


def tool(name, *argv):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


def make_records(folder, *datasets):
    return tool("create_dataset.py", *(f"--{name}" for name in datasets), f"--data_dir={folder}")


def trained(data, dataset, folder, *options):
    """A run of one step; what it has learnt does not matter here."""
    argv = [*TINY, f"--dataset={dataset}", f"--data_dir={data}", f"--run_dir={folder}", "--num_epochs=1"]
    assert train.main([*argv, "--run_eagerly", *options]) == 0
    return folder


def validated(capsys, *argv):
    """What `validate` prints."""
    capsys.readouterr()
    assert validate.main(list(map(str, argv))) == 0
    return capsys.readouterr().out


def result(folder):
    """Joints of the result file `[frames, joints, 3]`."""
    lines = (folder / "result.txt").read_text().splitlines()
    rows = [[float(word) for word in line.split() if not word.startswith("image")] for line in lines]
    return np.array(rows).reshape(len(rows), -1, 3)


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["trained"]


def printed_figure(text, label):
    (line,) = (line for line in text.splitlines() if line.startswith(label + " "))
    return float(line.split()[-1])


def table_row(text, joint):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {joint} "))
    return [float(cell) for cell in line.strip("| ").split("|")[1:]]


@pytest.fixture
def drawn(monkeypatch):
    """Titles of the pictures of best and worst frames, and the depths that they show."""
    titles, depths = [], []

    def side_by_side(pictures, names):
        titles.extend(names)
        return original_side(pictures, names)

    def depth_picture(depth, *args, **options):
        depths.append(depth)
        return original_picture(depth, *args, **options)

    original_side, original_picture = evaluation.side_by_side, v2v.depth_picture
    monkeypatch.setattr(evaluation, "side_by_side", side_by_side)
    monkeypatch.setattr(v2v, "depth_picture", depth_picture)
    return titles, depths


def ball(center, radius):
    """Depth picture of half a ball, in whole millimetres."""
    fx, fy, cx, cy = HANDS2017_CAMERA
    rows, columns = np.indices((480, 640))
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(rows.shape)], -1)
    along, square = rays @ center, (rays**2).sum(-1)
    inside = along**2 - square * (center @ center - radius**2)
    depth = np.where(inside > 0, (along - np.sqrt(np.maximum(inside, 0))) / square, 0)
    return np.rint(depth).astype(np.uint16)


def write_hands2017(folder):
    """Four frames to train with and five to test with, in the dataset's layout; the joints of the test frames."""
    rng, (fx, fy, cx, cy) = np.random.default_rng(0), HANDS2017_CAMERA
    for part, count in (("training", 4), ("frame", 5)):
        (folder / part / "images").mkdir(parents=True)
        labels, boxes, truth = [], [], []
        for number in range(1, count + 1):
            center = rng.uniform([-60, -60, 500], [60, 60, 700])
            truth.append(center + rng.uniform(-50, 50, (21, 3)))
            name = f"image_D{number:08d}.png"
            cv2.imwrite(str(folder / part / "images" / name), ball(center, 60.0))
            labels.append("\t".join([name, *(f"{value:.4f}" for value in truth[-1].ravel())]))
            x, y = cx + fx * center[0] / center[2], cy + fy * center[1] / center[2]
            boxes.append(f"{name}\t{x - 60:.2f}\t{y - 60:.2f}\t{x + 60:.2f}\t{y + 60:.2f}")
        annotations = "Training_Annotation.txt" if part == "training" else "Test_Annotation.txt"
        (folder / part / annotations).write_text("\n".join(labels) + "\n")
    (folder / "frame" / "BoundingBox.txt").write_text("\n".join(boxes) + "\n")
    groups = [f"image_D{number:08d}.png {'unseen' if number in (2, 5) else 'seen'}" for number in range(1, 6)]
    (folder / "frame" / "groups.txt").write_text("\n".join(groups) + "\n")
    return np.array(truth)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All three datasets in one folder, as starting the tools takes longest; ITOP's second test frames not valid."""
    folder = tmp_path_factory.mktemp("data")
    frames = ("--num_nyu_frames=15", "--num_itop_frames=25", "--num_workers=1")
    tool("create_sample_data.py", "--nyu", "--itop", *frames, f"--data_dir={folder}")
    for view in ("side", "top"):
        with h5py.File(folder / "itop" / f"ITOP_{view}_test_labels.h5", "r+") as file:
            file["is_valid"][1] = 0
            file["real_world_coordinates"][1] = 0
    np.save(folder / "hands2017.npy", write_hands2017(folder / "hands2017"))
    assert "no true joints" not in make_records(folder, "nyu", "itop_front", "itop_top", "hands2017")
    return folder


# ---------------------------------------------------------------------------------------------------------- NYU


def test_nyu(data, tmp_path, capsys):
    run = trained(data, "nyu", tmp_path / "run")
    text = validated(capsys, f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=1")
    assert text.startswith("3 frames")
    x, y, z = np.moveaxis(result(tmp_path), -1, 0)
    predicted = np.stack([(x - 320) * z / 588.036865, (240 - y) * z / 587.075073, z], -1)
    labels = scipy.io.loadmat(data / "nyu" / "test" / "joint_data.mat")["joint_xyz"][0]
    errors = np.linalg.norm(predicted - labels[:, NYU_EVALUATED], axis=-1)
    assert errors.shape == (3, 14)
    found = figures(tmp_path)
    assert found["mean_error_mm"] == pytest.approx(errors.mean(), abs=0.01)
    assert found["frames_within_40mm"] == pytest.approx((errors.max(1) < 40).mean())
    assert printed_figure(text, "mean error, mm") == pytest.approx(errors.mean(), rel=1e-3)
    mean, within = table_row(text, "all")
    assert (mean, within) == pytest.approx((errors.mean(), 100 * (errors < 20).mean()), abs=0.02)
    assert table_row(text, "palm")[0] == pytest.approx(errors[:, -1].mean(), abs=0.02)
    assert cv2.imread(str(tmp_path / "worst_frames.png")) is not None


# --------------------------------------------------------------------------------------------------------- ITOP


def map_10cm(errors_mm):
    return (errors_mm < 100).mean(0).mean()


@pytest.mark.parametrize("dataset, view", [("itop_front", "side"), ("itop_top", "top")])
def test_itop(data, dataset, view, tmp_path, capsys, drawn):
    run = trained(data, dataset, tmp_path / "run", "--nouse_validation")
    text = validated(capsys, f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=1")
    with h5py.File(data / "itop" / f"ITOP_{view}_test_labels.h5") as file:
        valid = file["is_valid"][:] > 0
        labels, names = file["real_world_coordinates"][:], [name.decode() for name in file["id"][:]]
    assert valid.tolist() == [True, False, True, True, True]
    errors = 1000 * np.linalg.norm(result(tmp_path) - labels, axis=-1)[valid]
    found = figures(tmp_path)
    assert found["map_10cm"] == pytest.approx(map_10cm(errors), abs=1e-6)
    assert found["mean_error_mm"] == pytest.approx(errors.mean(), abs=1)
    assert "15 of 75 joints are not valid and do not count" in text
    # Frames without labels have no error to be best or worst with.
    titles, depths = drawn
    order = np.flatnonzero(valid)[np.argsort(errors.mean(1))]
    assert [title.split()[0] for title in titles] == [names[order[0]], names[order[-1]]]
    assert len(depths) == 2 and all((depth > 0).any() for depth in depths)

    # Predictions within 10 cm here and there, which the network's are not without training.
    predicted = labels + np.random.default_rng(0).normal(0, 0.06, labels.shape)
    lines = [" ".join(f"{value:.4f}" for value in frame.ravel()) for frame in predicted]
    (tmp_path / "other.txt").write_text("\n".join(lines) + "\n")
    argv = ["--model=v2v", f"--dataset={dataset}", f"--data_dir={data}", f"--results={tmp_path / 'other.txt'}"]
    text = validated(capsys, *argv, f"--output_dir={tmp_path}", "--num_pictures=0")
    errors = 1000 * np.linalg.norm(predicted - labels, axis=-1)[valid]
    precision = map_10cm(errors)
    assert 0.2 < precision < 0.8
    assert printed_figure(text, "mAP at 10 cm") == pytest.approx(precision, abs=1e-3)
    assert table_row(text, "all") == pytest.approx([errors.mean(), 100 * precision], abs=0.1)
    assert table_row(text, "hand")[1] == pytest.approx(100 * map_10cm(errors[:, ITOP_HANDS]), abs=0.01)


# ----------------------------------------------------------------------------------------------------- HANDS2017


@pytest.fixture(scope="module")
def unlabelled(data, tmp_path_factory):
    """Folder with HANDS2017 as it is published, without labels of the test frames."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copytree(data / "hands2017", folder / "hands2017")
    for name in ("Test_Annotation.txt", "groups.txt"):
        (folder / "hands2017" / "frame" / name).unlink()
    assert "the frames have no true joints" in make_records(folder, "hands2017")
    return folder


def test_hands2017_by_group(data, tmp_path, capsys):
    truth = np.load(data / "hands2017.npy")
    run = trained(data, "hands2017", tmp_path / "run", "--nouse_validation")
    text = validated(capsys, f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=0")
    errors = np.linalg.norm(result(tmp_path) - truth, axis=-1)
    unseen = np.array([False, True, False, False, True])
    expected = (errors.mean(), errors[~unseen].mean(), errors[unseen].mean())
    found = figures(tmp_path)
    names = ("mean_error_mm", "mean_error_mm/seen", "mean_error_mm/unseen")
    assert [found[name] for name in names] == pytest.approx(expected, abs=0.01)
    labels = ("mean error, mm", "mean error, mm: seen", "mean error, mm: unseen")
    assert re.search(r"\| joint +\| +mm \| seen mm \| unseen mm \|", text)
    assert table_row(text, "all")[:3] == pytest.approx(expected, abs=0.02)
    for label, value in zip(labels[1:], expected[1:]):
        assert printed_figure(text, label) == pytest.approx(value, rel=1e-3)


def test_hands2017_without_labels(data, unlabelled, tmp_path, capsys):
    """The challenge keeps them: there is a result file to send in, and nothing to score."""
    truth = np.load(data / "hands2017.npy")
    run = trained(unlabelled, "hands2017", tmp_path / "run")
    text = validated(capsys, f"--run_dir={run}", f"--output_dir={tmp_path}")
    assert "105 of 105 joints are not valid and do not count" in text
    assert all(value is None for name, value in figures(tmp_path).items() if name != "frames")
    predicted = result(tmp_path)
    assert predicted.shape == (5, 21, 3) and np.linalg.norm(predicted - truth, axis=-1).max() < 500
    assert not list(tmp_path.glob("*_frames.png"))
    # The same file scores where the labels are.
    argv = ["--model=v2v", "--dataset=hands2017", f"--data_dir={data}", f"--results={tmp_path / 'result.txt'}"]
    text = validated(capsys, *argv, f"--output_dir={tmp_path / 'scored'}", "--num_pictures=0")
    errors = np.linalg.norm(predicted - truth, axis=-1)
    assert printed_figure(text, "mean error, mm") == pytest.approx(errors.mean(), rel=1e-3)
