"""OpenPose networks: shapes, names, options, saving; MobileNetV2's part against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.models import OpenPose
from posekit.models.openpose import VGG19_LAYERS, UpsampleLike, initialize_from_vgg19, rate_multipliers
from posekit.testing import check_model

SMALL = {"backbone_width": 0.125, "stage_width": 0.125}
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 40, 56, 3)).astype(np.float32)


@pytest.mark.parametrize("backbone", ["vgg19", "mobilenet_thin", "mobilenet_v2_small"])
def test_maps_of_the_last_stage_and_of_all_at_any_size(backbone):
    model = OpenPose(backbone, num_stages=2, **SMALL)
    last = model(IMAGES)
    assert last["pafs"].shape == (2, 5, 7, 38) and last["heatmaps"].shape == (2, 5, 7, 19)
    stages = model.stages_model()(IMAGES)
    assert list(stages) == ["stage1_L1", "stage1_L2", "stage2_L1", "stage2_L2"]
    np.testing.assert_array_equal(stages["stage2_L1"], last["pafs"])
    np.testing.assert_array_equal(stages["stage2_L2"], last["heatmaps"])
    for height, width in ((61, 45), (9, 8), (1, 1))[: 2 if backbone == "vgg19" else 3]:
        expected = (height // 8, width // 8) if backbone == "vgg19" else (-(-height // 8), -(-width // 8))
        assert model(np.zeros((1, height, width, 3), "uint8"))["pafs"].shape[1:3] == expected
    symbolic = model(keras.Input((16, 24, 3)))
    assert {kind: maps.shape for kind, maps in symbolic.items()} == {
        "pafs": (None, 2, 3, 38), "heatmaps": (None, 2, 3, 19),
    }  # fmt: skip


def test_weights_keep_their_order_whatever_the_outputs():
    trained, used = (OpenPose("vgg19", num_stages=2, outputs=outputs, **SMALL) for outputs in ("all", "last"))
    assert [weight.path for weight in trained.weights] == [weight.path for weight in used.weights]
    used.set_weights(trained.get_weights())
    stages, last = trained(IMAGES), used(IMAGES)
    np.testing.assert_array_equal(stages["stage2_L1"], last["pafs"])
    np.testing.assert_array_equal(stages["stage2_L2"], last["heatmaps"])


def test_channel_order_says_how_pictures_come():
    rgb, bgr = (OpenPose("mobilenet_thin", num_stages=1, channel_order=order, **SMALL) for order in ("rgb", "bgr"))
    bgr.set_weights(rgb.get_weights())
    expected = rgb(IMAGES)["heatmaps"]
    np.testing.assert_array_equal(bgr(IMAGES[..., ::-1])["heatmaps"], expected)
    assert np.abs(bgr(IMAGES)["heatmaps"] - expected).max() > 0


def test_saving_loading_and_exporting(tmp_path):
    model = OpenPose("vgg19", num_stages=1, batch_norm=True, num_joints=4, num_limbs=3, **SMALL)
    check_model(model, IMAGES, tmp_path, export=False)


def test_half_precision_gives_float32_maps():
    outputs = OpenPose("vgg19", num_stages=2, dtype="mixed_float16", **SMALL)(IMAGES)
    assert {value.dtype for value in outputs.values()} == {tf.float32}


@pytest.mark.parametrize(
    ("option", "value"),
    [("backbone", "vgg16"), ("channel_order", "gbr"), ("outputs", "first"), ("num_stages", 0), ("num_limbs", 1.5),
     ("stage_width", 0), ("backbone_width", -1), ("weight_decay", -1)],
)  # fmt: skip
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        OpenPose(**{option: value})


def test_weight_decay_is_the_sum_of_the_squares_of_kernels():
    model = OpenPose("mobilenet_thin", num_stages=1, weight_decay=0.01, **SMALL)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    expected = 0.01 * sum(float(tf.reduce_sum(kernel**2)) for kernel in kernels)
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


def test_learning_rates_of_the_original():
    assert rate_multipliers(OpenPose("mobilenet_thin", num_stages=1, **SMALL)) == {}
    factors = rate_multipliers(OpenPose("vgg19", num_stages=2, **SMALL))
    assert list(factors.values()) == [4.0, 8.0, 2.0]


@pytest.fixture(scope="module")
def vgg19():
    return keras.applications.VGG19(include_top=False, weights=None)


def test_vgg19_lends_its_first_convolutions(vgg19, tmp_path):
    vgg19.save_weights(tmp_path / "vgg19.weights.h5")
    model = OpenPose("vgg19", num_stages=1, stage_width=0.125)
    initialize_from_vgg19(model, tmp_path / "vgg19.weights.h5")
    assert len(VGG19_LAYERS) == 10
    for mine, theirs in VGG19_LAYERS.items():
        np.testing.assert_array_equal(model.get_layer(mine).kernel, vgg19.get_layer(theirs).kernel)
    # The same features up to the fourth block, from pictures prepared as the original does.
    features = keras.Model(vgg19.inputs[0], vgg19.get_layer("block4_conv2").output)
    mine = keras.Model(model.inputs[0], model.get_layer("conv4_2_relu").output)
    expected = features(IMAGES[..., ::-1] / 256 - 0.5)
    np.testing.assert_allclose(mine(IMAGES), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_vgg19_lends_to_nobody_else(tmp_path):
    with pytest.raises(ValueError, match="full width"):
        initialize_from_vgg19(OpenPose("vgg19", num_stages=1, **SMALL))
    with pytest.raises(FileNotFoundError, match="imagenet"):
        initialize_from_vgg19(OpenPose("vgg19", num_stages=1, stage_width=0.125), tmp_path / "none.h5")


def test_mobilenet_v2_is_that_of_keras():
    theirs = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.5, input_shape=(64, 96, 3))
    rng = np.random.default_rng(1)
    for variable in theirs.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) * (0.2 if len(variable.shape) > 1 else 1))
    mine = OpenPose("mobilenet_v2_small", num_stages=1, batch_norm=True, channel_order="bgr")
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.BatchNormalization)
    weights = [layer.get_weights() for layer in theirs.layers if isinstance(layer, kinds)]
    backbone = [layer for layer in mine.layers if isinstance(layer, kinds) and layer.name.startswith(("Conv", "exp"))]
    for layer, values in zip(backbone, weights):
        layer.set_weights(values)
    images = rng.uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    for block in (5, 12):
        expected = keras.Model(theirs.inputs[0], theirs.get_layer(f"block_{block}_add").output)(images)
        found = keras.Model(mine.inputs[0], mine.get_layer(f"expanded_conv_{block}_add").output)(images)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_upsampling_is_that_of_tensorflow_1():
    maps = np.random.default_rng(2).normal(size=(1, 3, 4, 2)).astype(np.float32)
    like = np.zeros((1, 6, 7, 5), np.float32)
    expected = tf.compat.v1.image.resize_bilinear(maps, (6, 7), align_corners=False)
    np.testing.assert_allclose(UpsampleLike()([maps, like]), expected, rtol=1e-6)
    np.testing.assert_array_equal(expected[0, ::2, 0], maps[0, :, 0])
