"""The rasteriser: equal to opendr's images, to rays cast one by one, and unharmed by awkward meshes."""

import json

import cv2
import numpy as np
import pytest

from posekit import ops, testing
from posekit.geometry import rasterize as module
from posekit.geometry.rasterize import distort, point_light_shading, project, rasterize, vertex_normals

CASES = json.loads((testing.FIXTURES / "card_manifest.json").read_text())["card_opendr.npz"]["cases"]
RAW = [name for name in CASES if name.startswith("raw_")]


@pytest.fixture(scope="module")
def truth():
    return testing.load_fixture("card_opendr")


def mesh_of(truth, name):
    return truth[f"{name}_v"].astype(np.float64), truth[f"{name}_f"].astype(np.int64)


def unpack(bits, height, width):
    return np.unpackbits(bits)[: height * width].reshape(height, width).astype(bool)


def eroded(mask):
    return cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def in_camera(vertices, case):
    return vertices @ cv2.Rodrigues(np.array(case["rt"], np.float64))[0].T + case["t"]


def lens_of(case):
    return case["k"] if any(case["k"]) else None


@pytest.mark.parametrize("name", RAW)
def test_projects_as_opendr(truth, name):
    case = CASES[name]
    vertices = in_camera(mesh_of(truth, case["mesh"])[0][:200], case)
    projected = project(vertices, case["f"], case["c"], lens_of(case))
    np.testing.assert_allclose(projected, truth[f"{name}/proj2d"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", RAW)
def test_draws_as_opendr(truth, name):
    case, images = CASES[name], "raw_man_224" if name.endswith("anisof") else name
    height, width = case["h"], case["w"]
    vertices, faces = mesh_of(truth, case["mesh"])
    focal = np.mean(case["f"])  # opendr draws with the mean of the two focal lengths
    size = (height, width)
    seen = rasterize(in_camera(vertices, case), faces, focal, case["c"], size, case["near"], case["far"], lens_of(case))
    lamp = (case["light_pos"], case["light_color"])
    colors = point_light_shading(vertices, vertex_normals(vertices, faces), case["albedo"], [lamp])
    picture = np.floor(seen.paint(np.clip(colors, 0, 1)) * 255 + 0.5)

    mask = unpack(truth[f"{images}/mask"], height, width)
    overlap = np.count_nonzero(mask & seen.mask) / np.count_nonzero(mask | seen.mask)
    inside = eroded(mask)
    color_error = np.abs(picture - truth[f"{images}/color"])[inside]
    depth_error = np.abs(seen.depth - truth[f"{images}/depth"] / 1e4)
    if case["overdraw"]:
        boundary = unpack(truth[f"{name}/boundary"], height, width)
        assert np.array_equal(mask[~boundary], seen.mask[~boundary])
        outside = np.abs(picture - truth[f"{images}/color"])[mask & ~boundary]
        assert outside.mean() <= 0.5 and color_error.mean() <= 2
        assert overlap >= (0.94 if case["mesh"] == "man" else 0.98)
        return
    assert overlap >= 0.995
    assert color_error.mean() <= 0.5 and np.percentile(color_error, 99) <= 1
    assert np.percentile(depth_error[inside], 99) <= 2e-4
    if f"{images}/tri" in truth:
        assert np.mean((seen.triangle == truth[f"{images}/tri"])[inside]) >= 0.99


def test_normals_as_opendr(truth):
    vertices, faces = mesh_of(truth, "man")
    np.testing.assert_allclose(vertex_normals(vertices, faces), truth["man_vertnormals"], rtol=0, atol=1e-6)


def cast_rays(vertices, faces, focal, center, size, near, far):
    """Depth and triangle at each pixel, one ray and one triangle at a time."""
    depth = np.full(size, np.inf)
    triangle = np.full(size, -1)
    for row in range(size[0]):
        for column in range(size[1]):
            ray = np.array([(column - center[0]) / focal[0], (row - center[1]) / focal[1], 1.0])
            for index, face in enumerate(faces):
                corners = vertices[face].T
                if abs(np.linalg.det(corners)) < 1e-12:
                    continue
                weights = np.linalg.solve(corners, ray)
                if (weights >= 0).all() and near <= 1 / weights.sum() <= far and 1 / weights.sum() < depth[row, column]:
                    depth[row, column], triangle[row, column] = 1 / weights.sum(), index
    return depth, triangle


@pytest.mark.parametrize("seed", range(6))
def test_equals_rays_cast_one_by_one(seed):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(0, 1.5, (24, 3)) + [0, 0, 1.5]  # many corners lie near the camera or behind it
    faces = rng.permuted(np.tile(np.arange(24), (16, 1)), axis=1)[:, :3]
    camera = dict(focal=(13.3, 17.1), center=(9.2, 6.7), size=(14, 19), near=0.3, far=3.0)
    seen = rasterize(vertices, faces, **camera)
    depth, triangle = cast_rays(vertices, faces, **camera)
    assert np.mean(seen.triangle != triangle) < 0.01  # rays that graze a side may fall either way
    same = seen.triangle == triangle
    assert np.isfinite(seen.depth[same]).sum() > 50
    np.testing.assert_allclose(seen.depth[same], depth[same], rtol=1e-5)


def test_weights_are_perspective_correct():
    vertices = np.array([[-1.0, -1.0, 2.0], [3.0, -1.0, 6.0], [-1.0, 1.0, 2.0], [3.0, 1.0, 6.0]])
    seen = rasterize(vertices, [[0, 1, 2], [1, 3, 2]], 40.0, (32, 32), (64, 64))
    points = seen.interpolate(vertices)
    pixels = np.stack([seen.pixels % 64, seen.pixels // 64], -1)
    np.testing.assert_allclose(project(points, 40.0, (32, 32)), pixels, atol=1e-9)
    np.testing.assert_allclose(points[:, 0], points[:, 2] - 3, atol=1e-9)  # the plane of the square
    np.testing.assert_allclose(seen.barycentrics.sum(-1)[seen.mask], 1, atol=1e-6)
    np.testing.assert_allclose(seen.paint(vertices, background=-7)[~seen.mask], -7)


def test_neighbours_leave_no_gap_and_share_no_pixel():
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))
    jitter = np.where((np.abs(x) < 2) & (np.abs(y) < 2), 0.2, 0.0)
    grid = np.stack([x + jitter * rng.uniform(-1, 1, x.shape), y + jitter * rng.uniform(-1, 1, x.shape)], -1)
    vertices = np.concatenate([grid.reshape(-1, 2), np.ones((81, 1))], 1)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    faces = np.concatenate([corner[:, None] + [0, 1, 9], corner[:, None] + [1, 10, 9]])
    lens = dict(focal=20.0, center=(29.5, 29.5), size=(60, 60))
    assert rasterize(vertices, faces, **lens).mask.all()
    counted = sum(rasterize(vertices, faces[i : i + 1], **lens).mask.astype(int) for i in range(len(faces)))
    assert (counted == 1).all()


def test_pixel_centres_are_whole_numbers():
    square = np.array([[2.5, 3.5, 1], [3.5, 3.5, 1], [3.5, 4.5, 1], [2.5, 4.5, 1]])
    assert np.argwhere(rasterize(square, [[0, 1, 2], [0, 2, 3]], 1.0, (0, 0), (8, 9)).mask).tolist() == [[4, 3]]


def test_both_sides_are_drawn_and_the_first_of_equals_wins():
    triangle = np.array([[-9.0, -9.0, 3.0], [9.0, -9.0, 3.0], [0.0, 18.0, 3.0]])
    for faces in ([[0, 1, 2], [0, 2, 1]], [[0, 2, 1], [0, 1, 2]]):
        seen = rasterize(triangle, faces, 3.0, (2, 2), (5, 5))
        assert seen.mask.all() and (seen.triangle == 0).all()


@pytest.mark.parametrize("draw", [rasterize, ops.rasterize])
@pytest.mark.parametrize(
    "vertices",
    [
        [[0, 0, -2], [1, 0, -2], [0, 1, -2]],  # behind the camera
        [[90, 0, 2], [91, 0, 2], [90, 1, 2]],  # beside the picture
        [[0, 90, 2], [1, 90, 2], [0, 91, 2]],  # below it
        [[0, 0, 0.01], [1, 0, 0.02], [0, 1, 0.03]],  # before the near plane
        [[0, 0, 900], [100, 0, 900], [0, 100, 900]],  # beyond the far plane
        [[0, 0, 2], [0, 0, 2], [0, 0, 2]],  # a point
        [[-1, 0, 2], [0, 0, 2], [1, 0, 2]],  # a line
        [[0, 0, 1], [0, 0, 2], [0, 0, 3]],  # along the viewing axis
    ],
)
def test_draws_nothing(vertices, draw):
    seen = draw(np.array(vertices, np.float64), [[0, 1, 2]], 20.0, (16, 16), (32, 32), 0.1, 100)
    assert not seen.mask.any() and (seen.triangle == -1).all() and np.isinf(seen.depth).all()


def test_empty_meshes():
    for vertices in (np.zeros((0, 3)), np.zeros((4, 3))):
        seen = rasterize(vertices, np.zeros((0, 3), int), 20.0, (4, 4), (8, 8))
        assert not seen.mask.any() and seen.paint(np.ones((len(vertices), 3)), 0.5).shape == (8, 8, 3)


def test_a_floor_that_runs_under_the_camera():
    floor = np.array([[-1e4, 1, -1e4], [1e4, 1, -1e4], [1e4, 1, 1e4], [-1e4, 1, 1e4]], np.float64)
    seen = rasterize(floor, [[0, 1, 2], [0, 2, 3]], 50.0, (31.5, 31.5), (64, 64), near=0.1)
    rows = np.arange(64)
    np.testing.assert_array_equal(seen.mask.all(1), rows > 31.5)
    np.testing.assert_allclose(seen.depth[40], 50 / (40 - 31.5), rtol=1e-5)


def test_enormous_coordinates():
    for scale in (1e6, 1e12, 1e100):
        triangle = np.array([[-scale, -scale, 2], [scale, -scale, 2], [0, scale, 2]])
        seen = rasterize(triangle, [[0, 1, 2]], 50.0, (8, 8), (16, 16))
        assert seen.mask.all()
        np.testing.assert_allclose(seen.depth, 2, rtol=1e-5)


def test_work_in_chunks_changes_nothing(truth, monkeypatch):
    vertices, faces = mesh_of(truth, "man")
    vertices = vertices + [0.2, 0, 1.1]
    whole = rasterize(vertices, faces, 90.0, (48, 36), (72, 96), 0.5)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 50)
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 70)
    parts = rasterize(vertices, faces, 90.0, (48, 36), (72, 96), 0.5)
    np.testing.assert_array_equal(whole.triangle, parts.triangle)
    np.testing.assert_array_equal(whole.depth, parts.depth)


def test_many_large_triangles_need_little_memory():
    import tracemalloc

    rng = np.random.default_rng(0)
    vertices = rng.uniform(-3, 3, (300, 3)) + [0, 0, 4]
    faces = rng.integers(0, 300, (2000, 3))
    tracemalloc.start()
    seen = rasterize(vertices, faces, 200.0, (160, 120), (240, 320))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen.mask.mean() > 0.5 and peak < 200e6


def test_float32_vertices_and_unsigned_faces(truth):
    vertices, faces = mesh_of(truth, "man")
    vertices = vertices + [0, 0, 3]
    expected = rasterize(vertices, faces, 90.0, (48, 36), (72, 96))
    seen = rasterize(np.asfortranarray(vertices.astype(np.float32)), faces.astype(np.uint16), 90.0, (48, 36), (72, 96))
    assert np.mean(seen.triangle != expected.triangle) < 1e-3


TRIANGLE = np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vertices_cam": TRIANGLE * np.nan}, "NaN"),
        ({"vertices_cam": np.where(TRIANGLE == 1, np.inf, TRIANGLE)}, "the first is vertex 1"),
        ({"vertices_cam": TRIANGLE[None]}, "one mesh"),
        ({"faces": [[0, 1, 3]]}, "0 to 3"),
        ({"faces": [[-1, 1, 2]]}, "-1"),
        ({"faces": [[0.0, 1.0, 2.0]]}, "integer"),
        ({"faces": [[0, 1]]}, "faces"),
        ({"near": 0.0}, "near"),
        ({"near": 3.0, "far": 2.0}, "near"),
        ({"size": (0, 4)}, "size"),
        ({"size": (4, 4, 3)}, "size"),
        ({"size": 9}, "size"),
        ({"far": None}, "far"),
        ({"focal": 0.0}, "focal"),
        ({"focal": (1, 2, 3)}, "focal"),
        ({"center": (np.nan, 0)}, "center"),
        ({"distortion": (0.1, 0.2)}, "five"),
    ],
)
def test_refuses_what_makes_no_picture(changes, message):
    arguments = dict(vertices_cam=TRIANGLE, faces=[[0, 1, 2]], focal=9.0, center=(4, 4), size=(8, 8)) | changes
    with pytest.raises(ValueError, match=message):
        rasterize(**arguments)


def test_lens_equals_opencv():
    points = np.random.default_rng(0).normal(0, 0.4, (50, 3)) + [0, 0, 3]
    lens = (-0.2, 0.05, 0.002, -0.001, 0.01)
    camera = np.array([[330.0, 0, 110], [0, 340.0, 100], [0, 0, 1]])
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera, np.array(lens))[0][:, 0]
    np.testing.assert_allclose(project(points, (330, 340), (110, 100), lens), expected, atol=1e-9)
    assert np.isfinite(distort(np.zeros((1, 3)), lens)).all()


def test_shading_by_hand():
    vertices = np.zeros((3, 3))
    normals = np.array([[0, 0, -1.0], [0, 0, 1.0], [0, -np.sqrt(0.5), -np.sqrt(0.5)]])
    lit = point_light_shading(vertices, normals, (1.0, 0.5, 0.0), [((0, 0, -5), (1, 1, 1)), ((0, 0, 5), (0.4, 0, 0))])
    np.testing.assert_allclose(lit, [[1, 0.5, 0], [0.4, 0, 0], [np.sqrt(0.5), np.sqrt(0.125), 0]])


def test_normals_of_loose_and_flat_vertices_are_zero():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]], np.float64)
    assert not vertex_normals(vertices, [[0, 1, 2]]).any()
