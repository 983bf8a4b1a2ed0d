"""The training loop, driven through the train command with a system of a few lines."""

import csv
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit import train
from posekit.training.callbacks import RunRecorder, check_finite
from posekit.training.run import DivergedError, RunFolder, trained_config
from posekit.weights import load_ensemble, load_model, resolve

TOY = pathlib.Path(__file__).with_name("toy_system.py")


@pytest.fixture(scope="module", autouse=True)
def toy():
    spec = importlib.util.spec_from_file_location("toy_system", TOY)
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_system"] = module
    spec.loader.exec_module(module)
    train.SYSTEMS["toy"] = lambda: module
    yield module
    del train.SYSTEMS["toy"], sys.modules["toy_system"]


def command(*argv):
    return train.main(["--model=toy", "--verbose=0", *map(str, argv)])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def spawn(*argv):
    environment = {**os.environ, "PYTHONPATH": str(TOY.parents[2]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = [sys.executable, str(TOY), *map(str, argv)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert command(f"--run_dir={folder}") == 0
    return folder


def test_a_run_writes_its_folder(uninterrupted):
    assert len(rows(uninterrupted / "log.csv")) == 4
    assert [int(row["step"]) for row in rows(uninterrupted / "steps.csv")] == list(range(1, 25))
    assert json.loads((uninterrupted / "config.json").read_text())["model"] == "toy"
    assert (uninterrupted / "checkpoints/last/training.h5").exists()
    assert (uninterrupted / "checkpoints/best/model.weights.h5").exists()
    assert list((uninterrupted / "events").iterdir())
    losses = [float(row["val_loss"]) for row in rows(uninterrupted / "log.csv")]
    best = json.loads((uninterrupted / "checkpoints/best/progress.json").read_text())
    assert best["best"] == min(losses)


def assert_same_curve(folder, other):
    for name in ("steps.csv", "log.csv"):
        mine, theirs = rows(folder / name), rows(other / name)
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_killed_at_any_moment_it_resumes_to_the_same_curve(tmp_path, uninterrupted):
    rng = np.random.default_rng(int(time.time()))
    for _ in range(3):
        process = spawn(f"--run_dir={tmp_path}", "--resume", "--pause=0.05", "--verbose=0")
        wait_for(tmp_path / "steps.csv", process)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert command(f"--run_dir={tmp_path}", "--resume", "--pause=0") == 0
    assert_same_curve(tmp_path, uninterrupted)


def wait_for(path, process):
    deadline = time.time() + 120
    before = path.stat().st_mtime_ns if path.exists() else None
    while time.time() < deadline and process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)
    assert process.poll() is not None and process.returncode == 0, "the training did not start"


def test_ctrl_c_saves_within_the_epoch_and_says_how_to_continue(tmp_path, uninterrupted):
    process = spawn(f"--run_dir={tmp_path}", "--pause=0.2", "--verbose=0")
    wait_for(tmp_path / "steps.csv", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--run_dir={tmp_path} --resume" in output
    progress = json.loads((tmp_path / "checkpoints/last/progress.json").read_text())
    assert 0 < progress["global_step"] < 24
    assert command(f"--run_dir={tmp_path}", "--resume", "--pause=0") == 0
    assert_same_curve(tmp_path, uninterrupted)


def test_more_epochs_can_be_asked_for_later(tmp_path, uninterrupted):
    assert command(f"--run_dir={tmp_path}", "--num_epochs=2") == 0
    assert command(f"--run_dir={tmp_path}", "--resume", "--num_epochs=4") == 0
    assert_same_curve(tmp_path, uninterrupted)


def test_the_last_epochs_stay_for_an_ensemble(tmp_path, toy, monkeypatch):
    recording = toy.recording
    monkeypatch.setattr(toy, "recording", lambda *given: {**recording(*given), "keep_epochs": 2})
    assert command(f"--run_dir={tmp_path}", "--num_epochs=3") == 0
    (tmp_path / "checkpoints" / "epoch_²").mkdir()
    assert [epoch for epoch, _ in RunFolder(tmp_path).epochs()] == [2, 3]
    models = load_ensemble("toy", toy_without_pretraining(toy), toy.Config(), tmp_path, 2)
    first, last = (model.get_weights()[0] for model in models)
    assert not np.array_equal(first, last)
    newest = load_model(toy_without_pretraining(toy), toy.Config(), resolve(str(tmp_path / "checkpoints/last"), "toy"))
    assert np.array_equal(last, newest.get_weights()[0])
    with pytest.raises(FileNotFoundError, match="--keep_epochs=3"):
        load_ensemble("toy", toy, toy.Config(), tmp_path, 3)


def toy_without_pretraining(toy):
    return types.SimpleNamespace(build_model=lambda config, pretrained: toy.build_model(config))


def test_another_configuration_is_refused(uninterrupted, capsys):
    assert command(f"--run_dir={uninterrupted}", "--resume", "--width=9") == 1
    assert "width: 8 -> 9" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["config.json", "flag"])
def test_another_configuration_of_the_same_shapes_is_refused(tmp_path, uninterrupted, capsys, changed):
    copy = shutil.copytree(uninterrupted, tmp_path / "run")
    flags = ["--activation=tanh"] if changed == "flag" else []
    if not flags:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "activation": "tanh"}))
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5", *flags) == 1
    assert "activation: 'linear' -> 'tanh'" in capsys.readouterr().err


def test_weights_say_with_which_architecture_they_were_trained(tmp_path, uninterrupted, toy):
    path = shutil.copy(uninterrupted / "checkpoints/last/model.weights.h5", tmp_path)
    values = {"width": 3, "seed": 5}
    assert trained_config(toy.Config, values, path) == toy.Config(seed=5)
    with h5py.File(path, "r+") as file:
        file.attrs["posekit_architecture"] = np.bytes_(b"{")
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged"):
        trained_config(toy.Config, values, path)
    with h5py.File(path, "r+") as file:
        file.attrs["posekit_architecture"] = np.bytes_(b'{"depth": 3}')
    with pytest.raises(ValueError, match=r"model\.weights\.h5 was trained with options .* Unknown options \['depth'\]"):
        trained_config(toy.Config, values, path)
    with h5py.File(path, "r+") as file:
        del file.attrs["posekit_architecture"]
    assert trained_config(toy.Config, values, path) == toy.Config(width=3, seed=5)


# ---------------------------------------------------------------------------------------------------- divergence


def test_a_training_that_diverges_keeps_the_last_sound_checkpoint(tmp_path, uninterrupted, capsys):
    run = [f"--run_dir={tmp_path}", "--num_epochs=2"]
    assert command(*run) == 0
    assert command(f"--run_dir={tmp_path}", "--resume", "--num_epochs=4", "--learning_rate=1e30") == 1
    message = capsys.readouterr().err
    assert "diverged: loss is " in message and f"--run_dir={tmp_path} --resume" in message
    assert json.loads((tmp_path / "checkpoints/last/progress.json").read_text())["epoch"] == 2
    assert command(f"--run_dir={tmp_path}", "--resume", "--num_epochs=4", "--learning_rate=0.01") == 0
    assert_same_curve(tmp_path, uninterrupted)


def test_a_training_that_diverges_at_once_leaves_no_checkpoint(tmp_path, capsys):
    assert command(f"--run_dir={tmp_path}", "--learning_rate=1e30") == 1
    assert "before the first checkpoint" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.fixture
def recorder(tmp_path, toy):
    model = toy.build_model(toy.Config())
    recorder = RunRecorder(RunFolder(tmp_path), model, 6, monitor="loss")
    recorder.set_model(toy.build_trainer(toy.Config(), model))
    recorder.on_train_begin()
    recorder.on_epoch_begin(0)
    yield recorder
    recorder.close()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weights_spoilt_by_the_last_step_are_not_saved(recorder, broken):
    recorder.on_epoch_end(0, {"loss": 2.0})
    recorder.model.weights[0].assign(np.full((4, 8), broken))
    with pytest.raises(DivergedError, match="kernel holds NaN"):
        recorder.on_epoch_end(1, {"loss": 1.0})
    for name in ("last", "best"):
        assert json.loads((recorder.run.checkpoints / name / "progress.json").read_text())["best"] == 2.0


def test_epochs_whose_validation_is_no_number_go_on_and_are_noted_as_null(recorder):
    recorder.on_epoch_end(0, {"loss": 2.0, "val_loss": float("nan")})
    text = (recorder.run.checkpoints / "last" / "progress.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["val_loss"] is None
    assert recorder.run.restore(recorder.trained, recorder.model).best == 2.0


def test_steps_that_overflow_are_tolerated_where_losses_are_scaled(toy):
    model = toy.build_trainer(toy.Config(), toy.build_model(toy.Config()))
    model.optimizer = keras.optimizers.LossScaleOptimizer(model.optimizer)
    check_finite({"loss": np.inf}, model, "")
    model.weights[0].assign(np.full((4, 8), np.nan))
    check_finite({"loss": 1.0}, model, "")
    with pytest.raises(DivergedError, match="loss is inf, error is nan"):
        check_finite({"loss": np.inf, "error": np.nan, "other": 1.0}, model, "")


def test_a_checkpoint_with_broken_weights_is_not_continued(tmp_path, uninterrupted, toy, capsys):
    copy = shutil.copytree(uninterrupted, tmp_path / "run")
    with h5py.File(copy / "checkpoints/last/model.weights.h5", "r+") as file:
        file["layers/dense/vars/0"][0, 0] = np.nan
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5") == 1
    assert "not finite" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_traceback(tmp_path, monkeypatch, capsys):
    def fit(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory\nfor a tensor")

    monkeypatch.setattr(keras.Model, "fit", fit)
    assert command(f"--run_dir={tmp_path}") == 1
    assert "Not enough memory (failed to allocate memory); lower --batch_size" in capsys.readouterr().err


def test_dry_run_of_what_diverges_fails(toy, monkeypatch, capsys):
    monkeypatch.setattr(
        toy, "train_data", lambda *_: tf.data.Dataset.from_tensors((np.full((5, 4), np.nan), np.ones((5, 1))))
    )
    assert command("--dry_run") == 1
    assert "loss is nan" in capsys.readouterr().err


def test_training_state_of_another_model_is_refused(tmp_path, toy):
    run = RunFolder(tmp_path)
    for width in (8, 9):
        config = toy.Config(width=width)
        model = toy.build_model(config)
        trainer = toy.build_trainer(config, model)
        if width == 8:
            from posekit.training.run import Progress

            run.save("last", Progress(), model, trainer)
        else:
            with pytest.raises(ValueError):
                run.restore(model, trainer)


def test_an_existing_run_is_not_overwritten(uninterrupted, capsys):
    before = (uninterrupted / "log.csv").read_bytes()
    assert command(f"--run_dir={uninterrupted}") == 2
    assert "--resume" in capsys.readouterr().err
    assert (uninterrupted / "log.csv").read_bytes() == before


def test_resume_without_a_folder_is_refused(capsys):
    assert command("--resume") == 2
    assert "--run_dir" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("--dry_run") == 0
    assert "loss" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_checkpoint_cut_off_between_its_renames_is_recovered(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "checkpoints" / ".last.old").mkdir(parents=True)
    assert run.checkpoint("last") == tmp_path / "checkpoints" / "last"
    assert run.checkpoint("best") is None


def test_unwritable_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command(f"--run_dir={tmp_path / 'file' / 'run'}") == 1
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["progress.json", "training.h5", "model.weights.h5"])
@pytest.mark.parametrize("damage", ["cut", "noise", "missing"])
def test_damaged_checkpoints_are_named(tmp_path, uninterrupted, capsys, name, damage):
    copy = shutil.copytree(uninterrupted, tmp_path / "run")
    file = copy / "checkpoints" / "last" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40] if damage == "cut" else b"noise" * 100)
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5") == 1
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"epoch": 1, "what": 2}', '{"epoch": -1}', '{"epoch": "1"}', '{"best": "x"}', "[]"])
def test_progress_that_makes_no_sense_is_refused(tmp_path, uninterrupted, capsys, text):
    copy = shutil.copytree(uninterrupted, tmp_path / "run")
    (copy / "checkpoints" / "last" / "progress.json").write_text(text)
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5") == 1
    assert "progress.json is damaged" in capsys.readouterr().err


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, uninterrupted, capsys, monkeypatch):
    copy = shutil.copytree(uninterrupted, tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5") == 1
    assert "make room" in capsys.readouterr().err
    monkeypatch.undo()
    assert json.loads((copy / "checkpoints/last/progress.json").read_text())["epoch"] == 4
    assert command(f"--run_dir={copy}", "--resume", "--num_epochs=5") == 0
