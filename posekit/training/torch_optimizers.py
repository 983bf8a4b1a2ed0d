"""RMSprop and Adam exactly as PyTorch and Lua's Torch step, whose epsilons stand elsewhere than in Keras.

The loss of heatmaps is a mean over millions of voxels, its gradients are of the size of those epsilons, and where they
stand decides how far a weight moves.
"""

import keras
import tensorflow as tf
from keras import ops

from posekit.training.fused_adam import FusedAdam


@keras.saving.register_keras_serializable("posekit")
class TorchAdam(FusedAdam):
    """Adam with epsilon added to the root of the corrected second moment: `m' / (sqrt(v') + epsilon)`.

    Keras adds it to the root of the uncorrected one, which in the first steps weighs it up to thirty times as much.

    Example:
        >>> trainer.compile(TorchAdam(1e-3, epsilon=1e-8))  # doctest: +SKIP

    Follows: PyTorch torch/optim/adam.py.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; see `FusedAdam.update_step`."""
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            raise ValueError("TorchAdam steps without amsgrad, and with dense gradients; take keras.optimizers.Adam.")
        super().update_step(gradient, variable, learning_rate)

    def _kernel_epsilon(self, step):
        return super()._kernel_epsilon(step) * tf.sqrt(1 - tf.cast(self.beta_2, step.dtype) ** step)


@keras.saving.register_keras_serializable("posekit")
class TorchRMSprop(keras.optimizers.RMSprop):
    """RMSprop with epsilon added to the root of the mean square: `g / (sqrt(v) + epsilon)`.

    Keras adds it under the root. `rho` is what Torch calls alpha. There is no momentum and no centering.

    Example:
        >>> trainer.compile(TorchRMSprop(2.5e-4, rho=0.99, epsilon=1e-8))  # doctest: +SKIP

    Follows: torch/optim rmsprop.lua.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: Its gradient.
            variable: Keras variable.
            learning_rate: Scalar tensor.
        """
        if self.centered or self.momentum:
            raise ValueError("TorchRMSprop steps without momentum and centering; leave both out.")
        velocity = self._velocities[self._get_variable_index(variable)]
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        self.assign(velocity, self.rho * velocity + (1 - self.rho) * ops.square(gradient))
        self.assign_sub(variable, rate * gradient / (ops.sqrt(velocity) + self.epsilon))
