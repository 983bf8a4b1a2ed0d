"""Depth predictors: every kind of source, with its camera and centre, gives its people."""

import dataclasses
import types

import cv2
import numpy as np
import pytest

import posekit
from posekit import preview
from posekit.data.depth_sources import DepthFrame
from posekit.data.synthetic_depth import draw_cones, measure
from posekit.data.synthetic_hand import GESTURES, msra_joints, pose_hand, sample_gesture, sample_hand_shape
from posekit.geometry.depth import DepthCamera
from posekit.predictor import DepthPredictor, ResultFolder, predictor_class
from posekit.results import People
from posekit.skeletons import MSRA21, Skeleton
from posekit.systems import v2v

DOT = Skeleton("dot", ("dot",))
MSRA = (241.42, 241.42, 160.0, 120.0)


def predict(config, model, depths, cameras, centers=None, left_hands=None):
    """One joint, at the centre or at the middle of the picture's depths."""
    found = []
    for depth, camera, center in zip(depths, cameras, centers):
        assert isinstance(depth, np.ndarray) and depth.dtype == np.float32
        assert camera.unit == "mm" and not camera.y_up and (camera.height, camera.width) == depth.shape
        if not depth.any():
            found.append(People(np.zeros((0, 1, 2)), np.zeros((0, 1)), DOT, depth.shape))
            continue
        joint = np.array([0.0, 0.0, np.median(depth[depth > 0])] if center is None else center)
        place = [[joint[0] * camera.fx / joint[2] + camera.cx, joint[1] * camera.fy / joint[2] + camera.cy]]
        lens = [[camera.fx, camera.cx, camera.cy]]
        joints3d = joint[None, None] / 1000
        found.append(People([place], np.ones((1, 1)), DOT, depth.shape, camera=lens, joints3d=joints3d))
    return found


@pytest.fixture
def predictor():
    module = types.SimpleNamespace(
        INPUT="depth", predict=predict, draw=lambda people, image: np.zeros((4, 6, 3), np.uint8)
    )
    assert predictor_class(module) is DepthPredictor
    return DepthPredictor("v2v", module, types.SimpleNamespace(dataset="msra"), None)


def flat(level, shape=(240, 320)):
    return np.full(shape, level, np.uint16)


def levels(people):
    return [round(1000 * float(one.joints3d[0, 0, 2])) for one in people]


def test_every_kind_of_source_gives_its_people(predictor, tmp_path):
    for level in (300, 400, 500):
        cv2.imwrite(str(tmp_path / f"{level}.png"), flat(level))
    stack = np.stack([flat(level) for level in (300, 400, 500)])
    np.save(tmp_path / "stack.npy", stack)
    one = predictor(flat(450))
    assert isinstance(one, People) and levels([one]) == [450] and one.image.dtype == np.float32
    assert levels([predictor(tmp_path / "400.png")]) == [400]
    assert predictor(str(tmp_path / "400.png")).source == "400.png"
    several = predictor([tmp_path / "500.png", flat(320)], batch_size=1)
    assert isinstance(several, list) and levels(several) == [500, 320]
    assert levels(predictor(stack, batch_size=2)) == [300, 400, 500]
    (tmp_path / "stack.npy").rename(tmp_path.parent / "stack.npy")
    assert levels(predictor(tmp_path)) == [300, 400, 500]
    stream = predictor(tmp_path.parent / "stack.npy")
    assert not isinstance(stream, list) and levels(stream) == [300, 400, 500]
    assert levels([predictor(flat(450)[..., None] / 1000, depth_scale=1000)]) == [450]
    assert levels([predictor(DepthFrame(flat(450).astype(np.float32), "a"))]) == [450]


def test_cameras(predictor):
    matrix = np.array([[100, 0, 30], [0, 110, 20], [0, 0, 1.0]])
    small = flat(400, (40, 60))
    for intrinsics in ((100, 110, 30, 20), [100.0, 110.0, 30.0, 20.0], ("100", "110", "30", "20"), np.array(
        [100, 110, 30, 20]
    ), matrix, DepthCamera(100, 110, 30, 20, y_up=True, unit="m")):  # fmt: skip
        people = predictor(small, intrinsics=intrinsics, center=(40, 20, 400))
        np.testing.assert_allclose(people.keypoints_px[0, 0], [40, 25.5])
        np.testing.assert_allclose(people.camera[0], [100, 30, 20])
    np.testing.assert_allclose(predictor(flat(400), center=(0, 0, 400)).keypoints_px[0, 0], MSRA[2:])
    assert predictor.open([flat(400)], intrinsics=(), center=()).length == 1
    with pytest.raises(ValueError, match="60 x 40.*--intrinsics="):
        predictor(small)
    for wrong in ((1, 2, 3), "no", (0, 1, 2, 3), (1, 1, np.nan, 1), ("a", "b", "c", "d"), np.ones((2, 2))):
        with pytest.raises(ValueError, match="intrinsics|Intrinsics"):
            predictor(small, intrinsics=wrong)


def test_a_frame_takes_the_options_of_the_call(predictor):
    (frame,) = predictor.open([flat(400, (40, 60))], intrinsics=(100, 110, 30, 20), center=(0, 0, 300))
    assert levels([predictor(frame)]) == [300]
    people = predictor(frame, intrinsics=(200, 220, 30, 20), center=(40, 20, 400))
    np.testing.assert_allclose(people.joints3d[0, 0], [0.04, 0.02, 0.4])
    np.testing.assert_allclose(people.keypoints_px[0, 0], [50, 31])
    assert levels([predictor(frame, intrinsics=(200, 220, 30, 20))]) == [300]  # the frame's own centre
    for options, word in (
        ({"depth_scale": 10}, "depth_scale: a DepthFrame holds millimetres"),
        ({"layout": "nyu", "size": (60, 40)}, "layout, size: "),
        ({"center": (0, 0, -300)}, "above 0"),
        ({"intrinsics": "no"}, "intrinsics"),
    ):
        with pytest.raises(ValueError, match=word):
            predictor(frame, **options)


def test_centers_go_with_their_pictures(predictor):
    pictures = [flat(300), flat(400), flat(500)]
    assert levels(predictor(pictures, center=(0, 0, 350))) == [350] * 3
    centers = [(0, 0, 310), None, np.array([0, 0, 510.0])]
    assert levels(predictor(pictures, center=centers, batch_size=2)) == [310, 400, 510]
    assert levels(predictor(np.stack(pictures), center=np.array([[0, 0, 310], [0, 0, 410], [0, 0, 510]]))) == [
        310, 410, 510,
    ]  # fmt: skip
    for wrong, word in (
        ((0, 0, -300), "above 0"),
        ((0, 0, 0.35), "not metres"),
        ((0, np.nan, 300), "x, y, z"),
        ((1, 2), "x, y, z"),
        ([(0, 0, 300)] * 2, "2 centers for 3"),
        (("a", "b", "c"), "x, y, z"),
        ("abc", "center='abc': give x, y, z"),
        (5, "center=5.0: give x, y, z"),
        ({}, "x, y, z"),
        ((10**400, 0, 500), "x, y, z"),
        ((0, 0, 100_001), "farther away than 100 m"),
        ((1e6, 0, 500), "farther away"),
        ((0, -1e30, 500), "farther away"),
    ):
        with pytest.raises(ValueError, match=word):
            predictor(pictures, center=wrong)


@pytest.mark.parametrize(
    "intrinsics",
    [
        (1, 475, 30, 20), (475, 9.9, 30, 20), (1e6, 475, 30, 20), (475, 2e5, 30, 20), (475, 475, 1e9, 20),
        (475, 475, 30, -2e3),
    ],
)
def test_cameras_that_no_picture_has(predictor, intrinsics):
    small = flat(400, (40, 60))
    with pytest.raises(ValueError, match="no camera's of 60 x 40 pixels"):
        predictor(small, intrinsics=intrinsics)
    frame = DepthFrame(small.astype(np.float32), "a", camera=DepthCamera(*intrinsics))
    with pytest.raises(ValueError, match="no camera's of 60 x 40 pixels"):
        predictor(frame)


def test_matrices_with_skew_or_another_scale_are_refused(predictor):
    for row, column, value in ((0, 1, 2.0), (1, 0, 1.0), (2, 0, 0.1), (2, 1, 0.1), (2, 2, 2.0), (2, 2, np.nan)):
        matrix = np.array([[100, 0, 30], [0, 110, 20], [0, 0, 1.0]])
        matrix[row, column] = value
        with pytest.raises(ValueError, match="matrix must be"):
            predictor(flat(400, (40, 60)), intrinsics=matrix)


def test_options_that_are_none(predictor):
    for hand in ("left", [True, False], np.array([True]), 1, np.nan):
        for picture in (flat(400), DepthFrame(flat(400).astype(np.float32), "a")):
            with pytest.raises(ValueError, match="left_hand=.*True or False"):
                predictor(picture, left_hand=hand)
    with pytest.raises(TypeError, match="foo: no option; these are: intrinsics, center"):
        predictor(flat(400), foo=1)
    for scale in ("x", [1], -1):
        with pytest.raises(ValueError, match="depth_scale="):
            predictor(flat(400), depth_scale=scale)
    assert levels([predictor(flat(400), depth_scale=0)]) == [400]


def test_where_nothing_was_measured_is_nobody(predictor):
    assert [len(people) for people in predictor(np.stack([flat(300), flat(0)]))] == [1, 0]
    with pytest.raises(ValueError, match="nothing was measured"):
        predictor(flat(0))


def test_bad_pictures_keep_the_others_centres(predictor):
    skipped = []
    frames = predictor.open([flat(300), flat(0) - 1.0, flat(500)], skipped, center=[None, (0, 0, 400), (0, 0, 510)])
    assert levels(predictor.stream(frames)) == [300, 510] and len(skipped) == 1


def play(predictor, monkeypatch, source, output):
    """The preview's exit status and the number of people in every frame that it showed."""
    shown = []

    def draw(people, image, view):
        shown.append(len(people))
        return np.zeros((16, 16, 3), np.uint8)

    kind = types.SimpleNamespace(from_weights=lambda *_: predictor)
    monkeypatch.setattr("posekit.predictor.predictor_class", lambda system: kind)
    system = types.SimpleNamespace(VIEWS=("depth",), KEYS={}, OPTIONS={}, drawer=lambda: draw)
    options = preview.Command(source=str(source), output=str(output))
    return preview.run("v2v", system, None, options, []), shown


def test_preview_leaves_out_what_cannot_be_read(predictor, tmp_path, monkeypatch, capsys):
    folder, film = tmp_path / "frames", tmp_path / "film.mp4"
    folder.mkdir()
    for number, level in enumerate((300, 0, 400)):
        cv2.imwrite(str(folder / f"{number}.png"), flat(level))
    assert play(predictor, monkeypatch, folder, film) == (0, [1, 0, 1]) and film.exists()
    (folder / "1.png").write_bytes(b"no PNG")
    film.unlink()
    assert play(predictor, monkeypatch, folder, film) == (3, [1, 1]) and film.exists()
    assert "skipped" in (said := capsys.readouterr().err) and "1.png" in said
    for number in (0, 2):
        (folder / f"{number}.png").write_bytes(b"no PNG")
    film.unlink()
    with pytest.raises(ValueError, match="None of 3 pictures.*0.png"):
        play(predictor, monkeypatch, folder, film)
    with pytest.raises(ValueError, match="1.png"):
        play(predictor, monkeypatch, folder / "1.png", film)
    assert not film.exists()


def test_results_draw_and_write_themselves(predictor, tmp_path):
    people = predictor(flat(400))
    assert people.draw(tmp_path / "out.png").shape == (4, 6, 3)
    people.source = "000001_depth.bin"
    written = ResultFolder(tmp_path / "out", ("json", "npz", "obj", "png")).write(people)
    assert [path.name for path in written] == ["000001_depth.json", "000001_depth.npz", "000001_depth.png"]
    with pytest.raises(ValueError, match="center="):
        next(predictor.stream([DepthFrame(flat(400).astype(np.float32), "a")], boxes=[None]))


def test_the_network_itself_takes_pictures(tmp_path):
    """A hand far from the middle of the picture: what is found lies in the cube around it."""
    config = v2v.Config(dataset="nyu", cropped_size=16, original_size=24, width=2, joints=("palm", "thumb_tip"))
    network = DepthPredictor("v2v", v2v, config, v2v.build_model(config))
    depth = np.zeros((120, 160), np.float32)
    depth[20:60, 90:130] = 500
    people = network(depth, intrinsics=(150, 150, 80, 60))
    assert len(people) == 1 and people.skeleton.joints == ("thumb_tip", "palm")
    middle = np.array([(109.5 - 80) / 150, (39.5 - 60) / 150, 1]) * 0.5
    assert np.abs(people.joints3d[0] - middle).max() < 0.126
    np.testing.assert_allclose(people.keypoints_px[0], people.joints3d[0, :, :2] / people.joints3d[0, :, 2:] * 150
                               + [80, 60], atol=1e-3)  # fmt: skip
    assert people.draw(tmp_path / "hand.png").shape[2] == 3
    there = network(depth, intrinsics=(150, 150, 80, 60), center=1000 * middle)
    np.testing.assert_allclose(there.joints3d, people.joints3d, atol=0.02)


@pytest.fixture(scope="module")
def hands():
    """Depth pictures of a right hand that makes every gesture, and its true joints in metres."""
    rng, camera = np.random.default_rng(5), DepthCamera(475.1, 475.1, 315.9, 245.3, width=640, height=480)
    somebody, pictures, joints = sample_hand_shape(np.random.default_rng(4)), [], []
    for gesture in GESTURES:
        angles, rotations = sample_gesture(rng, gesture, 1)
        hand = pose_hand(somebody, angles, rotations, wrist_mm=[[20.0, 80.0, 400.0]], forearm_mm=30)
        scene = draw_cones(hand.flesh[0], camera)
        pictures.append(measure(rng, np.where(np.isfinite(scene), scene, 800.0), noise=1.0).astype(np.float32))
        joints.append(msra_joints(hand.points)[0] / 1000)
    return pictures, np.array(joints), camera


def errors_mm(network, hands, **options):
    pictures, joints, camera = hands
    found = network([*pictures], intrinsics=camera, **options)
    return 1000 * np.linalg.norm(np.array([people.joints3d[0] for people in found]) - joints, axis=-1)


def test_estimated_centers_do_as_well_as_true_ones(hands):
    """Estimates lie on the surface, nearer to the wrist than the joint that the network was trained around."""
    network = posekit.load("v2v")
    assert network.config.center_joint == "middle_mcp"
    true = errors_mm(network, hands, center=1000 * hands[1][:, MSRA21.index("middle_mcp")])
    twice = errors_mm(network, hands)
    network.config = network.config.replace(center_joint="none")
    once = errors_mm(network, hands)
    assert true.mean() < 8 and twice.mean() < 1.15 * true.mean() and twice.mean() < once.mean()
    tips = [MSRA21.index(f"{finger}_tip") for finger in ("index", "middle", "ring")]
    assert twice[:, tips].mean() < 0.9 * once[:, tips].mean()


def test_left_hands_are_looked_at_in_a_mirror(hands):
    network = posekit.load("v2v")
    pictures, joints, camera = hands = hands[0][::3], hands[1][::3], hands[2]
    mirrored = [picture[:, ::-1] for picture in pictures], joints * [-1, 1, 1], dataclasses.replace(
        camera, cx=camera.width - 1 - camera.cx + 2
    )  # fmt: skip
    right = errors_mm(network, hands)
    np.testing.assert_allclose(errors_mm(network, mirrored, left_hand=True), right, atol=0.01)
    assert errors_mm(network, mirrored).mean() > 2 * right.mean()
    some = mirrored[0][:2], mirrored[1][:2], mirrored[2]
    center = 1000 * some[1][:, MSRA21.index("middle_mcp")]
    assert errors_mm(network, some, left_hand=True, center=center).mean() < 2 * right.mean()
    found = network(some[0][0], intrinsics=some[2], left_hand=True)
    px = found.joints3d[0, :, :2] / found.joints3d[0, :, 2:] * camera.fx + [some[2].cx, some[2].cy]
    np.testing.assert_allclose(found.keypoints_px[0], px, atol=1e-3)
