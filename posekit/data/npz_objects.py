"""Recordings by name, as VideoPose3D's `.npz` files hold them: Python objects, read without executing anything.

Sizes and kinds are checked before memory is taken.
"""

import pickle
import re

import numpy as np

from posekit.data.pickles import loads_pickle
from posekit.files import npz_entry, reading_npz

# How every array of objects begins: the pickle's protocol, from 4 on the length of its first part, NumPy's name.
_START = re.compile(rb"\x80[\2-\5](\x95.{8})?(c|\x8c.)numpy\.", re.DOTALL)
_START_BYTES = 32


def read_npz_objects(path, keys, max_bytes):
    """Reads entries of a `.npz` file that hold Python objects.

    Args:
        path: The file.
        keys: Names of the entries wanted.
        max_bytes: Most bytes that an entry may hold.

    Returns:
        Dict of the wanted entries that the file has; an array of no dimensions comes as what it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large, or asks for more than plain data.
    """
    with reading_npz(path) as archive:
        there = set(archive.namelist())
        pickles = {key: _read_pickle(archive, key, max_bytes) for key in keys if f"{key}.npy" in there}
    return {key: _load(pickles.pop(key), f"{path}, {key}") for key in list(pickles)}


def _read_pickle(archive, key, max_bytes):
    size = archive.getinfo(f"{key}.npy").file_size
    if size > max_bytes:
        raise ValueError(f"entry {key!r} has {size} bytes, more than {max_bytes} bytes")
    with npz_entry(archive, key) as (file, _, dtype):
        if dtype != np.dtype(object):
            raise ValueError("it holds plain numbers, where recordings by name are expected")
        start = file.read(_START_BYTES)
        if not _START.match(start):
            raise ValueError("what follows its header is no pickled array")
        return start + file.read()


def _load(data, name):
    try:
        value = loads_pickle(data, name)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except MemoryError:
        raise ValueError(f"{name}: there is not enough memory for it; give a smaller file.") from None
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value
