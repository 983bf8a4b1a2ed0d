"""What names in a pickle may stand for: arrays of NumPy, SciPy and chumpy and plain containers, by code of ours.

A pickle refers to classes and functions by `(module, name)`. `KNOWN` maps the few pairs that occur in pose data to
builders that check every argument and make plain NumPy, SciPy and Python values. Nothing is imported by name, no
method of a foreign class runs, and sizes are compared with the bytes really there before memory is taken.
"""

import collections
import dataclasses
import math
import pickle
import re

import numpy as np
import scipy.sparse

MAX_DIMENSIONS = 32


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that plain data does not need: to run code, or memory out of proportion."""


@dataclasses.dataclass(frozen=True)
class Known:
    """One name that a pickle may use.

    Args:
        title: `module.name`, for messages.
        call: `call(machine, *arguments)` gives the value when the pickle calls the name; None: it must not be called.
        build: `build(machine, arguments, state)` gives the value of an instance once its state is known.
        empty: Whether the pickle may make an instance of the name without arguments, to give it a state later.
    """

    title: str
    call: object = None
    build: object = None
    empty: bool = False


class Unbuilt:
    """An instance that still waits for its state."""

    __slots__ = ("known", "arguments", "value", "built")

    def __init__(self, known, arguments=()):
        self.known = known
        self.arguments = arguments
        self.value = None
        self.built = False


def shown(value):
    """A value in a few characters; never the `repr` of a container, which sharing can make exponential."""
    if isinstance(value, (str, bytes)):
        return repr(value[:60])
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63):
        return repr(value)
    return f"a {type(value).__name__}"


def require(condition, message):
    """Raises `pickle.UnpicklingError` with the message unless the condition holds."""
    if not condition:
        raise pickle.UnpicklingError(message)


def check_key(key):
    """Refuses a dict key or set element that is not a small plain value.

    Hashing a nested tuple costs as much as writing it out in full, which sharing can make exponential.

    Args:
        key: The value.

    Raises:
        UnsafePickleError: If it is not.
    """
    pending, seen, large = [key], 0, False
    while pending:
        item = pending.pop()
        seen += 1
        if isinstance(item, (tuple, frozenset)):
            pending.extend(item)
            seen += len(item)
        elif isinstance(item, int):
            large = large or abs(item) >= 2**60  # the hash of ints wraps beyond that, which makes collisions easy
        elif isinstance(item, np.generic):
            large = large or item.nbytes > 1000
        elif item is not None and not isinstance(item, (str, bytes, float, complex, np.dtype)):
            raise UnsafePickleError(f"A {type(item).__name__} stands as dict key or set element.")
        if large or seen > 1000:
            raise UnsafePickleError("A dict key or set element is too large.")


# NumPy


def _shape(value, what):
    value = (value,) if type(value) is int else value
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError(
            f"The shape of {what} must be a tuple of at most {MAX_DIMENSIONS} lengths, not {type(value).__name__}."
        )
    for length in value:
        if type(length) is not int or not 0 <= length < 2**63:
            raise pickle.UnpicklingError(f"The shape of {what} must hold lengths of 0 or more, not {shown(length)}.")
    return tuple(value)


def _payload(value, what):
    if type(value) is str:  # Python 2 wrote bytes as its plain strings
        value = value.encode("latin-1")
    require(isinstance(value, (bytes, bytearray)), f"{what} has data of type {type(value).__name__}, not bytes.")
    return value


def _array_from_bytes(machine, payload, dtype, shape, order):
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not dtype.itemsize:
        title = dtype if isinstance(dtype, np.dtype) else shown(dtype)
        raise pickle.UnpicklingError(f"An array has the unusable dtype {title}.")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(payload):
        raise pickle.UnpicklingError(
            f"An array of shape {shape} and dtype {dtype} takes {wanted} bytes, but {len(payload)} are there for it."
        )
    if not wanted:
        return _empty_array(shape, dtype)
    machine.spend(wanted + 128)
    return np.ndarray(shape, dtype, payload, order=order).copy(order="K")


def _empty_array(shape, dtype):
    # it takes no memory, but whoever walks along its other axes would not come to an end
    require(max(shape) <= 1_000_000, f"An empty array claims the shape {shape}.")
    return np.empty(shape, dtype)


def _call_reconstruct(machine, kind, shape, typecode):
    require(kind is KNOWN["numpy", "ndarray"], "numpy's _reconstruct is only known for plain ndarrays.")
    return Unbuilt(kind)


def _build_array(machine, arguments, state):
    require(type(state) is tuple and len(state) in (4, 5), "An array's state must be a tuple of 4 or 5.")
    shape, dtype, fortran, payload = state[-4:]
    shape = _shape(shape, "an array")
    order = "F" if fortran else "C"
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        require(
            type(payload) is list and len(payload) == math.prod(shape),
            f"An object array of shape {shape} does not come with as many elements.",
        )
        if not payload:
            return _empty_array(shape, dtype)
        machine.spend(8 * len(payload) + 128)
        array = np.empty(len(payload), object)
        for index, element in enumerate(payload):
            require(type(element) not in (Unbuilt, Known), "An object array holds an unfinished object.")
            array[index] = element
        return array.reshape(shape, order=order)
    return _array_from_bytes(machine, _payload(payload, "An array"), dtype, shape, order)


def _call_frombuffer(machine, payload, dtype, shape, order, axis_order=None):
    shape = _shape(shape, "an array")
    require(order in ("C", "F", "K"), f"An array has the element order {shown(order)}; known are 'C', 'F' and 'K'.")
    array = _array_from_bytes(machine, _payload(payload, "An array"), dtype, shape, "F" if order == "F" else "C")
    if order == "K":
        axes = _shape(axis_order, "an array's axis order")
        require(sorted(axes) == list(range(len(shape))), f"An array has the axis order {axes}.")
        array = array.transpose(axes)
    return array


def _call_scalar(machine, dtype, payload):
    return _array_from_bytes(machine, _payload(payload, "A NumPy scalar"), dtype, (), "C")[()]


_TYPE_CODE = re.compile(r"(?:[biufc](?:1|2|4|8|16|32)|[SU][0-9]{1,9}|O[48]?|\?)\Z")


def _call_dtype(machine, code, align=False, copy=True):
    require(
        type(code) is str and _TYPE_CODE.match(code),
        f"A NumPy dtype {shown(code)} is not among the plain ones: booleans, integers, floats, complex, strings.",
    )
    return Unbuilt(KNOWN["numpy", "dtype"], (code,))


def _build_dtype(machine, arguments, state):
    (code,) = arguments
    require(type(state) is tuple and len(state) >= 5, "A dtype's state must be a tuple of at least 5.")
    require(state[1] in ("<", ">", "|", "="), f"A dtype has the byte order {shown(state[1])}.")
    require(state[2:5] == (None, None, None), f"Structured dtypes (here on {code!r}) are not read.")
    dtype = np.dtype(object if code[0] == "O" else code)
    return dtype if dtype.hasobject else dtype.newbyteorder(state[1])


# SciPy


def _build_compressed(name):
    column_major = name.startswith("csc")

    def build(machine, arguments, state):
        shape, data = _sparse_state(machine, state, name)
        indices, indptr = (_index_array(machine, state.get(key), name) for key in ("indices", "indptr"))
        major, minor = (shape[1], shape[0]) if column_major else shape
        require(indptr.shape == (major + 1,), f"A {name} of shape {shape} has {indptr.size} index pointers.")
        require(indices.shape == data.shape, f"A {name} has {data.size} values but {indices.size} indices.")
        ordered = indptr[0] == 0 and indptr[-1] == data.size and np.all(indptr[1:] >= indptr[:-1])
        require(ordered, f"A {name} has index pointers out of order.")
        _check_range(indices, minor, name)
        return getattr(scipy.sparse, name)((data, indices, indptr), shape=shape)

    return build


def _build_coordinates(name):
    def build(machine, arguments, state):
        shape, data = _sparse_state(machine, state, name)
        coordinates = state.get("coords") or (state.get("row"), state.get("col"))
        require(type(coordinates) is tuple and len(coordinates) == 2, f"A {name} needs a row and a column index.")
        rows, columns = (_index_array(machine, array, name) for array in coordinates)
        require(rows.shape == columns.shape == data.shape, f"A {name} has {data.size} values at {rows.size} places.")
        _check_range(rows, shape[0], name)
        _check_range(columns, shape[1], name)
        return getattr(scipy.sparse, name)((data, (rows, columns)), shape=shape)

    return build


def _sparse_state(machine, state, name):
    require(type(state) is dict, f"A {name} must have a dict as its state.")
    shape = _shape(state.get("_shape"), f"a {name}")
    require(len(shape) == 2 and max(shape) < 2**31, f"A {name} has the shape {shape}; two lengths are wanted.")
    data = state.get("data")
    require(type(data) is np.ndarray and data.ndim == 1 and data.dtype.kind in "biufc", f"A {name} has no data.")
    machine.spend(data.nbytes)
    return shape, data


def _index_array(machine, array, name):
    usable = type(array) is np.ndarray and array.ndim == 1 and array.dtype.kind in "iu"
    require(usable, f"A {name} has indices that are not a row of integers.")
    machine.spend(array.nbytes)
    return array


def _check_range(indices, length, name):
    inside = not indices.size or (indices.min() >= 0 and indices.max() < length)
    require(inside, f"A {name} has an index outside of 0 … {length - 1}.")


# chumpy: every node becomes the array of its value as soon as its state is known, because its operands came before it


def _chumpy(evaluate):
    """Builder of a chumpy node: `evaluate(machine, state)` gives the value, which chumpy hands out as float64."""

    def build(machine, arguments, state):
        require(type(state) is dict, "A chumpy object must have a dict as its state.")
        return np.array(np.atleast_1d(evaluate(machine, state)), np.float64, order="C")

    return build


def _operand(state, key):
    value = state.get(key)
    require(
        (type(value) is np.ndarray and value.dtype.kind in "biuf") or isinstance(value, (int, float, np.number)),
        f"A chumpy object has no usable operand {key!r} (it is a {type(value).__name__}).",
    )
    return np.asarray(value)


def _integers(state, key, default=()):
    """The integer or the integers of a term, as a tuple; None where it is None."""
    value = state.get(key, default)
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        require(value.dtype.kind in "iu" and value.size <= MAX_DIMENSIONS, f"A chumpy object has a bad {key!r}.")
        value = value.ravel().tolist()
    value = value if isinstance(value, (tuple, list)) else (value,)
    require(len(value) <= MAX_DIMENSIONS, f"A chumpy object has a bad {key!r}.")
    integers = all(isinstance(n, (int, np.integer)) and type(n) is not bool and abs(int(n)) < 2**63 for n in value)
    require(integers, f"A chumpy object has a bad {key!r}.")
    return tuple(int(n) for n in value)


def _integer(state, key, default=None):
    value = _integers(state, key, default)
    require(value is None or len(value) == 1, f"A chumpy object has a bad {key!r}.")
    return None if value is None else value[0]


def _variable(machine, state):
    value = _operand(state, "x")
    machine.spend(8 * value.size)
    return value


def _view(function):
    """An evaluation that only reorders its operand `a`."""

    def evaluate(machine, state):
        a = _operand(state, "a")
        machine.spend(8 * a.size)
        return function(a, state)

    return evaluate


def _select(machine, state):
    a, indices = _operand(state, "a").ravel(), state.get("idxs")
    require(type(indices) is np.ndarray and indices.dtype.kind in "iu", "A chumpy Select has no integer indices.")
    machine.spend(8 * indices.size)
    _check_range(indices, a.size, "chumpy Select")
    picked = a[indices.ravel()]
    shape = state.get("preferred_shape")
    return picked if shape is None else picked.reshape(_integers(state, "preferred_shape"))


def _concatenate(machine, state):
    names = state.get("dterms")
    require(isinstance(names, (list, tuple)) and 0 < len(names) <= 10_000, "A chumpy Concatenate has no terms.")
    require(all(type(name) is str for name in names), "A chumpy Concatenate has terms without names.")
    terms = [_operand(state, name) for name in names]
    machine.spend(8 * sum(term.size for term in terms))
    return np.concatenate(terms, axis=_integer(state, "axis", 0))


def _at_least(machine, state):
    dimensions, x = _integer(state, "ndims"), _operand(state, "x")
    require(dimensions in (1, 2, 3), f"A chumpy AtleastNd asks for {dimensions} dimensions.")
    machine.spend(8 * x.size)
    return (np.atleast_1d, np.atleast_2d, np.atleast_3d)[dimensions - 1](x)


def _tile(machine, state):
    a, counts = _operand(state, "a"), _integers(state, "reps")
    require(counts is not None and min(counts, default=0) >= 0, "A chumpy Tile has no counts.")
    machine.spend(8 * a.size * math.prod(counts))
    return np.tile(a, counts)


def _repeat(machine, state):
    a, axis, counts = _operand(state, "a"), _integer(state, "axis"), state.get("repeats")
    counts = np.asarray(counts if isinstance(counts, (int, np.integer, np.ndarray)) else _integers(state, "repeats"))
    require(counts.dtype.kind in "iu" and counts.ndim <= 1, "A chumpy Repeat has no counts.")
    require(counts.size and counts.min() >= 0, "A chumpy Repeat has no counts.")
    machine.spend(8 * a.size * int(counts.max()))
    return np.repeat(a, counts, axis)


def _elementwise(function, first, second):
    """An evaluation of two operands that broadcast."""

    def evaluate(machine, state):
        a, b = (_operand(state, key).astype(np.float64) for key in (first, second))
        machine.spend(8 * math.prod(np.broadcast_shapes(a.shape, b.shape)))
        with np.errstate(all="ignore"):
            return function(a, b)

    return evaluate


_CHUMPY_VIEWS = {
    "transpose": _view(lambda a, state: a.transpose(_integers(state, "axes", None))),
    "rollaxis": _view(lambda a, state: np.rollaxis(a, _integer(state, "axis"), _integer(state, "start", 0))),
    "swapaxes": _view(lambda a, state: a.swapaxes(_integer(state, "axis1"), _integer(state, "axis2"))),
    "Reshape": _view(lambda a, state: a.reshape(_integers(state, "newshape"))),
    "Roll": _view(lambda a, state: np.roll(a, _integer(state, "shift"), _integer(state, "axis"))),
    "Select": _select,
    "Concatenate": _concatenate,
    "AtleastNd": _at_least,
    "Tile": _tile,
    "Repeat": _repeat,
}
_CHUMPY_ARITHMETIC = {
    "add": _elementwise(np.add, "a", "b"),
    "subtract": _elementwise(np.subtract, "a", "b"),
    "multiply": _elementwise(np.multiply, "a", "b"),
    "divide": _elementwise(np.divide, "x1", "x2"),
    "negative": lambda machine, state: -_variable(machine, state),
}


# Python's own


def _call_encode(machine, text, encoding="latin1"):
    require(type(text) is str and encoding in ("latin1", "latin-1"), "_codecs.encode is only known for latin-1 bytes.")
    machine.spend(len(text))
    return text.encode("latin-1")


def _call_set(kind):
    def call(machine, elements=()):
        require(type(elements) in (list, tuple), f"A {kind.__name__} must be made from a list.")
        machine.spend(220 + 80 * len(elements))
        for element in elements:
            check_key(element)
        return kind(elements)

    return call


def _call_bytes(machine, value=b"", encoding="latin-1"):
    require(encoding in ("latin1", "latin-1"), f"Bytes come in the encoding {shown(encoding)}.")
    value = _payload(value, "A bytes object")
    machine.spend(len(value))
    return bytes(value)


def _call_bytearray(machine, *arguments):
    return bytearray(_call_bytes(machine, *arguments))


def _call_complex(machine, real, imaginary=0.0):
    require(type(real) is float and type(imaginary) is float, "A complex number must be made from two floats.")
    return complex(real, imaginary)


def _call_ordered_dict(machine, items=()):
    require(type(items) in (list, tuple), "An OrderedDict must be made from a list of pairs.")
    result = collections.OrderedDict()
    machine.spend(200 + 150 * len(items))
    for pair in items:
        require(type(pair) in (list, tuple) and len(pair) == 2, "An OrderedDict must be made from a list of pairs.")
        check_key(pair[0])
        result[pair[0]] = pair[1]
    return result


def _call_reconstructor(machine, kind, base, state):
    require(base is KNOWN["builtins", "object"] and state is None, "copyreg._reconstructor is only known for objects.")
    require(type(kind) is Known and kind.empty, "copyreg._reconstructor is called for a type that it cannot make.")
    return Unbuilt(kind)


def _known_names():
    """The allow-list: `(module, name)` exactly as pickles write them → `Known`."""
    known = {}

    def add(modules, name, **behaviour):
        entry = Known(f"{modules[0]}.{name}", **behaviour)
        known.update({(module, name): entry for module in modules})

    multiarray = ("numpy.core.multiarray", "numpy._core.multiarray")
    add(("numpy",), "ndarray", build=_build_array)
    add(("numpy",), "dtype", call=_call_dtype, build=_build_dtype)
    add(multiarray, "_reconstruct", call=_call_reconstruct)
    add(multiarray, "scalar", call=_call_scalar)
    add(("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", call=_call_frombuffer)
    for form in ("csc", "csr", "coo"):
        make = _build_coordinates if form == "coo" else _build_compressed
        for name in (f"{form}_matrix", f"{form}_array"):
            add((f"scipy.sparse.{form}", f"scipy.sparse._{form}"), name, build=make(name), empty=True)
    add(("chumpy.ch",), "Ch", build=_chumpy(_variable), empty=True)
    for name, evaluate in _CHUMPY_VIEWS.items():
        add(("chumpy.reordering",), name, build=_chumpy(evaluate), empty=True)
    for name, evaluate in _CHUMPY_ARITHMETIC.items():
        add(("chumpy.ch_ops",), name, build=_chumpy(evaluate), empty=True)
    builtins = ("builtins", "__builtin__")
    add(builtins, "object")
    add(builtins, "set", call=_call_set(set))
    add(builtins, "frozenset", call=_call_set(frozenset))
    add(builtins, "bytes", call=_call_bytes)
    add(builtins, "bytearray", call=_call_bytearray)
    add(builtins, "complex", call=_call_complex)
    add(("collections",), "OrderedDict", call=_call_ordered_dict)
    add(("_codecs",), "encode", call=_call_encode)
    add(("copyreg", "copy_reg"), "_reconstructor", call=_call_reconstructor)
    return known


KNOWN = _known_names()
