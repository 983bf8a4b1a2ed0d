"""Pickles: everything that real files contain comes out as NumPy, and nothing that a hostile file asks for happens."""

import collections
import io
import json
import os
import pickle
import random
import struct
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse

from posekit.data.pickles import UnsafePickleError, load_pickle, loads_pickle
from posekit.testing import FIXTURES

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
BODIES = (
    "card_chumpy_py2_p2",
    "card_chumpy_py2_p0",
    "card_chumpy_py2_views_p2",
    "card_chumpy_py3_p2",
    "card_chumpy_py3_views_p2",
    "card_chumpy_py3_expr_p2",
)


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURES / "card_chumpy.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("stem", BODIES)
def test_bodies_as_chumpy_reads_them(stem, expected):
    content = load_pickle(FIXTURES / f"{stem}.pkl")
    checked = 0
    for entry, wanted in expected.items():
        if not entry.startswith(stem + "/"):
            continue
        key, _, part = entry.removeprefix(stem + "/").partition(".")
        value = content[key]
        if key == "extra":
            value = value[part]
        elif part:
            assert isinstance(value, scipy.sparse.csc_matrix)
            value = getattr(value, part.removeprefix("csc_"))
        elif scipy.sparse.issparse(value):
            value = value.toarray()
        assert type(value) is np.ndarray
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted, err_msg=entry)
        checked += 1
    assert checked >= 21


@pytest.mark.parametrize("stem", BODIES)
def test_plain_entries_of_bodies(stem):
    manifest = json.loads((FIXTURES / "card_manifest.json").read_text())[f"{stem}.pkl"]
    content = load_pickle(FIXTURES / f"{stem}.pkl")
    wanted = manifest["pose_training_info_repr_under_py3_latin1"]
    assert {key: repr(value) for key, value in content["pose_training_info"].items()} == wanted
    assert content["bs_style"] == manifest["bs_style"] and content["bs_type"] == manifest["bs_type"]


@pytest.mark.parametrize("number", range(1, 6))
def test_evil_fixtures_are_refused_and_nothing_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((FIXTURES / "card_manifest.json").read_text())[f"card_pickle_evil_{number}.pkl"]
    evil = {"posix system", "__builtin__ eval", "numpy.testing._private.utils runstring", "chumpy.ch os.system"}
    (asked,) = evil & set(manifest["globals_in_pickle"])
    with pytest.raises(UnsafePickleError) as refusal:
        load_pickle(FIXTURES / f"card_pickle_evil_{number}.pkl")
    assert isinstance(refusal.value, pickle.UnpicklingError)
    message = str(refusal.value)
    assert asked.replace(" ", ".") in message and f"card_pickle_evil_{number}.pkl" in message
    assert "numpy.savez" in message and "byte" in message
    assert os.listdir(tmp_path) == []


def plain_content():
    return {
        "none": None, "yes": True, "no": False, "small": 7, "medium": 70_000, "negative": -3, "long": 2**70,
        "very long": -(2**3000), "float": 1.5, "infinite": float("inf"), "complex": 1 + 2j, "empty": "",
        "text": "Tübingen ✓ 😀", "quotes": "it's \"so\"\n\\", "bytes": b"\x00\xff", "no bytes": b"",
        "array of bytes": bytearray(b"ab"),
        "list": [1, [2, [3]], []], "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "set": {1, "a", (1, 2)},
        "frozen": frozenset({b"x", None}), "no set": set(), "ordered": collections.OrderedDict([("b", 1), ("a", [2])]),
        3: "integer key", (1, "a"): "tuple key", 2.5: "float key", "long text": "x" * 300, "long bytes": b"y" * 300,
        "many": list(range(2500)), "dict of many": {f"k{n}": n for n in range(2500)},
    }  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_content(protocol):
    content = plain_content()
    result = loads_pickle(pickle.dumps(content, protocol))
    assert result == content
    assert [type(value) for value in result.values()] == [type(value) for value in content.values()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(10)[::2],
        np.array(3.5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.array([1, 2], ">i4"),
        np.array([1 + 2j]),
        np.array([b"ab", b"c"]),
        np.array(["Tü", "b"]),
        np.float32(2.5),
        np.int64(-1),
        np.bool_(True),
        np.str_("ü"),
        np.dtype("<f4"),
        np.array([1, "a", None, (2, [3])], object),
        scipy.sparse.csc_matrix(np.eye(3)),
        scipy.sparse.csr_matrix(np.arange(6).reshape(2, 3)),
        scipy.sparse.coo_matrix(np.eye(3, dtype=np.float32)),
        scipy.sparse.csc_array(np.eye(3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays(array, protocol):
    first, second = loads_pickle(pickle.dumps([array, array], protocol))
    if not isinstance(array, np.dtype):
        assert first is second, "shared objects stay shared"
    assert type(first) is type(array)
    if scipy.sparse.issparse(array):
        assert first.dtype == array.dtype and (first != array).nnz == 0 and first.shape == array.shape
    elif isinstance(array, np.dtype):
        assert first == array
    else:
        np.testing.assert_equal(first, array)
        assert first.dtype == array.dtype and (np.isscalar(array) or first.flags.writeable)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lists_of_annotations(protocol):
    rng = np.random.default_rng(protocol)
    camera = {"R": rng.normal(size=(3, 3)), "fx": 1145.0, "name": "54138969"}
    items = [
        {
            "videoid": n, "image_path": f"s_01/{n:06d}.jpg", "joint_3d_image": rng.normal(size=(17, 3)),
            "box": rng.normal(size=4), "center": (500.5, 400.25), "root_depth": np.float64(5000 + n),
            "camera_param": camera,
        }
        for n in range(40)
    ]  # fmt: skip
    np.testing.assert_equal(loads_pickle(pickle.dumps(items, protocol)), items)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dict_in_an_array_without_axes(protocol):
    """As numpy.savez stores dicts, in VideoPose3D's files for one."""
    content = {"S9": {"Walking": [np.ones((2, 17, 2))]}}
    read = loads_pickle(pickle.dumps(np.array(content, dtype=object), protocol))
    assert read.shape == () and read.dtype == object
    np.testing.assert_array_equal(read.item()["S9"]["Walking"][0], content["S9"]["Walking"][0])


def test_shared_and_repeated_objects():
    inner = [1, 2]
    first, second = loads_pickle(pickle.dumps([inner, inner]))
    assert first is second


def test_python2_strings_are_latin1():
    assert loads_pickle(b"S'T\\xfcbingen'\n.") == "Tübingen"
    assert loads_pickle(b"U\x02\xfc!.") == "ü!"
    assert loads_pickle(b"T\x02\x00\x00\x00\xfc!.") == "ü!"
    assert loads_pickle(b"I01\n.") is True
    assert loads_pickle(b"L123L\n.") == 123


# Hostile content. Opcodes by hand: c GLOBAL, R REDUCE, b BUILD, \x81 NEWOBJ, q PUT, h GET, ( MARK, t TUPLE.

MINUS_ONE = b"J\xff\xff\xff\xff"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
FLOAT64 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR(K\x03X\x01\x00\x00\x00<NNN" + 2 * MINUS_ONE + b"K\x00tb"
OBJECT = FLOAT64.replace(b"f8", b"O8").replace(b"\x00<", b"\x00|")
CH = b"cchumpy.ch\nCh\n)\x81"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def array(shape, payload, dtype=FLOAT64):
    return RECONSTRUCT + b"(K\x01" + b"(" + b"".join(map(number, shape)) + b"t" + dtype + b"\x89" + payload + b"tb"


def raw(values):
    return b"B" + struct.pack("<I", 8 * len(values)) + np.asarray(values, "<f8").tobytes()


def chumpy(name, **state):
    entries = b"".join(text(key) + value for key, value in state.items())
    return f"cchumpy.reordering\n{name}\n".encode() + b")\x81}(" + entries + b"ub"


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_hand_made_pieces_are_right():
    np.testing.assert_array_equal(loads_pickle(array((2, 1), raw([1.5, 2])) + b"."), [[1.5], [2]])
    np.testing.assert_array_equal(loads_pickle(CH + b"}" + text("x") + array((2,), raw([1, 2])) + b"sb."), [1, 2])
    tiled = loads_pickle(chumpy("Tile", a=array((2,), raw([1, 2])), reps=b"K\x02") + b".")
    np.testing.assert_array_equal(tiled, [1, 2, 1, 2])
    negative = loads_pickle(b"cchumpy.ch_ops\nnegative\n)\x81}" + text("x") + b"K\x02sb.")
    np.testing.assert_array_equal(negative, [-2.0])


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_names_of_old_and_new_numpy(core):
    buffer = b"c" + core + b".numeric\n_frombuffer\n(" + raw([1, 2]) + FLOAT64 + b"K\x02\x85S'C'\ntR."
    np.testing.assert_array_equal(loads_pickle(buffer), [1, 2])
    scalar = b"c" + core + b".multiarray\nscalar\n(" + FLOAT64 + raw([3]) + b"tR."
    assert loads_pickle(scalar) == 3.0
    np.testing.assert_array_equal(loads_pickle(array((1,), raw([4])).replace(b"numpy.core", core) + b"."), [4])


@pytest.mark.parametrize("form", ["csc", "csr", "coo"])
def test_names_of_old_and_new_scipy(form):
    matrix = getattr(scipy.sparse, f"{form}_matrix")(np.eye(2))
    new = pickle.dumps(matrix, 2)
    old = new.replace(f"scipy.sparse._{form}".encode(), f"scipy.sparse.{form}".encode())
    assert old != new
    for data in (old, new):
        np.testing.assert_array_equal(loads_pickle(data).toarray(), np.eye(2))


BOMB_OF_LISTS = b"]q\x00(h\x00h\x00e" + b"".join(  # list n holds list n-1 twice
    b"]q" + bytes([n]) + b"(h" + bytes([n - 1]) + b"h" + bytes([n - 1]) + b"e" for n in range(1, 100)
)
BOMB_OF_TUPLES = b")q\x00" + b"".join(
    b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(100)
)
TWICE = {"dterms": b"](" + text("m0") + text("m1") + b"e", "axis": b"K\x00", "m0": b"h\x01", "m1": b"h\x01"}
BOMB_OF_VIEWS = CH + b"}" + text("x") + array((1000,), raw(np.zeros(1000))) + b"sbq\x01"
BOMB_OF_VIEWS += 40 * (chumpy("Concatenate", **TWICE) + b"q\x01")

REFUSED = {
    "os.system": pickle.dumps(Call(os.system, "touch marker"), 2),
    "os.system at protocol 0": pickle.dumps(Call(os.system, "touch marker"), 0),
    "os.system at protocol 5": pickle.dumps(Call(os.system, "touch marker"), 5),
    "eval": pickle.dumps(Call(eval, "open('marker', 'w')"), 4),
    "getattr": pickle.dumps(Call(getattr, "", "format"), 4),
    "numpy.load": pickle.dumps(Call(np.load, "marker"), 4),
    "numpy.fromfile": b"cnumpy\nfromfile\n(S'/dev/zero'\ntR.",
    "numpy.ndarray by call": b"cnumpy\nndarray\n(K\x05\x85tR.",
    "numpy.ndarray by NEWOBJ": b"cnumpy\nndarray\n(K\x05\x85t\x81.",
    "numpy.random": pickle.dumps(np.random.default_rng(0), 4),
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "a dotted module": b"cnumpy.ndarray\ntofile\n.",
    "an attribute of an allowed class": b"\x80\x04\x8c\x09chumpy.ch\x8c\x08Ch.x.y.z\x93.",
    "a similar module": b"cnumpy.core.multiarray.evil\n_reconstruct\n.",
    "a relative module": b"cnumpy.core..multiarray\n_reconstruct\n.",
    "names that are no strings": b"]](K\x01e\x93.",
    "names that are a bomb": BOMB_OF_LISTS + b"h\x63\x93.",
    "instance by INST": b"(S'touch marker'\nios\nsystem\n.",
    "instance by OBJ": b"(cchumpy.ch\nCh\no.",
    "persistent id": b"Pmarker\n.",
    "binary persistent id": b"K\x01Q.",
    "extension registry": b"\x82\x01.",
    "extension registry, 2 bytes": b"\x83\x01\x00.",
    "extension registry, 4 bytes": b"\x84\x01\x00\x00\x00.",
    "outside buffer": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05K\x01\x98.",
    "state for a dict": b"}}(S'__class__'\nK\x01ub.",
    "state for an integer": b"K\x01}b.",
    "state for an array twice": array((1,), raw([1])) + b"}b.",
    "call of an integer": b"K\x01)R.",
    "call with a list": b"c_codecs\nencode\n]R.",
    "call of a class of chumpy": b"cchumpy.ch\nCh\n)R.",
    "new object with arguments": b"cchumpy.ch\nCh\n(K\x01t\x81.",
    "new object with keywords": b"cchumpy.ch\nCh\n)}(S'x'\nK\x01u\x92.",
    "new object of an integer": b"K\x01)\x81.",
    "append to a tuple": b")K\x01a.",
    "append to a name": b"cchumpy.ch\nCh\nK\x01a.",
    "items for a list": b"]K\x01K\x02s.",
    "items for an array": array((1,), raw([1])) + b"K\x00K\x02s.",
    "set items for a list": b"](K\x01\x90.",
    "a class as content": b"cchumpy.ch\nCh\n.",
    "a class in the content": b"](cchumpy.ch\nCh\ne.",
    "an object without state": b"](" + CH + b"e.",
    "an array without state": b"](" + RECONSTRUCT + b"e.",
    "a list that holds itself": b"]q\x00h\x00a.",
    "a dict that holds itself": b"}q\x00K\x01]h\x00as.",
    "a tuple that holds itself": b"](K\x01h\x00t.".replace(b"]", b"]q\x00").replace(b"t.", b"tah\x00."),
    "an object array that holds itself": RECONSTRUCT + b"q\x00(K\x01K\x01\x85" + OBJECT + b"\x89]h\x00atb.",
    "a chumpy object that holds itself": b"cchumpy.reordering\ntranspose\n)\x81q\x00}" + text("a") + b"h\x00sb.",
    "a copied unfinished object": CH + b"2}b.",
    "deep lists": b"]" * 100 + b"a" * 99 + b".",
    "very deep tuples": b")" + b"\x85" * 100_000 + b".",
    "very deep marks": b"(" * 1_000_000 + b"N.",
    "lists that double": BOMB_OF_LISTS + b".",
    "tuples that double": BOMB_OF_TUPLES + b".",
    "tuples that double, as key": b"}" + BOMB_OF_TUPLES + b"K\x01s.",
    "tuples that double, in a set": b"\x8f(" + BOMB_OF_TUPLES + b"\x90.",
    "tuples that double, in a frozen set": b"(" + BOMB_OF_TUPLES + b"\x91.",
    "views that double": BOMB_OF_VIEWS + b".",
    "a huge tile": chumpy("Tile", a=array((1,), raw([1])), reps=number(2**40)) + b".",
    "a huge repeat": chumpy("Repeat", a=array((1,), raw([1])), repeats=number(2**40), axis=b"N") + b".",
    "a huge broadcast": b"cchumpy.ch_ops\nadd\n)\x81}(" + text("a") + array((20_000,), raw(np.zeros(20_000)))
    + text("b") + array((20_000, 1), raw(np.zeros(20_000))) + b"ub.",
    "a list as key": b"}]K\x01s.",
    "an array as key": b"}" + array((1,), raw([1])) + b"K\x01s.",
    "an integer as key whose hash can be chosen": b"}" + number(2**61 - 1) + b"K\x01s.",
    "a number of a million digits": b"I" + b"7" * 1_000_000 + b"\n.",
    "memory out of proportion": b"(" + b"\x8f" * 1_000_000 + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(UnsafePickleError) as refusal:
            loads_pickle(REFUSED[attack], "file.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "file.pkl" in str(refusal.value) and len(str(refusal.value)) < 1000
    assert os.listdir(tmp_path) == []
    assert peak < 300e6 and time.monotonic() - began < 20


DAMAGED = {
    "nothing": b"",
    "text": b"hello, I am no pickle\n",
    "zip archive": b"PK\x03\x04" + bytes(30),
    "gzip": b"\x1f\x8b" + bytes(30),
    "no end mark": b"]",
    "no value": b".",
    "stack that is too short": b"a.",
    "mark that is missing": b"K\x01t.",
    "tuple that is too long": b"K\x01\x87.",
    "key without value": b"}(K\x01u.",
    "memo entry that is missing": b"h\x05.",
    "unknown protocol": b"\x80\x06N.",
    "frame that is too long": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "string that is too long": b"T\xff\xff\xff\x00abc.",
    "wrong UTF-8": b"X\x01\x00\x00\x00\xff.",
    "string without quotes": b"Sabc\n.",
    "integer that is none": b"Iabc\n.",
    "float that is none": b"Fabc\n.",
    "array of more bytes than there": array((3,), raw([1, 2])) + b".",
    "array of fewer bytes than there": array((1,), raw([1, 2])) + b".",
    "array of a huge shape": array((2**40, 2**40), raw([1])) + b".",
    "array of a negative length": array((-1,), raw([1])) + b".",
    "array of two negative lengths": array((-1, -1), raw([1])) + b".",
    "array of a shape beyond 64 bits": array((2**65,), raw([1])) + b".",
    "array of too many dimensions": array((1,) * 40, raw([1])) + b".",
    "empty array of a huge shape": array((2**40, 0), raw([])) + b".",
    "array with text as data": array((1,), text("Ā")) + b".",
    "array with a number as data": array((1,), b"K\x01") + b".",
    "array without dtype": array((1,), raw([1]), b"N") + b".",
    "array of objects from bytes": array((1,), raw([1]), OBJECT) + b".",
    "array of too few objects": array((2,), b"](Ne", OBJECT) + b".",
    "array of unfinished objects": array((1,), b"](" + CH + b"e", OBJECT) + b".",
    "array from a short state": RECONSTRUCT + b"(K\x01K\x01\x85tb.",
    "array of another class": b"cnumpy.core.multiarray\n_reconstruct\n(cchumpy.ch\nCh\nK\x00\x85C\x01btR.",
    "array of no size an element": array((2**40,), raw([]), FLOAT64.replace(b"f8", b"S0")) + b".",
    "structured dtype": FLOAT64.replace(b"f8", b"V8") + b".",
    "dtype with fields": FLOAT64.replace(b"<NNN", b"<NNK\x01") + b".",
    "dtype of unknown code": FLOAT64.replace(b"f8", b"zz") + b".",
    "dtype of odd size": FLOAT64.replace(b"f8", b"f1") + b".",
    "dtype of unknown byte order": FLOAT64.replace(b"<NNN", b"?NNN") + b".",
    "object scalar": b"cnumpy.core.multiarray\nscalar\n(" + OBJECT + b"K\x01tR.",
    "scalar of too many bytes": b"cnumpy.core.multiarray\nscalar\n(" + FLOAT64 + raw([1, 2]) + b"tR.",
    "wrong number of arguments": b"c_codecs\nencode\n)R.",
    "unknown encoding": b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    "chumpy object with a list as state": CH + b"]b.",
    "chumpy object without value": CH + b"}b.",
    "chumpy object with text as value": CH + b"}S'x'\nS'text'\nsb.",
    "reshape to another size": chumpy("Reshape", a=array((2,), raw([1, 2])), newshape=b"K\x03") + b".",
    "select outside": chumpy("Select", a=array((2,), raw([1, 2])), idxs=array((1,), raw([5]))) + b".",
    "negative tile": chumpy("Tile", a=array((2,), raw([1, 2])), reps=number(-1)) + b".",
    "transpose of a missing axis": chumpy("transpose", a=array((2,), raw([1, 2])), axes=b"K\x07") + b".",
    "operands that do not fit": b"cchumpy.ch_ops\nadd\n)\x81}(" + text("a") + array((2,), raw([1, 2])) + text("b")
    + array((3,), raw([1, 2, 3])) + b"ub.",
    "set of an integer": b"cbuiltins\nset\nK\x01\x85R.",
    "copyreg for a class that it cannot make": b"ccopyreg\n_reconstructor\n(cnumpy\nndarray\ncbuiltins\nobject\nNtR.",
    "copyreg with a state": b"ccopyreg\n_reconstructor\n(cchumpy.ch\nCh\ncbuiltins\nobject\n]tR.",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged(damage):
    tracemalloc.start()
    try:
        with pytest.raises(pickle.UnpicklingError) as refusal:
            loads_pickle(DAMAGED[damage], "file.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not isinstance(refusal.value, UnsafePickleError)
    assert "file.pkl is damaged or no pickle: " in str(refusal.value) and len(str(refusal.value)) < 1000
    assert peak < 20e6


@pytest.mark.parametrize(
    "change",
    [
        {"_shape": (3, 10**15)},
        {"_shape": (10**15, 3)},
        {"_shape": (-3, 3)},
        {"_shape": (3, 3, 3)},
        {"_shape": None},
        {"indices": np.array([0, 1, 7])},
        {"indices": np.array([0, 1, -1])},
        {"indices": np.array([0.0, 1.0, 2.0])},
        {"indices": np.array([0, 1])},
        {"indptr": np.array([0, 5, 2, 3])},
        {"indptr": np.array([0, 1, 2])},
        {"data": np.array(["a", "b", "c"])},
        {"data": np.zeros((3, 3))},
        {"data": [1, 2, 3]},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_damaged_sparse_matrices(change):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.__dict__.update(change)
    with pytest.raises(pickle.UnpicklingError, match="csc_matrix"):
        loads_pickle(pickle.dumps(matrix, 2))


def test_memo_with_a_huge_index_takes_no_memory():
    tracemalloc.start()
    try:
        assert loads_pickle(b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 1
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_files_cut_at_any_byte():
    whole = pickle.dumps({"a": np.arange(4.0), "b": [scipy.sparse.csc_matrix(np.eye(2)), "text", {1}]}, 2)
    for length in range(len(whole)):
        with pytest.raises(pickle.UnpicklingError):
            loads_pickle(whole[:length])


def test_random_changes_never_escape():
    rng = random.Random(0)
    originals = [pickle.dumps([plain_content()["text"], np.arange(3.0), {"a": (1, 2)}], p) for p in PROTOCOLS]
    originals.append((FIXTURES / "card_chumpy_py2_p0.pkl").read_bytes()[:20_000])
    for _ in range(3000):
        changed = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(min(len(changed), 1500))] = rng.randrange(256)
        try:
            loads_pickle(bytes(changed))
        except pickle.UnpicklingError:
            pass


def test_limits_of_the_file(tmp_path):
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps(bytes(1000)))
    assert load_pickle(path) == bytes(1000)
    with pytest.raises(UnsafePickleError, match="max_bytes"):
        load_pickle(path, max_bytes=500)
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "missing.pkl")
    if os.path.exists("/dev/zero"):
        with pytest.raises(UnsafePickleError, match="regular"):
            load_pickle("/dev/zero")
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(UnsafePickleError, match="regular"):
        load_pickle(tmp_path / "pipe.pkl")


def test_message_of_a_short_file(tmp_path):
    path = tmp_path / "short.pkl"
    path.write_bytes(pickle.dumps(np.arange(1000.0), 2)[:-500])
    with pytest.raises(pickle.UnpicklingError, match=r"short\.pkl is damaged.*cut short"):
        load_pickle(path)


def test_streams_are_not_needed():
    buffer = io.BytesIO()
    pickle.dump([1, 2], buffer)
    assert loads_pickle(bytearray(buffer.getvalue())) == [1, 2]
