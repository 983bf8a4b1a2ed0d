import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from posekit.data.people_augment import (
    PeopleAugmentation,
    PeopleDraws,
    Stepwise,
    draw_people,
    move_joints,
    plan_people,
    shrink_mask,
    still_people,
    warp_people,
)
from posekit.skeletons import OPENPOSE18
from posekit.testing import load_fixture

ORIGINAL = PeopleAugmentation(flip="original")


@pytest.fixture(scope="module")
def truth():
    return load_fixture("rmpe_augment")


@pytest.fixture
def start(truth):
    return Stepwise(truth["img"], truth["mask"], truth["point8"], truth["center"][0])


def check(made, truth, prefix):
    points = truth[f"{prefix}_point8"]
    real = points[:, 0] > -1000
    np.testing.assert_allclose(made.points[real], points[real], rtol=0, atol=1e-4)
    np.testing.assert_allclose(made.center, truth[f"{prefix}_center"][0], rtol=0, atol=1e-4)
    assert np.abs(made.image.astype(int) - truth[f"{prefix}_img"]).max() <= 2
    if made.mask is not None:
        assert np.abs(made.mask.astype(int) - truth[f"{prefix}_mask"]).max() <= 2
        # That tolerance says little about a mask of 0 and 1.
        assert (made.mask != truth[f"{prefix}_mask"]).mean() < 1e-3


def draws(scale=1.0, degrees=0.0, shift=(0.0, 0.0), flip=False):
    return PeopleDraws(
        tf.constant(scale, tf.float64),
        tf.constant(degrees, tf.float64),
        tf.constant(shift, tf.float64),
        tf.constant(flip),
    )


# ------------------------------------------------------------------------------------- step by step, as the original


def test_steps_equal_the_original(start, truth):
    check(start.scaled(0.9, truth["scale"]), truth, "scale_0.9")
    check(start.scaled(0.5, truth["scale"]), truth, "scale_0.5")
    check(start.rotated(25.0), truth, "rotate_25")
    check(start.rotated(-40.0), truth, "rotate_-40")
    check(start.cropped(truth["crop_big_rand"]), truth, "crop_big")
    check(start.cropped(truth["crop_small64x48_rand"], (64, 48)), truth, "crop_small64x48")
    check(start.flipped(OPENPOSE18, "original"), truth, "flip_yes")
    check(start, truth, "flip_no")
    without = Stepwise(start.image, None, start.points, start.center)
    check(without.flipped(OPENPOSE18, "original"), truth, "flip_nomask")


def test_chain_equals_the_original(start, truth):
    made = start.scaled(0.83, truth["scale"])
    check(made, truth, "chain0_scale")
    made = made.rotated(-17.5)
    check(made, truth, "chain1_rotate")
    made = made.cropped(truth["chain2_crop_rand"])
    check(made, truth, "chain2_crop")
    made = made.flipped(OPENPOSE18, "original")
    # The last picture of the reference was masked in place; its mask is one step off in a few pixels, as allowed.
    check(dataclasses.replace(made, image=made.image * truth["chain3_flip_mask"][..., None]), truth, "chain3_flip")


# --------------------------------------------------------------------------------------------- in one resampling


def composed(truth, numbers, augmentation=ORIGINAL):
    plan = plan_people(truth["img"].shape[:2], truth["center"][0], truth["scale"] * 368, numbers, augmentation)
    people = truth["people"]
    joints, present = move_joints(people[..., :2], people[..., 2] > 0, plan, numbers, OPENPOSE18, augmentation.flip)
    image, mask = warp_people(truth["img"], truth["mask"][..., None], plan, augmentation.crop_size)
    return image.numpy(), mask.numpy(), joints.numpy(), present.numpy()


def test_one_resampling_equals_the_chain(start, truth):
    numbers = draws(0.83, -17.5, truth["chain2_crop_rand"], True)
    image, mask, joints, present = composed(truth, numbers)
    np.testing.assert_array_equal(present, truth["chain3_flip_joints"][..., 2] > 0)
    np.testing.assert_allclose(joints, truth["chain3_flip_joints"][..., :2], rtol=0, atol=1e-4)
    difference = np.abs(image * mask - truth["chain3_flip_img"])
    # Noise looks different through another filter and a third of a pixel off; the border does not.
    assert np.median(difference) < 1 and (mask[..., 0] != truth["chain3_flip_mask"]).mean() < 0.01
    small = shrink_mask(tf.constant(truth["chain3_flip_mask"][..., None], tf.float32)).numpy()
    assert (small != truth["sample_mask_paf"]).sum() == 0


def test_one_resampling_equals_the_steps_for_many_draws(start, truth):
    for scale, degrees, shift, flip in itertools.product(
        (0.5, 1.1), (-40.0, -3.0, 0.0, 33.3), ((-0.5, 0.49), (0.31, -0.17)), (False, True)
    ):
        made = start.scaled(scale, truth["scale"]).rotated(degrees).cropped(shift)
        made = made.flipped(OPENPOSE18, "original") if flip else made
        _, _, joints, present = composed(truth, draws(scale, degrees, shift, flip))
        there = made.points.reshape(joints.shape)
        np.testing.assert_allclose(joints[present], there[present], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(present, ((there > 0) & (there <= 2000)).all(-1))


def test_coarse_mask_equals_the_original(truth):
    mask = truth["create_all_mask_in"]
    small = shrink_mask(tf.constant(mask[..., None], tf.float32)).numpy()
    np.testing.assert_array_equal(small[..., 0], truth["create_all_mask_out"][..., 0])


@pytest.mark.parametrize(
    "numbers",
    [
        draws(),
        draws(scale=1.6),
        draws(degrees=35.0),
        draws(shift=(0.4, -0.3)),
        draws(flip=True),
        draws(1.5, -28.0, (-0.35, 0.25), True),
    ],
    ids=["still", "scale", "turn", "crop", "flip", "all"],
)
def test_one_white_pixel(numbers):
    augmentation = PeopleAugmentation(crop_size=96, target_dist=0.9, shift_max=10.0)
    height, width, places = 100, 140, ((61, 40), (80, 55), (70, 48))
    joints = np.zeros((len(places), 18, 2))
    joints[:, 2] = places  # the right shoulder
    present = np.zeros((len(places), 18), bool)
    present[:, 2] = True
    plan = plan_people((height, width), (70.0, 50.0), 60.0, numbers, augmentation)
    moved, there = move_joints(joints, present, plan, numbers, OPENPOSE18)
    joint = 5 if numbers.flip else 2
    assert there.numpy()[:, joint].all() and there.numpy().sum() == len(places)
    for (x, y), place in zip(places, moved.numpy()[:, joint]):
        # A pixel of which the resampling sees more than a point.
        image = np.zeros((height, width, 3), np.uint8)
        image[y, x] = 255
        mask = np.ones((height, width, 1), np.uint8)
        mask[y - 1 : y + 2, x - 1 : x + 2] = 0
        crop, hole = warp_people(image, mask, plan, 96, border=0)
        bright = crop.numpy()[..., 0]
        rows, columns = np.mgrid[:96, :96]
        seen = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
        assert np.abs(seen - place).max() < 0.25
        holes = np.argwhere(hole.numpy()[..., 0] == 0)
        assert len(holes) >= 4 and np.abs(holes.mean(0)[::-1] - place).max() < 0.6


def test_flip_original_is_one_pixel_off(truth):
    numbers = draws(flip=True)
    here = composed(truth, numbers, PeopleAugmentation())[2]
    there = composed(truth, numbers, ORIGINAL)[2]
    present = here[..., 0] > 0
    np.testing.assert_allclose((there - here)[present], np.tile([1.0, 0.0], (present.sum(), 1)), atol=1e-4)


def test_borders_of_a_picture_that_is_far_smaller():
    plan = plan_people((20, 30), (15.0, 10.0), 200.0, still_people(), PeopleAugmentation())
    image, mask = warp_people(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 1), np.uint8), plan, 368)
    assert (image.numpy()[:150] == 128).all() and (mask.numpy()[:150] == 1).all()
    assert image.numpy().min() == 0 and mask.numpy().min() == 0
    tiny = plan_people((1, 1), (0.5, 0.5), 1e6, still_people(), PeopleAugmentation())
    assert np.isfinite(tiny).all()


def test_draws():
    augmentation = PeopleAugmentation()
    made = [draw_people(7, 2, index, augmentation) for index in range(200)]
    again = draw_people(7, 2, 5, augmentation)
    tf.nest.map_structure(np.testing.assert_array_equal, again, made[5])
    scales, degrees = (np.array([getattr(one, name) for one in made]) for name in ("scale", "degrees"))
    assert scales.min() >= 0.5 and scales.max() <= 1.1 and np.ptp(scales) > 0.5
    assert np.abs(degrees).max() <= 40 and np.ptp(degrees) > 70
    assert 70 < sum(bool(one.flip) for one in made) < 130
    assert all((np.abs(one.shift) <= 0.5).all() for one in made)


@pytest.mark.parametrize(
    "options",
    [{"flip": "x"}, {"crop_size": 0}, {"scale_min": 2.0}, {"scale_min": 0.0}, {"rotate_max": -1.0}, {"flip_prob": 2.0}],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PeopleAugmentation(**options)
