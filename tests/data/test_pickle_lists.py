import pickle
import subprocess
import sys

import numpy as np
import pytest

from posekit.data.pickles import UnsafePickleError, iterate_pickle, load_pickle
from posekit.testing import FIXTURES


def put(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def items(count=2500):
    shared = {"R": np.eye(3), "name": "54138969"}
    return [
        {"camera": shared, "number": number, "joints": np.full((2, 3), number / 3), "box": (np.float64(number), None)}
        for number in range(count)
    ] + ["text", 5, None, [], {}, [[1], [2]], b"bytes", {1, 2}, np.arange(4)]


@pytest.mark.parametrize("protocol", range(6))
def test_items_are_those_of_the_whole(tmp_path, protocol):
    path = put(tmp_path / "list.pkl", items(), protocol)
    whole, one_by_one = load_pickle(path), list(iterate_pickle(path))
    assert repr(one_by_one) == repr(whole) and len(whole) == 2509
    assert one_by_one[0]["camera"] is one_by_one[2499]["camera"]
    for content in ([], [1], [[1], [2]], [[[]]], [[], []]):
        assert list(iterate_pickle(put(path, content, protocol))) == content


def test_the_original_pickles():
    for split in ("train", "test"):
        path = FIXTURES / f"lcn_h36m_{split}.pkl"
        assert repr(list(iterate_pickle(path))) == repr(load_pickle(path))


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_no_list(tmp_path, protocol):
    for content in ({"a": [1]}, (1, 2), 5, "text", None, np.arange(3), ([1, 2],)):
        with pytest.raises(pickle.UnpicklingError, match="no list of items"):
            list(iterate_pickle(put(tmp_path / "other.pkl", content, protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_lists_that_hold_themselves(tmp_path, protocol):
    direct, deep, inside = [1], [1], [1, {"a": []}]
    direct.append(direct)
    deep.append({"a": (deep,)})
    inside[1]["a"].append(inside[1])
    for content in (direct, deep, inside):
        with pytest.raises(pickle.UnpicklingError, match="holds itself"):
            list(iterate_pickle(put(tmp_path / "loop.pkl", content, protocol)))


@pytest.mark.parametrize("number", range(1, 6))
def test_code_is_refused(number):
    with pytest.raises(UnsafePickleError, match="Nothing was executed"):
        list(iterate_pickle(FIXTURES / f"card_pickle_evil_{number}.pkl"))


def test_code_behind_sound_items(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    path = put(tmp_path / "evil.pkl", [{"a": 1}] * 1500 + [Evil()])
    found = iterate_pickle(path)
    assert [next(found) for _ in range(1000)] == [{"a": 1}] * 1000
    with pytest.raises(UnsafePickleError, match=r"evil.pkl, byte \d+: .*print"):
        list(found)


@pytest.mark.parametrize("protocol", (0, 2, 4))
def test_cut_files(tmp_path, protocol, capsys):
    whole = pickle.dumps(items(30), protocol)
    path = tmp_path / "cut.pkl"
    for length in (*range(0, 200), *range(200, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(pickle.UnpicklingError, match="cut.pkl is damaged or no pickle"):
            list(iterate_pickle(path))
    assert capsys.readouterr().out == ""


def test_damaged_files_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pkl"
    outcomes = {True: 0, False: 0}
    for protocol in (0, 2, 4):
        whole = np.frombuffer(pickle.dumps(items(6), protocol), np.uint8)
        for _ in range(300):
            damaged = whole.copy()
            damaged[rng.integers(len(whole))] = rng.integers(256)
            path.write_bytes(damaged.tobytes())
            try:
                list(iterate_pickle(path))
                outcomes[True] += 1
            except pickle.UnpicklingError:
                outcomes[False] += 1
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02](Nr\x00\x00\x00\x00N\x94e.", "numbered in two ways"),
        (b"\x80\x02](h\x05e.", "refers to value 5"),
        (b"\x80\x02](B\xff\xff\xff\xffabce.", "damaged"),
        (b"\x80\x02](X\x03\x00\x00\x00ab", "damaged"),
        (b"\x80\x02](\x8e\xff\xff\xff\xff\xff\xff\xff\xffabce.", "damaged"),
        (b"\x80\x02](\xffe.", "no pickle opcode"),
        (b"(lp0\nI1\nag9999999999999999999999999\na.", "refers to value"),
        (b"(lp0\ngx\na.", "damaged"),
        (b"(I1\nI2\n.", "no list of items"),
        (b"\x80\x02]](e.", "no list of items"),
        (b"\x80\x02](K\x01e0](K\x02e.", "no list of items"),
        (b"PK\x03\x04" + bytes(50), "a zip archive"),
        (b"", "it is empty"),
    ],
)
def test_hand_made_files(tmp_path, content, message):
    path = tmp_path / "made.pkl"
    path.write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match=message):
        list(iterate_pickle(path))


def test_sizes_and_kinds_of_files(tmp_path):
    path = put(tmp_path / "list.pkl", [1, 2, 3])
    with pytest.raises(UnsafePickleError, match="more than the limit of 5"):
        next(iterate_pickle(path, max_bytes=5))
    with pytest.raises(UnsafePickleError, match="not a regular file"):
        next(iterate_pickle(tmp_path))
    with pytest.raises(FileNotFoundError):
        next(iterate_pickle(tmp_path / "none.pkl"))


def test_little_memory_is_taken(tmp_path):
    # 40 MB of items, read by a process that may take 20 MB more than it has before it starts.
    path = put(tmp_path / "long.pkl", [{"a": np.full(5000, float(n))} for n in range(1000)])
    code = (
        "import resource, sys; from posekit.data.pickles import iterate_pickle\n"
        "def taken(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "before = taken(); most = 0\n"
        "for n, item in enumerate(iterate_pickle(sys.argv[1])):\n"
        "    assert item['a'][7] == n; most = max(most, taken())\n"
        "print(n, most - before)"
    )
    output = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True).stdout
    count, kilobytes = map(int, output.split())
    assert count == 999 and kilobytes < 110_000
