import time

import numpy as np
import pytest

from posekit.bodies import sample_body
from posekit.sample_body import make_sample_arrays
from posekit.skeletons import COCO_PLUS19, SMPL24


@pytest.fixture(scope="module")
def body():
    return sample_body()


@pytest.fixture(scope="module")
def joints(body):
    return dict(zip(SMPL24.joints, body.J_regressor @ body.v_template))


@pytest.fixture(scope="module")
def keypoints(body):
    return dict(zip(COCO_PLUS19.joints, body.keypoint_regressor @ body.v_template))


@pytest.fixture(scope="module")
def mirror(body):
    """Index of every vertex's mirror image."""
    order = np.lexsort(body.v_template.round(5).T)
    reflected = body.v_template * np.float32([-1, 1, 1])
    other = np.lexsort(reflected.round(5).T)
    indices = np.empty(len(order), int)
    indices[other] = order
    np.testing.assert_allclose(body.v_template[indices], reflected, atol=1e-6)
    return indices


def volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


def test_size_and_types(body):
    assert 3000 <= body.num_vertices <= 7000
    assert (body.num_joints, body.num_shape, body.num_keypoints) == (24, 10, 19)
    assert body.posedirs.shape == (body.num_vertices, 3, 207)
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "keypoint_regressor", "weights"):
        array = getattr(body, key)
        assert array.dtype == np.float32 and np.isfinite(array).all() and not array.flags.writeable
    np.testing.assert_array_equal(body.parents, SMPL24.parents)
    assert body.licence == "Apache-2.0" and sample_body() is body


def test_deterministic_and_quick(body):
    start = time.process_time()
    arrays = make_sample_arrays()
    assert time.process_time() - start < 2.0
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(body, key))


def test_mesh_is_closed_and_without_handles(body):
    faces = body.faces
    halves = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    keys = halves[:, 0] * body.num_vertices + halves[:, 1]
    backward = halves[:, 1] * body.num_vertices + halves[:, 0]
    assert len(np.unique(keys)) == len(keys)
    np.testing.assert_array_equal(np.sort(keys), np.sort(backward))
    assert body.num_vertices - len(halves) // 2 + len(faces) == 2
    assert len(np.unique(faces)) == body.num_vertices
    # One piece: the smallest number spreads over everything.
    label = np.arange(body.num_vertices)
    for _ in range(500):
        lowest = label.copy()
        np.minimum.at(lowest, halves[:, 0], label[halves[:, 1]])
        if (lowest == label).all():
            break
        label = lowest
    assert (label == 0).all()


def test_faces_look_outwards_and_are_not_slivers(body):
    vertices, faces = body.v_template, body.faces
    assert 0.055 < volume(vertices, faces) < 0.085
    cross = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    assert np.linalg.norm(cross, axis=-1).min() > 1e-6
    edges = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, 1)], axis=-1)
    assert edges.min() > 0.002 and edges.max() < 0.05


def test_symmetry(body, mirror):
    np.testing.assert_allclose(body.weights[mirror][:, SMPL24.flip_permutation], body.weights, atol=1e-6)
    np.testing.assert_allclose(body.shapedirs[mirror] * np.float32([-1, 1, 1])[:, None], body.shapedirs, atol=1e-6)
    np.testing.assert_allclose(
        body.J_regressor[SMPL24.flip_permutation][:, mirror], body.J_regressor, atol=1e-6
    )
    np.testing.assert_allclose(
        body.keypoint_regressor[COCO_PLUS19.flip_permutation][:, mirror], body.keypoint_regressor, atol=1e-6
    )

    def normalised(faces):
        start = faces.argmin(1)[:, None]
        return {tuple(row) for row in np.take_along_axis(faces, (start + np.arange(3)) % 3, 1).tolist()}

    assert normalised(mirror[body.faces][:, ::-1]) == normalised(body.faces)
    # Mirroring a joint's rotation mirrors its corrections.
    sign = np.array([1, -1, -1]) * np.array([1, -1, -1])[:, None]
    blocks = body.posedirs.reshape(-1, 3, 23, 3, 3)
    flipped = blocks[mirror][:, :, SMPL24.flip_permutation[1:] - 1] * np.array([-1, 1, 1])[:, None, None, None] * sign
    np.testing.assert_allclose(flipped, blocks, atol=1e-6)


def test_smpl_conventions(body, joints):
    low, high = body.v_template.min(0), body.v_template.max(0)
    assert 1.65 < high[1] - low[1] < 1.78 and 1.6 < high[0] - low[0] < 1.85
    assert joints["left_wrist"][0] > 0.6 and joints["right_wrist"][0] < -0.6
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.08
    np.testing.assert_allclose(joints["pelvis"], (0, -0.22, 0.0), atol=0.03)
    for chain in (("pelvis", "spine1", "spine2", "spine3", "neck", "head"), ("left_ankle", "left_knee", "left_hip")):
        heights = [joints[name][1] for name in chain]
        assert heights == sorted(heights)


def test_weights(body, joints):
    weights = body.weights
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights > 0).sum(-1).max() <= 4
    assert (weights.max(0) > 0.5).all()
    # Smooth: along no edge do weights jump.
    a, b = body.faces[:, 0], body.faces[:, 1]
    assert np.abs(weights[a] - weights[b]).max() < 0.45
    forearm = (body.v_template[:, 0] > 0.5) & (body.v_template[:, 0] < 0.6)
    assert weights[forearm, SMPL24.index("left_elbow")].min() > 0.99


def test_regressors(body, joints, keypoints):
    for regressor in (body.J_regressor, body.keypoint_regressor):
        np.testing.assert_allclose(regressor.sum(-1), 1, atol=1e-5)
        assert regressor.min() > -1e-3
    for name in ("right_ankle", "left_knee", "left_shoulder", "right_elbow", "left_wrist"):
        np.testing.assert_allclose(keypoints[name], joints[name], atol=1e-4)
    for side, sign in (("left", 1), ("right", -1)):
        hip, eye, ear = (keypoints[f"{side}_{name}"] for name in ("hip", "eye", "ear"))
        assert 0.07 < sign * hip[0] < 0.13 and abs(hip[1] - joints[f"{side}_hip"][1]) < 0.03
        assert 0.02 < sign * eye[0] < 0.05 and eye[2] > 0.06
        assert sign * ear[0] > 0.07 and abs(ear[2]) < 0.03
        assert keypoints["nose"][1] < eye[1] < keypoints["head_top"][1]
    assert keypoints["head_top"][1] == body.v_template[:, 1].max()
    head = (body.v_template[:, 1] > 0.37) & (body.v_template[:, 1] < 0.47) & (np.abs(body.v_template[:, 0]) < 0.1)
    assert keypoints["nose"][2] > body.v_template[head, 2].max() - 0.005
    assert joints["spine3"][1] < keypoints["neck"][1] < joints["head"][1]


def inside(points, vertices, faces):
    """Winding number test: solid angles of all triangles sum to 4 pi inside."""
    result = []
    for point in points:
        a, b, c = ((vertices[faces[:, k]] - point).astype(np.float64) for k in range(3))
        la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
        numerator = np.einsum("fi,fi->f", a, np.cross(b, c))
        denominator = (
            la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        )
        result.append(np.arctan2(numerator, denominator).sum() * 2 / (4 * np.pi))
    return np.array(result)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_joints_lie_inside_whatever_the_shape(body, seed):
    shape = np.zeros(10) if seed is None else np.random.default_rng(seed).normal(size=10).clip(-2, 2)
    vertices = body.v_template + body.shapedirs @ shape
    names = [name for name in COCO_PLUS19.joints[:13]]
    points = (body.keypoint_regressor @ vertices)[: len(names)]
    np.testing.assert_allclose(inside(points, vertices, body.faces), 1, atol=1e-3)
    np.testing.assert_allclose(inside(body.J_regressor @ vertices, vertices, body.faces), 1, atol=1e-3)


def test_shapes_make_plausible_people(body):
    spread = []
    for seed in range(40):
        shape = np.random.default_rng(seed).normal(size=10).clip(-2, 2)
        vertices = body.v_template + body.shapedirs @ shape
        height = np.ptp(vertices[:, 1])
        assert 1.35 < height < 2.1
        assert 0.03 < volume(vertices, body.faces) < 0.14
        spread.append(height)
    assert 0.03 < np.std(spread) < 0.12
    # Every direction does something of its own.
    flat = body.shapedirs.reshape(-1, 10)
    assert np.linalg.svd(flat / np.linalg.norm(flat, axis=0), compute_uv=False).min() > 0.05
    # Height makes tall people, weight heavy ones.
    tall = body.v_template + body.shapedirs[..., 0]
    heavy = body.v_template + 2 * body.shapedirs[..., 1]
    assert np.ptp(tall[:, 1]) > np.ptp(body.v_template[:, 1]) + 0.04
    assert volume(heavy, body.faces) > 1.15 * volume(body.v_template, body.faces)


def bent(body, joint, axis_angle, corrected):
    rotation = np.eye(3) if not np.any(axis_angle) else _rodrigues(axis_angle)
    index = SMPL24.index(joint)
    below = [j for j in range(24) if j == index or _descends(j, index)]
    share = body.weights[:, below].sum(-1, keepdims=True).astype(np.float64)
    rest = body.v_template.astype(np.float64)
    if corrected:
        rest = rest + body.posedirs.reshape(-1, 3, 23, 9)[:, :, index - 1] @ (rotation - np.eye(3)).ravel()
    centre = (body.J_regressor @ body.v_template)[index]
    return (1 - share) * rest + share * ((rest - centre) @ rotation.T + centre)


def _descends(joint, ancestor):
    while joint > 0:
        joint = SMPL24.parents[joint]
        if joint == ancestor:
            return True
    return False


def _rodrigues(vector):
    angle = np.linalg.norm(vector)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("joint", ["left_shoulder", "left_elbow", "right_wrist"])
def test_pose_corrections_keep_twisted_limbs_from_collapsing(body, joint):
    twist = (np.pi / 2, 0, 0)
    whole = volume(body.v_template, body.faces)
    plain = whole - volume(bent(body, joint, twist, False), body.faces)
    corrected = whole - volume(bent(body, joint, twist, True), body.faces)
    assert plain > 0
    assert abs(corrected) < 0.65 * plain
    assert np.abs(bent(body, joint, (0, 0, 0), True) - body.v_template).max() < 1e-6


def test_pose_corrections_are_small(body):
    assert np.abs(body.posedirs).max() < 0.05
    for joint in SMPL24.joints[1:]:
        for axis in np.eye(3):
            moved = np.abs(bent(body, joint, 1.4 * axis, True) - bent(body, joint, 1.4 * axis, False))
            assert moved.max() < 0.06
