"""Per-variable learning rates: the traces of TensorFlow Addons, saving, schedules, mixed precision, distribution."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.testing import load_fixture
from posekit.training.optimizers import MultiOptimizer, MultiRateSGD, multi_rate

LAYERS = ("fc0", "fc1", "fc2", "fc3")
ATOL, RTOL = 1e-6, 1e-5  # the fixture's


@pytest.fixture(scope="module")
def traces():
    return load_fixture("card_tfa_optim")


def sgd(rate, **settings):
    return keras.optimizers.SGD(rate, momentum=0.9, **settings)


def schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.05, 0.01])


def rates():
    return {"fc0/": 1, "fc1/": 2, "fc2/": 4, "fc3/": 8}


CASES = {
    "multi_sgd": lambda: multi_rate(sgd(0.02), rates()),
    "multi_sgd_nesterov": lambda: multi_rate(sgd(0.02, nesterov=True), rates()),
    "multi_adam_sgd": lambda: MultiOptimizer(
        {"fc[01]/": keras.optimizers.Adam(1e-2), "fc[23]/": keras.optimizers.SGD(0.05)}
    ),
    "multi_partial": lambda: MultiOptimizer({"fc3/": sgd(0.05)}),
    "multi_schedule": lambda: MultiOptimizer({"fc[01]/": sgd(schedule()), "fc[23]/": sgd(0.01)}),
    "pervar_sgd": lambda: multi_rate(
        sgd(0.02), {"fc[01]/bias": 2, "fc[23]/kernel": 4, "fc[23]/bias": 8, "fc[01]/kernel": 1}
    ),
}


def named_variables(arrays):
    """Variables as layers `fc0` … make them, with given values."""
    layers = {}
    for layer in LAYERS:
        kernel = arrays[f"{layer}.kernel"]
        layers[layer] = keras.layers.Dense(kernel.shape[1], name=layer)
        layers[layer].build((None, kernel.shape[0]))
        layers[layer].set_weights([kernel, arrays[f"{layer}.bias"]])
    return {f"{layer}.{v.name}": v for layer in LAYERS for v in layers[layer].trainable_variables}


def recorded(traces, case, prefix):
    start = f"{case}/{prefix}/"
    return {key.removeprefix(start): value for key, value in traces.items() if key.startswith(start)}


def replay(optimizer, traces, case, compiled):
    """Feeds the recorded gradients and compares the weights after every step."""
    variables = named_variables(recorded(traces, case, "w0"))
    optimizer.build(list(variables.values()))
    apply = tf.function(lambda gradients: optimizer.apply(gradients)) if compiled else optimizer.apply
    step = 0
    while gradients := recorded(traces, case, f"g{step}"):
        apply([tf.constant(gradients[name]) for name in variables])
        step += 1
        for name, value in recorded(traces, case, f"w{step}").items():
            np.testing.assert_allclose(variables[name].numpy(), value, RTOL, ATOL, err_msg=f"{name}, step {step}")
    assert step >= 3 and int(optimizer.iterations) == step
    return variables


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
@pytest.mark.parametrize("case", CASES)
def test_traces_of_tensorflow_addons(case, compiled, traces):
    replay(CASES[case](), traces, case, compiled)


@pytest.mark.parametrize("case", CASES)
def test_traces_after_a_round_trip_of_the_config(case, traces):
    config = keras.saving.serialize_keras_object(CASES[case]())
    replay(keras.saving.deserialize_keras_object(config), traces, case, compiled=False)
    optimizer = CASES[case]()
    replay(type(optimizer).from_config(optimizer.get_config()), traces, case, compiled=False)


@pytest.mark.parametrize("case", ["multi_sgd", "pervar_sgd"])
def test_traces_with_several_optimizers_in_the_place_of_multipliers(case, traces):
    factors = {
        "multi_sgd": dict.fromkeys(("kernel", "bias"), (1, 2, 4, 8)),
        "pervar_sgd": {"kernel": (1, 1, 4, 4), "bias": (2, 2, 8, 8)},
    }[case]
    optimizers = {
        f"{layer}/{kind}": sgd(0.02 * factors[kind][index])
        for index, layer in enumerate(LAYERS)
        for kind in ("kernel", "bias")
    }
    replay(MultiOptimizer(optimizers), traces, case, compiled=True)


def test_partial_optimizer_leaves_the_rest_alone(traces):
    before = recorded(traces, "multi_partial", "w0")
    after = replay(CASES["multi_partial"](), traces, "multi_partial", compiled=False)
    for name, variable in after.items():
        assert np.array_equal(variable.numpy(), before[name]) == (not name.startswith("fc3"))


def quadratic(names=("backbone", "head")):
    """A model whose layers have one variable each, and a gradient of 1 for all of them."""
    variables = []
    for name in names:
        layer = keras.layers.Dense(1, use_bias=False, name=name, kernel_initializer="ones")
        layer.build((None, 2))
        variables.append(layer.kernel)
    return variables, [tf.ones_like(variable) for variable in variables]


@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW, keras.optimizers.RMSprop],
    ids=lambda kind: kind.__name__,
)
def test_multiplier_equals_the_multiplied_learning_rate(optimizer):
    (plain, slow), gradients = quadratic()
    ours = multi_rate(optimizer(0.1), {"head": 0.25})
    assert isinstance(ours, optimizer) and ours.learning_rate.numpy() == np.float32(0.1)
    (other_plain, other_slow), _ = quadratic()
    first, second = optimizer(0.1), optimizer(0.025)
    for _ in range(4):
        ours.apply(gradients, [plain, slow])
        first.apply(gradients[:1], [other_plain])
        second.apply(gradients[1:], [other_slow])
    np.testing.assert_allclose(plain, other_plain, rtol=1e-6)
    np.testing.assert_allclose(slow, other_slow, rtol=1e-6)
    assert not np.allclose(plain, slow)


def test_multiplier_of_zero_freezes_even_with_decay_and_bad_gradients():
    (backbone, head), gradients = quadratic()
    optimizer = multi_rate(keras.optimizers.AdamW(0.1, weight_decay=0.5), [(backbone, 0)])
    optimizer.apply([gradients[0] * np.nan, gradients[1]], [backbone, head])
    np.testing.assert_array_equal(backbone, np.ones((2, 1)))
    assert (head.numpy() < 1).all()


def test_decay_is_multiplied():
    variables, gradients = quadratic()
    optimizer = multi_rate(keras.optimizers.SGD(0.1, weight_decay=0.1), {"head": 3.0})
    optimizer.apply([gradient * 0 for gradient in gradients], variables)
    np.testing.assert_allclose(variables[0], np.full((2, 1), 1 - 0.01), rtol=1e-6)
    np.testing.assert_allclose(variables[1], np.full((2, 1), 1 - 0.03), rtol=1e-6)
    assert optimizer.weight_decay == 0.1


def test_first_match_counts_and_the_rest_has_one():
    variables, gradients = quadratic(("a_1", "a_2", "b"))
    optimizer = multi_rate(keras.optimizers.SGD(1.0), {"a_2": 0.5, "a_": 0.25})
    optimizer.apply(gradients, variables)
    assert [float(variable.numpy()[0, 0]) for variable in variables] == [0.75, 0.5, 0.0]
    assert optimizer.multipliers == {"a_2": 0.5, "a_": 0.25}


def test_learning_rate_can_be_set_and_scheduled():
    variables, gradients = quadratic()
    optimizer = multi_rate(keras.optimizers.SGD(1.0), [(variables[1], 0.5)])
    assert optimizer.multipliers == {"^head/kernel$": 0.5}
    optimizer.learning_rate = 0.1
    optimizer.apply(gradients, variables)
    np.testing.assert_allclose([v.numpy()[0, 0] for v in variables], [0.9, 0.95], rtol=1e-6)
    variables, gradients = quadratic()
    optimizer = multi_rate(keras.optimizers.SGD(schedule()), {"head": 0.5})
    optimizer = type(optimizer).from_config(optimizer.get_config())
    for _ in range(5):  # rates .1 .1 .05 .05 .01
        optimizer.apply(gradients, variables)
    np.testing.assert_allclose([1 - v.numpy()[0, 0] for v in variables], [0.31, 0.155], rtol=1e-5)


def test_clipping_sees_the_gradient_not_the_multiplier():
    variables, gradients = quadratic()
    optimizer = multi_rate(keras.optimizers.SGD(1.0, global_clipnorm=1.0), {"head": 0.5})
    optimizer.apply(gradients, variables)
    np.testing.assert_allclose([v.numpy()[0, 0] for v in variables], [0.5, 0.75], rtol=1e-6)


def small_model():
    return keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4, "tanh", name="backbone"), keras.layers.Dense(2, name="head")]
    )


OPTIMIZERS = {
    "multi_rate": lambda: multi_rate(keras.optimizers.Adam(0.01), {"backbone/": 0.1, "bias$": 2.0}),
    "several": lambda: MultiOptimizer({"backbone/": sgd(0.01), "head/": keras.optimizers.Adam(0.01)}),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_saved_models_train_on_exactly(kind, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3)), rng.normal(size=(16, 2))
    model = small_model()
    model.compile(OPTIMIZERS[kind](), "mse")
    model.fit(x, y, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for one in (model, loaded):
        one.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(ours, theirs)
    assert int(loaded.optimizer.iterations) == 4


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_checkpoints_of_tensorflow(kind, tmp_path):
    variables, gradients = quadratic()
    optimizer = OPTIMIZERS[kind]() if kind == "several" else multi_rate(keras.optimizers.Adam(0.01), {"head": 2.0})
    optimizer.build(variables)
    optimizer.apply([gradients[0], None], variables)
    path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "checkpoint")
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(quadratic()[0])
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_consumed()
    for ours, theirs in zip(optimizer.variables, fresh.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_mixed_precision_with_loss_scaling(kind):
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
        model.compile(OPTIMIZERS[kind](), "mse", jit_compile=False)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        before = [weight.numpy() for weight in model.weights]
        model.fit(np.ones((8, 3)), np.ones((8, 2)), epochs=3, verbose=0)
        for old, new in zip(before, model.weights):
            assert new.dtype == "float32" and np.isfinite(new.numpy()).all() and not np.array_equal(old, new)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_mirrored_strategy(kind):
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    x, y = np.ones((8, 3)), np.ones((8, 2))
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = small_model()
        model.compile(OPTIMIZERS[kind](), "mse")
    plain = small_model()
    plain.set_weights(model.get_weights())
    plain.compile(OPTIMIZERS[kind](), "mse")
    for one in (model, plain):
        one.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for ours, theirs in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_averaged_weights_of_one_of_several():
    variables, gradients = quadratic()
    averaged = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    optimizer = MultiOptimizer({"head": averaged})
    for _ in range(2):
        optimizer.apply(gradients, variables)
    optimizer.finalize_variable_values(variables)
    np.testing.assert_allclose(variables[1], np.full((2, 1), 0.25), atol=1e-6)
    np.testing.assert_array_equal(variables[0], np.ones((2, 1)))


def test_one_optimizer_at_several_expressions():
    variables, gradients = quadratic(("a", "b", "c"))
    shared = keras.optimizers.SGD(0.5)
    optimizer = MultiOptimizer({"a": shared, "b": keras.optimizers.SGD(0.25), "c": shared})
    assert optimizer.optimizers[0] is shared and len(optimizer.optimizers) == 2
    optimizer = MultiOptimizer.from_config(optimizer.get_config())
    optimizer.apply(gradients, variables)
    assert [float(variable.numpy()[0, 0]) for variable in variables] == [0.5, 0.75, 0.5]
    assert float(optimizer.learning_rate) == 0.5
    with pytest.raises(AttributeError, match="optimizers"):
        optimizer.learning_rate = 1.0


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="SGD, Adam, AdamW, RMSprop.*not Ftrl"):
        multi_rate(keras.optimizers.Ftrl(0.1), {})
    with pytest.raises(ValueError, match="-1.0"):
        multi_rate(keras.optimizers.SGD(0.1), {"a": -1})
    with pytest.raises(ValueError, match="nan"):
        MultiRateSGD(0.1, multipliers={"a": float("nan")})
    with pytest.raises(ValueError, match="no regular expression"):
        multi_rate(keras.optimizers.SGD(0.1), {"(": 1})
    variables, gradients = quadratic()
    with pytest.raises(ValueError, match=r"matches 'bakbone'; there are backbone/kernel, head/kernel"):
        multi_rate(keras.optimizers.SGD(0.1), {"bakbone": 0}).apply(gradients, variables)
    with pytest.raises(ValueError, match="matches 'tail'"):
        MultiOptimizer({"tail": keras.optimizers.SGD(0.1)}).apply(gradients, variables)
    used = keras.optimizers.SGD(0.1)
    used.build(variables)
    excluding = keras.optimizers.AdamW(0.1)
    excluding.exclude_from_weight_decay(var_names=["bias"])
    for optimizer in (used, excluding):
        with pytest.raises(ValueError, match="new optimizer"):
            multi_rate(optimizer, {"head": 2})
    with pytest.raises(ValueError, match="at least one"):
        MultiOptimizer([])
    with pytest.raises(ValueError, match="not a str"):
        MultiOptimizer({"a": "sgd"})
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        MultiOptimizer({"a": keras.optimizers.SGD(0.1, loss_scale_factor=2.0)})
