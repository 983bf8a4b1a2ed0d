"""Small bodies, pictures and reference values for tests, shipped so that users can test their own code too."""

import json
import os
import pathlib

import numpy as np

from posekit.bodies import BodyModel
from posekit.skeletons import COCO_PLUS19, SMPL24

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = _REPOSITORY / "tests" / "fixtures"


def tiny_body(num_vertices=60, num_shape=10, seed=0):
    """A body of a few dozen random vertices around a plausible 24-joint skeleton.

    Args:
        num_vertices: Vertices, at least 24 (every joint gets some).
        num_shape: Shape coefficients.
        seed: Seed of the random arrays.

    Returns:
        A `BodyModel` with 24 joints and 19 keypoints; its faces are arbitrary triangles.
    """
    rng = np.random.default_rng(seed)
    # fmt: off
    rest = np.array([
        [0, 0, 0], [.06, -.08, 0], [-.06, -.08, 0], [0, .1, 0], [.1, -.45, 0], [-.1, -.45, 0], [0, .24, 0],
        [.09, -.85, -.03], [-.09, -.85, -.03], [0, .3, 0], [.11, -.9, .09], [-.11, -.9, .09], [0, .5, 0],
        [.08, .42, 0], [-.08, .42, 0], [0, .6, .03], [.18, .45, 0], [-.18, .45, 0], [.44, .44, 0], [-.44, .44, 0],
        [.69, .45, 0], [-.69, .45, 0], [.78, .44, 0], [-.78, .44, 0],
    ], np.float32)
    # fmt: on
    owner = np.arange(num_vertices) % SMPL24.num_joints
    template = rest[owner] + rng.normal(0, 0.04, (num_vertices, 3))
    one_hot = np.eye(SMPL24.num_joints)
    weights = one_hot[owner] + 0.3 * one_hot[np.maximum(0, np.array(SMPL24.parents)[owner])]
    regressor = one_hot[owner].T
    keypoints = rng.random((COCO_PLUS19.num_joints, num_vertices)) ** 8

    def rows_to_one(matrix):
        return (matrix / matrix.sum(-1, keepdims=True)).astype(np.float32)

    return BodyModel(
        name="tiny",
        licence="Apache-2.0",
        v_template=template.astype(np.float32),
        shapedirs=rng.normal(0, 0.01, (num_vertices, 3, num_shape)).astype(np.float32),
        posedirs=rng.normal(0, 0.002, (num_vertices, 3, 9 * (SMPL24.num_joints - 1))).astype(np.float32),
        J_regressor=rows_to_one(regressor),
        keypoint_regressor=rows_to_one(keypoints),
        weights=rows_to_one(weights),
        parents=np.array(SMPL24.parents, np.int32),
        faces=rng.permuted(np.tile(np.arange(num_vertices), (2 * num_vertices, 1)), axis=1)[:, :3].astype(np.int32),
    )


def load_fixture(name, directory=None):
    """Reads one reference fixture of the source tree.

    Args:
        name: Fixture name without suffix, such as `"hmr_lbs"`.
        directory: Folder with the `.npz` files and `manifest.json`; the source tree's `tests/fixtures` by default.

    Returns:
        Dict of arrays; entries that the manifest marks as JSON come decoded.

    Raises:
        FileNotFoundError: If the fixture is not there.
    """
    directory = pathlib.Path(directory or FIXTURES)
    path = directory / f"{name}.npz"
    if not path.exists():
        there = sorted(p.stem for p in directory.glob("*.npz"))
        raise FileNotFoundError(f"No fixture {path}; available: {there}. Fixtures come with a source checkout only.")
    keys = json.loads((directory / "manifest.json").read_text())["fixtures"].get(name, {}).get("keys", {})
    with np.load(path, allow_pickle=False) as archive:
        return {
            key: json.loads(bytes(archive[key]).decode()) if keys.get(key, {}).get("json") else archive[key]
            for key in archive.files
        }


def shared_data():
    """Folder of small real datasets beside the source tree; skips the calling test where there is none.

    Returns:
        `pathlib.Path`: `$POSEKIT_SHARED_DATA`, else `../shared/data` beside the source checkout.
    """
    import pytest

    folder = pathlib.Path(os.environ.get("POSEKIT_SHARED_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real sample data not found at {folder} (set POSEKIT_SHARED_DATA)")
    return folder


def check_layer(layer, inputs, directory, tolerance=1e-6):
    """Checks what every Keras layer must be able to do.

    The layer is called eagerly, in a graph with an unknown batch size and on an empty batch, rebuilt from its
    configuration, and saved and loaded as part of a model.

    Args:
        layer: The layer; it is built by the first call if it is not yet.
        inputs: List of arrays `[batch, ...]`, its positional call arguments.
        directory: An existing folder for the saved model.
        tolerance: Largest difference allowed between any two of the results.

    Raises:
        AssertionError: If a result differs, with what was done.
    """
    import keras
    import tensorflow as tf

    expected = layer(*inputs)
    signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in map(np.asarray, inputs)]
    graph = tf.function(lambda *tensors: layer(*tensors), input_signature=signature)
    _assert_close(graph(*inputs), expected, tolerance, "a call in a graph")
    for result in tf.nest.flatten(layer(*[array[:0] for array in inputs])):
        assert result.shape[0] == 0, f"{layer.name} on an empty batch gives the shape {result.shape}"

    config = layer.get_config()
    twin = type(layer).from_config(config)
    assert _plain(twin.get_config()) == _plain(config), f"{layer.name} changes its configuration in a round trip"
    _assert_close(_shapes(twin(*inputs)), _shapes(expected), 0, "a call of the layer rebuilt from its configuration")

    symbols = [keras.Input(array.shape[1:], dtype=str(array.dtype)) for array in inputs]
    results, inputs = layer(*symbols), list(inputs)
    if len(inputs) == 1:  # a model of one input takes a tensor, not a list
        symbols, inputs = symbols[0], inputs[0]
    check_model(keras.Model(symbols, results), inputs, directory, tolerance)


def check_model(model, inputs, directory, tolerance=1e-6, export=True):
    """Checks what every Keras model must be able to do: saving, loading, prediction and export keep its outputs.

    Args:
        model: A built model.
        inputs: What it is called with: an array, or a list of arrays.
        directory: An existing folder for the saved files.
        tolerance: Largest difference allowed between any two of the results.
        export: Whether to check a SavedModel too.

    Raises:
        AssertionError: If a result differs, with what was done.
    """
    import keras
    import tensorflow as tf

    expected = model(inputs)
    _assert_close(model.predict(inputs, verbose=0), expected, tolerance, "predict")

    archive = pathlib.Path(directory) / "model.keras"
    model.save(archive)
    loaded = keras.saving.load_model(archive)
    assert type(loaded) is type(model), f"{archive} loads as {type(loaded).__name__}, not {type(model).__name__}"
    _assert_close(loaded(inputs), expected, tolerance, "loading the .keras archive")
    assert _plain(loaded.get_config()) == _plain(model.get_config()), "the .keras archive changes the configuration"

    weights = pathlib.Path(directory) / "model.weights.h5"
    model.save_weights(weights)
    for variable in loaded.variables:
        variable.assign(np.zeros_like(variable) if variable.dtype == "float32" else variable)
    loaded.load_weights(weights)
    _assert_close(loaded(inputs), expected, tolerance, "loading the .weights.h5 file")

    if export:
        folder = pathlib.Path(directory) / "saved_model"
        model.export(folder, verbose=False)
        exported = tf.saved_model.load(str(folder))
        _assert_close(exported.serve(inputs), expected, tolerance, "the exported SavedModel")


def check_half_precision(make, inputs, output_dtype="float32"):
    """Checks that a layer or model works under the mixed-precision policies.

    Args:
        make: Function without arguments that makes the layer; called under each policy.
        inputs: List of float32 arrays `[batch, ...]`, its positional call arguments.
        output_dtype: Type that the results must have: `"float32"`, or `"half"` for the policy's own.

    Raises:
        AssertionError: If a result is not finite or has another type, or a weight is not kept in float32.
    """
    import keras
    import tensorflow as tf

    before = keras.config.dtype_policy()
    try:
        for half in ("float16", "bfloat16"):
            keras.config.set_dtype_policy(f"mixed_{half}")
            layer = make()
            for result in tf.nest.flatten(layer(*inputs)):
                wanted = half if output_dtype == "half" else output_dtype
                assert result.dtype == wanted, f"under mixed_{half} a result is {result.dtype.name}, not {wanted}"
                assert np.isfinite(tf.cast(result, "float32")).all(), f"under mixed_{half} a result is not finite"
            for variable in layer.variables:
                assert variable.dtype != half, f"under mixed_{half} {variable.path} is kept in {half}"
    finally:
        keras.config.set_dtype_policy(before)


def _assert_close(result, expected, tolerance, what):
    import tensorflow as tf

    tf.nest.assert_same_structure(result, expected)
    for one, other in zip(tf.nest.flatten(result), tf.nest.flatten(expected)):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=f"{what} changes the result")


def _shapes(result):
    import tensorflow as tf

    return tf.nest.map_structure(lambda tensor: np.array(tensor.shape), result)


def _plain(config):
    """A configuration as it comes back from JSON: lists for tuples."""
    return json.loads(json.dumps(config, default=str))
