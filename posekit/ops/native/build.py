"""Compiles the native ops: C++ for the CPU, CUDA for NVIDIA GPUs.

Two libraries come of the C++ sources: `posekit_kernels.so`, plain functions for ctypes, which needs nothing, and
`posekit_ops.so`, which registers them as TensorFlow ops through TensorFlow's C API (`tf_*.cc`) and loads the first from
beside it. Two more come of the CUDA sources: `posekit_cuda.so`, functions that take pointers and a stream, and
`posekit_cuda_ops-<version>.so`, which registers them as the ops' kernels for GPUs, beside that very TensorFlow.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

from posekit.files import cache_folder

SOURCES = pathlib.Path(__file__).parent / "src"
CUDA_SOURCES = pathlib.Path(__file__).parent / "cuda"
KERNELS, OPS, CUDA = "posekit_kernels.so", "posekit_ops.so", "posekit_cuda.so"
CUDA_OPS = "posekit_cuda_ops"  # and the version of TensorFlow that it fits
CUDA_ARCHITECTURES = ("80", "90")
# Of the C++ sources for the CPU, what ops on a GPU are made of too.
_FOR_EVERY_DEVICE = ("c_api.cc", "parallel.cc", "tf_ops.cc")

# No -ffast-math: not-a-number must stay what it is. No contraction either, but where a file asks for it: a fused
# multiplication and addition rounds otherwise than the two, and decoding must equal the original to the last bit.
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-pthread", "-Wall")
_PATIENCE_S, _PATIENCE_VERSION_S = 600, 30
_ROOM = 16 << 20  # bytes that a build needs at least
_ELSEWHERE = "name another folder, with POSEKIT_CACHE or --output_dir"


class BuildError(RuntimeError):
    """Why there is no compiled library; the message is one line."""


def compiler():
    """Path of the C++ compiler: `$CXX`, else g++, else clang++; None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def nvcc():
    """Path of NVIDIA's compiler: `$NVCC`, else nvcc; None if there is none."""
    return shutil.which(os.environ.get("NVCC") or "nvcc")


def key(portable=False):
    """Name of the folder in the cache that a build goes to.

    Depends on the sources, the flags, the version of TensorFlow and the processor, so that neither another machine with
    the same home nor another environment ever loads what was not made for it; and, behind a hyphen, on the compiler.

    Args:
        portable: For any processor of the architecture, not only for this one.

    Returns:
        Hexadecimal digits, a hyphen, hexadecimal digits.

    Raises:
        BuildError: If there is no compiler.
    """
    compiled_by = hashlib.sha256(_compiler_version(_compiler()).encode()).hexdigest()
    return f"{_key_of_any_compiler(portable)}-{compiled_by[:8]}"


def _key_of_any_compiler(portable):
    """What the names of folders begin with whose libraries run here."""
    parts = (*_flags(portable), _tensorflow_version(), platform.platform(), "" if portable else _processor())
    return _digest(SOURCES.iterdir(), *parts)


def cached(portable=False):
    """Folder in the user's cache where the libraries are, or would be.

    Where there is no compiler, what one that is gone has left is as good: it was made of the same sources for this
    TensorFlow and this processor.

    Args:
        portable: As for `key`.

    Returns:
        `pathlib.Path`.

    Raises:
        BuildError: If there is no compiler and never was.
    """
    folder = cache_folder() / "native"
    left = []
    if compiler() is None and not os.environ.get("CXX"):
        left = [path for path in folder.glob(f"{_key_of_any_compiler(portable)}-*") if whole(path / KERNELS)]
    if left:
        return max(left, key=lambda path: (whole(path / OPS), path.stat().st_mtime))
    return folder / key(portable)


def whole(path):
    """Whether a library is there as it was built, by its checksum: to load one that was damaged ends Python.

    Args:
        path: `pathlib.Path`.

    Returns:
        True or False.
    """
    return _undamaged(path) is not None


def _undamaged(library):
    """The bytes of a library, or None if they are not those that were built."""
    with contextlib.suppress(OSError):
        content = library.read_bytes() if library.is_file() else b""
        start = len(content) - len(_seal_of(b""))
        if start > 0 and content[start:] == _seal_of(memoryview(content)[:start]):
            return content
    return None


def _seal(library):
    """Adds a checksum at the end, which whoever loads a library does not look at."""
    with open(library, "r+b") as file:
        seal = _seal_of(file.read())
        file.write(seal)
        file.flush()
        os.fsync(file.fileno())


def _seal_of(content):
    return b"posekit-seal:" + hashlib.sha256(content).hexdigest().encode()


def of_these_sources(library):
    """Whether a library was made of the sources that stand beside this module: what it carries within it tells.

    Args:
        library: `pathlib.Path`, with the name that it was built under.

    Returns:
        True or False.
    """
    if library.name in (KERNELS, OPS):
        sources = SOURCES.iterdir()
    else:
        sources = _cuda_sources() if library.name == CUDA else _cuda_ops_sources()
    return _stamp_in(library).partition("-")[0] == _digest(sources)


def _stamp(sources, *parts):
    """What a library is marked with: of which sources it was made, and how."""
    return f"{_digest(sources)}-{_digest([], *parts)}"


def _stamp_in(library):
    """The mark of a library; nothing, if there is none or the library is damaged."""
    found = re.search(rb"posekit-stamp:([0-9a-f]+-[0-9a-f]+)", _undamaged(library) or b"")
    return found[1].decode() if found else ""


def _resolved(folder):
    try:
        return pathlib.Path(folder).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, for one
        raise BuildError(f"{folder} is no folder ({error}); {_ELSEWHERE}") from None


def build(folder=None, portable=False, sanitize=None, with_ops=True):
    """Compiles the CPU libraries that are not there yet, or were made of other sources or otherwise.

    All is written under another name first: neither an interrupted build nor two at once leave half a library.

    Args:
        folder: Where to; the user's cache if None.
        portable: As for `key`.
        sanitize: `"address"`, `"thread"` or `"undefined"`: with that sanitizer of the compiler.
        with_ops: Compile `OPS` too, which needs TensorFlow, and not `KERNELS` alone.

    Returns:
        `pathlib.Path` of the folder with the libraries.

    Raises:
        BuildError: If there is no compiler, it fails, or the folder cannot be written.
    """
    folder = cached(portable) if folder is None else _resolved(folder)
    flags = _flags(portable)
    if sanitize:
        flags = [*flags, f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]
    # Whatever symbol is missing shows when a library is loaded, not when it is called.
    link = ["-shared", "-pthread", "-Wl,-z,now", *(flag for flag in flags if flag.startswith("-fsanitize"))]
    sources = sorted(SOURCES.glob("*.cc"))
    processor = "" if portable else _processor()
    stamp = _stamp(SOURCES.iterdir(), *flags, processor, _compiler_version(_compiler()))
    if _stamp_in(folder / KERNELS) != stamp:
        plain = [source for source in sources if not source.name.startswith("tf_")]
        _build_one(folder / KERNELS, stamp, plain, flags, [*link, f"-Wl,-soname,{KERNELS}"])
    if with_ops and _stamp_in(folder / OPS) != stamp:
        include, libraries = _tensorflow()
        registering = [source for source in sources if source.name.startswith("tf_")]
        beside = [folder / KERNELS, "-Wl,-rpath,$ORIGIN"]
        _build_one(folder / OPS, stamp, registering, [*flags, *include], [*link, *beside, *libraries])
    return folder


def build_cuda(folder=None, architectures=CUDA_ARCHITECTURES):
    """Compiles the CUDA kernels into a library of plain functions, `CUDA`, unless it is there, made just so.

    Args:
        folder: Where to; the user's cache if None.
        architectures: Compute capabilities without the point, such as `"90"`. GPUs newer than the last run it too.

    Returns:
        `pathlib.Path` of the library.

    Raises:
        BuildError: If there is no nvcc, it fails, or the folder cannot be written.
    """
    if not architectures:
        raise BuildError("no architecture is given; give compute capabilities without the point, such as 80,90")
    folder = cached_cuda(architectures) if folder is None else _resolved(folder)
    stamp = _stamp(_cuda_sources(), _compiler_version(_nvcc()), *architectures)
    if _stamp_in(folder / CUDA) != stamp:
        codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
        codes.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
        flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC", *codes]
        link = [*codes, "-shared", "-Xlinker", f"-soname={CUDA}"]
        _build_one(folder / CUDA, stamp, sorted(CUDA_SOURCES.glob("*.cu")), flags, link, _nvcc())
    return folder / CUDA


def build_cuda_ops(folder=None, architectures=CUDA_ARCHITECTURES):
    """Compiles what registers the CUDA kernels with the TensorFlow that is installed, and these, unless they are there.

    Args:
        folder: Where to; the user's cache if None.
        architectures: As for `build_cuda`.

    Returns:
        `pathlib.Path` of the library, which loads `CUDA` from beside it or from the folder above.

    Raises:
        BuildError: If there is no nvcc, no C++ compiler or no TensorFlow, one of them fails, or the folder cannot be
            written.
    """
    kernels = build_cuda(folder, architectures)
    path = cached_cuda_ops(architectures) if folder is None else _resolved(folder) / cuda_ops_name()
    stamp = _stamp(_cuda_ops_sources(), *_FLAGS, _compiler_version(_compiler()), _tensorflow_version())
    if _stamp_in(path) != stamp:
        try:
            flags, libraries = _cuda_ops_flags(), _tensorflow()[1]
        except ImportError as error:
            raise BuildError(f"TensorFlow cannot be imported: {error}") from None
        link = ["-shared", "-pthread", "-Wl,-z,now", kernels, "-Wl,-rpath,$ORIGIN:$ORIGIN/..", *libraries]
        _build_one(path, stamp, [source for source in _cuda_ops_sources() if source.suffix == ".cc"], flags, link)
    return path


def cuda_ops_name():
    """Name of the library that registers the CUDA kernels: it fits one version of TensorFlow only."""
    return f"{CUDA_OPS}-{_tensorflow_version()}.so"


def cached_cuda(architectures=CUDA_ARCHITECTURES):
    """Folder in the user's cache where `CUDA` is, or would be.

    Args:
        architectures: As for `build_cuda`.

    Returns:
        `pathlib.Path`.

    Raises:
        BuildError: If there is no nvcc.
    """
    named = _digest(_cuda_sources(), _compiler_version(_nvcc()), *architectures)
    return cache_folder() / "native" / f"cuda-{named}"


def cached_cuda_ops(architectures=CUDA_ARCHITECTURES):
    """Path in the user's cache where the library that registers the CUDA kernels is, or would be.

    Args:
        architectures: As for `build_cuda`.

    Returns:
        `pathlib.Path`.

    Raises:
        BuildError: If there is no nvcc or no C++ compiler.
    """
    parts = *_FLAGS, _compiler_version(_compiler()), _tensorflow_version(), platform.platform()
    return cached_cuda(architectures) / f"ops-{_digest(_cuda_ops_sources(), *parts)}" / cuda_ops_name()


def _cuda_sources():
    """What the library of CUDA kernels is made of, headers too."""
    return [path for path in CUDA_SOURCES.iterdir() if not path.name.startswith("tf_")]


def _cuda_ops_sources():
    """What the library that registers the CUDA kernels is made of, headers too."""
    headers = [*SOURCES.glob("*.h"), CUDA_SOURCES / "posekit_cuda.h"]
    return [*sorted(CUDA_SOURCES.glob("tf_*")), *sorted(headers), *(SOURCES / name for name in _FOR_EVERY_DEVICE)]


def _cuda_ops_flags():
    """Flags as TensorFlow itself was compiled with: its classes must be the same on both sides."""
    import tensorflow as tf

    flags = [flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags()]
    return [*_FLAGS, *flags, "-DNDEBUG", "-fvisibility=hidden", f"-I{SOURCES}"]


def _digest(sources, *parts):
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in sorted(sources):
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def _flags(portable):
    flags = list(_FLAGS)
    if not portable and platform.machine() in ("x86_64", "AMD64"):
        # Compiled where it runs; the processor is part of the key.
        flags.append("-march=native")
    return flags


def _compiler():
    tool = compiler()
    if tool is None and os.environ.get("CXX"):
        raise BuildError(f"CXX is {os.environ['CXX']!r}, which cannot be run; give a compiler alone, without arguments")
    if tool is None:
        raise BuildError(
            "no C++ compiler was found; install g++, or set CXX to a compiler, or POSEKIT_NATIVE_DIR to a folder with "
            "libraries that tools/build_ops.py --portable has made elsewhere"
        )
    return tool


def _nvcc():
    tool = nvcc()
    if tool is None:
        raise BuildError("no CUDA compiler (nvcc) was found; install NVIDIA's CUDA toolkit or set NVCC")
    return tool


def _compiler_version(tool):
    text, error = _asked_version(tool)
    if error:
        raise BuildError(error)
    return text


@functools.cache
def _asked_version(tool):
    """What a compiler tells of itself, or why it does not; once, as one that hangs takes long."""
    try:
        return _run([tool, "--version"], _PATIENCE_VERSION_S), None
    except BuildError as error:
        return None, str(error)


@functools.cache
def _processor():
    """What the processor can do: libraries made for one that can more end in an illegal instruction."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _tensorflow_version():
    for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _tensorflow():
    """Flags to compile with TensorFlow's headers, and to link with the library that has its C API."""
    import tensorflow as tf

    include = tf.sysconfig.get_include()
    return [f"-isystem{include}"], tf.sysconfig.get_link_flags()


def _build_one(library, stamp, sources, flags, link, tool=None):
    tool = tool or _compiler()
    with _unfinished(library) as unfinished:
        work = unfinished.parent
        name = f"posekit_stamp_{re.sub('[^a-z_]', '_', library.stem)}"
        marked = work / "stamp.cc"
        marked.write_text(
            f'extern "C" {{\nextern const char {name}[];\nconst char {name}[] = "posekit-stamp:{stamp}";\n}}\n'
        )
        sources = [*sources, marked]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(functools.partial(_compile, tool, flags, work), sources))
        _run([tool, *objects, *link, "-o", unfinished])


def _compile(tool, flags, work, source):
    made = work / f"{source.stem}.o"
    first = source.read_text(encoding="utf-8").partition("\n")[0]
    extra = first.removeprefix("// Flags:").split() if first.startswith("// Flags:") else []
    _run([tool, *flags, *extra, "-c", source, "-o", made])
    return made


def _run(command, patience_s=_PATIENCE_S):
    command = [str(part) for part in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    try:
        # In a session of its own, so that all its children can be ended with it.
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            try:
                told = process.communicate(timeout=patience_s)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from None
    if process.returncode:
        lines = (told[1] or told[0]).strip().splitlines()
        cause = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise BuildError(f"{command[0]} ended with {process.returncode}: {cause}")
    return told[0]


def _remove_old_work(folder):
    """Removes what builds left that were killed: no build takes so long."""
    for left in folder.glob(".building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * _PATIENCE_S:
                shutil.rmtree(left, ignore_errors=True)


def _is_full(folder):
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < _ROOM
    return False


@contextlib.contextmanager
def _unfinished(library):
    """A path to write a library to, in a folder of its own; renamed when all went well."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        _remove_old_work(library.parent)
        work = pathlib.Path(tempfile.mkdtemp(prefix=".building-", dir=library.parent))
    except OSError as error:
        raise BuildError(f"{library.parent} cannot be written ({error.strerror}); {_ELSEWHERE}") from None
    try:
        yield work / library.name
        if not (work / library.name).is_file():
            raise BuildError(f"the compiler ended without an error, but wrote no {library.name}")
        _seal(work / library.name)
        os.replace(work / library.name, library)
    except BuildError as error:
        if not _is_full(library.parent):
            raise
        raise BuildError(f"{library.parent} is full; make room there, or {_ELSEWHERE} ({error})") from None
    except OSError as error:
        raise BuildError(f"{library} cannot be written ({error.strerror}); {_ELSEWHERE}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe():
    """One line on compiler and platform, for `status` and bug reports."""
    tool = compiler()
    version = _compiler_version(tool).splitlines()[0] if tool else "no C++ compiler"
    return f"{version}; Python {sys.version.split()[0]}; {sysconfig.get_platform()}"
