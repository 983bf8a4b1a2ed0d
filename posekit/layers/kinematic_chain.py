"""Kinematic chain space: lengths of and angles between the bones of a skeleton, free of its place and rotation."""

import keras
from keras import ops

from posekit.skeletons import LSP14, SKELETONS, Skeleton


@keras.saving.register_keras_serializable("posekit")
class KinematicChainSpace(keras.layers.Layer):
    """Inner products of all pairs of bones of a skeleton.

    Args:
        skeleton: The `Skeleton` whose bones are measured, or the name of one of `posekit.skeletons.SKELETONS`.
        name: Name of the layer.

    Call arguments:
        joints: `[batch, joints, 3]` in metres, at least as many joints as the skeleton has; further ones are ignored.

    Returns:
        `[batch, bones, bones]` in square metres; squared bone lengths on the diagonal.

    Raises:
        ValueError: If there are fewer joints than the skeleton has.

    Example:
        >>> KinematicChainSpace()(np.zeros((2, 19, 3), "float32")).shape
        TensorShape([2, 13, 13])

    Reference:
        Wandt et al., "A Kinematic Chain Space for Monocular Motion Capture", ECCV Workshops 2018.

    Follows: maxpit/human-pose-estimation/src/models.py:get_kcs.
    Differs: one batched product instead of products between all samples; same value.
    """

    def __init__(self, skeleton=LSP14, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if isinstance(skeleton, dict):
            bones = tuple(tuple(bone) for bone in skeleton["bone_names"])
            skeleton = Skeleton(skeleton["name"], tuple(skeleton["joints"]), bones)
        elif not isinstance(skeleton, Skeleton):
            if skeleton not in SKELETONS:
                raise ValueError(f"skeleton is {skeleton!r}; choose from {sorted(SKELETONS)} or pass a Skeleton.")
            skeleton = SKELETONS[skeleton]
        self.skeleton = skeleton
        self.built = True

    def call(self, joints):
        """See the class."""
        bones = self.bones(joints)
        return ops.matmul(bones, ops.transpose(bones, (0, 2, 1)))

    def bones(self, joints):
        """Bone vectors, from parent to child.

        Args:
            joints: `[batch, joints, 3]`.

        Returns:
            `[batch, bones, 3]`.
        """
        count = self.skeleton.num_joints
        if len(joints.shape) != 3 or joints.shape[1] < count:
            raise ValueError(
                f"joints have the shape {tuple(joints.shape)}; skeleton {self.skeleton.name!r} takes "
                f"[batch, at least {count}, 3]."
            )
        matrix = ops.convert_to_tensor(self.skeleton.bone_matrix().T, self.compute_dtype)
        return ops.matmul(matrix, ops.cast(joints, self.compute_dtype)[:, :count])

    def bone_lengths(self, joints, squared=False):
        """Lengths of the bones.

        Args:
            joints: `[batch, joints, 3]` in metres.
            squared: Return squared lengths, the diagonal of the kinematic chain space. The original's total bone
                length is the sum of these.

        Returns:
            `[batch, bones]` in metres (or square metres); the gradient at a bone of no length is zero.
        """
        lengths = ops.sum(ops.square(self.bones(joints)), axis=-1)
        if squared:
            return lengths
        there = lengths > 0
        return ops.where(there, ops.sqrt(ops.where(there, lengths, ops.ones_like(lengths))), lengths)

    def compute_output_shape(self, joints_shape):
        """`[batch, bones, bones]`."""
        return (joints_shape[0], len(self.skeleton.bones), len(self.skeleton.bones))

    def get_config(self):
        """The skeleton, in full: an archive does not depend on the names that posekit knows."""
        skeleton = {
            "name": self.skeleton.name,
            "joints": list(self.skeleton.joints),
            "bone_names": [list(bone) for bone in self.skeleton.bone_names],
        }
        return {**super().get_config(), "skeleton": skeleton}
