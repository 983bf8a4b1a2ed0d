"""Blur, warps and rotation equal TensorFlow Addons'; crops equal resize + pad + slice; points land with pixels."""

import json

import numpy as np
import pytest
import tensorflow as tf

from posekit.geometry import images
from posekit.testing import FIXTURES, load_fixture

REFERENCE = load_fixture("card_tfa_image")
CASES = json.loads((FIXTURES / "card_manifest.json").read_text())["card_tfa_image.npz"]["cases"]


def cases_of(*calls):
    return [name for name, case in CASES.items() if case["call"] in [f"tfa.image.{call}" for call in calls]]


def array(expression):
    name, _, index = expression.partition("[")
    return eval(f"values[{index}", {"values": REFERENCE[name]}) if index else REFERENCE[name]


def arguments(name, *drop):
    return {key: value for key, value in CASES[name].items() if key not in ("call", "image", "images", *drop)}


@pytest.mark.parametrize("name", cases_of("gaussian_filter2d"))
def test_gaussian_filter(name):
    image = array(CASES[name]["image"])
    blurred = images.gaussian_filter2d(image, **arguments(name)).numpy()
    assert blurred.dtype == image.dtype and blurred.shape == image.shape
    if image.dtype == np.uint8:
        np.testing.assert_array_equal(blurred, REFERENCE[name])
    else:
        np.testing.assert_allclose(blurred, REFERENCE[name], atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", cases_of("transform"))
def test_projective_transform(name):
    image, transforms = array(CASES[name]["images"]), array(CASES[name]["transforms"])
    warped = images.projective_transform(image, transforms, **arguments(name, "transforms")).numpy()
    assert warped.dtype == image.dtype
    np.testing.assert_array_equal(warped, REFERENCE[name])


def test_projective_transform_gradient():
    image = tf.constant(REFERENCE["x"])
    with tf.GradientTape() as tape:
        tape.watch(image)
        warped = images.projective_transform(image, REFERENCE["T2"], "bilinear")
        value = tf.reduce_sum(warped * REFERENCE["transform_grad_weight"])
    gradient = tape.gradient(value, image).numpy()
    np.testing.assert_allclose(gradient, REFERENCE["transform_grad_T2_bilinear"], atol=1e-5)


@pytest.mark.parametrize("name", cases_of("rotate"))
def test_rotate(name):
    rotated = images.rotate(array(CASES[name]["images"]), **arguments(name)).numpy()
    np.testing.assert_allclose(rotated, REFERENCE[name], atol=0 if "nearest" in name.split("_")[2] else 1e-5)


def test_rotation_transforms():
    case = CASES["angles_to_projective_transforms"]
    transforms = images.rotation_transforms(case["angles"], (case["image_height"], case["image_width"]))
    np.testing.assert_allclose(transforms, REFERENCE["angles_to_projective_transforms"], atol=1e-5)


def test_rotation_worked_by_hand():
    picture = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(images.rotate(picture, np.pi / 2), np.rot90(picture))


def test_sigma_zero_leaves_the_image():
    image = REFERENCE["x"]
    np.testing.assert_allclose(images.gaussian_filter2d(image, 5, 0.0), image, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.3, np.pi / 2])
def test_one_white_pixel_stays_on_its_point(angle):
    picture = np.zeros((1, 41, 51, 1), np.float32)
    picture[0, 17, 30] = 1.0
    size = picture.shape[1:3]
    for transforms in (
        images.rotation_transforms(angle, size),
        np.array([[1.1, 0.2, -3.0, -0.1, 0.9, 2.0, 0.001, -0.002]], np.float32),
    ):
        warped = images.projective_transform(picture, transforms, "bilinear").numpy()[0, :, :, 0]
        x, y = images.transform_points([[[30.0, 17.0]]], transforms).numpy()[0, 0]
        rows, columns = np.mgrid[: size[0], : size[1]]
        landed = np.array([(warped * columns).sum(), (warped * rows).sum()]) / warped.sum()
        np.testing.assert_allclose(landed, [x, y], atol=0.2)


def test_one_white_pixel_stays_in_the_middle_of_its_blur():
    picture = np.zeros((1, 31, 31, 2), np.float32)
    picture[0, 12, 20, 1] = 1.0
    blurred = images.gaussian_filter2d(picture, 9, 1.5).numpy()[0]
    assert np.unravel_index(blurred.argmax(), blurred.shape) == (12, 20, 1)
    np.testing.assert_allclose(blurred.sum(), 1.0, rtol=1e-5)
    assert not blurred[..., 0].any()


def test_pad_edge():
    image = np.random.default_rng(0).random((2, 5, 7, 3)).astype(np.float32)
    for margin in (0, 1, 11):
        expected = np.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        np.testing.assert_array_equal(images.pad_edge(image, margin), expected)
        np.testing.assert_array_equal(images.pad_edge(image[1], margin), expected[1])


def whole_image_crop(image, resized_size, start, crop_size):
    margin = 400
    padded = np.pad(tf.image.resize(image, resized_size), ((margin,) * 2, (margin,) * 2, (0, 0)), mode="edge")
    y, x = start[0] + margin, start[1] + margin
    return padded[y : y + crop_size[0], x : x + crop_size[1]]


@pytest.mark.parametrize("resized_size", [(48, 40), (61, 53), (60, 50), (33, 90), (7, 5)])
@pytest.mark.parametrize("start", [(5, 4), (-20, -30), (50, 30), (-300, 90)])
def test_resized_crop_equals_resize_pad_slice(resized_size, start):
    image = np.random.default_rng(1).random((60, 50, 3)).astype(np.float32)
    expected = whole_image_crop(image, resized_size, start, (32, 24))
    crop = images.resized_crop(image, resized_size, start, (32, 24))
    np.testing.assert_allclose(crop, expected, atol=1e-5)
    flipped = images.resized_crop(image, resized_size, start, (32, 24), flip=True)
    np.testing.assert_array_equal(flipped, crop.numpy()[:, ::-1])
    # The window under the crop is enough, and is not larger than needed.
    y, x, height, width = images.crop_window((60, 50), resized_size, start, (32, 24)).numpy()
    window = image[y : y + height, x : x + width]
    assert window.shape[:2] == (height, width) and height > 0 and width > 0
    part = images.resized_crop(window, resized_size, start, (32, 24), (y, x), (60, 50))
    np.testing.assert_array_equal(part, crop)


def test_resized_crop_reads_whole_numbers():
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 1), np.uint8)
    crop = images.resized_crop(image, (20, 30), (2, 3), (10, 10)).numpy()
    np.testing.assert_array_equal(crop, image[2:12, 3:13])


def test_same_in_a_graph_with_unknown_sizes():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None])])
    def chain(batch):
        return images.rotate(images.gaussian_filter2d(images.pad_edge(batch, 3), 5, 1.0), 0.3, "bilinear")

    eager = images.rotate(images.gaussian_filter2d(images.pad_edge(REFERENCE["x"], 3), 5, 1.0), 0.3, "bilinear")
    np.testing.assert_allclose(chain(REFERENCE["x"]), eager, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: images.gaussian_filter2d(x, padding="EDGE"), "REFLECT, CONSTANT, SYMMETRIC"),
        (lambda x: images.gaussian_filter2d(x, filter_shape=0), "filter_shape"),
        (lambda x: images.gaussian_filter2d(x, sigma=(1.0, -1.0)), "sigma"),
        (lambda x: images.gaussian_filter2d(x[..., None]), "Images must have shape"),
        (lambda x: images.projective_transform(x, np.zeros(7)), r"\[batch, 8\]"),
        (lambda x: images.projective_transform(x, np.zeros(8), interpolation="cubic"), "nearest, bilinear"),
        (lambda x: images.rotate(x, 0.1, fill_mode="edge"), "constant, reflect, wrap, nearest"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(REFERENCE["x"])
