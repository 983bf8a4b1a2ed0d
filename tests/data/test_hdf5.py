import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from posekit.data.hdf5 import CAMERA_COLUMNS, COLUMNS, PoseFile, PoseFileError, PoseWriter
from posekit.data.tfrecord import DatasetNotFoundError
from posekit.skeletons import H36M17, LSP14


def make_columns(count, joints=17, seed=0, detections=True):
    rng = np.random.default_rng(seed)
    columns = {}
    for name, spec in COLUMNS.items():
        if spec.required or detections:
            shape = (count, *spec.row_shape(joints))
            whole = spec.dtype == "<i4"
            columns[name] = rng.integers(0, 3, shape, np.int32) if whole else rng.normal(size=shape)
    return columns


def make_cameras(count=3):
    rng = np.random.default_rng(1)
    cameras = {name: rng.integers(1, 9, (count, *spec.shape)) for name, spec in CAMERA_COLUMNS.items()}
    return cameras | {"name": [f"5413896{n}" for n in range(count)]}


def write(path, count=10, **options):
    columns = make_columns(count, **options)
    with PoseWriter(path, source="by hand", fingerprint="abc") as writer:
        writer.append(columns)
        writer.set_cameras(make_cameras())
    return columns


def test_round_trip_in_blocks(tmp_path):
    columns, cameras = make_columns(1000), make_cameras()
    path = tmp_path / "poses.h5"
    with PoseWriter(path, source="by hand") as writer:
        for start, stop in ((0, 1), (1, 700), (700, 700), (700, 1000)):
            writer.append({name: values[start:stop] for name, values in columns.items()})
        writer.set_cameras(cameras)
        assert writer.count == 1000
    with PoseFile(path) as file:
        assert len(file) == 1000 and file.columns == tuple(COLUMNS) and file.skeleton is H36M17
        assert (file.source, file.fingerprint) == ("by hand", "")
        for name, values in columns.items():
            np.testing.assert_array_equal(file.read(name), values)
            np.testing.assert_array_equal(file.read(name, 5, 9), values[5:9])
            np.testing.assert_array_equal(file.read(name, -3), values[-3:])
            assert file.read(name).dtype == COLUMNS[name].dtype
        assert file.read("camera", 990, 5000).shape == (10,) and file.read("box_px", 7, 3).shape == (0, 4)
        for name, values in cameras.items():
            np.testing.assert_array_equal(file.cameras[name], values)
    assert os.listdir(tmp_path) == ["poses.h5"]


def test_other_skeletons_and_files_without_detections(tmp_path):
    path = tmp_path / "poses.h5"
    with PoseWriter(path, skeleton=LSP14) as writer:
        writer.append(make_columns(4, joints=14, detections=False))
        writer.set_cameras(make_cameras())
    with PoseFile(path) as file:
        assert file.skeleton is LSP14 and file.read("joints_px").shape == (4, 14, 2)
        with pytest.raises(PoseFileError, match="no column 'detections_px'"):
            file.read("detections_px")


def test_any_number_type_is_stored_as_the_column_is(tmp_path):
    columns = make_columns(5) | {"joints_px": np.ones((5, 17, 2), np.float32), "action": np.arange(5)}
    with PoseWriter(tmp_path / "poses.h5") as writer:
        writer.append(columns)
        writer.set_cameras(make_cameras())
    with PoseFile(tmp_path / "poses.h5") as file:
        assert file.read("joints_px").dtype == np.float64 and file.read("action").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_px": None}, "missing: .'box_px'"),
        ({"colour": np.zeros(10)}, "unknown: .'colour'"),
        ({"box_px": np.zeros((10, 5))}, r"shape \(10, 5\)"),
        ({"box_px": np.zeros((9, 4))}, "different lengths"),
        ({"action": np.zeros(10)}, "of float64; it must be"),
    ],
)
def test_wrong_columns(tmp_path, change, message):
    columns = {name: values for name, values in (make_columns(10) | change).items() if values is not None}
    with pytest.raises(ValueError, match=message), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.append(columns)
    assert not os.listdir(tmp_path)


def test_texts_of_any_kind(tmp_path):
    cameras = make_cameras(2) | {"name": ["Küche", "居間"]}
    with PoseWriter(tmp_path / "poses.h5", source="Küche " * 1000) as writer:
        writer.append(make_columns(1) | {"camera": np.zeros(1, np.int32)})
        writer.set_cameras(cameras)
    with PoseFile(tmp_path / "poses.h5") as file:
        assert file.source.startswith("Küche Küche") and file.cameras["name"] == ["Küche", "居間"]


def test_wrong_use_of_the_writer(tmp_path):
    with pytest.raises(ValueError, match="the first had"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.append(make_columns(2))
        writer.append(make_columns(2, detections=False))
    with pytest.raises(ValueError, match="no poses"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.set_cameras(make_cameras())
    with pytest.raises(ValueError, match="no cameras"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.append(make_columns(2))
    with pytest.raises(ValueError, match="needed are"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.set_cameras({"name": ["a"]})
    with pytest.raises(ValueError, match="at most 64"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.set_cameras(make_cameras(1) | {"name": ["a" * 65]})
    with pytest.raises(ValueError, match="'image_size' of a cam.* inf"), PoseWriter(tmp_path / "poses.h5") as writer:
        writer.set_cameras(make_cameras(1) | {"image_size": [[np.inf, 1]]})
    assert not os.listdir(tmp_path)


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "poses.h5"
    write(path, 3)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), PoseWriter(path) as writer:
        writer.append(make_columns(8))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["poses.h5"]
    write(path, 8)
    with PoseFile(path) as file:
        assert len(file) == 8


def test_errors_of_the_disk_say_what_to_do(tmp_path):
    with pytest.raises(OSError, match="choose another --output_dir"), PoseWriter(tmp_path / "none" / "poses.h5"):
        pass
    # A limit on the size of files stands for a full disk.
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[2:]; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))\n"
        "from test_hdf5 import write; write(sys.argv[1], 20000)"
    )
    arguments = [str(tmp_path / "poses.h5"), os.path.dirname(__file__), os.getcwd()]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 1 and not os.listdir(tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert "cannot write" in last and "File too large" in last and "free some space" in last


# Files from elsewhere


def broken(path, change):
    write(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name, **options):
    def change(file):
        del file[name]
        file.create_dataset(name, **options)

    return change


def link(name, target):
    def change(file):
        del file[name]
        file[name] = target

    return change


HOSTILE = {
    "its format": lambda file: file.attrs.update(format=np.bytes_("other")),
    "'format' is no short text": lambda file: file.attrs.update(format="of any length"),
    "'source' is no short text": lambda file: file.attrs.update(source=np.bytes_(b"a" * 5000)),
    "fingerprint": lambda file: file.attrs.__delitem__("fingerprint"),
    "another version": lambda file: file.attrs.update(version=9),
    "its skeleton": lambda file: file.attrs.update(skeleton=np.bytes_("NONE")),
    "'skeleton' is no": lambda file: file.attrs.update(skeleton=[1, 2]),
    "no column 'box_px'": lambda file: file.__delitem__("box_px"),
    "no column 'frame'": link("frame", h5py.ExternalLink("/etc/other.h5", "/frame")),
    "no column 'video'": link("video", h5py.SoftLink("/action")),
    "no column 'action'": lambda file: (file.__delitem__("action"), file.create_group("action")),
    "no group of cameras": lambda file: file.__delitem__("cameras"),
    "different lengths": replace("subject", data=np.zeros(9, "<i4")),
    r"shape \(10, 17\)": replace("joints_px", data=np.zeros((10, 17))),
    "of float32": replace("joints_px", data=np.zeros((10, 17, 2), "<f4")),
    "of int64": replace("camera", data=np.zeros(10, "<i8")),
    "claims 8160000000000 bytes": replace(
        "joints_image", shape=(2 * 10**10, 17, 3), dtype="<f8", chunks=(100, 17, 3), maxshape=(None, 17, 3)
    ),
    "without compression": replace("joints_image", data=np.zeros((10, 17, 3)), compression="gzip"),
    "lies in another file": replace("box_px", shape=(10, 4), dtype="<f8", external=[("/etc/hostname", 0, 320)]),
    "'image_size' of a camera is 0; it must be in 1 to 100,000": replace(
        "cameras/image_size", data=np.array([[9, 9], [9, 0], [1, 1]], "<f8")
    ),
    "'image_size' of a camera is 1e.18": lambda file: file["cameras/image_size"].__setitem__(0, 1e18),
    "'T' of a camera is nan": lambda file: file["cameras/T"].__setitem__(0, np.nan),
    "'f' of a camera is 1e.200": lambda file: file["cameras/f"].__setitem__(0, 1e200),
    "'f' of a camera is 0": lambda file: file["cameras/f"].__setitem__(0, 0),
    "'subject' of a camera is -1": lambda file: file["cameras/subject"].__setitem__(0, -1),
    "it holds no poses": lambda file: [file[name].resize(0, axis=0) for name in COLUMNS],
    "cameras' columns have different lengths": replace("cameras/name", data=np.zeros(2, "S64")),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files(tmp_path, message):
    path = broken(tmp_path / "poses.h5", HOSTILE[message])
    with pytest.raises(PoseFileError, match=message) as caught:
        PoseFile(path)
    assert str(path) in str(caught.value) and "create_dataset.py --h36m" in str(caught.value)


def test_virtual_columns(tmp_path):
    def change(file):
        layout = h5py.VirtualLayout((10, 4), "<f8")
        layout[:] = h5py.VirtualSource("/etc/other.h5", "box_px", (10, 4))
        del file["box_px"]
        file.create_virtual_dataset("box_px", layout)

    with pytest.raises(PoseFileError, match="lies in another file"):
        PoseFile(broken(tmp_path / "poses.h5", change))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("joints_cam_mm", np.nan, "row 4 of 'joints_cam_mm' has a value that is not finite"),
        ("box_px", np.inf, "not finite"),
        ("joints_image", 1e300, "a value that is not finite or not in -1,000,000 to 1,000,000"),
        ("detections_px", -1e7, "not finite or not in"),
        ("action", -7, "row 4 of 'action' has a value that .* not in 0 to 99"),
        ("subject", 10**6, "not in 0 to 99"),
        ("frame", -1, "not in 0 to 2,147,483,647"),
        ("camera", 3, "row 4 of 'camera' has a camera that is not in the table"),
        ("camera", -1, "not in the table"),
    ],
)
def test_values_that_make_no_sense(tmp_path, name, value, message):
    path = broken(tmp_path / "poses.h5", lambda file: file[name].__setitem__(4, value))
    with PoseFile(path) as file:
        file.read(name, 0, 4)
        for start in (0, 2, 4):
            with pytest.raises(PoseFileError, match=message):
                file.read(name, start)


def test_columns_that_share_their_room(tmp_path):
    path, bomb, rows = tmp_path / "poses.h5", tmp_path / "bomb.h5", 20000
    settings = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    settings.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18)
    settings.set_meta_block_size(1 << 20)
    offsets = []
    with h5py.File(h5py.h5f.create(bytes(path), fapl=settings)) as file:
        for name, spec in CAMERA_COLUMNS.items():
            file.create_dataset(f"cameras/{name}", data=np.ones((1, *spec.shape)).astype(spec.dtype))
        for name, text in (("format", "posekit poses"), ("skeleton", "H36M17"), ("source", "a"), ("fingerprint", "a")):
            file.attrs[name] = np.bytes_(text)
        file.attrs["version"] = 1
        for name, spec in COLUMNS.items():
            plan, shape = h5py.h5p.create(h5py.h5p.DATASET_CREATE), spec.row_shape(17)
            plan.set_chunk((2000, *shape))
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            space, kind = h5py.h5s.create_simple((rows, *shape)), h5py.h5t.py_create(np.dtype(spec.dtype))
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, plan)
            offsets += [dataset.get_chunk_info(index).byte_offset for index in range(dataset.get_num_chunks())]
    with PoseFile(path) as file:
        assert len(file) == rows
    # Every piece of every column now lies where the first one does, and the file ends behind it.
    data, first, piece = path.read_bytes(), min(offsets), 2000 * 17 * 3 * 8
    head = data[:first].replace(len(data).to_bytes(8, "little"), (first + piece).to_bytes(8, "little"))
    for offset in sorted(offsets):
        head = head.replace(offset.to_bytes(8, "little"), first.to_bytes(8, "little"))
    bomb.write_bytes(head + bytes(piece))
    with pytest.raises(PoseFileError, match="claim more bytes than the file has"):
        PoseFile(bomb)


def test_cut_and_missing_files(tmp_path):
    path = tmp_path / "poses.h5"
    with pytest.raises(DatasetNotFoundError, match="create_dataset.py --h36m"):
        PoseFile(path)
    write(path)
    whole = path.read_bytes()
    for length in (0, 3, 100, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(PoseFileError, match="cannot be read as a pose file"):
            PoseFile(path)
    path.write_bytes(b"no HDF5 at all" * 100)
    with pytest.raises(PoseFileError, match="cannot be read as a pose file"):
        PoseFile(path)
    with pytest.raises(DatasetNotFoundError):
        PoseFile(tmp_path)


def test_flipped_bytes_never_crash(tmp_path):
    path = tmp_path / "poses.h5"
    write(path, 2)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    # Most of the file is empty room in chunks; what describes the data is not.
    places = np.flatnonzero(np.frombuffer(bytes(whole), np.uint8))
    for place in rng.choice(places, 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            with PoseFile(path) as file:
                for name in file.columns:
                    assert len(file.read(name)) == 2
        except PoseFileError:
            pass
