"""All systems offer the same functions, so that each command is one screen for all of them."""

import dataclasses
import inspect

import pytest

from posekit import preview, validate
from posekit.systems import SYSTEMS

FUNCTIONS = {
    "run_name": ("config",),
    "complete": ("config",),
    "build_model": ("config", "pretrained"),
    "build_trainer": ("config", "model"),
    "steps_per_epoch": ("config",),
    "train_data": ("config", "epoch", "step"),
    "validation_data": ("config", "repeat"),
    "reading": ("config",),
    "recording": ("config", "model"),
    "evaluate": ("config", "model", "keep"),
    "draw": ("people", "image", "view"),
    "drawer": (),
}
# Of the options, those on which the training loop and the commands rely.
OPTIONS = ("num_epochs", "seed", "mixed_precision", "strategy", "debug_numerics", "checkpoint_every", "data_dir")


@pytest.fixture(params=SYSTEMS)
def module(request):
    return SYSTEMS[request.param]()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_names_and_arguments(module, name):
    parameters = tuple(inspect.signature(getattr(module, name)).parameters)
    assert parameters[: len(FUNCTIONS[name])] == FUNCTIONS[name]


def test_views_keys_and_options(module):
    assert module.INPUT in ("pictures", "keypoints", "depth")
    assert set(module.KEYS.values()) == set(module.VIEWS) and all(len(key) == 1 for key in module.KEYS)
    assert set(OPTIONS) <= set(module.Config().to_dict())
    assert tuple(inspect.signature(module.predict).parameters)[:2] == ("config", "model")
    with pytest.raises(ValueError, match="choose one of"):
        module.draw(None, None, view="from below")


def test_the_help_of_preview_names_the_views_of_all_systems():
    (field,) = (field for field in dataclasses.fields(preview.Command) if field.name == "view")
    for name, load in SYSTEMS.items():
        assert f"{name}: {', '.join(load().VIEWS)}" in field.metadata["help"]


def test_systems_without_result_files_name_those_that_have_them(capsys):
    assert validate.main(["--model=hmr", "--results=result.txt"]) == 2
    told = "hmr has no result files; did you mean --model=lcn or --model=openpose or --model=v2v?"
    assert told in capsys.readouterr().err
