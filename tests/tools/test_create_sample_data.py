import contextlib
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import scipy.io

from posekit.codecs.screen_pose import camera_to_image
from posekit.data.pickles import load_pickle
from posekit.data.schema import MocapRecord
from posekit.data.tfrecord import count_records, read_records

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = 8
SPLITS = ("train", "val")
H36M = ("--num_h36m_poses=301",)
PEOPLE = ("--num_people_images=8",)
DEPTH = ("--msra_frames_per_gesture=1", "--num_nyu_frames=5", "--num_itop_frames=5")


def run(*flags, status=0):
    command = [sys.executable, str(ROOT / "tools" / "create_sample_data.py"), *map(str, flags)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    counts = (f"--num_images={COUNT}", "--num_poses=250", *H36M, *DEPTH, *PEOPLE)
    run(f"--data_dir={folder}", *counts, "--seed=3", "--num_workers=2")
    return folder


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path, flags=cv2.IMREAD_COLOR):
    image = cv2.imread(str(path), flags)
    assert image is not None, path
    return image


def check_labels(joints, visible, image, silhouette):
    """Joints `[J, 2]` lie in the picture, and those of limbs on the silhouette."""
    height, width = image.shape[:2]
    assert (joints[visible] >= 0).all() and (joints[visible] < (width, height)).all()
    if silhouette is not None:
        assert silhouette.shape == (height, width)
        assert set(np.unique(silhouette)) == {0, 255}
        limbs = np.flatnonzero(visible[:12])
        x, y = np.rint(joints[limbs]).astype(int).T
        assert (silhouette[y, x] == 255).all()


def test_help():
    text = run("--helpfull", status=1)
    for flag in (
        "--data_dir",
        "--num_images",
        "--seed",
        "--image_size",
        "--[no]lsp_ext",
        "--[no]h36m",
        "--num_h36m_poses",
        "--[no]overwrite",
    ):
        assert flag in text


def test_lsp(data):
    joints = scipy.io.loadmat(data / "lsp_dataset/joints.mat")["joints"]
    assert joints.shape == (3, 14, COUNT) and set(np.unique(joints[2])) <= {0, 1}
    assert sorted(p.name for p in (data / "lsp_dataset/images").iterdir())[0] == "im0001.jpg"
    for index in range(COUNT):
        image = read(data / f"lsp_dataset/images/im{index + 1:04d}.jpg")
        mask = read(data / f"upi-s1h/data/lsp/im{index + 1:04d}_segmentation.png", cv2.IMREAD_UNCHANGED)
        check_labels(joints[:2, :, index].T, joints[2, :, index] == 0, image, mask)
    assert (joints[2] == 0).mean() > 0.6


def test_lsp_extended(data):
    joints = scipy.io.loadmat(data / "lspet_dataset/joints.mat")["joints"]
    assert joints.shape == (14, 3, COUNT)
    without = []
    for index in range(COUNT):
        image = read(data / f"lspet_dataset/images/im{index + 1:05d}.jpg")
        path = data / f"upi-s1h/data/lsp_extended/im{index + 1:05d}_segmentation.png"
        without += [index + 1] if not path.exists() else []
        mask = read(path, cv2.IMREAD_UNCHANGED) if path.exists() else None
        assert mask is None or mask.shape[2] == 3
        check_labels(joints[:, :2, index], joints[:, 2, index] == 1, image, mask[..., 0] if mask is not None else None)
    assert without == [6]
    assert (joints.transpose(0, 2, 1)[joints[:, 2] == 0] == 0).all()


@pytest.mark.parametrize(("folder", "axes"), [("lsp_dataset", (2, 1, 0)), ("lspet_dataset", (2, 0, 1))])
def test_truth_fits_the_labels_under_a_weak_perspective_camera(data, folder, axes):
    joints = scipy.io.loadmat(data / folder / "joints.mat")["joints"].transpose(axes)
    with np.load(data / folder / "sample_truth.npz") as truth:
        assert truth["pose"].shape == (COUNT, 72) and truth["shape"].shape == (COUNT, 10)
        joints3d = truth["joints3d"]
    assert joints3d.shape == (COUNT, 14, 3)
    for points, space in zip(joints, joints3d):
        seen = points[:, 2] == 1 if folder == "lspet_dataset" else slice(None)
        flat, px = space[seen, :2].astype(np.float64), points[seen, :2]
        scale = ((flat - flat.mean(0)) * (px - px.mean(0))).sum() / ((flat - flat.mean(0)) ** 2).sum()
        fitted = scale * (flat - flat.mean(0)) + px.mean(0)
        assert np.abs(fitted - px).max() < 0.05
        assert 40 < scale < 140


def test_mpii(data):
    with np.load(data / "upi-s1h/data/mpii/poses.npz") as file:
        poses = file["poses"]
    assert poses.shape == (3, 16, COUNT)
    with np.load(data / "upi-s1h/data/mpii/sample_truth.npz") as truth:
        assert {key: truth[key].shape for key in truth.files} == {
            "pose": (COUNT, 72),
            "shape": (COUNT, 10),
            "joints3d": (COUNT, 14, 3),
        }
    for index in range(COUNT):
        image = read(data / f"upi-s1h/data/mpii/images/{index + 1:05d}.png")
        mask = read(data / f"upi-s1h/data/mpii/images/{index + 1:05d}_segmentation.png")[..., 0]
        check_labels(poses[:2, :6, index].T, poses[2, :6, index] == 0, image, mask)
        np.testing.assert_allclose(poses[:2, 6, index], poses[:2, 2:4, index].mean(1))


def test_coco_people(data):
    from pycocotools.coco import COCO

    counts, forms, crowds = [], set(), 0
    with contextlib.redirect_stdout(io.StringIO()):
        both = [COCO(str(data / f"coco_people/annotations/person_keypoints_{split}2017.json")) for split in SPLITS]
    for split, coco in zip(SPLITS, both):
        assert len(coco.imgs) == {"train": 6, "val": 2}[split]
        for number, entry in coco.imgs.items():
            image = read(data / f"coco_people/{split}2017/{entry['file_name']}")
            assert image.shape[:2] == (entry["height"], entry["width"]) and 220 < min(image.shape[:2]) < 260
            annotations = [annotation for annotation in coco.anns.values() if annotation["image_id"] == number]
            counts.append(len(annotations))
            covered = np.zeros(image.shape[:2], int)
            for annotation in annotations:
                mask = coco.annToMask(annotation) > 0
                covered += mask
                forms.add(type(annotation["segmentation"]))
                crowds += annotation["iscrowd"]
                x, y, states = np.array(annotation["keypoints"]).reshape(-1, 3).T
                seen = states == 2
                assert (x[seen] < image.shape[1]).all() and (y[seen] < image.shape[0]).all()
                # What is seen of a person lies on that person, not on one in front.
                near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8))
                assert not seen.any() or near[y[seen], x[seen]].mean() > 0.9
            # Segmentations are of what is seen, so they hardly overlap.
            assert (covered > 1).mean() < 0.03
    assert max(counts) >= 4 and forms == {list, dict} and crowds


def test_coco(data):
    from pycocotools.coco import COCO

    people = crowds = run_lengths = 0
    for split, count in (("train2017", 6), ("val2017", 2)):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(data / f"coco/annotations/person_keypoints_{split}.json"))
        assert len(coco.imgs) == count
        assert coco.cats[1]["keypoints"][:2] == ["nose", "left_eye"] and len(coco.cats[1]["skeleton"]) > 10
        for entry in coco.imgs.values():
            image = read(data / f"coco/{split}/{entry['file_name']}")
            assert image.shape[:2] == (entry["height"], entry["width"])
            assert entry["file_name"] == f"{entry['id']:012d}.jpg"
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            assert abs(mask.sum() - annotation["area"]) < 0.05 * annotation["area"] + 8
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            np.testing.assert_allclose(
                (x, y, x + w - 1, y + h - 1), (columns.min(), rows.min(), columns.max(), rows.max()), atol=1
            )
            keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[keypoints[:, 2] == 0] == 0).all()
            people += annotation["num_keypoints"] > 0
            crowds += annotation["iscrowd"]
            run_lengths += isinstance(annotation["segmentation"], dict)
            if not annotation["iscrowd"] and annotation["area"] > 1500:
                seen = keypoints[5:][keypoints[5:, 2] == 2]
                assert np.mean([mask[b, a] for a, b, _ in seen]) > 0.8
    assert people >= COUNT and crowds >= 1 and run_lengths > crowds


def test_mocap(data):
    files = sorted(path.name for path in (data / "mocap_neutrMosh").glob("*.tfrecord"))
    assert files == ["neutrSMPL_CMU_000.tfrecord", "neutrSMPL_CMU_001.tfrecord", "neutrSMPL_jointLim_000.tfrecord"]
    assert [count_records(data / "mocap_neutrMosh" / name) for name in files] == [125, 125, 250]
    records = [MocapRecord.from_example(r) for r in read_records(data / "mocap_neutrMosh" / files[0])]
    assert np.std([record.pose for record in records], axis=0).max() > 0.3
    assert np.abs([record.shape for record in records]).max() < 3
    recordings = sorted((data / "amass").rglob("*_poses.npz"))
    assert len(recordings) == 6
    with np.load(recordings[0], allow_pickle=False) as file:
        assert file["poses"].shape == (120, 156) and file["betas"].shape == (16,) and file["trans"].shape == (120, 3)
        assert float(file["mocap_framerate"]) == 60.0 and str(file["gender"]) in ("male", "female", "neutral")


def kinds(value):
    """What a value is made of: types, dtypes and shapes, without the numbers."""
    if isinstance(value, dict):
        return {key: kinds(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(kinds(entry) for entry in value)
    return (type(value), value.dtype, value.shape) if isinstance(value, (np.ndarray, np.generic)) else type(value)


def test_h36m_has_the_original_layout(data):
    real = load_pickle(ROOT / "tests/fixtures/lcn_h36m_test.pkl")
    detections = load_pickle(data / "h36m/h36m_sh_dt_ft.pkl")
    real_detections = load_pickle(ROOT / "tests/fixtures/lcn_h36m_sh_dt_ft.pkl")
    videos = {}
    for split, count, subjects in (("train", 241, {1, 5, 6, 7, 8}), ("test", 60, {9, 11})):
        items = load_pickle(data / f"h36m/h36m_{split}.pkl")
        assert isinstance(items, list) and len(items) == count
        assert all(kinds(item) == kinds(real[0]) and list(item) == list(real[0]) for item in items)
        assert {item["subject"] for item in items} <= subjects
        assert {item["action"] for item in items} == set(range(2, 17))
        assert {item["cameraid"] for item in items} == {0, 1, 2, 3}
        for key, array in real_detections[split].items():
            ours = detections[split][key]
            assert ours.dtype == array.dtype and ours.shape == (count, *array.shape[1:]) and np.isfinite(ours).all()
        for item in items:
            check_pose(item)
            place = (item["subject"], item["action"], item["subaction"], item["cameraid"])
            videos.setdefault(item["videoid"], []).append((place, item["imageid"]))
        truth = np.array([item["joint_3d_image"][:, :2] for item in items])
        error = np.linalg.norm(detections[split]["joint3d_image"][..., :2] - truth, axis=-1)
        assert 2 < np.median(error) < 8 and error.max() > 30
    for frames in videos.values():
        assert len({place for place, _ in frames}) == 1
        assert [image for _, image in frames] == list(range(len(frames)))
    assert len({frames[0][0] for frames in videos.values()}) == len(videos)


def check_pose(item):
    lens = item["camera_param"]
    names = ["54138969", "55011271", "58860488", "60457274"]
    assert lens["name"] == names[item["cameraid"]]
    image, box = camera_to_image(item["joint_3d_camera"], [lens[key] for key in ("fx", "fy", "cx", "cy")])
    np.testing.assert_allclose(item["joint_3d_image"], image, atol=1e-9)
    np.testing.assert_allclose(item["box"], box, atol=1e-9)
    np.testing.assert_allclose(item["center"], (box[:2] + box[2:]) / 2)
    np.testing.assert_allclose(item["scale"], (box[2:] - box[:2]) / 200)
    assert item["root_depth"] == item["joint_3d_camera"][0, 2] > 2000
    assert np.linalg.det(lens["R"]) > 0.99 and np.linalg.norm(lens["T"]) < 7000
    video = "s_{subject:02d}_act_{action:02d}_subact_{subaction:02d}_ca_{camera:02d}".format(
        camera=item["cameraid"] + 1, **item
    )
    assert item["image_path"] == f"{video}/{video}_{item['imageid'] + 1:06d}.jpg"


@pytest.mark.parametrize("count", [20, 62, 1203])
def test_h36m_has_the_number_of_poses_asked_for(tmp_path, count):
    text = run(f"--data_dir={tmp_path}", "--h36m", f"--num_h36m_poses={count}")
    assert "python tools/create_dataset.py --h36m --data_dir" in text
    train, test = (load_pickle(tmp_path / f"h36m/h36m_{split}.pkl") for split in ("train", "test"))
    assert len(train) + len(test) == count and len(test) == round(0.2 * count)


def test_same_seed_same_data_whatever_the_processes(data, tmp_path):
    flags = ("--num_poses=250", f"--num_images={COUNT}", *H36M, "--lsp", "--mocap", "--h36m", "--num_workers=1")
    run(f"--output_dir={tmp_path / 'same'}", "--seed=3", *flags)
    same, everything = digests(tmp_path / "same"), digests(data)
    assert same.items() <= everything.items() and len(same) > 2 * COUNT
    assert not (tmp_path / "same/coco").exists()


def test_finished_data_is_not_made_again(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.jpg")}
    text = run(f"--data_dir={data}", f"--num_images={COUNT}", "--num_poses=250", *H36M, *DEPTH, *PEOPLE, "--seed=3")
    assert text.count("already") == 10
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob("*.jpg")}


def test_other_settings_and_interruptions_leave_no_old_files(tmp_path):
    run(f"--data_dir={tmp_path}", "--lsp", "--num_images=3", "--image_size=96", "--seed=1")
    assert read(tmp_path / "lsp_dataset/images/im0003.jpg").shape == (96, 96, 3)
    mark = tmp_path / "lsp_dataset/sample_data.json"
    mark.write_text(json.dumps({"settings": None, "files": []}))
    (tmp_path / "lsp_dataset/images/im0009.jpg").write_bytes(b"half")
    (tmp_path / "lsp_dataset/notes.txt").write_text("mine")
    run(f"--data_dir={tmp_path}", "--lsp", "--num_images=2", "--image_size=96")
    assert sorted(path.name for path in (tmp_path / "lsp_dataset/images").iterdir()) == ["im0001.jpg", "im0002.jpg"]
    assert len(list((tmp_path / "upi-s1h/data/lsp").glob("*.png"))) == 2
    assert (tmp_path / "lsp_dataset/notes.txt").read_text() == "mine"


def test_foreign_data_is_left_alone(tmp_path):
    (tmp_path / "lsp_dataset").mkdir()
    (tmp_path / "lsp_dataset/joints.mat").write_text("real")
    flags = (f"--data_dir={tmp_path}", "--lsp", "--num_images=1", "--image_size=96")
    text = run(*flags, status=1)
    assert "holds data that is not sample data" in text and "--overwrite" in text and "Traceback" not in text
    assert [path.name for path in (tmp_path / "lsp_dataset").iterdir()] == ["joints.mat"]
    run(*flags, "--overwrite")
    assert (tmp_path / "lsp_dataset.old/joints.mat").read_text() == "real"
    assert (tmp_path / "lsp_dataset/images/im0001.jpg").exists()


def test_files_that_were_changed_are_left_alone(tmp_path):
    flags = (f"--data_dir={tmp_path}", "--h36m")
    run(*flags, "--num_h36m_poses=20")
    folder = tmp_path / "h36m"
    path, mark = folder / "h36m_test.pkl", json.loads((folder / "sample_data.json").read_text())
    assert mark["files"]["h36m_test.pkl"][0] == path.stat().st_size and len(mark["files"]) == 3
    # The same size is not enough.
    real = bytes(path.stat().st_size)
    path.write_bytes(real)
    text = run(*flags, "--num_h36m_poses=30", status=1)
    assert "holds data that is not sample data: 'h36m_test.pkl' is not the file that sample_data.json knows" in text
    assert path.read_bytes() == real and json.loads((folder / "sample_data.json").read_text()) == mark
    run(*flags, "--num_h36m_poses=30", "--overwrite")
    assert (tmp_path / "h36m.old/h36m_test.pkl").read_bytes() == real
    assert len(load_pickle(path)) == 6
    # A file that is gone is made again.
    path.unlink()
    run(*flags, "--num_h36m_poses=30")
    assert len(load_pickle(path)) == 6


def test_marks_of_earlier_versions(tmp_path):
    flags = (f"--data_dir={tmp_path}", "--h36m")
    run(*flags, "--num_h36m_poses=20")
    mark = tmp_path / "h36m/sample_data.json"
    content = json.loads(mark.read_text())
    mark.write_text(json.dumps(content | {"files": list(content["files"])}))
    assert "already" in run(*flags, "--num_h36m_poses=20")
    # Whether its files are still the same cannot be told.
    assert "is not the file that" in run(*flags, "--num_h36m_poses=30", status=1)


MARKS = {
    "outside": {"../victim.txt": [8, 0]},
    "list": ["../victim.txt"],
    "absolute": ["{folder}/victim.txt"],
    "folder": [""],
    "this": ["."],
    "inner": ["inner"],
    "link": ["link/victim.txt"],
    "nul": ["a\0b"],
    "surrogate": ["\ud800"],
    "number": 5,
    "numbers": [1],
    "lists": [["a"]],
    "text": "../victim.txt",
    "nothing": None,
}


MANY_RUNS = """
import sys
sys.path.insert(0, sys.argv[1])
import create_sample_data as tool
tool.FLAGS(["tool", "--h36m", "--num_h36m_poses=20"])
for folder in sys.argv[2:]:
    tool.FLAGS.data_dir = folder
    assert tool.main(["tool"]) == 1
"""


def refused(folders):
    """Runs for a list of folders, all of which must be refused; returns a line about each."""
    command = [sys.executable, "-c", MANY_RUNS, str(ROOT / "tools"), *map(str, folders)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(folders) and all("not sample data" in line and "--overwrite" in line for line in lines)
    return lines


def test_marks_that_name_what_is_not_theirs(tmp_path):
    contents = {}
    for kind, files in MARKS.items():
        for number, settings in enumerate((None, {"seed": 1})):
            place = tmp_path / f"{kind}{number}"
            (place / "h36m/inner").mkdir(parents=True)
            (place / "h36m/link").symlink_to(place)
            (place / "victim.txt").write_text("precious")
            text = json.dumps({"settings": settings, "files": files}).replace("{folder}", str(place))
            (place / "h36m/sample_data.json").write_text(text)
            contents[place] = text
    before = sorted(tmp_path.rglob("*"))
    refused(contents)
    assert sorted(tmp_path.rglob("*")) == before
    for place, text in contents.items():
        assert (place / "victim.txt").read_text() == "precious"
        assert (place / "h36m/sample_data.json").read_text() == text


def test_marks_that_make_no_sense(tmp_path):
    for number, content in enumerate((b"[" * 100_000, b"{", b"[]", b"5", b"\xff", b"{}")):
        (tmp_path / f"{number}/h36m").mkdir(parents=True)
        (tmp_path / f"{number}/h36m/sample_data.json").write_bytes(content)
    assert all("sample_data.json makes no sense" in line for line in refused(sorted(tmp_path.iterdir())))


def test_what_killed_runs_leave_is_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = int(dead.stdout)
    folder = tmp_path / "h36m"
    folder.mkdir()
    (folder / f".sample_data.json.{dead}.tmp").write_bytes(b"{")
    run(f"--data_dir={tmp_path}", "--h36m", "--num_h36m_poses=20")
    names = ["h36m_sh_dt_ft.pkl", "h36m_test.pkl", "h36m_train.pkl", "sample_data.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    kept = [f".h36m_test.pkl.{os.getpid()}.tmp", ".notes.tmp"]
    for name in (f".h36m_test.pkl.{dead}.tmp", *kept):
        (folder / name).write_bytes(b"half")
    run(f"--data_dir={tmp_path}", "--h36m", "--num_h36m_poses=30")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *kept])


def test_bad_flags_and_places(tmp_path):
    assert "at least 64 pixels" in run(f"--data_dir={tmp_path}", "--image_size=10", status=1)
    (tmp_path / "file").write_text("")
    text = run(f"--data_dir={tmp_path / 'file'}", "--mocap", "--num_poses=1", status=1)
    assert "cannot write" in text and "--output_dir" in text and "Traceback" not in text


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's list of processes")
def test_workers_end_with_a_killed_main_process(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "create_sample_data.py"), f"--data_dir={tmp_path}", "--lsp"]
    process = subprocess.Popen(
        [*command, "--num_images=400", "--num_workers=2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("im*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(process.pid)


def running(group):
    """Processes of a group that still run."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(entry.parent.name)
    return found
