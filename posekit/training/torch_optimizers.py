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
        index = self._get_variable_index(variable)
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = ops.cast(self.beta_1, variable.dtype), ops.cast(self.beta_2, variable.dtype)
        root = ops.sqrt(1 - beta_2**step)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=ops.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=ops.cast(self.epsilon, variable.dtype) * root,
            grad=gradient,
        )


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


def _handle(variable):
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
