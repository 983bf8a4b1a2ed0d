"""The benchmark runs, and compares formulations that compute the same."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.codecs.paf import PafCodec, average_maps
from posekit.codecs.screen_pose import camera_to_image
from posekit.codecs.voxel_heatmap import Augmentation, VoxelCodec
from posekit.geometry.depth import depth_to_points
from posekit.layers import SMPL, KinematicChainSpace
from posekit.losses import mesh_reprojection_loss
from posekit.metrics.h36m import evaluate
from posekit.models import HMR, LCN, Critic, V2VPoseNet
from posekit.models.lcn import original_variables
from posekit.skeletons import H36M17, LSP14, OPENPOSE18
from posekit.testing import load_fixture, tiny_body
from posekit.training.fused_adam import FusedAdam
from posekit.training.gan import HMRTrainer

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
LIFTING = (
    "forward", "forward_loaded", "forward_loaded_one", "train_step", "train_step_one_hop", "evaluation",
    "input_pipeline",
)  # fmt: skip
VOXELS = ("voxels_and_heatmaps", "forward", "train_step", "train_step_batch", "input_pipeline")
PEOPLE = ("decode_1", "decode_8", "decode_20", "labels", "forward", "frame")
TIMED = ("smpl_forward", "critic_step", "train_step", "mesh_loss", "input_pipeline", "input_pipeline_large")


def command(*flags):
    """Runs the tool as a command."""
    command = [sys.executable, str(TOOLS / "benchmark.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


COMMANDS = """
import contextlib, io, json, sys
from absl import app, flags
import benchmark
for line in sys.stdin:
    flags.FLAGS.unparse_flags()
    told = {"stdout": io.StringIO(), "stderr": io.StringIO()}
    with contextlib.redirect_stdout(told["stdout"]), contextlib.redirect_stderr(told["stderr"]):
        try:
            app.run(benchmark.main, ["benchmark.py", *json.loads(line)])
        except SystemExit as stop:
            status = stop.code
    print(json.dumps({"returncode": status} | {name: text.getvalue() for name, text in told.items()}), flush=True)
"""


@pytest.fixture(scope="module")
def run():
    """Runs the tool like a command, but one after the other in one process, as to start one takes seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLS), str(TOOLS.parent)])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", COMMANDS], env=environment, **pipes) as process:

        def run(*flags):
            print(json.dumps(flags), file=process.stdin, flush=True)
            ended = threading.Timer(900, process.kill)
            ended.start()
            line = process.stdout.readline()
            ended.cancel()
            assert line, f"the process ended with {process.wait()} at {flags}"
            return types.SimpleNamespace(**json.loads(line))

        yield run
        process.stdin.close()


def test_quick_run_prints_every_row(tmp_path):
    done = command("--model=hmr", "--quick", "--nomemory", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert tuple(numbers) == TIMED
    for row in numbers.values():
        assert row["title"] in done.stdout
        assert all(value > 0 for value in row["milliseconds"].values())
    assert "images/s" in done.stdout


def test_quick_run_of_the_ops_prints_every_row(run, tmp_path):
    done = run("--ops", "--quick", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    ops = {"mesh_reprojection", "gradient_penalty", "locally_connected", "decode", "renderer"}
    assert {op for op in ops if any(name.startswith(op) for name in numbers)} == ops
    for row in numbers.values():
        assert row["title"] in done.stdout and row["milliseconds"]["posekit"] > 0 and len(row["milliseconds"]) > 1
        assert set(row["megabytes"].values()) == {None}  # takes a process for each, unless it is asked for


def test_quick_run_of_lifting_prints_every_row(run, tmp_path):
    done = run("--model=lcn", "--quick", "--nomemory", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert tuple(numbers) == LIFTING
    for name, row in numbers.items():
        assert row["title"] in done.stdout
        halved = ["posekit_bfloat16"] * (name in ("forward", "train_step"))
        assert list(row["milliseconds"]) == ["original", "posekit", *halved]
        for side, median in row["milliseconds"].items():
            low, high = row["quartiles"][side]
            assert 0 < low <= median <= high
    assert "original extrapolated from 2,000 poses" in done.stdout
    assert "GFLOP/s" in done.stdout and "poses/s" in done.stdout


def test_quick_run_of_voxels_prints_every_row(run, tmp_path):
    done = run("--model=v2v", "--quick", "--nomemory", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert tuple(numbers) == VOXELS
    for row in numbers.values():
        assert row["title"] in done.stdout and row["milliseconds"]["posekit"] > 0
    assert "original" in numbers["voxels_and_heatmaps"]["milliseconds"] and "frames/s" in done.stdout
    there = importlib.util.find_spec("torch") is not None
    assert ("original" in numbers["forward"]["milliseconds"]) == there


def test_quick_run_of_people_prints_every_row(run, tmp_path):
    done = run("--model=openpose", "--quick", "--nomemory", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert tuple(numbers) == PEOPLE
    for name, row in numbers.items():
        sides = {"original": name not in ("forward", "frame"), "posekit": True, "posekit_fast": "decode" in name}
        assert list(row["milliseconds"]) == [side for side, there in sides.items() if there]
        assert row["title"] in done.stdout and min(row["milliseconds"].values()) > 0
    assert "pictures/s" in done.stdout and "frames/s" in done.stdout


def test_memory_is_measured_in_processes_of_their_own(run, tmp_path):
    done = run("--quick", "--memory", "--rows=mesh_loss", f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    megabytes = json.loads((tmp_path / "numbers.json").read_text())["mesh_loss"]["megabytes"]
    assert all(0 < value < 2000 for value in megabytes.values())


def test_memory_of_different_work_is_not_compared(run, tmp_path):
    rows = "--rows=evaluation,forward_loaded_one"
    done = run("--model=lcn", "--quick", "--memory", rows, f"--output={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["evaluation"]["megabytes"] == {"original": None, "posekit": None}
    assert all(value > 0 for value in numbers["forward_loaded_one"]["megabytes"].values())


def test_unknown_rows_are_named(run):
    done = run("--rows=mesh,smpl_forward")
    assert done.returncode == 1
    assert "['mesh']" in done.stderr and "mesh_loss" in done.stderr
    done = run("--model=lcn", "--rows=mesh_loss")
    assert done.returncode == 1
    assert "['mesh_loss']" in done.stderr and "train_step_one_hop" in done.stderr


@pytest.fixture(scope="module")
def originals():
    spec = importlib.util.spec_from_file_location("benchmark_originals", TOOLS / "benchmark_originals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(0, 0.4, shape).astype(np.float32))


def make_trainer():
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(16)])
    trainer = HMRTrainer(HMR(body=tiny_body(), backbone=backbone, image_size=16, dropout=0.0), Critic())
    trainer.compile(FusedAdam(1e-4), FusedAdam(5e-4))
    return trainer


def test_bodies_are_the_same(originals):
    body, pose, shape = tiny_body(), random(3, 72), random(3, 10)
    ours = SMPL(body)(pose, shape)
    for theirs, name in zip(originals.TiledSMPL(body)(pose, shape), ("vertices", "keypoints", "rotations")):
        np.testing.assert_allclose(ours[name], theirs, atol=1e-5)


def test_kinematic_chain_space_is_the_same(originals):
    joints = random(4, 19, 3)
    theirs = originals.kinematic_chain_space(joints, tf.constant(LSP14.bone_matrix()))
    np.testing.assert_allclose(KinematicChainSpace()(joints), theirs, atol=1e-5)


def test_critic_learns_the_same(originals):
    trainer = make_trainer()
    real, fake = ([random(6, *s, seed=seed) for s in ((14, 3), (10,), (23, 3, 3))] for seed in (1, 2))
    coefficients = [tf.constant(0.3)] * 3
    trainer._coefficients = lambda real: coefficients
    bones = tf.constant(LSP14.bone_matrix())
    loss, gradients, scores = originals.critic_gradients(trainer.critic, bones, real, fake, coefficients)
    values, ours, directions = trainer.critic_turn(real, fake)
    np.testing.assert_allclose(values["critic/critic_network_loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(
        values["critic/generator_critic_loss"], -0.01 * np.sum(np.mean(scores[2::3], axis=0)), rtol=1e-4
    )
    for a, b in zip(ours, gradients):
        np.testing.assert_allclose(a, b, atol=1e-4)
    last = [part[2::3] for part in fake]
    with tf.GradientTape() as tape:
        tape.watch(last)
        judged = trainer.critic([KinematicChainSpace()(last[0]), *last])
        loss = -0.01 * tf.reduce_sum(tf.reduce_mean(judged, axis=0))
    for a, b in zip(directions, tape.gradient(loss, last)):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_training_steps_are_the_same(originals):
    trainer, other = make_trainer(), make_trainer()
    images = tf.constant(np.random.default_rng(3).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32))
    keypoints = tf.concat([random(2, 19, 2), tf.ones([2, 19, 1])], axis=2)
    pose, shape = random(6, 72, seed=4), random(6, 10, seed=5)
    theirs = originals.TwoPlayerStep(other.hmr, other.critic, tf.constant(LSP14.bone_matrix()))
    generator_loss, _ = theirs(other.hmr.backbone(images), keypoints, pose, shape)
    logs = trainer.train_on_batch(
        {"image": images, "keypoints": keypoints, "mocap": {"pose": pose, "shape": shape}}, return_dict=True
    )
    np.testing.assert_allclose(
        logs["generator/kpr_loss"] + logs["critic/generator_critic_loss"], generator_loss, rtol=1e-4
    )
    pairs = zip(trainer.hmr.regressor.get_weights(), other.hmr.regressor.get_weights())
    # Where a gradient is nearly none, Adam makes a step of rounding.
    assert all(np.mean(np.abs(a - b) > 1e-5) < 0.01 for a, b in pairs)


def test_mesh_losses_are_the_same(originals):
    rng = np.random.default_rng(6)
    silhouettes = tf.constant((rng.random((2, 20, 20, 1)) > 0.7).astype(np.float32))
    vertices = tf.constant(rng.uniform(0, 20, (2, 50, 2)).astype(np.float32))
    ours, theirs = (loss(silhouettes, vertices) for loss in (mesh_reprojection_loss, originals.mesh_reprojection_loss))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.fixture
def lifters(originals):
    """Posekit's network and the dense one, with the same weights."""
    ours = LCN(channels=4, num_layers=1, dropout=0.0)
    theirs = originals.DenseLifter(H36M17.neighbours(3), channels=4, num_blocks=1, dropout=0.0)
    order = {
        "w": theirs.kernels, "b": theirs.biases, "gamma": theirs.gammas, "beta": theirs.betas,
        "moving_mean": theirs.means, "moving_variance": theirs.variances,
    }  # fmt: skip
    pairs, taken = [], dict.fromkeys(order, 0)
    for name, variable in original_variables(ours):
        kind = name.split("/")[-1]
        kind = kind if kind in order else kind[0]
        pairs.append((variable, order[kind][taken[kind]]))
        taken[kind] += 1
    for variable, twin in pairs:
        twin.assign(variable)
    return ours, theirs, pairs


def test_lifters_are_the_same(lifters):
    ours, theirs, _ = lifters
    joints = random(6, 17, 2)
    flat = tf.reshape(joints, [6, -1])
    for training in (False, True):
        result = tf.reshape(theirs(flat, training=training), [6, 17, 3])
        np.testing.assert_allclose(ours(joints, training=training), result, atol=1e-5)


def test_lifters_learn_the_same(lifters):
    ours, theirs, pairs = lifters
    joints, labels = random(6, 17, 2), random(6, 17, 3, seed=1)
    ours.compile(FusedAdam(keras.optimizers.schedules.ExponentialDecay(1e-3, 32000, 0.96), epsilon=1e-8), loss="mse")
    expected = 0.0
    for _ in range(2):
        expected = 0.9 * expected + 0.1 * ours.train_on_batch(joints, labels)
        average = theirs.train_step(tf.reshape(joints, [6, -1]), tf.reshape(labels, [6, -1]))
        np.testing.assert_allclose(average, expected, rtol=1e-4)
    for variable, twin in pairs:
        # Where a gradient is nearly none, Adam makes a step of rounding.
        assert np.mean(np.abs(variable.numpy() - twin.numpy()) > 1e-5) < 0.01


def test_poses_are_scored_the_same(originals):
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 300, (60, 17, 3)) + [0, 0, 4500]
    lens, actions = (1145.0, 1144.0, 512.0, 515.0), np.arange(60) % 15 + 2
    image, box = camera_to_image(truth, lens)
    image += rng.normal(0, 5, image.shape)
    scores = evaluate(image, truth, box, lens, truth[:, 0, 2], actions)
    tables = originals.score_poses(image, truth, box, truth[:, 0, 2], actions, lens)
    for protocol, table in zip((1, 2), tables):
        np.testing.assert_allclose(table, scores.per_action(protocol), rtol=1e-9)


def test_popped_batches_hold_every_pose_once(originals):
    inputs = np.arange(12)
    batches = originals.pose_batches(inputs, -inputs, 4)
    taken = [next(batches) for _ in range(3)]
    assert sorted(np.concatenate([first for first, _ in taken])) == list(range(12))
    assert all((first == -second).all() for first, second in taken)


@pytest.mark.parametrize(("new_size", "angle"), [(100.0, 0.0), (80.0, 0.6), (117.0, -0.3)])
def test_voxels_and_heatmaps_are_the_codec_s(originals, new_size, angle):
    rng = np.random.default_rng(0)
    codec = VoxelCodec(200.0, original_size=48, cropped_size=44)
    depth = np.where(rng.random((40, 50)) < 0.7, rng.normal(400, 30, (40, 50)), 0)
    joints, refpoint = rng.normal(0, 30, (4, 3)) + [0, 0, 400], np.array([3.0, 2.0, 405.0])
    augmentation = Augmentation(np.float64(new_size), np.float64(angle), np.array([0.0, 1.3, 3.9]))
    camera = (241.42, -241.42, 160.0, 120.0)
    voxels, heatmaps = originals.voxels_and_heatmaps(
        depth, (135, 100, 185, 140), camera, joints, refpoint, augmentation, 200.0, 48, 44
    )
    points = depth_to_points(depth, "msra", (135, 100), first_pixel=1)[depth > 0]
    expected, _, target = codec.encode(points, joints, refpoint, augmentation)
    np.testing.assert_array_equal(voxels[0], expected)
    assert voxels.sum() > 100
    np.testing.assert_allclose(heatmaps, target, atol=1e-6)


def test_voxel_network_has_the_weights_of_ours(originals):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    network = originals.torch_voxel_network(num_joints=5, width=2)
    model = V2VPoseNet(num_joints=5, width=2)
    ours = sorted(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert sorted(parameter.numel() for parameter in network.parameters()) == ours


def test_labels_of_people_are_the_codec_s(originals):
    people = np.random.default_rng(0).uniform(10, 110, (3, 18, 2))
    present = np.random.default_rng(1).random((3, 18)) < 0.8
    joints = [[tuple(point) if there else None for point, there in zip(*person)] for person in zip(people, present)]
    maps = originals.people_maps(joints, (15, 16), OPENPOSE18.limbs)
    for ours, theirs in zip(PafCodec().encode_numpy(people, present, (120, 128)), maps):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("name", ["rmpe_decode_people3", "rmpe_decode_people20"])
def test_people_are_decoded_as_the_original_does(originals, name):
    fixture = load_fixture(name)
    picture = np.zeros((*fixture["image_hw"], 3), np.uint8)
    maps = average_maps(lambda batch: (fixture["paf"][None], fixture["heat"][None]), picture, box_size=len(picture))
    maps = [part.astype(np.float64) for part in maps]
    joints = OPENPOSE18.limbs, OPENPOSE18.limb_grouping, OPENPOSE18.limb_opens
    peaks, people = originals.decode_people(*maps, *joints)
    np.testing.assert_allclose(peaks, fixture["candidate"], atol=1e-5)
    np.testing.assert_array_equal(people[:, :18], fixture["subset"][:, :18])
    np.testing.assert_allclose(people[:, 18:], fixture["subset"][:, 18:], rtol=1e-4)
