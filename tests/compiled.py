"""What tests of compiled ops share: whether these run here, new Python processes, compilers that misbehave."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from posekit.ops.native import build

# A machine without a compiler has the plain path alone, and one whose TensorFlow sees a GPU runs TensorFlow's own
# kernels unless POSEKIT_CUDA=1 asks for the compiled ones: the tests of the plain path are what has to pass there.
NO_COMPILER = "" if build.compiler() else "no C++ compiler on this machine"
NO_COMPILED_OPS = NO_COMPILER or (
    "TensorFlow sees a GPU, where its own kernels run without POSEKIT_CUDA=1"
    if tf.config.list_physical_devices("GPU") and os.environ.get("POSEKIT_CUDA") != "1"
    else ""
)
needs_compiler = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)
needs_compiled_ops = pytest.mark.skipif(bool(NO_COMPILED_OPS), reason=NO_COMPILED_OPS)


def run_python(code, **environment):
    """Runs code in a process of its own, with further variables in its environment.

    Returns:
        `subprocess.CompletedProcess`, with text.
    """
    variables = {name: str(value) for name, value in environment.items()}
    environment = {**os.environ, "POSEKIT_NATIVE": "", **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert not done.returncode, done.stderr
    return done


def fake_compiler(folder, text, name="fake-g++"):
    """A shell script in the place of a compiler; returns its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
