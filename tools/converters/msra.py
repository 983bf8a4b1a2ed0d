"""MSRA's hands (cvpr15_MSRAHandGestureDB), as record sets `msra_p0` … `msra_p8`, one for each person.

```
msra/P0/1/000000_depth.bin      pictures, cut around the hand
msra/P0/1/joint.txt             their joints
msra/center/center_test_0_refined.txt, center_train_0_refined.txt      may be absent
```

Training leaves one person out, and the centres come from a network that has not seen that person either; so every
frame has nine centres. Row k is the one to use when person k is the test subject: from the test file of k for the
frames of k, and from the train file of k, which lists the frames of all others, for the rest.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from converters.depth_frames import (
    Converter,
    Frames,
    center_folders,
    depth_set,
    existing_folder,
    find_centers,
    usable,
)
from posekit.data.depth_files import DepthFileError, full_picture, read_centers, read_msra_bin, read_msra_joints
from posekit.data.shards import NothingUsableError

SUBJECTS = range(9)
GESTURES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "I", "IP", "L", "MP", "RP", "T", "TIP", "Y")
# How many frames there are of each person, for where only some of them were downloaded.
_COUNTS = (8499, 8499, 8406, 8498, 8500, 8497, 8498, 8498, 8496)


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Joints of all persons that are there.

    Args:
        folder: `pathlib.Path` of the dataset.
        joints: Dict of person to dict of gesture to float64 `[frames, 21, 3]`.
    """

    folder: pathlib.Path
    joints: dict

    @property
    def counts(self):
        """Frames of each person, those that are not there as they are published."""
        there = {subject: sum(map(len, gestures.values())) for subject, gestures in self.joints.items()}
        return [there.get(subject, count) for subject, count in enumerate(_COUNTS)]


def subjects(folder):
    """The persons whose folders are there.

    Args:
        folder: Folder of the dataset.

    Returns:
        List of numbers from 0 to 8.

    Raises:
        NothingUsableError: If there are none.
    """
    folder = existing_folder(folder, "msra", "P0/1/joint.txt and so on")
    there = [subject for subject in SUBJECTS if (folder / f"P{subject}").is_dir()]
    if not there:
        raise NothingUsableError(
            f"{folder} has none of the folders P0 to P8; give the one of MSRA's hands with --msra_dir."
        )
    return there


def read_all_labels(folder):
    """Reads the joints of all persons that are there.

    Args:
        folder: Folder of the dataset.

    Returns:
        `Labels`.

    Raises:
        NothingUsableError: If a file is missing or damaged.
    """
    folder, joints = pathlib.Path(folder), {}
    for subject in subjects(folder):
        with usable():
            joints[subject] = {
                gesture: read_msra_joints(folder / f"P{subject}" / gesture / "joint.txt") for gesture in GESTURES
            }
    return Labels(folder, joints)


def msra(subject, labels, options):
    """The record set of one person.

    Args:
        subject: Number from 0 to 8.
        labels: `Labels`.
        options: `depth_frames.Options`.

    Returns:
        `RawDataset`.

    Raises:
        NothingUsableError: If a centre file does not fit.

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:MARAHandDataset; mks0601/V2V-PoseNet_RELEASE
    src/data/MSRA/data.lua:load_data.
    """
    scene = options.scene("msra")
    gestures = labels.joints[subject]
    names = [
        f"P{subject}/{gesture}/{index:06d}" for gesture, joints in gestures.items() for index in range(len(joints))
    ]
    centers, estimated, files = read_all_centers(subject, labels, options)
    remarks = []
    if 0 < len(estimated) < len(SUBJECTS):
        rows = ", ".join(map(str, estimated))
        remarks.append(f"no centre files for test subject {rows}: those centres are estimated")
    if missing := [other for other in SUBJECTS if other not in labels.joints]:
        remarks.append(f"{labels.folder} has no folder P{', P'.join(map(str, missing))}; their frames are missing")
    folder = labels.folder / f"P{subject}"
    sources = [*files, *(folder / gesture for gesture in gestures)]
    sources += [folder / gesture / "joint.txt" for gesture in gestures]
    read = functools.partial(read_frame, os.fspath(labels.folder), scene.size)
    converter = Converter(scene, options.reach(scene), read, estimated, subject, keep_all=True)
    frames = Frames(names, np.concatenate(list(gestures.values())), centers)
    return depth_set(f"msra_p{subject}", frames, converter, sources, remarks)


def read_all_centers(subject, labels, options):
    """Centres of one person's frames for each choice of the test subject.

    Args:
        subject: Number from 0 to 8.
        labels: `Labels`.
        options: `depth_frames.Options`.

    Returns:
        `(centers, estimated, files)`: float64 `[frames, 9, 3]`, the rows without a file, and the files.

    Raises:
        NothingUsableError: If a file does not fit.
    """
    folders = center_folders(options, labels.folder, "msra")
    counts = labels.counts
    centers, estimated, files = [], [], []
    for row in SUBJECTS:
        split = "test" if row == subject else "train"
        path = find_centers(f"center_{split}_{row}_refined.txt", folders)
        if path is None:
            estimated.append(row)
            centers.append(np.full((counts[subject], 3), np.nan))
            continue
        listed = [subject] if split == "test" else [other for other in SUBJECTS if other != row]
        with usable():
            points = read_centers(path, sum(counts[other] for other in listed))
        start = sum(counts[other] for other in listed if other < subject)
        centers.append(points[start : start + counts[subject]])
        files.append(path)
    if options.centers_dir and not options.estimate_centers and not files:
        places = " nor in ".join(map(str, folders))
        raise NothingUsableError(f"There is no center_test_{subject}_refined.txt in {places}.")
    return np.stack(centers, 1), tuple(estimated), files


def read_frame(folder, size, frame):
    """Reads a picture; around the part that the file holds, nothing was measured.

    Args:
        folder: Folder of the dataset.
        size: `(width, height)` that the picture must have.
        frame: `Frame`.

    Returns:
        `(depth, box)`.

    Raises:
        DepthFileError: If the file cannot be used.
    """
    path = os.path.join(folder, f"{frame.name}_depth.bin")
    crop = read_msra_bin(path)
    if crop.picture != size:
        raise DepthFileError(
            path,
            "picture of another size than MSRA's",
            f"{crop.picture[0]} x {crop.picture[1]} instead of {size[0]} x {size[1]}",
        )
    return full_picture(crop), (0, 0, *size)
