"""The trainer makes voxels and targets itself, and its losses are the originals'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.geometry.depth import DepthCamera, depth_to_points
from posekit.losses import heatmap_mse, mixed_loss
from posekit.models import V2VPoseNet
from posekit.training.torch_optimizers import TorchAdam
from posekit.training.volumetric import VolumetricTrainer

JOINTS = 4


def make_trainer(head="heatmap", **options):
    codec = VoxelCodec(200.0, original_size=18, cropped_size=16, head=head)
    start = keras.initializers.RandomNormal(stddev=0.1, seed=1)
    network = V2VPoseNet(JOINTS, 2, head, kernel_initializer=start)
    trainer = VolumetricTrainer(network, codec, depth_unit=0.1, **options)
    trainer.compile(TorchAdam(1e-3, epsilon=1e-8))
    return trainer, codec


def make_batch(epoch=0, first=0):
    rng = np.random.default_rng(0)
    depth = rng.integers(3500, 4500, (2, 20, 24)).astype(np.uint16)
    depth[:, :4] = 0
    joints = rng.normal(0, 40, (2, JOINTS, 3)) + [0, 0, 400]
    values = {
        "depth": depth,
        "box": np.array([[150, 110, 174, 130]] * 2, np.int32),
        "camera": np.array([[60.0, -60.0, 160, 120]] * 2, np.float32),
        "refpoint": np.array([[0, 0, 400.0]] * 2, np.float32),
        "joints": joints.astype(np.float32),
        "valid": np.ones((2, JOINTS), np.float32),
        "frame": np.arange(first, first + 2),
        "epoch": np.full(2, epoch),
    }
    return {name: tf.constant(value) for name, value in values.items()}


def test_voxels_and_targets_are_those_of_the_codec():
    trainer, codec = make_trainer()
    batch = make_batch()
    voxels, y = trainer.encode(batch)
    for index in range(2):
        crop = batch["depth"][index].numpy() * 0.1
        points = _points(crop)
        expected = codec.encode(points, batch["joints"][index].numpy(), batch["refpoint"][index].numpy())
        np.testing.assert_array_equal(voxels[index, ..., 0], expected[0])
        np.testing.assert_allclose(np.moveaxis(y["heatmaps"][index], -1, 0), expected[2], atol=1e-6)


def _points(crop):
    camera = DepthCamera(60.0, 60.0, 160, 120, y_up=True, width=320, height=240)
    return depth_to_points(crop, camera, (150, 110), first_pixel=1)[crop > 0]


@pytest.mark.parametrize("head", ["heatmap", "integral"])
def test_loss_is_the_original_s(head):
    trainer, _ = make_trainer(head)
    voxels, y = trainer.encode(make_batch())
    outputs = trainer(voxels, training=True)
    if head == "heatmap":
        expected = tf.reduce_mean(heatmap_mse(y["heatmaps"], outputs))
    else:
        expected = mixed_loss({"heatmaps": y["heatmaps"], "coordinates": y["grid"]}, outputs)
    assert float(trainer.compute_loss(voxels, y, outputs)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("head", ["heatmap", "integral"])
def test_joints_without_labels_count_nowhere(head):
    trainer, _ = make_trainer(head)
    batch = make_batch()
    some = {**batch, "valid": tf.constant([[1.0, 1, 1, 0], [1, 1, 0, 0]])}
    other = {**some, "joints": tf.where(some["valid"][..., None] > 0, some["joints"], 1e9)}
    losses, errors = [], []
    for each in (some, other, batch):
        voxels, y = trainer.encode(each)
        with tf.GradientTape() as tape:
            loss = trainer.compute_loss(voxels, y, trainer(voxels, training=False))
        losses.append(float(loss))
        assert all(np.isfinite(grad).all() for grad in tape.gradient(loss, trainer.trainable_variables))
        trainer.reset_metrics()
        errors.append(float(trainer.test_step(each)["error_mm"]))
    assert losses[0] == losses[1] != losses[2] and errors[0] == errors[1] != errors[2]


def test_augmentation_depends_on_epoch_and_frames_alone():
    def step(**where):
        trainer, _ = make_trainer(seed=where.pop("seed", 0))
        trainer.optimizer.build(trainer.trainable_variables)
        return float(trainer.train_step(make_batch(**where))["loss"])

    here = step(epoch=1, first=6)
    assert here == step(epoch=1, first=6)
    assert len({here, step(epoch=2, first=6), step(epoch=1, first=8), step(epoch=1, first=6, seed=1)}) == 4


@pytest.mark.parametrize("head, steps", [("heatmap", 60), ("integral", 30)])
def test_a_batch_can_be_learned_by_heart(head, steps):
    trainer, _ = make_trainer(head, augment=False)
    trainer.optimizer.learning_rate = 0.02
    data = tf.data.Dataset.from_tensors(make_batch()).repeat()
    history = trainer.fit(data, steps_per_epoch=steps, epochs=2, verbose=0, shuffle=False).history
    assert history["error_mm"][1] < 0.6 * history["error_mm"][0] and history["loss"][1] < 0.8 * history["loss"][0]


def test_a_test_set_without_labels_has_no_error():
    trainer, _ = make_trainer()
    batch = {**make_batch(), "valid": tf.zeros((2, JOINTS))}
    assert np.isnan(trainer.test_step(batch)["error_mm"])
