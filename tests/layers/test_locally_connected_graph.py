import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.geometry.graphs import laplacian, limb_lengths, row_normalized
from posekit.layers import LocallyConnectedGraph, NeighbourMask
from posekit.layers.locally_connected import find_skeleton, skeleton_config
from posekit.ops.locally_connected import _faster_form
from posekit.skeletons import COCO17, H36M17, Skeleton
from posekit.testing import check_half_precision, check_layer, check_model

CHAIN = Skeleton("chain", ("a", "b", "c", "d"), (("b", "a"), ("c", "b"), ("d", "c")))


def random_features(batch=3, joints=4, features=5, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, joints, features)).astype(np.float32)


def influence(layer, inputs):
    """Which joint of the output depends on which joint of the input."""
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    return np.abs(tape.batch_jacobian(outputs, inputs)).sum(axis=(0, 2, 4)) > 0


@pytest.mark.parametrize("skeleton", [CHAIN, H36M17, COCO17, "LSP14"])
@pytest.mark.parametrize("hops", [0, 1, 3])
def test_joints_see_their_neighbours_only(skeleton, hops):
    layer = LocallyConnectedGraph(3, skeleton=skeleton, hops=hops)
    expected = layer.mask_layer.adjacency
    assert (skeleton if isinstance(skeleton, str) else skeleton.name) != "chain" or expected.sum() in (4, 10, 16)
    np.testing.assert_array_equal(influence(layer, random_features(2, len(expected), 2)), expected != 0)


def test_direction_of_the_adjacency():
    # Row j tells how much joint j takes: here the first joint takes from the second, and not the other way.
    layer = LocallyConnectedGraph(1, adjacency=[[1, 2], [0, 1]], max_norm=None, use_bias=False)
    layer.build((None, 2, 1))
    layer.kernel.assign([[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(layer(np.array([[[10.0], [1.0]]])), [[[12.0], [1.0]]])
    np.testing.assert_array_equal(influence(layer, random_features(2, 2, 1)), [[True, True], [False, True]])


def test_worked_by_hand():
    layer = LocallyConnectedGraph(2, skeleton=CHAIN, hops=1, max_norm=None)
    inputs = random_features()
    result = layer(inputs).numpy()
    kernel, bias = (weight.numpy() for weight in layer.trainable_variables)
    blocks = kernel.reshape(4, 5, 4, 2)
    # The second joint of the chain hangs between the first and the third.
    expected = sum(inputs[:, source] @ blocks[source, :, 1] for source in (0, 1, 2)) + bias.reshape(4, 2)[1]
    np.testing.assert_allclose(result[:, 1], expected, atol=1e-5)
    layer.max_norm = 0.5
    clipped = 0.5 / np.linalg.norm(kernel) * (expected - bias.reshape(4, 2)[1]) + bias.reshape(4, 2)[1]
    np.testing.assert_allclose(layer(inputs)[:, 1], clipped, atol=1e-5)


@pytest.mark.parametrize("hops, units", [(1, 40), (3, 40)])
def test_both_forms_learn_the_same(hops, units):
    # 40 features of a joint: few neighbours are gathered, many are multiplied densely.
    inputs, targets = random_features(8, 17, 40), random_features(8, 17, units, seed=1)
    layer = LocallyConnectedGraph(units, skeleton="H36M17", hops=hops)
    dense = LocallyConnectedGraph(units, adjacency=layer.mask_layer.adjacency)
    dense.mask_layer.support = np.ones((17, 17), bool)
    for one in (layer, dense):
        one.build(inputs.shape)
    dense.set_weights(layer.get_weights())
    results = []
    for one in (layer, dense):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((one(inputs) - targets) ** 2)
        results.append([loss, *tape.gradient(loss, one.trainable_variables)])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_initial_weights():
    keras.utils.set_random_seed(0)
    layer = LocallyConnectedGraph(64, skeleton=H36M17, hops=3)
    layer.build((None, 17, 32))
    for weight in (layer.kernel.numpy(), layer.bias.numpy()):
        deviation = np.sqrt(2 / weight.shape[0])
        assert np.abs(weight).max() <= 2 * deviation
        assert weight.std() == pytest.approx(0.8796 * deviation, rel=0.05)
    other = LocallyConnectedGraph(
        2, skeleton=CHAIN, kernel_initializer="ones", bias_initializer=keras.initializers.Constant(3.0)
    )
    other.build((None, 4, 1))
    assert (other.kernel.numpy() == 1).all() and (other.bias.numpy() == 3).all()


def test_regularization():
    layer = LocallyConnectedGraph(3, skeleton=CHAIN, regularization=0.1)
    layer(random_features())
    expected = 0.1 * sum(np.square(weight).sum() / 2 for weight in layer.get_weights())
    np.testing.assert_allclose(tf.add_n(layer.losses), expected, rtol=1e-5)


def test_learnt_mask():
    layer = LocallyConnectedGraph(3, skeleton=CHAIN, hops=1, learnable=True, mask_init="same")
    inputs = random_features()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs) ** 2)
    kernel, bias, mask = layer.trainable_variables
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert mask.shape == (4, 4) and np.abs(gradients[2]).max() > 0
    values = layer.mask_layer.values().numpy()
    start = CHAIN.neighbours(1).astype(float)
    np.testing.assert_allclose(values, start * np.exp(start) / np.exp(start).sum(axis=0), atol=1e-6)

    # The gradient, by moving the mask.
    step = np.zeros((4, 4), np.float32)
    step[1, 2] = 1e-2
    sides = []
    for sign in (1, -1):
        mask.assign(start + sign * step)
        sides.append(float(tf.reduce_sum(layer(inputs) ** 2)))
    np.testing.assert_allclose(gradients[2][1, 2], (sides[0] - sides[1]) / 2e-2, rtol=1e-2)


def test_layers_share_a_mask(tmp_path):
    inputs = keras.Input((4, 5))
    mask = NeighbourMask(CHAIN.neighbours(1), learnable=True)
    connections = mask(inputs)
    assert connections.shape == (4, 4)
    hidden = LocallyConnectedGraph(3, skeleton=CHAIN)(inputs, connections)
    model = keras.Model(inputs, LocallyConnectedGraph(2, skeleton=CHAIN)(hidden, connections))
    assert len(model.trainable_variables) == 5
    check_model(model, random_features(), tmp_path, tolerance=1e-5)
    assert len(keras.saving.load_model(tmp_path / "model.keras").trainable_variables) == 5
    np.testing.assert_array_equal(NeighbourMask.from_config(mask.get_config()).adjacency, mask.adjacency)
    with pytest.raises(ValueError, match=r"takes connections \[4, 4\], not \(3, 3\)"):
        LocallyConnectedGraph(2, skeleton=CHAIN)(random_features(), np.ones((3, 3), np.float32))


def test_other_graphs():
    lengths = limb_lengths(CHAIN, np.random.default_rng(0).normal(size=(9, 4, 3)))
    for adjacency in (laplacian(CHAIN, lengths), row_normalized(CHAIN.neighbours(2)), np.ones((4, 4))):
        layer = LocallyConnectedGraph(2, adjacency=adjacency, max_norm=None, use_bias=False)
        inputs = random_features()
        result = layer(inputs)
        wide = np.repeat(np.repeat(adjacency.T, 5, axis=0), 2, axis=1)
        expected = (inputs.reshape(3, -1) @ (layer.kernel.numpy() * wide)).reshape(3, 4, 2)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_folded_weights():
    layer = LocallyConnectedGraph(3, skeleton=CHAIN, hops=1, learnable=True)
    inputs = random_features()
    expected = layer(inputs)
    kernel, bias = layer.folded_weights()
    np.testing.assert_allclose((inputs.reshape(3, -1) @ kernel + bias).reshape(3, 4, 3), expected, atol=1e-5)
    unbiased = LocallyConnectedGraph(3, skeleton=CHAIN, use_bias=False)
    expected = unbiased(inputs)
    kernel, bias = unbiased.folded_weights()
    np.testing.assert_allclose((inputs.reshape(3, -1) @ kernel).reshape(3, 4, 3), expected, atol=1e-5)
    assert bias.shape == (12,) and not bias.any()


def test_arguments_are_attributes():
    arguments = {
        "units": 3, "skeleton": CHAIN, "hops": 2, "learnable": True, "mask_init": "same", "max_norm": 2.0,
        "regularization": 0.5, "use_bias": False,
    }  # fmt: skip
    layer = LocallyConnectedGraph(**arguments)
    twin = LocallyConnectedGraph.from_config(layer.get_config())
    for one in (layer, twin):
        assert {name: getattr(one, name) for name in arguments} == arguments
        assert one.adjacency is None
        np.testing.assert_array_equal(one.mask_layer.adjacency, CHAIN.neighbours(2))
    assert layer.get_config()["skeleton"]["joints"] == list("abcd")
    named = LocallyConnectedGraph(3, skeleton="H36M17", hops=0)
    assert named.skeleton is H36M17 and named.get_config()["skeleton"] == "H36M17"
    matrix = np.full((4, 4), 0.25)
    for one in (LocallyConnectedGraph(3, matrix), LocallyConnectedGraph(3, matrix, CHAIN)):
        twin = LocallyConnectedGraph.from_config(one.get_config())
        np.testing.assert_array_equal(twin.adjacency, matrix)
        assert twin.skeleton == one.skeleton


@pytest.mark.parametrize("hops, form", [(1, "by_joint"), (3, "dense")])
def test_foreign_connections_count_where_joints_are_neighbours(hops, form):
    inputs = random_features(3, 17, 40)
    layer = LocallyConnectedGraph(40, skeleton=H36M17, hops=hops)
    foreign = np.random.default_rng(1).normal(size=(17, 17)).astype(np.float32)
    foreign[0, ~H36M17.neighbours(hops)[:, 0]] = np.nan
    blocks = [17, 40, 17, 40]
    assert tf.config.list_physical_devices("GPU") or _faster_form(layer.mask_layer.support, blocks) == form
    known = np.where(H36M17.neighbours(hops).T, foreign, 0)
    result = layer(inputs, foreign)
    np.testing.assert_allclose(result, layer(inputs, known), atol=1e-5)
    wide = np.repeat(np.repeat(known, 40, axis=0), 40, axis=1)
    kernel = layer.kernel.numpy() / max(np.linalg.norm(layer.kernel), 1)
    expected = inputs.reshape(3, -1) @ (kernel * wide) + layer.bias.numpy()
    np.testing.assert_allclose(result, expected.reshape(3, 17, 40), atol=1e-4)
    kernel, bias = layer.folded_weights(foreign)
    np.testing.assert_allclose((inputs.reshape(3, -1) @ kernel + bias).reshape(3, 17, 40), result, atol=1e-4)


def test_shared_connections_must_come_with_every_call():
    layer = LocallyConnectedGraph(3, skeleton=CHAIN, learnable=True)
    inputs, shared = random_features(), np.ones((4, 4), np.float32)
    layer(inputs, shared)
    with pytest.raises(ValueError, match="pass connections in every call"):
        layer(inputs)
    with pytest.raises(ValueError, match="pass connections"):
        layer.folded_weights()
    fixed = LocallyConnectedGraph(3, skeleton=CHAIN)
    fixed(inputs, shared)
    assert fixed(inputs).shape == (3, 4, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"skeleton": CHAIN, "hops": 2},
        {"skeleton": CHAIN, "learnable": True, "mask_init": "same", "max_norm": None, "use_bias": False},
        {"adjacency": np.full((4, 4), 0.5), "regularization": 0.1, "kernel_initializer": "he_normal"},
    ],
    ids=["hops", "learnable", "matrix"],
)
def test_as_a_keras_layer(options, tmp_path):
    check_layer(LocallyConnectedGraph(3, **options), [random_features()], tmp_path, tolerance=1e-5)


def test_half_precision():
    check_half_precision(
        lambda: LocallyConnectedGraph(3, skeleton=CHAIN, learnable=True), [random_features()], output_dtype="half"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"adjacency": np.ones((4, 3))}, r"\(4, 3\); it must be square"),
        ({"adjacency": np.ones(4)}, r"\(4,\); it must be square"),
        ({"adjacency": np.ones((4, 4)), "skeleton": H36M17}, "4 joints and the skeleton 'H36M17' 17"),
        ({"adjacency": [[1, np.inf], [0, 1]]}, "not finite"),
        ({"skeleton": "nobody"}, "'nobody'; choose from"),
        ({}, "skeleton is None; pass an adjacency"),
        ({"skeleton": CHAIN, "hops": -2}, "hops is -2"),
        ({"skeleton": CHAIN, "mask_init": "zeros"}, "'zeros'; choose from .*'random', 'ones', 'same'"),
        ({"skeleton": CHAIN, "max_norm": 0}, "max_norm is 0"),
        ({"skeleton": CHAIN, "regularization": -1}, "regularization is -1"),
        ({"skeleton": CHAIN, "units": 0}, "units is 0"),
        ({"skeleton": CHAIN, "units": 2.5}, "units is 2.5; give a whole number"),
        ({"skeleton": CHAIN, "hops": 1.5}, "hops is 1.5"),
        ({"adjacency": np.ones((4, 4)), "skeleton": 4}, "skeleton is 4; choose from"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LocallyConnectedGraph(**{"units": 3, **options})


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4), (2, 4, 3, 1)])
def test_wrong_joint_counts_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \[batch, 4, features\]"):
        LocallyConnectedGraph(3, skeleton=CHAIN)(np.zeros(shape, np.float32))


def test_wrong_features_are_refused():
    layer = LocallyConnectedGraph(3, skeleton=CHAIN)
    layer(random_features())
    with pytest.raises(ValueError, match="incompatible"):
        layer(random_features(features=6))


def test_the_configuration_of_a_skeleton_holds_all_of_it():
    grouping = (("c", "d"), ("a", "b"))
    own = Skeleton("own", CHAIN.joints, CHAIN.bone_names[:1], (("b", "d"),), grouping[::-1], grouping)
    for skeleton in (own, CHAIN):
        assert find_skeleton(json.loads(json.dumps(skeleton_config(skeleton)))) == skeleton
