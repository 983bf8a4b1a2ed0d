import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from posekit.codecs import screen_pose
from posekit.data import h36m
from posekit.data.hdf5 import PoseFile, PoseWriter
from posekit.data.pickles import load_pickle
from posekit.data.shards import NothingUsableError
from posekit.skeletons import H36M17, H36M32
from posekit.testing import FIXTURES, load_fixture

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAMERAS = ("54138969", "55011271", "58860488", "60457274")


@pytest.fixture(autouse=True)
def tools_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def run(*arguments, status=0):
    command = [sys.executable, str(ROOT / "tools" / "create_dataset.py"), "--h36m", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status and "Traceback" not in result.stderr, result.stdout + result.stderr
    return result


def convert(split, data_dir, source=None, overwrite=False, **options):
    from converters import h36m as converter

    return converter.h36m(split, data_dir / "h36m", data_dir, converter.Options(**options), source, overwrite)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def original(name):
    return load_pickle(FIXTURES / f"lcn_h36m_{name}.pkl")


def put_pickles(folder, protocol=2, **contents):
    for name in ("train", "test", "sh_dt_ft"):
        content = contents.get(name, original(name))
        if content is not None:
            put(folder / "h36m" / f"h36m_{name}.pkl", pickle.dumps(content, protocol))


def nothing_half_written(folder):
    return not [path for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".tmp"]


# The original's pickles


def test_pickles_become_pose_files(tmp_path):
    put_pickles(tmp_path)
    first = run(f"--data_dir={tmp_path}").stdout.splitlines()
    assert [line.split() for line in first[1:]] == [
        ["h36m_train", "16", "16", "-", "0", "0"],
        ["h36m_test", "60", "60", "-", "0", "0"],
    ]
    reference = load_fixture("lcn_data_eval")
    for split in h36m.SPLITS:
        poses = h36m.read_poses(tmp_path, split)
        np.testing.assert_array_equal(poses.joints_image, reference[f"{split}_joint_3d_image"])
        np.testing.assert_array_equal(poses.joints_px, poses.joints_image[..., :2])
        np.testing.assert_array_equal(poses.joints_cam_mm, reference[f"{split}_joint_3d_camera"])
        np.testing.assert_array_equal(poses.detections_px, reference[f"dt_{split}_joint3d_image"][..., :2])
        for mode in h36m.MODES:
            inputs = h36m.network_inputs(poses, mode, confidence=True).reshape(len(poses), -1)
            np.testing.assert_allclose(inputs, reference[f"read2d_{mode}_conf1_{split}"], rtol=0, atol=1e-6)
    assert nothing_half_written(tmp_path)
    modified = h36m.pose_file(tmp_path, "train").stat().st_mtime_ns
    again = run(f"--data_dir={tmp_path}").stdout
    assert again.count("(already there)") == 2
    assert h36m.pose_file(tmp_path, "train").stat().st_mtime_ns == modified
    summary = json.loads((tmp_path / "h36m_train.json").read_text())
    assert summary["count"] == 16 and summary["options"]["source"] == "CHUNYUWANG/lcn-pose pickles"
    size = h36m.pose_file(tmp_path, "train").stat().st_size
    assert summary["files"] == {"h36m_train.h5": {"count": 16, "bytes": size}}


def test_changes_and_other_folders(tmp_path):
    put_pickles(tmp_path / "raw")
    os.rename(tmp_path / "raw" / "h36m", tmp_path / "raw" / "dataset")
    output = tmp_path / "output"
    flags = [f"--data_dir={tmp_path / 'raw'}", f"--output_dir={output}"]
    assert "already there" not in run(*flags).stdout
    assert "detections_px" in PoseFile(h36m.pose_file(output, "test")).columns
    assert "already there" not in run(*flags, "--h36m_detections=none").stdout
    assert "detections_px" not in PoseFile(h36m.pose_file(output, "test")).columns
    # Other raw files, and files that are gone or damaged, count too.
    put_pickles(tmp_path / "other", test=original("test")[:50], sh_dt_ft=None)
    flags = [f"--h36m_dir={tmp_path / 'other' / 'h36m'}", f"--output_dir={output}"]
    assert run(*flags).stdout.splitlines()[2].split()[:3] == ["h36m_test", "50", "50"]
    assert run(*flags).stdout.count("(already there)") == 2
    (output / "h36m_train.json").unlink()
    assert run(*flags).stdout.count("(already there)") == 1
    assert run(*flags, "--overwrite").stdout.count("(already there)") == 0
    assert nothing_half_written(output)


def test_files_of_others_are_kept(tmp_path):
    put_pickles(tmp_path)
    put(tmp_path / "h36m_train.h5", b"mine")
    poses = h36m.Poses(**vars(read_any(tmp_path)))
    with PoseWriter(tmp_path / "h36m_test.h5") as writer:
        writer.append(poses.columns())
        writer.set_cameras(poses.cameras.columns())
    result = run(f"--data_dir={tmp_path}", status=1)
    assert result.stderr.count("was not written by this program") == 2 and "--overwrite" in result.stderr
    assert (tmp_path / "h36m_train.h5").read_bytes() == b"mine"
    run(f"--data_dir={tmp_path}", "--overwrite")
    assert len(h36m.read_poses(tmp_path, "train")) == 16


def read_any(tmp_path):
    from posekit.data.h36m_pickles import read_pickles

    return read_pickles(tmp_path / "h36m" / "h36m_train.pkl")


def changed(key, value):
    def change(item):
        return {name: old for name, old in item.items() if name != key} | ({} if value is None else {key: value})

    return change


def in_camera(**changes):
    def change(item):
        camera = {key: value for key, value in (item["camera_param"] | changes).items() if value is not None}
        return item | {"camera_param": camera}

    return change


BAD_ITEMS = {
    "not a dict": lambda item: [item],
    "no key 'joint_3d_camera'": changed("joint_3d_camera", None),
    "'joint_3d_image' is not [17, 3] numbers": changed("joint_3d_image", np.zeros((16, 3))),
    "'joint_3d_camera' is not [17, 3] numbers": changed("joint_3d_camera", [[1.0, 2.0], [3.0]]),
    "'box' is not [4] numbers": changed("box", np.array(["1", "2", "3", "4"])),
    "'root_depth' is not a number": changed("root_depth", "deep"),
    "'subject' is not a whole number in 0 to 99": changed("subject", 100),
    "'videoid' is not a whole number in 0 to 2,147,483,647": changed("videoid", 2**40),
    "'imageid' is not a whole number in 0 to 2,147,483,647": changed("imageid", True),
    "values that are not in -1,000,000 to 1,000,000 px or mm": changed("joint_3d_image", np.full((17, 3), 1e300)),
    "values that are not finite": changed("joint_3d_image", np.full((17, 3), np.nan)),
    "a box of no width": changed("box", np.array([5.0, 1, 5, 9])),
    "joints that are not in front of the camera": changed("root_depth", -5.0),
    "an action that is not among 2 to 16": changed("action", 17),
    "a camera without name, R, T, fx, fy, cx, cy, k, p": in_camera(fx=None),
    "a camera whose name or parameters make no sense": in_camera(R=np.eye(2)),
}


def test_bad_items_are_counted_and_left_out(tmp_path):
    items = original("test")
    for index, change in enumerate(BAD_ITEMS.values()):
        items[2 * index + 1] = change(items[2 * index + 1])
    put_pickles(tmp_path, test=items)
    result = run(f"--data_dir={tmp_path}", status=3)
    count = len(BAD_ITEMS)
    assert result.stdout.splitlines()[2].split() == ["h36m_test", "60", str(60 - count), "-", "0", str(count)]
    for reason in BAD_ITEMS:
        assert f"h36m_test: skipped 1: {reason} (" in result.stdout
    kept = [index for index in range(60) if index % 2 == 0 or index > 2 * count]
    poses, reference = h36m.read_poses(tmp_path, "test"), load_fixture("lcn_data_eval")
    # The detections stay beside their poses.
    for name, key in (("joints_image", "test_joint_3d_image"), ("detections_px", "dt_test_joint3d_image")):
        np.testing.assert_array_equal(getattr(poses, name), reference[key][kept][..., : getattr(poses, name).shape[2]])
    assert run(f"--data_dir={tmp_path}", status=3).stdout.count("(already there)") == 2
    run(f"--data_dir={tmp_path}", "--allow_skips")


def test_numbers_as_matlab_leaves_them(tmp_path):
    items = [
        in_camera(fx=np.array([item["camera_param"]["fx"]]), T=item["camera_param"]["T"].ravel())(item)
        | {"root_depth": np.array([item["root_depth"]], np.float32), "action": np.uint8(item["action"])}
        for item in original("test")
    ]
    put_pickles(tmp_path, test=items)
    convert("test", tmp_path)
    reference = load_fixture("lcn_data_eval")
    np.testing.assert_array_equal(h36m.read_poses(tmp_path, "test").intrinsics, reference["test_fxfycxcy"])


def test_detections_that_do_not_fit(tmp_path):
    detections = original("sh_dt_ft")
    joints, confidence = (detections["test"][key] for key in ("joint3d_image", "confidence"))
    for part, message in (
        ({"joint3d_image": joints[:59], "confidence": confidence[:59]}, "detections of 59 poses, but .* 60"),
        ({"joint3d_image": np.concatenate([joints, joints[:3]])}, "detections of 63 poses, but .* has 60 poses"),
        ({"joint3d_image": joints[:, :16]}, "17, 2 or more"),
        ({"joint3d_image": joints.astype("U9")}, "17, 2 or more"),
        ({"joint3d_image": joints, "confidence": confidence[:59]}, "'confidence' of 'test'"),
        ({"joints": joints}, "not a file of detections"),
        (None, "not a file of detections"),
    ):
        put_pickles(tmp_path, sh_dt_ft=detections | {"test": part})
        with pytest.raises(NothingUsableError, match=message):
            convert("test", tmp_path)
        assert nothing_half_written(tmp_path) and not (tmp_path / "h36m_test.h5").exists()
    joints = joints.copy()
    joints[7, 3, 1] = np.inf
    put_pickles(tmp_path, sh_dt_ft=detections | {"test": {"joint3d_image": joints.astype(np.float32)}})
    summary = convert("test", tmp_path)
    assert summary.written == 59 and list(summary.skips) == ["detections that are not finite"]
    assert "detection_confidence" not in PoseFile(tmp_path / "h36m_test.h5").columns
    assert convert("train", tmp_path).written == 16


def test_unknown_cameras(tmp_path):
    name = in_camera(name="77777777")
    put_pickles(tmp_path, test=[name(item) for item in original("test")])
    result = run(f"--data_dir={tmp_path}", status=1)
    assert "The camera '77777777' is not one of Human3.6M's (54138969, 55011271" in result.stderr
    assert "--h36m_image_size=1000,1002" in result.stderr and len(h36m.read_poses(tmp_path, "train")) == 16
    run(f"--data_dir={tmp_path}", "--h36m_image_size=640,480")
    poses = h36m.read_poses(tmp_path, "test")
    assert set(poses.cameras.name) == {"77777777"} and (poses.image_size == [640, 480]).all()
    assert h36m.read_poses(tmp_path, "train").image_size.max() == 1002
    for wrong in ("640", "a,b", "0,5", "1,2,3"):
        assert "is not width,height" in run(f"--data_dir={tmp_path}", f"--h36m_image_size={wrong}", status=1).stderr
    put_pickles(tmp_path, test=[in_camera(name="5" * 70)(item) for item in original("test")])
    with pytest.raises(NothingUsableError, match=r"a camera whose name or parameters make no sense \(60\)"):
        convert("test", tmp_path, image_size=(640, 480))
    # Or the file says how large they are.
    for size in ({"image_size": (320, 240)}, {"res_w": 320, "res_h": 240}):
        put_pickles(tmp_path, test=[in_camera(name="77777777", **size)(item) for item in original("test")])
        convert("test", tmp_path)
        assert (h36m.read_poses(tmp_path, "test").image_size == [320, 240]).all()


def test_files_that_make_no_sense(tmp_path):
    put_pickles(tmp_path)
    path = tmp_path / "h36m" / "h36m_test.pkl"
    whole = path.read_bytes()
    for content, message in (
        ((FIXTURES / "card_pickle_evil_1.pkl").read_bytes(), "Nothing was executed"),
        (pickle.dumps({"a": 1}), "no list of items"),
        (pickle.dumps([]), "it is empty"),
        (pickle.dumps([1, 2, 3]), r"Nothing of h36m_test can be used: not a dict \(3\)"),
        (whole[: len(whole) // 2], "is it cut short"),
        (b"PK\x03\x04" + whole, "a zip archive"),
        (b"", "it is empty"),
    ):
        put(path, content)
        with pytest.raises(NothingUsableError, match=message):
            convert("test", tmp_path, detections="none")
        assert nothing_half_written(tmp_path) and not (tmp_path / "h36m_test.h5").exists()
    put(path, whole)
    with pytest.raises(NothingUsableError, match="raise --h36m_max_gib"):
        convert("test", tmp_path, max_bytes=1000)
    path.unlink()
    result = run(f"--data_dir={tmp_path}", status=1)
    assert f"ERROR h36m_test: {path} is missing." in result.stderr and "h36m_train     16" in result.stdout


def test_stride(tmp_path):
    items = [item | {"imageid": index} for index, item in enumerate(original("test"))]
    put_pickles(tmp_path, test=items)
    result = run(f"--data_dir={tmp_path}", "--h36m_stride=7")
    assert result.stdout.splitlines()[2].split() == ["h36m_test", "60", "9", "-", "51", "0"]
    assert "h36m_test: left out 51: frame between the strides" in result.stdout
    poses, reference = h36m.read_poses(tmp_path, "test"), load_fixture("lcn_data_eval")
    np.testing.assert_array_equal(poses.frame, range(0, 60, 7))
    np.testing.assert_array_equal(poses.detections_px, reference["dt_test_joint3d_image"][::7, :, :2])


def test_interrupted_and_killed_runs(tmp_path, monkeypatch):
    from posekit.data.h36m_pickles import PickledPoses

    put_pickles(tmp_path)
    convert("test", tmp_path)
    before = (tmp_path / "h36m_test.h5").read_bytes()
    blocks = PickledPoses.blocks

    def interrupted(self, stride):
        for number, block in enumerate(blocks(self, size=20, stride=stride)):
            if number == 2:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(PickledPoses, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert("test", tmp_path, overwrite=True)
    assert (tmp_path / "h36m_test.h5").read_bytes() == before and nothing_half_written(tmp_path)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    # A run that was killed could not tidy up.
    put(tmp_path / ".h36m_test.h5.4711.tmp", b"half")
    put(tmp_path / ".h36m_test.partial" / "lock", b"")
    assert not convert("test", tmp_path).fresh
    assert convert("test", tmp_path, stride=2).fresh and nothing_half_written(tmp_path)


def test_two_runs_at_once(tmp_path):
    from posekit.data.shards import locked

    put_pickles(tmp_path)
    staging = tmp_path / ".h36m_train.partial"
    staging.mkdir()
    with locked(staging):
        result = run(f"--data_dir={tmp_path}", status=1)
    assert "Another process is converting h36m_train" in result.stderr and "h36m_test     60" in result.stdout


def test_nothing_there(tmp_path):
    result = run(f"--data_dir={tmp_path}", status=1)
    assert f"There is nothing of Human3.6M in {tmp_path / 'h36m'}" in result.stderr and "--h36m_dir" in result.stderr


# Recordings in world coordinates

RECORDINGS = {
    "S1": {"Directions 1": 7, "Directions": 5, "SittingDown 2": 4, "_ALL": 3},
    "S5": {"Photo 1": 6, "Dancing": 4},
    "S9": {"Walking": 8, "WalkDog 1": 3},
    "S11": {"Directions": 6, "Directions 1": 4},
}


def world_poses(seed, frames):
    """`[frames, 32, 3]` in millimetres, z up, near the middle of the room."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 30, (frames, 1, 3)), 0) + [0, 300, 900]
    return walk + rng.normal(0, 250, (1, 32, 3)) + rng.normal(0, 5, (frames, 32, 3))


def all_poses():
    return {
        subject: {
            name: world_poses(100 * int(subject[1:]) + place, frames)
            for place, (name, frames) in enumerate(recordings.items())
        }
        for subject, recordings in RECORDINGS.items()
    }


def put_npz(path, **objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: np.array(value, object) for key, value in objects.items()})


def put_videopose(folder, poses=None, detections=None, metadata=None):
    content = {subject: {name: (values / 1000).astype(np.float32) for name, values in recordings.items()}
               for subject, recordings in (poses or all_poses()).items()}  # fmt: skip
    put_npz(folder / "h36m" / "data_3d_h36m.npz", positions_3d=content)
    if detections:
        layout = {"num_joints": 17, "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]}
        metadata = layout if metadata is None else metadata
        put_npz(folder / "h36m" / "data_2d_h36m_cpn.npz", positions_2d=detections, metadata=metadata)


def put_h5(folder, name_of=lambda name: name):
    for subject, recordings in all_poses().items():
        for name, values in recordings.items():
            path = folder / "h36m" / subject / "MyPoses" / "3D_positions" / f"{name_of(name)}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["3D_positions"] = values.reshape(len(values), 96).T


def own_name(name):
    """What Human3.6M itself calls a recording."""
    return name.replace("WalkDog", "WalkingDog").replace("Photo", "TakingPhoto")


def put_cdf(path, values, dtype=np.float32):
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    variable = {
        "Variable": "Pose", "Data_Type": 44 if dtype == np.float32 else 45, "Num_Elements": 1, "Rec_Vary": True,
        "Dim_Sizes": [len(values), 96], "Dim_Vary": [True, True], "Var_Type": "zVariable", "Compress": 6,
    }  # fmt: skip
    writer = CDF(str(path.with_suffix("")), cdf_spec={"Majority": "row_major"})
    writer.write_var(variable, var_data=values.reshape(1, len(values), 96).astype(dtype))
    writer.close()


def seen_by_hand(point, camera, distortion):
    """One point through one camera, in the words of the formula."""
    x, y, z = camera.R @ (point - camera.T)
    u, v = x / z, y / z
    pinhole = np.array([u, v]) * camera.f + camera.c
    if not distortion:
        return (x, y, z), pinhole, pinhole
    square = u * u + v * v
    factor = 1 + camera.k[0] * square + camera.k[1] * square**2 + camera.k[2] * square**3
    factor += camera.p[0] * v + camera.p[1] * u
    bent = np.array([u * factor + camera.p[1] * square, v * factor + camera.p[0] * square])
    return (x, y, z), pinhole, bent * camera.f + camera.c


def check_against_worlds(poses, expected, tolerance, distortion=True):
    """Compares with worlds `[(subject, action, subaction, joints [frames, 32, 3]), …]` seen through every camera."""
    from converters.h36m_cameras import built_in

    chosen = [H36M32.index(joint) for joint in H36M17.joints]
    rows = iter(range(len(poses)))
    for subject, action, subaction, world in expected:
        for index in range(4):
            camera = built_in()[subject, index]
            for frame, joints in enumerate(world):
                row = next(rows)
                numbers = (poses.subject[row], poses.action[row], poses.subaction[row], poses.frame[row])
                assert numbers == (subject, action, subaction, frame)
                assert poses.cameras.name[poses.camera[row]] == CAMERAS[index]
                for joint in (0, 7, 16):
                    place, pinhole, bent = seen_by_hand(joints[chosen[joint]], camera, distortion)
                    np.testing.assert_allclose(poses.joints_cam_mm[row, joint], place, rtol=0, atol=tolerance)
                    np.testing.assert_allclose(poses.joints_image[row, joint, :2], pinhole, rtol=0, atol=tolerance)
                    np.testing.assert_allclose(poses.joints_px[row, joint], bent, rtol=0, atol=tolerance)
    assert next(rows, None) is None
    image, box = screen_pose.camera_to_image(poses.joints_cam_mm, poses.intrinsics)
    np.testing.assert_allclose(poses.joints_image, image, rtol=0, atol=1e-9)
    np.testing.assert_allclose(poses.box_px, box, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(poses.root_depth_mm, poses.joints_cam_mm[:, 0, 2])


def expected_train():
    poses = all_poses()
    return [
        (1, 2, 1, poses["S1"]["Directions 1"]), (1, 2, 2, poses["S1"]["Directions"]),
        (1, 10, 2, poses["S1"]["SittingDown 2"]), (5, 12, 1, poses["S5"]["Photo 1"]),
    ]  # fmt: skip


def expected_test():
    poses = all_poses()
    return [
        (9, 14, 1, poses["S9"]["Walking"]), (9, 15, 1, poses["S9"]["WalkDog 1"]),
        (11, 2, 1, poses["S11"]["Directions 1"]),
    ]  # fmt: skip


def test_videopose3d(tmp_path):
    put_videopose(tmp_path)
    result = run(f"--data_dir={tmp_path}", status=3)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1] == ["h36m_train", "88", "88", "-", "4", "1"] and lines[2][:3] == ["h36m_test", "60", "60"]
    assert "left out 1: not an action but a calibration recording (S1 _ALL)" in result.stdout
    assert "skipped 1: no action of Human3.6M (S5 Dancing)" in result.stdout
    assert "left out 3: subject without recordings (S6, S7, S8)" in result.stdout
    assert "left out 1: recording with a damaged video (S11 Directions)" in result.stdout
    check_against_worlds(h36m.read_poses(tmp_path, "train"), expected_train(), 1e-3)
    poses = h36m.read_poses(tmp_path, "test")
    check_against_worlds(poses, expected_test(), 1e-3)
    assert poses.video.tolist()[::4][:3] == [16, 16, 17] and len(set(poses.video)) == 12
    assert poses.names(len(poses) - 1) == "s_11_act_02_subact_01_ca_04_000004"
    lens = np.abs(poses.joints_px - poses.joints_image[..., :2])
    assert 0.01 < lens.max() < 60 and poses.detections_px is None


def test_without_distortion_and_with_stride(tmp_path):
    put_videopose(tmp_path)
    convert("test", tmp_path, distortion=False)
    poses = h36m.read_poses(tmp_path, "test")
    check_against_worlds(poses, expected_test(), 1e-3, distortion=False)
    summary = convert("test", tmp_path, stride=3)
    assert summary.found == 60 and summary.written == 4 * (3 + 1 + 2)
    strided = h36m.read_poses(tmp_path, "test")
    assert strided.frame.tolist()[:4] == [0, 3, 6, 0]
    np.testing.assert_array_equal(strided.joints_cam_mm, poses[poses.frame % 3 == 0].joints_cam_mm)


def detected(seed, last, extra=2):
    rng = np.random.default_rng(seed)
    return {
        subject: {
            name: [rng.uniform(0, 1000, (frames + extra, 17, last)).astype(np.float32) for _ in range(4)]
            for name, frames in recordings.items()
        }
        for subject, recordings in RECORDINGS.items()
    }


@pytest.mark.parametrize("last", [2, 3])
def test_videopose3d_detections(tmp_path, last):
    detections = detected(0, last)
    put_videopose(tmp_path, detections=detections)
    summary = convert("test", tmp_path)
    poses = h36m.read_poses(tmp_path, "test")
    expected = np.concatenate(
        [
            views[:frames]
            for subject, name in (("S9", "Walking"), ("S9", "WalkDog 1"), ("S11", "Directions 1"))
            for frames in [RECORDINGS[subject][name]]
            for views in detections[subject][name]
        ]
    )
    assert summary.written == len(poses) == len(expected)
    np.testing.assert_array_equal(poses.detections_px, expected[..., :2])
    if last == 3:
        np.testing.assert_array_equal(poses.detection_confidence, expected[..., 2])
    else:
        assert poses.detection_confidence is None
    assert convert("test", tmp_path, detections="none").written == 60
    assert h36m.read_poses(tmp_path, "test").detections_px is None


def test_videopose3d_detections_that_do_not_fit(tmp_path):
    detections = detected(0, 3)
    del detections["S9"]["Walking"]
    detections["S9"]["WalkDog 1"][2] = detections["S9"]["WalkDog 1"][2][:2]
    detections["S11"]["Directions 1"][0][1, 5] = np.nan
    put_videopose(tmp_path, detections=detections)
    summary = convert("test", tmp_path)
    assert summary.skips["no 2-D detections"] == {"count": 1, "first": ["S9 Walking"], "by_rule": False}
    assert summary.skips["fewer frames with 2-D detections than with poses"]["first"] == ["S9 WalkDog 1"]
    nan = summary.skips["detections that are not finite"]
    assert nan["first"] == ["S11 Directions 1 camera 1 frame 2"] and summary.written == 15
    for metadata in (
        {"layout_name": "coco", "num_joints": 17},
        {"num_joints": 17, "keypoints_symmetry": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]},
    ):
        put_videopose(tmp_path, detections=detected(0, 2), metadata=metadata)
        with pytest.raises(NothingUsableError, match="keypoints of another skeleton.*--h36m_detections=none"):
            convert("test", tmp_path)
    for metadata in (
        {"layout_name": np.array(["h36m", "x"])},
        {"num_joints": 17, "keypoints_symmetry": [[None], [1]]},
        {"num_joints": 17, "keypoints_symmetry": [[np.inf], [1]]},
        {"num_joints": 17, "keypoints_symmetry": 5},
        {"num_joints": np.int64(17), "keypoints_symmetry": [[1], [2], [3]]},
    ):
        put_videopose(tmp_path, detections=detected(0, 2), metadata=metadata)
        with pytest.raises(NothingUsableError, match="data_2d_h36m_cpn.npz.*--h36m_detections=none"):
            convert("test", tmp_path)
    odd = {"S9": {"Walking": np.array(3.0), "WalkDog 1": "abcd"}, "S11": {"Directions 1": [None] * 4}}
    put_videopose(tmp_path, detections=odd, metadata={"num_joints": np.array([1, 2])})
    with pytest.raises(NothingUsableError, match=r"no 2-D detections \(\d\).*something else than an array"):
        convert("test", tmp_path)
    put_videopose(tmp_path, detections=detected(0, 2), metadata={"layout_name": "h36m"})
    os.rename(tmp_path / "h36m" / "data_2d_h36m_cpn.npz", tmp_path / "h36m" / "data_2d_h36m_gt.npz")
    assert convert("test", tmp_path).written == 60
    for name in ("a", "b"):
        put_npz(tmp_path / "h36m" / f"data_2d_h36m_{name}.npz", positions_2d=detected(0, 2))
    with pytest.raises(NothingUsableError, match="several files.*data_2d_h36m_a.npz, data_2d_h36m_b.npz.*choose"):
        convert("test", tmp_path)
    assert convert("test", tmp_path, detections=str(tmp_path / "h36m" / "data_2d_h36m_a.npz")).written == 60
    with pytest.raises(NothingUsableError, match="none.npz does not exist"):
        convert("test", tmp_path, detections=str(tmp_path / "none.npz"))


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed",)


def test_npz_files_that_make_no_sense(tmp_path, capfd):
    path = tmp_path / "h36m" / "data_3d_h36m.npz"
    put_videopose(tmp_path)
    whole = path.read_bytes()
    for message, objects in (
        ("Nothing was executed", {"positions_3d": {"S9": Evil()}}),
        ("has no positions_3d", {"other": {}}),
        ("has no positions_3d", {"positions_3d": {"S9": [1, 2]}}),
        ("has no positions_3d", {"positions_3d": [1]}),
        ("no recordings of S9, S11", {"positions_3d": {"S1": {"Walking": np.zeros((3, 32, 3))}}}),
        ("no recordings of S9, S11", {"positions_3d": {"S9": {"Dancing": np.zeros((3, 32, 3)), 5: 1}}}),
        ("joints of shape .3, 18, 3.", {"positions_3d": {"S9": {"Walking": np.zeros((3, 18, 3))}}}),
        ("something else than an array of numbers", {"positions_3d": {"S9": {"Walking": [[1], [2, 3]]}}}),
        ("no frames", {"positions_3d": {"S9": {"Walking": np.zeros((0, 32, 3))}}}),
        ("values that are not finite", {"positions_3d": {"S9": {"Walking": np.full((3, 32, 3), np.nan)}}}),
    ):
        put_npz(path, **objects)
        with pytest.raises(NothingUsableError, match=message):
            convert("test", tmp_path)
    # As an array these would take as much memory as the longest for each.
    put_npz(path, positions_3d={"S9": {"Walking": ["x" * 10**6] + [""] * 10**5}})
    with pytest.raises(NothingUsableError, match="something else than an array of numbers"):
        convert("test", tmp_path)
    np.savez(path, positions_3d=np.zeros((3, 32, 3)))
    with pytest.raises(NothingUsableError, match="plain numbers"):
        convert("test", tmp_path)
    for header, compression in ((b"(" * 9000, 0), (b"{'descr': '|O', 'shape': (3,", 0), (b"", 14)):
        entry = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("positions_3d.npy", entry)
        put(path, path.read_bytes().replace(b"]\0\0\x80\0\0", b"\xff" * 6))  # what LZMA is told, if it is there
        with pytest.raises(NothingUsableError, match="data_3d_h36m.npz cannot be read as .npz: .*positions_3d"):
            convert("test", tmp_path)
    for content in (whole[: len(whole) // 2], b"no zip", b"", whole[:100] + bytes(200) + whole[300:]):
        put(path, content)
        with pytest.raises(NothingUsableError, match="data_3d_h36m.npz"):
            convert("test", tmp_path)
    put(path, whole)
    with pytest.raises(NothingUsableError, match="--h36m_max_gib"):
        convert("test", tmp_path, max_bytes=1000)
    assert nothing_half_written(tmp_path) and not (tmp_path / "h36m_test.h5").exists()
    assert "executed" not in capfd.readouterr().out


def test_people_behind_a_camera(tmp_path):
    put_npz(tmp_path / "h36m" / "data_3d_h36m.npz", positions_3d={"S9": {"Walking": np.full((3, 32, 3), [9.0, 9, 1])}})
    summary = convert("test", tmp_path)
    reason = "joints that are not in front of the camera"
    assert summary.skips[reason]["first"][0] == "S9 Walking camera 1 frame 1"
    # Close beside a camera is far outside of its picture.
    outside = summary.skips["values that are not in -1,000,000 to 1,000,000 px or mm"]
    assert 0 < summary.skips[reason]["count"] == 12 - summary.written - outside["count"]


def test_poses_of_17_joints(tmp_path):
    chosen = [H36M32.index(joint) for joint in H36M17.joints]
    poses = {s: {n: values[:, chosen] for n, values in recordings.items()} for s, recordings in all_poses().items()}
    put_videopose(tmp_path, poses)
    convert("test", tmp_path)
    check_against_worlds(h36m.read_poses(tmp_path, "test"), expected_test(), 1e-3)


def test_one_dict_for_two_subjects(tmp_path):
    recordings = {"Walking": world_poses(0, 3) / 1000}
    put_npz(tmp_path / "h36m" / "data_3d_h36m.npz", positions_3d={"S9": recordings, "S11": recordings})
    assert convert("test", tmp_path).written == 24


def test_h5_files(tmp_path):
    put_h5(tmp_path, lambda name: own_name(name).replace(" ", "_"))
    folder = tmp_path / "h36m"
    put(folder / "S9" / "MyPoses" / "3D_positions" / "Eating.h5", b"no HDF5")
    with h5py.File(folder / "S9" / "MyPoses" / "3D_positions" / "Eating 1.h5", "w") as file:
        file["3D_positions"] = np.zeros((95, 4))
    with h5py.File(folder / "S9" / "MyPoses" / "3D_positions" / "Eating 2.h5", "w") as file:
        file.create_dataset("3D_positions", (96, 10**10), "f8", chunks=(96, 10))
    with h5py.File(folder / "S9" / "MyPoses" / "3D_positions" / "Eating 3.h5", "w") as file:
        file["other"] = 1
    result = run(f"--data_dir={tmp_path}", status=3)
    check_against_worlds(h36m.read_poses(tmp_path, "train"), expected_train(), 1e-6)
    check_against_worlds(h36m.read_poses(tmp_path, "test"), expected_test(), 1e-6)
    for reason in ("numbers of shape [4, 95] instead of [frames, 96]", "'3D_positions' in / claims 7680000000000 bytes",
                   "it has no '3D_positions'", "unreadable file (Unable to"):  # fmt: skip
        assert reason in result.stdout
    assert run(f"--data_dir={tmp_path}", status=3).stdout.count("(already there)") == 2


def test_cdf_files(tmp_path):
    pytest.importorskip("cdflib")
    for subject, recordings in all_poses().items():
        inner = "MyPoseFeatures/D3_Positions" if subject != "S5" else "Poses_D3_Positions"
        for name, values in recordings.items():
            dtype = np.float32 if subject == "S1" else np.float64
            put_cdf(tmp_path / "h36m" / subject / inner / f"{own_name(name)}.cdf", values, dtype)
    folder = tmp_path / "h36m" / "S9" / "MyPoseFeatures" / "D3_Positions"
    whole = (folder / "Walking.cdf").read_bytes()
    for number, content in enumerate((b"", b"no CDF" * 100, whole[:400], whole[: len(whole) // 2]), 1):
        put(folder / f"Eating {number}.cdf", content)
    result = run(f"--data_dir={tmp_path}", status=3)
    check_against_worlds(h36m.read_poses(tmp_path, "train"), expected_train(), 1e-2)
    check_against_worlds(h36m.read_poses(tmp_path, "test"), expected_test(), 1e-6)
    assert result.stdout.count("unreadable file (") >= 1 and "S9 Eating 1" in result.stdout
    rng = np.random.default_rng(0)
    from converters import h36m_recordings

    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole) - 8 * 96 * 8)] ^= 1 << rng.integers(8)
        try:
            assert h36m_recordings.read_cdf(put(tmp_path / "damaged.cdf", damaged)).shape[1:] == (32, 3)
        except h36m_recordings.UnusableRecordingError:
            pass


def test_cdf_files_that_keep_their_reader_busy(tmp_path, monkeypatch):
    pytest.importorskip("cdflib")
    from converters import h36m_recordings

    put_cdf(tmp_path / "good.cdf", world_poses(0, 5))
    damaged = bytearray((tmp_path / "good.cdf").read_bytes())
    record = int.from_bytes(damaged[20:28], "big")
    damaged[record + 44 : record + 48] = (2**31 - 1).to_bytes(4, "big")  # how many variables there are
    put(tmp_path / "damaged.cdf", damaged)
    with open(tmp_path / "large.cdf", "wb") as file:
        file.truncate(h36m_recordings._MAX_CDF_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.cdf")
    monkeypatch.setattr(h36m_recordings, "_MAX_CDF_SECONDS", 2)
    for name, message in (("damaged", "over 2 s"), ("large", "has fewer"), ("pipe", "not a regular file")):
        with pytest.raises(h36m_recordings.UnusableRecordingError, match=message):
            h36m_recordings.read_cdf(tmp_path / f"{name}.cdf")
        assert h36m_recordings.read_cdf(tmp_path / "good.cdf").shape == (5, 32, 3)


def test_pipes_are_not_read(tmp_path):
    put_videopose(tmp_path)
    folder = tmp_path / "h36m"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NothingUsableError, match="pipe is not a regular file"):
        convert("test", tmp_path, detections=str(tmp_path / "pipe"))
    for name in ("cameras.h5", "metadata.xml"):
        os.mkfifo(folder / name)
        with pytest.raises(NothingUsableError, match=f"{name} is not a regular file"):
            convert("test", tmp_path)
        (folder / name).unlink()
    (folder / "data_3d_h36m.npz").unlink()
    put_h5(tmp_path)
    os.mkfifo(folder / "S9" / "MyPoses" / "3D_positions" / "Eating.h5")
    assert any("is not a regular file" in reason for reason in convert("test", tmp_path).skips)


def test_cdf_files_without_cdflib(tmp_path, monkeypatch):
    put(tmp_path / "h36m" / "S9" / "Poses_D3_Positions" / "Walking.cdf", b"")
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(NothingUsableError, match="pip install cdflib"):
        convert("test", tmp_path)


def test_which_source_is_taken(tmp_path):
    put_h5(tmp_path)
    assert convert("test", tmp_path).written == 60
    put_videopose(tmp_path)
    put_pickles(tmp_path)
    assert convert("test", tmp_path).files["h36m_test.h5"]["count"] == 60
    titles = {}
    for source in ("pickles", "videopose3d", "h5"):
        convert("test", tmp_path, source)
        titles[source] = PoseFile(tmp_path / "h36m_test.h5").source
    assert titles["pickles"] == "CHUNYUWANG/lcn-pose pickles" and len(set(titles.values())) == 3
    with pytest.raises(NothingUsableError, match="cdf"):
        convert("test", tmp_path, "cdf")


# Cameras


def test_built_in_cameras():
    from converters.h36m_cameras import built_in

    cameras = built_in()
    assert len(cameras) == 28 and {subject for subject, _ in cameras} == {1, 5, 6, 7, 8, 9, 11}
    middle = np.array([0.0, 300, 900])
    for (_, index), camera in cameras.items():
        assert camera.name == CAMERAS[index]
        np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.R) > 0
        # Everybody stands in the middle of the pictures, some metres away, head up.
        x, y, z = camera.R @ (middle - camera.T)
        assert 3500 < z < 6500 and np.hypot(x, y) < 0.2 * z
        assert (camera.R @ [0, 0, 1])[1] < -0.9
    # As VideoPose3D has them: unit quaternions from camera to world, in single precision.
    for key, (w, x, y, z), place in (
        ((9, 0), (0.15540587902069092, -0.15548215806484222, -0.7532095313072205, 0.6199594736099243),
         (2044.45849609375, 4935.1171875, 1481.2275390625)),
        ((11, 3), (0.5894251465797424, -0.7818877100944519, 0.13991211354732513, -0.14715361595153809),
         (-1590.738037109375, -3854.1689453125, 1578.017578125)),
    ):  # fmt: skip
        rotation = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        np.testing.assert_allclose(cameras[key].R.T, rotation, rtol=0, atol=1e-6)
        np.testing.assert_allclose(cameras[key].T, place, rtol=0, atol=1e-3)


def put_cameras_h5(path, shift=0.0, **changes):
    from converters.h36m_cameras import built_in

    with h5py.File(path, "w") as file:
        for (subject, index), camera in built_in().items():
            group = file.create_group(f"subject{subject}/camera{index + 1}")
            arrays = {key: getattr(camera, key)[:, None] for key in ("T", "f", "c", "k", "p")}
            arrays |= {"R": camera.R.T, "Name": np.array([[ord(letter)] for letter in camera.name], np.uint16)}
            arrays["c"] = arrays["c"] + shift
            for key, values in (arrays | changes).items():
                group[key] = values


def put_metadata(path, shift=0.0, mapping=""):
    from converters import h36m_cameras

    numbers = []
    for index in range(4):
        for subject in range(1, 12):
            numbers += h36m_cameras._PLACES.get(subject, h36m_cameras._PLACES[1])[index]
    lenses = np.array(h36m_cameras._LENSES)
    lenses[:, 2:4] += shift
    text = " ".join(repr(float(number)) for number in [*numbers, *lenses.ravel()])
    put(path, f"<metadata>{mapping}<w0>[{text}]</w0></metadata>".encode())


def test_cameras_from_files(tmp_path):
    put_videopose(tmp_path)
    convert("test", tmp_path)
    plain = h36m.read_poses(tmp_path, "test")
    folder = tmp_path / "h36m"
    for put_file, name in ((put_metadata, "metadata.xml"), (put_cameras_h5, "cameras.h5")):
        put_file(folder / name, shift=11.0)
        assert convert("test", tmp_path).fresh
        poses = h36m.read_poses(tmp_path, "test")
        np.testing.assert_allclose(poses.joints_px, plain.joints_px + 11, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(poses.cameras.R, plain.cameras.R)
        assert poses.cameras.name == plain.cameras.name


def test_subactions_from_the_metadata(tmp_path):
    put_videopose(tmp_path)
    rows = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in (("", "", "S1", "S9"), (2, 1, "Directions", "Directions"), (2, 2, "Directions 1", "Directions 1"),
                    (14, 2, "Walking", "Walking"), ("x", "", "", ""))
    )  # fmt: skip
    put_metadata(tmp_path / "h36m" / "metadata.xml", mapping=f"<mapping>{rows}</mapping>")
    convert("train", tmp_path)
    poses = h36m.read_poses(tmp_path, "train")
    directions = all_poses()["S1"]
    swapped = [(1, 2, 1, directions["Directions"]), (1, 2, 2, directions["Directions 1"])]
    check_against_worlds(poses, swapped + expected_train()[2:], 1e-3)
    convert("test", tmp_path)
    assert h36m.read_poses(tmp_path, "test").subaction.tolist()[0] == 2


def test_camera_files_that_make_no_sense(tmp_path):
    put_videopose(tmp_path)
    metadata = tmp_path / "h36m" / "metadata.xml"
    for content in (b"", b"<metadata>", b"<a><w0>[1 2 3]</w0></a>", b"<a><w0>[" + b"nan " * 300 + b"]</w0></a>",
                    b"<a><w0>[" + b"x " * 300 + b"]</w0></a>", b"\xff\xfe\x00"):  # fmt: skip
        put(metadata, content)
        with pytest.raises(NothingUsableError, match="metadata.xml"):
            convert("test", tmp_path)
    for number in ("9" * 11, "1" * 5000):
        row = "".join(f"<td>{cell}</td>" for cell in (2, number, "Walking", "Walking"))
        put_metadata(metadata, mapping=f"<mapping><tr><td/><td/><td>S1</td></tr><tr>{row}</tr></mapping>")
        with pytest.raises(NothingUsableError, match="its mapping has the action 2, subaction [19]{11,20}[.]"):
            convert("test", tmp_path)
    entities = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    for content in (entities + b"<a><w0>&c;</w0></a>", (entities + b"<a/>").decode().encode("utf-16"), bytes(5 << 20)):
        put(metadata, content)
        with pytest.raises(NothingUsableError, match="metadata.xml of Human3.6M, or damaged: it (has|declares)"):
            convert("test", tmp_path)
    metadata.unlink()
    cameras = tmp_path / "h36m" / "cameras.h5"
    texts = np.array([b"a", b"b", b"c"])
    for changes in ({"R": np.ones((3, 3))}, {"f": np.ones(3)}, {"T": texts}, {"k": np.ones((10**4, 3))}):
        put_cameras_h5(cameras, **changes)
        with pytest.raises(NothingUsableError, match="cameras.h5"):
            convert("test", tmp_path)
    for changes in (
        {"Name": np.array([[np.nan]])}, {"Name": np.array([[0xD800]])}, {"Name": np.array([[-3]])},
        {"T": np.full(3, np.nan)}, {"k": np.zeros(3, [("a", "f8")])}, {"p": h5py.Empty("f8")},
    ):  # fmt: skip
        put_cameras_h5(cameras, **changes)
        with pytest.raises(NothingUsableError, match="cameras.h5 is no cameras.h5, or damaged: .*/subject1/camera1"):
            convert("test", tmp_path)
    # Numbers that lie elsewhere are not read.
    put_cameras_h5(tmp_path / "other.h5")
    external = h5py.ExternalLink(str(tmp_path / "other.h5"), "/subject9/camera2/T")
    for link in (external, h5py.SoftLink("/subject1/camera1/T"), None):
        put_cameras_h5(cameras)
        with h5py.File(cameras, "r+") as file:
            group = file["subject9/camera2"]
            del group["T"]
            if link is None:
                group.create_dataset("T", (3,), "f8", external=[(str(tmp_path / "other.h5"), 0, 24)])
            else:
                group["T"] = link
        with pytest.raises(NothingUsableError, match="'T'.* in /subject9/camera2"):
            convert("test", tmp_path)
    for content in (b"", b"no HDF5"):
        put(cameras, content)
        with pytest.raises(NothingUsableError, match="cameras.h5"):
            convert("test", tmp_path)
    put_cameras_h5(cameras, Name=np.array([ord(letter) for letter in "12345678"]))
    with pytest.raises(NothingUsableError, match="'12345678' is not one of Human3.6M's.*--h36m_image_size"):
        convert("test", tmp_path)
    assert convert("test", tmp_path, image_size=(1000, 1000)).written == 60
    with h5py.File(cameras, "r+") as file:
        del file["subject9"]
    summary = convert("test", tmp_path, image_size=(1000, 1000))
    assert summary.skips["no calibration of a camera for S9"]["count"] == 2 and summary.written == 16


def test_a_recording_can_be_read_from_its_name():
    from converters.h36m_recordings import parse_recording

    assert parse_recording("WalkingDog 1") == ("WalkDog", 1) and parse_recording("TakingPhoto") == ("Photo", None)
    assert parse_recording("Sitting_2") == ("Sitting", 2) and parse_recording("SittingDown") == ("SittingDown", None)
    for other in ("_ALL 1", "Directions 1.54138969", "Walk", "", None, 5, "Directions 123"):
        assert parse_recording(other) == (None, None)


# Flags and summaries


def test_flags_out_of_range(tmp_path):
    put_pickles(tmp_path)
    for flag, value in (
        ("h36m_max_gib", "nan"),
        ("h36m_max_gib", "inf"),
        ("h36m_max_gib", "-1"),
        ("h36m_max_gib", "1e300"),
        ("h36m_stride", "1" + "0" * 30),
        ("h36m_stride", "0"),
        ("h36m_image_size", "1e-300,5"),
        ("h36m_image_size", "inf,5"),
    ):
        result = run(f"--data_dir={tmp_path}", f"--{flag}={value}", status=1)
        assert flag in result.stderr + result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["h36m"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda summary: b"{",
        lambda summary: b"[" * 100_000,
        lambda summary: b"[]",
        lambda summary: summary.pop("found"),
        lambda summary: summary.pop("skipped"),
        lambda summary: summary.update(count="16"),
        lambda summary: summary.update(skipped=5),
        lambda summary: summary.update(skipped={"reason": 5}),
        lambda summary: summary.update(skipped={"reason": {"count": 1, "first": [5], "by_rule": True}}),
        lambda summary: summary.update(files=[]),
    ],
)
def test_damaged_summaries_are_made_again(tmp_path, damage):
    put_pickles(tmp_path)
    assert convert("train", tmp_path).fresh and not convert("train", tmp_path).fresh
    path = tmp_path / "h36m_train.json"
    before = path.read_bytes()
    summary = json.loads(before)
    content = damage(summary)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(summary).encode())
    assert convert("train", tmp_path).fresh and path.read_bytes() == before


def test_folders_whose_names_are_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    put_pickles(folder, test=[])
    command = [sys.executable, str(ROOT / "tools" / "create_dataset.py"), "--h36m", f"--data_dir={folder}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"}
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, env=environment)
        assert result.returncode == 1 and b"Traceback" not in result.stderr, result.stderr
    names = {"count": 1, "first": ["\udcff"], "by_rule": True}
    summary = json.loads((folder / "h36m_train.json").read_bytes()) | {"skipped": {"frames": names}}
    (folder / "h36m_train.json").write_text(json.dumps(summary))
    result = subprocess.run(command, capture_output=True, env=environment)
    assert rb"left out 1: frames (\udcff)" in result.stdout and b"Traceback" not in result.stderr
