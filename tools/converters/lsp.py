"""Leeds Sports Pose and its extension.

```
lsp_dataset/images/im0001.jpg …      lspet_dataset/images/im00001.jpg …
lsp_dataset/joints.mat               lspet_dataset/joints.mat
upi-s1h/data/lsp/im0001_segmentation.png …
upi-s1h/data/lsp_extended/im00001_segmentation.png …      (silhouettes, Unite the People; may be absent)
```

`joints.mat` holds `joints`: `[3, 14, N]` in LSP, whose third row is 0 where a joint is visible and 1 where it is
occluded, and `[14, 3, N]` in the extension, where 1 is visible.
"""

import functools
import pathlib

import numpy as np

from converters.labelled_images import (
    LabelledImage,
    convert_labelled_image,
    existing,
    joints_last,
    load_mat,
    load_truth,
    numbered_images,
)
from posekit.data.shards import RawDataset, Skip
from posekit.skeletons import LSP14

_IMAGE_NAME = r"im0*(\d+)\.(?:jpg|jpeg|png|JPG)"


def lsp(part, folder, images=None, silhouettes=None, silhouette_format="png"):
    """Lists one half of LSP.

    Args:
        part: `"train"`, the first half of the images (1000 of 2000), or `"val"`, the second.
        folder: Folder with `joints.mat`.
        images: Folder of the images; `{folder}/images` if not given.
        silhouettes: Folder of the silhouettes, which need not exist.
        silhouette_format: `"png"` or `"jpeg"`.

    Returns:
        A `RawDataset`.

    Raises:
        NothingUsableError: If labels or images are missing or make no sense.
    """
    labels, listing = _read(folder, images)
    # The third row says occluded.
    negated = labels.copy()
    negated[:, 2] = np.where(np.isnan(labels[:, 2]), np.nan, labels[:, 2] == 0)
    half = (len(labels) + 1) // 2
    numbers = range(1, half + 1) if part == "train" else range(half + 1, len(labels) + 1)
    return _listed(
        f"lsp_{part}", part, folder, negated, listing, numbers, silhouettes, silhouette_format, digits=4
    )


def lsp_extended(folder, images=None, silhouettes=None, silhouette_format="png"):
    """Lists LSP-extended.

    Args:
        folder: Folder with `joints.mat`.
        images: Folder of the images; `{folder}/images` if not given.
        silhouettes: Folder of the silhouettes, which need not exist.
        silhouette_format: `"png"` or `"jpeg"`.

    Returns:
        A `RawDataset`.

    Raises:
        NothingUsableError: If labels or images are missing or make no sense.

    Follows: maxpit/human-pose-estimation src/util/create_dataset.py:get_filename_pairs_lspe.
    Differs: images without a silhouette are kept, where the original leaves them out.
    """
    labels, listing = _read(folder, images)
    numbers = range(1, len(labels) + 1)
    return _listed("lsp_ext", "train", folder, labels, listing, numbers, silhouettes, silhouette_format, digits=5)


def _read(folder, images):
    folder = pathlib.Path(folder)
    path = folder / "joints.mat"
    labels = joints_last(load_mat(path), LSP14.num_joints, path)
    return labels, numbered_images(images or folder / "images", _IMAGE_NAME)


def _listed(name, split, folder, labels, listing, numbers, silhouettes, silhouette_format, digits):
    truth = load_truth(folder, len(labels))
    silhouettes = pathlib.Path(silhouettes) if silhouettes else None
    items, skips = [], []
    for number in numbers:
        if number not in listing:
            skips.append(Skip(f"im{number:0{digits}d}.jpg", "missing image"))
            continue
        mask = silhouettes and existing(silhouettes / f"im{number:0{digits}d}_segmentation.png")
        items.append(LabelledImage(listing[number], labels[number - 1], mask, truth(number - 1)))
    unlabelled = [number for number in listing if not 1 <= number <= len(labels)]
    skips.extend(Skip(pathlib.Path(listing[number]).name, "image without labels") for number in unlabelled)
    sources = [pathlib.Path(folder) / "joints.mat", pathlib.Path(folder) / "sample_truth.npz"]
    sources += [path for item in items for path in (item.path, item.silhouette) if path]
    return RawDataset.of_images(
        name,
        split=split,
        items=items,
        convert=functools.partial(convert_labelled_image, silhouette_format=silhouette_format),
        found=len(items) + len(unlabelled),
        skips=tuple(skips),
        sources=tuple(sources),
        options={"silhouette_format": silhouette_format},
    )
