"""COCO's person keypoints for many people at once: every picture becomes one record with all its people.

```
coco/annotations/person_keypoints_train2017.json …
coco/train2017/000000000009.jpg …        (or coco/images/train2017/…)
```

Which people are labels of training and which are masked out follows
michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataflow.py. Pictures without a label are left out of
training sets; validation sets keep all pictures, as COCO's figures count them.
"""

import collections
import dataclasses
import functools
import math
import pathlib
import shutil

import numpy as np

from converters.coco import find_images, is_image, is_number, load_annotations, segmentation_mask
from posekit.data.image_files import ImageFileError, decode_image, read_image_file
from posekit.data.people_hdf5 import PeopleHdf5Writer
from posekit.data.people_records import FARTHEST, MAX_PEOPLE, PeopleRecord, check_boxes
from posekit.data.shards import NothingUsableError, RawDataset, Skip, Summary, Tally, locked
from posekit.data.tfrecord import explain_write_errors, read_summary, staging_folder, write_json
from posekit.skeletons import COCO17

MIN_KEYPOINTS = 5
MIN_AREA = 32 * 32
# People whose centre lies nearer to a larger one's than this share of the larger one's longer side are masked out.
TOO_CLOSE = 0.3
# Pixels; no label of training has a lower box.
MIN_HEIGHT = 1
_PERSON = 1
# Numbers of pictures that a record can hold.
_NUMBERS = range(-(1 << 63), 1 << 63)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One picture of COCO with its annotations, before it is read.

    Args:
        path: File.
        image_id: COCO's number.
        height: Pixels.
        width: Pixels.
        annotations: Tuple of COCO's annotations, dicts.
    """

    path: str
    image_id: int
    height: int
    width: int
    annotations: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedPerson:
    """One annotation that makes sense.

    Args:
        joints: Float64 `[17, 3]`, `COCO17`: x, y in pixels; 0 not labelled, 1 hidden, 2 visible.
        box: `(x, y, width, height)` in pixels.
        area: Square pixels.
        crowd: Whether it is a region of people who are not told apart.
        num_keypoints: How many joints are labelled.
        segmentation: COCO's; `None` where the box stands for it.
        size: Height and width of the picture, pixels.
    """

    joints: np.ndarray
    box: tuple
    area: float
    crowd: bool
    num_keypoints: int
    segmentation: object
    size: tuple

    def part(self):
        """Draws the person.

        It is drawn anew each time: thousands of masks of a large picture would take all memory.

        Returns:
            `(top, left, mask)`: boolean `[h, w]`, true on the person, and the place of its upper left corner; it lies
            within the picture, and outside of it there is nothing of the person.
        """
        if self.segmentation is not None:
            return segmentation_part(self.segmentation, *self.size)
        (left, top), ends = self.box[:2], (self.box[0] + self.box[2], self.box[1] + self.box[3])
        height, width = self.size
        left, right = math.floor(min(max(left, 0), width)), math.ceil(min(max(ends[0], 0), width))
        top, bottom = math.floor(min(max(top, 0), height)), math.ceil(min(max(ends[1], 0), height))
        return top, left, np.ones((max(bottom - top, 0), max(right - left, 0)), bool)


def coco_people(folder, split, name, keep_all=False):
    """Lists the pictures of one split.

    Args:
        folder: Folder with `annotations`.
        split: `"train2017"` or another one whose annotations are there.
        name: Name of the record set.
        keep_all: Whether pictures without labels of training are kept too.

    Returns:
        A `RawDataset` of `Picture`.

    Raises:
        NothingUsableError: If the annotations or images are missing or make no sense.
    """
    folder = pathlib.Path(folder)
    annotations = folder / "annotations" / f"person_keypoints_{split}.json"
    content = load_annotations(annotations)
    images_dir = find_images(folder, split)
    images, skips = _images(content["images"])
    people, more = _annotations(content["annotations"], images)
    items = []
    for image_id, image in images.items():
        path = images_dir / pathlib.PurePath(image["file_name"]).name
        items.append(Picture(str(path), image_id, image["height"], image["width"], tuple(people[image_id])))
    if not items:
        raise NothingUsableError(f"{annotations} names no usable image; download it again.")
    return RawDataset.of_images(
        name,
        split=name.rpartition("_")[2],
        items=items,
        convert=functools.partial(convert_picture, keep_all=keep_all),
        found=len(items),
        skips=(*skips, *more),
        sources=(annotations, *sorted(item.path for item in items)),
        options={"split": split, "keep_all": keep_all},
        silhouettes=False,
    )


def write_hdf5(raw, output_dir, overwrite=False, progress=None):
    """Writes the pictures as one file in the original's HDF5 layout.

    Args:
        raw: What `coco_people` lists, without pictures that have no labels.
        output_dir: Folder of the file, `{name}.h5`; what it was made of is kept beside it in `{name}_h5.json`.
        overwrite: Make it again if it is there, and replace a file that was not made here.
        progress: Called with the number of pictures done since the last call.

    Returns:
        A `Summary`.

    Raises:
        NothingUsableError: If not a single sample results.
        FileExistsError: If a file of that name is there that was not made here.
        OSError: If the file cannot be written.
    """
    path = pathlib.Path(output_dir) / f"{raw.name}.h5"
    summary_file = path.with_name(f"{raw.name}_h5.json")
    fingerprint = raw.fingerprint(0)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = staging_folder(path.parent, f"{raw.name}_h5")
        staging.mkdir(exist_ok=True)
    with locked(staging):
        try:
            earlier = read_summary(summary_file)
            ours = path.is_file() and earlier.get("files", {}).get(path.name, {}).get("bytes") == path.stat().st_size
            if path.exists() and not (ours or overwrite):
                raise FileExistsError(
                    f"{path} is there already and was not written by this program. Move it away, choose another "
                    "--output_dir, or give --overwrite to replace it."
                )
            if ours and earlier.get("fingerprint") == fingerprint and not overwrite:
                fields = earlier["found"], earlier["count"], None, earlier["skipped"], earlier["files"]
                return Summary(raw.name, *fields, fresh=False, counts=earlier["counts"])
            # What a killed run has left; nobody else writes while the lock is held.
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
            summary = _write_samples(raw, path, progress or (lambda count: None))
            content = dataclasses.asdict(summary) | {"dataset": raw.name, "count": summary.written}
            content |= {"skipped": summary.skips, "options": raw.options, "fingerprint": fingerprint}
            write_json(summary_file, {key: content[key] for key in _SUMMARY_KEYS})
            return summary
        finally:
            shutil.rmtree(staging, ignore_errors=True)


_SUMMARY_KEYS = ("dataset", "count", "found", "skipped", "counts", "files", "options", "fingerprint")


def _write_samples(raw, path, progress):
    tally, counts = Tally(), collections.Counter()
    for skip in raw.skips:
        tally.add(skip)
    with PeopleHdf5Writer(path, validation=raw.name.endswith("_val")) as writer:
        for place, item in enumerate(raw.items):
            for output in raw.convert(item):
                if isinstance(output, Skip):
                    tally.add(output)
                    continue
                try:
                    writer.append(output, place)
                    counts.update(output.counts)
                except ValueError as error:
                    tally.add(Skip(output.filename, str(error)))
            progress(1)
        if not writer.count:
            reasons = "; ".join(f"{reason} ({entry['count']})" for reason, entry in tally.reasons.items())
            summary = Summary(raw.name, raw.found, 0, None, tally.reasons, {})
            raise NothingUsableError(f"Nothing of {raw.name} can be used: {reasons or 'it is empty'}.", summary)
    files = {path.name: {"count": writer.count, "bytes": path.stat().st_size}}
    return Summary(raw.name, raw.found, writer.count, None, tally.reasons, files, counts=dict(counts))


def convert_picture(picture, keep_all=False):
    """Turns one picture into a record.

    Args:
        picture: A `Picture`.
        keep_all: Whether it becomes a record even without a label of training.

    Yields:
        A `PeopleRecord`, and a `Skip` for everything that cannot be used.
    """
    name = pathlib.PurePath(picture.path).name
    if len(picture.annotations) > MAX_PEOPLE:
        yield Skip(name, f"more than {MAX_PEOPLE} people")
        return
    try:
        data, header = read_image_file(picture.path)
        if (header.height, header.width) != (picture.height, picture.width):
            yield Skip(name, "image of another size than its annotation says")
            return
        # Damage that only decoding shows would end a training.
        decode_image(data)
    except ImageFileError as error:
        yield Skip(name, str(error))
        return
    people = []
    for annotation in picture.annotations:
        person, defect = read_annotation(annotation, picture.height, picture.width)
        if defect:
            yield Skip(f"{name} annotation {annotation.get('id')!r:.20}", defect)
        if person:
            people.append(person)
    people, trained = choose_people(people)
    if not any(trained) and not keep_all:
        yield Skip(name, "no person to train on", by_rule=True)
        return
    miss, everybody = people_masks(people, trained, picture.height, picture.width)
    try:
        yield PeopleRecord(
            image=data,
            height=picture.height,
            width=picture.width,
            joints=np.array([person.joints for person in people]).reshape(-1, COCO17.num_joints, 3),
            boxes=np.array([person.box for person in people]).reshape(-1, 4),
            trained=trained,
            areas=np.array([person.area for person in people]),
            crowd=[person.crowd for person in people],
            mask=miss,
            mask_all=everybody,
            names=COCO17.joints,
            filename=name,
            image_id=picture.image_id,
        )
    except ValueError as error:
        yield Skip(name, str(error))


def choose_people(people):
    """Tells labels of training from people who are masked out.

    From the largest to the smallest: crowds, people with few joints or a small area, and people next to one who was
    taken already are masked out.

    Args:
        people: List of `AnnotatedPerson` of one picture.

    Returns:
        `(people, trained)`: the labels first, each part from the largest to the smallest, and a list of booleans.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataflow.py:CocoDataFlow.prepare.
    Differs: people whose box is less than a pixel high are masked out; the original would divide by its height. Joints
    are counted where the annotation tells more than it has.
    """
    # People of one size stay in the order of the file.
    people = sorted(people, key=lambda person: -person.area)
    chosen, masked = [], []
    for person in people:
        fits = not person.crowd and person.num_keypoints >= MIN_KEYPOINTS and person.area >= MIN_AREA
        fits = fits and person.box[3] >= MIN_HEIGHT
        fits = fits and not any(_distance(person, other) < TOO_CLOSE * max(other.box[2:]) for other in chosen)
        (chosen if fits else masked).append(person)
    return chosen + masked, [True] * len(chosen) + [False] * len(masked)


def people_masks(people, trained, height, width):
    """Draws where the loss counts, and where people are.

    Args:
        people: List of `AnnotatedPerson` of one picture.
        trained: Which of them are labels of training.
        height: Of the picture, pixels.
        width: Of the picture, pixels.

    Returns:
        `(miss, everybody)`: boolean `[height, width]`, false on people who are no labels; and true on people.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataset.py:gen_mask,
    training/generate_masks.py.
    """
    miss, everybody = np.ones((height, width), bool), np.zeros((height, width), bool)
    for person, label in zip(people, trained):
        top, left, part = person.part()
        window = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
        everybody[window] |= part
        if not label:
            miss[window] &= ~part
    return miss, everybody


def read_annotation(annotation, height, width):
    """Reads one annotation, without trusting it.

    Args:
        annotation: A dict of COCO.
        height: Of the picture, pixels.
        width: Of the picture, pixels.

    Returns:
        `(person, defect)`: an `AnnotatedPerson`, `None` if there is not even a place to mask out; and what is wrong, a
        short text, or `None`.
    """
    joints, defect = _joints(annotation)
    labelled = int((joints[:, 2] > 0).sum())
    told = annotation.get("num_keypoints")
    num_keypoints = min(told, labelled) if isinstance(told, int) else labelled
    box = annotation.get("bbox")
    if not _is_box(box):
        box = None
    segmentation, part = annotation.get("segmentation"), None
    try:
        top, left, part = segmentation_part(segmentation, height, width)
    except ValueError as error:
        segmentation = None
        defect = defect or f"unusable segmentation: {error} (box masked out)"
    if box is None and part is not None and part.any():
        box = (left, top, part.shape[1], part.shape[0])
        defect = defect or "malformed box (that of the segmentation taken)"
    if box is None:
        return None, "annotation without a usable place"
    box, crowd = tuple(float(value) for value in box), bool(annotation.get("iscrowd"))
    person = AnnotatedPerson(joints, box, 0.0, crowd, num_keypoints, segmentation, (height, width))
    area = annotation.get("area")
    area = area if is_number(area) and area >= 0 else (person.part()[2] if part is None else part).sum()
    return dataclasses.replace(person, area=float(area)), defect


def segmentation_part(segmentation, height, width):
    """Draws an annotation's segmentation, and keeps no more than the part of the picture where it lies.

    Args:
        segmentation: As in the annotation.
        height: Of the picture, pixels.
        width: Of the picture, pixels.

    Returns:
        `(top, left, mask)`: boolean `[h, w]` without empty margins, and the place of its upper left corner.

    Raises:
        ValueError: If it makes no sense; the message is a short reason.
    """
    top = left = 0
    corners = _corners(segmentation)
    if corners is not None:
        # With a pixel to spare. Not moved to the upper left: pycocotools rounds some outlines otherwise there.
        right, bottom = (np.ceil(corners.max(0)) + 1).clip(1, (width, height)).astype(int).tolist()
        left, top = (np.floor(corners.min(0)) - 1).clip(0, (right - 1, bottom - 1)).astype(int).tolist()
        height, width = bottom, right
    mask = segmentation_mask(segmentation, height, width)[top:, left:]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), bool)
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0
    return top + int(rows[0]), left + int(columns[0]), part


def _corners(segmentation):
    """`[N, 2]`, corners of all polygons; `None` if it is none, or makes no sense."""
    polygons = segmentation if isinstance(segmentation, list) else []
    if not all(isinstance(one, list) and len(one) % 2 == 0 and all(map(is_number, one)) for one in polygons):
        return None
    values = [value for one in polygons if len(one) >= 6 for value in one]
    return np.array(values, np.float64).reshape(-1, 2) if values else None


def _joints(annotation):
    """Joints of an annotation, zeros where they are not labelled or make no sense, and what is wrong or `None`."""
    nothing = [0] * (3 * COCO17.num_joints)
    values = annotation.get("keypoints", nothing)
    sane = isinstance(values, list) and len(values) == len(nothing) and all(map(_is_any_number, values))
    if not sane:
        return np.reshape(nothing, (-1, 3)).astype(float), "malformed keypoints (person masked out)"
    joints = np.array([float(value) if is_number(value) else math.nan for value in values]).reshape(-1, 3)
    near = (np.abs(joints[:, :2].astype(np.float32)) < FARTHEST).all(1)
    sound = near & np.isin(joints[:, 2], (1, 2))
    spoilt = ~(sound | (joints[:, 2] == 0))
    defect = None
    if spoilt.any():
        left = "only those joints" if sound.sum() >= MIN_KEYPOINTS else "person masked out"
        defect = f"joints of no place or no known state ({left})"
    return np.where(sound[:, None], joints, 0.0), defect


# ------------------------------------------------------------------------------------------------------- listing


def _images(entries):
    """Sound images by their number, in the file's order, and `Skip` for the others."""
    images, skips, spoilt = {}, [], set()
    for place, image in enumerate(entries):
        if not is_image(image):
            skips.append(Skip(f"image {place}", "malformed image entry"))
        elif image["id"] not in _NUMBERS:
            skips.append(Skip(f"image {place}", "image number of more than 64 bits"))
        elif images.get(image["id"], image) != image:
            # Nobody can tell to which of them the annotations belong.
            spoilt.add(image["id"])
        else:
            images[image["id"]] = image
    for number in sorted(spoilt):
        skips.append(Skip(f"image {number}", "image number used more than once"))
        del images[number]
    # All pictures lie in one folder, whatever folders their names tell.
    names = {number: pathlib.PurePath(image["file_name"]).name for number, image in images.items()}
    files = collections.Counter(names.values())
    twice = [number for number, name in names.items() if files[name] > 1]
    for number in twice:
        skips.append(Skip(images.pop(number)["file_name"], "file named by several images"))
    return images, skips


def _annotations(entries, images):
    """Dict of image number to list of annotations of people, and `Skip` for what is unusable."""
    people, skips, seen = {number: [] for number in images}, [], {}
    for place, annotation in enumerate(entries):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image_id, int):
            skips.append(Skip(f"annotation {place}", "malformed annotation"))
            continue
        if annotation.get("category_id", _PERSON) != _PERSON:
            continue
        if image_id not in images:
            skips.append(Skip(f"annotation {place}", "annotation of an image that is not there"))
            continue
        number = annotation.get("id")
        if isinstance(number, int) and number in seen:
            if seen[number] == annotation:
                skips.append(Skip(f"annotation {place}", "annotation listed twice"))
                continue
            skips.append(Skip(f"annotation {place}", "annotation number used more than once (both kept)"))
        elif isinstance(number, int):
            seen[number] = annotation
        people[image_id].append(annotation)
    return people, skips


def _is_box(box):
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return False
    try:
        check_boxes(box)
    except ValueError:
        return False
    return True


def _is_any_number(value):
    # A joint that is NaN or far out is dealt with by itself.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _distance(person, other):
    centers = [(box[0] + box[2] / 2, box[1] + box[3] / 2) for box in (person.box, other.box)]
    return math.dist(*centers)
