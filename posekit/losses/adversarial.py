"""The two sides of a Wasserstein critic, and the penalty that keeps its gradients near 1."""

import tensorflow as tf

from posekit.ops.gradient_penalty import gradient_penalty

__all__ = ["critic_loss", "generator_critic_loss", "gradient_penalty"]


def critic_loss(real_scores, fake_scores, penalty=0.0, penalty_weight=10.0):
    """What the critic minimises: fake samples scored above real ones, plus the gradient penalty.

    Args:
        real_scores: `[samples]` or `[samples, outputs]` scores of real samples.
        fake_scores: Scores of as many or more or fewer fake samples.
        penalty: Scalar of `gradient_penalty`, 0 without one.
        penalty_weight: Its weight.

    Returns:
        Scalar: `sum over outputs of (mean(fake) - mean(real)) + penalty_weight * penalty`.

    Follows: maxpit/human-pose-estimation:Trainer.train_step.
    Differs: works without a penalty too.
    """
    difference = tf.reduce_mean(fake_scores, axis=0) - tf.reduce_mean(real_scores, axis=0)
    return tf.reduce_sum(difference) + penalty_weight * penalty


def generator_critic_loss(fake_scores):
    """What the generator minimises against the critic: minus the mean scores of its samples.

    Args:
        fake_scores: `[samples]` or `[samples, outputs]`.

    Returns:
        Scalar: minus the sum over outputs of the mean over samples.

    Follows: maxpit/human-pose-estimation:Trainer.train_step.
    """
    return -tf.reduce_sum(tf.reduce_mean(fake_scores, axis=0))
