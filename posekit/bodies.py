"""Body models: the arrays of a skinned, blend-shaped human body in SMPL's terms.

A body is a file (`.npz` with SMPL's key names) or the sample body that posekit makes by code. Licensed bodies are
never shipped: `tools/convert_smpl.py` turns a downloaded one into such a file.
"""

import dataclasses
import functools
import math
import os
import pathlib
import tokenize

import numpy as np
from absl import logging

from posekit.files import cache_folder, npz_entries, read_npz, replacing
from posekit.sample_body import make_sample_arrays

LICENCE_PAGE = "https://smpl.is.tue.mpg.de"
MAX_BODY_BYTES = 2 << 30
_ROOT_MARK = 4294967295  # SMPL writes the root's parent as -1 in uint32
# Array key -> (number of axes, kinds of dtype allowed).
_ARRAYS = {
    "v_template": (2, "fiu"),
    "shapedirs": (3, "fiu"),
    "posedirs": (3, "fiu"),
    "J_regressor": (2, "fiu"),
    "cocoplus_regressor": (2, "fiu"),
    "weights": (2, "fiu"),
    "kintree_table": (2, "iu"),
    "f": (2, "iu"),
}
_TEXTS = ("name", "licence")
_MAX_MEAN_VALUES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class BodyModel:
    """A skinned body with blend shapes; arrays carry SMPL's own names.

    Args:
        name: What messages and files call the body.
        licence: Terms under which the arrays may be used.
        v_template: Float32 `[vertices, 3]`, metres, y up, facing +z.
        shapedirs: Float32 `[vertices, 3, shapes]`, metres per unit of shape coefficient.
        posedirs: Float32 `[vertices, 3, 9 * (joints - 1)]`, metres per entry of (rotation - identity).
        J_regressor: Float32 `[joints, vertices]`, rest joints from rest vertices.
        keypoint_regressor: Float32 `[keypoints, vertices]`, image keypoints from posed vertices.
        weights: Float32 `[vertices, joints]`, skinning weights, rows sum to 1.
        parents: Int32 `[joints]`, parent of each joint, -1 for the root.
        faces: Int32 `[faces, 3]`, counter-clockwise seen from outside.
    """

    name: str
    licence: str
    v_template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    J_regressor: np.ndarray
    keypoint_regressor: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    faces: np.ndarray

    @property
    def num_vertices(self):
        """Number of vertices."""
        return self.v_template.shape[0]

    @property
    def num_joints(self):
        """Number of skeleton joints."""
        return self.J_regressor.shape[0]

    @property
    def num_shape(self):
        """Number of shape coefficients."""
        return self.shapedirs.shape[2]

    @property
    def num_keypoints(self):
        """Number of image keypoints."""
        return self.keypoint_regressor.shape[0]

    def save(self, path):
        """Writes the body as `.npz` with SMPL's key names, atomically.

        Args:
            path: File to write; its suffix must be `.npz`.
        """
        path = pathlib.Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"A body is saved as .npz, not {path.name!r}; name it {path.with_suffix('.npz').name!r}.")
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                name=np.array(self.name),
                licence=np.array(self.licence),
                v_template=self.v_template,
                shapedirs=self.shapedirs,
                posedirs=self.posedirs,
                J_regressor=self.J_regressor,
                cocoplus_regressor=self.keypoint_regressor,
                weights=self.weights,
                kintree_table=np.stack([self.parents, np.arange(self.num_joints, dtype=np.int32)]),
                f=self.faces,
            )

    @classmethod
    def load(cls, path):
        """Reads a body from `.npz` with SMPL's key names.

        Args:
            path: The file. Its arrays are dense; sizes are checked before any is read, and nothing is unpickled.

        Returns:
            A `BodyModel`; name and licence default to the file's stem and "unknown".

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no `.npz` body, with the entry that is wrong.
        """
        path = pathlib.Path(path)
        if path.suffix == ".pkl":
            raise ValueError(
                f"{path} is a pickle, which posekit does not run. Convert it once: "
                f"python tools/convert_smpl.py --input={path} --output={path.with_suffix('.npz')}"
            )
        if not path.is_file():
            raise FileNotFoundError(_missing(path))
        return cls(**_checked(path, _read_arrays(path)))


def sample_body():
    """The body that posekit makes by code: a smooth humanoid, free to use, in SMPL's conventions.

    Returns:
        A `BodyModel` with 24 joints, 10 shape directions and 19 keypoints; the same read-only object at every call.
    """
    return _sample_body()


def load_body(name_or_path=None):
    """Finds and reads a body.

    Args:
        name_or_path: A `.npz` file; `"sample"` for the sample body; the name of a file in the search path, without
            suffix; or None for the first body of the search path, and the sample body if there is none.

    Returns:
        A `BodyModel`.

    Raises:
        FileNotFoundError: If there is no such body; the message lists the search path and what to do.
        ValueError: If the file is no body.
    """
    if name_or_path is None:
        return _default_body()
    if str(name_or_path) == "sample":
        return sample_body()
    path = pathlib.Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        named = [candidate for candidate in _candidates() if candidate.stem == path.name]
        if named:
            return BodyModel.load(named[0])
    return BodyModel.load(path)


def load_mean_theta(path=None, num_shape=10, num_joints=24):
    """The parameters from which iterative regression starts.

    Args:
        path: `.h5` (such as neutral_smpl_mean_params.h5) or `.npz` file with `pose` `[3 * num_joints]`, axis angles,
            and `shape`; None for the rest pose of the mean body.
        num_shape: Shape coefficients of the body; further ones of the file are left out, missing ones are 0.
        num_joints: Joints of the body.

    Returns:
        Float32 `[3 + 3 * num_joints + num_shape]`: camera (scale 0.9, no translation), pose whose first joint turns
        the body upright in the image (pi about x), shape.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.

    Follows: maxpit/human-pose-estimation src/trainer.py:load_mean_param.
    """
    pose, shape = np.zeros(3 * num_joints), np.zeros(num_shape)
    if path is not None:
        pose, known = _read_mean(pathlib.Path(path), pose.size)
        shape[: known.size] = known[:num_shape]
    pose[:3] = np.pi, 0.0, 0.0
    return np.concatenate([[0.9, 0.0, 0.0], pose, shape]).astype(np.float32)


def load_faces(path, num_vertices):
    """Reads triangles that stand in for a body's own.

    Args:
        path: `.npy` file with integers `[faces, 3]`.
        num_vertices: Number of vertices that the triangles may name.

    Returns:
        Int32 `[faces, 3]`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
    """
    try:
        # Mapped, not read: a header that promises more than the file holds fails before memory is taken.
        faces = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"Faces {path} do not exist; name a .npy file with [faces, 3] integers.") from None
    except (ValueError, EOFError, OSError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is not a .npy file with [faces, 3] integers ({error}).") from None
    if not isinstance(faces, np.ndarray) or faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(f"{path} does not hold [faces, 3] integers; name a .npy file such as smpl_faces.npy.")
    if len(faces) and (faces.min() < 0 or faces.max() >= num_vertices):
        raise ValueError(f"{path} names vertices outside 0..{num_vertices - 1}: it belongs to another body.")
    return np.array(faces, np.int32)


def bodies_cache():
    """Folder in the user's cache where bodies are looked for.

    Returns:
        `pathlib.Path`, which need not exist.
    """
    return cache_folder() / "bodies"


@functools.lru_cache(maxsize=1)
def _sample_body():
    arrays = make_sample_arrays()
    for array in arrays.values():
        array.flags.writeable = False
    return BodyModel(name="sample", licence="Apache-2.0", **arrays)


def _default_body():
    chosen = os.environ.get("POSEKIT_BODY")
    if chosen:
        return load_body(chosen)
    for path in _candidates():
        if _looks_like_body(path):
            _say_once(f"Body model: {path}")
            return BodyModel.load(path)
    _say_once(
        f"Body model: posekit's sample body (no file in {_search_path()}). For SMPL, visit {LICENCE_PAGE} and run "
        "python tools/convert_smpl.py --input=<downloaded .pkl> --output=models/model.npz"
    )
    return sample_body()


def _candidates():
    models = pathlib.Path("models")
    return [models / "model.npz", *sorted(models.glob("*.npz")), *sorted(bodies_cache().glob("*.npz"))]


def _search_path():
    return f"$POSEKIT_BODY, models/model.npz, models/*.npz, {bodies_cache()}/*.npz"


def _missing(path):
    return (
        f"No body model at {path}. Searched otherwise: {_search_path()}. SMPL comes from {LICENCE_PAGE} under its own "
        "licence; after the download run python tools/convert_smpl.py --input=<downloaded .pkl> "
        "--output=models/model.npz, or use the free body with load_body('sample')."
    )


@functools.cache
def _say_once(message):
    logging.info("%s", message)


def _looks_like_body(path):
    return {"v_template", "weights"} <= set(npz_entries(path))


def _read_arrays(path):
    """Entries of a `.npz` that a body needs, each with the axes and the kind of numbers that it must have."""
    arrays = read_npz(path, (*_ARRAYS, *_TEXTS), MAX_BODY_BYTES)
    missing = sorted(set(_ARRAYS) - set(arrays))
    if missing:
        raise ValueError(
            f"{path} is no body model: it lacks {missing} and has {npz_entries(path)[:20]}. "
            "Write it anew with python tools/convert_smpl.py --input=<downloaded .pkl>."
        )
    for key, array in arrays.items():
        axes, kinds = _ARRAYS.get(key, (0, "U"))
        if array.dtype.kind not in kinds or array.ndim != axes:
            raise ValueError(
                f"{path}: entry {key!r} has shape {array.shape} and dtype {array.dtype}; a dense array with {axes} "
                f"axes and a dtype of kind {kinds!r} is needed. Write it anew with python tools/convert_smpl.py."
            )
    return arrays


def _checked(path, arrays):
    """Dataclass fields from a file's arrays, or an error that names the entry that does not fit."""
    vertices = arrays["v_template"].shape[0]
    joints = arrays["J_regressor"].shape[0]
    shapes = arrays["shapedirs"].shape[2]
    expected = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, shapes),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "cocoplus_regressor": (arrays["cocoplus_regressor"].shape[0], vertices),
        "weights": (vertices, joints),
        "kintree_table": (2, joints),
        "f": (arrays["f"].shape[0], 3),
    }
    if not vertices or not joints or not len(arrays["f"]):
        raise ValueError(f"{path} is empty: {vertices} vertices, {joints} joints, {len(arrays['f'])} faces.")
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise ValueError(
                f"{path}: entry {key!r} has shape {arrays[key].shape}; with {vertices} vertices (v_template) and "
                f"{joints} joints (J_regressor) it must be {shape}."
            )
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not _are_float32(array):
            raise ValueError(f"{path}: entry {key!r} holds NaN, or values that are infinite as float32.")
    faces = arrays["f"].astype(np.int64)
    if faces.min() < 0 or faces.max() >= vertices:
        raise ValueError(f"{path}: faces (f) name vertices {faces.min()}..{faces.max()}; there are 0..{vertices - 1}.")

    def floats(key):
        return np.ascontiguousarray(arrays[key], np.float32)

    return {
        "name": str(arrays.get("name", path.stem)),
        "licence": str(arrays.get("licence", "unknown")),
        "v_template": floats("v_template"),
        "shapedirs": floats("shapedirs"),
        "posedirs": floats("posedirs"),
        "J_regressor": floats("J_regressor"),
        "keypoint_regressor": floats("cocoplus_regressor"),
        "weights": floats("weights"),
        "parents": _parents(path, arrays["kintree_table"]),
        "faces": np.ascontiguousarray(faces, np.int32),
    }


def _are_float32(array):
    with np.errstate(over="ignore"):
        return np.isfinite(np.asarray(array, np.float32)).all()


def _parents(path, table):
    parents = table[0].astype(np.int64)
    parents = np.where(parents == _ROOT_MARK, -1, parents)
    if parents[0] != -1 or (parents[1:] < 0).any() or (parents[1:] >= np.arange(1, len(parents))).any():
        raise ValueError(
            f"{path}: parents (first row of kintree_table) are {parents.tolist()}; the first joint must be the root "
            "(-1 or 4294967295) and every other joint must come after its parent."
        )
    return parents.astype(np.int32)


def _read_mean(path, num_pose):
    """`pose` `[num_pose]` and `shape` of a file of mean parameters, as float64."""
    readers = {".h5": _read_mean_h5, ".hdf5": _read_mean_h5, ".npz": _read_mean_npz}
    if path.suffix not in readers:
        raise ValueError(f"Mean parameters come as {', '.join(readers)}, not {path.name!r}.")
    if not path.is_file():
        raise FileNotFoundError(
            f"No mean parameters at {path}. They come with akanazawa/hmr's models as neutral_smpl_mean_params.h5; "
            "leave the path out to start from the rest pose."
        )
    try:
        pose, shape = (np.asarray(values, np.float64).ravel() for values in readers[path.suffix](path))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:  # HDF5 has all of them
        raise ValueError(f"{path} holds no mean parameters: {error}. It needs 'pose' and 'shape'.") from error
    if pose.size != num_pose or not _are_float32(pose) or not _are_float32(shape):
        raise ValueError(f"{path}: pose has {pose.size} values; {num_pose} and a shape are needed, all finite.")
    return pose, shape


def _read_mean_h5(path):
    import h5py

    with h5py.File(path, "r") as file:
        for key in ("pose", "shape"):
            if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
                raise ValueError(f"it has no dataset {key!r} but {sorted(file)[:20]}")
            if file[key].size > _MAX_MEAN_VALUES or file[key].dtype.kind not in "fiu":
                raise ValueError(f"{key!r} has {file[key].size} values of {file[key].dtype}")
            # Storage in other files, or in pieces that take far more memory than the values.
            if file[key].external or file[key].is_virtual or math.prod(file[key].chunks or ()) > _MAX_MEAN_VALUES:
                raise ValueError(f"{key!r} is not stored plainly; write it again without chunks")
        return file["pose"][()], file["shape"][()]


def _read_mean_npz(path):
    arrays = read_npz(path, ("pose", "shape"), max_bytes=16 * _MAX_MEAN_VALUES)
    for key in ("pose", "shape"):
        if key not in arrays or arrays[key].dtype.kind not in "fiu":
            raise ValueError(f"it has no array of numbers {key!r} but {npz_entries(path)[:20]}")
    return arrays["pose"], arrays["shape"]
