import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.layers import ResidualBlock3D, VolumetricSoftArgmax
from posekit.losses import heatmap_mse, mixed_loss, volumetric_cross_entropy
from posekit.models import V2VPoseNet
from posekit.models.v2v import original_variables
from posekit.testing import check_half_precision, check_model, load_fixture
from posekit.training.torch_optimizers import TorchAdam

# What the fixtures call the outputs inside, and our layers.
INSIDE = {
    "front_layers.0": "front",
    "front_layers.1": "front_pool",
    "front_layers.2": "front_residual_1",
    "front_layers.4": "front_residual_3",
    "encoder_decoder.skip_res1": "skip_1",
    "encoder_decoder.encoder_res1": "encoder_1",
    "encoder_decoder.encoder_res2": "encoder_2",
    "encoder_decoder.mid_res": "middle",
    "encoder_decoder.decoder_upsample2": "upsample_2",
    "encoder_decoder.decoder_upsample1": "upsample_1",
    "encoder_decoder": "add_1",
    "back_layers": "back_2",
}


class Original:
    """A fixture, and a model with its weights."""

    def __init__(self, name, **options):
        self.values = load_fixture(name)
        recipe = self.values["recipe_json"]
        self.shapes = recipe["shapes"]
        self.weights = recipe_weights(
            self.shapes,
            recipe["seed"],
            recipe["gain"],
            recipe["var_lo"],
            recipe["var_hi"],
            layout="torch",
            transposed=recipe["transposed"],
        )
        shape = self.values["x_shape"]
        bits = np.unpackbits(self.values["x_bits"])[: np.prod(shape)]
        self.voxels = np.moveaxis(bits.reshape(shape).astype(np.float32), 1, -1)
        self.model = V2VPoseNet(**options)
        self.variables = original_variables(self.model)
        self.reset()

    def reset(self):
        for name, variable, axes in self.variables:
            variable.assign(np.transpose(self.weights[name], axes))

    def assert_kept_statistics(self):
        names = {key.partition("/")[2] for key in self.values if key.startswith("after_fwd/")}
        ours = {name: variable for name, variable, _ in self.variables if name in names}
        assert len(ours) == len(names) > 0
        for name, variable in ours.items():
            expected = self.values[f"after_fwd/{name}"]
            np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def original():
    yield Original("v2v_model_32")
    keras.backend.clear_session()


@pytest.fixture(autouse=True)
def fresh_weights(request):
    if "original" in request.fixturenames:
        request.getfixturevalue("original").reset()


def torch_layout(volumes):
    return np.moveaxis(np.asarray(volumes), -1, 1)


def statistics(array):
    array = np.asarray(array, np.float64)
    return np.array([array.sum(), np.abs(array).sum(), np.square(array).sum(), array.min(), array.max()])


def assert_same_statistics(ours, expected, tolerance, err_msg=None):
    """Statistics of arrays whose elements differ by the tolerance at most, at random."""
    result, spread = statistics(ours), tolerance * np.sqrt(np.size(ours))
    np.testing.assert_allclose(result[:2], expected[:2], rtol=1e-5, atol=spread, err_msg=err_msg)
    np.testing.assert_allclose(result[2], expected[2], rtol=1e-4, atol=spread**2, err_msg=err_msg)
    np.testing.assert_allclose(result[3:], expected[3:], rtol=0, atol=tolerance, err_msg=err_msg)


def random_voxels(*edges, batch=2, seed=0):
    return (np.random.default_rng(seed).random((batch, *edges, 1)) < 0.1).astype(np.float32)


def small_v2v(**options):
    keras.utils.set_random_seed(0)
    return V2VPoseNet(**{"num_joints": 3, "width": 2, "kernel_initializer": "he_normal", **options})


# === Against the original ===


def test_variables_have_the_original_names_and_shapes(original):
    names = [name for name in original.shapes if not name.endswith("num_batches_tracked")]
    assert [name for name, _, _ in original.variables] == names
    for name, variable, axes in original.variables:
        shape = original.shapes[name]
        assert tuple(shape[axis] for axis in axes) == tuple(variable.shape)
    assert sorted(map(id, original.model.variables)) == sorted(id(variable) for _, variable, _ in original.variables)
    assert sum(np.prod(variable.shape) for variable in original.model.trainable_variables) == 3_410_453


def test_everything_inside_equals_the_original(original):
    values, model = original.values, original.model
    outputs = [model.get_layer(layer).output for layer in INSIDE.values()]
    *inside, heatmaps = keras.Model(model.input, [*outputs, model.output])(original.voxels)
    for name, result in zip(INSIDE, inside, strict=True):
        assert_same_statistics(result, values[f"eval_stats/{name}"], 5e-3, name)
        subset = torch_layout(result)[:, ::4, ::3, ::3, ::3]
        if subset.shape != values[f"eval_sub/{name}"].shape:
            subset = torch_layout(result)[:, ::4, ::2, ::2, ::2]
        np.testing.assert_allclose(subset, values[f"eval_sub/{name}"], rtol=0, atol=5e-3, err_msg=name)
    heatmaps = torch_layout(heatmaps)
    np.testing.assert_allclose(heatmaps[0], values["eval_out"], rtol=0, atol=5e-3)
    assert_same_statistics(heatmaps[1], values["eval_out_b1_stats"], 5e-3)


def test_an_odd_size_equals_the_original(original):
    heatmaps = original.model(original.voxels[:1, :24, :24, :24])
    assert heatmaps.shape == (1, 12, 12, 12, 21)
    np.testing.assert_allclose(torch_layout(heatmaps), original.values["eval_out_odd24"], rtol=0, atol=5e-3)


def targets():
    rng = np.random.RandomState(77)
    rng.rand(2, 1, 32, 32, 32)
    return np.moveaxis(rng.rand(2, 21, 16, 16, 16).astype(np.float32), 1, -1)


def test_training_mode_equals_the_original(original):
    values = original.values
    with tf.GradientTape() as tape:
        heatmaps = original.model(original.voxels, training=True)
        loss = tf.reduce_mean(heatmap_mse(targets(), heatmaps))
    np.testing.assert_allclose(torch_layout(heatmaps)[0], values["train_out"], rtol=0, atol=5e-4)
    assert_same_statistics(heatmaps[1], values["train_out_b1_stats"], 5e-4)
    np.testing.assert_allclose(loss, values["train_mse_loss"], rtol=1e-5)
    original.assert_kept_statistics()

    trained = [row for row in original.variables if row[1].trainable]
    gradients = tape.gradient(loss, [variable.value for _, variable, _ in trained])
    compared = set()
    for (name, _, axes), gradient in zip(trained, gradients):
        gradient = np.transpose(gradient, np.argsort(axes))
        expected = values[f"gradstats/{name}"]
        compared.add(f"gradstats/{name}")
        # Batch normalisation takes a bias away again: what is left is rounding.
        no_effect = name.endswith(".bias") and original.weights[name.replace(".bias", ".weight")].ndim == 5
        no_effect = no_effect and not name.startswith("output_layer")
        if no_effect:
            assert np.abs(gradient).max() < 1e-6, name
        else:
            largest = np.abs(expected[3:]).max()
            np.testing.assert_allclose(gradient.sum(), expected[0], rtol=0, atol=2e-2 * expected[1], err_msg=name)
            np.testing.assert_allclose(np.abs(gradient).sum(), expected[1], rtol=2e-2, err_msg=name)
            np.testing.assert_allclose(np.square(gradient).sum(), expected[2], rtol=4e-2, err_msg=name)
            np.testing.assert_allclose(gradient.min(), expected[3], rtol=0, atol=2e-2 * largest, err_msg=name)
            np.testing.assert_allclose(gradient.max(), expected[4], rtol=0, atol=2e-2 * largest, err_msg=name)
        if f"grad/{name}" in values:
            compared.add(f"grad/{name}")
            limit = 1e-6 if no_effect else 2e-2 * np.abs(values[f"grad/{name}"]).max()
            np.testing.assert_allclose(gradient, values[f"grad/{name}"], rtol=0, atol=limit, err_msg=name)
    assert compared == {key for key in values if key.startswith("grad")}


def test_steps_of_adam_equal_the_original(original):
    values, voxels, truth = original.values, original.voxels, targets()
    original.model.compile(TorchAdam(1e-3, epsilon=1e-8), loss=heatmap_mse, run_eagerly=True)
    losses = [original.model.train_on_batch(voxels, truth)]
    between = original.model(voxels, training=True)
    np.testing.assert_allclose(np.mean(heatmap_mse(truth, between)), values["loss_after_adam"], rtol=2e-3)
    expected = values["train_out_after_adam_stats"]
    np.testing.assert_allclose(statistics(between)[1:3], expected[1:3], rtol=2e-3)
    np.testing.assert_allclose(statistics(between)[0], expected[0], rtol=0, atol=2e-3 * expected[1])
    np.testing.assert_allclose(statistics(between)[3:], expected[3:], rtol=2e-2)
    losses += [original.model.train_on_batch(voxels, truth) for _ in range(4)]
    np.testing.assert_allclose(losses, values["adam_losses"], rtol=2e-3)


def assert_same_volumes(heatmaps, values, mode, tolerance):
    volumes = torch_layout(heatmaps)[0]
    flat = volumes.reshape(len(volumes), -1).astype(np.float64)
    np.testing.assert_allclose(volumes[:, ::4, ::4, ::4], values[f"{mode}_sub"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(volumes[::5, 2::8, 2::8, 2::8], values[f"{mode}_sub_off2"], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(flat.argmax(1), values[f"{mode}_argmax"])
    np.testing.assert_allclose(flat.max(1), values[f"{mode}_max"], rtol=0, atol=tolerance)
    spread = tolerance * np.sqrt(flat.shape[1])
    np.testing.assert_allclose(flat.sum(1), values[f"{mode}_sum"], rtol=0, atol=spread)
    np.testing.assert_allclose(np.abs(flat).sum(1), values[f"{mode}_abssum"], rtol=0, atol=spread)
    largest = np.sort(flat, axis=1)[:, -2:]
    np.testing.assert_allclose(largest[:, 1] - largest[:, 0], values[f"{mode}_top2gap"], rtol=0, atol=2 * tolerance)


def test_a_whole_cube_equals_the_original():
    original = Original("v2v_model_88", head="integral")
    values, refpoint = original.values, original.values["refpoint"][0, 0]
    result = tf.function(original.model)(original.voxels)
    assert_same_volumes(result["heatmaps"], values, "eval", 1e-2)
    np.testing.assert_allclose(result["coordinates"], values["integral_coord"], rtol=0, atol=5e-3)

    codec = VoxelCodec(cubic_size=200.0)
    coords = codec.extract(torch_layout(result["heatmaps"])[0])
    np.testing.assert_array_equal(coords, values["extract_coord"][0])
    np.testing.assert_array_equal(coords - 0.5, values["extract_coord_nocenter"][0])
    np.testing.assert_allclose(codec.to_world(coords, refpoint), values["evaluate_keypoints"][0], rtol=0, atol=1e-9)
    integral = VoxelCodec(cubic_size=200.0, head="integral").to_world(result["coordinates"][0], refpoint)
    np.testing.assert_allclose(integral, values["integral_keypoints"][0], rtol=0, atol=0.03)

    trained = tf.function(original.model)(original.voxels, training=True)
    assert_same_volumes(trained["heatmaps"], values, "train", 5e-4)
    original.assert_kept_statistics()
    keras.backend.clear_session()


# === As a Keras model ===


@pytest.mark.parametrize(
    "options",
    [{}, {"head": "integral", "cube_size": 16, "name": "other"}],
    ids=["heatmap", "integral"],
)
def test_as_a_keras_model(options, tmp_path):
    model = small_v2v(**options)
    # Tracing the export takes longest; the integral head has all layers of the other.
    check_model(model, random_voxels(16, 16, 16), tmp_path, tolerance=1e-5, export=model.head == "integral")
    config = model.get_config()
    twin = V2VPoseNet.from_config(config)
    assert twin.get_config() == config
    assert [v.shape for v in twin.variables] == [v.shape for v in model.variables]


def test_options_come_back_as_attributes():
    options = {
        "num_joints": 15,
        "width": 4,
        "head": "integral",
        "cube_size": 24,
        "in_channels": 2,
        "batch_norm_momentum": 0.8,
        "batch_norm_epsilon": 1e-3,
    }
    model = V2VPoseNet.from_config(V2VPoseNet(**options).get_config())
    assert {name: getattr(model, name) for name in options} == options
    assert model.input_shape == (None, 24, 24, 24, 2)
    assert {layer.filters for layer in model.layers if isinstance(layer, ResidualBlock3D)} == {8, 16, 32}
    norm = model.get_layer("middle").second_norm
    assert (norm.momentum, norm.epsilon) == (0.8, 1e-3)
    model = V2VPoseNet.from_config(V2VPoseNet(width=1).get_config())
    assert isinstance(model.kernel_initializer, keras.initializers.RandomNormal)
    assert model.kernel_initializer.stddev == 0.001


@pytest.mark.parametrize("edges", [(8, 8, 8), (24, 24, 24), (16, 8, 24)])
def test_any_multiple_of_8(edges):
    model = small_v2v(head="integral")
    result = model(random_voxels(*edges), training=True)
    assert result["heatmaps"].shape == (2, *(edge // 2 for edge in edges), 3)
    assert result["coordinates"].shape == (2, 3, 3)
    expected = VolumetricSoftArgmax()(result["heatmaps"])
    np.testing.assert_allclose(result["coordinates"], expected)
    assert (np.array(result["coordinates"]) <= np.array(edges) / 2 - 1).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size(batch):
    model = small_v2v()
    signature = [tf.TensorSpec([None, None, None, None, 1])]
    voxels = random_voxels(8, 8, 16, batch=batch)
    heatmaps = tf.function(model, input_signature=signature)(voxels)
    assert heatmaps.shape == (batch, 4, 4, 8, 3)
    np.testing.assert_allclose(heatmaps, model(voxels), atol=1e-5)


@pytest.mark.parametrize("edges", [(20, 24, 24), (24, 24, 4), (24, 90, 24)])
def test_other_sizes_are_refused(edges):
    with pytest.raises(ValueError, match=r"edge has (20|4|90) voxels; it must be a multiple of 8, such as \d+"):
        small_v2v()(random_voxels(*edges))
    with pytest.raises(ValueError, match="multiple of 8"):
        small_v2v().predict(random_voxels(*edges), verbose=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head": "peak"}, r"head is 'peak'; choose from \['heatmap', 'integral'\]"),
        ({"cube_size": 44}, "44 voxels; it must be a multiple of 8, such as 40 or 48"),
        ({"cube_size": 4}, "cube_size is 4"),
        ({"num_joints": 0}, "num_joints is 0"),
        ({"width": 1.5}, "width is 1.5"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"batch_norm_momentum": 1}, "batch_norm_momentum is 1"),
        ({"batch_norm_epsilon": 0.0}, "batch_norm_epsilon is 0.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        V2VPoseNet(**options)


def test_a_frozen_model_stays_frozen(tmp_path):
    model = small_v2v(trainable=False)
    assert not model.trainable_variables
    model.save(tmp_path / "v2v.keras")
    loaded = keras.saving.load_model(tmp_path / "v2v.keras")
    assert not loaded.trainable and not loaded.trainable_variables
    before = loaded.get_weights()
    loaded(random_voxels(8, 8, 8), training=True)
    for old, new in zip(before, loaded.get_weights()):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_a_dtype_policy_is_kept(dtype, tmp_path):
    model = small_v2v(dtype=dtype)
    assert model.dtype_policy.name == dtype
    assert model.get_layer("middle").first_norm.dtype_policy.name == dtype
    model.save(tmp_path / "v2v.keras")
    loaded = keras.saving.load_model(tmp_path / "v2v.keras")
    assert loaded.get_config() == model.get_config()
    voxels = random_voxels(8, 8, 8)
    np.testing.assert_array_equal(loaded(voxels), model(voxels))
    assert loaded(voxels).dtype == "float32" and keras.config.dtype_policy().name == "float32"


def test_half_precision():
    check_half_precision(lambda: small_v2v(head="integral"), [random_voxels(8, 8, 8)])
    full, half = (small_v2v(dtype=dtype)(random_voxels(16, 16, 16)) for dtype in ("float32", "mixed_bfloat16"))
    np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


# === Training ===


def test_learns_heatmaps():
    model, voxels = small_v2v(), random_voxels(16, 16, 16, batch=4)
    truth = np.repeat(voxels[:, ::2, ::2, ::2], 3, axis=-1)
    model.compile(TorchAdam(1e-2, epsilon=1e-8), loss=heatmap_mse, run_eagerly=True)
    history = model.fit(voxels, truth, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_learns_coordinates():
    model, codec = small_v2v(head="integral"), VoxelCodec(16.0, cropped_size=16, head="integral")
    voxels, coords = np.zeros((8, 16, 16, 16, 1), np.float32), np.random.default_rng(0).uniform(1, 6, (8, 1, 3))
    for voxel, (x, y, z) in zip(voxels, (2 * coords[:, 0]).astype(int)):
        voxel[x : x + 2, y : y + 2, z : z + 2] = 1
    coords = np.repeat(coords, 3, axis=1)
    truth = {"heatmaps": np.moveaxis(codec.one_hot(coords), 1, -1), "coordinates": coords}
    truth = {name: values.astype(np.float32) for name, values in truth.items()}
    weights = {"heatmaps": 0.5, "coordinates": 0.5}
    model.compile(
        TorchAdam(3e-2, epsilon=1e-8),
        loss={"heatmaps": volumetric_cross_entropy, "coordinates": "mae"},
        loss_weights=weights,
        run_eagerly=True,
    )
    first = mixed_loss(truth, model(voxels, training=True))
    history = model.fit(voxels, truth, batch_size=8, epochs=9, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], first, rtol=1e-4)
    assert history[-1] < 0.5 * history[0]


# === Less memory in training ===


def trained_once(remat, head, compiled, dtype):
    model = small_v2v(remat=remat, head=head, dtype=dtype)
    voxels = random_voxels(16, 16, 16)
    target = np.random.default_rng(1).random((2, 8, 8, 8, 3), np.float32)

    def step():
        with tf.GradientTape() as tape:
            outputs = model(voxels, training=True)
            heatmaps = outputs["heatmaps"] if head == "integral" else outputs
            loss = tf.reduce_mean(heatmap_mse(target, heatmaps))
            if head == "integral":
                loss += tf.reduce_mean(outputs["coordinates"])
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, gradients = (tf.function(step) if compiled else step)()
    return float(loss), gradients, model


@pytest.mark.parametrize(
    ("head", "compiled", "dtype", "tolerance"),
    [("integral", True, None, 1e-6), ("heatmap", False, "mixed_bfloat16", 1e-2)],
)
def test_computing_anew_gives_the_same_gradients(head, compiled, dtype, tolerance):
    loss, gradients, model = trained_once(False, head, compiled, dtype)
    loss_anew, gradients_anew, model_anew = trained_once(True, head, compiled, dtype)
    assert loss_anew == pytest.approx(loss, rel=1e-6)
    # Biases before a normalisation have a gradient of 0, and rounding.
    tolerance *= max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients)
    for variable, expected, result in zip(model.trainable_variables, gradients, gradients_anew, strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance, err_msg=variable.path)
    # The running statistics change once, although the blocks run twice.
    for expected, result in zip(model.non_trainable_variables, model_anew.non_trainable_variables, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6, err_msg=expected.path)


def test_computing_anew_is_an_option_of_the_config():
    model = small_v2v(remat=True)
    assert model.get_config()["remat"] is True and V2VPoseNet.from_config(model.get_config()).remat is True
    assert model.get_layer("front_residual_1").get_config()["remat"] is True and not small_v2v().remat
    voxels = random_voxels(16, 16, 16)
    np.testing.assert_array_equal(model(voxels), small_v2v()(voxels))
    model.trainable = False
    model(voxels, training=True)
