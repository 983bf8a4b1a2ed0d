import numpy as np
import pytest

from posekit.codecs import screen_pose
from posekit.skeletons import H36M17, LSP14
from posekit.testing import load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("lcn_data_eval")


@pytest.fixture(scope="module")
def flips():
    return load_fixture("lcn_graph_tools")


def sizes(original, split):
    high = np.isin(original[f"{split}_camera_name"], [54138969, 60457274])
    return np.stack([np.full(len(high), 1000), np.where(high, 1002, 1000)], 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_normalised_data_equal_the_original(original, split):
    labels = screen_pose.normalize(original[f"{split}_joint_3d_image"], sizes(original, split))
    np.testing.assert_allclose(labels.reshape(-1, 51), original[f"read3d_{split}"], rtol=0, atol=1e-6)
    detected = original[f"dt_{split}_joint3d_image"][..., :2]
    for mode, joints in (("gt", original[f"{split}_joint_3d_image"][..., :2]), ("dt_ft", detected)):
        inputs = screen_pose.normalize(joints, sizes(original, split)).reshape(-1, 34)
        np.testing.assert_allclose(inputs, original[f"read2d_{mode}_conf0_{split}"], rtol=0, atol=1e-6)


def test_denormalised_predictions_equal_the_original(original):
    predicted = original["pred_norm"].reshape(-1, 17, 3)
    pixels = screen_pose.denormalize(predicted, sizes(original, "test"))
    np.testing.assert_allclose(pixels, original["denormalized"], rtol=0, atol=1e-6)
    labels = screen_pose.denormalize(original["read3d_test"].reshape(-1, 17, 3), sizes(original, "test"))
    np.testing.assert_allclose(labels, original["denorm_roundtrip"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("split", ["train", "test"])
def test_picture_frame_equals_the_original(original, split):
    intrinsics = original[f"{split}_fxfycxcy"]
    joints, box = screen_pose.camera_to_image(original[f"{split}_joint_3d_camera"], intrinsics)
    np.testing.assert_allclose(joints, original[f"{split}_joint_3d_image"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(box, original[f"{split}_box"], rtol=0, atol=1e-6)
    back = screen_pose.image_to_camera(joints, box, intrinsics, original[f"{split}_root_depth"])
    np.testing.assert_allclose(back, original[f"{split}_joint_3d_camera"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "pixels"), [("test1", "denormalized"), ("test2", "denormalized2")])
def test_camera_frame_equals_the_original(original, name, pixels):
    joints = screen_pose.image_to_camera(
        original[pixels], original["test_box"], original["test_fxfycxcy"], original["test_root_depth"]
    )
    np.testing.assert_allclose(joints, original[f"camera_frame_{name}"], rtol=0, atol=1e-4)


def test_flips_equal_the_original(flips):
    for key, count in (("34", 2), ("51", 3), ("3d", 3)):
        joints = flips[f"flip_in{key}"].reshape(-1, 17, count)
        doubled = np.concatenate([joints, screen_pose.flip(joints)])
        np.testing.assert_array_equal(doubled, flips[f"flip_out{key}"].reshape(-1, 17, count))
    plain, mirrored = flips["unflip_in"].reshape(2, -1, 17, 3)
    averaged = screen_pose.average_flipped(plain, mirrored)
    np.testing.assert_array_equal(averaged.reshape(-1, 51), flips["unflip_out"])


def test_by_hand():
    # A picture of 200 x 100: its right edge is 1, its lower edge 0.5.
    corners = np.array([[0.0, 0], [200, 100], [100, 50]])
    np.testing.assert_allclose(screen_pose.normalize(corners, (200, 100)), [[-1, -0.5], [1, 0.5], [0, 0]])
    np.testing.assert_allclose(screen_pose.normalize([[100.0, 50, 30]], (200, 100)), [[0, 0, 0.3]])
    # Two metres at 4 m through 1000 px are 500 px, and its last pixel is counted: 501 px for 2000 mm.
    joints, box = screen_pose.camera_to_image([[0.0, 0, 4000], [400, -200, 4200]], [1000, 1000, 500, 400])
    np.testing.assert_allclose(box, [250, 150, 750, 650])
    np.testing.assert_allclose(joints, [[500, 400, 0], [500 + 400 / 4.2, 400 - 200 / 4.2, 200 * 501 / 2000]])
    mirrored = screen_pose.flip(np.arange(51.0).reshape(17, 3))
    np.testing.assert_allclose(mirrored[H36M17.index("left_wrist")], [-48, 49, 50])
    np.testing.assert_allclose(mirrored[H36M17.index("nose")], [-27, 28, 29])


def test_round_trips():
    rng = np.random.default_rng(0)
    size = rng.uniform(200, 2000, (5, 4, 2))
    for count in (2, 3):
        joints = rng.uniform(-500, 1500, (5, 4, 17, count))
        back = screen_pose.denormalize(screen_pose.normalize(joints, size), size)
        np.testing.assert_allclose(back, joints, rtol=0, atol=1e-9)
    camera = rng.normal(0, 500, (5, 4, 17, 3)) + [0, 0, 5000]
    intrinsics = rng.uniform(500, 1500, (5, 4, 4))
    for root in (0, 7):
        image, box = screen_pose.camera_to_image(camera, intrinsics, root)
        back = screen_pose.image_to_camera(image, box, intrinsics, camera[..., root, 2])
        np.testing.assert_allclose(back, camera, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(screen_pose.flip(screen_pose.flip(camera)), camera)


def test_empty_batches_and_what_is_left_alone():
    for shape in ((0, 17, 2), (3, 0, 17, 3)):
        assert screen_pose.normalize(np.zeros(shape), (10, 10)).shape == shape
        assert screen_pose.flip(np.zeros(shape)).shape == shape
    joints = np.ones((2, 17, 3), np.float32)
    for function in (screen_pose.normalize, screen_pose.denormalize):
        assert function(joints, (10, 20)).dtype == np.float64
    assert screen_pose.flip(joints).dtype == np.float32
    np.testing.assert_array_equal(joints, 1)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"shape \(17, 4\)"):
        screen_pose.normalize(np.zeros((17, 4)), (10, 10))
    for size in ((0, 10), (10,), 10, (10, np.nan)):
        with pytest.raises(ValueError, match=r"not \(width, height\)"):
            screen_pose.denormalize(np.zeros((17, 2)), size)
    with pytest.raises(ValueError, match="17 joints of H36M17"):
        screen_pose.flip(np.zeros((16, 2)))
    with pytest.raises(ValueError, match="cannot be averaged"):
        screen_pose.average_flipped(np.zeros((2, 17, 3)), np.zeros((3, 17, 3)))
    assert screen_pose.flip(np.zeros((14, 2)), LSP14).shape == (14, 2)
