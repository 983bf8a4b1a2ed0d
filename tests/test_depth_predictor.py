"""Depth predictors: every kind of source, with its camera and centre, gives its people."""

import types

import cv2
import numpy as np
import pytest

from posekit.data.depth_sources import DepthFrame
from posekit.geometry.depth import DepthCamera
from posekit.predictor import DepthPredictor, ResultFolder, predictor_class
from posekit.results import People
from posekit.skeletons import Skeleton
from posekit.systems import v2v

DOT = Skeleton("dot", ("dot",))
MSRA = (241.42, 241.42, 160.0, 120.0)


def predict(config, model, depths, cameras, centers=None):
    """One joint, at the centre or at the middle of the picture's depths."""
    found = []
    for depth, camera, center in zip(depths, cameras, centers):
        assert isinstance(depth, np.ndarray) and depth.dtype == np.float32
        assert camera.unit == "mm" and not camera.y_up and (camera.height, camera.width) == depth.shape
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
    ):
        with pytest.raises(ValueError, match=word):
            predictor(pictures, center=wrong)


def test_bad_pictures_keep_the_others_centres(predictor):
    skipped = []
    frames = predictor.open([flat(300), flat(0), flat(500)], skipped, center=[None, (0, 0, 400), (0, 0, 510)])
    assert levels(predictor.stream(frames)) == [300, 510] and len(skipped) == 1


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
