import numpy as np
import pytest
import tensorflow as tf

from posekit.losses import masked_map_loss, stage_losses


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("mask_labels", [True, False])
def test_the_loss_is_that_of_a_loop(mask_labels):
    truth, found, mask = numbers(2, 3, 4, 5), numbers(2, 3, 4, 5, seed=1), np.random.default_rng(2).random((2, 3, 4, 1))
    expected = [0.0, 0.0]
    for sample, row, column, channel in np.ndindex(truth.shape):
        weight = mask[sample, row, column, 0]
        label = truth[sample, row, column, channel] * (weight if mask_labels else 1)
        expected[sample] += (found[sample, row, column, channel] * weight - label) ** 2 / 2
    np.testing.assert_allclose(masked_map_loss(truth, found, mask, mask_labels), expected, rtol=1e-5)


def test_masked_places_move_nothing():
    mask = np.zeros((1, 3, 4, 1), np.float32)
    mask[0, 1, 2] = 1
    for mask_labels in (True, False):
        found = tf.Variable(numbers(1, 3, 4, 5))
        with tf.GradientTape() as tape:
            loss = masked_map_loss(numbers(1, 3, 4, 5, seed=1), found, mask, mask_labels)
        moved = np.abs(tape.gradient(loss, found)).sum(-1) > 0
        np.testing.assert_array_equal(moved, mask[..., 0] > 0)


def test_stages_have_their_labels():
    labels = {"pafs": numbers(2, 3, 4, 6), "heatmaps": numbers(2, 3, 4, 5)}
    stages = {"stage1_L1": labels["pafs"] + 1, "stage1_L2": labels["heatmaps"], "stage2_L2": labels["heatmaps"] - 2}
    losses = stage_losses(labels, stages)
    assert list(losses) == list(stages)
    np.testing.assert_allclose(list(losses.values()), [36, 0, 120], rtol=1e-5)
    np.testing.assert_allclose(list(stage_losses(labels, stages, batch_size=10).values()), [7.2, 0, 24], rtol=1e-5)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\) and \(1, 3, 4, 6\)"):
        masked_map_loss(numbers(1, 3, 4, 5), numbers(1, 3, 4, 6))
    with pytest.raises(ValueError, match="mask"):
        masked_map_loss(numbers(1, 3, 4, 5), numbers(1, 3, 4, 5), numbers(1, 3, 4))


def test_empty_batches_and_graphs_of_any_size():
    graph = tf.function(masked_map_loss, input_signature=[tf.TensorSpec([None] * 4)] * 2 + [tf.TensorSpec([None] * 4)])
    assert graph(numbers(0, 3, 4, 5), numbers(0, 3, 4, 5), numbers(0, 3, 4, 1)).shape == (0,)
