"""Compiles the native ops: C++ for the CPU, CUDA for NVIDIA GPUs.

Two libraries come of the C++ sources: `posekit_kernels.so`, plain functions for ctypes, which needs nothing, and
`posekit_ops.so`, which registers them as TensorFlow ops through TensorFlow's C API (`tf_*.cc`) and loads the first from
beside it.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from posekit.files import cache_folder

SOURCES = pathlib.Path(__file__).parent / "src"
CUDA_SOURCES = pathlib.Path(__file__).parent / "cuda"
KERNELS, OPS, CUDA = "posekit_kernels.so", "posekit_ops.so", "posekit_cuda.so"
CUDA_ARCHITECTURES = ("80", "90")

# No -ffast-math: not-a-number must stay what it is. No contraction either, but where a file asks for it: a fused
# multiplication and addition rounds otherwise than the two, and decoding must equal the original to the last bit.
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-pthread", "-Wall")
_PATIENCE_S = 600


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

    Depends on the sources, the flags, the compiler, the version of TensorFlow and the processor, so that neither
    another machine with the same home nor another environment ever loads what was not made for it.

    Args:
        portable: For any processor of the architecture, not only for this one.

    Returns:
        40 hexadecimal digits.

    Raises:
        BuildError: If there is no compiler.
    """
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    parts = (*_flags(portable), _compiler_version(_compiler()), _tensorflow_version(), platform.platform(),
             "" if portable else _processor())  # fmt: skip
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:40]


def cached(portable=False):
    """Folder in the user's cache where the libraries are, or would be.

    Args:
        portable: As for `key`.

    Returns:
        `pathlib.Path`.

    Raises:
        BuildError: If there is no compiler.
    """
    return cache_folder() / "native" / key(portable)


def build(folder=None, portable=False, sanitize=None, with_ops=True):
    """Compiles the CPU libraries that are not there yet.

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
    folder = cached(portable) if folder is None else pathlib.Path(folder).resolve()
    flags = _flags(portable)
    if sanitize:
        flags = [*flags, f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]
    # Whatever symbol is missing shows when a library is loaded, not when it is called.
    link = ["-shared", "-pthread", "-Wl,-z,now", *(flag for flag in flags if flag.startswith("-fsanitize"))]
    sources = sorted(SOURCES.glob("*.cc"))
    if not (folder / KERNELS).exists():
        plain = [source for source in sources if not source.name.startswith("tf_")]
        _build_one(folder / KERNELS, plain, flags, [*link, f"-Wl,-soname,{KERNELS}"])
    if with_ops and not (folder / OPS).exists():
        include, libraries = _tensorflow()
        registering = [source for source in sources if source.name.startswith("tf_")]
        beside = [folder / KERNELS, "-Wl,-rpath,$ORIGIN"]
        _build_one(folder / OPS, registering, [*flags, *include], [*link, *beside, *libraries])
    return folder


def build_cuda(folder=None, architectures=CUDA_ARCHITECTURES):
    """Compiles the CUDA kernels into a library for ctypes, `CUDA`.

    Args:
        folder: Where to; the user's cache if None.
        architectures: Compute capabilities without the point, such as `"90"`.

    Returns:
        `pathlib.Path` of the library.

    Raises:
        BuildError: If there is no nvcc, it fails, or the folder cannot be written.
    """
    tool = nvcc()
    if tool is None:
        raise BuildError("no CUDA compiler (nvcc) was found; install NVIDIA's CUDA toolkit or set NVCC")
    sources = sorted(CUDA_SOURCES.glob("*.cu"))
    digest = hashlib.sha256("\0".join([_compiler_version(tool), *architectures]).encode())
    for path in sorted(CUDA_SOURCES.iterdir()):
        digest.update(path.read_bytes())
    folder = cache_folder() / "native" / f"cuda-{digest.hexdigest()[:32]}" if folder is None else pathlib.Path(folder)
    if not (folder / CUDA).exists():
        codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
        with _unfinished(folder / CUDA) as library:
            _run([tool, "-shared", "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *codes, *sources, "-o", library])
    return folder / CUDA


def _flags(portable):
    flags = list(_FLAGS)
    if not portable and platform.machine() in ("x86_64", "AMD64"):
        # Compiled where it runs; the processor is part of the key.
        flags.append("-march=native")
    return flags


def _compiler():
    tool = compiler()
    if tool is None:
        raise BuildError("no C++ compiler was found; install g++, or set CXX")
    return tool


@functools.cache
def _compiler_version(tool):
    return _run([tool, "--version"])


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


def _build_one(library, sources, flags, link):
    tool = _compiler()
    with _unfinished(library) as unfinished:
        work = unfinished.parent
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(functools.partial(_compile, tool, flags, work), sources))
        _run([tool, *objects, *link, "-o", unfinished])


def _compile(tool, flags, work, source):
    made = work / f"{source.stem}.o"
    first = source.read_text(encoding="utf-8").partition("\n")[0]
    extra = first.removeprefix("// Flags:").split() if first.startswith("// Flags:") else []
    _run([tool, *flags, *extra, "-c", source, "-o", made])
    return made


def _run(command):
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        cause = next((line for line in told if "error" in line.lower()), told[-1] if told else "no message")
        raise BuildError(f"{command[0]} ended with {done.returncode}: {cause}")
    return done.stdout


@contextlib.contextmanager
def _unfinished(library):
    """A path to write a library to, in a folder of its own; renamed when all went well."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=".building-", dir=library.parent))
    except OSError as error:
        raise BuildError(f"{library.parent} cannot be written ({error.strerror}); set POSEKIT_CACHE") from None
    try:
        yield work / library.name
        os.replace(work / library.name, library)
    except OSError as error:
        raise BuildError(f"{library} cannot be written ({error.strerror}); set POSEKIT_CACHE") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe():
    """One line on compiler and platform, for `status` and bug reports."""
    tool = compiler()
    version = _compiler_version(tool).splitlines()[0] if tool else "no C++ compiler"
    return f"{version}; Python {sys.version.split()[0]}; {sysconfig.get_platform()}"
