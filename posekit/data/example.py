"""`tf.train.Example` messages written and read without TensorFlow.

Converting a dataset needs nothing of TensorFlow but this small message format, and a process that does not import it
starts in a fraction of a second. The bytes are ordinary protocol buffers: every TFRecord reader takes them.
"""

import struct

import numpy as np

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


class ExampleError(ValueError):
    """Bytes that are no `tf.train.Example`."""


def encode_example(features):
    """Serialises named features.

    Args:
        features: Dict of name to value: `bytes` or `str` for a bytes list of one, an integer or integer array for an
            int64 list, a float or float array for a float list. Arrays are flattened row by row.

    Returns:
        The serialised message; features stand in the order of their names, so that equal features give equal bytes.

    Raises:
        TypeError: If a value has another type.
    """
    entries = []
    for name in sorted(features):
        feature = _delimited(_list_field(name, features[name]), _list_body(features[name]))
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def decode_example(serialized):
    """Reads a message written by `encode_example` or by TensorFlow.

    Args:
        serialized: Bytes of one `tf.train.Example`.

    Returns:
        Dict of name to value: a list of `bytes`, a float32 array or an int64 array, one-dimensional.

    Raises:
        ExampleError: If the bytes are cut short or are not such a message.
    """
    features = {}
    for field, body in _fields(memoryview(serialized)):
        if field != 1:
            continue
        for entry_field, entry in _fields(body):
            if entry_field == 1:
                parts = dict(_fields(entry))
                if 1 not in parts or 2 not in parts:
                    raise ExampleError("A feature lacks its name or its value.")
                features[_text(parts[1])] = _list_value(parts[2])
    return features


def _list_field(name, value):
    if isinstance(value, bytes | str):
        return _BYTES_LIST
    kind = np.asarray(value).dtype.kind
    if kind in "iub":
        return _INT64_LIST
    if kind == "f":
        return _FLOAT_LIST
    raise TypeError(f"Feature {name!r} is {type(value).__name__}; give bytes, text, or an integer or float array.")


def _list_body(value):
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return _delimited(1, value)
    values = np.asarray(value).ravel()
    if values.dtype.kind == "f":
        return _delimited(1, values.astype("<f4").tobytes())
    return _delimited(1, b"".join(_varint(int(number) & 0xFFFFFFFFFFFFFFFF) for number in values))


def _list_value(feature):
    for kind, body in _fields(feature):
        values = list(_fields(body))
        if kind == _BYTES_LIST:
            return [bytes(_message(value)) for _, value in values]
        if kind == _FLOAT_LIST:
            # Both forms occur: all values packed into one field, or one field a value.
            packed = b"".join(struct.pack("<f", v) if isinstance(v, float) else bytes(_message(v)) for _, v in values)
            if len(packed) % 4:
                raise ExampleError("A float list ends in the middle of a number.")
            return np.frombuffer(packed, "<f4").astype(np.float32)
        if kind == _INT64_LIST:
            numbers = []
            for _, value in values:
                numbers.extend([value] if isinstance(value, int) else _varints(_message(value)))
            return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _message(value):
    if isinstance(value, memoryview):
        return value
    raise ExampleError("A number stands where a message is expected.")


def _text(value):
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError:
        raise ExampleError("A feature's name is not UTF-8 text.") from None


def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _delimited(field, body):
    return _varint(field << 3 | _DELIMITED) + _varint(len(body)) + body


def _read_varint(view, position):
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ExampleError("The message is cut short.")
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, position
    raise ExampleError("A number is longer than ten bytes.")


def _varints(view):
    position = 0
    while position < len(view):
        number, position = _read_varint(view, position)
        yield number


def _fields(view):
    """Yields `(field number, value)`: a memoryview, an unsigned integer, or a float for a 32-bit field."""
    view, position = _message(view), 0
    while position < len(view):
        tag, position = _read_varint(view, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _read_varint(view, position)
        elif wire in (_DELIMITED, _FIXED32, _FIXED64):
            length, position = _read_varint(view, position) if wire == _DELIMITED else (4 * (1 + (wire == 1)), position)
            if length > len(view) - position:
                raise ExampleError(f"The message is cut short: {length} bytes announced, {len(view) - position} left.")
            value = view[position : position + length]
            position += length
            if wire == _FIXED32:
                value = struct.unpack("<f", value)[0]
        else:
            raise ExampleError(f"Wire type {wire} does not occur in a tf.train.Example.")
        yield tag >> 3, value
