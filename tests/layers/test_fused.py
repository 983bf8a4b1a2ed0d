import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import BitDropout, FusedBatchNormalization
from posekit.testing import check_half_precision, check_layer


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "momentum": 0.5, "epsilon": 0.1}])
def test_batch_normalization_equals_keras(options):
    ours, theirs = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    inputs = tf.constant(features(5, 7, 4))
    direction = features(5, 7, 4, seed=1)
    results = []
    for layer in (ours, theirs):
        layer.build(inputs.shape)
        for variable in layer.trainable_variables:
            variable.assign(np.linspace(0.5, 2, 4))
        for _ in range(2):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=True)
                loss = tf.reduce_sum(outputs * direction)
        gradients = tape.gradient(loss, [inputs, *layer.trainable_variables])
        results.append([outputs, *gradients, *layer.weights, layer(inputs)])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_frozen_batch_normalization_keeps_its_statistics():
    layer = FusedBatchNormalization()
    layer.build((None, 3, 2))
    layer.trainable = False
    inputs = features(4, 3, 2)
    np.testing.assert_allclose(layer(inputs, training=True), inputs / np.sqrt(1 + 1e-3), rtol=1e-5)
    assert not layer.moving_mean.numpy().any()


@pytest.mark.parametrize("shape, options", [((5, 4), {}), ((5, 7, 4), {"axis": 1}), ((5, 3, 3, 4), {})])
def test_other_inputs_are_normalised_by_keras(shape, options):
    ours, theirs = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    np.testing.assert_allclose(ours(features(*shape), training=True), theirs(features(*shape), training=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_weights_are_normalised_by_keras(dtype):
    inputs = features(5, 7, 4)
    ours, theirs = (
        kind(dtype=dtype)(inputs, training=True) for kind in (FusedBatchNormalization, keras.layers.BatchNormalization)
    )
    assert ours.dtype == dtype
    np.testing.assert_array_equal(tf.cast(ours, "float64"), tf.cast(theirs, "float64"))


def test_one_point_has_no_variance():
    layer = FusedBatchNormalization()
    np.testing.assert_allclose(layer(features(1, 1, 4), training=True), np.zeros((1, 1, 4)), atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, np.full(4, 0.99), rtol=1e-6)


@pytest.mark.parametrize("rate, kept", [(0.25, 0.75), (0.5, 0.5), (0.1, 1 - 6554 / 65536), (0.999, 66 / 65536)])
def test_dropout_keeps_the_mean(rate, kept):
    outputs = BitDropout(rate, seed=3)(tf.ones([300, 17, 65]), training=True).numpy()
    spread = np.sqrt(kept * (1 - kept) / outputs.size)
    assert (outputs != 0).mean() == pytest.approx(kept, abs=5 * spread)
    np.testing.assert_allclose(np.unique(outputs), [0, 1 / kept], rtol=1e-5)


def test_dropped_values_are_independent():
    outputs = BitDropout(0.25, seed=1)(tf.ones([500, 400]), training=True).numpy() == 0
    for shift in range(1, 9):
        both = (outputs[:, shift:] & outputs[:, :-shift]).mean()
        assert both == pytest.approx(1 / 16, abs=5e-3)


def test_gradients_are_dropped_alike():
    layer, inputs = BitDropout(0.5, seed=0), tf.ones([4, 3, 5])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), outputs)
    assert not np.array_equal(layer(inputs, training=True), outputs)


def test_seeds_repeat():
    first, second = (BitDropout(0.3, seed=7)(tf.ones([9, 9]), training=True) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_nothing_is_dropped_in_prediction_or_at_rate_zero():
    inputs = features(2, 3, 4)
    np.testing.assert_array_equal(BitDropout(0.5)(inputs), inputs)
    np.testing.assert_array_equal(BitDropout(0.0)(inputs, training=True), inputs)
    for rate in (1.0, 1):
        np.testing.assert_array_equal(BitDropout(rate)(inputs, training=True), np.zeros_like(inputs))
    np.testing.assert_array_equal(BitDropout(0.5)(inputs[:0], training=True), inputs[:0])


def test_shared_noise_is_drawn_by_keras():
    outputs = BitDropout(0.5, noise_shape=(None, 1, 4), seed=0)(tf.ones([50, 3, 4]), training=True).numpy()
    assert (outputs == outputs[:, :1]).all() and (outputs == 0).any()


@pytest.mark.parametrize("make", [FusedBatchNormalization, lambda: BitDropout(0.25)], ids=["norm", "dropout"])
def test_as_a_keras_layer(make, tmp_path):
    check_layer(make(), [features(3, 5, 4)], tmp_path)
    check_half_precision(make, [features(3, 5, 4)], output_dtype="half")
