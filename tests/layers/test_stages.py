import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.layers import CorrectionNetwork, IterativeRegressor, MeanParameters
from posekit.testing import check_half_precision, check_layer, load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_regressor")


@pytest.fixture(scope="module")
def weights(original):
    recipe = original["recipe_json"]
    values = recipe_weights(original["shapes_json"], recipe["seed"], recipe["gain"])
    values["dense_2/kernel:0"] *= 0.02
    values["dense_2/bias:0"] *= 0.02
    return [values[name] for name in original["names_json"]]


def test_network_equals_the_original(original, weights):
    for name, value in zip(original["names_json"], weights):
        expected = original[f"Wstats/{name}"]
        value = value.astype(np.float64)
        np.testing.assert_allclose([value.sum(), np.square(value).sum()], expected[[0, 2]], rtol=1e-5)
    network = CorrectionNetwork(units=85)
    network.build(original["x"].shape)
    network.set_weights(weights)
    np.testing.assert_allclose(network(original["x"]), original["out"], rtol=1e-4, atol=1e-5)


def test_shared_projection_equals_the_concatenated_input(original, weights):
    mean = np.random.default_rng(0).normal(size=85)
    regressor = IterativeRegressor(mean, num_stages=3)
    features = original["x"][:, :2048]
    regressor.build(features.shape)
    regressor.network.set_weights(weights)
    theta = np.tile(mean.astype(np.float32), (4, 1))
    for stage in tf.unstack(regressor(features), axis=1):
        theta = theta + regressor.network(np.concatenate([features, theta], axis=1))
        np.testing.assert_allclose(stage, theta, rtol=1e-4, atol=1e-5)


def test_first_corrections_are_small():
    network = CorrectionNetwork(units=85)
    network.build((None, 100))
    kernel = network.dense_3.kernel.numpy()
    limit = np.sqrt(3 * 0.02 / (1024 + 85))
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_dropout_is_active_in_the_last_stage_only():
    regressor = IterativeRegressor(np.zeros(4), num_stages=3, hidden=32, dropout=0.5)
    features = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    calm = regressor(features)
    trained = regressor(features, training=True)
    np.testing.assert_array_equal(trained[:, :2], calm[:, :2])
    assert not np.allclose(trained[:, 2], calm[:, 2])
    assert not np.allclose(trained[:, 2], regressor(features, training=True)[:, 2])


def test_the_mean_is_trained():
    regressor = IterativeRegressor(np.ones(4), num_stages=2, hidden=8)
    features = tf.ones([3, 5])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(regressor(features)[:, -1])
    variables = regressor.trainable_variables
    assert len(variables) == 7
    assert [v.path for v in variables][0].endswith("mean/value")
    assert all(gradient is not None for gradient in tape.gradient(loss, variables))


def test_mean_parameters_follow_the_batch():
    layer = MeanParameters([1.0, 2.0])
    np.testing.assert_array_equal(layer(np.zeros((3, 7))), np.tile([1.0, 2.0], (3, 1)))
    assert layer(np.zeros((0, 7))).shape == (0, 2)


def test_no_stage_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        IterativeRegressor(np.zeros(4), num_stages=0)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (MeanParameters([0.5, 1.5]), (3, 5)),
        (CorrectionNetwork(units=4, hidden=8), (3, 9)),
        (IterativeRegressor([0.5, 1.5], num_stages=2, hidden=8), (3, 5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_as_a_keras_layer(layer, shape, tmp_path):
    check_layer(layer, [np.ones(shape, np.float32)], tmp_path)


def test_float32_under_half_precision():
    check_half_precision(lambda: IterativeRegressor([0.5, 1.5], num_stages=2, hidden=8), [np.ones((2, 3), np.float32)])
