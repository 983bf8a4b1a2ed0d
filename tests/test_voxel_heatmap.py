import math

import cv2
import numpy as np
import pytest
import tensorflow as tf

from posekit.codecs.voxel_heatmap import Augmentation, VoxelCodec
from posekit.geometry.depth import DATASET_CAMERAS, depth_to_points, pixel_to_world
from posekit.testing import load_fixture, shared_data

VARIANTS = {"src": "heatmap", "integral": "integral"}
FORMS = [("pytorch", "heatmap"), ("pytorch", "integral"), ("lua", "heatmap")]


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("v2v_voxel")


def codec_of(variant):
    return VoxelCodec(cubic_size=200, head=VARIANTS[variant])


def small_codec(convention, head, **options):
    return VoxelCodec(
        200, original_size=36, cropped_size=32, pool=2, sigma=1.2, convention=convention, head=head, **options
    )


def cases(fixture):
    for number, (new_size, angle, translation) in enumerate(fixture["cases_json"]):
        yield number, Augmentation(new_size, angle, translation)


def batch_of(augmentations):
    parts = [(size, angle, np.broadcast_to(translation, 3)) for size, angle, translation in augmentations]
    return Augmentation(*(tf.constant(np.stack(part), tf.float64) for part in zip(*parts)))


def some_frames(codec, count, seed=0, points=400):
    """Points, joints and reference points of frames as of the codec's cube, some of them outside it."""
    rng = np.random.default_rng(seed)
    refpoints = rng.uniform((-50, -50, 300), (50, 50, 400), (count, 3))
    points = refpoints[:, None] + rng.normal(0, 0.3, (count, points, 3)) * codec.cubic_size
    joints = refpoints[:, None] + rng.normal(0, 0.15, (count, 5, 3)) * codec.cubic_size
    return points, joints, refpoints


@pytest.mark.parametrize("variant", VARIANTS)
def test_coordinates_and_voxels_equal_to_the_original(fixture, variant):
    codec = codec_of(variant)
    points, joints, refpoint = fixture["points"], fixture["keypoints"], fixture["refpoint"]
    for number, augmentation in cases(fixture):
        key = f"{variant}_c{number}"
        coords = codec.world_to_cube(points[::7], refpoint, augmentation)
        np.testing.assert_allclose(coords, fixture[f"{key}_coord"], atol=1e-6)
        expected = fixture[f"{key}_kp_coord"]
        np.testing.assert_allclose(codec.world_to_cube(joints, refpoint, augmentation), expected, atol=1e-6)
        grid = codec.joints_to_grid(joints, refpoint, augmentation)
        np.testing.assert_allclose(grid, fixture.get(f"{key}_volcoord", expected / 2), atol=1e-6)
        occupied = np.flatnonzero(codec.voxels(points, refpoint, augmentation))
        np.testing.assert_array_equal(occupied, fixture[f"{key}_vox_idx"])


def test_steps_equal_to_the_original(fixture):
    """What the original calls discretize and warp2continuous are the codec's ways without augmentation."""
    given = fixture["discretize_in"]
    codec = VoxelCodec(cubic_size=2)
    np.testing.assert_allclose(codec.world_to_cube(given, np.zeros(3)), fixture["discretize_out"], atol=1e-6)
    np.testing.assert_allclose(
        codec_of("src").cube_to_world(fixture["warp_in"], fixture["warp_ref"][:, 0]), fixture["warp_out"], atol=1e-6
    )


def check_heatmaps(fixture, key, heatmaps):
    """Heatmaps `[joints, x, y, z]` against the parts of the original's that the fixture holds."""
    np.testing.assert_allclose(heatmaps[:, ::6, ::6, ::6], fixture[f"{key}_heat_sub"], atol=1e-6)
    np.testing.assert_allclose(heatmaps.max((1, 2, 3)), fixture[f"{key}_heat_max"], atol=1e-6)
    if f"{key}_heat_joint0" in fixture:
        np.testing.assert_allclose(heatmaps[0], fixture[f"{key}_heat_joint0"], atol=1e-6)
    check_sums(fixture, key, heatmaps)


def check_sums(fixture, key, volumes):
    sums = volumes.sum((1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(sums, fixture[f"{key}_heat_sum"], rtol=1e-6)  # of 85184 values
    peaks = volumes.reshape(len(volumes), -1).argmax(-1)
    np.testing.assert_array_equal(peaks, fixture[f"{key}_heat_argmax"])


def check_one_hot(fixture, key, volumes):
    index, values = fixture[f"{key}_onehot_idx"], fixture[f"{key}_onehot_val"]
    np.testing.assert_allclose(volumes[tuple(index.T)], values, atol=1e-6)
    np.testing.assert_allclose(volumes.sum(), values.sum(), rtol=1e-6)


def test_heatmaps_equal_to_the_original(fixture):
    codec = codec_of("src")
    for number, augmentation in cases(fixture):
        grid = codec.joints_to_grid(fixture["keypoints"], fixture["refpoint"], augmentation)
        check_heatmaps(fixture, f"src_c{number}", codec.target(grid))


def test_weights_of_corners_equal_to_the_original(fixture):
    codec = codec_of("integral")
    for number, augmentation in cases(fixture):
        grid = codec.joints_to_grid(fixture["keypoints"], fixture["refpoint"], augmentation)
        check_one_hot(fixture, f"integral_c{number}", codec.target(grid))


@pytest.mark.parametrize("variant", VARIANTS)
def test_calls_equal_to_the_original(fixture, variant):
    codec = codec_of(variant)
    frame = fixture["points"], fixture["keypoints"], fixture["refpoint"]
    augmentation = codec.augmentation(np.random.RandomState(42).random_sample(5))
    np.testing.assert_allclose(np.hstack(augmentation), fixture["seed42_params"], rtol=1e-12)
    voxels, grid, target = codec.encode(*frame, augmentation)
    np.testing.assert_array_equal(np.flatnonzero(voxels), fixture[f"{variant}_call_aug_seed42_vox_idx"])
    check_sums(fixture, f"{variant}_call_aug_seed42", target)
    if variant == "integral":
        np.testing.assert_allclose(grid, fixture["integral_call_aug_seed42_coords"], atol=1e-6)
    voxels, _, _ = codec.encode(*frame)
    assert voxels[None].shape == tuple(fixture[f"{variant}_call_noaug_shape"])
    np.testing.assert_array_equal(np.flatnonzero(voxels), fixture[f"{variant}_call_noaug_vox_idx"])


def test_evaluation_equal_to_the_original(fixture):
    codec = codec_of("src")
    points, joints, refpoint = fixture["points"], fixture["keypoints"], fixture["refpoint"]
    np.testing.assert_array_equal(np.flatnonzero(codec.voxels(points, refpoint)), fixture["voxelize_vox_idx"])
    target = codec.target(codec.joints_to_grid(joints, refpoint))
    np.testing.assert_allclose(codec.decode(target, refpoint), fixture["evaluate_of_gt_heatmap"], atol=1e-6)
    np.testing.assert_array_equal(codec.extract(fixture["extract_in"]), fixture["extract_out"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_batches_equal_to_the_original(fixture, variant, dtype):
    codec = codec_of(variant)
    batched = codec.batched()
    numbers, augmentations = zip(*list(cases(fixture))[1:4])
    augmentation = batch_of(augmentations)
    count = len(numbers)
    points = tf.constant(np.stack([fixture["points"]] * count), dtype)
    joints = np.stack([fixture["keypoints"]] * count)
    refpoints = np.stack([fixture["refpoint"]] * count)
    voxels = batched.voxels(points, refpoints, augmentation).numpy()
    grid = batched.joints_to_grid(joints, refpoints, augmentation)
    target = batched.target(grid).numpy()
    assert voxels.shape == (count, 88, 88, 88, 1) and voxels.dtype == np.float32
    assert target.shape == (count, 44, 44, 44, 21) and target.dtype == np.float32
    for number, voxel, places, volumes in zip(numbers, voxels, grid.numpy(), np.moveaxis(target, -1, 1)):
        key = f"{variant}_c{number}"
        different = np.setxor1d(np.flatnonzero(voxel), fixture[f"{key}_vox_idx"])
        allowed = 0.001 * len(fixture[f"{key}_vox_idx"]) if dtype == tf.float32 else 0
        assert len(different) <= allowed
        if variant == "src":
            check_heatmaps(fixture, key, volumes)
        else:
            np.testing.assert_allclose(places, fixture[f"{key}_volcoord"], atol=1e-6)
            check_one_hot(fixture, key, volumes)


@pytest.mark.parametrize("convention, head", FORMS)
def test_batches_equal_to_single_frames(convention, head):
    codec = small_codec(convention, head)
    batched = codec.batched()
    points, joints, refpoints = some_frames(codec, 4)
    drawn = codec.draw(3, (4,))
    for augmentation in (None, drawn):
        tensors = None if augmentation is None else Augmentation(*map(tf.constant, augmentation))

        @tf.function
        def encode(points, joints, refpoints, tensors=tensors):
            grid = batched.joints_to_grid(joints, refpoints, tensors)
            return batched.voxels(points, refpoints, tensors, dtype=tf.uint8), grid, batched.target(grid)

        voxels, grid, target = encode(*map(tf.constant, (points, joints, refpoints)))
        back = batched.decode(target, refpoints, tensors)
        for number in range(4):
            one = None if augmentation is None else Augmentation(*(part[number] for part in augmentation))
            expected = codec.encode(points[number], joints[number], refpoints[number], one)
            np.testing.assert_array_equal(voxels[number, ..., 0], expected[0])
            np.testing.assert_allclose(grid[number], expected[1], atol=1e-9)
            np.testing.assert_allclose(np.moveaxis(target[number], -1, 0), expected[2], atol=1e-6)
            # Peaks of what is next to nothing tie in float32.
            seen = expected[2].max((1, 2, 3)) > 1e-6
            decoded = codec.decode(expected[2], refpoints[number], one)
            np.testing.assert_allclose(back[number].numpy()[seen], decoded[seen], atol=1e-3)


@pytest.mark.parametrize("convention, head", FORMS)
def test_augmentation_is_undone_exactly(convention, head):
    codec = VoxelCodec(250, convention=convention, head=head)
    _, joints, refpoints = some_frames(codec, 50)
    augmentation = codec.draw(1, (50,))
    cube = codec.world_to_cube(joints, refpoints, augmentation)
    back = codec.cube_to_world(cube, refpoints, augmentation)
    if convention == "pytorch":
        np.testing.assert_allclose(back, joints, atol=1e-9)
    else:  # the middle of the joint's voxel
        assert np.abs(back - joints).max() <= codec.voxel_size / 2 + 1e-9
        np.testing.assert_allclose(codec.cube_to_world(codec.world_to_cube(joints, refpoints), refpoints), back)
    tensors = Augmentation(*map(tf.constant, augmentation))
    np.testing.assert_allclose(codec.batched().to_world(cube / 2, refpoints, tensors), back, atol=1e-9)


@pytest.mark.parametrize("convention, head", FORMS)
def test_encoded_joints_come_back(convention, head):
    codec = small_codec(convention, head)
    rng = np.random.default_rng(0)
    refpoint = np.array([10.0, -20, 350])
    joints = refpoint + rng.uniform(-0.35, 0.35, (300, 3)) * codec.cubic_size
    error = codec.decode(codec.target(codec.joints_to_grid(joints, refpoint)), refpoint) - joints
    voxel = codec.voxel_size * codec.pool  # of the grid
    if head == "integral":
        np.testing.assert_allclose(error, 0, atol=1e-9)
    elif convention == "pytorch":
        assert np.abs(error).max() <= voxel / 2 + 1e-9
        assert np.abs(error.mean(0)).max() < 0.05 * voxel
    else:  # the lower of two equal peaks: rounded twice, and never more than a quarter of a voxel off on average
        assert np.abs(error).max() <= 0.75 * voxel + 1e-9
        np.testing.assert_allclose(error.mean(0), -voxel / 4, atol=0.05 * voxel)


def test_lua_by_hand():
    # Voxels of 2.5 mm; voxel 0 begins 100 mm before the reference point.
    codec = VoxelCodec(220, convention="lua")
    refpoint = np.array([0.0, 0, 500])

    def cube(point, new_size=100.0, angle=0.0, translation=4.0):
        augmentation = Augmentation(new_size, angle, translation)
        return codec.world_to_cube(np.array([point]) + refpoint, refpoint, augmentation)[0]

    np.testing.assert_array_equal(cube([0, 0, 0]), [44, 44, 44])
    np.testing.assert_array_equal(cube([2.4, -0.1, 2.5]), [44, 43, 45])
    np.testing.assert_array_equal(cube([2.4, -0.1, 2.5], translation=[0, 1, 8]), [48, 46, 41])
    # 90%: floor(86.4) = 86 of 96 voxels, moved by floor(4.8) = 4. Voxel 44 of the cube is 48 of the larger one.
    np.testing.assert_allclose(cube([0, 0, 0], new_size=90), 48 / 96 * 86 + 4 - 4)
    # 110%: floor(105.6) = 105 voxels, moved back by floor(4.8) = 4.
    np.testing.assert_allclose(cube([0, 0, 0], new_size=110), 48 / 96 * 105 - 4 - 4)
    # A quarter turn with y upwards: from x to y upwards, which is down the index. 47.5 is the middle.
    np.testing.assert_allclose(cube([25, 0, 7.5], angle=np.pi / 2), [48 - 4, 47.5 - 10.5 - 4, 47], atol=1e-12)
    # Points go to the nearest voxel, halves to the upper one.
    quarter = Augmentation(100.0, np.pi / 2, 3.5)
    assert codec.voxels(np.array([[25.0, 0, 500]]), refpoint, quarter)[45, 34, 45] == 1
    # Whole voxels of the margin of 8, both ends included.
    np.testing.assert_array_equal(codec.augmentation([0.5, 0.5, 0.0, 0.5, 0.999]).translation, [0, 4, 8])
    # A heatmap peaks at half its joint's voxel, and half a voxel is added on the way back.
    grid = codec.joints_to_grid(np.array([[21.0, 0.0, 500.0]]), refpoint)
    np.testing.assert_array_equal(grid, [[26, 22, 22]])
    assert codec.heatmaps(grid)[0, 26, 22, 22] == 1
    np.testing.assert_allclose(codec.to_world(grid, refpoint), [[21.25, 1.25, 501.25]])


def test_lua_step_by_step():
    """Every step of the Lua original on one number at a time, with its indices from 1 turned to 0 at the end."""
    codec = VoxelCodec(250, convention="lua")
    rng = np.random.default_rng(0)
    refpoint = np.array([10.0, 20, 700])
    for point in refpoint + rng.uniform(-120, 120, (200, 3)):
        augmentation = codec.draw(rng)
        size, angle = augmentation.new_size, augmentation.angle
        voxel = [math.floor(((p - r) / 125 + 1) / (2 / 88)) + 4 for p, r in zip(point, refpoint)]
        if size < 100:
            voxel = [v / 96 * math.floor(96 * size / 100) + math.floor(48 - 48 * size / 100) for v in voxel]
        else:
            voxel = [v / 96 * math.floor(96 * size / 100) - math.floor(48 * size / 100 - 48) for v in voxel]
        right, up = voxel[0] - 47.5, (95 - voxel[1]) - 47.5
        voxel[0] = right * math.cos(angle) - up * math.sin(angle) + 47.5
        voxel[1] = 95 - (right * math.sin(angle) + up * math.cos(angle) + 47.5)
        expected = [v - t for v, t in zip(voxel, augmentation.translation)]
        np.testing.assert_allclose(codec.world_to_cube(point[None], refpoint, augmentation)[0], expected, atol=1e-9)
        index = [math.floor(v + 0.5 + 1e-4) for v in expected]  # halves up, whatever their last bits are
        inside = all(0 <= i < 88 for i in index)
        np.testing.assert_array_equal(
            np.argwhere(codec.voxels(point[None], refpoint, augmentation)), [index] if inside else np.zeros((0, 3))
        )


def test_pytorch_by_hand():
    codec = VoxelCodec(220)  # voxels of 2.5 mm
    refpoint = np.array([0.0, 0, 500])
    point = np.array([[10.0, -5, 520]])

    def cube(*augmentation, codec=codec):
        return codec.world_to_cube(point, refpoint, Augmentation(*augmentation))[0]

    np.testing.assert_allclose(cube(100.0, 0.0, 4.0), [48, 42, 52])
    np.testing.assert_allclose(cube(80.0, 0.0, [0, 4, 8.0]), [48 + 3.2, 44 - 1.6, 40 + 6.4])
    np.testing.assert_allclose(cube(100.0, np.pi / 2, 4.0), [46, 48, 52], atol=1e-12)
    integral = VoxelCodec(220, head="integral")
    np.testing.assert_allclose(cube(80.0, 0.0, 4.0, codec=integral), [49, 41.5, 54])


def test_joints_outside_the_cube():
    refpoint = np.array([0.0, 0, 500])
    joints = np.array([[500.0, 0, 500], [101.0, 0, 500], [-101.0, 0, 500]])
    for convention in ("pytorch", "lua"):
        codec = VoxelCodec(200, convention=convention)
        volumes = codec.target(codec.joints_to_grid(joints, refpoint))
        assert volumes[0].max() < 1e-6 and 0.5 < volumes[1].max() < 1
        np.testing.assert_array_equal(codec.extract(volumes)[1:, 0] // 1, [43, 0])
    codec = VoxelCodec(200, head="integral")
    grid = codec.joints_to_grid(joints, refpoint)
    np.testing.assert_array_equal(grid[:, 0], [42, 42, 0])
    np.testing.assert_allclose(codec.target(grid).sum((1, 2, 3)), 1)
    assert np.isnan(codec.joints_to_grid(np.full((1, 3), np.nan), refpoint)).all()


@pytest.mark.parametrize("convention, head", FORMS)
def test_nothing_and_unknown(convention, head):
    codec = small_codec(convention, head)
    batched = codec.batched()
    refpoint = np.array([0.0, 0, 300])
    nowhere = np.array([[np.nan, 0, 300], [np.inf, 0, 300], [0, -np.inf, 300], [1e38, 0, 300], [0, 0, 1000]])
    for points in (np.zeros((0, 3)), nowhere, np.full((7, 3), 1e9)):
        assert not codec.voxels(points, refpoint).any()
        for dtype in (np.float32, np.float64):
            assert not batched.voxels(points[None].astype(dtype), refpoint[None]).numpy().any()
    joints = np.array([[np.nan, 0, 300], [0, 0, 300.0]])
    volumes = codec.target(codec.joints_to_grid(joints, refpoint))
    tensors = batched.target(batched.joints_to_grid(joints[None], refpoint[None])).numpy()[0]
    assert not volumes[0].any() and volumes[1].any() and not tensors[..., 0].any() and tensors[..., 1].any()
    assert batched.voxels(np.zeros((0, 5, 3)), np.zeros((0, 3))).shape == (0, 32, 32, 32, 1)
    assert batched.target(np.zeros((0, 2, 3))).shape == (0, 16, 16, 16, 2)


def test_broken_heatmaps_give_no_joints():
    codec = small_codec("pytorch", "heatmap")
    volumes = np.random.default_rng(0).random((2, 3, 4, 5, 6))
    volumes[0, 1, 2, 2, 2] = np.nan
    for coords in (
        codec.extract(volumes),
        codec.batched().extract(np.moveaxis(volumes, 1, -1)).numpy(),
    ):
        np.testing.assert_array_equal(np.isnan(coords).all(-1), [[False, True, False], [False] * 3])
    whole = np.nan_to_num(volumes)
    np.testing.assert_array_equal(codec.batched().extract(np.moveaxis(whole, 1, -1)), codec.extract(whole))
    ties = np.zeros((1, 4, 4, 4, 1))
    ties[0, 2, 1, 0] = ties[0, 1, 3, 3] = 1
    np.testing.assert_array_equal(codec.batched().extract(ties), [[[1.5, 3.5, 3.5]]])
    integral = small_codec("pytorch", "integral")
    assert np.isnan(integral.extract(np.zeros((1, 4, 4, 4)))).all()
    assert np.isnan(integral.batched().extract(np.zeros((1, 4, 4, 4, 1)))).all()


@pytest.mark.parametrize("jit, batch_size", [(False, 3), (True, 5)])
def test_in_a_pipeline(jit, batch_size):
    codec = small_codec("pytorch", "heatmap")
    batched = codec.batched()
    points, joints, refpoints = some_frames(codec, 5, points=20)

    @tf.function(jit_compile=jit)
    def encode(points, joints, refpoints, uniform):
        augmentation = batched.augmentation(uniform)
        grid = batched.joints_to_grid(joints, refpoints, augmentation)
        return batched.voxels(points, refpoints, augmentation), batched.target(grid)

    uniform = np.random.default_rng(0).random((5, 5))
    frames = tf.data.Dataset.from_tensor_slices((points, joints, refpoints, uniform))
    voxels, target = map(np.concatenate, zip(*frames.batch(batch_size).map(encode).as_numpy_iterator()))
    assert voxels.shape == (5, 32, 32, 32, 1) and target.shape == (5, 16, 16, 16, 5)
    for number in range(5):
        augmentation = codec.augmentation(uniform[number])
        expected, _, heatmaps = codec.encode(points[number], joints[number], refpoints[number], augmentation)
        np.testing.assert_array_equal(voxels[number, ..., 0], expected)
        np.testing.assert_allclose(np.moveaxis(target[number], -1, 0), heatmaps, atol=1e-6)


@pytest.mark.parametrize("convention, head", FORMS)
def test_a_real_hand_comes_back(convention, head):
    folder = shared_data() / "nyu"
    picture = cv2.imread(str(folder / "depth_1_0000001.png")).astype(int)
    depth = picture[:, :, 1] * 256 + picture[:, :, 0]
    joints = pixel_to_world(np.loadtxt(folder / "depth_1_0000001_uvd.txt").reshape(14, 3), "nyu")
    codec = VoxelCodec(250, convention=convention, head=head)
    refpoint = joints.mean(0)
    points = depth_to_points(depth, "nyu", first_pixel=codec.first_pixel).reshape(-1, 3)
    voxels, grid, target = codec.encode(points, joints, refpoint)
    voxel = codec.voxel_size * codec.pool
    np.testing.assert_allclose(codec.to_world(grid, refpoint), joints, atol=voxel / 2)
    # Lua's peaks are of half resolution twice over: the voxel is rounded down, and of two equal peaks the lower counts.
    allowed = 0.75 if convention == "lua" else 0.5
    np.testing.assert_allclose(codec.decode(target, refpoint), joints, atol=allowed * voxel)
    # The camera sees the hand's front: a joint is near it or behind it.
    occupied = np.argwhere(voxels)
    places = codec.world_to_cube(joints, refpoint) - (0.5 if convention == "pytorch" else 0)
    offset = places[:, None] - occupied
    near = np.linalg.norm(offset, axis=-1).min(1) * codec.voxel_size <= 10
    depth = offset[..., 2] * codec.voxel_size
    behind = ((np.abs(offset[..., :2]) <= 1).all(-1) & (depth > 0) & (depth < 40)).any(1)  # a hand is no thicker
    assert near.sum() >= 8 and (near | behind).sum() >= 12


def test_ragged_and_padded_points():
    codec = small_codec("pytorch", "heatmap")
    points, _, refpoints = some_frames(codec, 2)
    few = points[1, :10]
    expected = [codec.voxels(points[0], refpoints[0]), codec.voxels(few, refpoints[1])]
    padded = points.copy()
    padded[1, 10:] = np.nan
    for batch in (padded, tf.ragged.stack([points[0], few])):
        result = codec.batched().voxels(batch, refpoints, dtype=tf.uint8)
        np.testing.assert_array_equal(result[..., 0], expected)
    whole = codec.batched().voxels(np.array([[[10, 20, 300]]]), np.array([[0, 0, 310.0]]))
    np.testing.assert_array_equal(np.argwhere(whole[0, ..., 0]), [[17, 19, 14]])


def test_shapes_are_known_where_they_can_be():
    batched = small_codec("lua", "heatmap").batched()

    @tf.function
    def shapes(points, joints, refpoints):
        return batched.voxels(points, refpoints), batched.target(batched.joints_to_grid(joints, refpoints))

    for batch, joints in ((2, 21), (None, 21), (None, None)):
        specs = [tf.TensorSpec([batch, *shape]) for shape in ((None, 3), (joints, 3), (3,))]
        voxels, target = shapes.get_concrete_function(*specs).structured_outputs
        assert voxels.shape.as_list() == [batch, 32, 32, 32, 1]
        assert target.shape.as_list() == [batch, 16, 16, 16, joints]


@pytest.mark.parametrize("convention", ["pytorch", "lua"])
@pytest.mark.parametrize("name", ["msra", "icvl", "itop"])
def test_crops_of_depth_pictures(convention, name):
    camera = DATASET_CAMERAS[name]
    batched = small_codec(convention, "heatmap").batched()
    rng = np.random.default_rng(0)
    picture = rng.integers(250, 350, (2, 240, 320)).astype(np.uint16)
    picture[:, 100:105] = 0
    boxes = [[50, 90, 80, 110], [200, 100, 225, 140]]
    depth = np.full((2, 40, 30), 300, np.uint16)  # what lies beyond the boxes must not count
    for number, (left, top, right, bottom) in enumerate(boxes):
        depth[number, : bottom - top, : right - left] = picture[number, top:bottom, left:right]
    unit = 0.001 if camera.unit == "m" else 1.0
    first = 1 if convention == "pytorch" else 0
    many = np.tile(np.float32(camera.signed_intrinsics), (2, 1))
    for background in (None, 700.0):
        for given in (camera, name, many):
            points = batched.points(depth, boxes, given, unit=unit, background=background).numpy()
            assert points.shape == (2, 1200, 3)
            for number, (left, top, right, bottom) in enumerate(boxes):
                crop = picture[number, top:bottom, left:right] * unit
                crop = np.where(crop == 0, np.nan if background is None else background, crop)
                expected = depth_to_points(crop, camera, (left, top), first).reshape(-1, 3)
                result = points[number].reshape(40, 30, 3)[: bottom - top, : right - left].reshape(-1, 3)
                there = np.isfinite(expected).all(-1)
                np.testing.assert_allclose(result[there], expected[there], rtol=1e-5, atol=1e-5)
                assert (result[~there, 2] < 0).all() and (points[number][:, 2] > 0).sum() == there.sum()


@pytest.mark.parametrize("convention, head", FORMS)
def test_a_step_makes_no_number_that_is_none(convention, head):
    """Empty pixels, also under `tf.debugging.enable_check_numerics`, mark nothing however a frame is augmented."""
    codec = small_codec(convention, head)
    batched = codec.batched()
    depth = np.zeros((2, 12, 10), np.uint16)
    depth[:, 4:8, 3:7] = 3000
    boxes = [[155, 115, 165, 127], [155, 115, 163, 124]]
    refpoints = tf.constant([[0.0, 0, 300], [5, 0, 310]])
    joints = tf.constant([[[0.0, 0, 300], [0, 0, -codec.cubic_size * 1e4]]] * 2)

    @tf.function
    def step(seed):
        augmentation = batched.draw(seed, 2)
        points = batched.points(depth, boxes, "msra", unit=0.1)
        target = batched.target(batched.joints_to_grid(joints, refpoints, augmentation))
        return points, augmentation, batched.voxels(points, refpoints, augmentation), target

    tf.debugging.enable_check_numerics()
    try:
        for seed in range(8):
            points, augmentation, voxels, target = step(tf.constant([0, seed]))
            if head == "heatmap":
                assert np.isfinite(batched.decode(target, refpoints, augmentation)).all()
                assert not target.numpy()[..., 1].any()
    finally:
        tf.debugging.disable_check_numerics()
    for number in range(2):
        measured = points[number].numpy()[depth[number].ravel() > 0].astype(np.float64)
        one = Augmentation(*(part[number].numpy() for part in augmentation))
        expected = codec.voxels(measured, refpoints[number].numpy(), one)
        assert expected.any() and np.abs(voxels[number, ..., 0] - expected).sum() <= 2


def test_draws():
    codec = VoxelCodec(200)
    new_size, angle, translation = codec.draw(0, (1000,))
    assert 80 <= new_size.min() < 82 and 118 < new_size.max() < 120
    assert -40 <= np.degrees(angle.min()) < -38 and 38 < np.degrees(angle.max()) < 40
    assert translation.shape == (1000, 3) and 0 <= translation.min() < 0.1 and 7.9 < translation.max() < 8
    batched = codec.batched()
    once, again, other = (batched.draw(seed, 6) for seed in ([1, 2], [1, 2], [1, 3]))
    for one, same, different in zip(once, again, other):
        np.testing.assert_array_equal(one, same)
        assert (one.numpy() != different.numpy()).all() and one.shape[0] == 6
    drawn = VoxelCodec(200, convention="lua").draw(0, (1000,)).translation
    np.testing.assert_array_equal(np.unique(drawn), np.arange(9))


def test_augmentations_look_no_farther_than_the_reach():
    rng = np.random.default_rng(0)
    for convention, head in FORMS:
        codec = VoxelCodec(200, convention=convention, head=head)
        corners = np.stack(np.meshgrid(*[[-1.0, 88.0]] * 3), -1).reshape(8, 3)
        augmentation = codec.augmentation(rng.integers(0, 2, (300, 5)) * (1 - 1e-9))
        seen = codec.cube_to_world(np.broadcast_to(corners, (300, 8, 3)), np.zeros((300, 3)), augmentation)
        farthest = np.abs(seen).max((0, 1))
        assert np.all(farthest <= codec.reach) and np.all(farthest > 0.9 * np.array(codec.reach))


def test_half_precision_targets():
    batched = small_codec("pytorch", "heatmap").batched()
    grid = np.random.default_rng(0).uniform(2, 14, (2, 3, 3))
    exact = batched.target(grid)
    half = batched.target(grid, dtype=tf.bfloat16)
    assert half.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(half, tf.float32), exact, atol=0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cubic_size": 0}, "cubic_size 0 is not a length above 0"),
        ({"cubic_size": np.nan}, "cubic_size"),
        ({"cubic_size": "200"}, "cubic_size '200' is not a length"),
        ({"sigma": -1}, "sigma"),
        ({"cropped_size": 88.0}, "cropped_size 88.0 is not a whole number"),
        ({"original_size": np.inf}, "original_size inf is not a whole number"),
        ({"pool": True}, "pool True"),
        ({"cropped_size": 97}, "cropped out"),
        ({"cropped_size": 87}, "multiple"),
        ({"pool": 0}, "pool"),
        ({"cropped_size": 2}, "2 voxels or more"),
        ({"convention": "keras"}, "pytorch, lua"),
        ({"head": "peak"}, "heatmap, integral"),
        ({"head": "integral", "convention": "lua"}, "no integral head"),
    ],
)
def test_no_codec(options, message):
    with pytest.raises(ValueError, match=message):
        VoxelCodec(**{"cubic_size": 200, **options})


def test_bad_frames():
    codec = small_codec("pytorch", "heatmap")
    with pytest.raises(ValueError, match="finite numbers"):
        codec.voxels(np.zeros((4, 3)), [0, np.nan, 3])
    with pytest.raises(ValueError, match="finite numbers"):
        codec.voxels(np.zeros((4, 3)), [0, 3])
    with pytest.raises(ValueError, match=r"\[..., 3\]"):
        codec.joints_to_grid(np.zeros((4, 2)), [0, 0, 3])
    with pytest.raises(ValueError, match="points, 3"):
        codec.voxels(np.zeros(3), [0, 0, 3])
    with pytest.raises(ValueError, match="percentage"):
        codec.voxels(np.zeros((4, 3)), [0, 0, 3], Augmentation(0, 0, 0))


def test_volumes_of_another_size():
    codec = small_codec("pytorch", "heatmap")
    with pytest.raises(ValueError, match=r"\(1, 44, 44, 44\).* of 16 voxels"):
        codec.decode(np.zeros((1, 44, 44, 44)), [0, 0, 300])
    with pytest.raises(ValueError, match=r"\(1, 16, 16, 44, 3\).* of 16 voxels"):
        codec.batched().decode(tf.zeros((1, 16, 16, 44, 3)), tf.zeros((1, 3)))
