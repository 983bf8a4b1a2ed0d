"""Draws triangle meshes into depth, triangle-index and barycentric images.

What `posekit.geometry.rasterize` does, on all cores: where there is a compiled kernel (`posekit.ops.native`), it takes
the same steps and gives the same numbers, to the last bit. Vertices are projected and triangles clipped and culled;
those that are left are drawn, band of rows by band of rows, into a z-buffer that stays in the cache; the weights follow
from the rays of the pixels covered. A pixel's nearest triangle is a maximum, so nothing depends on the threads. The
meshes of a batch are shared between the cores as well.

Time: O(vertices + faces + rows and pixels that triangles cover). Memory, besides the results (44 bytes a covered
pixel): 24 bytes a vertex, 56 a triangle that reaches pixel centres (72 more where the near plane cuts it), 8 a covered
pixel, and 192 KiB a thread (16 bytes a column where the mesh is wider than 12,288 pixels).
"""

import ctypes
import functools

import numpy as np

from posekit.geometry import rasterize as _plain
from posekit.ops import native

_MOST_PIXELS = 1 << 31
_LONGEST_SIDE = 1 << 30
_MOST_FACES = 1 << 30


def rasterize(vertices_cam, faces, focal, center, size, near=0.1, far=np.inf, distortion=None):
    """Finds the nearest triangle at every pixel, of one mesh or a batch of meshes.

    Both sides of a triangle are drawn. What lies nearer than `near` or beyond `far` is cut off, also within a
    triangle.

    Args:
        vertices_cam: `[vertices, 3]` in camera coordinates: x right, y down, z forward; or `[batch, vertices, 3]`, each
            mesh in a picture of its own.
        faces: Int `[faces, 3]` vertex indices, the same for all meshes.
        focal: Focal length in pixels, one number or `(fx, fy)`, for all meshes; or `[batch, 2]`.
        center: Principal point `(x, y)` in pixels, for all meshes; or `[batch, 2]`.
        size: `(height, width)` of the image.
        near: Nearest depth drawn, positive.
        far: Farthest depth drawn.
        distortion: Lens coefficients `(k1, k2, p1, p2, k3)`, applied to the vertices; none by default.

    Returns:
        A `posekit.geometry.rasterize.Raster`, or a list of them for a batch.

    Raises:
        ValueError: If a shape is wrong, a vertex is not finite, a face names a vertex that is not there, a camera
            parameter is out of range, or a tensor has no value, within `tf.function` or `tf.data`.

    Example:
        >>> import numpy as np
        >>> triangle = np.array([[-1.0, -1.0, 4.0], [1.0, -1.0, 4.0], [0.0, 1.0, 4.0]])
        >>> rasterize(triangle, [[0, 1, 2]], focal=8.0, center=(4, 4), size=(9, 9)).depth[3, 4]
        np.float32(4.0)

    Follows: mattloper/opendr:renderer.py (DepthRenderer, visibility_image).
    Differs: `(fx, fy)` apply separately, where opendr draws with their mean; no line overdraw at silhouettes.
    """
    with native.arrays_only("rasterize", "call it through tf.numpy_function"):
        vertices_cam, faces = np.asarray(vertices_cam), np.asarray(faces)
        for value in (focal, center, size, near, far, distortion):
            np.asarray(value, object)  # there is none of a tensor without a value
    if vertices_cam.ndim != 3:
        return _rasterize([vertices_cam], faces, [focal], [center], size, near, far, distortion)[0]
    batch = len(vertices_cam)
    focal, center = _for_each("focal", focal, batch), _for_each("center", center, batch)
    return _rasterize(vertices_cam, faces, focal, center, size, near, far, distortion) if batch else []


def _for_each(name, value, batch):
    """The value for each mesh, which is the same for all unless it has two dimensions."""
    if np.ndim(value) != 2:
        return [value] * batch
    if len(value) != batch:
        raise ValueError(f"{name} is given for {len(value)} meshes of {batch}; give one for each, or one for all.")
    return value


def _rasterize(vertices_cam, faces, focal, center, size, near, far, distortion):
    find, take = _kernel(native.kernels())
    rest = size, near, far, distortion
    checked = [_plain.check_arguments(mesh, faces, *lens, *rest) for mesh, *lens in zip(vertices_cam, focal, center)]
    vertices, _, focal, center, _ = zip(*checked)
    _, faces, _, _, size = checked[0]
    # Beyond that, the kernel's indices end.
    if find is None or size[0] * size[1] > _MOST_PIXELS or max(size) > _LONGEST_SIDE or len(faces) > _MOST_FACES:
        return [_plain.rasterize(mesh, faces, *lens, size, near, far) for mesh, *lens in zip(vertices, focal, center)]
    vertices, corners, batch = np.ascontiguousarray(vertices), np.ascontiguousarray(faces), len(vertices)
    sizes = np.array([*vertices.shape[1:2], len(corners), *size], np.int64)
    cameras = np.column_stack([focal, center, np.full(batch, float(near)), np.full(batch, float(far))])
    covered, results = np.zeros(batch, np.int64), (batch * ctypes.c_void_p)()
    given = [array.ctypes.data for array in (vertices, corners, sizes, cameras)]
    native.check(find(*given, batch, covered.ctypes.data, results))
    total = int(covered.sum())
    try:
        seen = np.empty(total, np.int64), np.empty(total, np.int32), np.empty((total, 3)), np.empty(total)
    except MemoryError:
        take(results, batch, *(4 * [None]))
        raise
    native.check(take(results, batch, *(array.ctypes.data for array in seen)))
    parts = zip(*(np.split(array, np.cumsum(covered)[:-1]) for array in seen))
    return [_plain.Raster(size, faces, *part) for part in parts]


@functools.lru_cache
def _kernel(library):
    """Functions of the compiled library that find what is seen and describe it."""
    find = getattr(library, "posekit_rasterize", None)
    if find is None:
        return None, None
    take = library.posekit_rasterize_take
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    find.argtypes, take.argtypes = [*4 * [pointer], count, *2 * [pointer]], [pointer, count, *4 * [pointer]]
    return find, take
