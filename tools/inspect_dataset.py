"""Shows what is in the TFRecords: counts, keys, means, and a sheet of pictures.

    python tools/inspect_dataset.py --data_dir=data lsp_train coco CMU

Without names it shows every dataset of the folder. Each gets a picture `{name}_sheet.png` in --output: images with
their keypoints (visible ones only) beside their silhouettes, or bodies in the poses of a motion-capture set.
"""

import collections
import pathlib
import sys

import cv2
import numpy as np
from absl import app, flags

from posekit.data.example import decode_example
from posekit.data.image_files import ImageFileError, decode_image
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
from posekit.skeletons import COCO_PLUS19, LSP14
from posekit.training.config import import_tensorflow_quietly

_CELL = 224
_COLUMNS = 4
_BODIES = 8

flags.DEFINE_string("data_dir", "data", "Folder of the records.")
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
    # Drawing brings TensorFlow with it, which talks a lot when it is imported.
    import_tensorflow_quietly()
    from posekit.drawing import save_image

    output = pathlib.Path(FLAGS.output or FLAGS.data_dir)
    names = argv[1:] or _all_names(FLAGS.data_dir)
    if not names:
        print(f"ERROR No dataset in {FLAGS.data_dir}; make one with tools/create_dataset.py.", file=sys.stderr)
        return 1
    status = 0
    for name in names:
        try:
            sheet = _show_mocap(name) if name in mocap_names(FLAGS.data_dir) else _show_images(name)
            if sheet is not None:
                path = output / f"{name}_sheet.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(path, sheet)
                print(f"  pictures: {path}")
        except (DatasetNotFoundError, TFRecordError, ValueError, OSError) as error:
            print(f"ERROR {name}: {error}", file=sys.stderr)
            status = 1
    return status


def _all_names(data_dir):
    paths = pathlib.Path(data_dir).glob("*.tfrecords")
    folders = (path.parent for path in pathlib.Path(data_dir).glob("*/*_[0-9]*.tfrecord*"))
    images = {path.name.removesuffix(".tfrecords") for path in paths} | {path.name for path in folders}
    return sorted(images - {"mocap_neutrMosh"}) + mocap_names(data_dir)


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
        print(f"  {key:18} {kind:6} {span:>14} values or bytes, in {count} records")


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
    from posekit.drawing import dataset_picture, draw_skeleton

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
    from posekit.bodies import load_body
    from posekit.drawing import mocap_grid
    from posekit.layers import SMPL

    chosen = np.linspace(0, len(poses) - 1, min(_BODIES, len(poses))).astype(int)
    body = load_body(FLAGS.body)
    output = SMPL(body)(poses[chosen].astype(np.float32), shapes[chosen].astype(np.float32))
    vertices = np.asarray(output["vertices"]) - np.asarray(output["joints"])[:, :1]
    return mocap_grid(vertices, body.faces, cell_size=_CELL)


if __name__ == "__main__":
    app.run(main)
