"""The compiled decoder finds what the plain one finds, whatever the maps and however they lie in memory."""

import concurrent.futures
import functools
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from compiled import needs_compiler

from posekit.codecs.paf import PafCodec, average_maps
from posekit.ops import decode_paf, decode_paf_batch
from posekit.skeletons import OPENPOSE18, Skeleton

pytestmark = needs_compiler

MODES = ("exact", "fast", "tf_pose")
SIZES = ((1, 1), (1, 7), (2, 2), (7, 3), (9, 90), (24, 40), (33, 17), (70, 61), (6, 203))
CHAIN = Skeleton("chain", ("a", "b", "c"), (("b", "a"), ("c", "b")))
LONGER = Skeleton("longer", tuple("abcde"), (("b", "a"), ("c", "b"), ("d", "c"), ("e", "b")))


@pytest.fixture
def both(monkeypatch):
    """Decodes by both paths and compares, in the exact mode to the last bit; returns what was found."""

    def run(*maps, **options):
        monkeypatch.setenv("POSEKIT_NATIVE", "0")
        plain = decode_paf(*maps, **options)
        monkeypatch.setenv("POSEKIT_NATIVE", "1")
        compiled = decode_paf(*maps, **options)
        for one, other in zip(*(part if isinstance(part, list) else [part] for part in (plain, compiled)), strict=True):
            for name, values in vars(one).items():
                found = getattr(other, name)
                assert found.shape == values.shape and found.dtype == values.dtype
                close = 0 if options.get("mode", "exact") == "exact" else 1e-5  # OpenCV's versions round otherwise
                np.testing.assert_allclose(found, values, rtol=close, atol=10 * close, err_msg=name)
        return compiled

    return run


def people_maps(count, cells=(46, 82), seed=0, noise=0.02):
    """Maps of a network that sees people who stand around, with some noise."""
    rng = np.random.default_rng(seed)
    height, width = (8 * side for side in cells)
    body = rng.normal(0, 1, (18, 2)) * [15, 30]
    joints = body + rng.uniform([0, 0], [width, height], (count, 1, 2)) + rng.normal(0, 4, (count, 18, 2))
    maps = PafCodec().encode_numpy(joints, rng.random((count, 18)) < 0.9, (height, width))
    return [(part + rng.normal(0, noise, part.shape)).astype(np.float32) for part in maps]


def random_maps(size, seed=0, skeleton=CHAIN, equal=True):
    """Noise with everything that is awkward: a spike, negative and large values, also equal ones and a plateau."""
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(0.1, 0.3, (*size, skeleton.num_joints + 1)).astype(np.float32)
    heatmaps[size[0] // 2, size[1] // 2, 0] = 9
    if equal:
        heatmaps[..., 1] = np.round(cv2.GaussianBlur(heatmaps[..., 1], (5, 5), 2), 1)
        heatmaps[size[0] // 2 :, : size[1] // 2, 2] = 0.5
    pafs = rng.normal(0.2, 0.4, (*size, 2 * len(skeleton.limbs))).astype(np.float32)
    return heatmaps, pafs


@pytest.mark.parametrize("people", [0, 1, 5, 30])
@pytest.mark.parametrize("mode", MODES)
def test_people(both, people, mode):
    heatmaps, pafs = people_maps(people, seed=people)
    if mode == "exact":
        image = np.zeros((8 * heatmaps.shape[0], 8 * heatmaps.shape[1], 3), np.uint8)
        enlarged = average_maps(lambda batch: (pafs[None], heatmaps[None]), image, box_size=len(image))
        found = both(*enlarged)
        for name, values in vars(both(heatmaps, pafs, upsampling=8)).items():
            np.testing.assert_array_equal(values, getattr(found, name), err_msg=name)
    else:
        found = both(heatmaps, pafs, mode=mode)
    assert len(found) <= people and len(found.peaks) >= 9 * people
    assert len(found) or not people


@pytest.mark.parametrize(("size", "mode"), [(size, mode) for size in SIZES for mode in MODES
                                            if mode == "exact" or 1 not in size])  # fmt: skip
def test_noise(both, size, mode):
    for seed in range(3):
        maps = random_maps(size, seed, equal=mode == "exact")
        both(*maps, mode=mode, skeleton=CHAIN, min_parts=2, min_score=-1)
        both(*maps, mode=mode, skeleton=CHAIN, min_parts=1, min_score=0, peak_threshold=0.4, paf_threshold=-0.5)
        both(*maps, mode=mode, skeleton=CHAIN, peak_threshold=-0.2)


@pytest.mark.parametrize("upsampling", [1, 2, 3, 8])
def test_maps_that_are_enlarged_first(both, upsampling):
    for cells, size in (((1, 1), None), ((1, 6), None), ((5, 4), (29, 30)), ((7, 9), None), ((6, 6), (41, 17))):
        size = size and [max(1, side * upsampling // 8) for side in size]
        for skeleton in (CHAIN, LONGER):
            heatmaps, pafs = random_maps(cells, skeleton=skeleton)
            options = {"skeleton": skeleton, "min_parts": 2, "min_score": 0}
            found = both(heatmaps, pafs, upsampling=upsampling, size=size, **options)
        large = [cv2.resize(part, None, fx=upsampling, fy=upsampling, interpolation=cv2.INTER_CUBIC)
                 for part in (heatmaps, pafs)]  # fmt: skip
        high, wide = size or large[0].shape[:2]
        expected = both(*(part[:high, :wide] for part in large), **options)
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
    with pytest.raises(ValueError, match=r"size is \(65, 8\); the enlarged maps are \(48, 48\)"):
        decode_paf(*random_maps((6, 6)), skeleton=CHAIN, upsampling=8, size=(65, 8))
    with pytest.raises(ValueError, match="upsampling is 0.5"):
        decode_paf(*random_maps((6, 6)), skeleton=CHAIN, upsampling=0.5)
    with pytest.raises(ValueError, match="mode='fast' takes the network's own maps"):
        decode_paf(*random_maps((6, 6)), skeleton=CHAIN, upsampling=8, mode="fast")


@pytest.mark.parametrize("mode", MODES)
def test_maps_that_lie_otherwise_in_memory(both, mode):
    heatmaps, pafs = people_maps(3, (30, 40), seed=3)
    options = {"mode": mode, "upsampling": 8} if mode == "exact" else {"mode": mode}
    expected = both(heatmaps, pafs, **options)
    together = np.concatenate([heatmaps, pafs], axis=-1)
    planes = np.moveaxis(np.ascontiguousarray(np.moveaxis(together, -1, 0)), 0, -1)
    turned = np.ascontiguousarray(together[::-1, ::-1])[::-1, ::-1]
    odd = np.zeros((30, 40, 57), np.dtype({"names": ["v"], "formats": ["f4"], "offsets": [1], "itemsize": 7}))
    odd["v"] = together
    wide = np.zeros((60, 80, 114), np.float32)
    wide[::2, ::2, ::2] = together
    others = planes, turned, odd["v"], wide[::2, ::2, ::2], together.astype(">f4"), np.asfortranarray(together)
    for maps in (together, *others):
        found = both(maps[..., :19], maps[..., 19:], **options)
        np.testing.assert_array_equal(found.subset, expected.subset)
        np.testing.assert_array_equal(found.peaks, expected.peaks)
    for name, values in vars(both(*(part.astype(np.float64) for part in (heatmaps, pafs)), **options)).items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_batches(both, mode):
    heatmaps, pafs = map(np.stack, zip(*(people_maps(people, (20, 30), seed=people) for people in (2, 0, 4, 1))))
    found = both(heatmaps, pafs, mode=mode, **({"upsampling": 8} if mode == "exact" else {}))
    assert len(found) == 4 and [len(people) for people in found][1] == 0
    repeated = both(np.broadcast_to(heatmaps[2], heatmaps.shape), np.broadcast_to(pafs[2], pafs.shape), mode=mode)
    assert len({len(people) for people in repeated}) == 1
    assert both(heatmaps[:0], pafs[:0], mode=mode) == []


@pytest.mark.parametrize("mode", MODES)
def test_hundreds_of_people(both, mode):
    heatmaps, pafs = people_maps(120, (60, 90), seed=1)
    found = both(heatmaps, pafs, mode=mode, **({"upsampling": 8} if mode == "exact" else {}))
    assert len(found) > 25


def test_maps_without_slope(both):
    heatmaps, pafs = np.full((40, 50, 4), 0.5, np.float32), np.full((40, 50, 4), 0.7, np.float32)
    assert len(both(heatmaps, pafs, skeleton=CHAIN).peaks) > 500
    with np.errstate(over="ignore", invalid="ignore"):
        both(heatmaps + np.float32(3e38), pafs, skeleton=CHAIN, min_score=-np.inf)
    both(np.zeros_like(heatmaps), pafs, skeleton=CHAIN, peak_threshold=-1)


@pytest.mark.parametrize("mode", MODES)
def test_single_cells(monkeypatch, mode):
    """Halves of a cell beside which nothing is are equal but for rounding: any of them may be the peak."""
    for size in ((1, 1), (1, 7), (5, 1)):
        maps, found = random_maps(size, equal=False), []
        for choice in "01":
            monkeypatch.setenv("POSEKIT_NATIVE", choice)
            found.append(decode_paf(*maps, mode=mode, skeleton=CHAIN, min_parts=1).peaks)
        np.testing.assert_allclose(*(sorted(peaks[:, [0, 3]].tolist()) for peaks in found), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_maps_without_slope_end_in_time(monkeypatch, mode):
    """Which of values that are equal but for rounding is a peak, the paths need not agree on."""
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    heatmaps, pafs = np.full((184, 328, 4), 0.5, np.float32), np.full((184, 328, 4), 0.7, np.float32)
    for height in (0.5, 3e38):
        heatmaps[:] = height
        found = decode_paf(heatmaps, pafs, mode=mode, skeleton=CHAIN, min_parts=2)
        assert len(found) <= 1000 and (found.peaks[:, 3] > 0).all()


def test_values_that_are_not_finite_are_counted_alike(monkeypatch):
    heatmaps, pafs = random_maps((12, 13))
    heatmaps, pafs = np.stack(4 * [heatmaps]), np.stack(4 * [pafs])
    pafs[2, 3, 4, :2] = np.nan
    heatmaps[3, 11, 12, 3] = np.inf
    for which, message in ((slice(None), "Fields hold 2 values"), (slice(3, 4), "Heatmaps hold 1 values")):
        for mode, upsampling in (("exact", 1), ("exact", 8), ("fast", 1), ("tf_pose", 1)):
            messages = set()
            for choice in "01":
                monkeypatch.setenv("POSEKIT_NATIVE", choice)
                with pytest.raises(ValueError, match=message) as error:
                    options = {"mode": mode, "skeleton": CHAIN, "upsampling": upsampling}
                    if upsampling == 8:
                        options["size"] = (40, 40)  # what is not finite lies in the padding
                    decode_paf(heatmaps[which], pafs[which], **options)
                messages.add(str(error.value))
            assert len(messages) == 1


def test_threads_decode_at_once(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    maps = [people_maps(people, seed=people) for people in range(6)]
    options = [{"mode": mode} for mode in ("fast", "tf_pose")] + [{"upsampling": 8}]
    work = [(part, option) for part in maps for option in options] * 3
    expected = [decode_paf(*part, **option) for part, option in work]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda task: decode_paf(*task[0], **task[1]), work))
    for one, other in zip(expected, found):
        np.testing.assert_array_equal(one.subset, other.subset)
        np.testing.assert_array_equal(one.peaks, other.peaks)


def test_the_result_does_not_depend_on_the_number_of_threads(kernels):
    heatmaps, pafs = people_maps(8)
    for mode in ({"mode": "fast"}, {"mode": "tf_pose"}, {"upsampling": 8}):
        kernels.posekit_set_num_threads(1)
        one = decode_paf(heatmaps, pafs, **mode)
        kernels.posekit_set_num_threads(5)
        several = decode_paf(heatmaps, pafs, **mode)
        np.testing.assert_array_equal(one.subset, several.subset)
        np.testing.assert_array_equal(one.peaks, several.peaks)
    assert one.keypoints.shape[1:] == (OPENPOSE18.num_joints, 2)


def padded(people, max_people):
    """What `decode_paf_batch` makes of the people of a batch."""
    expected = {"keypoints": [], "scores": [], "person_scores": [], "counts": []}
    for found in people:
        kept = np.sort(np.argsort(-found.person_scores, kind="stable")[:max_people])
        expected["counts"].append(len(kept))
        for name, filler in (("keypoints", np.nan), ("scores", 0), ("person_scores", 0)):
            values = getattr(found, name)
            room = np.full((max_people, *values.shape[1:]), filler, np.float32)
            room[: len(kept)] = values[kept]
            expected[name].append(room)
    return {name: np.stack(values) for name, values in expected.items()}


@pytest.mark.parametrize("options", [{"mode": "fast"}, {"mode": "tf_pose"}, {"mode": "exact", "upsampling": 8},
                                     {"mode": "exact"}, {"mode": "exact", "size": (20, 33)},
                                     {"mode": "exact", "upsampling": 3, "size": (70, 61)}])  # fmt: skip
@pytest.mark.parametrize("choice", ["0", "1"])
def test_decoding_within_programs(monkeypatch, options, choice):
    monkeypatch.setenv("POSEKIT_NATIVE", choice)
    heatmaps, pafs = map(np.stack, zip(*(people_maps(people, (24, 40), seed=people) for people in (2, 0, 6))))
    options = {**options, "min_parts": 2, "min_score": 0.2}
    most = 3 if options["mode"] == "fast" else 40
    expected = padded(decode_paf(heatmaps, pafs, **options), most)
    eager = decode_paf_batch(heatmaps, pafs, max_people=most, **options)
    run = functools.partial(decode_paf_batch, max_people=most, **options)
    program = tf.function(run)
    unknown = tf.function(run).get_concrete_function(*(tf.TensorSpec(None, tf.float32) for _ in range(2)))
    data = tf.data.Dataset.from_tensors((heatmaps, pafs)).map(program)
    for found in (eager, program(heatmaps, pafs), unknown(*map(tf.constant, (heatmaps, pafs))), next(iter(data))):
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert data.element_spec["keypoints"].shape.as_list() == [3, most, 18, 2]
    assert unknown.structured_outputs["scores"].shape.as_list() == [None, most, 18]
    half = decode_paf_batch(heatmaps.astype(np.float16), tf.cast(pafs, tf.bfloat16), **options)
    assert half["keypoints"].dtype == tf.float32 and half["counts"].shape == (3,)


@pytest.mark.parametrize("choice", ["0", "1"])
def test_what_cannot_be_decoded_within_programs(monkeypatch, choice):
    monkeypatch.setenv("POSEKIT_NATIVE", choice)
    heatmaps, pafs = np.zeros((2, 6, 7, 19), np.float32), np.zeros((2, 6, 7, 38), np.float32)
    assert decode_paf_batch(heatmaps[:0], pafs[:0])["keypoints"].shape == (0, 64, 18, 2)
    with pytest.raises(ValueError, match=r"\(2, 6, 7, 19\) and fields of shape \(2, 5, 7, 38\)"):
        decode_paf_batch(heatmaps, pafs[:, :5])
    for people in (-1, 2.5, 2**16 + 1, 2**60, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"max_people is {people}; it must be a whole number from 0 to 65536"):
            decode_paf_batch(heatmaps, pafs, max_people=people)
    assert decode_paf_batch(heatmaps, pafs, max_people=2**16)["scores"].shape == (2, 2**16, 18)
    with pytest.raises(ValueError, match="mode='fast' takes the network's own maps"):
        decode_paf_batch(heatmaps, pafs, upsampling=8)
    program = tf.function(decode_paf_batch).get_concrete_function(*(tf.TensorSpec(None, tf.float32) for _ in range(2)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"2, 6, 7, 19\D+2, 5, 7, 38"):
        program(tf.constant(heatmaps), tf.constant(pafs[:, :5]))
    for channels, others in ((5, 38), (20, 38), (19, 36), (19, 40)):
        maps = tf.zeros([2, 6, 7, channels]), tf.zeros([2, 6, 7, others])
        told = rf"2, 6, 7, {channels}\D+2, 6, 7, {others}\D.* skeleton .*width, 19\D.*width, 38\D"
        with pytest.raises(tf.errors.InvalidArgumentError, match=told):
            program(*maps)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"2, 0, 7, 19\D+2, 0, 7, 38"):
        program(tf.zeros([2, 0, 7, 19]), tf.zeros([2, 0, 7, 38]))
    heatmaps[1, 2, 3, 4] = np.nan
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="Heatmaps hold 1 values"):
        decode_paf_batch(heatmaps, pafs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Heatmaps hold 1 values"):
        program(tf.constant(heatmaps), tf.constant(pafs))


@pytest.mark.parametrize("most", [2**60, 2**62])
def test_outputs_whose_size_overflows_are_refused(monkeypatch, most):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    monkeypatch.setattr(sys.modules[decode_paf.__module__], "_MOST_PEOPLE", most)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"no output of shape .1, {most}, 18, 2"):
        decode_paf_batch(tf.zeros([1, 4, 4, 19]), tf.zeros([1, 4, 4, 38]), max_people=most)


@pytest.mark.parametrize("choice", ["0", "1"])
def test_gradients_end_at_what_is_decoded(monkeypatch, choice):
    monkeypatch.setenv("POSEKIT_NATIVE", choice)
    heatmaps, pafs = (tf.Variable(part[None]) for part in people_maps(2, (20, 30)))

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(decode_paf_batch(heatmaps, pafs)["scores"]) + tf.reduce_sum(heatmaps)
        return tape.gradient(value, heatmaps)

    np.testing.assert_array_equal(gradient(), np.ones(heatmaps.shape))
