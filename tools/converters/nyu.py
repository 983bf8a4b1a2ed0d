"""NYU's hands, as record sets `nyu_train` and `nyu_test`: the first camera's pictures and 14 of their 36 joints.

```
nyu/train/joint_data.mat, train/depth_1_0000001.png         or train/parsed/depth_1_0000001.bin
nyu/test/joint_data.mat, test/depth_1_0000001.png
nyu/center/center_train_refined.txt, center_test_refined.txt        may be absent
```

The dataset itself calls its folders `dataset/train` and `dataset/test`; either level may be given.
"""

import functools
import os

from converters.depth_frames import Converter, Frames, center_folders, centers_of, depth_set, existing_folder, usable
from posekit.data.depth_files import read_depth_picture, read_nyu_joints

# The joints that are evaluated, in NYU14's order, counted from 0.
EVALUATED = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)


def nyu(split, folder, options):
    """One of the record sets.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.
        options: `depth_frames.Options`.

    Returns:
        `RawDataset`.

    Raises:
        NothingUsableError: If the label or centre file is missing, damaged, or does not fit.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/NYU/data.lua:load_data.
    """
    scene = options.scene("nyu")
    folder = existing_folder(folder, "nyu", "train/joint_data.mat and so on")
    pictures = part_folder(folder, split)
    with usable():
        joints = read_nyu_joints(pictures / "joint_data.mat")[:, list(EVALUATED)]
    names = [f"depth_1_{number:07d}" for number in range(1, len(joints) + 1)]
    folders = center_folders(options, folder, "nyu")
    centers, estimated, path = centers_of(
        f"center_{split}_refined.txt", len(names), options, folders, scene.camera.unit
    )
    read = functools.partial(read_frame, os.fspath(pictures), scene.size)
    converter = Converter(scene, options.reach(scene), read, estimated, keep_all=split == "test")
    sources = [pictures / "joint_data.mat", pictures, pictures / "parsed", path]
    return depth_set(f"nyu_{split}", Frames(names, joints, centers), converter, sources)


def part_folder(folder, split):
    """Folder of a split.

    Args:
        folder: `pathlib.Path` of the dataset.
        split: `"train"` or `"test"`.

    Returns:
        `pathlib.Path`.
    """
    inner = folder / "dataset" / split
    return inner if inner.is_dir() and not (folder / split).is_dir() else folder / split


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
    stems = [os.path.join(pictures, "parsed", frame.name), os.path.join(pictures, frame.name)]
    return read_depth_picture(stems, size, "nyu"), (0, 0, *size)
