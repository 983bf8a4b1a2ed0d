"""Result files: predicted poses of a whole data set, as CHUNYUWANG/lcn-pose writes and reads them.

Its `result_gt.pkl` is a pickled dict `{"result": array [poses, 17, 3]}` in the picture's frame: x and y in pixels, z
relative to the root in the pixels of the person's box; see `posekit.codecs.screen_pose`.
"""

import pathlib
import pickle
import tokenize

import numpy as np

from posekit.data.hdf5 import COLUMNS
from posekit.data.pickles import load_pickle
from posekit.data.plain_pickles import dumps_plain
from posekit.files import npz_entries, read_npz, regular_file, write_file
from posekit.skeletons import H36M17

# Three million poses; all of Human3.6M's test set is a sixth of it.
MAX_RESULT_BYTES = 2 << 30
_KEY = "result"
_WRITE_ANEW = 'write it with posekit.data.result_files.write_result, or as a pickle of {"result": array}'


def read_result(path, count=None, num_joints=H36M17.num_joints):
    """Reads predicted poses.

    Args:
        path: `.pkl` as the original writes it, or `.npz` with the entry `result` (or a single entry), or `.npy`. The
            array may be flat, as `[poses, joints * 3]`. Nothing in the file is executed.
        count: How many poses there must be; any number by default.
        num_joints: Joints of a pose.

    Returns:
        Float64 `[poses, joints, 3]` in the picture's frame.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, lacks the array, or the array has another shape, another
            number of poses or none, or values that are not finite or that no pose has.
    """
    path = pathlib.Path(path)
    readers = {".pkl": _read_pickle, ".pickle": _read_pickle, ".npz": _read_npz, ".npy": _read_npy}
    if path.suffix not in readers:
        raise ValueError(f"Result files are {', '.join(readers)}, not {path.name!r}; {_WRITE_ANEW}.")
    if not path.exists():
        raise FileNotFoundError(
            f"No result file at {path}. The original's are called result_gt.pkl and result_dt_ft.pkl; "
            "python -m posekit.validate --model=lcn writes one."
        )
    array = readers[path.suffix](regular_file(path))
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise ValueError(f"{path}: {_KEY!r} is {kind}; an array of numbers is needed; {_WRITE_ANEW}.")
    shape, wanted = array.shape, f"[poses, {num_joints}, 3] or [poses, {3 * num_joints}]"
    if shape[1:] not in ((num_joints, 3), (3 * num_joints,)):
        raise ValueError(f"{path}: {_KEY!r} has the shape {shape}; it must be {wanted}.")
    if not shape[0]:
        raise ValueError(f"{path} holds no poses; predict again.")
    if count is not None and shape[0] != count:
        raise ValueError(
            f"{path} holds {shape[0]} poses, the data set {count}. Both must be made from the same test poses in the "
            "same order; predict again, or create the data set from the pickles that the results belong to."
        )
    if 8 * array.size > MAX_RESULT_BYTES:
        raise ValueError(f"{path} holds {shape[0]} poses, more than the {MAX_RESULT_BYTES >> 20} MiB that are read.")
    with np.errstate(over="ignore"):
        result = np.array(array, np.float64).reshape(shape[0], num_joints, 3)
    spec = COLUMNS["joints_image"]
    bad = np.flatnonzero(spec.beyond(result).any((1, 2)))
    if len(bad):
        raise ValueError(
            f"{path}: {len(bad)} of {len(result)} poses hold NaN, infinity or pixels that are not in {spec.span}, the "
            f"first of them number {bad[0]}. Predict them again."
        )
    return result


def write_result(path, result):
    """Writes predicted poses in the original's layout; the file takes its name only when it is complete.

    Args:
        path: `.pkl` file to write; its folder is made where needed.
        result: `[poses, joints, 3]` in the picture's frame.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: If the file's name has another ending or the shape is another.
        OSError: If the file cannot be written.

    Example:
        >>> write_result("result_gt.pkl", np.zeros((4, 17, 3)))  # doctest: +SKIP

    Follows: CHUNYUWANG/lcn-pose inference.py, which writes such files.
    """
    path, result = pathlib.Path(path), np.ascontiguousarray(result, np.float64)
    if path.suffix not in (".pkl", ".pickle"):
        raise ValueError(f"Result files are written as .pkl, not {path.name!r}; name it {path.stem}.pkl.")
    if result.ndim != 3 or result.shape[-1] != 3:
        raise ValueError(f"The result has the shape {result.shape}; it must be [poses, joints, 3].")
    write_file(path, dumps_plain({_KEY: result}))
    return path


def _read_pickle(path):
    try:
        content = load_pickle(path, MAX_RESULT_BYTES)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict) or _KEY not in content:
        there = (
            f"a dict of {sorted(map(str, content))[:10]}"
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise ValueError(f"{path} holds {there}; a dict with the key {_KEY!r} is needed; {_WRITE_ANEW}.")
    return content[_KEY]


def _read_npz(path):
    names = npz_entries(path)
    name = names[0] if len(names) == 1 else _KEY
    arrays = read_npz(path, (name,), MAX_RESULT_BYTES)
    if name not in arrays:
        raise ValueError(f"{path} has the entries {names[:10]}; one called {_KEY!r} is needed.")
    return arrays[name]


def _read_npy(path):
    try:
        # Mapped, not read: a header that promises more than the file holds fails before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # NumPy reads a header as Python's source text, and so may stumble over it as over source text.
    except (
        ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, ArithmeticError, RuntimeError, MemoryError,
        tokenize.TokenError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is not a .npy file with numbers ({error}); {_WRITE_ANEW}.") from None
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise ValueError(f"{path} is a .npz file by content; rename it.")
    if array.nbytes > MAX_RESULT_BYTES:
        raise ValueError(f"{path} takes {array.nbytes} bytes, more than the limit of {MAX_RESULT_BYTES}.")
    return array
