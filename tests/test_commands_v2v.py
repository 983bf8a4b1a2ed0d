"""V2V-PoseNet through its commands: rendered hands, records, training, validation, ensembles, preview, prediction."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

import posekit
from posekit import predict, preview, train, validate
from posekit.data.depth_pipeline import read_frames
from posekit.data.depth_results import read_results, write_results
from posekit.skeletons import MSRA21
from posekit.systems import v2v
from posekit.testing import shared_data
from posekit.training.run import RunFolder

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Few steps of a small network take less time than its graph takes to be made.
TINY = [
    "--model=v2v", "--cropped_size=16", "--original_size=18", "--width=2", "--batch_size=34", "--verbose=0",
    "--run_eagerly",
]  # fmt: skip


def tool(name, *argv):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tool("create_sample_data.py", "--msra", "--msra_frames_per_gesture=1", f"--data_dir={folder}")
    assert "msra_p8" in tool("create_dataset.py", "--msra", f"--data_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train.main([*TINY, f"--data_dir={data}", f"--run_dir={folder}", "--num_epochs=3", "--keep_epochs=2"]) == 0
    return folder


def metrics(folder, of="trained"):
    return json.loads((pathlib.Path(folder) / "metrics.json").read_text())[of]


def test_a_small_network_learns_hands(tmp_path, capsys):
    """From rendered pictures to joints three times nearer than the mean pose, in a minute of one core."""
    tool("create_sample_data.py", "--msra", "--msra_frames_per_gesture=6", f"--data_dir={tmp_path}")
    tool("create_dataset.py", "--msra", f"--data_dir={tmp_path}")
    joints = ("wrist", "index_tip", "middle_tip", "ring_tip", "pinky_tip", "thumb_tip")
    small = ["--head=integral", "--cropped_size=24", "--original_size=26", "--width=4", f"--joints={','.join(joints)}"]
    training = ["--batch_size=8", "--num_epochs=5", "--learning_rate=0.006", "--nouse_validation"]
    where = [f"--data_dir={tmp_path}", f"--run_dir={tmp_path / 'run'}", "--verbose=0"]
    assert train.main(["--model=v2v", *small, *training, *where]) == 0
    assert validate.main([f"--run_dir={tmp_path / 'run'}", f"--output_dir={tmp_path}", "--num_pictures=0"]) == 0
    learning, testing = (read_frames(tmp_path, "msra", split) for split in ("train", "test"))
    rows = [MSRA21.index(name) for name in joints]
    mean_pose = np.nanmean(learning.joints - learning.refpoints[:, None], axis=0)
    off = np.linalg.norm(testing.joints - testing.refpoints[:, None] - mean_pose, axis=-1)[:, rows].mean()
    assert metrics(tmp_path)["mean_error_mm"] <= off / 3


def test_the_run_notes_which_joint_the_centres_lie_on(run, data):
    assert RunFolder(run).load_config(v2v.Config).center_joint == "middle_mcp"
    some = v2v.Config(data_dir=str(data), joints=("wrist", "thumb_tip"))
    assert v2v.complete(some).center_joint == "none"
    with pytest.raises(ValueError, match="--center_joint=palm: msra has no such joint"):
        v2v.Config(center_joint="palm")


def test_validation_writes_figures_result_file_and_plots(run, tmp_path, capsys):
    assert validate.main([f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=1", "--baseline"]) == 0
    printed = capsys.readouterr().out
    assert "17 frames" in printed and "| thumb_tip " in printed
    for name in ("success_max.png", "success_mean.png", "joint_accuracy.png", "joint_errors.png", "worst_frames.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    joints, names = read_results(tmp_path / "result.txt", num_joints=21, count=17)
    assert names is None
    # The files it wrote score as the weights did, with the records and without.
    error = metrics(tmp_path)["mean_error_mm"]
    for truth in ([], [f"--ground_truth={tmp_path / 'ground_truth.txt'}"]):
        again = [f"--run_dir={run}", f"--results={tmp_path / 'result.txt'}", "--num_pictures=0", *truth]
        assert validate.main([*again, f"--output_dir={tmp_path / 'again'}"]) == 0
        assert metrics(tmp_path / "again", "results")["mean_error_mm"] == pytest.approx(error, abs=0.01)


def test_coordinates_and_subjects_of_result_files(run, data, tmp_path, capsys):
    argv = [f"--run_dir={run}", "--num_pictures=0"]
    assert validate.main([*argv, "--coordinates=world", f"--output_dir={tmp_path}"]) == 0
    world, _ = read_results(tmp_path / "result.txt", num_joints=21, count=17)
    assert (world[..., 2] > 200).all() and np.abs(world[..., :2]).max() < 300
    # As published: the frames of all nine people one after the other.
    truth = [read_frames(data, "msra", "test", subject).joints for subject in range(9)]
    write_results(tmp_path / "all.txt", np.concatenate(truth) + [0, 3, 4])
    everybody = [*argv, f"--results={tmp_path / 'all.txt'}", "--coordinates=world"]
    assert validate.main([*everybody, "--all_subjects", f"--output_dir={tmp_path}"]) == 0
    assert metrics(tmp_path, "results")["mean_error_mm"] == pytest.approx(5, abs=1e-3)
    assert metrics(tmp_path, "results")["frames"] == 9 * 17
    assert validate.main(everybody) != 0 and "153" in capsys.readouterr().err


def test_an_ensemble_is_the_mean_of_its_epochs(run, tmp_path):
    for epoch, folder in RunFolder(run).epochs():
        argv = [f"--weights={folder}", "--model=v2v", f"--output_dir={tmp_path / str(epoch)}", "--num_pictures=0"]
        assert validate.main(argv) == 0
    assert validate.main([f"--run_dir={run}", "--ensemble=2", f"--output_dir={tmp_path}", "--num_pictures=0"]) == 0

    def world(folder):
        joints, _ = read_results(folder / "result.txt")
        return posekit.geometry.depth.pixel_to_world(joints, "msra")

    mean = (world(tmp_path / "2") + world(tmp_path / "3")) / 2
    np.testing.assert_allclose(world(tmp_path), mean, atol=0.02)


def test_result_files_of_some_joints_are_read_back(data, tmp_path):
    some = ["--joints=wrist,thumb_tip,index_tip", f"--run_dir={tmp_path / 'some'}", "--num_epochs=1"]
    assert train.main([*TINY, *some, f"--data_dir={data}", "--nouse_validation"]) == 0
    argv = [f"--run_dir={tmp_path / 'some'}", "--num_pictures=0"]
    assert validate.main([*argv, f"--output_dir={tmp_path}"]) == 0
    assert validate.main([*argv, f"--results={tmp_path / 'result.txt'}", f"--output_dir={tmp_path / 'again'}"]) == 0
    again = metrics(tmp_path / "again", "results")["mean_error_mm"]
    assert again == pytest.approx(metrics(tmp_path)["mean_error_mm"], abs=0.01)


def test_more_epochs_than_were_kept_are_refused(run, capsys):
    assert validate.main([f"--run_dir={run}", "--ensemble=3"]) != 0
    assert "--keep_epochs=3" in capsys.readouterr().err


def test_training_frames_can_be_evaluated_and_methods_compared(run, data, tmp_path, capsys):
    usable = np.isfinite(read_frames(data, "msra", "train", 3).refpoints).all(-1).sum()
    assert validate.main([f"--run_dir={run}", "--split=train", f"--output_dir={tmp_path}", "--num_pictures=0"]) == 0
    assert f"{usable} frames" in capsys.readouterr().out
    compared = f"--compare=same={tmp_path / 'result.txt'}"
    argv = [f"--run_dir={run}", "--split=train", f"--output_dir={tmp_path / 'both'}", "--num_pictures=0", compared]
    assert validate.main(argv) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "same" in line)
    assert header.replace(" ", "") == "|joint|posekit|same|"


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(data, tmp_path):
    common = [*TINY, "--batch_size=68", "--convention=lua", f"--data_dir={data}", "--joints=wrist,thumb_tip"]
    common.append("--nouse_validation")
    assert train.main([*common, "--num_epochs=2", f"--run_dir={tmp_path / 'whole'}"]) == 0
    assert train.main([*common, "--num_epochs=1", f"--run_dir={tmp_path / 'parts'}"]) == 0
    again = ["--resume", "--num_epochs=2", "--verbose=0", f"--run_dir={tmp_path / 'parts'}"]
    assert train.main(again) == 0
    whole, parts = ((tmp_path / name / "steps.csv").read_text().splitlines() for name in ("whole", "parts"))
    assert len(whole) == len(parts)
    for one, other in zip(whole[1:], parts[1:]):
        one, other = (np.array([float(value) for value in row.split(",")]) for row in (one, other))
        np.testing.assert_allclose(one, other, rtol=2e-3)


def test_previews_and_predictions_of_files(run, data, tmp_path, capsys):
    frames = data / "msra" / "P3" / "4"
    assert preview.main([f"--run_dir={run}", f"--source={frames}", f"--output={tmp_path / 'hand.mp4'}"]) == 0
    assert cv2.VideoCapture(str(tmp_path / "hand.mp4")).read()[0]
    picture = next(frames.glob("*_depth.bin"))
    assert preview.main([f"--run_dir={run}", f"--source={picture}", f"--output={tmp_path / 'turn.gif'}"]) == 0
    assert predict.main([f"--run_dir={run}", str(picture), f"--output={tmp_path}", "--formats=json,png"]) == 0
    stem = picture.name.removesuffix(".bin")
    people = json.loads((tmp_path / f"{stem}.json").read_text())["people"]
    assert len(people) == 1 and cv2.imread(str(tmp_path / f"{stem}.png")) is not None


def test_own_camera_in_python(run):
    pose = posekit.load("v2v", weights=str(run), center_joint="none")  # it has hardly learnt where joints are
    rows, columns = np.mgrid[:120, :160]
    depth_mm = np.where(np.hypot(rows - 60, columns - 80) < 20, 500.0, 0).astype(np.float32)
    people = pose(depth_mm, intrinsics=(200.0, 200.0, 80.0, 60.0))
    assert people.joints3d.shape == (1, 21, 3)
    assert np.abs(people.joints3d - [0, 0, 0.5]).max() < 0.12
    assert people.draw().ndim == 3


def test_options_that_do_not_go_together(run, tmp_path, capsys):
    for argv, message in (
        ([f"--run_dir={run}", "--ground_truth=truth.txt"], "--ground_truth=truth.txt goes with --results"),
        (["--model=v2v", "--results=r.txt", "--ensemble=2"], "leave it out"),
        ([f"--run_dir={run}", "--width=3"], "width: 2 -> 3"),
        (["--model=v2v", "--results=none.txt", "--ground_truth=nothing.txt"], "nothing.txt"),
    ):
        assert validate.main([*argv, f"--output_dir={tmp_path}"]) != 0
        assert message in capsys.readouterr().err


def test_published_results_score_as_published(tmp_path, capsys):
    folder = shared_data() / "icvl"
    truth = f"--ground_truth={folder / 'icvl_test_groundtruth_label.txt'}"
    argv = ["--model=v2v", "--dataset=icvl", truth, f"--results={folder / 'CVPR18_ICVL_V2V_PoseNet.txt'}"]
    other = f"--compare=Pose-REN={folder / 'NEUCOM18_ICVL_Pose_REN.txt'}"
    assert validate.main([*argv, other, "--method=V2V-PoseNet", f"--output_dir={tmp_path}"]) == 0
    assert metrics(tmp_path, "results")["mean_error_mm"] == pytest.approx(6.28, abs=0.005)
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| all")][-1]
    assert last.replace(" ", "") == "|all|6.28|6.79|"
