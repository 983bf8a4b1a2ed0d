"""ITOP's people, as record sets `itop_front_train`, `itop_front_test`, `itop_top_train` and `itop_top_test`.

```
itop/ITOP_side_train_depth_map.h5, ITOP_side_train_labels.h5        the front view, which the dataset calls side
itop/ITOP_top_test_depth_map.h5, ITOP_top_test_labels.h5
itop/center/side_view/center_train.txt, center_test.txt             may be absent
itop/center/top_view/center_train.txt, center_test.txt
```

The files may lie in `itop/side_view` and `itop/top_view` too. Frames whose labels nobody has checked are left out of
training; test frames of that kind stay, without labelled joints, as the original predicts all of them.
"""

import functools
import os
import pathlib

import numpy as np

from converters.depth_frames import Converter, Frames, centers_of, depth_set, existing_folder, usable
from posekit.data.depth_files import DepthArchive, DepthFileError, read_itop_labels
from posekit.data.shards import NothingUsableError

# What the dataset calls its views.
VIEWS = {"itop_front": "side", "itop_top": "top"}


def itop(dataset, split, folder, options):
    """One of the record sets.

    Args:
        dataset: `"itop_front"` or `"itop_top"`.
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.
        options: `depth_frames.Options`.

    Returns:
        `RawDataset`.

    Raises:
        NothingUsableError: If a file is missing, damaged, or does not fit.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/ITOP/data.lua:load_data.
    """
    scene, view = options.scene(dataset), VIEWS[dataset]
    folder = existing_folder(folder, "itop", f"ITOP_{view}_{split}_depth_map.h5 and so on")
    pictures, labels_path = (_find(folder, view, f"ITOP_{view}_{split}_{what}.h5") for what in ("depth_map", "labels"))
    with usable():
        labels = read_itop_labels(labels_path, scene.num_joints)
        archive = DepthArchive(pictures, scene.size)
        count = len(archive)
        archive.close()
        if count != len(labels.names):
            raise DepthFileError(
                pictures, "not the pictures of the labels", f"{count} pictures, {len(labels.names)} labels"
            )
    folders = _center_folders(options, folder, dataset, view)
    centers, estimated, path = centers_of(f"center_{split}.txt", count, options, folders, scene.camera.unit)
    read = functools.partial(read_frame, os.fspath(pictures), scene.size)
    test = split == "test"
    converter = Converter(scene, options.reach(scene), read, estimated, unlabelled=test, keep_all=test)
    valid = np.repeat(labels.valid[:, None], scene.num_joints, 1)
    frames = Frames(labels.names, labels.joints, centers, valid, numbers=np.arange(count))
    return depth_set(f"{dataset}_{split}", frames, converter, [pictures, labels_path, path])


def read_frame(path, size, frame):
    """Reads a picture.

    Args:
        path: File of the pictures.
        size: `(width, height)` that they have.
        frame: `Frame`.

    Returns:
        `(depth, box)`.

    Raises:
        DepthFileError: If the file cannot be used.
    """
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        changed = None
    return _archive(path, size, changed)[frame.number], (0, 0, *size)


@functools.lru_cache(1)
def _archive(path, size, changed):
    """The open file, as long as it does not change; opening it for every frame would take longer than reading."""
    return DepthArchive(path, size)


def _find(folder, view, name):
    """A file of one view, in the dataset's folder or in the view's own."""
    for candidate in (folder / name, folder / f"{view}_view" / name):
        if candidate.exists():
            return candidate
    return folder / name


def _center_folders(options, folder, dataset, view):
    """Where centre files of one view may be: both views' have the same names, so each needs a folder of its own."""
    if options.estimate_centers:
        return []
    if options.centers_dir:
        base = pathlib.Path(options.centers_dir)
        if not base.is_dir():
            raise NothingUsableError(f"There is no folder {base}; name the one of the centre files.")
        bases = [base / dataset, base / f"{view}_view", base]
    else:
        bases = [folder / "center" / f"{view}_view", folder / "center" / dataset, folder / f"{view}_view" / "center"]
        bases += [folder / f"{view}_view", folder / "center", folder]
    other = next(name for name in VIEWS.values() if name != view)
    both = any(_find(folder, other, f"ITOP_{other}_{split}_labels.h5").exists() for split in ("train", "test"))
    shared = bases[-1:] if options.centers_dir else bases[-2:]
    for place in shared:
        if both and any((place / f"center_{split}.txt").exists() for split in ("train", "test")):
            raise NothingUsableError(
                f"The centre files in {place} may be those of either view; move them to {bases[0]}."
            )
    return bases
