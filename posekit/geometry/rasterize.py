"""Draws triangle meshes into depth, triangle-index and barycentric images, in plain NumPy.

A triangle covers the pixels whose centres lie in its projection; pixel centres sit at integer coordinates, so that the
projected point `(x, y)` = `(3, 5)` is the centre of column 3, row 5. Each triangle is cut into horizontal spans and
each span into pixels, all triangles together; inverse depth is affine on the screen, so a pixel's depth follows from
the ends of its span. The nearest surface wins through one packed integer per candidate, inverse depth above and
triangle index below.
"""

import dataclasses
import functools
import math

import numpy as np

_ROWS_AT_ONCE = 1 << 20
_PIXELS_AT_ONCE = 1 << 18  # a chunk's arrays stay in the processor's cache
_MAX_TRIANGLES = 1 << 31
_LOW_BITS = np.uint64(0xFFFFFFFF)


@dataclasses.dataclass(frozen=True)
class Raster:
    """What is seen at each pixel.

    Only covered pixels are stored; the properties give whole images.

    Args:
        size: `(height, width)` in pixels.
        faces: Int `[faces, 3]` vertex indices of the mesh drawn.
        pixels: Int64 `[covered]` flat indices (`row * width + column`) of the covered pixels, ascending.
        triangles: Int32 `[covered]` visible triangle of each.
        weights: Float64 `[covered, 3]` perspective-correct barycentric weights of its three corners.
        depths: Float64 `[covered]` distances along the viewing axis, in the unit of the vertices.
    """

    size: tuple[int, int]
    faces: np.ndarray
    pixels: np.ndarray
    triangles: np.ndarray
    weights: np.ndarray
    depths: np.ndarray

    def _image(self, values, background, dtype):
        image = np.full((self.size[0] * self.size[1], *values.shape[1:]), background, dtype)
        image[self.pixels] = values
        return image.reshape(*self.size, *values.shape[1:])

    @functools.cached_property
    def mask(self):
        """Boolean `[height, width]`: true where the mesh is seen."""
        return self._image(np.ones(len(self.pixels), bool), False, bool)

    @functools.cached_property
    def depth(self):
        """Float32 `[height, width]` distances along the viewing axis, infinite where nothing is seen."""
        return self._image(self.depths, np.inf, np.float32)

    @functools.cached_property
    def triangle(self):
        """Int32 `[height, width]` visible triangle, -1 where nothing is seen."""
        return self._image(self.triangles, -1, np.int32)

    @functools.cached_property
    def barycentrics(self):
        """Float32 `[height, width, 3]` weights of the visible triangle's corners, zeros where nothing is seen."""
        return self._image(self.weights, 0.0, np.float32)

    def interpolate(self, values):
        """Interpolates values of the vertices at the covered pixels.

        Args:
            values: `[vertices, channels]`.

        Returns:
            Float64 `[covered, channels]`, in the order of `pixels`.
        """
        values = np.asarray(values, np.float64)
        corners = self.faces[self.triangles]
        return np.einsum("pk,pkc->pc", self.weights, values[corners])

    def paint(self, values, background=0.0):
        """Interpolates values of the vertices into an image.

        Args:
            values: `[vertices, channels]`.
            background: Number or `[channels]` for pixels where nothing is seen.

        Returns:
            Float64 `[height, width, channels]`.
        """
        values = np.asarray(values)
        image = np.empty((self.size[0] * self.size[1], values.shape[-1]))
        image[:] = background
        image[self.pixels] = self.interpolate(values)
        return image.reshape(*self.size, -1)


def rasterize(vertices_cam, faces, focal, center, size, near=0.1, far=np.inf, distortion=None):
    """Finds the nearest triangle at every pixel: the plain form of `posekit.ops.rasterize`.

    Args, returns, errors and source are those of `posekit.ops.rasterize`, which is the one to call.
    """
    vertices, faces, focal, center, (height, width) = check_arguments(
        vertices_cam, faces, focal, center, size, near, far, distortion
    )
    # Points behind the camera belong to no piece; coordinates near the limits of double precision may overflow.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        points, pieces, owner = _clip_near(vertices, faces, near, far)
        inverse_depth = 1.0 / points[:, 2]
        x = points[:, 0] * inverse_depth * focal[0] + center[0]
        y = points[:, 1] * inverse_depth * focal[1] + center[1]
        least = 1.0 / float(far)
        pixels, triangles = _nearest(x[pieces], y[pieces], inverse_depth, pieces, owner, height, width, least)
        ray_x = (pixels % width - center[0]) / focal[0]
        ray_y = (pixels // width - center[1]) / focal[1]
        weights = _ray_weights(vertices, faces, triangles, ray_x, ray_y)
        met = vertices[:, 2][faces[triangles]]
        depths = weights[:, 0] * met[:, 0] + weights[:, 1] * met[:, 1] + weights[:, 2] * met[:, 2]
    return Raster((height, width), faces, pixels, triangles.astype(np.int32), weights, depths)


def project(vertices_cam, focal, center, distortion=None):
    """Projects camera-space points to pixels.

    Args:
        vertices_cam: `[..., 3]` points in camera coordinates: x right, y down, z forward.
        focal: Focal length in pixels, one number or `(fx, fy)`.
        center: Principal point `(x, y)` in pixels.
        distortion: Lens coefficients `(k1, k2, p1, p2, k3)`; none by default.

    Returns:
        Float64 `[..., 2]` pixel coordinates `(x, y)`; pixel centres are integers. Points at depth 0 give infinities.

    Follows: mattloper/opendr:camera.py (ProjectPoints).
    """
    focal, center = _check_lens(focal, center)
    points = np.asarray(vertices_cam, np.float64)
    if distortion is not None:
        points = distort(points, distortion)
    with np.errstate(divide="ignore", invalid="ignore"):
        return points[..., :2] / points[..., 2:] * focal + center


def distort(vertices_cam, coefficients):
    """Moves points sideways as a lens with radial and tangential distortion would show them.

    Args:
        vertices_cam: `[..., 3]` points in camera coordinates.
        coefficients: `(k1, k2, p1, p2, k3)`, OpenCV's order.

    Returns:
        Float64 `[..., 3]` points of unchanged depth.

    Raises:
        ValueError: If there are not five finite coefficients.
    """
    coefficients = np.asarray(coefficients, np.float64).ravel()
    if coefficients.shape != (5,) or not np.isfinite(coefficients).all():
        raise ValueError(f"distortion={coefficients}: pass five finite numbers (k1, k2, p1, p2, k3).")
    k1, k2, p1, p2, k3 = coefficients
    points = np.asarray(vertices_cam, np.float64)
    depth = np.where(points[..., 2] == 0.0, np.finfo(np.float64).tiny, points[..., 2])
    x, y = points[..., 0] / depth, points[..., 1] / depth
    square = x * x + y * y
    radial = 1.0 + square * (k1 + square * (k2 + square * k3))
    bent_x = x * radial + 2.0 * p1 * x * y + p2 * (square + 2.0 * x * x)
    bent_y = y * radial + p1 * (square + 2.0 * y * y) + 2.0 * p2 * x * y
    return np.stack([bent_x * depth, bent_y * depth, points[..., 2]], -1)


def vertex_normals(vertices, faces):
    """Unit normals at the vertices of a mesh, each the mean of its triangles' normals weighted by their areas.

    Args:
        vertices: `[vertices, 3]`.
        faces: Int `[faces, 3]`, counter-clockwise seen from outside.

    Returns:
        Float64 `[vertices, 3]`; zero where a vertex has no triangle of positive area.

    Follows: mattloper/opendr:geometry.py (VertNormals).
    """
    vertices, faces = check_mesh(vertices, faces)
    first = vertices[faces[:, 0]]
    crosses = np.cross(vertices[faces[:, 1]] - first, vertices[faces[:, 2]] - first)
    spread = np.repeat(crosses, 3, 0)
    corners = faces.ravel()
    sums = [np.bincount(corners, spread[:, axis], len(vertices)) for axis in range(3)]
    normals = np.stack(sums, -1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return normals / np.where(length == 0.0, 1.0, length)


def point_light_shading(vertices, normals, albedo, lights):
    """Colours of matte vertices under point lights.

    Args:
        vertices: `[vertices, 3]`.
        normals: `[vertices, 3]` unit normals, see `vertex_normals`.
        albedo: `[3]` or `[vertices, 3]` colours of the surface, 0 to 1.
        lights: Pairs `(position [3], colour [3])`, positions in the coordinates of the vertices.

    Returns:
        Float64 `[vertices, 3]`, the lights' shares summed and not clipped.

    Follows: mattloper/opendr:lighting.py (LambertianPointLight).
    """
    vertices = np.asarray(vertices, np.float64)
    brightness = np.zeros((len(vertices), 3))
    for position, colour in lights:
        towards = np.asarray(position, np.float64) - vertices
        length = np.linalg.norm(towards, axis=-1)
        cosine = np.einsum("vk,vk->v", normals, towards) / np.where(length == 0.0, 1.0, length)
        brightness += np.maximum(cosine, 0.0)[:, None] * np.asarray(colour, np.float64)
    return brightness * np.asarray(albedo, np.float64)


def check_mesh(vertices, faces):
    """Checks a mesh and gives it the types used here.

    Args:
        vertices: `[vertices, 3]`.
        faces: Integer `[faces, 3]`.

    Returns:
        `(vertices, faces)` as float64 and int64 arrays.

    Raises:
        ValueError: If a shape is wrong, a vertex is not finite or a face names a vertex that is not there.
    """
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if vertices.dtype.kind not in "fiub":
        raise ValueError(f"Vertices are {vertices.dtype.name}; pass real numbers.")
    vertices = vertices.astype(np.float64, copy=False)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"Vertices of shape {vertices.shape}: pass one mesh, [vertices, 3].")
    if faces.size == 0:
        faces = faces.reshape(-1, 3).astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"Faces of shape {faces.shape}, type {faces.dtype}: pass integer vertex indices [faces, 3].")
    if len(faces) >= _MAX_TRIANGLES:
        raise ValueError(f"{len(faces)} faces: at most {_MAX_TRIANGLES - 1} can be drawn; split the mesh.")
    finite = np.isfinite(vertices)
    if not finite.all():
        finite = finite.all(-1)
        raise ValueError(
            f"{np.count_nonzero(~finite)} of {len(vertices)} vertices are NaN or infinite (the first is vertex "
            f"{int(np.argmin(finite))}); check the pose, shape and camera that made the mesh."
        )
    if len(faces) and not (0 <= faces.min() and faces.max() < len(vertices)):
        raise ValueError(
            f"Faces name vertices {faces.min()} to {faces.max()}, but the mesh has {len(vertices)} (0 to "
            f"{len(vertices) - 1}); pass the faces of the same body model."
        )
    return vertices, faces.astype(np.int64, order="C", copy=False)


def check_arguments(vertices_cam, faces, focal, center, size, near, far, distortion):
    """Checks what `rasterize` is given, and bends the vertices as the lens does.

    Args:
        vertices_cam: As for `rasterize`.
        faces: As for `rasterize`.
        focal: As for `rasterize`.
        center: As for `rasterize`.
        size: As for `rasterize`.
        near: As for `rasterize`.
        far: As for `rasterize`.
        distortion: As for `rasterize`.

    Returns:
        `(vertices, faces, focal, center, size)`: float64 `[vertices, 3]` as seen through the lens, int64 `[faces, 3]`,
        float64 `[2]` and `[2]`, and two integers.

    Raises:
        ValueError: As `rasterize`.
    """
    vertices, faces = check_mesh(vertices_cam, faces)
    size = _check_size(size)
    if near is None or far is None or not (0.0 < near < far):
        raise ValueError(f"near={near}, far={far}: depths must satisfy 0 < near < far; pass for example near=0.1.")
    focal, center = _check_lens(focal, center)
    if distortion is not None:
        vertices = distort(vertices, distortion)
    return vertices, faces, focal, center, size


def _check_size(size):
    size = tuple(size) if np.iterable(size) else (size,)
    if len(size) != 2 or not all(0 < side < math.inf and int(side) == side for side in size):
        raise ValueError(f"size={size}: pass (height, width) as two positive integers.")
    return int(size[0]), int(size[1])


def _check_lens(focal, center):
    try:
        focal = np.broadcast_to(np.asarray(focal, np.float64), (2,))
        center = np.asarray(center, np.float64).reshape(2)
    except ValueError:
        raise ValueError(f"focal={focal}, center={center}: pass a number or (fx, fy), and (x, y).") from None
    if not (np.isfinite(focal).all() and (focal > 0).all() and np.isfinite(center).all()):
        raise ValueError(f"focal={focal}, center={center}: both must be finite and the focal length positive.")
    return focal, center


def _clip_near(vertices, faces, near, far):
    """Cuts triangles at the near plane.

    Returns points `[points, 3]` (the vertices, then the cuts), the triangles left as int `[3, pieces]` indices of
    points, and the face each came from.
    """
    depth = vertices[:, 2][faces.T]
    inside = depth >= near
    count = inside[0].astype(np.int8) + inside[1] + inside[2]
    reach = np.minimum(np.minimum(depth[0], depth[1]), depth[2]) <= far
    if (count == 3).all() and reach.all():
        return vertices, faces.T, np.arange(len(faces))
    whole, one, two = (np.flatnonzero((count == corners) & reach) for corners in (3, 1, 2))
    points, pieces, owners = [vertices], [faces[whole].T], [whole]
    num_points = len(vertices)

    def turned(which, first):
        """Corner indices with the one marked in `first` in front, order of turn kept."""
        return np.take_along_axis(faces[which].T, (np.argmax(first, 0) + np.arange(3)[:, None]) % 3, 0)

    def cut(a, b):
        """Indices of new points where the sides from a to b meet the near plane."""
        nonlocal num_points
        a, b = vertices[a], vertices[b]
        new = a + (near - a[:, 2:]) / (b[:, 2:] - a[:, 2:]) * (b - a)
        new[:, 2] = near
        points.append(new)
        num_points += len(new)
        return np.arange(num_points - len(new), num_points)

    if len(one):
        a, b, c = turned(one, inside[:, one])
        pieces.append(np.stack([a, cut(a, b), cut(a, c)]))
        owners.append(one)
    if len(two):
        a, b, c = turned(two, ~inside[:, two])
        ab, ac = cut(b, a), cut(c, a)
        pieces += [np.stack([ab, b, c]), np.stack([ab, c, ac])]
        owners += [two, two]
    return np.concatenate(points), np.concatenate(pieces, 1), np.concatenate(owners)


def _nearest(x, y, inverse_depth, pieces, owner, height, width, least):
    """Flat indices of the covered pixels, ascending, and the face nearest at each."""
    low, high = _least(y), -_least(-y)
    left, right = _least(x), -_least(-x)
    # Most triangles of a body in a small picture miss every pixel centre and are dropped here.
    kept = (np.ceil(low) < np.ceil(high)) & (np.ceil(left) < np.ceil(right))
    kept &= (high > 0) & (low <= height - 1) & (right > 0) & (left <= width - 1)
    kept = np.flatnonzero(kept & (high - low < np.inf) & (right - left < np.inf))
    if not len(kept):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # The z-buffer spans the mesh's box only. A cell holds inverse depth above, the complement of the face below.
    left, top = (max(0, math.ceil(value[kept].min())) for value in (left, low))
    right, bottom = min(width, math.ceil(right[kept].max())), min(height, math.ceil(high[kept].max()))
    box_height, box_width = bottom - top, right - left
    best = np.zeros(box_height * box_width, np.uint64)
    order = np.argsort(y[:, kept], 0, kind="stable")
    x, y, owner = x[order, kept] - left, y[order, kept] - top, owner[kept]
    q = inverse_depth[pieces[order, kept]]
    first = np.clip(np.ceil(y[0]), 0, box_height).astype(np.int64)
    num_rows = np.clip(np.ceil(y[2]), 0, box_height).astype(np.int64) - first
    for part in _chunks(num_rows, _ROWS_AT_ONCE):
        spans = _spans(x[:, part], y[:, part], q[:, part], first[part], num_rows[part], owner[part], box_width)
        for piece in _chunks(spans[1], _PIXELS_AT_ONCE):
            _fill(best, *(values[piece] for values in spans), least)
    cells = np.flatnonzero(best)
    faces = (_LOW_BITS - (best[cells] & _LOW_BITS)).astype(np.int64)
    return (cells // box_width + top) * width + cells % box_width + left, faces


def _least(corners):
    return np.minimum(np.minimum(corners[0], corners[1]), corners[2])


def _chunks(sizes, limit):
    """Slices of consecutive items whose sizes sum to about `limit` at most."""
    ends = np.cumsum(sizes)
    start, total = 0, int(ends[-1]) if len(ends) else 0
    while start < len(sizes):
        done = int(ends[start - 1]) if start else 0
        stop = len(sizes) if total - done <= limit else int(np.searchsorted(ends, done + limit, "right"))
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop


def _spans(x, y, q, first, num_rows, owner, width):
    """Splits triangles, corners sorted by y, into rows.

    Returns arrays over spans: flat start (row * width + column), number of pixels, inverse depth at the start and its
    step along x, complement of the owner.
    """
    triangle = np.repeat(np.arange(len(first)), num_rows)
    row = np.arange(len(triangle)) + np.repeat(first - np.cumsum(num_rows) + num_rows, num_rows)
    # Both triangles at an edge compute its position from the same corner in the same way: no gap, no overlap.
    lower = (row >= y[1][triangle]).astype(np.int64)
    slope_x, slope_q = (np.diff(values, axis=0) / np.diff(y, axis=0) for values in (x, q))
    slope_long_x, slope_long_q = ((values[2] - values[0]) / (y[2] - y[0]) for values in (x, q))
    down = row - y[0][triangle]
    long_x = x[0][triangle] + down * slope_long_x[triangle]
    long_q = q[0][triangle] + down * slope_long_q[triangle]
    down = row - y[lower, triangle]
    short_x = x[lower, triangle] + down * slope_x[lower, triangle]
    short_q = q[lower, triangle] + down * slope_q[lower, triangle]

    # Where a slope is beyond double precision, ends are not numbers and no comparison holds.
    start = np.clip(np.ceil(np.minimum(long_x, short_x)), 0, width)
    stop = np.clip(np.ceil(np.maximum(long_x, short_x)), 0, width)
    some = np.flatnonzero(start < stop)
    start, stop, long_x, long_q, short_x = start[some], stop[some], long_x[some], long_q[some], short_x[some]
    step = (short_q[some] - long_q) / (short_x - long_x)
    q = long_q + (start - long_x) * step
    count = np.where(np.isfinite(q) & np.isfinite(step), stop - start, 0).astype(np.int64)
    code = _LOW_BITS - owner[triangle[some]].astype(np.uint64)
    return row[some] * width + start.astype(np.int64), count, q, step, code


def _fill(best, start, count, q, step, code, least):
    """Draws spans into the packed z-buffer."""
    along = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    pixel = np.repeat(start, count) + along
    depth = (np.repeat(q, count) + along * np.repeat(step, count)).astype(np.float32)
    packed = (depth.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.repeat(code, count)
    if least > 0.0:
        packed = np.where(depth >= np.float32(least), packed, np.uint64(0))
    np.maximum.at(best, pixel, packed)


def _ray_weights(vertices, faces, triangles, ray_x, ray_y):
    """Barycentric weights `[rays, 3]` where rays `(x, y, 1)` meet the triangles named for them.

    The weights are the volumes that the ray spans with the triangle's sides, so corners behind the camera do no harm.
    """
    met = np.zeros(len(faces), bool)
    met[triangles] = True
    place = np.cumsum(met) - 1
    corners = vertices[faces[met]]
    sides = np.cross(np.roll(corners, -1, 1), np.roll(corners, -2, 1))
    sides = sides[place[triangles]]
    weights = sides[..., 0] * ray_x[:, None] + sides[..., 1] * ray_y[:, None] + sides[..., 2]
    total = weights[:, 0] + weights[:, 1] + weights[:, 2]
    weights = np.maximum(weights * np.sign(total)[:, None], 0.0)
    total = weights[:, 0] + weights[:, 1] + weights[:, 2]
    flat = total == 0.0  # a triangle seen exactly from its edge
    weights[flat], total[flat] = 1.0, 3.0
    return weights / total[:, None]
