"""3-D skeletons in pictures: the right way round, in a frame that stands still, and honest about what is missing."""

import numpy as np
import pytest

from posekit import drawing3d
from posekit.drawing import joint_colors
from posekit.drawing3d import (
    BACKGROUND,
    Skeleton3DView,
    draw_skeleton_3d,
    lifting_picture,
    lifting_turntable,
    turntable,
)
from posekit.results import People
from posekit.skeletons import COCO17, H36M17, Skeleton

# fmt: off
STANDING = np.array([
    [0, 0, 0], [-130, 20, 0], [-140, 450, 10], [-140, 850, 40], [130, 20, 0], [140, 450, 10], [140, 850, 40],
    [0, -240, 10], [0, -480, 20], [0, -600, -80], [0, -730, 10], [170, -440, 20], [260, -170, 30], [290, 80, -30],
    [-170, -440, 20], [-260, -170, 30], [-290, 80, -30],
], np.float64)
# fmt: on
LEFT_LEG, RIGHT_LEG = (197, 27, 125), (233, 163, 201)
LEFT_ARM = (69, 117, 180)


def where(picture, color):
    """Rows and columns of what is drawn in a colour, lit or paler."""
    ink, wanted = 255.0 - picture, 255.0 - np.array(color)
    strength = np.linalg.norm(ink, axis=-1)
    likeness = (ink @ wanted) / np.maximum(strength, 1) / np.linalg.norm(wanted)
    share = strength / np.linalg.norm(wanted)
    return np.nonzero((likeness > 0.985) & (share > 0.6) & (share < 1.35))


def figure_box(picture):
    """Rows and columns that a figure reaches, told from the floor by its strong colours."""
    rows, columns = np.nonzero(np.ptp(picture.astype(int), axis=-1) > 40)
    return rows.min(), rows.max(), columns.min(), columns.max()


def people_of(joints3d_m, scores=None, shift=(0.0, 0.0), size=(400, 300)):
    joints3d_m = np.asarray(joints3d_m)
    points = np.nan_to_num(joints3d_m[..., :2]) * 200 + [150, 200] + np.asarray(shift)
    scores = np.ones(points.shape[:-1]) if scores is None else scores
    return People(points, scores, H36M17, size, joints3d=joints3d_m)


def test_figures_stand_upright_and_are_not_mirrored():
    picture = draw_skeleton_3d(STANDING)
    legs, head = where(picture, LEFT_LEG), where(picture, (118, 42, 131))
    assert picture.shape == (480, 480, 3) and picture.dtype == np.uint8
    assert head[0].min() < 100 < 300 < legs[0].max() < 470
    # Seen from where the camera was, the left leg is where the picture has it: x grows to the right.
    assert legs[1].mean() > 240 > where(picture, RIGHT_LEG)[1].mean()


def test_from_behind_the_sides_are_swapped_and_from_the_side_they_meet():
    def offset(azimuth):
        picture = draw_skeleton_3d(STANDING, azimuth_deg=azimuth, turning=True)
        return where(picture, LEFT_LEG)[1].mean() - where(picture, RIGHT_LEG)[1].mean()

    assert offset(0) > 25 and offset(180) < -25 and abs(offset(90)) < 12


def test_positive_azimuths_turn_people_to_the_viewers_left():
    # The nose is 80 mm before the body, towards the camera; walking to the right around it, it points to the left.
    picture = draw_skeleton_3d(STANDING, azimuth_deg=90)
    red = where(picture, (215, 48, 39))
    assert len(red[1]) and red[1].mean() < where(picture, (118, 42, 131))[1].mean() - 4


def test_nearer_people_are_larger_and_cover_farther_ones():
    near, far = STANDING + [0, 0, 3000.0], STANDING + [0, 0, 5000.0]
    view = Skeleton3DView(H36M17, np.stack([near, far]), turning=False)
    heights = [np.ptp(figure_box(view(one))[:2]) for one in (near, far)]
    assert heights[0] > 1.15 * heights[1]
    both = view(np.stack([far, near]))
    swapped = view(np.stack([near, far]))
    np.testing.assert_array_equal(both, swapped)


def test_the_frame_of_a_sequence_holds_all_of_it_and_stands_still():
    path = np.linspace(-1500, 1500, 7)
    frames = STANDING + np.stack([path, 0 * path, 4000 + 0.3 * path], -1)[:, None, None]
    view = Skeleton3DView(H36M17, frames, turning=False)
    boxes = np.array([figure_box(view(frame)) for frame in frames])
    assert boxes.min() > 10 and boxes[:, [1, 3]].max() < 470
    assert (np.diff(boxes[:, 2]) > 5).all() and np.ptp(boxes[:, 1] - boxes[:, 0]) < 40
    # An absolute person keeps the height at which it is: a jump is not stood back on the floor.
    jump = figure_box(view(frames[3] - [0, 300, 0]))
    assert jump[1] < boxes[3, 1] - 20


def test_people_relative_to_their_pelvis_stand_on_the_floor():
    crouched = STANDING.copy()
    crouched[[2, 3, 5, 6], 1] -= 300
    view = Skeleton3DView(H36M17, np.stack([STANDING, crouched])[:, None])
    standing, low = figure_box(view(STANDING)), figure_box(view(crouched))
    assert abs(standing[1] - low[1]) < 8 and low[0] > standing[0] + 30


def test_all_sides_fit_the_frame():
    reaching = STANDING.copy()
    reaching[13] = [300, -300, -900]
    for picture in turntable(reaching, num_frames=12, size=(300, 240)):
        top, bottom, left, right = figure_box(picture)
        assert picture.shape == (300, 240, 3)
        assert top > 5 and bottom < 294 and left > 5 and right < 234


def test_a_whole_turn_ends_where_it_began():
    pictures = list(turntable(STANDING, num_frames=4, size=120, start_deg=30))
    assert len(pictures) == 4
    np.testing.assert_array_equal(pictures[0], draw_skeleton_3d(STANDING, size=120, azimuth_deg=30, turning=True))
    assert (pictures[0] != pictures[2]).any()


def test_truth_is_grey_and_does_not_hide_the_prediction():
    alone = draw_skeleton_3d(STANDING)
    beside = draw_skeleton_3d(STANDING, truth_mm=STANDING + np.array([150.0, 0, 0]) * (np.arange(17) > 0)[:, None])
    assert len(where(beside, (150, 154, 160))[0]) > 3 * len(where(alone, (150, 154, 160))[0])
    same = Skeleton3DView(H36M17, STANDING)
    assert len(where(same(STANDING, truth_mm=STANDING), LEFT_LEG)[0]) > 0.9 * len(where(same(STANDING), LEFT_LEG)[0])


def test_what_is_not_finite_is_left_out(monkeypatch):
    written = []
    monkeypatch.setattr(drawing3d, "_write", lambda canvas, text, *_: written.append(text))
    broken = STANDING.copy()
    broken[6] = np.nan
    assert len(where(draw_skeleton_3d(broken), LEFT_LEG)[0]) > 50 and not written
    view = Skeleton3DView(H36M17)
    nobody = view(np.full((2, 17, 3), np.nan))
    np.testing.assert_array_equal(nobody, view(np.zeros((0, 17, 3))))
    assert written == ["2 people without a 3-D pose"]
    view(np.stack([STANDING, np.full((17, 3), np.nan)]))
    assert written[-1] == "1 person without a 3-D pose"
    wild = STANDING * np.where(np.arange(17) == 3, 1e9, 1.0)[:, None]
    assert view(wild).shape == (480, 480, 3)


@pytest.mark.parametrize("scale", [1e5, 1e9, 1e22, 1e38, 1e300])
def test_poses_beyond_all_measure_draw_a_bounded_floor(monkeypatch, scale):
    lines, written, line = [], [], drawing3d._line
    monkeypatch.setattr(drawing3d, "_line", lambda *arguments: lines.append(1) or line(*arguments))
    monkeypatch.setattr(drawing3d, "_write", lambda canvas, text, *_: written.append(text))
    for shift in (0.0, 5 * scale):
        assert draw_skeleton_3d((STANDING / 500 * scale + shift)[None], size=64, turning=True).shape == (64, 64, 3)
    assert len(lines) < 10_000
    assert written == ([] if scale < 1e6 else ["1 person without a 3-D pose"] * 2)


def test_one_joint_beyond_all_measure_is_left_out():
    wild = STANDING + [0.0, 0.0, 4000.0]
    expected = wild.copy()
    wild[3], expected[3] = 1e9, np.nan
    np.testing.assert_array_equal(draw_skeleton_3d(wild), draw_skeleton_3d(expected))
    pictures = [draw_skeleton_3d(STANDING, truth_mm=truth) for truth in (wild, expected)]
    np.testing.assert_array_equal(*pictures)


def test_views_of_nothing_and_small_pictures():
    assert Skeleton3DView(H36M17, np.full((1, 17, 3), np.nan))(STANDING).shape == (480, 480, 3)
    assert draw_skeleton_3d(np.zeros((17, 3)), size=40).shape == (40, 40, 3)
    assert draw_skeleton_3d(STANDING, size=16).shape == (16, 16, 3)
    assert draw_skeleton_3d(STANDING, elevation_deg=0).shape == (480, 480, 3)


def test_other_skeletons():
    dots = Skeleton("dots", ("a", "b", "left_c", "right_c"), (("b", "a"), ("left_c", "b"), ("right_c", "b")))
    picture = draw_skeleton_3d(np.random.default_rng(0).normal(0, 300, (4, 3)), dots)
    assert np.ptp(picture.astype(int), axis=-1).max() > 40


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: draw_skeleton_3d(np.zeros((16, 3))), "'H36M17'.*17, 3"),
        (lambda: draw_skeleton_3d(np.zeros((17, 2))), "17, 3"),
        (lambda: Skeleton3DView()(np.zeros((2, 1, 17, 3))), "one frame"),
        (lambda: Skeleton3DView(size=4), "size=4"),
        (lambda: Skeleton3DView(elevation_deg=90), "elevation_deg=90"),
        (lambda: lifting_picture(None, people_of(STANDING[None])[:0].__class__(np.zeros((1, 17, 2)), np.ones((1, 17)),
                                                                              H36M17, (9, 9))), "lift them first"),
        (
            lambda: lifting_picture(
                None, People(np.zeros((1, 17, 2)), np.ones((1, 17)), COCO17, (9, 9), joints3d=np.zeros((1, 24, 3)))
            ),
            "has 17 joints",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_lifting_picture_shows_both():
    image = np.full((400, 300, 3), 60, np.uint8)
    people = people_of(STANDING[None] / 1000)
    picture = lifting_picture(image, people, 0, height=240)
    assert picture.shape == (240 + 22, 180 + 240, 3)
    left, right = picture[:240, :180], picture[:240, 180:]
    assert len(where(left, (60, 60, 60))[0]) > 30_000
    for panel in (left, right):
        assert where(panel, LEFT_LEG)[1].mean() > where(panel, RIGHT_LEG)[1].mean()
    assert (picture[240:] < 120).any()  # the captions
    assert lifting_picture(image, people, 0, height=240, captions=()).shape == (240, 420, 3)


def test_lifting_picture_without_an_image_keeps_the_pictures_shape():
    wide = lifting_picture(None, people_of(STANDING[None] / 1000, size=(100, 1000)), height=200, captions=())
    assert wide.shape == (200, 600, 3)
    assert wide[0, 0].tolist() == list(BACKGROUND) and (wide[100, 5] < BACKGROUND).all()
    tall = lifting_picture(None, people_of(STANDING[None] / 1000, size=(1000, 10)), height=200, captions=())
    assert tall.shape == (200, 300, 3)


def test_joints_land_on_their_pixels():
    people = people_of(STANDING[None] / 1000, size=(480, 480))
    panel = lifting_picture(np.zeros((480, 480, 3), np.uint8), people, height=240, captions=())[:, :240]
    x, y = (people.keypoints_px[0, H36M17.index("left_ankle")] + 0.5) / 2 - 0.5
    np.testing.assert_allclose(panel[round(y), round(x)], joint_colors(H36M17)[H36M17.index("left_ankle")][0], atol=40)


def small_people(middle, image=None, size=(1200, 900)):
    people = people_of(STANDING[None] / 1000, size=size)
    low, high = people.keypoints_px.min((0, 1)), people.keypoints_px.max((0, 1))
    people.keypoints_px[:] = (people.keypoints_px - (low + high) / 2) / 4 + middle
    return people, lifting_picture(image, people, height=240, captions=())[:, :180]


@pytest.mark.parametrize("middle", [(450, 600), (40, 60), (880, 1150)])
def test_small_people_are_shown_large_wherever_they_are(middle):
    _, panel = small_people(middle)
    top, bottom, left, right = figure_box(panel)
    assert 0.3 * 240 < bottom - top < 0.75 * 240
    assert left > 0 and right < 179


def test_the_picture_is_enlarged_with_its_people(monkeypatch):
    image = np.zeros((1200, 900, 3), np.uint8)
    people, _ = small_people((450, 600))
    x, y = people.keypoints_px[0, H36M17.index("left_ankle")].astype(int)
    image[y - 12 : y + 13, x - 12 : x + 13] = (0, 255, 0)
    _, panel = small_people((450, 600), image)
    green = where(panel, (0, 255, 0))
    ankle = where(panel, LEFT_LEG)
    assert len(green[0]) > 50 and abs(green[0].mean() - ankle[0].max()) < 14 and panel.shape == (240, 180, 3)
    written = []
    monkeypatch.setattr(drawing3d, "_write", lambda canvas, text, *_: written.append(text))
    lifting_picture(image, people)
    assert written[0] == "2-D joints, enlarged"


def test_the_enlarged_part_stands_still_while_people_move_a_little():
    image = np.random.default_rng(0).integers(0, 255, (1200, 900, 3)).astype(np.uint8)
    panels = [small_people((450 + shift, 600), image)[1] for shift in range(6)]
    corner = [panel[:40, :40] for panel in panels]
    assert sum((corner[0] == other).all() for other in corner) >= 3


def test_guessed_joints_are_rings_without_a_bone(monkeypatch):
    written = []
    monkeypatch.setattr(drawing3d, "_write", lambda canvas, text, *_: written.append(text))
    scores = np.ones((1, 17))
    scores[0, H36M17.index("left_ankle")] = 0
    sure = lifting_picture(None, people_of(STANDING[None] / 1000), height=400)
    unsure = lifting_picture(None, people_of(STANDING[None] / 1000, scores), height=400)
    assert len(where(unsure[:, :300], LEFT_LEG)[0]) < 0.8 * len(where(sure[:, :300], LEFT_LEG)[0])
    np.testing.assert_array_equal(unsure[:400, 300:], sure[:400, 300:])
    assert written == ["2-D joints", "3-D joints, seen from 30°", "2-D joints (rings: guessed)", written[1]]


def test_relative_people_stand_beside_each_other_in_the_pictures_order():
    waving = STANDING.copy()
    waving[13] = [300, -900, 0]
    people = people_of(np.stack([waving, STANDING]) / 1000, shift=[[[80, 0]], [[-80, 0]]])
    picture = lifting_picture(None, people, 0, height=300, captions=())[:, 225:]
    rows, columns = where(picture, LEFT_ARM)
    assert columns[rows.argmin()] > 150  # the one who waves is on the right
    alone = lifting_picture(None, people_of(STANDING[None] / 1000), 0, height=300, captions=())
    assert figure_box(picture)[3] - figure_box(picture)[2] > 1.3 * np.ptp(figure_box(alone[:, 225:])[2:])


def test_relative_people_never_stand_inside_each_other():
    pair = np.stack([STANDING, STANDING])
    picture = draw_skeleton_3d(pair, truth_mm=pair)
    columns = np.sort(where(picture, LEFT_LEG)[1])
    assert np.diff(columns).max() > 40
    placed = draw_skeleton_3d(pair + np.array([[[0, 0, 4000.0]], [[0, 0, 4000.0]]]))
    assert np.diff(np.sort(where(placed, LEFT_LEG)[1])).max() < 10  # those who have a place keep it


def test_the_frame_for_relative_people_hardly_changes():
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(6):
        joints = STANDING + rng.normal(0, 25, (17, 3)) * (np.arange(17) > 0)[:, None]
        boxes.append(figure_box(lifting_picture(None, people_of(joints[None] / 1000), 0, captions=())[:, 360:]))
    assert np.ptp([box[1] for box in boxes]) < 6


def test_people_that_could_not_be_lifted_keep_their_2d_joints():
    joints = np.stack([np.full((17, 3), np.nan), STANDING / 1000])
    people = people_of(joints)
    people.keypoints_px[0] = people.keypoints_px[1] - [60, 0]
    picture = lifting_picture(None, people, 0)
    assert where(picture[:480, :360], LEFT_LEG)[1].min() < 150
    nobody = lifting_picture(None, people[:0], 0)
    assert nobody.shape == picture.shape


def test_lifting_turntable_turns_only_the_3d_part():
    people = people_of(STANDING[None] / 1000)
    pictures = list(lifting_turntable(None, people, num_frames=3, height=160, captions=("a", "b")))
    assert len(pictures) == 3
    np.testing.assert_array_equal(pictures[0][:, :120], pictures[1][:, :120])
    assert (pictures[0][:, 120:] != pictures[1][:, 120:]).any()
    view = Skeleton3DView(H36M17, STANDING, size=160)
    again = lifting_picture(None, people, 0, view=view, captions=(), truth_mm=STANDING[None])
    np.testing.assert_array_equal(again[:, 120:], view(STANDING, 0, STANDING))
