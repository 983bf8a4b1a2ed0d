"""HANDS2017's hands, as record sets `hands2017_train` and `hands2017_test`.

```
hands2017/training/Training_Annotation.txt, training/images/image_D00000001.png         or .bin
hands2017/frame/BoundingBox.txt, frame/images/image_D00000001.png
hands2017/frame/Test_Annotation.txt      joints of the test frames, which the challenge keeps; may be absent
hands2017/frame/groups.txt               a line "image_D00000001.png seen" or "… unseen" a frame; may be absent
hands2017/center/center_train_refined.txt, center_test_refined.txt       may be absent
```

Without `Test_Annotation.txt`, the test frames have no labelled joints: they can be predicted, not evaluated.
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
from posekit.data.depth_files import (
    DepthFileError,
    read_bounding_boxes,
    read_depth_picture,
    read_groups,
    read_labels,
)

FOLDERS = {"train": "training", "test": "frame"}
GROUPS = ("seen", "unseen")


def hands2017(split, folder, options):
    """One of the record sets.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.
        options: `depth_frames.Options`.

    Returns:
        `RawDataset`.

    Raises:
        NothingUsableError: If a label or centre file is missing, damaged, or does not fit.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/HANDS2017/data.lua:load_data.
    """
    scene = options.scene("hands2017")
    folder = existing_folder(folder, "hands2017", "training/Training_Annotation.txt and so on")
    part = folder / FOLDERS[split]
    with usable():
        names, fields, files, remarks = _training(part, scene) if split == "train" else _testing(part, scene)
        names = [picture_name(files[0], name) for name in names]
    folders = center_folders(options, folder, "hands2017")
    centers, estimated, path = centers_of(
        f"center_{split}_refined.txt", len(names), options, folders, scene.camera.unit
    )
    read = functools.partial(read_frame, os.fspath(part / "images"), scene.size)
    test = split == "test"
    converter = Converter(scene, options.reach(scene), read, estimated, unlabelled=test, keep_all=test)
    frames = Frames(names, centers=centers, **fields)
    return depth_set(f"hands2017_{split}", frames, converter, [*files, part / "images", path], remarks)


def list_file(split, folder):
    """The text that lists the pictures of a split.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.

    Returns:
        `pathlib.Path`.
    """
    name = "Training_Annotation.txt" if split == "train" else "BoundingBox.txt"
    return pathlib.Path(folder) / FOLDERS[split] / name


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


def _training(part, scene):
    path = part / "Training_Annotation.txt"
    names, joints = read_labels(path, scene.num_joints)
    return names, {"joints": joints}, [path], []


def _testing(part, scene):
    path = part / "BoundingBox.txt"
    names, regions = read_bounding_boxes(path, scene.size)
    files, remarks = [path], []
    joints = np.zeros((len(names), scene.num_joints, 3))
    valid = np.zeros(joints.shape[:2], bool)
    truth = part / "Test_Annotation.txt"
    if os.path.lexists(truth):
        listed, labels = read_labels(truth, scene.num_joints)
        places = {name: place for place, name in enumerate(listed)}
        if len(places) != len(listed) or not places.keys() >= set(names):
            raise DepthFileError(truth, "not the joints of the frames of BoundingBox.txt", f"{len(listed)} lines")
        joints = labels[[places[name] for name in names]]
        valid[:] = True
        files.append(truth)
    else:
        remarks.append("no Test_Annotation.txt: the frames have no true joints")
    fields = {"joints": joints, "valid": valid, "regions": regions}
    groups = part / "groups.txt"
    if os.path.lexists(groups):
        named = read_groups(groups, GROUPS)
        missing = [name for name in names if name not in named]
        if missing:
            raise DepthFileError(groups, "frames without a group", f"{len(missing)}, the first of them {missing[0]}")
        fields["groups"] = [named[name] for name in names]
        files.append(groups)
    return names, fields, files, remarks
