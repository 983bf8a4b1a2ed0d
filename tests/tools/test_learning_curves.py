"""The study of neighbourhoods: variants trained one after another, drawn into one picture."""

import csv
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from posekit.data.sources import read_image
from posekit.training.callbacks import RunRecorder

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = ["--channels=4", "--num_layers=1", "--batch_size=40", "--num_epochs=2", "--verbose=0"]
VARIANTS = "--variants=knn=1; graph=full,layers=0,flip-data=true"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("learning_curves", ROOT / "tools" / "learning_curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, *argv in (["create_sample_data.py", "--num_h36m_poses=300"], ["create_dataset.py"]):
        command = [sys.executable, str(ROOT / "tools" / name), *argv, "--h36m", f"--data_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_an_interrupted_study_goes_on_and_is_drawn(tool, data, tmp_path, monkeypatch, capsys):
    argv = [f"--data_dir={data}", f"--output_dir={tmp_path}", VARIANTS, *SMALL]
    record = RunRecorder.on_epoch_end

    def stop_after_the_second_variants_first(recorder, epoch, logs=None):
        if recorder.run.path.name == "graphfull_layers0_flip-datatrue":
            signal.raise_signal(signal.SIGINT)
        record(recorder, epoch, logs)

    monkeypatch.setattr(RunRecorder, "on_epoch_end", stop_after_the_second_variants_first)
    assert tool.main(argv) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "learning_curves.png").exists()
    monkeypatch.undo()
    log = tmp_path / "knn1" / "log.csv"
    before = log.read_bytes()

    assert tool.main(argv) == 0
    text = capsys.readouterr().out
    assert log.read_bytes() == before
    table = json.loads((tmp_path / "learning_curves.json").read_text())
    assert list(table) == ["knn=1", "graph=full,layers=0,flip-data=true"]
    for title, values in table.items():
        assert f"{title} " in text and len(values["val_joint_error_px"]) == 2 and np.isfinite(values["mpjpe_mm"])
    assert text.count(" PA-MPJPE ") == 2
    config = json.loads((tmp_path / "graphfull_layers0_flip-datatrue" / "config.json").read_text())
    assert config["graph"] == "full" and config["num_layers"] == 0 and config["flip_data"] is True
    assert len(rows(log)) == 2 and read_image(tmp_path / "learning_curves.png").std() > 5

    # Variants trained already are only drawn again; other options do not mix with them.
    assert tool.main([*argv, "--variants=knn=1", "--num_epochs=3", "--curve=val_loss"]) == 0
    assert len(rows(log)) == 3
    assert tool.main([*argv, "--variants=knn=1", "--num_epochs=3", "--curve=val_error"]) == 2
    assert "it has joint_error_px, loss" in capsys.readouterr().err
    assert tool.main([*argv, "--dropout=0.5"]) == 2
    assert "dropout" in capsys.readouterr().err


def test_damaged_logs_are_named_before_anything_is_trained(tool, data, tmp_path, capsys):
    argv = [f"--data_dir={data}", f"--output_dir={tmp_path}", *SMALL]
    assert tool.main([*argv, "--variants=knn=1"]) == 0
    log = tmp_path / "knn1" / "log.csv"
    whole = log.read_bytes()
    head, *lines = whole.splitlines(keepends=True)
    for content in (
        b"", head, head + lines[0][:9] + b"\n", head + b"1,a,b,c,d,e\n", head + lines[1], head + lines[0] + lines[0],
        b"\xff\xfe\0" * 9, b"\0,\0\n" * 9, b"epoch,val_joint_error_px\n1,abc\n", b"epoch,val_joint_error_px\nx,1\n",
    ):  # fmt: skip
        log.write_bytes(content)
        assert tool.main([*argv, "--variants=knn=1;knn=2"]) in (1, 2)
        message = capsys.readouterr().err
        assert "Traceback" not in message and ("anew" in message or "is not a column" in message)
        assert log.read_bytes() == content and not (tmp_path / "knn2").exists()
    log.unlink()
    assert tool.main([*argv, "--variants=knn=1"]) == 1
    assert "log.csv is missing or damaged" in capsys.readouterr().err
    # A run that was killed while it wrote.
    log.write_bytes(whole + b"3,0.")
    assert tool.main([*argv, "--variants=knn=1"]) == 0
    assert (tmp_path / "knn1" / "checkpoints" / "last").exists()


def test_results_need_a_place(tool, data, tmp_path, capsys):
    (tmp_path / "learning_curves.json").mkdir()
    assert tool.main([f"--data_dir={data}", f"--output_dir={tmp_path}", *SMALL, "--variants=knn=1"]) == 2
    assert "learning_curves.json is a folder" in capsys.readouterr().err and not (tmp_path / "knn1").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--variants=knn=1;hops=2"], "hops"),
        (["--variants=knn=1;knn"], "option=value"),
        (["--variants=knn=one"], "knn=one"),
        (["--variants=knn=1;graph=round"], "choose from skeleton"),
        (["--variants=max_norm=maybe"], "neither true nor false"),
        (["--variants=knn=0"], "smallest"),
        (["--variants=;"], "empty"),
        (["--variants=knn=1;use_validation=false"], "not a column of log.csv of 'use_validation=false'"),
        (["--variants=knn=1;data_dir=a/b;data_dir=a_b"], "would share"),
        (["--variants=knn=1,dropout=0.5;knn=1, dropout=0.5"], "would share"),
        (["something"], "something"),
    ],
)
def test_wrong_variants_are_refused_before_anything_is_trained(tool, data, tmp_path, capsys, argv, message):
    assert tool.main([f"--data_dir={data}", f"--output_dir={tmp_path}", *SMALL, *argv]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
