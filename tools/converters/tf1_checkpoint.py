"""Checkpoints of TensorFlow 1's saver: `model-7798.index` and `model-7798.data-00000-of-00001`, or one older file.

TensorFlow 2 still reads both, so TensorFlow 1 is not needed. A folder with a `checkpoint` file stands for the newest
one in it. Nothing is executed: the file holds arrays under names.
"""

import glob
import math
import pathlib
import re

import tensorflow as tf

from converters.checkpoints import assign, completed
from posekit.files import regular_file
from posekit.models.lcn import original_variables
from posekit.skeletons import H36M17

_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_MAX_STATE_BYTES = 1 << 20


def convert(system, config, path):
    """Reads a checkpoint of the locally connected network.

    Args:
        system: System module.
        config: Its options, of which those that the checkpoint tells are replaced.
        path: Checkpoint, any of its files, or its folder.

    Returns:
        `(config, model)` with the checkpoint's weights.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged, or of another network.
    """
    reader, path, size = _open(path)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    # The network is built only when what the checkpoint claims is not more than its files can hold.
    claimed = sum(math.prod(shape) * types[name].size for name, shape in shapes.items() if types[name].is_floating)
    if claimed > size:
        raise ValueError(f"{path} is damaged: it claims {claimed} bytes, its files have {size}; fetch it anew.")
    config = _completed(config, shapes, path)
    model = system.build_model(config, pretrained=False)
    for name, variable in original_variables(model):
        _check_shape(shapes, name, tuple(variable.shape), path)
    for name, variable in original_variables(model):
        try:
            value = reader.get_tensor(name)
        except (tf.errors.OpError, RuntimeError, LookupError, ValueError) as error:
            raise ValueError(f"{path} is damaged at {name} ({_first_line(error)}); fetch it anew.") from None
        assign(variable, value, name, path)
    return config, model


def difference(model, config, inputs, expected):
    """Compares the model's output with the original's, whose joints and coordinates may be in one axis.

    Args:
        model: What `convert` gave.
        config: Its options.
        inputs: `[batch, …]`, `[17, 2 or 3]` values each.
        expected: `[batch, …]`, `[17, 3]` values each.

    Returns:
        Largest absolute difference.

    Raises:
        ValueError: If the shapes do not fit the model.
    """
    inputs = inputs.reshape(len(inputs), *model.inputs[0].shape[1:])
    return abs(model.predict_on_batch(inputs).reshape(expected.shape) - expected).max()


def _open(path):
    """The reader, the checkpoint's name without suffix, and the bytes of the files with its values."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / _newest(path)
    path = path.with_name(_SUFFIX.sub("", path.name)) if path.name else path
    index = pathlib.Path(f"{path}.index")
    if not path.exists() and not index.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}: neither {path.name}.index nor {path.name} exists.")
    data = [pathlib.Path(name) for name in glob.glob(f"{glob.escape(str(path))}.data-*")] if index.exists() else [path]
    for file in [index, *data] if index.exists() else data:
        regular_file(file)
    try:
        return tf.train.load_checkpoint(str(path)), path, sum(file.stat().st_size for file in data)
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise ValueError(f"{path} is no checkpoint of TensorFlow's saver, or damaged ({_first_line(error)}).") from None


def _newest(folder):
    """Name of the checkpoint that a folder's file `checkpoint` names."""
    state, file = None, folder / "checkpoint"
    if file.exists() and regular_file(file).stat().st_size <= _MAX_STATE_BYTES:
        try:
            state = tf.train.get_checkpoint_state(str(folder))
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError):
            state = None
    # Checkpoints that were moved name the folder that they were written in.
    name = pathlib.Path(state.model_checkpoint_path).name if state is not None else ""
    if not name:
        raise FileNotFoundError(
            f"{folder} has no file 'checkpoint' that names one; name the checkpoint itself, such as model-7798."
        )
    return name


def _completed(config, shapes, path):
    joints, first = H36M17.num_joints, shapes.get("linear_model/w1")
    if first is None or len(first) != 2 or first[0] % joints or first[1] % joints:
        raise ValueError(
            f"{path} is not of the locally connected network: it has no linear_model/w1 whose sizes are multiples of "
            f"{joints} joints. It holds {sorted(shapes)[:20]}."
        )
    told = {
        "in_features": first[0] // joints,
        "channels": first[1] // joints,
        "num_layers": len({name.split("/")[1] for name in shapes if name.startswith("linear_model/two_linear_")}),
        "batch_norm": "linear_model/batch_normalization/gamma" in shapes,
        "mask_type": "locally_connected_learnable" if "mask" in shapes else "locally_connected",
    }
    # Everything else in the network is smaller than these, which must be there before it is built.
    width = first[1]
    for block in range(told["num_layers"]):
        for number in (2, 3):
            _check_shape(shapes, f"linear_model/two_linear_{block}/w{number}_{block}", (width, width), path)
    return completed(config, told, path)


def _check_shape(shapes, name, wanted, path):
    shape = tuple(shapes.get(name, ()))
    if shape != wanted or name not in shapes:
        there = f"has the shape {shape}" if name in shapes else "is missing"
        raise ValueError(
            f"{path} does not fit these options: {name} {there}, and should have the shape {wanted}. "
            f"It holds {sorted(shapes)[:40]}."
        )


def _first_line(error):
    return str(getattr(error, "message", None) or error).splitlines()[0]
