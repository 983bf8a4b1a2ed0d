"""Layers for volumes of voxels, `[batch, x, y, z, channels]`: convolution blocks of V2V-PoseNet and the soft-argmax."""

import keras
import tensorflow as tf
from keras import ops

# As PyTorch's default, so that statistics and results are the same on both sides.
MOMENTUM = 0.9
EPSILON = 1e-5
# The originals' start; batch normalisation behind every layer but the last makes up for it.
KERNEL_STDDEV = 0.001


@keras.saving.register_keras_serializable("posekit")
class VolumeBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of volumes, with the running statistics of PyTorch.

    Like `keras.layers.BatchNormalization`, but the variance that is kept for prediction is the unbiased one, and one
    fused operation does the work unless the weights are of another type than float32.

    Args:
        momentum: Share of the running statistics that stays in every training step; 1 minus PyTorch's.
        epsilon: Added to the variance.
        **kwargs: Those of `keras.layers.BatchNormalization`; the axis is always the last.

    Call arguments:
        inputs: `[batch, x, y, z, channels]`.
        training: Whether statistics are those of the batch.
        keep: Whether the running statistics take those of the batch in; else nothing is changed, and the result is
            `(normalized, mean, variance)`, for `keep_statistics`. In training only.

    Returns:
        The same shape.

    Raises:
        ValueError: If an argument asks for what it has not: another axis, renormalisation or synchronised statistics,
            or no scale or centre.

    Example:
        >>> VolumeBatchNormalization()(np.ones((2, 4, 4, 4, 8), "float32"), training=True).shape
        TensorShape([2, 4, 4, 4, 8])
    """

    def __init__(self, momentum=MOMENTUM, epsilon=EPSILON, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if self.axis not in (-1, 4) or not self.scale or not self.center or self.synchronized:
            raise ValueError(
                f"axis is {self.axis!r}, scale {self.scale!r}, center {self.center!r}, synchronized "
                f"{self.synchronized!r}; volumes are normalised over axis -1 with scale and center, each replica alone."
            )

    def call(self, inputs, training=None, mask=None, keep=True):
        """See the class; a mask is refused."""
        if mask is not None:
            raise ValueError("Volumes are normalised without a mask; set the voxels to leave out before, or none.")
        dtype = "float64" if "float64" in (inputs.dtype, self.variable_dtype) else "float32"
        gamma, beta = tf.cast(self.gamma, dtype), tf.cast(self.beta, dtype)
        if not (training and self.trainable):
            mean, variance = tf.cast(self.moving_mean, dtype), tf.cast(self.moving_variance, dtype)
            return _scale(inputs, gamma, beta, mean, variance, self.epsilon)
        normalized, mean, variance = _normalize(inputs, gamma, beta, self.epsilon)
        if not keep:
            return normalized, mean, variance
        self.keep_statistics(mean, variance, _count(inputs))
        return normalized

    def keep_statistics(self, mean, variance, count):
        """Takes the statistics of a batch into the running ones.

        Args:
            mean: `[channels]`.
            variance: `[channels]`, mean squared distance from the mean.
            count: How many voxels they are of.
        """
        count = tf.cast(count, variance.dtype)
        unbiased = variance * count / tf.maximum(count - 1, 1)
        for kept, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            kept.assign(kept + (1 - self.momentum) * (tf.cast(new, kept.dtype) - kept))


def _normalize(inputs, gamma, beta, epsilon):
    """Batch normalisation with the statistics of the batch.

    TensorFlow's own operations add voxel after voxel to one sum. Empty voxels are all alike and round it alike: with
    88 voxels cubed, means were wrong in the third digit. Here every axis is summed in turn, in the same time.

    Args:
        inputs: `[batch, x, y, z, channels]`.
        gamma: `[channels]`, of the type to compute in.
        beta: `[channels]`.
        epsilon: Added to the variance.

    Returns:
        `(normalized, mean, variance)`; the statistics, `[channels]`, have no gradient.
    """

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        values = tf.cast(inputs, gamma.dtype)
        mean = _mean(values)
        variance = _mean(tf.math.squared_difference(values, mean))

        def gradient(upstream, *_):
            upstream, values = tf.cast(upstream, gamma.dtype), tf.cast(inputs, gamma.dtype)
            inverse = tf.math.rsqrt(variance + epsilon)
            shared = _mean(upstream)
            along = inverse * _mean(upstream * (values - mean))
            scale = gamma * inverse
            slope = scale * inverse * along
            down = scale * upstream - (slope * values + (scale * shared - slope * mean))
            count = tf.cast(_count(values), gamma.dtype)
            return tf.cast(down, inputs.dtype), count * along, count * shared

        return (_scale(inputs, gamma, beta, mean, variance, epsilon), mean, variance), gradient

    return normalize(inputs, gamma, beta)


def _scale(inputs, gamma, beta, mean, variance, epsilon):
    """Batch normalisation with given statistics."""
    if gamma.dtype == "float64":
        values = (tf.cast(inputs, "float64") - mean) * (gamma * tf.math.rsqrt(variance + epsilon)) + beta
        return tf.cast(values, inputs.dtype)
    return tf.compat.v1.nn.fused_batch_norm(
        inputs, gamma, beta, mean=mean, variance=variance, epsilon=epsilon, data_format="NDHWC", is_training=False
    )[0]


def _mean(values):
    return tf.reduce_mean(tf.reduce_mean(tf.reduce_mean(values, axis=3), axis=2), axis=(0, 1))


def _count(values):
    return tf.reduce_prod(tf.shape(values)[:4])


class _Convolution(keras.layers.Conv3D):
    """Convolution whose gradient is right for volumes smaller than the kernel, too.

    On processors, TensorFlow's gradient of such a kernel in bfloat16 holds memory that was never written.
    """

    def convolution_op(self, inputs, kernel):
        """See `keras.layers.Conv3D`."""
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        small = any(edge is not None and edge < size for edge, size in zip(inputs.shape[1:4], self.kernel_size))
        if dtype != "bfloat16" or not small:
            return super().convolution_op(inputs, kernel)
        features = super().convolution_op(ops.cast(inputs, "float32"), ops.cast(kernel, "float32"))
        return ops.cast(features, dtype)


class _Block(keras.layers.Layer):
    """What the blocks share: their arguments, how their layers are made, and how they are trained in less memory."""

    def __init__(
        self,
        filters,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        kernel_initializer=None,
        name=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.remat = bool(remat)
        self.filters = filters
        self.momentum = momentum
        self.epsilon = epsilon
        self.kernel_initializer = (
            keras.initializers.RandomNormal(stddev=KERNEL_STDDEV)
            if kernel_initializer is None
            else keras.initializers.get(kernel_initializer)
        )

    def _convolution(self, name, kernel_size, layer=_Convolution, **options):
        # A copy each: one initializer gives the same numbers to every layer of a shape.
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = type(initializer).from_config(initializer.get_config())
        return layer(
            self.filters,
            kernel_size,
            padding="same",
            kernel_initializer=initializer,
            name=name,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            **options,
        )

    def _norm(self, name):
        return VolumeBatchNormalization(
            self.momentum, self.epsilon, name=name, dtype=self.dtype_policy, trainable=self.trainable
        )

    def call(self, inputs, training=None):
        """See the class."""
        if not (self.remat and training and self.trainable):
            return self._forward(inputs, lambda norm, features: norm(features, training=training))
        norms = []

        def forward(inputs):
            # This runs again on the way back, but the running statistics must change only once.
            norms.clear()
            statistics = []

            def normalize(norm, features):
                norms.append(norm)
                features, *of_batch = norm(features, training=True, keep=False)
                statistics.extend(of_batch)
                return features

            return (self._forward(inputs, normalize), *statistics)

        features, *statistics = tf.recompute_grad(forward)(inputs)
        # Every layer of a block normalises volumes of the size of its result.
        for norm, mean, variance in zip(norms, statistics[::2], statistics[1::2], strict=True):
            norm.keep_statistics(mean, variance, _count(features))
        return features

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "remat": self.remat,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable("posekit")
class BasicBlock3D(_Block):
    """Convolution, batch normalisation and ReLU; the size stays.

    Args:
        filters: Channels of the result.
        kernel_size: Edge of the kernel in voxels.
        momentum: Of batch normalisation, see `VolumeBatchNormalization`.
        epsilon: Of batch normalisation.
        kernel_initializer: Start of the kernels; None for a normal distribution of standard deviation 0.001.
        name: Name of the layer.
        remat: Whether training computes the inside anew on the way back instead of keeping it: less memory, more time.

    Call arguments:
        inputs: `[batch, x, y, z, channels]`.
        training: Whether batch normalisation is in training mode.

    Returns:
        `[batch, x, y, z, filters]`.

    Example:
        >>> BasicBlock3D(16, 7)(np.ones((1, 8, 8, 8, 1), "float32")).shape
        TensorShape([1, 8, 8, 8, 16])

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_model.py:Basic3DBlock.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        kernel_initializer=None,
        name=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(filters, momentum, epsilon, kernel_initializer, name, remat, **kwargs)
        self.kernel_size = kernel_size
        self.convolution = self._convolution("convolution", kernel_size)
        self.norm = self._norm("norm")

    def build(self, input_shape):
        """Makes the weights."""
        self.convolution.build(input_shape)
        self.norm.build(self.convolution.compute_output_shape(input_shape))

    def _forward(self, inputs, normalize):
        return ops.relu(normalize(self.norm, self.convolution(inputs)))

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable("posekit")
class UpsampleBlock3D(_Block):
    """Transposed convolution to twice the size, batch normalisation and ReLU.

    Args:
        filters: Channels of the result.
        momentum: Of batch normalisation, see `VolumeBatchNormalization`.
        epsilon: Of batch normalisation.
        kernel_initializer: Start of the kernels; None for a normal distribution of standard deviation 0.001.
        name: Name of the layer.
        remat: Whether training computes the inside anew on the way back instead of keeping it: less memory, more time.

    Call arguments:
        inputs: `[batch, x, y, z, channels]`.
        training: Whether batch normalisation is in training mode.

    Returns:
        `[batch, 2 x, 2 y, 2 z, filters]`.

    Example:
        >>> UpsampleBlock3D(16)(np.ones((1, 4, 4, 4, 32), "float32")).shape
        TensorShape([1, 8, 8, 8, 16])

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_model.py:Upsample3DBlock (kernel of 2 voxels).
    """

    def __init__(
        self,
        filters,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        kernel_initializer=None,
        name=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(filters, momentum, epsilon, kernel_initializer, name, remat, **kwargs)
        self.convolution = self._convolution("convolution", 2, keras.layers.Conv3DTranspose, strides=2)
        self.norm = self._norm("norm")

    def build(self, input_shape):
        """Makes the weights."""
        self.convolution.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def _forward(self, inputs, normalize):
        return ops.relu(normalize(self.norm, self.convolution(inputs)))

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        edges = (None if edge is None else 2 * edge for edge in input_shape[1:4])
        return (input_shape[0], *edges, self.filters)


@keras.saving.register_keras_serializable("posekit")
class ResidualBlock3D(_Block):
    """Two convolutions of 3 voxels with batch normalisation, added to the input, and ReLU; the size stays.

    Where the number of channels changes, the input passes a convolution of 1 voxel with batch normalisation first.

    Args:
        filters: Channels of the result.
        momentum: Of batch normalisation, see `VolumeBatchNormalization`.
        epsilon: Of batch normalisation.
        kernel_initializer: Start of the kernels; None for a normal distribution of standard deviation 0.001.
        name: Name of the layer.
        remat: Whether training computes the inside anew on the way back instead of keeping it: less memory, more time.

    Call arguments:
        inputs: `[batch, x, y, z, channels]`.
        training: Whether batch normalisation is in training mode.

    Returns:
        `[batch, x, y, z, filters]`.

    Example:
        >>> ResidualBlock3D(32)(np.ones((1, 8, 8, 8, 16), "float32")).shape
        TensorShape([1, 8, 8, 8, 32])

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_model.py:Res3DBlock.
    """

    def __init__(
        self,
        filters,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        kernel_initializer=None,
        name=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(filters, momentum, epsilon, kernel_initializer, name, remat, **kwargs)
        self.first_convolution = self._convolution("first_convolution", 3)
        self.first_norm = self._norm("first_norm")
        self.second_convolution = self._convolution("second_convolution", 3)
        self.second_norm = self._norm("second_norm")
        self.skip_convolution = self.skip_norm = None

    def build(self, input_shape):
        """Makes the weights."""
        inside = self.compute_output_shape(input_shape)
        self.first_convolution.build(input_shape)
        self.second_convolution.build(inside)
        self.first_norm.build(inside)
        self.second_norm.build(inside)
        if input_shape[-1] != self.filters:
            self.skip_convolution = self._convolution("skip_convolution", 1)
            self.skip_norm = self._norm("skip_norm")
            self.skip_convolution.build(input_shape)
            self.skip_norm.build(inside)

    def _forward(self, inputs, normalize):
        features = ops.relu(normalize(self.first_norm, self.first_convolution(inputs)))
        features = normalize(self.second_norm, self.second_convolution(features))
        if self.skip_convolution is not None:
            inputs = normalize(self.skip_norm, self.skip_convolution(inputs))
        return ops.relu(features + inputs)

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        return (*input_shape[:-1], self.filters)


@keras.saving.register_keras_serializable("posekit")
class VolumetricSoftArgmax(keras.layers.Layer):
    """Mean place in every volume, weighted by the softmax over its voxels.

    It computes in float32 unless told otherwise: in half precision, places would be rounded to 1/32 of a voxel.

    Args:
        name: Name of the layer.
        dtype: Type, or name of the dtype policy, in which it computes.

    Call arguments:
        inputs: `[batch, x, y, z, channels]` scores of the voxels.

    Returns:
        `[batch, channels, 3]`: x, y and z in voxels; voxel i stands at i.

    Example:
        >>> VolumetricSoftArgmax()(np.zeros((1, 5, 7, 9, 1), "float32")).numpy().tolist()
        [[[2.0, 3.0, 4.0]]]

    Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/model.py:VolumetricSoftmax.
    """

    def __init__(self, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)

    def call(self, inputs):
        """See the class."""
        weights = ops.exp(inputs - ops.stop_gradient(ops.max(inputs, axis=(1, 2, 3), keepdims=True)))
        # Axis by axis: what is summed over z serves x and y.
        over_z = ops.sum(weights, axis=3)
        profiles = (ops.sum(over_z, axis=2), ops.sum(over_z, axis=1), ops.sum(weights, axis=(1, 2)))
        places = [
            ops.einsum("bic,i->bc", profile, ops.cast(ops.arange(ops.shape(profile)[1]), profile.dtype))
            for profile in profiles
        ]
        return ops.stack(places, axis=-1) / ops.sum(profiles[0], axis=1)[..., None]

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        return (input_shape[0], input_shape[-1], 3)
