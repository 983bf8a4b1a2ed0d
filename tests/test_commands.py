"""Every command: its --help, and the main job from raw data to an exported model with a real run of each."""

import csv
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import posekit
from posekit import export, predict, preview, train, validate
from posekit.data.sources import read_image
from posekit.systems.exporting import SUFFIXES
from posekit.testing import shared_data

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = ("train", "validate", "preview", "predict", "export")
PARTS = ("benchmark_originals", "sample_depth")  # of tools, no tools themselves
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py") if path.stem not in PARTS)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
SMALL = ["--backbone=MobileNet", "--backbone_weights=none", "--image_size=96", "--batch_size=4", "--body=sample"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"posekit.{name}").main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--backbone" in text and "options of hmr" in text and "options of this command" in text


@pytest.mark.parametrize("name", TOOLS)
def test_help_of_every_tool(name):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), "--help"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert result.returncode in (0, 1) and "--" in result.stdout, result.stderr


def test_commands_run_as_modules():
    command = [sys.executable, "-m", "posekit.train", "--num_epoch=3"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    assert result.returncode == 2 and "--num_epochs" in result.stderr and "Traceback" not in result.stderr


def tool(name, *argv):
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sample data and its TFRecords."""
    folder = tmp_path_factory.mktemp("data")
    tool("create_sample_data.py", f"--data_dir={folder}", "--num_images=16", "--num_poses=200", "--lsp", "--mocap")
    tool("create_dataset.py", "--lsp", "--lsp_val", "--mocap", f"--data_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A short training with every loss switched on."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    argv = [f"--data_dir={data}", f"--run_dir={folder}", "--datasets=lsp_train", "--num_epochs=2", "--verbose=0"]
    losses = ["--use_mesh_repro_loss", "--loss_3d_weight=1", "--log_img_step=2", "--validation_step_size=2"]
    assert train.main([*argv, *losses, *SMALL]) == 0
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_training_writes_the_run_folder(run):
    epochs, steps = rows(run / "log.csv"), rows(run / "steps.csv")
    assert len(epochs) == 2 and len(steps) == 4
    critic = {"critic/critic_network_loss", "critic/generator_critic_loss", "critic/penalty"}
    bones = {"bones/avg_total_bone_lenth_pred", "bones/avg_total_bone_lenth_gt"}
    names = {"generator/kpr_loss", "generator/mr_loss"} | critic | bones
    assert all(np.isfinite(float(row[name])) for row in steps for name in names)
    assert float(epochs[-1]["val_generator/kpr_loss"]) > 0
    assert json.loads((run / "config.json").read_text())["use_mesh_repro_loss"] is True


def test_tensorboard_gets_scalars_and_pictures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "events"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"generator/kpr_loss", "critic/penalty", "vis_images", "val/generator/kpr_loss"} <= set(tags)
    encoded = events.Tensors("vis_images")[-1].tensor_proto.string_val[2]
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 3 * 96 and picture.shape[0] % (3 * 96) == 0 and picture.std() > 10


def test_resume_continues_from_the_run_folder_alone(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert train.main([f"--run_dir={copy}", "--resume", "--num_epochs=3", "--verbose=0", "--run_eagerly"]) == 0
    assert [row["epoch"] for row in rows(copy / "log.csv")] == ["1", "2", "3"]
    assert [int(row["step"]) for row in rows(copy / "steps.csv")] == list(range(1, 7))


def test_killed_training_resumes_to_the_curve_of_an_uninterrupted_one(data, tmp_path):
    # The same with the critic: tests/training/test_loop.py, without the minute that three encoders of this size take.
    argv = [f"--data_dir={data}", "--datasets=lsp_train", "--num_epochs=3", "--log_img_step=0", "--verbose=0"]
    argv += ["--encoder_only", "--nouse_validation", "--run_eagerly"]
    assert train.main([*argv, f"--run_dir={tmp_path / 'whole'}", *SMALL]) == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "posekit.train", *argv, f"--run_dir={killed}", *SMALL]
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment = np.random.default_rng().integers(2, 6)
    steps = killed / "steps.csv"
    while process.poll() is None and not (steps.exists() and len(rows(steps)) >= moment):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train.main([f"--run_dir={killed}", "--resume", "--verbose=0"]) == 0
    whole, resumed = rows(tmp_path / "whole" / "steps.csv"), rows(killed / "steps.csv")
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    for name in whole[0]:
        # Threads add up in another order on every run; anything else would show at the first digits.
        first, second = ([float(row[name]) for row in run] for run in (whole, resumed))
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5, err_msg=f"{name}, killed after step {moment}")


def test_validate_prints_a_table_and_writes_metrics_and_pictures(run, capsys):
    assert validate.main([f"--run_dir={run}", "--baseline", "--num_pictures=2"]) == 0
    text = capsys.readouterr().out
    assert "keypoint reprojection loss (x 60)" in text and "untrained" in text and "8 images" in text
    metrics = json.loads((run / "validation" / "metrics.json").read_text())
    assert set(metrics["trained"]) == set(metrics["untrained"])
    assert all(value is not None and np.isfinite(value) for value in metrics["trained"].values())
    for name in ("best_keypoints", "worst_keypoints", "best_mesh", "worst_mesh", "pck"):
        assert read_image(run / "validation" / f"{name}.png").std() > 5


def test_preview_writes_pictures_and_video(run, data, tmp_path):
    images = data / "lsp_dataset" / "images"
    single = sorted(images.glob("*.jpg"))[0]
    assert preview.main([f"--run_dir={run}", f"--source={single}", f"--output={tmp_path}/a.png", "--view=both"]) == 0
    height, width = read_image(single).shape[:2]
    assert read_image(tmp_path / "a.png").shape == (height, 2 * width, 3)
    assert preview.main([f"--run_dir={run}", f"--source={images}", f"--output={tmp_path}/a.mp4", "--max_frames=3"]) == 0
    assert (tmp_path / "a.mp4").stat().st_size > 1000


def test_predict_writes_every_format(run, data, tmp_path):
    image = sorted((data / "lsp_dataset" / "images").glob("*.jpg"))[0]
    options = ["--formats=json,coco,openpose,npz,obj,png", "--box=10,10,200,250"]
    assert predict.main([str(image), f"--run_dir={run}", f"--output={tmp_path}", *options]) == 0
    stem = image.stem
    assert len(json.loads((tmp_path / f"{stem}.json").read_text())["people"]) == 1
    assert len(json.loads((tmp_path / f"{stem}.coco.json").read_text())[0]["keypoints"]) == 51
    lines = (tmp_path / f"{stem}.obj").read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == 6282
    with np.load(tmp_path / f"{stem}.npz") as archive:
        assert archive["vertices"].shape == (1, 6282, 3) and archive["theta"].shape == (1, 85)
    assert read_image(tmp_path / f"{stem}.png").shape == read_image(image).shape


def test_load_from_a_run_folder_for_every_kind_of_source(run, data):
    pose = posekit.load("hmr", weights=run)
    paths = sorted((data / "lsp_dataset" / "images").glob("*.jpg"))[:3]
    image = read_image(paths[0])
    one = pose(paths[0])
    assert len(one) == 1 and one.keypoints_px.shape == (1, 19, 2) and one.vertices.shape == (1, 6282, 3)
    np.testing.assert_allclose(pose(image).keypoints_px, one.keypoints_px, atol=1e-3)
    two = [[5, 5, 100, 200], [50, 20, 200, 250]]
    many = pose([str(paths[0]), image, read_image(paths[1])], boxes=[None, two, None])
    assert [len(people) for people in many] == [1, 2, 1]
    assert len(pose(str(paths[0].parent))) == 16
    # The mesh projected with its camera lies where the keypoints are: both came back to image pixels.
    focal, x, y = one.camera[0]
    projected = one.joints3d[0, :, :2] / one.joints3d[0, :, 2:] * focal + [x, y]
    assert np.abs(projected - one.keypoints_px[0]).max() < 0.12 * max(image.shape)


@pytest.mark.parametrize("form", ["saved_model", "keras", "tflite"])
def test_export_and_check_in_its_runtime(run, tmp_path, capsys, form):
    argv = [f"--run_dir={run}", f"--format={form}", f"--output={tmp_path / 'out'}{SUFFIXES[form]}"]
    assert export.main(argv) == 0
    difference = float(capsys.readouterr().out.split()[-1])
    assert difference < 1e-3
    assert export.main(argv) == 1 and "--overwrite" in capsys.readouterr().err
    if form == "keras":  # the quickest of them
        assert export.main([*argv, "--overwrite"]) == 0


def test_export_to_onnx(run, tmp_path, capsys):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    assert export.main([f"--run_dir={run}", "--format=onnx", f"--output={tmp_path / 'out.onnx'}"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) < 1e-3


def test_dry_run(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [f"--data_dir={data}", "--datasets=lsp_train", "--dry_run", "--encoder_only", "--run_eagerly"]
    assert train.main([*argv, *SMALL]) == 0
    assert "generator/kpr_loss" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--backbone=resnet51"], "resnet51"),
        (["--datasets=nothing"], "create_dataset.py"),
        (["--mocap_datasets=nothing"], "nothing"),
        (["--scale_min=2"], "scale_max"),
        (["--nouse_kpr_loss"], "Nothing to learn"),
        (["--body=missing.npz"], "missing.npz"),
        (["--backbone_weights=missing.weights.h5"], "missing.weights.h5"),
        (["--mean_params=missing.npz"], "missing.npz"),
    ],
)
def test_bad_options_are_named(data, tmp_path, capsys, argv, message):
    base = [f"--data_dir={data}", f"--run_dir={tmp_path / 'run'}", "--datasets=lsp_train", "--verbose=0"]
    status = train.main([*base, *SMALL, *argv])
    assert status in (1, 2) and message in capsys.readouterr().err


def test_validate_without_weights_says_what_to_name(tmp_path, capsys):
    assert validate.main([f"--run_dir={tmp_path}"]) == 1
    assert "No weights" in capsys.readouterr().err


def test_predict_without_pictures_shows_usage(capsys, run):
    assert predict.main([f"--run_dir={run}"]) == 2
    assert "photo.jpg" in capsys.readouterr().err


def test_weights_of_another_architecture_are_refused(run, capsys):
    assert validate.main([f"--run_dir={run}", "--backbone=MobileNetV2"]) == 1
    assert "backbone: 'MobileNet' -> 'MobileNetV2'" in capsys.readouterr().err


def test_eight_real_images_are_learnt_by_heart(tmp_path):
    images = shared_data() / "lspet_dataset"
    (tmp_path / "lspet_dataset" / "images").mkdir(parents=True)
    shutil.copy(images / "joints.mat", tmp_path / "lspet_dataset")
    for number in range(1, 9):
        shutil.copy(images / "images" / f"im{number:05d}.jpg", tmp_path / "lspet_dataset" / "images")
    tool("create_dataset.py", "--lsp_ext", "--allow_skips", f"--data_dir={tmp_path}")
    run = tmp_path / "run"
    data = [f"--data_dir={tmp_path}", "--datasets=lsp_ext", "--nouse_validation", "--noaugment", "--body=sample"]
    encoder = ["--backbone=MobileNetV3Small", "--backbone_weights=hmr_sample", "--freeze_backbone", "--encoder_only"]
    steps = ["--num_epochs=200", "--checkpoint_every=200", "--generator_lr=0.0005", "--dropout=0", "--log_img_step=0"]
    assert train.main([f"--run_dir={run}", "--verbose=0", *data, *encoder, *steps]) == 0
    assert validate.main([f"--run_dir={run}", "--val_datasets=lsp_ext", "--num_pictures=1"]) == 0
    metrics = json.loads((run / "validation" / "metrics.json").read_text())["trained"]
    assert metrics["images"] == 8 and metrics["pixel_error"] < 4
