"""Compiled ops: built once, kept, switched off, missing; and the table tells the truth about this machine."""

import concurrent.futures
import os
import pathlib
import re

import pytest
import tensorflow as tf
from compiled import fake_compiler, needs_compiled_ops, needs_compiler, run_python

import posekit.ops
from posekit.ops import native
from posekit.ops.native import build


def test_the_table_has_a_row_for_every_op(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "0")
    rows = native.status()
    assert [row["op"] for row in rows] == list(native.OPS)
    for row in rows:
        assert row["implementation"] == "plain" and "POSEKIT_NATIVE=0" in row["reason"]
        assert row["op"] in repr(rows)
    assert native.kernels() is None and native.ops() is None


def test_a_choice_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "yes")
    with pytest.raises(ValueError, match="POSEKIT_NATIVE is 'yes'"):
        native.ops()


@needs_compiled_ops
def test_compiled_ops_run_here(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    assert native.kernels().posekit_num_threads() >= 1
    assert native.ops().posekit_threads() == native.kernels().posekit_num_threads()
    with native.disabled():
        assert native.ops() is None and native.kernels() is None
    assert native.ops() is not None


@needs_compiled_ops
def test_programs_for_xla_have_no_compiled_ops(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    seen = {}

    @tf.function
    def inner(name):
        seen[name] = native.ops()
        return 0

    tf.function(inner.python_function, jit_compile=True)("compiled by XLA")
    tf.function(lambda: inner("called from XLA"), jit_compile=True)()
    tf.function(inner.python_function)("graph")
    assert seen["compiled by XLA"] is None and seen["called from XLA"] is None
    assert seen["graph"] is not None


@pytest.fixture
def few_sources(tmp_path, monkeypatch):
    """Folder with one of the sources and the headers: all take a compiler long, which is not what is tested."""
    folder = tmp_path / "src"
    folder.mkdir()
    for path in build.SOURCES.iterdir():
        if path.name == "parallel.cc" or path.suffix == ".h":
            (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCES", folder)
    return folder


@needs_compiler
def test_what_was_made_of_other_sources_or_otherwise_is_built_anew(few_sources, tmp_path):
    library = tmp_path / "made" / build.KERNELS

    def is_built_anew(**options):
        before = library.stat().st_ino if library.exists() else None
        build.build(library.parent, with_ops=False, **options)
        return library.stat().st_ino != before

    assert is_built_anew() and not is_built_anew() and build.of_these_sources(library)
    with open(few_sources / "parallel.cc", "a") as file:
        file.write("// changed\n")
    assert not build.of_these_sources(library)
    assert is_built_anew() and not is_built_anew() and build.of_these_sources(library)
    assert is_built_anew(portable=True) and not is_built_anew(portable=True)


@needs_compiler
def test_libraries_of_other_sources_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    made = pathlib.Path(native.kernels()._name)
    stamp, count = re.subn(rb"(posekit-stamp:)[0-9a-f]{8}", rb"\g<1>00000000", made.read_bytes())
    assert count == 1
    (tmp_path / build.KERNELS).write_bytes(stamp)
    build._seal(tmp_path / build.KERNELS)
    done = run_python("from posekit.ops import native; print(native.kernels())", POSEKIT_NATIVE_DIR=tmp_path)
    assert done.stdout.strip() == "None"
    assert "was compiled from other sources than this posekit's; build it anew: python tools" in done.stderr
    assert f"build_ops.py --output_dir={tmp_path}" in done.stderr


@needs_compiler
def test_two_builds_at_once_give_one_library(few_sources, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build.build(tmp_path / "both", with_ops=False), range(2)))
    assert made[0] == made[1]
    assert [path.name for path in (tmp_path / "both").iterdir()] == [build.KERNELS]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('case "$*" in *--version*) echo 1;; *) echo "x.cc:1: error: no space" >&2; exit 1;; esac', "no space"),
        ('case "$*" in *--version*) echo 2;; *-shared*) kill -9 $$;; *) exit 0;; esac', "ended with -9"),
        ("exit 0", "without an error, but wrote no posekit_kernels.so"),
    ],
    ids=["fails", "killed at the end", "writes nothing"],
)
def test_a_compiler_that_fails_leaves_nothing(tmp_path, monkeypatch, script, told):
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    with pytest.raises(build.BuildError, match=told):
        build.build(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_without_a_compiler_the_plain_path_runs_and_says_so_once(tmp_path):
    code = (
        "from posekit.ops import native; native.kernels(); native.kernels(); native.ops();"
        "print({row['implementation'] for row in native.status()})"
    )
    done = run_python(code, CXX="there-is-none", POSEKIT_CACHE=str(tmp_path), POSEKIT_NATIVE_DIR="")
    assert done.stdout.strip() == "{'plain'}"
    assert done.stderr.count("runs without compiled ops") == 1 and "CXX is 'there-is-none'" in done.stderr


def test_demanding_what_is_not_there_is_an_error(tmp_path):
    code = "from posekit.ops import native\ntry:\n native.kernels()\nexcept native.NativeError as e:\n print(e)"
    done = run_python(code, CXX="there-is-none", POSEKIT_CACHE=str(tmp_path), POSEKIT_NATIVE="1", POSEKIT_NATIVE_DIR="")
    assert "tools/build_ops.py" in done.stdout and "which cannot be run; give a compiler alone" in done.stdout
    assert "plain" not in done.stderr and "runs without" not in done.stderr
    code = "from posekit.ops import native; print({row['implementation'] for row in native.status()})"
    done = run_python(code, CXX="there-is-none", POSEKIT_CACHE=str(tmp_path), POSEKIT_NATIVE="1", POSEKIT_NATIVE_DIR="")
    assert done.stdout.strip() == "{'none'}"


@needs_compiler
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(build.BuildError, match="cannot be written"):
        build.build(tmp_path / "file" / "made")


@needs_compiler
def test_a_library_that_is_none_is_not_loaded(tmp_path):
    (tmp_path / build.KERNELS).write_bytes(b"not a library")
    code = "from posekit.ops import native; print(native.kernels())"
    done = run_python(code, POSEKIT_NATIVE_DIR=str(tmp_path))
    assert done.stdout.strip() == "None" and "runs without compiled ops" in done.stderr


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "100 bytes", "a page", "half", "zeros within", "a pipe"])
def test_a_library_that_was_damaged_in_the_cache_is_built_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    good = pathlib.Path(native.kernels()._name)
    assert build.whole(good)
    compiler = fake_compiler(
        tmp_path,
        f'for last; do :; done\ncase "$*" in *--version*) exec {build.compiler()} --version;; '
        f'*-shared*) cp {good} "$last"; echo built >> {tmp_path}/log;; *) : > "$last";; esac',
    )
    code = "from posekit.ops.native import build; print(build.cached())"
    folder = pathlib.Path(run_python(code, CXX=compiler, POSEKIT_CACHE=str(tmp_path / "cache")).stdout.strip())
    folder.mkdir(parents=True)
    content = good.read_bytes()
    half = len(content) // 2
    left = {"empty": b"", "100 bytes": content[:100], "a page": content[:4096], "half": content[:half]}
    left["zeros within"] = content[:half] + bytes(64) + content[half + 64 :]
    if damage == "a pipe":
        os.mkfifo(folder / build.KERNELS)
    else:
        (folder / build.KERNELS).write_bytes(left[damage])
    assert not build.whole(folder / build.KERNELS)
    code = "from posekit.ops import native; print(native.kernels() is not None)"
    for _ in range(2):
        done = run_python(code, CXX=compiler, POSEKIT_CACHE=str(tmp_path / "cache"), POSEKIT_NATIVE_DIR="")
        assert done.stdout.strip() == "True", done.stderr
    assert (tmp_path / "log").read_text() == "built\n" and build.whole(folder / build.KERNELS)


def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    script = f'case "$*" in *--version*) echo 1;; *) sleep 300 & echo $! >> {tmp_path}/children; wait;; esac'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    monkeypatch.setattr(build._run, "__defaults__", (1.0,))
    with pytest.raises(build.BuildError, match="did not run: .* timed out after 1"):
        build.build(tmp_path / "made")
    for child in (tmp_path / "children").read_text().split():
        state = pathlib.Path(f"/proc/{child}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, 'echo "x.cc:1: error: no space" >&2; exit 1'))
    monkeypatch.setattr(build, "_compiler_version", lambda tool: "1")
    monkeypatch.setattr(build, "_ROOM", 1 << 62)
    with pytest.raises(build.BuildError, match=r"made is full; make room there, or name another folder.*\(.*no space"):
        build.build(tmp_path / "made")


def test_a_child_of_fork_does_not_wait_for_its_parent_s_build(tmp_path):
    compiler = fake_compiler(tmp_path, f"touch {tmp_path}/busy; sleep 3; exit 1")
    code = (
        "import os, pathlib, threading, time\n"
        "from posekit.ops import native\n"
        "threading.Thread(target=native.kernels, daemon=True).start()\n"
        f"while not pathlib.Path('{tmp_path}/busy').exists():\n    time.sleep(0.01)\n"
        "os.environ['CXX'] = 'there-is-none'\n"
        "child = os.fork()\n"
        "if not child:\n    os._exit(0 if native.kernels() is None else 1)\n"
        "start = time.monotonic()\n"
        "assert os.waitpid(child, 0)[1] == 0 and time.monotonic() - start < 2\n"
    )
    run_python(code, CXX=compiler, POSEKIT_CACHE=str(tmp_path / "cache"), POSEKIT_NATIVE_DIR="")


def test_a_number_of_threads_that_is_none_is_named(monkeypatch):
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "abc")
    with pytest.raises(ValueError, match="TF_NUM_INTRAOP_THREADS is 'abc'; give a whole number"):
        native._threads()


def test_everything_that_has_a_kernel_is_public():
    assert set(native.OPS) <= set(posekit.ops.__all__)
    for name in posekit.ops.__all__:
        assert getattr(posekit.ops, name) is not None


@needs_compiler
def test_the_key_depends_on_sources_and_tensorflow(monkeypatch, tmp_path):
    before = build.key()
    monkeypatch.setattr(build, "_tensorflow_version", lambda: "2.0.0")
    assert build.key() != before
    monkeypatch.undo()
    copy = tmp_path / "src"
    copy.mkdir()
    for path in pathlib.Path(build.SOURCES).iterdir():
        (copy / path.name).write_bytes(path.read_bytes() + b"\n")
    monkeypatch.setattr(build, "SOURCES", copy)
    assert build.key() != before


FIRST = ("from posekit.ops.decode_paf import find_peaks", "import posekit.ops.decode_paf", "")


@pytest.mark.parametrize("first", FIRST)
def test_names_are_functions_whatever_was_imported_before(first):
    code = f"{first}\nfrom posekit.ops import decode_paf, native\nassert callable(decode_paf), decode_paf\n"
    code += "import sys, posekit.ops.native\nassert 'tensorflow' not in sys.modules and native is posekit.ops.native"
    run_python(code)


@needs_compiled_ops
def test_libraries_that_were_built_beforehand_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    assert native.ops() is not None
    folder = os.environ.get("POSEKIT_NATIVE_DIR")  # as in make test-versions; else those that were compiled here
    made = pathlib.Path(folder or pathlib.Path(native.kernels()._name).parent).resolve()
    code = (
        "from posekit.ops import native\nprint(native.ops() is not None)\n"
        "print(*sorted({line.split()[-1] for line in open('/proc/self/maps') if '/posekit_' in line}), sep='\\n')"
    )
    given = {"CXX": "there-is-none", "POSEKIT_CACHE": tmp_path, "POSEKIT_NATIVE": 1, "POSEKIT_NATIVE_DIR": made}
    done = run_python(code, **given)
    assert done.stdout.split() == ["True", f"{made}/{build.KERNELS}", f"{made}/{build.OPS}"]
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_the_search_for_a_library_within_a_traced_function_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    good = pathlib.Path(native.kernels()._name).parent
    compiler = fake_compiler(
        tmp_path,
        f'for last; do :; done\ncase "$*" in *--version*) exec {build.compiler()} --version;; '
        f'*-shared*) cp {good}/"$(basename "$last")" "$last";; *) : > "$last";; esac',
    )
    code = "import tensorflow as tf\nfrom posekit.ops import native\nprint(tf.function(lambda: native.ops() is None)())"
    done = run_python(code, CXX=compiler, POSEKIT_CACHE=str(tmp_path / "cache"), POSEKIT_NATIVE_DIR="")
    assert len(list(tmp_path.glob("cache/native/*/*.so"))) == 2
    assert "AutoGraph" not in done.stderr and "False" in done.stdout
