import os
import pickle
import pickletools

import numpy as np
import pytest

from posekit.data import result_files
from posekit.data.plain_pickles import dumps_plain
from posekit.data.result_files import read_result, write_result


@pytest.fixture
def result():
    return np.random.default_rng(0).normal(500, 200, (5, 17, 3))


def test_round_trip_in_the_originals_layout(tmp_path, result):
    path = write_result(tmp_path / "experiment/test1/result_gt.pkl", result)
    np.testing.assert_array_equal(read_result(path, 5), result)
    with open(path, "rb") as file:
        content = pickle.load(file)  # as the original does
    assert list(content) == ["result"]
    np.testing.assert_array_equal(content["result"], result)
    opcodes = list(pickletools.genops(path.read_bytes()))
    assert max(opcode.proto for opcode, _, _ in opcodes) <= 2
    assert "numpy._core" not in str([argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"])
    assert [entry.name for entry in path.parent.iterdir()] == ["result_gt.pkl"]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_can_be_read(tmp_path, result, flat, dtype):
    array = result.astype(dtype).reshape(5, 51) if flat else result.astype(dtype)
    for protocol in range(6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps({"result": array, "other": 1}, protocol))
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "named.npz", result=array, other=np.zeros(3))
    np.savez_compressed(tmp_path / "single.npz", array)
    for path in sorted(tmp_path.iterdir()):
        read = read_result(path, count=5)
        assert read.dtype == np.float64 and read.flags.writeable
        np.testing.assert_array_equal(read, result.astype(dtype))


def test_other_joints(tmp_path):
    write_result(tmp_path / "r.pkl", np.zeros((2, 14, 3)))
    assert read_result(tmp_path / "r.pkl", num_joints=14).shape == (2, 14, 3)
    with pytest.raises(ValueError, match="none.pkl holds no poses; predict again"):
        read_result(write_result(tmp_path / "none.pkl", np.zeros((0, 17, 3))), 0)


def wrong_files(result):
    holes, endless, far = result.copy(), result.copy(), result.copy()
    far[2, 1] = 1e10
    holes[3, 2] = np.nan
    endless[1, 0, 0] = np.inf
    return {
        "key": (dumps_plain({"results": result}), "'results'.*key 'result'"),
        "list": (dumps_plain([result]), "holds a list"),
        "shape": (dumps_plain({"result": result[:, :16]}), r"shape \(5, 16, 3\).*\[poses, 17, 3\]"),
        "one": (dumps_plain({"result": result[0]}), r"shape \(17, 3\)"),
        "nothing": (dumps_plain({"result": None}), "is a NoneType"),
        "text": (dumps_plain({"result": np.array(["a"])}), "array of <U1"),
        "count": (dumps_plain({"result": result[:4]}), "holds 4 poses, the data set 5"),
        "nan": (dumps_plain({"result": holes}), "1 of 5 poses hold NaN.*number 3"),
        "inf": (dumps_plain({"result": endless}), "infinity.*number 1"),
        "far": (dumps_plain({"result": far}), "1 of 5 poses hold .* not in -1,000,000 to 1,000,000.*number 2"),
        "cut": (dumps_plain({"result": result})[:-40], "cut short"),
        "code": (b"cposix\nsystem\n(S'echo hacked'\ntR.", "Nothing was executed"),
        "empty": (b"", "damaged or no pickle"),
    }


@pytest.mark.parametrize("kind", sorted(wrong_files(np.zeros((5, 17, 3)))))
def test_wrong_pickles_are_named(tmp_path, result, kind):
    content, message = wrong_files(result)[kind]
    (tmp_path / "result_gt.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_result(tmp_path / "result_gt.pkl", count=5)
    assert "result_gt.pkl" in str(caught.value)


def test_wrong_arrays_are_named(tmp_path, result):
    np.savez(tmp_path / "two.npz", first=result, second=result)
    with pytest.raises(ValueError, match="'first', 'second'.*'result'"):
        read_result(tmp_path / "two.npz")
    (tmp_path / "objects.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_bytes(b"hello")
    (tmp_path / "text.npz").write_bytes(b"hello")
    np.save(tmp_path / "long.npy", result)
    data = (tmp_path / "long.npy").read_bytes()
    (tmp_path / "long.npy").write_bytes(data.replace(b"(5, 17, 3), }      ", b"(9999999, 17, 3), }"))
    (tmp_path / "torn.npy").write_bytes(data.replace(b"(5, 17, 3)", b"(9999999, "))
    assert len({len((tmp_path / name).read_bytes()) for name in ("long.npy", "torn.npy")} | {len(data)}) == 1
    (tmp_path / "short.npy").write_bytes(data[:-100])
    np.savez(tmp_path / "zip.npz", result)
    (tmp_path / "zip.npy").write_bytes((tmp_path / "zip.npz").read_bytes())
    for name in ("objects.npy", "text.npy", "text.npz", "long.npy", "torn.npy", "short.npy", "zip.npy"):
        with pytest.raises(ValueError, match=name):
            read_result(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.pkl, \.pickle, \.npz, \.npy.*'a\.json'"):
        read_result(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="result_gt.pkl and result_dt_ft.pkl"):
        read_result(tmp_path / "missing.pkl")


def test_arrays_that_grow_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(result_files, "MAX_RESULT_BYTES", 40_000)
    np.save(tmp_path / "a.npy", np.ones((100, 17, 3), np.uint8))
    with pytest.raises(ValueError, match="holds 100 poses, more than"):
        read_result(tmp_path / "a.npy")


def npy(header):
    header = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(1000)


def test_headers_that_mislead(tmp_path):
    for number, shape in enumerate(
        ("(99999999999999999999999, 17, 3), }", "(-5, 17, 3), }", "-" * 9000 + "1, }", "(" * 9000, "(3,", "{[]: 1}}")
    ):
        path = tmp_path / f"{number}.npy"
        path.write_bytes(npy("{'descr': '<f8', 'fortran_order': False, 'shape': " + shape))
        with pytest.raises(ValueError, match=path.name):
            read_result(path)


def test_what_is_no_regular_file(tmp_path):
    for suffix in ("pkl", "npz", "npy"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
        (tmp_path / f"folder.{suffix}").mkdir()
        for name in ("pipe", "folder"):
            with pytest.raises(ValueError, match=f"{name}.{suffix} is not a regular file"):
                read_result(tmp_path / f"{name}.{suffix}")


def test_wrong_results_are_not_written(tmp_path, result):
    with pytest.raises(ValueError, match=r"shape \(17, 3\)"):
        write_result(tmp_path / "r.pkl", result[0])
    with pytest.raises(ValueError, match="name it r.pkl"):
        write_result(tmp_path / "r.npz", result)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write"):
        write_result(tmp_path / "file/r.pkl", result)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
