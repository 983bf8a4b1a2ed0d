"""Which implementation of every op runs, and on what device.

Every op is complete in plain TensorFlow or NumPy. Compiled kernels do the same work faster; they are built once, on
first use, with the C++ compiler of the machine, and kept in the user's cache. Without a compiler the plain path runs,
and says so once.

`POSEKIT_NATIVE` in the environment chooses: `0` for the plain path always, `1` for the compiled one or an error, unset
for the compiled one where there is one. `POSEKIT_CUDA` does the same for GPUs, with the opposite default: `1` for the
compiled kernels or an error, `0` or unset for TensorFlow's own.
"""

import contextlib
import ctypes
import os
import pathlib
import platform
import sys
import threading

from absl import logging

from posekit.ops.native import build as _build

# Where each op's compiled form is, and its name there.
OPS = {
    "nearest_neighbors": (_build.OPS, "posekit_nearest_neighbors"),
    "mesh_reprojection": (_build.OPS, "posekit_mesh_reprojection"),
    "gradient_penalty": (_build.OPS, "posekit_gradient_penalty"),
    "locally_connected": (_build.OPS, "posekit_locally_connected"),
    "decode_paf": (_build.KERNELS, "posekit_decode_paf"),
    "decode_paf_batch": (_build.OPS, "posekit_decode_paf"),
    "rasterize": (_build.KERNELS, "posekit_rasterize"),
}
# Those with CUDA kernels: as TensorFlow ops, or as functions without TensorFlow alone.
_CUDA_OPS = ("nearest_neighbors", "mesh_reprojection", "gradient_penalty", "locally_connected")
_CUDA_FUNCTIONS = ("decode_paf",)

# Of x86 processors that TensorFlow runs on, at least; other processors have one width only.
_FULL_VECTOR_BYTES = {"x86_64": 32, "AMD64": 32}

# Libraries that were built beforehand, by tools/build_ops.py, stand here or in $POSEKIT_NATIVE_DIR.
_BUILT = pathlib.Path(__file__).parent / "lib"
_lock = threading.RLock()


def _renew_lock():
    """In a child of fork(): the thread that held the lock stayed behind."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)

_loaded = {}  # name of a library -> what was loaded, or the reason why not
_told = set()  # what is said once
_disabled = []  # one entry for each open `disabled`; a list grows and shrinks in one step, in whatever thread


class NativeError(RuntimeError):
    """A compiled op was demanded by POSEKIT_NATIVE=1, or one for GPUs by POSEKIT_CUDA=1, and there is none."""


def kernels():
    """Compiled functions for NumPy arrays.

    Returns:
        `ctypes.CDLL`, or None where the plain path is to run.

    Raises:
        NativeError: If `POSEKIT_NATIVE` is 1 and there is no compiled library.
        ValueError: If `POSEKIT_NATIVE` is something else than 0, 1 or empty.
    """
    return _library(_build.KERNELS) if _wanted() else None


def ops():
    """Compiled ops for TensorFlow's tensors.

    Returns:
        Module with a function for each op, or None where the plain path is to run: while a program is traced that XLA
        compiles (see `refuse_xla`) or a model that Keras exports, within `disabled`, where a GPU is at hand and
        `POSEKIT_CUDA` is not 1, or where there is no compiled library. Ops without a kernel for GPUs run on the CPU.

    Raises:
        NativeError: If `POSEKIT_NATIVE` is 1 and there is no compiled library, or `POSEKIT_CUDA` is 1, a GPU is at hand
            and its kernels cannot be had.
        ValueError: If `POSEKIT_NATIVE` or `POSEKIT_CUDA` is something else than 0, 1 or empty.
    """
    return _as_written(_ops)()


def _ops():
    if not _wanted():
        return None
    on_gpu, cuda_wanted = _on_gpu(), _choice("POSEKIT_CUDA") == "1"
    if (on_gpu and not cuda_wanted) or _in_xla() or _in_export():
        return None
    if on_gpu:
        _library(_build.CUDA_OPS)
    return _library(_build.OPS)


def why_plain():
    """Why `ops` gives None where it does.

    Returns:
        Half a sentence; empty where it does not give None.
    """
    if _in_xla():
        return "a program for XLA is being traced, which knows no compiled ops: use jit_compile=False"
    if _in_export():
        return "a model is being exported, for runtimes that know no compiled ops"
    return _what_runs(_build.OPS, "posekit_threads")[1]


def narrow_vectors():
    """Whether compiled kernels compute with vectors half as wide as the processor's, or less.

    That is so where a library was compiled for any x86 processor (`tools/build_ops.py --portable`). TensorFlow's own
    products have whole vectors always.

    Returns:
        True or False, which is also for where nothing is compiled.
    """
    told = getattr(_as_written(kernels)(), "posekit_vector_bytes", None)
    return told is not None and told() < _FULL_VECTOR_BYTES.get(platform.machine(), 0)


def _as_written(function):
    """The function as it is: AutoGraph would rewrite what is called while a program is traced, builds included."""
    tf = sys.modules.get("tensorflow")
    return tf.autograph.experimental.do_not_convert(function) if tf else function


@contextlib.contextmanager
def disabled():
    """Within this context the plain path runs, in every thread: for graphs that leave posekit, such as exported models.

    `tf.distribute` traces each replica in a thread of its own, and Keras has threads too, so what this context reaches
    is the whole process. What is traced meanwhile keeps the plain path.

    Exports by `posekit`, `keras.Model.export` and TensorFlow Lite need it not: they are recognised. Call
    `tf.saved_model.save` within this context, and take concrete functions that it saves within it as well.

    Example:
        >>> with disabled():
        ...     ops() is None
        True
    """
    _disabled.append(True)
    try:
        yield
    finally:
        _disabled.pop()


def refuse_xla(op):
    """For ops whose plain path XLA cannot compile either, as the sizes of what they compute depend on their values.

    Args:
        op: Name of the op.

    Raises:
        ValueError: If a program for XLA is being traced.
    """
    if _in_xla():
        raise ValueError(
            f"{op} cannot be compiled by XLA: how much it computes depends on the values. Compile the model, or the "
            "tf.function that calls it, with jit_compile=False."
        )


def refuse_export(op):
    """For ops whose plain path is Python code, which no exported model takes along.

    Args:
        op: Name of the op.

    Raises:
        ValueError: If a model is being exported by Keras.
    """
    if _in_export():
        raise ValueError(
            f"{op} cannot be exported: its plain form runs in Python. Leave it out of the model, or write the model by "
            "tf.saved_model.save, with the compiled op, and call posekit.ops.native.ops() before it is loaded."
        )


@contextlib.contextmanager
def arrays_only(op, instead):
    """For ops that compute with NumPy: within this context, where inputs become arrays, tensors must have a value.

    Args:
        op: Name of the op.
        instead: What to do, in the imperative.

    Raises:
        ValueError: If a tensor of a program that is being traced is made an array.
    """
    try:
        yield
    except NotImplementedError:  # which TensorFlow raises, whatever of it was to become an array
        raise ValueError(
            f"{op} takes arrays, and tensors have no values while a tf.function or tf.data is traced: {instead} there."
        ) from None


def check(code):
    """Turns the exit code of a function of `kernels` into an exception.

    Args:
        code: What the function returned.

    Raises:
        ValueError: If the input was refused.
        MemoryError: If there was not enough memory.
        RuntimeError: If anything else went wrong.
    """
    if code == 0:
        return
    message = _loaded[_build.KERNELS].posekit_last_error().decode(errors="replace")
    raise {1: ValueError, 2: MemoryError}.get(code, RuntimeError)(message)


class Status(list):
    """Rows of `status`, which show as a table."""

    def __repr__(self):
        heads = ("op", "implementation", "device", "cuda", "reason")
        rows = [heads, *(tuple(row[head] for head in heads) for row in self)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def status():
    """Tells for every op what runs when it is called, and where.

    Builds the compiled ops if they are not there yet.

    Returns:
        List of dicts of strings, which prints as a table, with the keys `"op"`, `"implementation"` (`"compiled"`;
        `"plain"`: TensorFlow's own kernels or NumPy; or `"none"`, where a call is an error, as `POSEKIT_NATIVE=1` or
        `POSEKIT_CUDA=1` demands what there is not),
        `"device"` (the device type on which it runs by default),
        `"cuda"` (its CUDA kernels: `"none"`; `"no nvcc"`, or `"nvcc found"`, where they are not compiled; `"compiled"`;
        or `"registered"`, with TensorFlow in this process) and `"reason"`, why it is not compiled.

    Example:
        >>> from posekit.ops import native
        >>> native.status()[0]["op"]
        'nearest_neighbors'
    """
    rows = []
    for op, (library, function) in OPS.items():
        implementation, reason = _what_runs(library, function)
        rows.append(
            {
                "op": op,
                "implementation": implementation,
                "device": "GPU" if op in _CUDA_OPS and _on_gpu() else "CPU",
                "cuda": _cuda_state(op),
                "reason": reason,
            }
        )
    return Status(rows)


def _what_runs(library, function):
    """How an op runs, and why not compiled."""
    if _disabled:
        return "plain", "switched off here"
    try:
        if not _wanted():
            return "plain", "switched off by POSEKIT_NATIVE=0"
        if library == _build.OPS:
            cuda_wanted = _choice("POSEKIT_CUDA") == "1"
            if _on_gpu() and not cuda_wanted:
                return "plain", "a GPU is at hand, where TensorFlow's own kernels run (POSEKIT_CUDA=1: compiled ones)"
            if _on_gpu():
                _library(_build.CUDA_OPS)
        loaded = _library(library)
    except (ValueError, NativeError) as error:  # which the op raises as well
        return "none", str(error)
    if loaded is None:
        return "plain", _loaded[library]
    return ("compiled", "") if hasattr(loaded, function) else ("plain", "no compiled kernel exists for this op")


def _cuda_state(op):
    """What there is of an op's CUDA kernels."""
    if op not in _CUDA_OPS + _CUDA_FUNCTIONS:
        return "none"
    name = _build.CUDA_OPS if op in _CUDA_OPS else _build.CUDA
    if not isinstance(_loaded.get(name, ""), str):
        return "registered"
    try:
        if _path(name, compile_too=False).exists():
            return "compiled"
    except (_build.BuildError, OSError, RuntimeError):  # also of folders that cannot be
        pass
    return "nvcc found" if _build.nvcc() else "no nvcc"


def _tolerant():
    """Whether the plain path runs where there is no compiled one."""
    return bool(_disabled) or os.environ.get("POSEKIT_NATIVE") != "1"


def _wanted():
    return not _disabled and _choice("POSEKIT_NATIVE") != "0"


def _choice(variable):
    choice = os.environ.get(variable, "")
    if choice not in ("", "0", "1"):
        raise ValueError(f"{variable} is {choice!r}; set it to 0 (plain), 1 (compiled or an error) or not at all.")
    return choice


def _library(name):
    """A library, loaded once; None (or an error, where it was demanded) if there is none."""
    if name not in _loaded:
        with _lock:
            if name not in _loaded:
                _loaded[name] = _load(name)
    found = _loaded[name]
    if not isinstance(found, str):
        return found
    if name == _build.CUDA_OPS:
        hint = "Try python tools/build_ops.py --cuda"
        raise NativeError(f"POSEKIT_CUDA is 1, and there is no compiled op for GPUs: {found}. {hint}")
    if os.environ.get("POSEKIT_NATIVE") == "1":
        folder = os.environ.get("POSEKIT_NATIVE_DIR")
        hint = "Try python tools/build_ops.py" + (f" --output_dir={folder}" if folder else "")
        raise NativeError(f"POSEKIT_NATIVE is 1, and there is no compiled op: {found}. {hint}")
    return None


def _load(name):
    if name == _build.OPS and isinstance(_loaded.get(_build.KERNELS), str):
        return _loaded[_build.KERNELS]  # which it needs
    try:
        path = _path(name)
        if name == _build.KERNELS:
            loaded = ctypes.CDLL(str(path))
            loaded.posekit_last_error.restype = ctypes.c_char_p
            loaded.posekit_set_num_threads(_threads())
            return loaded
        import tensorflow as tf

        if name == _build.CUDA_OPS:
            tf.load_library(str(path))
            return path
        loaded = tf.load_op_library(str(path))
        # Ops share their threads with the functions for NumPy: one library stands behind both.
        ctypes.CDLL(str(path)).posekit_set_num_threads(_threads())
        return loaded
    except Exception as error:  # whatever stands in the way, the plain path is there
        reason = str(error).partition("\n")[0] or type(error).__name__
        if name != _build.CUDA_OPS and _tolerant():
            _say_once("posekit runs without compiled ops, which takes longer: %s", reason)
        return reason


def _say_once(message, *parts):
    """Warns, unless it has done so for the other library, which fails with the first more often than not."""
    if message not in _told:
        _told.add(message)
        logging.warning(message, *parts)


def _path(name, compile_too=True):
    """Where a library is; it is compiled if it is nowhere yet."""
    file = _build.cuda_ops_name() if name == _build.CUDA_OPS else name
    chosen = os.environ.get("POSEKIT_NATIVE_DIR")
    for folder in (pathlib.Path(chosen) if chosen else None, _BUILT):
        if folder is not None and (folder / file).exists():
            _check_library(folder, file)
            return folder.resolve() / file
    if chosen:
        missing = f"has no {file}" if os.path.isdir(chosen) else "is no folder"
        raise _build.BuildError(f"{chosen} (POSEKIT_NATIVE_DIR) {missing}")
    if name == _build.CUDA:
        cached = _build.cached_cuda() / file
    else:
        cached = _build.cached_cuda_ops() if name == _build.CUDA_OPS else _build.cached() / file
    if _whole(cached.parent, file) or not compile_too:
        return cached
    if name == _build.CUDA_OPS:
        logging.warning("posekit compiles its CUDA kernels, once, in about a minute (POSEKIT_CUDA=0: without).")
        return _build.build_cuda_ops()
    if _build.compiler():
        _say_once("posekit compiles its native ops, once, in ten seconds to a minute (POSEKIT_NATIVE=0: without).")
    return _build.build(cached.parent, with_ops=name == _build.OPS) / file


def _check_library(folder, file):
    """Refuses a library that was built beforehand and cannot be the one of this posekit."""
    anew = f"build it anew: python tools/build_ops.py --output_dir={folder}"
    for needed in (_build.KERNELS, file) if file == _build.OPS else (file,):
        if not (folder / needed).exists():
            raise _build.BuildError(f"{folder} has no {needed}, which {file} needs; {anew}")
        if not _build.whole(folder / needed):
            raise _build.BuildError(f"{folder / needed} is damaged; {anew}")
        if not _build.of_these_sources(folder / needed):
            raise _build.BuildError(f"{folder / needed} was compiled from other sources than this posekit's; {anew}")


def _whole(folder, file):
    """Whether a library is there and undamaged, and the one that it loads from beside it."""
    return _build.whole(folder / file) and (file != _build.OPS or _build.whole(folder / _build.KERNELS))


def _threads():
    """As many threads as TensorFlow gives to one operation, if it is there; else one for each processor."""
    tf = sys.modules.get("tensorflow")
    chosen = tf.config.threading.get_intra_op_parallelism_threads() if tf else 0
    if not chosen:
        told = os.environ.get("TF_NUM_INTRAOP_THREADS") or "0"
        if not told.isdecimal():
            raise ValueError(f"TF_NUM_INTRAOP_THREADS is {told!r}; give a whole number, or leave it out")
        chosen = int(told)
    return chosen or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _on_gpu():
    tf = sys.modules.get("tensorflow")
    return bool(tf and tf.config.list_physical_devices("GPU"))


def _in_xla():
    """Whether what is being traced will be compiled by XLA, which knows no ops but its own.

    TensorFlow notes it at the graph that it traces, which threads of replicas and graphs within this one share.
    """
    tf = sys.modules.get("tensorflow")
    if not tf or tf.executing_eagerly():
        return False
    return tf.__internal__.get_enclosing_xla_context() is not None


def _in_export():
    """Whether what is being traced will be exported by Keras, which does not tell: the frames that trace do."""
    tf = sys.modules.get("tensorflow")
    if not tf or tf.executing_eagerly():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("keras.src.export."):
            return True
        frame = frame.f_back
    return False
