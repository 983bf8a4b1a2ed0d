import cv2
import numpy as np
import pytest

from posekit.data.example import decode_example, encode_example
from posekit.data.people_records import PeopleRecord, convert_joints, joint_sources, people_set
from posekit.skeletons import COCO17, LSP14, OPENPOSE18
from posekit.testing import load_fixture


def test_joints_equal_the_original():
    truth = load_fixture("rmpe_coco")
    width, height = truth["wh"]
    joints = truth["keypoints"].reshape(-1, 17, 3)
    joints_px, present = convert_joints(joints, COCO17.joints, OPENPOSE18, (height, width))
    np.testing.assert_array_equal(present, truth["joints"][..., 2] > 0)
    np.testing.assert_allclose(joints_px, truth["joints"][..., :2], rtol=0, atol=1e-9)


def test_joints_that_records_lack():
    with pytest.raises(ValueError, match="no joint 'head_top' of skeleton LSP14.*nose"):
        joint_sources(COCO17.joints, LSP14)


def test_sets():
    assert people_set("val") == "coco_people_val" and people_set("train", "mine") == "mine_train"
    with pytest.raises(ValueError, match="'test'.*train, val"):
        people_set("test")


def sound():
    image = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    return PeopleRecord(image, 4, 5, np.ones((2, 17, 3)), [[0, 0, 4, 4]] * 2, [1, 0], mask=np.eye(4, 5))


def test_round_trip_without_people():
    record = PeopleRecord(sound().image, 4, 5, np.zeros((0, 17, 3)), np.zeros((0, 4)), [])
    again = PeopleRecord.from_example(record.to_example())
    assert again.joints.shape == (0, 17, 3) and again.mask is None and again.mask_all is None


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("people/boxes", np.zeros(7), "4.* for each person"),
        ("people/joints", np.zeros(51, np.float32), "boxes of shape"),
        ("people/trained", np.zeros(1, np.int64), "trained"),
        ("image/size", np.ones(1, np.int64), "2 are expected"),
        ("image/size", np.array([4, 6]), "mask/miss"),
        ("mask/miss", b"abc", "not a JPEG or PNG"),
        ("people/names", b"a", "51|shape"),
    ],
)
def test_damaged_records(key, value, message):
    features = decode_example(sound().to_example())
    features = {name: value[0] if isinstance(value, list) else value for name, value in features.items()}
    with pytest.raises(ValueError, match=message):
        PeopleRecord.from_example(encode_example(features | {key: value}))


def test_pictures_of_another_size():
    with pytest.raises(ValueError, match="5 x 4"):
        PeopleRecord(sound().image, 40, 50, np.ones((1, 17, 3)), np.ones((1, 4)), [1]).pixels()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"joints": np.zeros((1, 17, 2))}, "17, 3"),
        ({"joints": np.full((1, 17, 3), 3)}, "states"),
        ({"joints": [[[np.nan, 1, 1]] * 17]}, "no numbers"),
        ({"boxes": [[0, 0, 1, -1]]}, "negative"),
        ({"boxes": [[0, 0, np.nan, 1]]}, "boxes"),
        ({"boxes": [[0, 0, 5e6, 50]]}, "1000000 px or more"),
        ({"boxes": [[99_999.9999, 0, 0, 1]]}, "farther off than 100000 px"),
        ({"boxes": [[0, 0, 1, 1e-60]]}, "no height"),
        ({"joints": np.full((1, 17, 3), 99_999.9999) * (1, 1, 0) + (0, 0, 1)}, "far outside"),
        ({"boxes": [[0, 0, 1, 0]]}, "no height"),
        ({"trained": [2]}, "trained"),
        ({"crowd": [1]}, "crowd"),
        ({"mask": np.zeros((2, 2))}, "mask"),
        ({"height": 1 << 20, "width": 1 << 20}, "megapixels"),
        ({"names": ("a,b",) * 17}, "commas"),
    ],
)
def test_records_that_make_no_sense(change, message):
    sound = {"image": b"", "height": 4, "width": 5, "joints": np.ones((1, 17, 3)), "boxes": [[0, 0, 4, 4]]}
    PeopleRecord(**sound, trained=[1])
    with pytest.raises(ValueError, match=message):
        PeopleRecord(**(sound | {"trained": [1]} | change))


def test_labels_come_first():
    with pytest.raises(ValueError, match="before"):
        PeopleRecord(b"", 4, 5, np.ones((2, 17, 3)), np.ones((2, 4)), [0, 1])
