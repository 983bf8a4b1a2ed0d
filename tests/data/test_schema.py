import cv2
import numpy as np
import pytest
import tensorflow as tf

from posekit.data.example import ExampleError, decode_example, encode_example
from posekit.data.image_files import ImageFileError, decode_image, image_header, read_image_file
from posekit.data.schema import (
    ImageRecord,
    MocapRecord,
    black_silhouette,
    decode_pictures,
    encode_silhouette,
    parse_image_labels,
    parse_image_record,
    parse_mocap_record,
)
from posekit.testing import load_fixture

CASES = ("lsp", "lsp_ext", "mpii", "face19_ext")


def jpeg(height=40, width=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def keypoints(count=14, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(0, 30, (2, count)), rng.integers(0, 2, (1, count))]).astype(np.float32)


def record(**changes):
    points = keypoints()
    points[2, :3] = 1
    fields = {"image": jpeg(), "height": 40, "width": 30, "filename": "im0001.jpg", "keypoints": points}
    return ImageRecord(**(fields | changes))


def original_parse(serialized):
    """Reads a record as maxpit/human-pose-estimation does: no key may be missing, both pictures are decoded."""
    fixed = tf.io.FixedLenFeature
    spec = {
        "image/encoded": fixed([], tf.string),
        "image/seg_gt": fixed([], tf.string),
        "image/height": fixed([], tf.int64),
        "image/width": fixed([], tf.int64),
        "image/filename": fixed([], tf.string),
        "image/center": fixed((2, 1), tf.int64),
        "image/visibility": fixed((1, 14), tf.int64),
        "image/x": fixed((1, 14), tf.float32),
        "image/y": fixed((1, 14), tf.float32),
        "image/face_pts": fixed((1, 15), tf.float32, [0.0] * 15),
    }
    features = tf.io.parse_single_example(serialized, spec)
    size = [features["image/height"], features["image/width"]]
    features["image"] = tf.reshape(tf.image.decode_jpeg(features["image/encoded"], 3), [*size, 3])
    features["silhouette"] = tf.reshape(tf.image.decode_jpeg(features["image/seg_gt"], 1), [*size, 1])
    return features


def akanazawa_parse(serialized):
    """Reads a record as akanazawa/hmr does where a dataset has 3-D truth."""
    fixed = tf.io.FixedLenFeature
    spec = {
        "image/encoded": fixed([], tf.string, ""),
        "image/height": fixed([1], tf.int64, -1),
        "image/width": fixed([1], tf.int64, -1),
        "image/filename": fixed([], tf.string, ""),
        "image/center": fixed((2, 1), tf.int64),
        "image/visibility": fixed((1, 14), tf.int64),
        "image/x": fixed((1, 14), tf.float32),
        "image/y": fixed((1, 14), tf.float32),
        "image/face_pts": fixed((1, 15), tf.float32, [0.0] * 15),
        "mosh/pose": fixed((72,), tf.float32),
        "mosh/shape": fixed((10,), tf.float32),
        "mosh/gt3d": fixed((42,), tf.float32),
        "meta/has_3d": fixed((1,), tf.int64, [0]),
    }
    features = tf.io.parse_single_example(serialized, spec)
    features["image"] = tf.image.decode_jpeg(features["image/encoded"], 3)
    return features


# --------------------------------------------------------------------------------------------- the originals' records


@pytest.mark.parametrize("case", CASES)
def test_writes_what_the_original_writes(case):
    serialized = bytes(load_fixture("hmr_tfrecord")[f"{case}_example"])
    written = ImageRecord.from_example(serialized).to_example()
    assert tf.train.Example.FromString(written) == tf.train.Example.FromString(serialized)


@pytest.mark.parametrize("case", CASES)
def test_center_and_labels_from_the_original_input(case):
    fixture = load_fixture("hmr_tfrecord")
    stored = ImageRecord.from_example(bytes(fixture[f"{case}_example"]))
    labels = fixture[f"{case}_label_in"].copy()
    if case in ("lsp", "mpii"):
        labels[2] = labels[2] == 0
    ours = ImageRecord(stored.image, 80, 64, "im0001.jpg", labels, silhouette=stored.silhouette)
    assert tf.train.Example.FromString(ours.to_example()) == tf.train.Example.FromString(
        bytes(fixture[f"{case}_example"])
    )


@pytest.mark.parametrize("case", CASES)
def test_parses_as_the_original_does(case):
    fixture = load_fixture("hmr_tfrecord")
    parsed = parse_image_record(tf.constant(bytes(fixture[f"{case}_example"])))
    np.testing.assert_array_equal(parsed["keypoints"], fixture[f"{case}_label"])
    np.testing.assert_array_equal(parsed["center"], fixture[f"{case}_center"])
    np.testing.assert_array_equal(parsed["image_size"], fixture[f"{case}_size"])
    assert parsed["filename"].numpy() == fixture[f"{case}_fname"].item()
    image = parsed["image"].numpy()[::3, ::3] / 255.0
    np.testing.assert_allclose(image, fixture[f"{case}_image"], atol=1 / 255)
    silhouette = parsed["silhouette"].numpy() / 255.0
    ours = [silhouette.sum(), np.abs(silhouette).sum(), (silhouette**2).sum(), silhouette.min(), silhouette.max()]
    np.testing.assert_allclose(ours, fixture[f"{case}_seg_stats"], atol=silhouette.size / 255, rtol=0)
    assert parsed["has_silhouette"] == 1 and parsed["has_3d"] == 0 and parsed["has_joints3d"] == 0


def test_silhouette_as_jpeg_is_close_to_the_originals():
    stored = ImageRecord.from_example(bytes(load_fixture("hmr_tfrecord")["mpii_example"])).silhouette
    theirs = decode_image(stored, cv2.IMREAD_GRAYSCALE)
    ours = decode_image(encode_silhouette(theirs > 127, "jpeg"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(ours > 127, theirs > 127)
    assert np.abs(ours.astype(int) - theirs).mean() < 2


def test_mocap_record_of_the_original():
    fixture = load_fixture("hmr_tfrecord")
    serialized = bytes(fixture["mocap_example"])
    ours = MocapRecord.from_example(serialized)
    assert tf.train.Example.FromString(ours.to_example()) == tf.train.Example.FromString(serialized)
    parsed = parse_mocap_record(tf.constant([serialized, serialized]))
    np.testing.assert_array_equal(parsed["pose"], np.stack([fixture["mocap_pose"]] * 2))
    np.testing.assert_array_equal(parse_mocap_record(tf.constant(serialized))["shape"], fixture["mocap_shape"])


# -------------------------------------------------------------------------------------------- records of ours


def test_record_without_silhouette_is_read_by_both_originals():
    truth = {"pose": np.arange(72) / 10, "shape": np.arange(10) / 5, "joints3d": np.arange(42).reshape(14, 3) / 7}
    serialized = record(keypoints=keypoints(19) + [[0], [0], [1]], **truth).to_example()
    theirs = original_parse(serialized)
    assert theirs["silhouette"].shape == (40, 30, 1) and not theirs["silhouette"].numpy().any()
    theirs = akanazawa_parse(serialized)
    np.testing.assert_allclose(theirs["mosh/pose"], truth["pose"], rtol=1e-6)
    np.testing.assert_allclose(theirs["mosh/gt3d"], truth["joints3d"].ravel(), rtol=1e-6)
    assert theirs["meta/has_3d"].numpy() == [1] and theirs["image"].shape == (40, 30, 3)
    parsed = parse_image_record(tf.constant(serialized))
    assert parsed["has_silhouette"] == 0 and parsed["has_3d"] == 1 and parsed["has_joints3d"] == 1
    np.testing.assert_allclose(parsed["pose"], truth["pose"], rtol=1e-6)
    np.testing.assert_allclose(parsed["shape"], truth["shape"], rtol=1e-6)
    np.testing.assert_allclose(parsed["joints3d"], truth["joints3d"], rtol=1e-6)


def test_silhouette_is_kept_exactly_and_read_by_the_original():
    mask = np.random.default_rng(1).integers(0, 2, (40, 30)).astype(np.uint8)
    serialized = record(silhouette=encode_silhouette(mask)).to_example()
    np.testing.assert_array_equal(original_parse(serialized)["silhouette"][..., 0], mask * 255)
    parsed = parse_image_record(tf.constant(serialized))
    assert parsed["has_silhouette"] == 1
    np.testing.assert_array_equal(parsed["silhouette"][..., 0], mask * 255)


@pytest.mark.parametrize("stored", [None, b"", black_silhouette(40, 30), encode_silhouette(np.ones((8, 8)))])
def test_records_that_have_no_usable_silhouette(stored):
    features = decode_example(record().to_example())
    features = {key: value[0] if isinstance(value, list) else value for key, value in features.items()}
    features.pop("image/seg_gt")
    if stored is not None:
        features["image/seg_gt"] = stored
    parsed = parse_image_record(tf.constant(encode_example(features)))
    assert parsed["has_silhouette"] == 0
    assert parsed["silhouette"].shape == (40, 30, 1) and not parsed["silhouette"].numpy().any()


def test_joints_without_pose_as_akanazawa_stores_them():
    serialized = record(joints3d=np.ones((14, 3))).to_example()
    np.testing.assert_array_equal(akanazawa_parse(serialized)["mosh/pose"], -np.ones(72))
    parsed = parse_image_record(tf.constant(serialized))
    assert parsed["has_3d"] == 0 and parsed["has_joints3d"] == 1
    assert not parsed["pose"].numpy().any() and not parsed["shape"].numpy().any()
    again = ImageRecord.from_example(serialized)
    assert again.pose is None and again.joints3d.shape == (14, 3)


@pytest.mark.parametrize("count", [14, 19])
@pytest.mark.parametrize("silhouette", [False, True])
@pytest.mark.parametrize("truth", [False, True])
def test_round_trip(count, silhouette, truth):
    points = keypoints(count)
    points[2, 0] = 1
    fields = {"keypoints": points, "image_format": "JPEG"}
    if silhouette:
        fields["silhouette"] = encode_silhouette(np.eye(40, 30))
    if truth:
        fields |= {"pose": np.ones(72), "shape": np.zeros(10), "joints3d": np.full((14, 3), 2.0)}
    before = record(**fields)
    after = ImageRecord.from_example(before.to_example())
    for name in ("image", "height", "width", "filename", "silhouette", "image_format", "has_3d"):
        assert getattr(after, name) == getattr(before, name)
    np.testing.assert_allclose(after.keypoints, before.keypoints, rtol=1e-6)
    assert after.center == tuple(int(value) for value in before.center)
    assert after.to_example() == before.to_example()


def test_a_batch_is_parsed_at_once():
    points = [keypoints(14, seed) + [[0], [0], [1]] for seed in range(3)]
    serialized = [record(keypoints=value).to_example() for value in points]
    labels = parse_image_labels(tf.constant(serialized))
    assert labels["keypoints"].shape == (3, 3, 19) and labels["joints3d"].shape == (3, 14, 3)
    np.testing.assert_allclose(labels["keypoints"][:, :, :14], points, rtol=1e-6)
    single = decode_pictures({key: value[1] for key, value in labels.items()})
    alone = parse_image_record(tf.constant(serialized[1]))
    assert single.keys() == alone.keys()
    for key, value in alone.items():
        np.testing.assert_array_equal(single[key], value)


def test_in_a_pipeline_with_static_shapes():
    dataset = tf.data.Dataset.from_tensors(record().to_example()).map(parse_image_record)
    spec = dataset.element_spec
    assert spec["keypoints"].shape == (3, 19) and spec["image"].shape.as_list() == [None, None, 3]
    assert spec["joints3d"].shape == (14, 3) and spec["center"].shape == (2, 1)
    assert len(list(dataset)) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keypoints": np.zeros((3, 14))}, "No keypoint is visible"),
        ({"keypoints": np.zeros((3, 17))}, r"\[3, 17\]"),
        ({"keypoints": np.full((3, 14), np.nan)}, "NaN"),
        ({"pose": np.zeros(72)}, "together"),
        ({"pose": np.zeros(70), "shape": np.zeros(10), "joints3d": np.zeros((14, 3))}, "pose has shape"),
    ],
)
def test_senseless_records_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_unknown_silhouette_format():
    with pytest.raises(ValueError, match="png"):
        encode_silhouette(np.ones((2, 2)), "gif")


# ------------------------------------------------------------------------------------------------ wire format


def test_example_bytes_are_tensorflows():
    features = {
        "text": "höhe", "raw": b"\x00\xff", "ints": np.array([0, -1, 127, 128, -(2**63), 2**63 - 1]),
        "floats": np.array([1.5, -0.0, np.inf], np.float32), "none": np.zeros(0, np.float32), "flag": True,
    }  # fmt: skip
    message = tf.train.Example.FromString(encode_example(features)).features.feature
    assert message["text"].bytes_list.value[0].decode() == "höhe" and message["raw"].bytes_list.value[0] == b"\x00\xff"
    assert list(message["ints"].int64_list.value) == features["ints"].tolist()
    assert list(message["floats"].float_list.value) == features["floats"].tolist()
    assert message["none"].WhichOneof("kind") == "float_list" and list(message["flag"].int64_list.value) == [1]
    again = decode_example(tf.train.Example.FromString(encode_example(features)).SerializeToString())
    np.testing.assert_array_equal(again["ints"], features["ints"])
    np.testing.assert_array_equal(again["floats"], features["floats"])
    assert again["raw"] == [b"\x00\xff"] and again["none"].size == 0


def test_unpacked_lists_are_read():
    # tag 0x0d: field 1, 32 bits; tag 0x08: field 1, varint.
    floats = b"\x0d\x00\x00\xc0\x3f" * 2
    ints = b"\x08\x05\x08\x06"

    def wrap(field, body):
        return bytes([field << 3 | 2, len(body)]) + body

    entries = [wrap(1, name) + wrap(2, wrap(kind, body)) for name, kind, body in ((b"f", 2, floats), (b"i", 3, ints))]
    features = decode_example(wrap(1, b"".join(wrap(1, entry) for entry in entries)))
    assert features["f"].tolist() == [1.5, 1.5] and features["i"].tolist() == [5, 6]


def test_damaged_examples_raise_only_value_errors():
    rng = np.random.default_rng(0)
    sound = record(image=b"x" * 20, image_format="JPEG").to_example()
    for _ in range(1500):
        damaged = bytearray(sound[: rng.integers(1, len(sound) + 1)])
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            decode_example(bytes(damaged))
        except ExampleError:
            pass
        try:
            ImageRecord.from_example(bytes(damaged))
        except ValueError:
            pass


@pytest.mark.parametrize("value", [None, "list", object()])
def test_values_of_other_types_are_refused(value):
    value = [[b"a"], "b"] if value == "list" else value
    with pytest.raises((TypeError, ValueError)):
        encode_example({"key": value})


# ------------------------------------------------------------------------------------------------- image files


@pytest.mark.parametrize("suffix, name", [(".jpg", "JPEG"), (".png", "PNG")])
def test_image_header_tells_size_and_format(suffix, name):
    for progressive in (0, 1):
        flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive] if suffix == ".jpg" else []
        data = cv2.imencode(suffix, np.zeros((33, 57, 3), np.uint8), flags)[1].tobytes()
        header = image_header(data)
        assert (header.image_format, header.height, header.width) == (name, 33, 57)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_cut_short_anywhere_are_refused(suffix):
    data = cv2.imencode(suffix, np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))[1].tobytes()
    for length in range(0, len(data), 7):
        with pytest.raises(ImageFileError):
            decode_image(data[:length])


def test_images_of_too_many_pixels_are_refused_before_decoding():
    png = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageFileError, match="megapixels"):
        decode_image(bytes(png))


def test_image_files_that_are_none(tmp_path):
    cases = {"empty.jpg": b"", "text.jpg": b"hello", "bitmap.jpg": b"BM" + bytes(100)}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError):
            read_image_file(tmp_path / name)
    with pytest.raises(ImageFileError, match="missing"):
        read_image_file(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageFileError, match="regular"):
        read_image_file(tmp_path)


def test_random_bytes_in_images_raise_only_their_error():
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png"):
        sound = cv2.imencode(suffix, np.zeros((12, 12, 3), np.uint8))[1].tobytes()
        for _ in range(300):
            damaged = bytearray(sound)
            for _ in range(rng.integers(1, 5)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            try:
                header = image_header(bytes(damaged))
                if header.height * header.width < 1e6:
                    decode_image(bytes(damaged))
            except ImageFileError:
                pass
