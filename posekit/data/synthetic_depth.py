"""Depth pictures of things made of round cones, and what a real sensor would make of them.

A round cone is all that two balls and the balls between them fill: a finger's bone with its flesh, a forearm, a trunk.
Rays meet its surface in closed form, so that a hand of some thirty of them is drawn in a few milliseconds and its
depth is exact. Points are those of the camera's world (`posekit.geometry.depth`), whichever way its y points.
"""

import dataclasses

import numpy as np

_FAR = np.inf
# Pixels on all sides by which rays may be off, see `sample_jitter`.
_MARGIN = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class RoundCones:
    """Balls that grow or shrink along straight lines.

    Args:
        starts: `[..., cones, 3]` centres of the first balls, in the world's unit.
        ends: `[..., cones, 3]` centres of the last balls.
        start_radii: `[..., cones]`, above 0.
        end_radii: `[..., cones]`, above 0.
    """

    starts: np.ndarray
    ends: np.ndarray
    start_radii: np.ndarray
    end_radii: np.ndarray

    def __getitem__(self, index):
        return RoundCones(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def depth_inside(self, points):
        """How deep points lie below the surface.

        Args:
            points: `[points, 3]`; the cones have no further leading axes.

        Returns:
            Float64 `[points]`: the distance to the surface of the cone in which a point lies deepest, in the world's
            unit; negative outside.
        """
        points = np.asarray(points, np.float64)[:, None]
        along = self.ends - self.starts
        growth = self.end_radii - self.start_radii
        square = (along * along).sum(-1)
        offset = points - self.starts
        slope = np.sqrt(np.maximum(square - growth**2, 1e-12))
        ahead = (offset * along).sum(-1)
        aside = np.sqrt(np.maximum((offset * offset).sum(-1) * square - ahead**2, 0.0))
        share = (ahead + aside * growth / slope) / np.maximum(square, 1e-12)
        share = np.where(square > growth**2, np.clip(share, 0, 1), growth > 0)
        distance = np.linalg.norm(offset - share[..., None] * along, axis=-1)
        return (self.start_radii + share * growth - distance).max(-1)


def join_cones(*parts):
    """All cones of several `RoundCones` of equal leading axes."""
    fields = [field.name for field in dataclasses.fields(RoundCones)]
    axes = {"starts": -2, "ends": -2, "start_radii": -1, "end_radii": -1}
    return RoundCones(*(np.concatenate([getattr(part, name) for part in parts], axes[name]) for name in fields))


def draw_cones(cones, camera, jitter=None):
    """Depth of the nearest surface at every pixel.

    Args:
        cones: `RoundCones` without further leading axes, all of them in front of the camera.
        camera: `posekit.geometry.depth.DepthCamera`.
        jitter: `[height, width, 2]` pixels by which each ray misses its pixel, below 2 (see `sample_jitter`); none by
            default.

    Returns:
        Float64 `[height, width]` distances along z in the camera's unit, infinite where nothing is seen. Pixel centres
        are integers, as in `posekit.geometry.depth.world_to_pixel`.

    Raises:
        ValueError: If a cone reaches to the camera or behind it.
    """
    nearest = np.minimum(cones.starts[..., 2] - cones.start_radii, cones.ends[..., 2] - cones.end_radii).min(initial=1)
    if not nearest > 0:
        raise ValueError(f"A part of the scene lies at depth {nearest:.4g}; move it to where the camera sees it.")
    fx, fy, cx, cy = camera.signed_intrinsics
    boxes = _boxes(cones, camera, 0.0 if jitter is None else _MARGIN)
    cone, pixel = _candidates(*boxes, camera.width)
    x, y = pixel % camera.width, pixel // camera.width
    if jitter is not None:
        x, y = np.stack([x, y]) + np.reshape(jitter, (-1, 2))[pixel].T
    depth = np.full(camera.height * camera.width, _FAR)
    np.minimum.at(depth, pixel, _hits(cones, cone, (x - cx) / fx, (y - cy) / fy))
    return depth.reshape(camera.height, camera.width)


def _boxes(cones, camera, margin):
    """First column and row of the pixels that may show each cone, and how many of each."""
    fx, fy, cx, cy = camera.signed_intrinsics
    points = np.stack([cones.starts, cones.ends])
    radii = np.stack([cones.start_radii, cones.end_radii])
    first, counts = [], []
    for axis, focal, middle, size in ((0, fx, cx, camera.width), (1, fy, cy, camera.height)):
        across, away = points[..., axis], points[..., 2]
        angle, half = np.arctan2(across, away), np.arcsin(np.minimum(radii / np.hypot(across, away), 1))
        rims = np.clip([angle - half, angle + half], -1.55, 1.55)
        rims = (np.tan(rims) * focal + middle).reshape(4, -1)
        low = np.clip(np.ceil(rims.min(0) - margin), 0, size)
        high = np.clip(np.floor(rims.max(0) + margin) + 1, 0, size)
        first.append(low.astype(np.int64))
        counts.append(np.maximum(high - low, 0).astype(np.int64))
    return first[0], first[1], counts[0], counts[1]


def _candidates(left, top, columns, rows, width):
    """Pairs of a cone and a pixel that may show it."""
    counts = columns * rows
    cone = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(cone)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = columns[cone]
    return cone, (top[cone] + place // columns) * width + left[cone] + place % columns


def _hits(cones, cone, x, y):
    """Depths at which rays `(x, y, 1)` enter the cones named for them; infinite where they miss.

    The balls along a cone are |p - start - t * along|² = (start radius + t * growth)². Where that has a double root
    in t, p is on the surface between them: with p = depth * ray, a quadratic equation in the depth.
    """
    starts, ends = np.ascontiguousarray(cones.starts.T), cones.ends.T
    along, growth = ends - starts, cones.end_radii - cones.start_radii
    square = (along * along).sum(0) - growth**2
    ray_square = x * x + y * y + 1

    def dot(vectors):
        a, b, c = np.take(vectors, cone, 1)
        return a * x + b * y + c

    ray_start, ray_along = dot(starts), dot(along)
    ray_end = ray_start + ray_along
    start_square = (starts**2).sum(0) - cones.start_radii**2
    end_square = (ends**2).sum(0) - cones.end_radii**2
    best = np.minimum(
        _nearer_root(ray_square, ray_start, start_square[cone]), _nearer_root(ray_square, ray_end, end_square[cone])
    )
    # Where one ball holds the other there is nothing but the ball.
    met, safe = (square > 1e-9)[cone], np.maximum(square, 1e-9)
    shift = cones.start_radii * growth - (starts * along).sum(0)
    ratio = ray_along / safe[cone]
    a = ray_square - ray_along * ratio
    b = ray_start + ratio * shift[cone]
    c = (start_square - shift**2 / safe)[cone]
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    met &= b * b >= a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        for sign in (-1, 1):
            depth = (b + sign * root) / a
            share = depth * ratio + (shift / safe)[cone]
            good = met & (share >= 0) & (share <= 1) & (depth > 0)
            best = np.minimum(best, np.where(good, depth, _FAR))
    return best


def _nearer_root(a, b, c):
    """Smaller s with a s² - 2 b s + c = 0."""
    rest = b * b - a * c
    return np.where(rest >= 0, (b - np.sqrt(np.maximum(rest, 0))) / a, _FAR)


# ------------------------------------------------------------------------------------------------------- the sensor


def sample_jitter(rng, camera, pixels=0.4):
    """How far the rays of a sensor miss their pixels, which frays the outlines of what it sees.

    Args:
        rng: `numpy.random.Generator`.
        camera: `posekit.geometry.depth.DepthCamera`.
        pixels: Standard deviation in pixels.

    Returns:
        Float32 `[height, width, 2]`, cut at 2 pixels.
    """
    noise = rng.standard_normal((camera.height, camera.width, 2), dtype=np.float32)
    return np.clip(np.float32(pixels) * noise, -_MARGIN, _MARGIN)


def measure(rng, depth, noise, holes=0.004, edge=None):
    """What a sensor says about a scene.

    Args:
        rng: `numpy.random.Generator`.
        depth: `[height, width]` true depths, infinite where nothing is.
        noise: Standard deviation of a depth that is measured, in the unit of the depths.
        holes: Share of pixels that measure nothing, here and there; where the depth jumps it is sixty times that.
        edge: Difference of neighbouring depths that counts as a jump; twelve times the noise by default.

    Returns:
        Float64 `[height, width]`; 0 where nothing is measured.
    """
    seen = np.isfinite(depth)
    true = np.where(seen, depth, 0.0)
    # Half of the error is shared by neighbours, as errors of a sensor that compares patches are.
    grain = rng.standard_normal((2, *depth.shape), dtype=np.float32)
    smooth = grain[1] + np.roll(grain[1], 1, 0) + np.roll(grain[1], 1, 1) + np.roll(grain[1], (1, 1), (0, 1))
    measured = true + noise * (0.7 * grain[0] + 0.35 * smooth)
    jump = np.zeros(depth.shape, bool)
    edge = 12 * noise if edge is None else edge
    for axis in (0, 1):
        steps = np.abs(np.diff(true, axis=axis)) > edge
        ahead, behind = (slice(None, -1), slice(1, None)) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        jump[ahead] |= steps
        jump[behind] |= steps
    lost = rng.random(depth.shape, dtype=np.float32) < np.where(jump, min(60 * holes, 0.9), holes)
    return np.where(seen & ~lost, measured, 0.0)
