"""Keypoints from files: every format a user may have, and files that are wrong in every way."""

import json
import os
import pickle
import zipfile

import cv2
import numpy as np
import pytest

from posekit import testing
from posekit.data import keypoint_files, keypoint_json
from posekit.data.hdf5 import CAMERA_COLUMNS, COLUMNS, PoseWriter
from posekit.data.keypoint_files import checked_size, named_skeleton, read_keypoints
from posekit.results import People
from posekit.skeletons import BODY25, COCO17, COCO_PLUS19, H36M17, LSP14, OPENPOSE18, SMPL24, Skeleton

RNG = np.random.default_rng(0)
SIZE = (640, 480)


def people_of(number=2, skeleton=COCO17, **fields):
    points = RNG.uniform(10, 400, (number, skeleton.num_joints, 2)).astype(np.float32)
    scores = RNG.uniform(0.1, 1, points.shape[:2]).astype(np.float32)
    if number:
        points[0, 3], scores[0, 3] = np.nan, 0
    return People(points, scores, skeleton, (480, 640), **fields)


def assert_same(people, expected, boxes=True):
    np.testing.assert_allclose(people.keypoints_px, expected.keypoints_px, rtol=1e-5)
    np.testing.assert_allclose(people.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(people.person_scores, expected.person_scores, rtol=1e-5)
    assert people.skeleton == expected.skeleton and people.image_size == expected.image_size
    if boxes and expected.boxes is not None:
        np.testing.assert_allclose(people.boxes, expected.boxes, rtol=1e-5)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


# ------------------------------------------------------------------------------------------ what posekit writes


@pytest.mark.parametrize("skeleton", [COCO17, COCO_PLUS19, LSP14, H36M17], ids=lambda s: s.name)
def test_posekits_own_json_comes_back(tmp_path, skeleton):
    people = people_of(skeleton=skeleton, source="ski.jpg", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    people.save(tmp_path / "out.json")
    (frame,) = read_keypoints(tmp_path / "out.json")
    assert frame.name == frame.people.source == "ski.jpg" and frame.image_path is None and frame.image is None
    assert_same(frame.people, people)


@pytest.mark.parametrize(("style", "stem"), [("json", "p2"), ("coco", "p2"), ("coco", "0012"), ("openpose", "p2")])
def test_pictures_lie_beside_what_predict_writes(tmp_path, style, stem):
    cv2.imwrite(str(tmp_path / f"{stem}.jpg"), np.zeros((48, 64, 3), np.uint8))
    path = tmp_path / (f"{stem}.json" if style == "json" else f"{stem}.{style}.json")
    people_of(source=f"{stem}.jpg").save(path, style=style)
    (frame,) = read_keypoints(path, image_size=SIZE)
    assert frame.image_path == tmp_path / f"{stem}.jpg" and frame.image.shape == (48, 64, 3)


def test_posekits_json_keeps_unknown_skeletons(tmp_path):
    mine = Skeleton("mine", ("a", "left_b", "right_b", "c"), (("left_b", "a"), ("right_b", "a")))
    people_of(1, skeleton=mine).save(tmp_path / "out.json")
    assert read_keypoints(tmp_path / "out.json")[0].people.skeleton == mine
    people_of(1, skeleton=mine).save_npz(tmp_path / "out.npz")
    assert read_keypoints(tmp_path / "out.npz")[0].people.skeleton.joints == mine.joints


def test_posekits_npz_comes_back(tmp_path):
    people = people_of(skeleton=BODY25, source="a.png", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    people.save_npz(tmp_path / "out.npz")
    (frame,) = read_keypoints(tmp_path / "out.npz")
    assert frame.name == "a.png"
    assert_same(frame.people, people)


def test_coco_results_come_back(tmp_path):
    people = people_of(source="12.jpg", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    people.save(tmp_path / "out.json", style="coco")
    (frame,) = read_keypoints(tmp_path / "out.json", image_size=SIZE)
    assert frame.name == "12"
    assert_same(frame.people, people)


@pytest.mark.parametrize("skeleton", [OPENPOSE18, BODY25], ids=lambda s: s.name)
def test_openpose_frames_come_back(tmp_path, skeleton):
    people = people_of(skeleton=skeleton)
    content = {"version": 1.3, "people": []}
    for points, scores in zip(np.nan_to_num(people.keypoints_px), people.scores):
        triples = np.concatenate([points, scores[:, None]], 1).astype(float).ravel().tolist()
        content["people"].append({"person_id": [-1], "pose_keypoints_2d": triples, "face_keypoints_2d": []})
    content["people"].append({"pose_keypoints_2d": [], "hand_left_keypoints_2d": [1, 2, 3]})
    path = write(tmp_path / "video_000000000007_keypoints.json", content)
    (frame,) = read_keypoints(path, image_size=SIZE)
    assert frame.name == "video_000000000007" and len(frame.people) == 2
    assert_same(frame.people, people, boxes=False)


def test_a_folder_of_openpose_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (10, 9, 2):
        triples = [float(number), 5.0, 0.5] * 25 if number != 2 else []
        people = [{"pose_keypoints_2d": triples}] if triples else []
        write(tmp_path / f"v_{number}_keypoints.json", {"people": people})
    write(tmp_path / "notes.json", {"not": "keypoints"})
    frames = read_keypoints(tmp_path, image_size=SIZE)
    assert [frame.name for frame in frames] == ["v_2", "v_9", "v_10"]
    assert [len(frame.people) for frame in frames] == [0, 1, 1]
    assert {frame.people.skeleton for frame in frames} == {BODY25}
    assert [frame.name for frame in read_keypoints(f"{tmp_path}#1:", image_size=SIZE)] == ["v_9", "v_10"]


# ---------------------------------------------------------------------------------------------------- COCO's own


def test_real_coco_annotations():
    folder = testing.shared_data() / "coco" / "annotations"
    (path,) = sorted(folder.glob("person_keypoints*.json"))
    frames = read_keypoints(path)
    content = json.loads(path.read_text())
    labelled = [entry for entry in content["annotations"] if entry["num_keypoints"]]
    assert sum(len(frame.people) for frame in frames) == len(labelled)
    entry = labelled[0]
    image = next(image for image in content["images"] if image["id"] == entry["image_id"])
    frame = next(frame for frame in frames if frame.name == image["file_name"])
    assert frame.people.image_size == (image["height"], image["width"]) and frame.people.skeleton is COCO17
    expected = np.reshape(entry["keypoints"], (17, 3))
    seen = expected[:, 2] > 0
    np.testing.assert_array_equal(frame.people.keypoints_px[0][seen], expected[seen, :2])
    assert np.isnan(frame.people.keypoints_px[0][~seen]).all()
    np.testing.assert_array_equal(frame.people.scores[0], seen)
    assert frame.image.shape == (image["height"], image["width"], 3)


def coco_annotations(**changes):
    triples = [100.0, 50.0, 2] * 17
    content = {
        "images": [{"id": 5, "width": 640, "height": 480, "file_name": "five.jpg"}],
        "annotations": [
            {"image_id": 5, "keypoints": triples, "num_keypoints": 17, "bbox": [1, 2, 3, 4]},
            {"image_id": 5, "keypoints": [0] * 51, "num_keypoints": 0},
            {"image_id": 5, "bbox": [1, 2, 3, 4]},
        ],
    }
    content.update(changes)
    return content


def test_annotations_without_joints_are_left_out(tmp_path):
    (frame,) = read_keypoints(write(tmp_path / "a.json", coco_annotations()))
    assert len(frame.people) == 1 and frame.people.boxes.tolist() == [[1, 2, 3, 4]]
    assert (frame.people.scores == 1).all() and frame.people.image_size == (480, 640)


def test_pictures_are_found_beside_the_file_and_never_elsewhere(tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("secret.jpg", "data/five.jpg", "data/000000000012.png", "data/sub/six.jpg", "data/v_3.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    folder = tmp_path / "data"
    (frame,) = read_keypoints(write(folder / "a.json", coco_annotations()))
    assert frame.image_path == folder / "five.jpg" and frame.image.shape == (48, 64, 3)
    for name, found in (("../secret.jpg", False), (str(tmp_path / "secret.jpg"), False), ("sub/six.jpg", True)):
        images = [{"id": 5, "width": 640, "height": 480, "file_name": name}]
        (frame,) = read_keypoints(write(folder / "a.json", coco_annotations(images=images)))
        assert (frame.image_path is not None) == found
    # A picture also tells the size where nothing else does.
    entry = {"image_id": 12, "keypoints": [10.0, 20.0, 1.0] * 17, "score": 1.0}
    (frame,) = read_keypoints(write(folder / "results.json", [entry]))
    assert frame.image_path.name == "000000000012.png" and frame.people.image_size == (48, 64)
    (frame,) = read_keypoints(write(folder / "v_3_keypoints.json", {"people": []}))
    assert frame.image_path.name == "v_3.jpg"


# ------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    "shape, frames, people",
    [
        ((17, 2), 1, 1),
        ((17, 3), 1, 1),
        ((5, 17, 2), 5, 1),
        ((5, 17, 3), 5, 1),
        ((4, 3, 17, 2), 4, 3),
        ((1, 3, 17, 3), 1, 3),
    ],
)
def test_arrays_of_every_shape(tmp_path, shape, frames, people):
    values = RNG.uniform(0.1, 1, shape)
    values[..., :2] *= 400
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", keypoints=values[..., :2], scores=values[..., -1], image_size=np.array(SIZE))
    found = read_keypoints(tmp_path / "a.npy", "coco17", SIZE)
    assert len(found) == frames and {len(frame.people) for frame in found} == {people}
    points = np.stack([frame.people.keypoints_px for frame in found]).reshape(*shape[:-1], 2)
    np.testing.assert_allclose(points, values[..., :2], rtol=1e-6)
    scores = np.stack([frame.people.scores for frame in found]).reshape(shape[:-1])
    np.testing.assert_allclose(scores, values[..., 2] if shape[-1] == 3 else 1, rtol=1e-6)
    again = read_keypoints(tmp_path / "b.npz", COCO17)
    assert len(again) == frames and again[0].people.image_size == (480, 640)
    assert found[0].name == ("a" if frames == 1 else "a_000000")


def test_arrays_know_missing_joints(tmp_path):
    values = np.full((2, 14, 3), 5.0, np.float32)
    values[0, 3] = np.nan
    values[0, 4, 2], values[0, 5, 2], values[0, 6], values[0, 7, 0] = 0, -1, np.inf, -1e30
    np.save(tmp_path / "a.npy", values)
    first, second = read_keypoints(tmp_path / "a.npy", image_size=SIZE)
    assert first.people.skeleton is LSP14
    assert np.flatnonzero(first.people.scores[0] == 0).tolist() == [3, 4, 5, 6, 7]
    assert np.isnan(first.people.keypoints_px[0, 3:8]).all()
    assert (second.people.scores == 1).all()  # 5 counts as 1


def test_seventeen_joints_must_be_named_and_other_counts_fit(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((17, 2)))
    with pytest.raises(ValueError, match="COCO17 or H36M17.*--skeleton=COCO17"):
        read_keypoints(tmp_path / "a.npy", image_size=SIZE)
    assert read_keypoints(tmp_path / "a.npy", "H36M17", SIZE)[0].people.skeleton is H36M17
    with pytest.raises(ValueError, match="17 joints, but skeleton 'LSP14' has 14"):
        read_keypoints(tmp_path / "a.npy", LSP14, SIZE)
    np.save(tmp_path / "a.npy", np.ones((21, 2)))
    with pytest.raises(ValueError, match="21 joints are those of no known skeleton"):
        read_keypoints(tmp_path / "a.npy", image_size=SIZE)
    np.save(tmp_path / "a.npy", np.ones((24, 2)))
    assert read_keypoints(tmp_path / "a.npy", image_size=SIZE)[0].people.skeleton is SMPL24


def test_some_frames_only(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20.0)[:, None, None] * np.ones((20, 18, 2)))
    path = tmp_path / "a.npy"

    def numbers(selection):
        frames = read_keypoints(f"{path}#{selection}", image_size=SIZE)
        assert [int(frame.name[-6:]) for frame in frames] == [int(f.people.keypoints_px[0, 0, 0]) for f in frames]
        return [int(frame.name[-6:]) for frame in frames]

    assert numbers("7") == [7] and numbers("3:6") == [3, 4, 5]
    assert numbers("::8") == [0, 8, 16] and numbers("18:") == [18, 19]
    for wrong, words in (("20", "20 frames"), ("", "#0:100"), ("0:9:0", "#0:100")):
        with pytest.raises(ValueError, match=words):
            numbers(wrong)
    with pytest.raises(FileNotFoundError):
        numbers("a")


def test_too_many_frames_are_asked_for_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(keypoint_files, "MAX_FRAMES", 100)
    np.save(tmp_path / "a.npy", np.ones((250, 18, 2)))
    with pytest.raises(ValueError, match=r"250 frames, more than 100.*a\.npy#0:1, or .*#::30"):
        read_keypoints(tmp_path / "a.npy", image_size=SIZE)
    assert len(read_keypoints(f"{tmp_path / 'a.npy'}#::30", image_size=SIZE)) == 9


# -------------------------------------------------------------------------------------------------- VideoPose3D


def test_videopose_detections_of_own_videos(tmp_path):
    detections = RNG.uniform(0, 400, (6, 17, 2)).astype(np.float32)
    metadata = {
        "layout_name": "coco",
        "num_joints": 17,
        "keypoints_symmetry": [[1, 3], [2, 4]],
        "video_metadata": {"ski.mp4": {"w": 1280, "h": 720, "fps": 25}},
    }
    np.savez_compressed(tmp_path / "d.npz", positions_2d={"ski.mp4": {"custom": [detections]}}, metadata=metadata)
    frames = read_keypoints(tmp_path / "d.npz")
    assert len(frames) == 6 and frames[2].name == "ski.mp4_custom_0_000002"
    assert frames[0].people.skeleton is COCO17 and frames[0].people.image_size == (720, 1280)
    np.testing.assert_array_equal(frames[2].people.keypoints_px[0], detections[2])


def test_videopose_detections_of_human36m(tmp_path):
    views = [RNG.uniform(0, 900, (3 + camera, 17, 3)).astype(np.float32) for camera in range(4)]
    positions = {"S9": {"Walking 1": views, "Eating": views}}
    metadata = {"layout_name": "h36m", "num_joints": 17}
    np.savez(tmp_path / "d.npz", positions_2d=np.array(positions, dtype=object), metadata=metadata)
    frames = read_keypoints(tmp_path / "d.npz")
    assert len(frames) == 2 * sum(range(3, 7)) and frames[0].people.skeleton is H36M17
    assert [frames[row].people.image_size[0] for row in (0, 3, 7, 12)] == [1002, 1000, 1000, 1002]
    (frame,) = read_keypoints(f"{tmp_path / 'd.npz'}#4")
    assert frame.name == "S9_Walking 1_1_000001"
    np.testing.assert_array_equal(frame.people.keypoints_px[0], views[1][1, :, :2])


class Evil:
    """Ends the tests where it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "positions, words",
    [
        ({"S9": {"a": [np.ones((2, 5, 2))]}}, "5 joints"),
        ({"S9": {"a": [np.ones((2, 17))]}}, "not .frames, joints"),
        ({"S9": {"a": [np.array([["x"]])]}}, "than numbers"),
        ({"S9": {"a": 3}}, "no list of arrays"),
        ({"S9": [1]}, "no dict"),
        ([1, 2], "no dict"),
        ({"S9": {"a": np.array(3.0)}}, "no list of arrays"),
        ({"S9": {"a": [[np.array(["x" * 200_000]), *[np.array([""])] * 50_000]]}}, "than numbers: .* type <U"),
        ({"S9": {"a": [["x" * 200_000] + [""] * 50_000]}}, "than numbers: .* stands where"),
        ({"S9": {"a": [Evil()]}}, "Nothing was executed"),
    ],
)
def test_hostile_videopose_files(tmp_path, positions, words):
    np.savez(tmp_path / "d.npz", positions_2d=np.array([None, positions], dtype=object)[1:].reshape(()))
    with pytest.raises(ValueError, match=words):
        read_keypoints(tmp_path / "d.npz", image_size=SIZE)


# ---------------------------------------------------------------------------------------------------- pose files


def test_pose_files_give_the_frames_asked_for_with_the_truth(tmp_path):
    rows = 30
    columns = {
        name: RNG.normal(500, 50, (rows, *spec.row_shape(17))) if spec.dtype == "<f8" else np.zeros(rows, np.int32)
        for name, spec in COLUMNS.items()
        if spec.required
    }
    columns["subject"] += 9
    columns["frame"] = np.arange(rows, dtype=np.int32)
    cameras = {name: np.ones((1, *spec.shape)) for name, spec in CAMERA_COLUMNS.items() if name != "name"}
    cameras |= {"name": ["54138969"], "index": np.zeros(1), "image_size": np.array([[1000.0, 1002.0]])}
    with PoseWriter(tmp_path / "h36m_test.h5") as writer:
        writer.append(columns)
        writer.set_cameras(cameras)
    frames = read_keypoints(f"{tmp_path / 'h36m_test.h5'}#10:20:4")
    assert [frame.name[-6:] for frame in frames] == ["000011", "000015", "000019"]
    np.testing.assert_allclose(frames[1].people.keypoints_px[0], columns["joints_px"][14], rtol=1e-6)
    np.testing.assert_array_equal(frames[1].truth_mm[0], columns["joints_cam_mm"][14])
    assert frames[0].people.image_size == (1002, 1000) and frames[0].people.skeleton is H36M17
    assert len(read_keypoints(tmp_path / "h36m_test.h5")) == rows
    with pytest.raises(ValueError, match="30 frames"):
        read_keypoints(f"{tmp_path / 'h36m_test.h5'}#99")


# ---------------------------------------------------------------------------------------------- files that are wrong


def test_sizes_of_pictures_are_asked_for(tmp_path):
    path = write(tmp_path / "a.json", [{"image_id": 1, "keypoints": [1.0] * 51}])
    with pytest.raises(ValueError, match="--image_size=1920,1080"):
        read_keypoints(path)
    large = (10**9, 5), (10**400, 1)
    for wrong in ((640,), (0, 480), (640.5, 480), ("a", "b"), (640, float("nan")), 640, (None, None), *large):
        with pytest.raises(ValueError, match="image_size is"):
            read_keypoints(path, image_size=wrong)
    # What the file says counts more.
    (frame,) = read_keypoints(write(tmp_path / "b.json", coco_annotations()), image_size=(10, 10))
    assert frame.people.image_size == (480, 640)


TRIPLES = [10.0, 20.0, 1.0] * 17


@pytest.mark.parametrize(
    "content, words",
    [
        ([], "no picture"),
        ({}, "holds no keypoints"),
        (3, "holds no keypoints"),
        ([{"image_id": 1}], "entry 0 is no COCO result"),
        ([{"image_id": 1, "keypoints": TRIPLES}, 7], "entry 1 is no COCO result"),
        ([{"image_id": [1], "keypoints": TRIPLES}], "image_id is"),
        ([{"image_id": 1, "keypoints": TRIPLES[:-1]}], "entry 0: keypoints has 50 numbers"),
        ([{"image_id": 1, "keypoints": TRIPLES[:-3]}], "entry 0: 16 keypoints are not COCO's 17"),
        ([{"image_id": 1, "keypoints": ["1", *TRIPLES[1:]]}], r"keypoints\[0\] is '1', no number"),
        ([{"image_id": 1, "keypoints": [True, *TRIPLES[1:]]}], r"keypoints\[0\] is True"),
        ([{"image_id": 1, "keypoints": [10**400, *TRIPLES[1:]]}], "300 digits"),
        ([{"image_id": 1, "keypoints": "abc"}], "is no list"),
        ([{"image_id": 1, "keypoints": TRIPLES, "score": "high"}], "score is 'high'"),
        ([{"image_id": 1, "keypoints": TRIPLES, "bbox": [1, 2]}], "bbox has 2 numbers"),
        ([{"image_id": 1, "keypoints": TRIPLES}, {"image_id": 1, "keypoints": TRIPLES[:48]}], "entry 1 has 16 joints"),
        (coco_annotations(images=7), "images is no list"),
        (coco_annotations(images=[{"id": 5}]), r"images\[0\]: width is None"),
        (coco_annotations(images=[{"id": 5, "width": -1, "height": 3}]), "no size of a picture"),
        (coco_annotations(images=[]), r"annotations\[0\] belongs to image 5"),
        (coco_annotations(annotations=[{"keypoints": TRIPLES}]), r"annotations\[0\] has no image_id"),
        ({"people": [3]}, r"people\[0\] is no person"),
        ({"people": [{"pose_keypoints_2d": [1.0] * 60}]}, r"20 joints; it must be 18 \(OPENPOSE18\) or 25 \(BODY25\)"),
        ({"people": [{"pose_keypoints_2d": [0.5, 0.2, 0.9] * 25}]}, "keypoint_scale 0"),
        ({"people": [], "skeleton": {}}, "no list of names"),
        ({"people": [], "skeleton": {"joints": []}}, "names 0 joints"),
        ({"people": [], "skeleton": {"joints": ["left_a"]}}, "without its twin"),
        ({"people": [], "skeleton": {"joints": ["a"], "bones": [["a"]]}}, "no pair"),
        ({"people": [{}], "skeleton": {"joints": ["a"]}}, "keypoints is no list"),
        ({"people": [{"keypoints": [{"name": "b"}]}], "skeleton": {"joints": ["a"]}}, "not among the skeleton's"),
        ({"people": [{"keypoints": [{"name": "a", "x": "1"}]}], "skeleton": {"joints": ["a"]}}, "a x is '1'"),
    ],
)
def test_wrong_json_is_named(tmp_path, content, words):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=words) as error:
        read_keypoints(path, image_size=SIZE)
    assert str(path) in str(error.value)


def test_nan_in_json_is_a_joint_that_was_not_found(tmp_path):
    path = tmp_path / "a.json"
    values = [float("nan"), 5.0, 1.0, None, None, None, *TRIPLES[6:]]
    path.write_text(json.dumps([{"image_id": 1, "keypoints": values}]))
    (frame,) = read_keypoints(path, image_size=SIZE)
    assert np.flatnonzero(frame.people.scores[0] == 0).tolist() == [0, 1]


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff\xfe\x00", b"", b"[1" + b"0" * 10_000 + b"]"])
def test_damaged_json(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        read_keypoints(tmp_path / "a.json")


def test_large_json_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(keypoint_json, "MAX_JSON_BYTES", 10)
    with pytest.raises(ValueError, match="of up to 10 is read"):
        read_keypoints(write(tmp_path / "a.json", [1, 2, 3, 4, 5, 6]))


@pytest.mark.parametrize("name", ["/dev/zero", ".", "/proc/self/maps"])
def test_json_is_only_read_from_files_of_a_known_size(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a regular file|more or less than its 0 bytes"):
        keypoint_json.read_json(name)
    with pytest.raises(FileNotFoundError, match="none.json does not exist"):
        keypoint_json.read_json(tmp_path / "none.json")


def test_more_lists_than_keypoints_need_are_not_built(tmp_path):
    path = tmp_path / "a.json"
    for part in (b"{},", b"[],"):
        path.write_bytes(b'{"people": [' + part * 100_000 + b"{}]}")
        with pytest.raises(ValueError, match="100002 lists and dicts in|100003 lists and dicts in"):
            read_keypoints(path, image_size=SIZE)


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 1, "keypoints": TRIPLES}] * 4,
        {"people": [{"pose_keypoints_2d": [5.0] * 54}] * 4},
        {"people": [{"keypoints": []}] * 4, "skeleton": {"joints": ["a"]}},
    ],
)
def test_people_in_one_picture_are_counted(tmp_path, monkeypatch, content):
    path = write(tmp_path / "a.json", content)
    assert len(read_keypoints(path, image_size=SIZE)[0].people) == 4
    monkeypatch.setattr(keypoint_json, "MAX_PEOPLE", 3)
    with pytest.raises(ValueError, match=r"a\.json.*: 4 people in one picture; up to 3"):
        read_keypoints(path, image_size=SIZE)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.ones(17), "must be .joints"),
        (np.ones((17, 4)), "must be .joints"),
        (np.ones((0, 17, 2)), "must be .joints"),
        (np.full((18, 2), "a"), "not numbers"),
        (np.ones((18, 2), complex), "not numbers"),
        (np.ones((1, 1, 1, 18, 2)), "must be .joints"),
    ],
)
def test_wrong_arrays(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=words):
        read_keypoints(tmp_path / "a.npy", image_size=SIZE)
    np.savez(tmp_path / "a.npz", anything=array)
    with pytest.raises(ValueError, match=words):
        read_keypoints(tmp_path / "a.npz", image_size=SIZE)


def test_objects_and_damaged_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object))
    np.savez(tmp_path / "b.npz", keypoints=np.array([Evil()], dtype=object))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "e.npy").write_bytes(b"")
    np.savez(tmp_path / "f.npz")
    np.savez(tmp_path / "g.npz", keypoints=np.ones((18, 2)), scores=np.ones(17))
    with open(tmp_path / "h.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 18, 2)})
    os.rename(tmp_path / "f.npz", tmp_path / "f.npy")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=path.name[:1]):
            read_keypoints(path, image_size=SIZE)


@pytest.mark.parametrize("shape", ["(99999999999999999999, 17, 3)", "(-3, 17, 3)", "(True, 17, 3)", "-" * 9000 + "1"])
def test_headers_that_make_no_sense(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    entry = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(5000)
    (tmp_path / "a.npy").write_bytes(entry)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("keypoints.npy", entry)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as"):
            read_keypoints(tmp_path / name, image_size=SIZE)


def test_saved_people_that_were_tampered_with(tmp_path):
    people_of().save_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    for name, value, words in (
        ("keypoints_px", np.ones((2, 16, 2)), "keypoints_px has the shape"),
        ("scores", np.ones((2, 16)), "scores has the shape"),
        ("image_size", np.array([-1, 5]), "image_size"),
        ("boxes", np.ones((3, 4)), "boxes"),
        ("boxes", np.full((2, 4), "a"), "boxes holds something else than numbers"),
        ("person_scores", np.array(["high", "low"]), "person_scores holds something else than numbers"),
        ("joints", np.array(["a", "a"]), "more than once"),
    ):
        np.savez(tmp_path / "b.npz", **{**arrays, name: value})
        with pytest.raises(ValueError, match=words):
            read_keypoints(tmp_path / "b.npz")


def test_a_zip_entry_that_lies_about_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(keypoint_files, "MAX_ARRAY_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", keypoints=np.ones((100, 18, 2)))
    with pytest.raises(ValueError, match="more than the limit"):
        read_keypoints(tmp_path / "a.npz", image_size=SIZE)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("positions_2d.npy", b"x" * 2000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_keypoints(tmp_path / "b.npz", image_size=SIZE)


@pytest.mark.parametrize(
    "name, words",
    [
        ("a.jpg", "Find 2-D keypoints"),
        ("a.mp4", "Find 2-D"),
        ("a.pkl", "create_dataset.py --h36m"),
        ("a.txt", r"\.json, "),
    ],
)
def test_other_files_are_refused_with_the_way_out(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=words):
        read_keypoints(tmp_path / name)


def test_what_is_not_there_and_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_keypoints(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"_keypoints\.json"):
        read_keypoints(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="not a regular file"):
        read_keypoints(tmp_path / "pipe.json")


def test_sizes_are_whole_numbers_of_pixels():
    assert checked_size(np.array([640.0, 480.0])) == (640, 480) and checked_size(None) is None
    with pytest.raises(ValueError, match="frame is"):
        checked_size((1, 2, 3), "frame")


def test_skeletons_by_name():
    assert named_skeleton("h36m17") is H36M17 and named_skeleton(LSP14) is LSP14 and named_skeleton(None) is None
    with pytest.raises(ValueError, match="COCO17"):
        named_skeleton("COCO18")
