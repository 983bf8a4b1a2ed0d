"""COCO's person keypoints: every person of sufficient size becomes an image of its own.

```
coco/annotations/person_keypoints_train2017.json …
coco/train2017/000000000009.jpg …        (or coco/images/train2017/…)
```

The person is scaled to a height of about 150 pixels and a square of 400 pixels is cut out around it, as akanazawa/hmr
does; the silhouette comes from the annotation's polygons or run lengths.
"""

import dataclasses
import functools
import json
import math
import pathlib

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from converters.labelled_images import usable_keypoints
from posekit.data.image_files import MAX_PIXELS, ImageFileError, decode_image, read_image_file
from posekit.data.schema import ImageRecord, encode_silhouette
from posekit.data.shards import NothingUsableError, RawDataset, Skip
from posekit.skeletons import COCO17, COCO_PLUS19

SPLITS = ("train2017", "train2014", "val2017", "val2014")
_PERSON = 1
_MAX_JSON_BYTES = 1 << 32
# Beyond this magnification a few pixels would fill the whole picture.
_MAX_SCALE = 10.0
_JPEG_QUALITY = 95
_FACE_AND_SHOULDERS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder")


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, before the image is read.

    Args:
        path: Image file.
        name: Name of the record: the image's, with the annotation's number.
        height: Of the image, pixels.
        width: Of the image, pixels.
        keypoints: Float `[17, 3]`, `COCO17`: x, y in pixels; 0 not labelled, 1 occluded, 2 visible.
        segmentation: Polygons or run lengths, as in the annotation; `None` without.
    """

    path: str
    name: str
    height: int
    width: int
    keypoints: np.ndarray
    segmentation: object


def coco(
    folder,
    split,
    name="coco",
    min_visible=6,
    min_box=60,
    person_height=150,
    crop_size=400,
    silhouette_format="png",
):
    """Lists the people of one split.

    Args:
        folder: Folder with `annotations`.
        split: `"train2017"` or another one whose annotations are there.
        name: Dataset name.
        min_visible: People with fewer visible keypoints are left out.
        min_box: People whose box has no side longer than this, pixels, are left out.
        person_height: Height to which people are scaled, pixels.
        crop_size: Side of the square cut out around them, pixels.
        silhouette_format: `"png"` or `"jpeg"`.

    Returns:
        A `RawDataset`.

    Raises:
        NothingUsableError: If the annotations or images are missing or make no sense.

    Follows: akanazawa/hmr src/datasets/coco_to_tfrecords.py:get_anns_details.
    Differs: the longer side of the box counts, as documented there, not always its height.
    """
    folder = pathlib.Path(folder)
    annotations = folder / "annotations" / f"person_keypoints_{split}.json"
    content = load_annotations(annotations)
    images_dir = find_images(folder, split)
    images = {image["id"]: image for image in content["images"] if is_image(image)}
    items, skips, seen = [], [], set()
    for number, annotation in enumerate(content["annotations"]):
        if not _is_sound(annotation) or annotation["image_id"] not in images:
            skips.append(Skip(f"annotation {number}", "malformed annotation"))
            continue
        image = images[annotation["image_id"]]
        if annotation.get("category_id", _PERSON) != _PERSON:
            continue
        seen.add(image["id"])
        stem = pathlib.PurePath(image["file_name"]).stem
        person = f"{stem}_{annotation['id']}.jpg"
        keypoints = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
        reason = _left_out(annotation, keypoints, min_visible, min_box)
        if reason:
            skips.append(Skip(person, reason, by_rule=True))
            continue
        path = images_dir / pathlib.PurePath(image["file_name"]).name
        segmentation = annotation.get("segmentation")
        items.append(Person(str(path), person, image["height"], image["width"], keypoints, segmentation))
    # People of one image next to each other: it is decoded once.
    items.sort(key=lambda person: (person.path, person.name))
    return RawDataset.of_images(
        name,
        split="val" if name.endswith("_val") else "train",
        items=items,
        convert=functools.partial(
            convert_person, person_height=person_height, crop_size=crop_size, silhouette_format=silhouette_format
        ),
        found=len(seen),
        skips=tuple(skips),
        sources=(annotations, *sorted({person.path for person in items})),
        options={
            "split": split,
            "min_visible": min_visible,
            "min_box": min_box,
            "person_height": person_height,
            "crop_size": crop_size,
            "silhouette_format": silhouette_format,
        },
    )


def find_images(folder, split):
    """Finds the pictures of a split.

    Args:
        folder: COCO's folder.
        split: Such as `"train2017"`.

    Returns:
        `pathlib.Path` of a folder.

    Raises:
        NothingUsableError: If there is none.
    """
    folder = pathlib.Path(folder)
    images_dir = next((path for path in (folder / split, folder / "images" / split) if path.is_dir()), None)
    if images_dir is None:
        raise NothingUsableError(f"There is no folder {folder / split} with the images of person_keypoints_{split}.")
    return images_dir


def available_splits(folder):
    """Splits whose annotations are there.

    Args:
        folder: COCO's folder.

    Returns:
        List of names, training splits first.
    """
    files = pathlib.Path(folder).glob("annotations/person_keypoints_*.json")
    found = {path.stem.removeprefix("person_keypoints_") for path in files}
    return [split for split in SPLITS if split in found] + sorted(found - set(SPLITS))


def convert_person(person, person_height=150, crop_size=400, silhouette_format="png"):
    """Cuts one person out of its image.

    Args:
        person: A `Person`.
        person_height: Height to which people are scaled, pixels.
        crop_size: Side of the square cut out around them, pixels.
        silhouette_format: `"png"` or `"jpeg"`.

    Yields:
        An `ImageRecord` with 19 keypoints, and a `Skip` for everything that cannot be used.

    Follows: akanazawa/hmr src/datasets/coco_to_tfrecords.py:add_to_tfrecord.
    Differs: keypoints move with the centres of the pixels and by each axis' own factor; the scale is limited so that
        all labelled joints stay in the picture; downscaling averages.
    """
    try:
        image = _decoded(person.path)
    except ImageFileError as error:
        yield Skip(person.name, str(error))
        return
    if image.shape[:2] != (person.height, person.width):
        yield Skip(person.name, "image of another size than its annotation says")
        return
    points, _ = COCO17.convert(person.keypoints, COCO_PLUS19)
    keypoints = points.T.copy()
    keypoints[2] = keypoints[2] > 0
    keypoints, defects = usable_keypoints(keypoints, person.height, person.width)
    if not keypoints[2].any():
        yield Skip(person.name, f"no visible joint left: {defects[0]}" if defects else "no visible joint")
        return
    for defect in defects:
        yield Skip(person.name, f"{defect} (only that joint)")
    window = person_window(keypoints, person.height, person.width, person_height, crop_size)
    if window is None:
        yield Skip(person.name, "joints too close together to tell the person's size")
        return
    silhouette = None
    if person.segmentation:
        try:
            mask = segmentation_mask(person.segmentation, person.height, person.width)
            cut = window.apply(mask * np.uint8(255)) > 127
            silhouette = encode_silhouette(cut, silhouette_format) if cut.any() else None
        except ValueError as error:
            yield Skip(person.name, f"unusable segmentation: {error} (image kept)")
    picture = window.apply(image)
    visible = keypoints[2] > 0
    keypoints[:2, visible] = window.move(keypoints[:2, visible])
    keypoints[:2, ~visible] = 0
    yield ImageRecord(
        image=cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes(),
        height=picture.shape[0],
        width=picture.shape[1],
        filename=person.name,
        keypoints=keypoints,
        silhouette=silhouette,
        image_format="JPEG",
    )


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of an image and the size to which it is scaled.

    Args:
        left, top: First column and row, pixels.
        right, bottom: Column and row after the last.
        width, height: Of the result, pixels.
    """

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    def apply(self, image):
        """Cuts and scales.

        Args:
            image: `[H, W]` or `[H, W, 3]`.

        Returns:
            The part, `[height, width]` or `[height, width, 3]`.
        """
        part = image[self.top : self.bottom, self.left : self.right]
        shrinks = self.width * self.height < part.shape[0] * part.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(part, (self.width, self.height), interpolation=interpolation)

    def move(self, points):
        """Moves points with the pixels: the centre of a pixel stays the centre of what it covers.

        Args:
            points: `[2, N]`, pixels of the image.

        Returns:
            `[2, N]`, pixels of the part.
        """
        factors = np.array([[self.width / (self.right - self.left)], [self.height / (self.bottom - self.top)]])
        return (points - [[self.left], [self.top]] + 0.5) * factors - 0.5


def person_window(keypoints, height, width, person_height, crop_size):
    """Chooses the part of an image in which a person stands at the wanted size.

    With an ankle visible, the diagonal of the box around the joints becomes `person_height`; else the torso, from
    shoulder to hip, becomes half of that; else the box a third.

    Args:
        keypoints: `[3, 19]`, `COCO_PLUS19`: x, y in pixels, and 1 where visible.
        height: Of the image, pixels.
        width: Of the image, pixels.
        person_height: Pixels.
        crop_size: Longest side of the result, pixels.

    Returns:
        A `Window`, `None` if the joints are too close together.

    Follows: akanazawa/hmr src/datasets/coco_to_tfrecords.py:parse_people.
    """
    visible = keypoints[2] > 0
    points = keypoints[:2, visible]
    low, high = points.min(1), points.max(1)
    extent = np.linalg.norm(high - low)

    def at(joint):
        index = COCO_PLUS19.index(joint)
        return keypoints[:2, index] if visible[index] else None

    torsos = []
    for side in ("left", "right"):
        shoulder, hip = at(f"{side}_shoulder"), at(f"{side}_hip")
        if shoulder is not None and hip is not None:
            torsos.append(np.linalg.norm(shoulder - hip))
    if at("left_ankle") is not None or at("right_ankle") is not None:
        length, wanted = extent, person_height
    elif torsos:
        length, wanted = np.mean(torsos), person_height / 2
    else:
        length, wanted = extent, person_height / 3
    # With a torso seen end on, the rule would push the limbs out of the picture.
    longest = max((high - low).max(), 1.0)
    scale = min(wanted / max(length, 1e-6), 0.9 * crop_size / longest)
    if scale > _MAX_SCALE:
        return None
    center, reach = (low + high) / 2, crop_size / 2 / scale
    left, top = (max(0, math.floor(value - reach)) for value in center)
    right, bottom = min(width, math.ceil(center[0] + reach)), min(height, math.ceil(center[1] + reach))
    if right <= left or bottom <= top:
        return None

    def scaled(length):
        return min(crop_size, max(1, round(length * scale)))

    return Window(left, top, right, bottom, scaled(right - left), scaled(bottom - top))


def segmentation_mask(segmentation, height, width):
    """Draws an annotation's segmentation.

    Args:
        segmentation: List of polygons `[x, y, x, y, …]` in pixels, or run lengths as a dict of `size` and `counts`,
            plain or compressed.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        Uint8 `[height, width]`, 1 on the person.

    Raises:
        ValueError: If it makes no sense; the message is a short reason.
    """
    if isinstance(segmentation, dict):
        return _run_length_mask(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError("neither polygons nor run lengths")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(is_number(value) for value in polygon):
            raise ValueError("polygon that is no list of points")
        if len(polygon) >= 6:
            # The drawing takes time and memory with the length of the outline, even outside the image.
            corners = np.array(polygon, np.float64).reshape(-1, 2).clip(0, [width, height])
            polygons.append(corners.ravel().tolist())
    if not polygons:
        raise ValueError("no polygon with three corners")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _run_length_mask(segmentation, height, width):
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        raise ValueError("run lengths of another size")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("run lengths that are no counts")
    if sum(counts) != height * width:
        raise ValueError("run lengths that do not fill the image")
    flat = np.repeat(np.arange(len(counts), dtype=np.int64) % 2 > 0, counts)
    return flat.reshape(width, height).T.astype(np.uint8)


def _decompressed(text):
    """Counts of a compressed run-length text: five bits a character, and from the third on the change to two before."""
    counts, position = [], 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            if position >= len(text) or shift > 60:
                raise ValueError("run lengths cut short")
            code = ord(text[position]) - 48
            value |= (code & 0x1F) << shift
            more = bool(code & 0x20)
            position += 1
            shift += 5
            if not more and code & 0x10:
                value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def load_annotations(path):
    """Reads an annotation file.

    Args:
        path: `annotations/person_keypoints_*.json`.

    Returns:
        Dict with the lists `images` and `annotations`, whose entries are not checked.

    Raises:
        NothingUsableError: If it is missing, huge, or no such file.
    """
    if not path.is_file():
        there = available_splits(path.parent.parent)
        raise NothingUsableError(f"There is no file {path}; annotations there: {there or 'none'}.")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise NothingUsableError(f"{path} is larger than {_MAX_JSON_BYTES >> 30} GiB; that is no annotation file.")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise NothingUsableError(f"{path} cannot be read as JSON ({error}); download it again.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise NothingUsableError(f"{path} has no lists 'images' and 'annotations'; it is no COCO annotation file.")
    return content


def is_image(image):
    """Tells whether an entry of `images` is sound.

    Args:
        image: Anything that JSON can hold.

    Returns:
        Whether it has a number, a file name and a size that a picture can have.
    """
    return (
        isinstance(image, dict)
        and isinstance(image.get("id"), int)
        and _is_file_name(image.get("file_name"))
        and all(isinstance(image.get(key), int) and image[key] > 0 for key in ("height", "width"))
        and image["height"] * image["width"] <= MAX_PIXELS
    )


def _is_file_name(text):
    # Other texts make the operating system's calls raise, and the summary unreadable.
    return isinstance(text, str) and text.isprintable() and 0 < len(pathlib.PurePath(text).name.encode()) < 256


def is_number(value):
    """Tells whether a value of an annotation file is a number of usable size.

    Args:
        value: Anything that JSON can hold.

    Returns:
        Boolean; false for NaN.
    """
    # Not `math.isfinite`: JSON's integers may be too large for it.
    return isinstance(value, int | float) and abs(value) < 1e9


def _is_sound(annotation):
    if not isinstance(annotation, dict):
        return False
    keypoints, box = annotation.get("keypoints"), annotation.get("bbox")
    return (
        isinstance(annotation.get("id"), int)
        and isinstance(annotation.get("image_id"), int)
        and isinstance(keypoints, list)
        and len(keypoints) == 3 * COCO17.num_joints
        # A joint that is not a number is dealt with by itself.
        and all(is_number(value) or value != value for value in keypoints)
        and isinstance(box, list)
        and len(box) == 4
        and all(is_number(value) for value in box)
    )


def _left_out(annotation, keypoints, min_visible, min_box):
    """Why a person is left out by the dataset's rules; `None` if it is not."""
    if annotation.get("iscrowd"):
        return "crowd"
    if (keypoints[:, 2] == 2).sum() < min_visible:
        return f"fewer than {min_visible} visible joints"
    if max(annotation["bbox"][2:]) <= min_box:
        return f"box of at most {min_box} px"
    others = [index for index, joint in enumerate(COCO17.joints) if joint not in _FACE_AND_SHOULDERS]
    if not (keypoints[others, 2] > 0).any():
        return "only face and shoulders"
    return None


@functools.lru_cache(2)
def _decoded(path):
    data, _ = read_image_file(path)
    return decode_image(data)
