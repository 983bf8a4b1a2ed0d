"""Pictures of many people: the original's, pixel by pixel, and what each picture must show."""

import numpy as np
import pytest

from posekit.codecs.paf import PafCodec, average_maps
from posekit.drawing_people import draw_heatmaps, draw_pafs, draw_people, limb_colors
from posekit.ops import decode_paf
from posekit.results import People
from posekit.skeletons import OPENPOSE18, Skeleton
from posekit.testing import load_fixture

ROD = Skeleton("rod", ("top", "foot"), (("foot", "top"),))


def test_colors_are_the_original():
    written = (
        "ff0000 ff5500 ffaa00 ffff00 aaff00 55ff00 00ff00 00ff55 00ffaa 00ffff 00aaff 0055ff 0000ff 5500ff aa00ff "
        "ff00ff ff00aa ff0055"
    )
    assert limb_colors() == [tuple(bytes.fromhex(color))[::-1] for color in written.split()]
    assert limb_colors(3) == [(0, 0, 255), (0, 255, 0), (255, 0, 0)]


@pytest.mark.parametrize("as_people", [False, True])
def test_the_picture_is_the_original(as_people):
    maps = load_fixture("rmpe_decode_people3")
    image = np.full((368, 656, 3), 60, np.uint8)
    decoded = decode_paf(*average_maps(lambda _: (maps["paf"][None], maps["heat"][None]), image))
    people = People(decoded.keypoints, decoded.scores, OPENPOSE18, (368, 656)) if as_people else decoded
    picture = draw_people(image, people, peaks=decoded.peaks, antialiased=False)
    expected = load_fixture("rmpe_draw")["canvas"][..., ::-1]
    differs = np.abs(picture.astype(int) - expected).max(-1) > 2
    assert differs.mean() < 0.005
    assert (image == 60).all()


@pytest.mark.parametrize("antialiased", [False, True])
def test_joints_and_limbs_lie_where_they_are(antialiased):
    people = np.array([[[30, 20], [30, 80]], [[70, 50], [np.nan, np.nan]], [[120, 40], [120, 40]]])
    picture = draw_people(np.zeros((100, 150, 3), np.uint8), people, ROD, antialiased=antialiased)
    drawn = picture.max(-1) > 60
    rows, columns = np.nonzero(drawn[:, :60])
    assert abs(rows.mean() - 50) < 1 and abs(columns.mean() - 30) < 1
    assert rows.min() <= 20 and rows.max() >= 80 and columns.max() - columns.min() < 12
    rows, columns = np.nonzero(drawn[:, 60:100])
    assert abs(rows.mean() - 50) < 0.5 and abs(columns.mean() - 10) < 0.5 and len(rows) < 40
    assert drawn[40, 120]


def test_smooth_pictures_are_finer_than_pixels_and_as_large_as_the_image():
    person = np.array([[[100.0, 50], [100, 150]]])
    image = np.zeros((200, 200, 3), np.uint8)
    whole, half = draw_people(image, person, ROD), draw_people(image, person + [0.5, 0], ROD)
    assert (whole != half).any()
    large = draw_people(np.zeros((1200, 1200, 3), np.uint8), person * 6, ROD)
    share = [(picture.max(-1) > 30).mean() for picture in (whole, large)]
    assert 0.3 < share[1] / share[0] < 1.5


def drawn_width(picture, row, columns):
    """Pixels of a row that are covered, in parts where one is."""
    return float((picture[row, columns].max(-1) / picture[row, columns].max()).sum())


def test_limbs_are_as_wide_as_their_person_is_large():
    people = np.array([[[60.0, 20], [60, 340]], [[200, 100], [200, 140]], [[300, 100], [300, 105]]])
    picture = draw_people(np.zeros((368, 400, 3), np.uint8), people, ROD, opacity=1.0)
    places = (180, 60), (120, 200), (102, 300)
    # Smooth borders are a pixel wider.
    large, small, tiny = (drawn_width(picture, row, slice(column - 20, column + 20)) for row, column in places)
    assert 7.5 < large < 9.5 and 2.5 < small < 4.5 and 1 < tiny < 3
    wide = draw_people(np.zeros((368, 400, 3), np.uint8), people, ROD, opacity=1.0, width=12)
    for row, column in places[:2]:
        assert 11 < drawn_width(wide, row, slice(column - 20, column + 20)) < 14
    faint = draw_people(np.zeros((368, 400, 3), np.uint8), people, ROD, opacity=0.2)
    assert faint[180, 60].max() == 51


def test_limbs_of_the_face_are_thin():
    person = np.full((1, 18, 2), np.nan)
    for name, place in (("nose", (100, 60)), ("neck", (100, 160)), ("right_eye", (60, 60)), ("right_ear", (20, 60))):
        person[0, OPENPOSE18.index(name)] = place
    picture = draw_people(np.zeros((300, 300, 3), np.uint8), person, opacity=1.0)
    throat = drawn_width(picture, 110, slice(None))
    face = drawn_width(picture.transpose(1, 0, 2), 80, slice(None))
    assert throat > 2 * face > 2


def test_a_skeleton_without_limbs_is_dots():
    dots = Skeleton("dots", ("a", "b"), ())
    picture = draw_people(np.zeros((50, 50, 3), np.uint8), [[[10, 10], [40, 40]]], dots)
    assert picture[10, 10].any() and picture[40, 40].any() and not picture[25, 25].any()


def test_joints_of_nobody_and_far_away():
    image = np.zeros((60, 60, 3), np.uint8)
    nobody = np.empty((0, 18, 2))
    assert not draw_people(image, nobody).any()
    assert draw_people(image, nobody, peaks=[[3, 30, 20, 0.5, 0]])[20, 30].tolist() == list(limb_colors()[3])
    far = np.full((1, 18, 2), 1e30)
    far[0, 1] = -1e30, 5
    for antialiased in (False, True):
        assert draw_people(image, far, antialiased=antialiased).shape == image.shape
    grey = draw_people(np.zeros((60, 60)), nobody)
    assert grey.shape == (60, 60, 3) and grey.dtype == np.uint8


@pytest.fixture(scope="module")
def rods():
    """A rod that stands and one that lies, their maps, and a white photograph twice as large as the network's input."""
    codec = PafCodec(ROD)
    joints = np.array([[[30.0, 20], [30, 100]], [[60, 60], [150, 60]]])
    return np.full((240, 320, 3), 255, np.uint8), *codec.encode_numpy(joints, np.ones((2, 2), bool), (120, 160))


def test_heatmaps_are_over_the_photograph(rods):
    photograph, heatmaps, _ = rods
    picture = draw_heatmaps(photograph, heatmaps, ROD)
    assert picture.shape == photograph.shape
    for joint, (x, y) in ((0, (30, 20)), (1, (30, 100)), (0, (60, 60)), (1, (150, 60))):
        color, strong = picture[2 * y, 2 * x].astype(int), np.array(limb_colors(2)[joint]) > 0
        assert color[strong].min() > color[~strong].max() + 60
    np.testing.assert_allclose(picture[120, 190], 128, atol=2)  # far from joints: the photograph, darker
    assert (draw_heatmaps(photograph, heatmaps[..., :2], ROD) == picture).all()
    tiles = draw_heatmaps(photograph, heatmaps, ROD, grid=True, columns=2)
    assert tiles.shape[0] > 2 * 240 and tiles.shape[1] == 2 * 320 + 8
    assert tiles[40, 60].max() > 150 > tiles[40, 60].min()


def test_fields_have_the_colour_of_their_direction(rods):
    photograph, _, pafs = rods
    picture = draw_pafs(photograph, pafs, ROD, arrows=False)
    assert picture.shape == photograph.shape
    down, right = picture[120, 64].astype(int), picture[124, 208].astype(int)
    assert down.argmax() == 1 and down[1] - down[2] > 60
    assert right.argmax() == 0 and right[0] - right[2] > 100
    np.testing.assert_allclose(picture[20, 200], 128, atol=2)
    assert (draw_pafs(photograph, pafs, ROD) != picture).any()  # arrows
    tiles = draw_pafs(photograph, pafs, ROD, grid=True)
    assert tiles.shape[0] > 240 and tiles.shape[1] == 320


def test_a_wheel_tells_the_colours_of_directions(rods):
    photograph, _, pafs = rods
    plain, picture = (draw_pafs(photograph, pafs, ROD, arrows=False, legend=legend) for legend in (False, True))
    rows, columns = np.nonzero((plain != picture).any(-1))
    assert rows.min() > 180 and rows.max() < 240 and columns.min() > 260 and columns.max() < 320
    y, x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    assert picture[y, x + 10].argmax() == 0 and picture[y + 10, x].argmax() == 1
    assert picture[y, x - 10].argmin() == 0 and picture[y - 10, x].argmin() == 1
    assert draw_pafs(np.zeros((9, 9, 3), np.uint8), pafs, ROD, legend=True).shape == (9, 9, 3)


def test_maps_over_large_photographs_take_bounded_memory(rods):
    _, heatmaps, pafs = rods
    large = np.full((1500, 2000, 3), 255, np.uint8)
    for picture in (draw_heatmaps(large, heatmaps, ROD), draw_pafs(large, pafs, ROD)):
        assert picture.shape == large.shape and np.ptp(picture[::10, ::10].astype(int)) > 100
    assert draw_heatmaps(large, heatmaps, ROD, grid=True, columns=3).shape[1] == 3 * 480 + 16


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, 1e7])
def test_values_that_no_network_should_give_are_refused(rods, value, grid):
    photograph, heatmaps, pafs = (part.copy() for part in rods)
    heatmaps[2, 3, 0] = pafs[2, 3, 1] = pafs[4, 4, 0] = value
    with pytest.raises(ValueError, match="Fields hold 2 values that are not finite or larger than 1e.06"):
        draw_pafs(photograph, pafs, ROD, grid=grid)
    if value < np.inf:  # shown as 1
        assert draw_heatmaps(photograph, heatmaps, ROD, grid=grid).max() > 200
    else:
        with pytest.raises(ValueError, match="Heatmaps hold 1 values that are not finite"):
            draw_heatmaps(photograph, heatmaps, ROD, grid=grid)


@pytest.mark.parametrize("size", [(40, 50), (1500, 2000)])
def test_the_largest_fields_are_drawn(rods, size):
    _, _, pafs = rods
    assert draw_pafs(np.zeros((*size, 3), np.uint8), pafs * 0.99e6, ROD).shape == (*size, 3)


def test_what_does_not_fit_is_refused(rods):
    photograph, heatmaps, pafs = rods
    with pytest.raises(ValueError, match=r"OPENPOSE18.*18, 2\]"):
        draw_people(photograph, np.zeros((1, 17, 2)))
    with pytest.raises(ValueError, match="rod"):
        draw_heatmaps(photograph, pafs[..., :1], ROD)
    with pytest.raises(ValueError, match="rod"):
        draw_pafs(photograph, heatmaps, ROD)
