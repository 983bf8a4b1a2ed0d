"""Compiled libraries in the user's cache, and what is said where there are none."""

import inspect
import os
import pathlib
import shutil

import pytest
from compiled import fake_compiler, needs_compiler, run_python

from posekit.ops import decode_paf, decode_paf_batch, native
from posekit.ops.native import build

ASK_BOTH = "from posekit.ops import native; native.{}(); native.{}(); print(native.kernels(), native.ops())"


def run_without_compiler(code, tmp_path, **environment):
    """Runs code in a process of its own, with a cache of its own and, by default, no compiler."""
    given = {"CXX": "", "PATH": tmp_path, "POSEKIT_CACHE": tmp_path, "POSEKIT_NATIVE_DIR": ""}
    return run_python(code, **{**given, **environment})


@pytest.mark.parametrize("order", [("kernels", "ops"), ("ops", "kernels")])
def test_a_build_that_fails_is_announced_and_reported_once(tmp_path, order):
    script = f'case "$*" in *--version*) echo 1;; *) echo run >> {tmp_path}/log; echo "error: no" >&2; exit 1;; esac'
    done = run_without_compiler(ASK_BOTH.format(*order), tmp_path, CXX=fake_compiler(tmp_path, script))
    assert done.stdout.strip() == "None None"
    assert done.stderr.count("compiles its native ops") == 1 and done.stderr.count("runs without compiled ops") == 1


@pytest.mark.parametrize("order", [("kernels", "ops"), ("ops", "kernels")])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_libraries_is_told_once(tmp_path, order, there):
    folder = tmp_path / "libraries"
    if there:
        folder.mkdir()
    done = run_without_compiler(ASK_BOTH.format(*order), tmp_path, POSEKIT_NATIVE_DIR=str(folder))
    assert done.stdout.strip() == "None None" and done.stderr.count("runs without compiled ops") == 1
    assert f"{folder} (POSEKIT_NATIVE_DIR) {'has no posekit_' if there else 'is no folder'}" in done.stderr


def test_without_a_compiler_the_ways_out_are_named(tmp_path):
    done = run_without_compiler(ASK_BOTH.format("kernels", "ops"), tmp_path)
    assert "install g++, or set CXX to a compiler, or POSEKIT_NATIVE_DIR to a folder with libraries" in done.stderr
    assert "compiles its native ops" not in done.stderr


@needs_compiler
@pytest.mark.parametrize("with_ops", [True, False])
def test_what_a_compiler_left_is_used_when_it_is_gone(tmp_path, monkeypatch, with_ops):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    made = build.build(pathlib.Path(native.kernels()._name).parent)
    monkeypatch.setenv("POSEKIT_CACHE", str(tmp_path))
    left, older = build.cached(), build.cached().with_name(f"{build.key().partition('-')[0]}-00000000")
    for folder, names in ((left, [build.KERNELS, *[build.OPS] * with_ops]), (older, [build.KERNELS])):
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(made / name, folder)
    os.utime(left, (0, 0))
    code = "from posekit.ops import native; print(native.kernels()._name); print(native.ops() is not None)"
    done = run_without_compiler(code, tmp_path)
    used = left if with_ops else older
    assert done.stdout.split() == [str(used / build.KERNELS), str(with_ops)]
    assert "compiles its native ops" not in done.stderr
    assert done.stderr.count("runs without compiled ops") == (not with_ops)


@needs_compiler
def test_what_was_compiled_of_other_sources_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    made = pathlib.Path(native.kernels()._name).parent
    monkeypatch.setenv("POSEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_tensorflow_version", lambda: "2.0.0")
    build.cached().mkdir(parents=True)
    shutil.copy(made / build.KERNELS, build.cached())
    done = run_without_compiler("from posekit.ops import native; print(native.kernels())", tmp_path)
    assert done.stdout.strip() == "None"


@needs_compiler
@pytest.mark.parametrize("compiler", ["there-is-none", "/bin/false"])
def test_a_compiler_that_was_asked_for_is_not_replaced_by_what_another_left(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    made = pathlib.Path(native.kernels()._name).parent
    monkeypatch.setenv("POSEKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("POSEKIT_NATIVE_DIR", "")
    shutil.copytree(made, build.cached())
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(build.BuildError, match=compiler):
        build.build()


def test_the_key_tells_compilers_apart_behind_the_hyphen(monkeypatch):
    monkeypatch.setattr(build, "_compiler", lambda: "any")
    keys = []
    for version in "12":
        monkeypatch.setattr(build, "_compiler_version", lambda tool, version=version: version)
        keys.append(build.key().split("-"))
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1]


def test_decoding_has_a_row_for_each_of_its_functions(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "0")
    rows = {row["op"]: row for row in native.status()}
    assert rows["decode_paf"]["device"] == rows["decode_paf_batch"]["device"] == "CPU"
    assert rows["decode_paf_batch"]["cuda"] == "none"


@pytest.mark.parametrize("function", [decode_paf, decode_paf_batch])
def test_signatures_are_short(function):
    assert len(str(inspect.signature(function))) < 400
    assert "<Skeleton 'OPENPOSE18', 18 joints>" in str(inspect.signature(function))
