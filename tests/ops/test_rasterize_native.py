"""The compiled rasteriser: the plain path's picture to the last bit, and the same errors."""

import concurrent.futures
import dataclasses
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from compiled import needs_compiler, run_python

from posekit.bodies import sample_body
from posekit.geometry import rasterize as plain
from posekit.ops.rasterize import rasterize

VIEW = dict(focal=(30.0, 33.0), center=(20.3, 14.8), size=(31, 42))
TRIANGLE = np.array([[-0.5, -0.4, 2.0], [0.6, -0.3, 3.0], [0.1, 0.5, 2.5]])


@pytest.fixture
def both(kernels):
    """Draws by the compiled kernel, on one thread and several, and by the plain path; all must be equal."""

    def draw(*args, **kwargs):
        expected = plain.rasterize(*args, **kwargs)
        for threads in (1, 3):
            kernels.posekit_set_num_threads(threads)
            found = rasterize(*args, **kwargs)
            for field in dataclasses.fields(found):
                ours, theirs = getattr(found, field.name), getattr(expected, field.name)
                np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
                assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        return expected

    return draw


def turned_body(angle, away):
    body = sample_body()
    sine, cosine = np.sin(angle), np.cos(angle)
    turn = np.array([[cosine, 0, sine], [0, -1, 0], [sine, 0, -cosine]])
    return body.v_template @ turn + (0.1, 0.2, away), body.faces


@pytest.mark.parametrize("size", [(224, 224), (96, 1300), (720, 60), (5, 7), (1, 1)])
def test_bodies(both, size):
    for angle, away in ((0.3, 3.0), (2.0, 0.6), (1.0, 0.0), (0.0, -4.0)):  # the third stands around the camera
        vertices, faces = turned_body(angle, away)
        seen = both(vertices, faces, 200.0, (size[1] / 2, size[0] / 2), size)
        assert len(seen.pixels) or away < 0 or min(size) < 100
        both(vertices, faces, 0.8 * size[0], (size[1] * 0.9, 3), size, 0.5, max(np.float64(away + 0.1), 0.6))
        both(vertices.astype(np.float32), faces, 90.0, (7.5, 3), size, distortion=(0.1, 0.2, -0.1, 0.05, 0.3))


@pytest.mark.parametrize("seed", range(8))
def test_any_triangles(both, seed):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(0, 1.5, (60, 3)) + [0, 0, 1.5]  # many corners lie near the camera or behind it
    if seed % 2:
        vertices = np.round(4 * vertices) / 4  # many sides pass through pixel centres, many triangles are flat
    faces = rng.integers(0, 60, (400, 3))
    for view in (VIEW, VIEW | {"near": 0.5, "far": 2.75}, VIEW | {"focal": 8.0, "center": (16, 12)}):
        assert len(both(vertices, faces, **view).pixels)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e6, 1e12, 1e100, 1e154, 1e300, 1.7e308])
def test_coordinates_beyond_all_measure(both, scale):
    rng = np.random.default_rng(0)
    some = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2], [0.2, -1e-9, 3], [1e-3, 0.9, 4], [-1, 0.4, -1]])
    faces = rng.integers(0, 6, (60, 3))
    both(some * (scale, scale, 1), faces, **VIEW)
    both(some * (1, scale, 1), faces, **VIEW)
    both(some * (scale, 1, 1), faces, **VIEW)
    with np.errstate(over="ignore"):
        both(np.minimum(some * scale, 1.7e308), faces, **VIEW, near=1e-3)
        both(np.minimum(some * (1, 1, scale), 1.7e308), faces, **VIEW, near=1e-307)


def test_empty_meshes(both):
    for vertices in (np.zeros((0, 3)), np.ones((4, 3))):
        seen = both(vertices, np.zeros((0, 3), int), **VIEW)
        assert seen.paint(np.ones((len(vertices), 3)), 0.5).shape == (31, 42, 3)


def test_the_first_of_equals_wins(both):
    for faces in ([[0, 1, 2], [0, 2, 1]], [[0, 2, 1], [0, 1, 2]]):
        assert (both(TRIANGLE, faces, **VIEW).triangles == 0).all()


def test_a_triangle_seen_from_its_edge_in_many_rows(both):
    wall = np.array([[0.1, -9, 2], [0.1, 9, 2], [0.1 + 1e-12, 0, 5]])
    both(np.concatenate([wall, wall * (0, 1, 1)]), [[0, 1, 2], [3, 4, 5]], **VIEW)


def test_arrays_that_lie_otherwise_in_memory(both):
    vertices, faces = turned_body(0.4, 3.0)
    both(np.asfortranarray(vertices), np.asfortranarray(faces.astype(np.uint16)), 50.0, (20, 20), (40, 40))
    both(vertices[::-1], faces[::2], 50.0, (20, 20), (40, 40))


@pytest.mark.parametrize(
    "changes",
    [
        {"vertices_cam": TRIANGLE * np.nan},
        {"vertices_cam": np.where(TRIANGLE == 2, np.inf, TRIANGLE)},
        {"vertices_cam": TRIANGLE[None, None]},
        {"faces": [[0, 1, 3]]},
        {"faces": [[-1, 1, 2]]},
        {"faces": [[0.0, 1.0, 2.0]]},
        {"near": 0.0},
        {"near": np.nan},
        {"size": (0, 4)},
        {"focal": (1, 2, 3)},
        {"center": (np.nan, 0)},
        {"distortion": (0.1, 0.2)},
    ],
)
def test_refuses_as_the_plain_path(monkeypatch, changes):
    arguments = dict(vertices_cam=TRIANGLE, faces=[[0, 1, 2]]) | VIEW | changes
    with pytest.raises(ValueError) as expected:
        plain.rasterize(**arguments)
    for choice in "0", "":
        monkeypatch.setenv("POSEKIT_NATIVE", choice)
        with pytest.raises(ValueError) as refused:
            rasterize(**arguments)
        assert str(refused.value) == str(expected.value)


@needs_compiler
def test_a_picture_too_large_for_the_kernel(both):
    both(TRIANGLE, [[0, 1, 2]], 30.0, (5, 5), (1 << 20, 1 << 20))


@needs_compiler
def test_two_threads_draw_at_once(both):
    vertices, faces = turned_body(0.2, 2.5)
    expected = both(vertices, faces, **VIEW)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: rasterize(vertices, faces, **VIEW), range(40)):
            np.testing.assert_array_equal(found.depths, expected.depths)


def test_the_plain_path_draws_where_it_was_chosen(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "0")
    np.testing.assert_array_equal(
        rasterize(TRIANGLE, [[0, 1, 2]], **VIEW).depth, plain.rasterize(TRIANGLE, [[0, 1, 2]], **VIEW).depth
    )


def test_drawing_needs_no_tensorflow():
    code = (
        "import sys, numpy as np\nfrom posekit.ops import rasterize\nassert callable(rasterize)\n"
        "rasterize(np.eye(3) + 1, [[0, 1, 2]], 9.0, (4, 4), (8, 8))\nassert 'tensorflow' not in sys.modules"
    )
    run_python(code, POSEKIT_NATIVE=os.environ.get("POSEKIT_NATIVE", ""))


@pytest.mark.parametrize("native_choice", ["0", ""])
def test_a_batch_is_its_meshes_one_by_one(monkeypatch, native_choice):
    monkeypatch.setenv("POSEKIT_NATIVE", native_choice)
    meshes = np.stack([turned_body(angle, away)[0] for angle, away in ((0.3, 3.0), (2.0, -4.0), (1.0, 2.0))])
    faces = sample_body().faces
    focal, center = np.array([[40.0, 44.0], [30.0, 30.0], [35.0, 31.0]]), np.array([[20.0, 15.0], [3.0, 4.0], [9, 9.5]])
    bent = (0.1, -0.05, 0.01, 0.02, 0.0)
    for lens in ((focal, center), (40.0, (20, 15)), (focal, (20, 15)), (40.0, center)):
        batch = rasterize(meshes, faces, *lens, (31, 42), 0.2, 9.0, bent)
        each = [np.broadcast_to(part, (3, 2)) for part in lens]
        alone = [plain.rasterize(mesh, faces, *own, (31, 42), 0.2, 9.0, bent) for mesh, *own in zip(meshes, *each)]
        assert len(batch) == 3 and not len(alone[1].pixels)
        for ours, theirs in zip(batch, alone):
            for field in dataclasses.fields(theirs):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert rasterize(meshes[:0], faces, 40.0, (20, 15), (31, 42)) == []


def test_a_batch_has_a_lens_for_each_mesh_or_one_for_all():
    meshes = np.stack([TRIANGLE] * 3)
    with pytest.raises(ValueError, match="focal is given for 2 meshes of 3; give one for each, or one for all"):
        rasterize(meshes, [[0, 1, 2]], [[30.0, 30.0]] * 2, (4, 4), (9, 9))
    with pytest.raises(ValueError, match="pass a number or"):
        rasterize(meshes, [[0, 1, 2]], [[30.0, 30.0, 1.0]] * 3, (4, 4), (9, 9))


@needs_compiler
def test_without_further_threads_the_caller_does_the_work():
    code = (
        "import resource, threading\n"
        "import numpy as np\n"
        "from posekit.ops import native, rasterize\n"
        "lens = dict(focal=200.0, center=(100, 100), size=(200, 200))\n"
        "triangle = np.array([[-1, -1, 2.0], [2, -1, 3.0], [0, 2, 2.5]])\n"
        "native.kernels().posekit_set_num_threads(8)\n"
        "in_use = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 28),) * 2)\n"
        "try:\n"
        "    threading.Thread(target=print).start()\n"
        "    raise SystemExit('threads start')\n"
        "except RuntimeError:\n"
        "    print(len(rasterize([triangle] * 8, [[0, 1, 2]], **lens)[7].pixels))\n"
    )

    def large_stacks():  # of threads, for which there is no room
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    environment = os.environ | {"POSEKIT_NATIVE": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, preexec_fn=large_stacks, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and int(done.stdout) > 1000, done.stdout + done.stderr
