"""People: shapes, conversion by name, the three JSON styles, OBJ and npz, and files that cannot be written."""

import json
import os

import numpy as np
import pytest

from posekit.files import write_file
from posekit.results import People
from posekit.skeletons import COCO17, COCO_PLUS19, LSP14, SMPL24, Skeleton

OPENPOSE_ORDER = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip


def make_people(number=2, skeleton=COCO_PLUS19, **fields):
    """Joint j of person p stands at (100 p + j, j + 0.5), with score (j + 1) / 100."""
    joints = np.arange(skeleton.num_joints, dtype=np.float32)
    x = 100.0 * np.arange(number)[:, None] + joints
    points = np.stack([x, np.broadcast_to(joints + 0.5, x.shape)], -1)
    scores = np.tile((joints + 1) / 100, (number, 1))
    return People(points, scores, skeleton, (480, 640), **fields)


def saved(people, path, **options):
    people.save(path, **options)
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_counts_indexes_and_iterates():
    people = make_people(3, boxes=np.arange(12).reshape(3, 4), theta=np.zeros((3, 85)))
    assert len(people) == 3 and len(list(people)) == 3
    assert people[1].keypoints_px[4].tolist() == [104, 4.5]
    assert people[-1].box.tolist() == [8, 9, 10, 11] and people[0].vertices is None
    assert people[1].score == pytest.approx(np.mean(np.arange(1, 20) / 100))
    tail = people[1:]
    assert isinstance(tail, People) and len(tail) == 2 and tail.boxes[0, 0] == 4 and tail.skeleton is COCO_PLUS19
    assert len(people[np.array([True, False, True])]) == 2
    with pytest.raises(IndexError):
        people[3]


def test_nobody(tmp_path):
    nobody = make_people(0)
    assert len(nobody) == 0 and list(nobody) == []
    assert saved(nobody, tmp_path / "a.json", style="coco") == []
    assert saved(nobody, tmp_path / "b.json", style="openpose")["people"] == []
    assert saved(nobody, tmp_path / "c.json")["people"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"boxes": np.zeros((1, 4))},
        {"boxes": np.zeros((2, 3))},
        {"vertices": np.zeros((2, 5, 2)), "faces": np.zeros((1, 3))},
        {"vertices": np.zeros((2, 5, 3))},
        {"theta": np.zeros(85)},
        {"camera": np.zeros((2, 2))},
    ],
)
def test_refuses_shapes_that_do_not_fit(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        make_people(2, **fields)


@pytest.mark.parametrize("field", ["person_scores", "boxes", "scores", "keypoints_px", "joints3d"])
def test_refuses_text_where_numbers_belong(field):
    fields = {"keypoints_px": np.zeros((2, 14, 2)), "scores": np.ones((2, 14)), field: ["high", "low"]}
    with pytest.raises(ValueError, match=f"{field} holds <U4, not numbers"):
        People(**fields, skeleton=LSP14, image_size=(10, 10))


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10**30, 5)])
def test_refuses_pictures_of_no_size(size):
    with pytest.raises(ValueError, match="image_size is .* each from 1 to"):
        People(np.zeros((2, 14, 2)), np.ones((2, 14)), LSP14, size)


def test_half_a_character_in_a_name_is_written_as_its_number(tmp_path):
    people = make_people(1, source="\ud800\u00e9.jpg")
    for style in ("json", "coco"):
        people.save(tmp_path / "a.json", style=style)
        content = json.loads((tmp_path / "a.json").read_bytes())
        name = content["image"]["source"] if style == "json" else content[0]["image_id"]
        assert name.startswith("\ud800\u00e9")


def test_refuses_keypoints_of_another_skeleton():
    with pytest.raises(ValueError, match="LSP14"):
        People(np.zeros((1, 19, 2)), np.zeros((1, 19)), LSP14, (10, 10))
    with pytest.raises(ValueError, match="scores"):
        People(np.zeros((1, 14, 2)), np.zeros((1, 19)), LSP14, (10, 10))


def test_coco_style_converts_by_name(tmp_path):
    people = make_people(2, source="000000011813.jpg", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    entries = saved(people, tmp_path / "coco.json", style="coco")
    assert [entry["image_id"] for entry in entries] == [11813, 11813]
    assert entries[1]["category_id"] == 1 and entries[1]["bbox"] == [5, 6, 7, 8]
    triples = np.reshape(entries[1]["keypoints"], (17, 3))
    for joint, triple in zip(COCO17.joints, triples):
        index = COCO_PLUS19.index(joint)
        assert triple.tolist() == pytest.approx([100 + index, index + 0.5, (index + 1) / 100])
    assert saved(people, tmp_path / "id.json", style="coco", image_id=7)[0]["image_id"] == 7


def test_coco_results_are_read_by_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    path = tmp_path / "coco.json"
    make_people(1, source="42.jpg").save(path, style="coco")
    truth = COCO()
    truth.dataset = {"images": [{"id": 42}], "categories": [{"id": 1}], "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(path))
    assert len(loaded.getAnnIds()) == 1


def test_openpose_style_orders_by_name(tmp_path):
    content = saved(make_people(2), tmp_path / "openpose.json", style="openpose")
    assert content["version"] == 1.3 and len(content["people"]) == 2
    triples = np.reshape(content["people"][0]["pose_keypoints_2d"], (18, 3))
    for joint, triple in zip(OPENPOSE_ORDER, triples):
        index = COCO_PLUS19.index(joint)
        assert triple.tolist() == pytest.approx([index, index + 0.5, (index + 1) / 100])


def test_openpose_neck_is_the_middle_of_the_shoulders_where_unknown(tmp_path):
    content = saved(make_people(1, COCO17), tmp_path / "openpose.json", style="openpose")
    neck = np.reshape(content["people"][0]["pose_keypoints_2d"], (18, 3))[1]
    right, left = COCO17.index("right_shoulder"), COCO17.index("left_shoulder")
    assert neck.tolist() == pytest.approx([(right + left) / 2, (right + left + 1) / 2, (min(right, left) + 1) / 100])


@pytest.mark.parametrize("skeleton", [LSP14, SMPL24])
def test_openpose_fills_absent_joints_with_zeros(skeleton, tmp_path):
    content = saved(make_people(1, skeleton), tmp_path / "openpose.json", style="openpose")
    triples = np.reshape(content["people"][0]["pose_keypoints_2d"], (18, 3))
    assert triples[OPENPOSE_ORDER.index("left_eye")].tolist() == [0, 0, 0]
    assert triples[OPENPOSE_ORDER.index("left_knee"), 0] == skeleton.index("left_knee")


def test_openpose_keeps_the_joints_of_what_is_no_body(tmp_path):
    hand = Skeleton("HAND", ("wrist", "thumb", "index"))
    content = saved(make_people(1, hand), tmp_path / "openpose.json", style="openpose")
    assert len(content["people"][0]["pose_keypoints_2d"]) == 9


def test_plain_json_names_everything(tmp_path):
    people = make_people(
        2, LSP14, source="ski.jpg", camera=np.full((2, 3), 500.0), theta=np.zeros((2, 85)), joints3d=np.ones((2, 14, 3))
    )
    content = saved(people, tmp_path / "plain.json")
    assert content["image"] == {"source": "ski.jpg", "height": 480, "width": 640}
    assert "pixels of the image" in content["coordinates"]["keypoints"]
    assert content["skeleton"]["joints"] == list(LSP14.joints) and len(content["skeleton"]["bones"]) == 13
    person = content["people"][1]
    assert person["keypoints"][3] == {"name": "left_hip", "x": 103.0, "y": 3.5, "score": 0.04}
    assert len(person["theta"]) == 85 and len(person["joints3d"]) == 14 and "box" not in person
    assert set(person) - {"score"} <= set(content["coordinates"]) | {"keypoints"}


def test_joints_not_found_are_null_or_zero_but_never_nan(tmp_path):
    people = make_people(1)
    people.keypoints_px[0, COCO_PLUS19.index("nose")] = np.nan
    people.scores[0, COCO_PLUS19.index("left_eye")] = np.nan
    plain = saved(people, tmp_path / "plain.json")["people"][0]["keypoints"]
    assert plain[COCO_PLUS19.index("nose")]["x"] is None
    assert plain[COCO_PLUS19.index("left_eye")]["score"] is None
    coco = np.reshape(saved(people, tmp_path / "coco.json", style="coco")[0]["keypoints"], (17, 3))
    assert coco[:2].tolist() == [[0, 0, 0], [0, 0, 0]]
    openpose = saved(people, tmp_path / "openpose.json", style="openpose")["people"][0]["pose_keypoints_2d"]
    assert openpose[:3] == [0, 0, 0]


def test_unknown_style():
    with pytest.raises(ValueError, match="coco"):
        make_people().save("x.json", style="xml")


MESH = {"vertices": np.float32([[[0, 1, 2], [1, 0, 2], [0, 0, 3]]] * 2), "faces": [[0, 1, 2]]}


def test_obj_counts_from_one_and_stands_upright(tmp_path):
    people = make_people(2, **MESH)
    path = tmp_path / "new" / "person.obj"
    people.save_obj(path, person=1)
    lines = [line.split() for line in path.read_text().splitlines() if line[0] in "vf"]
    assert lines[0] == ["v", "0.000000", "-1.000000", "-2.000000"] and lines[-1] == ["f", "1", "2", "3"]
    people.save_obj(path, y_up=False)
    assert "v 0.000000 1.000000 2.000000" in path.read_text()


def test_obj_needs_a_finite_mesh(tmp_path):
    with pytest.raises(ValueError, match="no meshes"):
        make_people().save_obj(tmp_path / "a.obj")
    people = make_people(2, **MESH)
    people.vertices[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        people.save_obj(tmp_path / "a.obj")
    assert not list(tmp_path.iterdir())


def test_npz_holds_every_array(tmp_path):
    people = make_people(2, source="a.png", boxes=np.ones((2, 4)), **MESH)
    people.save_npz(tmp_path / "people.npz")
    with np.load(tmp_path / "people.npz", allow_pickle=False) as archive:
        assert tuple(archive["joints"]) == COCO_PLUS19.joints and str(archive["source"]) == "a.png"
        for name in ("keypoints_px", "scores", "vertices", "faces", "boxes"):
            np.testing.assert_array_equal(archive[name], getattr(people, name))


def test_draw_says_what_is_missing():
    people = make_people()
    with pytest.raises(ValueError, match="no image"):
        people.draw()
    with pytest.raises(ValueError, match="draw_people"):
        people.draw(image=np.zeros((480, 640, 3), np.uint8))


def test_draw_calls_the_renderer():
    calls = []
    image = np.zeros((4, 4, 3), np.uint8)
    people = make_people(image=image, renderer=lambda *arguments: calls.append(arguments) or "picture")
    assert people.draw("out.png") == "picture" and calls == [(people, image, "out.png")]


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", tmp_path, ""):
        with pytest.raises(OSError, match="Cannot write"):
            make_people().save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_repr_is_one_short_line():
    people = People(np.zeros((2, 17, 2)), np.ones((2, 17)), COCO17, (480, 640), source="a.jpg")
    assert repr(people) == "People(2 in a.jpg, 640x480 px, COCO17)"
