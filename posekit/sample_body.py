"""The sample body: a smooth humanoid made by code, so that everything runs without a licensed body model.

The surface is the zero level of a smooth union of lofts (stations of elliptical sections along an axis) and
ellipsoids, meshed by surface nets on a grid that is finer at head and hands. Only the half with x >= 0 is made; the
other half is its mirror image, so vertices, weights and regressors are exactly symmetric. Joints, conventions and
the number of shape directions are SMPL's; no data of SMPL or of any person went into it.
"""

import numpy as np

from posekit.skeletons import COCO_PLUS19, SMPL24

NUM_SHAPE = 10
_CENTRE = 0.0105  # half the width of the grid column on the symmetry plane, metres

# Rest joints in metres: y up, facing +z, the left side at x > 0.
_JOINTS = {
    "pelvis": (0.0, -0.225, 0.005),
    "left_hip": (0.078, -0.315, 0.0),
    "spine1": (0.0, -0.115, -0.012),
    "left_knee": (0.104, -0.690, 0.005),
    "spine2": (0.0, 0.015, -0.008),
    "left_ankle": (0.104, -1.085, -0.028),
    "spine3": (0.0, 0.075, -0.005),
    "left_foot": (0.118, -1.142, 0.095),
    "neck": (0.0, 0.283, -0.030),
    "left_collar": (0.075, 0.195, -0.022),
    "head": (0.0, 0.368, 0.000),
    "left_shoulder": (0.172, 0.218, -0.032),
    "left_elbow": (0.432, 0.213, -0.042),
    "left_wrist": (0.682, 0.214, -0.036),
    "left_hand": (0.766, 0.208, -0.036),
}

# Lofts: the axis along which the stations run, the exponent of the section (2 is an ellipse), the length of the
# rounded ends relative to the thinner half width, then the stations
# (position, half width, half depth, centre of width, centre of depth); width and depth are the other two axes in order.
_TORSO = (
    1,
    2.35,
    1.0,
    [
        (-0.375, 0.124, 0.084, 0, -0.008),
        (-0.330, 0.150, 0.099, 0, -0.006),
        (-0.280, 0.160, 0.107, 0, -0.003),
        (-0.220, 0.157, 0.108, 0, 0.002),
        (-0.140, 0.139, 0.101, 0, 0.008),
        (-0.070, 0.129, 0.093, 0, 0.008),
        (0.000, 0.133, 0.096, 0, 0.004),
        (0.080, 0.149, 0.108, 0, 0.000),
        (0.140, 0.158, 0.110, 0, -0.006),
        (0.190, 0.150, 0.097, 0, -0.014),
        (0.230, 0.110, 0.074, 0, -0.024),
        (0.245, 0.085, 0.064, 0, -0.028),
    ],
)
_NECK = (
    1,
    2.0,
    1.0,
    [(0.200, 0.060, 0.058, 0, -0.034), (0.270, 0.054, 0.055, 0, -0.028), (0.350, 0.052, 0.054, 0, -0.010)],
)
_ARM = (
    0,
    2.0,
    1.0,
    [
        (0.100, 0.050, 0.056, 0.192, -0.026),
        (0.150, 0.059, 0.062, 0.201, -0.029),
        (0.190, 0.059, 0.061, 0.207, -0.032),
        (0.240, 0.053, 0.055, 0.210, -0.034),
        (0.310, 0.046, 0.050, 0.211, -0.036),
        (0.380, 0.040, 0.043, 0.212, -0.040),
        (0.432, 0.036, 0.039, 0.213, -0.042),
        (0.490, 0.038, 0.042, 0.214, -0.041),
        (0.550, 0.035, 0.038, 0.214, -0.039),
        (0.620, 0.028, 0.031, 0.214, -0.037),
        (0.675, 0.023, 0.029, 0.214, -0.036),
    ],
)
_HAND = (
    0,
    2.2,
    1.8,
    [
        (0.680, 0.022, 0.029, 0.213, -0.036),
        (0.710, 0.020, 0.036, 0.211, -0.035),
        (0.750, 0.019, 0.041, 0.208, -0.035),
        (0.790, 0.016, 0.041, 0.205, -0.036),
        (0.825, 0.014, 0.037, 0.202, -0.037),
        (0.842, 0.013, 0.031, 0.199, -0.037),
    ],
)
_LEG = (
    1,
    2.0,
    1.0,
    [
        (-1.110, 0.031, 0.037, 0.103, -0.032),
        (-1.060, 0.031, 0.037, 0.104, -0.030),
        (-1.000, 0.034, 0.039, 0.105, -0.027),
        (-0.920, 0.043, 0.047, 0.106, -0.023),
        (-0.830, 0.052, 0.057, 0.107, -0.018),
        (-0.760, 0.049, 0.055, 0.106, -0.009),
        (-0.690, 0.048, 0.055, 0.104, 0.004),
        (-0.620, 0.056, 0.061, 0.101, 0.006),
        (-0.520, 0.068, 0.075, 0.096, 0.004),
        (-0.430, 0.077, 0.088, 0.092, 0.000),
        (-0.360, 0.082, 0.096, 0.089, -0.004),
        (-0.300, 0.082, 0.096, 0.085, -0.006),
    ],
)
_FOOT = (
    2,
    2.2,
    1.7,
    [
        (-0.054, 0.027, 0.032, 0.104, -1.136),
        (-0.020, 0.031, 0.040, 0.106, -1.128),
        (0.030, 0.034, 0.037, 0.109, -1.131),
        (0.080, 0.041, 0.028, 0.114, -1.141),
        (0.120, 0.043, 0.022, 0.117, -1.148),
        (0.142, 0.038, 0.019, 0.119, -1.151),
    ],
)
_SOLE = -1.170
_CORRECTION = 0.65  # share of the volume lost in blending that the pose blend shapes restore
_CORRECTION_REACH = 0.08  # metres from a joint beyond which corrections stop growing


def make_sample_arrays():
    """Makes the arrays of the sample body.

    Returns:
        Dict of arrays named as the fields of `posekit.bodies.BodyModel`, without `name` and `licence`.
    """
    vertices, faces, mirror = _surface()
    rest = np.array([_joint(name) for name in SMPL24.joints])
    weights = _skinning_weights(vertices, faces, mirror)
    arrays = {
        "v_template": vertices,
        "shapedirs": _shape_directions(vertices, rest),
        "posedirs": _pose_corrections(vertices, rest, weights),
        "J_regressor": _regressor(vertices, rest, 0.06, SMPL24.flip_permutation, mirror),
        "keypoint_regressor": _keypoint_regressor(vertices, rest, mirror),
        "weights": weights,
    }
    arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()}
    return arrays | {"parents": np.array(SMPL24.parents, np.int32), "faces": faces.astype(np.int32)}


def _joint(name):
    if name.startswith("right_"):
        x, y, z = _JOINTS["left_" + name[len("right_") :]]
        return -x, y, z
    return _JOINTS[name]


# --------------------------------------------------------------------------------------------- surface


def _loft(points, loft):
    """Roughly the signed distance of `[..., 3]` points to a loft; its ends are rounded."""
    axis, exponent, roundness, stations = loft
    stations = np.asarray(stations)
    across = [other for other in range(3) if other != axis]
    clamped = np.clip(points[..., axis], stations[0, 0], stations[-1, 0])
    half_u, half_v, centre_u, centre_v = (_smooth_interpolation(clamped, stations[:, 0], c) for c in stations.T[1:])
    u = points[..., across[0]] - centre_u
    v = points[..., across[1]] - centre_v
    along = points[..., axis] - clamped
    cap = roundness * np.minimum(half_u, half_v)
    section = (np.abs(u / half_u) ** exponent + np.abs(v / half_v) ** exponent) ** (2 / exponent)
    ratio = np.sqrt(section + (along / cap) ** 2)
    length = np.sqrt(u * u + v * v + along * along)
    return np.where(ratio > 1e-3, length * (1 - 1 / np.maximum(ratio, 1e-3)), -cap)


def _smooth_interpolation(x, knots, values):
    """Monotone cubic interpolation (Fritsch and Carlson's condition through harmonic means of slopes)."""
    step = np.diff(knots)
    slope = np.diff(values) / step
    tangent = np.zeros_like(values)
    product = slope[:-1] * slope[1:]
    same = product > 0
    tangent[1:-1][same] = 2 * product[same] / (slope[:-1] + slope[1:])[same]
    tangent[0], tangent[-1] = slope[0], slope[-1]
    piece = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(step) - 1)
    width = step[piece]
    t = (x - knots[piece]) / width
    first, second = values[piece], values[piece + 1]
    cubic = (2 * t - 3) * t * t
    bend = t * (t - 1)
    return (
        first * (1 + cubic) - second * cubic + bend * width * ((t - 1) * tangent[piece] + t * tangent[piece + 1])
    )


def _ellipsoid(points, centre, radii):
    offset = points - np.asarray(centre)
    ratio = np.linalg.norm(offset / np.asarray(radii), axis=-1)
    length = np.linalg.norm(offset, axis=-1)
    return np.where(ratio > 1e-3, length * (1 - 1 / np.maximum(ratio, 1e-3)), -min(radii))


def _capsule(points, start, end, radius_start, radius_end):
    start, end = np.asarray(start), np.asarray(end)
    along = end - start
    t = np.clip((points - start) @ along / (along @ along), 0, 1)
    radius = radius_start + t * (radius_end - radius_start)
    return np.linalg.norm(points - start - t[..., None] * along, axis=-1) - radius


def _union(a, b, blend):
    """Smooth minimum of two distances; `blend` is the width in metres over which they flow into each other."""
    h = np.maximum(blend - np.abs(a - b), 0) / blend
    return np.minimum(a, b) - h * h * blend / 4


def _field(points):
    """Implicit function of the body, negative inside, in metres near the surface."""
    x = np.abs(points[..., :1])
    face = np.concatenate([x, points[..., 1:]], -1)
    # Folding space at x = 0 would leave a crease where both sides flow together; a rounded fold does not.
    points = np.concatenate([np.sqrt(x * x + 0.015**2), points[..., 1:]], -1)
    leg = _union(_loft(points, _LEG), _ellipsoid(points, (0.100, -0.850, -0.045), (0.034, 0.10, 0.034)), 0.04)
    foot = _loft(points, _FOOT)
    foot = -_union(-foot, points[..., 1] - _SOLE, 0.012)
    leg = _union(leg, foot, 0.035)
    torso = _loft(face, _TORSO)
    torso = _union(torso, _ellipsoid(points, (0.074, -0.305, -0.058), (0.076, 0.082, 0.066)), 0.06)
    torso = _union(torso, _ellipsoid(points, (0.074, 0.118, 0.058), (0.070, 0.056, 0.042)), 0.06)
    torso = _union(torso, _capsule(face, (0.0, 0.280, -0.040), (0.150, 0.224, -0.036), 0.036, 0.034), 0.045)
    torso = _union(torso, leg, 0.05)
    arm = _union(_loft(points, _ARM), _loft(points, _HAND), 0.02)
    arm = _union(arm, _capsule(points, (0.706, 0.207, -0.012), (0.782, 0.198, 0.034), 0.017, 0.0135), 0.018)
    body = _union(torso, arm, 0.055)
    head = _ellipsoid(face, (0, 0.452, 0.002), (0.076, 0.100, 0.095))
    head = _union(head, _ellipsoid(face, (0, 0.388, 0.040), (0.050, 0.062, 0.058)), 0.05)
    head = -_union(-head, _ellipsoid(face, (0.033, 0.438, 0.108), (0.021, 0.014, 0.022)), 0.02)
    head = _union(head, _capsule(face, (0, 0.442, 0.091), (0, 0.414, 0.106), 0.008, 0.013), 0.014)
    head = _union(head, _ellipsoid(face, (0.074, 0.428, -0.004), (0.014, 0.030, 0.020)), 0.014)
    return _union(body, _union(head, _loft(face, _NECK), 0.05), 0.04)


def _grid_lines(breaks):
    """Grid coordinates from `(coordinate, spacing from there on)` pairs; the last pair ends the grid."""
    lines = []
    for (start, spacing), (end, _) in zip(breaks[:-1], breaks[1:]):
        count = max(1, round((end - start) / spacing))
        lines.append(start + (end - start) * np.arange(count) / count)
    return np.concatenate([*lines, [breaks[-1][0]]])


def _surface():
    """Mesh of the implicit surface.

    Returns:
        Float64 vertices `[V, 3]`, faces `[F, 3]` and the index of every vertex's mirror image `[V]`.
    """
    lines = [
        np.concatenate(
            [[-_CENTRE], _grid_lines([(_CENTRE, 0.020), (0.14, 0.023), (0.66, 0.016), (0.69, 0.013), (0.90, 1)])]
        ),
        _grid_lines([(-1.20, 0.016), (-1.06, 0.026), (0.16, 0.012), (0.24, 0.018), (0.32, 0.0135), (0.59, 1)]),
        _grid_lines([(-0.17, 0.020), (-0.09, 0.016), (0.06, 0.019), (0.08, 0.014), (0.22, 1)]),
    ]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    vertices, quads = _surface_nets(_field(grid), lines)
    on_plane = np.abs(vertices[:, 0]) <= _CENTRE * (1 + 1e-9)
    vertices[on_plane, 0] = 0
    half = len(vertices)
    vertices, quads, mirror = _mirrored(vertices, quads, on_plane)
    unfold = np.concatenate([np.arange(half), np.flatnonzero(~on_plane)])
    for _ in range(10):
        normals, step = _newton_step(vertices[:half])
        drift = (_neighbour_mean(vertices, quads) - vertices)[:half]
        drift -= (drift * normals).sum(-1, keepdims=True) * normals
        moved = vertices[:half] + 0.7 * drift - step
        moved[on_plane, 0] = 0
        vertices = moved[unfold]
        vertices[half:, 0] *= -1
    return vertices, _split(vertices, quads), mirror


def _split(vertices, quads):
    """Triangles of the quads, each cut along its shorter diagonal."""
    corners = vertices[quads]
    first, second = (((corners[:, k] - corners[:, k + 2]) ** 2).sum(-1) for k in (0, 1))
    # Rounded, so that a quad and its mirror image are cut alike; their corners are numbered the other way round.
    turned = np.where((first > second * (1 + 1e-6))[:, None], np.roll(quads, -1, -1), quads)
    return np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])


def _surface_nets(values, lines):
    """Dual mesh of the zero level on a rectilinear grid: one vertex a crossed cell, one quad a crossed inner edge."""
    inside = values < 0
    size = np.array(values.shape)
    totals = np.zeros((*(size - 1), 3))
    counts = np.zeros(size - 1)
    quads_corners = []
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        low, high = tuple(low), tuple(high)
        edges = np.argwhere(inside[low] != inside[high])
        start = tuple(edges.T)
        end = tuple((edges + np.eye(3, dtype=int)[axis]).T)
        fraction = values[start] / (values[start] - values[end])
        points = np.stack([lines[k][edges[:, k]] for k in range(3)], -1)
        points[:, axis] += fraction * (lines[axis][end[axis]] - lines[axis][start[axis]])
        u, v = (axis + 1) % 3, (axis + 2) % 3
        around = []
        for du, dv in ((-1, -1), (0, -1), (0, 0), (-1, 0)):  # counter-clockwise about the axis
            cell = edges.copy()
            cell[:, u] += du
            cell[:, v] += dv
            valid = ((cell >= 0) & (cell < size - 1)).all(-1)
            where = tuple(cell[valid].T)
            np.add.at(totals, where, points[valid])
            np.add.at(counts, where, 1)
            around.append(np.where(valid, np.ravel_multi_index(np.where(valid[:, None], cell, 0).T, size - 1), -1))
        quad = np.stack(around, -1)
        leaving = inside[start]
        quad = np.where(leaving[:, None], quad, quad[:, ::-1])
        quads_corners.append(quad[(quad >= 0).all(-1)])
    used = counts.ravel() > 0
    number = np.cumsum(used) - 1
    vertices = totals.reshape(-1, 3)[used] / counts.ravel()[used, None]
    return vertices, number[np.concatenate(quads_corners)]


def _mirrored(vertices, quads, on_plane):
    """The half mesh together with its reflection; vertices on the plane are shared."""
    count = len(vertices)
    twin = np.arange(count)
    twin[~on_plane] = count + np.arange((~on_plane).sum())
    reflected = vertices[~on_plane] * (-1, 1, 1)
    mirror = np.concatenate([twin, np.flatnonzero(~on_plane)])
    return np.concatenate([vertices, reflected]), np.concatenate([quads, twin[quads][:, [0, 3, 2, 1]]]), mirror


def _neighbour_mean(values, polygons):
    total = np.zeros_like(values)
    count = np.zeros(len(values))
    for corner in range(polygons.shape[1]):
        # Every edge belongs to two polygons that run through it in opposite directions, so it is met once each way.
        here, there = polygons[:, corner], polygons[:, corner - 1]
        for column in range(values.shape[1]):
            total[:, column] += np.bincount(here, values[there, column], len(values))
        count += np.bincount(here, minlength=len(values))
    return total / count[:, None]


def _newton_step(points, epsilon=1e-4):
    """Unit normals of the implicit function and the steps to subtract that lead to its zero level, both `[N, 3]`."""
    here = _field(points)
    gradient = np.stack([(_field(points + epsilon * axis) - here) / epsilon for axis in np.eye(3)], -1)
    normals = gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
    step = here / np.maximum((gradient * normals).sum(-1), 0.3)
    return normals, np.clip(step, -0.01, 0.01)[:, None] * normals


# --------------------------------------------------------------------------------------------- skinning


def _ramp(value, half_width):
    """Smooth step from 0 at -half_width to 1 at +half_width."""
    t = np.clip(value / (2 * half_width) + 0.5, 0, 1)
    return t * t * t * (t * (6 * t - 15) + 10)


def _skinning_weights(vertices, faces, mirror):
    """Weights `[V, 24]` from how far a vertex lies beyond each joint; at most four joints a vertex."""
    beyond = np.stack([_beyond_joint(vertices, name) for name in SMPL24.joints], -1)
    parents = SMPL24.parents
    children = [[c for c, p in enumerate(parents) if p == joint] for joint in range(len(parents))]
    reach = np.ones_like(beyond)
    weights = np.zeros_like(beyond)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            siblings = np.maximum(1, beyond[:, children[parent]].sum(-1))
            reach[:, joint] = reach[:, parent] * beyond[:, joint] / siblings
    for joint in range(len(parents)):
        weights[:, joint] = np.maximum(0, reach[:, joint] - reach[:, children[joint]].sum(-1))
    for _ in range(4):
        weights += 0.5 * (_neighbour_mean(weights, faces) - weights)
    weights = (weights + weights[mirror][:, SMPL24.flip_permutation]) / 2
    fourth = np.sort(weights, -1)[:, -4:-3]
    weights[weights < np.maximum(fourth, 0.004)] = 0
    return weights / weights.sum(-1, keepdims=True)


def _beyond_joint(vertices, name):
    """How far, 0..1, vertices belong to the side of a joint that moves with it."""
    x, y, z = vertices.T
    if name.startswith("right_"):
        return _beyond_joint(vertices * (-1, 1, 1), "left_" + name[len("right_") :])
    if name == "pelvis":
        return np.ones_like(x)
    if name in ("spine1", "spine2", "spine3", "neck", "head"):
        centre, half_width, tilt = {
            "spine1": (-0.125, 0.110, 0.0),
            "spine2": (0.000, 0.100, 0.0),
            "spine3": (0.080, 0.090, 0.0),
            "neck": (0.265, 0.045, 0.25),
            "head": (0.350, 0.040, 0.40),
        }[name]
        trunk = _ramp(0.16 - np.abs(x), 0.03) if name in ("neck", "head") else 1
        return _ramp(y + tilt * (z + 0.03) - centre, half_width) * trunk
    inwards = np.minimum(x, 0.2)
    return {
        "left_collar": lambda: _ramp(x + 0.35 * (y - 0.2) - 0.085, 0.065) * _ramp(y - 0.100, 0.07),
        "left_shoulder": lambda: _ramp(x + 0.10 * (y - 0.22) - 0.172, 0.060) * _ramp(y - 0.105, 0.05),
        "left_elbow": lambda: _ramp(x - 0.432, 0.050),
        "left_wrist": lambda: _ramp(x - 0.680, 0.035),
        "left_hand": lambda: _ramp(x - 0.768, 0.025),
        "left_hip": lambda: _ramp(-(y + 0.318) + 0.55 * (inwards - 0.085), 0.075) * _ramp(x - 0.004, 0.035),
        "left_knee": lambda: _ramp(-(y + 0.690), 0.065),
        "left_ankle": lambda: _ramp(-(y + 1.085) + 0.30 * (z + 0.028), 0.040),
        "left_foot": lambda: _ramp(z - 0.098, 0.030) * _ramp(-(y + 1.0), 0.05),
    }[name]()


# --------------------------------------------------------------------------------------------- blend shapes


def _pose_corrections(vertices, rest, weights):
    """Pose blend shapes `[V, 3, 207]` that keep the volume which linear blending loses at a bent or twisted joint.

    Where a joint with rotation R carries a vertex with weight s, the point d (seen from the joint) should go to
    `R**s d`, but blending takes it to `(1 - s) d + s R d`. The rest-pose offset that makes up for it is linear in d,
    and as a function of R it is fitted with the only isotropic forms that are linear in R - I: R - I itself, its
    transpose and its trace.
    """
    parents = SMPL24.parents
    below = weights.copy()
    for joint in range(len(parents) - 1, 0, -1):
        below[:, parents[joint]] += below[:, joint]
    table_s = np.linspace(0, 1, 21)
    table = np.array([_isotropic_fit(s) for s in table_s])
    directions = np.zeros((len(vertices), 3, len(parents) - 1, 3, 3))
    for joint in range(1, len(parents)):
        siblings = [other for other, parent in enumerate(parents) if parent == parents[joint] and other != joint]
        # Where a sibling pulls too, both corrections would add up, so each steps back.
        strength = _CORRECTION * np.maximum(0, 1 - 2 * below[:, siblings].sum(-1)) ** 2
        partial = (below[:, joint] > 1e-3) & (below[:, joint] < 1 - 1e-3) & (strength > 0)
        offset = vertices[partial] - rest[joint]
        length = np.linalg.norm(offset, axis=-1, keepdims=True)
        offset *= strength[partial, None] * np.tanh(length / _CORRECTION_REACH) * _CORRECTION_REACH / length
        plain, transposed, trace = (np.interp(below[partial, joint], table_s, c)[:, None] * offset for c in table.T)
        block = np.zeros((len(offset), 3, 3, 3))
        for a in range(3):
            block[:, a, a, :] += plain
            block[:, a, :, a] += transposed
            for c in range(3):
                block[:, a, c, c] += trace[:, a]
        directions[partial, :, joint - 1] = block
    return directions.reshape(len(vertices), 3, -1)


def _isotropic_fit(s):
    """Coefficients of R - I, its transpose and its trace that come closest to the wanted offset, over angles."""
    rows, targets = [], []
    identity = np.eye(3)
    for angle in np.linspace(0.15, 2.0, 14):
        rotation, wanted = _rotation_about_z(angle), _rotation_about_z(s * angle)
        blended = (1 - s) * identity + s * rotation
        change = rotation - identity
        rows.append(np.stack([change, change.T, np.trace(change) * identity], -1).reshape(9, 3))
        targets.append((np.linalg.solve(blended, wanted) - identity).reshape(9))
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]


def _rotation_about_z(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _shape_directions(vertices, rest):
    """Ten displacement fields `[V, 3, 10]`, metres for one unit: what makes one person differ from another."""
    x, y, z = vertices.T
    side = np.sign(x)
    arm = _ramp(np.abs(x) - 0.19, 0.05)
    leg = _ramp(-(y + 0.36), 0.10)
    head = _ramp(y - 0.335 + 0.3 * z, 0.05)
    torso = (1 - arm) * (1 - leg) * (1 - head)
    radial = vertices - _bone_axis(vertices)
    zero = np.zeros_like(x)
    belly = np.exp(-(((y + 0.08) / 0.13) ** 2)) * torso
    chest = np.exp(-(((y - 0.10) / 0.11) ** 2)) * torso
    hips = np.exp(-(((y + 0.28) / 0.12) ** 2)) * (1 - arm)
    fields = [
        # height: everything grows about the pelvis
        0.034 * (vertices - rest[0]),
        # weight: every section grows, the trunk most
        radial * (0.105 * (torso + 0.8 * leg + 0.75 * arm * _ramp(0.62 - np.abs(x), 0.1) + 0.25 * head))[:, None]
        + np.stack([zero, zero, 0.010 * belly * _ramp(z, 0.08)], -1),
        # length of the legs
        np.stack([zero, -0.045 * np.maximum(0, -(y + 0.36)) * leg, zero], -1),
        # length of the arms
        np.stack([0.040 * (np.abs(x) - 0.172) * side * arm, zero, zero], -1),
        # width of the shoulders; the arms move along
        np.stack([0.012 * side * _ramp(np.abs(x) - 0.09, 0.09) * _ramp(y - 0.08, 0.12) * (1 - head), zero, zero], -1),
        # width of the hips; the legs follow halfway
        np.stack([0.010 * side * _ramp(np.abs(x) - 0.05, 0.07) * np.maximum(hips, 0.5 * leg), zero, zero], -1),
        # size of the head
        0.035 * (vertices - (0.0, 0.34, 0.0)) * head[:, None],
        # muscles: shoulders, chest, upper arms, thighs, calves, with a narrower waist
        radial * (0.06 * chest + 0.10 * arm * _ramp(0.60 - np.abs(x), 0.12) + 0.05 * leg - 0.05 * belly)[:, None],
        # belly and buttocks
        np.stack([0.004 * side * belly, zero, 0.020 * belly * _ramp(z, 0.08) - 0.010 * hips * _ramp(-z, 0.08)], -1),
        # length of the trunk: what lies above the waist rises
        np.stack([zero, 0.018 * _ramp(y + 0.06, 0.24), zero], -1)
        + 0.05 * np.stack([zero, y - 0.212, z + 0.036], -1) * _ramp(np.abs(x) - 0.68, 0.04)[:, None],
    ]
    return np.stack(fields, -1)


def _bone_axis(vertices):
    """Nearest point of the limbs' axes `[V, 3]`: those of trunk and legs run along y, those of the arms along x."""
    x, y, z = vertices.T
    stations = np.asarray(_LEG[3])
    leg = _ramp(-(y + 0.36), 0.10)
    leg_x = np.interp(y, stations[:, 0], stations[:, 3]) * np.sign(x)
    leg_z = np.interp(y, stations[:, 0], stations[:, 4])
    # Below the ankle the axis ends, so that feet grow in height too.
    trunk = np.stack([leg * leg_x, np.maximum(y, -1.10), leg * leg_z], -1)
    limb = np.stack([x, np.full_like(x, 0.212), np.full_like(x, -0.036)], -1)
    return trunk + _ramp(np.abs(x) - 0.19, 0.05)[:, None] * (limb - trunk)


# --------------------------------------------------------------------------------------------- regressors


def _regressor(vertices, targets, spread, flip, mirror):
    """Rows `[targets, V]`, summing to 1, that rebuild target points from the vertices around them."""
    rows = []
    for target in targets:
        distance = np.linalg.norm(vertices - target, axis=-1)
        # Deep in the trunk the nearest dozen vertices are farther away than the window usually reaches.
        spread_here = max(spread, 1.15 * np.sort(distance)[11])
        weight = np.exp(-((distance / spread_here) ** 2))
        weight[weight < 0.02] = 0
        # The smallest change of a Gaussian window whose mean is the target itself.
        system = np.concatenate([vertices - target, np.ones((len(vertices), 1))], -1)
        solution = np.linalg.lstsq(system.T @ (weight[:, None] * system), np.array([0, 0, 0, 1.0]), rcond=None)[0]
        rows.append(weight * (system @ solution))
    rows = np.array(rows)
    return (rows + rows[flip][:, mirror]) / 2


def _keypoint_regressor(vertices, rest, mirror):
    """COCO_PLUS19 keypoints: joints where annotators see them, the face's on the surface."""
    joint = {name: rest[SMPL24.index(name)] for name in SMPL24.joints}
    targets = {name: joint[name] for name in COCO_PLUS19.joints if name in joint}
    targets["left_hip"] = joint["left_hip"] + (0.018, 0.010, 0.0)
    targets["right_hip"] = targets["left_hip"] * (-1, 1, 1)
    targets["neck"] = np.array([0.0, 0.262, -0.018])
    inner = list(targets)
    regressor = np.zeros((COCO_PLUS19.num_joints, len(vertices)))
    order = [COCO_PLUS19.index(name) for name in inner]
    flip = np.array([inner.index(COCO_PLUS19.joints[COCO_PLUS19.flip_permutation[k]]) for k in order])
    regressor[order] = _regressor(vertices, [targets[name] for name in inner], 0.05, flip, mirror)
    face = {"head_top": (0, 0.60, 0.0), "nose": (0, 0.410, 0.20), "left_eye": (0.033, 0.440, 0.085)}
    face["left_ear"] = (0.12, 0.425, -0.004)
    for name, towards in face.items():
        for row_name, point in ((name, towards), (name.replace("left_", "right_"), np.array(towards) * (-1, 1, 1))):
            nearest = np.argmin(np.linalg.norm(vertices - point, axis=-1))
            regressor[COCO_PLUS19.index(row_name)] = 0
            regressor[COCO_PLUS19.index(row_name), nearest] = 1
    return (regressor + regressor[COCO_PLUS19.flip_permutation][:, mirror]) / 2
