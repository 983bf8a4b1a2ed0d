import pathlib
import struct

import cv2
import h5py
import numpy as np
import pytest

from posekit.data.people_hdf5 import (
    PeopleHdf5Error,
    PeopleHdf5Writer,
    decode_sample,
    encode_sample,
    label_rows,
    open_people_hdf5,
)
from posekit.data.people_records import PeopleRecord
from posekit.data.tfrecord import DatasetNotFoundError
from posekit.skeletons import OPENPOSE18


def record(number=0, people=3, size=(60, 90), **options):
    rng = np.random.default_rng(number)
    height, width = size
    pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
    states = rng.integers(0, 3, (people, 17, 1))
    joints = np.concatenate([rng.integers(0, width, (people, 17, 2)) + 0.5, states], -1)
    boxes = np.concatenate([rng.integers(0, 20, (people, 2)), rng.integers(10, 40, (people, 2))], -1)
    mask = rng.random((height, width)) < 0.7
    fields = {
        "image": cv2.imencode(".png", pixels)[1].tobytes(),
        "height": height,
        "width": width,
        "joints": joints,
        "boxes": boxes,
        "trained": np.ones(people),
        "mask": mask,
        "mask_all": ~mask,
        "filename": f"{number}.png",
        "image_id": number,
    }
    return PeopleRecord(**(fields | options))


def parsed(sample):
    """The labels of a sample, read with `struct` from the documented bytes."""
    _, _, width = sample.shape
    data = sample[3].tobytes()

    def at(row, layout, start=0):
        return struct.unpack_from("<" + layout, data, row * width + start)

    name = data[: data.index(0)].decode()
    validation, others, index = at(2, "3B")
    annotation, count, total = at(2, "3f", 3)
    people = [dict(zip(("x", "y", "states"), (at(row, "17f") for row in (5, 6, 7))))]
    people[0] |= {"pos": at(3, "2f"), "scale": at(4, "f")[0]}
    for other in range(others):
        first = 9 + others + 3 * other
        people.append(
            {
                "x": at(first, "17f"),
                "y": at(first + 1, "17f"),
                "states": at(first + 2, "17f"),
                "pos": at(8 + other, "2f"),
                "scale": at(8 + others, f"{others}f")[other],
            }
        )
    return {
        "name": name,
        "size": at(1, "2f"),
        "flags": (validation, others, index),
        "counts": (annotation, count, total),
        "people": people,
    }


def check(sample, entry):
    found = parsed(sample)
    assert found["name"] == "COCO" and found["size"] == (entry.height, entry.width)
    trained = int(entry.trained.sum())
    assert len(found["people"]) == trained
    for person, joints, box in zip(found["people"], entry.joints, entry.boxes):
        np.testing.assert_array_equal(np.stack([person["x"], person["y"]], -1), joints[:, :2])
        states = {2.0: 1.0, 1.0: 0.0, 0.0: 2.0}
        assert list(person["states"]) == [states[state] for state in joints[:, 2]]
        assert person["pos"] == (box[0] + box[2] / 2, box[1] + box[3] / 2)
        assert person["scale"] == np.float32(box[3] / 368)
    inside = np.s_[: entry.height, : entry.width]
    np.testing.assert_array_equal(sample[:3].transpose(1, 2, 0)[inside][..., ::-1], entry.pixels())
    np.testing.assert_array_equal(sample[4][inside], 255 * entry.mask.astype(np.uint8))
    np.testing.assert_array_equal(sample[5][inside], 255 * entry.mask_all.astype(np.uint8))
    return found


@pytest.mark.parametrize("people", [1, 2, 5])
def test_layout_read_by_an_independent_parser(tmp_path, people):
    path = tmp_path / "val_dataset.h5"
    entries = [record(number, people) for number in range(3)]
    with PeopleHdf5Writer(path, validation=True) as writer:
        for entry in entries:
            writer.append(entry, annotation=10 + entry.image_id)
    with h5py.File(path, "r") as file:
        assert list(file) == ["datum"] and list(file["datum"]) == ["0000000", "0000001", "0000002"]
        for number, (entry, dataset) in enumerate(zip(entries, file["datum"].values())):
            assert dataset.dtype == np.uint8 and dataset.chunks is None and dataset.shape == (6, 60, 90)
            found = check(dataset[()], entry)
            assert found["flags"] == (1, people - 1, 0) and found["counts"] == (10 + number, number, 3)
    listed = open_people_hdf5(path)
    assert len(listed) == 3
    # The bytes lie where the list says, for whoever reads without HDF5.
    with open(path, "rb") as file:
        file.seek(int(listed.offsets[1]))
        sample = np.frombuffer(file.read(int(np.prod(listed.shapes[1]))), np.uint8).reshape(listed.shapes[1])
    check(sample, entries[1])
    for number, entry in enumerate(entries):
        again = listed.record(number)
        for name in ("joints", "mask", "mask_all", "trained"):
            np.testing.assert_array_equal(getattr(again, name), getattr(entry, name))
        np.testing.assert_allclose(again.centers, entry.centers, atol=1e-5)
        np.testing.assert_allclose(again.boxes[:, 3], entry.boxes[:, 3], atol=1e-5)
        np.testing.assert_array_equal(again.pixels(), entry.pixels())


@pytest.mark.parametrize("size, people", [((60, 40), 1), ((7, 30), 2), ((60, 64), 1), ((20, 67), 25)])
def test_small_pictures_are_padded(size, people):
    entry = record(1, people, size)
    sample = encode_sample(entry)
    assert sample.shape[2] >= max(68, 4 * (people - 1)) and sample.shape[1] >= label_rows(people - 1)
    check(sample, entry)
    height, width = size
    assert (sample[:3, height:] == 128).all() and (sample[:3, :, width:] == 128).all()
    assert (sample[4, height:] == 255).all() and (sample[5, :, width:] == 0).all()
    again = decode_sample(sample)
    assert (again.height, again.width) == size
    np.testing.assert_array_equal(again.joints, entry.joints)


def test_files_of_the_original_that_differ(tmp_path):
    entry = record(2, 2, (40, 90))
    sample = encode_sample(entry)
    # Without the mask of people, as its README says; numbers of joints that are no states are not labelled.
    strange = sample[:5].copy()
    strange[3, 7, :8] = np.frombuffer(struct.pack("<2f", np.nan, 3.0), np.uint8)
    again = decode_sample(strange)
    assert again.mask_all is None and not again.joints[0, :2].any()
    # 64 to 67 columns: a row of joints runs over into the next one.
    narrow = np.zeros((6, 40, 66), np.uint8)
    wide = np.zeros((6, 40, 68), np.uint8)
    solo = encode_sample(record(2, 1, (40, 60)))
    wide[:] = solo
    labels = bytearray(40 * 66)
    for row in range(8):
        labels[row * 66 : row * 66 + 66] = wide[3, row].tobytes()[:66]
    labels[7 * 66 : 7 * 66 + 68] = wide[3, 7].tobytes()
    narrow[3] = np.frombuffer(bytes(labels), np.uint8).reshape(40, 66)
    found = decode_sample(narrow)
    np.testing.assert_array_equal(found.joints[0, :16, 2], record(2, 1, (40, 60)).joints[0, :16, 2])


def test_records_that_do_not_fit():
    with pytest.raises(ValueError, match="0 people"):
        encode_sample(record(0, 2, trained=[0, 0]))
    with pytest.raises(ValueError, match="257 people"):
        encode_sample(record(0, 257))
    with pytest.raises(ValueError, match="COCO's"):
        encode_sample(record(0, 1, joints=np.ones((1, 18, 3)), names=OPENPOSE18.joints))


def test_what_is_written_can_be_read():
    for box in ([99_990, -499_990, 9, 999_999], [-99_999, 5, 1, 0.01]):
        entry = record(0, 1, boxes=[box])
        np.testing.assert_array_equal(decode_sample(encode_sample(entry)).joints, entry.joints)
    with pytest.raises(ValueError, match="the place or the size"):
        encode_sample(record(0, 1, boxes=[[5, 5, 9, 1e-44]]))


def test_nothing_half_written_is_left(tmp_path):
    path = tmp_path / "train_dataset.h5"
    with pytest.raises(KeyboardInterrupt), PeopleHdf5Writer(path) as writer:
        writer.append(record())
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="output_dir"), PeopleHdf5Writer(tmp_path / "none" / "a.h5"):
        pass
    full = pathlib.Path("/dev/full")
    assert not list(tmp_path.iterdir())
    if full.exists():
        writer = PeopleHdf5Writer(path)
        with pytest.raises(OSError, match="free some space|output_dir"), writer:
            writer._disk._file.close()
            writer._disk._file = open(full, "r+b", buffering=0)
            writer.append(record())
        assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- hostile


def h5(path, make):
    with h5py.File(path, "w") as file:
        make(file)
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda file: file.create_group("other"), "no group 'datum'"),
        (lambda file: file.create_group("datum"), "0 samples"),
        (lambda file: file.create_dataset("datum", data=[1]), "no group"),
        (lambda file: file.create_dataset("datum/a", data=np.zeros((6, 9, 70), np.float32)), "float32"),
        (lambda file: file.create_dataset("datum/a", data=np.zeros((9, 70), np.uint8)), "three dimensions"),
        (lambda file: file.create_dataset("datum/a", data=np.zeros((7, 9, 70), np.uint8)), "shape"),
        (lambda file: file.create_dataset("datum/a", data=np.zeros((6, 9, 60), np.uint8)), "64 columns"),
        (lambda file: file.create_dataset("datum/a", (6, 1 << 20, 1 << 20), np.uint8), "shape"),
        (lambda file: file.create_dataset("datum/a", (6, 1 << 12, 1 << 12), np.uint8), "one piece"),
        (lambda file: file.create_dataset("datum/a", (6, 99, 99), np.uint8, compression="gzip"), "one piece"),
        (lambda file: file.create_dataset("datum/a", (6, 99, 99), np.uint8, chunks=(1, 9, 9)), "one piece"),
        (
            lambda file: file.create_dataset("datum/a", (6, 9, 70), np.uint8, external=[("other.bin", 0, 6 * 630)]),
            "one piece",
        ),
        (lambda file: file.create_group("datum").update({"a": h5py.SoftLink("/b")}), "no dataset"),
        (lambda file: file.update({"datum": h5py.ExternalLink("other.h5", "/")}), "no group"),
    ],
)
def test_hostile_files(tmp_path, make, message):
    with pytest.raises(PeopleHdf5Error, match=message):
        open_people_hdf5(h5(tmp_path / "a.h5", make))


def test_damaged_files(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="--format=hdf5"):
        open_people_hdf5(tmp_path / "none.h5")
    path = tmp_path / "a.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(PeopleHdf5Error, match="cannot be read"):
        open_people_hdf5(path)
    with PeopleHdf5Writer(path) as writer:
        for number in range(3):
            writer.append(record(number))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(PeopleHdf5Error):
        open_people_hdf5(path)


@pytest.mark.parametrize(
    "row, start, data, message",
    [
        (0, 0, b"MPI\0", "MPI"),
        (1, 0, struct.pack("<2f", 61, 90), "says"),
        (1, 0, struct.pack("<2f", np.nan, 90), "says"),
        (1, 0, struct.pack("<2f", 0, 1e30), "says"),
        (2, 1, bytes([14]), "no room for 14"),
        (3, 0, struct.pack("<f", np.inf), "place or the size"),
        (4, 0, struct.pack("<f", 0), "place or the size"),
        (10, 0, struct.pack("<f", -1), "place or the size"),
    ],
)
def test_damaged_samples(tmp_path, row, start, data, message):
    path = tmp_path / "a.h5"
    with PeopleHdf5Writer(path) as writer:
        writer.append(record())
    with h5py.File(path, "r+") as file:
        file["datum/0000000"][3, row, start : start + len(data)] = np.frombuffer(data, np.uint8)
    with pytest.raises(PeopleHdf5Error, match=f"a.h5: sample 0000000.*{message}"):
        open_people_hdf5(path).record(0)
