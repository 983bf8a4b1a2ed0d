import os
import pathlib
import subprocess
import sys

import cv2
import h5py
import numpy as np

from posekit.codecs import screen_pose
from posekit.data.depth_records import DepthRecord, encode_depth
from posekit.data.h36m import CameraTable
from posekit.data.hdf5 import PoseWriter
from posekit.data.people_hdf5 import PeopleHdf5Writer
from posekit.data.people_records import PeopleRecord
from posekit.data.schema import ImageRecord, MocapRecord, encode_silhouette
from posekit.data.tfrecord import RecordWriter
from posekit.skeletons import COCO17

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*arguments, status=0):
    command = [sys.executable, str(ROOT / "tools" / "inspect_dataset.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record.to_example())


def images(count, joints=14):
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 60), np.uint8)
    mask[20:60, 20:40] = 1
    for number in range(count):
        keypoints = np.concatenate([rng.uniform(5, 55, (2, joints)), np.ones((1, joints))])
        keypoints[2, 0] = 0
        picture = cv2.imencode(".jpg", np.full((80, 60, 3), (0, 0, 200), np.uint8))[1].tobytes()
        silhouette = encode_silhouette(mask) if number else None
        yield ImageRecord(picture, 80, 60, f"im{number:04d}.jpg", keypoints, silhouette=silhouette)


def test_all_datasets_of_a_folder(tmp_path):
    write(tmp_path / "lsp_train.tfrecords", images(5))
    write(tmp_path / "coco" / "train_0000.tfrecord", images(2, 19))
    poses = (MocapRecord(np.full(72, 0.1), np.full(10, 0.5)) for _ in range(3))
    write(tmp_path / "mocap_neutrMosh" / "neutrSMPL_CMU_000.tfrecord", poses)
    sheets = tmp_path / "sheets"
    text = run(f"--data_dir={tmp_path}", f"--output={sheets}", "--num_images=4", "--body=sample").stdout
    assert "lsp_train: 5 records in 1 files" in text and "coco: 2 records" in text and "CMU: 3 records" in text
    assert "image/visibility" in text and "image/face_pts" in text
    assert "with silhouette: 4, on average 17 % of the image" in text
    assert "visible joints: 13.0 of 19" in text and "right_ankle 0, right_knee 100" in text
    assert "mean colour (red, green, blue): 20" in text and "shape: mean 0.50, standard deviation 0.00" in text
    sheet = cv2.imread(str(sheets / "lsp_train_sheet.png"))
    # Four cells side by side; the picture is red and the silhouette white.
    assert sheet.shape == (224, 4 * 448, 3)
    assert sheet[10, 10, 2] > 180 and sheet[10, 10, 0] < 40
    # Each picture is 168 wide; the first image has no silhouette.
    bright = [(sheet[:, 448 * cell + 168 : 448 * cell + 336] > 200).all(-1).sum() for cell in (0, 1)]
    assert bright[1] > bright[0] + 1000
    assert (sheets / "CMU_sheet.png").exists() and (sheets / "coco_sheet.png").exists()


def test_missing_and_damaged_datasets(tmp_path):
    assert "create_dataset.py" in run(f"--data_dir={tmp_path}", status=1).stderr
    write(tmp_path / "lsp_train.tfrecords", images(2))
    whole = (tmp_path / "lsp_train.tfrecords").read_bytes()
    (tmp_path / "lsp_val.tfrecords").write_bytes(whole[:-10])
    result = run("lsp_val", "lsp_ext", "lsp_train", f"--data_dir={tmp_path}", "--num_images=0", status=1)
    assert "lsp_val.tfrecords is cut short" in result.stderr and "No dataset 'lsp_ext'" in result.stderr
    assert "lsp_train: 2 records" in result.stdout and not list(tmp_path.glob("*.png"))


def write_poses(path, count=30, detections=True):
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 300, (count, 17, 3)) + [0, 0, 5000]
    image, box = screen_pose.camera_to_image(joints, [1000, 1000, 500, 500])
    numbers = {"subject": 9, "action": 2 + np.arange(count) % 3, "subaction": 1, "video": 0, "frame": 0, "camera": 0}
    columns = {"joints_image": image, "joints_px": image[..., :2] + [3, 4], "joints_cam_mm": joints, "box_px": box}
    columns |= {name: np.broadcast_to(np.int32(value), count) for name, value in numbers.items()}
    columns["root_depth_mm"] = joints[:, 0, 2]
    if detections:
        columns["detections_px"] = columns["joints_px"] + [0, 2]
    table = CameraTable()
    lens = {"R": np.eye(3), "T": np.zeros(3), "f": [1000, 1000], "c": [500, 500], "k": np.zeros(3), "p": np.zeros(2)}
    table.row("54138969", 9, 0, **lens)
    with PoseWriter(path, source="by hand") as writer:
        writer.append(columns)
        writer.set_cameras(table.cameras().columns())


def test_pose_files(tmp_path):
    write_poses(tmp_path / "h36m_test.h5")
    write_poses(tmp_path / "h36m_train.h5", detections=False)
    text = run(f"--data_dir={tmp_path}", "--num_images=3", "--num_records=20").stdout
    assert "h36m_test: 30 poses of H36M17" in text and "from by hand" in text and "h36m_train: 30 poses" in text
    assert "subjects: S9 30" in text and "actions: Directions 10, Discussion 10, Eating 10" in text
    assert "cameras: 54138969 (1000 x 1002) 30" in text and "of 20 poses" in text
    assert "moved by the lens: 5.0 px on average, at most 5.0" in text
    assert text.count("detections: 2.0 px off on average, half of them less than 2.0\n") == 1
    sheet = cv2.imread(str(tmp_path / "h36m_test_sheet.png"))
    assert sheet.shape == (224, 4 * 448, 3) and sheet[:, :224].std() > 5 and (sheet[:, 3 * 448 :] == 255).all()
    assert "of 30 poses" in run("h36m_train", f"--data_dir={tmp_path}", "--num_images=0", "--num_records=0").stdout
    (tmp_path / "h36m_train.h5").write_bytes(b"no HDF5")
    result = run(f"--data_dir={tmp_path}", "--num_images=0", status=1)
    assert "ERROR h36m_train" in result.stderr and "h36m_test: 30 poses" in result.stdout


def test_pose_files_from_elsewhere(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    write_poses(folder / "h36m_test.h5")
    with h5py.File(folder / "h36m_test.h5", "a") as file:
        file["cameras/name"][0] = b"\x1b[31mred\xff"
        file.attrs["source"] = np.bytes_(b"by\x07hand")
    write_poses(folder / "h36m_train.h5")
    with h5py.File(folder / "h36m_train.h5", "a") as file:
        for name in set(file) - {"cameras"}:
            file[name].resize(0, axis=0)
    result = run(f"--data_dir={folder}", "--num_images=1", status=1)
    assert "from by?hand" in result.stdout and "cameras: ?[31mred\ufffd (1000 x 1002) 30" in result.stdout
    assert r"pictures: " in result.stdout and r"\udcff/h36m_test_sheet.png" in result.stdout
    assert "ERROR h36m_train" in result.stderr and "it holds no poses" in result.stderr


def depth_crops(count, joints=21):
    rng = np.random.default_rng(0)
    for number in range(count):
        depth = np.where(rng.random((60, 50)) < 0.5, rng.normal(400, 20, (60, 50)), 0)
        centers = np.full((9, 3), 400.0)
        centers[3] = np.nan if number else 400.0
        yield DepthRecord(
            name=f"P0/1/{number:06d}", depth=encode_depth(depth, "mm"), box=(130, 90, 180, 150),
            joints=rng.normal(0, 20, (joints, 3)) + [0, 0, 400], valid=np.arange(joints) > 0, centers=centers,
            center_source="estimated" if number else "file", camera=(241.42, -241.42, 160, 120), picture=(320, 240),
            unit="mm", reach=(210, 220, 150), subject=0, group="1",
        )  # fmt: skip


def test_sets_of_depth_crops(tmp_path):
    write(tmp_path / "msra_p0.tfrecords", depth_crops(3))
    write(tmp_path / "nyu_test" / "depth_0000.tfrecord", depth_crops(2, joints=36))
    text = run(f"--data_dir={tmp_path}", "--num_images=2").stdout
    assert "msra_p0: 3 records" in text and "nyu_test: 2 records" in text and "depth/encoded" in text
    assert "pictures: 320 x 240 3" in text and "crops: 50..50 x 60..60 px, mean 50 x 60; measured: 50 %" in text
    assert "reach 210 x 220 x 150 mm" in text and "joints: 21 in 3 records; labelled: 95.2 %" in text
    assert "centres: estimated 2, file 1; usable: 3, 3, 3, 1, 3, 3, 3, 3, 3" in text
    assert "subjects: 0 3; groups: 1 3" in text
    for name in ("msra_p0", "nyu_test"):
        sheet = cv2.imread(str(tmp_path / f"{name}_sheet.png"))
        assert sheet.shape == (224, 4 * 448, 3) and sheet[:, :448].std() > 20 and (sheet[:, 896:] == 255).all()


def people_pictures(count, names=COCO17.joints):
    for number in range(count):
        rng = np.random.default_rng(number)
        joints = np.concatenate(
            [rng.uniform(0, 90, (3, len(names), 2)), rng.integers(0, 3, (3, len(names), 1))], -1
        )
        mask = np.ones((90, 120), bool)
        mask[:30] = False
        yield PeopleRecord(
            cv2.imencode(".png", rng.integers(0, 255, (90, 120, 3), np.uint8))[1].tobytes(), 90, 120, joints,
            [[5, 5, 40, 60]] * 3, [1, 1, 0], crowd=[0, 0, number % 2], mask=mask, names=names,
        )  # fmt: skip


def test_pictures_of_many_people(tmp_path):
    write(tmp_path / "coco_people_train.tfrecords", people_pictures(3))
    write(tmp_path / "mine_train.tfrecords", people_pictures(1, ("tip", "end")))
    with PeopleHdf5Writer(tmp_path / "val_dataset.h5") as writer:
        for record in people_pictures(2):
            writer.append(record)
    text = run(f"--data_dir={tmp_path}", "coco_people_train", "mine_train", "val_dataset").stdout
    assert "coco_people_train: 3 records" in text and "val_dataset: 2 samples" in text
    assert "people to train on: 6, 2..2 a picture; not trained, red in the pictures: 2 other people, 1 crowds" in text
    assert "labelled joints in %: tip" in text
    assert "33.3 % of the pixels" in text and "0 on people without labels" in text
    for name, count in (("coco_people_train", 3), ("mine_train", 1), ("val_dataset", 2)):
        sheet = cv2.imread(str(tmp_path / f"{name}_sheet.png"))
        assert sheet.shape == (224 + 24, count * (299 + 8), 3) and sheet[:40, :200].std() > 20
        assert sheet[-20:].min() < 100 and (sheet[:, -8:] == 255).all()  # a caption, and a gap


def test_one_file_of_people_in_hdf5(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with PeopleHdf5Writer(folder / "crowd.h5") as writer:
        for record in people_pictures(9):
            writer.append(record)
    assert "crowd: 9 samples" in run(f"--data_dir={folder / 'crowd.h5'}", "--num_images=0").stdout
    assert not list(folder.glob("*.png"))
    assert "crowd: 9 samples" in run(f"--data_dir={folder}").stdout
    sheet = cv2.imread(str(folder / "crowd_sheet.png"))
    assert sheet.shape == (2 * (224 + 24), 5 * (299 + 8), 3)
    assert "give one .h5" in run(f"--data_dir={folder / 'crowd.h5'}", "other", status=1).stderr
    (folder / "crowd.h5").write_bytes((folder / "crowd.h5").read_bytes()[:300])
    assert "ERROR crowd: " in run(f"--data_dir={folder / 'crowd.h5'}", status=1).stderr
