"""Cameras: weak perspective as HMR predicts it, pixels and normalised coordinates, and calibrated cameras with lenses.

Normalised device coordinates (ndc) run from -1 at the left and top edge of a picture to 1 at its right and bottom edge.

What is about ndc is for networks and written with `keras.ops`; what is about calibrated cameras is for datasets and
evaluation and written with NumPy, in float64. Keras is only imported where it is used, because the tools that convert
datasets start many processes that do without it.
"""

import numpy as np


def orthographic_projection(points, camera):
    """Projects points along z with a weak-perspective camera.

    Args:
        points: `[..., points, 3]` in metres.
        camera: `[..., 3]`: scale and translation `(s, tx, ty)`.

    Returns:
        `[..., points, 2]` in ndc: `s * (xy + t)`.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/projection.py:batch_orth_proj_idrot.
    """
    from keras import ops

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
    from keras import ops

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
    from keras import ops

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
    from keras import ops

    camera = ops.convert_to_tensor(camera)
    depth = focal_length / (0.5 * image_size * camera[..., :1])
    return ops.concatenate([camera[..., 1:], depth], axis=-1)


def world_to_camera(points, rotation, translation):
    """World coordinates to a camera's own.

    Args:
        points: `[..., points, 3]` in the world.
        rotation: `[..., 3, 3]` of the camera, `R`.
        translation: `[..., 3]` or `[..., 3, 1]`: where the camera stands in the world, `T`.

    Returns:
        Float64 `[..., points, 3]`: `R (P - T)`, x right, y down, z forward.

    Follows: CHUNYUWANG/lcn-pose tools/tools.py:world_to_camera_frame.
    """
    points, rotation = np.asarray(points, np.float64), np.asarray(rotation, np.float64)
    return (points - _row(translation, 3)) @ np.swapaxes(rotation, -1, -2)


def camera_to_world(points, rotation, translation):
    """A camera's coordinates to the world's; the inverse of `world_to_camera`.

    Args:
        points: `[..., points, 3]` seen from the camera.
        rotation: `[..., 3, 3]` of the camera, `R`.
        translation: `[..., 3]` or `[..., 3, 1]`: where the camera stands in the world, `T`.

    Returns:
        Float64 `[..., points, 3]`: `Rᵀ P + T`.

    Follows: CHUNYUWANG/lcn-pose tools/tools.py:camera_to_world_frame.
    """
    return np.asarray(points, np.float64) @ np.asarray(rotation, np.float64) + _row(translation, 3)


def project(points_cam, focal, center, radial=None, tangential=None):
    """Projects points with a calibrated camera, through its lens.

    With `x, y = X / Z, Y / Z` and `r² = x² + y²`, the lens moves a point to
    `(x, y) (1 + k₀r² + k₁r⁴ + k₂r⁶ + p₀y + p₁x) + (p₁, p₀) r²`, which is the model of Human3.6M.

    Args:
        points_cam: `[..., points, 3]` seen from the camera, as of `world_to_camera`; depths other than 0.
        focal: Focal lengths `f`, `[..., 2]` or one number, in pixels.
        center: Principal point `c`, `[..., 2]`, in pixels.
        radial: `[..., 3]` coefficients `k`; `None` for a lens without distortion.
        tangential: `[..., 2]` coefficients `p`; `None` for none.

    Returns:
        Float64 `[..., points, 2]` in pixels. Depths are `points_cam[..., 2]`.

    Follows: CHUNYUWANG/lcn-pose tools/tools.py:project_point_radial.
    """
    points = np.asarray(points_cam, np.float64)
    seen = points[..., :2] / points[..., 2:]
    if radial is not None or tangential is not None:
        k = np.zeros((1, 3)) if radial is None else _row(radial, 3)
        p = np.zeros((1, 2)) if tangential is None else _row(tangential, 2)
        squared = np.sum(seen**2, -1, keepdims=True)
        factor = 1 + squared * (k[..., 0:1] + squared * (k[..., 1:2] + squared * k[..., 2:3]))
        factor += p[..., 0:1] * seen[..., 1:2] + p[..., 1:2] * seen[..., 0:1]
        seen = seen * factor + p[..., ::-1] * squared
    focal = np.asarray(focal, np.float64)
    focal = focal if focal.ndim == 0 else _row(focal, 2)
    return seen * focal + _row(center, 2)


def _row(values, length):
    """Vectors `[..., length]`, also if they come as columns `[..., length, 1]`, to broadcast against points."""
    values = np.asarray(values, np.float64)
    if values.shape[-2:] == (length, 1):
        values = values[..., 0]
    if values.shape[-1:] != (length,):
        raise ValueError(f"A camera's parameter has the shape {values.shape}; it must be [..., {length}].")
    return values[..., None, :]


def _width_height(image_size, dtype):
    from keras import ops

    height, width = np.broadcast_to(np.asarray(image_size), (2,))
    return ops.cast(np.array([width, height], np.float64), dtype)
