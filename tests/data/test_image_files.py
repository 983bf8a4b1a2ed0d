"""What passes for a usable picture here, TensorFlow must be able to decode later, in training."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from posekit.data.image_files import ImageFileError, decode_image, image_header


def jpeg(*options):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8), (0, 0), 2)
    return cv2.imencode(".jpg", smooth, list(options))[1].tobytes()


KINDS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sound_pictures_pass(kind):
    data = jpeg(*KINDS[kind])
    header = image_header(data)
    assert (header.image_format, header.height, header.width) == ("JPEG", 96, 80)
    assert image_header(data + b"what cameras append \xff\xd8") == header


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures_that_pass_can_be_decoded_in_training(kind):
    data, rng = jpeg(*KINDS[kind]), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(len(data) // 4, len(data) - 2, 3)] = (0xFF, *rng.integers(0, 256, 2))
        try:
            decode_image(damaged.tobytes())
        except ImageFileError:
            refused += 1
            continue
        tf.io.decode_jpeg(damaged.tobytes(), channels=3)
    assert refused > 20
