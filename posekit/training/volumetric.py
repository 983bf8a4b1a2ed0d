"""Training of networks that read voxels: voxels and targets are made of points and joints within the step."""

import keras
import tensorflow as tf

from posekit.losses.heatmap import heatmap_mse, labelled_mean, mixed_loss


class VolumetricTrainer(keras.Model):
    """Trains a `V2VPoseNet` on crops of depth pictures.

    A batch is a dict of what crosses the pipeline, a few bytes a frame: `"depth"` uint16 `[batch, height, width]`,
    `"box"` `[batch, 4]`, `"camera"` `[batch, 4]`, `"refpoint"` `[batch, 3]`, `"joints"` `[batch, joints, 3]` in the
    world, `"valid"` `[batch, joints]`, and for the augmentation `"epoch"` and `"frame"` `[batch]`. Voxels, heatmaps
    and coordinates are made on the device, for the whole batch at once.

    Args:
        network: `V2VPoseNet`.
        codec: `posekit.codecs.voxel_heatmap.VoxelCodec`.
        depth_unit: What 1 in `"depth"` is in the world's unit.
        background: Depth, in the world's unit, of pixels that measured nothing; None for no points there.
        unit_mm: Millimetres of the world's unit.
        augment: Whether training scales, turns and moves the points.
        seed: Seed of the augmentation, which depends on it, the epoch and the frames alone.
        name: Name of the model.

    Example:
        >>> trainer = VolumetricTrainer(V2VPoseNet(), VoxelCodec(200.0), depth_unit=0.1)  # doctest: +SKIP
        >>> trainer.compile(TorchAdam(1e-3, epsilon=1e-8))  # doctest: +SKIP
        >>> trainer.fit(batches)  # doctest: +SKIP

    Follows: dragonbook/V2V-PoseNet-pytorch lib/solver.py, integral-pose/solver.py; mks0601/V2V-PoseNet_RELEASE
    src/train.lua.
    Differs: joints that are not labelled count nowhere.
    """

    def __init__(
        self, network, codec, depth_unit, background=None, unit_mm=1.0, augment=True, seed=0, name="trainer"
    ):
        super().__init__(name=name)
        self.network = network
        self.codec = codec.batched()
        self.integral = codec.head == "integral"
        self.depth_unit = depth_unit
        self.background = background
        self.unit_mm = unit_mm
        self.augment = augment
        self.seed = seed
        self.error_mm = LabelledMean(name="error_mm")
        self.built = True

    def call(self, voxels, training=False):
        """Runs the network on `[batch, x, y, z, 1]` voxels."""
        return self.network(voxels, training=training)

    def encode(self, batch, augmentation=None):
        """Makes what the network reads and is trained with.

        Args:
            batch: See the class.
            augmentation: `Augmentation` of the batch; none if None.

        Returns:
            `(voxels, y)`: `[batch, size, size, size, 1]`, and a dict of what the loss and the metric compare with.
        """
        # A frame without a centre has no cube, and its joints no place in it.
        usable = tf.reduce_all(tf.math.is_finite(batch["refpoint"]), -1)
        valid = (batch["valid"] > 0) & usable[:, None]
        grid = self.codec.joints_to_grid(batch["joints"], batch["refpoint"], augmentation)
        y = {
            "heatmaps": self.codec.target(grid) * tf.cast(valid, tf.float32)[:, None, None, None, :],
            "grid": tf.cast(grid, tf.float32),
            "valid": valid,
            "joints": batch["joints"],
            "refpoint": batch["refpoint"],
            "augmentation": augmentation,
        }
        return self.voxels(batch, augmentation), y

    def voxels(self, batch, augmentation=None):
        """Makes what the network reads.

        Args:
            batch: See the class; joints are not needed.
            augmentation: As in `encode`.

        Returns:
            `[batch, size, size, size, 1]`.
        """
        points = self.codec.points(batch["depth"], batch["box"], batch["camera"], self.depth_unit, self.background)
        return self.codec.voxels(points, batch["refpoint"], augmentation)

    def decode(self, outputs, refpoint, augmentation=None):
        """What the network predicts, in the world.

        Args:
            outputs: Of the network.
            refpoint: `[batch, 3]`.
            augmentation: The `Augmentation` to undo; none if None.

        Returns:
            Float64 `[batch, joints, 3]`.
        """
        if self.integral:
            return self.codec.to_world(outputs["coordinates"], refpoint, augmentation)
        return self.codec.decode(outputs, refpoint, augmentation)

    def train_step(self, batch):
        """Takes one step; see `keras.Model.train_step`."""
        augmentation = None
        if self.augment:
            # Epoch and first frame tell the batches of a run apart.
            seed = tf.stack([tf.cast(self.seed, tf.int64), batch["epoch"][0] * 2**40 + batch["frame"][0]])
            augmentation = self.codec.draw(seed, tf.shape(batch["depth"])[0])
        return super().train_step(self.encode(batch, augmentation))

    def test_step(self, batch):
        """Evaluates one batch; see `keras.Model.test_step`."""
        return super().test_step(self.encode(batch))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Loss of the original: squared differences of heatmaps; for the integral head half the cross entropy of the
        voxels and half the absolute difference of the coordinates. Means over the joints that are labelled.
        """
        # Keras adds up the gradients of several devices.
        share = 1 / tf.distribute.get_strategy().num_replicas_in_sync
        if not self.integral:
            return share * labelled_mean(heatmap_mse(y["heatmaps"], y_pred), y["valid"])
        return share * mixed_loss({"heatmaps": y["heatmaps"], "coordinates": y["grid"]}, y_pred, valid=y["valid"])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Loss, and the mean error of the joints in millimetres as they would be predicted."""
        predicted = self.decode(y_pred, y["refpoint"], y["augmentation"])
        distance = tf.norm(predicted - tf.cast(y["joints"], predicted.dtype), axis=-1) * self.unit_mm
        known = y["valid"] & tf.math.is_finite(distance)
        self.error_mm.update_state(tf.where(known, distance, 0), tf.cast(known, distance.dtype))
        return self.get_metrics_result()


@keras.saving.register_keras_serializable("posekit")
class LabelledMean(keras.metrics.Mean):
    """Mean that is no number, instead of 0, where nothing was counted: a test set without labels has no error."""

    def result(self):
        """The mean."""
        # No constant NaN, which --debug_numerics would stop at.
        return tf.math.divide(self.total, tf.cast(self.count, self.total.dtype))
