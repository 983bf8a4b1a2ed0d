"""Motion capture: every published layout gives the same poses, bad frames are counted, bad files are named."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from posekit.data.mocap import MocapFileError, read_mocap
from posekit.data.schema import MocapRecord, parse_mocap_record
from posekit.files import read_npz
from posekit.testing import load_fixture

FRAMES = 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", ["poses", "new_poses"])
def test_smpl_pickles(key, protocol, rng, tmp_path):
    poses, betas = rng.normal(size=(FRAMES, 72)), rng.normal(size=10)
    path = write_pickle(tmp_path / "a.pkl", {key: poses, "betas": betas, "trans": np.zeros((FRAMES, 3))}, protocol)
    sequence = read_mocap(path)
    assert len(sequence) == FRAMES and sequence.num_skipped == 0
    for (pose, shape), wanted in zip(sequence, poses):
        assert pose.dtype == shape.dtype == np.float32
        np.testing.assert_array_equal(pose, wanted.astype(np.float32))
        np.testing.assert_array_equal(shape, betas.astype(np.float32))


@pytest.mark.parametrize("form", [(10,), (1, 10), (10, 1), (16,), (FRAMES, 10), (FRAMES, 16)])
def test_forms_of_betas(form, rng, tmp_path):
    betas = rng.normal(size=form).astype(np.float32)
    path = write_pickle(tmp_path / "a.pkl", {"poses": rng.normal(size=(FRAMES, 72)), "betas": betas})
    shapes = np.stack([shape for _, shape in read_mocap(path, stride=2)])
    wanted = betas[::2, :10] if form[0] == FRAMES else np.tile(betas.ravel()[:10], (4, 1))
    np.testing.assert_array_equal(shapes, wanted)


@pytest.mark.parametrize("width", [156, 165])
def test_amass(width, rng, tmp_path):
    poses, betas = rng.normal(size=(FRAMES, width)), rng.normal(size=16)
    path = write_npz(tmp_path / "a_poses.npz", poses=poses, betas=betas, gender="male", mocap_framerate=120.0)
    sequence = read_mocap(str(path))
    np.testing.assert_array_equal(sequence.poses[:, :66], poses[:, :66].astype(np.float32))
    assert not sequence.poses[:, 66:].any() and sequence.poses.shape == (FRAMES, 72)
    np.testing.assert_array_equal(sequence.shapes[3], betas[:10].astype(np.float32))


def test_amass_in_parts(rng, tmp_path):
    root, body = rng.normal(size=(FRAMES, 3)), rng.normal(size=(FRAMES, 63))
    path = write_npz(tmp_path / "a.npz", root_orient=root, pose_body=body, betas=np.zeros(16))
    np.testing.assert_array_equal(read_mocap(path).poses[:, :66], np.concatenate([root, body], 1).astype(np.float32))


@pytest.mark.parametrize(("stride", "wanted"), [(1, range(FRAMES)), (3, (0, 3, 6)), (100, (0,))])
def test_stride(stride, wanted, tmp_path):
    poses = np.arange(FRAMES)[:, None] * np.ones(72)
    path = write_npz(tmp_path / "a.npz", poses=poses, betas=np.zeros(10))
    assert [int(pose[0]) for pose, _ in read_mocap(path, stride)] == list(wanted)
    with pytest.raises(ValueError, match="stride is 0"):
        read_mocap(path, 0)


def test_frames_with_nan_are_counted(rng, tmp_path):
    poses, betas = rng.normal(size=(FRAMES, 72)), rng.normal(size=(FRAMES, 10))
    poses[1, 5], poses[2, 0], betas[2, 3], betas[4, 9], poses[6, 6] = np.nan, np.inf, np.nan, np.nan, 1e300
    sequence = read_mocap(write_pickle(tmp_path / "a.pkl", {"poses": poses, "betas": betas}))
    assert sequence.num_skipped == 4
    np.testing.assert_array_equal(sequence.poses, poses[[0, 3, 5]].astype(np.float32))
    betas[0, 0] = np.nan
    everything = {"poses": poses, "betas": betas[0]}
    assert read_mocap(write_pickle(tmp_path / "a.pkl", everything)).num_skipped == FRAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"betas": np.zeros(10)}, "no poses"),
        ({"poses": np.zeros((FRAMES, 72))}, "no 'betas'"),
        ({"poses": np.zeros((FRAMES, 72)), "betas": np.zeros(4)}, "betas have the shape"),
        ({"poses": np.zeros((FRAMES, 72)), "betas": np.zeros((3, 10))}, "betas have the shape"),
        ({"poses": np.zeros((FRAMES, 70)), "betas": np.zeros(10)}, "poses have the shape"),
        ({"poses": np.zeros(72), "betas": np.zeros(10)}, "poses have the shape"),
        ({"poses": np.array(["a"] * 72), "betas": np.zeros(10)}, "no array of numbers"),
        ({"root_orient": np.zeros((2, 3)), "pose_body": np.zeros((3, 63)), "betas": np.zeros(10)}, "root_orient"),
    ],
)
def test_content_that_does_not_fit(content, message, tmp_path):
    for path in (write_npz(tmp_path / "a.npz", **content), write_pickle(tmp_path / "a.pkl", content)):
        with pytest.raises(MocapFileError, match=message) as error:
            read_mocap(path)
        assert path.name in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_mocap(tmp_path / "missing.npz")
    with pytest.raises(FileNotFoundError):
        read_mocap(tmp_path / "missing.pkl")
    with pytest.raises(MocapFileError, match=r"\.pkl and \.npz"):
        read_mocap(tmp_path / "a.bvh")
    with pytest.raises(MocapFileError, match="holds a list"):
        read_mocap(write_pickle(tmp_path / "list.pkl", [1]))
    with pytest.raises(MocapFileError, match="no array of numbers"):
        read_mocap(write_pickle(tmp_path / "lists.pkl", {"poses": [[0.0] * 72], "betas": np.zeros(10)}))
    with pytest.raises(MocapFileError, match=r"evil\.pkl.*posix\.system|evil\.pkl.*nt\.system"):
        (tmp_path / "evil.pkl").write_bytes(b"c" + b"posix\nsystem\n(S'touch marker'\ntR.")
        read_mocap(tmp_path / "evil.pkl")
    whole = write_npz(tmp_path / "a.npz", poses=np.ones((FRAMES, 72)), betas=np.zeros(10)).read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(MocapFileError, match=r"cut\.npz"):
            read_mocap(tmp_path / "cut.npz")
    damaged = bytearray(whole)
    damaged[300] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(MocapFileError, match=r"damaged\.npz"):
        read_mocap(tmp_path / "damaged.npz")


def test_npz_claims_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "huge.npz"
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 72), }".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("poses.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(1000))
    with pytest.raises(ValueError, match="more than the file holds"):
        read_npz(path, ["poses"])
    write_npz(path, poses=np.zeros((1000, 72)), objects=np.array([{}]))
    assert read_npz(path, ["poses", "missing"])["poses"].shape == (1000, 72)
    with pytest.raises(ValueError, match="limit of 1000"):
        read_npz(path, ["poses"], max_bytes=1000)
    with pytest.raises(ValueError, match="Python objects"):
        read_npz(path, ["objects"])


def test_npz_headers_are_measured_before_they_are_read(tmp_path):
    """NumPy reads a header of up to 4 GiB before it refuses it."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("poses.npy", b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + bytes(1000))
    with pytest.raises(ValueError, match="header claims 2147483648 bytes"):
        read_npz(path, ["poses"])


def test_npz_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="not a regular file"):
        read_npz(tmp_path / "pipe.npz", ["poses"])


@pytest.mark.parametrize("betas", [np.float64(1), np.zeros((FRAMES, 1, 10)), np.zeros((0, 10)), np.zeros((3, 10))])
def test_betas_of_other_shapes_are_named(tmp_path, betas):
    path = write_npz(tmp_path / "a.npz", poses=np.zeros((FRAMES, 72)), betas=betas)
    with pytest.raises(MocapFileError, match="betas have the shape"):
        read_mocap(path)


def test_records_of_the_original():
    fixture = load_fixture("hmr_tfrecord")
    serialized = fixture["mocap_example"].tobytes()
    parsed = parse_mocap_record(serialized)
    np.testing.assert_array_equal(parsed["pose"], fixture["mocap_pose"])
    np.testing.assert_array_equal(parsed["shape"], fixture["mocap_shape"])
    record = MocapRecord.from_example(serialized)
    np.testing.assert_array_equal(record.pose.astype(np.float32), fixture["mocap_pose"])
    np.testing.assert_array_equal(record.shape.astype(np.float32), fixture["mocap_shape"])


def test_sequences_become_records(rng, tmp_path):
    path = write_npz(tmp_path / "a.npz", poses=rng.normal(size=(FRAMES, 156)), betas=rng.normal(size=16))
    sequence = read_mocap(path)
    parsed = parse_mocap_record([MocapRecord(pose, shape).to_example() for pose, shape in sequence])
    np.testing.assert_array_equal(parsed["pose"], sequence.poses)
    np.testing.assert_array_equal(parsed["shape"], sequence.shapes)
