"""Reading PyTorch's checkpoints without PyTorch, and without executing anything in them.

Both formats are read: the zip archive of today (`*/data.pkl` and one stored entry for each storage) and the older file
of several pickles with the storages behind them.
"""

import collections
import pathlib
import pickle
import struct
import zipfile

import numpy as np

from posekit.data.pickled_types import KNOWN, Known, shown
from posekit.data.pickles import DEFAULT_MAX_BYTES, Machine, UnsafePickleError, run_machine

_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_PROTOCOL = 1001
# bfloat16 is the upper half of a float32.
_TYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "bfloat16", "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "<i1", "Byte": "<u1", "Bool": "?",
}  # fmt: skip
_MAX_DIMENSIONS = 32


def load_torch(path, max_bytes=DEFAULT_MAX_BYTES):
    """Reads what `torch.save` wrote: a checkpoint's dicts, lists and numbers, with tensors as NumPy arrays.

    Args:
        path: `.pth` or `.pt` file of either format.
        max_bytes: Largest file that is read. Tensors share no memory, so one may take as many bytes as the file has,
            and all together eight times as many.

    Returns:
        The content; tensors and parameters are arrays, those of bfloat16 float32.

    Raises:
        UnsafePickleError: If it holds anything but plain data and tensors, such as a whole module.
        pickle.UnpicklingError: If it is damaged, cut short or no such file.
        OSError: If the file cannot be read.

    Example:
        >>> weights = load_torch("checkpoint_15.pth")["model_state_dict"]  # doctest: +SKIP
        >>> weights["front_layers.0.block.0.weight"].shape  # doctest: +SKIP
        (16, 1, 7, 7, 7)
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; give the path of a .pth file.")
    size = path.stat().st_size
    if size > max_bytes:
        raise UnsafePickleError(
            f"{path} has {size} bytes, more than the limit of {max_bytes}; if you trust its size, call "
            "load_torch(path, max_bytes=...) with a larger one."
        )
    with open(path, "rb") as file:
        head = file.read(4)
    return _load_zip(path, size) if head == b"PK\3\4" else _load_old(path.read_bytes(), path)


def _load_zip(path, size):
    try:
        with zipfile.ZipFile(path) as archive:
            # torch stores its entries as they are: none can be larger than the file.
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                    raise UnsafePickleError(f"{path}: {entry.filename!r:.100} is compressed or larger than the file.")
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if len(names) != 1:
                raise pickle.UnpicklingError(f"{path} is no PyTorch checkpoint: it has {len(names)} data.pkl.")
            folder = names[0].removesuffix("data.pkl")
            if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") != b"little":
                raise pickle.UnpicklingError(f"{path} was written on a big-endian machine; save it again on another.")

            def read(key):
                try:
                    return archive.read(f"{folder}data/{key}")
                except KeyError:
                    raise pickle.UnpicklingError(f"{path}: its storage {key!r:.100} is missing.") from None

            storages = _Storages(read, size)
            return storages.fill(run_machine(_TorchMachine(archive.read(names[0]), storages), str(path)), path)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        # Damaged directories make zipfile seek and read anywhere.
        raise pickle.UnpicklingError(f"{path} is damaged or cut short: {error!s:.200}") from None


def _load_old(data, path):
    """A magic number, a version, facts on the machine, the content, the storages' names, and the storages."""
    storages = _Storages(None, len(data))
    machine = _TorchMachine(data, storages)
    if run_machine(machine, str(path)) != _MAGIC or run_machine(machine, str(path)) != _OLD_PROTOCOL:
        raise pickle.UnpicklingError(f"{path} is no PyTorch checkpoint: it does not start with PyTorch's number.")
    facts = run_machine(machine, str(path))
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise pickle.UnpicklingError(f"{path} was written on a big-endian machine; save it again on another.")
    # Each of these pickles has references of its own.
    machine.memo = {}
    content = run_machine(machine, str(path))
    machine.memo = {}
    keys = run_machine(machine, str(path))
    if not isinstance(keys, list) or not all(key in storages.wanted for key in keys if isinstance(key, str)):
        raise pickle.UnpicklingError(f"{path}: its list of storages is damaged.")
    found, position = {}, machine.position
    for key in keys:
        if not isinstance(key, str):
            raise pickle.UnpicklingError(f"{path}: its list of storages holds {shown(key)}.")
        dtype, count = storages.wanted[key]
        length = count * _item_size(dtype)
        stored = int.from_bytes(data[position : position + 8], "little")
        position += 8
        if stored != count or position + length > len(data):
            raise pickle.UnpicklingError(f"{path} is cut short or damaged: storage {key!r:.100} needs {length} bytes.")
        found[key] = data[position : position + length]
        position += length

    def read(key):
        if key not in found:
            raise pickle.UnpicklingError(f"{path}: its storage {key!r:.100} is missing.")
        return found[key]

    storages.read = read
    return storages.fill(content, path)


def _item_size(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


class _Storages:
    """What the content says of its storages, and the tensors that wait for them."""

    def __init__(self, read, size):
        self.read = read
        self.wanted = {}  # key → (type, count)
        self.tensors = []  # (array to fill, key, offset, strides)
        self.size = size
        self.left = 8 * size

    def storage(self, identity):
        """Registers the storage that a persistent id names: `("storage", type, key, place, count)`."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise UnsafePickleError("It refers to something outside of it that is no storage of a tensor.")
        kind, key, count = identity[1], identity[2], identity[4]
        if type(kind) is not Known or kind.title not in _STORAGES or type(key) is not str or type(count) is not int:
            raise UnsafePickleError(f"It has a storage of an unknown type or name: {shown(key)}.")
        if len(identity) > 5 and identity[5] is not None:
            raise UnsafePickleError("It has a view of a storage, which only very old versions of PyTorch wrote.")
        dtype = _STORAGES[kind.title]
        if not 0 <= count * _item_size(dtype) <= self.size:
            raise UnsafePickleError(f"A storage of {count} values is larger than the file.")
        if self.wanted.setdefault(key, (dtype, count)) != (dtype, count):
            raise UnsafePickleError(f"Storage {shown(key)} has two types or sizes.")
        return _Storage(key)

    def tensor(self, storage, offset, size, stride):
        """An array for a tensor, to be filled once the storages are there."""
        if type(storage) is not _Storage:
            raise UnsafePickleError("A tensor has no storage.")
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
        if not all(type(number) is int and 0 <= number < 2**40 for number in numbers) or len(size) != len(stride):
            raise UnsafePickleError("A tensor's offset, size or strides are no whole numbers from 0.")
        if len(size) > _MAX_DIMENSIONS:
            raise UnsafePickleError(f"A tensor has {len(size)} dimensions.")
        dtype, count = self.wanted[storage.key]
        elements = 1
        for length in size:
            elements *= length
        last = offset + sum((length - 1) * step for length, step in zip(size, stride))
        if elements and last >= count:
            raise UnsafePickleError(f"A tensor reaches beyond the {count} values of its storage.")
        if elements > count:
            raise UnsafePickleError("A tensor repeats values of its storage.")
        shown_type = "<f4" if dtype == "bfloat16" else dtype
        self.left -= 200 + elements * np.dtype(shown_type).itemsize
        if self.left + 2**20 < 0:
            raise UnsafePickleError("Its tensors are far larger than the file.")
        array = np.zeros(size, np.dtype(shown_type))
        self.tensors.append((array, storage.key, offset, stride))
        return array

    def fill(self, content, path):
        """Reads the storages into the arrays of the content."""
        self.tensors.sort(key=lambda row: row[1])
        key, values = None, None
        for array, wanted, offset, stride in self.tensors:
            if wanted != key:
                key, (dtype, count) = wanted, self.wanted[wanted]
                data = self.read(key)
                if len(data) != count * _item_size(dtype):
                    raise pickle.UnpicklingError(f"{path} is damaged: storage {key!r:.100} has {len(data)} bytes.")
                values = np.frombuffer(data, "<u2" if dtype == "bfloat16" else dtype)
                if dtype == "bfloat16":
                    values = (values.astype(np.uint32) << 16).view(np.float32)
            if array.size:
                steps = [step * values.itemsize for step in stride]
                array[...] = np.lib.stride_tricks.as_strided(values[offset:], array.shape, steps, writeable=False)
        return content


class _Storage:
    """A storage inside the content, until a tensor is made of it."""

    __slots__ = ("key",)

    def __init__(self, key):
        self.key = key


class _TorchMachine(Machine):
    """The pickle machine with tensors and their storages."""

    def __init__(self, data, storages):
        super().__init__(data)
        self.storages = storages

    def persistent(self, key):
        """A storage."""
        return self.storages.storage(key)

    def take_state(self, target, state):
        """Leaves out the versions of modules that a state_dict carries as an attribute."""
        if type(target) is not collections.OrderedDict or not isinstance(state, dict) or set(state) != {"_metadata"}:
            super().take_state(target, state)


def _rebuild(machine, storage, offset, size, stride, *_):
    return machine.storages.tensor(storage, offset, size, stride)


def _parameter(machine, tensor, *_):
    if not isinstance(tensor, np.ndarray):
        raise UnsafePickleError("A parameter is no tensor.")
    return tensor


_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _TYPES.items()}
_NAMES = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _parameter,
    **dict.fromkeys(_STORAGES),
}
_TorchMachine.known = {
    **KNOWN,
    **{tuple(title.rsplit(".", 1)): Known(title, call=call) for title, call in _NAMES.items()},
}
