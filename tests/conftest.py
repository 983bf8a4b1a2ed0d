"""Order and chance: files that take long come first, so that the processes of `make test` end together."""

import pathlib
import random

import keras
import numpy as np

# The longest first; all others follow in their own order.
LONG = (
    "test_commands_v2v.py",
    "test_notebooks.py",
    "test_commands.py",
    "test_benchmark.py",
    "test_commands_v2v_options.py",
    "test_commands_lcn.py",
    "test_gan.py",
    "test_derivatives.py",
    "test_native_xla.py",
    "test_cuda_build.py",
    "test_server.py",
    "test_create_sample_data.py",
    "test_commands_v2v_datasets.py",
    "test_nearest_neighbors.py",
    "test_commands_openpose.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONG)}
    # Sorting keeps the order of what is equal, so tests of a file stay together.
    items.sort(key=lambda item: places.get(pathlib.Path(item.path).name, len(LONG)))


_seeded = set()  # files


def pytest_runtest_setup(item):
    """Tests draw the same random numbers in every run, whatever other files ran before in the process.

    TensorFlow's own generator is seeded once a file: with a new seed it throws away what it has prepared so far.
    """
    if item.path not in _seeded:
        _seeded.add(item.path)
        keras.utils.set_random_seed(0)
    random.seed(0)  # of which Keras draws the seeds of weights
    np.random.seed(0)
