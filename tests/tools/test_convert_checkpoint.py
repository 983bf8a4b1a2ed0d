"""Checkpoints of the originals, TensorFlow 1's and PyTorch's, become run folders that every command takes."""

import functools
import importlib.util
import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import types
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

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


@pytest.fixture
def convert(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("convert_checkpoint", ROOT / "tools" / "convert_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*argv):
        status, printed = tool.main(list(map(str, argv))), capsys.readouterr()
        return types.SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    yield run
    keras.backend.clear_session()


def everything(folder):
    """What is in a folder, to see that it stays."""
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


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


def test_the_command_runs(tmp_path):
    checkpoint = write_checkpoint(tmp_path, weights_of("lcn_model_learnable_ones"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "--from=tf1", str(checkpoint)]
    result = subprocess.run([*command, f"--output={tmp_path / 'converted'}"], capture_output=True, text=True,
                            env=environment)  # fmt: skip
    assert result.returncode == 0 and "Next: python -m posekit.validate --model=lcn" in result.stdout, result.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_the_originals_outputs_come_out(name, tmp_path, convert):
    checkpoint = write_checkpoint(tmp_path, weights_of(name))
    output = tmp_path / "converted"
    reference = FIXTURES / f"{name}.npz"
    result = convert("--from=tf1", checkpoint, f"--output={output}", f"--reference={reference}", *OPTIONS[name])
    assert result.returncode == 0, result.stderr
    difference = float(re.search(r"original's output: (\S+)", result.stdout)[1])
    assert difference < 1e-5
    found = weights.resolve(str(output), "lcn")
    module = SYSTEMS["lcn"]()
    model = weights.load_model(module, module.Config.from_dict(found.config), found)
    arrays = load_fixture(name)
    outputs = model.predict_on_batch(arrays["x"].reshape(len(arrays["x"]), 17, -1))
    np.testing.assert_allclose(outputs.reshape(len(outputs), -1), arrays["pred_eval"], rtol=1e-4, atol=1e-5)


def test_older_files_folders_and_single_files_are_found(tmp_path, convert):
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


def test_what_cannot_be_converted_is_explained(tmp_path, convert):
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

    for value, message in ((np.nan, "values that are not finite"), (1, "int32, not floating-point numbers")):
        changed = np.full(variables["linear_model/b1"].shape, value, np.float32 if value != 1 else np.int32)
        assert message in refused(write_checkpoint(other, {**variables, "linear_model/b1": changed}))
    # A file that is made for a network far larger than it.
    wide = {"linear_model/w1": np.zeros((34, 17 * 2048), np.float32)}
    wide |= {f"linear_model/two_linear_{block}/b": np.zeros(1, np.float32) for block in range(9)}
    assert "two_linear_0/w2_0 is missing" in refused(write_checkpoint(other, wide))

    data = next(tmp_path.glob("model-7798.data*"))
    data.write_bytes(data.read_bytes()[:100])
    assert "claims" in refused(checkpoint)
    data.write_bytes(bytes(10**6))
    assert "model-7798 is damaged at mask" in refused(checkpoint)
    data.unlink()
    assert "claims" in refused(checkpoint)
    os.mkfifo(data)
    os.mkfifo(tmp_path / "pipe")
    for path in (checkpoint, tmp_path / "pipe", "/dev/zero"):
        assert "is not a regular file" in refused(path)
    state = tmp_path / "checkpoint"
    for content in (b"\xff\xfe\x00", b"garbage {", b'model_checkpoint_path: ""', bytes(2 << 20)):
        state.write_bytes(content)
        assert "has no file 'checkpoint' that names one" in refused(tmp_path)
    state.write_bytes(b'model_checkpoint_path: ".."')
    assert "is not a regular file" in refused(tmp_path)
    state.unlink()
    os.mkfifo(state)
    assert "is not a regular file" in refused(tmp_path)


def test_references_are_read_before_anything_is_written(tmp_path, convert):
    checkpoint = write_checkpoint(tmp_path, weights_of("lcn_model_learnable_ones"))
    inputs, outputs = np.zeros((3, 34), np.float32), np.zeros((3, 51), np.float32)
    for arrays, message in (
        ({"x": inputs}, "has no 'pred_eval'"),
        ({"x": inputs[:, :33], "pred_eval": outputs}, "do not fit the model"),
        ({"x": inputs, "pred_eval": outputs[:2]}, "do not fit the model"),
        ({"x": inputs[:0], "pred_eval": outputs[:0]}, "a batch of finite numbers"),
        ({"x": np.float32(3), "pred_eval": outputs}, "a batch of finite numbers"),
        ({"x": inputs + np.nan, "pred_eval": outputs}, "a batch of finite numbers"),
        ({"x": inputs.astype("U3"), "pred_eval": outputs}, "a batch of finite numbers"),
        ({"x": np.array([None]), "pred_eval": outputs}, "holds Python objects"),
    ):
        np.savez(tmp_path / "reference.npz", **arrays)
        result = convert(checkpoint, f"--output={tmp_path / 'out'}", f"--reference={tmp_path / 'reference.npz'}")
        assert result.returncode == 1 and message in result.stderr, result.stderr
        assert not (tmp_path / "out").exists()
    result = convert(checkpoint, f"--output={tmp_path / 'out'}", f"--reference={tmp_path / 'none.npz'}")
    assert result.returncode == 1 and "none.npz does not exist" in result.stderr


def test_only_conversions_are_replaced(tmp_path, convert):
    checkpoint = write_checkpoint(tmp_path, weights_of("lcn_model_learnable_ones"))
    output = tmp_path / "out"
    output.mkdir()
    assert convert(checkpoint, f"--output={output}").returncode == 0
    before = everything(output)
    result = convert(checkpoint, f"--output={output}")
    assert result.returncode == 1 and "add --overwrite" in result.stderr
    assert convert(checkpoint, f"--output={output}", "--overwrite", "--knn=1").returncode == 0
    assert everything(output).keys() == before.keys() and everything(output) != before
    # What a training run writes.
    for name in ("log.csv", "checkpoints/last", "checkpoints/best/training.h5"):
        (output / name).touch()
        before = everything(output)
        result = convert(checkpoint, f"--output={output}", "--overwrite")
        assert result.returncode == 1 and f"such as {pathlib.Path(name).name!r}" in result.stderr
        assert everything(output) == before
        (output / name).unlink()
    for path in (checkpoint + ".index", checkpoint + ".index/out"):
        before = everything(tmp_path)
        result = convert(checkpoint, f"--output={path}", "--overwrite")
        assert result.returncode == 1 and "another --output" in result.stderr
        assert everything(tmp_path) == before


# Files in PyTorch's two formats, written without it.


class Pickled:
    """What pickles as a call of a named function."""

    def __init__(self, module, title, *arguments):
        self.name, self.arguments = (module, title), arguments


class Storage(Pickled):
    """A storage's type."""


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def pickled(value):
    """Pickle opcodes of dicts, tuples, numbers, texts and tensors."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return b"}(" + b"".join(text(key) + pickled(part) for key, part in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    if isinstance(value, Storage):
        return "c{}\n{}\n".format(*value.name).encode()
    if isinstance(value, Pickled):
        return "c{}\n{}\n".format(*value.name).encode() + pickled(value.arguments) + b"R"
    if isinstance(value, bytes):
        return value
    return pickle.dumps(value, 2)[2:-1]


def write_torch(path, content, form="zip"):
    """Writes nested dicts whose arrays become tensors as `torch.save` does."""
    storages = {}

    def tensors(part):
        if isinstance(part, dict):
            return {key: tensors(value) for key, value in part.items()}
        if not isinstance(part, np.ndarray):
            return part
        kind, key = {"f": "Float", "i": "Long"}[part.dtype.kind], str(len(storages))
        storages[key] = part.size, part.tobytes()
        identity = ("storage", Storage("torch", f"{kind}Storage"), key, "cpu", part.size)
        identity = pickled((*identity, None) if form == "old" else identity) + b"Q"
        strides = tuple(stride // part.itemsize for stride in part.strides)
        hooks = Pickled("collections", "OrderedDict")
        return Pickled("torch._utils", "_rebuild_tensor_v2", identity, 0, part.shape, strides, False, hooks)

    data = b"\x80\x02" + pickled(tensors(content)) + b"."
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("epoch/data.pkl", data)
            for key, (_, values) in storages.items():
                archive.writestr(f"epoch/data/{key}", values)
    else:
        facts = {"protocol_version": 1001, "little_endian": True}
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, facts))
        tail = b"".join(struct.pack("<q", count) + values for count, values in storages.values())
        path.write_bytes(head + data + pickle.dumps(list(storages), 2) + tail)
    return path


@pytest.fixture(scope="module")
def v2v():
    """The original's weights, an input in cubes of 32 voxels, and its output."""
    arrays = load_fixture("v2v_model_32")
    recipe = arrays["recipe_json"]
    settings = {key: recipe[key] for key in ("gain", "var_lo", "var_hi", "transposed")}
    state = recipe_weights(recipe["shapes"], recipe["seed"], layout="torch", **settings)
    bits = np.unpackbits(arrays["x_bits"])[: np.prod(arrays["x_shape"])]
    return state, bits.reshape(arrays["x_shape"]), arrays["eval_out"]


def narrow(joints=21, **changes):
    """A state of the same network with few channels; None takes a tensor out."""
    return {name: value for name, value in {**narrow_state(joints), **changes}.items() if value is not None}


@functools.cache
def narrow_state(joints):
    from posekit.models.v2v import V2VPoseNet, original_variables

    rng, state = np.random.default_rng(0), {}
    for name, variable, axes in original_variables(V2VPoseNet(num_joints=joints, width=1)):
        shape = [variable.shape[place] for place in np.argsort(axes)]
        state[name] = rng.uniform(0.1, 0.5, shape).astype(np.float32)
    return state


def loaded(output):
    found = weights.resolve(str(output), "v2v")
    module = SYSTEMS["v2v"]()
    config = module.Config.from_dict(found.config)
    return config, weights.load_model(module, config, found)


@pytest.mark.parametrize("form", ["zip", "old"])
def test_the_ports_outputs_come_out(form, tmp_path, convert, v2v):
    state, voxels, expected = v2v
    checkpoint = {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "lr": 0.001}, "epoch": 14}
    path = write_torch(tmp_path / "epoch14.pth", checkpoint, form)
    np.savez(tmp_path / "reference.npz", x=voxels[:1], pred_eval=expected[None])
    output = tmp_path / "converted"
    result = convert("--model=v2v", "--from=torch", path, f"--output={output}", f"--reference={tmp_path}/reference.npz")
    assert result.returncode == 0, result.stderr
    assert "width 16, head heatmap" in result.stdout and "Not used" not in result.stdout
    assert float(re.search(r"original's output: (\S+)", result.stdout)[1]) < 5e-3
    config, model = loaded(output)
    assert (config.width, config.head, config.cropped_size, model.num_joints) == (16, "heatmap", 88, 21)
    kernel = model.get_layer("front").convolution.kernel.numpy()
    np.testing.assert_array_equal(kernel, np.transpose(state["front_layers.0.block.0.weight"], (2, 3, 4, 1, 0)))


def test_the_integral_network_of_several_processors(tmp_path, convert):
    state = {f"basic_model.{name}": value for name, value in narrow().items()}
    places = np.zeros(24**3, np.float32)
    state |= {f"spatial_softmax.pos_{axis}": places for axis in "xyz"}
    state |= {"basic_model.front_layers.0.block.1.num_batches_tracked": np.zeros((), np.int64)}
    state["other.weight"] = places
    path = write_torch(tmp_path / "a.pth", {f"module.{name}": value for name, value in state.items()})
    voxels = np.zeros((1, 1, 8, 8, 8), np.float32)
    output = tmp_path / "out"
    assert convert("--model=v2v", path, f"--output={output}").returncode == 0
    config, model = loaded(output)
    assert config.head == "integral" and config.cropped_size == 48 and config.width == 1
    small = type(model).from_config({**model.get_config(), "cube_size": None})
    small.set_weights(model.get_weights())
    found = small.predict_on_batch(np.moveaxis(voxels, 1, -1))
    for part, shape in (("coordinates", (1, 21, 3)), ("heatmaps", (1, 4, 4, 4, 21))):
        assert found[part].shape == shape
        expected = found[part] if part == "coordinates" else np.moveaxis(found[part], -1, 1)
        np.savez(tmp_path / "r.npz", x=voxels, pred_eval=expected)
        result = convert("--model=v2v", path, f"--output={output}", "--overwrite", f"--reference={tmp_path}/r.npz")
        assert "output: 0 " in result.stdout and "Not used: other.weight\n" in result.stdout


def test_other_joints_need_their_dataset(tmp_path, convert):
    path, output = write_torch(tmp_path / "a.pth", narrow(14)), tmp_path / "out"
    result = convert("--model=v2v", path, f"--output={output}")
    assert "trained with 14 joints; --dataset=msra has 21. Give --dataset=nyu" in result.stderr
    assert not output.exists()
    assert convert("--model=v2v", path, f"--output={output}", "--dataset=nyu").returncode == 0
    config, model = loaded(output)
    assert config.dataset == "nyu" and model.num_joints == 14
    few = write_torch(tmp_path / "b.pth", narrow(2))
    assert "--joints=NAME" in convert("--model=v2v", few, f"--output={output}", "--overwrite").stderr
    assert convert("--model=v2v", few, f"--output={output}", "--overwrite", "--joints=wrist,index_tip").returncode == 0
    assert json.loads((output / "config.json").read_text())["joints"] == ["wrist", "index_tip"]


def test_what_is_not_of_the_port_is_explained(tmp_path, convert):
    good, path = narrow(), tmp_path / "a.pth"
    first = "front_layers.0.block.0.weight"
    for content, message in (
        ({"epoch": 3}, "its state_dict has 'epoch'"),
        ({}, "holds no state_dict"),
        (np.zeros(3, np.float32), "holds no state_dict"),
        ({"weight": np.zeros((3, 3), np.float32)}, "is not of V2V-PoseNet"),
        (narrow(**{first: np.zeros((2, 1, 7, 7, 7), np.float32)}), "is not of V2V-PoseNet"),
        (narrow(**{"output_layer.bias": None}), "output_layer.bias is missing"),
        (narrow(**{"output_layer.bias": np.zeros(20, np.float32)}), "output_layer.bias has the shape"),
        (narrow(**{"output_layer.bias": np.zeros(21, np.int64)}), "int64, not floating-point numbers"),
        (narrow(**{"output_layer.bias": np.full(21, np.inf, np.float32)}), "not finite"),
        (narrow(**{"front_layers.0.block.1.running_var": -np.ones(1, np.float32)}), "negative variances"),
        (Pickled("torch.nn.modules.conv", "Conv3d"), "torch.nn.modules.conv.Conv3d"),
        (good | {f"basic_model.{name}": value for name, value in good.items()}, "holds two networks: both 'front_lay"),
    ):
        write_torch(path, content)
        result = convert("--model=v2v", path, f"--output={tmp_path / 'out'}")
        assert result.returncode == 1 and message in result.stderr, result.stderr
    write_torch(path, good)
    for argv, message in (
        ([path, "--width=32"], "trained with 1"),
        ([path, "--convention=lua"], "trained with pytorch"),
        ([path, "--from=tf1"], "--from=tf1 is of --model=lcn; --model=v2v reads --from=torch"),
        ([tmp_path / "none.pth"], "none.pth"),
        ([tmp_path], "There is no file"),
    ):
        result = convert("--model=v2v", *argv, f"--output={tmp_path / 'out'}")
        assert result.returncode in (1, 2) and message in result.stderr, result.stderr
    write_torch(path, good | {"\x1b[31m" + "x" * 10_000: np.zeros(3, np.float32)})
    result = convert("--model=v2v", path, f"--output={tmp_path / 'other'}")
    assert result.returncode == 0 and "Not used: ?[31mxx" in result.stdout and len(result.stdout) < 1000
    np.savez_compressed(tmp_path / "large.npz", x=np.zeros((1, 264, 256, 256), bool), pred_eval=np.zeros((1, 21, 3)))
    result = convert("--model=v2v", path, f"--reference={tmp_path / 'large.npz'}", f"--output={tmp_path / 'out'}")
    assert result.returncode == 1 and "17301504 voxels is more than" in result.stderr, result.stderr
    path.write_bytes(path.read_bytes()[:-400])
    assert "damaged" in convert("--model=v2v", path, f"--output={tmp_path / 'out'}").stderr
    assert not (tmp_path / "out").exists()


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def test_what_wrote_a_checkpoint_tells_the_model(tmp_path, convert, capsys):
    help_text = convert("--help").stdout
    for source in ("tf1", "torch", "caffe", "keras", "npy"):
        assert f"convert_checkpoint.py --from={source} " in help_text and f"--from={source} --help" in help_text
    assert "--output" in help_text and "--max_norm" not in help_text
    common = help_text[: help_text.index("options of the models")]
    with pytest.raises(SystemExit):
        convert("--from=caffe", "--help")
    of_caffe = capsys.readouterr().out
    assert all(line in of_caffe for line in common.splitlines()) and "--box_size" in of_caffe
    with pytest.raises(SystemExit):
        convert("--help", "--from", "torch")
    lost = convert("--from=torch", tmp_path / "lost.pth", f"--output={tmp_path / 'converted'}")
    assert lost.returncode == 1 and "lost.pth" in lost.stderr and "--model" not in lost.stderr
