"""Ops that compute with NumPy say what to call within programs that TensorFlow traces."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import decode_paf, decode_paf_batch, rasterize

HEATMAPS, PAFS = np.zeros((5, 6, 19), np.float32), np.zeros((5, 6, 38), np.float32)
TRIANGLE, FACES = np.array([[-1.0, -1.0, 4.0], [1.0, -1.0, 4.0], [0.0, 1.0, 4.0]]), np.array([[0, 1, 2]])


def draw(vertices, faces=FACES, focal=8.0, **options):
    return rasterize(vertices, faces, focal, (4, 4), (9, 9), **options)


@pytest.mark.parametrize(
    "function, given, message",
    [
        (decode_paf, (HEATMAPS, PAFS), r"call decode_paf_batch\(..., mode='exact', upsampling=1\) there"),
        (decode_paf, (HEATMAPS[None], PAFS[None]), "decode_paf takes arrays"),
        (draw, (TRIANGLE,), "rasterize takes arrays.*: call it through tf.numpy_function there"),
        (draw, (TRIANGLE[None],), "rasterize takes arrays"),
        (lambda faces: draw(TRIANGLE, faces), (FACES,), "rasterize takes arrays"),
        (lambda focal: draw(TRIANGLE, FACES, focal), (np.array([8.0, 8.0]),), "rasterize takes arrays"),
        (lambda near: draw(TRIANGLE, near=near), (np.array(0.5),), "rasterize takes arrays"),
        (lambda *lens: draw(TRIANGLE, distortion=lens), (np.zeros(5), np.zeros(5)), "rasterize takes arrays"),
    ],
)
@pytest.mark.parametrize("place", ["function", "function without AutoGraph", "dataset", "variables"])
def test_tensors_without_a_value_are_refused(path, place, function, given, message):
    with pytest.raises(ValueError, match=message):
        if place == "dataset":
            tf.data.Dataset.from_tensors(given).map(function)
        elif place == "variables":
            variables = [tf.Variable(part) for part in given]
            tf.function(lambda: function(*variables))()
        else:
            tf.function(function, autograph=place == "function")(*map(tf.constant, given))


def test_errors_of_the_work_itself_are_not_taken_for_it(monkeypatch):
    def fail(*arguments):
        raise NotImplementedError("by somebody else")

    monkeypatch.setattr("posekit.geometry.rasterize.check_arguments", fail)
    with pytest.raises(NotImplementedError, match="somebody else"):
        draw(TRIANGLE)


def test_tensors_with_a_value_are_arrays(path):
    assert len(decode_paf(tf.constant(HEATMAPS), tf.Variable(PAFS))) == 0
    assert draw(tf.constant(TRIANGLE), tf.constant(FACES)).depth[3, 4] == 4


def test_what_is_named_instead_works_there(path):
    found = tf.function(lambda *maps: decode_paf_batch(*maps)["counts"])(HEATMAPS[None], PAFS[None])
    assert found.numpy().tolist() == [0]
    depth = tf.function(lambda mesh: tf.numpy_function(lambda given: draw(given).depth, [mesh], tf.float32))
    assert depth(TRIANGLE)[3, 4] == 4
