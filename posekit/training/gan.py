"""Two-player training of human mesh recovery: the regressor, and the critic that tells its bodies from real ones."""

import keras
import tensorflow as tf

from posekit.geometry.cameras import ndc_to_px, orthographic_projection
from posekit.layers.kinematic_chain import KinematicChainSpace
from posekit.losses.adversarial import critic_loss, generator_critic_loss
from posekit.losses.keypoint import keypoint_reprojection_loss, loss_3d
from posekit.losses.silhouette import NORMALIZATIONS, mesh_reprojection_loss
from posekit.models.hmr import Critic
from posekit.ops import native
from posekit.ops.gradient_penalty import (
    BoneProducts,
    check_mode,
    gradient_penalty,
    interpolate,
    penalty_of_gradients,
)
from posekit.skeletons import LSP14
from posekit.training.judgement import judge


class HMRTrainer(keras.Model):
    """Trains an `HMR`, with a critic or without.

    The losses of keypoints and silhouettes, and the generator's share of the critic's loss, come from the last stage.
    The critic learns from the bodies of every stage against as many real ones. Both players make one step a batch, from
    the same predictions.

    A batch is a dict: `"image"` `[batch, size, size, 3]`, `"keypoints"` `[batch, 19, 3]` (x, y in ndc, visible),
    with the silhouette loss `"silhouette"` `[batch, size, size, 1]` and `"has_silhouette"` `[batch]`, with the 3-D loss
    `"pose"`, `"shape"`, `"has_3d"`, `"joints3d"` `[batch, 14, 3]` and `"has_joints3d"`, and with a critic `"mocap"`, a
    dict of `"pose"` `[batch * stages, 72]` and `"shape"` `[batch * stages, 10]` of real bodies. Real bodies may bring
    `"keypoints3d"` and `"rotations"` `[batch * stages, joints, 3, 3]` instead of a pose.

    Args:
        hmr: The `HMR` to train.
        critic: `Critic`, or None to train the encoder only.
        kpr_loss_weight: Weight of the keypoint reprojection loss.
        mr_loss_weight: Weight of the mesh reprojection loss.
        critic_loss_weight: Weight of the critic's judgement in the generator's loss.
        loss_3d_weight: Weight of the loss against 3-D truth; 0 leaves it out.
        use_kpr_loss: Train with the keypoint reprojection loss.
        use_mesh_repro_loss: Train with the mesh reprojection (silhouette) loss.
        use_gradient_penalty: Train the critic with the gradient penalty.
        gradient_penalty_mode: `"batch_mean"` or `"per_sample"`; see `posekit.ops.gradient_penalty`.
        gradient_penalty_weight: Weight of the penalty.
        mesh_normalization: `"original"` or `"points"`; see `posekit.losses.mesh_reprojection_loss`.
        do_bone_evaluation: Log the total bone lengths of predicted and real bodies.
        num_keypoints: Number of leading keypoints that are trained: 19, or 14 for those of LSP.
        seed: Seed of the interpolation between real and fake bodies.
        name: Name of the model.

    Raises:
        ValueError: If an option is unknown, or nothing is left to learn from.

    Example:
        >>> trainer = HMRTrainer(HMR(), Critic())
        >>> trainer.compile(keras.optimizers.Adam(1e-4), keras.optimizers.Adam(5e-4))
        >>> trainer.fit(batches)

    Follows: maxpit/human-pose-estimation/src/trainer.py:Trainer.
    Differs: works without the gradient penalty too; batches without visible keypoints or silhouettes give loss 0.
    """

    def __init__(
        self,
        hmr,
        critic=None,
        kpr_loss_weight=60.0,
        mr_loss_weight=0.001,
        critic_loss_weight=0.01,
        loss_3d_weight=0.0,
        use_kpr_loss=True,
        use_mesh_repro_loss=False,
        use_gradient_penalty=True,
        gradient_penalty_mode="batch_mean",
        gradient_penalty_weight=10.0,
        mesh_normalization="original",
        do_bone_evaluation=True,
        num_keypoints=19,
        seed=0,
        name="trainer",
    ):
        super().__init__(name=name)
        check_mode(gradient_penalty_mode)
        if mesh_normalization not in NORMALIZATIONS:
            raise ValueError(f"mesh_normalization is {mesh_normalization!r}; choose from {list(NORMALIZATIONS)}.")
        if not (use_kpr_loss or use_mesh_repro_loss or loss_3d_weight):
            raise ValueError("Nothing to learn from: set use_kpr_loss, use_mesh_repro_loss or loss_3d_weight.")
        self.hmr = hmr
        self.critic = critic
        self.kpr_loss_weight = kpr_loss_weight
        self.mr_loss_weight = mr_loss_weight
        self.critic_loss_weight = critic_loss_weight
        self.loss_3d_weight = loss_3d_weight
        self.use_kpr_loss = use_kpr_loss
        self.use_mesh_repro_loss = use_mesh_repro_loss
        self.use_gradient_penalty = use_gradient_penalty
        self.gradient_penalty_mode = gradient_penalty_mode
        self.gradient_penalty_weight = gradient_penalty_weight
        self.mesh_normalization = mesh_normalization
        self.do_bone_evaluation = do_bone_evaluation
        self.num_keypoints = num_keypoints
        # All that is random here comes from this state, which checkpoints hold: a resumed run draws what it would have.
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.kinematic_chain = KinematicChainSpace(LSP14)
        self.trackers = {name: keras.metrics.Mean(name=name) for name in self._metric_names()}
        self.built = True

    def _metric_names(self):
        names = {
            "generator/kpr_loss": self.use_kpr_loss,
            "generator/mr_loss": self.use_mesh_repro_loss,
            "generator/loss_3d": self.loss_3d_weight,
            "critic/critic_network_loss": self.critic,
            "critic/generator_critic_loss": self.critic,
            "critic/penalty": self.critic and self.use_gradient_penalty,
            "bones/avg_total_bone_lenth_pred": self.do_bone_evaluation,
            "bones/avg_total_bone_lenth_gt": self.do_bone_evaluation and self.critic,
        }
        return [name for name, used in names.items() if used]

    def compile(self, generator_optimizer, critic_optimizer=None, jit_compile="auto", **kwargs):
        """Chooses the optimizers.

        Args:
            generator_optimizer: Optimizer of the regressor; under `mixed_float16` it gets loss scaling.
            critic_optimizer: Optimizer of the critic; needed if there is one.
            jit_compile: Compile the whole step with XLA. `"auto"` follows Keras: on a GPU, where XLA can. The
                silhouette loss cannot be compiled: the number of its points depends on the picture.
            **kwargs: Further arguments of `keras.Model.compile`, such as `run_eagerly` and `steps_per_execution`.

        Raises:
            ValueError: If there is a critic without an optimizer, or XLA is asked for with the silhouette loss.
        """
        if self.critic is not None and critic_optimizer is None:
            raise ValueError("There is a critic, but no critic_optimizer; give one, or train without a critic.")
        if self.use_mesh_repro_loss:
            if jit_compile is True:
                raise ValueError("jit_compile=True does not go with use_mesh_repro_loss; leave it 'auto' or False.")
            jit_compile = False
        super().compile(optimizer=generator_optimizer, jit_compile=jit_compile, **kwargs)
        self.generator_optimizer = self.optimizer
        self.critic_optimizer = keras.optimizers.get(critic_optimizer) if self.critic is not None else None
        # Built at once, so that a checkpoint can be restored before the first step.
        self.generator_optimizer.build(self.hmr.trainable_variables)
        if self.critic is not None:
            self.critic_optimizer.build(self.critic.trainable_variables)

    @property
    def optimizers(self):
        """The optimizers, the regressor's first."""
        return [optimizer for optimizer in (self.generator_optimizer, self.critic_optimizer) if optimizer is not None]

    @property
    def metrics(self):
        """Running means of the losses, named as the original's TensorBoard scalars."""
        return list(self.trackers.values())

    def call(self, images, training=False):
        """Predictions of the regressor; see `HMR`."""
        return self.hmr(images, training=training)

    def train_step(self, batch):
        """One step of both players.

        Args:
            batch: Dict described in the class.

        Returns:
            Dict of this step's losses; `fit` takes the values of an epoch from the running means in `metrics`.
        """
        batch, values = _the_dict(batch), {}
        real = None if self.critic is None else self._real_bodies(batch)
        with tf.GradientTape() as tape:
            outputs = self.hmr(batch["image"], training=True)
            values |= self._supervised_losses(batch, outputs)
            total = tf.add_n([self._per_replica(name, loss) for name, loss in values.items()])
            if self.critic is not None:
                fake = self._fake_bodies(outputs)
                critic_values, critic_gradients, directions = self.critic_turn(real, fake)
                values |= critic_values
                # A sum whose gradient is the critic's: its value says nothing.
                pull = [tf.reduce_sum(d * self._last_stage(part)) for d, part in zip(directions, fake)]
                total += tf.add_n(pull) / self._replicas()
            total = self.generator_optimizer.scale_loss(total)
        variables = self.hmr.trainable_variables
        self.generator_optimizer.apply_gradients(zip(tape.gradient(total, variables), variables))
        if self.critic is not None:
            self.critic_optimizer.apply_gradients(zip(critic_gradients, self.critic.trainable_variables))
        if self.do_bone_evaluation:
            values["bones/avg_total_bone_lenth_pred"] = self._bone_length(_merge_stages(outputs["keypoints3d"]))
            if self.critic is not None:
                values["bones/avg_total_bone_lenth_gt"] = self._bone_length(real[0])
        return self._track(values)

    def test_step(self, batch):
        """Losses of the generator on a batch, without training.

        Args:
            batch: As for training; without `"mocap"`.

        Returns:
            Dict of running means.
        """
        batch = _the_dict(batch)
        outputs = self.hmr(batch["image"], training=False)
        values = self._supervised_losses(batch, outputs)
        if self.critic is not None:
            scores = self._score([self._last_stage(part) for part in self._fake_bodies(outputs)])
            values["critic/generator_critic_loss"] = self.critic_loss_weight * generator_critic_loss(scores)
        return {name: self.trackers[name].result() for name in self._track(values)}

    def _supervised_losses(self, batch, outputs):
        """Weighted losses of the last stage against what is known about the pictures."""
        values = {}
        if self.use_kpr_loss:
            true, predicted = batch["keypoints"], outputs["keypoints_ndc"][:, -1]
            loss = keypoint_reprojection_loss(true[:, : self.num_keypoints], predicted[:, : self.num_keypoints])
            values["generator/kpr_loss"] = self.kpr_loss_weight * loss
        if self.use_mesh_repro_loss:
            vertices_ndc = orthographic_projection(outputs["vertices"], outputs["camera"][:, -1])
            loss = mesh_reprojection_loss(
                batch["silhouette"],
                ndc_to_px(vertices_ndc, batch["silhouette"].shape[1:3]),
                normalization=self.mesh_normalization,
                weights=batch["has_silhouette"],
            )
            values["generator/mr_loss"] = self.mr_loss_weight * loss
        if self.loss_3d_weight:
            loss = loss_3d(
                self.hmr.smpl(batch["pose"], batch["shape"], outputs=("rotations",))["rotations"],
                outputs["rotations"][:, -1],
                batch["shape"],
                outputs["shape"][:, -1],
                batch["has_3d"],
                batch["joints3d"],
                outputs["keypoints3d"][:, -1],
                batch["has_joints3d"],
            )
            values["generator/loss_3d"] = self.loss_3d_weight * loss
        return values

    def critic_turn(self, real, fake):
        """What the critic learns and says in one step; nothing is changed yet.

        Args:
            real: `[joints, shapes, rotations]` of `[batch * stages]` real bodies.
            fake: The same of predicted bodies.

        Returns:
            `(values, gradients, directions)`: weighted losses by name, the gradients of the critic's weights, and the
            gradients of the generator's loss with respect to the bodies of the last stage.
        """
        fake = [tf.stop_gradient(part) for part in fake]
        stages, count = self.hmr.num_stages, tf.shape(fake[0])[0]
        with tf.GradientTape() as tape:
            # Real and fake bodies take turns: what is the same for both, such as a last bias, cancels without rounding.
            bodies = [_take_turns(parts) for parts in zip(real, fake)]
            values, penalty, mode = {}, 0.0, self.gradient_penalty_mode
            # The compiled op does all of the penalty by itself; elsewhere one call of the critic serves that too.
            apart = self.use_gradient_penalty and type(self.critic) is Critic and native.ops() is not None
            if apart:
                bones = BoneProducts(self.kinematic_chain.skeleton.bone_matrix())
                penalty = gradient_penalty(self.critic, real, fake, mode, bones, self._coefficients(real))
            elif self.use_gradient_penalty:
                between = interpolate(real, fake, mode, self._coefficients(real))
                bodies = [tf.concat(parts, axis=0) for parts in zip(bodies, between)]
            scores, slopes = judge(self.critic, self.kinematic_chain, bodies)
            if self.use_gradient_penalty and not apart:
                at_kcs, *at_bodies = slopes(slice(2 * count, None), mean=mode == "batch_mean")
                penalty = penalty_of_gradients([at_kcs, *at_bodies] if mode == "batch_mean" else at_bodies, mode)
            if self.use_gradient_penalty:
                values["critic/penalty"] = penalty
            real_scores, fake_scores = tf.unstack(tf.reshape(scores[: 2 * count], [count, 2, scores.shape[1]]), axis=1)
            loss = critic_loss(real_scores, fake_scores, penalty, self.gradient_penalty_weight)
            scaled = self.critic_optimizer.scale_loss(loss / self._replicas())
        judged = generator_critic_loss(self._last_stage(fake_scores))
        values["critic/critic_network_loss"] = loss
        values["critic/generator_critic_loss"] = self.critic_loss_weight * judged
        share = self.critic_loss_weight * stages / tf.cast(count, tf.float32)
        of_last_stage = slopes(slice(2 * stages - 1, 2 * count, 2 * stages))
        directions = [tf.stop_gradient(-share * slope) for slope in of_last_stage[1:]]
        return values, tape.gradient(scaled, self.critic.trainable_variables), directions

    def _coefficients(self, real):
        """Interpolation coefficients between real and fake bodies, drawn from the trainer's own random state."""
        count = tf.shape(real[0])[0]
        if self.gradient_penalty_mode == "per_sample":
            drawn = keras.random.uniform((count,), seed=self.seed_generator)
            return [tf.reshape(drawn, [-1] + [1] * (part.shape.rank - 1)) for part in real]
        sizes = [part.shape[1:].num_elements() for part in real]
        drawn = tf.split(keras.random.uniform((count, sum(sizes)), seed=self.seed_generator), sizes, axis=1)
        return [tf.reshape(values, tf.shape(part)) for values, part in zip(drawn, real)]

    def _real_bodies(self, batch):
        """`[joints, shapes, rotations]` of the real bodies of a batch."""
        mocap = batch.get("mocap")
        if mocap is None:
            raise ValueError("The batch has no 'mocap', the real bodies for the critic; add it or train encoder only.")
        if "pose" in mocap:
            mocap = {**self.hmr.smpl.keypoints(mocap["pose"], mocap["shape"]), "shape": mocap["shape"]}
            mocap["keypoints3d"] = mocap["keypoints"]
        return self._critic_bodies(mocap["keypoints3d"], mocap["shape"], mocap["rotations"])

    def _fake_bodies(self, outputs):
        """`[joints, shapes, rotations]` of the predicted bodies of all stages, the stages of a picture in a row."""
        return self._critic_bodies(*(_merge_stages(outputs[key]) for key in ("keypoints3d", "shape", "rotations")))

    def _critic_bodies(self, keypoints, shapes, rotations):
        # The critic sees the joints of its skeleton, and no global rotation: the first one.
        return [keypoints[:, : self.critic.num_joints], shapes, rotations[:, -self.critic.num_rotations :]]

    def _last_stage(self, part):
        return part[self.hmr.num_stages - 1 :: self.hmr.num_stages]

    def _score(self, bodies):
        return self.critic([self.kinematic_chain(bodies[0]), *bodies])

    def _bone_length(self, joints):
        squared = self.kinematic_chain.bone_lengths(joints, squared=True)
        return tf.reduce_mean(tf.reduce_sum(squared, axis=1))

    def _replicas(self):
        return float(tf.distribute.get_strategy().num_replicas_in_sync)

    def _is_sum_over_batch(self, name):
        return name == "generator/mr_loss" and self.mesh_normalization == "original"

    def _per_replica(self, name, loss):
        """A replica's share of a loss: gradients are summed over replicas, so means are divided, sums are not."""
        return loss if self._is_sum_over_batch(name) else loss / self._replicas()

    def _track(self, values):
        """Adds to the running means; returns the values in the order of the metrics."""
        for name, value in values.items():
            if self._is_sum_over_batch(name):
                values[name] = value * self._replicas()  # means over replicas are taken of it
            self.trackers[name].update_state(values[name])
        return {name: values[name] for name in self.trackers if name in values}


def _merge_stages(tensor):
    return tf.reshape(tensor, [-1, *tensor.shape[2:]])


def _take_turns(parts):
    """Rows of two tensors, one of each after the other."""
    return _merge_stages(tf.stack(parts, axis=1))


def _the_dict(data):
    """The batch itself: `train_on_batch` and `test_on_batch` hand it over in a tuple."""
    return keras.utils.unpack_x_y_sample_weight(data)[0]
