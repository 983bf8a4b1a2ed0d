import contextlib
import json

import cv2
import h5py
import numpy as np
import pytest
import tensorflow as tf

from posekit.data.people_augment import PeopleAugmentation
from posekit.data.people_hdf5 import PeopleHdf5Writer
from posekit.data.people_pipeline import (
    count_people_pictures,
    explain_bad_people,
    find_people_file,
    people_batches,
    people_steps,
    read_people,
)
from posekit.data.people_records import PeopleRecord, convert_joints
from posekit.data.streams import BadRecordError
from posekit.data.tfrecord import DatasetNotFoundError, RecordWriter, TFRecordError
from posekit.skeletons import COCO17, OPENPOSE18, Skeleton

SMALL = PeopleAugmentation(crop_size=64, shift_max=6.0)
COUNT = 7


def record(number, people=None, trained=None, **options):
    rng = np.random.default_rng(number)
    people = 1 + number % 3 if people is None else people
    height, width = 90 + number, 120 - number
    pixels = cv2.resize(rng.integers(0, 255, (12, 15, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.ones((height, width), bool)
    mask[5:40, 70:100] = number % 2 == 0
    joints = np.concatenate([rng.uniform(-4, 110, (people, 17, 2)), rng.integers(0, 3, (people, 17, 1))], -1)
    joints = np.concatenate([joints.astype(np.float32), joints[..., 2:]], -1)[..., [0, 1, 3]]
    boxes = np.float32(np.concatenate([rng.uniform(0, 40, (people, 2)), rng.uniform(30, 60, (people, 2))], -1))
    # A layout that keeps middles and heights in float32 must not change them.
    boxes = np.rint(boxes / 2) * 2
    boxes[:, 3] = 46
    fields = {
        "image": cv2.imencode(".png", pixels)[1].tobytes(),
        "height": height,
        "width": width,
        "joints": joints,
        "boxes": boxes,
        "trained": np.ones(people) if trained is None else trained,
        "mask": mask,
        "mask_all": ~mask,
        "filename": f"{number}.png",
        "image_id": number,
    }
    return PeopleRecord(**(fields | options))


def write(folder, records, split="train", shard=4):
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(records), shard):
        path = folder / f"coco_people_{split}" / f"{split}_{start // shard:04d}.tfrecord"
        path.parent.mkdir(exist_ok=True)
        with RecordWriter(path) as writer:
            for entry in records[start : start + shard]:
                writer.write(entry if isinstance(entry, bytes) else entry.to_example())


def write_h5(path, records):
    with PeopleHdf5Writer(path) as writer:
        for entry in records:
            writer.append(entry)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("people")
    write(path, [record(number) for number in range(COUNT)])
    return path


@pytest.fixture(scope="module")
def h5_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("h5") / "train_dataset.h5"
    write_h5(path, [record(number) for number in range(COUNT)])
    return path


def batches(folder, size=2, split="train", **options):
    return list(people_batches(folder, split, size, augmentation=SMALL, **options).as_numpy_iterator())


def same(first, second):
    tf.nest.map_structure(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def epochs(folder):
    return batches(folder, num_epochs=2, seed=3)


# ------------------------------------------------------------------------------------------------------ training


def test_batches_have_their_shapes(folder, epochs):
    assert len(epochs) == 2 * people_steps(folder, "train", 2) == 6
    for batch in epochs:
        assert batch["image"].shape == (2, 64, 64, 3) and batch["image"].dtype == np.uint8
        assert batch["mask"].shape == (2, 8, 8, 1) and set(np.unique(batch["mask"])) <= {0, 1}
        people = batch["joints_px"].shape[1]
        assert batch["joints_px"].shape == (2, people, 18, 2) and batch["joints_px"].dtype == np.float32
        assert batch["present"].shape == (2, people, 18) and batch["present"].dtype == bool
        assert not batch["joints_px"][~batch["present"]].any()
    assert {batch["joints_px"].shape[1] for batch in epochs} <= {1, 2, 3}
    assert min(batch["mask"].min() for batch in epochs) == 0


def test_resumed_training_sees_the_same(folder, epochs):
    same(batches(folder, num_epochs=2, seed=3, start_epoch=1, start_step=1), epochs[4:])
    first, second = (np.concatenate([batch["image"] for batch in part]) for part in (epochs[:3], epochs[3:]))
    assert (first != second).any()


def test_both_formats_hold_the_same(folder, h5_file):
    same(*(batches(path, 3, ordered=True) for path in (folder, h5_file)))
    assert count_people_pictures(h5_file, "train") == COUNT
    epochs = batches(h5_file.parent, num_epochs=2)
    assert len(epochs) == 6 and (epochs[0]["image"] != epochs[3]["image"]).any()


def test_ordered_pictures_are_upright_in_the_middle(folder):
    made = batches(folder, 4, ordered=True, augment=False)
    assert [len(batch["image"]) for batch in made] == [4, 3]
    for number in range(COUNT):
        entry = record(number)
        joints, present = convert_joints(entry.joints, COCO17.joints, OPENPOSE18, (entry.height, entry.width))
        scale = 0.6 * 64 / entry.boxes[0, 3]
        found = made[number // 4]["joints_px"][number % 4, : len(joints)]
        there = made[number // 4]["present"][number % 4, : len(joints)]
        assert not (there & ~present).any() and there.sum() > 2
        wanted = (joints - entry.centers[0]) * scale + 32
        # The original rounds the scaled size and the corner of the crop.
        assert np.abs(found - wanted)[there].max() < 2.5


def test_masked_pictures(folder):
    plain, masked = (batches(folder, 7, ordered=True, mask_image=mask)[0] for mask in (False, True))
    same(plain["mask"], masked["mask"])
    differs = (plain["image"] != masked["image"]).any(-1)
    assert differs.any() and not masked["image"][differs].any()
    assert not differs[[0, 2, 4, 6]].any()


def test_most_people(folder):
    assert {batch["present"].shape[1] for batch in batches(folder, max_people=5)} == {5}
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_people=1"):
        batches(folder, max_people=1)


def test_pictures_without_labels_take_no_part(tmp_path, folder):
    entries = [record(number) for number in range(4)]
    entries[1:1] = [record(9, 2, [0, 0]), record(10, 0)]
    write(tmp_path, entries, "val", shard=3)
    assert count_people_pictures(tmp_path, "val") == 4
    assert json.loads((tmp_path / "coco_people_val.json").read_text())["counts"]["trainable_pictures"] == 4
    same(batches(tmp_path, 4, "val", ordered=True)[0], batches(folder, 4, ordered=True)[0])
    assert len(batches(tmp_path, 2, "val")) == 2
    assert [len(entry.joints) for entry in read_people(tmp_path, "val")] == [1, 2, 0, 2, 3, 1]
    write(tmp_path, [record(9, 2, [0, 0])])
    with pytest.raises(ValueError, match="no person"):
        people_batches(tmp_path, "train", 1)


def test_few_pictures_fill_a_batch(folder):
    assert people_steps(folder, "train", 50) == 1
    (batch,) = batches(folder, 16)
    assert len(batch["image"]) == 16


def test_own_skeleton(tmp_path):
    own = Skeleton("OWN3", ("tip", "left_end", "right_end"), (("left_end", "tip"), ("right_end", "tip")))
    joints = np.array([[[30, 20, 2], [40, 50, 1], [10, 55, 2]]])
    entry = record(0, 1, joints=joints, names=own.joints)
    with RecordWriter(tmp_path / "mine_train.tfrecords") as writer:
        writer.write(entry.to_example())
    (batch,) = batches(tmp_path, 1, skeleton=own, augment=False, dataset="mine")
    assert batch["present"].all() and batch["joints_px"].shape == (1, 1, 3, 2)
    with pytest.raises(ValueError, match="no joint 'nose'.*tip, left_end"):
        people_batches(tmp_path, "train", 1, dataset="mine")
    assert people_steps(tmp_path, "train", 1, "mine") == len(list(read_people(tmp_path, "train", "mine"))) == 1


def test_pictures_of_all_kinds(tmp_path):
    entry = record(1, 1)
    pixels = cv2.resize(entry.pixels()[..., ::-1], (entry.width, entry.height))
    deep = pixels.astype(np.uint16) * 257
    kinds = {
        "colour.jpg": pixels,
        "grey.jpg": pixels[..., 1],
        "grey.png": pixels[..., 1],
        "alpha.png": np.concatenate([pixels, pixels[..., :1]], -1),
        "deep.png": deep,
        "deep_grey.png": deep[..., 1],
    }
    images = [cv2.imencode(name[-4:], values)[1].tobytes() for name, values in kinds.items()]
    entries = [record(1, 1, image=image, mask=None) for image in images]
    # Hundreds of people.
    entries.append(record(2, 300))
    write(tmp_path / "records", entries, shard=9)
    write_h5(tmp_path / "train_dataset.h5", entries[:-1])
    (batch,) = batches(tmp_path / "records", 7, ordered=True, augment=False)
    assert batch["joints_px"].shape == (7, 300, 18, 2) and batch["present"][6].any(-1).sum() > 250
    assert batch["image"][:, 20:40].std((1, 2, 3)).min() > 5
    # OpenCV, which wrote the samples, sees the same pixels as TensorFlow.
    (samples,) = batches(tmp_path, 6, ordered=True, augment=False)
    assert np.abs(samples["image"].astype(int) - batch["image"][:6]).max() <= 1


# ----------------------------------------------------------------------------------------------------- bad input


def test_missing_data_say_how_to_make_them(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="--coco_people .* --coco_people_train=val2017"):
        people_batches(tmp_path, "train", 1)
    assert find_people_file(tmp_path, "train") is None
    with pytest.raises(ValueError, match="train, val"):
        people_batches(tmp_path, "test", 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1, "stride": 7}, "stride=7"),
        ({"batch_size": 1, "stride": 0}, "stride"),
    ],
)
def test_options_that_make_no_sense(folder, options, message):
    with pytest.raises(ValueError, match=message):
        people_batches(folder, "train", augmentation=SMALL, **options)


def damaged(change):
    entry = record(3)
    if change == "jpeg":
        return record(3, image=entry.image[:300])
    if change == "size":
        return record(3, height=entry.height + 1, mask=None, mask_all=None)
    if change == "names":
        return record(3, names=tuple(f"joint{number}" for number in range(17)))
    return entry.to_example()[:-9]


@pytest.mark.parametrize("change", ["jpeg", "size", "names", "bytes"])
def test_bad_records_are_named(tmp_path, change):
    write(tmp_path, [record(0), record(1), damaged(change)], shard=9)
    (tmp_path / "coco_people_train.json").unlink(missing_ok=True)
    with pytest.raises(BadRecordError, match="train_0000.tfrecord: record 2"), explain_bad_people(tmp_path, "train"):
        batches(tmp_path, 3)
    if change == "bytes":
        with pytest.raises(BadRecordError, match="record 2"):
            list(read_people(tmp_path, "train"))


def test_other_files_are_refused(tmp_path):
    write(tmp_path, [b"abc"])
    with pytest.raises(BadRecordError, match="no record of people"):
        people_batches(tmp_path, "train", 1)
    (tmp_path / "coco_people_val.tfrecords").write_bytes(b"x" * 50)
    with pytest.raises((TFRecordError, BadRecordError)):
        people_batches(tmp_path, "val", 1)


def test_a_file_serves_the_set_that_it_holds(tmp_path, h5_file):
    path = tmp_path / "val.h5"
    with PeopleHdf5Writer(path, validation=True) as writer:
        writer.append(record(0))
    assert len(list(read_people(path, "val"))) == 1
    message = "holds the training set.*the validation set is wanted.*folder that holds both.*--nouse_validation"
    reading = (
        lambda *part: list(read_people(*part)), count_people_pictures, lambda *part: people_batches(*part, 1)
    )  # fmt: skip
    for use in reading:
        with pytest.raises(ValueError, match=message):
            use(h5_file, "val")
    with pytest.raises(ValueError, match="holds the validation set"), explain_bad_people(path, "train"):
        pass
    # In a folder the name decides: what others wrote may say nothing of its own.
    path.rename(tmp_path / "train_dataset.h5")
    assert count_people_pictures(tmp_path, "train") == 1


def test_one_set_in_both_forms_is_refused(tmp_path, h5_file):
    write(tmp_path, [record(0)])
    write(tmp_path, [record(1)], "val")
    (tmp_path / "train_dataset.h5").write_bytes(h5_file.read_bytes())
    with pytest.raises(ValueError, match="twice, as coco_people_train.*tfrecord and as train_dataset.h5. Move"):
        people_batches(tmp_path, "train", 1)
    assert count_people_pictures(tmp_path, "val") == 1


def test_bad_samples_are_named(tmp_path, h5_file):
    path = tmp_path / "val_dataset.h5"
    path.write_bytes(h5_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["datum/0000004"][3, 2, 1] = 200
    with (
        contextlib.suppress(StopIteration),
        pytest.raises(BadRecordError, match="0000004.*200 other people"),
        explain_bad_people(tmp_path, "val"),
    ):
        batches(tmp_path, 7, "val", ordered=True)
