"""What compiled ops hold while they run, counted by the allocator of a small program."""

import os
import pathlib
import platform
import subprocess

import pytest
from compiled import needs_compiler

from posekit.ops import native
from posekit.ops.native import build

PROGRAM = pathlib.Path(__file__).with_name("memory.cc")
MOST = 4  # times inputs and outputs


# The program puts its own allocator around glibc's, as sanitizers do, which are loaded before everything else.
@needs_compiler
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is counted by an allocator around glibc's")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="another library counts memory (LD_PRELOAD)")
def test_memory_of_any_input(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    kernels = pathlib.Path(native.kernels()._name)
    program = tmp_path / "memory"
    subprocess.run(
        [build.compiler(), "-std=c++17", "-O1", "-fno-builtin-malloc", f"-I{build.SOURCES}", PROGRAM, kernels,
         f"-Wl,-rpath,{kernels.parent}", "-pthread", "-o", program],
        check=True,
    )  # fmt: skip
    told = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    held = [(float(line.split()[0]), line.partition(" ")[2]) for line in told]
    assert len(held) > 180 and min(held)[0] >= 0
    for op in native.OPS.keys() - {"decode_paf_batch"}:
        assert max(multiple for multiple, name in held if name.startswith(op)) > 0.3
    assert max(held)[0] <= MOST, f"times inputs and outputs: {max(held)}"
