"""2-D keypoints from files: COCO, OpenPose and posekit JSON, NumPy arrays, VideoPose3D's detections, pose files.

Files are taken for what they hold, not for what they are called. Nothing in them is executed, and sizes are compared
with what is there before memory is taken.
"""

import dataclasses
import math
import os
import pathlib
import re
import tokenize

import numpy as np

from posekit.data import keypoint_json
from posekit.data.h36m import CAMERA_SIZES, read_pose_file
from posekit.data.hdf5 import PoseFile
from posekit.data.image_files import MAX_BYTES as MAX_PICTURE_BYTES
from posekit.data.image_files import ImageFileError, announced_size
from posekit.data.keypoint_json import Found
from posekit.data.npz_objects import read_npz_objects
from posekit.data.pickles import as_numbers
from posekit.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from posekit.files import npz_entries, read_npz
from posekit.results import MAX_SIDE, People
from posekit.skeletons import COCO17, H36M17, H36M32, SKELETONS, Skeleton

SUFFIXES = (".json", ".npz", ".npy", ".h5")
MAX_FRAMES = 100_000
MAX_ARRAY_BYTES = 1 << 30
MAX_NUMBERS = 1 << 28
MAX_PX = 1e7  # joints farther out were not found
_POINT_KEYS = ("keypoints", "keypoints_px", "joints_px", "keypoints_2d", "joints_2d", "positions_2d", "arr_0")
_SCORE_KEYS = ("scores", "keypoint_scores", "confidence")
_SIZE_KEYS = ("image_size",)
# Frames wanted, behind the file's name.
_SELECTION = re.compile(r"(?P<path>.+)#(?P<start>\d*)(?P<range>:(?P<stop>\d*)(?::(?P<step>\d+))?)?")
# NumPy reads an array's header as Python's source text, and maps what it claims without a further look.
_DAMAGE = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)
# VideoPose3D's order of Human3.6M's cameras.
_CAMERAS = tuple(CAMERA_SIZES[name] for name in ("54138969", "55011271", "58860488", "60457274"))


@dataclasses.dataclass(eq=False)
class KeypointFrame:
    """The people of one picture.

    Args:
        name: What the file calls the picture.
        people: 2-D `People`; their `source` is the name.
        image_path: The picture, where it was found; None otherwise.
        truth_mm: `[people, joints, 3]` true joints in camera axes, where the file has them; None otherwise.
        placement: How a lifter takes the people; see `posekit.predictor.Lifter`.
    """

    name: str
    people: People
    image_path: pathlib.Path | None = None
    truth_mm: np.ndarray | None = None
    placement: str = "person"

    @property
    def image(self):
        """Uint8 `[height, width, 3]` picture, read anew each time; None where it was not found."""
        return None if self.image_path is None else read_image(self.image_path)


def read_keypoints(path, skeleton=None, image_size=None):
    """Reads 2-D keypoints.

    | file | what is read |
    |---|---|
    | `.json` | COCO results or annotations; OpenPose's output of a frame; what `People.save` writes in any style |
    | folder | `*_keypoints.json` as OpenPose writes them, or else `*.json`, in the order of their numbers |
    | `.npz` | what `People.save_npz` writes; VideoPose3D's detections; or arrays as of `.npy`, named `keypoints` and, \
if there, `scores` and `image_size` |
    | `.npy` | `[joints, 2 or 3]`, `[frames, joints, …]` or `[frames, people, joints, …]`: x, y, confidence |
    | `.h5` | pose files, with the true 3-D joints |

    A name with `#` asks for some frames only: `poses.h5#100` for one, `poses.h5#0:1000:10` for every tenth of the
    first thousand.

    Args:
        path: A file or folder.
        skeleton: `Skeleton` of the joints or its name, where the file does not name them. 17 joints may be COCO's or
            Human3.6M's and must be told apart, except in COCO's own files.
        image_size: `(width, height)` of the pictures in pixels, where neither the file nor a picture beside it tells.

    Returns:
        List of `KeypointFrame`, at least one. Joints with a confidence of 0 are NaN; confidences above 1 count as 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or of another kind, naming the entry that is wrong; or if the
            skeleton or the size of the pictures is not known.

    Example:
        >>> frames = read_keypoints("detections.json", image_size=(1920, 1080))  # doctest: +SKIP
        >>> frames[0].people.keypoints_px.shape  # doctest: +SKIP
        (2, 17, 2)
    """
    path, wanted = _selected(path)
    reader = _Reader(path, named_skeleton(skeleton), checked_size(image_size), wanted)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a file of keypoints ({', '.join(SUFFIXES)}) or a folder.")
    if path.is_dir():
        frames = reader.folder()
    elif not path.is_file():
        raise ValueError(f"{path} is not a regular file; name a file of keypoints ({', '.join(SUFFIXES)}).")
    else:
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(_wrong_kind(path, suffix))
        frames = {".json": reader.json, ".npz": reader.npz, ".npy": reader.npy, ".h5": reader.h5}[suffix]()
    if not frames:
        raise ValueError(f"{path} holds no picture with keypoints.")
    return frames


def named_skeleton(skeleton):
    """Finds a skeleton by its name.

    Args:
        skeleton: `Skeleton`, its name in any case, or None.

    Returns:
        The `Skeleton`, or None.

    Raises:
        ValueError: If there is none of that name.
    """
    if skeleton is None or isinstance(skeleton, Skeleton):
        return skeleton
    known = {name.lower(): value for name, value in SKELETONS.items()}
    if str(skeleton).lower() not in known:
        raise ValueError(f"There is no skeleton {skeleton!r}; choose one of {', '.join(SKELETONS)}.")
    return known[str(skeleton).lower()]


def checked_size(size, what="image_size"):
    """Checks two numbers of pixels.

    Args:
        size: `(width, height)`, or None.
        what: What messages call it.

    Returns:
        Two integers in the order given, or None.

    Raises:
        ValueError: If it is anything else.
    """
    if size is None:
        return None
    try:
        first, second = (float(value) for value in np.ravel(size)[:3].tolist())
    except (TypeError, ValueError, OverflowError):
        first = second = math.nan
    if not all(1 <= value <= MAX_SIDE and value == int(value) for value in (first, second)):
        raise ValueError(f"{what} is {size!r:.60}; it must be two whole numbers of pixels, such as (1920, 1080).")
    return int(first), int(second)


class _Reader:
    """What was asked for, and one method a kind of file."""

    def __init__(self, path, skeleton, image_size, wanted):
        self.path = path
        self.skeleton = skeleton
        self.image_size = image_size
        self.wanted = wanted
        self.pictures = _Pictures(path if path.is_dir() else path.parent, path.stem)

    def json(self):
        return self._frames(self._take(keypoint_json.read_json(self.path, self.skeleton)))

    def folder(self):
        files = [file for file in self.path.iterdir() if file.suffix.lower() == ".json" and file.is_file()]
        files = [file for file in files if file.stem.endswith("_keypoints")] or files
        if not files:
            raise FileNotFoundError(f"{self.path} holds no .json file; OpenPose's end in _keypoints.json.")
        found = []
        for file in self._take(sorted(files, key=_natural)):
            found += keypoint_json.read_json(file, self.skeleton)
        # Frames without people do not tell their skeleton; they have that of the others.
        known = next((one.skeleton for one in found if len(one.points)), None)
        return self._frames([one if len(one.points) or known is None else one.empty_as(known) for one in found])

    def npy(self):
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except _DAMAGE as error:
            reason = f"{error!s:.200}" or type(error).__name__
            raise ValueError(f"{self.path} cannot be read as an array: {reason}; write it again.") from None
        if isinstance(array, np.lib.npyio.NpzFile):
            array.close()
            raise ValueError(f"{self.path} is a .npz file; name it so.")
        return self._arrays(array, None, None, self.path.name)

    def npz(self):
        names = npz_entries(self.path)
        if {"keypoints_px", "joints", "image_size"} <= set(names):
            return self._saved_people()
        if "positions_2d" in names:
            return self._videopose()
        keys = [key for key in _POINT_KEYS if key in names] or names[:1]
        if not keys:
            raise ValueError(f"{self.path} is no .npz file or an empty one; write it again.")
        content = read_npz(self.path, [keys[0], *_SCORE_KEYS, *_SIZE_KEYS], MAX_ARRAY_BYTES)
        scores = next((content[key] for key in _SCORE_KEYS if key in content), None)
        size = content.get("image_size")
        if size is not None:
            size = checked_size(size, f"{self.path}: image_size (width, height)")
        return self._arrays(content[keys[0]], scores, size, f"{self.path.name}: {keys[0]}")

    def h5(self):
        with PoseFile(self.path) as file:
            count = len(file)
        rows = self._take(range(count))
        if not len(rows):
            return []
        columns = ("joints_px", "joints_cam_mm", "subject", "action", "subaction", "frame")
        poses = read_pose_file(self.path, columns, rows.start, rows[-1] + 1)[:: rows.step]
        frames = []
        for index, (name, (width, height)) in enumerate(zip(poses.names(), poses.image_size)):
            size = checked_size(np.rint([width, height]), f"{self.path}: size of the camera's pictures")
            found = Found(name, poses.joints_px[index][None], None, poses.skeleton, size)
            frames.append(self._frame(found))
            frames[-1].truth_mm = poses.joints_cam_mm[index][None]
        return frames

    def _saved_people(self):
        """What `People.save_npz` wrote: one picture."""
        keys = ("joints", "skeleton", "image_size", "source", "keypoints_px", "scores", "person_scores", "boxes")
        content = read_npz(self.path, keys, MAX_ARRAY_BYTES)
        joints = [str(name) for name in np.ravel(content["joints"])[:10_000]]
        skeleton = keypoint_json.skeleton_of(str(content.get("skeleton", "keypoints")), joints, (), self.path)
        points = _numeric(content["keypoints_px"], f"{self.path}: keypoints_px")
        if points.ndim != 3 or points.shape[1:] != (len(joints), 2):
            raise ValueError(f"{self.path}: keypoints_px has the shape {points.shape}, not [people, {len(joints)}, 2].")
        scores = content.get("scores")
        if scores is not None and np.shape(scores) != points.shape[:2]:
            raise ValueError(f"{self.path}: scores has the shape {np.shape(scores)}, not {points.shape[:2]}.")
        height, width = checked_size(content["image_size"], f"{self.path}: image_size (height, width)")
        known = [name for name in ("person_scores", "boxes") if name in content]
        rest = {name: _numeric(content[name], f"{self.path}: {name}") for name in known}
        source = str(content.get("source", "")) or self.path.stem
        found = Found(source, points, scores, skeleton, (width, height), picture=source, **rest)
        return self._frames(self._take([found]))

    def _arrays(self, points, scores, image_size, what):
        """Frames of a plain array."""
        if points.dtype.kind not in "fiu":
            raise ValueError(f"{what} holds {points.dtype}, not numbers.")
        if points.ndim not in (2, 3, 4) or points.shape[-1] not in (2, 3) or not points.size:
            raise ValueError(
                f"{what} has the shape {points.shape}; keypoints must be [joints, 2 or 3], [frames, joints, 2 or 3] or "
                "[frames, people, joints, 2 or 3]."
            )
        if scores is not None and scores.shape != points.shape[:-1]:
            raise ValueError(f"{what}: the scores have the shape {scores.shape}; it must be {points.shape[:-1]}.")
        if points.ndim == 4:
            frames = points
        else:  # one person a frame
            frames = points[None, None] if points.ndim == 2 else points[:, None]
        if scores is not None:
            scores = scores.reshape(frames.shape[:-1])
        skeleton = self._skeleton(points.shape[-2], what)
        found = []
        for index in self._take(range(len(frames))):
            values = _numeric(frames[index], f"{what}, frame {index}")
            confidence = values[..., 2] if values.shape[-1] == 3 else None
            if scores is not None:
                confidence = _numeric(scores[index], f"{what}: scores, frame {index}")
            name = self.path.stem if len(frames) == 1 else f"{self.path.stem}_{index:06d}"
            found.append(Found(name, values[..., :2], confidence, skeleton, image_size))
        return self._frames(found)

    def _videopose(self):
        """VideoPose3D's detections: subjects (or videos), their recordings (or "custom"), an array a camera."""
        content = read_npz_objects(self.path, ("positions_2d", "metadata"), MAX_ARRAY_BYTES)
        metadata = content.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        parts = []
        for subject, recordings in _items(content["positions_2d"], f"{self.path}: positions_2d"):
            sizes = metadata.get("video_metadata")
            size = sizes.get(subject) if isinstance(sizes, dict) else None
            if isinstance(size, dict):
                size = checked_size((size.get("w"), size.get("h")), f"{self.path}: size of {subject}'s video")
            else:
                size = None
            for recording, views in _items(recordings, f"{self.path}: {subject}"):
                if not isinstance(views, (list, tuple)) and not (isinstance(views, np.ndarray) and views.ndim):
                    raise ValueError(f"{self.path}: {subject}, {recording} holds no list of arrays, one a camera.")
                for camera, view in enumerate(views):
                    what = f"{subject}_{recording}_{camera}"
                    view = _numeric(view, f"{self.path}: {what}")
                    if view.ndim != 3 or view.shape[2] not in (2, 3):
                        raise ValueError(
                            f"{self.path}: {what} has the shape {view.shape}, not [frames, joints, 2 or 3]."
                        )
                    of_h36m = re.fullmatch(r"S\d+", subject) and len(views) == len(_CAMERAS)
                    parts.append((what, view, size or (_CAMERAS[camera] if of_h36m else None)))
        starts = np.cumsum([0, *(len(view) for _, view, _ in parts)])
        found = []
        for row in self._take(range(int(starts[-1]))):
            part = int(np.searchsorted(starts, row, "right")) - 1
            (what, view, size), frame = parts[part], row - int(starts[part])
            skeleton = self.skeleton or _layout(metadata) or self._skeleton(view.shape[1], f"{self.path}: {what}")
            if view.shape[1] != skeleton.num_joints:
                raise ValueError(_wrong_count(f"{self.path}: {what}", view.shape[1], skeleton))
            scores = view[frame, :, 2][None] if view.shape[2] == 3 else None
            found.append(Found(f"{what}_{frame:06d}", view[frame, :, :2][None], scores, skeleton, size))
        return self._frames(found)

    def _take(self, frames):
        """The frames asked for, refusing more than there should be."""
        taken = frames[self.wanted]
        if not len(taken) and len(frames):
            raise ValueError(f"{self.path} has {len(frames)} frames, numbered from 0; those asked for are not there.")
        if len(taken) > MAX_FRAMES:
            raise ValueError(
                f"{self.path} has {len(frames)} frames, more than {MAX_FRAMES} at a time; ask for some of them: "
                f"{self.path}#0:{MAX_FRAMES // 100}, or {self.path}#::{math.ceil(len(frames) / MAX_FRAMES) * 10}."
            )
        return taken

    def _skeleton(self, count, what):
        if self.skeleton is not None:
            if self.skeleton.num_joints != count:
                raise ValueError(_wrong_count(what, count, self.skeleton))
            return self.skeleton
        fitting = [name for name, skeleton in SKELETONS.items() if skeleton.num_joints == count]
        if len(fitting) == 1:
            return SKELETONS[fitting[0]]
        if fitting:
            raise ValueError(
                f"{what}: {count} joints may be those of {' or '.join(fitting)}; say which: --skeleton={fitting[0]}."
            )
        known = ", ".join(f"{name} ({skeleton.num_joints})" for name, skeleton in SKELETONS.items())
        raise ValueError(f"{what}: {count} joints are those of no known skeleton; known are {known}.")

    def _frames(self, found):
        return [self._frame(one) for one in found]

    def _frame(self, found):
        picture = self.pictures.find(found.picture or found.name)
        if picture is None and self.path.stem.endswith(".coco") and found.name.isdecimal():
            # COCO's ids are numbers: the zeros before them are in the file's name alone.
            stem = self.path.stem.removesuffix(".coco")
            picture = self.pictures.find(stem) if stem.isdecimal() and int(stem) == int(found.name) else None
        size = found.image_size or self.image_size or _size_of_picture(picture)
        if size is None:
            raise ValueError(
                f"{self.path} does not tell the size of the picture {found.name!r}; give its width and height: "
                "--image_size=1920,1080 (in Python image_size=(1920, 1080)), or put the picture beside the file."
            )
        points = np.asarray(found.points, np.float64)
        known = (np.abs(points) < MAX_PX).all(-1)  # false for NaN, too
        scores = np.ones(known.shape) if found.scores is None else _numeric(found.scores, f"{self.path}: scores")
        scores = np.where(known & (scores > 0), np.minimum(scores, 1.0), 0.0)
        points = np.where(scores[..., None] > 0, points, np.nan)
        people = People(
            points,
            scores,
            found.skeleton,
            (size[1], size[0]),
            person_scores=found.person_scores,
            boxes=found.boxes,
            source=found.name,
        )
        return KeypointFrame(found.name, people, picture)


class _Pictures:
    """Finds the pictures that a file calls by name: beside it, or as COCO has them.

    Args:
        folder: Where the file is.
        stem: Its name; `annotations/…_val2017.json` goes with `val2017/`.
    """

    def __init__(self, folder, stem):
        self.folders = [folder]
        if folder.resolve().name == "annotations":
            parent = folder.resolve().parent
            self.folders += [parent / part for part in (*stem.split("_"), "images")]
        self._listed = {}

    def find(self, name):
        """Path of a picture, None if it is not there. Names that lead elsewhere are not followed."""
        relative = pathlib.PurePosixPath(name.replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            return None
        names = [relative.name] if relative.suffix.lower() in IMAGE_SUFFIXES else []
        stems = [relative.name, relative.name.zfill(12)] if relative.name.isdecimal() else [relative.name]
        names += [f"{stem}{suffix}" for stem in stems for suffix in IMAGE_SUFFIXES]
        for folder in self.folders:
            folder = folder / relative.parent
            there = next((name for name in names if name in self._names(folder)), None)
            if there and (folder / there).is_file():
                return folder / there
        return None

    def _names(self, folder):
        if folder not in self._listed:
            try:
                self._listed[folder] = set(os.listdir(folder))
            except (OSError, ValueError):  # not there, or a name that the file system does not take
                self._listed[folder] = set()
        return self._listed[folder]


def _selected(path):
    """The file, and the slice of its frames asked for."""
    text = os.fspath(path)
    match = None if pathlib.Path(text).exists() else _SELECTION.fullmatch(text)
    if match is None:
        return pathlib.Path(path), slice(None)
    start, stop, step = (int(match[name]) if match[name] else None for name in ("start", "stop", "step"))
    if step == 0 or (match["range"] is None and start is None):
        raise ValueError(f"{path}: write the frames as #5, #0:100 or #0:100:10.")
    if match["range"] is None:
        return pathlib.Path(match["path"]), slice(start, start + 1)
    return pathlib.Path(match["path"]), slice(start, stop, step)


def _numeric(values, what):
    """An array of numbers; NaN and infinity pass, as they stand for joints that were not found."""
    try:
        return as_numbers(values, MAX_NUMBERS)
    except ValueError as error:
        raise ValueError(f"{what} holds something else than numbers: {error}.") from None


def _items(value, what):
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} is no dict of names, as VideoPose3D writes it.")
    return value.items()


def _layout(metadata):
    """Skeleton that VideoPose3D's metadata tell."""
    layout, count = metadata.get("layout_name"), metadata.get("num_joints")
    known = {("coco", 17): COCO17, ("h36m", 17): H36M17, ("h36m", 32): H36M32}
    if isinstance(layout, str) and isinstance(count, (int, np.integer)):
        return known.get((layout.lower(), int(count)))
    return None


def _size_of_picture(path):
    if path is None or path.stat().st_size > MAX_PICTURE_BYTES:
        return None
    try:
        height, width = announced_size(path.read_bytes())
    except ImageFileError:
        return None
    return width, height


def _natural(path):
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _wrong_count(what, count, skeleton):
    return f"{what} has {count} joints, but skeleton {skeleton.name!r} has {skeleton.num_joints}."


def _wrong_kind(path, suffix):
    kinds = f"keypoints are read from {', '.join(SUFFIXES)} files and folders of .json files"
    if suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        return f"{path} is a picture or video; {kinds}. Find 2-D keypoints in it first, with a pose detector."
    if suffix in (".pkl", ".pickle"):
        return f"{path} is a pickle; {kinds}. Human3.6M's pickles: python tools/create_dataset.py --h36m."
    return f"{path}: {kinds}."
