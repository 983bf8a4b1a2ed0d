"""Motion capture for the critic, from the files in which it is published.

| file | keys |
|---|---|
| SMPL `.pkl` (MoSh, joint limits) | `poses` or `new_poses` `[frames, 72]`, `betas` `[10]` or `[frames, 10]` |
| AMASS `.npz` | `poses` `[frames, 156]` (SMPL+H) or `[frames, 165]` (SMPL-X), `betas` `[16]` |
| AMASS `.npz`, SMPL-X neutral | `root_orient` `[frames, 3]` and `pose_body` `[frames, 63]` in the place of `poses` |

The first 22 joints of SMPL+H and SMPL-X are those of SMPL, whose two hands are left straight. Global rotations stay in
the axes of the file (AMASS: z up): the critic does not see them. The gender is not used. TFRecords made of poses are
read by `posekit.data.schema.parse_mocap_record`.
"""

import dataclasses
import pathlib
import pickle

import numpy as np

from posekit.data.pickles import load_pickle
from posekit.data.schema import NUM_POSE, NUM_SHAPE
from posekit.files import read_npz

BODY_VALUES = 66  # axis angles of the pelvis and the 21 joints that SMPL shares with SMPL+H and SMPL-X
_POSE_KEYS = ("poses", "new_poses")
_BODY_KEYS = ("root_orient", "pose_body")


class MocapFileError(ValueError):
    """A file that holds no poses that can be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class MocapSequence:
    """The usable frames of one file.

    Iterating gives `(pose, shape)`: float32 `[72]`, axis angles, and `[10]`, betas.

    Args:
        poses: Float32 `[frames, 72]`.
        shapes: Float32 `[frames, 10]`.
        num_skipped: Frames left out because they hold NaN or infinite values.
    """

    poses: np.ndarray
    shapes: np.ndarray
    num_skipped: int

    def __len__(self):
        return len(self.poses)

    def __iter__(self):
        return zip(self.poses, self.shapes)


def read_mocap(path, stride=1):
    """Reads one file of motion capture.

    Args:
        path: SMPL `.pkl` or AMASS `.npz`.
        stride: Distance between the frames that are kept; 1 keeps all.

    Returns:
        A `MocapSequence`.

    Raises:
        FileNotFoundError: If there is no such file.
        MocapFileError: If the file cannot be read, or holds no poses and betas.
        ValueError: If the stride is below 1.

    Example:
        >>> sequence = read_mocap("amass/CMU/01/01_01_poses.npz", stride=12)  # doctest: +SKIP
        >>> for pose, shape in sequence: ...  # doctest: +SKIP

    Follows: akanazawa/hmr src/datasets/smpl_to_tfrecords.py:process_smpl_mocap.
    Differs: AMASS files; frames with NaN are left out and counted.
    """
    if stride < 1:
        raise ValueError(f"The stride is {stride}; it must be 1 (every frame) or more.")
    path = pathlib.Path(path)
    content = _read(path)
    poses = _poses(path, content)[::stride]
    shapes = _shapes(path, content, len(poses), stride)
    usable = np.isfinite(poses).all(1) & np.isfinite(shapes).all(1)
    return MocapSequence(poses[usable], shapes[usable], int(np.count_nonzero(~usable)))


def _read(path):
    keys = (*_POSE_KEYS, *_BODY_KEYS, "betas")
    try:
        if path.suffix == ".npz":
            return read_npz(path, keys)
        if path.suffix != ".pkl":
            raise MocapFileError(f"{path}: motion capture is read from .pkl and .npz files only.")
        content = load_pickle(path)
    except pickle.UnpicklingError as error:
        raise MocapFileError(str(error)) from error
    except ValueError as error:
        raise MocapFileError(str(error)) from error
    if not isinstance(content, dict):
        raise MocapFileError(f"{path} holds a {type(content).__name__}; a dict with 'poses' and 'betas' is needed.")
    return content


def _numbers(path, content, key):
    array = content[key]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise MocapFileError(f"{path}: {key!r} is no array of numbers.")
    with np.errstate(over="ignore"):  # becomes infinite, and the frame is skipped
        return np.asarray(array, np.float32)


def _poses(path, content):
    key = next((key for key in _POSE_KEYS if key in content), None)
    if key is not None:
        poses = _numbers(path, content, key)
    elif all(key in content for key in _BODY_KEYS):
        parts = [_numbers(path, content, key) for key in _BODY_KEYS]
        if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
            raise MocapFileError(f"{path}: root_orient and pose_body have shapes {[part.shape for part in parts]}.")
        poses = np.concatenate(parts, axis=1)
    else:
        there = sorted(str(key) for key in list(content)[:20])
        raise MocapFileError(f"{path} holds no poses: it has {there}, none of {[*_POSE_KEYS, *_BODY_KEYS]}.")
    if poses.ndim != 2 or (poses.shape[1] not in (BODY_VALUES, NUM_POSE) and poses.shape[1] < 2 * NUM_POSE):
        raise MocapFileError(
            f"{path}: poses have the shape {poses.shape}; [frames, 72] (SMPL), [frames, 156] (SMPL+H) and "
            "[frames, 165] (SMPL-X) can be read."
        )
    if poses.shape[1] == NUM_POSE:
        return poses
    return np.pad(poses[:, :BODY_VALUES], ((0, 0), (0, NUM_POSE - BODY_VALUES)))


def _shapes(path, content, num_frames, stride):
    if "betas" not in content:
        raise MocapFileError(f"{path} holds poses but no 'betas'.")
    betas = _numbers(path, content, "betas")
    if betas.ndim == 1 or (betas.ndim == 2 and 1 in betas.shape):
        betas = betas.reshape(1, -1)
    elif betas.ndim == 2:
        betas = betas[::stride]
    if betas.ndim != 2 or len(betas) not in (1, num_frames) or betas.shape[1] < NUM_SHAPE:
        raise MocapFileError(
            f"{path}: betas have the shape {content['betas'].shape}; at least {NUM_SHAPE} for the file or for each "
            "frame are needed."
        )
    return np.broadcast_to(betas[:, :NUM_SHAPE], (num_frames, NUM_SHAPE))
