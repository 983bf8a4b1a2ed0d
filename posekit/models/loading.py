"""Loading weights so that nothing is left out in silence."""

import pathlib
import warnings

import h5py


def load_weights(model, path):
    """Loads weights into a model, all of them or none.

    Keras only warns where a part of a model finds nothing in the file, and leaves that part as it was, and says nothing
    where the file holds more than the model; here both are errors.

    Args:
        model: Keras model.
        path: `.weights.h5` file, or another that `keras.Model.load_weights` reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or belongs to another model.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a .weights.h5 file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Skipping nested container")
            stored = _stored_weights(path)
            if stored is not None and stored != len(model.weights):
                raise ValueError(f"it holds {stored} arrays, the model has {len(model.weights)}")
            model.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} does not fit {model.name!r}, or is damaged: {reason}") from error


def _stored_weights(path):
    """Number of weights in a `.weights.h5` file, None for other files."""
    if not path.name.endswith(".weights.h5"):
        return None
    names = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sum(1 for name in names if not name.startswith("optimizer/"))
