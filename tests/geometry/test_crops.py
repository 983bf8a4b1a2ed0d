"""Crops for prediction: the original's pixels and numbers, the way back, and image and keypoint landing together."""

import cv2
import numpy as np
import pytest

from posekit.geometry.crops import Crop, person_crop, resize_image, scale_and_crop
from posekit.testing import load_fixture

ORIGINAL = load_fixture("hmr_scale_and_crop")


@pytest.mark.parametrize("case", range(len(ORIGINAL["cases_json"])))
def test_equals_the_original(case):
    scale, center, size = ORIGINAL["cases_json"][case]
    resized, factors = resize_image(ORIGINAL["img"], scale)
    np.testing.assert_allclose(resized.astype(int), ORIGINAL[f"c{case}_resized"].astype(int), atol=1)
    pixels, crop = scale_and_crop(ORIGINAL["img"], scale, center, size)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), ORIGINAL[f"c{case}_crop"].astype(int), atol=1)
    # The original hands back the nominal scale, twice; the factors below are what its resizing returned.
    rounded = np.array(resized.shape[1::-1]) / ORIGINAL["img"].shape[1::-1]
    np.testing.assert_array_equal(factors, rounded)
    np.testing.assert_array_equal(crop.scale, rounded)
    start = np.array(crop.offset_px) + size // 2
    np.testing.assert_array_equal(start, ORIGINAL[f"c{case}_start"])
    np.testing.assert_array_equal(start + crop.size, ORIGINAL[f"c{case}_end"])


@pytest.mark.parametrize("scale", [0.13, 0.5, 0.77, 1.0, 1.61])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_crop_equals_resizing_the_whole_image(scale, channels):
    rng = np.random.default_rng(int(scale * 100))
    image = rng.integers(0, 256, (117, 203, *channels), np.uint8)
    resized, _ = resize_image(image, scale)
    assert resized.shape[2:] == channels
    for center in [(100, 60), (0, 0), (202, 116), (300, -80)]:
        pixels, crop = scale_and_crop(image, scale, center, 64)
        columns = np.clip(np.arange(64) + int(crop.offset_px[0]), 0, resized.shape[1] - 1)
        rows = np.clip(np.arange(64) + int(crop.offset_px[1]), 0, resized.shape[0] - 1)
        expected = resized[rows[:, None], columns]
        assert pixels.shape == expected.shape
        np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=1)


def test_float_image_is_interpolated_exactly():
    image = np.random.default_rng(0).random((40, 60, 3)).astype(np.float32)
    pixels, crop = scale_and_crop(image, 0.7, (30, 20), 20)
    resized = cv2.resize(image, (42, 28))
    assert pixels.dtype == np.float32
    x, y = (int(o) for o in crop.offset_px)
    np.testing.assert_allclose(pixels, resized[y : y + 20, x : x + 20], atol=1e-6)


def test_to_image_inverts_to_crop():
    rng = np.random.default_rng(1)
    _, crop = scale_and_crop(rng.integers(0, 256, (87, 133, 3), np.uint8), 0.613, (20, 70), 224)
    points = rng.uniform(-500, 500, (5, 19, 2))
    np.testing.assert_allclose(crop.to_image(crop.to_crop(points)), points, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(crop.to_crop(crop.to_image(points)), points, rtol=1e-13, atol=1e-11)


def test_map_worked_by_hand():
    crop = Crop(scale=(0.5, 2.0), offset_px=(10.0, -20.0), size=224)
    np.testing.assert_array_equal(crop.to_crop([100.0, 30.0]), [40.0, 80.0])
    np.testing.assert_array_equal(crop.to_image([40.0, 80.0]), [100.0, 30.0])


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.23, 2.0])
def test_one_white_pixel_lands_on_its_keypoint(scale):
    rng = np.random.default_rng(3)
    for x, y in rng.integers(30, 90, (20, 2)):
        image = np.zeros((120, 120, 3), np.float32)
        image[y, x] = 1.0
        pixels, crop = scale_and_crop(image, scale, (60, 60), 200)
        weight = pixels[..., 0]
        landed = np.array([(weight.sum(0) * np.arange(200)).sum(), (weight.sum(1) * np.arange(200)).sum()])
        # Pixel centres map to x * scale + (scale - 1) / 2, keypoints to x * scale, as in the original.
        expected = crop.to_crop((x, y)) + (np.array(crop.scale) - 1) / 2
        np.testing.assert_allclose(landed / weight.sum(), expected, atol=0.26)


def test_person_crop_centres_and_scales_the_box():
    image = np.random.default_rng(4).integers(0, 256, (400, 600, 3), np.uint8)
    box = (200, 100, 290, 220)  # its diagonal measures 150
    pixels, crop = person_crop(image, box=box)
    assert pixels.shape == (224, 224, 3)
    np.testing.assert_allclose(crop.scale, 1.0)
    np.testing.assert_allclose(crop.to_crop([245, 160]), 112, atol=0.5)
    np.testing.assert_array_equal(pixels, image[160 - 112 : 160 + 112, 245 - 112 : 245 + 112])
    corners = np.array([[200, 100, 0.9], [290, 220, 0.3], [0, 0, 0.1], [599, np.nan, 1.0]])
    other, same = person_crop(image, keypoints=corners)
    assert same == crop
    np.testing.assert_array_equal(other, pixels)
    person_crop(image, keypoints=corners[:2, :2])


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (224, 224), (90, 61)])
def test_person_crop_of_a_whole_image_fits_its_longer_side(shape):
    image = np.full((*shape, 3), 7, np.uint8)
    pixels, crop = person_crop(image)
    assert pixels.shape == (224, 224, 3) and np.all(pixels == 7)
    corners = crop.to_crop([[0, 0], [shape[1], shape[0]]])
    assert abs(np.ptp(corners, axis=0).max() - 224) <= 1
    # Half a pixel of rounding in the image, half a pixel in the crop.
    np.testing.assert_allclose(corners.mean(0), 112, atol=0.5 * max(crop.scale) + 0.5)


def test_cost_does_not_depend_on_the_scale():
    image = np.zeros((3000, 4000, 3), np.uint8)
    pixels, crop = person_crop(image, box=(10, 10, 14, 13))  # would scale the image to 120000 x 90000
    assert pixels.shape == (224, 224, 3) and crop.scale == (30.0, 30.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: person_crop(i, box=(0, 0, 5, 5), keypoints=np.ones((3, 2))), "not both"),
        (lambda i: person_crop(i, box=(5, 0, 5, 5)), "x_min < x_max"),
        (lambda i: person_crop(i, box=(0, 0, np.nan, 5)), "finite"),
        (lambda i: person_crop(i, keypoints=np.zeros((14, 3))), "0 visible keypoints"),
        (lambda i: person_crop(i, keypoints=np.zeros((14, 4))), r"\[joints, 2\]"),
        (lambda i: scale_and_crop(i, -1.0, (5, 5), 8), "positive"),
        (lambda i: scale_and_crop(i, 1e-3, (5, 5), 8), "choose a scale"),
        (lambda i: scale_and_crop(i, 1.0, (5, np.inf), 8), "finite"),
        (lambda i: scale_and_crop(i, 1.0, (5, 5), 1), "too small"),
        (lambda i: scale_and_crop(i[:0], 1.0, (5, 5), 8), "at least one pixel"),
        (lambda i: scale_and_crop(i.astype(np.int64), 1.0, (5, 5), 8), "uint8"),
        (lambda i: resize_image(i, np.nan), "positive"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((20, 20, 3), np.uint8))
