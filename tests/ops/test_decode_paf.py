import cv2
import numpy as np
import pytest

from posekit.codecs.paf import PafCodec, average_maps
from posekit.ops import decode_paf
from posekit.ops.decode_paf import find_peaks, smooth_maps, smoothing_kernel
from posekit.skeletons import OPENPOSE18, Skeleton
from posekit.testing import load_fixture

DEGENERATE = (
    "border", "boxsize368_img184", "coincident_joints", "empty", "identical_twice", "lownoise", "odd_size_175x323",
    "overlap6px", "plateau_nose", "spikes_randpaf",
)  # fmt: skip
PHOTOGRAPHS = {
    "realpaf_a": ("p1.jpg", "p2.jpg", "p3.jpg", "p3_dance.png", "apink1.jpg", "apink2.jpg", "apink3.jpg"),
    "realpaf_b": (
        "ski.jpg", "golf.jpg", "COCO_val2014_000000000357.jpg", "handsup1.jpg", "hand1.jpg", "cat.jpg",
        "valid_person1.jpg",
    ),
}  # fmt: skip
PHOTOGRAPHS = [(file, name) for file, names in PHOTOGRAPHS.items() for name in names]
PEOPLE = ("people1", "people3", "people5_clean", "people8", "people20")


pytestmark = pytest.mark.usefixtures("path")


@pytest.fixture(scope="module")
def fixtures():
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = load_fixture(name)
        return loaded[name]

    return load


def enlarged(heatmaps, pafs, image_size, box_size=None):
    """The maps as the original decodes them: by `average_maps`, with a network that gives them."""
    image = np.zeros((*image_size, 3), np.uint8)
    return average_maps(
        lambda batch: (pafs[None], heatmaps[None]), image, scales=(1,), box_size=box_size or image_size[0]
    )


def assert_decodes(heatmaps, pafs, image_size, peaks, subset, box_size=None):
    """At the manifest's tolerance: x, y and numbers of peaks and ids of people exact, scores close."""
    decoded = decode_paf(*enlarged(heatmaps, pafs, image_size, box_size))
    assert decoded.peaks.shape == peaks.shape
    np.testing.assert_array_equal(decoded.peaks[:, [0, 1, 2, 4]], peaks[:, [0, 1, 2, 4]])
    np.testing.assert_allclose(decoded.peaks[:, 3], peaks[:, 3], rtol=0, atol=1e-5)
    assert_people(decoded, subset)
    return decoded


def assert_people(decoded, subset):
    assert decoded.subset.shape == subset.shape
    np.testing.assert_array_equal(decoded.subset[:, :18], subset[:, :18])
    np.testing.assert_allclose(decoded.subset[:, 18:], subset[:, 18:], rtol=1e-4)


@pytest.mark.parametrize("name", PEOPLE)
def test_exact_decoding_is_the_original(fixtures, name):
    fixture = fixtures(f"rmpe_decode_{name}")
    maps = fixture["heat"], fixture["paf"], tuple(fixture["image_hw"])
    decoded = assert_decodes(*maps, fixture["all_peaks"], fixture["subset"])
    np.testing.assert_allclose(decoded.candidate, fixture["candidate"], rtol=0, atol=1e-5)
    for joint, (found, place) in enumerate(zip(OPENPOSE18.joints, fixture["body_parts_json"].values())):
        first = decoded.peaks[decoded.peaks[:, 0] == joint][:1, 1:3]
        assert not len(first) or first[0].tolist() == place, found
    heatmaps, pafs = enlarged(*maps)
    np.testing.assert_allclose(heatmaps[::8, ::8], fixture["heat_avg_sub"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(pafs[::8, ::8], fixture["paf_avg_sub"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", DEGENERATE)
def test_exact_decoding_of_degenerate_maps_is_the_original(fixtures, case):
    fixture = fixtures("rmpe_decode_degenerate")
    take = {key.split("/")[1]: value for key, value in fixture.items() if key.startswith(f"{case}/")}
    box_size = 368 if case == "boxsize368_img184" else None
    decoded = assert_decodes(
        take["heat"], take["paf"], tuple(take["image_hw"]), take["all_peaks"], take["subset"], box_size
    )
    np.testing.assert_allclose(decoded.candidate, take["candidate"].reshape(-1, 4), rtol=0, atol=1e-5)


def test_exact_decoding_of_random_maps_is_the_original(fixtures):
    fixture = fixtures("rmpe_decode_fuzz")
    assert not any(fixture["errors_json"])
    for case in range(60):
        maps = (fixture[f"{kind}_q2048"][case].astype(np.float32) / 2048 for kind in ("heat", "paf"))
        assert_decodes(*maps, (96, 128), fixture[f"case{case:02d}_peaks"], fixture[f"case{case:02d}_subset"])


@pytest.mark.parametrize(("file", "name"), PHOTOGRAPHS)
def test_exact_decoding_of_photographs_is_the_original(fixtures, file, name):
    fixture = fixtures(file)
    maps = fixture[f"{name}/raw_f16"].astype(np.float32)
    assert_decodes(
        maps[..., :19], maps[..., 19:], (368, 432), fixture[f"{name}/py_all_peaks"], fixture[f"{name}/py_subset"]
    )


def test_exact_decoding_takes_double_precision_too(fixtures):
    fixture = fixtures("rmpe_decode_people3")
    heatmaps, pafs = enlarged(fixture["heat"], fixture["paf"], tuple(fixture["image_hw"]))
    one, other = decode_paf(heatmaps, pafs), decode_paf(heatmaps.astype(np.float64), pafs.astype(np.float64))
    for name, values in vars(one).items():
        np.testing.assert_array_equal(values, getattr(other, name), err_msg=name)


def test_parts_are_the_original_after_averaging_over_scales(fixtures):
    fixture = fixtures("rmpe_extract_parts_multiscale")
    options = fixture["params_json"]
    shapes = []

    def predict(batch):
        """The network of the reference values: means of cells through two random matrices."""
        shapes.append(batch.shape)
        count, height, width, channels = batch.shape
        cells = np.asarray(batch, np.float64).reshape(count, height // 8, 8, width // 8, 8, channels) / 256 - 0.5
        rng = np.random.RandomState(7)
        cells, field, heat = cells.mean(axis=(2, 4)), rng.randn(channels, 38) * 2, rng.randn(channels, 19) * 4
        return np.tanh(cells @ field).astype(np.float32), np.abs(np.tanh(cells @ heat)).astype(np.float32)

    heatmaps, pafs = average_maps(
        predict,
        fixture["image"],
        options["scale_search"],
        options["boxsize"],
        options["stride"],
        options["padValue"],
    )
    assert np.array(shapes).tolist() == fixture["input_shapes"].tolist()
    np.testing.assert_allclose(heatmaps[::3, ::3], fixture["heat_avg_sub"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(pafs[::3, ::3], fixture["paf_avg_sub"], rtol=0, atol=1e-4)
    decoded = decode_paf(heatmaps, pafs, peak_threshold=options["thre1"], paf_threshold=options["thre2"])
    found, expected = ({tuple(peak) for peak in peaks[:, :3]} for peaks in (decoded.peaks, fixture["all_peaks"]))
    assert len(found ^ expected) <= 4
    if found == expected:
        assert_people(decoded, fixture["subset"])


def assert_tf_pose(heatmaps, pafs, fixture, name):
    decoded = decode_paf(heatmaps, pafs, mode="tf_pose")
    peaks = decoded.peaks[:, [2, 1, 0]]
    order = np.lexsort(fixture[f"{name}/cpp_peaks_yxc"].T[[1, 0, 2]])
    order = order[fixture[f"{name}/cpp_peaks_yxc"][order, 2] < 18]
    np.testing.assert_array_equal(peaks, fixture[f"{name}/cpp_peaks_yxc"][order])
    np.testing.assert_allclose(decoded.peaks[:, 3], fixture[f"{name}/cpp_peaks_heat"][order], rtol=1e-4)
    people = fixture[f"{name}/cpp_humans"]
    assert len(decoded) == len(people)
    numbers = decoded.subset[:, :18].astype(int)
    np.testing.assert_array_equal(numbers, people[..., 3])
    there = numbers >= 0
    np.testing.assert_array_equal(decoded.keypoints[there], people[there][:, :2] * 2)
    assert np.isnan(decoded.keypoints[~there]).all() and not decoded.scores[~there].any()
    np.testing.assert_allclose(decoded.scores[there], people[there][:, 2], rtol=1e-4)
    np.testing.assert_allclose(decoded.person_scores, fixture[f"{name}/cpp_scores"], rtol=1e-4)


@pytest.mark.parametrize(("file", "name"), PHOTOGRAPHS)
def test_decoding_of_photographs_as_tf_pose(fixtures, file, name):
    maps = fixtures(file)[f"{name}/raw_f16"].astype(np.float32)
    assert_tf_pose(maps[..., :19], maps[..., 19:], fixtures(file), name)
    fine = maps[..., :19].repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_allclose(fine[::8, ::8], fixtures(file)[f"{name}/heat_up_sub"], rtol=1e-6)


@pytest.mark.parametrize("name", ["people1", "people3", "people8", "people20"])
def test_decoding_of_many_people_as_tf_pose(fixtures, name):
    maps = fixtures(f"rmpe_decode_{name}")
    assert_tf_pose(maps["heat"], maps["paf"], fixtures("realpaf_cpp_synth"), name)


def test_smoothing_kernel_is_that_of_tf_pose(fixtures):
    np.testing.assert_array_equal(smoothing_kernel(), fixtures("realpaf_smoother_kernel")["kernel"])


def joints_found(exact, fast, within=4):
    """How many of exact's joints the person of fast who has most of them has within so many pixels, and how many."""
    near = (np.linalg.norm(exact.keypoints[:, None] - fast.keypoints, axis=-1) <= within).sum(-1)
    found = 0
    while near.size and near.max() > 0:
        one, other = np.unravel_index(near.argmax(), near.shape)
        found += near[one, other]
        near[one], near[:, other] = 0, 0
    return found, np.isfinite(exact.keypoints[..., 0]).sum()


def test_fast_decoding_finds_the_same_people(fixtures):
    everything = [(fixtures(f"rmpe_decode_{name}"), "heat", "paf") for name in PEOPLE]
    everything = [(fixture[heat], fixture[paf]) for fixture, heat, paf in everything]
    for file, name in PHOTOGRAPHS:
        maps = fixtures(file)[f"{name}/raw_f16"].astype(np.float32)
        everything.append((maps[..., :19], maps[..., 19:]))
    found = []
    for heatmaps, pafs in everything:
        exact = decode_paf(*enlarged(heatmaps, pafs, (8 * heatmaps.shape[0], 8 * heatmaps.shape[1])))
        fast = decode_paf(heatmaps, pafs, mode="fast")
        assert len(exact) == len(fast)
        found.append(joints_found(exact, fast))
    found = np.array(found)
    assert found[:, 0].sum() >= 0.95 * found[:, 1].sum()
    assert found[5:, 0].sum() >= 0.98 * found[5:, 1].sum()  # of the photographs


@pytest.mark.parametrize("mode", ["exact", "fast", "tf_pose"])
def test_batches_are_decoded_one_by_one(fixtures, mode):
    maps = fixtures("realpaf_a")["p2.jpg/raw_f16"]
    heatmaps, pafs = maps[..., :19], maps[..., 19:]  # half precision
    one = decode_paf(heatmaps, pafs, mode=mode)
    batch = decode_paf(np.stack([0 * heatmaps, heatmaps]), np.stack([pafs, pafs]), mode=mode)
    assert [len(people) for people in batch] == [0, len(one)]
    np.testing.assert_array_equal(batch[1].keypoints, one.keypoints)
    assert batch[0].keypoints.shape == (0, 18, 2) and batch[0].scores.shape == (0, 18)


@pytest.mark.parametrize("size", [(24, 40), (13, 50), (1, 1), (7, 3), (9, 90), (33, 17)])
def test_peaks_are_those_of_maps_smoothed_as_a_whole(size):
    rng = np.random.default_rng(size[0])
    maps = rng.normal(0.1, 0.3, (*size, 4)).astype(np.float32)
    maps[..., 2] = np.round(cv2.GaussianBlur(maps[..., 2], (5, 5), 2), 1)  # many equal values
    maps[size[0] // 2, size[1] // 2, 0] = 9
    smoothed = smooth_maps(maps)
    expected = []
    padded = np.pad(smoothed, ((1, 1), (1, 1), (0, 0)))
    for joint in range(3):
        for y in range(size[0]):
            for x in range(size[1]):
                value, around = smoothed[y, x, joint], padded[y : y + 3, x : x + 3, joint]
                if value > 0.1 and value >= max(around[0, 1], around[2, 1], around[1, 0], around[1, 2]):
                    expected.append((joint, x, y))
    assert find_peaks(maps, "exact", 0.1)[:, :3].tolist() == [list(map(float, peak)) for peak in expected]


def test_fast_peaks_lie_between_cells():
    row, column = np.mgrid[:20, :30]
    places = np.array([[7.3, 5.6], [12.0, 18.0], [22.5, 3.5], [0.2, 0.1], [28.8, 18.9]])
    maps = [np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * 0.875**2)) for x, y in places]
    peaks = find_peaks(np.stack([*maps, maps[0]], axis=-1).astype(np.float32), "fast")
    assert peaks[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(peaks[:3, 1:3], places[:3], atol=0.06)  # of a cell: half a pixel
    np.testing.assert_allclose(peaks[3:, 1:3], places[3:], atol=0.5)  # at the border


def test_a_skeleton_of_ones_own_is_decoded():
    skeleton = Skeleton("bird", ("head", "body", "tail"), (("head", "body"), ("tail", "body")))
    codec = PafCodec(skeleton)
    joints = np.array([[[40, 30], [80, 60], [150, 60]], [[200, 150], [220, 100], [260, 110]]], np.float64)
    maps = codec.encode_numpy(joints, np.ones((2, 3), bool), (200, 304))
    people = codec.decode(*maps, min_parts=3)
    assert len(people) == 2
    order = np.argsort(people.keypoints[:, 0, 0])
    np.testing.assert_allclose(people.keypoints[order], joints, atol=1.5)
    assert (people.person_scores > 0.8).all()


@pytest.mark.parametrize("mode", ["exact", "fast", "tf_pose"])
def test_maps_of_an_untrained_network_end_in_time(mode):
    skeleton = Skeleton("rod", ("left_end", "right_end"), (("left_end", "right_end"),))
    side = {"exact": 96, "fast": 64, "tf_pose": 24}[mode]
    rng = np.random.default_rng(0)
    heatmaps = np.full((side, side, 3), 0.5, np.float32)
    if mode == "fast":  # where neighbours are equal, one of them is a peak
        heatmaps[::2, ::2] = 1
    pafs = rng.normal(0, 1, (side, side, 2)).astype(np.float32)
    people = decode_paf(heatmaps, pafs, mode=mode, skeleton=skeleton, min_parts=2)
    assert len(people.peaks) > 1500
    assert len(people) <= 500


def test_bad_maps_are_refused():
    heatmaps, pafs = np.zeros((8, 9, 19), np.float32), np.zeros((8, 9, 38), np.float32)
    for one, other in ((heatmaps[..., :18], pafs), (heatmaps, pafs[:, :8]), (heatmaps[0], pafs[0]), (pafs, heatmaps)):
        with pytest.raises(ValueError, match=r"19\].*38\]") as error:
            decode_paf(one, other)
        assert str(one.shape) in str(error.value) and str(other.shape) in str(error.value)
    for bad in (np.nan, np.inf):
        for mode in ("exact", "fast", "tf_pose"):
            broken = heatmaps.copy()
            broken[3, 4, 5] = bad
            with pytest.raises(ValueError, match="Heatmaps hold 1 values"):
                decode_paf(broken, pafs, mode=mode)
            broken = pafs.copy()
            broken[3, 4, 5] = bad
            with pytest.raises(ValueError, match="Fields hold 1 values"):
                decode_paf(heatmaps, broken, mode=mode)
    with pytest.raises(ValueError, match="mode is 'quick'; choose from exact, fast, tf_pose"):
        decode_paf(heatmaps, pafs, mode="quick")
    with pytest.raises(ValueError, match="stride"):
        decode_paf(heatmaps, pafs, stride=0)
    with pytest.raises(ValueError, match="skeleton is 'OPENPOSE18'; give a Skeleton"):
        decode_paf(heatmaps, pafs, skeleton="OPENPOSE18")
    for name in ("peak_threshold", "paf_threshold", "min_parts", "min_score", "stride", "upsampling"):
        for value in ("x", float("nan"), [1, 2], *([] if name in ("peak_threshold", "min_score") else [None])):
            with pytest.raises(ValueError, match=f"{name} is .*; it must be a number"):
                decode_paf(heatmaps, pafs, **{name: value})
    for name, value in (("stride", np.inf), ("upsampling", np.inf), ("upsampling", 2**40), ("upsampling", 65)):
        with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
            decode_paf(heatmaps, pafs, **{name: value})
    for size in (5, (np.nan, 3), ("a", "b"), (np.inf, 3), (5.9, 3.2), (5, 3, 1), (0, 3)):
        with pytest.raises(ValueError, match="size is .* pixels of them can be used"):
            decode_paf(heatmaps, pafs, size=size)
    with pytest.raises(ValueError, match="Maps are complex64; give real numbers"):
        decode_paf(heatmaps.astype("complex64"), pafs)
    assert len(decode_paf(heatmaps + np.float32(3e38), pafs)) == 0  # finite, though their sum is not
