"""The original's augmentation, number by number; pixels, silhouettes and labels move together."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.data import augment
from posekit.geometry.images import pad_edge, resized_crop
from posekit.skeletons import COCO_PLUS19, LSP14, SMPL24
from posekit.testing import load_fixture

ORIGINAL = load_fixture("hmr_data_utils")
RNG = np.random.default_rng(0)


def augmentation(jitter=(0, 0), scale=1.0, flip=False):
    return augment.Augmentation(tf.constant(jitter, tf.int32), tf.constant(scale, tf.float32), tf.constant(flip))


def rows(original_keypoints):
    """The original keeps keypoints as columns."""
    return original_keypoints.T


@pytest.mark.parametrize("margin", [1, 5, 30])
def test_pad_edge_equals_the_original(margin):
    np.testing.assert_array_equal(pad_edge(ORIGINAL["img"], margin), ORIGINAL[f"pad{margin}"])


def test_pad_edge_of_one_channel_equals_the_original():
    padded = ORIGINAL["pad_1ch"]
    source = ORIGINAL["img"][..., :1]
    np.testing.assert_array_equal(pad_edge(source, (padded.shape[0] - source.shape[0]) // 2), padded)


def test_flip_equals_the_original():
    image, keypoints, silhouette = augment.flip_person(
        ORIGINAL["flip_img_in"], tf.constant(rows(ORIGINAL["flip_kp_in"])), ORIGINAL["flip_seg_in"]
    )
    np.testing.assert_array_equal(image, ORIGINAL["flip_img"])
    np.testing.assert_array_equal(keypoints, rows(ORIGINAL["flip_kp"]))
    np.testing.assert_array_equal(silhouette, ORIGINAL["flip_seg"])


def test_flip_of_a_picture_that_is_not_square():
    source, keypoints = ORIGINAL["flip_nonsq_img_in"], tf.constant(rows(ORIGINAL["flip_kp_in"]))
    image, by_height, silhouette = augment.flip_person(source, keypoints, mirror_by="height")
    np.testing.assert_array_equal(image, ORIGINAL["flip_nonsq_img"])
    np.testing.assert_array_equal(by_height, rows(ORIGINAL["flip_nonsq_kp"]))
    assert silhouette is None
    _, by_width, _ = augment.flip_person(source, keypoints)
    np.testing.assert_allclose(by_width[:, 0] - by_height[:, 0], source.shape[1] - source.shape[0], atol=1e-5)
    with pytest.raises(ValueError, match="'width' or 'height'"):
        augment.flip_person(source, keypoints, mirror_by="depth")


@pytest.mark.parametrize("number", ["0.2", "0.5", "0.7"])
def test_random_flip_equals_the_original(number):
    flip = tf.constant(float(number) < 0.5)
    plan = augment.CropPlan(tf.constant([12, 12]), tf.zeros([2], tf.int32), tf.ones([2]), flip)
    keypoints = augment.crop_keypoints(tf.constant(rows(ORIGINAL["flip_kp_in"])), plan, 12)
    np.testing.assert_array_equal(keypoints, rows(ORIGINAL[f"random_flip_u{number}_kp"]))


def test_rescale_equals_the_original():
    np.testing.assert_allclose(augment.rescale_image(ORIGINAL["img"]), ORIGINAL["rescale"], atol=1e-5)


def test_jitter_center_equals_the_original():
    center, moved = ORIGINAL["j_center"].ravel(), ORIGINAL["jitter_center"].ravel()
    np.testing.assert_array_equal(augment.jitter_center(tf.constant(center), moved - center), moved)


@pytest.mark.parametrize("factor", ["0.8", "1", "1.137", "1.23"])
def test_jitter_scale_equals_the_original(factor):
    image, silhouette = ORIGINAL["j_img"], ORIGINAL["j_seg"]
    size, keypoints, center, _ = augment.jitter_scale(
        image.shape[:2], tf.constant(rows(ORIGINAL["j_kp"])), ORIGINAL["j_center"].ravel(), float(factor)
    )
    np.testing.assert_array_equal(size, ORIGINAL[f"js{factor}_img"].shape[:2])
    np.testing.assert_allclose(keypoints, rows(ORIGINAL[f"js{factor}_kp"]), atol=1e-5)
    np.testing.assert_array_equal(center, ORIGINAL[f"js{factor}_center"].ravel())
    for source, name in ((image, "img"), (silhouette, "seg")):
        resized = resized_crop(source, size, (0, 0), size)
        np.testing.assert_allclose(resized, ORIGINAL[f"js{factor}_{name}"], atol=1e-5)


@pytest.mark.parametrize("case", range(3))
def test_whole_chain_equals_the_original(case):
    numbers = ORIGINAL["pp_params_json"][case]
    crop, keypoints, silhouette = augment.augment_person(
        ORIGINAL["j_img"],
        tf.constant(rows(ORIGINAL["pp_label"])),
        ORIGINAL["j_center"].ravel(),
        augmentation(np.ravel(numbers["center_jitter"]), numbers["scale"], numbers["flip_u"] < 0.5),
        size=32,
        silhouette=ORIGINAL["j_seg"],
    )
    np.testing.assert_allclose(crop, ORIGINAL[f"pp{case}_crop"], atol=1e-5)
    np.testing.assert_allclose(keypoints, ORIGINAL[f"pp{case}_label"], atol=1e-5)
    np.testing.assert_allclose(silhouette, ORIGINAL[f"pp{case}_seg"], atol=1e-5)


def test_flipping_twice_changes_nothing():
    image = RNG.random((16, 22, 3)).astype(np.float32)
    silhouette = RNG.random((16, 22, 1)).astype(np.float32)
    # Sixteenths, so that no rounding hides behind the subtraction.
    keypoints = (RNG.integers(0, 300, (19, 3)) / 16).astype(np.float32)
    once = augment.flip_person(image, tf.constant(keypoints), silhouette)
    twice = augment.flip_person(*once)
    for result, start in zip(twice, (image, keypoints, silhouette)):
        np.testing.assert_array_equal(result, start)
    pose = RNG.normal(size=(3, 72)).astype(np.float32)
    joints = RNG.normal(size=(3, 14, 3)).astype(np.float32)
    np.testing.assert_array_equal(augment.reflect_pose(augment.reflect_pose(tf.constant(pose))), pose)
    np.testing.assert_array_equal(augment.reflect_joints3d(augment.reflect_joints3d(tf.constant(joints))), joints)


def test_reflections_worked_by_hand():
    pose = np.zeros([24, 3], np.float32)
    pose[SMPL24.index("left_elbow")] = [0.1, 0.2, 0.3]
    pose[SMPL24.index("neck")] = [0.4, 0.5, 0.6]
    mirrored = augment.reflect_pose(tf.constant(pose.ravel())).numpy().reshape(24, 3)
    np.testing.assert_array_equal(mirrored[SMPL24.index("right_elbow")], np.float32([0.1, -0.2, -0.3]))
    np.testing.assert_array_equal(mirrored[SMPL24.index("neck")], np.float32([0.4, -0.5, -0.6]))
    assert np.count_nonzero(mirrored) == 6
    # The tables of akanazawa/hmr.
    right, left = [11, 8, 5, 2, 14, 17, 19, 21, 23], [10, 7, 4, 1, 13, 16, 18, 20, 22]
    np.testing.assert_array_equal(SMPL24.flip_permutation[right], left)
    joints = np.zeros([14, 3], np.float32)
    joints[LSP14.index("right_wrist")] = [1.0, 2.0, 3.0]
    mirrored = augment.reflect_joints3d(tf.constant(joints)).numpy()
    np.testing.assert_array_equal(mirrored[LSP14.index("left_wrist")], [-1.0, 2.0, 3.0])
    assert np.count_nonzero(mirrored) == 3


def test_reflected_pose_is_the_mirror_image_of_its_rotations():
    axis_angle = RNG.normal(size=(24, 3))
    mirrored = augment.reflect_pose(tf.constant(axis_angle.ravel())).numpy().reshape(24, 3)
    flip_x = np.diag([-1.0, 1.0, 1.0])

    def matrix(vector):
        angle = np.linalg.norm(vector)
        x, y, z = vector / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross

    for joint, twin in enumerate(SMPL24.flip_permutation):
        np.testing.assert_allclose(matrix(mirrored[joint]), flip_x @ matrix(axis_angle[twin]) @ flip_x, atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("jitter", "scale"), [((0, 0), 1.0), ((13, -7), 0.8), ((-20, 19), 1.23)])
def test_one_white_pixel_lands_on_its_keypoint(jitter, scale, flip):
    rng = np.random.default_rng(5)
    for x, y in rng.integers(40, 110, (10, 2)):
        image = np.zeros((150, 160, 3), np.float32)
        image[y, x] = 1.0
        keypoints = np.tile(np.float32([x, y, 1.0]), (19, 1))
        crop, moved, silhouette = augment.augment_person(
            image, tf.constant(keypoints), (80, 75), augmentation(jitter, scale, flip), silhouette=image[..., :1]
        )
        for weight in (crop.numpy()[..., 0] * 0.5 + 0.5, silhouette.numpy()[..., 0]):
            across, down = weight.sum(0) @ np.arange(224), weight.sum(1) @ np.arange(224)
            landed = np.array([across, down]) / weight.sum()
            keypoint_px = (moved.numpy()[0, :2] + 1) * 112
            # Keypoints scale about pixel (0, 0), pixels about its corner (as in the original): up to .115 px apart.
            np.testing.assert_allclose(landed, keypoint_px, atol=0.4)


def test_squares_stay_on_their_keypoints():
    places = {"left_ankle": (60, 150), "right_ankle": (100, 150), "nose": (80, 40), "left_wrist": (40, 90)}
    image = np.zeros((200, 160, 3), np.float32)
    keypoints = np.zeros((19, 3), np.float32)
    for number, (name, (x, y)) in enumerate(places.items()):
        image[y - 3 : y + 4, x - 3 : x + 4] = (number + 1) / 8
        keypoints[COCO_PLUS19.index(name)] = [x, y, 1]
    silhouette = (image[..., :1] > 0).astype(np.float32)
    for index in range(20):
        numbers = augment.random_augmentation(3, 0, index)
        crop, moved, mask = augment.augment_person(
            image, tf.constant(keypoints), (80, 95), numbers, silhouette=silhouette
        )
        px = np.rint((moved.numpy() + 1) * 112).astype(int)
        for number, name in enumerate(places):
            # Flipped, the square of a left joint belongs to the right one.
            twin = COCO_PLUS19.flip_permutation[COCO_PLUS19.index(name)] if numbers.flip else COCO_PLUS19.index(name)
            x, y = px[twin, :2]
            np.testing.assert_allclose(crop.numpy()[y, x], (number + 1) / 4 - 1, atol=1e-5)
            assert mask.numpy()[y, x, 0] == 1


def test_keypoints_that_are_hidden_or_not_finite_become_zeros():
    bad = [[3.0, 4.0, 0.0], [np.nan, 4.0, 1.0], [3.0, np.inf, 1.0], [1.0, 1.0, np.nan]]
    keypoints = tf.constant([[112.0, 56.0, 1.0], *bad])
    expected = np.zeros((5, 3))
    expected[0] = [0.0, -0.5, 1.0]
    np.testing.assert_array_equal(augment.normalize_keypoints(keypoints), expected)


def test_center_far_outside_repeats_the_edge():
    image = RNG.random((30, 40, 3)).astype(np.float32)
    crop, _, _ = augment.augment_person(image, tf.zeros([19, 3]), (5000, -5000), augmentation(), size=16)
    np.testing.assert_allclose(crop, np.broadcast_to(image[0, -1] * 2 - 1, (16, 16, 3)), atol=1e-6)


def test_random_numbers_are_a_function_of_seed_epoch_and_index():
    def draw(*key):
        numbers = augment.random_augmentation(*key)
        return (*numbers.jitter_px.numpy().tolist(), float(numbers.scale), bool(numbers.flip))

    in_graph = tf.function(lambda epoch, index: augment.random_augmentation(7, epoch, index))
    keys = [(7, 2, 5), (7, 2, 6), (7, 3, 5), (8, 2, 5), (7, 5, 2)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(7, 2, 5) == draw(7, 2, 5)
    numbers = in_graph(tf.constant(2, tf.int64), tf.constant(5, tf.int64))
    assert draw(7, 2, 5) == (*numbers.jitter_px.numpy().tolist(), float(numbers.scale), bool(numbers.flip))


def test_random_numbers_have_the_originals_distribution():
    numbers = tf.vectorized_map(lambda index: augment.random_augmentation(0, 0, index), tf.range(4000))
    jitter = numbers.jitter_px.numpy()
    assert sorted(np.unique(jitter)) == list(range(-20, 20))
    np.testing.assert_allclose(jitter.mean(0), -0.5, atol=0.8)
    scale = numbers.scale.numpy()
    assert 0.8 <= scale.min() < 0.801 and 1.229 < scale.max() < 1.23
    np.testing.assert_allclose(scale.mean(), 1.015, atol=0.01)
    np.testing.assert_allclose(numbers.flip.numpy().mean(), 0.5, atol=0.03)
    still = augment.random_augmentation(0, 0, 1, trans_max=0, scale_min=1.0, scale_max=1.0)
    np.testing.assert_array_equal(still.jitter_px, [0, 0])
    assert float(still.scale) == 1.0


def test_wrong_number_of_keypoints_is_named():
    with pytest.raises(ValueError, match="14 of LSP14 or the 19 of COCO_PLUS19, got 17"):
        augment.flip_keypoints(tf.zeros([17, 3]), 224)
