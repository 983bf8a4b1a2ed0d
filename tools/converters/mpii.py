"""MPII Human Pose as Unite the People hands it out: one person an image, with a silhouette.

```
upi-s1h/data/mpii/images/00001.png …
upi-s1h/data/mpii/images/00001_segmentation.png …      (may be absent)
upi-s1h/data/mpii/poses.npz
```

`poses.npz` holds `poses`, `[3, 16, N]`: x, y in pixels, and a third row that the original reads as LSP's, 0 where a
joint is visible.
"""

import functools
import pathlib

import numpy as np

from converters.labelled_images import (
    LabelledImage,
    convert_labelled_image,
    existing,
    joints_last,
    load_npz,
    load_truth,
    numbered_images,
)
from posekit.data.shards import RawDataset, Skip
from posekit.skeletons import LSP14, MPII16


def mpii(folder, poses=None, visible_value=0, silhouette_format="png"):
    """Lists the MPII images.

    Args:
        folder: Folder with `images`.
        poses: Path of the labels; `{folder}/poses.npz` if not given.
        visible_value: What the labels' third row holds where a joint is visible, 0 or 1.
        silhouette_format: `"png"` or `"jpeg"`.

    Returns:
        A `RawDataset`.

    Raises:
        NothingUsableError: If labels or images are missing or make no sense.

    Follows: maxpit/human-pose-estimation src/util/create_dataset.py:create.
    Differs: joints at the origin, at negative coordinates or without coordinates are not labelled and count as
        invisible; images without a silhouette are kept.
    """
    folder = pathlib.Path(folder)
    poses = pathlib.Path(poses or folder / "poses.npz")
    poses = poses / "poses.npz" if poses.is_dir() else poses
    labels = joints_last(load_npz(poses, ["poses"])["poses"], MPII16.num_joints, poses)
    points, _ = MPII16.convert(labels.transpose(0, 2, 1), LSP14)
    keypoints = points.transpose(0, 2, 1)
    unlabelled = np.isnan(keypoints[:, :2]).any(1) | (keypoints[:, :2] <= 0).all(1)
    keypoints[:, 2] = np.where(unlabelled, 0, keypoints[:, 2] == visible_value)
    listing = numbered_images(folder / "images", r"0*(\d+)\.(?:png|jpg|jpeg)")
    # Numbers begin with 1, as in the other datasets, unless there is an image 0.
    first = 0 if 0 in listing else 1
    truth = load_truth(folder, len(labels))
    items, skips = [], []
    for index in range(len(labels)):
        path = listing.pop(index + first, None)
        if path is None:
            skips.append(Skip(f"{index + first:05d}.png", "missing image"))
            continue
        stem = pathlib.Path(path).stem
        mask = existing(pathlib.Path(path).with_name(f"{stem}_segmentation.png"))
        items.append(LabelledImage(path, keypoints[index], mask, truth(index)))
    skips.extend(Skip(pathlib.Path(path).name, "image without labels") for path in listing.values())
    sources = [poses, folder / "sample_truth.npz"]
    sources += [path for item in items for path in (item.path, item.silhouette) if path]
    return RawDataset.of_images(
        "mpii",
        items=items,
        convert=functools.partial(convert_labelled_image, silhouette_format=silhouette_format),
        found=len(items) + len(listing),
        skips=tuple(skips),
        sources=tuple(sources),
        options={"silhouette_format": silhouette_format, "visible_value": visible_value},
    )
