"""What the converters of checkpoints have in common: options that a checkpoint tells, weights that must make sense."""

import numpy as np


def completed(config, told, path):
    """Puts into the options what a checkpoint tells.

    Args:
        config: Options of the system.
        told: Dict of options to their values.
        path: Checkpoint, for messages.

    Returns:
        The options.

    Raises:
        ValueError: If another value was asked for, or the system does not allow it.
    """
    default = type(config)()
    for name, value in told.items():
        asked = getattr(config, name)
        if asked not in (value, getattr(default, name)):
            raise ValueError(f"--{name}={asked}, but {path} was trained with {value}; leave the option out.")
    print("Read from the checkpoint: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    return config.replace(**told)


def assign(variable, value, name, path):
    """Gives a variable its value of a checkpoint.

    Args:
        variable: Keras variable.
        value: Array.
        name: What the checkpoint calls it.
        path: Checkpoint, for messages.

    Raises:
        ValueError: If the value has another shape, is no floating-point number, or is not finite.
    """
    value = np.asarray(value)
    if value.shape != tuple(variable.shape):
        raise ValueError(f"{path}: {name} has the shape {value.shape}, not {tuple(variable.shape)}.")
    if value.dtype.kind != "f":
        raise ValueError(f"{path}: {name} holds {value.dtype}, not floating-point numbers; it is no trained weight.")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"{path}: {name} holds values that are not finite: training diverged. Take an earlier one.")
    variable.assign(value)
