"""Lifting through the commands: from sample data to curves, tables, pictures, files and exported models."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

import posekit
from posekit import export, predict, preview, train, validate
from posekit.data import h36m
from posekit.data.keypoint_files import read_keypoints
from posekit.data.result_files import read_result, write_result
from posekit.data.sources import read_image
from posekit.systems import lcn
from posekit.systems.evaluation import Evaluation, write_metrics
from posekit.systems.exporting import SUFFIXES
from posekit.training.callbacks import RunRecorder

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
SMALL = ["--model=lcn", "--channels=4", "--num_layers=1", "--batch_size=50", "--verbose=0"]
# Enough to learn something in a few seconds.
LEARNING = ["--channels=8", "--learning_rate=0.01", "--batch_norm_momentum=0.9", "--dropout=0", "--checkpoint_every=20"]
METRICS = {"mpjpe_mm", "pa_mpjpe_mm", "root_mpjpe_mm", "pck3d_150", "auc3d"}


def tool(name, *argv):
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """640 poses to train and 160 to test, with detections."""
    folder = tmp_path_factory.mktemp("data")
    tool("create_sample_data.py", "--h36m", "--num_h36m_poses=800", f"--data_dir={folder}")
    tool("create_dataset.py", "--h36m", f"--data_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Trained on true joints."""
    folder = tmp_path_factory.mktemp("runs") / "gt"
    argv = [*SMALL, *LEARNING, f"--data_dir={data}", f"--run_dir={folder}", "--num_epochs=30"]
    assert train.main(argv) == 0
    return folder


@pytest.fixture(scope="module")
def detected(data, tmp_path_factory):
    """Trained on detections with confidence and on mirror images, read from disk; learned masks, rates in steps."""
    folder = tmp_path_factory.mktemp("runs") / "dt"
    options = ["--mode=dt_ft", "--in-F=3", "--flip-data", "--flip-test", "--batch-size=80", "--graph=0", "--knn=2"]
    masks = ["--mask-type=locally_connected_learnable", "--init-type=ones", "--regularization=1e-6"]
    rates = ["--decay_type=step", "--boundaries=150,300", "--lr_values=0.01,0.004,0.002"]
    argv = [*SMALL, *LEARNING, *options, *masks, *rates, f"--data-dir={data}", f"--run-dir={folder}"]
    assert train.main([*argv, "--num_epochs=24", "--stream"]) == 0
    return folder


def validated(*argv):
    assert validate.main([*argv, "--num_pictures=0"]) == 0


def metrics_in(folder):
    return json.loads((folder / "metrics.json").read_text())


# ---------------------------------------------------------------------------------------------------- training


def test_training_writes_the_run_folder(run):
    epochs, steps = rows(run / "log.csv"), rows(run / "steps.csv")
    assert len(epochs) == 30
    # An epoch has 12 steps; six of them make one call, the most that divide it below ten.
    assert [int(row["step"]) for row in steps] == list(range(6, 30 * 12 + 1, 6))
    for name in ("loss", "joint_error_px", "val_loss", "val_joint_error_px"):
        values = [float(row[name]) for row in epochs]
        assert np.isfinite(values).all() and values[-1] < 0.5 * values[0]
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "lcn" and config["channels"] == 8
    # The sample bodies, whose bones lifted people get.
    assert 3000 < config["body_size_mm"] < 5000 and 1 < config["screen_size"] < 4
    assert (run / "checkpoints/last/training.h5").exists() and (run / "checkpoints/best/model.weights.h5").exists()


def test_a_mirrored_epoch_has_twice_the_steps(detected):
    assert len(rows(detected / "log.csv")) == 24
    assert int(rows(detected / "steps.csv")[-1]["step"]) == 24 * (2 * 640 // 80)


def test_the_original_names_a_run_after_its_number(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([*SMALL, f"--data_dir={data}", "--num_epochs=1", "--test-indices", "7"]) == 0
    assert (tmp_path / "logs" / "test7" / "config.json").exists()


def test_a_dry_run_takes_one_step(data, monkeypatch, capsys):
    models = []
    build = lcn.build_trainer
    monkeypatch.setattr(lcn, "build_trainer", lambda *arguments: models.append(build(*arguments)) or models[-1])
    assert train.main([*SMALL, f"--data_dir={data}", "--dry_run"]) == 0
    assert "one step taken" in capsys.readouterr().out and int(models[0].optimizer.iterations) == 1


@pytest.mark.parametrize("option", ["mixed_precision", "jit_compile", "nouse_validation", "strategy=mirrored"])
def test_every_way_of_running_trains(option, data, tmp_path):
    argv = [*SMALL, f"--data_dir={data}", f"--run_dir={tmp_path}", "--num_epochs=2", f"--{option}"]
    assert train.main(argv) == 0
    epochs = rows(tmp_path / "log.csv")
    assert float(epochs[1]["loss"]) < float(epochs[0]["loss"])
    assert ("val_loss" in epochs[0]) == (option != "nouse_validation")


def test_long_epochs_are_whole_calls_of_equally_many_steps(monkeypatch):
    for batches, steps in ((7798, 7790), (15597, 15500), (3121, 3100), (24371, 24300), (80, 80), (17, 17), (1, 1)):
        monkeypatch.setattr(lcn, "_batches", lambda config, batches=batches: batches)
        assert lcn.steps_per_epoch(lcn.Config()) == steps >= 0.99 * batches


def test_batches_that_long_epochs_leave_out(data, monkeypatch):
    config = lcn.Config(data_dir=str(data), batch_size=50, num_epochs=3)
    whole = [batch[0].numpy() for batch in lcn.train_data(config, 0, 0)]
    monkeypatch.setattr(lcn, "steps_per_epoch", lambda config: 10)
    cut = [batch[0].numpy() for batch in lcn.train_data(config, 0, 0)]
    np.testing.assert_array_equal(cut, [batch for index, batch in enumerate(whole) if index % 12 < 10])
    rest = [batch[0].numpy() for batch in lcn.train_data(config, 1, 4)]
    np.testing.assert_array_equal(rest, cut[14:])


@pytest.mark.parametrize(("mode", "times"), [("gt", 5), ("dt_ft", 2.5)])
def test_joints_are_lifted_far_better_than_by_an_untrained_network(mode, times, run, detected, tmp_path, capsys):
    folder = {"gt": run, "dt_ft": detected}[mode]
    validated(f"--run_dir={folder}", "--baseline", f"--output_dir={tmp_path}")
    text, metrics = capsys.readouterr().out, metrics_in(tmp_path)
    assert set(metrics["trained"]) == set(metrics["untrained"]) == METRICS | {"poses"}
    assert metrics["trained"]["poses"] == 160
    assert times * metrics["trained"]["mpjpe_mm"] < metrics["untrained"]["mpjpe_mm"]
    assert metrics["trained"]["pck3d_150"] > 0.5
    log = (tmp_path / f"err_scale_action_{mode}.log").read_text()
    assert log in text and log.count(" lcn ") == 2 and "160 poses" in text and "untrained" in text
    average = [float(line.split("|")[-2]) for line in log.splitlines() if " lcn " in line]
    expected = [metrics["trained"]["mpjpe_mm"], metrics["trained"]["pa_mpjpe_mm"]]
    np.testing.assert_allclose(average, expected, atol=0.0051)
    assert read_result(tmp_path / f"result_{mode}.pkl").shape == (160, 17, 3)


@pytest.mark.parametrize(
    "options",
    [
        ["--graph=laplacian", "--nolaplacian_rescaled", "--graph_norm=none"],
        ["--graph=laplacian", "--nolaplacian_normalized", "--mask_type=locally_connected_learnable"],
        ["--graph=random", "--knn=1", "--random_seed=3", "--graph_norm=row"],
        ["--graph=full", "--mask_type=locally_connected_learnable", "--mask_init=same"],
        ["--graph=skeleton", "--knn=1", "--graph_norm=symmetric", "--nomax_norm", "--nobatch_norm", "--noresidual"],
        ["--num_layers=0", "--in_joints=17", "--out_joints=17", "--data_type=scale"],
    ],
    ids=lambda options: " ".join(option.strip("-") for option in options[:2]),
)
def test_every_graph_and_mask_takes_a_step(options, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main([*SMALL, *options, f"--data_dir={data}", "--dry_run", "--run_eagerly"]) == 0
    text = capsys.readouterr().out
    assert "loss" in text and "nan" not in text and not list(tmp_path.iterdir())


def test_a_laplacian_is_made_of_the_training_poses_once_and_stored(data, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = [*SMALL, f"--data_dir={data}", f"--run_dir={folder}", "--graph=laplacian", "--num_epochs=1"]
    assert train.main(argv) == 0
    lengths = json.loads((folder / "config.json").read_text())["limb_lengths"]
    assert len(lengths) >= 16 and all(float(length) > 0 for length in lengths)
    # Lifting needs no training poses any more.
    people = posekit.load("lcn", weights=folder, data_dir="nowhere")(read_keypoints(data / "h36m_test.h5#0")[0].people)
    assert np.isfinite(people.joints3d).all()
    assert train.main([f"--run_dir={folder}", "--resume", "--num_epochs=2", "--limb_lengths=1,2", "--verbose=0"]) == 1
    assert "limb_lengths" in capsys.readouterr().err


def test_options_of_the_architecture_cannot_change_in_the_middle_of_a_run(run, capsys):
    assert train.main([f"--run_dir={run}", "--resume", "--knn=2", "--verbose=0"]) == 1
    assert "knn: 3 -> 2" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- interruption

STEPS = ["--num_epochs=5", "--flip_data", "--mask_type=locally_connected_learnable", "--steps_per_execution=5"]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """5 epochs of 25 steps, 5 steps in one call."""
    folder = tmp_path_factory.mktemp("whole")
    assert train.main([*SMALL, *STEPS, f"--data_dir={data}", f"--run_dir={folder}"]) == 0
    assert [int(row["step"]) for row in rows(folder / "steps.csv")] == list(range(5, 126, 5))
    return folder


def assert_same_curve(folder, other):
    for file, key in (("steps.csv", "step"), ("log.csv", "epoch")):
        mine, theirs = {row[key]: row for row in rows(folder / file)}, rows(other / file)
        assert {row[key] for row in theirs} <= set(mine)
        for expected in theirs:
            for name in set(expected) - {"seconds"}:
                # Threads may add up in another order; anything else would show at the first digits.
                found = float(mine[expected[key]][name])
                np.testing.assert_allclose(found, float(expected[name]), rtol=1e-4, err_msg=f"{name} {expected[key]}")


@pytest.mark.parametrize(("number", "together"), [(signal.SIGINT, 5), (signal.SIGTERM, 1)])
def test_stopped_training_resumes_to_the_same_curve(
    data, tmp_path, uninterrupted, monkeypatch, capsys, number, together
):
    record = RunRecorder.on_train_batch_end

    def stop(recorder, batch, logs=None):
        if recorder.progress.global_step + together == 60:
            signal.raise_signal(number)
        record(recorder, batch, logs)

    monkeypatch.setattr(RunRecorder, "on_train_batch_end", stop)
    argv = [*SMALL, *STEPS, f"--data_dir={data}", f"--run_dir={tmp_path}", f"--steps_per_execution={together}"]
    assert train.main(argv) == 130
    assert f"epoch 2, step 10. To continue:\n  python -m posekit.train --model=lcn --run_dir={tmp_path} --resume" in (
        capsys.readouterr().out
    )
    monkeypatch.undo()
    assert train.main([f"--run_dir={tmp_path}", "--resume", "--verbose=0"]) == 0
    assert len(rows(tmp_path / "steps.csv")) == 125 // together
    assert_same_curve(tmp_path, uninterrupted)


def test_killed_training_resumes_to_the_same_curve(data, tmp_path, uninterrupted):
    argv = [*SMALL, *STEPS, f"--data_dir={data}", f"--run_dir={tmp_path}"]
    command = [sys.executable, "-m", "posekit.train", *argv]
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment, steps = np.random.default_rng().integers(1, 16), tmp_path / "steps.csv"
    while process.poll() is None and not (steps.exists() and len(rows(steps)) >= moment):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train.main([*argv, "--resume"]) == 0
    assert_same_curve(tmp_path, uninterrupted)


def test_a_run_goes_on_with_another_number_of_steps_in_one_call(data, tmp_path, uninterrupted, monkeypatch):
    record = RunRecorder.on_train_batch_end

    def stop(recorder, batch, logs=None):
        if recorder.progress.global_step + 5 == 60:
            signal.raise_signal(signal.SIGINT)
        record(recorder, batch, logs)

    monkeypatch.setattr(RunRecorder, "on_train_batch_end", stop)
    assert train.main([*SMALL, *STEPS, f"--data_dir={data}", f"--run_dir={tmp_path}"]) == 130
    monkeypatch.undo()
    assert train.main([f"--run_dir={tmp_path}", "--resume", "--steps_per_execution=20", "--verbose=0"]) == 0
    # The 15 steps left of the epoch in one call, then what divides 25.
    assert [int(row["step"]) for row in rows(tmp_path / "steps.csv")][12:] == [75, *range(80, 126, 5)]
    mine, theirs = rows(tmp_path / "log.csv"), rows(uninterrupted / "log.csv")
    np.testing.assert_allclose(
        [float(row["val_loss"]) for row in mine], [float(row["val_loss"]) for row in theirs], rtol=1e-4
    )


# ---------------------------------------------------------------------------------------------------- evaluation


def test_the_choice_of_checkpoint(run, tmp_path):
    found = {}
    for name in ("best", "last", "final"):
        validated(f"--run_dir={run}", f"--checkpoint={name}", f"--output_dir={tmp_path / name}")
        found[name] = metrics_in(tmp_path / name)
    assert pathlib.Path(found["best"]["weights"]).parts[-2:] == ("best", "model.weights.h5")
    assert pathlib.Path(found["last"]["weights"]).parts[-2:] == ("last", "model.weights.h5")
    assert found["last"] == found["final"]
    best = json.loads((run / "checkpoints/best/progress.json").read_text())
    same = best["epoch"] == 30
    assert (found["best"]["trained"] == found["last"]["trained"]) == same


def test_a_written_result_file_scores_the_same(run, data, tmp_path, capsys):
    validated(f"--run_dir={run}", f"--output_dir={tmp_path / 'a'}")
    text = capsys.readouterr().out
    result = tmp_path / "a" / "result_gt.pkl"
    validated("--model=lcn", f"--data_dir={data}", f"--results={result}", f"--output_dir={tmp_path / 'b'}")
    expected = metrics_in(tmp_path / "a")["trained"]
    assert metrics_in(tmp_path / "b")["results"] == pytest.approx(expected, rel=1e-12)
    logs = [(tmp_path / folder / "err_scale_action_gt.log").read_text() for folder in "ab"]
    assert logs[0].replace("test7", "test1") == logs[1] and logs[1] in capsys.readouterr().out
    assert logs[0] in text


def test_true_poses_as_results_have_no_error(data, tmp_path):
    poses = h36m.read_poses(data, "test")
    path = tmp_path / "result_gt.pkl"
    write_result(path, poses.joints_image)
    validated("--model=lcn", f"--data_dir={data}", f"--results={path}", f"--output_dir={tmp_path}")
    metrics = metrics_in(tmp_path)["results"]
    assert metrics["mpjpe_mm"] < 1e-6 and metrics["pa_mpjpe_mm"] < 1e-6 and metrics["pck3d_150"] == 1


def test_tables_by_joint_and_of_protocol_2_alone(run, tmp_path, capsys):
    validated(f"--run_dir={run}", f"--output_dir={tmp_path}")
    by_action = capsys.readouterr().out
    validated(f"--run_dir={run}", f"--output_dir={tmp_path}", "--per-joint", "--protocol2")
    text = capsys.readouterr().out
    log = (tmp_path / "err_scale_joint_protocol2_gt.log").read_text()
    assert log in text and "protocol 2, mm:" in text and "protocol 1, mm:" not in text
    header = log.splitlines()[2].replace("|", " ").split()
    assert header == ["test_name", *map(str, range(17)), "avg"]
    assert by_action.count("| test_name |   2 ") == 2


def test_pictures_of_the_best_and_worst_poses(run, tmp_path):
    assert validate.main([f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=2"]) == 0
    for name in ("best_poses", "worst_poses", "errors_by_action"):
        assert read_image(tmp_path / f"{name}.png").std() > 5


def test_mirrored_poses_are_averaged_where_asked_for(run, tmp_path):
    for name, flag in (("plain", "--noflip_test"), ("mirrored", "--flip_test"), ("original", "--flip-data")):
        validated(f"--run_dir={run}", f"--output_dir={tmp_path / name}", flag)
    plain, mirrored, original = (
        metrics_in(tmp_path / name)["trained"]["mpjpe_mm"] for name in ("plain", "mirrored", "original")
    )
    assert mirrored == original and plain != mirrored and abs(plain - mirrored) < 0.5 * plain


# ---------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def keypoints(data, tmp_path_factory):
    """The same two people as pose file, and as JSON in three styles."""
    folder = tmp_path_factory.mktemp("keypoints")
    frame = read_keypoints(data / "h36m_test.h5#0")[0]
    frame.people.save(folder / "pose.json")
    frame.people.save(folder / "coco.json", style="coco", image_id=1)
    frame.people.save(folder / "person_000000000001_keypoints.json", style="openpose")
    return folder


def moving(path):
    """Pictures of an animation or a video."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            for number in range(image.n_frames):
                image.seek(number)
                yield np.asarray(image.convert("RGB"))
    video = cv2.VideoCapture(str(path))
    while path.suffix == ".mp4" and (found := video.read())[0]:
        yield found[1][..., ::-1]
    video.release()


def test_preview_draws_one_pose(run, data, keypoints, tmp_path):
    views = {}
    for view in ("both", "skeleton", "rotated"):
        path = tmp_path / f"{view}.png"
        argv = [f"--run_dir={run}", f"--source={data / 'h36m_test.h5'}#3", f"--output={path}", f"--view={view}"]
        assert preview.main(argv) == 0
        views[view] = read_image(path)
        assert views[view].std() > 5
    assert views["both"].shape[1] > 1.5 * views["both"].shape[0]
    assert views["skeleton"].shape[:2] == (1002, 1000)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_preview_walks_around_one_pose_and_along_several(run, data, tmp_path, suffix):
    one, several = tmp_path / f"one{suffix}", tmp_path / f"several{suffix}"
    argv = [f"--run_dir={run}", "--max_frames=8"]
    assert preview.main([*argv, f"--source={data / 'h36m_test.h5'}#3", f"--output={one}"]) == 0
    assert preview.main([*argv, f"--source={data / 'h36m_test.h5'}#0:20:4", f"--output={several}"]) == 0
    pictures = list(moving(one))
    assert len(pictures) == 8
    half = pictures[0].shape[1] // 2
    # The 2-D joints stand still while the 3-D skeleton turns.
    changes = [np.abs(later.astype(int) - pictures[0]).max() for later in pictures[1:]]
    assert min(changes) > 50
    still = np.abs(pictures[-1][:, : half // 2].astype(int) - pictures[0][:, : half // 2]).mean()
    assert still < 1
    assert len(list(moving(several))) == 5


@pytest.mark.parametrize("name", ["pose.json", "coco.json", "person_000000000001_keypoints.json"])
def test_preview_and_predict_take_keypoints_in_json(run, keypoints, tmp_path, name):
    options = [] if name == "pose.json" else ["--image_size=1000,1002"]
    source = keypoints / name
    assert preview.main([f"--run_dir={run}", f"--source={source}", f"--output={tmp_path / 'a.png'}", *options]) == 0
    assert read_image(tmp_path / "a.png").std() > 5
    folder = tmp_path / "out"
    assert predict.main([str(source), f"--run_dir={run}", f"--output={folder}", "--formats=json", *options]) == 0
    (written,) = folder.glob("*.json")
    (person,) = json.loads(written.read_text())["people"]
    assert np.shape(person["joints3d"]) == (17, 3)


def test_predict_writes_every_format(run, data, tmp_path):
    formats = "--formats=json,coco,openpose,npz,obj,png"
    assert predict.main([f"{data / 'h36m_test.h5'}#0:3", f"--run_dir={run}", f"--output={tmp_path}", formats]) == 0
    stems = h36m.read_poses(data, "test", stop=3).names()
    suffixes = (".json", ".coco.json", ".openpose.json", ".npz", ".png")  # no meshes, no .obj
    assert {path.name for path in tmp_path.iterdir()} == {stem + suffix for stem in stems for suffix in suffixes}
    lifter = posekit.load("lcn", weights=run)
    people = lifter(f"{data / 'h36m_test.h5'}#0:3")
    for stem, one in zip(stems, people):
        content = json.loads((tmp_path / f"{stem}.json").read_text())
        np.testing.assert_allclose(content["people"][0]["joints3d"], one.joints3d[0], atol=1e-5)
        with np.load(tmp_path / f"{stem}.npz") as archive:
            np.testing.assert_allclose(archive["joints3d"], one.joints3d, atol=1e-6)
            assert list(archive["joints"]) == list(one.skeleton.joints)
        assert read_image(tmp_path / f"{stem}.png").std() > 5


def test_lifted_people_are_close_to_the_truth(run, data):
    source = data / "h36m_test.h5"
    truth = h36m.read_poses(data, "test")
    lift = posekit.load("lcn", weights=str(run))
    lifted = 1000 * np.concatenate([one.joints3d for one in lift(source)])
    relative = truth.joints_cam_mm - truth.joints_cam_mm[:, :1]
    assert np.linalg.norm(lifted - relative, axis=-1).mean() < 150


def test_files_that_cannot_be_read_are_skipped(run, keypoints, tmp_path, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    argv = [f"--run_dir={run}", f"--output={tmp_path / 'out'}", "--formats=json"]
    assert predict.main([str(bad), str(keypoints / "pose.json"), *argv]) == 3
    assert "bad.json" in capsys.readouterr().err
    assert predict.main([str(bad), str(tmp_path / "missing.json"), *argv]) == 1


@pytest.mark.parametrize("form", ["saved_model", "keras", "tflite", "onnx"])
def test_export_and_check_in_its_runtime(detected, tmp_path, capsys, form):
    if form == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    argv = [f"--run_dir={detected}", f"--format={form}", f"--output={tmp_path / 'out'}{SUFFIXES[form]}"]
    assert export.main(argv) == 0
    assert float(capsys.readouterr().out.split()[-1]) < 1e-4


# ---------------------------------------------------------------------------------------------------- wrong input


def test_help_lists_the_options_of_lcn(capsys):
    for command in (train, validate, preview, predict, export):
        with pytest.raises(SystemExit) as stop:
            command.main(["--model=lcn", "--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0 and "options of lcn" in text and "--knn" in text
        assert ("--learning_rate" in text) == (command is train)
        assert ("per_joint" in text) == (command is validate)
        assert ("--placement" in text) == (command in (preview, predict))


@pytest.mark.parametrize("command", ["train", "validate", "results"])
def test_without_data_the_command_that_makes_it_is_named(command, run, tmp_path, capsys):
    nowhere = f"--data_dir={tmp_path / 'nowhere'}"
    if command == "train":
        status = train.main([*SMALL, nowhere, f"--run_dir={tmp_path / 'run'}"])
    elif command == "validate":
        status = validate.main([f"--run_dir={run}", nowhere])
    else:
        write_result(tmp_path / "result_gt.pkl", np.zeros((3, 17, 3)))
        status = validate.main(["--model=lcn", nowhere, f"--results={tmp_path / 'result_gt.pkl'}"])
    assert status == 1 and "create_dataset.py --h36m" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_detections_that_are_not_there(run, data, tmp_path, capsys):
    tool("create_dataset.py", "--h36m", f"--data_dir={data}", f"--output_dir={tmp_path}", "--h36m_detections=none")
    argv = [f"--data_dir={tmp_path}", "--mode=dt_ft"]
    assert train.main([*SMALL, *argv, f"--run_dir={tmp_path / 'run'}"]) == 1
    assert "--h36m_detections" in capsys.readouterr().err
    assert validate.main([f"--run_dir={run}", *argv]) == 1
    assert "--h36m_detections" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--source=a.json", "--view=mesh", "--output=a.png"], 2, "--view=mesh"),
        (["--source=missing.json", "--output=a.png"], 1, "missing.json"),
        (["--source={keypoints}/coco.json", "--output=a.png"], 1, "--image_size"),
        (["--source={keypoints}/coco.json", "--output=a.png", "--image_size=5"], 1, "image_size"),
        (["--source={keypoints}/pose.json", "--output=a.avi"], 1, ".mp4"),
        (["--source={keypoints}/pose.json", "--output=a.png", "--rotate=90"], 1, "--rotate"),
        (["--source={keypoints}/pose.json", "--output=a.png", "--skeleton=COCO71"], 1, "COCO71"),
        (["--source={keypoints}/pose.json", "--output=a.png", "--placement=middle"], 2, "middle"),
        (["--source={data}/h36m_test.h5#500", "--output=a.png"], 1, "160 frames"),
    ],
)
def test_what_preview_refuses(run, data, keypoints, tmp_path, monkeypatch, capsys, argv, status, message):
    monkeypatch.chdir(tmp_path)
    argv = [argument.format(keypoints=keypoints, data=data) for argument in argv]
    assert preview.main([f"--run_dir={run}", *argv]) == status
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_boxes_do_not_go_with_keypoints(run, keypoints, tmp_path, capsys):
    argv = [str(keypoints / "pose.json"), f"--run_dir={run}", "--box=0,0,5,5", f"--output={tmp_path}"]
    assert predict.main(argv) == 1
    assert "lifts keypoints" in capsys.readouterr().err


def test_results_of_other_poses(data, tmp_path, capsys):
    argv = ["--model=lcn", f"--data_dir={data}", f"--output_dir={tmp_path}"]
    write_result(tmp_path / "result_gt.pkl", np.zeros((5, 17, 3)))
    assert validate.main([*argv, f"--results={tmp_path / 'result_gt.pkl'}"]) == 1
    message = capsys.readouterr().err
    assert "5" in message and "160" in message
    assert validate.main([*argv, f"--results={tmp_path / 'missing.pkl'}"]) == 1
    assert "missing.pkl" in capsys.readouterr().err


def test_without_default_weights(keypoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSEKIT_CHECKPOINTS", str(tmp_path))
    assert predict.main(["--model=lcn", str(keypoints / "pose.json")]) == 1
    assert "No default weights for 'lcn'" in capsys.readouterr().err


def test_runs_and_weights_of_another_system(run, tmp_path, capsys):
    assert validate.main(["--model=hmr", f"--run_dir={run}"]) == 2
    assert "'lcn'" in capsys.readouterr().err


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.parametrize(("name", "value", "shown"), [("knn", 1, "knn: 3 -> 1"), ("channels", 9, "channels: 8 -> 9")])
def test_another_network_than_was_trained_is_refused(copied, keypoints, tmp_path, capsys, name, value, shown):
    source, output = keypoints / "pose.json", f"--output={tmp_path / 'out.png'}"
    flag = f"--{name}={value}"
    commands = [(validate, []), (predict, [str(source), output]), (preview, [f"--source={source}", output])]
    for command, argv in commands:
        assert command.main([f"--run_dir={copied}", *argv, flag]) == 1
        message = capsys.readouterr().err
        assert shown in message and "Leave these options out" in message
    with pytest.raises(ValueError, match=shown):
        posekit.load("lcn", weights=copied, **{name: value})

    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, name: value}))
    assert validate.main([f"--run_dir={copied}"]) == 1
    assert shown in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


def test_runs_without_a_record_of_their_architecture_are_read(copied, tmp_path, capsys):
    with h5py.File(copied / "checkpoints/best/model.weights.h5", "r+") as file:
        del file.attrs["posekit_architecture"]
    validated(f"--run_dir={copied}", f"--output_dir={tmp_path}")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "channels": 9}))
    assert validate.main([f"--run_dir={copied}"]) == 1
    assert "trained with other options" in capsys.readouterr().err


def test_networks_that_no_memory_holds_are_refused(copied, capsys):
    assert train.main([*SMALL, "--channels=4096", f"--data_dir={copied.parent}"]) == 1
    with h5py.File(copied / "checkpoints/best/model.weights.h5", "r+") as file:
        del file.attrs["posekit_architecture"]
    capsys.readouterr()
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "channels": 4096, "num_layers": 64}))
    assert validate.main([f"--run_dir={copied}"]) == 1
    assert "channels=4096 and num_layers=64" in capsys.readouterr().err


def test_poses_of_no_use_are_named(data, tmp_path, capsys):
    def train_on(change):
        shutil.copy(data / "h36m_test.h5", tmp_path)
        shutil.copy(data / "h36m_train.h5", tmp_path)
        with h5py.File(tmp_path / "h36m_train.h5", "r+") as file:
            change(file)
        assert train.main([*SMALL, f"--data_dir={tmp_path}", f"--run_dir={tmp_path / 'run'}"]) == 1
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    def set_action(file):
        file["action"][5] = 99

    def spread(file):
        file["joints_image"][:, ::2] = 9e5

    assert "action 99" in train_on(set_action)
    message = train_on(spread)
    assert f"{tmp_path / 'h36m_train.h5'} are not of people" in message and "--screen_size=" in message


def test_results_outlive_pictures_that_cannot_be_drawn(run, data, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("2 PiB")

    monkeypatch.setattr(lcn, "lifting_picture", fail)
    assert validate.main([f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=1"]) == 1
    message = capsys.readouterr().err
    assert "best_poses.png cannot be drawn (2 PiB)" in message and "--num_pictures=0" in message
    written = {"metrics.json", "result_gt.pkl", "err_scale_action_gt.log", "errors_by_action.png"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_metrics_are_strict_json(tmp_path):
    evaluation = Evaluation({"a": float("nan"), "b": 1.5, "c": None}, {}, {}, ["x"], None)
    path = write_metrics(tmp_path, "w", {"trained": evaluation})
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["trained"] == {"images": 1, "a": None, "b": 1.5, "c": None}


def test_weights_that_are_not_finite_are_not_used(run, keypoints, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    lifter = posekit.load("lcn", weights=copy)
    lifter.model.weights[0].assign(np.full(lifter.model.weights[0].shape, np.nan))
    lifter.model.save_weights(copy / "checkpoints/best/model.weights.h5")
    assert predict.main([str(keypoints / "pose.json"), f"--run_dir={copy}", f"--output={tmp_path / 'out'}"]) == 1
    assert "not finite" in capsys.readouterr().err
