"""SMPL: a skinned body with shape and pose blend shapes, as a differentiable Keras layer."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from posekit import bodies
from posekit.geometry import rotations

OUTPUTS = ("vertices", "joints", "keypoints", "rotations")
_DIMENSIONS = ("num_vertices", "num_joints", "num_shape", "num_keypoints")


@keras.saving.register_keras_serializable("posekit")
class SMPL(keras.layers.Layer):
    """Turns pose and shape coefficients into a body: vertices, joints, image keypoints and rotations.

    The number of vertices, joints, shape coefficients and keypoints comes from the body. The layer has no weights: the
    body's arrays are constants, so that a licensed body does not travel in `.weights.h5` files. A `.keras` archive does
    hold the body.

    Args:
        body: A `BodyModel`, the name or path of one (see `posekit.bodies.load_body`), or None for the first body on the
            search path. A layer rebuilt from its configuration gets the body's name and dimensions here, and finds the
            arrays in the archive or, when first called, on the search path.
        name: Name of the layer.
        dtype: `"float32"` or `"float64"`; mixed-precision policies leave the layer in float32.

    Call arguments:
        pose: `[batch, 3 * joints]` axis-angle rotations in radians, each relative to the parent joint.
        shape: `[batch, num_shape]` shape coefficients.
        outputs: Which of `"vertices"`, `"joints"`, `"keypoints"`, `"rotations"` to compute, one or several; all by
            default. Without the vertices the cost no longer depends on their number.

    Returns:
        A dict: `"vertices"` `[batch, vertices, 3]`, `"joints"` `[batch, joints, 3]` and `"keypoints"`
        `[batch, keypoints, 3]` in metres, `"rotations"` `[batch, joints, 3, 3]` relative to the parent.

    Raises:
        ValueError: If pose or shape do not have the body's size, or an output is unknown.

    Example:
        >>> smpl = SMPL("sample")
        >>> smpl(np.zeros((1, 72), "float32"), np.zeros((1, 10), "float32"))["joints"].shape
        TensorShape([1, 24, 3])

    Reference:
        Loper et al., "SMPL: A Skinned Multi-Person Linear Model", SIGGRAPH Asia 2015.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/batch_smpl.py:SMPL.
    Differs: keypoints come from arrays in which the regressor, the skinning weights and the blend shapes are already
    multiplied out; the value is the same.
    """

    def __init__(self, body=None, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(f"SMPL computes in 'float32' or 'float64', not {self.compute_dtype!r}; pass one as dtype.")
        if isinstance(body, dict):
            self._body, self._described = None, dict(body)
        else:
            self._body = body if isinstance(body, bodies.BodyModel) else bodies.load_body(body)
            self._described = _describe(self._body)
        self._constants = None
        self.built = True

    @property
    def body(self):
        """The `BodyModel` behind the layer."""
        if self._body is None:
            self._body = _find_body(self._described)
        return self._body

    @property
    def num_vertices(self):
        """Number of vertices of the body."""
        return self._described["num_vertices"]

    @property
    def num_joints(self):
        """Number of joints of the body."""
        return self._described["num_joints"]

    @property
    def num_shape(self):
        """Number of shape coefficients of the body."""
        return self._described["num_shape"]

    @property
    def num_keypoints(self):
        """Number of image keypoints of the body."""
        return self._described["num_keypoints"]

    def call(self, pose, shape, outputs=OUTPUTS):
        """See the class."""
        outputs = self._checked_outputs(pose, shape, outputs)
        constant = self._tensors()
        pose, shape = ops.convert_to_tensor(pose, self.compute_dtype), ops.convert_to_tensor(shape, self.compute_dtype)
        local = rotations.axis_angle_to_matrix(ops.reshape(pose, (-1, self.num_joints, 3)))
        result = {"rotations": local}
        if set(outputs) - {"rotations"}:
            one = ops.ones_like(shape[:, :1])
            rest = ops.reshape(
                ops.matmul(ops.concatenate([one, shape], axis=-1), constant["joints"]), (-1, self.num_joints, 3)
            )
            frames = rotations.forward_kinematics(local, rest, self._parents)
            result["joints"] = frames[..., 3]
        if {"vertices", "keypoints"} & set(outputs):
            carry = rotations.from_rest(frames, rest)
            coefficients = ops.concatenate([one, shape, rotations.pose_feature(local)], axis=-1)
        if "vertices" in outputs:
            result["vertices"] = self._vertices(coefficients, carry, constant)
        if "keypoints" in outputs:
            result["keypoints"] = self._keypoints(coefficients, carry, constant)
        return {key: result[key] for key in OUTPUTS if key in outputs}

    def keypoints(self, pose, shape):
        """Keypoints and rotations only, at a cost that does not depend on the number of vertices.

        Args:
            pose: `[batch, 3 * joints]` axis-angle rotations in radians.
            shape: `[batch, num_shape]` shape coefficients.

        Returns:
            A dict with `"keypoints"` `[batch, keypoints, 3]` and `"rotations"` `[batch, joints, 3, 3]`.
        """
        return self(pose, shape, outputs=("keypoints", "rotations"))

    def _vertices(self, coefficients, carry, constant):
        """Blend shapes and skinning, one coordinate at a time over contiguous vertices."""
        blended = [ops.matmul(coefficients, blend) for blend in constant["blend"]]
        # [row, column, batch, joints]: a product with the weights gives that entry of every vertex's own transform.
        entries = ops.transpose(carry, (2, 3, 0, 1))
        rows = []
        for row in range(3):
            moved = ops.matmul(entries[row, 3], constant["weights"])
            for axis in range(3):
                moved = moved + ops.matmul(entries[row, axis], constant["weights"]) * blended[axis]
            rows.append(moved)
        # Quicker than stacking along the last axis, which would copy number by number.
        return ops.transpose(ops.stack(rows, axis=1), (0, 2, 1))

    def _keypoints(self, coefficients, carry, constant):
        """Keypoints are sums over (keypoint, joint) pairs, each carried by its joint as one rigid point."""
        pairs = ops.reshape(ops.matmul(coefficients, constant["pairs"]), (-1, len(self._pair_joints), 3, 1))
        turns = ops.take(carry[..., :3], self._pair_joints, axis=1)
        turned = ops.matmul(turns, pairs)[..., 0]
        return ops.matmul(constant["pair_sums"], turned) + ops.matmul(constant["pair_weights"], carry[..., 3])

    def _tensors(self):
        if self._constants is None:
            self._parents = self.body.parents
            arrays = _precontract(self.body)
            self._pair_joints = arrays.pop("pair_joints")
            # Made outside any graph that is being traced: graphs then share one copy instead of embedding their own.
            with tf.init_scope():
                self._constants = tf.nest.map_structure(lambda array: tf.constant(array, self.compute_dtype), arrays)
        return self._constants

    def _checked_outputs(self, pose, shape, outputs):
        """The names of the outputs as a tuple, once they and the sizes of the inputs are found right."""
        outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        unknown = set(outputs) - set(OUTPUTS)
        if unknown:
            raise ValueError(f"outputs name {sorted(unknown)}; SMPL gives {list(OUTPUTS)}.")
        for what, tensor, size in (("pose", pose, 3 * self.num_joints), ("shape", shape, self.num_shape)):
            if len(tensor.shape) != 2 or tensor.shape[-1] not in (size, None):
                raise ValueError(
                    f"{what} has the shape {tuple(tensor.shape)}; the body {self._described['name']!r} takes "
                    f"[batch, {size}]."
                )
        return outputs

    def compute_output_spec(self, pose, shape, outputs=OUTPUTS):
        """Shapes of the result; needs the body's dimensions only."""
        outputs = self._checked_outputs(pose, shape, outputs)
        shapes = {
            "vertices": (self.num_vertices, 3),
            "joints": (self.num_joints, 3),
            "keypoints": (self.num_keypoints, 3),
            "rotations": (self.num_joints, 3, 3),
        }
        batch = pose.shape[0]
        return {
            key: keras.KerasTensor((batch, *shapes[key]), dtype=self.compute_dtype) for key in OUTPUTS if key in outputs
        }

    def get_config(self):
        """The body's name and dimensions; its arrays travel in a `.keras` archive only."""
        return {**super().get_config(), "body": dict(self._described)}

    def save_assets(self, directory):
        """Writes the body into a `.keras` archive."""
        self.body.save(pathlib.Path(directory) / "body.npz")

    def load_assets(self, directory):
        """Reads the body from a `.keras` archive."""
        body = bodies.BodyModel.load(pathlib.Path(directory) / "body.npz")
        _require_same(_describe(body), self._described)
        self._body, self._constants = body, None


def _describe(body):
    return {"name": body.name, **{key: int(getattr(body, key)) for key in _DIMENSIONS}}


def _require_same(found, wanted):
    different = {key: (found[key], wanted[key]) for key in _DIMENSIONS if found[key] != wanted[key]}
    if different:
        listed = ", ".join(f"{key} {there} instead of {expected}" for key, (there, expected) in different.items())
        raise ValueError(
            f"The body {found['name']!r} does not fit: it has {listed}. Give the body the model was made with."
        )


def _find_body(described):
    """The body that a configuration names, for layers that were rebuilt from their configuration alone."""
    for name in (described["name"], None, "sample"):
        try:
            body = bodies.load_body(name)
        except (FileNotFoundError, ValueError):
            continue
        if _describe(body) == described:
            return body
    raise FileNotFoundError(
        f"This model was rebuilt from its configuration, which names the body {described['name']!r} with "
        f"{described['num_vertices']} vertices but does not hold it, and no such body is on the search path. Load the "
        "`.keras` archive instead, pass `body=`, or set POSEKIT_BODY to the body's .npz file."
    )


def _precontract(body):
    """The products of the body's arrays that a forward pass needs.

    Returns:
        A dict. `"blend"`: three `[1 + shapes + pose features, vertices]`, one for each coordinate; `"weights"`
        `[joints, vertices]`; `"joints"` `[1 + shapes, 3 * joints]`; and, over the pairs of a keypoint and a joint that
        moves it, `"pairs"` `[1 + shapes + pose features, 3 * pairs]`, `"pair_sums"` `[keypoints, pairs]`,
        `"pair_weights"` `[keypoints, joints]`, `"pair_joints"` `[pairs]`.
    """
    template, shapes, poses = (np.asarray(a, np.float64) for a in (body.v_template, body.shapedirs, body.posedirs))
    weights, regressor = np.asarray(body.weights, np.float64), np.asarray(body.keypoint_regressor, np.float64)
    # [1 + shapes + pose features, 3, vertices]
    blend = np.concatenate([template[..., None], shapes, poses], axis=-1).transpose(2, 1, 0)
    shaped = blend[: 1 + body.num_shape]
    joints = (shaped @ np.asarray(body.J_regressor, np.float64).T).transpose(0, 2, 1)
    keypoint, joint, points = [], [], []
    for moved_by in range(body.num_joints):
        there = np.flatnonzero(weights[:, moved_by])
        influence = regressor[:, there] * weights[there, moved_by]
        influenced = np.flatnonzero(influence.any(axis=1))
        keypoint.extend(influenced)
        joint.extend([moved_by] * len(influenced))
        points.append((blend[:, :, there] @ influence[influenced].T).transpose(0, 2, 1))
    return {
        "blend": [np.ascontiguousarray(blend[:, axis]) for axis in range(3)],
        "weights": np.ascontiguousarray(weights.T),
        "joints": joints.reshape(len(joints), -1),
        "pairs": np.concatenate(points, axis=1).reshape(len(blend), -1),
        "pair_sums": (np.arange(len(regressor))[:, None] == np.array(keypoint, int)).astype(np.float64),
        "pair_weights": regressor @ weights,
        "pair_joints": np.array(joint, np.int32),
    }
