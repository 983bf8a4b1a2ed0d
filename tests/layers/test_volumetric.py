import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import (
    BasicBlock3D,
    ResidualBlock3D,
    UpsampleBlock3D,
    VolumeBatchNormalization,
    VolumetricSoftArgmax,
)
from posekit.testing import check_half_precision, load_fixture


def volumes(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


BLOCKS = {
    "basic": lambda **options: BasicBlock3D(4, 3, **options),
    "upsample": lambda **options: UpsampleBlock3D(4, **options),
    "residual": lambda **options: ResidualBlock3D(4, **options),
}


# === Soft-argmax ===


def test_soft_argmax_equals_the_original():
    values = load_fixture("v2v_losses")
    places = VolumetricSoftArgmax()(np.moveaxis(values["heatmap"], 1, -1))
    np.testing.assert_allclose(places, values["softargmax"], rtol=1e-5)


def test_soft_argmax_by_hand():
    scores = np.full((1, 3, 4, 5, 2), -np.inf, np.float32)
    scores[0, 2, 1, 4, 0] = 7.0
    scores[0, 0, 0, 0, 1] = scores[0, 2, 2, 1, 1] = 900.0
    np.testing.assert_allclose(VolumetricSoftArgmax()(scores), [[[2, 1, 4], [1, 1, 0.5]]])


def test_soft_argmax_of_unknown_sizes_and_in_half_precision():
    layer = VolumetricSoftArgmax()
    compiled = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, None, 2])])
    scores = volumes(2, 4, 5, 6, 2)
    np.testing.assert_allclose(compiled(scores), layer(scores), rtol=1e-6)
    assert layer(keras.Input((None, None, None, 7))).shape == (None, 7, 3)
    check_half_precision(VolumetricSoftArgmax, [scores])


# === Batch normalisation ===


def plain_normalisation(values, gamma, beta, epsilon=1e-5):
    axes = (0, 1, 2, 3)
    return gamma * (values - values.mean(axes)) / np.sqrt(values.var(axes) + epsilon) + beta


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalisation_keeps_the_unbiased_variance(dtype):
    layer = VolumeBatchNormalization(dtype=dtype)
    values = volumes(2, 2, 3, 2, 4).astype(dtype) * 3 + 1
    layer.build(values.shape)
    gamma, beta = np.array([1, 2, 3, 4.0]), np.array([0, -1, 1, 2.0])
    layer.set_weights([gamma, beta, np.full(4, 5.0), np.full(4, 7.0)])
    np.testing.assert_allclose(layer(values, training=True), plain_normalisation(values, gamma, beta), atol=1e-5)
    mean, variance = values.mean((0, 1, 2, 3)), values.var((0, 1, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * 5 + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * 7 + 0.1 * variance, rtol=1e-6)
    expected = gamma * (values - layer.moving_mean) / np.sqrt(np.array(layer.moving_variance) + 1e-5) + beta
    result = layer(values)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalisation_has_the_gradients_of_the_formula(training, dtype):
    inputs, weights = tf.constant(volumes(2, 2, 3, 2, 4).astype(dtype)), volumes(2, 2, 3, 2, 4, seed=1)
    layer = VolumeBatchNormalization(dtype=dtype)
    layer.build(inputs.shape)
    layer.set_weights([np.array(values, dtype) for values in ([1, 2, 3, 4], [0, -1, 1, 2], [5] * 4, [7] * 4)])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(layer(inputs, training=training) * weights)
    gamma, beta = tf.constant([1, 2, 3, 4.0], dtype), tf.constant([0, -1, 1, 2.0], dtype)
    with tf.GradientTape() as plain:
        plain.watch([inputs, gamma, beta])
        mean, variance = tf.nn.moments(inputs, (0, 1, 2, 3)) if training else (5, 7)
        expected = tf.reduce_sum((gamma * (inputs - mean) / (variance + 1e-5) ** 0.5 + beta) * weights)
    expected = plain.gradient(expected, [inputs, gamma, beta])
    for ours, theirs in zip(tape.gradient(total, [inputs, layer.gamma.value, layer.beta.value]), expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_means_of_mostly_empty_volumes_are_exact():
    values = np.full((1, 64, 64, 64, 1), -0.0387, np.float32)
    values[:, 20:40, 20:40, 20:40] += volumes(1, 20, 20, 20, 1)
    layer = VolumeBatchNormalization(momentum=0.0)
    result = layer(values, training=True)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(layer.moving_mean, [exact.mean()], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [exact.var(ddof=1)], rtol=1e-6)
    np.testing.assert_allclose(result, (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5), atol=1e-5)


def test_frozen_normalisation_keeps_its_statistics():
    layer = VolumeBatchNormalization(trainable=False)
    values = volumes(2, 2, 2, 2, 3)
    np.testing.assert_allclose(layer(values, training=True), values / np.sqrt(1 + 1e-5), atol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_normalisation_under_xla():
    values, results = volumes(2, 2, 3, 2, 4), []
    for compiled in (False, True):
        layer = VolumeBatchNormalization()
        layer.build(values.shape)
        result = tf.function(lambda x, layer=layer: layer(x, training=True), jit_compile=compiled)(values)
        results.append([result, *layer.get_weights()])
    for plain, compiled in zip(*results):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_normalisation_refuses_what_it_has_not():
    for options in ({"axis": 1}, {"scale": False}, {"center": False}):
        with pytest.raises(ValueError, match="normalised over axis -1"):
            VolumeBatchNormalization(**options)
    with pytest.raises(ValueError, match="without a mask"):
        VolumeBatchNormalization()(volumes(1, 2, 2, 2, 3), mask=np.ones((1, 2)))


# === Blocks ===


@pytest.mark.parametrize("name, edge", [("basic", 6), ("upsample", 12), ("residual", 6)])
def test_shapes(name, edge):
    block = BLOCKS[name]()
    assert block(keras.Input((6, 6, 6, 2))).shape == (None, edge, edge, edge, 4)
    assert BLOCKS[name]()(keras.Input((None, None, None, 2))).shape == (None, None, None, None, 4)
    result = block(volumes(1, 6, 6, 6, 2))
    assert result.shape == (1, edge, edge, edge, 4) and np.min(result) >= 0


def test_residual_block_by_hand():
    block = ResidualBlock3D(3)
    values = volumes(1, 4, 4, 4, 3)
    block(values)
    assert block.skip_convolution is None
    # Kernels of 0: what comes in goes out, but for the ReLU.
    for layer in (block.first_convolution, block.second_convolution):
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    np.testing.assert_allclose(block(values), np.maximum(values, 0), atol=1e-6)
    block.second_norm.beta.assign([1.0, 2.0, -9.0])
    np.testing.assert_allclose(block(values), np.maximum(values + [1.0, 2.0, -9.0], 0), atol=1e-6)


def test_upsampling_puts_voxels_where_they_were():
    block = UpsampleBlock3D(1)
    values = np.zeros((1, 3, 4, 5, 1), np.float32)
    values[0, 1, 2, 3] = 2.0
    block(values)
    block.convolution.kernel.assign(np.arange(8.0).reshape(2, 2, 2, 1, 1))
    result = block(values).numpy() * np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(result[0, 2:4, 4:6, 6:8, 0], 2 * np.arange(8.0).reshape(2, 2, 2), atol=1e-5)
    assert np.count_nonzero(result) == 7


@pytest.mark.parametrize("name", BLOCKS)
def test_arguments_come_back(name):
    options = {"momentum": 0.8, "epsilon": 1e-3, "kernel_initializer": "he_normal", "name": "mine"}
    block = BLOCKS[name](trainable=False, dtype="mixed_bfloat16", **options)
    twin = type(block).from_config(block.get_config())
    assert twin.get_config() == block.get_config()
    assert (twin.filters, twin.momentum, twin.epsilon, twin.name) == (4, 0.8, 1e-3, "mine")
    assert isinstance(twin.kernel_initializer, keras.initializers.HeNormal)
    for layer in (block, twin):
        assert layer(volumes(1, 4, 4, 4, 2)).dtype == "bfloat16"
        parts = [part for part in layer._flatten_layers() if part is not layer]
        assert {part.dtype_policy.name for part in parts} == {"mixed_bfloat16"}
        assert not any(part.trainable for part in parts) and not layer.trainable_variables


@pytest.mark.parametrize("name", BLOCKS)
def test_half_precision(name):
    check_half_precision(BLOCKS[name], [volumes(1, 4, 4, 4, 2)], output_dtype="half")


def test_kernels_start_apart():
    block = ResidualBlock3D(3)
    block(volumes(1, 4, 4, 4, 3))
    first, second = block.first_convolution.kernel.numpy(), block.second_convolution.kernel.numpy()
    assert np.abs(first - second).max() > 0
    assert 0.0005 < first.std() < 0.0015 and not block.first_convolution.bias.numpy().any()


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_gradients_of_small_volumes_in_half_precision(edge):
    rng = np.random.default_rng(0)
    gradients = {}
    values = rng.normal(size=(2, edge, edge, edge, 16)).astype(np.float32)
    for dtype in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        block = ResidualBlock3D(16, kernel_initializer="he_normal", dtype=dtype)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(block(values, training=False), tf.float32) * values)
        gradients[dtype] = tape.gradient(loss, block.first_convolution.kernel).numpy()
    scale = np.abs(gradients["float32"]).max()
    np.testing.assert_allclose(gradients["mixed_bfloat16"], gradients["float32"], rtol=0, atol=0.1 * scale)
