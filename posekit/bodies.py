"""Body models: the arrays of a skinned, blend-shaped human body in SMPL's terms."""

import dataclasses
import os
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class BodyModel:
    """A skinned body with blend shapes; arrays carry SMPL's own names.

    Args:
        name: What messages and files call the body.
        licence: Terms under which the arrays may be used.
        v_template: Float32 `[vertices, 3]`, metres, y up, facing +z.
        shapedirs: Float32 `[vertices, 3, shapes]`, metres per unit of shape coefficient.
        posedirs: Float32 `[vertices, 3, 9 * (joints - 1)]`, metres per entry of (rotation - identity).
        J_regressor: Float32 `[joints, vertices]`, rest joints from rest vertices.
        keypoint_regressor: Float32 `[keypoints, vertices]`, image keypoints from posed vertices.
        weights: Float32 `[vertices, joints]`, skinning weights, rows sum to 1.
        parents: Int32 `[joints]`, parent of each joint, -1 for the root.
        faces: Int32 `[faces, 3]`, counter-clockwise seen from outside.
    """

    name: str
    licence: str
    v_template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    J_regressor: np.ndarray
    keypoint_regressor: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    faces: np.ndarray

    @property
    def num_vertices(self):
        """Number of vertices."""
        return self.v_template.shape[0]

    @property
    def num_joints(self):
        """Number of skeleton joints."""
        return self.J_regressor.shape[0]

    @property
    def num_shape(self):
        """Number of shape coefficients."""
        return self.shapedirs.shape[2]

    @property
    def num_keypoints(self):
        """Number of image keypoints."""
        return self.keypoint_regressor.shape[0]

    def save(self, path):
        """Writes the body as `.npz` with SMPL's key names, atomically.

        Args:
            path: File to write; its suffix must be `.npz`.
        """
        path = pathlib.Path(path)
        temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                name=np.array(self.name),
                licence=np.array(self.licence),
                v_template=self.v_template,
                shapedirs=self.shapedirs,
                posedirs=self.posedirs,
                J_regressor=self.J_regressor,
                cocoplus_regressor=self.keypoint_regressor,
                weights=self.weights,
                kintree_table=np.stack([self.parents, np.arange(self.num_joints, dtype=np.int32)]),
                f=self.faces,
            )
        os.replace(temporary, path)
