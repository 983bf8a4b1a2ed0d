"""Two-player training: the original's steps, every option, degenerate batches, exact resume, mixed precision."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe_weights

from posekit.bodies import BodyModel
from posekit.models import HMR, Critic
from posekit.testing import load_fixture, tiny_body
from posekit.training.gan import HMRTrainer

STAGES = 3


def stats(array):
    array = np.asarray(array, np.float64)
    return np.array([array.sum(), np.abs(array).sum(), (array**2).sum(), array.min(), array.max()])


# --- the original's steps -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_train_step")


@pytest.fixture(scope="module")
def original_body():
    arrays = load_fixture("hmr_smpl_model")
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
    return BodyModel(
        name="original",
        licence="test",
        keypoint_regressor=arrays["cocoplus_regressor"],
        parents=parents.astype(np.int32),
        faces=np.array([[0, 1, 2]], np.int32),
        **{name: arrays[name] for name in names},
    )


def original_trainer(values, body, optimizers, **options):
    """The stub of the reference values: mean colour and a dense layer in front of the original's networks."""
    backbone = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2048)])
    backbone.build((None, 16, 16, 3))
    backbone.set_weights([values["ext/ext_dense/kernel:0"], values["ext/ext_dense/bias:0"]])
    hmr = HMR(body=body, backbone=backbone, image_size=16, dropout=0.0, mean_theta=values["mean_param"][0])
    weights = recipe_weights(load_fixture("hmr_regressor")["shapes_json"], 6000)
    for name, layer in (("dense", "dense_1"), ("dense_1", "dense_2"), ("dense_2", "dense_3")):
        scale = 0.02 if name == "dense_2" else 1.0
        getattr(hmr.regressor, layer).set_weights([weights[f"{name}/{part}:0"] * scale for part in ("kernel", "bias")])
    critic = Critic()
    for variable, value in zip(critic.weights, critic_arrays(load_fixture("hmr_critic"), critic, "W/")):
        variable.assign(value)
    trainer = HMRTrainer(hmr, critic, **options)
    trainer.compile(*optimizers)
    # The original walks through the stages one after the other; here the stages of a picture are in a row.
    trainer._coefficients = lambda real: [tf.constant(pictures_first(values[k])) for k in ("alpha", "beta", "gamma")]
    return trainer


def critic_arrays(values, critic, prefix):
    return [values[f"{prefix}{'/'.join(v.path.split('/')[-2:])}:0"] for v in critic.weights]


def pictures_first(array):
    return array.reshape(STAGES, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def original_batch(values, from_pose=False):
    real = {"keypoints3d": values["mocap_joints"], "shape": values["mocap_shapes"], "rotations": values["mocap_Rs"]}
    if from_pose:
        real = {"pose": values["mocap_pose"], "shape": values["mocap_shapes"]}
    return {
        "image": tf.constant(values["images"]),
        "keypoints": tf.constant(values["kp2d"]),
        "silhouette": tf.constant(values["seg"]),
        "has_silhouette": tf.ones([2]),
        "mocap": {name: tf.constant(pictures_first(array)) for name, array in real.items()},
    }


def assert_original_losses(logs, values, variant, mesh):
    expected = {
        "generator/kpr_loss": values[f"{variant}_kpr_losses"][-1],
        "critic/critic_network_loss": values[f"{variant}_critic_network_loss"],
        "critic/generator_critic_loss": values[f"{variant}_generator_critic_losses"][-1],
        "critic/penalty": values[f"{variant}_critic_penalty"],
        "bones/avg_total_bone_lenth_pred": values[f"{variant}_avg_total_bone_length_pred"],
        "bones/avg_total_bone_lenth_gt": values[f"{variant}_avg_total_bone_length_gt"],
    }
    if mesh:
        expected["generator/mr_loss"] = values[f"{variant}_mr_losses"][-1]
    assert set(logs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("variant, from_pose", [("full", True), ("nomr", False)])
def test_original_step(original, original_body, variant, from_pose):
    """With plain gradient descent at rate 1 the change of a weight is its gradient."""
    sgd = [keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0)]
    trainer = original_trainer(original, original_body, sgd, use_mesh_repro_loss=variant == "full")
    before = {
        "mean": trainer.hmr.mean_theta.numpy(),
        "critic": [v.numpy() for v in trainer.critic.weights],
        "backbone": trainer.hmr.backbone.get_weights(),
        "last bias": trainer.hmr.regressor.dense_3.bias.numpy(),
    }
    logs = trainer.train_on_batch(original_batch(original, from_pose), return_dict=True)
    assert_original_losses(logs, original, variant, mesh=variant == "full")

    expected = original[f"{variant}_mean_grad"][0]
    np.testing.assert_allclose(
        before["mean"] - trainer.hmr.mean_theta.numpy(), expected, rtol=2e-3, atol=4e-6
    )
    moved = before["last bias"] - trainer.hmr.regressor.dense_3.bias.numpy()
    np.testing.assert_allclose(moved, original[f"{variant}_gen_lastbias_delta"], rtol=2e-3, atol=1e-5)
    for old, new, gradient in zip(
        before["critic"], trainer.critic.weights, critic_arrays(original, trainer.critic, f"{variant}_critic_grad/")
    ):
        atol = 1e-4 * max(np.abs(gradient).max(), 0.01)
        np.testing.assert_allclose(old - new.numpy(), gradient, rtol=1e-3, atol=atol)


def test_original_step_with_adam(original, original_body):
    adam = [keras.optimizers.Adam(1e-4), keras.optimizers.Adam(5e-4)]
    trainer = original_trainer(original, original_body, adam, use_mesh_repro_loss=True)
    logs = trainer.train_on_batch(original_batch(original), return_dict=True)
    assert_original_losses(logs, original, "adam", mesh=True)
    np.testing.assert_allclose(trainer.hmr.mean_theta.numpy(), original["adam_mean_after"][0], atol=2e-6)
    for variable in trainer.critic.weights:
        name = f"adam_critic_after/{'/'.join(variable.path.split('/')[-2:])}:0"
        if name in original:
            np.testing.assert_allclose(variable.numpy(), original[name], rtol=1e-4, atol=2e-6)


def test_original_validation_step(original, original_body):
    sgd = [keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0)]
    trainer = original_trainer(original, original_body, sgd, use_mesh_repro_loss=True)
    batch = original_batch(original)
    del batch["mocap"]
    logs = trainer.test_on_batch(batch, return_dict=True)
    assert set(logs) == {"generator/kpr_loss", "generator/mr_loss", "critic/generator_critic_loss"}
    for name, key in zip(sorted(logs), ("val_gencritic", "val_kpr", "val_mr")):
        np.testing.assert_allclose(logs[name], original[key][-1], rtol=1e-4)


def test_original_without_penalty(original, original_body):
    """What crashed in the original: the same critic loss without its penalty."""
    sgd = [keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0)]
    trainer = original_trainer(original, original_body, sgd, use_gradient_penalty=False)
    logs = trainer.train_on_batch(original_batch(original), return_dict=True)
    expected = original["full_critic_network_loss"] - 10 * original["full_critic_penalty"]
    np.testing.assert_allclose(logs["critic/critic_network_loss"], expected, rtol=1e-4)
    assert "critic/penalty" not in logs


# --- options, on a tiny body ----------------------------------------------------------------------------------------


def make_trainer(critic=True, compile_options=None, hmr_options=None, optimizer=keras.optimizers.Adam, **options):
    keras.utils.set_random_seed(1)
    backbone = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(16)])
    hmr = HMR(body=tiny_body(), backbone=backbone, image_size=16, **(hmr_options or {}))
    trainer = HMRTrainer(hmr, Critic() if critic else None, **options)
    trainer.compile(optimizer(1e-3), optimizer(1e-3) if critic else None, **(compile_options or {}))
    return trainer


def make_batch(batch=2, seed=0, critic=True):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    silhouette = np.zeros((batch, 16, 16, 1), np.float32)
    silhouette[:, 4:12, 6:10] = 1
    made = {
        "image": rng.uniform(-1, 1, (batch, 16, 16, 3)).astype(np.float32),
        "keypoints": np.concatenate([normal(batch, 19, 2), rng.integers(0, 2, (batch, 19, 1))], -1).astype(np.float32),
        "silhouette": silhouette,
        "has_silhouette": np.ones(batch, np.float32),
        "pose": normal(batch, 72),
        "shape": normal(batch, 10),
        "has_3d": np.ones(batch, np.float32),
        "joints3d": normal(batch, 14, 3),
        "has_joints3d": np.ones(batch, np.float32),
    }
    if critic:
        made["mocap"] = {"pose": normal(STAGES * batch, 72), "shape": normal(STAGES * batch, 10)}
    return tf.nest.map_structure(tf.constant, made)


def dataset(batches, critic=True):
    made = [make_batch(seed=seed, critic=critic) for seed in range(batches)]
    return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda *parts: tf.stack(parts), *made))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"critic": False},
        {"critic": False, "use_kpr_loss": False, "use_mesh_repro_loss": True, "mesh_normalization": "points"},
        {"loss_3d_weight": 1.0, "use_kpr_loss": False, "do_bone_evaluation": False},
        {"gradient_penalty_mode": "per_sample", "use_mesh_repro_loss": True, "num_keypoints": 14},
        {"use_gradient_penalty": False},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_fit_with_options(options):
    # Step by step: building a graph takes longer than these steps.
    trainer = make_trainer(compile_options={"run_eagerly": True}, **options)
    critic = options.get("critic", True)
    before = [v.numpy() for v in trainer.variables]
    history = trainer.fit(dataset(3, critic), validation_data=dataset(1, False), verbose=0, shuffle=False).history
    expected = set(trainer._metric_names())
    validated = {name for name in expected if name.startswith("generator/")} | (
        {"critic/generator_critic_loss"} if critic else set()
    )
    assert set(history) == expected | {f"val_{name}" for name in validated}
    assert np.isfinite([value for values in history.values() for value in values]).all()
    trained = {v.path for v in trainer.trainable_variables}
    for variable, old in zip(trainer.variables, before):
        if variable.path in trained and not variable.path.endswith("bias"):
            assert np.abs(variable.numpy() - old).max() > 0, variable.path


def test_loss_goes_down():
    trainer = make_trainer(critic=False, use_mesh_repro_loss=True)
    batch = make_batch(critic=False)
    first = trainer.train_on_batch(batch, return_dict=True)["generator/kpr_loss"]
    for _ in range(30):
        trainer.reset_metrics()
        last = trainer.train_on_batch(batch, return_dict=True)["generator/kpr_loss"]
    assert last < 0.8 * first


@pytest.mark.parametrize("normalization", ["original", "points"])
def test_nothing_visible_and_no_silhouette_is_finite(normalization):
    trainer = make_trainer(
        compile_options={"run_eagerly": True},
        use_mesh_repro_loss=True,
        loss_3d_weight=1.0,
        mesh_normalization=normalization,
    )
    batch = make_batch()
    for name in ("silhouette", "has_silhouette", "has_3d", "has_joints3d"):
        batch[name] = tf.zeros_like(batch[name])
    batch["keypoints"] *= [1.0, 1.0, 0.0]
    logs = trainer.train_on_batch(batch, return_dict=True)
    assert logs["generator/kpr_loss"] == logs["generator/mr_loss"] == logs["generator/loss_3d"] == 0
    assert np.isfinite(list(logs.values())).all()
    assert all(np.isfinite(v.numpy()).all() for v in trainer.variables)


def test_nothing_infinite_on_the_way():
    """`--debug_numerics` stops at nothing in sound training, not even without labels."""
    trainer = make_trainer(compile_options={"run_eagerly": True}, use_mesh_repro_loss=True, loss_3d_weight=1.0)
    batch = make_batch()
    batch["has_3d"] *= 0
    batch["keypoints"] *= [1.0, 1.0, 0.0]
    tf.debugging.enable_check_numerics()
    try:
        logs = trainer.train_on_batch(batch, return_dict=True)
    finally:
        tf.debugging.disable_check_numerics()
    assert np.isfinite(list(logs.values())).all()


def test_images_without_silhouette_weigh_nothing():
    options = {"critic": False, "use_kpr_loss": False, "use_mesh_repro_loss": True}
    trainer = make_trainer(compile_options={"run_eagerly": True}, **options)
    batch = make_batch()
    single = trainer.test_on_batch({k: v[:1] for k, v in batch.items() if k != "mocap"}, return_dict=True)
    trainer.reset_metrics()
    batch["has_silhouette"] = tf.constant([1.0, 0.0])
    both = trainer.test_on_batch(batch, return_dict=True)
    np.testing.assert_allclose(both["generator/mr_loss"], single["generator/mr_loss"], rtol=1e-5)


def test_real_bodies_from_pose_equal_precomputed_ones():
    batch = make_batch()
    trainer = make_trainer()
    first = trainer._real_bodies(batch)
    posed = trainer.hmr.smpl(batch["mocap"]["pose"], batch["mocap"]["shape"])
    given = {"keypoints3d": posed["keypoints"], "rotations": posed["rotations"], "shape": batch["mocap"]["shape"]}
    for ours, other in zip(first, trainer._real_bodies({"mocap": given})):
        np.testing.assert_allclose(ours, other, atol=1e-5)
    assert [tuple(part.shape) for part in first] == [(6, 14, 3), (6, 10), (6, 23, 3, 3)]


def test_eager_equals_graph_and_xla():
    moved = {}
    for name, options in {"graph": {}, "eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}.items():
        trainer = make_trainer(
            compile_options=options, hmr_options={"dropout": 0.0}, optimizer=keras.optimizers.SGD, kpr_loss_weight=1.0
        )
        # XLA has a random stream of its own.
        trainer._coefficients = lambda real: [tf.constant(0.25)] * 3
        before = trainer.get_weights()
        trainer.train_on_batch(make_batch())
        moved[name] = [new - old for new, old in zip(trainer.get_weights(), before)]
    for name in ("eager", "xla"):
        for ours, other in zip(moved["graph"], moved[name]):
            np.testing.assert_allclose(ours, other, atol=1e-8 + 1e-4 * np.abs(ours).max())


def test_unused_vertices_are_not_computed():
    """Without the silhouette loss no mesh is posed: no tensor of the graph that runs has the body's vertices."""
    trainer = make_trainer()
    step = tf.function(trainer.train_step).get_concrete_function(make_batch())
    kept = reachable(step.graph)
    assert not [op.name for op in kept if any(60 in (t.shape.as_list() if t.shape.rank else []) for t in op.outputs)]


def reachable(graph):
    """Operations that a run executes: what outputs and side effects need."""
    waiting = [t.op for t in graph.outputs] + list(graph.control_outputs)
    seen = {}
    while waiting:
        op = waiting.pop()
        if op.name not in seen:
            seen[op.name] = op
            waiting += [t.op for t in op.inputs] + list(op.control_inputs)
    return list(seen.values())


def state(trainer):
    parts = (*trainer.metrics, *trainer.optimizers)
    return [v for v in trainer.variables] + [v for part in parts for v in part.variables]


def test_resumed_training_goes_on_as_before():
    """What `trainer.variables`, the metrics and the optimizers hold is all that a step depends on."""
    trainer = make_trainer()
    for seed in range(2):
        trainer.train_on_batch(make_batch(seed=seed))
    saved = [v.numpy() for v in state(trainer)]
    runs = []
    for restored in (trainer, make_trainer()):
        for variable, value in zip(state(restored), saved, strict=True):
            variable.assign(value)
        logs = [restored.train_on_batch(make_batch(seed=seed), return_dict=True) for seed in (2, 3)]
        runs.append((logs, [v.numpy() for v in state(restored)]))
    for ours, other in zip(*(logs for logs, _ in runs)):
        for name in ours:
            np.testing.assert_allclose(ours[name], other[name], rtol=1e-5, err_msg=name)
    for ours, other in zip(*(values for _, values in runs)):
        # Sums in several threads may differ in the last digit, which Adam turns into a step where a gradient is none.
        assert np.mean(np.abs(ours.astype(np.float64) - other) > 1e-5) < 1e-3


def test_interpolation_follows_the_seed():
    real = make_trainer()._real_bodies(make_batch())

    def first_draw(seed, mode="batch_mean"):
        trainer = make_trainer(seed=seed, gradient_penalty_mode=mode)
        return np.concatenate([np.ravel(part) for part in trainer._coefficients(real)])

    np.testing.assert_array_equal(first_draw(3), first_draw(3))
    assert np.abs(first_draw(3) - first_draw(4)).max() > 0.1
    assert len(first_draw(3)) == 6 * (42 + 10 + 207)
    assert len(first_draw(3, "per_sample")) == 3 * 6


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        trainer = make_trainer(use_mesh_repro_loss=True, compile_options={"run_eagerly": policy == "mixed_bfloat16"})
    finally:
        keras.config.set_dtype_policy(before)
    scaled = isinstance(trainer.generator_optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    logs = trainer.fit(dataset(2), verbose=0, shuffle=False).history
    assert np.isfinite(list(logs.values())).all()
    assert all(v.dtype == "float32" for v in trainer.trainable_variables)


def test_frozen_backbone_stays():
    trainer = make_trainer()
    trainer.hmr.backbone.trainable = False
    trainer.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3), run_eagerly=True)
    before = trainer.hmr.backbone.get_weights()
    trainer.train_on_batch(make_batch())
    for old, new in zip(before, trainer.hmr.backbone.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_predict_is_the_regressor():
    trainer = make_trainer()
    images = make_batch()["image"]
    np.testing.assert_array_equal(trainer(images)["theta"], trainer.hmr(images)["theta"])


MIRRORED = """
import contextlib, json, sys
import keras, numpy as np, tensorflow as tf
sys.path[:0] = {paths!r}
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_gan
from posekit.training.fused_adam import FusedAdam
runs = []
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for scope in (mirrored.scope, contextlib.nullcontext):
    with scope():
        trainer = test_gan.make_trainer(
            optimizer=keras.optimizers.SGD, hmr_options={{"dropout": 0.0}}, use_mesh_repro_loss=True,
            compile_options={{"run_eagerly": bool(runs)}}, loss_3d_weight=1.0,
        )
    before = trainer.hmr.get_weights()
    logs = trainer.fit(test_gan.one_batch_of_four(), verbose=0, shuffle=False).history
    runs.append(({{k: v[-1] for k, v in logs.items()}}, before, trainer.hmr.get_weights()))
with mirrored.scope():
    weights = [keras.Variable(np.ones(3, np.float32)) for _ in range(2)]
    adams = [FusedAdam(0.1), keras.optimizers.Adam(0.1)]
    for adam, weight in zip(adams, weights):
        adam.build([weight])
        for step in range(3):
            mirrored.run(lambda: adam.apply_gradients([(tf.range(3.0) - step, weight)]))
print(json.dumps({{
    "logs": [logs for logs, _, _ in runs],
    "moved": [[(new - old).ravel().tolist()[:2000] for old, new in zip(*parts)] for _, *parts in runs],
    "adam": [weight.numpy().tolist() for weight in weights],
}}))
"""


def one_batch_of_four():
    """A dataset that a strategy can split: real bodies stay with their pictures."""
    batch = make_batch(4)
    batch["keypoints"] = tf.concat([batch["keypoints"][..., :2], tf.ones([4, 19, 1])], axis=-1)
    mocap = {k: tf.reshape(v, [4, STAGES, v.shape[1]]) for k, v in batch["mocap"].items()}

    def merge(made):
        return {**made, "mocap": {k: tf.reshape(v, [-1, v.shape[2]]) for k, v in made["mocap"].items()}}

    return tf.data.Dataset.from_tensor_slices({**batch, "mocap": mocap}).batch(4).map(merge)


def test_two_devices_step_like_one():
    here = os.path.dirname(__file__)
    script = MIRRORED.format(paths=[here, os.path.dirname(here)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(*result["adam"], rtol=1e-5)
    mirrored, single = result["logs"]
    assert set(mirrored) == set(single)
    # The penalty is of each device's own batch mean.
    for name in set(single) - {"critic/penalty", "critic/critic_network_loss"}:
        np.testing.assert_allclose(mirrored[name], single[name], rtol=1e-4, err_msg=name)
    for ours, other in zip(*result["moved"]):
        np.testing.assert_allclose(ours, other, atol=1e-5 + 1e-3 * np.abs(other).max())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_trainer(mesh_normalization="mean"), "mesh_normalization"),
        (lambda: make_trainer(gradient_penalty_mode="wgan"), "batch_mean"),
        (lambda: make_trainer(use_kpr_loss=False), "Nothing to learn"),
        (lambda: make_trainer(use_mesh_repro_loss=True, compile_options={"jit_compile": True}), "jit_compile"),
        (lambda: make_trainer().compile(keras.optimizers.Adam()), "critic_optimizer"),
        (lambda: make_trainer().train_on_batch(make_batch(critic=False)), "mocap"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
