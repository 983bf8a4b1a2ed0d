"""Scores and slopes of the critic in closed form equal those of automatic differentiation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import KinematicChainSpace
from posekit.models import Critic
from posekit.training.judgement import judge

CHAIN = KinematicChainSpace()


class SameCritic(Critic):
    """The same network under another name, which gets no special treatment."""


def make_bodies(count=10):
    rng = np.random.default_rng(0)
    shapes = ((count, 14, 3), (count, 10), (count, 23, 3, 3))
    return [tf.constant(rng.normal(0, 0.5, shape).astype(np.float32)) for shape in shapes]


def make_critics():
    keras.utils.set_random_seed(0)
    critic, same = Critic(), SameCritic()
    for variable in critic.weights:
        # Biases that matter.
        variable.assign_add(0.1 * keras.random.normal(variable.shape))
    same.set_weights(critic.get_weights())
    return critic, same


def judgement_and_weight_gradients(critic, rows, mean):
    """Scores, slopes, and how a nonlinear function of the slopes changes with the weights."""
    with tf.GradientTape() as tape:
        scores, slopes = judge(critic, CHAIN, make_bodies())
        gradients = slopes(rows, mean=mean)
        loss = tf.add_n([tf.reduce_sum(tf.sin(3 * gradient)) for gradient in gradients]) + tf.reduce_mean(scores**2)
    return scores, gradients, tape.gradient(loss, critic.trainable_variables)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("rows", [slice(4, None), slice(1, 8, 3), slice(0, 1)])
def test_closed_form_equals_automatic_differentiation(rows, mean):
    critic, same = make_critics()
    ours, theirs = (judgement_and_weight_gradients(made, rows, mean) for made in (critic, same))
    bodies = make_bodies()
    np.testing.assert_allclose(ours[0], critic([CHAIN(bodies[0]), *bodies]), rtol=1e-5, atol=1e-5)
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_other_critics_are_judged_too():
    inputs = [keras.Input(shape) for shape in ((13, 13), (14, 3), (10,), (23, 3, 3))]
    flat = [keras.layers.Flatten()(tensor) for tensor in inputs[1:3]]
    critic = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.tanh(keras.ops.concatenate(flat, axis=-1))))
    scores, slopes = judge(critic, CHAIN, make_bodies())
    assert scores.shape == (10, 1)
    kcs, joints, shapes, rotations = slopes(slice(2, 5))
    assert [tuple(part.shape) for part in (kcs, joints, shapes, rotations)] == [
        (3, 13, 13), (3, 14, 3), (3, 10), (3, 23, 3, 3),
    ]  # fmt: skip
    # What the critic does not look at has no slope.
    assert not np.any(kcs) and not np.any(rotations) and np.all(np.any(joints, axis=(1, 2)))
