import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.layers import KinematicChainSpace
from posekit.models import HMR, Critic
from posekit.models.hmr import backbone_names
from posekit.testing import check_half_precision, check_model, load_fixture, tiny_body


def stub_backbone(features=16):
    return keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(features)], name="stub")


def small_hmr(**options):
    return HMR(**{"body": tiny_body(), "backbone": stub_backbone(), "image_size": 16, **options})


def random_images(batch=2, size=16, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def hmr():
    return small_hmr()


def test_outputs(hmr):
    result = hmr(random_images(2))
    shapes = {key: tuple(value.shape) for key, value in result.items()}
    assert shapes == {
        "theta": (2, 3, 85),
        "camera": (2, 3, 3),
        "pose": (2, 3, 72),
        "shape": (2, 3, 10),
        "rotations": (2, 3, 24, 3, 3),
        "keypoints3d": (2, 3, 19, 3),
        "keypoints_ndc": (2, 3, 19, 2),
        "vertices": (2, 60, 3),
    }
    assert {key: tuple(tensor.shape) for key, tensor in hmr.output.items()} == {
        key: (None, *shape[1:]) for key, shape in shapes.items()
    }


def test_outputs_belong_together(hmr):
    result = hmr(random_images(2))
    theta = result["theta"].numpy()
    np.testing.assert_array_equal(result["camera"], theta[..., :3])
    np.testing.assert_array_equal(result["pose"], theta[..., 3:75])
    np.testing.assert_array_equal(result["shape"], theta[..., 75:])
    for stage in range(3):
        body = hmr.smpl(theta[:, stage, 3:75], theta[:, stage, 75:])
        np.testing.assert_allclose(result["rotations"][:, stage], body["rotations"], atol=1e-6)
        np.testing.assert_allclose(result["keypoints3d"][:, stage], body["keypoints"], atol=1e-5)
        ndc = theta[:, stage, None, :1] * (body["keypoints"][..., :2] + theta[:, stage, None, 1:3])
        np.testing.assert_allclose(result["keypoints_ndc"][:, stage], ndc, atol=1e-5)
    np.testing.assert_allclose(result["vertices"], body["vertices"], atol=1e-5)
    np.testing.assert_allclose(hmr.vertices(theta[:, 2]), body["vertices"], atol=1e-5)


def test_every_stage_adds_a_correction(hmr):
    images = random_images(2)
    features = hmr.backbone(images).numpy()
    theta = np.tile(hmr.mean_theta.numpy(), (2, 1))
    for stage in range(3):
        theta = theta + hmr.regressor(np.concatenate([features, theta], axis=1)).numpy()
        np.testing.assert_allclose(hmr(images)["theta"][:, stage], theta, atol=1e-5)


def test_starts_upright(hmr):
    expected = np.zeros(85, np.float32)
    expected[[0, 3]] = 0.9, np.pi
    np.testing.assert_array_equal(hmr.mean_theta, expected)
    rest, standing = hmr.vertices(np.stack([np.zeros(85), expected])).numpy()
    root = hmr.body.J_regressor[0] @ hmr.body.v_template
    # Up in the body is down in a picture.
    np.testing.assert_allclose(standing - root, (rest - root) * [1, -1, -1], atol=1e-5)


def test_regressor_equals_the_original():
    original = load_fixture("hmr_regressor")
    values = recipe_weights(original["shapes_json"], original["recipe_json"]["seed"])
    model = small_hmr(backbone=stub_backbone(2048))
    model.regressor.set_weights(
        [values[name] * (0.02 if "dense_2/" in name else 1) for name in original["names_json"]]
    )
    np.testing.assert_allclose(model.regressor(original["x"]), original["out"], rtol=1e-4, atol=1e-5)


def test_dropout_changes_the_last_stage_only(hmr):
    images = random_images(2)
    calm, trained = hmr(images)["theta"], hmr(images, training=True)["theta"]
    np.testing.assert_allclose(trained[:, :2], calm[:, :2], atol=1e-6)
    assert np.abs(trained[:, 2] - calm[:, 2]).max() > 1e-4


def test_everything_is_trained(hmr):
    with tf.GradientTape() as tape:
        result = hmr(random_images(2), training=True)
        loss = tf.reduce_sum(result["keypoints_ndc"] ** 2) + tf.reduce_sum(result["vertices"] ** 2)
    gradients = tape.gradient(loss, hmr.trainable_variables)
    assert len(gradients) == 2 + 1 + 6
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    assert any(variable is hmr.mean_theta for variable in hmr.trainable_variables)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size(hmr, batch):
    compiled = tf.function(hmr, input_signature=[tf.TensorSpec([None, 16, 16, 3])])
    images = random_images(batch)
    for key, value in compiled(images).items():
        assert value.shape[0] == batch
        np.testing.assert_allclose(value, hmr(images)[key], atol=1e-5)


def test_runs_compiled_by_xla(hmr):
    images = random_images(2)
    compiled = tf.function(hmr, jit_compile=True)(images)
    np.testing.assert_allclose(compiled["vertices"], hmr(images)["vertices"], atol=1e-5)


def test_as_a_keras_model(hmr, tmp_path):
    check_model(hmr, random_images(3), tmp_path, tolerance=1e-5)


def test_round_trip_of_a_named_backbone(tmp_path):
    model = HMR(
        tiny_body(), "mobilenetv2", image_size=32, num_stages=2, dropout=0.25, backbone_preprocessing="imagenet"
    )
    config = model.get_config()
    assert config["backbone"] == "mobilenetv2"
    assert HMR.from_config(config).get_config() == config
    check_model(model, random_images(1, 32), tmp_path, tolerance=1e-4, export=False)


def test_round_trip_of_a_dtype_policy(policy, tmp_path):
    policy("mixed_bfloat16")
    model = HMR(tiny_body(), "mobilenetv2", image_size=32)
    model.trainable = False
    model.save(tmp_path / "hmr.keras")
    policy("float32")
    loaded = keras.saving.load_model(tmp_path / "hmr.keras")
    assert keras.config.dtype_policy().name == "float32"
    assert loaded.backbone.dtype_policy.name == loaded.dtype_policy.name == "mixed_bfloat16"
    assert {layer.compute_dtype for layer in loaded.backbone.layers} == {"bfloat16"}
    assert loaded.get_config() == model.get_config()
    assert not loaded.trainable_variables
    images = random_images(1, 32)
    np.testing.assert_array_equal(loaded(images)["theta"], model(images)["theta"])


def test_a_frozen_backbone_stays_frozen():
    backbone = stub_backbone()
    backbone.build((None, 16, 16, 3))
    backbone.trainable = False
    model = HMR.from_config(small_hmr(backbone=backbone).get_config())
    assert not model.backbone.trainable_variables and model.regressor.trainable_variables


def test_backbone_weights_are_not_fetched_again():
    config = {**small_hmr().get_config(), "backbone": "mobilenetv2", "image_size": 32, "backbone_weights": "imagenet"}
    model = HMR.from_config(config)
    assert model.get_config()["backbone_weights"] == "imagenet"


def test_weights_fit_a_model_with_another_body(hmr, tmp_path):
    hmr.save_weights(tmp_path / "hmr.weights.h5")
    other = small_hmr(body=tiny_body(num_vertices=96, seed=4))
    other.load_weights(tmp_path / "hmr.weights.h5")
    images = random_images(1)
    np.testing.assert_allclose(other(images)["theta"], hmr(images)["theta"], atol=1e-6)
    assert other(images)["vertices"].shape == (1, 96, 3)


def test_an_archive_brings_its_body(hmr, tmp_path):
    hmr.save(tmp_path / "hmr.keras")
    loaded = keras.saving.load_model(tmp_path / "hmr.keras")
    np.testing.assert_array_equal(loaded.body.v_template, hmr.body.v_template)


def test_summary(hmr):
    lines = []
    hmr.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert all(name in text for name in ("stub", "stages", "body"))


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_in_the_backbone_only(policy, name):
    policy(name)
    model = HMR(tiny_body(), "mobilenetv2", image_size=32)
    assert model.backbone.output.dtype == name.removeprefix("mixed_")
    result = model(random_images(1, 32))
    assert {value.dtype.name for value in result.values()} == {"float32"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert all(np.isfinite(value).all() for value in result.values())


def test_dtype_is_that_of_a_named_backbone():
    model = HMR(tiny_body(), "mobilenetv2", image_size=32, dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.backbone.layers} == {"bfloat16"}
    assert HMR.from_config(model.get_config()).get_config() == model.get_config()
    with pytest.raises(ValueError, match=r"dtype is 'float16', .* brings its own"):
        small_hmr(dtype="float16")


def test_critic_computes_in_float32_under_half_precision(policy):
    inputs = [np.zeros((2, *tensor.shape[1:]), np.float32) for tensor in Critic().inputs]
    check_half_precision(Critic, [inputs])
    policy("mixed_float16")
    assert {layer.compute_dtype for layer in Critic().layers if layer.weights} == {"float32"}


@pytest.mark.parametrize("spelling", ["MobileNetV2", "mobilenet_v2", "mobilenet-v2"])
def test_spellings_of_a_backbone(spelling):
    assert HMR(tiny_body(), spelling, image_size=32).backbone.name.startswith("mobilenetv2")


def test_wrong_backbones_are_refused():
    with pytest.raises(ValueError, match="'resnet5000'; choose from .*'resnet50'"):
        HMR(tiny_body(), "resnet5000")
    with pytest.raises(ValueError, match="GlobalAveragePooling2D"):
        small_hmr(backbone=keras.layers.Conv2D(4, 3))
    with pytest.raises(ValueError, match="bring"):
        small_hmr(backbone_weights="imagenet")
    with pytest.raises(ValueError, match="'original', 'imagenet'"):
        small_hmr(backbone_preprocessing="caffe")
    with pytest.raises(ValueError, match="choose from|one of"):
        small_hmr(backbone=7)
    assert "resnet50" in backbone_names()


def test_wrong_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere.h5"):
        HMR(tiny_body(), "mobilenetv2", str(tmp_path / "nowhere.h5"), image_size=32)
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken\.weights\.h5 does not fit 'mobilenetv2"):
        HMR(tiny_body(), "mobilenetv2", broken, image_size=32)

    def no_network(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.org: None -- no network")

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", no_network)
    with pytest.raises(ConnectionError, match="--backbone_weights=PATH"):
        HMR(tiny_body(), "mobilenetv2", "imagenet", image_size=96)


def test_weights_from_a_file(tmp_path):
    first = HMR(tiny_body(), "mobilenetv2", image_size=32)
    path = tmp_path / "backbone.weights.h5"
    first.backbone.save_weights(path)
    second = HMR(tiny_body(), "mobilenetv2", backbone_weights=path, image_size=32)
    images = random_images(1, 32)
    np.testing.assert_allclose(second.backbone(images), first.backbone(images), atol=1e-6)


def test_preprocessing_of_caffe_weights():
    model = HMR(tiny_body(), "vgg16", image_size=32, backbone_preprocessing="imagenet")
    images = np.stack([np.full((32, 32, 3), value, np.float32) for value in (-1, 1)])
    images[:, :, :, 0] = -1
    prepared = model.get_layer("preprocessing")(images)
    np.testing.assert_allclose(prepared[0, 0, 0], [-103.939, -116.779, -123.68], atol=1e-3)
    # Blue comes first: red, which is black here, is the last.
    np.testing.assert_allclose(prepared[1, 0, 0], [255 - 103.939, 255 - 116.779, -123.68], atol=1e-3)
    plain = HMR(tiny_body(), "vgg16", image_size=32)
    assert [layer.name for layer in plain.layers] == ["images", "vgg16", "stages", "body"]


@pytest.mark.parametrize(
    "name, preprocessing, low, high",
    [
        ("mobilenetv2", "imagenet", -1, 1),
        ("mobilenetv3small", "original", None, None),
        ("mobilenetv3small", "imagenet", 0, 255),
        ("efficientnetb0", "original", 0, 255),
        ("efficientnetb0", "imagenet", 0, 255),
    ],
)
def test_each_family_gets_what_it_expects(name, preprocessing, low, high):
    model = HMR(tiny_body(), name, image_size=32, backbone_preprocessing=preprocessing)
    images = np.stack([np.full((32, 32, 3), value, np.float32) for value in (-1, 1)])
    inside = any(isinstance(layer, keras.layers.Rescaling) for layer in model.backbone.layers)
    if low is None:
        assert not inside
        assert "preprocessing" not in [layer.name for layer in model.layers]
        return
    assert inside == (high == 255)
    prepared = model.get_layer("preprocessing")(images)
    np.testing.assert_allclose(prepared[:, 0, 0, 0], [low, high], atol=1e-4)


def test_mean_theta_is_given(tmp_path):
    values = np.linspace(-1, 1, 85)
    np.testing.assert_allclose(small_hmr(mean_theta=values).mean_theta, values, atol=1e-6)
    with pytest.raises(ValueError, match="has 80 values; the body 'tiny' takes 85"):
        small_hmr(mean_theta=np.zeros(80))
    np.savez(tmp_path / "mean.npz", pose=np.arange(72.0), shape=np.arange(10.0))
    mean = small_hmr(mean_theta=tmp_path / "mean.npz").mean_theta.numpy()
    np.testing.assert_allclose(mean[:7], [0.9, 0, 0, np.pi, 0, 0, 3], atol=1e-6)
    np.testing.assert_allclose(mean[75:], np.arange(10.0))


def test_other_numbers_of_stages_and_shapes():
    result = small_hmr(body=tiny_body(num_shape=4), num_stages=1)(random_images(2))
    assert result["theta"].shape == (2, 1, 79)
    assert result["shape"].shape == (2, 1, 4)


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_critic")


@pytest.fixture(scope="module")
def critic(original):
    critic = Critic()
    by_path = {variable.path: variable for variable in critic.weights}
    for name in original["critic_names_json"]:
        layer, kind = name.removesuffix(":0").split("/")
        (path,) = [path for path in by_path if path.endswith(f"{layer}/{kind}")]
        by_path.pop(path).assign(original[f"W/{name}"])
    assert not by_path
    return critic


def critic_inputs(original):
    kcs = KinematicChainSpace()(original["joints"])
    return [kcs, tf.constant(original["joints"][:, :14]), tf.constant(original["shapes"]), tf.constant(original["Rs"])]


def test_critic_equals_the_original(original, critic):
    assert critic.count_params() == 114_273
    inputs = critic_inputs(original)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        scores = critic(inputs)
        total = tf.reduce_sum(scores)
    np.testing.assert_allclose(scores, original["critic_out"], rtol=1e-5, atol=1e-5)
    for number, gradient in enumerate(tape.gradient(total, inputs)):
        np.testing.assert_allclose(gradient, original[f"critic_dinput{number}"], rtol=1e-5, atol=1e-5)


def test_critic_as_a_keras_model(original, critic, tmp_path):
    check_model(critic, [np.asarray(tensor) for tensor in critic_inputs(original)], tmp_path, tolerance=1e-5)
    config = critic.get_config()
    assert Critic.from_config(config).get_config() == config


def test_critic_of_another_skeleton():
    critic = Critic(num_joints=17, num_shape=4, num_rotations=10)
    inputs = [np.zeros((2, *tensor.shape[1:]), np.float32) for tensor in critic.inputs]
    assert [array.shape for array in inputs] == [(2, 16, 16), (2, 17, 3), (2, 4), (2, 10, 3, 3)]
    assert critic(inputs).shape == (2, 3)
