"""Reading `.npz` files that may be hostile: sizes are compared with what is there before memory is taken."""

import math
import zipfile
import zlib

import numpy as np

DEFAULT_MAX_BYTES = 2 * 2**30
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path, keys, max_bytes=DEFAULT_MAX_BYTES):
    """Reads some entries of a `.npz` file.

    Args:
        path: The file.
        keys: Names of the entries wanted.
        max_bytes: Most memory that they may take together.

    Returns:
        Dict of the wanted entries that the file has: plain arrays, never objects.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.npz`, is damaged, or a wanted entry holds objects or is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            wanted = [key for key in keys if f"{key}.npy" in there]
            total = sum(_claimed_bytes(archive, key) for key in wanted)
            if total > max_bytes:
                raise ValueError(f"its arrays take {total} bytes, more than the limit of {max_bytes}")
            return {key: _read_entry(archive, key) for key in wanted}
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}; download or write it again.") from error


def _claimed_bytes(archive, key):
    with archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"entry {key!r} has the .npy version {version}, which is not known")
        shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"entry {key!r} holds Python objects; write it with plain arrays")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"entry {key!r} claims the shape {shape} of {dtype}, more than the file holds")
    return claimed


def _read_entry(archive, key):
    with archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
