"""TensorFlow 1 checkpoints of the original become run folders that every command takes."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from posekit import weights
from posekit.systems import SYSTEMS
from posekit.testing import FIXTURES, load_fixture

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIONS = {
    "lcn_model_small": [],
    "lcn_model_small_inF3_knn1": ["--knn=1"],
    "lcn_model_small_nomaxnorm_nores_knn2": ["--knn=2", "--nomax_norm", "--noresidual"],
    "lcn_model_learnable_ones": [],
}


def convert(*argv):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "--model=lcn", "--from=tf1"]
    return subprocess.run([*command, *map(str, argv)], capture_output=True, text=True, env=environment)


def write_checkpoint(folder, variables, version="V2"):
    """Writes variables with TensorFlow 1's saver, beside a step counter and an optimizer's state as in training."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        made = [v1.Variable(value, name=name) for name, value in variables.items()]
        made.append(v1.Variable(0, name="training/global_step"))
        made.append(v1.Variable(np.zeros_like(variables["linear_model/w1"]), name="training/linear_model/w1/Adam"))
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(made, write_version=getattr(v1.train.SaverDef, version))
        return saver.save(session, str(folder / "model"), global_step=7798)


def weights_of(name):
    arrays = load_fixture(name)
    return {key[2:].split(":")[0]: value for key, value in arrays.items() if key.startswith("W/")}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_originals_outputs_come_out(name, tmp_path):
    checkpoint = write_checkpoint(tmp_path, weights_of(name))
    output = tmp_path / "converted"
    reference = FIXTURES / f"{name}.npz"
    result = convert(checkpoint, f"--output={output}", f"--reference={reference}", *OPTIONS[name])
    assert result.returncode == 0, result.stderr
    difference = float(re.search(r"original's output: (\S+)", result.stdout)[1])
    assert difference < 1e-5
    found = weights.resolve(str(output), "lcn")
    module = SYSTEMS["lcn"]()
    model = weights.load_model(module, module.Config.from_dict(found.config), found)
    arrays = load_fixture(name)
    outputs = model.predict_on_batch(arrays["x"].reshape(len(arrays["x"]), 17, -1))
    np.testing.assert_allclose(outputs.reshape(len(outputs), -1), arrays["pred_eval"], rtol=1e-4, atol=1e-5)


def test_older_files_folders_and_single_files_are_found(tmp_path):
    name = "lcn_model_learnable_ones"
    old = tmp_path / "old"
    old.mkdir()
    write_checkpoint(old, weights_of(name), "V1")
    moved = tmp_path / "moved"
    old.rename(moved)
    for source in (moved, moved / "model-7798", moved / "model-7798.meta"):
        result = convert(source, f"--output={tmp_path / 'converted'}", "--overwrite")
        assert result.returncode == 0, result.stderr
        assert "channels 4" in result.stdout and "locally_connected_learnable" in result.stdout


def test_what_cannot_be_converted_is_explained(tmp_path):
    name = "lcn_model_learnable_ones"
    variables = weights_of(name)
    checkpoint = write_checkpoint(tmp_path, variables)
    output = f"--output={tmp_path / 'converted'}"

    def refused(*argv):
        result = convert(*argv, output)
        assert result.returncode in (1, 2) and "Traceback" not in result.stderr, result.stderr
        assert not (tmp_path / "converted").exists()
        return result.stderr

    assert "Name one checkpoint" in refused()
    assert "There is no checkpoint" in refused(tmp_path / "nothing")
    assert "trained with 4" in refused(checkpoint, "--channels=32")
    assert "no checkpoint of TensorFlow's saver" in refused(write_bytes(tmp_path / "noise", b"\x80\x04K\x01."))

    other = tmp_path / "other"
    other.mkdir()
    assert "not of the locally connected network" in refused(write_checkpoint(other, {
        "linear_model/w1": np.zeros((5, 7), np.float32)}))  # fmt: skip
    part = {key: value for key, value in variables.items() if "b2_0" not in key}
    assert "linear_model/two_linear_0/b2_0 is missing" in refused(write_checkpoint(other, part))

    data = next(tmp_path.glob("model-7798.data*"))
    data.write_bytes(data.read_bytes()[:100])
    assert "damaged" in refused(checkpoint)


def write_bytes(path, content):
    path.write_bytes(content)
    return path
