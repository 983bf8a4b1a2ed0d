"""Learning rates that change with the steps of a training."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("posekit")
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is multiplied by a factor after every so many steps: Caffe's policy "step".

    Args:
        learning_rate: At the beginning.
        gamma: Factor.
        step_size: Steps between changes.
        steps_per_epoch: If given, the rate changes at the beginnings of epochs of this many steps only, at the first
            one that is late enough, as a callback once an epoch would do.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> round(StepDecay(4e-5).value(136_106), 12)
        1.332e-05

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py:step_decay.
    """

    def __init__(self, learning_rate=4e-5, gamma=0.333, step_size=136_106, steps_per_epoch=None):
        super().__init__()
        if not (0 <= learning_rate < math.inf and 0 <= gamma < math.inf):
            raise ValueError(f"learning_rate is {learning_rate} and gamma {gamma}; give finite numbers of 0 or more.")
        for name, value in (("step_size", step_size), ("steps_per_epoch", steps_per_epoch)):
            if value is not None and not (value == int(value) and value >= 1):
                raise ValueError(f"{name} is {value!r}; give a whole number of 1 or more.")
        self.learning_rate = learning_rate
        self.gamma = gamma
        self.step_size = step_size
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        """The rate at a step, as a tensor.

        Args:
            step: Scalar tensor, 0 for the first step.

        Returns:
            Scalar float32 tensor.
        """
        changes = ops.cast(self._changes(ops.cast(step, "int64")), "float32")
        return ops.cast(self.learning_rate, "float32") * ops.power(ops.cast(self.gamma, "float32"), changes)

    def value(self, step):
        """The rate at a step, as a number.

        Args:
            step: 0 for the first step.

        Returns:
            Number.
        """
        return self.learning_rate * math.pow(self.gamma, self._changes(int(step)))

    def get_config(self):
        """The constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "gamma": self.gamma,
            "step_size": self.step_size,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def _changes(self, step):
        if self.steps_per_epoch:
            step = step // self.steps_per_epoch * self.steps_per_epoch
        return step // self.step_size
