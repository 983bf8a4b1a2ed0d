import inspect

import numpy as np
import pytest
import tensorflow as tf

from posekit.codecs.paf import PafCodec, average_maps, pad_to_stride
from posekit.ops import decode_paf
from posekit.ops.decode_paf import PEAK_THRESHOLDS
from posekit.skeletons import OPENPOSE18, Skeleton
from posekit.testing import load_fixture

CASES = (
    "p5_368", "p12_368", "p3_nonsq", "p2_s4", "empty", "out_of_frame_and_zero_limb", "same_twice", "axis_aligned_limbs",
)  # fmt: skip


@pytest.fixture(scope="module")
def labels():
    return load_fixture("rmpe_label_maps")


def case_of(labels, name):
    height, width, sigma, limb_width, stride = labels[f"{name}_args"]
    codec = PafCodec(stride=int(stride), sigma=sigma, limb_width=limb_width)
    people, size = labels[f"{name}_people"], (int(height * stride), int(width * stride))
    return codec, people[..., :2], people[..., 2] > 0, size, labels[f"{name}_heat"], labels[f"{name}_paf"]


@pytest.mark.parametrize("name", CASES)
def test_labels_are_the_original(labels, name):
    codec, joints, present, size, heatmaps, pafs = case_of(labels, name)
    reference = codec.encode_numpy(joints, present, size)
    np.testing.assert_allclose(reference[0], heatmaps, rtol=0, atol=1e-9)
    np.testing.assert_allclose(reference[1], pafs, rtol=0, atol=1e-9)
    batch = codec.encode(joints[None], present[None], size)
    np.testing.assert_allclose(batch[0][0], heatmaps, rtol=0, atol=1e-6)
    np.testing.assert_allclose(batch[1][0], pafs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("combine", "overlap"), [("sum", "average"), ("max", "last")])
def test_a_batch_is_encoded_like_its_images(combine, overlap):
    codec = PafCodec(combine=combine, overlap=overlap)
    rng = np.random.default_rng(3)
    joints = rng.uniform(-20, 220, (3, 4, 18, 2))
    joints[1, 2:] = joints[1, :2] + 5  # close to each other
    present = rng.random((3, 4, 18)) < 0.8
    present[0, 2:], present[2] = False, False
    joints[~present] = np.nan
    signature = tf.TensorSpec([None, None, 18, 2], tf.float64), tf.TensorSpec([None, None, 18], tf.bool)
    encode = tf.function(lambda *people: codec.encode(*people, (200, 240)), input_signature=signature)
    heatmaps, pafs = encode(joints, present)
    assert heatmaps.shape == (3, 25, 30, 19) and pafs.shape == (3, 25, 30, 38)
    for index in range(3):
        expected = codec.encode_numpy(joints[index], present[index], (200, 240))
        np.testing.assert_allclose(heatmaps[index], expected[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(pafs[index], expected[1], rtol=0, atol=1e-6)
    assert (heatmaps[2, ..., -1].numpy() == 1).all() and not pafs[2].numpy().any()
    nobody = encode(joints[:, :0], present[:, :0])
    assert (nobody[0].numpy()[..., -1] == 1).all() and not nobody[1].numpy().any()


def test_options_of_overlapping_people():
    skeleton = Skeleton("rod", ("top", "foot"), (("foot", "top"),))
    joints = np.array([[[44.0, 20], [44, 120]], [[20, 68], [120, 68]]])  # a cross
    present = np.ones((2, 2), bool)
    average, last = (PafCodec(skeleton, overlap=overlap) for overlap in ("average", "last"))
    assert average.encode_numpy(joints, present, (144, 144))[1][8, 5].tolist() == [0.5, 0.5]
    assert last.encode_numpy(joints, present, (144, 144))[1][8, 5].tolist() == [1, 0]
    twice = np.stack([joints[0], joints[0]])
    total, largest = (PafCodec(skeleton, combine=combine) for combine in ("sum", "max"))
    single = largest.encode_numpy(joints[:1], present[:1], (144, 144))[0]
    np.testing.assert_array_equal(largest.encode_numpy(twice, present, (144, 144))[0], single)
    both = total.encode_numpy(twice, present, (144, 144))[0]
    np.testing.assert_allclose(both[..., :2], np.minimum(2 * single[..., :2], 1))


@pytest.mark.parametrize("mode", ["fast", "tf_pose", "exact"])
def test_people_survive_both_ways(labels, mode):
    codec, joints, present, size, heatmaps, pafs = case_of(labels, "p3_nonsq")
    if mode == "exact":
        image = np.zeros((*size, 3), np.uint8)
        heatmaps, pafs = average_maps(lambda _: (pafs[None], heatmaps[None]), image, box_size=size[0])
    people = codec.decode(heatmaps, pafs, mode=mode)
    assert len(people) == len(joints)
    apart = np.linalg.norm(people.keypoints[:, None] - joints, axis=-1)
    apart = np.where(present, apart, np.nan)
    nearest = np.nanmedian(apart, axis=-1).argmin(axis=1)
    assert sorted(nearest) == list(range(len(joints)))
    found = np.isfinite(people.keypoints[..., 0])
    assert found.sum() >= 0.9 * present.sum()
    distance = apart[np.arange(len(people)), nearest]
    assert np.nanmean(distance < 4) > 0.95


def test_flipped_maps_are_those_of_the_flipped_people(labels):
    codec, joints, present, size, heatmaps, pafs = case_of(labels, "p3_nonsq")
    order = OPENPOSE18.flip_permutation
    mirrored = np.stack([size[1] - 1 - joints[..., 0], joints[..., 1]], axis=-1)[:, order]
    flipped = codec.flip_maps(*codec.encode_numpy(mirrored, present[:, order], size))
    np.testing.assert_allclose(flipped[0], heatmaps, atol=1e-9)
    # The original's fields lie half a cell farther to the left than its heatmaps, in the mirror to the right.
    one = codec.encode_numpy(joints[:1], present[:1], size)[1]
    other = codec.flip_maps(heatmaps, codec.encode_numpy(mirrored[:1], present[:1, order], size)[1])[1]
    both = [np.array([largest(fields[..., k]) for k in range(38)]) for fields in (one, other)]
    assert (both[0] != 0).sum() > 20
    np.testing.assert_allclose(both[1], both[0], atol=1e-9)
    again = codec.flip_maps(*codec.flip_maps(heatmaps, pafs))
    np.testing.assert_array_equal(again[0], heatmaps)
    np.testing.assert_array_equal(again[1], pafs)


def largest(values):
    """The value that lies farthest from 0."""
    return values.flat[np.abs(values).argmax()]


def test_fields_at_the_centres_of_cells_lie_half_a_cell_beside():
    rng = np.random.default_rng(2)
    places, present = rng.uniform(30, 330, (2, 18, 2)), np.ones((2, 18), bool)
    corner, center = (PafCodec(field_cells=cells) for cells in ("corner", "center"))
    maps = corner.encode_numpy(places, present, (368, 368))
    shifted = center.encode_numpy(places + 3.5, present, (368, 368))  # half of the stride less one
    np.testing.assert_allclose(shifted[1], maps[1], atol=1e-12)
    assert np.abs(center.encode_numpy(places, present, (368, 368))[1] - maps[1]).max() > 0.5
    np.testing.assert_array_equal(center.encode_numpy(places, present, (368, 368))[0], maps[0])
    encoded = center.encode((places + 3.5)[None], present[None], (368, 368))
    np.testing.assert_allclose(encoded[1][0], shifted[1], atol=1e-5)


@pytest.mark.parametrize("size", ["5x7", "8x16", "9x9"])
def test_padding_is_the_original(size):
    fixture = load_fixture("rmpe_util")
    padded, added = pad_to_stride(fixture[f"in_{size}"])
    np.testing.assert_array_equal(padded, fixture[f"out_{size}"])
    assert (0, 0, *added) == tuple(fixture[f"pad_{size}"])


def test_defaults_are_the_original():
    config = load_fixture("rmpe_util")["config_json"]
    assert config["params"]["thre1"] == PEAK_THRESHOLDS["exact"]
    assert config["params"]["thre2"] == inspect.signature(decode_paf).parameters["paf_threshold"].default
    options = inspect.signature(average_maps).parameters
    for name, original in (("box_size", "boxsize"), ("stride", "stride"), ("pad_value", "padValue")):
        assert options[name].default == config["model"][original]


def test_maps_are_averaged_at_another_size_where_asked():
    seen = []

    def predict(batch):
        seen.append((batch.dtype, batch.shape))
        maps = batch[:, ::8, ::8, :1] / 255
        return {"pafs": np.repeat(maps, 38, -1), "heatmaps": np.repeat(maps, 19, -1)}

    image = np.full((200, 100, 3), 255, np.uint8)
    heatmaps, pafs = average_maps(predict, image, scales=(0.5, 1), box_size=96, size=(50, 25))
    assert heatmaps.shape == (50, 25, 19) and pafs.shape == (50, 25, 38)
    assert seen == [(np.float32, (1, 48, 24, 3)), (np.float32, (1, 96, 48, 3))]
    np.testing.assert_allclose(heatmaps, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((10, 10), np.uint8), {}, "uint8"),
        (np.zeros((10, 10, 3), np.float32), {}, "float32"),
        (np.zeros((0, 10, 3), np.uint8), {}, "uint8"),
        (np.zeros((1, 4000, 3), np.uint8), {}, "too large; pass a smaller box_size"),
        (np.zeros((4000, 1, 3), np.uint8), {}, "nothing is left"),
        (np.zeros((6000, 8000, 3), np.uint8), {}, "smaller size"),
        (np.zeros((10, 10, 3), np.uint8), {"scales": ()}, "scales"),
        (np.zeros((10, 10, 3), np.uint8), {"scales": (1, np.nan)}, "scales"),
    ],
)
def test_images_without_maps_are_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        average_maps(None, image, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride"),
        ({"sigma": -1}, "sigma"),
        ({"limb_width": np.nan}, "limb_width"),
        ({"stride": np.nan}, "stride nan is not a whole number"),
        ({"stride": "8"}, "stride '8' is not"),
        ({"sigma": "7"}, "sigma '7' is no length"),
        ({"skeleton": None}, "skeleton None is no Skeleton, such as"),
        ({"combine": "mean"}, "sum, max"),
        ({"overlap": "first"}, "average, last"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PafCodec(**options)


@pytest.mark.parametrize("encode", ["encode_numpy", "encode"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8e6, 8e6), "1000000 x 1000000 cells of 57 values, are too large"),
        ((8 << 40, 8), "too large"),
        ((np.nan, 64), "nan x 64 pixels has no whole maps"),
        ((np.inf, 64), "no whole maps"),
        ((64,), "not .height, width. in pixels"),
        (64, "size 64 is not"),
        (("64", 64), "not .height, width."),
        (None, "size None is not"),
    ],
)
def test_sizes_without_maps_are_refused(encode, size, message):
    lead = (1,) if encode == "encode" else ()
    with pytest.raises(ValueError, match=message):
        getattr(PafCodec(), encode)(np.zeros((*lead, 1, 18, 2)), np.zeros((*lead, 1, 18), bool), size)


@pytest.mark.parametrize(
    ("heatmaps", "pafs", "message"),
    [
        ((5, 6, 18), (5, 6, 38), r"Heatmaps of shape \(5, 6, 18\).*width, 19\]"),
        ((5, 6, 19), (5, 6, 37), r"Fields of shape \(5, 6, 37\).*38\]"),
        ((5, 6, 19), (5, 7, 38), "Fields of shape"),
        ((2, 5, 6, 19), (5, 6, 38), "Fields of shape"),
        ((6, 19), (6, 38), "Heatmaps of shape"),
        ((), (), "Heatmaps of shape"),
    ],
)
def test_maps_that_do_not_fit_are_not_mirrored(heatmaps, pafs, message):
    with pytest.raises(ValueError, match=message):
        PafCodec().flip_maps(np.zeros(heatmaps), np.zeros(pafs))


def test_joints_that_do_not_fit_are_refused():
    codec = PafCodec()
    for encode, axes in ((codec.encode_numpy, 3), (codec.encode, 4)):
        lead = (1,) * (axes - 3)
        for joints, present in (((2, 17, 2), (2, 17)), ((2, 18, 3), (2, 18)), ((2, 18, 2), (3, 18)), ((18, 2), (18,))):
            with pytest.raises(ValueError, match="OPENPOSE18"):
                encode(np.zeros(lead + joints), np.zeros(lead + present, bool), (64, 64))
        with pytest.raises(ValueError, match="multiples of 8"):
            encode(np.zeros((*lead, 2, 18, 2)), np.zeros((*lead, 2, 18), bool), (64, 60))
