"""Training of networks that find many people: labels are made of joints within the step, for the whole batch."""

import keras
import tensorflow as tf

from posekit.losses.paf import stage_losses


class PeopleTrainer(keras.Model):
    """Trains an `OpenPose` on pictures with many people.

    A batch is a dict, see `posekit.data.people_pipeline`: `"image"` uint8 `[batch, height, width, 3]`, `"mask"`
    `[batch, height / stride, width / stride, 1]`, `"joints_px"` `[batch, people, joints, 2]` and `"present"`
    `[batch, people, joints]`. Heatmaps and part affinity fields are made on the device.

    Args:
        network: `OpenPose`; the maps of all its stages are trained.
        codec: `posekit.codecs.paf.PafCodec`.
        mask_labels: Whether labels in masked places are masked too; see `posekit.losses.paf.masked_map_loss`.
        name: Name of the model.

    Example:
        >>> trainer = PeopleTrainer(OpenPose("mobilenet_thin"), PafCodec())  # doctest: +SKIP
        >>> trainer.compile("adam")  # doctest: +SKIP
        >>> trainer.fit(people_batches("data", "train", 10))  # doctest: +SKIP

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py.
    """

    def __init__(self, network, codec, mask_labels=True, name="trainer"):
        super().__init__(name=name)
        self.network = network.stages_model()
        self.codec = codec
        self.mask_labels = mask_labels
        self.means = {key: keras.metrics.Mean(name=key) for key in self.network.output}
        self.built = True

    def call(self, images, training=False):
        """Maps of all stages of `[batch, height, width, 3]` pictures."""
        return self.network(images, training=training)

    def encode(self, batch):
        """Makes what the network reads and is trained with.

        Args:
            batch: See the class.

        Returns:
            `(images, y)`: float32 pictures, and a dict of `"heatmaps"`, `"pafs"` and `"mask"`.
        """
        heatmaps, pafs = self.codec.encode(batch["joints_px"], batch["present"], batch["image"].shape[1:3])
        return tf.cast(batch["image"], tf.float32), {"heatmaps": heatmaps, "pafs": pafs, "mask": batch["mask"]}

    def train_step(self, batch):
        """Takes one step; see `keras.Model.train_step`."""
        return super().train_step(self.encode(batch))

    def test_step(self, batch):
        """Evaluates one batch; see `keras.Model.test_step`."""
        return super().test_step(self.encode(batch))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The losses of all maps, and those of the weights."""
        # Keras adds up the gradients of several devices.
        share = 1 / tf.distribute.get_strategy().num_replicas_in_sync
        losses = stage_losses(y, y_pred, y["mask"], self.mask_labels)
        return share * tf.add_n([*losses.values(), *self.losses])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The loss, and that of every map."""
        for key, value in stage_losses(y, y_pred, y["mask"], self.mask_labels).items():
            self.means[key].update_state(value, sample_weight=tf.shape(y["mask"])[0])
        return self.get_metrics_result()
