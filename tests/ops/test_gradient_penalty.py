"""Gradient penalty against the original's values and a NumPy formula."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import KinematicChainSpace
from posekit.models import Critic
from posekit.ops.gradient_penalty import gradient_penalty, interpolate, penalty_of_gradients
from posekit.testing import load_fixture

NAMES = ("joints", "shapes", "Rs")


def original_critic():
    weights = load_fixture("hmr_critic")
    critic = Critic()
    for variable in critic.weights:
        variable.assign(weights[f"W/{'/'.join(variable.path.split('/')[-2:])}:0"])
    return critic


def with_kcs(points):
    return [KinematicChainSpace()(points[0]), *points]


@pytest.mark.parametrize("compiled", [False, True])
def test_original_critic_step(compiled):
    values = load_fixture("hmr_critic_step")
    critic = original_critic()
    fake, real = ([tf.constant(values[f"{side}_{name}"]) for name in NAMES] for side in ("fake", "real"))
    coefficients = [values[name] for name in ("alpha", "beta", "gamma")]

    def step():
        with tf.GradientTape() as tape:
            scores = [critic(with_kcs(side)) for side in (real, fake)]
            wasserstein = tf.reduce_sum(tf.reduce_mean(scores[1] - scores[0], axis=0))
            penalty = gradient_penalty(critic, real, fake, derive=with_kcs, coefficients=coefficients)
            loss = wasserstein + 10 * penalty
        return scores, wasserstein, penalty, loss, tape.gradient(loss, critic.trainable_variables)

    scores, wasserstein, penalty, loss, gradients = (tf.function(step) if compiled else step)()
    np.testing.assert_allclose(scores[0], values["real_output"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[1], values["fake_output"], rtol=1e-5, atol=1e-5)
    expected = [values[name] for name in ("wgan", "penalty", "loss")]
    np.testing.assert_allclose([wasserstein, penalty, loss], expected, rtol=1e-5)
    for variable, gradient in zip(critic.trainable_variables, gradients):
        expected = values[f"grad/{'/'.join(variable.path.split('/')[-2:])}:0"]
        assert np.abs(gradient - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-3)


def test_original_gradients_at_interpolates():
    values = load_fixture("hmr_critic_step")
    critic = original_critic()
    fake, real = ([tf.constant(values[f"{side}_{name}"]) for name in NAMES] for side in ("fake", "real"))
    points = interpolate(real, fake, coefficients=[values[name] for name in ("alpha", "beta", "gamma")])
    with tf.GradientTape() as tape:
        tape.watch(points)
        inputs = with_kcs(points)
        total = tf.reduce_sum(critic(inputs))
    for gradient, name in zip(tape.gradient(total, inputs), ("kcs", *NAMES)):
        np.testing.assert_allclose(gradient, values[f"interp_grad_{name}"], rtol=1e-5, atol=1e-6)


def test_original_penalties_of_gradients():
    values = load_fixture("hmr_critic")
    gradients = [values[f"gp_rand_in{i}"] for i in range(4)]
    np.testing.assert_allclose(penalty_of_gradients(gradients), values["gp_rand"], rtol=1e-5)
    zeros = [tf.zeros_like(gradient) for gradient in gradients]
    np.testing.assert_allclose(penalty_of_gradients(zeros), values["gp_zero"], rtol=1e-5)


def test_original_penalty_of_the_critic():
    values = load_fixture("hmr_critic")
    points = [tf.constant(values["joints"][:, :14]), tf.constant(values["shapes"]), tf.constant(values["Rs"])]
    critic = original_critic()
    inputs = with_kcs(points)
    np.testing.assert_allclose(critic(inputs), values["critic_out"], rtol=1e-5, atol=1e-5)
    penalty = gradient_penalty(critic, inputs, inputs)
    np.testing.assert_allclose(penalty, values["gp_of_these"], rtol=1e-5)


def quadratic(inputs):
    return tf.reduce_sum(inputs[0] ** 2, axis=1) / 2 + 3 * inputs[1][:, 0]


def test_both_modes_against_the_formula():
    rng = np.random.default_rng(0)
    real, fake = ([rng.normal(size=(7, 4)), rng.normal(size=(7, 1))] for _ in range(2))
    each = rng.random((7, 4)), rng.random((7, 1))
    mixed = each[0] * real[0] + (1 - each[0]) * fake[0]
    norms = np.linalg.norm(mixed.mean(0)), 3.0
    ours = gradient_penalty(quadratic, real, fake, coefficients=each)
    np.testing.assert_allclose(ours, sum((1 - norm) ** 2 for norm in norms))
    one = rng.random((7, 1))
    mixed = one * real[0] + (1 - one) * fake[0]
    ours = gradient_penalty(quadratic, real, fake, mode="per_sample", coefficients=[one, one])
    np.testing.assert_allclose(ours, np.mean((1 - np.sqrt((mixed**2).sum(1) + 9)) ** 2))


def test_derived_inputs_in_per_sample_mode_count_once():
    points = [tf.constant([[3.0], [1.0]])]
    penalty = gradient_penalty(
        lambda inputs: inputs[0] + inputs[1], points, points, mode="per_sample", derive=lambda p: [p[0], p[0] ** 2]
    )
    np.testing.assert_allclose(penalty, ((1 - 7) ** 2 + (1 - 3) ** 2) / 2)


def test_drawn_coefficients():
    real, fake = [tf.ones([5, 3]), tf.ones([5, 2, 2])], [tf.zeros([5, 3]), tf.zeros([5, 2, 2])]
    first, again, other = (interpolate(real, fake, seed=[1, seed]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0] - other[0]).max() > 0
    assert len(np.unique(np.concatenate([np.ravel(part) for part in first]))) == 35
    joints, shapes = interpolate(real, fake, mode="per_sample", seed=[1, 1])
    np.testing.assert_array_equal(joints, np.broadcast_to(joints[:, :1], (5, 3)))
    np.testing.assert_array_equal(shapes[:, 0, 0], joints[:, 0])
    assert ((first[0] >= 0) & (first[0] < 1)).numpy().all()
    assert interpolate(real, fake)[1].shape == (5, 2, 2)


@pytest.mark.parametrize("mode", ["batch_mean", "per_sample"])
def test_gradient_is_finite_where_the_critic_is_flat(mode):
    weight = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(lambda inputs: weight * inputs[0], [tf.ones([3, 2])], [tf.zeros([3, 2])], mode=mode)
    assert np.isfinite(penalty) and np.isfinite(tape.gradient(penalty, weight))


def test_inputs_that_the_critic_ignores():
    points = [tf.ones([3, 2]), tf.ones([3, 1])]
    assert float(gradient_penalty(lambda inputs: inputs[0][:, 0], points, points)) == 1.0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="batch_mean"):
        gradient_penalty(quadratic, [tf.ones([1, 1])], [tf.ones([1, 1])], mode="wgan")
    with pytest.raises(ValueError, match="2 real inputs, 1 fake"):
        gradient_penalty(quadratic, [tf.ones([1, 1])] * 2, [tf.ones([1, 1])])
