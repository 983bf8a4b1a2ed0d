import numpy as np
import pytest

from posekit.codecs.paf import PafCodec
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
