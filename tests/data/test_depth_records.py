import cv2
import numpy as np
import pytest

from posekit.data.depth_records import DepthRecord, decode_depth, encode_depth
from posekit.data.example import decode_example, encode_example
from posekit.data.shards import RawDataset, ShardWriter
from posekit.data.tfrecord import read_records, read_summary


def record(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "name": "P3/1/000042",
        "depth": rng.integers(0, 1 << 16, (5, 7), np.uint16),
        "box": (10, 20, 17, 25),
        "joints": rng.normal(0, 50, (21, 3)) + [0, 0, 400],
        "valid": np.ones(21),
        "centers": rng.normal(0, 50, (9, 3)) + [0, 0, 400],
        "center_source": "file",
        "camera": (241.42, -241.42, 160.0, 120.0),
        "picture": (320, 240),
        "unit": "mm",
        "reach": (150.0, 150.0, 130.0),
        "subject": 3,
        "group": "1",
    }
    return DepthRecord(**(fields | changes))


def test_round_trip():
    written = record(valid=np.arange(21) != 4, centers=[[1, 2, 3], [np.nan, 0, 0]], center_source="estimated")
    read = DepthRecord.from_example(written.to_example())
    for field in vars(written):
        np.testing.assert_array_equal(getattr(read, field), getattr(written, field), err_msg=field)
    assert (read.joints[4] == 0).all() and (read.joints[5] != 0).all()
    assert np.isnan(read.centers[1]).all() and read.depth.dtype == np.uint16
    assert read.counts == {"estimated_centers": 1, "without_picture": 0, "usable_centers_0": 1, "usable_centers_1": 0}
    assert read.to_example() == written.to_example()
    camera = read.depth_camera
    assert camera.y_up and camera.fy == pytest.approx(241.42) and (camera.width, camera.height) == (320, 240)


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("m", 0.001)])
def test_depths_in_steps(unit, scale):
    depth = np.array([[0.0, -3.0, np.nan, np.inf, 0.1, 345.67, 6553.5, 6553.6, 1e30]]) * scale
    steps = encode_depth(depth, unit)
    assert steps.tolist() == [[0, 0, 0, 0, 1, 3457, 65535, 0, 0]] and steps.dtype == np.uint16
    np.testing.assert_allclose(decode_depth(steps, unit)[0, 4:7], np.array([0.1, 345.7, 6553.5]) * scale, rtol=1e-6)
    with pytest.raises(ValueError, match="'cm'.*mm, m"):
        encode_depth(depth, "cm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": (10, 20, 10, 25)}, "at least one pixel"),
        ({"box": (-1, 20, 6, 25)}, "at least one pixel"),
        ({"box": (314, 20, 321, 25)}, "at least one pixel"),
        ({"box": (10, 20, 17.5, 25)}, "4 whole numbers"),
        ({"box": (10, 20, 18, 25)}, r"\[5, 8\]"),
        ({"picture": (1 << 20, 1 << 20)}, "megapixels"),
        ({"depth": np.zeros((5, 7), np.float32)}, "float32"),
        ({"joints": np.zeros((20, 3))}, r"\[20, 3\] and valid \[21\]"),
        ({"joints": np.full((21, 3), np.nan)}, "NaN"),
        ({"valid": np.full(21, 0.5)}, "0.5"),
        ({"centers": np.zeros(3)}, r"\[R, 3\]"),
        ({"centers": [[0, 0, np.inf]]}, r"\[R, 3\]"),
        ({"center_source": "guess"}, "guess.*file, estimated"),
        ({"camera": (0, 1, 2, 3)}, "not those of a camera"),
        ({"reach": (1, 1, 0)}, "above 0"),
        ({"unit": "cm"}, "'cm'"),
    ],
)
def test_refuses_what_makes_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


def damaged(key, value):
    features = decode_example(record().to_example())
    features = {name: part[0] if isinstance(part, list) else part for name, part in features.items()}
    if value is None:
        del features[key]
    else:
        features[key] = value
    return encode_example(features)


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("depth/box", None, "'depth/box' is missing"),
        ("depth/camera", np.zeros(3, np.float32), "holds 3 values; 4"),
        ("joints/xyz", np.zeros(62, np.float32), "62 values; three for each row"),
        ("depth/encoded", b"\x89PNG", "unusable"),
        ("depth/encoded", png(np.zeros((5, 8), np.uint16)), "8 x 5 pixels, its box 7 x 5"),
        ("depth/encoded", png(np.zeros((5, 7), np.uint8)), "16 bits"),
        ("depth/encoded", png(np.zeros((5, 7, 3), np.uint16)), "16 bits"),
        ("depth/name", np.zeros(1, np.int64), "one string"),
    ],
)
def test_damaged_examples(key, value, message):
    with pytest.raises(ValueError, match=message):
        DepthRecord.from_example(damaged(key, value))


def converted(item):
    center = [[np.nan] * 3 if item % 3 == 0 else [0, 0, 400.0]]
    yield record(name=f"{item:07d}", centers=center, center_source="estimated" if item % 5 == 0 else "file")


@pytest.mark.parametrize(("shard_size", "files"), [(500, 1), (4, 3)])
def test_converted_in_shards(tmp_path, shard_size, files):
    raw = RawDataset.of_depth("nyu_train", items=range(10), convert=converted, found=10)
    summary = ShardWriter(tmp_path, shard_size, num_workers=1).write(raw)
    assert (summary.written, summary.without_silhouette, len(summary.files)) == (10, None, files)
    assert summary.counts == {"estimated_centers": 2, "without_picture": 0, "usable_centers_0": 6}
    assert read_summary(tmp_path / "nyu_train.json")["counts"] == summary.counts
    read = [DepthRecord.from_example(data) for file in summary.files for data in read_records(tmp_path / file)]
    assert [frame.name for frame in read] == [f"{item:07d}" for item in range(10)]
    again = ShardWriter(tmp_path, shard_size, num_workers=1).write(raw)
    assert not again.fresh and again.counts == summary.counts and again.without_silhouette is None
