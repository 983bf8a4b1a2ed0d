import pickle
import struct
import zipfile

import numpy as np
import pytest

from posekit.data.pickles import UnsafePickleError
from posekit.data.torch_files import load_torch

VALUES = np.arange(24, dtype=np.float32) / 7


# Pickles in PyTorch's layout, opcode by opcode.


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def together(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, title):
    return f"c{module}\n{title}\n".encode()


def ordered_dict(**items):
    pairs = b"".join(text(key) + value for key, value in items.items())
    return name("collections", "OrderedDict") + b")R(" + pairs + b"u"


def whole(content):
    return b"\x80\x02" + content + b"."


def tensor(size, stride, offset=0, kind="Float", key="0", count=24, old=False):
    extra = [b"N"] if old else []
    identity = together(text("storage"), name("torch", f"{kind}Storage"), text(key), text("cpu"), number(count), *extra)
    sizes, strides = (together(*map(number, values)) for values in (size, stride))
    arguments = together(identity + b"Q", number(offset), sizes, strides, b"\x89", ordered_dict())
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def parameter(content):
    return name("torch._utils", "_rebuild_parameter") + together(content, b"\x88", ordered_dict()) + b"R"


def write_zip(path, content, storages, byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("checkpoint/data.pkl", whole(content))
        archive.writestr("checkpoint/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"checkpoint/data/{key}", data)
        archive.writestr("checkpoint/version", b"3\n")


def write_old(path, content, storages, magic=0x1950A86A20F9469CFC6C, little=True):
    facts = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (magic, 1001, facts))
    tail = b"".join(struct.pack("<q", count) + data for count, data in storages.values())
    path.write_bytes(head + whole(content) + pickle.dumps(list(storages), 2) + tail)


def write(path, form, content, data=None):
    data = VALUES.tobytes() if data is None else data
    write_zip(path, content, {"0": data}) if form == "zip" else write_old(path, content, {"0": (24, data)})


@pytest.fixture(params=["zip", "old"])
def form(request):
    return request.param


def test_a_checkpoint(tmp_path, form):
    path, old = tmp_path / "model.pth", form == "old"
    state = ordered_dict(
        **{
            "front.weight": parameter(tensor((2, 3, 4), (12, 4, 1), old=old)),
            "transposed": tensor((4, 3), (1, 4), offset=12, old=old),
            "scalar": tensor((), (), offset=5, old=old),
            "empty": tensor((0, 3), (3, 1), old=old),
        }
    )
    # PyTorch hangs the versions of modules onto the dict as an attribute.
    state += b"}" + text("_metadata") + ordered_dict() + b"sb"
    write(path, form, b"}(" + text("model_state_dict") + state + text("epoch") + number(15) + b"u")
    content = load_torch(path)
    assert content["epoch"] == 15
    weights = content["model_state_dict"]
    assert list(weights) == ["front.weight", "transposed", "scalar", "empty"]
    np.testing.assert_array_equal(weights["front.weight"], VALUES.reshape(2, 3, 4))
    np.testing.assert_array_equal(weights["transposed"], VALUES[12:].reshape(3, 4).T)
    assert weights["scalar"].shape == () and weights["scalar"] == VALUES[5]
    assert weights["empty"].shape == (0, 3) and weights["front.weight"].dtype == np.float32


@pytest.mark.parametrize(
    "kind, dtype", [("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Int", "i4"), ("Byte", "u1"), ("Bool", "?")]
)
def test_types(tmp_path, form, kind, dtype):
    path, values = tmp_path / "model.pth", np.arange(24).astype(dtype)
    write(path, form, tensor((24,), (1,), kind=kind), values.tobytes())
    result = load_torch(path)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, values)


def test_bfloat16_comes_as_float32(tmp_path, form):
    path, values = tmp_path / "model.pth", np.arange(24, dtype=np.float32)
    write(path, form, tensor((24,), (1,), kind="BFloat16"), (values.view(np.uint32) >> 16).astype("<u2").tobytes())
    np.testing.assert_array_equal(load_torch(path), values)


@pytest.mark.parametrize(
    "content, message",
    [
        (name("posix", "system") + together(text("true")) + b"R", "posix.system"),
        (name("torch.nn.modules.conv", "Conv3d") + b")\x81", "Conv3d"),
        (tensor((25,), (1,)), "reaches beyond"),
        (tensor((2,), (1,), offset=23), "reaches beyond"),
        (tensor((5000, 5000), (0, 0)), "repeats"),
        (tensor((-1,), (1,)), "whole numbers"),
        (tensor((2,), (-1,), offset=1), "whole numbers"),
        (tensor((2, 2), (1,)), "whole numbers"),
        (tensor((2,), (1,), count=2**50), "larger than the file"),
        (tensor((2,), (1,), count=-1), "larger than the file"),
        (text("storage") + b"Q", "no storage"),
        (together(text("module"), text("a"), text("b"), text("c"), text("d")) + b"Q", "no storage"),
        (together(text("storage"), text("a"), text("0"), text("cpu"), number(24)) + b"Q", "unknown type"),
        (name("torch._utils", "_rebuild_parameter") + together(b"N") + b"R", "no tensor"),
        (ordered_dict() + b"}" + text("__class__") + text("x") + b"sb", "takes none"),
    ],
)
def test_hostile_content_is_refused(tmp_path, form, content, message):
    path = tmp_path / "model.pth"
    write(path, form, content)
    with pytest.raises(UnsafePickleError, match=message):
        load_torch(path)


def test_many_views_of_one_storage_are_refused(tmp_path, form):
    path, count = tmp_path / "model.pth", 200_000
    content = b"](" + 100 * tensor((count,), (1,), count=count) + b"e"
    data = bytes(4 * count)
    if form == "zip":
        write_zip(path, content, {"0": data})
    else:
        write_old(path, content, {"0": (count, data)})
    with pytest.raises(UnsafePickleError, match="far larger than the file"):
        load_torch(path)


def test_damaged_files_are_refused(tmp_path, form):
    path = tmp_path / "model.pth"
    write(path, form, tensor((24,), (1,)))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(pickle.UnpicklingError):
            load_torch(path)
    rng = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_torch(path)
        except pickle.UnpicklingError:
            pass


def test_other_damage(tmp_path):
    path, data = tmp_path / "model.pth", VALUES.tobytes()
    write_zip(path, tensor((24,), (1,)), {})
    with pytest.raises(pickle.UnpicklingError, match="storage '0' is missing"):
        load_torch(path)
    write_zip(path, tensor((24,), (1,)), {"0": data[:-4]})
    with pytest.raises(pickle.UnpicklingError, match="has 92 bytes"):
        load_torch(path)
    write_zip(path, tensor((24,), (1,)), {"0": data}, byteorder=b"big")
    with pytest.raises(pickle.UnpicklingError, match="big-endian"):
        load_torch(path)
    write_zip(path, tensor((24,), (1,)), {"0": data}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafePickleError, match="compressed"):
        load_torch(path)
    write_old(path, tensor((24,), (1,)), {"0": (24, data)}, magic=7)
    with pytest.raises(pickle.UnpicklingError, match="PyTorch's number"):
        load_torch(path)
    write_old(path, tensor((24,), (1,)), {"0": (24, data)}, little=False)
    with pytest.raises(pickle.UnpicklingError, match="big-endian"):
        load_torch(path)
    write_old(path, tensor((24,), (1,)), {"0": (23, data[:-4])})
    with pytest.raises(pickle.UnpicklingError, match="cut short or damaged"):
        load_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", b"")
    with pytest.raises(pickle.UnpicklingError, match="no PyTorch checkpoint"):
        load_torch(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_torch(tmp_path / "none.pth")
    (tmp_path / "large.pth").write_bytes(bytes(100))
    with pytest.raises(UnsafePickleError, match="limit of 99"):
        load_torch(tmp_path / "large.pth", max_bytes=99)
