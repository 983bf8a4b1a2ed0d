"""The examples in docstrings run and give what they say; those that need data of the reader's are skipped."""

import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Their examples speak of batches and of models that the reader has.
NEED_MORE = {"gan", "fused_adam", "gradient_penalty"}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "posekit").rglob("*.py")
    if ">>>" in path.read_text() and path.stem not in NEED_MORE
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "tf": tf, "keras": keras})
    assert result.failed == 0


def test_there_are_examples():
    assert len(MODULES) > 15
