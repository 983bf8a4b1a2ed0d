import numpy as np
import pytest

from posekit.codecs.paf import average_maps
from posekit.ops import decode_paf
from posekit.skeletons import OPENPOSE18
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
