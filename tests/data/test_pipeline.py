"""Training and evaluation streams: what is in a batch, in which order, the same every time, and bad records named."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.data import augment, pipeline
from posekit.data.schema import ImageRecord, MocapRecord, encode_silhouette
from posekit.data.streams import BadRecordError
from posekit.data.tfrecord import DatasetNotFoundError, RecordWriter, TFRecordError
from posekit.skeletons import COCO_PLUS19, LSP14
from posekit.testing import load_fixture

SIZE = 64
SQUARE = {"right_ankle": (30, 60), "left_ankle": (60, 60), "head_top": (45, 20)}


def make_record(number, *, height=80, width=90, silhouette=True, image_format="jpeg", extra=None):
    """A grey picture with three bright squares on three keypoints, and the squares as silhouette."""
    image = np.full((height, width, 3), 40, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    keypoints = np.zeros((3, LSP14.num_joints))
    for name, (x, y) in SQUARE.items():
        y += number % 3
        image[y - 4 : y + 5, x - 4 : x + 5] = 230
        mask[y - 4 : y + 5, x - 4 : x + 5] = 1
        keypoints[:, LSP14.index(name)] = x, y, 1
    encoded = cv2.imencode(f".{image_format}", image)[1].tobytes()
    mask = encode_silhouette(mask) if silhouette is True else silhouette or None
    return ImageRecord(encoded, height, width, f"im{number:03d}.jpg", keypoints, silhouette=mask, **(extra or {}))


def write_set(path, records):
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.to_example())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_set(folder / "first.tfrecords", [make_record(n) for n in range(7)])
    (folder / "second").mkdir()
    for shard in range(3):
        numbers = range(7 + 2 * shard, 9 + 2 * shard)
        records = [make_record(n, silhouette=False) for n in numbers]
        write_set(folder / "second" / f"train_{shard:03d}.tfrecord", records)
    (folder / "mocap_neutrMosh").mkdir()
    for shard in range(3):
        poses = [MocapRecord(np.full(72, 100 * shard + n), np.full(10, n)) for n in range(20)]
        write_set(folder / "mocap_neutrMosh" / f"neutrSMPL_CMU_{shard:04d}.tfrecord", poses)
    return folder


def stream(data_dir, **options):
    options = {"image_size": SIZE, "mocap_datasets": ["CMU"], "mocap_batch_size": 12, "seed": 5} | options
    return pipeline.hmr_batches(data_dir, ["first", "second"], 4, **options)


def read(dataset, count=None):
    dataset = dataset if count is None else dataset.take(count)
    return [tf.nest.map_structure(np.asarray, batch) for batch in dataset.as_numpy_iterator()]


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def differ(first, second):
    return any(np.any(a["image"] != b["image"]) for a, b in zip(first, second))


def test_training_batch(data_dir):
    batches = stream(data_dir)
    batch = read(batches, 1)[0]
    shapes = {
        "image": (4, SIZE, SIZE, 3),
        "keypoints": (4, 19, 3),
        "silhouette": (4, SIZE, SIZE, 1),
        "has_silhouette": (4,),
        "pose": (4, 72),
        "shape": (4, 10),
        "has_3d": (4,),
        "joints3d": (4, 14, 3),
        "has_joints3d": (4,),
    }
    mocap = batch.pop("mocap")
    assert {key: value.shape for key, value in batch.items()} == shapes
    assert {key: value.shape for key, value in mocap.items()} == {"pose": (12, 72), "shape": (12, 10)}
    assert all(value.dtype == np.float32 for value in tf.nest.flatten([batch, mocap]))
    static = {key: tuple(spec.shape) for key, spec in batches.element_spec.items() if key != "mocap"}
    assert static == shapes
    assert -1 <= batch["image"].min() < -0.5 and 0.6 < batch["image"].max() <= 1
    assert set(np.unique(batch["silhouette"])) <= {0, 1}


def test_every_record_once_an_epoch(data_dir):
    assert pipeline.steps_per_epoch(data_dir, ["first", "second"], 4) == 3
    whole = pipeline.train_dataset(data_dir, ["first", "second"], 1, image_size=SIZE, shuffle_buffer=4, augment=False)
    assert whole.cardinality() == 13
    # The squares' height tells records apart in threes, has_silhouette the two sets.
    seen = sorted((float(b["has_silhouette"][0]), round(float(b["keypoints"][0, 0, 1]), 4)) for b in read(whole))
    expected = pipeline.eval_dataset(data_dir, ["first", "second"], 1, image_size=SIZE)
    assert seen == sorted(
        (float(b["has_silhouette"][0]), round(float(b["keypoints"][0, 0, 1]), 4)) for b in read(expected)
    )


def test_same_seed_same_stream(data_dir):
    batches = stream(data_dir, num_epochs=2)
    first = read(batches)
    assert len(first) == 6
    assert_equal(first, read(batches))
    assert_equal(first, read(stream(data_dir, num_epochs=2)))
    assert differ(first, read(stream(data_dir, num_epochs=1, seed=6)))
    assert differ(first[:3], first[3:])
    one = pipeline.train_dataset(
        data_dir, ["first", "second"], 4, epoch=1, image_size=SIZE, mocap_datasets=["CMU"], mocap_batch_size=12, seed=5
    )
    assert_equal(read(one), first[3:])


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (2, 1)])
def test_resumed_stream_continues(data_dir, epoch, step):
    whole = read(stream(data_dir, num_epochs=3))
    resumed = stream(data_dir, num_epochs=3, start_epoch=epoch, start_step=step)
    assert resumed.cardinality() == 9 - 3 * epoch - step
    assert_equal(read(resumed), whole[3 * epoch + step :])


def test_endless_stream(data_dir):
    endless = stream(data_dir)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert_equal(read(endless, 5), read(stream(data_dir, num_epochs=2), 5))


def test_set_smaller_than_a_batch_repeats(data_dir):
    assert pipeline.steps_per_epoch(data_dir, ["first"], 16) == 1
    batch = read(pipeline.train_dataset(data_dir, ["first"], 16, image_size=SIZE))
    assert len(batch) == 1 and batch[0]["image"].shape[0] == 16
    # Repeated records are augmented anew.
    assert len({image.tobytes() for image in batch[0]["image"]}) == 16


def test_without_mocap(data_dir):
    assert "mocap" not in stream(data_dir, mocap_datasets=()).element_spec


def test_evaluation_is_centred_ordered_and_complete(data_dir):
    dataset = pipeline.eval_dataset(data_dir, ["second", "first"], 4, image_size=SIZE)
    assert dataset.cardinality() == 4
    batches = read(dataset)
    assert [len(b["image"]) for b in batches] == [4, 4, 4, 1]
    names = [name.decode() for b in batches for name in b["filename"]]
    assert names == [f"im{n:03d}.jpg" for n in [*range(7, 13), *range(7)]]
    np.testing.assert_array_equal(batches[0]["image_size"], [[80, 90]] * 4)
    np.testing.assert_array_equal(batches[0]["scale"], np.ones((4, 2)))
    # Middle of the squares: x (30 + 60) / 2; y (20 + 60) / 2 plus the record's number modulo 3.
    shifts = np.array([7, 8, 9, 10]) % 3
    np.testing.assert_array_equal(batches[0]["offset"], np.stack([np.full(4, 45 - 32), 40 + shifts - 32], 1))
    np.testing.assert_array_equal(np.concatenate([b["has_silhouette"] for b in batches]), [0] * 6 + [1] * 7)
    assert_equal(batches, read(dataset))


def originals_in(batch, index):
    number = int(batch["filename"][index][2:5])
    return {name: (x, y + number % 3) for name, (x, y) in SQUARE.items()}


@pytest.mark.parametrize("augmented", [False, True])
def test_labels_lie_on_the_squares(data_dir, augmented):
    options = {"augment_validation": augmented, "trans_max": 5, "seed": 3}
    batches = read(pipeline.eval_dataset(data_dir, ["first"], 3, image_size=SIZE, **options))
    mirrored = []
    for batch in batches:
        for index in range(len(batch["image"])):
            flipped = batch["scale"][index, 0] < 0
            mirrored.append(bool(flipped))
            assert batch["keypoints"][index, :, 2].sum() == 3
            for name, place in originals_in(batch, index).items():
                joint = COCO_PLUS19.index(name)
                joint = COCO_PLUS19.flip_permutation[joint] if flipped else joint
                px = (batch["keypoints"][index, joint, :2] + 1) * SIZE / 2
                np.testing.assert_allclose(place * batch["scale"][index] - batch["offset"][index], px, atol=1e-4)
                x, y = np.rint(px).astype(int)
                if 0 <= x < SIZE and 0 <= y < SIZE:
                    assert batch["image"][index, y, x].min() > 0.5
                    assert batch["silhouette"][index, y, x] == 1
            image_mask = batch["image"][index].mean(-1) > 0.05
            # The outline may differ by the ringing of the JPEG and the threshold, a pixel wide.
            assert np.mean(image_mask == (batch["silhouette"][index, ..., 0] > 0)) > 0.96
    assert sorted(set(mirrored)) == ([False, True] if augmented else [False])


def test_augmented_validation_holds_every_picture_once(data_dir):
    batches = read(pipeline.eval_dataset(data_dir, ["first", "second"], 4, image_size=SIZE, augment_validation=True))
    names = [name.decode() for b in batches for name in b["filename"]]
    assert sorted(names) == [f"im{n:03d}.jpg" for n in range(13)] and names != sorted(names)


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_decoding_under_the_crop_equals_decoding_all(tmp_path, image_format):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (60, 80, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(f".{image_format}", image)[1].tobytes()
    keypoints = np.stack([rng.uniform(0, 640, 14), rng.uniform(0, 480, 14), np.ones(14)])
    centers = [(320, 240), (3, 5), (639, 479), (200, 470), (900, -300), (333, 111)]
    records = [ImageRecord(encoded, 480, 640, "x.jpg", keypoints, center=center) for center in centers]
    write_set(tmp_path / "set.tfrecords", records)
    decoded = tf.image.convert_image_dtype(tf.io.decode_image(encoded, 3), tf.float32)
    columns = tf.constant(np.concatenate([keypoints, np.zeros((3, 5))], 1).T, tf.float32)
    options = {"image_size": 96, "augment_validation": True, "shuffle_buffer": 1}
    batch = read(pipeline.eval_dataset(tmp_path, ["set"], 6, **options))[0]
    for index, center in enumerate(centers):
        numbers = augment.random_augmentation(0, 0, index)
        expected, expected_keypoints, _ = augment.augment_person(decoded, columns, center, numbers, 96)
        np.testing.assert_allclose(batch["image"][index], expected, atol=1e-5)
        np.testing.assert_allclose(batch["keypoints"][index], expected_keypoints, atol=1e-4)


def test_silhouettes_that_are_missing_empty_or_of_another_size_are_unknown(tmp_path):
    other_size = encode_silhouette(np.ones((10, 10)))
    records = [make_record(n, silhouette=s) for n, s in enumerate([True, False, other_size])]
    bare = tf.train.Example.FromString(records[0].to_example())
    bare.features.feature.pop("image/seg_gt")
    write_set(tmp_path / "set.tfrecords", [*records, bare.SerializeToString()])
    batch = read(pipeline.eval_dataset(tmp_path, ["set"], 4, image_size=SIZE))[0]
    np.testing.assert_array_equal(batch["has_silhouette"], [1, 0, 0, 0])
    np.testing.assert_array_equal(batch["silhouette"].any((1, 2, 3)), [True, False, False, False])
    batch = read(pipeline.eval_dataset(tmp_path, ["set"], 4, image_size=SIZE, silhouettes=False))[0]
    assert not batch["has_silhouette"].any() and not batch["silhouette"].any()


def test_silhouette_threshold_leaves_out_the_ringing(tmp_path):
    mask = np.zeros((80, 90), np.uint8)
    cv2.circle(mask, (45, 40), 15, 1, -1)
    records = [make_record(0, silhouette=encode_silhouette(mask, f)) for f in ("png", "jpeg")]
    write_set(tmp_path / "set.tfrecords", records)

    def areas(threshold):
        dataset = pipeline.eval_dataset(tmp_path, ["set"], 2, image_size=SIZE, silhouette_threshold=threshold)
        return read(dataset)[0]["silhouette"].sum((1, 2, 3))

    np.testing.assert_array_equal(areas(0.5), [mask.sum()] * 2)
    exact, ringing = areas(0.0)
    assert exact == mask.sum() and ringing > 1.05 * mask.sum()


def test_3d_labels_are_mirrored_with_the_picture(tmp_path):
    rng = np.random.default_rng(1)
    pose, shape, joints = rng.normal(size=72), rng.normal(size=10), rng.normal(size=(14, 3))
    with_3d = make_record(0, extra={"pose": pose, "shape": shape, "joints3d": joints})
    only_joints = make_record(1, extra={"joints3d": joints})
    write_set(tmp_path / "set.tfrecords", [with_3d, only_joints, make_record(2)] * 4)
    options = {"image_size": SIZE, "augment_validation": True, "shuffle_buffer": 1}
    batch = read(pipeline.eval_dataset(tmp_path, ["set"], 12, **options))[0]
    np.testing.assert_array_equal(batch["has_3d"], [1, 0, 0] * 4)
    np.testing.assert_array_equal(batch["has_joints3d"], [1, 1, 0] * 4)
    flipped = batch["scale"][:, 0] < 0
    assert 0 < flipped.sum() < 12
    for index in range(12):
        expected = pose, joints
        if flipped[index]:
            expected = augment.reflect_pose(tf.constant(pose)), augment.reflect_joints3d(tf.constant(joints))
        np.testing.assert_allclose(batch["pose"][index], expected[0] * batch["has_3d"][index], atol=1e-6)
        np.testing.assert_allclose(batch["shape"][index], shape * batch["has_3d"][index], atol=1e-6)
        np.testing.assert_allclose(batch["joints3d"][index], expected[1] * batch["has_joints3d"][index], atol=1e-6)


def test_reads_the_originals_file(tmp_path):
    original = load_fixture("hmr_tfrecord")
    (tmp_path / "lsp_train.tfrecords").write_bytes(original["lsp_tfrecord_file"].tobytes())
    batch = read(pipeline.eval_dataset(tmp_path, ["lsp_train"], 1, image_size=SIZE))[0]
    center, label = original["lsp_center"].ravel(), original["lsp_label"]
    np.testing.assert_array_equal(batch["offset"][0], center - SIZE // 2)
    visible = label[2] > 0
    px = (batch["keypoints"][0, visible, :2] + 1) * SIZE / 2
    np.testing.assert_allclose(px, label[:2, visible].T - batch["offset"][0], atol=1e-4)
    assert batch["has_silhouette"] == 1 and batch["filename"][0] == original["lsp_fname"]


def test_mocap_holds_every_pose_once_a_pass_from_random_places(data_dir):
    passes = [read(pipeline.mocap_dataset(data_dir, ["CMU"], 60, epoch=epoch, shuffle_buffer=1), 2) for epoch in (0, 1)]
    poses = {100 * shard + n for shard in range(3) for n in range(20)}
    orders = [batch["pose"][:, 0].astype(int).tolist() for batches in passes for batch in batches]
    assert all(set(order) == poses for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(order[:3]) for order in orders}) > 1
    np.testing.assert_array_equal(passes[0][0]["shape"][:, 0], passes[0][0]["pose"][:, 0] % 100)


def test_missing_datasets_are_named_with_the_command(data_dir):
    with pytest.raises(DatasetNotFoundError, match=r"lsp_val(.|\n)*python tools/create_dataset.py --lsp_val"):
        pipeline.hmr_batches(data_dir, ["first", "lsp_val"], 4)
    with pytest.raises(DatasetNotFoundError, match="--mocap"):
        stream(data_dir, mocap_datasets=["jointLim"])


def test_empty_sets_are_named(tmp_path, data_dir):
    write_set(tmp_path / "nothing.tfrecords", [])
    with pytest.raises(ValueError, match="nothing in .* hold no picture"):
        pipeline.eval_dataset(tmp_path, ["nothing"], 4)
    with pytest.raises(ValueError, match="No dataset is named"):
        pipeline.steps_per_epoch(data_dir, [], 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 3}, "epoch of 3 steps; give 0 to 2"),
        ({"start_epoch": 2, "num_epochs": 2}, "raise num_epochs"),
        ({"mocap_batch_size": 0}, "mocap_batch_size must be at least 1, got 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(data_dir, options, message):
    with pytest.raises(ValueError, match=message):
        stream(data_dir, **options)


def damaged_sets():
    good = make_record(3)
    broken = tf.train.Example.FromString(good.to_example())
    feature = broken.features.feature["image/encoded"].bytes_list
    feature.value[0] = feature.value[0][: len(feature.value[0]) // 2]
    yield "truncated JPEG", broken.SerializeToString(), r"record 2 .*\(im003.jpg\)"
    feature.value[0] = b"GIF89 not a picture"
    yield "not a picture", broken.SerializeToString(), r"record 2 .*\(im003.jpg\)"
    yield "not an example", b"\xff\xfe\xfd", "record 2 "
    lacking = tf.train.Example.FromString(good.to_example())
    lacking.features.feature.pop("image/x")
    yield "no keypoints", lacking.SerializeToString(), "record 2 .*image/x"


DAMAGED = list(damaged_sets())


@pytest.mark.parametrize(("name", "record", "message"), DAMAGED, ids=[name for name, _, _ in DAMAGED])
def test_bad_record_is_named(tmp_path, name, record, message):
    write_set(tmp_path / "set.tfrecords", [make_record(0), make_record(1), record, make_record(4)])
    make = pipeline.train_dataset if "JPEG" in name else pipeline.eval_dataset
    with pytest.raises(BadRecordError, match=rf"set\.tfrecords: {message}.*create_dataset") as raised:
        with pipeline.explain_bad_records(tmp_path, ["set"]):
            read(make(tmp_path, ["set"], 2, image_size=SIZE))
    assert "Iterator" not in str(raised.value) and "{{" not in str(raised.value)


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "set.tfrecords"
    write_set(path, [make_record(n) for n in range(4)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 + 300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(TFRecordError, match=r"set\.tfrecords: record [12] .*corrupted"):
        with pipeline.explain_bad_records(tmp_path, ["set"]):
            read(pipeline.eval_dataset(tmp_path, ["set"], 2, image_size=SIZE))
    path.write_bytes(content[:-10])
    with pytest.raises(TFRecordError, match="cut short"):
        pipeline.eval_dataset(tmp_path, ["set"], 2)


def test_bad_mocap_is_named(data_dir, tmp_path):
    (tmp_path / "mocap_neutrMosh").mkdir()
    write_set(tmp_path / "mocap_neutrMosh" / "neutrSMPL_CMU_0000.tfrecord", [b"\xff\xff"] * 3)
    write_set(tmp_path / "set.tfrecords", [make_record(0)])
    with pytest.raises(BadRecordError, match="neutrSMPL_CMU_0000.tfrecord: record 0 "):
        with pipeline.explain_bad_records(tmp_path, ["set"], ["CMU"]):
            read(pipeline.mocap_dataset(tmp_path, ["CMU"], 2), 1)


def test_other_errors_pass_unchanged(data_dir):
    with pytest.raises(tf.errors.InvalidArgumentError, match="of the model"):
        with pipeline.explain_bad_records(data_dir, ["first"]):
            tf.debugging.Assert(False, ["of the model"])
    with pytest.raises(KeyError):
        with pipeline.explain_bad_records(data_dir, ["first"]):
            raise KeyError("x")


class MeanModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data):
        return {"value": tf.reduce_mean(self.dense(data["image"]))}


def test_feeds_keras_fit(data_dir):
    model = MeanModel()
    model.compile()
    history = model.fit(stream(data_dir), steps_per_epoch=3, epochs=2, verbose=0, shuffle=False)
    assert np.isfinite(history.history["value"]).all()


def test_bad_record_is_named_during_fit(tmp_path):
    _, truncated, message = next(damaged_sets())
    write_set(tmp_path / "set.tfrecords", [make_record(0), make_record(1), truncated, make_record(4)])
    model = MeanModel()
    model.compile()
    with pytest.raises(BadRecordError, match=message):
        with pipeline.explain_bad_records(tmp_path, ["set", "not_there"], ["CMU"]):
            model.fit(pipeline.train_dataset(tmp_path, ["set"], 2, image_size=SIZE), verbose=0, shuffle=False)
