"""Both implementations of an op: what most of its tests run on."""

import pytest
import tensorflow as tf

from posekit.ops import native
from posekit.ops.native import build


@pytest.fixture(params=["plain", "compiled"])
def path(request, monkeypatch):
    """The implementation that runs: `"plain"` or `"compiled"`."""
    if request.param == "compiled" and build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("POSEKIT_NATIVE", "1" if request.param == "compiled" else "0")
    return request.param


@pytest.fixture
def compiled_ops(path):
    """The module of compiled ops, for tests of what they alone promise; these run on no other path."""
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees a GPU, where its own kernels run")
    return native.ops()


def pytest_collection_modifyitems(items):
    """Leaves the plain path out of tests that ask for the compiled ops."""
    items[:] = [
        item
        for item in items
        if "compiled_ops" not in getattr(item, "fixturenames", ()) or item.callspec.params["path"] == "compiled"
    ]
