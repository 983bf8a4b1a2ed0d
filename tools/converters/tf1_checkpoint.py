"""Checkpoints of TensorFlow 1's saver: `model-7798.index` and `model-7798.data-00000-of-00001`, or one older file.

TensorFlow 2 still reads both, so TensorFlow 1 is not needed. A folder with a `checkpoint` file stands for the newest
one in it. Nothing is executed: the file holds arrays under names.
"""

import pathlib
import re

import tensorflow as tf

from posekit.models.lcn import original_variables
from posekit.skeletons import H36M17

_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


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
    reader, path = _open(path)
    shapes = reader.get_variable_to_shape_map()
    config = _completed(config, shapes, path)
    model = system.build_model(config, pretrained=False)
    values = []
    for name, variable in original_variables(model):
        shape = tuple(shapes.get(name, ()))
        if shape != tuple(variable.shape):
            wanted, there = tuple(variable.shape), f"has the shape {shape}" if name in shapes else "is missing"
            raise ValueError(
                f"{path} does not fit these options: {name} {there}, and should have the shape {wanted}. "
                f"It holds {sorted(shapes)[:40]}."
            )
        values.append((variable, name))
    for variable, name in values:
        try:
            variable.assign(reader.get_tensor(name))
        except (tf.errors.OpError, RuntimeError, LookupError) as error:
            raise ValueError(f"{path} is damaged at {name} ({_first_line(error)}); fetch it anew.") from None
    return config, model


def _open(path):
    path = pathlib.Path(path)
    if path.is_dir():
        state = tf.train.get_checkpoint_state(str(path))
        if state is None or not state.model_checkpoint_path:
            raise FileNotFoundError(
                f"{path} has no file 'checkpoint' that names one; name the checkpoint itself, such as model-7798."
            )
        # Checkpoints that were moved name the folder that they were written in.
        path = path / pathlib.Path(state.model_checkpoint_path).name
    path = path.with_name(_SUFFIX.sub("", path.name))
    if not path.exists() and not path.with_name(path.name + ".index").exists():
        raise FileNotFoundError(f"There is no checkpoint {path}: neither {path.name}.index nor {path.name} exists.")
    try:
        return tf.train.load_checkpoint(str(path)), path
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise ValueError(f"{path} is no checkpoint of TensorFlow's saver, or damaged ({_first_line(error)}).") from None


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
    default = type(config)()
    for name, value in told.items():
        asked = getattr(config, name)
        if asked not in (value, getattr(default, name)):
            raise ValueError(f"--{name}={asked}, but {path} was trained with {value}; leave the option out.")
    print("Read from the checkpoint: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    return config.replace(**told)


def _first_line(error):
    return str(getattr(error, "message", None) or error).splitlines()[0]
