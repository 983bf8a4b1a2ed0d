"""Pictures of poses in depth: the originals' tint and colours, joints where they are, and what is missing left out."""

import dataclasses
import functools

import numpy as np
import pytest

from posekit.drawing import joint_colors
from posekit.drawing_depth import (
    BACKDROPS,
    depth_colors,
    depth_picture,
    draw_depth_3d,
    draw_depth_skeleton,
    tint_depth,
    world_joints,
)
from posekit.geometry.depth import dataset_camera, depth_to_points, pixel_to_world, world_to_pixel
from posekit.results import People
from posekit.skeletons import COCO17, DEPTH_SKELETONS, HANDS21, ICVL16, ITOP15, MSRA21, NYU14, Skeleton

CREAM = (255, 240, 204)


@functools.cache
def toy_hand(camera="msra", depth=400.0):
    """A flat hand before a wall: 21 joints in the world, and the depth picture."""
    camera = dataset_camera(camera)
    offsets = {"wrist": (0, 70)}
    for finger, turn_deg in zip(("thumb", "index", "middle", "ring", "pinky"), (-60, -22, 0, 20, 40)):
        turn = np.radians(turn_deg)
        for part, length in zip(("mcp", "pip", "dip", "tip"), (55, 85, 105, 125)):
            offsets[f"{finger}_{part}"] = (np.sin(turn) * length, 70 - np.cos(turn) * length)
    joints = np.array([(*offsets[name], depth + 10 * index / 20) for index, name in enumerate(MSRA21.joints)])
    joints *= [1, -1 if camera.y_up else 1, 1]
    picture = np.full((camera.height, camera.width), 650.0, np.float32)
    points = depth_to_points(np.full_like(picture, depth), camera)
    for child, parent in MSRA21.bones:
        along = np.linspace(0, 1, 30)[:, None] * (joints[child] - joints[parent]) + joints[parent]
        for place in along:
            picture[np.linalg.norm(points[..., :2] - place[:2], axis=-1) < 9] = depth - 8
    return joints, picture, camera


def near(picture, color, tolerance=12):
    """Rows and columns drawn in a colour."""
    return np.nonzero((np.abs(picture.astype(int) - color) <= tolerance).all(-1))


def test_tint_is_the_originals():
    depth = np.array([[0.0, 250.0, 300.0], [350.0, 400.0, 425.0], [np.nan, -5.0, np.inf]])
    tinted = tint_depth(depth, 400.0, 100.0)
    expected = np.array([[1, 0, 0], [0.25, 0.5, 0.625], [1, 1, 1]])[..., None] * CREAM
    assert tinted.dtype == np.uint8 and np.abs(tinted - expected).max() <= 0.5
    for wrong in (np.zeros((2, 2, 3)), np.zeros(4)):
        with pytest.raises(ValueError, match="height, width"):
            tint_depth(wrong, 1.0, 1.0)
    with pytest.raises(ValueError, match="length above 0"):
        tint_depth(depth, 400.0, 0.0)


@pytest.mark.parametrize("skeleton", DEPTH_SKELETONS.values(), ids=lambda skeleton: skeleton.name)
def test_every_joint_of_the_datasets_has_a_colour_of_its_palette(skeleton):
    colors = [joint for joint, _ in depth_colors(skeleton)]
    assert len(colors) == skeleton.num_joints
    assert all(len(color) == 3 and all(isinstance(value, int) for value in color) for color in colors)


def test_palettes_are_the_originals():
    def color(skeleton, name):
        return "".join(f"{value:02X}" for value in depth_colors(skeleton)[skeleton.index(name)][0])

    for skeleton in (MSRA21, HANDS21):
        assert [color(skeleton, f"thumb_{part}") for part in ("mcp", "pip", "dip", "tip")] == [
            "FF9999", "FF6666", "FF3333", "FF0000",
        ]  # fmt: skip
        assert color(skeleton, "ring_tip") == "0080FF" and color(skeleton, "wrist") == "E6E600"
    assert [color(ICVL16, f"pinky_{part}") for part in ("root", "mid", "tip")] == ["FF99FF", "FF66FF", "FF33FF"]
    assert color(NYU14, "wrist") == color(NYU14, "wrist_back") == "99FFCC" and color(NYU14, "palm") == "E6E600"
    assert color(NYU14, "thumb_tip") == "FF3333" and color(NYU14, "index_mid") == "99FF99"
    assert depth_colors(NYU14)[NYU14.index("middle_tip")][0] in {(255, 165, 76), (255, 166, 77)}
    wanted = {
        "head": "FFB266", "neck": "E6E600", "torso": "E6E600", "right_hand": "FF3333", "left_shoulder": "99FF99",
        "right_hip": "FF99FF", "left_foot": "3399FF",
    }  # fmt: skip
    assert {name: color(ITOP15, name) for name in wanted} == wanted


def test_parts_of_a_skeleton_keep_their_colours_and_others_have_the_usual_ones():
    names = ("wrist", "thumb_tip", "ring_dip")
    part = Skeleton("few", names, (("thumb_tip", "wrist"),))
    whole = depth_colors(MSRA21)
    assert depth_colors(part) == [whole[MSRA21.index(name)] for name in names]
    assert depth_colors(COCO17) == joint_colors(COCO17)


def test_joints_and_bones_land_where_they_are():
    joints, picture, camera = toy_hand()
    pixels = world_to_pixel(joints, camera)
    drawn = draw_depth_skeleton(tint_depth(picture, 400.0, 100.0), pixels[:, :2], MSRA21)
    for name in ("wrist", "thumb_tip", "middle_pip", "pinky_tip"):
        joint = MSRA21.index(name)
        rows, columns = near(drawn, depth_colors(MSRA21)[joint][0], 3)
        there = np.hypot(columns - pixels[joint, 0], rows - pixels[joint, 1]) < 3
        assert there.sum() >= 9, name
    middle = pixels[[MSRA21.index("index_pip"), MSRA21.index("index_dip")], :2].mean(0).round().astype(int)
    assert tuple(drawn[middle[1], middle[0]]) == (51, 255, 51)


def test_near_bones_cover_far_ones():
    cross = Skeleton("cross", ("a", "b", "c", "d"), (("b", "a"), ("d", "c")))
    colors = [((9, 9, 9), (255, 0, 0))] * 2 + [((9, 9, 9), (0, 0, 255))] * 2
    joints = np.array([[10, 50, 5.0], [90, 50, 5.0], [50, 10, 9.0], [50, 90, 9.0]])
    white = np.full((100, 100, 3), 255, np.uint8)
    assert tuple(draw_depth_skeleton(white, joints, cross, colors=colors)[50, 50]) == (255, 0, 0)
    joints[2:, 2] = 1.0
    assert tuple(draw_depth_skeleton(white, joints, cross, colors=colors)[50, 50]) == (0, 0, 255)
    assert (white == 255).all()


def test_what_is_not_there_is_left_out():
    joints, picture, camera = toy_hand()
    pixels = world_to_pixel(joints, camera)
    tinted = tint_depth(picture, 400.0, 100.0)
    assert (draw_depth_skeleton(tinted, np.full((21, 2), np.nan), MSRA21) == tinted).all()
    hidden = np.ones(21)
    hidden[MSRA21.index("thumb_tip")] = 0
    red = near(draw_depth_skeleton(tinted, pixels, MSRA21, hidden), (255, 0, 0), 3)
    assert not len(red[0]) and len(near(draw_depth_skeleton(tinted, pixels, MSRA21), (255, 0, 0), 3)[0])
    for wrong in (pixels[:20], pixels[:, :1]):
        with pytest.raises(ValueError, match="MSRA21"):
            draw_depth_skeleton(tinted, wrong, MSRA21)


def test_picture_shows_the_hand_enlarged_with_its_error():
    joints, picture, camera = toy_hand()
    drawn = depth_picture(picture, joints + [0, 0, 5.0], camera, MSRA21, truth=joints, height=240)
    assert drawn.shape == (262, 480, 3) and drawn.dtype == np.uint8
    left = drawn[:240, :240]
    # Joints and 70 pixels around them, as the original frames it, fill the panel.
    pixels = world_to_pixel(joints, camera)[:, :2]
    scale = 240 / (np.ptp(pixels, axis=0).max() + 71)
    assert scale > 1.3
    rows, columns = near(left, (0, 255, 0), 3)
    tip, root = pixels[MSRA21.index("index_tip")], pixels[MSRA21.index("wrist")]
    yellow = near(left, (230, 230, 0), 3)
    shift = np.array([columns.mean() - yellow[1].mean(), rows.mean() - yellow[0].mean()])
    np.testing.assert_allclose(shift, (tip - root) * scale, atol=6)
    # The same with a crop of the picture.
    crop = picture[40:220, 60:260]
    same = depth_picture(crop, joints, camera, MSRA21, start_px=(60, 40), height=240)
    whole = depth_picture(picture, joints, camera, MSRA21, height=240)
    assert (same != whole).any(-1).mean() < 0.2
    assert (same[:240, 240:] != whole[:240, 240:]).mean() < 0.02


def test_captions_tell_from_where_one_looks(monkeypatch):
    from posekit import drawing_depth

    texts = []
    monkeypatch.setattr(drawing_depth, "_captioned", lambda panel, text: texts.append(text) or panel)
    joints, picture, camera = toy_hand()
    for azimuth in (-28.0, 272.0, 332.4, 0.2, 180.0):
        depth_picture(picture, joints, camera, MSRA21, height=60, azimuth_deg=azimuth, view="3d")
    depth_picture(picture, None, camera, MSRA21, height=60, azimuth_deg=50.0)
    sides = ("28° to the left", "88° to the left", "28° to the left", "the front", "behind")
    assert texts == [*(f"3-D joints from {side}" for side in sides), "depth: no joints", ""]


def test_the_truth_is_seen_on_near_and_far_surfaces():
    joints, picture, camera = toy_hand()
    for tint in (picture, np.where(picture > 0, joints[:, 2].min() - 90, 0)):
        drawn = depth_picture(tint, joints + [40.0, 0, 0], camera, MSRA21, truth=joints, height=240, view="depth")
        assert len(near(drawn, (214, 217, 222), 3)[0]) > 200 and len(near(drawn, (20, 20, 40), 20)[0]) > 200


@pytest.mark.parametrize("camera", ["msra", "icvl"])
def test_views_stand_upright_whichever_way_y_points(camera):
    joints, picture, camera = toy_hand(camera)
    for backdrop in BACKDROPS:
        drawn = draw_depth_3d(joints, MSRA21, camera, picture, size=200, azimuth_deg=0.0, backdrop=backdrop)
        thumb, middle, wrist = (near(drawn, color, 40) for color in ((255, 0, 0), (255, 128, 0), (230, 230, 0)))
        assert middle[0].mean() < wrist[0].mean() - 40
        assert thumb[1].mean() < wrist[1].mean() - 20


def test_azimuth_walks_to_the_right():
    joints = np.zeros((2, 3))
    joints[:, 2] = [400.0, 500.0]
    stick = Skeleton("stick", ("near", "far"), (("far", "near"),))
    near_color, far_color = (joint for joint, _ in depth_colors(stick))
    right = draw_depth_3d(joints, stick, "icvl", size=160, azimuth_deg=80.0, elevation_deg=0.0)
    # Seen from the right, what is near the sensor is on the left.
    assert near(right, near_color, 30)[1].mean() < near(right, far_color, 30)[1].mean() - 20


def test_sensors_above_are_turned_upright():
    joints = np.array([[0, 0, 1.5], [0, 0, 3.0]])
    stick = Skeleton("stick", ("head", "foot"))
    drawn = draw_depth_3d(joints, stick, "itop_top", size=200, from_above=True)
    head, foot = (near(drawn, color, 20)[0].mean() for color, _ in joint_colors(stick))
    assert head < foot - 50


def test_measured_points_are_drawn_and_far_ones_left_out():
    joints, picture, camera = toy_hand()
    bare = draw_depth_3d(joints, MSRA21, camera, size=200, azimuth_deg=0.0, elevation_deg=0.0)
    drawn = draw_depth_3d(joints, MSRA21, camera, picture, size=200, azimuth_deg=0.0, elevation_deg=0.0)
    changed = (bare != drawn).any(-1)
    assert 0.02 < changed.mean() < 0.5
    assert not (bare != draw_depth_3d(joints, MSRA21, camera, np.full_like(picture, 650.0), size=200,
                                      azimuth_deg=0.0, elevation_deg=0.0)).any()  # fmt: skip


@pytest.mark.parametrize("view", ["both", "depth", "3d"])
def test_empty_and_absent_are_drawn_without_trouble(view):
    joints, picture, camera = toy_hand()
    with np.errstate(all="raise"):
        for depth, figure in (
            (picture, np.full((21, 3), np.nan)),
            (np.zeros_like(picture), joints),
            (np.zeros_like(picture), np.full((21, 3), np.nan)),
            (picture, joints + [3000.0, 0, 0]),
            (picture, np.stack([joints, joints + 20])),
            (picture, np.zeros((0, 21, 3))),
            (picture[:1, :1], joints),
        ):
            drawn = depth_picture(depth, figure, camera, MSRA21, height=64, view=view, captions=())
            assert drawn.shape == (64, 128 if view == "both" else 64, 3)


def test_people_are_placed_in_the_cameras_world():
    joints, picture, camera = toy_hand()
    pixels = world_to_pixel(joints, camera)[None, :, :2]
    metres = joints[None] * [1e-3, -1e-3, 1e-3]
    people = People(pixels, np.ones((1, 21)), MSRA21, (240, 320), joints3d=metres)
    np.testing.assert_allclose(world_joints(people, camera)[0], joints, atol=1e-3)
    itop = dataclasses.replace(camera, unit="m", y_up=False)
    np.testing.assert_allclose(world_joints(people, itop), metres, atol=1e-6)
    one, other = (depth_picture(picture, figure, camera, MSRA21, height=100) for figure in (people, joints))
    assert (one != other).mean() < 0.01
    bare = People(pixels, np.ones((1, 21)), MSRA21, (240, 320))
    with pytest.raises(ValueError, match="3-D joints"):
        depth_picture(picture, bare, camera)


def test_bad_options_are_named():
    joints, picture, camera = toy_hand()
    for options, word in (
        ({"view": "side"}, "both, depth, 3d"),
        ({"backdrop": "sky"}, "points, plane, none"),
        ({"reach": -1.0}, "reach=-1"),
        ({"skeleton": NYU14}, "NYU14"),
        ({"skeleton": None}, "skeleton=MSRA21"),
    ):
        with pytest.raises(ValueError, match=word):
            depth_picture(picture, joints, camera, **{"skeleton": MSRA21, "height": 64, **options})
    with pytest.raises(ValueError, match="height, width"):
        depth_picture(picture[None], joints, camera, MSRA21)


def test_pixels_of_the_enlarged_picture_are_centred():
    """The middle between two dark pixels is where the joint in their middle is drawn."""
    camera = dataset_camera("icvl")
    depth = np.full((240, 320), 500.0, np.float32)
    depth[100, [190, 210]] = 300.0
    place = pixel_to_world(np.array([[200.0, 100.0, 400.0]]), camera)
    dot = Skeleton("dot", ("dot",))
    options = {"reference": 400.0, "reach": 100.0, "height": 710, "view": "depth", "captions": ()}
    drawn = depth_picture(depth, place, camera, dot, **options)
    for color, tolerance in (((0, 0, 0), 60), (depth_colors(dot)[0][0], 10)):
        rows, columns = near(drawn, color, tolerance)
        assert abs(rows.mean() - 354.5) < 0.5 and abs(columns.mean() - 354.5) < 0.5
