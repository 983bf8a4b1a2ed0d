"""Iterative regression: start from a trained mean and let one network correct it stage by stage."""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("posekit")
class MeanParameters(keras.layers.Layer):
    """A trained vector, given out once for every sample of a batch.

    Args:
        initial: `[parameters]`, the value to start from.
        name: Name of the layer.

    Call arguments:
        inputs: Any tensor; only the size of its batch is read.

    Returns:
        `[batch, parameters]`.
    """

    def __init__(self, initial, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.initial = [float(value) for value in np.asarray(initial, np.float64).reshape(-1)]

    def build(self, inputs_shape=None):
        """Makes the trained vector."""
        initializer = keras.initializers.Constant(np.array(self.initial, np.float32))
        self.value = self.add_weight(name="value", shape=(len(self.initial),), initializer=initializer)
        self.built = True

    def call(self, inputs):
        """See the class."""
        value = ops.cast(self.value, self.compute_dtype)
        return ops.broadcast_to(value, (ops.shape(inputs)[0], len(self.initial)))

    def compute_output_spec(self, inputs):
        """`[batch, parameters]`."""
        return keras.KerasTensor((inputs.shape[0], len(self.initial)), dtype=self.compute_dtype)

    def get_config(self):
        """The initial value."""
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable("posekit")
class CorrectionNetwork(keras.layers.Layer):
    """Fully connected network that proposes a correction of the parameters: dense, dense, small dense.

    Args:
        units: Number of parameters.
        hidden: Width of the two hidden layers.
        dropout: Rate of the dropout after each hidden layer.
        name: Name of the layer.

    Call arguments:
        inputs: `[batch, features + units]`, features beside the current parameters.
        training: Whether dropout is active.

    Returns:
        `[batch, units]`.

    Follows: maxpit/human-pose-estimation/src/models.py:RegressionNetwork.
    """

    def __init__(self, units=85, hidden=1024, dropout=0.5, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.units, self.hidden, self.dropout = units, hidden, dropout
        policy = self.dtype_policy
        # Small first corrections: the first predictions stay near the mean.
        limit = math.sqrt(3 * 0.02 / (hidden + units))
        small = keras.initializers.RandomUniform(-limit, limit)
        self.dense_1 = keras.layers.Dense(hidden, activation="relu", dtype=policy, name="dense_1")
        self.dropout_1 = keras.layers.Dropout(dropout, dtype=policy, name="dropout_1")
        self.dense_2 = keras.layers.Dense(hidden, activation="relu", dtype=policy, name="dense_2")
        self.dropout_2 = keras.layers.Dropout(dropout, dtype=policy, name="dropout_2")
        self.dense_3 = keras.layers.Dense(units, kernel_initializer=small, dtype=policy, name="dense_3")

    def build(self, input_shape):
        """Makes the weights for `[batch, features + units]`."""
        self.dense_1.build(input_shape)
        self.dense_2.build((None, self.hidden))
        self.dense_3.build((None, self.hidden))
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        return self._after_first(self.dense_1(inputs), training)

    def project(self, features):
        """The part of the first layer that depends on the features only, the same in every stage.

        Args:
            features: `[batch, features]`.

        Returns:
            `(projected, kernel)`: `[batch, hidden]`, and the `[units, hidden]` part of the first layer's kernel that
            multiplies the parameters.
        """
        kernel = ops.cast(self.dense_1.kernel, self.compute_dtype)
        for_features, for_parameters = ops.split(kernel, [kernel.shape[0] - self.units], axis=0)
        return ops.matmul(features, for_features) + ops.cast(self.dense_1.bias, self.compute_dtype), for_parameters

    def correct(self, projected, parameters, training=False):
        """The network's output for projected features and current parameters; see `project`.

        Args:
            projected: What `project` returned.
            parameters: `[batch, units]`.
            training: Whether dropout is active.

        Returns:
            `[batch, units]`.
        """
        features, kernel = projected
        return self._after_first(ops.relu(features + ops.matmul(parameters, kernel)), training)

    def _after_first(self, hidden, training):
        hidden = self.dropout_1(hidden, training=training)
        hidden = self.dropout_2(self.dense_2(hidden), training=training)
        return self.dense_3(hidden)

    def compute_output_shape(self, input_shape):
        """`[batch, units]`."""
        return (input_shape[0], self.units)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "units": self.units, "hidden": self.hidden, "dropout": self.dropout}


@keras.saving.register_keras_serializable("posekit")
class IterativeRegressor(keras.layers.Layer):
    """Starts from a trained mean and corrects it several times with one network (iterative error feedback).

    In training, dropout is active in the last stage only. The network sees the features beside the current
    parameters; the features' share of its first layer is computed once for all stages.

    Args:
        mean: `[parameters]`, the value to start from; it is trained.
        num_stages: Number of corrections.
        hidden: Width of the network's hidden layers.
        dropout: Rate of its dropout.
        name: Name of the layer.

    Call arguments:
        features: `[batch, features]`.
        training: Whether dropout is active (in the last stage).

    Returns:
        `[batch, stages, parameters]`, the parameters after each correction.

    Raises:
        ValueError: If there is not at least one stage.

    Reference:
        Carreira et al., "Human Pose Estimation with Iterative Error Feedback", CVPR 2016.

    Follows: maxpit/human-pose-estimation/src/trainer.py:Trainer.train_step (the loop over stages).
    """

    def __init__(self, mean, num_stages=3, hidden=1024, dropout=0.5, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if num_stages < 1:
            raise ValueError(f"num_stages is {num_stages}; at least 1 stage is needed (the original has 3).")
        self.num_stages, self.hidden, self.dropout = num_stages, hidden, dropout
        self.start = MeanParameters(mean, dtype=self.dtype_policy, name="mean")
        self.network = CorrectionNetwork(
            len(self.start.initial), hidden, dropout, dtype=self.dtype_policy, name="network"
        )

    def build(self, features_shape):
        """Makes the network's weights for `[batch, features]`."""
        self.start.build()
        self.network.build((None, features_shape[-1] + self.network.units))
        self.built = True

    def call(self, features, training=False):
        """See the class."""
        parameters = self.start(features)
        projected = self.network.project(features)
        stages = []
        for stage in range(self.num_stages):
            last = stage == self.num_stages - 1
            parameters = parameters + self.network.correct(projected, parameters, training=training and last)
            stages.append(parameters)
        return ops.stack(stages, axis=1)

    def compute_output_shape(self, features_shape):
        """`[batch, stages, parameters]`."""
        return (features_shape[0], self.num_stages, self.network.units)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "mean": self.start.initial,
            "num_stages": self.num_stages,
            "hidden": self.hidden,
            "dropout": self.dropout,
        }
