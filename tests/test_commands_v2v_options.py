"""V2V-PoseNet's commands with every way to compute: half precision, XLA, checks, two devices; and exports."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from posekit import export, train, validate
from posekit.data.depth_records import DepthRecord
from posekit.data.tfrecord import RecordWriter
from posekit.geometry.depth import dataset_camera, world_to_pixel
from posekit.systems.exporting import SUFFIXES

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = [
    "--model=v2v", "--dataset=nyu", "--cropped_size=16", "--original_size=18", "--width=2", "--batch_size=4",
    "--num_epochs=1", "--joints=palm,thumb_tip", "--verbose=0",
]  # fmt: skip


def record(number):
    """A lump of 80 x 80 pixels, 60 cm away, with its joints near."""
    rng, camera = np.random.default_rng(number), dataset_camera("nyu")
    center = np.array([rng.uniform(-50, 50), rng.uniform(-50, 50), 600.0])
    left, top = (world_to_pixel(center, camera)[:2] - 40).astype(int)
    return DepthRecord(
        name=f"depth_1_{number:07d}",
        depth=rng.integers(5500, 6500, (80, 80), np.uint16),
        box=(left, top, left + 80, top + 80),
        joints=center + rng.uniform(-60, 60, (14, 3)),
        valid=np.ones(14),
        centers=[center],
        center_source="file",
        camera=camera.signed_intrinsics,
        picture=(640, 480),
        unit="mm",
        reach=np.full(3, np.inf),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, numbers in (("train", range(8)), ("test", range(8, 11))):
        with RecordWriter(folder / f"nyu_{split}.tfrecords") as writer:
            for number in numbers:
                writer.write(record(number).to_example())
    return folder


def rows(folder, name):
    """Rows of one of a run's tables, as dicts of floats."""
    with open(folder / name, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """A run with none of the options."""
    folder = tmp_path_factory.mktemp("plain")
    assert train.main([*TINY, f"--data_dir={data}", f"--run_dir={folder}", "--run_eagerly"]) == 0
    return folder


def assert_same_losses(run, plain, tolerance):
    """Compares two steps."""
    found, expected = ([row["loss"] for row in rows(folder, "steps.csv")] for folder in (run, plain))
    assert len(found) == len(expected) == 2
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_half_precision_and_less_memory(data, plain, tmp_path):
    options = ["--mixed_precision", "--remat", "--run_eagerly"]
    assert train.main([*TINY, *options, f"--data_dir={data}", f"--run_dir={tmp_path}"]) == 0
    assert_same_losses(tmp_path, plain, 0.02)
    assert validate.main([f"--run_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}", "--num_pictures=0"]) == 0


def test_compiled_with_xla(data, plain, tmp_path):
    options = ["--jit_compile", "--nouse_validation"]
    assert train.main([*TINY, *options, f"--data_dir={data}", f"--run_dir={tmp_path}"]) == 0
    assert_same_losses(tmp_path, plain, 0.02)  # XLA draws other numbers for the augmentation


def test_checked_for_nan(data, plain, tmp_path):
    try:
        # One step is slow enough.
        options = ["--debug_numerics", "--nouse_validation", "--batch_size=8"]
        assert train.main([*TINY, *options, f"--data_dir={data}", f"--run_dir={tmp_path}"]) == 0
    finally:
        tf.debugging.disable_check_numerics()
    (found,) = rows(tmp_path, "steps.csv")
    assert found["loss"] == pytest.approx(rows(plain, "steps.csv")[0]["loss"], rel=0.05)


MIRRORED = """
import sys, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from posekit import train
sys.exit(train.main(sys.argv[1:]))
"""


def test_two_devices(data, plain, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    argv = [*TINY, "--strategy=mirrored", f"--data_dir={data}", f"--run_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, *argv], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mirrored over 2 device(s)." in done.stdout
    # Each device normalises its own part of the batch; the loss of both together would be twice as much.
    assert_same_losses(tmp_path, plain, 0.05)
    # Three test frames on two devices.
    (row,), (expected,) = (rows(folder, "log.csv") for folder in (tmp_path, plain))
    # Not the error: after two steps the highest voxels are anywhere.
    assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=0.05)


@pytest.mark.parametrize("form", ["saved_model", "keras", "onnx"])
def test_exports_of_the_weights_trained_here(tmp_path, capsys, form):
    if form == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    output = tmp_path / f"hand{SUFFIXES[form]}"
    assert export.main(["--model=v2v", "--weights=v2v_sample", f"--format={form}", f"--output={output}"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) < 1e-3


def test_tflite_says_which_formats_can(tmp_path, capsys):
    output = tmp_path / "hand.tflite"
    assert export.main(["--model=v2v", "--weights=v2v_sample", "--format=tflite", f"--output={output}"]) == 1
    assert "lacks the operations MaxPool3D. Take --format=saved_model, keras or onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
