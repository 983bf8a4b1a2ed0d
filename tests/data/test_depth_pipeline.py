import itertools
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.data.depth_pipeline import (
    count_frames,
    depth_batches,
    depth_sets,
    explain_bad_records,
    read_frames,
    steps_per_epoch,
)
from posekit.data.depth_records import DEPTH_STEP, DepthRecord
from posekit.data.example import decode_example, encode_example
from posekit.data.streams import BadRecordError
from posekit.data.tfrecord import DatasetNotFoundError, RecordWriter, TFRecordError, num_examples

CODEC = VoxelCodec(cubic_size=200.0)
UNUSABLE = (2, 7, 11)


def record(number, *, joints=14, centers=None, subject=-1, unit="mm", reach=210.0, prefix=""):
    rng = np.random.default_rng(number)
    height, width = rng.integers(3, 9, 2)
    places = rng.normal(0, 50, (joints, 3)) + [0, 0, 600]
    if centers is None:
        centers = [[np.nan] * 3 if number in UNUSABLE else [number, 0, 600]]
    return DepthRecord(
        name=f"{prefix}{number:07d}",
        depth=rng.integers(1, 1 << 16, (height, width), np.uint16),
        box=(10, 20, 10 + width, 20 + height),
        joints=places,
        valid=np.arange(joints) != number,
        centers=centers,
        center_source="file" if number % 2 else "estimated",
        camera=(588.0, -587.0, 320.0, 240.0),
        picture=(640, 480),
        unit=unit,
        reach=np.full(3, reach),
        subject=subject,
        group="seen" if number < 4 else "",
    )


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for entry in records:
            writer.write(entry if isinstance(entry, bytes) else entry.to_example())


def write_nyu(folder, split="train", count=20, shard=6, **options):
    frames = [record(number, **options) for number in range(count)]
    for start in range(0, count, shard):
        write(folder / f"nyu_{split}" / f"depth_{start // shard:04d}.tfrecord", frames[start : start + shard])
    return frames


def write_msra(folder, subjects=9, frames=4):
    for subject in range(subjects):
        rows = np.arange(9)
        entries = []
        for number in range(frames):
            centers = np.stack([rows, np.full(9, number), np.full(9, 400.0)], 1).astype(np.float32)
            # Frame 1 has no centre when subject 3 is tested, nobody has one in the tests of subject 5.
            centers[[3, 5] if number == 1 else [5]] = np.nan
            entries.append(record(number, joints=21, centers=centers, subject=subject, prefix=f"P{subject}/1/"))
        write(folder / f"msra_p{subject}.tfrecords", entries)


def batches(folder, split="train", size=3, dataset="nyu", **options):
    stream = depth_batches(folder, dataset, split, size, codec=CODEC, **options)
    return list(stream.as_numpy_iterator())


def same(first, second):
    tf.nest.map_structure(np.testing.assert_array_equal, first, second)


# ------------------------------------------------------------------------------------------------------- sets


def test_sets():
    assert depth_sets("itop_front", "test") == ["itop_front_test"]
    assert depth_sets("msra", "test", 8) == ["msra_p8"]
    assert depth_sets("msra", "train") == [f"msra_p{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8)]
    for arguments, message in (
        (("kinect", "test"), "kinect.*itop_top"),
        (("nyu", "val"), "val.*train, test"),
        (("msra", "test", 9), "0 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            depth_sets(*arguments)


def test_missing_set_says_how_to_make_it(tmp_path):
    for dataset, flag in (("msra", "--msra "), ("hands2017", "--hands2017 "), ("itop_top", "--itop_top ")):
        with pytest.raises(DatasetNotFoundError, match=flag):
            count_frames(tmp_path, dataset, "train")


# --------------------------------------------------------------------------------------------------- training


def test_an_epoch_shows_every_usable_frame_once(tmp_path):
    frames = write_nyu(tmp_path)
    assert count_frames(tmp_path, "nyu", "train") == 17 and steps_per_epoch(tmp_path, "nyu", 3) == 5
    seen = batches(tmp_path, size=1)
    numbers = [int(batch["frame"][0]) for batch in seen]
    assert sorted(numbers) == sorted(set(range(20)) - set(UNUSABLE)) and numbers != sorted(numbers)
    for batch in seen:
        truth = frames[int(batch["frame"][0])]
        np.testing.assert_array_equal(batch["depth"][0], truth.depth)
        np.testing.assert_array_equal(batch["box"][0], truth.box)
        np.testing.assert_array_equal(batch["joints"][0], truth.joints)
        np.testing.assert_array_equal(batch["valid"][0], truth.valid)
        np.testing.assert_array_equal(batch["refpoint"][0], truth.centers[0])
        np.testing.assert_array_equal(batch["camera"][0], truth.camera)
        kinds = {key: value.dtype.name for key, value in batch.items()}
        assert kinds == {
            "depth": "uint16", "box": "int32", "joints": "float32", "valid": "float32", "refpoint": "float32",
            "camera": "float32", "frame": "int64", "epoch": "int64",
        }  # fmt: skip


def test_whole_batches_padded_with_nothing(tmp_path):
    frames = write_nyu(tmp_path)
    stream = depth_batches(tmp_path, "nyu", "train", 3, codec=CODEC, num_epochs=2)
    assert stream.cardinality() == 10 and stream.element_spec["depth"].shape.as_list() == [3, None, None]
    seen = list(stream.as_numpy_iterator())
    assert [batch["epoch"].tolist() for batch in seen] == [[0] * 3] * 5 + [[1] * 3] * 5
    for batch in seen:
        heights, widths = np.subtract(batch["box"][:, 2:], batch["box"][:, :2]).T[::-1]
        assert batch["depth"].shape == (3, heights.max(), widths.max())
        for depth, number, height, width in zip(batch["depth"], batch["frame"], heights, widths):
            np.testing.assert_array_equal(depth[:height, :width], frames[number].depth)
            assert not depth[height:].any() and not depth[:, width:].any()


def test_order_is_a_function_of_seed_epoch_and_step(tmp_path):
    write_nyu(tmp_path)
    tf.keras.utils.set_random_seed(0)
    whole = batches(tmp_path, num_epochs=3)
    tf.keras.utils.set_random_seed(1)
    same(whole, batches(tmp_path, num_epochs=3))
    for epoch, step in itertools.product(range(3), range(5)):
        if (epoch, step) in ((0, 1), (1, 0), (1, 4), (2, 3)):
            same(whole[5 * epoch + step :], batches(tmp_path, num_epochs=3, start_epoch=epoch, start_step=step))
    orders = [np.concatenate([batch["frame"] for batch in whole[start : start + 5]]).tolist() for start in (0, 5, 10)]
    other = np.concatenate([batch["frame"] for batch in batches(tmp_path, seed=1)]).tolist()
    assert len({tuple(order) for order in [*orders, other]}) == 4


def test_fewer_frames_than_a_batch_repeat(tmp_path):
    write_nyu(tmp_path, count=4)
    assert steps_per_epoch(tmp_path, "nyu", 8) == 1
    (batch,) = batches(tmp_path, size=8)
    assert np.bincount(batch["frame"]).tolist() == [3, 3, 0, 2]


def test_joints_can_be_chosen(tmp_path):
    frames = write_nyu(tmp_path)
    batch = batches(tmp_path, joints=[5, 0])[0]
    truth = frames[int(batch["frame"][0])]
    np.testing.assert_array_equal(batch["joints"][0], truth.joints[[5, 0]])
    np.testing.assert_array_equal(batch["valid"][0], truth.valid[[5, 0]])
    for joints in ([], [14], [1, 1]):
        with pytest.raises(ValueError, match="0 to 13"):
            batches(tmp_path, joints=joints)


def test_arguments_that_make_no_sense(tmp_path):
    write_nyu(tmp_path)
    for options, message in (
        ({"start_step": 5}, "0 to 4"),
        ({"start_epoch": 1}, "num_epochs"),
        ({"size": 0}, "batch_size"),
        ({"shuffle_buffer": 0}, "shuffle_buffer"),
    ):
        with pytest.raises(ValueError, match=message):
            batches(tmp_path, **options)


def test_leave_one_subject_out(tmp_path):
    write_msra(tmp_path)
    assert count_frames(tmp_path, "msra", "train", 3) == 8 * 3 and count_frames(tmp_path, "msra", "train", 0) == 8 * 4
    assert count_frames(tmp_path, "msra", "test", 3) == 4
    with pytest.raises(ValueError, match="no usable centre.*--msra"):
        steps_per_epoch(tmp_path, "msra", 2, test_subject=5)
    stream = batches(tmp_path, dataset="msra", size=1, test_subject=3)
    refpoints = np.concatenate([batch["refpoint"] for batch in stream])
    assert (refpoints[:, 0] == 3).all() and set(refpoints[:, 1]) == {0, 2, 3}
    tests = batches(tmp_path, "test", dataset="msra", size=3, test_subject=3)
    assert np.concatenate([batch["name"] for batch in tests]).tolist() == [f"P3/1/{n:07d}".encode() for n in range(4)]
    assert np.isnan(tests[0]["refpoint"][1]).all() and (tests[0]["refpoint"][0] == [3, 0, 400]).all()


# ------------------------------------------------------------------------------------------------------ tests


def test_test_frames_come_once_and_in_order(tmp_path):
    write_nyu(tmp_path, "test")
    stream = depth_batches(tmp_path, "nyu", "test", 8, codec=CODEC)
    assert stream.cardinality() == 3 and count_frames(tmp_path, "nyu", "test") == 20
    seen = list(stream.as_numpy_iterator())
    assert [len(batch["frame"]) for batch in seen] == [8, 8, 4]
    assert np.concatenate([batch["frame"] for batch in seen]).tolist() == list(range(20))
    names = np.concatenate([batch["name"] for batch in seen]).tolist()
    assert names == [f"{number:07d}".encode() for number in range(20)]
    refpoints = np.concatenate([batch["refpoint"] for batch in seen])
    assert np.flatnonzero(np.isnan(refpoints).any(1)).tolist() == list(UNUSABLE)


def test_training_frames_in_order_are_all_there(tmp_path):
    frames = write_nyu(tmp_path)
    found = [name for batch in batches(tmp_path, ordered=True) for name in batch["name"].tolist()]
    assert found == [frame.name.encode() for frame in frames]


def test_frames_without_depth(tmp_path):
    frames = write_nyu(tmp_path, "test")
    read = read_frames(tmp_path, "nyu", "test")
    assert len(read) == 20 and read.names == [frame.name for frame in frames] and read.unit == "mm"
    np.testing.assert_array_equal(read.joints, [frame.joints for frame in frames])
    np.testing.assert_array_equal(read.valid, [frame.valid for frame in frames])
    np.testing.assert_array_equal(read.centers, [frame.centers for frame in frames])
    np.testing.assert_array_equal(read.refpoints, [frame.centers[0] for frame in frames])
    np.testing.assert_array_equal(read.boxes, [frame.box for frame in frames])
    np.testing.assert_array_equal(read.cameras, [frame.camera for frame in frames])
    assert read.groups.tolist() == ["seen"] * 4 + [""] * 16 and read.estimated.tolist() == [True, False] * 10
    assert (read.pictures == [640, 480]).all() and (read.subjects == -1).all()


def test_centres_that_some_records_lack_are_unusable(tmp_path):
    write_msra(tmp_path)
    write(tmp_path / "msra_p0.tfrecords", [record(0, joints=21, centers=np.ones((9, 3))),
                                           record(3, joints=21, centers=np.ones((2, 3)))])  # fmt: skip
    assert count_frames(tmp_path, "msra", "train", 3) == 7 * 3 + 1
    assert read_frames(tmp_path, "msra", "test", 0).centers.shape == (2, 9, 3)
    assert not np.isnan(batches(tmp_path, "test", dataset="msra", test_subject=0)[0]["refpoint"]).any()
    stream = batches(tmp_path, dataset="msra", size=1, test_subject=3)
    assert len(stream) == 22 and not np.isnan([batch["refpoint"] for batch in stream]).any()


# ---------------------------------------------------------------------------------------------------- counting


def test_usable_frames_are_counted_once(tmp_path):
    write_nyu(tmp_path)
    assert count_frames(tmp_path, "nyu", "train") == 17
    summary = json.loads((tmp_path / "nyu_train.json").read_text())
    assert summary["counts"] == {"usable_centers_0": 17} and summary["count"] == 20
    summary["counts"]["usable_centers_0"] = 5
    (tmp_path / "nyu_train.json").write_text(json.dumps(summary))
    assert count_frames(tmp_path, "nyu", "train") == 5
    # Other files: what was remembered holds no more.
    write_nyu(tmp_path, count=3, shard=3)
    assert num_examples(tmp_path, "nyu_train") == 17
    write(tmp_path / "nyu_train" / "depth_0001.tfrecord", [record(2), record(3), record(4)])
    assert count_frames(tmp_path, "nyu", "train") == 2 + 2 + 6 + 2


# ------------------------------------------------------------------------------------------------------ bad sets


@pytest.mark.parametrize("told", [-7, True, 10**7, "20"])
def test_counts_that_cannot_be_are_taken_anew(tmp_path, told):
    write_nyu(tmp_path)
    assert count_frames(tmp_path, "nyu", "train") == 17
    summary = json.loads((tmp_path / "nyu_train.json").read_text())
    summary["counts"]["usable_centers_0"] = told
    (tmp_path / "nyu_train.json").write_text(json.dumps(summary))
    assert count_frames(tmp_path, "nyu", "train") == 17


def test_a_codec_that_looks_beyond_the_crops_is_refused(tmp_path):
    write_nyu(tmp_path, reach=150.0)
    write_nyu(tmp_path, "test", reach=150.0)
    sizes = {"cubic_size": 250.0, "original_size": 96, "cropped_size": 88, "voxel_size": 250 / 88}
    large = types.SimpleNamespace(reach=(10.0, 10.0, 160.0), **sizes)
    message = (
        "150, 150, 150 mm.*cube of 250 mm and 88 voxels, cut out of 96, looks 10, 10, 160.*create_dataset.py --nyu .*"
        "--cubic_size=250 --original_size=96 --cropped_size=88"
    )
    with pytest.raises(ValueError, match=message):
        depth_batches(tmp_path, "nyu", "train", 2, codec=large)
    assert depth_batches(tmp_path, "nyu", "test", 2, codec=large).cardinality() == 10
    assert np.max(CODEC.reach) > 150
    assert depth_batches(tmp_path, "nyu", "test", 2, codec=CODEC).cardinality() == 10


def test_other_joints_than_the_dataset_s_are_refused(tmp_path):
    write_nyu(tmp_path, joints=36)
    for read in (batches, lambda folder: read_frames(folder, "nyu", "train")):
        with pytest.raises(ValueError, match="36 joints, nyu has 14.*--nyu"):
            read(tmp_path)


def damaged(key, value):
    features = decode_example(record(4).to_example())
    features = {name: part[0] if isinstance(part, list) else part for name, part in features.items()}
    return encode_example({name: part for name, part in (features | {key: value}).items() if part is not None})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"no example at all", "no tf.train.Example|Could not parse"),
        (damaged("depth/encoded", b"\x89PNG"), "size of its box"),
        (damaged("depth/box", np.array([0, 0, 1 << 20, 1 << 20])), "does not lie in the picture"),
        (damaged("depth/box", np.array([1 << 32, 20, (1 << 32) + 5, 25])), "does not lie in the picture"),
        (damaged("depth/picture", np.array([1 << 20, 1 << 20])), "larger than any depth camera"),
        (damaged("depth/camera", np.zeros(4, np.float32)), "the camera is none"),
        (damaged("depth/camera", np.full(4, np.nan, np.float32)), "the camera is none"),
        (damaged("joints/xyz", np.full(42, np.nan, np.float32)), "joints are no places"),
        (damaged("joints/valid", np.full(14, 0.5, np.float32)), "neither valid nor not"),
        (damaged("centers/xyz", np.full(3, 1e30, np.float32)), "centres are no places"),
        (damaged("joints/xyz", np.zeros(63, np.float32)), "joints/xyz"),
        (damaged("depth/camera", None), "depth/camera"),
    ],
)
def test_damaged_records_are_named(tmp_path, entry, message):
    write(tmp_path / "nyu_test.tfrecords", [record(0), record(1), entry])
    with pytest.raises(BadRecordError, match=rf"nyu_test\.tfrecords: record 2 .*({message}).*create_dataset"):
        with explain_bad_records(tmp_path, "nyu", "test"):
            batches(tmp_path, "test")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "nyu_test.tfrecords"
    write(path, [record(0), record(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(TFRecordError, match="nyu_test.tfrecords is cut short"):
        batches(tmp_path, "test")
    path.write_bytes(whole[:-10] + b"x" + whole[-9:])
    with pytest.raises(BadRecordError, match="record 1.*create_dataset"):
        with explain_bad_records(tmp_path, "nyu", "test"):
            batches(tmp_path, "test")
    write(path, [encode_example({"image/x": np.zeros(3)})])
    with pytest.raises(BadRecordError, match="nyu_test.tfrecords: record 0 .*no record of a depth crop"):
        batches(tmp_path, "test")
    write(path, [])
    with pytest.raises(BadRecordError, match="nyu_test.tfrecords is empty"):
        batches(tmp_path, "test")


@pytest.mark.parametrize("dataset", ["nyu", "nothing"])
def test_checks_of_numbers_are_no_fault_of_the_records(tmp_path, dataset):
    write(tmp_path / "nyu_test.tfrecords", [record(0), record(2)])
    tf.debugging.enable_check_numerics()
    try:
        with pytest.raises(tf.errors.InvalidArgumentError, match="Detected Infinity or NaN"):
            with explain_bad_records(tmp_path, "nyu", "test"):
                if dataset == "nyu":  # record 2 has no centre
                    batches(tmp_path, "test")
                list(tf.data.Dataset.from_tensors(-1.0).map(tf.math.log))
    finally:
        tf.debugging.disable_check_numerics()


def test_training_batches_pass_checks_of_numbers(tmp_path):
    write_msra(tmp_path)
    stream = depth_batches(tmp_path, "msra", "train", 4, codec=CODEC, num_epochs=1)
    tf.debugging.enable_check_numerics()
    try:
        assert len(list(stream)) == steps_per_epoch(tmp_path, "msra", 4)
    finally:
        tf.debugging.disable_check_numerics()


# ---------------------------------------------------------------------------------------------- with the codec


def test_crops_become_voxels(tmp_path):
    write(tmp_path / "nyu_test.tfrecords", [record(0), record(1)])
    (batch,) = batches(tmp_path, "test", size=2)
    batched = CODEC.batched()
    points = batched.points(batch["depth"], batch["box"], batch["camera"], DEPTH_STEP["mm"])
    first = record(0)
    kept = points[0][points[0][:, 2] > 0]
    assert len(kept) == first.depth.size
    np.testing.assert_allclose(np.sort(kept[:, 2]), np.sort(first.depth.ravel() * 0.1), rtol=1e-5)
