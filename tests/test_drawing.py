"""Pictures: equal to the original renderer's where it drew them, and sensible where it did not."""

import json

import cv2
import numpy as np
import pytest

from posekit import drawing, testing
from posekit.drawing import Camera, MeshRenderer, draw_people, draw_skeleton, draw_text, stage_grid, uncrop
from posekit.geometry.crops import Crop
from posekit.geometry.rasterize import point_light_shading, vertex_normals
from posekit.results import People
from posekit.skeletons import COCO17, COCO_PLUS19, LSP14, MPII16, SMPL24, Skeleton

CASES = json.loads((testing.FIXTURES / "card_manifest.json").read_text())["card_opendr.npz"]["cases"]
MESH_CASES = [name for name in CASES if name.startswith(("smpl_", "simple_"))]


@pytest.fixture(scope="module")
def truth():
    return testing.load_fixture("card_opendr")


def unpack(bits, shape):
    height, width = shape[:2]
    return np.unpackbits(bits)[: height * width].reshape(height, width).astype(bool)


def eroded(mask):
    return cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def render_case(truth, name):
    """What the fixture's call reads in our words."""
    case = CASES[name]
    vertices = truth[f"{case['mesh']}_v"].astype(np.float64) + case["t"]
    faces = truth[f"{case['mesh']}_f"]
    plain = dict(image_size=224, focal_length=500.0, supersample=1, ambient=0.0)
    renderer = MeshRenderer(faces, **plain)
    kind = name.removesuffix("_noover")
    if kind.startswith("simple_yrot"):
        renderer = MeshRenderer(faces, **plain, lights=drawing.original_lights(float(kind[len("simple_yrot") :])))
        return renderer(vertices, color="light_pink")
    if kind.startswith("smpl_call") or kind == "smpl_color_none_man":
        return renderer(vertices)
    image = truth["bg_img_240x320" if kind == "smpl_cam_man_320" else "bg_img_224"]
    if kind == "smpl_projcam_man":
        return renderer(vertices, Camera((112.0, 112.0), (112.0, 112.0), (0.5, 1.5, -0.5), (0.0, 0.0, 2.2)))
    return {
        "smpl_rot60_man": lambda: renderer.rotated(vertices, 60),
        "smpl_rot60_body": lambda: renderer.rotated(vertices, 60, camera=(500, 112, 112), image_size=(224, 224)),
        "smpl_rotx_man": lambda: renderer.rotated(vertices, -40, axis="x", do_alpha=False),
        "smpl_rotz_man": lambda: renderer.rotated(vertices, 90, axis="z", do_alpha=False, color="light_pink"),
        "smpl_img_man": lambda: renderer(vertices, image=image),
        "smpl_img_alpha_man": lambda: renderer(vertices, image=image, do_alpha=True),
        "smpl_cam_man_320": lambda: renderer(vertices, (430, 150, 131), image, color="light_pink"),
    }[kind]()


@pytest.mark.parametrize("name", MESH_CASES)
def test_draws_meshes_as_the_original(truth, name):
    case, picture = CASES[name], render_case(truth, name)
    images = "smpl_img_man" if name == "smpl_img_alpha_man" else name
    expected = truth[f"{images}/out"]
    assert picture.dtype == np.uint8 and picture.shape == tuple(case.get("shape", expected.shape))
    if name == "smpl_img_alpha_man":
        assert (picture[..., 3] == 255).all()
    backdrop = np.full((*expected.shape[:2], 3), 255, np.uint8)
    if "img" in name:
        backdrop = truth["bg_img_224"]
    elif name == "smpl_cam_man_320":
        backdrop = truth["bg_img_240x320"]
    error = np.abs(picture[..., :3].astype(int) - expected[..., :3])
    drawn = (picture[..., :3] != backdrop).any(-1)
    mask = (expected != 255).any(-1) if name.startswith("simple") else unpack(truth[f"{name}/mask"], expected.shape)
    overlap = np.count_nonzero(mask & drawn) / np.count_nonzero(mask | drawn)
    inside = error[eroded(mask)]
    if case["overdraw"]:
        boundary = unpack(truth[f"{name}/boundary"], expected.shape)
        assert np.array_equal(mask[~boundary], drawn[~boundary])
        assert error[mask & ~boundary].mean() <= 0.5 and inside.mean() <= 2
        assert overlap >= (0.94 if case["mesh"] == "man" else 0.98)
    else:
        assert overlap >= 0.995 and inside.mean() <= 0.5 and np.percentile(inside, 99) <= 1
    if picture.shape[-1] == 4 and name != "smpl_img_alpha_man":
        differing = picture[..., 3] != expected[..., 3]
        assert not differing[~boundary if case["overdraw"] else ...].any()
        assert np.array_equal(picture[..., 3] > 0, drawn)


@pytest.mark.parametrize("turn", [0, 120, 200])
def test_lights_vertices_as_the_original(truth, turn):
    vertices = truth["man_v"].astype(np.float64) + CASES[f"simple_yrot{turn}"]["t"]
    normals = vertex_normals(vertices, truth["man_f"])
    lit = point_light_shading(vertices, normals, drawing.MESH_COLORS["light_pink"], drawing.original_lights(turn))
    np.testing.assert_allclose(lit[::7], truth[f"simple_yrot{turn}/vc"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", range(4))
def test_takes_a_body_back_to_the_image_as_the_original(truth, index):
    case = {key: truth[f"get_original{index}/{key}"] for key in ("scale", "start_pt", "cam", "verts", "joints")}
    crop = Crop((float(case["scale"]),) * 2, tuple(case["start_pt"] - 112.0), 224)
    camera, vertices, joints = uncrop(crop, case["verts"], case["cam"], case["joints"])
    for value, name in ((camera, "cam_for_render"), (vertices, "vert_shifted"), (joints, "kp_original")):
        np.testing.assert_allclose(value, truth[f"get_original{index}/{name}"], rtol=1e-12)


def test_draws_skeletons_as_the_original(truth):
    image, joints = truth["bg_img_224"], truth["skel/joints"]
    for name, options in (
        ("u8", {}),
        ("u8_vis", {"visibility": truth["skel/vis"]}),
        ("u8_noedges", {"draw_edges": False}),
        ("u8_r6", {"radius": 6}),
    ):
        picture = draw_skeleton(image, joints, antialiased=False, **options)
        np.testing.assert_array_equal(picture, truth[f"skel/{name}"])
    big = draw_skeleton(truth["skel/in_big"], truth["skel/joints_big"], antialiased=False)
    np.testing.assert_array_equal(big, truth["skel/u8_big512x640"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_skeletons_on_float_images_as_the_original(truth, dtype):
    picture = draw_skeleton((truth["bg_img_224"] / 255.0).astype(dtype), truth["skel/joints"], antialiased=False)
    assert picture.dtype == np.float32
    if dtype == np.float64:
        np.testing.assert_array_equal(picture, truth["skel/u8"].astype(np.float32) / 255)
        assert (picture == truth["skel/f64_row"]).all((1, 2)).any()


def test_writes_text_as_the_original(truth):
    name = "text/u8" if int(cv2.__version__.split(".")[0]) >= 5 else "text/u8_cv4"
    picture = draw_text(truth["bg_img_224"], CASES["text/u8"]["content"], antialiased=False)
    np.testing.assert_array_equal(picture, truth[name])


def sphere(radius=0.5, rings=24):
    """Vertices and outward faces of a ball around the origin."""
    polar, around = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, rings), indexing="ij")
    vertices = radius * np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], -1)
    corner = (np.arange(rings - 1)[:, None] * rings + np.arange(rings - 1)).ravel()[:, None]
    faces = np.concatenate([corner + [0, rings, 1], corner + [1, rings, rings + 1]])
    return vertices.reshape(-1, 3), faces


@pytest.fixture
def ball():
    return sphere()


def test_smooth_edges_keep_the_picture(ball):
    vertices, faces = ball
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    hard = MeshRenderer(faces, supersample=1)(vertices + [0, 0, 3], (200, 60, 45), image)
    for times in (2, 3):
        smooth = MeshRenderer(faces, supersample=times)(vertices + [0, 0, 3], (200, 60, 45), image)
        outside = (hard == image).all(-1)
        inside = eroded(~outside)
        difference = np.abs(hard[inside].astype(int) - smooth[inside])
        assert difference.mean() <= 1 and np.percentile(difference, 95) <= 4
        far_outside = eroded(outside)
        np.testing.assert_array_equal(smooth[far_outside], image[far_outside])
    shape = MeshRenderer(faces, 100)(vertices + [0, 0, 3], (200, 49.5, 49.5), do_alpha=True)[..., 3]
    np.testing.assert_allclose(shape.sum() / 255, np.pi * (200 * 0.5 / np.sqrt(9 - 0.25)) ** 2, rtol=0.02)
    assert 10 < np.count_nonzero((shape > 0) & (shape < 255)) < 1000


def test_smooth_pictures_do_not_shift(ball):
    vertices, faces = ball
    for times in (1, 2, 5):
        renderer = MeshRenderer(faces, 101, supersample=times)
        alpha = renderer(vertices + [0.1, 0, 3], (200, 50, 50), do_alpha=True)[..., 3]
        rows, columns = np.nonzero(alpha)
        weights = alpha[rows, columns]
        assert np.average(columns, weights=weights) == pytest.approx(50 + 200 * 0.1 / 3, abs=0.3)
        assert np.average(rows, weights=weights) == pytest.approx(50, abs=0.15)


def test_alpha_pictures_lie_over_any_photograph_like_the_mesh_itself(ball):
    vertices, faces = ball
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    renderer = MeshRenderer(faces, 64, 120.0)
    layer = renderer(vertices + [0, 0, 3], do_alpha=True).astype(float)
    share = layer[..., 3:] / 255
    over = layer[..., :3] * share + image * (1 - share)
    np.testing.assert_allclose(over, renderer(vertices + [0, 0, 3], image=image), atol=1.5)


def test_opacity(ball):
    vertices, faces = ball
    image = np.full((64, 64, 3), 100, np.uint8)
    renderer = MeshRenderer(faces, 64, 120.0)
    solid, half, none = (renderer(vertices + [0, 0, 3], image=image, opacity=o).astype(int) for o in (1.0, 0.5, 0.0))
    np.testing.assert_array_equal(none, image)
    np.testing.assert_allclose(half, (solid + 100) / 2, atol=1)
    assert (image == 100).all()


def test_nearer_parts_hide_farther_ones(ball):
    vertices, faces = ball
    both = np.concatenate([vertices + [0, 0, 5], vertices + [0, 0, 2.5]])
    renderer = MeshRenderer(np.concatenate([faces, faces + len(vertices)]), 64, 60.0)
    near = MeshRenderer(faces, 64, 60.0)(vertices + [0, 0, 2.5])
    np.testing.assert_array_equal(renderer(both, near=0.1, far=50), near)


def test_a_whole_turn_changes_nothing(ball):
    vertices, faces = ball
    renderer = MeshRenderer(faces, 64, 60.0)
    bump = vertices * np.where(vertices[:, :1] > 0.3, 1.5, 1.0) + [0, 0, 3]
    straight = renderer(bump).astype(int)
    assert np.abs(straight - renderer.rotated(bump, 360, do_alpha=False)).max() <= 1
    assert np.abs(straight - renderer.rotated(bump, 90, do_alpha=False)).max() > 50


def test_camera_by_place_or_by_pose_is_the_same(ball):
    vertices, faces = ball
    renderer = MeshRenderer(faces, 64, 60.0)
    moved = renderer(vertices + [0.2, 0.1, 3])
    posed = renderer(vertices, Camera(60.0, (32.0, 32.0), translation=(0.2, 0.1, 3)))
    assert np.abs(moved.astype(int) - posed).mean() < 0.1
    turned = Camera(60.0, (32.0, 32.0), rotation=(0, 0, np.pi / 2), translation=(0, 0, 3))
    np.testing.assert_allclose(turned.project([[0.5, 0, 0]]), [[32, 42]], atol=1e-9)


def test_a_predicted_body_lies_where_its_keypoints_project(ball):
    vertices, faces = ball
    size, camera = 128, np.array([0.8, 0.3, -0.2])
    renderer = MeshRenderer(faces, size)
    alpha = renderer(renderer.place(vertices, camera), do_alpha=True)[..., 3]
    rows, columns = np.nonzero(alpha)
    middle = (camera[0] * camera[1:] + 1) / 2 * size
    assert (columns.mean(), rows.mean()) == pytest.approx(tuple(middle), abs=0.5)
    assert np.ptp(columns) == pytest.approx(camera[0] * 1.0 * size / 2, abs=2)
    with pytest.raises(ValueError, match="square"):
        renderer.place(vertices, camera, (100, 200))


def test_a_body_drawn_in_its_crop_and_in_its_image_is_the_same(ball):
    vertices, faces = ball
    crop = Crop((0.5, 0.5), (-10.0, 20.0), 96)
    camera = np.array([0.8, 0.1, 0.2])
    renderer = MeshRenderer(faces, 96)
    small = renderer(renderer.place(vertices, camera), do_alpha=True)[..., 3] > 127
    in_image, vertices_cam, _ = uncrop(crop, vertices, camera, np.zeros((1, 2)))
    large = renderer(vertices_cam, in_image, do_alpha=True, image_size=(260, 220))[..., 3] > 127
    points = np.argwhere(small)[:, ::-1]
    there = np.round(crop.to_image(points)).astype(int)
    assert large[there[:, 1], there[:, 0]].mean() > 0.97
    assert large.sum() == pytest.approx(4 * small.sum(), rel=0.05)


def test_a_mesh_out_of_sight_leaves_the_image_alone(ball):
    vertices, faces = ball
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for shift in ([0, 0, -5], [500, 0, 3]):
        np.testing.assert_array_equal(MeshRenderer(faces)(vertices + shift, image=image), image)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"color": "blau"}, "light_blue"),
        ({"color": (2, 0, 0)}, "red"),
        ({"opacity": 1.5}, "opacity"),
        ({"image": np.zeros((4, 4, 2), np.uint8)}, "shape"),
        ({"image": np.full((4, 4, 3), 99.0)}, "float"),
        ({"image": np.full((4, 4, 3), np.nan)}, "float"),
        ({"image": np.zeros((4, 4, 3), np.int32)}, "int32"),
    ],
)
def test_renderer_refuses(ball, options, message):
    vertices, faces = ball
    with pytest.raises(ValueError, match=message):
        MeshRenderer(faces)(vertices + [0, 0, 3], **options)


def test_renderer_refuses_broken_meshes_and_settings(ball):
    vertices, faces = ball
    with pytest.raises(ValueError, match="NaN"):
        MeshRenderer(faces)(vertices * np.nan)
    with pytest.raises(ValueError, match="same body"):
        MeshRenderer(faces)(vertices[:10])
    with pytest.raises(ValueError, match="axis"):
        MeshRenderer(faces).rotated(vertices, 60, axis="w")
    for settings in ({"supersample": 0}, {"supersample": 1.5}, {"ambient": 2}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            MeshRenderer(faces, **settings)


@pytest.mark.parametrize("skeleton", [LSP14, COCO_PLUS19, COCO17, MPII16, SMPL24, Skeleton("TWO", ("a", "b"))])
@pytest.mark.parametrize("antialiased", [True, False])
def test_draws_every_skeleton(skeleton, antialiased):
    image = np.full((200, 200, 3), 128, np.uint8)
    joints = np.random.default_rng(0).uniform(20, 180, (skeleton.num_joints, 2))
    picture = draw_skeleton(image, joints, skeleton, antialiased=antialiased)
    assert picture.dtype == np.uint8 and (image == 128).all()
    for x, y in np.round(joints).astype(int):
        assert (picture[y, x] != 128).any()


def test_left_and_right_differ_in_colour():
    image = np.full((100, 100, 3), 128, np.uint8)
    joints = np.full((14, 2), np.nan)
    joints[[LSP14.index("left_knee"), LSP14.index("right_knee")]] = [[20, 50], [80, 50]]
    picture = draw_skeleton(image, joints, LSP14)
    assert (picture[50, 20] != picture[50, 80]).any()


@pytest.mark.parametrize("antialiased", [True, False])
def test_joints_that_are_hidden_lost_or_far_away(antialiased):
    image = np.full((64, 64, 3), 128, np.uint8)
    joints = np.full((19, 2), 32.0)
    options = {"antialiased": antialiased}
    assert (draw_skeleton(image, joints * np.nan, **options) == image).all()
    assert (draw_skeleton(image, joints, visibility=np.zeros(19), **options) == image).all()
    for far in (1e3, -1e9, 1e30):
        joints[3] = far
        picture = draw_skeleton(image, joints, **options)
        assert (picture[32, 32] != 128).any()


def test_skeleton_refuses_joints_of_another():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="LSP14"):
        draw_skeleton(image, np.zeros((19, 2)), LSP14)
    with pytest.raises(ValueError, match="visibility"):
        draw_skeleton(image, np.zeros((14, 2)), LSP14, np.ones(3))


@pytest.mark.parametrize("size", [64, 224, 720])
def test_text_shows_on_black_and_on_white(size):
    for value in (0, 255):
        image = np.full((size, size, 3), value, np.uint8)
        picture = draw_text(image, {"sc": 0.9, "kpl": np.nan})
        changed = (picture != value).any(-1)
        assert 20 < changed.sum() < 0.3 * size * size and (image == value).all()


def two_people(**fields):
    vertices, faces = sphere()
    camera = np.tile([[150.0, 60.0, 45.0]], (2, 1))
    placed = np.stack([vertices + [0, 0, 3], vertices + [0.3, 0, 4]])
    return People(
        np.full((2, 14, 2), 45.0), np.ones((2, 14)), LSP14, (90, 120), vertices=placed, faces=faces, camera=camera
    )


def test_people_nearer_ones_on_top(tmp_path):
    people, image = two_people(), np.zeros((90, 120, 3), np.uint8)
    for order in ([0, 1], [1, 0]):
        swapped = people[np.array(order)]
        picture = draw_people(swapped, image, tmp_path / "out.png")
        near = draw_people(swapped[np.array(order) == 0], image)
        middle = picture[45, 60]
        hue = "light_blue" if order[0] == 0 else "light_pink"
        expected = np.array(drawing.MESH_COLORS[hue])
        assert np.abs(middle / middle.max() - expected / expected.max()).max() < 0.02
        assert near.any()
    assert (cv2.imread(str(tmp_path / "out.png"))[..., ::-1] == picture).all()


def test_people_without_meshes_show_their_bones():
    people, image = two_people(), np.zeros((90, 120, 3), np.uint8)
    bones = draw_people(people, image, mesh=False)
    assert bones.any() and not draw_people(people, image, mesh=False, skeleton=False).any()
    people.vertices = None
    np.testing.assert_array_equal(draw_people(people, image), bones)
    people.scores[:] = 0
    assert not draw_people(people, image).any()


def test_a_person_with_a_broken_mesh_does_not_stop_the_others():
    people, image = two_people(), np.zeros((90, 120, 3), np.uint8)
    whole = draw_people(people[:1], image)
    people.vertices[1] = np.nan
    np.testing.assert_array_equal(draw_people(people, image), whole)
    assert not draw_people(people[:0], image).any()


def stages_of(ball, number=3):
    vertices, faces = ball
    cameras = np.tile([0.8, 0.1, 0.0], (number, 1))
    keypoints = np.random.default_rng(0).uniform(-0.5, 0.5, (number, 19, 2))
    return np.repeat(vertices[None], number, 0), cameras, keypoints, MeshRenderer(faces, 96)


def test_stage_grid_has_a_row_for_each_stage(ball):
    image = np.random.default_rng(0).uniform(0, 1, (96, 96, 3)).astype(np.float32)
    vertices, cameras, keypoints, renderer = stages_of(ball)
    true = np.concatenate([keypoints[-1], np.ones((19, 1))], 1)
    silhouette = np.zeros((96, 96, 1), np.float32)
    silhouette[30:60, 30:60] = 1
    grid = stage_grid(image, vertices, cameras, keypoints, renderer, true, silhouette)
    assert grid.shape == (3 * 96, 3 * 96, 3) and grid.dtype == np.uint8
    assert (grid[31, 2 * 96 + 31] > 200).all() and not grid[5, 2 * 96 + 5].any()
    assert (grid[:96, :96] != grid[2 * 96 :, :96]).any()
    np.testing.assert_array_equal(grid[80:96, 96 + 80 : 192], drawing.uint8_image(image)[80:96, 80:96])


def test_stage_grid_without_labels_or_with_broken_stages(ball):
    image = np.zeros((96, 96, 3), np.uint8)
    vertices, cameras, keypoints, renderer = stages_of(ball, 2)
    vertices[0], cameras[1, 0], keypoints[0] = np.nan, -1, np.nan
    assert stage_grid(image, vertices, cameras, keypoints, renderer).shape == (192, 288, 3)
    whole = stages_of(ball, 1)
    empty = stage_grid(image, *whole, silhouette=np.zeros((96, 96)))
    np.testing.assert_array_equal(empty, stage_grid(image, *whole))
    assert (empty[48, 2 * 96 + 50] < 250).all()


def test_mocap_grid(ball):
    vertices, faces = ball
    grid = drawing.mocap_grid(np.stack([vertices] * 8), faces, cell_size=32)
    assert grid.shape == (4 * 32, 8 * 32, 3)
    assert (grid.reshape(4, 32, 8, 32, 3)[:, 16, :, 16] < 255).any(-1).all()


def test_dataset_picture():
    image, shape = np.full((40, 60, 3), 7, np.uint8), np.zeros((40, 60, 1), np.uint8)
    shape[10:20, 10:20] = 255
    joints = np.full((14, 2), 30.0)
    picture = drawing.dataset_picture(image, shape, joints, LSP14)
    assert picture.shape == (40, 120, 3) and (picture[:, :60] == 7).all() and picture[12, 72].min() > 200
    assert picture[30, 90].any() and not drawing.dataset_picture(image, None, joints, LSP14, np.zeros(14))[:, 60:].any()


def test_side_by_side():
    pictures = [np.zeros((40, 60, 3), np.uint8), np.ones((80, 30), np.float32), np.zeros((20, 20, 4), np.uint8)]
    assert drawing.side_by_side(pictures).shape == (80, 120 + 30 + 80 + 16, 3)
    titled = drawing.side_by_side(pictures, titles=["a", "b", "c"], height=40)
    assert titled.shape[0] > 40 and titled.shape[1] == 60 + 15 + 40 + 16
    for wrong in (dict(images=[]), dict(images=pictures, titles=["a"])):
        with pytest.raises(ValueError, match="title"):
            drawing.side_by_side(**wrong)


def test_plots_curves(tmp_path):
    thresholds = np.linspace(0, 0.5, 11)
    picture = drawing.plot_pck({"all": (thresholds, thresholds), "none": ([], [])}, tmp_path / "pck.png")
    assert picture.std() > 5 and (cv2.imread(str(tmp_path / "pck.png"))[..., ::-1] == picture).all()
    assert drawing.plot_pck({}, mark=None).shape == picture.shape


def test_images_of_any_kind():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert drawing.uint8_image(grey).shape == (3, 4, 3)
    assert drawing.uint8_image(np.zeros((3, 4, 4), np.uint8)).shape == (3, 4, 3)
    network = drawing.uint8_image(np.array([[[-1.0, 0.0, 1.0]]], np.float32), low=-1)
    assert network.tolist() == [[[0, 127, 255]]]
    assert drawing.uint8_image(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


def test_saves_pictures(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    drawing.save_image(tmp_path / "new" / "a.png", image)
    loaded = cv2.imread(str(tmp_path / "new" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cv2.cvtColor(loaded, cv2.COLOR_BGRA2RGBA), image)
    drawing.save_image(tmp_path / "a.JPG", image)
    assert cv2.imread(str(tmp_path / "a.JPG")).shape == (8, 9, 3)
    with pytest.raises(ValueError, match=".png"):
        drawing.save_image(tmp_path / "a.tiff9", image)
    with pytest.raises(OSError, match="Cannot write"):
        drawing.save_image(tmp_path / "a.JPG" / "b.png", image)
