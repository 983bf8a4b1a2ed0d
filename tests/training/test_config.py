import dataclasses
import json
import os
import types

import numpy as np
import pytest

from posekit.training.config import (
    Options,
    UsageError,
    changed_architecture,
    json_text,
    load_config,
    option,
    parse,
    run_command,
    save_config,
    stored_in_run,
)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    num_epochs: int = option(125, "epochs", lower=1, aliases=("epoch",))
    generator_lr: float = option(1e-4, "learning rate", lower=0.0)
    use_critic: bool = option(True, "critic")
    datasets: tuple[str, ...] = option(("lsp_train", "lsp_ext"), "training sets")
    backbone: str = option("resnet50", "backbone", architecture=True)
    head: str = option("a", "head", choices=("a", "b"))
    rates: tuple[str, ...] = option(("1e-3", "1"), "rates", lower=0)
    momentum: float = option(0.9, "momentum", training=True)


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Does something."""

    run_dir: str = option("", "run folder", aliases=("checkpoint_dir",))
    resume: bool = option(False, "continue")


SYSTEMS = {"toy": lambda: types.SimpleNamespace(Config=Config)}


def run(*argv):
    return parse(["--model=toy", *argv], SYSTEMS, Command)


def test_defaults_and_explicit_flags():
    argv = ["--num_epochs=120", "--nouse_critic", "--datasets=a, b", "photo.jpg", "--resume"]
    name, _, config, command, rest = run(*argv)
    assert (name, config.num_epochs, config.use_critic, config.datasets) == ("toy", 120, False, ("a", "b"))
    assert command.resume and rest == ["photo.jpg"]


def test_original_spellings_reach_the_field():
    assert run("--epoch=7")[2].num_epochs == 7
    assert run("--checkpoint_dir=/nowhere")[3].run_dir == "/nowhere"


def test_run_folder_is_read_back_and_overridden(tmp_path):
    save_config(tmp_path / "config.json", "toy", Config(num_epochs=3, datasets=("x",)))
    _, _, config, _, _ = parse([f"--run_dir={tmp_path}", "--generator_lr=0.5"], SYSTEMS, Command, stored_in_run)
    assert (config.num_epochs, config.datasets, config.generator_lr) == (3, ("x",), 0.5)
    assert parse([f"--run_dir={tmp_path}"], SYSTEMS, Command)[2].num_epochs == 125


def test_round_trip_through_json(tmp_path):
    config = Config(num_epochs=9, use_critic=False)
    save_config(tmp_path / "c.json", "toy", config)
    name, values = load_config(tmp_path / "c.json")
    assert name == "toy" and Config.from_dict(values) == config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_epoch=3"], "--num_epochs"),
        (["--num_epochs=x"], "num_epochs"),
        (["--num_epochs=0"], "smallest allowed value is 1"),
        (["--head=c"], "head"),
        (["--generator_lr=nan"], "generator_lr=nan is not a finite number"),
        (["--generator_lr=1e999"], "generator_lr=inf is not a finite number"),
        (["--num_epochs=" + "9" * 60], r"num_epochs=9{40}… is too large; the largest allowed value is 4294967295"),
        (["--rates=1,fast"], "rates=fast must be numbers"),
        (["--rates=1,nan"], "rates=nan is not a finite number"),
        (["--rates=1,-1"], "rates=-1 is too small"),
    ],
)
def test_bad_flags_name_the_flag(argv, message):
    with pytest.raises(UsageError, match=message):
        run(*argv)


def test_unknown_system_lists_the_known():
    with pytest.raises(UsageError, match="toy"):
        parse(["--model=other"], SYSTEMS, Command)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"model": "toy", "num_epochs": true}', '{"model": "toy", "a": 1}', '{"model": [1]}',
        '{"model": null}', "[" * 100000,
    ],
)  # fmt: skip
def test_broken_config_files_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError):
        parse(["--model=toy", f"--run_dir={tmp_path}"], SYSTEMS, Command, stored_in_run)


def test_config_files_that_are_none_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(3 << 30)
    for name, message in (("pipe", "not a regular file"), ("large", "3221225472 bytes, more than")):
        with pytest.raises(ValueError, match=f"{name} is not a posekit configuration .*{message}"):
            load_config(tmp_path / name)


def test_stored_values_out_of_range_name_the_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "toy", "num_epochs": 0}')
    with pytest.raises(UsageError, match=rf"config.json of {tmp_path} cannot be used: --num_epochs=0 is too small"):
        parse([f"--run_dir={tmp_path}"], SYSTEMS, Command, stored_in_run)


def test_memory_that_runs_out_is_no_traceback(capsys):
    def run(*_):
        raise MemoryError("3 TiB")

    assert run_command("posekit.toy", SYSTEMS, Command, run, ["--model=toy"]) == 1
    assert "Not enough memory (3 TiB); lower --batch_size" in capsys.readouterr().err


def test_whole_numbers_too_large_for_a_float_are_refused():
    with pytest.raises(ValueError, match=r"--num_epochs=1000.*… is too large"):
        Config.from_dict({"num_epochs": 10**400})
    with pytest.raises(ValueError, match=r"generator_lr=1000.*… is not a float"):
        Config.from_dict({"generator_lr": 10**400})


@pytest.mark.parametrize(
    "value", ["0.5,1,1.5", " 0.5, 1,1.5,", (0.5, 1, 1.5), [0.5, "1", np.float32(1.5)], ("0.5", np.int64(1), "1.5 ")]
)
def test_lists_of_numbers_may_be_numbers_or_written_as_on_the_command_line(value):
    assert Config.from_dict({"rates": value}).rates == ("0.5", "1", "1.5")


def test_lists_take_single_values():
    assert Config.from_dict({"rates": 0.5}).rates == ("0.5",)
    assert Config.from_dict({"datasets": "x"}).datasets == ("x",)
    assert Config.from_dict({"datasets": "x, y"}).datasets == ("x", "y")


@pytest.mark.parametrize("value", [True, (1, True), [[1, 2]], [None], None, {"a": 1}, (1, np.bool_(True)), b"1", 1j])
def test_lists_of_something_else_are_refused(value):
    with pytest.raises(ValueError, match=r"rates=.* is not a list of numbers, such as \(0.5, 1\) or '0.5,1'"):
        Config.from_dict({"rates": value})


def test_lists_of_names_take_no_numbers():
    for value in (1, (1, 2), ["a", 2.0]):
        with pytest.raises(ValueError, match=r"datasets=.* is not a list of names, such as"):
            Config.from_dict({"datasets": value})
    with pytest.raises(ValueError, match="--rates=-1 is too small"):
        Config.from_dict({"rates": (1, -1)})
    with pytest.raises(ValueError, match="--rates=nan is not a finite number"):
        Config.from_dict({"rates": (1, float("nan"))})


def test_unknown_options_name_what_may_have_been_meant():
    with pytest.raises(ValueError, match=r"Unknown options \['rate'\]; did you mean 'rates'\? All .* --help$"):
        Config.from_dict({"rate": 1})
    with pytest.raises(ValueError, match="did you mean 'num_epochs'"):
        Config.from_dict({"epoch": 1})
    with pytest.raises(ValueError, match=r"Unknown options \['zzz'\]\. All"):
        Config.from_dict({"zzz": 1})


def test_json_is_strict():
    text = json_text({"a": [1.0, float("nan")], "b": (float("-inf"), None, True, "x")})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.0, None], "b": [None, None, True, "x"]}


def test_help_lists_command_and_system(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Does something." in text and "--epoch" in text and "(a|b)" in text and "--[no]resume" in text


@pytest.mark.parametrize(("command", "there"), [("train", True), ("validate", False)])
def test_help_leaves_options_of_training_to_train(capsys, command, there):
    with pytest.raises(SystemExit):
        parse(["--model=toy", "--help"], SYSTEMS, Command, None, command)
    text = capsys.readouterr().out
    assert ("--momentum" in text) == there and "--backbone" in text
    assert ("posekit.train --model=toy --help" in text) != there
    assert parse(["--model=toy", "--momentum=0.5"], SYSTEMS, Command, None, command)[2].momentum == 0.5


def test_changed_architecture_names_the_fields():
    changed = changed_architecture(Config(), Config(backbone="mobilenet", num_epochs=2))
    assert changed == ["backbone: 'resnet50' -> 'mobilenet'"]


def test_config_json_is_plain(tmp_path):
    save_config(tmp_path / "c.json", "toy", Config())
    assert json.loads((tmp_path / "c.json").read_text())["datasets"] == ["lsp_train", "lsp_ext"]
