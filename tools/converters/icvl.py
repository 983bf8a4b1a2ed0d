"""ICVL's hands, as record sets `icvl_train` and `icvl_test`.

```
icvl/Training/labels.txt, Training/Depth/201403121135/image_0000.png       or .bin, as tools/depth_to_bin.py makes it
icvl/Testing/test_seq_1.txt, test_seq_2.txt, Testing/Depth/test_seq_1/image_0000.png
icvl/center/center_train_refined.txt, center_test_refined.txt              may be absent
```
"""

import functools
import os
import pathlib

import numpy as np

from converters.depth_frames import (
    Converter,
    Frames,
    center_folders,
    centers_of,
    depth_set,
    existing_folder,
    picture_name,
    usable,
)
from posekit.data.depth_files import read_depth_picture, read_labels
from posekit.geometry.depth import pixel_to_world

# Split to its folder and label files.
SPLITS = {"train": ("Training", ("labels.txt",)), "test": ("Testing", ("test_seq_1.txt", "test_seq_2.txt"))}


def icvl(split, folder, options):
    """One of the record sets.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.
        options: `depth_frames.Options`.

    Returns:
        `RawDataset`.

    Raises:
        NothingUsableError: If a label or centre file is missing, damaged, or does not fit.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/ICVL/data.lua:load_data.
    """
    scene = options.scene("icvl")
    folder = existing_folder(folder, "icvl", "Training/labels.txt and so on")
    pictures = folder / SPLITS[split][0] / "Depth"
    pieces, files = [], label_files(split, folder)
    with usable():
        pieces = [read_labels(path, scene.num_joints) for path in files]
        names = [picture_name(path, name) for path, (listed, _) in zip(files, pieces) for name in listed]
    joints = pixel_to_world(np.concatenate([piece for _, piece in pieces]), scene.camera)
    folders = center_folders(options, folder, "icvl")
    centers, estimated, path = centers_of(
        f"center_{split}_refined.txt", len(names), options, folders, scene.camera.unit
    )
    read = functools.partial(read_frame, os.fspath(pictures), scene.size)
    converter = Converter(scene, options.reach(scene), read, estimated, keep_all=split == "test")
    groups = [name.partition("/")[0] if "/" in name else "" for name in names]
    frames = Frames(names, joints, centers, groups=groups)
    return depth_set(f"icvl_{split}", frames, converter, [*files, pictures, path])


def label_files(split, folder):
    """Label files of a split.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.

    Returns:
        List of `pathlib.Path`.
    """
    part, names = SPLITS[split]
    return [pathlib.Path(folder) / part / name for name in names]


def read_frame(pictures, size, frame):
    """Reads a picture.

    Args:
        pictures: Folder of the pictures.
        size: `(width, height)` that they have.
        frame: `Frame`.

    Returns:
        `(depth, box)`.

    Raises:
        DepthFileError: If the file cannot be used.
    """
    return read_depth_picture(os.path.join(pictures, frame.name), size), (0, 0, *size)
