"""Files: written whole or not at all, read without trusting what they claim, weights loaded without gaps."""

import contextlib
import errno
import io
import lzma
import math
import os
import pathlib
import struct
import sys
import tokenize
import warnings
import zipfile
import zlib

import numpy as np

DEFAULT_MAX_BYTES = 2 << 30
# Version -> bytes that tell the header's length, and what reads them and the header.
_NPY_HEADERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}
_MAX_NPY_HEADER = 10_000
# What Python's and NumPy's readers let through when a file is damaged, or made to mislead them.
_DAMAGE = (
    OSError, ValueError, RuntimeError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError,
)  # fmt: skip


@contextlib.contextmanager
def replacing(path):
    """Makes a context in which a file is written beside its final name, which it takes only when the block succeeds.

    If the block raises, what it wrote is removed, and an earlier file of that name stays as it was.

    Args:
        path: The final name; its folder must exist.

    Yields:
        `pathlib.Path` to write to; it must be closed when the block ends.

    Raises:
        OSError: If the name is that of a pipe, a device or a socket, which a file must not take.

    Example:
        >>> with replacing("body.npz") as temporary, open(temporary, "wb") as file:
        ...     np.savez(file, weights=np.zeros(3))
    """
    path = pathlib.Path(path)
    _refuse_devices(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refuse_devices(path):
    """Who may write to /dev could otherwise put a file where /dev/null was."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket", str(path))


def write_file(path, content):
    """Writes a file so that nothing half-written ever stands under its name; makes its folder where needed.

    Args:
        path: File to write.
        content: Its bytes.

    Raises:
        OSError: If the file cannot be written, saying why and what to do.
    """
    with _explaining(path) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)


def check_place(path):
    """Checks that a file can be written where it is to go, before long work is done for it; leaves nothing behind.

    Args:
        path: File to be written, in a folder that is there or can be made.

    Raises:
        OSError: If it cannot be written, saying why and what to do.
    """
    with _explaining(path) as path:
        folder = next(folder for folder in path.parents if folder.exists())
        temporary = folder / f".{path.name}.{os.getpid()}.tmp"
        temporary.touch()
        temporary.unlink()


@contextlib.contextmanager
def _explaining(path):
    """Makes a context in which what keeps a file from being written is said with what to do."""
    path = pathlib.Path(path)
    try:
        if not path.name or path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        _refuse_devices(path)
        yield path
    except (OSError, ValueError) as error:  # no file system takes a name with a NUL byte
        kind, reason = type(error) if isinstance(error, OSError) else OSError, getattr(error, "strerror", None) or error
        raise kind(f"Cannot write {path!s:.300}: {reason}. Give a file in a folder that you may write to.") from error


def print_any_text():
    """Lets `print` show what the screen cannot, such as a file's name that is not UTF-8, as escapes, not fail at it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text):
    """A text of a file from elsewhere with `?` for what would do something to the screen.

    Args:
        text: Any text.

    Returns:
        Text of the same length.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def cache_folder():
    """Folder for what posekit keeps between runs, such as downloaded weights and bodies.

    Returns:
        `pathlib.Path`, which need not exist: `$POSEKIT_CACHE`, else `posekit` in `$XDG_CACHE_HOME`, else
        `~/.cache/posekit`.
    """
    chosen = os.environ.get("POSEKIT_CACHE")
    if chosen:
        return pathlib.Path(chosen)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "posekit"


def regular_file(path):
    """Checks that a path is a file with content of its own: opening a pipe or a device may wait or read for ever.

    Args:
        path: The path.

    Returns:
        It, as `pathlib.Path`.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is a folder, a pipe, a device or a socket.
    """
    path = pathlib.Path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; check the name.")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a regular file; name a file, not a folder, a pipe or a device.")
    return path


def read_npz(path, keys, max_bytes=DEFAULT_MAX_BYTES):
    """Reads some entries of a `.npz` file, whose sizes are compared with what is there before memory is taken.

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
    with reading_npz(path) as archive:
        there = set(archive.namelist())
        wanted = [key for key in keys if f"{key}.npy" in there]
        total = sum(_claimed_bytes(archive, key) for key in wanted)
        if total > max_bytes:
            raise ValueError(f"its arrays take {total} bytes, more than the limit of {max_bytes}")
        return {key: _read_entry(archive, key) for key in wanted}


def npz_entries(path):
    """Names of the entries of a `.npz` file, without reading them.

    Args:
        path: The file.

    Returns:
        Sorted list of names; empty if the file is no `.npz` or cannot be read.
    """
    try:
        with reading_npz(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (OSError, ValueError):
        return []


@contextlib.contextmanager
def reading_npz(path):
    """Makes a context in which a `.npz` file is open, and whatever is wrong with it becomes one kind of error.

    Args:
        path: The file.

    Yields:
        `zipfile.ZipFile`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.npz`, or anything that a damaged one makes the readers raise comes out of the block.
    """
    path = regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        reason = "there is not enough memory for it" if isinstance(error, MemoryError) else _short(error)
        raise ValueError(f"{path} cannot be read as .npz: {reason}; download or write it again.") from error


@contextlib.contextmanager
def npz_entry(archive, key):
    """Makes a context in which one entry of a `.npz` file is open behind its header, which has been checked.

    Args:
        archive: What `reading_npz` yields.
        key: Name of an entry that it has.

    Yields:
        `(file, shape, dtype)`: the values, as the shape and type that the header claims.

    Raises:
        ValueError: If the header makes no sense, or the block raises because of a damaged file; it names the entry.
    """
    try:
        with archive.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version not in _NPY_HEADERS:
                raise ValueError(f"its .npy version {version} is not known")
            width, read_header = _NPY_HEADERS[version]
            length = file.read(width)
            # NumPy refuses longer ones too, but only after it has taken the memory for them.
            if int.from_bytes(length, "little") > _MAX_NPY_HEADER:
                raise ValueError(f"its header claims {int.from_bytes(length, 'little')} bytes")
            shape, _, dtype = read_header(io.BytesIO(length + file.read(int.from_bytes(length, "little"))))
            if min(shape, default=0) < 0:
                raise ValueError(f"it claims the shape {shape}")
            yield file, shape, dtype
    except MemoryError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"entry {key!r:.100} is no array: {_short(error)}") from error


def _claimed_bytes(archive, key):
    with npz_entry(archive, key) as (_, shape, dtype):
        claimed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"entry {key!r} holds Python objects; write it with plain arrays")
    # Values of no size take no memory, but time.
    if max(claimed, math.prod(shape)) > archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"entry {key!r} claims the shape {_short(shape)} of {dtype}, more than the file holds")
    return claimed


def _read_entry(archive, key):
    with npz_entry(archive, key), archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _short(error):
    """What is wrong, in one line; some errors carry the file's text along."""
    return " ".join(f"{error!s:.400}".split())[:200] or type(error).__name__


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
            stored, wanted = _stored_weights(path), (len(model.weights), model.count_params())
            if stored not in (None, wanted):
                raise ValueError(
                    f"it holds {stored[0]} arrays of {stored[1]} numbers, the model has {wanted[0]} of {wanted[1]}; it "
                    "was trained with other options"
                )
            model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, UserWarning) as error:  # HDF5 has all of them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} does not fit {model.name!r}, or is damaged: {reason}") from error


def _stored_weights(path):
    """Number of weights in a `.weights.h5` file and of the numbers in them, None for other files."""
    if not path.name.endswith(".weights.h5"):
        return None
    import h5py

    sizes = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            sizes.append(int(item.size or 0))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return len(sizes), sum(sizes)
