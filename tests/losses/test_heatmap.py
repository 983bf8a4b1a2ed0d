import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.losses import heatmap_mse, labelled_mean, mixed_loss, volumetric_cross_entropy
from posekit.testing import load_fixture


def channels_last(volumes):
    return tf.constant(np.moveaxis(volumes, 1, -1))


@pytest.fixture(scope="module")
def original():
    values = load_fixture("v2v_losses")
    values["scores"], values["weights"] = channels_last(values["heatmap"]), channels_last(values["gt_heatmap"])
    return values


def soft_argmax(scores):
    weights = tf.nn.softmax(tf.reshape(scores, [2, -1, 3]), axis=1)
    places = np.stack(np.meshgrid(*map(np.arange, scores.shape[1:4]), indexing="ij"), -1).reshape(-1, 3)
    return tf.einsum("bvj,vc->bjc", weights, tf.constant(places, scores.dtype))


@pytest.mark.parametrize("weight", [0.5, 0.05, 1, 0])
def test_mixed_loss_equals_the_original(original, weight):
    truth = {"heatmaps": original["weights"], "coordinates": original["gt_coord"]}
    with tf.GradientTape() as tape:
        tape.watch(original["scores"])
        result = {"heatmaps": original["scores"], "coordinates": soft_argmax(original["scores"])}
        loss = mixed_loss(truth, result, heatmap_weight=weight)
    np.testing.assert_allclose(loss, original[f"mixed_w{weight}"], rtol=1e-5)
    gradient = tape.gradient(loss, original["scores"])
    np.testing.assert_allclose(np.moveaxis(gradient, -1, 1), original[f"mixed_w{weight}_grad"], atol=1e-6)


def test_cross_entropy_equals_the_original(original):
    with tf.GradientTape() as tape:
        tape.watch(original["scores"])
        entropy = volumetric_cross_entropy(original["weights"], original["scores"])
        loss = tf.reduce_mean(entropy)
    assert entropy.shape == (2, 3)
    np.testing.assert_allclose(loss, original["sce"], rtol=1e-5)
    gradient = np.moveaxis(tape.gradient(loss, original["scores"]), -1, 1)
    np.testing.assert_allclose(gradient.reshape(6, -1), original["sce_grad"], atol=1e-6)


def test_compiled_in_two_parts_the_mixed_loss_is_the_same(original):
    scores = keras.Input(original["scores"].shape[1:])
    outputs = {"heatmaps": scores * 1.0, "coordinates": keras.layers.Lambda(soft_argmax, (3, 3))(scores)}
    model = keras.Model(scores, outputs)
    weights = {"heatmaps": 0.5, "coordinates": 0.5}
    model.compile(loss={"heatmaps": volumetric_cross_entropy, "coordinates": "mae"}, loss_weights=weights)
    truth = {"heatmaps": original["weights"], "coordinates": original["gt_coord"]}
    loss = model.evaluate(original["scores"], truth, batch_size=2, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, original["mixed_w0.5"], rtol=1e-5)


def test_a_joint_without_weights_moves_nothing():
    rng = np.random.default_rng(0)
    scores, weights = tf.constant(rng.normal(size=(1, 2, 3, 4, 2))), np.zeros((1, 2, 3, 4, 2))
    weights[0, 1, 1, 1, 0] = 1
    with tf.GradientTape() as tape:
        tape.watch(scores)
        entropy = volumetric_cross_entropy(weights, scores)
    assert entropy[0, 0] > 0 and entropy[0, 1] == 0
    gradient = tape.gradient(entropy, scores).numpy()
    assert (gradient[..., 1] == 0).all() and (gradient[..., 0] != 0).all()


def test_cross_entropy_of_large_scores_is_finite():
    scores = np.zeros((1, 2, 2, 2, 1), np.float32)
    scores[0, 1, 1, 1] = 1e4
    weights = scores / 1e4
    np.testing.assert_allclose(volumetric_cross_entropy(weights, scores), [[0]], atol=1e-6)
    np.testing.assert_allclose(volumetric_cross_entropy(np.roll(weights, 1, axis=3), scores), [[1e4]], rtol=1e-6)


def test_heatmap_mse():
    truth = np.zeros((2, 2, 3, 4, 5), np.float64)
    result = np.zeros((2, 2, 3, 4, 5), np.float32)
    result[1, 1, 2, 3, 4] = 6
    loss = heatmap_mse(truth, result)
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, [[0] * 5, [0, 0, 0, 0, 36 / 24]])
    np.testing.assert_allclose(np.mean(loss), np.mean(np.square(result)))


@pytest.mark.parametrize("loss", [heatmap_mse, volumetric_cross_entropy])
def test_volumes_that_do_not_fit_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2, 3\) and \(1, 2, 2, 2, 4\)"):
        loss(np.zeros((1, 2, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 2, 4), np.float32))
    with pytest.raises(ValueError, match="joints"):
        loss(np.zeros((2, 2, 2, 4), np.float32), np.zeros((2, 2, 2, 4), np.float32))


def test_mixed_loss_refuses_what_does_not_fit():
    volumes = {"heatmaps": np.zeros((1, 2, 2, 2, 3), np.float32), "coordinates": np.zeros((1, 3, 3), np.float32)}
    with pytest.raises(ValueError, match="heatmap_weight is 1.5"):
        mixed_loss(volumes, volumes, heatmap_weight=1.5)
    with pytest.raises(ValueError, match="Coordinates of shapes"):
        mixed_loss({**volumes, "coordinates": np.zeros((1, 2, 3), np.float32)}, volumes)


def test_joints_without_labels_count_nowhere():
    rng = np.random.default_rng(0)
    truth = {"heatmaps": rng.random((2, 2, 2, 2, 3)), "coordinates": rng.random((2, 3, 3))}
    result = {key: tf.constant(rng.random(value.shape)) for key, value in truth.items()}
    valid = np.array([[True, False, True], [False, True, False]])
    truth["coordinates"][~valid] = np.nan
    with tf.GradientTape() as tape:
        tape.watch(result["coordinates"])
        loss = mixed_loss(truth, result, valid=valid)
    entropy = np.mean(volumetric_cross_entropy(truth["heatmaps"], result["heatmaps"]).numpy()[valid])
    distance = np.abs(truth["coordinates"] - result["coordinates"]).mean(-1)[valid].mean()
    np.testing.assert_allclose(loss, (entropy + distance) / 2)
    assert ((tape.gradient(loss, result["coordinates"]).numpy() != 0).any(-1) == valid).all()
    assert labelled_mean(tf.ones([2, 3]), np.zeros((2, 3), bool)) == 0
