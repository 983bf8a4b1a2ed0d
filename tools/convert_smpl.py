"""Converts a body model, or mean parameters, to the open `.npz` files that posekit reads.

    python tools/convert_smpl.py --input=neutral_smpl_with_cocoplus_reg.pkl --output=models/model.npz
    python tools/convert_smpl.py --input=basicModel_f_lbs_10_207_0_v1.0.0.pkl --output=models/female.npz \
        --regressor=neutral_smpl_with_cocoplus_reg.pkl
    python tools/convert_smpl.py --input=neutral_smpl_mean_params.h5 --output=models/mean_params.npz

Bodies come as official SMPL pickles (Python 2 or 3, chumpy, SciPy) or as `.npz` with the same keys. Pickles are read
without executing anything. SMPL itself is not part of posekit: register at https://smpl.is.tue.mpg.de/ and keep to its
licence. Exit status: 0, or 1 with one line that says what is wrong and what to type next.
"""

import os
import pathlib
import pickle
import sys
import tempfile
import tokenize

import numpy as np
import scipy.sparse
from absl import app, flags

from posekit.bodies import LICENCE_PAGE, BodyModel, bodies_cache, load_mean_theta
from posekit.data.pickles import load_pickle
from posekit.files import read_npz
from posekit.skeletons import COCO_PLUS19, SMPL24

ARRAYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f")
REGRESSOR = "cocoplus_regressor"
MAX_BYTES = 2 * 2**30
_ROOT_MARK = 2**32 - 1  # the root's parent, -1, in uint32

# Head points of COCO_PLUS19 on the surface of SMPL's 6890 vertices.
_SMPL_VERTICES = 6890
_SMPL_FACE = {"nose": 332, "left_eye": 2800, "right_eye": 6260, "left_ear": 583, "right_ear": 4071}

flags.DEFINE_string("input", None, "Body model (.pkl or .npz), or mean parameters (.h5).", required=True)
flags.DEFINE_string("output", None, "File to write; models/model.npz or models/mean_params.npz if not given.")
flags.DEFINE_integer("num_shape", 10, "Shape coefficients to keep.", lower_bound=1)
flags.DEFINE_string(
    "regressor",
    None,
    "Regressor of the 19 keypoints, for a body without one: a .npy of [19, vertices], a .npz or .pkl with "
    f"'{REGRESSOR}', or 'smpl24' to take SMPL's own joints and points of its surface instead.",
)
flags.DEFINE_string("faces", None, "Triangles, for a body without them: a .npy of [faces, 3].")
flags.DEFINE_string("name", None, "What messages call the body; the input's name if not given.")
flags.DEFINE_string("licence", None, "Terms of the body, kept in the file; the input's own or SMPL's if not given.")
FLAGS = flags.FLAGS


class ConversionError(ValueError):
    """Something about the files that stops the conversion; the message says what to do."""


def main(argv):
    """Converts one file.

    Args:
        argv: Command line without flags.

    Returns:
        Exit status.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; files are given by --input and --output.")
    source = pathlib.Path(FLAGS.input)
    is_mean = source.suffix in (".h5", ".hdf5")
    target = pathlib.Path(FLAGS.output or ("models/mean_params.npz" if is_mean else "models/model.npz"))
    try:
        if target.suffix != ".npz":
            raise ConversionError(f"--output={target} must end in .npz.")
        target.parent.mkdir(parents=True, exist_ok=True)
        print((_convert_mean if is_mean else _convert_body)(source, target))
    except (ValueError, pickle.UnpicklingError) as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A rename has two names, of which the second is the user's.
        print(f"ERROR {error.strerror or error}: {error.filename2 or error.filename or target}", file=sys.stderr)
        return 1
    return 0


def read_body(path, num_shape=10, regressor=None, faces=None):
    """Reads a body model and checks its shapes.

    Args:
        path: `.pkl` or `.npz` with SMPL's keys.
        num_shape: Shape coefficients to keep.
        regressor: Where the keypoint regressor comes from if the file has none; see `--regressor`.
        faces: `.npy` of triangles, if the file has none.

    Returns:
        Dict of dense arrays under SMPL's keys, and `licence` if the file has one.

    Raises:
        ConversionError: If something is missing or does not fit.
        ValueError: If a file is damaged.
        pickle.UnpicklingError: If a pickle is damaged or asks for more than plain data.
    """
    content = _read(path, (*ARRAYS, REGRESSOR, "bs_type", "licence"))
    if faces is not None:
        content["f"] = _read_npy(faces)
    missing = sorted(set(ARRAYS) - set(content))
    if missing:
        hint = " Give the triangles with --faces=smpl_faces.npy." if missing == ["f"] else ""
        raise ConversionError(f"{path} is no SMPL body: it lacks {missing}.{hint}")
    blend = _text(content.get("bs_type", "lrotmin"))
    if blend != "lrotmin":
        raise ConversionError(f"{path} has pose blend shapes of type {blend[:40]!r}; only 'lrotmin' is read.")
    arrays = _fitting(path, content, num_shape)
    if regressor is None and REGRESSOR not in content:
        raise ConversionError(_regressor_missing(path))
    if regressor is not None:
        content[REGRESSOR] = _regressor(regressor, arrays)
    wanted = (COCO_PLUS19.num_joints, len(arrays["v_template"]))
    arrays[REGRESSOR] = _dense(regressor or path, REGRESSOR, content[REGRESSOR], wanted)
    if "licence" in content:
        arrays["licence"] = _text(content["licence"])
    return arrays


def _convert_body(source, target):
    arrays = read_body(source, FLAGS.num_shape, FLAGS.regressor, FLAGS.faces)
    unsaid = f"SMPL body model licence, see {LICENCE_PAGE}" if source.suffix == ".pkl" else "unknown"
    own = arrays.pop("licence", unsaid)
    parents = arrays.pop("kintree_table")[0].astype(np.int64)
    body = BodyModel(
        name=FLAGS.name or source.stem,
        licence=FLAGS.licence or own,
        keypoint_regressor=arrays.pop(REGRESSOR),
        parents=np.where(parents == _ROOT_MARK, -1, parents),
        faces=arrays.pop("f"),
        **arrays,
    )
    # What was written is read back before it takes its name: its checks are those of every later use.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        written = pathlib.Path(folder) / target.name
        body.save(written)
        try:
            body = BodyModel.load(written)
        except ValueError as error:
            raise ConversionError(str(error).replace(str(written), str(source))) from error
        os.replace(written, target)
    return (
        f"Wrote {target}: {body.name}, {body.num_vertices} vertices, {len(body.faces)} faces, {body.num_joints} "
        f"joints, {body.num_shape} shape coefficients, {body.num_keypoints} keypoints. Licence: {body.licence}\n"
        f"Train with it: python -m posekit.train --body={target}"
    )


def _convert_mean(source, target):
    theta = load_mean_theta(source, FLAGS.num_shape)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        written = pathlib.Path(folder) / target.name
        np.savez(written, pose=theta[3:75], shape=theta[75:])
        os.replace(written, target)
    return f"Wrote {target}: mean pose and shape.\nTrain with it: python -m posekit.train --mean_params={target}"


def _read(path, keys):
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConversionError(
            f"There is no file {path}. Register at {LICENCE_PAGE}, download the body model and run: python "
            "tools/convert_smpl.py --input=<downloaded .pkl> --output=models/model.npz. posekit then finds it: it "
            f"searches $POSEKIT_BODY, models/model.npz, models/*.npz and {bodies_cache()}/*.npz. Without one, its "
            "sample body keeps everything running."
        )
    if path.suffix == ".npz":
        return read_npz(path, keys, MAX_BYTES)
    if path.suffix != ".pkl":
        raise ConversionError(f"{path} is neither .pkl nor .npz.")
    content = load_pickle(path, MAX_BYTES)
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not the dict of an SMPL body.")
    return {key: content[key] for key in keys if key in content}


def _read_npy(path):
    if not os.path.isfile(path):
        raise ConversionError(f"There is no file {path}.")
    if os.path.getsize(path) > MAX_BYTES:
        raise ConversionError(f"{path} is larger than {MAX_BYTES} bytes.")
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped: a lying header takes no memory
    # NumPy's own words advise to unpickle what is no array.
    except (ValueError, EOFError, tokenize.TokenError) as error:
        raise ConversionError(f"{path} is no .npy file with a plain array; write it with numpy.save.") from error


def _text(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if isinstance(value, (str, np.ndarray)) else f"a {type(value).__name__}"


def _fitting(path, content, num_shape):
    """The arrays as dense ones, after their shapes were found to fit each other."""
    joints = SMPL24.num_joints
    vertices = len(_dense(path, "v_template", content["v_template"], (None, 3)))
    known = _dense(path, "shapedirs", content["shapedirs"], (vertices, 3, None)).shape[2]
    if known < num_shape:
        raise ConversionError(f"{path} has {known} shape coefficients, not {num_shape}. Give --num_shape={known}.")
    shapes = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, known),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
        "weights": (vertices, joints),
        "f": (None, 3),
    }
    arrays = {key: _dense(path, key, content[key], shape) for key, shape in shapes.items()}
    arrays["shapedirs"] = arrays["shapedirs"][:, :, :num_shape]
    sums = arrays["weights"].sum(1)
    if not np.allclose(sums, 1, atol=1e-3):
        raise ConversionError(f"{path}: weights of a vertex sum to {sums.min():.3g} … {sums.max():.3g} instead of 1.")
    return arrays


def _dense(path, key, array, shape):
    """A dense array of numbers of a shape (None: any length); compared before a sparse matrix is expanded."""
    if not isinstance(array, np.ndarray) and not scipy.sparse.issparse(array):
        raise ConversionError(f"{path}: {key!r} is a {type(array).__name__}, not an array.")
    fits = len(array.shape) == len(shape) and all(want in (None, have) for have, want in zip(array.shape, shape))
    kinds = "iu" if key in ("kintree_table", "f") else "fiu"
    if not fits or array.dtype.kind not in kinds or 0 in array.shape:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ConversionError(
            f"{path}: {key!r} has the shape {list(array.shape)} and dtype {array.dtype}; [{wanted}] "
            f"{'integers' if kinds == 'iu' else 'numbers'} are needed (SMPL's {SMPL24.num_joints} joints)."
        )
    return array.toarray() if scipy.sparse.issparse(array) else array


def _regressor_missing(path):
    return (
        f"{path} has no {REGRESSOR!r}, from which the {COCO_PLUS19.num_joints} keypoints of images follow; official "
        "SMPL files do not bring it. Give one with --regressor=FILE: neutral_smpl_with_cocoplus_reg.pkl of "
        f"akanazawa/hmr (its regressor fits every SMPL body), or a .npy of [{COCO_PLUS19.num_joints}, vertices]. Or "
        "take --regressor=smpl24: SMPL's own joints and points of its surface; its hips, shoulders and neck lie beside "
        "those that people mark in images, so expect larger errors."
    )


def _regressor(source, arrays):
    if source == "smpl24":
        return _smpl_regressor(arrays)
    path = pathlib.Path(source)
    if path.suffix == ".npy":
        return _read_npy(path)
    content = _read(path, (REGRESSOR,))
    if REGRESSOR not in content:
        raise ConversionError(f"--regressor={path} has no {REGRESSOR!r}.")
    return content[REGRESSOR]


def _smpl_regressor(arrays):
    """Keypoints from what every SMPL body has: its joints, its highest vertex and five vertices of its face."""
    template = arrays["v_template"]
    if len(template) != _SMPL_VERTICES:
        raise ConversionError(
            f"--regressor=smpl24 knows the face of SMPL's {_SMPL_VERTICES} vertices; this body has {len(template)}. "
            "Give a file."
        )
    regressor = np.zeros((COCO_PLUS19.num_joints, len(template)))
    for row, joint in enumerate(COCO_PLUS19.joints):
        if joint in SMPL24.joints:
            regressor[row] = arrays["J_regressor"][SMPL24.index(joint)]
        else:
            regressor[row, _SMPL_FACE[joint] if joint in _SMPL_FACE else template[:, 1].argmax()] = 1
    return regressor


if __name__ == "__main__":
    app.run(main)
