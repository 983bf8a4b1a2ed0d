"""Recordings by name, as VideoPose3D's `.npz` files hold them: Python objects, read without executing anything.

Sizes and kinds are checked before memory is taken.
"""

import pickle
import re

import numpy as np

from posekit.data.pickles import loads_pickle
from posekit.files import npz_entry, reading_npz

MAX_NUMBERS = 1 << 28
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


def as_numbers(values, what="the array"):
    """Makes an array of numbers, out of lists too, but never one of texts, which could be huge.

    Args:
        values: Array, or lists of numbers, of arrays or of further such lists.
        what: What messages call it.

    Returns:
        The array, of a floating or whole type.

    Raises:
        ValueError: If there is anything but numbers, lists are of unequal lengths, or the numbers are more than
            `MAX_NUMBERS`.
    """
    if not isinstance(values, np.ndarray):
        _check_parts(values, what)
        try:
            values = np.asarray(values)
        except ValueError:
            raise ValueError(f"{what} has rows of unequal lengths.") from None
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{what} holds {values.dtype}, not numbers.")
    return values


def _check_parts(values, what):
    pending, count = [values], 0
    while pending:
        value = pending.pop()
        if isinstance(value, (list, tuple)):
            pending += value
            count += 1
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            count += value.size
        elif isinstance(value, (int, float, np.integer, np.floating)):
            count += 1
        else:
            kind = value.dtype if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
            raise ValueError(f"{what} holds {kind}, not numbers.")
        if count > MAX_NUMBERS:
            raise ValueError(f"{what} has more than {MAX_NUMBERS} numbers.")
