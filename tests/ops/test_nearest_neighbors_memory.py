"""What nearest neighbours and mesh reprojection hold while they run, counted by the allocator of a small program."""

import os
import pathlib
import platform
import subprocess

import pytest

from posekit.ops import native
from posekit.ops.native import build

PROGRAM = pathlib.Path(__file__).with_name("nearest_neighbors_memory.cc")
MOST = 3.2  # times inputs and outputs


def test_memory_of_any_input(tmp_path, monkeypatch):
    if build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    if platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ:
        pytest.skip("the memory of this process cannot be counted")
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    kernels = pathlib.Path(native.kernels()._name)
    program = tmp_path / "memory"
    subprocess.run(
        [build.compiler(), "-std=c++17", "-O1", "-fno-builtin-malloc", f"-I{build.SOURCES}", PROGRAM, kernels,
         f"-Wl,-rpath,{kernels.parent}", "-pthread", "-o", program],
        check=True,
    )  # fmt: skip
    told = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    held = {line.partition(" ")[2]: float(line.split()[0]) for line in told}
    assert len(held) > 70 and min(held.values()) >= 0
    assert max(held["noise, 2 coordinates of 4 bytes"], held["more references, 3 coordinates of 8 bytes"]) > 0.5
    too_much = {name: multiple for name, multiple in held.items() if multiple > MOST}
    assert not too_much, f"times inputs and outputs: {too_much}"
