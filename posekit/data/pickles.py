"""Reading pickles that may be hostile: a small pickle machine of our own that executes nothing.

Published body models, motion capture and pose annotations come as pickles, and Python's own reader runs whatever
program such a file contains. Here the opcodes of protocols 0 to 5 only make plain containers, strings, numbers and
the array types of `pickled_types.KNOWN`; any other name is refused before anything is made of it.
"""

import codecs
import collections
import contextlib
import gc
import mmap
import os
import pathlib
import pickle
import re
import stat
import struct

import numpy as np
import scipy.sparse

from posekit.data.pickled_types import KNOWN, Known, Unbuilt, UnsafePickleError, check_key, shown

DEFAULT_MAX_BYTES = 512 * 2**20
MAX_DEPTH = 64
MAX_MARKS = 1000
MAX_LINE = 4000  # characters of a number written in decimal; longer ones would take quadratic time to read
_OTHER_FORMATS = {b"PK\3\4": "a zip archive, such as .npz", b"\x1f\x8b": "gzip-compressed", b"\x89HDF": "an HDF5 file"}
_ALLOWANCE = 64 * 2**20
_EXPANSION = 32
_INT4 = struct.Struct("<i").unpack_from
_UINT4 = struct.Struct("<I").unpack_from

__all__ = [
    "DEFAULT_MAX_BYTES",
    "Machine",
    "UnsafePickleError",
    "as_numbers",
    "iterate_pickle",
    "load_pickle",
    "loads_pickle",
    "run_machine",
]


def load_pickle(path, max_bytes=DEFAULT_MAX_BYTES):
    """Reads a pickle without executing anything.

    Python 2 strings are read as latin-1. chumpy arrays, views and sums, differences, products and quotients of them
    come as float64 NumPy arrays; SciPy's csc, csr and coo matrices as themselves.

    Args:
        path: File of pickle protocol 0 to 5.
        max_bytes: Largest file that is read. What is made from it may take at most 64 MiB plus 32 times its size.

    Returns:
        The content: NumPy arrays, scalars and dtypes, SciPy sparse matrices, None, bool, int, float, complex, str,
        bytes, bytearray, list, tuple, dict, OrderedDict, set and frozenset.

    Raises:
        UnsafePickleError: If the file names anything else, or asks for memory, depth or repetition out of proportion.
        pickle.UnpicklingError: If the file is cut short, damaged or no pickle (`UnsafePickleError` is one of these).
        OSError: If the file cannot be read.

    Example:
        >>> body = load_pickle("models/neutral_smpl_with_cocoplus_reg.pkl")  # doctest: +SKIP
        >>> body["shapedirs"].shape  # doctest: +SKIP
        (6890, 3, 10)
    """
    path = pathlib.Path(path)
    size = _checked_size(path, max_bytes)
    with open(path, "rb") as file:
        data = file.read(min(size, max_bytes) + 1)
    if len(data) > max_bytes:
        raise _too_large(path, len(data), max_bytes)
    return loads_pickle(data, str(path))


def iterate_pickle(path, max_bytes=DEFAULT_MAX_BYTES):
    """Yields the items of a pickled list one after another, without executing anything.

    Each item is forgotten here once the next one is asked for, and of the file only the pages in use are in memory, so
    that a list far larger than memory can be read. The file must not change meanwhile.

    Args:
        path: File of pickle protocol 0 to 5, whose content is a list.
        max_bytes: Largest file that is read.

    Yields:
        The list's items, as `load_pickle` would give them.

    Raises:
        UnsafePickleError: If the file names anything that is not plain data, or asks for memory, depth or repetition
            out of proportion.
        pickle.UnpicklingError: If the file is cut short, damaged, no pickle or no list.
        OSError: If the file cannot be read.
    """
    path = pathlib.Path(path)
    if not _checked_size(path, max_bytes):
        raise pickle.UnpicklingError(f"{path} is damaged or no pickle: it is empty.")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _refuse_other_formats(data[:8], path)
        machine = _ListMachine(data)
        items = machine.items()
        while True:
            with _explained(machine, path):
                item = next(items, _STOP)
            if item is _STOP:
                return
            yield item
            del item


def loads_pickle(data, name="pickle"):
    """Reads a pickle from memory; see `load_pickle`.

    Args:
        data: The pickle as bytes.
        name: What messages call it.

    Returns:
        The content.

    Raises:
        UnsafePickleError: If it asks for more than plain data.
        pickle.UnpicklingError: If it is damaged.
    """
    _refuse_other_formats(data[:8], name)
    return run_machine(Machine(bytes(data)), name)


def as_numbers(value, max_size):
    """Array of the numbers that a pickle holds as an array, as a list or as a single one.

    Looks at what a list is made of first: NumPy would make room for its longest text as often as it has items, and for
    an array as often as it names that.

    Args:
        value: A value of a pickle.
        max_size: Most numbers that it may hold.

    Returns:
        NumPy array of integers or floats.

    Raises:
        ValueError: If it holds anything else, or more.
    """
    pending, size = [value], 0
    while pending:
        part = pending.pop()
        if type(part) in (list, tuple):
            pending.extend(part)
        elif isinstance(part, np.ndarray):
            if part.dtype.kind not in "fiu":
                raise ValueError(f"there are values of type {part.dtype!s:.60} instead of numbers")
            size += part.size
        elif type(part) is float or isinstance(part, np.number) or (type(part) is int and abs(part) < 2**63):
            size += 1
        else:
            raise ValueError(f"{shown(part)} stands where a number should")
        if size + len(pending) > max_size:
            raise ValueError(f"there are more than {max_size} numbers")
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"there are values of type {array.dtype} instead of numbers")
    return array


def run_machine(machine, name):
    """Reads one pickle from where a machine stands; its `position` is then behind it.

    Args:
        machine: `Machine`.
        name: What messages call the file.

    Returns:
        The content.

    Raises:
        UnsafePickleError: If it asks for more than the machine knows.
        pickle.UnpicklingError: If it is damaged.
    """
    collecting = gc.isenabled()
    gc.disable()  # a million new containers, none of them garbage
    try:
        with _explained(machine, name):
            result = machine.run()
            _check_tree(result, 1_000_000 + 4 * len(machine.data))
            return result
    finally:
        if collecting:
            gc.enable()


def _checked_size(path, max_bytes):
    status = os.stat(path)
    # Asked before it is opened: opening a pipe waits for whoever writes to it.
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePickleError(f"{path} is not a regular file; give the path of a pickle.")
    if status.st_size > max_bytes:
        raise _too_large(path, status.st_size, max_bytes)
    return status.st_size


def _too_large(path, size, max_bytes):
    return UnsafePickleError(
        f"{path} has {size} bytes, more than the limit of {max_bytes}; if you trust its size, call "
        "load_pickle(path, max_bytes=...) with a larger one."
    )


def _refuse_other_formats(head, name):
    for magic, title in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise pickle.UnpicklingError(f"{name} is damaged or no pickle: it is {title}.")


@contextlib.contextmanager
def _explained(machine, name):
    """Makes a context in which whatever goes wrong is said with the file's name and the place in it."""
    try:
        yield
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{name}, byte {machine.start}: {error} Nothing was executed. posekit reads plain containers, NumPy and "
            "SciPy arrays and chumpy arrays from pickles. If you trust where the file comes from, open it with the "
            "program that wrote it, save the arrays with numpy.savez, and give the .npz file instead."
        ) from None
    except (pickle.UnpicklingError, ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        size = len(machine.data)
        cut = " (it ends there: is it cut short?)" if machine.position >= size else ""
        raise pickle.UnpicklingError(
            f"{name} is damaged or no pickle: at byte {machine.start} of {size}{cut}: {error!s:.300}"
        ) from None


class Machine:
    """The pickle machine: a stack, marks on it, a memo and an allowance of memory.

    Formats that pickle more than plain data extend `known`, `persistent` and `take_state`.
    """

    known = KNOWN

    def __init__(self, data):
        self.data = data
        self.position = 0  # next byte
        self.start = 0  # first byte of the current opcode
        self.stack = []
        self.marked = []  # the stacks below each mark
        self.memo = {}
        self.left = _ALLOWANCE + _EXPANSION * len(data)

    def run(self):
        """Executes opcodes up to STOP and returns what is then on the stack."""
        data, handlers, end = self.data, _HANDLERS, len(self.data)
        while self.position < end:
            self.start = position = self.position
            self.position = position + 1
            handler = handlers[data[position]]
            if handler is None:
                raise pickle.UnpicklingError(f"there is no pickle opcode {data[position : position + 1]!r}")
            if handler(self) is _STOP:
                return self.stack.pop()
        raise pickle.UnpicklingError("the pickle has no end mark")

    def spend(self, count):
        """Takes bytes of memory off the allowance."""
        self.left -= count
        if self.left < 0:
            raise UnsafePickleError(
                f"The content grows beyond {_ALLOWANCE + _EXPANSION * len(self.data)} bytes, out of proportion to the "
                f"file's {len(self.data)}."
            )

    def take(self, count):
        """The next `count` bytes."""
        begin = self.position
        self.position = begin + count
        if self.position > len(self.data):
            raise pickle.UnpicklingError(f"{count} bytes should follow, but {len(self.data) - begin} do")
        return self.data[begin : self.position]

    def take_counted(self, width):
        """A byte string that follows its length, an unsigned integer of `width` bytes."""
        count = int.from_bytes(self.take(width), "little")
        self.left -= 64 + count
        if self.left < 0:
            self.spend(0)
        return self.take(count)

    def take_line(self):
        """The bytes up to the next line end."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.position = len(self.data)
            raise pickle.UnpicklingError("a line does not end")
        line = self.data[self.position : end]
        self.position = end + 1
        self.spend(64 + 4 * len(line))
        return line

    def take_number(self):
        """The bytes of a decimal number on a line of its own."""
        line = self.take_line()
        if len(line) > MAX_LINE:
            raise UnsafePickleError(f"A number has {len(line)} digits.")
        return line

    def pop_mark(self):
        """The values above the last mark; the stack below it becomes the stack."""
        values = self.stack
        self.stack = self.marked.pop()
        return values

    def put(self, key):
        """Keeps the top of the stack in the memo."""
        self.memo[key] = self.stack[-1]
        self.left -= 80
        if self.left < 0:
            self.spend(0)

    def memoize(self):
        """Keeps the top of the stack in the memo under the next number."""
        self.put(len(self.memo))

    def get(self, key):
        """Pushes a value from the memo."""
        if key not in self.memo:
            raise pickle.UnpicklingError(f"it refers to value {shown(key)}, which was not read before")
        value = self.memo[key]
        if type(value) is Unbuilt:
            value = self.memo[key] = _finished(value)
        self.stack.append(value)

    def find(self, module, name):
        """Pushes what the allow-list has under a name; refuses every other name."""
        if type(module) is not str or type(name) is not str:
            raise UnsafePickleError(f"It asks for a name made of {shown(module)} and {shown(name)}.")
        if (module, name) not in self.known:
            raise UnsafePickleError(f"It asks for {module:.100}.{name:.100}, which plain data does not need.")
        self.stack.append(self.known[module, name])

    def persistent(self, key):
        """The object outside of the pickle that a persistent id stands for."""
        raise UnsafePickleError("It refers to an object outside of the file (a persistent id).")

    def take_state(self, target, state):
        """Refuses a state for what is no unfinished instance."""
        raise UnsafePickleError(f"It gives a state to a {type(target).__name__}, which takes none.")


_STOP = object()
_HANDLERS = [None] * 256


def _opcode(*codes):
    def register(handler):
        for code in codes:
            _HANDLERS[code[0]] = handler
        return handler

    return register


def _finished(value):
    if not value.built:
        raise UnsafePickleError(f"An object of {value.known.title} refers to itself.")
    return value.value


def _constant(code, value):
    _HANDLERS[code[0]] = lambda machine: machine.stack.append(value)


_constant(pickle.NONE, None)
_constant(pickle.NEWTRUE, True)
_constant(pickle.NEWFALSE, False)
_constant(pickle.EMPTY_TUPLE, ())


# Structure of the file


@_opcode(pickle.PROTO)
def _proto(machine):
    version = machine.take(1)[0]
    if version > 5:
        raise pickle.UnpicklingError(f"pickle protocol {version} is not known; 0 to 5 are")


@_opcode(pickle.FRAME)
def _frame(machine):
    size = int.from_bytes(machine.take(8), "little")
    if size > len(machine.data) - machine.position:
        raise pickle.UnpicklingError(f"a frame of {size} bytes should follow")


@_opcode(pickle.STOP)
def _stop(machine):
    return _STOP


@_opcode(pickle.MARK)
def _mark(machine):
    if len(machine.marked) >= MAX_MARKS:
        raise UnsafePickleError(f"It opens more than {MAX_MARKS} containers inside each other.")
    machine.marked.append(machine.stack)
    machine.stack = []
    machine.spend(80)


@_opcode(pickle.POP)
def _pop(machine):
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


@_opcode(pickle.POP_MARK)
def _pop_mark(machine):
    machine.pop_mark()


@_opcode(pickle.DUP)
def _dup(machine):
    value = machine.stack[-1]
    machine.stack.append(_finished(value) if type(value) is Unbuilt else value)


# Numbers


@_opcode(pickle.BININT)
def _binint(machine):
    machine.stack.append(_INT4(machine.data, machine.position)[0])
    machine.position += 4


@_opcode(pickle.BININT1)
def _binint1(machine):
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


@_opcode(pickle.BININT2)
def _binint2(machine):
    machine.stack.append(int.from_bytes(machine.take(2), "little"))


@_opcode(pickle.INT)
def _int(machine):
    line = machine.take_number()
    machine.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


@_opcode(pickle.LONG)
def _long(machine):
    machine.stack.append(int(machine.take_number().removesuffix(b"L")))


@_opcode(pickle.LONG1)
def _long1(machine):
    machine.stack.append(int.from_bytes(machine.take_counted(1), "little", signed=True))


@_opcode(pickle.LONG4)
def _long4(machine):
    machine.stack.append(int.from_bytes(machine.take_counted(4), "little", signed=True))


@_opcode(pickle.FLOAT)
def _float(machine):
    machine.stack.append(float(machine.take_number()))


@_opcode(pickle.BINFLOAT)
def _binfloat(machine):
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


# Strings and bytes; Python 2's byte strings become str, read as latin-1


@_opcode(pickle.STRING)
def _string(machine):
    line = machine.take_line().rstrip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise pickle.UnpicklingError("a string is not in quotes")
    machine.stack.append(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))


@_opcode(pickle.SHORT_BINSTRING)
def _short_binstring(machine):
    machine.stack.append(machine.take_counted(1).decode("latin-1"))


@_opcode(pickle.BINSTRING)
def _binstring(machine):
    machine.stack.append(machine.take_counted(4).decode("latin-1"))


@_opcode(pickle.UNICODE)
def _unicode(machine):
    machine.stack.append(machine.take_line().decode("raw-unicode-escape"))


@_opcode(pickle.SHORT_BINUNICODE)
def _short_binunicode(machine):
    machine.stack.append(machine.take_counted(1).decode("utf-8", "surrogatepass"))


@_opcode(pickle.BINUNICODE)
def _binunicode(machine):
    machine.stack.append(machine.take_counted(4).decode("utf-8", "surrogatepass"))


@_opcode(pickle.BINUNICODE8)
def _binunicode8(machine):
    machine.stack.append(machine.take_counted(8).decode("utf-8", "surrogatepass"))


@_opcode(pickle.SHORT_BINBYTES)
def _short_binbytes(machine):
    machine.stack.append(machine.take_counted(1))


@_opcode(pickle.BINBYTES)
def _binbytes(machine):
    machine.stack.append(machine.take_counted(4))


@_opcode(pickle.BINBYTES8)
def _binbytes8(machine):
    machine.stack.append(machine.take_counted(8))


@_opcode(pickle.BYTEARRAY8)
def _bytearray8(machine):
    machine.stack.append(bytearray(machine.take_counted(8)))


# Containers


@_opcode(pickle.EMPTY_LIST)
def _empty_list(machine):
    machine.stack.append([])
    machine.spend(64)


@_opcode(pickle.EMPTY_DICT)
def _empty_dict(machine):
    machine.stack.append({})
    machine.spend(64)


@_opcode(pickle.EMPTY_SET)
def _empty_set(machine):
    machine.stack.append(set())
    machine.spend(220)


@_opcode(pickle.LIST)
def _list(machine):
    values = machine.pop_mark()
    machine.stack.append(values)
    machine.spend(64 + 8 * len(values))


@_opcode(pickle.TUPLE)
def _tuple(machine):
    values = tuple(machine.pop_mark())
    machine.stack.append(values)
    machine.spend(56 + 8 * len(values))


@_opcode(pickle.TUPLE1)
def _tuple1(machine):
    machine.stack[-1] = (machine.stack[-1],)
    machine.spend(64)


@_opcode(pickle.TUPLE2)
def _tuple2(machine):
    stack = machine.stack
    stack[-2:] = [(stack[-2], stack[-1])]
    machine.spend(72)


@_opcode(pickle.TUPLE3)
def _tuple3(machine):
    stack = machine.stack
    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
    machine.spend(80)


@_opcode(pickle.FROZENSET)
def _frozenset(machine):
    values = machine.pop_mark()
    machine.spend(220 + 80 * len(values))
    for value in values:
        check_key(value)
    machine.stack.append(frozenset(values))


@_opcode(pickle.DICT)
def _dict(machine):
    values = machine.pop_mark()
    machine.stack.append({})
    _set_items(machine, values)


@_opcode(pickle.APPEND)
def _append(machine):
    value = machine.stack.pop()
    _top(machine, list).append(value)


@_opcode(pickle.APPENDS)
def _appends(machine):
    values = machine.pop_mark()
    _top(machine, list).extend(values)


@_opcode(pickle.ADDITEMS)
def _additems(machine):
    values = machine.pop_mark()
    machine.spend(80 * len(values))
    for value in values:
        check_key(value)
    _top(machine, set).update(values)


@_opcode(pickle.SETITEM)
def _setitem(machine):
    value = machine.stack.pop()
    _set_items(machine, [machine.stack.pop(), value])


@_opcode(pickle.SETITEMS)
def _setitems(machine):
    _set_items(machine, machine.pop_mark())


def _set_items(machine, values):
    target = _top(machine, dict, collections.OrderedDict)
    if len(values) % 2:
        raise pickle.UnpicklingError("a dict key has no value")
    machine.spend(40 * len(values))
    for index in range(0, len(values), 2):
        key = values[index]
        if type(key) is not str:
            check_key(key)
        target[key] = values[index + 1]


def _top(machine, *kinds):
    target = machine.stack[-1]
    if type(target) not in kinds:
        raise UnsafePickleError(f"It adds items to a {type(target).__name__} as if that were a {kinds[0].__name__}.")
    return target


# Memo


@_opcode(pickle.PUT)
def _put(machine):
    machine.put(int(machine.take_number()))


@_opcode(pickle.BINPUT)
def _binput(machine):
    machine.put(machine.data[machine.position])
    machine.position += 1


@_opcode(pickle.LONG_BINPUT)
def _long_binput(machine):
    machine.put(_UINT4(machine.data, machine.position)[0])
    machine.position += 4


@_opcode(pickle.MEMOIZE)
def _memoize(machine):
    machine.memoize()


@_opcode(pickle.GET)
def _get(machine):
    machine.get(int(machine.take_number()))


@_opcode(pickle.BINGET)
def _binget(machine):
    machine.get(machine.data[machine.position])
    machine.position += 1


@_opcode(pickle.LONG_BINGET)
def _long_binget(machine):
    machine.get(_UINT4(machine.data, machine.position)[0])
    machine.position += 4


# Names, and the values made by them


@_opcode(pickle.GLOBAL)
def _global(machine):
    module, name = (machine.take_line().decode("utf-8") for _ in range(2))
    machine.find(module, name)


@_opcode(pickle.STACK_GLOBAL)
def _stack_global(machine):
    name = machine.stack.pop()
    machine.find(machine.stack.pop(), name)


@_opcode(pickle.REDUCE)
def _reduce(machine):
    arguments = machine.stack.pop()
    known = machine.stack.pop()
    if type(known) is not Known or known.call is None or type(arguments) is not tuple:
        title = known.title if type(known) is Known else type(known).__name__
        raise UnsafePickleError(f"It calls {title}, which must not be called.")
    machine.spend(64)
    machine.stack.append(known.call(machine, *arguments))


@_opcode(pickle.NEWOBJ)
def _newobj(machine):
    arguments = machine.stack.pop()
    _make_empty(machine, machine.stack.pop(), arguments)


@_opcode(pickle.NEWOBJ_EX)
def _newobj_ex(machine):
    keywords, arguments = machine.stack.pop(), machine.stack.pop()
    _make_empty(machine, machine.stack.pop(), (arguments, keywords) if keywords else arguments)


def _make_empty(machine, known, arguments):
    if type(known) is not Known or not known.empty or arguments != ():
        title = known.title if type(known) is Known else type(known).__name__
        raise UnsafePickleError(f"It makes an object of {title} in a way that plain data does not need.")
    machine.spend(80)
    machine.stack.append(Unbuilt(known))


@_opcode(pickle.BUILD)
def _build(machine):
    state = machine.stack.pop()
    target = machine.stack[-1]
    if type(target) is not Unbuilt or target.built:
        machine.take_state(target, state)
        return
    target.value = target.known.build(machine, target.arguments, state)
    target.built = True
    machine.stack[-1] = target.value


@_opcode(pickle.INST)
def _inst(machine):
    module, name = (machine.take_line().decode("utf-8") for _ in range(2))
    raise UnsafePickleError(f"It makes an instance of {module:.200}.{name:.200}, which plain data does not need.")


@_opcode(pickle.OBJ)
def _obj(machine):
    values = machine.pop_mark()
    title = values[0].title if values and type(values[0]) is Known else "an unknown class"
    raise UnsafePickleError(f"It makes an instance of {title} in a way that plain data does not need.")


@_opcode(pickle.PERSID)
def _persistent_line(machine):
    machine.stack.append(machine.persistent(machine.take_line().decode("latin-1")))


@_opcode(pickle.BINPERSID)
def _persistent_id(machine):
    machine.stack.append(machine.persistent(machine.stack.pop()))


@_opcode(pickle.EXT1, pickle.EXT2, pickle.EXT4)
def _extension(machine):
    raise UnsafePickleError("It refers to the extension registry of the program that wrote it.")


@_opcode(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
def _outside_buffer(machine):
    raise UnsafePickleError("It refers to a buffer outside of the file.")


# Long lists, item by item


class _ListMachine(Machine):
    """The machine for one long list: it gives the items away as they come, and keeps what the file refers to again."""

    def __init__(self, data):
        super().__init__(data)
        self._wanted = frozenset()
        self._count = 0
        self._numbered = self._counted = False

    def items(self):
        """Yields the items of the list."""
        data, handlers, end = self.data, _HANDLERS, len(self.data)
        largest = 1_000_000 + 4 * end
        self._wanted = _referred_to(self)
        values = None  # the list itself, once it is there
        self.position = 0
        while self.position < end:
            self.start = position = self.position
            self.position = position + 1
            code = data[position]
            handler = handlers[code]
            if handler is None:
                raise pickle.UnpicklingError(f"there is no pickle opcode {data[position : position + 1]!r}")
            if handler(self) is _STOP:
                if values is None or self.stack.pop() is not values or self.stack or self.marked:
                    raise pickle.UnpicklingError("its content is no list of items")
                return
            if values is None and not self.marked and self.stack and type(self.stack[0]) is list:
                values = self.stack[0]
            if code in _ADDS_ITEMS and not self.marked and len(self.stack) == 1:
                if self.stack[0] is not values:
                    raise pickle.UnpicklingError("its content is no list of items")
                for item in values:
                    if item is values:
                        raise UnsafePickleError("A list holds itself.")
                    _check_tree(item, largest)
                yield from _emptied(values)
        raise pickle.UnpicklingError("the pickle has no end mark")

    def put(self, key):
        """Keeps the top of the stack in the memo if the file refers to it again."""
        self._numbered = True
        self._keep(key)

    def memoize(self):
        """Does so under the next number."""
        self._counted = True
        self._keep(self._count)
        self._count += 1

    def _keep(self, key):
        if self._numbered and self._counted:
            raise pickle.UnpicklingError("its references are numbered in two ways")
        if key in self._wanted:
            self.memo[key] = self.stack[-1]
        self.left -= 80
        if self.left < 0:
            self.spend(0)


_ADDS_ITEMS = (pickle.APPEND[0], pickle.APPENDS[0])


def _emptied(values):
    """Yields a list's items and takes them out of it."""
    values.reverse()
    while values:
        yield values.pop()


# Runs of opcodes whose length says nothing about what they refer to; no run is longer than a regular expression
# should keep in mind.
_FIXED = re.compile(
    rb"(?:[(012NRabd}el\]ost)uQ\x81\x85-\x89\x8f-\x94\x97\x98]|[Kq\x80\x82].|[M\x83]..|[Jr\x84].{4}|[G\x95].{8}){1,50}",
    re.DOTALL,
)
_COUNTED = {
    pickle.SHORT_BINSTRING: 1, pickle.SHORT_BINUNICODE: 1, pickle.SHORT_BINBYTES: 1, pickle.LONG1: 1,
    pickle.BINSTRING: 4, pickle.BINUNICODE: 4, pickle.BINBYTES: 4, pickle.LONG4: 4,
    pickle.BINUNICODE8: 8, pickle.BINBYTES8: 8, pickle.BYTEARRAY8: 8,
}  # fmt: skip
_COUNTED = {code[0]: width for code, width in _COUNTED.items()}
_LINES = {code[0]: 1 for code in (b"I", b"L", b"F", b"S", b"V", b"P", b"p")} | {b"c"[0]: 2, b"i"[0]: 2}


def _referred_to(machine):
    """Memo numbers that a pickle refers to: a first walk over its opcodes, which makes nothing of them."""
    data, wanted = machine.data, set()
    fixed, counted, get, long_get, line_get = _FIXED.match, _COUNTED, b"h"[0], b"j"[0], b"g"[0]
    position = 0
    while True:
        run = fixed(data, position)
        if run:
            position = run.end()
        machine.start = machine.position = position
        if position >= len(data):
            raise pickle.UnpicklingError("the pickle has no end mark")
        code = data[position]
        if code == get:
            wanted.add(data[position + 1])
            position += 2
        elif code == long_get:
            wanted.add(_UINT4(data, position + 1)[0])
            position += 5
        elif code in counted:
            begin = position + 1 + counted[code]
            position = begin + int.from_bytes(data[position + 1 : begin], "little")
        elif code in _LINES:
            for _ in range(_LINES[code]):
                position = _line_end(data, position)
        elif code == line_get:
            begin, position = position + 1, _line_end(data, position)
            wanted.add(int(data[begin : min(position, begin + 20)]))
        elif code == pickle.STOP[0]:
            return wanted
        elif not run:
            raise pickle.UnpicklingError(f"there is no pickle opcode {data[position : position + 1]!r}")


def _line_end(data, position):
    end = data.find(b"\n", position)
    if end < 0:
        raise pickle.UnpicklingError("a line does not end")
    return end + 1


# The finished content

_LEAVES = {type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset}
_CONTAINERS = {list, tuple, dict, collections.OrderedDict}


def _children(node):
    if isinstance(node, dict):
        return node.values()
    return node.ravel().tolist() if isinstance(node, np.ndarray) else node


def _is_container(value):
    kind = type(value)
    if kind in _LEAVES:
        return False
    if kind in _CONTAINERS:
        return True
    if isinstance(value, (np.ndarray, np.generic, np.dtype)) or scipy.sparse.issparse(value):
        return isinstance(value, np.ndarray) and value.dtype.hasobject
    title = value.title if kind is Known else value.known.title if kind is Unbuilt else kind.__name__
    raise UnsafePickleError(f"The content holds an unfinished object of {title}.")


def _check_tree(root, max_size):
    """Refuses content that holds itself, is nested too deeply, or is far larger written out than in the file.

    Args:
        root: The content.
        max_size: Most values there may be, each counted as often as something refers to it.

    Raises:
        UnsafePickleError: If so.
    """
    if not _is_container(root):
        return
    measured = {}  # id → (depth, size) of finished containers
    open_ones = set()
    pending = [root]
    while pending:
        node = pending[-1]
        key = id(node)
        if key in measured:
            pending.pop()
            continue
        inner = [child for child in _children(node) if _is_container(child)]
        if key not in open_ones:
            open_ones.add(key)
            pending.extend(inner)
            if any(id(child) in open_ones for child in inner):
                raise UnsafePickleError(f"A {type(node).__name__} holds itself.")
        else:
            depth = 1 + max((measured[id(child)][0] for child in inner), default=0)
            width = node.size if isinstance(node, np.ndarray) else len(node)  # arrays may have no axis
            size = 1 + width + sum(measured[id(child)][1] for child in inner)
            if depth > MAX_DEPTH:
                raise UnsafePickleError(f"The content is nested more than {MAX_DEPTH} deep.")
            if size > max_size:
                raise UnsafePickleError(f"The content has more than {max_size} values when written out in full.")
            measured[key] = (depth, size)
            open_ones.discard(key)
            pending.pop()
