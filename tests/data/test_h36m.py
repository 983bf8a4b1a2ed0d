import dataclasses

import h5py
import numpy as np
import pytest

from posekit.codecs import screen_pose
from posekit.data import h36m
from posekit.data.h36m_pickles import read_pickles
from posekit.data.hdf5 import COLUMNS, PoseFileError, PoseWriter
from posekit.data.tfrecord import DatasetNotFoundError
from posekit.testing import FIXTURES, load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("lcn_data_eval")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in h36m.SPLITS:
        poses = read_pickles(FIXTURES / f"lcn_h36m_{split}.pkl", FIXTURES / "lcn_h36m_sh_dt_ft.pkl", split)
        write(folder, split, poses)
    return folder


def write(folder, split, poses):
    with PoseWriter(h36m.pose_file(folder, split)) as writer:
        writer.append(poses.columns())
        writer.set_cameras(poses.cameras.columns())


def numbered(count):
    """Poses whose inputs and labels tell which they are: x of joint 3 is the row, that of its twin minus it."""
    labels = np.zeros((count, 17, 3), np.float32)
    labels[:, 3, 0] = np.arange(1, count + 1)
    return labels[..., :2].copy(), labels


def rows_of(batches):
    """Rows in the order of a stream; mirrored ones negative; 0 would be neither."""
    rows = []
    for inputs, labels in batches:
        inputs, labels = np.asarray(inputs), np.asarray(labels)
        np.testing.assert_array_equal(inputs[..., :2], labels[..., :2])
        # Joint 6 is the left twin of joint 3, the right ankle.
        rows.append(labels[:, 3, 0] + labels[:, 6, 0])
    return [row.astype(int).tolist() for row in rows]


# Poses


@pytest.mark.parametrize("split", h36m.SPLITS)
def test_what_the_network_reads_equals_the_original(data_dir, original, split):
    poses = h36m.read_poses(data_dir, split)
    count = len(poses)
    for mode in h36m.MODES:
        for confidence in (False, True):
            inputs = h36m.network_inputs(poses, mode, confidence)
            assert inputs.dtype == np.float32 and inputs.shape == (count, 17, 3 if confidence else 2)
            expected = original[f"read2d_{mode}_conf{int(confidence)}_{split}"]
            np.testing.assert_allclose(inputs.reshape(count, -1), expected, rtol=0, atol=1e-6)
            again, labels = h36m.read_network_data(h36m.pose_file(data_dir, split), mode, confidence)
            np.testing.assert_array_equal(again, inputs)
            np.testing.assert_allclose(labels.reshape(count, -1), original[f"read3d_{split}"], rtol=0, atol=1e-6)
            np.testing.assert_array_equal(labels, h36m.network_labels(poses))


@pytest.mark.parametrize("split", h36m.SPLITS)
def test_every_number_of_the_pickles_is_kept(data_dir, original, split):
    poses = h36m.read_poses(data_dir, split)
    names = {
        "joints_image": "joint_3d_image",
        "joints_cam_mm": "joint_3d_camera",
        "box_px": "box",
        "root_depth_mm": "root_depth",
        "subject": "subject",
        "action": "action",
        "subaction": "subaction",
        "video": "videoid",
        "frame": "imageid",
    }
    for ours, theirs in names.items():
        np.testing.assert_array_equal(getattr(poses, ours), original[f"{split}_{theirs}"])
    np.testing.assert_array_equal(poses.joints_px, poses.joints_image[..., :2])
    np.testing.assert_array_equal(poses.detections_px, original[f"dt_{split}_joint3d_image"][..., :2])
    np.testing.assert_array_equal(poses.detection_confidence, original[f"dt_{split}_confidence"][..., 0])
    np.testing.assert_array_equal(poses.intrinsics, original[f"{split}_fxfycxcy"])
    cameras = poses.cameras
    for ours, theirs in {"index": "cameraid", "R": "cam_R", "T": "cam_T", "k": "cam_k", "p": "cam_p"}.items():
        numbers = getattr(cameras, ours)[poses.camera]
        np.testing.assert_array_equal(numbers, original[f"{split}_{theirs}"].reshape(numbers.shape))
    assert [cameras.name[row] for row in poses.camera] == original[f"{split}_camera_name"].astype(str).tolist()
    high = np.isin(original[f"{split}_camera_name"], [54138969, 60457274])
    assert poses.image_size.tolist() == [[1000, 1002] if tall else [1000, 1000] for tall in high]


def test_predictions_come_back_to_the_camera(data_dir, original):
    poses = h36m.read_poses(data_dir, "test")
    pixels = screen_pose.denormalize(original["pred_norm"].reshape(-1, 17, 3), poses.image_size)
    np.testing.assert_allclose(pixels, original["denormalized"], rtol=0, atol=1e-6)
    joints = screen_pose.image_to_camera(pixels, poses.box_px, poses.intrinsics, poses.root_depth_mm)
    np.testing.assert_allclose(joints, original["camera_frame_test1"], rtol=0, atol=1e-4)
    true = screen_pose.image_to_camera(poses.joints_image, poses.box_px, poses.intrinsics, poses.root_depth_mm)
    np.testing.assert_allclose(true, poses.joints_cam_mm, rtol=0, atol=1e-6)


def test_parts_of_a_file(data_dir):
    poses = h36m.read_poses(data_dir, "test", ["box_px"], 10, 20)
    assert set(poses.columns()) == {"box_px", "camera"} and len(poses) == 10 and poses.action is None
    whole = h36m.read_poses(data_dir, "test")
    np.testing.assert_array_equal(poses.box_px, whole.box_px[10:20])
    assert len(whole[3]) == 1 and whole[-1].video.tolist() == [59] and len(whole[5:]) == 55
    np.testing.assert_array_equal(whole[whole.action == 7].action, 7)
    assert whole.names(0) == "s_09_act_02_subact_01_ca_01_000001"
    assert whole[57:].names()[1:] == ["s_09_act_16_subact_01_ca_03_000001", "s_09_act_16_subact_01_ca_04_000001"]
    assert whole.names([4]) == ["s_09_act_03_subact_01_ca_01_000001"]


def test_errors_say_what_to_do(data_dir, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="create_dataset.py --h36m"):
        h36m.read_poses(tmp_path, "test")
    with pytest.raises(ValueError, match="no split 'val'.*train and test"):
        h36m.read_poses(data_dir, "val")
    with pytest.raises(PoseFileError, match="no column 'colour'"):
        h36m.read_poses(data_dir, "test", ["colour"])
    poses = h36m.read_poses(data_dir, "test")
    with pytest.raises(ValueError, match="no mode 'sh'.*gt, dt_ft"):
        h36m.network_inputs(poses, "sh")
    bare = {name: values for name, values in poses.columns().items() if not name.startswith("detect")}
    write(tmp_path, "test", h36m.Poses(cameras=poses.cameras, **bare))
    for confidence in (False, True):
        with pytest.raises(ValueError, match="--h36m_detections"):
            h36m.network_inputs(h36m.read_poses(tmp_path, "test"), "dt_ft", confidence)
        with pytest.raises(PoseFileError, match="no column 'detections_px'.*--h36m_detections"):
            h36m.read_network_data(h36m.pose_file(tmp_path, "test"), "dt_ft", confidence)
    unsure = h36m.Poses(cameras=poses.cameras, detections_px=poses.detections_px, **bare)
    assert h36m.network_inputs(unsure, "dt_ft").shape == (60, 17, 2)
    with pytest.raises(ValueError, match="without confidences"):
        h36m.network_inputs(unsure, "dt_ft", confidence=True)
    with pytest.raises(ValueError, match="different lengths"):
        h36m.Poses(cameras=poses.cameras, **bare | {"video": np.zeros(3, np.int32)})


def test_large_files_are_read_in_blocks(data_dir, monkeypatch):
    path = h36m.pose_file(data_dir, "test")
    whole = h36m.read_network_data(path, "dt_ft", True)
    monkeypatch.setattr(h36m, "_BLOCK", 7)
    for one, other in zip(h36m.read_network_data(path, "dt_ft", True), whole):
        np.testing.assert_array_equal(one, other)


def test_cameras_are_told_apart():
    table = h36m.CameraTable()
    lens = {"R": np.eye(3), "T": np.zeros((3, 1)), "f": [1, 2], "c": [3, 4], "k": np.zeros(3), "p": np.zeros(2)}
    assert table.row("54138969", 1, 0, **lens) == 0
    assert table.row("54138969", 5, 0, **lens) == 1
    assert table.row("54138969", 1, 0, **lens | {"f": [[1], [2.5]]}) == 2
    assert table.row("54138969", 1, 0, **lens) == 0
    assert table.row("mine", 1, 0, **lens, image_size=(640, 480)) == 3
    assert table.cameras().image_size.tolist() == [[1000, 1002]] * 3 + [[640, 480]]
    assert table.cameras().f.tolist() == [[1, 2], [1, 2], [1, 2.5], [1, 2]] and len(table.cameras()) == 4
    with pytest.raises(h36m.UnknownCameraError, match="'mine'.*54138969, 55011271.*--h36m_image_size=1000,1002"):
        table.row("mine", 1, 0, **lens)
    assert h36m.CameraTable((320, 240)).row("mine", 1, 0, **lens) == 0
    with pytest.raises(ValueError, match="2 values in T, 3 numbers are needed"):
        table.row("54138969", 1, 0, **lens | {"T": [0, 0]})
    for wrong in ([np.nan, 1], [1, 1e200], [0, 1]):
        with pytest.raises(ValueError, match="'f' of camera '54138969' is .*must be in 1 to 1,000,000"):
            table.row("54138969", 1, 0, **lens | {"f": wrong})
    for wrong in ((np.inf, 2), (1e-300, 2), (1e18, 2), (np.nan, 2)):
        with pytest.raises(ValueError, match="'image_size' of camera '54138969' is .*must be in 1 to 100,000"):
            table.row("54138969", 1, 0, **lens, image_size=wrong)


def with_attribute(path, **attributes):
    with h5py.File(path, "a") as file:
        file.attrs.update({name: np.bytes_(text) for name, text in attributes.items()})


def test_files_of_other_skeletons_and_actions(data_dir, tmp_path):
    poses = h36m.read_poses(data_dir, "test")
    path = h36m.pose_file(tmp_path, "test")
    write(tmp_path, "test", dataclasses.replace(poses, action=np.where(np.arange(60) == 7, 77, poses.action)))
    with pytest.raises(PoseFileError, match="action 77, which is not among 2 to 16.*create_dataset.py --h36m"):
        h36m.read_poses(tmp_path, "test")
    write(tmp_path, "test", poses)
    with_attribute(path, skeleton="COCO17")
    for read in (
        lambda: h36m.read_poses(tmp_path, "test"),
        lambda: h36m.read_network_data(path),
        lambda: h36m.file_batches(path, 5),
        lambda: h36m.file_batches(path, 5, stream=True),
    ):
        with pytest.raises(PoseFileError, match="has the skeleton COCO17; the lifting network needs H36M17"):
            read()


def test_rows_that_cannot_be_used():
    columns = {
        name: np.ones((9, *spec.row_shape(17)), spec.dtype) * (1 if spec.dtype == "<f8" else 2)
        for name, spec in COLUMNS.items()
    }
    columns["box_px"][:, 2] = 3
    columns["joints_image"][1, 3] = 1e300
    columns["joints_cam_mm"][2, 3, 0] = -1.5e6
    columns["joints_px"][3, 0, 0] = np.nan
    columns["detections_px"][4] = 2e6
    columns["subject"][5], columns["subaction"][6], columns["frame"][7] = 100, -1, -1
    sound, problems = h36m.sound_rows(columns)
    assert sound.tolist() == [True, *[False] * 7, True]
    assert problems == [
        (1, "values that are not in -1,000,000 to 1,000,000 px or mm"),
        (2, "values that are not in -1,000,000 to 1,000,000 px or mm"),
        (3, "values that are not finite"),
        (4, "detections that are not in -1,000,000 to 1,000,000 px or mm"),
        (5, "a subject that is not among 0 to 99"),
        (6, "a subaction that is not among 0 to 99"),
        (7, "a frame that is not among 0 to 2147483647"),
    ]


# Batches


@pytest.mark.parametrize("flip", [False, True])
def test_an_epoch_has_every_pose_once(flip):
    batches = h36m.pose_batches(*numbered(50), 5, num_epochs=3, flip=flip)
    rows = rows_of(batches)
    steps = h36m.steps_per_epoch(50, 5, flip)
    assert len(rows) == 3 * steps == 3 * (20 if flip else 10) and len(batches) == len(rows)
    expected = sorted([*range(1, 51), *([-row for row in range(1, 51)] if flip else [])])
    epochs = [sum(rows[steps * epoch : steps * (epoch + 1)], []) for epoch in range(3)]
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("flip", [False, True])
def test_any_start_gives_the_same_batches(flip):
    data, options = numbered(53), {"num_epochs": 4, "flip": flip, "seed": 7}
    whole = rows_of(h36m.pose_batches(*data, 8, **options))
    steps = h36m.steps_per_epoch(53, 8, flip)
    for epoch, step in ((0, 3), (1, 0), (2, steps - 1), (3, 2)):
        rest = rows_of(h36m.pose_batches(*data, 8, **options, start_epoch=epoch, start_step=step))
        assert rest == whole[epoch * steps + step :]
    assert whole != rows_of(h36m.pose_batches(*data, 8, **options | {"seed": 8}))
    assert all(len(rows) == 8 and len(set(rows)) == 8 for rows in whole)


def test_mirrored_batches_are_flips():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(2, 40, 17, 3)).astype(np.float32)
    taken = h36m.pose_batches(inputs, labels, 16, num_epochs=1, flip=True)
    for mine, all_of_them in zip(map(np.concatenate, zip(*taken)), (inputs, labels)):
        doubled = np.concatenate([all_of_them, screen_pose.flip(all_of_them)])
        order = [np.flatnonzero((doubled == one).all((1, 2)))[0] for one in mine]
        assert sorted(order) == list(range(80))


def test_fewer_poses_than_a_batch_repeat():
    rows = rows_of(h36m.pose_batches(*numbered(7), 20, num_epochs=2))
    assert len(rows) == 2 and all(len(batch) == 20 and set(batch) == set(range(1, 8)) for batch in rows)


def test_endless_batches_and_their_shape():
    batches = h36m.pose_batches(*numbered(10), 4)
    assert batches.element_spec[0].shape == (4, 17, 2) and batches.element_spec[1].shape == (4, 17, 3)
    assert len(rows_of(batches.take(9))) == 9


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch_size", [12, 200])
def test_streamed_batches(data_dir, monkeypatch, flip, batch_size):
    monkeypatch.setattr(h36m, "_PIECE", 8)
    path = h36m.pose_file(data_dir, "test")
    options = {"mode": "dt_ft", "confidence": True, "stream": True, "window": 20, "flip": flip, "num_epochs": 3}
    whole = [[array.numpy() for array in batch] for batch in h36m.file_batches(path, batch_size, **options)]
    steps = h36m.steps_per_epoch(60, batch_size, flip)
    assert len(whole) == 3 * steps and len(h36m.file_batches(path, batch_size, **options)) == 3 * steps
    inputs, labels = h36m.read_network_data(path, "dt_ft", True)
    if flip:
        inputs, labels = (np.concatenate([array, screen_pose.flip(array)]) for array in (inputs, labels))
    orders = []
    for epoch in range(3):
        x, y = (np.concatenate(arrays) for arrays in zip(*whole[epoch * steps : (epoch + 1) * steps]))
        order = [np.flatnonzero((labels == one).all((1, 2)))[0] for one in y]
        np.testing.assert_array_equal(x, inputs[order])
        assert sorted(set(order)) == list(range(len(inputs))) and len(order) == steps * batch_size
        orders.append(order)
    assert orders[0] != orders[1] and orders[1] != sorted(orders[1])
    for epoch, step in ((1, 0), (1, min(3, steps - 1)), (2, steps - 1)):
        rest = list(h36m.file_batches(path, batch_size, **options, start_epoch=epoch, start_step=step))
        assert len(rest) == 3 * steps - epoch * steps - step
        for one, other in zip(rest, whole[epoch * steps + step :]):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_a_file_that_is_read_once(data_dir):
    path = h36m.pose_file(data_dir, "train")
    one = list(h36m.file_batches(path, 5, num_epochs=2, seed=3))
    other = list(h36m.pose_batches(*h36m.read_network_data(path), 5, num_epochs=2, seed=3))
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])


def test_arguments_that_make_no_sense(data_dir):
    data = numbered(10)
    for options, message in (
        ({"batch_size": 0}, "at least 1"),
        ({"num_epochs": 2, "start_epoch": 2}, "empty"),
        ({"start_step": 5}, "give 0 to 4"),
    ):
        options = {"batch_size": 2} | options
        with pytest.raises(ValueError, match=message):
            h36m.pose_batches(*data, **options)
    with pytest.raises(ValueError, match="start_step=5"):
        h36m.file_batches(h36m.pose_file(data_dir, "train"), 4, stream=True, start_step=5)
    with pytest.raises(ValueError, match="10 inputs and 9 labels"):
        h36m.pose_batches(data[0], data[1][:9], 2)
    with pytest.raises(ValueError, match="at least one"):
        h36m.pose_batches(data[0][:0], data[1][:0], 2)
    for stream in (False, True):
        with pytest.raises(ValueError, match="no mode 'sh'"):
            h36m.file_batches(h36m.pose_file(data_dir, "train"), 4, mode="sh", stream=stream)
