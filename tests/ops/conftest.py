"""Both implementations of an op: what most of its tests run on."""

import pytest
from compiled import NO_COMPILED_OPS

from posekit.ops import native


@pytest.fixture(params=["plain", "compiled"])
def path(request, monkeypatch):
    """The implementation that runs: `"plain"` or `"compiled"`."""
    if request.param == "compiled" and NO_COMPILED_OPS:
        pytest.skip(NO_COMPILED_OPS)
    monkeypatch.setenv("POSEKIT_NATIVE", "1" if request.param == "compiled" else "0")
    return request.param


@pytest.fixture
def compiled_ops(path):
    """The module of compiled ops, for tests of what they alone promise, which run on no other path.

    Afterwards they have as many threads as before.
    """
    kernels = native.kernels()
    threads = kernels.posekit_num_threads()
    yield native.ops()
    kernels.posekit_set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """Leaves the plain path out of tests that ask for the compiled ops."""
    items[:] = [
        item
        for item in items
        if "compiled_ops" not in getattr(item, "fixturenames", ()) or item.callspec.params["path"] == "compiled"
    ]
