"""Checkpoints of the PyTorch port of V2V-PoseNet: `epoch14.pth` with `model_state_dict`, or a `state_dict` alone.

PyTorch is not needed, and nothing is executed: what is read are dicts and tensors.
"""

import pickle

import numpy as np

from converters.checkpoints import assign, completed
from posekit.data.torch_files import load_torch
from posekit.files import printable
from posekit.metrics.depth_pose import dataset_protocol
from posekit.models.v2v import original_variables

_FIRST = "front_layers.0.block.0.weight"
_WIDEST = "encoder_decoder.mid_res.res_branch.0.weight"
_LAST = "output_layer.weight"
_STATE_KEYS = ("model_state_dict", "state_dict")
# Of modules that hold the network: one with copies for several processors, and one that takes the volumes' means.
_PARALLEL, _INTEGRAL = "module.", "basic_model."
# The places of the volumes' voxels, one after the other.
_PLACES = tuple(f"spatial_softmax.pos_{axis}" for axis in "xyz")
# Counts of training steps, which only PyTorch's cumulative averages need.
_COUNTER = ".num_batches_tracked"
_SHOWN = 20
# 24 cubes of the original's 88 voxels: the widest layer of all takes a gigabyte for them.
_MOST_VOXELS = 1 << 24


def convert(system, config, path):
    """Reads a checkpoint of V2V-PoseNet.

    Args:
        system: System module.
        config: Its options, of which those that the checkpoint tells are replaced.
        path: The file, in either format of `torch.save`.

    Returns:
        `(config, model)` with the checkpoint's weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds more than plain data, or is of another network.

    Follows: dragonbook/V2V-PoseNet-pytorch experiments/msra-subject3/main.py, integral-pose/main.py.
    """
    try:
        content = load_torch(path)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    state, integral = _state(content, path)
    config = completed(config, _told(state, integral, path), path)
    joints = len(state[_LAST])
    if system.skeleton(config).num_joints != joints:
        raise ValueError(_wrong_joints(system, config, path, joints))
    model = system.build_model(config, pretrained=False)
    rows = original_variables(model)
    for name, variable, axes in rows:
        wanted = tuple(int(variable.shape[place]) for place in np.argsort(axes))
        there = f"has the shape {state[name].shape}" if name in state else "is missing"
        if name not in state or state[name].shape != wanted:
            raise ValueError(f"{path} does not fit V2V-PoseNet: {name} {there}, and should have the shape {wanted}.")
    for name, variable, axes in rows:
        assign(variable, np.transpose(state[name], axes), name, path)
        if name.endswith("running_var") and (state[name] < 0).any():
            raise ValueError(f"{path}: {name} holds negative variances; take another checkpoint.")
    unused = sorted(set(state) - {name for name, _, _ in rows})
    unused = [name for name in unused if name not in _PLACES and not name.endswith(_COUNTER)]
    if unused:
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        print(f"Not used: {', '.join(printable(name[:80]) for name in unused[:_SHOWN])}{more}")
    return config, model


def difference(model, config, inputs, expected):
    """Compares the model's output with the original's.

    Args:
        model: What `convert` gave.
        config: Its options.
        inputs: `[batch, 1, x, y, z]` or `[batch, x, y, z]` voxels, in cubes of any size that is a multiple of 8.
        expected: `[batch, joints, x / 2, y / 2, z / 2]` volumes, or the integral head's `[batch, joints, 3]`.

    Returns:
        Largest absolute difference.

    Raises:
        ValueError: If the shapes do not fit the model.
    """
    if inputs.size > _MOST_VOXELS:
        raise ValueError(f"an input of {inputs.size} voxels is more than the {_MOST_VOXELS} that are compared at once")
    voxels = inputs.reshape(len(inputs), *inputs.shape[-3:], 1)
    # The same network for cubes of any size.
    free = type(model).from_config({**model.get_config(), "cube_size": None})
    free.set_weights(model.get_weights())
    found = free.predict_on_batch(voxels)
    if config.head == "integral":
        found = found["coordinates"] if expected.ndim == 3 else found["heatmaps"]
    found = found if expected.ndim == 3 else np.moveaxis(found, -1, 1)
    if found.shape != expected.shape:
        raise ValueError(f"its output has the shape {found.shape}")
    return np.abs(found - expected).max()


def _state(content, path):
    """The tensors by the names of the plain network, and whether the integral network held it."""
    state = content
    for key in _STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            state = content[key]
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no state_dict: neither {' nor '.join(_STATE_KEYS)}, nor tensors by name.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"{path}: its state_dict has {str(name)[:80]!r}, which is no tensor of a name.")
    if all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    integral = any(name.startswith(_INTEGRAL) for name in state)
    plain = {name.removeprefix(_INTEGRAL): value for name, value in state.items()}
    if len(plain) < len(state):
        twice = next(name for name in state if _INTEGRAL + name in state)
        raise ValueError(
            f"{path} holds two networks: both {twice[:80]!r} and {_INTEGRAL + twice[:80]!r}. Save one of them alone."
        )
    return plain, integral


def _told(state, integral, path):
    """Options, after a look at the tensors that are as large as the network is wide, before anything is built."""
    first, widest, last = (state[name].shape if name in state else () for name in (_FIRST, _WIDEST, _LAST))
    width = first[0] if first else 0
    if not width or first != (width, 1, 7, 7, 7) or widest != (8 * width, 8 * width, 3, 3, 3) or (
        len(last) != 5 or last[1:] != (2 * width, 1, 1, 1) or not last[0]
    ):
        raise ValueError(
            f"{path} is not of V2V-PoseNet: {_FIRST}, {_WIDEST} and {_LAST} have the shapes {first}, {widest} and "
            f"{last}. It holds {[name[:80] for name in sorted(state)[:_SHOWN]]}."
        )
    told = {"width": width, "head": "integral" if integral else "heatmap", "convention": "pytorch"}
    if _PLACES[0] in state:
        told["cropped_size"] = 2 * round(state[_PLACES[0]].size ** (1 / 3))
    return told


def _wrong_joints(system, config, path, joints):
    fitting = [name for name in system.DATASETS if dataset_protocol(name).skeleton.num_joints == joints]
    options = " or ".join(f"--dataset={name}" for name in fitting) or "the names of its joints with --joints=NAME,…"
    asked = f"--dataset={config.dataset}" + (f" --joints={','.join(config.joints)}" if config.joints else "")
    return f"{path} was trained with {joints} joints; {asked} has {system.skeleton(config).num_joints}. Give {options}."
