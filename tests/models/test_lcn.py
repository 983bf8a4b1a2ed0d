import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.models import LCN
from posekit.models.lcn import original_variables
from posekit.skeletons import COCO17, H36M17, Skeleton
from posekit.testing import check_half_precision, check_model, load_fixture
from posekit.training.fused_adam import FusedAdam

CASES = ["small", "small_inF3_knn1", "small_nomaxnorm_nores_knn2", "learnable_ones", "learnable_same", "full"]
STICK = Skeleton("stick", ("a", "left_b", "right_b", "c"), (("left_b", "a"), ("right_b", "a"), ("c", "a")))


class Original:
    """A fixture, and a model with its weights."""

    def __init__(self, name):
        self.values = load_fixture(f"lcn_model_{name}")
        self.params = self.values["params_json"]
        recipe, shapes = self.values["recipe_json"], self.values["var_shapes_json"]
        if recipe["weights_dumped"]:
            self.weights = {key: self.values[f"W/{key}"] for key in shapes}
        else:
            self.weights = recipe_weights(shapes, recipe["seed"], recipe["gain"], recipe["var_lo"], recipe["var_hi"])
        hops = [hops for hops in (1, 2, 3) if (H36M17.neighbours(hops).T == (self.values["mask"] != 0)).all()]
        self.model = LCN(
            hops=hops[0],
            channels=self.params["F"],
            num_layers=self.params["num_layers"],
            in_features=self.params["in_F"],
            mask_type=self.params["mask_type"],
            mask_init=self.params["init_type"],
            residual=self.params["residual"],
            max_norm=self.params["max_norm"],
            batch_norm=self.params["batch_norm"],
            dropout=self.params["dropout"],
            regularization=self.params["regularization"],
        )
        self.variables = {f"{key}:0": variable for key, variable in original_variables(self.model)}
        self.reset()

    def reset(self):
        for key, variable in self.variables.items():
            variable.assign(self.weights[key])

    def joints(self, key):
        return self.values[key].reshape(-1, 17, self.params["in_F"])

    def poses(self, key):
        return self.values[key].reshape(-1, 17, 3)


@pytest.fixture(scope="module", params=CASES)
def original(request):
    case = Original(request.param)
    yield case
    keras.backend.clear_session()


@pytest.fixture(autouse=True)
def fresh_weights(request):
    if "original" in request.fixturenames:
        request.getfixturevalue("original").reset()


def statistics(array):
    array = np.asarray(array, np.float64)
    return np.array([array.sum(), np.abs(array).sum(), np.square(array).sum(), array.min(), array.max()])


def assert_same_statistics(ours, expected, tolerance, relative=1e-4):
    ours = np.asarray(ours)
    result = statistics(ours)
    np.testing.assert_allclose(result[:2], expected[:2], rtol=relative / 10, atol=tolerance * np.sqrt(ours.size))
    np.testing.assert_allclose(result[2:], expected[2:], rtol=relative, atol=tolerance)


def test_variables_have_the_original_names_and_shapes(original):
    shapes = {key: list(variable.shape) for key, variable in original.variables.items()}
    assert list(shapes) == list(original.values["var_shapes_json"])
    assert shapes == original.values["var_shapes_json"]
    for key in original.weights:
        if f"Wstats/{key}" in original.values:
            np.testing.assert_allclose(statistics(original.weights[key]), original.values[f"Wstats/{key}"], rtol=1e-6)


def test_mask_equals_the_original(original):
    model = original.model
    mask = (model.get_layer("mask") if model.learnt_mask else model.get_layer("first").mask_layer).values()
    np.testing.assert_allclose(mask, original.values["mask"], atol=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_predictions_equal_the_original(original, mode):
    labels = original.poses("y")
    pose = original.model(original.joints("x"), training=mode == "train")
    assert pose.dtype == "float32"
    np.testing.assert_allclose(pose, original.poses(f"pred_{mode}"), rtol=1e-4, atol=1e-5)
    loss = tf.reduce_mean(tf.square(pose - labels)) + tf.add_n([0.0, *original.model.losses])
    np.testing.assert_allclose(loss, original.values[f"loss_{mode}"], rtol=1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_activations_equal_the_original(original, mode):
    layers = [layer for layer in original.model.layers if layer.name.endswith("_activation")]
    assert len(layers) == len(original.values["act_op_names"]) == 1 + 2 * original.params["num_layers"]
    inside = keras.Model(original.model.input, [layer.output for layer in layers])
    for number, activation in enumerate(inside(original.joints("x"), training=mode == "train")):
        if original.values["recipe_json"]["weights_dumped"]:
            expected = original.values[f"act_{mode}_{number}"].reshape(activation.shape)
            np.testing.assert_allclose(activation, expected, rtol=1e-4, atol=1e-5)
        else:
            assert_same_statistics(activation, original.values[f"actstats_{mode}_{number}"], 1e-5)


def test_a_short_batch_equals_the_original(original):
    joints, labels = original.joints("predict_x"), original.poses("predict_y")
    ours = original.model.predict(joints, batch_size=original.params["batch_size"], verbose=0)
    np.testing.assert_allclose(ours, original.poses("predict_out"), rtol=1e-4, atol=1e-5)
    # The original fills its last batch with zeros, which count in its loss.
    size, total = original.params["batch_size"], 0
    for start in range(0, len(joints), size):
        padding = [(0, size - len(joints[start : start + size])), (0, 0), (0, 0)]
        padded, truth = (np.pad(array[start : start + size], padding) for array in (joints, labels))
        total += np.mean(np.square(original.model(padded) - truth)) + float(sum(original.model.losses))
    np.testing.assert_allclose(total * size / len(joints), original.values["predict_loss"], rtol=1e-5)


def test_steps_of_adam_equal_the_original(original):
    decay = keras.optimizers.schedules.ExponentialDecay(
        original.params["learning_rate"],
        original.params["decay_params"]["decay_steps"],
        original.params["decay_params"]["decay_rate"],
    )
    original.model.compile(FusedAdam(decay, epsilon=1e-8), loss="mse")
    joints, labels = original.joints("x"), original.poses("y")
    for step in (1, 2, 3):
        np.testing.assert_allclose(
            original.model.optimizer.learning_rate, original.values["train_lr"][step - 1], rtol=1e-6
        )
        loss = original.model.train_on_batch(joints, labels)
        np.testing.assert_allclose(loss, original.values["train_loss_before"][step - 1], rtol=1e-5)
        if step == 2:
            continue
        for key, variable in original.variables.items():
            moving = "/moving_" in key
            if f"after_step{step}/{key}" in original.values:
                expected = original.values[f"after_step{step}/{key}"]
                tolerance = {"rtol": 1e-4, "atol": 1e-7} if moving else {"rtol": 0, "atol": 2e-5}
                np.testing.assert_allclose(variable, expected, **tolerance, err_msg=key)
            else:
                expected = original.values[f"after_step{step}_stats/{key}"]
                assert_same_statistics(variable, expected, 1e-7 if moving else 2e-5)
    np.testing.assert_allclose(original.model(joints), original.poses("pred_eval_after3"), rtol=1e-4, atol=1e-5)


def small_lcn(**options):
    keras.utils.set_random_seed(0)
    return LCN(**{"channels": 5, "num_layers": 1, "hops": 2, **options})


def random_joints(batch=3, joints=17, features=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, joints, features)).astype(np.float32)


def test_without_blocks():
    assert small_lcn(num_layers=0)(random_joints()).shape == (3, 17, 3)


def test_counts():
    model = LCN()
    hidden, features = 17 * 64, 64
    kernels = 34 * hidden + 6 * hidden * hidden + hidden * 51
    biases = 7 * hidden + 51
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == kernels + biases + 7 * 2 * features
    assert model.output_shape == (None, 17, 3)
    assert [layer.rate for layer in model.layers if layer.name.endswith("_dropout")] == [0.25] * 7
    norm = model.get_layer("block_2_b_norm")
    assert (norm.momentum, norm.epsilon) == (0.99, 1e-3)


def test_without_weights_the_input_comes_back():
    model = small_lcn(in_features=3, batch_norm=False)
    last = model.get_layer("last")
    last.kernel.assign(np.zeros(last.kernel.shape))
    last.bias.assign(np.tile([0.25, 0.5, 2.0], 17))
    joints = random_joints(features=3)
    expected = np.concatenate([joints[..., :2] + [0.25, 0.5], np.full((3, 17, 1), 2.0)], axis=-1)
    np.testing.assert_allclose(model(joints), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size(batch):
    model = small_lcn()
    joints = random_joints(batch)
    compiled = tf.function(model, input_signature=[tf.TensorSpec([None, 17, 2])])(joints)
    assert compiled.shape == (batch, 17, 3)
    np.testing.assert_allclose(compiled, model(joints), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_type": "locally_connected_learnable", "mask_init": "same", "residual": False, "in_features": 3},
        {"skeleton": "COCO17", "hops": 1, "channels": 32, "max_norm": None, "batch_norm": False},
        {"skeleton": STICK, "hops": 1, "max_norm": 0.5, "regularization": 1e-3, "dropout": 0.1},
        {"skeleton": None, "adjacency": np.full((4, 4), 0.25), "name": "four"},
    ],
    ids=["default", "learnable", "coco", "stick", "matrix"],
)
def test_as_a_keras_model(options, tmp_path):
    model = small_lcn(**options)
    joints = random_joints(2, *model.input_shape[1:])
    check_model(model, joints, tmp_path, tolerance=1e-6)
    config = model.get_config()
    twin = LCN.from_config(config)
    assert twin.get_config() == config
    assert [v.shape for v in twin.variables] == [v.shape for v in model.variables]


def test_options_come_back_as_attributes():
    model = small_lcn(skeleton="COCO17", hops=1, max_norm=False, dropout=0.5)
    assert model.skeleton is COCO17
    assert (model.hops, model.max_norm, model.dropout, model.channels) == (1, False, 0.5, 5)
    own = LCN.from_config(small_lcn(skeleton=STICK).get_config())
    assert own.skeleton == STICK
    assert model.get_config()["hops"] == 1 and model.get_config()["adjacency"] is None
    layer = model.get_layer("block_0_a")
    assert (layer.skeleton, layer.hops, layer.adjacency) == (COCO17, 1, None)
    # A matrix goes before the hops, which are kept all the same.
    model = small_lcn(adjacency=H36M17.neighbours(1), hops=3)
    assert (model.hops, model.get_layer("first").hops) == (3, 3)
    np.testing.assert_array_equal(model.get_layer("first").mask_layer.adjacency, H36M17.neighbours(1))


@pytest.mark.parametrize("given, limit", [(True, 1.0), (1, 1), (2.5, 2.5), (False, None), (None, None)])
def test_limit_of_the_norm(given, limit):
    model = LCN.from_config(small_lcn(max_norm=given).get_config())
    assert model.max_norm is given or model.max_norm == given
    assert {model.get_layer(name).max_norm for name in ("first", "block_0_b", "last")} == {limit}


def test_everything_dropped():
    assert np.isfinite(small_lcn(dropout=1)(random_joints(), training=True)).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16", "float64"])
@pytest.mark.parametrize("mask_type", ["locally_connected", "locally_connected_learnable"])
def test_a_dtype_policy_is_kept(dtype, mask_type, tmp_path):
    model = small_lcn(dtype=dtype, mask_type=mask_type)
    assert model.dtype_policy.name == dtype
    assert {layer.dtype_policy.name for layer in model.layers if layer.name != "joints"} == {dtype}
    model.save(tmp_path / "lcn.keras")
    loaded = keras.saving.load_model(tmp_path / "lcn.keras")
    assert loaded.get_config() == model.get_config()
    assert [layer.dtype_policy for layer in loaded.layers] == [layer.dtype_policy for layer in model.layers]
    joints = random_joints()
    np.testing.assert_array_equal(loaded(joints), model(joints))
    assert loaded(joints).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_a_global_dtype_policy_is_saved(tmp_path):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        small_lcn().save(tmp_path / "lcn.keras")
    finally:
        keras.config.set_dtype_policy(before)
    loaded = keras.saving.load_model(tmp_path / "lcn.keras")
    assert loaded.get_layer("block_0_a").compute_dtype == "bfloat16"
    assert loaded.get_layer("first").kernel.dtype == "float32"


def test_a_frozen_model_stays_frozen(tmp_path):
    model = small_lcn(trainable=False)
    assert not model.trainable_variables
    model.save(tmp_path / "lcn.keras")
    loaded = keras.saving.load_model(tmp_path / "lcn.keras")
    assert not loaded.trainable and not loaded.trainable_variables


def test_momentum_of_batch_normalisation():
    model = LCN.from_config(small_lcn(batch_norm_momentum=0.9).get_config())
    assert model.batch_norm_momentum == 0.9
    assert {layer.momentum for layer in model.layers if layer.name.endswith("_norm")} == {0.9}


def test_half_precision():
    check_half_precision(small_lcn, [random_joints()])


def test_half_precision_is_near_and_trains():
    joints, labels = random_joints(8), random_joints(8, features=3, seed=1)
    full = small_lcn()(joints)
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = small_lcn()
        np.testing.assert_allclose(model(joints), full, atol=0.03)
        model.compile(FusedAdam(1e-2, epsilon=1e-8), loss="mse")
        losses = [model.train_on_batch(joints, labels) for _ in range(10)]
    finally:
        keras.config.set_dtype_policy(before)
    assert losses[-1] < losses[0]


def test_runs_compiled_by_xla():
    model = small_lcn(dropout=0.0)
    joints, labels = random_joints(8), random_joints(8, features=3, seed=1)
    np.testing.assert_allclose(tf.function(model, jit_compile=True)(joints), model(joints), atol=1e-6)
    weights = model.get_weights()
    results = []
    for compiled in (False, True):
        model.set_weights(weights)
        model.compile("sgd", loss="mse", jit_compile=compiled)
        model.train_on_batch(joints, labels)
        results.append(model.get_weights())
    for plain, compiled in zip(*results):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_learns():
    model = small_lcn(channels=8, dropout=0.0)
    joints, labels = random_joints(32), random_joints(32, features=3, seed=1)
    labels[..., :2] = joints
    labels[..., 2] = joints[..., 0] * 0.5 + np.roll(joints[..., 1], 1, axis=1)
    model.compile(FusedAdam(1e-2, epsilon=1e-8), loss="mse")
    history = model.fit(joints, labels, batch_size=16, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_dropout_in_training_only():
    model = small_lcn(batch_norm=False, dropout=0.5)
    joints = random_joints()
    np.testing.assert_array_equal(model(joints), model(joints))
    assert not np.allclose(model(joints, training=True), model(joints, training=True))


def test_regularization_counts_kernels_and_biases():
    model = small_lcn(regularization=0.02, mask_type="locally_connected_learnable")
    layers = [model.get_layer(name) for name in ("first", "block_0_a", "block_0_b", "last")]
    weights = [weight.numpy() for layer in layers for weight in (layer.kernel, layer.bias)]
    expected = 0.02 * sum(np.square(weight).sum() / 2 for weight in weights)
    np.testing.assert_allclose(tf.add_n(model.losses), expected, rtol=1e-5)
    assert not small_lcn().losses


@pytest.mark.parametrize("init", ["random", "ones", "same"])
def test_one_learnt_mask_for_all_layers(init):
    model = small_lcn(mask_type="locally_connected_learnable", mask_init=init)
    (variable,) = [v for v in model.trainable_variables if v.path.endswith("mask/mask")]
    mask = model.get_layer("mask")
    assert mask.weight is variable
    start = variable.numpy()
    neighbours = H36M17.neighbours(2)
    if init == "same":
        np.testing.assert_array_equal(start, neighbours)
    elif init == "ones":
        np.testing.assert_array_equal(start, np.ones((17, 17)))
    else:
        assert 0 <= start.min() < 0.1 and 0.9 < start.max() < 1
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(random_joints(8)) ** 2)
    gradient = tape.gradient(loss, variable).numpy()
    assert (gradient[neighbours.T] != 0).all()
    assert (mask.values().numpy()[~neighbours.T] == 0).all()


def test_original_variables_are_all_weights():
    for options in ({}, {"batch_norm": False}, {"mask_type": "locally_connected_learnable"}):
        model = small_lcn(num_layers=2, **options)
        listed = original_variables(model)
        assert len({name for name, _ in listed}) == len(listed)
        weights = [variable for variable in model.variables if "seed_generator" not in variable.path]
        assert sorted(map(id, weights)) == sorted(id(variable) for _, variable in listed)
    names = [name for name, _ in original_variables(small_lcn())]
    assert names[0] == "linear_model/w1"
    assert names[6] == "linear_model/two_linear_0/w2_0"
    assert "linear_model/two_linear_0/batch_normalization20/moving_variance" in names
    assert names[-2:] == ["linear_model/w4", "linear_model/b4"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_type": "locally_connected_learnable", "residual": False, "in_features": 3, "num_layers": 2},
        {"skeleton": STICK, "hops": 1, "max_norm": None, "batch_norm": False},
    ],
    ids=["default", "learnable", "stick"],
)
def test_folded_gives_the_same(options, tmp_path):
    model = small_lcn(**options)
    joints = random_joints(4, *model.input_shape[1:])
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if "norm/" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    folded = model.folded()
    np.testing.assert_allclose(folded(joints), model(joints), atol=1e-5)
    check_model(folded, joints, tmp_path, tolerance=1e-6)
    near = model.folded("bfloat16")(joints)
    assert near.dtype == "float32"
    np.testing.assert_allclose(near, model(joints), atol=0.05)
    with pytest.raises(ValueError, match="'float64'; choose from .*'bfloat16'"):
        model.folded("float64")


def test_folded_equals_the_original(original):
    pose = original.model.folded()(original.joints("x"))
    np.testing.assert_allclose(pose, original.poses("pred_eval"), rtol=1e-4, atol=1e-5)


def test_nan_stays_with_its_pose():
    joints = random_joints(3)
    joints[1, 4, 0] = np.nan
    result = small_lcn()(joints).numpy()
    assert np.isnan(result[1]).any()
    assert np.isfinite(result[[0, 2]]).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_type": "local"}, "'local'; choose from .*'locally_connected_learnable'"),
        ({"mask_init": "zeros"}, "'zeros'; choose from .*'random', 'ones', 'same'"),
        ({"in_features": 4}, "in_features is 4; choose 2"),
        ({"adjacency": np.ones((16, 17))}, r"\(16, 17\); it must be square"),
        ({"adjacency": np.ones((16, 16))}, "16 joints and the skeleton 'H36M17' 17"),
        ({"adjacency": np.full((17, 17), np.nan)}, "not finite"),
        ({"skeleton": "H36M18"}, "'H36M18'; choose from .*'H36M17'"),
        ({"skeleton": None}, "None"),
        ({"hops": -1}, "hops is -1"),
        ({"max_norm": -1.0}, "max_norm is -1.0; give a positive number"),
        ({"max_norm": 0}, "max_norm is 0; .*False for no limit"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"channels": 0}, "channels is 0; give a whole number, 1 or more"),
        ({"channels": 8.5}, "channels is 8.5"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"num_layers": 1.5}, "num_layers is 1.5"),
        ({"hops": 2.5}, "hops is 2.5"),
        ({"in_features": 2.0}, "in_features is 2.0"),
        ({"dropout": 1.5}, "1.5"),
        ({"batch_norm_momentum": 1.0}, "batch_norm_momentum is 1.0"),
        ({"regularization": -1e-3}, "regularization is -0.001"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_lcn(**options)


def test_wrong_inputs_are_refused():
    model = small_lcn()
    for shape in ((2, 16, 2), (2, 17, 3), (17, 2)):
        with pytest.raises(ValueError, match="17, 2"):
            model(np.zeros(shape, np.float32))


@pytest.mark.parametrize("options", [{"channels": 10**6}, {"channels": 4096}, {"channels": 64, "num_layers": 10**6}])
def test_networks_that_no_memory_holds_are_refused(options):
    with pytest.raises(ValueError, match=f"channels={options['channels']} and num_layers=.* at most 5.4e"):
        LCN(**options)
