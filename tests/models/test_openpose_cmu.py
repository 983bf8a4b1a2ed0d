"""The CMU network at full size, its training losses, gradients and steps, against the Keras port."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.losses import stage_losses
from posekit.models import OpenPose
from posekit.models.openpose import rate_multipliers
from posekit.testing import load_fixture
from posekit.training.optimizers import multi_rate

DECAY = 5e-4


def name_of(variable):
    return f"{variable.path}:0"


@pytest.fixture(scope="module")
def expected():
    return load_fixture("rmpe_cmu_model")


@pytest.fixture(scope="module")
def training():
    return load_fixture("rmpe_cmu_training")


@pytest.fixture(scope="module")
def start(expected):
    recipe = expected["recipe_json"]
    return recipe_weights(expected["shapes_json"], recipe["seed"], recipe["gain"], layout=recipe["layout"])


@pytest.fixture(scope="module")
def network(start):
    """The network, for pictures in blue, green, red."""
    model = OpenPose("vgg19", channel_order="bgr", outputs="all", weight_decay=DECAY, kernel_initializer="zeros")
    restore(model, start)
    return model


def restore(model, start):
    for variable in model.weights:
        variable.assign(start[name_of(variable)])


@pytest.fixture(scope="module")
def step(network, training):
    """Losses of the fixture's batch, as a function that is traced once, with gradients of their sum."""
    labels = {"pafs": training["paf_gt"], "heatmaps": training["heat_gt"]}

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            stages = network(tf.cast(training["img"], tf.float32), training=True)
            losses = stage_losses(labels, stages, training["mask"], mask_labels=False, batch_size=10)
            total = tf.add_n(list(losses.values())) + tf.add_n(network.losses)
        return losses, total, tape.gradient(total, network.trainable_variables)

    return run


@pytest.fixture(scope="module")
def first(network, start, step):
    """What the first step of any training from the start gives."""
    restore(network, start)
    return step()


def assert_close(found, reference):
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())


def test_names_shapes_and_size_are_the_originals(network, expected, training):
    assert sorted(name_of(variable) for variable in network.weights) == sorted(expected["names_json"])
    assert {name_of(variable): list(variable.shape) for variable in network.weights} == expected["shapes_json"]
    assert network.count_params() == expected["n_params"]
    kept = [name for name in training["layer_names_json"] if name.startswith(("conv", "Mconv", "pool"))]
    assert set(kept) <= {layer.name for layer in network.layers} and len(kept) > 90


def test_outputs_are_the_originals(network, expected, start):
    for name, values in start.items():
        np.testing.assert_allclose(expected[f"Wstats/{name}"][3:], [values.min(), values.max()], rtol=1e-6)
    inner = [name.removeprefix("inter_stats/") for name in expected if name.startswith("inter_stats/")]
    outputs = {name: network.get_layer(name).output for name in [*inner, "Mconv7_stage6_L1", "Mconv7_stage6_L2"]}
    found = keras.Model(network.inputs[0], outputs)(expected["img"].astype(np.float32))
    assert_close(found["Mconv7_stage6_L1"], expected["paf"])
    assert_close(found["Mconv7_stage6_L2"], expected["heat"])
    for name in inner:
        values = found[name].numpy()
        if f"inter/{name}" in expected:
            assert_close(values[0], expected[f"inter/{name}"])
        found_stats = [values.sum(), np.abs(values).sum(), (values**2).sum(), values.min(), values.max()]
        stats = expected[f"inter_stats/{name}"]
        np.testing.assert_allclose(found_stats, stats, rtol=1e-3, atol=1e-3 * np.abs(stats[1]))


def test_other_sizes(network, expected):
    found = network(expected["img_48x80"])
    assert_close(found["stage6_L1"], expected["paf_48x80"])
    assert_close(found["stage6_L2"], expected["heat_48x80"])


def test_losses_and_gradients_are_the_originals(network, first, training):
    losses, total, gradients = first
    np.testing.assert_allclose([total, *losses.values()], training["eval_values"], rtol=1e-4)
    np.testing.assert_allclose(float(sum(network.losses)), training["reg_loss"], rtol=1e-4)
    for variable, gradient in zip(network.trainable_variables, gradients):
        reference = training.get(f"grad/{name_of(variable)}")
        if reference is not None:
            part = gradient if gradient.shape.rank == 1 else gradient[:, :, ::8, ::8]
            assert np.abs(part - reference).max() <= 2e-2 * np.abs(reference).max(), variable.path


def test_a_step_moves_each_layer_at_its_own_rate(network, start, first, training):
    restore(network, start)
    rate = 1e-5
    optimizer = multi_rate(keras.optimizers.SGD(rate, momentum=0.9), rate_multipliers(network))
    before = {variable.path: variable.numpy() for variable in network.trainable_variables}
    optimizer.apply(first[2], network.trainable_variables)
    factors = dict(zip((variable.path for variable in network.trainable_variables), optimizer._factors))
    assert {f"{path}:0": factor for path, factor in factors.items()} == training["lr_mult_json"]
    moved = {variable.path: variable.numpy() - before[variable.path] for variable in network.trainable_variables}
    layers = [key.removeprefix("delta_bias/") for key in training if key.startswith("delta_bias/")]
    assert len(layers) == 7
    for layer in layers:
        for found, reference in (
            (moved[f"{layer}/bias"], training[f"delta_bias/{layer}"]),
            (moved[f"{layer}/kernel"][:, :, ::8, ::8], training[f"delta_kernel_sub/{layer}"]),
        ):
            assert np.abs(found - reference).max() <= 2e-2 * np.abs(reference).max(), layer


def test_training_at_a_tiny_rate_follows_the_original(network, start, first, step, training):
    restore(network, start)
    optimizer = multi_rate(keras.optimizers.SGD(1e-7, momentum=0.9), rate_multipliers(network))
    totals, gradients = [float(first[1])], first[2]
    for _ in range(2):
        optimizer.apply(gradients, network.trainable_variables)
        _, total, gradients = step()
        totals.append(float(total))
    np.testing.assert_allclose(totals, training["train_losses"], rtol=1e-4)
