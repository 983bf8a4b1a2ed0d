"""OpenPose's weights from Caffe, the Keras port and its dump, through the command, into a small network."""

import dataclasses
import importlib.util
import pathlib
import sys
import types

import h5py
import keras
import numpy as np
import pytest

from posekit.models import OpenPose
from posekit.systems import SYSTEMS
from posekit.training.config import Options, option

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = 2


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of a system with small networks."""

    backbone: str = option("vgg19", "backbone", choices=("vgg19", "mobilenet_thin"), architecture=True)
    num_stages: int = option(6, "stages", lower=1, architecture=True)
    data_dir: str = option("data", "folder")


def build_model(config, pretrained=True):
    """Builds the small network."""
    assert not pretrained
    return OpenPose(config.backbone, config.num_stages, backbone_width=0.125, stage_width=0.125)


@pytest.fixture
def convert(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setitem(SYSTEMS, "openpose", lambda: sys.modules[__name__])
    # Modules are systems, and this one is imported under a name of the test runner's.
    monkeypatch.setitem(sys.modules, __name__, types.SimpleNamespace(Config=Config, build_model=build_model))
    spec = importlib.util.spec_from_file_location("convert_checkpoint", ROOT / "tools" / "convert_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*argv):
        status, printed = tool.main(["--model=openpose", *map(str, argv)]), capsys.readouterr()
        return types.SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return run


@pytest.fixture(scope="module")
def network():
    model = OpenPose("vgg19", STAGES, backbone_width=0.125, stage_width=0.125)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    return model


def layers_of(network):
    return [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]


def caffe_name(name):
    """Caffe's names of the first stage's layers."""
    if "_stage1_" not in name:
        return name
    return f"conv5_{name[5]}_CPM_{name[-2:]}"


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def entry(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def write_caffe(path, network):
    def blob(array):
        return entry(7, entry(7, entry(1, b"".join(map(varint, array.shape)))) + entry(5, array.tobytes()))

    with open(path, "wb") as file:
        for layer in layers_of(network):
            kernel = np.transpose(layer.kernel.numpy(), (3, 2, 0, 1)).astype("<f4")
            file.write(entry(100, entry(1, caffe_name(layer.name).encode()) + blob(kernel) + blob(layer.bias.numpy())))


def write_keras(path, network):
    """A weight file as Keras 2 writes it, under the port's names."""
    with h5py.File(path, "w") as file:
        names = ["input_1", *(layer.name for layer in layers_of(network))]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer in layers_of(network):
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [f"{layer.name}/kernel:0".encode(), f"{layer.name}/bias:0".encode()]
            group[f"{layer.name}/kernel:0"] = layer.kernel.numpy()
            group[f"{layer.name}/bias:0"] = layer.bias.numpy()


def write_npy(path, network):
    path.mkdir()
    for layer in layers_of(network):
        np.save(path / f"W_{caffe_name(layer.name)}.npy", np.transpose(layer.kernel.numpy(), (3, 2, 0, 1)))
        np.save(path / f"b_{caffe_name(layer.name)}.npy", layer.bias.numpy())


WRITERS = {"caffe": write_caffe, "keras": write_keras, "npy": write_npy}


@pytest.mark.parametrize("source", WRITERS)
def test_weights_and_outputs_are_the_originals(convert, network, tmp_path, source):
    WRITERS[source](tmp_path / "original", network)
    images = np.random.default_rng(1).integers(0, 256, (2, 24, 32, 3)).astype(np.float32)
    maps = network(images[..., ::-1])
    np.savez(tmp_path / "reference.npz", img=images, paf=maps["pafs"])
    done = convert(
        f"--from={source}", f"--output={tmp_path / 'run'}", f"--reference={tmp_path / 'reference.npz'}",
        "--reference_input=img", "--reference_output=paf", tmp_path / "original",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "backbone vgg19, num_stages 2" in done.stdout and "Not used" not in done.stdout
    difference = float(done.stdout.split("original's output: ")[1].split()[0])
    assert difference < 1e-5
    loaded = OpenPose("vgg19", STAGES, backbone_width=0.125, stage_width=0.125)
    loaded.load_weights(tmp_path / "run" / "checkpoints" / "best" / "model.weights.h5")
    for mine, theirs in zip(loaded.weights, network.weights):
        np.testing.assert_array_equal(mine, theirs)


def test_files_of_another_kind_or_network_are_refused(convert, network, tmp_path):
    write_caffe(tmp_path / "caffe", network)
    write_keras(tmp_path / "keras", network)
    write_npy(tmp_path / "npy", network)
    for source in WRITERS:
        for other in set(WRITERS) - {source}:
            done = convert(f"--from={source}", f"--output={tmp_path / 'run'}", tmp_path / other)
            assert done.returncode == 1 and other in done.stderr and "Traceback" not in done.stderr
    small = OpenPose("vgg19", STAGES, num_joints=15, num_limbs=14, backbone_width=0.125, stage_width=0.125)
    write_caffe(tmp_path / "mpi", small)
    done = convert("--from=caffe", f"--output={tmp_path / 'run'}", tmp_path / "mpi")
    assert done.returncode == 1 and "28" in done.stderr and "38" in done.stderr
    (tmp_path / "npy" / "b_conv2_1.npy").unlink()
    done = convert("--from=npy", f"--output={tmp_path / 'run'}", tmp_path / "npy")
    assert done.returncode == 1 and "b_conv2_1.npy" in done.stderr
    assert not (tmp_path / "run").exists()


def test_damaged_values_are_refused(convert, network, tmp_path):
    write_keras(tmp_path / "keras", network)
    with h5py.File(tmp_path / "keras", "r+") as file:
        file["conv1_1/conv1_1/bias:0"][0] = np.nan
    done = convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / "keras")
    assert done.returncode == 1 and "not finite" in done.stderr
    with h5py.File(tmp_path / "huge", "w") as file:
        file.create_dataset("conv1_1/kernel:0", (3, 3, 1 << 20, 1 << 20), "f4", chunks=(1, 1, 64, 64))
    done = convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / "huge")
    assert done.returncode == 1 and "claims the shape" in done.stderr
    with h5py.File(tmp_path / "linked", "w") as file:
        file["conv1_1"] = h5py.ExternalLink("keras", "conv1_1")
    done = convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / "linked")
    assert done.returncode == 1 and "no convolutions" in done.stderr


def test_hdf5_is_not_followed_out_of_the_file_nor_unpacked_beyond_measure(convert, network, tmp_path):
    write_keras(tmp_path / "weights", network)
    with h5py.File(tmp_path / "whole", "w") as file:
        file["model_weights"] = h5py.ExternalLink("weights", "/")
    with h5py.File(tmp_path / "soft", "w") as file:
        file["model_weights"] = h5py.SoftLink("/nowhere")
    with h5py.File(tmp_path / "array", "w") as file:
        file["model_weights"] = np.zeros(3)
    for name in ("whole", "soft", "array"):
        done = convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / name)
        assert done.returncode == 1 and "no convolutions" in done.stderr
    with h5py.File(tmp_path / "chunk", "w") as file:
        shape, chunks = (3, 3, 3, 4), (64, 64, 64, 128)
        layout = {"maxshape": (None,) * 4, "chunks": chunks, "compression": 1}
        file.create_dataset("conv1_1/kernel:0", shape, "f4", **layout)[0, 0, 0, 0] = 1
    done = convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / "chunk")
    assert done.returncode == 1 and "in chunks of (64, 64, 64, 128)" in done.stderr
    # A whole model has its weights in a group.
    with h5py.File(tmp_path / "weights") as weights, h5py.File(tmp_path / "model", "w") as file:
        file.create_group("model_weights")
        for name in weights:
            weights.copy(name, file["model_weights"])
    assert convert("--from=keras", f"--output={tmp_path / 'run'}", tmp_path / "model").returncode == 0


def test_sources_belong_to_models(convert, tmp_path):
    done = convert("--from=torch", tmp_path / "x")
    assert done.returncode != 0
    assert "--from=torch is of --model=v2v; --model=openpose reads --from=caffe or --from=keras or" in done.stderr
