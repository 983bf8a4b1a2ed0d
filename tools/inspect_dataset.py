"""Shows what is in the TFRecords and pose files: counts, keys, means, and a sheet of pictures.

    python tools/inspect_dataset.py --data_dir=data lsp_train coco CMU h36m_train

Without names it shows every dataset of the folder; --data_dir may also name a single file, such as one of people in the
layout of the first OpenPose on Keras (HDF5). Each gets a picture `{name}_sheet.png` in --output: images with
their keypoints (visible ones only) beside their silhouettes, bodies in the poses of a motion-capture set, the joints
of a pose file as a camera sees them (detections in rings) beside the 3-D skeleton seen from the side, the joints of
depth crops on the tinted depth and in the world, or pictures of many people, with red over those on whom nothing is
trained.
"""

import collections
import dataclasses
import pathlib
import sys
import types

import cv2
import h5py
import numpy as np
from absl import app, flags

from posekit.data.depth_records import DepthRecord, decode_depth
from posekit.data.example import decode_example
from posekit.data.h36m import ACTIONS, read_pose_file
from posekit.data.hdf5 import COLUMNS, PoseFile
from posekit.data.image_files import ImageFileError, decode_image
from posekit.data.people_hdf5 import GROUP as PEOPLE_GROUP
from posekit.data.people_hdf5 import open_people_hdf5
from posekit.data.people_records import PeopleRecord, convert_joints
from posekit.data.schema import ImageRecord, MocapRecord
from posekit.data.tfrecord import (
    DatasetNotFoundError,
    TFRecordError,
    counted_files,
    dataset_files,
    mocap_files,
    mocap_names,
    mocap_summary_path,
    read_records,
    summary_path,
)
from posekit.drawing import dataset_picture, draw_skeleton, mocap_grid, save_image
from posekit.drawing3d import draw_skeleton_3d
from posekit.drawing_depth import depth_picture, tint_depth
from posekit.drawing_people import draw_people
from posekit.files import print_any_text
from posekit.geometry.depth import world_to_pixel
from posekit.metrics.depth_pose import dataset_protocol
from posekit.skeletons import COCO17, COCO_PLUS19, LSP14, OPENPOSE18, SKELETONS, Skeleton
from posekit.training.config import import_tensorflow_quietly

_CELL = 224
_COLUMNS = 4
_BODIES = 8
_SIDE_DEG = 60.0
_SHEET = 2 * _CELL * _COLUMNS  # width in pixels of a sheet of pictures of their own widths
_GAP = 8
# What the masks in records of people are of.
_MEANINGS = {"mask/miss": "255 where it is trained, 0 on people without labels", "mask/all": "255 on people"}
_RUN = 10  # poses that are read together

flags.DEFINE_string("data_dir", "data", "Folder of the records, or one file of poses or people in HDF5.")
flags.DEFINE_string("output", None, "Folder for the pictures; --data_dir if not given.")
flags.DEFINE_integer("num_images", 16, "Images on a sheet; 0 for no sheet.", lower_bound=0, upper_bound=400)
flags.DEFINE_integer("num_records", 1000, "Records over which means are taken; 0 for all.", lower_bound=0)
flags.DEFINE_string("body", None, "Body for motion capture: a .npz file, or sample; the first one found if not given.")
FLAGS = flags.FLAGS


def main(argv):
    """Prints about the datasets named on the command line.

    Args:
        argv: Command line without flags.

    Returns:
        Exit status: 0, or 1 if a dataset is missing or damaged.
    """
    print_any_text()
    names, file = argv[1:], pathlib.Path(FLAGS.data_dir)
    if file.is_file():
        if names or file.suffix not in (".h5", ".tfrecords"):
            print(f"ERROR --data_dir={file} is a file; give one .h5 or .tfrecords file, or a folder.", file=sys.stderr)
            return 1
        names, FLAGS.data_dir = [file.stem], str(file.parent)
    output = pathlib.Path(FLAGS.output or FLAGS.data_dir)
    names = names or _all_names(FLAGS.data_dir)
    if not names:
        print(f"ERROR No dataset in {FLAGS.data_dir}; make one with tools/create_dataset.py.", file=sys.stderr)
        return 1
    status = 0
    for name in names:
        try:
            sheet = _show(name)
            if sheet is not None:
                path = output / f"{name}_sheet.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(path, sheet)
                print(f"  pictures: {path}")
        except (DatasetNotFoundError, TFRecordError, ValueError, OSError) as error:
            print(f"ERROR {name}: {error}", file=sys.stderr)
            status = 1
    return status


def _show(name):
    if name in mocap_names(FLAGS.data_dir):
        return _show_mocap(name)
    path = pathlib.Path(FLAGS.data_dir) / f"{name}.h5"
    if path.exists() and not _has_records(name):
        return _show_people_file(path) if _holds_people(path) else _show_poses(path)
    first = next(iter(read_records(dataset_files(FLAGS.data_dir, name)[0])), b"")
    keys = decode_example(first)
    if "people/joints" in keys:
        return _show_people(name)
    return _show_depth(name) if "depth/encoded" in keys else _show_images(name)


def _has_records(name):
    try:
        return bool(dataset_files(FLAGS.data_dir, name))
    except DatasetNotFoundError:
        return False


def _holds_people(path):
    """Whether an HDF5 file has pictures of people, and not poses."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return PEOPLE_GROUP in file
    except OSError:  # no HDF5 at all, or a damaged one: the name tells who explains that
        return path.stem.endswith(("people_train", "people_val", "train_dataset", "val_dataset"))


def _all_names(data_dir):
    paths = pathlib.Path(data_dir).glob("*.tfrecords")
    folders = (path.parent for path in pathlib.Path(data_dir).glob("*/*_[0-9]*.tfrecord*"))
    images = {path.name.removesuffix(".tfrecords") for path in paths} | {path.name for path in folders}
    poses = sorted(path.stem for path in pathlib.Path(data_dir).glob("h36m_*.h5"))
    images |= {path.stem for path in pathlib.Path(data_dir).glob("*.h5") if _holds_people(path)}
    return sorted(images - {"mocap_neutrMosh", *poses}) + mocap_names(data_dir) + poses


def _head(name, files, summary):
    counts = counted_files(files, summary)
    size = sum(pathlib.Path(path).stat().st_size for path in files)
    print(f"{name}: {sum(counts.values())} records in {len(files)} files, {size / 2**20:.1f} MiB")


def _records(files):
    """Yields serialised records, as many as means are taken over."""
    number = 0
    for path in files:
        for record in read_records(path):
            yield record
            number += 1
            if number == FLAGS.num_records:
                return


def _print_keys(keys):
    for key, (count, kind, lengths) in sorted(keys.items()):
        span = f"{min(lengths)}" if len(lengths) == 1 else f"{min(lengths)}..{max(lengths)}"
        meaning = f": {_MEANINGS[key]}" if key in _MEANINGS else ""
        print(f"  {key:18} {kind:6} {span:>14} values or bytes, in {count} records{meaning}")


def _note_keys(keys, record):
    for key, value in decode_example(record).items():
        kind = "bytes" if isinstance(value, list) else value.dtype.name
        length = len(value[0]) if isinstance(value, list) and value else len(value)
        count, _, lengths = keys.setdefault(key, (0, kind, set()))
        keys[key] = (count + 1, kind, lengths | {length})


def _show_images(name):
    files = dataset_files(FLAGS.data_dir, name)
    _head(name, files, summary_path(FLAGS.data_dir, name))
    keys, cells, sizes, colors, visible, areas = {}, [], [], [], [], []
    seen = collections.Counter()
    for serialized in _records(files):
        _note_keys(keys, serialized)
        record = ImageRecord.from_example(serialized)
        try:
            image = cv2.cvtColor(decode_image(record.image), cv2.COLOR_BGR2RGB)
            mask = None if record.silhouette is None else decode_image(record.silhouette, cv2.IMREAD_GRAYSCALE)
        except ImageFileError as error:
            raise ValueError(f"{record.filename}: {error}") from None
        sizes.append(image.shape[:2])
        colors.append(image.mean((0, 1)))
        visible.append(np.pad(record.keypoints[2] > 0, (0, COCO_PLUS19.num_joints - record.keypoints.shape[1])))
        seen.update(silhouette=mask is not None, has_3d=record.has_3d, joints3d=record.joints3d is not None)
        if mask is not None:
            areas.append((mask > 127).mean())
        if len(cells) < FLAGS.num_images:
            cells.append(_cell(image, mask, record))
    if not sizes:
        return None
    _print_keys(keys)
    heights, widths = np.array(sizes).T
    print(f"  of {len(sizes)} records:")
    print(f"  size: height {heights.min()}..{heights.max()}, mean {heights.mean():.0f}; width {widths.min()}.."
          f"{widths.max()}, mean {widths.mean():.0f}")  # fmt: skip
    print("  mean colour (red, green, blue): " + ", ".join(f"{value:.0f}" for value in np.mean(colors, 0)))
    share = f", on average {100 * np.mean(areas):.0f} % of the image" if areas else ""
    print(f"  with silhouette: {seen['silhouette']}{share}; with pose and shape: {seen['has_3d']}; "
          f"with 3-D joints: {seen['joints3d']}")  # fmt: skip
    mean = np.mean(np.sum(visible, 1))
    print(f"  visible joints: {mean:.1f} of {COCO_PLUS19.num_joints} on average; each in % of the images:")
    rates = 100 * np.mean(visible, 0)
    print("    " + ", ".join(f"{joint} {rate:.0f}" for joint, rate in zip(COCO_PLUS19.joints, rates)))
    return _grid(cells) if cells else None


def _cell(image, mask, record):

    skeleton = COCO_PLUS19 if record.keypoints.shape[1] == COCO_PLUS19.num_joints else LSP14
    joints, visibility = record.keypoints[:2].T, record.keypoints[2]
    drawn = draw_skeleton(image, joints, skeleton, visibility, radius=3)
    picture = dataset_picture(drawn, mask, joints, skeleton, visibility)
    scale = min(_CELL / picture.shape[0], 2 * _CELL / picture.shape[1])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cell = np.full((_CELL, 2 * _CELL, 3), 255, np.uint8)
    cell[: size[1], : size[0]] = small
    return cell


def _grid(cells):
    blank = np.full_like(cells[0], 255)
    cells = cells + [blank] * (-len(cells) % _COLUMNS)
    return np.concatenate([np.concatenate(cells[row : row + _COLUMNS], 1) for row in range(0, len(cells), _COLUMNS)])


def _show_people(name):
    files = dataset_files(FLAGS.data_dir, name)
    _head(name, files, summary_path(FLAGS.data_dir, name))
    keys, tally, cells = {}, _PeopleTally(), []
    for serialized in _records(files):
        _note_keys(keys, serialized)
        record = PeopleRecord.from_example(serialized)
        tally.add(record)
        if len(cells) < FLAGS.num_images:
            cells.append(_people_cell(record))
    _print_keys(keys)
    tally.print()
    return _rows(*zip(*cells)) if cells else None


def _show_people_file(path):
    file = open_people_hdf5(path)
    print(f"{path.stem}: {len(file)} samples, {file.size / 2**20:.1f} MiB")
    tally, cells = _PeopleTally(), []
    for number in range(min(len(file), FLAGS.num_records or len(file))):
        record = file.record(number)
        tally.add(record)
        if len(cells) < FLAGS.num_images:
            cells.append(_people_cell(record))
    tally.print()
    return _rows(*zip(*cells)) if cells else None


class _PeopleTally:
    """What is told about pictures of many people."""

    def __init__(self):
        self._sizes, self._labels, self._others, self._crowds, self._masked, self._states = [], [], 0, 0, [], {}

    def add(self, record):
        self._sizes.append((record.height, record.width))
        self._labels.append(int(record.trained.sum()))
        self._others += int((~record.trained & ~record.crowd).sum())
        self._crowds += int(record.crowd.sum())
        self._masked.append(0.0 if record.mask is None else 1 - record.mask.mean())
        for joint, states in zip(record.names, record.joints[record.trained][..., 2].T):
            self._states.setdefault(joint, []).extend(states > 0)

    def print(self):
        heights, widths = np.array(self._sizes).T
        print(f"  of {len(self._sizes)} pictures:")
        print(f"  size: height {heights.min()}..{heights.max()}, mean {heights.mean():.0f}; width {widths.min()}.."
              f"{widths.max()}, mean {widths.mean():.0f}")  # fmt: skip
        print(f"  people to train on: {sum(self._labels)}, {min(self._labels)}..{max(self._labels)} a picture; not "
              f"trained, red in the pictures: {self._others} other people, {self._crowds} crowds, "
              f"{100 * np.mean(self._masked):.1f} % of the pixels")  # fmt: skip
        rates = {joint: 100 * np.mean(states) for joint, states in self._states.items() if states}
        print("  labelled joints in %: " + ", ".join(f"{joint} {rate:.0f}" for joint, rate in rates.items()))


def _people_cell(record):
    """A picture with its people `_CELL` pixels high, and its name."""
    picture = record.pixels()
    if record.mask is not None:
        picture = picture.copy()
        picture[~record.mask] = picture[~record.mask] // 2 + np.array([127, 0, 0], np.uint8)
    size = np.array([min(max(1, round(_CELL * record.width / record.height)), _SHEET), _CELL])
    shrinks = record.height > _CELL
    small = cv2.resize(picture, size.tolist(), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    skeleton = next((known for known in SKELETONS.values() if known.joints == record.names), None)
    joints = record.joints[record.trained]
    if skeleton is COCO17:
        skeleton = OPENPOSE18
        points, present = convert_joints(joints, record.names, skeleton, (record.height, record.width))
    else:
        points, present = joints[..., :2], joints[..., 2] > 0
    points = (np.where(present[..., None], points, np.nan) + 0.5) * (size / (record.width, record.height)) - 0.5
    # Of joints of one's own the records do not tell the limbs.
    radius = None if skeleton else 3
    drawn = draw_people(small, points, skeleton or Skeleton("records", record.names, ()), radius=radius)
    return drawn, record.filename or str(record.image_id)


def _rows(pictures, titles):
    """Pictures of one height with their names, row after row as wide as a sheet."""
    rows, width = [[]], 0
    for picture, title in zip(pictures, titles):
        if rows[-1] and width + picture.shape[1] > _SHEET:
            rows.append([])
            width = 0
        rows[-1].append(_captioned(picture, title))
        width += picture.shape[1] + _GAP
    rows = [np.concatenate(row, 1) for row in rows]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(rows)


def _captioned(picture, title):
    strip = np.full((24, picture.shape[1], 3), 255, np.uint8)
    fitting = max(1, picture.shape[1] // 8)
    title = title if len(title) <= fitting else "..." + title[len(title) - max(fitting - 3, 0) :]
    cv2.putText(strip, title, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return np.pad(np.concatenate([picture, strip]), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)


def _show_depth(name):
    files = dataset_files(FLAGS.data_dir, name)
    _head(name, files, summary_path(FLAGS.data_dir, name))
    keys, frames, shares, cells = {}, [], [], []
    for serialized in _records(files):
        _note_keys(keys, serialized)
        record = DepthRecord.from_example(serialized)
        shares.append((record.depth > 0).mean())
        if len(cells) < FLAGS.num_images:
            cells.append(_depth_cell(record, name))
        # Of many records the depth would take gigabytes.
        frames.append(types.SimpleNamespace(**{key: value for key, value in vars(record).items() if key != "depth"}))
    _print_keys(keys)
    unit, counts = frames[0].unit, collections.Counter(len(frame.joints) for frame in frames)
    boxes = np.array([frame.box for frame in frames])
    edges = boxes[:, 2:] - boxes[:, :2]
    print(f"  of {len(frames)} records:")
    print("  pictures: " + _tally([f"{frame.picture[0]} x {frame.picture[1]}" for frame in frames], str))
    print(f"  crops: {edges[:, 0].min()}..{edges[:, 0].max()} x {edges[:, 1].min()}..{edges[:, 1].max()} px, mean "
          f"{edges[:, 0].mean():.0f} x {edges[:, 1].mean():.0f}; measured: {100 * np.mean(shares):.0f} % of the "
          f"pixels; reach {_reaches(frames)} {unit}")  # fmt: skip
    print("  joints: " + ", ".join(f"{joints} in {count} records" for joints, count in sorted(counts.items()))
          + f"; labelled: {100 * np.mean([frame.valid.mean() for frame in frames]):.1f} %")  # fmt: skip
    places = np.concatenate([frame.joints[frame.valid > 0] for frame in frames])
    if len(places):
        spans = (f"{axis} {low:.5g}..{high:.5g}" for axis, low, high in zip("xyz", places.min(0), places.max(0)))
        print(f"  joints in the world: {', '.join(spans)} {unit}, mean depth {places[:, 2].mean():.5g}")
    print("  centres: " + _tally([frame.center_source for frame in frames], "{}".format) + "; usable: "
          + ", ".join(map(str, _usable_centers(frames))) + f"; {_center_distances(frames)} {unit}")  # fmt: skip
    print("  subjects: " + _tally([frame.subject for frame in frames], "{}".format)
          + "; groups: " + _tally([frame.group or "none" for frame in frames], str))  # fmt: skip
    return _grid(cells) if cells else None


def _reaches(frames):
    reaches = np.array([frame.reach for frame in frames])
    return " x ".join(f"{value:.4g}" for value in reaches.min(0))


def _usable_centers(frames):
    """How many frames have a usable centre, for each of the centres a frame has."""
    rows = max(len(frame.centers) for frame in frames)
    found = [np.isfinite(frame.centers[:, 0]) for frame in frames]
    return np.sum([np.pad(row, (0, rows - len(row))) for row in found], 0).tolist()


def _center_distances(frames):
    """How far labelled joints are from the first usable centre of their frame."""
    distances = []
    for frame in frames:
        usable = frame.centers[np.isfinite(frame.centers[:, 0])]
        if len(usable) and frame.valid.any():
            distances.append(np.abs(frame.joints[frame.valid > 0] - usable[0]).max(0))
    if not distances:
        return "no joint to measure from, 0"
    return "farthest joints from them " + " x ".join(f"{value:.4g}" for value in np.max(distances, 0))


def _depth_cell(record, name):

    skeleton = _depth_skeleton(name, len(record.joints))
    depth, start = decode_depth(record.depth, record.unit), record.box[:2]
    seen = np.where(record.valid[:, None] > 0, record.joints, np.nan)
    if skeleton is None or not record.valid.any():
        return _plain_depth_cell(record, depth, seen)
    return depth_picture(
        depth, seen, record.depth_camera, skeleton, start_px=start, height=_CELL, captions=(),
        from_above=name.startswith("itop_top"),
    )  # fmt: skip


def _plain_depth_cell(record, depth, joints):
    """The depth alone, with dots, where no skeleton is known or no joint is labelled."""
    measured = depth[depth > 0]
    near, far = (measured.min(), measured.max()) if len(measured) else (0.0, 1.0)
    scale = _CELL / max(depth.shape)
    size = max(1, round(depth.shape[1] * scale)), max(1, round(depth.shape[0] * scale))
    tinted = cv2.resize(tint_depth(depth, (near + far) / 2, max(far - near, 1e-6) / 2), size)
    cell = np.full((_CELL, 2 * _CELL, 3), 255, np.uint8)
    cell[: size[1], : size[0]] = tinted
    places = (world_to_pixel(joints, record.depth_camera)[:, :2] - record.box[:2] + 0.5) * scale
    for x, y in places[np.isfinite(places).all(1) & (np.abs(places) < 2 * _CELL).all(1)]:
        cv2.circle(cell, (round(x), round(y)), 2, (200, 0, 0), -1)
    return cell


def _depth_skeleton(name, num_joints):

    try:
        skeleton = dataset_protocol(name.rpartition("_")[0]).skeleton
    except ValueError:
        return None
    return skeleton if skeleton.num_joints == num_joints else None


def _show_mocap(name):
    files = mocap_files(FLAGS.data_dir, name)
    _head(name, files, mocap_summary_path(FLAGS.data_dir, name))
    keys, poses, shapes = {}, [], []
    for serialized in _records(files):
        _note_keys(keys, serialized)
        record = MocapRecord.from_example(serialized)
        poses.append(record.pose)
        shapes.append(record.shape)
    if not poses:
        return None
    _print_keys(keys)
    angles = np.degrees(np.linalg.norm(np.reshape(poses, (len(poses), -1, 3)), axis=2))
    print(f"  of {len(poses)} records:")
    print(f"  joint angles: mean {angles[:, 1:].mean():.0f} degrees, largest {angles[:, 1:].max():.0f}")
    print(f"  shape: mean {np.mean(shapes):.2f}, standard deviation {np.std(shapes):.2f}")
    return _bodies(np.array(poses), np.array(shapes)) if FLAGS.num_images else None


def _bodies(poses, shapes):
    import_tensorflow_quietly()
    from posekit.bodies import load_body
    from posekit.layers import SMPL

    chosen = np.linspace(0, len(poses) - 1, min(_BODIES, len(poses))).astype(int)
    body = load_body(FLAGS.body)
    output = SMPL(body)(poses[chosen].astype(np.float32), shapes[chosen].astype(np.float32))
    vertices = np.asarray(output["vertices"]) - np.asarray(output["joints"])[:, :1]
    return mocap_grid(vertices, body.faces, cell_size=_CELL)


def _show_poses(path):
    with PoseFile(path) as file:
        print(f"{path.stem}: {len(file)} poses of {file.skeleton.name}, {path.stat().st_size / 2**20:.1f} MiB"
              + f", from {file.source}" * bool(file.source))  # fmt: skip
        for name in file.columns:
            spec = COLUMNS[name]
            shape = " x ".join(map(str, spec.row_shape(file.skeleton.num_joints))) or "1"
            print(f"  {name:20} {np.dtype(spec.dtype).name:8} {shape:>6}")
        print("  subjects: " + _tally(file.read("subject"), "S{}".format))
        print("  actions: " + _tally(file.read("action"), lambda number: ACTIONS.get(number, f"action {number}")))
        names, sizes = file.cameras["name"], file.cameras["image_size"]
        kinds = [f"{name} ({width:.0f} x {height:.0f})" for name, (width, height) in zip(names, sizes)]
        counts = np.bincount(file.read("camera"), minlength=len(kinds)).tolist()
        totals = collections.Counter()
        for kind, count in zip(kinds, counts):
            totals[kind] += count
        print("  cameras: " + ", ".join(f"{kind} {count}" for kind, count in sorted(totals.items())))
        count = min(FLAGS.num_records or len(file), len(file))
    poses = _spread(path, count)
    _print_means(poses)
    return _poses_sheet(poses) if FLAGS.num_images else None


def _tally(values, name):
    return ", ".join(f"{name(value)} {count}" for value, count in zip(*np.unique(values, return_counts=True)))


def _spread(path, count):
    """Poses from all over a file, some neighbours at a time."""
    with PoseFile(path) as file:
        total = len(file)
    length = total if count == total else min(_RUN, count)
    starts = np.linspace(0, total - length, max(1, count // length)).astype(int)
    parts = [read_pose_file(path, start=start, stop=start + length) for start in starts]
    columns = {name: np.concatenate([part.columns()[name] for part in parts]) for name in parts[0].columns()}
    return dataclasses.replace(parts[0], **columns)


def _print_means(poses):
    inside = np.all((poses.joints_px >= 0) & (poses.joints_px < poses.image_size[:, None]), -1)
    box = poses.box_px[:, 2] - poses.box_px[:, 0]
    depth = poses.root_depth_mm / 1000
    lens = np.linalg.norm(poses.joints_px - poses.joints_image[..., :2], axis=-1)
    print(f"  of {len(poses)} poses:")
    print(f"  distance of the root: {depth.min():.1f}..{depth.max():.1f} m, mean {depth.mean():.1f}; two metres there: "
          f"{box.min():.0f}..{box.max():.0f} px")  # fmt: skip
    print(f"  joints inside the picture: {100 * inside.mean():.0f} %; moved by the lens: {lens.mean():.1f} px on "
          f"average, at most {lens.max():.1f}")  # fmt: skip
    if poses.detections_px is not None:
        errors = np.linalg.norm(poses.detections_px - poses.joints_px, axis=-1)
        sure = poses.detection_confidence
        print(f"  detections: {errors.mean():.1f} px off on average, half of them less than {np.median(errors):.1f}"
              + ("" if sure is None else f"; confidence {sure.mean():.2f} on average"))  # fmt: skip


def _poses_sheet(poses):

    cells = []
    for row in np.linspace(0, len(poses) - 1, min(FLAGS.num_images, len(poses))).astype(int):
        pose = poses[int(row)]
        width, height = pose.image_size[0]
        scale = _CELL / max(width, height)
        canvas = np.full((_CELL, _CELL, 3), 255, np.uint8)
        canvas[: round(height * scale), : round(width * scale)] = 235
        if pose.detections_px is not None:
            found = np.clip(pose.detections_px[0] * scale, -_CELL, 2 * _CELL)
            canvas = draw_skeleton(canvas, found, pose.skeleton, draw_edges=False, radius=4)
        joints = np.clip(pose.joints_px[0] * scale, -_CELL, 2 * _CELL)
        flat = draw_skeleton(canvas, joints, pose.skeleton, radius=2)
        relative = pose.joints_cam_mm[0] - pose.joints_cam_mm[0, :1]
        cells.append(np.concatenate([flat, draw_skeleton_3d(relative, pose.skeleton, _CELL, _SIDE_DEG)], 1))
    return _grid(cells)


if __name__ == "__main__":
    app.run(main)
