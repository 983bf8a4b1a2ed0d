"""Critic losses against the original's values."""

import numpy as np

from posekit.losses import critic_loss, generator_critic_loss, gradient_penalty
from posekit.ops import gradient_penalty as from_ops
from posekit.testing import load_fixture


def test_original_values():
    values = load_fixture("hmr_critic_step")
    np.testing.assert_allclose(critic_loss(values["real_output"], values["fake_output"]), values["wgan"], rtol=1e-5)
    loss = critic_loss(values["real_output"], values["fake_output"], values["penalty"])
    np.testing.assert_allclose(loss, values["loss"], rtol=1e-5)


def test_numbers_by_hand():
    real, fake = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 1], [1, 1], [4, 1]])
    assert critic_loss(real, fake) == (2 - 2) + (1 - 3)
    assert critic_loss(real, fake, penalty=0.5, penalty_weight=4) == 0
    assert generator_critic_loss(fake) == -3
    assert gradient_penalty is from_ops
