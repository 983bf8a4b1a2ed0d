"""Both implementations of an op: what most of its tests run on."""

import pytest
from compiled import NO_COMPILED_OPS, NO_COMPILER

from posekit.ops import native


@pytest.fixture(params=["plain", "compiled"])
def path(request, monkeypatch):
    """The implementation that runs: `"plain"` or `"compiled"`."""
    if request.param == "compiled":
        request.getfixturevalue("compiled_ops")
    else:
        monkeypatch.setenv("POSEKIT_NATIVE", "0")
    return request.param


@pytest.fixture
def kernels(monkeypatch):
    """The compiled functions for NumPy's arrays, which afterwards have as many threads as before."""
    if NO_COMPILER:
        pytest.skip(NO_COMPILER)
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    library = native.kernels()
    threads = library.posekit_num_threads()
    yield library
    library.posekit_set_num_threads(threads)


@pytest.fixture
def compiled_ops(kernels):
    """The module of compiled ops, for tests of what they alone promise, which run on no other path."""
    if NO_COMPILED_OPS:
        pytest.skip(NO_COMPILED_OPS)
    return native.ops()


def pytest_collection_modifyitems(items):
    """Leaves the plain path out of tests that ask for what is compiled."""
    items[:] = [
        item
        for item in items
        if not {"compiled_ops", "kernels"} & set(getattr(item, "fixturenames", ()))
        or getattr(getattr(item, "callspec", None), "params", {}).get("path") != "plain"
    ]
