"""Cameras: weak perspective as HMR predicts it, pixels and normalised coordinates, and the matching pinhole camera.

Normalised device coordinates (ndc) run from -1 at the left and top edge of a picture to 1 at its right and bottom edge.
"""

import numpy as np
from keras import ops


def orthographic_projection(points, camera):
    """Projects points along z with a weak-perspective camera.

    Args:
        points: `[..., points, 3]` in metres.
        camera: `[..., 3]`: scale and translation `(s, tx, ty)`.

    Returns:
        `[..., points, 2]` in ndc: `s * (xy + t)`.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/projection.py:batch_orth_proj_idrot.
    """
    points = ops.convert_to_tensor(points)
    camera = ops.expand_dims(ops.cast(camera, points.dtype), axis=-2)
    return camera[..., :1] * (points[..., :2] + camera[..., 1:])


def ndc_to_px(points, image_size):
    """Normalised coordinates to pixels.

    Args:
        points: `[..., 2]` (x, y) in ndc.
        image_size: `(height, width)` in pixels, or one number for a square picture.

    Returns:
        `[..., 2]` (x, y) in pixels: `(p + 1) / 2 * size`.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/projection.py:reproject_vertices.
    Differs: the size is (height, width); the original multiplies x by the first number and y by the second.
    """
    points = ops.convert_to_tensor(points)
    return (points + 1.0) * 0.5 * _width_height(image_size, points.dtype)


def px_to_ndc(points, image_size):
    """Pixels to normalised coordinates; the inverse of `ndc_to_px`.

    Args:
        points: `[..., 2]` (x, y) in pixels.
        image_size: `(height, width)` in pixels, or one number for a square picture.

    Returns:
        `[..., 2]` (x, y) in ndc: `2 * p / size - 1`.
    """
    points = ops.convert_to_tensor(points)
    return 2.0 * points / _width_height(image_size, points.dtype) - 1.0


def perspective_camera_from_weak(camera, image_size, focal_length=500.0):
    """Translation that makes a pinhole camera see what a weak-perspective camera sees.

    The depth is the one at which the pinhole camera draws a metre as large as the weak-perspective camera does; what
    is nearer or farther than that differs by perspective only.

    Args:
        camera: `[..., 3]`: `(s, tx, ty)`.
        image_size: Width of the (square) picture in pixels.
        focal_length: In pixels.

    Returns:
        `[..., 3]` translation in metres to add to the points before the pinhole projection
        `focal_length * xy / z + image_size / 2`.

    Follows: akanazawa/hmr/src/util/renderer.py:get_original (the same depth).
    """
    camera = ops.convert_to_tensor(camera)
    depth = focal_length / (0.5 * image_size * camera[..., :1])
    return ops.concatenate([camera[..., 1:], depth], axis=-1)


def _width_height(image_size, dtype):
    height, width = np.broadcast_to(np.asarray(image_size), (2,))
    return ops.cast(np.array([width, height], np.float64), dtype)
