"""Draws triangle meshes into depth, triangle-index and barycentric images.

What `posekit.geometry.rasterize` does, on all cores: where there is a compiled kernel (`posekit.ops.native`), it takes
the same steps and gives the same numbers, to the last bit. Vertices are projected and triangles clipped and culled;
those that are left are drawn, band of rows by band of rows, into a z-buffer that stays in the cache; the weights follow
from the rays of the pixels covered. A pixel's nearest triangle is a maximum, so nothing depends on the threads.

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
_MOST_FACES = 1 << 30


def rasterize(vertices_cam, faces, focal, center, size, near=0.1, far=np.inf, distortion=None):
    """Finds the nearest triangle at every pixel.

    Both sides of a triangle are drawn. What lies nearer than `near` or beyond `far` is cut off, also within a
    triangle.

    Args:
        vertices_cam: `[vertices, 3]` in camera coordinates: x right, y down, z forward.
        faces: Int `[faces, 3]` vertex indices.
        focal: Focal length in pixels, one number or `(fx, fy)`.
        center: Principal point `(x, y)` in pixels.
        size: `(height, width)` of the image.
        near: Nearest depth drawn, positive.
        far: Farthest depth drawn.
        distortion: Lens coefficients `(k1, k2, p1, p2, k3)`, applied to the vertices; none by default.

    Returns:
        A `posekit.geometry.rasterize.Raster`.

    Raises:
        ValueError: If a shape is wrong, a vertex is not finite, a face names a vertex that is not there, or a camera
            parameter is out of range.

    Example:
        >>> import numpy as np
        >>> triangle = np.array([[-1.0, -1.0, 4.0], [1.0, -1.0, 4.0], [0.0, 1.0, 4.0]])
        >>> rasterize(triangle, [[0, 1, 2]], focal=8.0, center=(4, 4), size=(9, 9)).depth[3, 4]
        np.float32(4.0)

    Follows: mattloper/opendr:renderer.py (DepthRenderer, visibility_image).
    Differs: `(fx, fy)` apply separately, where opendr draws with their mean; no line overdraw at silhouettes.
    """
    find, take = _kernel(native.kernels())
    given = vertices_cam, faces, focal, center, size, near, far, distortion
    if find is None:
        return _plain.rasterize(*given)
    vertices, faces, focal, center, size = _plain.check_arguments(*given)
    if size[0] * size[1] > _MOST_PIXELS or len(faces) > _MOST_FACES:  # beyond the kernel's indices
        return _plain.rasterize(*given)
    vertices, corners = np.ascontiguousarray(vertices), np.ascontiguousarray(faces)
    sizes = np.array([len(vertices), len(corners), *size], np.int64)
    camera = np.array([*focal, *center, near, far], np.float64)
    covered, result = ctypes.c_int64(), ctypes.c_void_p()
    arrays = vertices, corners, sizes, camera
    native.check(find(*(array.ctypes.data for array in arrays), ctypes.byref(covered), ctypes.byref(result)))
    try:
        pixels, triangles = np.empty(covered.value, np.int64), np.empty(covered.value, np.int32)
        weights, depths = np.empty((covered.value, 3)), np.empty(covered.value)
        seen = [array.ctypes.data for array in (pixels, triangles, weights, depths)]
    except MemoryError:
        take(result, *(4 * [None]))
        raise
    native.check(take(result, *seen))
    return _plain.Raster(size, faces, pixels, triangles, weights, depths)


@functools.lru_cache
def _kernel(library):
    """Functions of the compiled library that find what is seen and describe it."""
    find = getattr(library, "posekit_rasterize", None)
    if find is None:
        return None, None
    take = library.posekit_rasterize_take
    find.argtypes, take.argtypes = 6 * [ctypes.c_void_p], 5 * [ctypes.c_void_p]
    return find, take
