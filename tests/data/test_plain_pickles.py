import pickle
import pickletools

import numpy as np
import pytest

from posekit.data.pickles import load_pickle, loads_pickle
from posekit.data.plain_pickles import dumps_plain, growing_list, write_plain


def test_names_and_opcodes_are_those_of_numpy_1_and_protocol_2():
    value = {"result": np.arange(6.0).reshape(2, 3), "scalar": np.float64(2.5), "text": "é", "pair": (1, None)}
    data = dumps_plain(value)
    opcodes = list(pickletools.genops(data))
    modules = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert modules == {
        "numpy.core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
        "numpy ndarray",
        "numpy dtype",
        "_codecs encode",
    }
    assert max(opcode.proto for opcode, _, _ in opcodes) == 2
    read = loads_pickle(data)
    np.testing.assert_array_equal(read.pop("result"), value.pop("result"))
    assert read == value


def test_large_arrays_go_to_the_file_the_same_way(tmp_path):
    rng = np.random.default_rng(0)
    value = {
        "first": rng.normal(size=(3000, 17, 3)),
        "small": np.arange(3),
        "second": np.asfortranarray(rng.random((99, 999))),
    }
    write_plain(tmp_path / "arrays.pkl", value)
    data = (tmp_path / "arrays.pkl").read_bytes()
    assert data == dumps_plain(value) and b"numpy._core" not in data
    for key, array in load_pickle(tmp_path / "arrays.pkl").items():
        np.testing.assert_array_equal(array, value[key])


@pytest.mark.parametrize("parts", [[], [0], [1], [3, 0, 1, 2500, 1]])
def test_a_list_grows_part_by_part(tmp_path, parts):
    numbers = iter(range(10_000))
    whole = [[{"number": next(numbers), "array": np.full(3, float(part))} for _ in range(part)] for part in parts]
    with growing_list(tmp_path / "list.pkl") as extend:
        for part in whole:
            extend(part)
    expected = [item for part in whole for item in part]
    with open(tmp_path / "list.pkl", "rb") as file:
        plain = pickle.load(file)  # what the original programs do
    for read in (load_pickle(tmp_path / "list.pkl"), plain):
        assert [item["number"] for item in read] == [item["number"] for item in expected]
        assert all((one["array"] == other["array"]).all() for one, other in zip(read, expected))


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(KeyError), growing_list(tmp_path / "list.pkl") as extend:
        extend([1, 2])
        raise KeyError("stop")
    with pytest.raises(TypeError, match="pickle"):
        write_plain(tmp_path / "value.pkl", (value for value in ()))
    assert not list(tmp_path.iterdir())
