"""Caffe's `.caffemodel` files, read without Caffe: the blobs of every layer.

A file is one protocol-buffer message, whose layers (old or new kind) hold blobs: shape and float values. What is not
needed is skipped, and nothing is taken from the file's word alone: every length is compared with what is there.
"""

import dataclasses
import math
import os

import numpy as np

from posekit.files import regular_file

MAX_BYTES = 2 << 30
_MAX_LAYERS = 10_000
_MAX_BLOBS = 64
_MAX_AXES = 32
# Values may have an entry each, as Caffe itself does not write them.
_MAX_ENTRIES = 1 << 20
_MAX_NAME = 1000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


@dataclasses.dataclass(frozen=True)
class _LayerKind:
    """Field of the network that holds such layers, and the fields of a layer that hold its name and blobs."""

    field: int
    name: int
    blobs: int


_KINDS = {kind.field: kind for kind in (_LayerKind(100, 1, 7), _LayerKind(2, 4, 6))}
# Fields of a blob: four numbers of old files, values, shape, values in double precision.
_OLD_SHAPE, _VALUES, _SHAPE, _DOUBLES = (1, 2, 3, 4), 5, 7, 8


def read_caffemodel(path):
    """Reads the blobs of all layers that have some.

    Args:
        path: `.caffemodel` file.

    Returns:
        Dict from the layer's name to a list of float32 arrays; a convolution has its kernel, `[out, in, h, w]`, and its
        bias, `[out]` or `[1, 1, 1, out]`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large, damaged, or something else.
    """
    path = regular_file(path)
    size = os.path.getsize(path)
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; a .caffemodel has more than 0 and at most {MAX_BYTES}.")
    # Bytes taken one by one come quicker from it than from the array.
    content = memoryview(np.memmap(path, np.uint8, "r"))
    try:
        layers = {}
        for count, (field, wire, start, end) in enumerate(_fields(content, 0, size)):
            if field in _KINDS and wire == _BYTES:
                name, blobs = _layer(content, start, end, _KINDS[field])
                if blobs:
                    layers[name] = blobs
            if count > _MAX_LAYERS:
                raise ValueError(f"it has more than {_MAX_LAYERS} entries")
    except ValueError as error:
        raise ValueError(f"{path} is no .caffemodel, or is damaged: {error}. Download it again.") from None
    if not layers:
        raise ValueError(f"{path} holds no layers with weights; name a .caffemodel file.")
    return layers


def _fields(content, start, end):
    """Yields `(field, wire type, start, end)` of each entry of a message; numbers stand for `start` of a varint."""
    position = start
    while position < end:
        key, position = _varint(content, position, end)
        field, wire = key >> 3, key & 7
        if not field:
            raise ValueError(f"an entry without a number at byte {position}")
        if wire == _VARINT:
            value, position = _varint(content, position, end)
            yield field, wire, value, value
            continue
        if wire == _BYTES:
            length, position = _varint(content, position, end)
        elif wire in _WIDTHS:
            length = _WIDTHS[wire]
        else:
            raise ValueError(f"an entry of unknown kind {wire} at byte {position}")
        if length > end - position:
            raise ValueError(f"an entry of {length} bytes at byte {position}, where {end - position} are left")
        yield field, wire, position, position + length
        position += length


def _varint(content, position, end):
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"it ends within a number, at byte {position}")
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number that is too long, at byte {position}")


def _layer(content, start, end, kind):
    name, blobs = "", []
    for field, wire, first, last in _fields(content, start, end):
        if field == kind.name and wire == _BYTES:
            name = content[first : min(last, first + _MAX_NAME)].tobytes().decode(errors="replace")
        elif field == kind.blobs and wire == _BYTES:
            if len(blobs) == _MAX_BLOBS:
                raise ValueError(f"a layer with more than {_MAX_BLOBS} blobs")
            blobs.append(_blob(content, first, last))
    return name, blobs


def _blob(content, start, end):
    old, shape, single, double = {}, None, bytearray(), bytearray()
    for count, (field, wire, first, last) in enumerate(_fields(content, start, end), 1):
        if count > _MAX_ENTRIES:
            raise ValueError(f"a blob with more than {_MAX_ENTRIES} entries")
        if field in _OLD_SHAPE and wire == _VARINT:
            old[field] = first
        elif field == _SHAPE and wire == _BYTES:
            shape = _shape(content, first, last)
        elif field in (_VALUES, _DOUBLES) and wire in (_BYTES, _FIXED32, _FIXED64):
            if (last - first) % (4 if field == _VALUES else 8):
                raise ValueError(f"{last - first} bytes of numbers at byte {first}")
            (single if field == _VALUES else double).extend(content[first:last])
    if single and double:
        raise ValueError("a blob with values in single and in double precision")
    if shape is None:
        shape = tuple(old.get(field, 0) for field in _OLD_SHAPE)
    with np.errstate(over="ignore"):
        values = np.frombuffer(double or single, "<f8" if double else "<f4").astype(np.float32)
    if math.prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def _shape(content, start, end):
    shape = []
    for field, wire, first, last in _fields(content, start, end):
        if field != 1 or wire not in (_VARINT, _BYTES):
            continue
        position = first
        if wire == _VARINT:
            shape.append(first)
        while wire == _BYTES and position < last:
            length, position = _varint(content, position, last)
            shape.append(length)
        if len(shape) > _MAX_AXES:
            raise ValueError(f"a blob with more than {_MAX_AXES} axes")
    return tuple(shape)
