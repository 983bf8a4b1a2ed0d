"""Screen poses: 3-D joints as a picture shows them, which is what the lifting network reads and predicts.

Three forms of one pose, each with the way to the next and back:

* camera frame, `joints_cam_mm`: x right, y down, z forward, in millimetres;
* picture frame, `joints_image`: x, y in pixels as a pinhole camera sees them, z relative to the root and in pixels of
  the person's box, which is a square of two metres around the root;
* normalised: x from -1 at the picture's left edge to 1 at its right edge, y and z in the same unit, y from the middle.

Everything is NumPy, float64, with any number of leading axes.
"""

import numpy as np

from posekit.skeletons import H36M17

BOX_MM = 2000.0


def normalize(joints, image_size):
    """Pixels to normalised coordinates.

    Args:
        joints: `[..., joints, 2]` x, y in pixels, or `[..., joints, 3]` in the picture frame.
        image_size: `(width, height)` in pixels, or `[..., 2]`, one for each pose.

    Returns:
        Float64 array like `joints`: `(x, y) / width * 2 - (1, height / width)` and `z / width * 2`.

    Raises:
        ValueError: If there are neither 2 nor 3 coordinates, or a size is not positive.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:DataReader.read_2d, read_3d.
    Differs: the original knows the sizes of Human3.6M's four cameras only.
    """
    width, middle = _frame(image_size)
    result = _coordinates(joints) / width * 2
    result[..., :2] -= middle
    return result


def denormalize(joints, image_size):
    """Normalised coordinates to pixels; the inverse of `normalize`.

    Args:
        joints: `[..., joints, 2 or 3]`, normalised.
        image_size: `(width, height)` in pixels, or `[..., 2]`, one for each pose.

    Returns:
        Float64 array like `joints`, in pixels.

    Raises:
        ValueError: If there are neither 2 nor 3 coordinates, or a size is not positive.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:DataReader.denormalize.
    """
    width, middle = _frame(image_size)
    result = _coordinates(joints).copy()
    result[..., :2] += middle
    return result * width / 2


def camera_to_image(joints_cam_mm, intrinsics, root=0):
    """Camera frame to picture frame, with the box that the way back needs.

    Args:
        joints_cam_mm: `[..., joints, 3]` in millimetres, in front of the camera.
        intrinsics: `[..., 4]`: `(fx, fy, cx, cy)` in pixels.
        root: Index of the joint that depths are relative to.

    Returns:
        `(joints_image, box_px)`: `[..., joints, 3]` in the picture frame, and `[..., 4]`, left, top, right and bottom
        of the square of two metres around the root.

    Follows: CHUNYUWANG/lcn-pose tools/gendb.py:camera_to_image_frame, _infer_box.
    """
    joints = np.asarray(joints_cam_mm, np.float64)
    intrinsics = np.asarray(intrinsics, np.float64)
    focal, center = intrinsics[..., None, :2], intrinsics[..., None, 2:]
    corners = joints[..., [root, root], :].copy()
    corners[..., 0, :2] -= BOX_MM / 2
    corners[..., 1, :2] += BOX_MM / 2
    corners = corners[..., :2] / corners[..., 2:] * focal + center
    box = corners.reshape(*corners.shape[:-2], 4)
    seen = joints[..., :2] / joints[..., 2:] * focal + center
    depth = (joints[..., 2:] - joints[..., root : root + 1, 2:]) * _px_per_mm(box)
    return np.concatenate([seen, depth], -1), box


def image_to_camera(joints_image, box_px, intrinsics, root_depth_mm):
    """Picture frame to camera frame; the inverse of `camera_to_image`.

    Args:
        joints_image: `[..., joints, 3]` in the picture frame.
        box_px: `[..., 4]` left, top, right, bottom.
        intrinsics: `[..., 4]`: `(fx, fy, cx, cy)` in pixels.
        root_depth_mm: `[...]` distance of the root from the camera along its axis.

    Returns:
        `[..., joints, 3]` in millimetres.

    Follows: CHUNYUWANG/lcn-pose tools/tools.py:image_to_camera_frame.
    """
    joints = np.asarray(joints_image, np.float64)
    intrinsics = np.asarray(intrinsics, np.float64)
    focal, center = intrinsics[..., None, :2], intrinsics[..., None, 2:]
    root_depth = np.asarray(root_depth_mm, np.float64)[..., None, None]
    depth = joints[..., 2:] / _px_per_mm(np.asarray(box_px, np.float64)) + root_depth
    return np.concatenate([(joints[..., :2] - center) / focal * depth, depth], -1)


def flip(joints, skeleton=H36M17):
    """Mirrors normalised poses: x changes its sign, left and right change places.

    Args:
        joints: `[..., joints, coordinates]`, normalised, x first; confidences may follow.
        skeleton: Whose sides.

    Returns:
        Array like `joints`.

    Raises:
        ValueError: If the number of joints is not the skeleton's.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:flip_data (which gives the poses themselves too, before these).
    """
    joints = np.asarray(joints)
    if joints.ndim < 2 or joints.shape[-2] != skeleton.num_joints:
        raise ValueError(
            f"Joints of shape {joints.shape} are not {skeleton.num_joints} joints of {skeleton.name}; give "
            f"[..., {skeleton.num_joints}, coordinates]."
        )
    mirrored = joints[..., skeleton.flip_permutation, :]
    mirrored[..., 0] *= -1
    return mirrored


def average_flipped(joints, from_mirrored, skeleton=H36M17):
    """Mean of what is predicted for poses and for their mirror images.

    Args:
        joints: `[..., joints, coordinates]` predicted for the poses, normalised.
        from_mirrored: The same, predicted for `flip(poses)`.
        skeleton: Whose sides.

    Returns:
        Array like `joints`.

    Raises:
        ValueError: If the shapes do not match.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:unflip_data.
    """
    joints, from_mirrored = np.asarray(joints), np.asarray(from_mirrored)
    if joints.shape != from_mirrored.shape:
        raise ValueError(f"Predictions of shapes {joints.shape} and {from_mirrored.shape} cannot be averaged.")
    return (joints + flip(from_mirrored, skeleton)) / 2


def _coordinates(joints):
    joints = np.asarray(joints, np.float64)
    if joints.ndim < 2 or joints.shape[-1] not in (2, 3):
        raise ValueError(f"Joints of shape {joints.shape} are not [..., joints, 2] or [..., joints, 3].")
    return joints


def _frame(image_size):
    """Width, and the picture's middle in normalised units from its corner, to broadcast against joints."""
    size = np.asarray(image_size, np.float64)
    if size.shape[-1:] != (2,) or not np.all(size > 0):
        raise ValueError(f"Picture size {image_size!r:.80} is not (width, height) with lengths above 0, in pixels.")
    width, height = size[..., None, :1], size[..., None, 1:]
    return width, np.concatenate([np.ones_like(width), height / width], -1)


def _px_per_mm(box):
    # The original counts the box's last pixel too.
    return ((box[..., 2] - box[..., 0] + 1) / BOX_MM)[..., None, None]
