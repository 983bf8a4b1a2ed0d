"""Arrays of numbers from MATLAB files of the versions 5 to 7, read without trusting what the files claim.

SciPy's reader crashes the whole process on some damaged files, and takes the memory that they claim.
"""

import math
import os
import stat
import struct
import zlib

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Type of numbers as they are stored to NumPy's.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Classes of arrays that hold plain numbers: double, single, and whole numbers.
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800
_MAX_ARRAYS = 1000
# What stands before the numbers: flags, at most 32 sizes, and a name of at most 63 letters.
_BEFORE = 1024


class MatFileError(ValueError):
    """A MATLAB file that cannot be used. The message is a short reason, without the file's name."""


def read_mat_array(path, key, check=None, max_bytes=4 << 30):
    """Reads one array of numbers.

    Args:
        path: `.mat` file.
        key: Name of the array.
        check: Called with the array's shape before memory is taken, to refuse it by an error.
        max_bytes: Most bytes that the array may take.

    Returns:
        The array, of the type that its class says.

    Raises:
        FileNotFoundError: If there is no such file.
        MatFileError: If the file is none of these versions, damaged, lacks the array, or the array is empty, too large,
            or something else than real numbers.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise MatFileError("not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        order = _byte_order(file.read(_HEADER))
        names = []
        while len(names) < _MAX_ARRAYS and (tag := file.read(8)):
            if len(tag) < 8:
                raise MatFileError("cut short")
            kind, length = struct.unpack(order + "II", tag)
            start = file.tell()
            if length > size - start:
                raise MatFileError(f"an array claims {length} bytes, {size - start} are left")
            if kind in (_MATRIX, _COMPRESSED):
                source = _Plain(file, length) if kind == _MATRIX else _Compressed(file, length, order)
                array = _Array(source, order)
                if array.name == key:
                    return array.read(check, max_bytes)
                names.append(array.name)
            file.seek(start + length + (-length % 8 if kind != _COMPRESSED else 0))
    raise MatFileError(f"no array {key!r} but {sorted(names)[:10] or 'none'}")


def _byte_order(header):
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None or header.startswith(b"MATLAB 7.3"):
        version = "HDF5 (version 7.3)" if header[:10] == b"MATLAB 7.3" else "no MATLAB file of version 5 to 7"
        raise MatFileError(f"{version}; save it with -v7")
    return order


class _Plain:
    """Bytes of an array that is stored as it is."""

    def __init__(self, file, length):
        self._file, self.left = file, length

    def take(self, count):
        if count > self.left:
            raise MatFileError("an array is cut short")
        self.left -= count
        return self._file.read(count)


class _Compressed:
    """Bytes of an array that is compressed; only what is asked for is unpacked."""

    def __init__(self, file, length, order):
        self._packed, self._zlib = file.read(length), zlib.decompressobj()
        kind, self.left = struct.unpack(order + "II", self._unpack(8))
        if kind != _MATRIX:
            raise MatFileError("something else than an array is compressed in it")

    def take(self, count):
        if count > self.left:
            raise MatFileError("an array is cut short")
        self.left -= count
        return self._unpack(count)

    def _unpack(self, count):
        try:
            data = self._zlib.decompress(self._packed, count) if count else b""
            self._packed = self._zlib.unconsumed_tail
            while len(data) < count:
                more = self._zlib.decompress(self._packed, count - len(data))
                self._packed = self._zlib.unconsumed_tail
                if not more:
                    raise MatFileError("an array is cut short")
                data += more
        except zlib.error as error:
            raise MatFileError(f"an array is damaged: {error}") from None
        return data


class _Array:
    """Head of an array: its class, shape and name.

    Args:
        source: Where its bytes are taken.
        order: Byte order.
    """

    def __init__(self, source, order):
        self._source, self._order = source, order
        flags = self._element(_BEFORE)
        if len(flags[1]) < 4:
            raise MatFileError("an array has no class")
        (self._flags,) = struct.unpack(order + "I", flags[1][:4])
        kind, sizes = self._element(_BEFORE)
        if kind != 5 or len(sizes) % 4 or len(sizes) < 8:
            raise MatFileError("an array has no shape")
        self.shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
        self.name = self._element(_BEFORE)[1].decode("latin-1")

    def read(self, check, max_bytes):
        kind = _CLASSES.get(self._flags & 0xFF)
        if kind is None:
            raise MatFileError(f"{self.name!r} is no array of numbers")
        if self._flags & _COMPLEX:
            raise MatFileError(f"{self.name!r} holds complex numbers; real ones are expected")
        if min(self.shape) < 0:
            raise MatFileError(f"{self.name!r} has the shape {list(self.shape)}")
        if check:
            check(self.shape)
        count = math.prod(self.shape)
        claimed = count * np.dtype(kind).itemsize
        if claimed > max_bytes:
            raise MatFileError(f"{self.name!r} of shape {list(self.shape)} takes more than {max_bytes} bytes")
        if not count:
            raise MatFileError(f"{self.name!r} is empty")
        stored, data = self._element(min(8 * count, max_bytes))
        if stored not in _TYPES:
            raise MatFileError(f"{self.name!r} holds numbers of an unknown type ({stored})")
        kept = np.dtype(self._order + _TYPES[stored])
        if len(data) != count * kept.itemsize:
            there = len(data) / kept.itemsize
            raise MatFileError(f"{self.name!r} holds {there:g} numbers, its shape {list(self.shape)} says {count}")
        with np.errstate(invalid="ignore"):
            return np.frombuffer(data, kept).astype(kind, copy=False).reshape(self.shape, order="F")

    def _element(self, limit):
        """Type and bytes of the next part."""
        first, second = struct.unpack(self._order + "II", self._source.take(8))
        if first >> 16:  # short ones stand in the tag itself
            length = first >> 16
            if length > 4:
                raise MatFileError("an array has a part of an impossible length")
            return first & 0xFFFF, struct.pack(self._order + "I", second)[:length]
        if second > limit:
            raise MatFileError(f"an array has a part of {second} bytes, where {limit} are the most")
        data = self._source.take(second)
        self._source.take(min(-second % 8, self._source.left))
        return first, data
