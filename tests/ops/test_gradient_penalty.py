"""Gradient penalty against the original's values and a NumPy formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import KinematicChainSpace
from posekit.models import Critic
from posekit.ops.gradient_penalty import MODES, BoneProducts, gradient_penalty, interpolate, penalty_of_gradients
from posekit.ops.piecewise_linear import PiecewiseLinear, read_model
from posekit.skeletons import LSP14
from posekit.testing import load_fixture

NAMES = ("joints", "shapes", "Rs")


def original_critic():
    weights = load_fixture("hmr_critic")
    critic = Critic()
    for variable in critic.weights:
        variable.assign(weights[f"W/{'/'.join(variable.path.split('/')[-2:])}:0"])
    return critic


def with_kcs(points):
    return [KinematicChainSpace()(points[0]), *points]


with_bones = BoneProducts(LSP14.bone_matrix())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("derive", [with_kcs, with_bones])
def test_original_critic_step(path, compiled, derive):
    values = load_fixture("hmr_critic_step")
    critic = original_critic()
    fake, real = ([tf.constant(values[f"{side}_{name}"]) for name in NAMES] for side in ("fake", "real"))
    coefficients = [values[name] for name in ("alpha", "beta", "gamma")]

    def step():
        with tf.GradientTape() as tape:
            scores = [critic(with_kcs(side)) for side in (real, fake)]
            wasserstein = tf.reduce_sum(tf.reduce_mean(scores[1] - scores[0], axis=0))
            penalty = gradient_penalty(critic, real, fake, derive=derive, coefficients=coefficients)
            loss = wasserstein + 10 * penalty
        return scores, wasserstein, penalty, loss, tape.gradient(loss, critic.trainable_variables)

    scores, wasserstein, penalty, loss, gradients = (tf.function(step) if compiled else step)()
    np.testing.assert_allclose(scores[0], values["real_output"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[1], values["fake_output"], rtol=1e-5, atol=1e-5)
    expected = [values[name] for name in ("wgan", "penalty", "loss")]
    np.testing.assert_allclose([wasserstein, penalty, loss], expected, rtol=1e-5)
    for variable, gradient in zip(critic.trainable_variables, gradients):
        expected = values[f"grad/{'/'.join(variable.path.split('/')[-2:])}:0"]
        assert np.abs(gradient - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-3)


def test_original_gradients_at_interpolates():
    values = load_fixture("hmr_critic_step")
    critic = original_critic()
    fake, real = ([tf.constant(values[f"{side}_{name}"]) for name in NAMES] for side in ("fake", "real"))
    points = interpolate(real, fake, coefficients=[values[name] for name in ("alpha", "beta", "gamma")])
    with tf.GradientTape() as tape:
        tape.watch(points)
        inputs = with_kcs(points)
        total = tf.reduce_sum(critic(inputs))
    for gradient, name in zip(tape.gradient(total, inputs), ("kcs", *NAMES)):
        np.testing.assert_allclose(gradient, values[f"interp_grad_{name}"], rtol=1e-5, atol=1e-6)


def test_original_penalties_of_gradients():
    values = load_fixture("hmr_critic")
    gradients = [values[f"gp_rand_in{i}"] for i in range(4)]
    np.testing.assert_allclose(penalty_of_gradients(gradients), values["gp_rand"], rtol=1e-5)
    zeros = [tf.zeros_like(gradient) for gradient in gradients]
    np.testing.assert_allclose(penalty_of_gradients(zeros), values["gp_zero"], rtol=1e-5)


def test_original_penalty_of_the_critic():
    values = load_fixture("hmr_critic")
    points = [tf.constant(values["joints"][:, :14]), tf.constant(values["shapes"]), tf.constant(values["Rs"])]
    critic = original_critic()
    inputs = with_kcs(points)
    np.testing.assert_allclose(critic(inputs), values["critic_out"], rtol=1e-5, atol=1e-5)
    penalty = gradient_penalty(critic, inputs, inputs)
    np.testing.assert_allclose(penalty, values["gp_of_these"], rtol=1e-5)


def quadratic(inputs):
    return tf.reduce_sum(inputs[0] ** 2, axis=1) / 2 + 3 * inputs[1][:, 0]


def test_both_modes_against_the_formula():
    rng = np.random.default_rng(0)
    real, fake = ([rng.normal(size=(7, 4)), rng.normal(size=(7, 1))] for _ in range(2))
    each = rng.random((7, 4)), rng.random((7, 1))
    mixed = each[0] * real[0] + (1 - each[0]) * fake[0]
    norms = np.linalg.norm(mixed.mean(0)), 3.0
    ours = gradient_penalty(quadratic, real, fake, coefficients=each)
    np.testing.assert_allclose(ours, sum((1 - norm) ** 2 for norm in norms))
    one = rng.random((7, 1))
    mixed = one * real[0] + (1 - one) * fake[0]
    ours = gradient_penalty(quadratic, real, fake, mode="per_sample", coefficients=[one, one])
    np.testing.assert_allclose(ours, np.mean((1 - np.sqrt((mixed**2).sum(1) + 9)) ** 2))


def test_derived_inputs_in_per_sample_mode_count_once():
    points = [tf.constant([[3.0], [1.0]])]
    penalty = gradient_penalty(
        lambda inputs: inputs[0] + inputs[1], points, points, mode="per_sample", derive=lambda p: [p[0], p[0] ** 2]
    )
    np.testing.assert_allclose(penalty, ((1 - 7) ** 2 + (1 - 3) ** 2) / 2)


def test_drawn_coefficients():
    real, fake = [tf.ones([5, 3]), tf.ones([5, 2, 2])], [tf.zeros([5, 3]), tf.zeros([5, 2, 2])]
    first, again, other = (interpolate(real, fake, seed=[1, seed]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0] - other[0]).max() > 0
    assert len(np.unique(np.concatenate([np.ravel(part) for part in first]))) == 35
    joints, shapes = interpolate(real, fake, mode="per_sample", seed=[1, 1])
    np.testing.assert_array_equal(joints, np.broadcast_to(joints[:, :1], (5, 3)))
    np.testing.assert_array_equal(shapes[:, 0, 0], joints[:, 0])
    assert ((first[0] >= 0) & (first[0] < 1)).numpy().all()
    assert interpolate(real, fake)[1].shape == (5, 2, 2)


@pytest.mark.parametrize("mode", ["batch_mean", "per_sample"])
def test_gradient_is_finite_where_the_critic_is_flat(mode):
    weight = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(lambda inputs: weight * inputs[0], [tf.ones([3, 2])], [tf.zeros([3, 2])], mode=mode)
    assert np.isfinite(penalty) and np.isfinite(tape.gradient(penalty, weight))


def test_inputs_that_the_critic_ignores():
    points = [tf.ones([3, 2]), tf.ones([3, 1])]
    assert float(gradient_penalty(lambda inputs: inputs[0][:, 0], points, points)) == 1.0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="batch_mean"):
        gradient_penalty(quadratic, [tf.ones([1, 1])], [tf.ones([1, 1])], mode="wgan")
    with pytest.raises(ValueError, match="2 real inputs, 1 fake"):
        gradient_penalty(quadratic, [tf.ones([1, 1])] * 2, [tf.ones([1, 1])])


def nested(critic):
    """A critic that is not recognised, and is differentiated by tapes."""
    return lambda inputs: critic(inputs)


def dense_critic(dtype="float64", seed=0):
    """Branches, a layer that occurs twice, one that is used with and without its rectifier, slopes of all kinds."""
    layers, policy = keras.layers, keras.dtype_policies.get(dtype)
    keras.utils.set_random_seed(seed)
    points, shape = keras.Input((4, 3), dtype=dtype), keras.Input((6,), dtype=dtype)
    flat = layers.Flatten(dtype=policy)(points)
    twice = layers.Dense(12, "relu", dtype=policy)
    wide = twice(twice(flat))
    both = layers.Dense(35, dtype=policy)(shape)
    bent = layers.LeakyReLU(0.1, dtype=policy)(both)
    joined = layers.Concatenate(dtype=policy)([wide, both, bent, flat])
    hidden = layers.Dense(19, "leaky_relu", use_bias=False, dtype=policy)(joined)
    straight = layers.Dense(2, dtype=policy)(layers.Activation("relu", dtype=policy)(flat))
    model = keras.Model([points, shape], [layers.Dense(3, dtype=policy)(hidden), straight])
    for variable in model.weights:
        variable.assign(np.random.default_rng(seed).normal(size=variable.shape) / 2)
    return model, Summed(model)


class Summed:
    """A model with several outputs as a critic with one."""

    def __init__(self, model):
        self.model = model

    def __call__(self, inputs):
        return tf.concat(self.model(inputs), axis=1)


def kernels(critic):
    return [weight for weight in critic.trainable_variables if weight.path.endswith("kernel")]


def value_and_gradients(critic, variables, *arguments, watched=(), **options):
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = gradient_penalty(critic, *arguments, **options)
    return [value, *tape.gradient(value, [*variables, *watched])]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [0, 1, 7, 24, 70])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("graph", [False, True])
def test_any_recognised_critic_equals_tapes(path, mode, batch, dtype, tolerance, graph):
    model, summed = dense_critic(dtype)
    rng = np.random.default_rng(batch)
    real, fake = ([tf.constant(rng.normal(size=(batch, *size)), dtype) for size in ((4, 3), (6,))] for _ in range(2))
    options = {"mode": mode, "seed": [1, 2]}
    assert isinstance(read_model(model, dtype), PiecewiseLinear)

    def call():
        return value_and_gradients(model, kernels(model), real, fake, **options)

    ours = tf.function(call)() if graph else call()
    theirs = value_and_gradients(summed, kernels(model), real, fake, **options)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(other).max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("derive", [with_kcs, with_bones])
@pytest.mark.parametrize("batch", [3, 33])
def test_derived_inputs_and_gradients_of_points_equal_tapes(path, mode, derive, batch):
    critic = Critic()
    rng = np.random.default_rng(0)
    sizes = (16, 3), (10,), (23, 3, 3)  # two joints more than the skeleton has
    real, fake = ([tf.constant(rng.normal(size=(batch, *size)), "float32") for size in sizes] for _ in range(2))
    critic = Critic(num_joints=14)

    def cut(points):
        return derive([points[0][:, :14], *points[1:]])

    options = {"mode": mode, "coefficients": [rng.random((batch, 1, 1)), rng.random(10), rng.random((batch, 1, 1, 1))]}
    options["coefficients"] = [tf.constant(part, "float32") for part in options["coefficients"]]
    if derive is with_bones:
        real[0], fake[0], cut = real[0][:, :14], fake[0][:, :14], derive
    ours = value_and_gradients(critic, kernels(critic), real, fake, watched=real[:1], derive=cut, **options)
    options["derive"] = cut
    theirs = value_and_gradients(nested(critic), kernels(critic), real, fake, watched=real[:1], **options)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1, np.abs(other).max()))


def test_second_derivatives(path):
    model, summed = dense_critic()
    rng = np.random.default_rng(0)
    real, fake = ([tf.constant(rng.normal(size=(5, *size))) for size in ((4, 3), (6,))] for _ in range(2))

    def of_second_order(critic):
        with tf.GradientTape() as outer:
            first = value_and_gradients(critic, kernels(model), real, fake, seed=[1, 2])[1:]
            total = tf.add_n([tf.reduce_sum(gradient**2) for gradient in first])
        return outer.gradient(total, kernels(model))

    for one, other in zip(of_second_order(model), of_second_order(summed), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9 * np.abs(other).max())


def test_a_flat_critic_has_finite_gradients(path):
    critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    for weight in critic.weights:
        weight.assign(tf.zeros_like(weight))
    for mode in MODES:
        value, *gradients = value_and_gradients(critic, kernels(critic), [tf.ones([3, 2])], [tf.zeros([3, 2])], mode)
        assert float(value) == 1.0
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_what_is_no_number_stays_none(path):
    critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    critic.layers[0].kernel.assign(tf.fill([2, 3], np.nan))
    points = [tf.ones([3, 2])]
    value, *_ = value_and_gradients(critic, kernels(critic), points, points)
    assert np.isnan(value)


def test_other_critics_are_left_to_tapes():
    layers = keras.layers

    def sequential(*parts, size=(4,)):
        return keras.Sequential([keras.Input(size), *parts])

    class Own(keras.Model):
        def __init__(self):
            points = keras.Input((4,))
            super().__init__(points, layers.Dense(1)(points))

        def call(self, inputs):
            return super().call(inputs) ** 2

    assert read_model(sequential(layers.Dense(3, "relu"), layers.Dense(1)), "float32") is not None
    assert read_model(Critic(), "float32") is not None
    for model in (
        lambda inputs: inputs[0],
        sequential(layers.Dense(3, "tanh"), layers.Dense(1)),
        sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dense(1)),
        sequential(layers.Dense(3), layers.ReLU(max_value=6.0)),
        sequential(layers.Dense(3), size=(5, 4)),
        sequential(layers.Dense(3, dtype="float64")),
        sequential(layers.Dense(3, dtype="mixed_float16")),
        Own(),
    ):
        assert read_model(model, "float32") is None


def test_shapes_that_disagree_are_named(path):
    critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    real = [tf.ones([3, 2])]
    for scored in critic, nested(critic):
        for size in 1, 4:
            with pytest.raises(ValueError, match=rf"shape \(3, 2\), the fake one \({size}, 2\); both must be"):
                gradient_penalty(scored, real, [tf.ones([size, 2])])
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(1, 2\); all must be of the same batch"):
        gradient_penalty(quadratic, [*real, real[0][:1]], [*real, real[0][:1]])
    with pytest.raises(ValueError, match=r"both must be \[batch, ...\]"):
        gradient_penalty(critic, [tf.constant(1.0)], [tf.constant(1.0)])
    with pytest.raises(ValueError, match="2 points; the bones are between 14"):
        gradient_penalty(Critic(), [tf.ones([3, 2, 3]), *real, *real], [tf.ones([3, 2, 3]), *real, *real],
                         derive=with_bones)  # fmt: skip


def test_shapes_that_a_running_graph_finds_different_are_named(path):
    critic, shape = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tf.TensorSpec([None, 2])
    for scored in critic, nested(critic):
        call = tf.function(lambda *given, scored=scored: gradient_penalty(scored, *([part] for part in given)))
        call = call.get_concrete_function(shape, shape)
        assert np.isfinite(call(tf.ones([3, 2]), tf.zeros([3, 2])))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"shape\]? \[3,? 2\].*fake ones?\]? \[1,? 2\]"):
            call(tf.ones([3, 2]), tf.ones([1, 2]))


@pytest.mark.parametrize("dtypes", [("int32", "int32"), ("float32", "float64"), ("float32", "int64")])
def test_types_that_do_not_fit_are_named(path, dtypes):
    critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    real, fake = ([tf.ones([3, 2], dtype)] for dtype in dtypes)
    for scored in critic, nested(critic):
        with pytest.raises(ValueError, match=f"real input is {dtypes[0]}, the fake one {dtypes[1]}; cast both"):
            gradient_penalty(scored, real, fake)
    with pytest.raises(ValueError, match=f"real input is {dtypes[0]}, the fake one {dtypes[1]}; cast both"):
        interpolate(real, fake)


def test_a_critic_that_hands_an_input_through(path):
    points = keras.Input((2,))
    critic = keras.Model(points, [keras.layers.Dense(1)(points), points])
    real, fake = [tf.ones([3, 2])], [tf.zeros([3, 2])]
    assert read_model(critic, "float32") is None
    expected = (1 - np.linalg.norm(1 + critic.layers[-1].kernel.numpy())) ** 2
    np.testing.assert_allclose(gradient_penalty(Summed(critic), real, fake), expected, rtol=1e-5)


# A critic of 6 numbers with layers of 4 and 1: inputs, kernels, biases, matrices; batch_mean, steps; outputs; terms.
COUNTS, STEPS, ENDS = [1, 2, 1, 0], [1, 4, 0, 0, 0, 0, 1, 0, 1, 1, 0, 2, 0, 0, 1, 1, 1, 1, 0, 1, 2], [1, 3, 1, 0]
INPUT = [0, 0, 0, 0]


def doublings(count):
    """A plan that puts two copies of everything together again and again."""
    steps = sum(([3, 0, 0, 2, index, index] for index in range(count)), INPUT)
    return [*COUNTS, 1, 1 + count, *steps, 1, count, 1, 0]


@pytest.mark.parametrize(
    "plan, message",
    [
        ([1, 1, *COUNTS[2:], *STEPS, *ENDS], "plan names 1 kernels, the op was given 2"),
        ([1, 3, *COUNTS[2:], *STEPS, *ENDS], "plan names 3 kernels, the op was given 2"),
        ([2, *COUNTS[1:], *STEPS, *ENDS], "plan names 2 inputs, the op was given 1"),
        ([1, 2, 0, 0, *STEPS, *ENDS], "plan names 0 biases, the op was given 1"),
        ([1, 2, 1, 7, *STEPS, *ENDS], "plan names 7 matrices of inner products, the op was given 0"),
        ([1, -1, *COUNTS[2:], *STEPS, *ENDS], "plan names -1 kernels, the op was given 2"),
        ([*COUNTS, *STEPS[:-1]], "the plan ends early"),
        ([*COUNTS, *STEPS, 1, 3, 2, 0, 0], "a term is named twice"),
        ([*COUNTS, *STEPS, 1, 0, 1, 0], "an output is an input"),
        ([*COUNTS, 1, 2, *INPUT, *INPUT, 0, 1, 0], "two steps take the same input"),
        *[(doublings(count), "a step has more than [0-9]+ numbers a sample") for count in (45, 61, 63, 70)],
    ],
)
def test_compiled_ops_name_what_is_wrong_with_a_plan(compiled_ops, plan, message):
    points = 3 * [[tf.ones([5, 6])]]
    critic = [tf.ones([6, 4]), tf.ones([4, 1])], [tf.ones([4])], []
    options = {"plan": plan, "slopes": [0.2]}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        compiled_ops.posekit_gradient_penalty(*points, *critic, **options)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        compiled_ops.posekit_gradient_penalty_grad(1.0, tf.zeros([130]), *points, *critic, **options)


def graph_of_penalty(critic, specs):
    """The penalty of real and fake samples of shapes that are known when the graph runs."""
    inputs = [tf.TensorSpec(shape) for shape in specs]
    return tf.function(
        lambda real, fake, factors: gradient_penalty(critic, real, fake, coefficients=factors),
        input_signature=[inputs, inputs, inputs],
    )


@pytest.mark.parametrize("drawn", [False, True])
def test_batches_that_a_running_graph_finds_different_are_named(path, drawn):
    first, second = keras.Input((2,)), keras.Input((2,))
    critic = keras.Model([first, second], keras.layers.Dense(1)(keras.layers.Concatenate()([first, second])))
    given = [tf.ones([3, 2]), tf.ones([7, 2])]
    graph = graph_of_penalty(critic, 2 * [[None, 2]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Inputs have the shapes.*\[3 2\].*\[7 2\].*same batch"):
        if drawn:
            sides = 2 * [2 * [tf.TensorSpec([None, 2])]]
            tf.function(lambda real, fake: gradient_penalty(critic, real, fake), input_signature=sides)(given, given)
        else:
            graph(given, given, given)
    graph(given[:1] * 2, given[:1] * 2, given[:1] * 2)


@pytest.mark.parametrize("known", [True, False])
def test_coefficients_for_other_samples_are_refused(path, known):
    critic = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    given = [tf.ones([1, 3])], [tf.zeros([1, 3])], [tf.ones([5, 3])]
    if known:
        for function in (lambda *all: gradient_penalty(critic, *all[:2], coefficients=all[2]),
                         lambda *all: interpolate(*all[:2], coefficients=all[2])):  # fmt: skip
            with pytest.raises(ValueError, match=r"Coefficients of shape \(5, 3\) do not fit inputs of shape \(1, 3\)"):
                function(*given)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"coefficients|broadcast"):
            graph_of_penalty(critic, [[None, 3]])(*given)


def test_inputs_that_do_not_fit_the_critic_are_named(path):
    critic = keras.Sequential([keras.Input((10,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"takes 10 numbers a sample, inputs \(3, 5\) give 5"):
        gradient_penalty(critic, [tf.ones([3, 5])], [tf.ones([3, 5])])


@pytest.mark.parametrize("shapes", [([3], [3, 3]), ([2, 2], [2, 3, 4]), ([3, 1], [3, 3])])
def test_shapes_of_any_rank_are_compared_when_the_graph_runs(shapes):
    sides = [tf.ones(shape) for shape in shapes]
    graph = tf.function(
        lambda real, fake: interpolate([real], [fake], coefficients=[0.5])[0],
        input_signature=2 * [tf.TensorSpec(None)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="real input has the shape.*both must be the same"):
        graph(*sides)
    assert graph(sides[0], sides[0]).shape == sides[0].shape


@pytest.mark.parametrize("shape", [[0, 1 << 40, 1 << 40], [0, 1 << 62], [1 << 62, 0]])
def test_compiled_ops_refuse_sizes_that_cannot_be_counted(compiled_ops, shape):
    points, options = 3 * [[tf.zeros(shape)]], {"plan": [1, 1, 0, 0, 1, 1, *INPUT, 0, 1, 0], "slopes": []}
    with pytest.raises(tf.errors.InvalidArgumentError, match="gradient penalty: .*(more than|too many)"):
        compiled_ops.posekit_gradient_penalty(*points, [tf.ones([1, 1])], [], [], **options)


def ops_of_a_penalty():
    """Types of the operations of the graph of a penalty."""
    critic, real = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), [tf.ones([3, 2])]
    graph = tf.function(lambda: gradient_penalty(critic, real, real)).get_concrete_function().graph
    return {op.type for op in graph.get_operations()}


def test_the_compiled_op_is_used(compiled_ops):
    assert "PosekitGradientPenalty" in ops_of_a_penalty()


def test_the_plain_path_is_used_where_it_was_chosen(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "0")
    assert "PosekitGradientPenalty" not in ops_of_a_penalty()
