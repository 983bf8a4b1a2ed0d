"""`multi_rate(SGD)` against the Keras port's MultiSGD, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.testing import load_fixture
from posekit.training.optimizers import multi_rate

LAYERS = (("conv1_1", 4, 3), ("Mconv1_stage1_L1", 4, 3), ("Mconv1_stage2_L1", 2, 1))


@keras.saving.register_keras_serializable("posekit_tests")
class DecayFromTheFirstStep(keras.optimizers.schedules.LearningRateSchedule):
    """The rate decays once before the first step, as it did in TensorFlow 1, where counting came first."""

    def __init__(self, rate, decay):
        self.rate, self.decay = rate, decay

    def __call__(self, step):
        return self.rate / (1 + self.decay * (tf.cast(step, tf.float32) + 1))

    def get_config(self):
        return {"rate": self.rate, "decay": self.decay}


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("rmpe_multisgd")


@pytest.fixture(scope="module")
def trained(fixture):
    """A network, its variables by the original's names, and a function for loss and gradients."""
    inputs = x = keras.Input((6, 6, 3))
    for name, filters, size in LAYERS:
        x = keras.layers.Conv2D(filters, size, padding="same", name=name)(x)
    model = keras.Model(inputs, x)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.math.squared_difference(model(fixture["X"]), fixture["Y"])) / 10 / 2
        return loss, tape.gradient(loss, model.trainable_variables)

    return model.trainable_variables, step


@pytest.mark.parametrize("variant", ["mom", "nest", "decay", "plain"])
def test_steps_are_the_originals(fixture, trained, variant):
    variables, step = trained
    for variable in variables:
        variable.assign(fixture[f"W0/{variable.path}:0"])
    options, multipliers = dict(fixture[f"{variant}_kw_json"]), fixture[f"{variant}_lr_mult_json"]
    rate, decay = options.pop("lr"), options.pop("decay", 0)
    optimizer = keras.optimizers.SGD(DecayFromTheFirstStep(rate, decay) if decay else rate, **options)
    optimizer = multi_rate(optimizer, {f"^{name.partition(':')[0]}$": factor for name, factor in multipliers.items()})
    for number in range(1, 5):
        loss, gradients = step()
        np.testing.assert_allclose(loss, fixture[f"{variant}_losses"][number - 1], rtol=1e-5, atol=1e-6)
        optimizer.apply(gradients, variables)
        for variable in variables:
            expected = fixture[f"{variant}_step{number}/{variable.path}:0"]
            np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6, err_msg=f"{variable.path} {number}")
