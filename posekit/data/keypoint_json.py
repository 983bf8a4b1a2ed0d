"""2-D keypoints in JSON: COCO's results and annotations, OpenPose's frames, and what `People.save` writes."""

import dataclasses
import json
import math
import os
import pathlib

import numpy as np

from posekit.files import regular_file
from posekit.results import MAX_SIDE
from posekit.skeletons import BODY25, COCO17, OPENPOSE18, SKELETONS, Skeleton

MAX_JSON_BYTES = 256 << 20
MAX_JOINTS = 1000
MAX_PEOPLE = 10_000  # of a picture
# Python takes ten times as much for an empty list or dict as JSON does; no file of keypoints has nearly as many.
_BYTES_PER_CONTAINER = 16
_FEW_CONTAINERS = 10_000
_OPENPOSE = {skeleton.num_joints: skeleton for skeleton in (OPENPOSE18, BODY25)}


@dataclasses.dataclass(eq=False)
class Found:
    """What a file says of one picture, before sizes and gaps are filled in.

    Args:
        name: What the file calls the picture.
        points: `[people, joints, 2]`.
        scores: `[people, joints]`, or None where all are equally sure.
        skeleton: `Skeleton` of the joints.
        image_size: `(width, height)`, or None.
        person_scores: `[people]`, or None.
        boxes: `[people, 4]`, or None.
        picture: File name of the picture, or None.
    """

    name: str
    points: np.ndarray
    scores: np.ndarray | None
    skeleton: Skeleton
    image_size: tuple | None = None
    person_scores: np.ndarray | None = None
    boxes: np.ndarray | None = None
    picture: str | None = None

    def empty_as(self, skeleton):
        """The same picture without people, in another skeleton."""
        joints = skeleton.num_joints
        empty = {"points": np.zeros((0, joints, 2)), "scores": np.zeros((0, joints)), "skeleton": skeleton}
        return dataclasses.replace(self, **empty, person_scores=None, boxes=None)


def read_json(path, skeleton=None):
    """Reads keypoints of any of the JSON formats.

    Args:
        path: The file.
        skeleton: `Skeleton` of the joints where the file does not name them, or None.

    Returns:
        List of `Found`, one a picture.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no regular file, too large, damaged or of another kind, naming the entry that is wrong.
        OSError: If it cannot be read.
    """
    path = pathlib.Path(path)
    content = _content(path)
    if isinstance(content, list):
        return _coco_results(path, content, skeleton)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _coco_annotations(path, content, skeleton)
    if isinstance(content, dict) and isinstance(content.get("people"), list):
        if isinstance(content.get("skeleton"), dict):
            return [_posekit(path, content)]
        return [_openpose(path, content, skeleton)]
    raise ValueError(
        f"{path} holds no keypoints: it is neither a list of COCO results, nor COCO annotations, nor a frame of "
        "OpenPose or posekit with 'people'."
    )


def skeleton_of(name, joints, bones, what):
    """The known skeleton of a name and these joints, or a new one.

    Args:
        name: Its name.
        joints: Joint names.
        bones: Pairs of joint names.
        what: What messages call the file.

    Returns:
        A `Skeleton`.

    Raises:
        ValueError: If the names make no skeleton.
    """
    known = SKELETONS.get(name)
    if known is not None and known.joints == tuple(joints):
        return known
    if not joints or len(joints) > MAX_JOINTS:
        raise ValueError(f"{what} names {len(joints)} joints; from 1 to {MAX_JOINTS} are read.")
    try:
        return Skeleton(str(name)[:100], tuple(joints), tuple(bones))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _content(path):
    with open(regular_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{path} has {size} bytes; JSON of up to {MAX_JSON_BYTES} is read. Split it.")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{path} has more or less than its {size} bytes; read it when it is written whole.")
    containers = data.count(b"{") + data.count(b"[")
    if containers > max(_FEW_CONTAINERS, len(data) // _BYTES_PER_CONTAINER):
        raise ValueError(
            f"{path} has {containers} lists and dicts in {len(data)} bytes, too many to hold keypoints; write it again."
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = "brackets inside each other" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} cannot be read as JSON: {reason:.200}.") from None


def _coco_results(path, content, skeleton):
    pictures = {}
    for index, entry in enumerate(content):
        what = f"{path}, entry {index}"
        if not isinstance(entry, dict) or "keypoints" not in entry or "image_id" not in entry:
            raise ValueError(f"{what} is no COCO result: it needs 'image_id' and 'keypoints'.")
        name = entry["image_id"]
        if isinstance(name, bool) or not isinstance(name, (int, str)):
            raise ValueError(f"{what}: image_id is {name!r:.40}, neither number nor text.")
        pictures.setdefault(str(name), []).append((entry, what))
    return [_coco_picture(name, entries, skeleton) for name, entries in pictures.items()]


def _coco_annotations(path, content, skeleton):
    images = {}
    for index, image in enumerate(_list(content.get("images"), f"{path}: images")):
        what = f"{path}: images[{index}]"
        if not isinstance(image, dict) or type(image.get("id")) not in (int, str):
            raise ValueError(f"{what} has no id.")
        images[image["id"]] = (_size(image, what), image.get("file_name"))
    pictures = {}
    for index, entry in enumerate(content["annotations"]):
        what = f"{path}: annotations[{index}]"
        if not isinstance(entry, dict) or type(entry.get("image_id")) not in (int, str):
            raise ValueError(f"{what} has no image_id.")
        if "keypoints" not in entry or entry.get("num_keypoints") == 0:
            continue  # a thing, or a person without labelled joints
        if entry["image_id"] not in images:
            raise ValueError(f"{what} belongs to image {entry['image_id']!r:.40}, which is not among the images.")
        pictures.setdefault(entry["image_id"], []).append((entry, what))
    found = []
    for identity, entries in pictures.items():
        size, file_name = images[identity]
        file_name = file_name if isinstance(file_name, str) else None
        name = file_name or str(identity)
        picture = _coco_picture(name, entries, skeleton)
        found.append(dataclasses.replace(picture, image_size=size, picture=file_name))
    return found


def _coco_picture(name, entries, skeleton):
    _check_count(entries[0][1], entries)
    people, person_scores, boxes = [], [], []
    for entry, what in entries:
        people.append(_triples(entry["keypoints"], f"{what}: keypoints"))
        skeleton = skeleton or (COCO17 if len(people[0]) == COCO17.num_joints else None)
        if skeleton is None:
            raise ValueError(f"{what}: {len(people[0])} keypoints are not COCO's 17; name the skeleton: --skeleton=….")
        if len(people[-1]) != skeleton.num_joints:
            raise ValueError(_wrong_length(what, len(people[-1]), [skeleton]))
        person_scores.append(_number(entry.get("score", math.nan), f"{what}: score"))
        boxes.append(_numbers(entry["bbox"], f"{what}: bbox", 4) if "bbox" in entry else None)
    values = np.stack(people)
    return Found(
        name,
        values[..., :2],
        values[..., 2],
        skeleton,
        person_scores=np.array(person_scores) if np.isfinite(person_scores).all() else None,
        boxes=None if any(box is None for box in boxes) else np.stack(boxes),
    )


def _openpose(path, content, skeleton):
    _check_count(path, content["people"])
    people = []
    for index, person in enumerate(content["people"]):
        what = f"{path}: people[{index}]"
        if not isinstance(person, dict):
            raise ValueError(f"{what} is no person: {person!r:.40}.")
        key = "pose_keypoints" if "pose_keypoints" in person else "pose_keypoints_2d"
        if not person.get(key):
            continue  # hands or a face without a body
        values = _triples(person[key], f"{what}: {key}")
        allowed = [skeleton] if skeleton else list(_OPENPOSE.values())
        fitting = [one for one in allowed if one.num_joints == len(values)]
        if not fitting:
            raise ValueError(_wrong_length(f"{what}: {key}", len(values), allowed))
        skeleton = fitting[0]
        people.append(values)
    name = path.stem.removesuffix("_keypoints").removesuffix(".openpose")
    if not people:
        return Found(name, None, None, OPENPOSE18).empty_as(skeleton or OPENPOSE18)
    values = np.stack(people)
    points, scores = values[..., :2], values[..., 2]
    if (np.abs(points[scores > 0]) <= 1.0).all() and (scores > 0).sum() > 2:
        raise ValueError(f"{path}: coordinates within 1 are no pixels; run OpenPose with --keypoint_scale 0.")
    return Found(name, points, scores, skeleton)


def _posekit(path, content):
    _check_count(path, content["people"])
    told = content["skeleton"]
    joints = _texts(told.get("joints"), f"{path}: skeleton joints")
    bones = [_texts(bone, f"{path}: a bone") for bone in _list(told.get("bones", []), f"{path}: skeleton bones")]
    if any(len(bone) != 2 for bone in bones):
        raise ValueError(f"{path}: a bone of the skeleton is no pair of joints.")
    skeleton = skeleton_of(str(told.get("name")), joints, bones, path)
    image = content.get("image") if isinstance(content.get("image"), dict) else {}
    size = _size(image, f"{path}: image") if "width" in image and "height" in image else None
    points = np.full((len(content["people"]), len(joints), 2), np.nan)
    scores, person_scores, boxes = np.zeros(points.shape[:2]), [], []
    for index, person in enumerate(content["people"]):
        what = f"{path}: people[{index}]"
        if not isinstance(person, dict):
            raise ValueError(f"{what} is no person: {person!r:.40}.")
        for keypoint in _list(person.get("keypoints"), f"{what}: keypoints"):
            if not isinstance(keypoint, dict) or keypoint.get("name") not in joints:
                raise ValueError(f"{what}: a keypoint's name is not among the skeleton's joints: {keypoint!r:.60}.")
            place, name = joints.index(keypoint["name"]), keypoint["name"]
            points[index, place] = [_number(keypoint.get(key), f"{what}: {name} {key}", null=True) for key in "xy"]
            scores[index, place] = _number(keypoint.get("score", 1.0), f"{what}: {name} score", null=True)
        person_scores.append(_number(person.get("score"), f"{what}: score", null=True))
        boxes.append(_numbers(person["box"], f"{what}: box", 4) if "box" in person else None)
    source = image.get("source") if isinstance(image.get("source"), str) else None
    return Found(
        source or path.stem,
        points,
        np.nan_to_num(scores),
        skeleton,
        size,
        person_scores=np.array(person_scores) if np.isfinite(person_scores).all() else None,
        boxes=np.stack(boxes) if boxes and all(box is not None for box in boxes) else None,
        picture=source,
    )


def _check_count(what, people):
    if len(people) > MAX_PEOPLE:
        raise ValueError(f"{what}: {len(people)} people in one picture; up to {MAX_PEOPLE} are read.")


def _size(image, what):
    """Width and height that an entry tells."""
    size = tuple(_number(image.get(key), f"{what}: {key}") for key in ("width", "height"))
    if not all(1 <= value <= MAX_SIDE and value == int(value) for value in size):
        raise ValueError(f"{what}: width and height are {size}, no size of a picture.")
    return tuple(int(value) for value in size)


def _list(value, what):
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list.")
    return value


def _texts(value, what):
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{what} are no list of names: {value!r:.60}.")
    return value


def _number(value, what, null=False):
    """A number; NaN for null, where that may stand."""
    if value is None and null:
        return math.nan
    if type(value) not in (int, float):
        raise ValueError(f"{what} is {value!r:.40}, no number.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{what} is a number of more than 300 digits.") from None


def _numbers(value, what, length=None):
    numbers = [_number(item, f"{what}[{index}]", null=True) for index, item in enumerate(_list(value, what))]
    if length is not None and len(numbers) != length:
        raise ValueError(f"{what} has {len(numbers)} numbers, not {length}.")
    return np.array(numbers)


def _triples(value, what):
    """`[joints, 3]`: x, y, confidence; joints with null are not there."""
    numbers = _numbers(value, what)
    if not len(numbers) or len(numbers) % 3 or len(numbers) > 3 * MAX_JOINTS:
        raise ValueError(f"{what} has {len(numbers)} numbers; it must be x, y, confidence of each joint.")
    values = numbers.reshape(-1, 3)
    values[:, 2] = np.nan_to_num(values[:, 2], nan=0.0)
    return values


def _wrong_length(what, count, skeletons):
    allowed = " or ".join(f"{skeleton.num_joints} ({skeleton.name})" for skeleton in skeletons)
    return f"{what} has {count} joints; it must be {allowed}. Name another skeleton with --skeleton=…."
