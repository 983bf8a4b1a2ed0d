"""The fused kernel makes the same steps as Keras's own update."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.training.fused_adam import FusedAdam


def trajectory(optimizer, steps=5, sparse=False):
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in ((7, 3), (3,))]
    optimizer.build(variables)

    @tf.function
    def step(gradients):
        if sparse:
            gradients = [tf.IndexedSlices(gradients[0][:2], tf.constant([1, 4]), tf.constant([7, 3])), gradients[1]]
        optimizer.apply_gradients(zip(gradients, variables))

    for _ in range(steps):
        step([tf.constant(rng.normal(size=v.shape).astype(np.float32)) for v in variables])
    return [v.numpy() for v in variables], [v.numpy() for v in optimizer.variables]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
        {"clipnorm": 0.1, "weight_decay": 0.01},
        {"amsgrad": True},
        {"use_ema": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_equals_keras(options):
    options = {"learning_rate": 0.05, **options}
    for ours, theirs in zip(trajectory(FusedAdam(**options)), trajectory(keras.optimizers.Adam(**options))):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_sparse_gradients():
    ours, theirs = (trajectory(kind(0.1), sparse=True) for kind in (FusedAdam, keras.optimizers.Adam))
    for a, b in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_state_can_be_exchanged_and_described():
    ours, theirs = FusedAdam(0.1), keras.optimizers.Adam(0.1)
    for optimizer in (ours, theirs):
        optimizer.build([keras.Variable(np.zeros(3, np.float32), name="weight")])
    assert [v.path.split("/")[1:] for v in ours.variables] == [v.path.split("/")[1:] for v in theirs.variables]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(FusedAdam(0.1, beta_1=0.7)))
    assert isinstance(again, FusedAdam) and again.beta_1 == 0.7
