"""Kernels for GPUs: compiled, registered with TensorFlow beside those for the CPU, and chosen by POSEKIT_CUDA.

No GPU is needed: what the kernels compute is checked by `cuda_check.py`, on a machine with one.
"""

import ctypes

import numpy as np
import pytest
import tensorflow as tf
from compiled import NO_COMPILER, fake_compiler, needs_compiler, run_python

from posekit.ops import native
from posekit.ops.native import build

NAMES = (
    *("NearestNeighbors", "MeshReprojection", "MeshReprojectionGradient", "GradientPenalty", "GradientPenaltyGrad"),
    *("LocallyConnected", "LocallyConnectedRowsGrad", "LocallyConnectedKernelGrad"),
)
OPS = tuple(f"Posekit{name}" for name in NAMES)
# What a kernel reads on the host.
ON_HOST = {
    "PosekitNearestNeighbors": {"point_splits", "reference_splits"},
    **{op: {"max_norm"} for op in OPS if "LocallyConnected" in op},
}
# What is told where NVCC names a folder: first of all, the C++ compiler of the machine is looked for.
NO_NVCC = r"no C\+\+ compiler" if NO_COMPILER else r"no CUDA compiler \(nvcc\)"
needs_nvcc = pytest.mark.skipif(
    build.nvcc() is None or bool(NO_COMPILER), reason=NO_COMPILER or "no CUDA compiler (nvcc) on this machine"
)


@pytest.fixture(scope="module")
def cuda_folder(tmp_path_factory):
    """Folder with all libraries; the kernels are for one kind of GPU, which compiles in half the time."""
    folder = tmp_path_factory.mktemp("cuda")
    build.build_cuda_ops(folder, architectures=("90",))
    for library in build.build().iterdir():
        (folder / library.name).symlink_to(library)
    return folder


@pytest.fixture
def with_gpu(monkeypatch):
    """TensorFlow seems to see a GPU, and nothing is loaded yet."""
    monkeypatch.setattr(native, "_on_gpu", lambda: True)
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.delenv("POSEKIT_NATIVE", raising=False)
    monkeypatch.delenv("POSEKIT_CUDA", raising=False)
    return monkeypatch


@needs_nvcc
def test_libraries_are_those_of_this_tensorflow(cuda_folder):
    names = {path.name for path in cuda_folder.iterdir()}
    assert names == {build.KERNELS, build.OPS, build.CUDA, f"posekit_cuda_ops-{tf.__version__}.so"}


LOAD = """
import numpy as np, tensorflow as tf
from posekit.ops import native
native._on_gpu = lambda: True
ops = native.ops()
"""


@needs_nvcc
def test_every_op_has_a_kernel_for_gpus_in_every_type(cuda_folder):
    code = f"""{LOAD}
from tensorflow.python.framework import kernels
for op in {OPS!r}:
    for kernel in kernels.get_registered_kernels_for_op(op).kernel:
        types = [tf.as_dtype(one).name for given in kernel.constraint for one in given.allowed_values.list.type]
        print(op, kernel.device_type, *types, *sorted(kernel.host_memory_arg))
print(*(row["op"] + "=" + row["cuda"] + "=" + row["implementation"] for row in native.status()))
"""
    *lines, states = run_python(code, POSEKIT_CUDA=1, POSEKIT_NATIVE_DIR=cuda_folder).stdout.splitlines()
    expected = set()
    for op in OPS:
        for dtype in ("float32", "float64"):
            expected |= {" ".join([op, "GPU", dtype, *sorted(ON_HOST.get(op, ()))]), f"{op} CPU {dtype}"}
    assert set(lines) == expected and len(lines) == len(expected)
    registered = ("nearest_neighbors", "mesh_reprojection", "gradient_penalty", "locally_connected")
    states = dict(state.split("=", 1) for state in states.split())
    others = {"decode_paf": "compiled=compiled", "decode_paf_batch": "none=compiled", "rasterize": "none=compiled"}
    assert states == {**{op: "registered=compiled" for op in registered}, **others}


@needs_compiler
def test_gradients_of_the_penalty_run_where_its_state_is():
    code = """
import keras, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], 2 * [tf.config.LogicalDeviceConfiguration()])
from posekit.ops import gradient_penalty
critic = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.LeakyReLU(), keras.layers.Dense(1)])

def gradient():
    with tf.GradientTape() as tape:
        with tf.device("CPU:1"):
            penalty = gradient_penalty(critic, [tf.ones([2, 4])], [tf.zeros([2, 4])])
    return tape.gradient(penalty, critic.trainable_weights[0])

print(gradient().device.endswith("CPU:1"))
graph = tf.function(gradient).get_concrete_function().graph
print({op.type: "CPU:1" in op.device for op in graph.get_operations() if op.type.startswith("PosekitGradientPenalty")})
"""
    found = run_python(code, POSEKIT_NATIVE=1).stdout.splitlines()
    assert found == ["True", "{'PosekitGradientPenalty': True, 'PosekitGradientPenaltyGrad': True}"]


@needs_nvcc
def test_without_a_gpu_in_tensorflow_the_ops_run_on_the_cpu(cuda_folder, tmp_path):
    rng = np.random.default_rng(0)
    points, references = rng.normal(size=(2, 30, 2)).astype(np.float32)
    image, vertices = rng.random((1, 9, 7)) < 0.5, rng.uniform(0, 8, (1, 5, 2)).astype(np.float32)
    np.savez(tmp_path / "given.npz", points=points, references=references, image=image, vertices=vertices)
    code = f"""{LOAD}
from posekit.ops import decode_paf_batch, locally_connected, mesh_reprojection, nearest_neighbors
given = np.load({str(tmp_path / "given.npz")!r})
assert native.ops() is ops is not None
found, _ = tf.function(nearest_neighbors)(given["points"], given["references"])
vertices = tf.constant(given["vertices"])
with tf.GradientTape() as tape:
    tape.watch(vertices)
    sums = mesh_reprojection(given["image"], vertices)
layer = locally_connected(tf.ones([2, 2, 1]), [[3.0, 4.0], [5.0, 6.0]], [[1, 1], [0, 1]], form="compiled")
people = decode_paf_batch(tf.zeros([1, 8, 8, 19]), tf.zeros([1, 8, 8, 38]), max_people=3)
np.savez({str(tmp_path / "found.npz")!r}, found=found, sums=sums, gradient=tape.gradient(sums, vertices),
         layer=layer, counts=people["counts"])
"""
    run_python(code, POSEKIT_CUDA=1, POSEKIT_NATIVE_DIR=cuda_folder)
    found = np.load(tmp_path / "found.npz")
    apart = np.linalg.norm(points[:, None] - references, axis=2)
    np.testing.assert_array_equal(found["found"], apart.argmin(1))
    pixels = np.argwhere(image[0])[:, ::-1]
    apart = np.linalg.norm(pixels[:, None] - vertices[0], axis=2)
    to_mesh = np.abs(pixels - vertices[0, apart.argmin(1)]).sum()
    np.testing.assert_allclose(found["sums"][:, 0], [to_mesh, apart.min(0).sum()], rtol=1e-5)
    assert found["gradient"].shape == vertices.shape and found["gradient"].any()
    np.testing.assert_array_equal(found["layer"][0, :, 0], [3, 10])
    assert found["counts"].tolist() == [0]


@needs_nvcc
@pytest.mark.parametrize("doublings, told", [(3, 15), (29, (1 << 30) - 1), (30, -1), (31, -1), (40, -1)])
def test_critics_too_large_for_the_kernels_are_refused(cuda_folder, doublings, told):
    """Of one number, put together with itself again and again, and one sample: three numbers for each of a step's."""
    library = ctypes.CDLL(str(cuda_folder / build.CUDA))
    state = library.posekit_cuda_gradient_penalty_state
    state.restype = ctypes.c_int64
    steps = sum(([3, 0, 0, 2, index, index] for index in range(doublings)), [0, 0, 0, 0])
    plan = np.array([1, 0, 0, 0, 0, 1 + doublings, *steps, 1, doublings, 1, 0], np.int32)
    state.argtypes = [ctypes.c_void_p, ctypes.c_int64, *3 * [ctypes.c_void_p]]
    assert state(plan.ctypes.data, 1, np.ones(1, np.int32).ctypes.data, None, None) == (3 * told if told > 0 else -1)


def test_gpus_run_tensorflows_own_kernels_unless_asked(with_gpu):
    for value in ("", "0"):
        with_gpu.setenv("POSEKIT_CUDA", value)
        assert native.ops() is None
    row = native.status()[0]
    assert row["implementation"] == "plain" and row["device"] == "GPU" and "POSEKIT_CUDA=1" in row["reason"]
    assert row["cuda"] in ("no nvcc", "nvcc found", "compiled")


def test_a_choice_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "")
    monkeypatch.setenv("POSEKIT_CUDA", "yes")
    with pytest.raises(ValueError, match="POSEKIT_CUDA is 'yes'"):
        native.ops()
    row = native.status()[0]
    assert row["implementation"] == "none" and "POSEKIT_CUDA is 'yes'" in row["reason"]


@pytest.mark.parametrize("variable", ["NVCC", "POSEKIT_NATIVE_DIR"])
def test_demanding_what_is_not_there_is_an_error(with_gpu, tmp_path, variable):
    with_gpu.setenv("POSEKIT_CUDA", "1")
    with_gpu.delenv("POSEKIT_NATIVE_DIR", raising=False)
    with_gpu.setenv(variable, str(tmp_path))
    missing = "has no posekit_cuda_ops" if variable == "POSEKIT_NATIVE_DIR" else NO_NVCC
    with pytest.raises(native.NativeError, match=f"no compiled op for GPUs: .*{missing}.*--cuda"):
        native.ops()
    row = native.status()[0]
    assert row["implementation"] == "none" and "POSEKIT_CUDA is 1" in row["reason"]
    with_gpu.setenv("POSEKIT_NATIVE", "0")
    assert native.ops() is None


@needs_nvcc
def test_a_library_that_is_none_is_an_error(with_gpu, tmp_path):
    (tmp_path / build.cuda_ops_name()).write_bytes(b"not a library")
    with_gpu.setenv("POSEKIT_CUDA", "1")
    with_gpu.setenv("POSEKIT_NATIVE_DIR", str(tmp_path))
    with pytest.raises(native.NativeError, match="for GPUs"):
        native.ops()


def test_a_compiler_that_fails_leaves_nothing_and_says_why_in_a_line(tmp_path, monkeypatch):
    works = 'case "$*" in *--version*) echo 1;; *-shared*) for last; do :; done; cp /bin/sh "$last";; esac'
    fails = 'case "$*" in *--version*) echo 1;; *) echo "x: error: no space" >&2; echo more >&2; exit 1;; esac'
    monkeypatch.setenv("NVCC", fake_compiler(tmp_path, fails, "nvcc-fails"))
    with pytest.raises(build.BuildError, match="no space$"):
        build.build_cuda_ops(tmp_path / "one")
    assert list((tmp_path / "one").iterdir()) == []
    monkeypatch.setenv("NVCC", fake_compiler(tmp_path, works, "nvcc-works"))
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, fails, "g++-fails"))
    with pytest.raises(build.BuildError, match="no space$"):
        build.build_cuda_ops(tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").iterdir()] == [build.CUDA]


def test_what_registers_the_kernels_depends_on_tensorflow_and_the_kernels_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("NVCC", fake_compiler(tmp_path, "echo 1", "nvcc"))
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "echo 1", "g++"))
    kernels, ops = build.cached_cuda(), build.cached_cuda_ops()
    assert ops.parent.parent == kernels and tf.__version__ in ops.name
    assert build.cached_cuda(("80",)) != kernels
    monkeypatch.setattr(build, "_tensorflow_version", lambda: "2.0.0")
    assert build.cached_cuda() == kernels
    assert build.cached_cuda_ops().parent != ops.parent and "2.0.0" in build.cached_cuda_ops().name
