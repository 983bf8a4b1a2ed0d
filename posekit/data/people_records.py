"""Records of pictures with many people: what stands in a TFRecord under which key.

| key | value | note |
|---|---|---|
| image/encoded | bytes | JPEG or PNG, as it was found |
| image/size | int64 [2] | height and width |
| image/name, image/id | bytes, int64 | file name; the dataset's own number, -1 where it has none |
| people/joints | float [3 N J] | x, y in pixels; 0 not labelled, 1 hidden, 2 visible |
| people/names | bytes | the names of the J joints, with commas between them |
| people/boxes | float [4 N] | x, y of the upper left corner, width, height, pixels |
| people/areas | float [N] | square pixels of the segmentation |
| people/trained | int64 [N] | 1: a label of training; these come first, the largest first |
| people/crowd | int64 [N] | 1: a region of people who are not told apart |
| mask/miss | bytes | PNG: 255 where the loss counts, 0 on people without labels; empty if it counts everywhere |
| mask/all | bytes | PNG: 255 on people; empty if unknown |

People who are no labels of training are kept for evaluation. Nothing here imports TensorFlow: the converters write
records without it.
"""

import dataclasses

import cv2
import numpy as np

from posekit.data.example import decode_example, encode_example
from posekit.data.image_files import MAX_PIXELS, ImageFileError, decode_image, image_header
from posekit.skeletons import COCO17

SPLITS = ("train", "val")
# Under which name a set's summary counts the pictures that training can use, and the people on them.
TRAINABLE, PEOPLE = "trainable_pictures", "people"
# Pixels: what joints and the middles of boxes stay below on all sides of the picture's corner, and the sides of boxes.
# Writers and readers of every form hold to these two.
FARTHEST, LONGEST = 1e5, 1e6
# In one picture.
MAX_PEOPLE = 10_000


def people_set(split, dataset="coco_people"):
    """Name of the record files of a part of a dataset.

    Args:
        split: `"train"` or `"val"`.
        dataset: Name of the dataset.

    Returns:
        Name, such as `"coco_people_train"`.

    Raises:
        ValueError: If the split is another one.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose from {', '.join(SPLITS)}.")
    return f"{dataset}_{split}"


@dataclasses.dataclass(frozen=True, eq=False)
class PeopleRecord:
    """One picture with all its people.

    Args:
        image: Bytes of a JPEG or PNG file.
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        joints: Float `[N, J, 3]`: x, y in pixels and 0 not labelled, 1 hidden, 2 visible.
        boxes: Float `[N, 4]` x, y, width, height, pixels.
        trained: `[N]`, 1 for the labels of training: they come first, and the first of them is the one around whom
            training crops.
        areas: Float `[N]`, square pixels; those of the boxes if `None`.
        crowd: `[N]`, 1 for regions of people who are not told apart; none if `None`.
        mask: Boolean `[height, width]`, false where there are people without labels; `None` if the loss counts
            everywhere.
        mask_all: Boolean `[height, width]`, true on people; `None` if unknown.
        names: Names of the J joints; COCO's 17 by default.
        filename: Name of the picture's file.
        image_id: The dataset's own number of the picture; -1 where there is none.

    Raises:
        ValueError: If a shape or a value makes no sense.

    Example:
        >>> picture = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
        >>> record = PeopleRecord(picture, 48, 64, np.ones((1, 17, 3)), [[4, 4, 20, 40]], [1])
        >>> PeopleRecord.from_example(record.to_example()).centers.tolist()
        [[14.0, 24.0]]
    """

    image: bytes
    height: int
    width: int
    joints: np.ndarray
    boxes: np.ndarray
    trained: np.ndarray
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None
    mask: np.ndarray | None = None
    mask_all: np.ndarray | None = None
    names: tuple = COCO17.joints
    filename: str = ""
    image_id: int = -1

    def __post_init__(self):
        def put(**values):
            for name, value in values.items():
                object.__setattr__(self, name, value)

        names = tuple(self.names)
        joints = np.asarray(self.joints, np.float64)
        if joints.ndim != 3 or joints.shape[1:] != (len(names), 3) or len(joints) > MAX_PEOPLE:
            raise ValueError(
                f"joints have shape {list(joints.shape)}; {[f'at most {MAX_PEOPLE} people', len(names), 3]} is needed."
            )
        if not np.isin(joints[..., 2], (0, 1, 2)).all():
            raise ValueError("joints have other states than 0 not labelled, 1 hidden, 2 visible.")
        joints = np.where(joints[..., 2:] > 0, joints, 0.0)
        boxes = _array("boxes", self.boxes, (len(joints), 4))
        areas = boxes[:, 2] * boxes[:, 3] if self.areas is None else _array("areas", self.areas, (len(joints),))
        if not (np.abs(joints.astype(np.float32)) < FARTHEST).all() or (areas < 0).any():
            raise ValueError("joints are far outside any picture or no numbers, or an area is negative.")
        check_boxes(boxes)
        trained = _flags("trained", self.trained, len(joints))
        crowd = _flags("crowd", np.zeros(len(joints)) if self.crowd is None else self.crowd, len(joints))
        if (np.diff(trained.astype(int)) > 0).any():
            raise ValueError("people who are labels of training must come before the others.")
        if (trained & (crowd | (boxes[:, 3].astype(np.float32) <= 0))).any():
            raise ValueError("a crowd, or a person whose box has no height, cannot be a label of training.")
        height, width = int(self.height), int(self.width)
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"the picture is {width} x {height}; 1 to {MAX_PIXELS >> 20} megapixels are possible.")
        for name in ("mask", "mask_all"):
            mask = getattr(self, name)
            if mask is not None:
                mask = np.asarray(mask) > 0
                if mask.shape != (height, width):
                    raise ValueError(f"{name} has shape {list(mask.shape)}, the picture {[height, width]}.")
            put(**{name: mask})
        if self.mask is not None and self.mask.all():
            put(mask=None)
        if not all(isinstance(name, str) and name and "," not in name for name in names):
            raise ValueError(f"names are {names!r}; they must be texts without commas.")
        put(joints=joints, boxes=boxes, areas=areas, trained=trained, crowd=crowd, names=names)
        put(height=height, width=width, filename=str(self.filename), image_id=int(self.image_id))

    @property
    def centers(self):
        """Float64 `[N, 2]`, the middles of the boxes, x, y in pixels."""
        return self.boxes[:, :2] + self.boxes[:, 2:] / 2

    @property
    def counts(self):
        """What a set's summary counts: pictures that training can use, and the labels on them."""
        return {TRAINABLE: int(self.trained.any()), PEOPLE: int(self.trained.sum())}

    def pixels(self):
        """Decodes the picture.

        Returns:
            Uint8 `[height, width, 3]` RGB.

        Raises:
            ImageFileError: If it cannot be decoded.
            ValueError: If it has another size than the record says.
        """
        header = image_header(self.image)
        if (header.height, header.width) != (self.height, self.width):
            raise ValueError(
                f"The picture of {self.filename!r:.80} is {header.width} x {header.height} pixels, its record says "
                f"{self.width} x {self.height}."
            )
        return decode_image(self.image)[..., ::-1]

    def to_example(self):
        """Serialises the record.

        Returns:
            Bytes of a `tf.train.Example`.
        """
        return encode_example(
            {
                "image/encoded": self.image,
                "image/size": np.array([self.height, self.width], np.int64),
                "image/name": self.filename,
                "image/id": self.image_id,
                "people/joints": self.joints,
                "people/names": ",".join(self.names),
                "people/boxes": self.boxes,
                "people/areas": self.areas,
                "people/trained": self.trained.astype(np.int64),
                "people/crowd": self.crowd.astype(np.int64),
                "mask/miss": _encode_mask(self.mask),
                "mask/all": _encode_mask(self.mask_all),
            }
        )

    @classmethod
    def from_example(cls, serialized):
        """Reads a record.

        Args:
            serialized: Bytes of a `tf.train.Example`.

        Returns:
            A `PeopleRecord`.

        Raises:
            ValueError: If a key is missing, or a shape or a value makes no sense.
        """
        features = decode_example(serialized)
        height, width = (int(side) for side in _numbers(features, "image/size", 2))
        names = tuple(_bytes(features, "people/names").decode(errors="replace").split(","))
        return cls(
            image=_bytes(features, "image/encoded"),
            height=height,
            width=width,
            joints=_rows(features, "people/joints", (len(names), 3)),
            boxes=_rows(features, "people/boxes", (4,)),
            trained=_numbers(features, "people/trained"),
            areas=_numbers(features, "people/areas"),
            crowd=_numbers(features, "people/crowd"),
            mask=_decode_mask(features, "mask/miss", height, width),
            mask_all=_decode_mask(features, "mask/all", height, width),
            names=names,
            filename=_bytes(features, "image/name").decode(errors="replace"),
            image_id=int(_numbers(features, "image/id", 1)[0]),
        )


def check_boxes(boxes):
    """Refuses boxes that no reader takes.

    Args:
        boxes: Float `[..., 4]`: x, y of the upper left corner, width, height in pixels.

    Raises:
        ValueError: If one is too far from the picture or too large, has a negative side, or is no number.

    Example:
        >>> check_boxes([0, 0, 5e6, 50])
        Traceback (most recent call last):
        ...
        ValueError: a box is farther off than 100000 px, has a side of 1000000 px or more, or a negative one.
    """
    # In float32, as they are stored and read.
    boxes = np.asarray(boxes, np.float64).astype(np.float32)
    middles, sides = boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:]
    if not ((np.abs(middles) < FARTHEST).all() and ((sides >= 0) & (sides < LONGEST)).all()):
        raise ValueError(
            f"a box is farther off than {FARTHEST:.0f} px, has a side of {LONGEST:.0f} px or more, or a negative one."
        )


def joint_sources(names, skeleton):
    """From which joints of a record those of a skeleton are made.

    A joint is taken by its name; a neck that the record lacks lies between the shoulders.

    Args:
        names: Names of the record's joints.
        skeleton: The `Skeleton` wanted.

    Returns:
        Int64 `[joints, 2]`: a joint is the middle of two of the record's, mostly of one and the same.

    Raises:
        ValueError: If the record lacks a joint.

    Example:
        >>> from posekit.skeletons import OPENPOSE18
        >>> joint_sources(COCO17.joints, OPENPOSE18)[:3].tolist()
        [[0, 0], [5, 6], [6, 6]]

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataflow.py:JointsLoader.
    """
    places = {name: place for place, name in enumerate(names)}
    rows = []
    for joint in skeleton.joints:
        parts = (joint, joint)
        if joint == "neck" and joint not in places:
            parts = ("left_shoulder", "right_shoulder")
        if not all(part in places for part in parts):
            raise ValueError(
                f"The records have no joint {joint!r} of skeleton {skeleton.name}; they have {', '.join(names)}. Make "
                "records of that skeleton's joints, or choose another skeleton."
            )
        rows.append([places[part] for part in parts])
    return np.array(rows, np.int64).reshape(-1, 2)


def convert_joints(joints, names, skeleton, size):
    """Joints of records as a skeleton has them; those outside the picture count as not labelled.

    Args:
        joints: `[..., J, 3]`: x, y in pixels and 0 where not labelled.
        names: Names of the J joints.
        skeleton: The `Skeleton` wanted.
        size: `(height, width)` of the picture.

    Returns:
        `(joints_px, present)`: float64 `[..., joints, 2]`, zeros where not labelled, and boolean `[..., joints]`.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation
    training/dataflow.py:JointsLoader.from_coco_keypoints.
    """
    joints = np.asarray(joints, np.float64)
    places, (height, width) = joints[..., :2], size
    there = (joints[..., 2] >= 1) & (places >= 0).all(-1) & (places < (width, height)).all(-1)
    sources = joint_sources(names, skeleton)
    present = there[..., sources].all(-1)
    middle = places[..., sources, :].mean(-2)
    return np.where(present[..., None], middle, 0.0), present


# ------------------------------------------------------------------------------------------------------- checks


def _array(name, values, shape):
    values = np.asarray(values, np.float64).reshape(shape) if np.size(values) == 0 else np.asarray(values, np.float64)
    if values.shape != shape or not (np.abs(values) < LONGEST**2).all():
        raise ValueError(f"{name} of shape {list(values.shape)} are not {list(shape)} numbers.")
    return values


def _flags(name, values, count):
    values = np.asarray(values)
    if values.shape != (count,) or not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} of shape {list(values.shape)} are not 0 or 1 for each of {count} people.")
    return values > 0


def _encode_mask(mask):
    return b"" if mask is None else cv2.imencode(".png", mask * np.uint8(255))[1].tobytes()


def _decode_mask(features, key, height, width):
    data = _bytes(features, key)
    if not data:
        return None
    try:
        header = image_header(data)
        if (header.height, header.width) != (height, width):
            raise ValueError(f"The record's {key!r} is {header.width} x {header.height}, not {width} x {height}.")
        return decode_image(data, cv2.IMREAD_GRAYSCALE) > 127
    except ImageFileError as error:
        raise ValueError(f"The record's {key!r} is unusable: {error}.") from None


def _rows(features, key, shape):
    values = _numbers(features, key)
    if len(values) % np.prod(shape):
        raise ValueError(f"The record's {key!r} holds {len(values)} values; {list(shape)} for each person are needed.")
    return values.reshape(-1, *shape)


def _numbers(features, key, length=None):
    values = features.get(key)
    # A list without values is written without its type.
    values = np.zeros(0) if isinstance(values, list) and not values else values
    if not isinstance(values, np.ndarray) or (length is not None and len(values) != length):
        found = "is missing" if values is None else f"holds {len(values)} values"
        raise ValueError(f"The record's {key!r} {found}; {length or 'numbers'} are expected.")
    return values


def _bytes(features, key):
    values = features.get(key)
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"The record's {key!r} must hold one string of bytes.")
    return values[0]
