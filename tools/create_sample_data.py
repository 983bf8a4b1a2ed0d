"""Writes small synthetic copies of the datasets, each in the layout in which the real one is downloaded.

    python tools/create_sample_data.py --data_dir=data --num_images=200

People are rendered from posekit's sample body over procedural backgrounds, so nothing is downloaded and no licence is
needed. `python tools/create_dataset.py --data_dir=data …` then runs as with real data. What it writes:

    lsp_dataset/      images/im0001.jpg …, joints.mat (3 x 14 x N, third row 1 = occluded), sample_truth.npz
    lspet_dataset/    images/im00001.jpg …, joints.mat (14 x 3 x N, third column 1 = visible), sample_truth.npz
    upi-s1h/data/     lsp, lsp_extended: im*_segmentation.png; mpii: images and silhouettes in one folder, poses.npz,
                      sample_truth.npz
    coco/             annotations/person_keypoints_{train2017,val2017}.json, train2017, val2017
    coco_people/      the same files, with several people in a picture, near and far, and crowds
    mocap_neutrMosh/  neutrSMPL_{CMU,jointLim}_*.tfrecord
    amass/            one folder a subject with *_poses.npz
    h36m/             h36m_train.pkl, h36m_test.pkl (one dict a pose: joints of one camera, box, camera) and
                      h36m_sh_dt_ft.pkl (what a detector would say), as CHUNYUWANG/lcn-pose has them: seven people do
                      15 actions twice before four cameras
    msra/             P0/1/joint.txt, P0/1/000000_depth.bin …: nine people do 17 gestures with one hand; center/
    nyu/              train, test: joint_data.mat, depth_1_0000001.png …; center/
    itop/             ITOP_{side,top}_{train,test}_{depth_map,labels}.h5: twenty people before two cameras; center/

Each folder gets a file sample_data.json that says so. A folder without it, or whose files were changed since, holds
somebody's data and is left alone; with --overwrite it is renamed to <folder>.old. Folders that are complete already are
not made again.
"""

import concurrent.futures
import contextlib
import functools
import io
import json
import multiprocessing
import os
import pathlib
import re
import sys
import time
import zlib

import cv2
import numpy as np
import sample_depth
from absl import app, flags
from sample_depth import mat_bytes
from tqdm import tqdm

from posekit.bodies import sample_body
from posekit.codecs.screen_pose import camera_to_image
from posekit.data.plain_pickles import growing_list, write_plain
from posekit.data.schema import MocapRecord
from posekit.data.shards import interrupts_held_back, leave_with_parent
from posekit.data.synthetic import sample_motion, sample_picture, sample_poses, sample_shapes
from posekit.data.synthetic_motion import (
    ACTIONS,
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    Actor,
    sample_cameras,
    sample_detections,
    sample_recording,
)
from posekit.data.synthetic_people import sample_people_picture
from posekit.data.tfrecord import RecordWriter, explain_write_errors
from posekit.files import print_any_text
from posekit.skeletons import COCO17, COCO_PLUS19, LSP14, MPII16

DATASETS = ("lsp", "lsp_ext", "mpii", "coco", "mocap", "h36m", "msra", "nyu", "itop", "coco_people")
MARK = "sample_data.json"
_MAX_MARK_BYTES = 16 << 20
# Part of every mark: raise it when the same settings give other data.
_RECIPE = 1
_JPEG_QUALITY = 92
_COCO_VAL_SHARE = 0.25
# Joints that are hidden are labelled too if so much of their person is seen.
_GUESSED = 0.5
_FRAMES = 120

flags.DEFINE_string("data_dir", "data", "Folder to write to.")
flags.DEFINE_alias("output_dir", "data_dir")
flags.DEFINE_integer("num_images", 200, "Images of each image dataset.", lower_bound=1, upper_bound=9999)
flags.DEFINE_integer(
    "num_people_images", 80, "Images of coco_people, three quarters of them for training.", 2, 9999
)
flags.DEFINE_integer("num_poses", 4000, "Poses of each motion-capture dataset.", lower_bound=1, upper_bound=1_000_000)
flags.DEFINE_integer(
    "num_h36m_poses",
    20000,
    "Poses of h36m, four fifths of them for training; every camera's view counts.",
    lower_bound=20,
    upper_bound=3_000_000,
)
flags.DEFINE_integer(
    "msra_frames_per_gesture", 12, "Frames of each gesture of each person in msra.", lower_bound=1, upper_bound=999_999
)
flags.DEFINE_integer(
    "num_nyu_frames", 250, "Frames of nyu, four fifths of them for training.", lower_bound=5, upper_bound=1_000_000
)
flags.DEFINE_integer(
    "num_itop_frames",
    240,
    "Frames of each view of itop, four fifths of them for training.",
    lower_bound=5,
    upper_bound=1_000_000,
)
flags.DEFINE_integer("seed", 0, "Seed: the same seed gives the same data.", lower_bound=0)
flags.DEFINE_integer(
    "image_size", 0, "Side of the images in pixels; 0 draws sides between 224 and 280.", lower_bound=0, upper_bound=2048
)
flags.DEFINE_integer("num_workers", 0, "Processes; 0 takes one for each core, at most 8.", lower_bound=0)
flags.DEFINE_bool("overwrite", False, "Rename folders that hold other data to <folder>.old and write in their place.")
for _name in DATASETS:
    flags.DEFINE_bool(_name, None, f"Write {_name}. If no dataset is named, all are written.")
FLAGS = flags.FLAGS


# Folder -> how the files are named that may lie there after an interrupted run.
_LEFTOVERS = {
    "lsp_dataset": ("images/im????.jpg",),
    "upi-s1h/data/lsp": ("im????_segmentation.png",),
    "lspet_dataset": ("images/im?????.jpg",),
    "upi-s1h/data/lsp_extended": ("im?????_segmentation.png",),
    "upi-s1h/data/mpii": ("images/?????.png", "images/?????_segmentation.png"),
    "coco": ("train2017/????????????.jpg", "val2017/????????????.jpg"),
    "coco_people": ("train2017/????????????.jpg", "val2017/????????????.jpg"),
    "mocap_neutrMosh": ("neutrSMPL_CMU_???.tfrecord", "neutrSMPL_jointLim_???.tfrecord"),
    "amass": ("SampleSet/*/*_poses.npz",),
    "h36m": ("h36m_train.pkl", "h36m_test.pkl", "h36m_sh_dt_ft.pkl"),
    **sample_depth.FILES,
}


class ForeignDataError(Exception):
    """A folder that holds data which this program did not write."""


def main(argv):
    """Writes the chosen datasets.

    Args:
        argv: Command line; nothing but flags is allowed.

    Returns:
        Exit status: 0, 1 if something could not be written, 130 after Ctrl-C.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; write flags as --data_dir=FOLDER.")
    if FLAGS.image_size and FLAGS.image_size < 64:
        raise app.UsageError(f"--image_size={FLAGS.image_size}: people need at least 64 pixels; 0 draws the size.")
    print_any_text()
    start = time.monotonic()
    try:
        with _processes() as pool:
            for name in _chosen():
                print(_make(name, pathlib.Path(FLAGS.data_dir), pool), flush=True)
    except (ForeignDataError, OSError) as error:
        print(f"error: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command makes the sample data complete.", file=sys.stderr)
        return 130
    flags_of = {"lsp": "--lsp --lsp_val", "itop": "--itop_front --itop_top"}
    sets = " ".join(flags_of.get(name, f"--{name}") for name in _chosen())
    print(f"Done in {time.monotonic() - start:.1f} s. Next:")
    print(f"  python tools/create_dataset.py {sets} --data_dir={FLAGS.data_dir}")
    return 0


def _chosen():
    named = [name for name in DATASETS if FLAGS[name].value]
    return named or [name for name in DATASETS if FLAGS[name].value is None]


def _make(name, data_dir, pool):
    """Makes one dataset; returns a line about it."""
    folders, write = {
        "lsp": (["lsp_dataset", "upi-s1h/data/lsp"], _write_lsp),
        "lsp_ext": (["lspet_dataset", "upi-s1h/data/lsp_extended"], _write_lsp_extended),
        "mpii": (["upi-s1h/data/mpii"], _write_mpii),
        "coco": (["coco"], _write_coco),
        "coco_people": (["coco_people"], _write_coco_people),
        "mocap": (["mocap_neutrMosh", "amass"], _write_mocap),
        "h36m": (["h36m"], _write_h36m),
        "msra": (["msra"], _write_msra),
        "nyu": (["nyu"], _write_nyu),
        "itop": (["itop"], _write_itop),
    }[name]
    marks = [_Mark(data_dir, folder, _settings(name)) for folder in folders]
    if all(mark.complete() for mark in marks):
        return f"{name}: already in {', '.join(str(mark.folder) for mark in marks)}"
    for mark in marks:
        mark.check_free()
    for mark in marks:
        mark.begin()
    summary = write(pool, *marks)
    for mark in marks:
        mark.finish()
    return f"{name}: {summary} in {', '.join(str(mark.folder) for mark in marks)}"


_AMOUNTS = {
    "mocap": "num_poses",
    "h36m": "num_h36m_poses",
    "msra": "msra_frames_per_gesture",
    "nyu": "num_nyu_frames",
    "itop": "num_itop_frames",
    "coco_people": "num_people_images",
}
_WITHOUT_IMAGE_SIZE = {*_AMOUNTS} - {"coco_people"}


def _settings(name):
    keys = [_AMOUNTS.get(name, "num_images")] + ["image_size"] * (name not in _WITHOUT_IMAGE_SIZE)
    amounts = {key: FLAGS[key].value for key in keys}
    return {"made_by": "tools/create_sample_data.py", "recipe": _RECIPE, "seed": FLAGS.seed, **amounts}


class _Mark:
    """A folder of sample data and the file in it that says so.

    The mark has the settings, `null` until all is written, and of every file its size and checksum, which tell whether
    it is still the one that was written.
    """

    def __init__(self, data_dir, folder, settings):
        self.folder = data_dir / folder
        self._leftovers = _LEFTOVERS[folder]
        self._settings = settings
        self._written = set()

    def _read(self):
        """`(settings, files)`: dict of name to `[size, checksum]`, which is `None` in marks of earlier versions.

        Raises:
            ForeignDataError: With what is wrong with the mark, such as that it names what is not in the folder; or if
                there is none.
        """
        path = self.folder / MARK
        if not path.is_file():
            raise ForeignDataError(f"there is no {MARK}")
        if path.stat().st_size > _MAX_MARK_BYTES:
            raise ForeignDataError(f"{MARK} is too large")
        try:
            content = json.loads(path.read_bytes())
            settings, files = content["settings"], content["files"]
            files = {name: None for name in files} if isinstance(files, list) else dict(files)
            inside = os.path.join(os.path.realpath(self.folder), "")
            for name in files:
                # Whatever a mark names may be removed.
                if "\0" in name or not os.path.realpath(self.folder / name).startswith(inside):
                    raise ForeignDataError(f"{MARK} names {name!r:.80}, no file of its folder")
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise ForeignDataError(f"{MARK} makes no sense") from None
        return settings, files

    def complete(self):
        try:
            settings, files = self._read()
            return settings == self._settings and all(
                (self.folder / name).stat().st_size == known[0] if known else (self.folder / name).is_file()
                for name, known in files.items()
            )
        except (ForeignDataError, OSError, TypeError, LookupError):
            return False

    def check_free(self):
        """Makes sure that the folder is empty, or holds nothing under the names of its mark but what was written."""
        if not self.folder.exists():
            return
        if self.folder.is_dir() and all(_is_left_behind(path) for path in self.folder.iterdir()):
            return
        try:
            for name, known in self._read()[1].items():
                path = self.folder / name
                if os.path.lexists(path) and (known is None or _size_and_checksum(path) != known):
                    raise ForeignDataError(f"{name!r:.80} is not the file that {MARK} knows")
            return
        except ForeignDataError as error:
            reason = error
        old = self.folder.with_name(self.folder.name + ".old")
        if not FLAGS.overwrite:
            raise ForeignDataError(
                f"{self.folder} holds data that is not sample data: {reason}. Choose another --data_dir, or add "
                f"--overwrite to rename it to {old} first."
            )
        if old.exists():
            raise ForeignDataError(f"{self.folder} cannot be renamed to {old}: that exists too. Move one of them away.")
        os.rename(self.folder, old)

    def begin(self):
        """Removes earlier sample data and says that the folder is not complete."""
        settings, files = self._read() if (self.folder / MARK).exists() else (self._settings, {})
        earlier = {self.folder / name for name in files}
        if settings is None:
            earlier |= {path for pattern in self._leftovers for path in self.folder.glob(pattern)}
        earlier |= {path for path in self.folder.rglob(".*.tmp") if _is_left_behind(path)}
        self._write(None, files)
        for path in earlier:
            path.unlink(missing_ok=True)
        # From here on, a file of the same name may be another one.
        self._write(None, {})

    def write_bytes(self, name, data):
        _write_file(self.folder / name, data)
        self._written.add(name)

    def add(self, names):
        self._written.update(names)

    def finish(self):
        self._write(self._settings, {name: _size_and_checksum(self.folder / name) for name in sorted(self._written)})

    def _write(self, settings, files):
        _write_file(self.folder / MARK, _json({"settings": settings, "files": files}))


def _size_and_checksum(path):
    """`[size, CRC-32]` of a file, `None` for what is no regular one."""
    if not path.is_file():
        return None
    size = checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return [size, checksum]


def _is_left_behind(path):
    """Whether a file is one that a process, which is no more, was writing."""
    match = re.fullmatch(r"\..+\.(\d{1,9})\.tmp", path.name)
    if not match or os.name != "posix" or not path.is_file():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _write_file(path, data):
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _json(content):
    return (json.dumps(content) + "\n").encode()


def _encoded(suffix, pixels, *options):
    ok, data = cv2.imencode(suffix, pixels, list(options))
    if not ok:
        raise OSError(f"OpenCV cannot encode {suffix}.")
    return data.tobytes()


def _picture_bytes(image, suffix=".jpg"):
    return _encoded(suffix, image[..., ::-1], *([cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []))


def _silhouette_bytes(mask, channels=1):
    pixels = np.where(mask, np.uint8(255), np.uint8(0))
    return _encoded(".png", pixels if channels == 1 else np.repeat(pixels[..., None], channels, -1))


def _npz_bytes(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------- image datasets


def _processes():
    """Processes that draw, as a context manager; None in place of a single one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = FLAGS.num_workers or min(8, cores)
    if workers == 1 or max(FLAGS.num_images, FLAGS.num_people_images) < 4 or not set(_chosen()) - {"mocap", "h36m"}:
        return contextlib.nullcontext()
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _pictures(pool, draw, count, name, unit="image"):
    """Results of `draw(index)` for every index, in order."""
    with interrupts_held_back():
        results = pool.map(draw, range(count), chunksize=4) if pool else map(draw, range(count))
    try:
        yield from tqdm(results, total=count, desc=name, unit=unit, file=sys.stderr)
    except BaseException:
        if pool:
            pool.shutdown(cancel_futures=True)
        raise


def _start_worker():
    cv2.setNumThreads(1)
    leave_with_parent()


def _generator(seed, dataset, *indices):
    return np.random.default_rng([seed, DATASETS.index(dataset), *indices])


def _size():
    return (FLAGS.image_size, FLAGS.image_size) if FLAGS.image_size else None


def _draw_one(index, seed, dataset, size, image_path, silhouette_path, channels, skip_silhouette):
    """Draws and writes one picture of one person; returns the person without the mask."""
    image, (person,) = sample_picture(_generator(seed, dataset, index), sample_body(), size)
    number = index + 1
    _write_file(image_path % number, _picture_bytes(image, pathlib.Path(image_path).suffix))
    if not (skip_silhouette and number % skip_silhouette == 0):
        _write_file(silhouette_path % number, _silhouette_bytes(person.mask, channels))
    return person.keypoints_px, person.visible, person.pose, person.shape, person.joints3d


def _draw_numbered(pool, dataset, images, silhouettes, image_name, silhouette_name, channels=1, skip_silhouette=0):
    """Draws a dataset of numbered pictures; returns arrays of labels with the images as first axis."""
    draw = functools.partial(
        _draw_one,
        seed=FLAGS.seed,
        dataset=dataset,
        size=_size(),
        image_path=str(images.folder / image_name),
        silhouette_path=str(silhouettes.folder / silhouette_name),
        channels=channels,
        skip_silhouette=skip_silhouette,
    )
    labels = list(_pictures(pool, draw, FLAGS.num_images, dataset))
    numbers = range(1, FLAGS.num_images + 1)
    images.add([image_name % number for number in numbers])
    silhouettes.add(
        [silhouette_name % number for number in numbers if not (skip_silhouette and number % skip_silhouette == 0)]
    )
    keypoints, visible, poses, shapes, joints3d = (np.stack(values) for values in zip(*labels))
    return keypoints, visible, {"pose": poses, "shape": shapes, "joints3d": joints3d}


def _write_lsp(pool, images, silhouettes):
    keypoints, visible, truth = _draw_numbered(
        pool, "lsp", images, silhouettes, "images/im%04d.jpg", "im%04d_segmentation.png"
    )
    body = slice(LSP14.num_joints)
    joints = np.concatenate([keypoints[:, body], ~visible[:, body, None]], -1)
    images.write_bytes("joints.mat", mat_bytes(joints=joints.transpose(2, 1, 0).astype(np.float64)))
    images.write_bytes("sample_truth.npz", _npz_bytes(**truth))
    return f"{len(joints)} images"


def _write_lsp_extended(pool, images, silhouettes):
    keypoints, visible, truth = _draw_numbered(
        pool,
        "lsp_ext",
        images,
        silhouettes,
        "images/im%05d.jpg",
        "im%05d_segmentation.png",
        channels=3,
        skip_silhouette=6,
    )
    body = slice(LSP14.num_joints)
    seen = visible[:, body, None]
    # As in the real set, joints that nobody could see have no position.
    joints = np.concatenate([keypoints[:, body] * seen, seen], -1)
    images.write_bytes("joints.mat", mat_bytes(joints=joints.transpose(1, 2, 0).astype(np.float64)))
    images.write_bytes("sample_truth.npz", _npz_bytes(**truth))
    return f"{len(joints)} images, {len(joints) // 6} without a silhouette"


def _write_mpii(pool, folder):
    keypoints, visible, truth = _draw_numbered(
        pool, "mpii", folder, folder, "images/%05d.png", "images/%05d_segmentation.png", channels=3
    )
    poses, _ = COCO_PLUS19.convert(np.concatenate([keypoints, ~visible[..., None]], -1), to=MPII16)

    def middle(left, right):
        pair = [COCO_PLUS19.index(left), COCO_PLUS19.index(right)]
        return np.concatenate([keypoints[:, pair].mean(1), ~visible[:, pair].any(1)[:, None]], -1)

    poses[:, MPII16.index("pelvis")] = middle("left_hip", "right_hip")
    poses[:, MPII16.index("thorax")] = middle("left_shoulder", "right_shoulder")
    folder.write_bytes("poses.npz", _npz_bytes(poses=poses.transpose(2, 1, 0)))
    folder.write_bytes("sample_truth.npz", _npz_bytes(**truth))
    return f"{len(poses)} images"


# ----------------------------------------------------------------------------------------------------------- COCO


def _draw_coco(index, seed, size, folder, num_val):
    """Draws and writes one COCO picture; returns its image entry and annotations."""
    rng = _generator(seed, "coco", index)
    num_people = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    crowd = index % 10 == 1
    size = size or tuple(int(side) for side in rng.integers(224, 281, 2) + (0, 60 * (num_people - 1)))
    image, people = sample_picture(rng, sample_body(), size, num_people + 2 * crowd)
    split = "val2017" if index < num_val else "train2017"
    number = 1000 + 7 * index
    _write_file(f"{folder}/{split}/{number:012d}.jpg", _picture_bytes(image))
    entry = {"id": number, "file_name": f"{number:012d}.jpg", "height": size[0], "width": size[1], "license": 1}
    far, near = people[: 2 * crowd], people[2 * crowd :]
    annotations = [_annotate(person, rle=index % 8 == 5) for person in near]
    if crowd:
        annotations.append(_annotate_crowd([person.mask for person in far]))
    annotations = [annotation for annotation in annotations if annotation["area"] > 0]
    for place, annotation in enumerate(annotations):
        annotation |= {"image_id": number, "category_id": 1, "id": 100 * number + place}
    return split, entry, annotations


def _draw_coco_people(index, seed, size, folder, num_val):
    """Draws and writes one COCO picture of several people; returns its image entry and annotations."""
    rng = _generator(seed, "coco_people", index)
    num_people = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.2, 0.25, 0.2, 0.15, 0.1, 0.1]))
    size = size or _photo_size(rng)
    picture = sample_people_picture(rng, sample_body(), size, num_people, num_crowd=5 * (index % 6 == 1))
    split = "val2017" if index < num_val else "train2017"
    number = 2000 + 3 * index
    _write_file(f"{folder}/{split}/{number:012d}.jpg", _picture_bytes(picture.image))
    entry = {"id": number, "file_name": f"{number:012d}.jpg", "height": size[0], "width": size[1], "license": 1}
    annotations = [
        _annotate(person, rle=index % 5 == 3, guess=seen >= _GUESSED)
        for person, seen in zip(picture.people, picture.seen)
    ]
    if picture.crowd.any():
        annotations.append(_annotate_crowd([picture.crowd]))
    for place, annotation in enumerate(annotations):
        annotation |= {"image_id": number, "category_id": 1, "id": 100 * number + place}
    return split, entry, annotations


def _photo_size(rng):
    """`(height, width)` of about 240 x 320 pixels, a fifth of the pictures upright."""
    size = int(rng.integers(224, 257)), int(rng.integers(304, 337))
    return size[::-1] if rng.random() < 0.2 else size


def _annotate(person, rle, guess=True):
    points, _ = COCO_PLUS19.convert(person.keypoints_px, to=COCO17)
    visible = COCO_PLUS19.convert(person.visible[:, None], to=COCO17)[0][:, 0]
    height, width = person.mask.shape
    inside = ((points >= 0) & (points <= (width - 1, height - 1))).all(-1)
    # 2 visible, 1 hidden but guessed by the annotator, 0 not labelled; faces are not guessed.
    states = np.where(visible, 2, np.where(guess & inside & (np.arange(len(points)) > 4), 1, 0))
    keypoints = np.concatenate([np.rint(points) * (states > 0)[:, None], states[:, None]], -1)
    polygons, area = _polygons(person.mask)
    return {
        "segmentation": _run_lengths(person.mask) if rle else polygons,
        "area": float(person.mask.sum()) if rle else area,
        "bbox": _box(person.mask),
        "iscrowd": 0,
        "num_keypoints": int((states > 0).sum()),
        "keypoints": keypoints.astype(int).ravel().tolist(),
    }


def _annotate_crowd(masks):
    mask = np.any(masks, 0)
    return {
        "segmentation": _run_lengths(mask),
        "area": float(mask.sum()),
        "bbox": _box(mask),
        "iscrowd": 1,
        "num_keypoints": 0,
        "keypoints": [0] * (3 * COCO17.num_joints),
    }


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def _polygons(mask, fineness=4):
    """Outlines of a mask and the area within, in COCO's coordinates, in which pixel 0 reaches from 0 to 1.

    Holes, as between an arm and the trunk, are part of it: COCO's polygons know none.
    """
    fine = np.kron(mask, np.ones((fineness, fineness), np.uint8)).astype(np.uint8)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons, area = [], 0.0
    for contour in contours:
        corners = cv2.approxPolyDP(contour, 1.5, True)
        if len(corners) >= 3:
            polygons.append(np.round((corners[:, 0] + 0.5) / fineness, 2).ravel().tolist())
            area += cv2.contourArea(corners) / fineness**2
    return polygons, area


def _run_lengths(mask):
    """Uncompressed run lengths of a mask, column by column, starting with the background."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    ends = np.concatenate([changes, [pixels.size]])
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return {"counts": [0, *counts] if pixels[0] else counts, "size": list(mask.shape)}


def _write_coco(pool, folder):
    return _write_coco_layout(pool, folder, "coco", _draw_coco, FLAGS.num_images)


def _write_coco_people(pool, folder):
    return _write_coco_layout(pool, folder, "coco_people", _draw_coco_people, FLAGS.num_people_images)


def _write_coco_layout(pool, folder, name, draw, count):
    num_val = max(1, round(_COCO_VAL_SHARE * count)) if count > 1 else 0
    draw = functools.partial(draw, seed=FLAGS.seed, size=_size(), folder=str(folder.folder), num_val=num_val)
    parts = {"train2017": ([], []), "val2017": ([], [])}
    for split, entry, annotations in _pictures(pool, draw, count, name):
        parts[split][0].append(entry)
        parts[split][1].extend(annotations)
        folder.add([f"{split}/{entry['file_name']}"])
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO17.joints),
        "skeleton": [[child + 1, parent + 1] for child, parent in COCO17.bones],
    }
    for split, (images, annotations) in parts.items():
        content = {
            "info": {"description": "Synthetic sample data of posekit, in the layout of COCO 2017", "version": "1.0"},
            "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
            "images": images,
            "annotations": annotations,
            "categories": [category],
        }
        folder.write_bytes(f"annotations/person_keypoints_{split}.json", _json(content))
    num_people = sum(annotation["num_keypoints"] > 0 for _, part in parts.values() for annotation in part)
    return f"{count} images of {num_people} people"


# --------------------------------------------------------------------------------------------------------- mocap


def _write_mocap(_, records, amass):
    rng = _generator(FLAGS.seed, "mocap", 0)
    for name, motion, num_files in (("CMU", "everyday", 2), ("jointLim", "limits", 1)):
        poses = sample_poses(rng, FLAGS.num_poses, motion, upright="y")
        # A recording of a person has a few hundred frames of the same shape.
        shapes = np.repeat(sample_shapes(rng, -(-len(poses) // 100)), 100, 0)[: len(poses)]
        for number, indices in enumerate(np.array_split(np.arange(len(poses)), num_files)):
            file = f"neutrSMPL_{name}_{number:03d}.tfrecord"
            with RecordWriter(records.folder / file) as writer:
                for index in indices:
                    writer.write(MocapRecord(poses[index], shapes[index]).to_example())
            records.add([file])
    for subject in range(1, 4):
        gender = ("female", "male", "neutral")[subject % 3]
        betas = np.zeros(16)
        betas[:10] = sample_shapes(rng, 1)[0]
        for take in range(1, 3):
            recording = _recording(rng, betas, gender)
            amass.write_bytes(f"SampleSet/{subject:02d}/{subject:02d}_{take:02d}_poses.npz", recording)
    return f"{FLAGS.num_poses} poses each in CMU and jointLim, 6 recordings"


def _recording(rng, betas, gender):
    """One recording as AMASS has it: z up, body and finger joints of SMPL-H, more shape coefficients than SMPL has."""
    body = sample_motion(rng, _FRAMES, upright="z")
    fingers = rng.normal(0, 0.02, (_FRAMES, 90))
    steps = rng.normal(0, 0.004, (_FRAMES, 3)).cumsum(0)
    return _npz_bytes(
        poses=np.concatenate([body[:, :66], fingers], -1).astype(np.float64),
        betas=betas,
        trans=steps + (0, 0, 0.95),
        dmpls=np.zeros((_FRAMES, 8)),
        mocap_framerate=np.array(60.0),
        gender=np.array(gender),
    )


# ------------------------------------------------------------------------------------------------------- Human3.6M

_TEST_SHARE = 0.2
_FIRST_ACTION = 2
_SUBACTIONS = (1, 2)
_CAMERAS = 4


def _write_h36m(_, folder):
    num_test = round(_TEST_SHARE * FLAGS.num_h36m_poses)
    splits = {
        "train": (TRAIN_SUBJECTS, FLAGS.num_h36m_poses - num_test),
        "test": (TEST_SUBJECTS, num_test),
    }
    detections, first_video = {}, 0
    with tqdm(total=FLAGS.num_h36m_poses, desc="h36m", unit="pose", file=sys.stderr) as progress:
        for split, (subjects, count) in splits.items():
            path = folder.folder / f"h36m_{split}.pkl"
            with explain_write_errors(path), growing_list(path) as extend:
                recordings = _h36m_recordings(subjects, count)
                detections[split] = _write_recordings(recordings, first_video, count, extend, progress)
            folder.add([path.name])
            first_video += _CAMERAS * len(recordings)
    path = folder.folder / "h36m_sh_dt_ft.pkl"
    with explain_write_errors(path):
        write_plain(path, detections)
    folder.add([path.name])
    return f"{FLAGS.num_h36m_poses - num_test} poses to train and {num_test} to test"


def _h36m_recordings(subjects, count):
    """Recordings `(subject, action, subaction, [frames of each camera])` that have `count` poses together."""
    takes = [(s, a, sub) for s in subjects for a in range(len(ACTIONS)) for sub in _SUBACTIONS]
    # Dealt out action by action, so that few poses still show all of them.
    order = sorted(range(len(takes)), key=lambda take: (takes[take][1], takes[take][2], takes[take][0]))
    shares = np.diff(np.arange(len(takes) + 1) * -(-count // _CAMERAS) // len(takes))
    frames = np.zeros((len(takes), _CAMERAS), int)
    frames[order] = shares[:, None]
    # Where the poses do not come out even, some cameras miss the last moment.
    surplus = frames.sum() - count
    frames[np.flatnonzero(frames[:, 0])[-1], _CAMERAS - surplus :] -= 1
    return [(*take, list(views)) for take, views in zip(takes, frames)]


def _write_recordings(takes, first_video, count, extend, progress):
    """Hands over the items of all recordings; returns what the detector says about them."""
    points, confidence = np.empty((count, 17, 3)), np.empty((count, 17, 1))
    done = 0
    actors = {subject: _h36m_actor(subject) for subject in sorted({take[0] for take in takes})}
    for number, (subject, action, subaction, frames) in enumerate(takes):
        actor, cameras = actors[subject]
        rng = _generator(FLAGS.seed, "h36m", subject, action, subaction)
        joints_mm = 1000 * sample_recording(rng, actor, ACTIONS[action], max(frames))
        for camera, (lens, length) in enumerate(zip(cameras, frames)):
            joints_cam = lens.see(joints_mm[:length])
            joints_image, boxes = camera_to_image(joints_cam, (*lens.f, *lens.c))
            video = first_video + _CAMERAS * number + camera
            extend(_h36m_items(video, subject, action, subaction, camera, lens, joints_image, joints_cam, boxes))
            here = slice(done, done + length)
            points[here] = joints_image
            points[here, :, :2], confidence[here] = sample_detections(
                rng, joints_image[..., :2], boxes[:, 2] - boxes[:, 0]
            )
            done += length
            progress.update(length)
    return {"joint3d_image": points, "confidence": confidence}


def _h36m_actor(subject):
    """A subject's body and the cameras as they stood that day."""
    rng = _generator(FLAGS.seed, "h36m", subject)
    body = sample_body()
    return Actor(body, 0.8 * sample_shapes(rng, 1, body.num_shape)[0]), sample_cameras(rng)


def _h36m_items(video, subject, action, subaction, camera, lens, joints_image, joints_cam, boxes):
    name = f"s_{subject:02d}_act_{action + _FIRST_ACTION:02d}_subact_{subaction:02d}_ca_{camera + 1:02d}"
    parameters = {"R": lens.R, "T": lens.T, "fx": lens.f[0], "fy": lens.f[1], "cx": lens.c[0], "cy": lens.c[1]}
    parameters = {key: float(value) if np.ndim(value) == 0 else value for key, value in parameters.items()}
    parameters |= {"k": lens.k, "p": lens.p, "name": lens.name}
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 200
    return [
        {
            "videoid": video,
            "cameraid": camera,
            "camera_param": parameters,
            "imageid": frame,
            "image_path": f"{name}/{name}_{frame + 1:06d}.jpg",
            "joint_3d_image": joints_image[frame],
            "joint_3d_camera": joints_cam[frame],
            "center": tuple(centres[frame]),
            "scale": tuple(sizes[frame]),
            "box": boxes[frame],
            "subject": subject,
            "action": action + _FIRST_ACTION,
            "subaction": subaction,
            "root_depth": joints_cam[frame, 0, 2],
        }
        for frame in range(len(boxes))
    ]


# ------------------------------------------------------------------------------------------------- depth pictures


def _drawn(pool, name):
    """What `sample_depth` needs to draw a dataset: a function that draws every sequence, and its seeds."""
    return functools.partial(_pictures, pool, name=name, unit="sequence"), [FLAGS.seed, DATASETS.index(name)]


def _write_msra(pool, folder):
    return sample_depth.write_msra(folder, *_drawn(pool, "msra"), FLAGS.msra_frames_per_gesture)


def _write_nyu(pool, folder):
    return sample_depth.write_nyu(folder, *_drawn(pool, "nyu"), FLAGS.num_nyu_frames)


def _write_itop(pool, folder):
    return sample_depth.write_itop(folder, *_drawn(pool, "itop"), FLAGS.num_itop_frames)


if __name__ == "__main__":
    app.run(main)
