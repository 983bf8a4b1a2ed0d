"""Measures posekit against the originals' own formulations, on this machine, in one run.

    python tools/benchmark.py --model=hmr
    python tools/benchmark.py --model=lcn
    python tools/benchmark.py --model=v2v
    python tools/benchmark.py --model=openpose
    python tools/benchmark.py --ops

Each row runs the original's formulation (written anew in `tools/benchmark_originals.py`) and posekit's, in turns, and
prints medians and quartiles of the times (what is short is repeated within a turn, for a twentieth of a second), how
posekit's median relates to the original's, and how much memory each takes at its peak, measured in a process of its
own. V2V-PoseNet's network is compared in PyTorch where that is installed; elsewhere its times, and those of OpenPose's
network, are told as they were measured.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Callable

import cv2
import keras
import numpy as np
import scipy.spatial
import tensorflow as tf
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import benchmark_originals as originals

from posekit.bodies import load_body
from posekit.codecs.paf import PafCodec, average_maps
from posekit.codecs.screen_pose import camera_to_image
from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.data import pipeline
from posekit.data.depth_pipeline import depth_batches
from posekit.data.depth_records import DEPTH_STEP, DepthRecord, encode_depth
from posekit.data.h36m import pose_batches
from posekit.data.schema import ImageRecord
from posekit.data.synthetic import sample_picture, sample_poses, sample_shapes
from posekit.data.tfrecord import RecordWriter
from posekit.geometry.cameras import ndc_to_px, orthographic_projection
from posekit.layers import SMPL
from posekit.losses import mesh_reprojection_loss
from posekit.metrics.h36m import evaluate
from posekit.models import HMR, LCN, Critic, V2VPoseNet
from posekit.models.openpose import OpenPose
from posekit.ops import decode_paf, gradient_penalty, locally_connected, mesh_reprojection, native, rasterize
from posekit.ops.gradient_penalty import BoneProducts
from posekit.skeletons import COCO_PLUS19, H36M17, LSP14, OPENPOSE18
from posekit.systems import openpose
from posekit.training.fused_adam import FusedAdam
from posekit.training.gan import HMRTrainer
from posekit.training.torch_optimizers import TorchAdam
from posekit.training.volumetric import VolumetricTrainer

BFLOAT16 = "posekit_bfloat16"
DECODERS = ("original", "posekit", "posekit_fast")

flags.DEFINE_enum("model", "hmr", ["hmr", "lcn", "v2v", "openpose", "ops"], "System to measure, or the compiled ops.")
flags.DEFINE_bool("ops", False, "The same as --model=ops: plain and compiled ops, the original's, the best library's.")
flags.DEFINE_list("rows", None, "Rows to measure, by name; all by default.")
flags.DEFINE_integer("repeats", 11, "Turns of each side, of which the median counts.", lower_bound=1)
flags.DEFINE_bool("memory", None, "Measure peak memory too, in a process for each side; by default without --quick.")
flags.DEFINE_bool("quick", False, "Small sizes and few runs: shows that everything runs, not how fast it is.")
flags.DEFINE_string("body", "sample", "Body: 'sample' or an .npz file.")
flags.DEFINE_string("output", None, "JSON file to write the numbers to.")
flags.DEFINE_string("probe", None, "Used by the program itself: ROW:SIDE whose peak memory to print.")
FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the rows are."""

    smpl_batch: int = 64
    batch: int = 8
    image_size: int = 224
    silhouette_pixels: int = 8250
    critic_steps: int = 20
    pictures: int = 32
    batches: int = 12
    poses: int = 200
    channels: int = 64
    blocks: int = 3
    stored_poses: int = 400_000
    pose_batches: int = 500
    scored_poses: int = 100_000
    depth_batch: int = 8
    cube_size: int = 88
    width: int = 16
    depth_records: int = 2048
    depth_batches: int = 200
    cells: tuple[int, int] = (46, 82)
    label_cells: int = 46
    label_people: int = 5
    label_batch: int = 10
    stages: int = 6
    network_width: float | None = None
    frame: tuple[int, int] = (368, 432)


QUICK = Sizes(
    smpl_batch=2, batch=2, image_size=48, silhouette_pixels=300, critic_steps=2, pictures=4, batches=2,
    poses=8, channels=4, blocks=1, stored_poses=100, pose_batches=5, scored_poses=60,
    depth_batch=2, cube_size=16, width=2, depth_records=24, depth_batches=3,
    cells=(10, 16), label_cells=8, label_people=2, label_batch=2, stages=1, network_width=0.05, frame=(48, 64),
)  # fmt: skip
# The original scores one pose after the other: as many are timed, and multiplied.
_SCORED_BY_ORIGINAL = 2000


@dataclasses.dataclass(frozen=True)
class Row:
    """What is measured.

    Args:
        make: Function `(side, sizes)` that makes a function that runs once and returns the seconds of one step; its
            docstring is the row's title.
        sides: Formulations to compare, the original first.
        same_work: Whether all do the same amount of work, so that their memory compares.
        needs: Module without which the first formulation cannot run.
        given_ms: What the original was measured to take, told where it cannot run.
    """

    make: Callable
    sides: tuple[str, ...] = ("original", "posekit")
    same_work: bool = True
    needs: str | None = None
    given_ms: float | None = None

    @property
    def runnable(self):
        """The sides that can run here."""
        if self.needs is None or importlib.util.find_spec(self.needs):
            return self.sides
        return self.sides[1:]

    @property
    def title(self):
        """One line."""
        return self.make.__doc__.rstrip(".")


def smpl_forward(side, sizes):
    """SMPL forward: vertices, keypoints and rotations."""
    body = _body()
    smpl = originals.TiledSMPL(body) if side == "original" else SMPL(body)
    pose, shape = _poses(sizes.smpl_batch)
    return _timed(tf.function(lambda: smpl(pose, shape)))


def critic_step(side, sizes):
    """Critic on 24 real and 24 fake bodies, penalty, generator's direction."""
    trainer = _trainer(_tiny_encoder(), sizes)
    bones = tf.constant(LSP14.bone_matrix())
    pose, shape = _poses(6 * sizes.batch)
    posed = trainer.hmr.smpl.keypoints(pose, shape)
    parts = trainer._critic_bodies(posed["keypoints"], shape, posed["rotations"])
    real, fake = zip(*(tf.split(part, 2) for part in parts))

    def original(real):
        with tf.GradientTape() as tape:
            last = [part[2::3] for part in fake]
            tape.watch(last)
            scores = trainer.critic([originals.kinematic_chain_space(last[0], bones), *last])
            loss = -0.01 * tf.reduce_sum(tf.reduce_mean(scores, axis=0))
        directions = tape.gradient(loss, last)
        drawn = [tf.random.uniform(tf.shape(part)) for part in real]
        critic_loss, gradients, _ = originals.critic_gradients(trainer.critic, bones, real, fake, drawn)
        return [loss, critic_loss], gradients + directions

    def ours(real):
        values, gradients, directions = trainer.critic_turn(real, fake)
        return list(values.values()), gradients + directions

    step = original if side == "original" else ours

    # Many steps in one call, as in training, where the critic is a part of a larger graph.
    @tf.function
    def steps():
        def body(index, total):
            losses, gradients = step([part + 1e-3 * tf.cast(index, tf.float32) for part in real])
            return index + 1, total + tf.add_n(losses) + _first_numbers(gradients)

        return tf.while_loop(lambda index, _: index < sizes.critic_steps, body, (0, 0.0), parallel_iterations=1)

    return _timed(steps, sizes.critic_steps)


def train_step(side, sizes):
    """Training step without encoder and silhouette loss."""
    # 2048 features of an encoder, handed through.
    images = keras.Input((32, 32, 3))
    trainer = _trainer(keras.Model(images, keras.layers.Flatten()(images)[:, :2048]), sizes, image_size=32)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(sizes.batch, 32, 32, 3)).astype(np.float32)
    keypoints = rng.uniform(-1, 1, (sizes.batch, 19, 3)).astype(np.float32)
    keypoints[..., 2] = 1
    pose, shape = _poses(3 * sizes.batch)
    if side == "posekit":
        batch = {"image": features, "keypoints": keypoints, "mocap": {"pose": pose, "shape": shape}}
        batch = tf.nest.map_structure(tf.constant, batch)
        step = tf.function(trainer.train_step)
        return _timed(lambda: step(batch))
    step = tf.function(originals.TwoPlayerStep(trainer.hmr, trainer.critic, tf.constant(LSP14.bone_matrix())))
    arguments = tf.constant(features.reshape(sizes.batch, -1)[:, :2048]), tf.constant(keypoints), pose, shape
    return _timed(lambda: step(*arguments))


def mesh_loss(side, sizes):
    """Mesh reprojection loss, forward and backward."""
    silhouettes, vertices_px = _silhouettes(sizes)
    loss = originals.mesh_reprojection_loss if side == "original" else mesh_reprojection_loss

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(vertices_px)
            value = loss(silhouettes, vertices_px)
        return value, tape.gradient(value, vertices_px)

    return _timed(step)


def input_pipeline(side, sizes, picture_size=None):
    """Input pipeline, pictures of about 250 x 250."""
    path = _records(sizes, picture_size)
    if side == "original":
        batches = originals.image_batches(str(path), sizes.batch)
    else:
        batches = pipeline.hmr_batches(path.parent, [path.stem], sizes.batch)

    def run():
        iterator = iter(batches)
        next(iterator)
        started = time.perf_counter()
        for _ in range(sizes.batches):
            next(iterator)
        return (time.perf_counter() - started) / sizes.batches

    return run


def input_pipeline_large(side, sizes):
    """Input pipeline, pictures of 640 x 480."""
    return input_pipeline(side, sizes, picture_size=(480, 640))


def lift(side, sizes):
    """Forward of 200 poses, folded() as validation runs it."""
    joints = _screen_poses(sizes.poses)[0]
    if side == "original":
        step = _dense_forward(sizes)
    else:
        model = LCN(channels=sizes.channels, num_layers=sizes.blocks)
        step = tf.function(model.folded("bfloat16" if side == BFLOAT16 else "float32"))
    return _timed(lambda: step(joints))


def lift_loaded(side, sizes, poses=None):
    """Forward of 200 poses, predict_on_batch() as posekit.load runs it."""
    joints = _screen_poses(poses or sizes.poses)[0].numpy()
    if side == "original":
        forward = _dense_forward(sizes)
    else:
        forward = LCN(channels=sizes.channels, num_layers=sizes.blocks).predict_on_batch
    # A single call is too short to be timed.
    return _timed(lambda: [np.asarray(forward(joints)) for _ in range(10)], steps=10)


def lift_loaded_one(side, sizes):
    """Forward of 1 pose, predict_on_batch() as posekit.load runs it."""
    return lift_loaded(side, sizes, poses=1)


def _dense_forward(sizes):
    network = originals.DenseLifter(H36M17.neighbours(3), sizes.channels, sizes.blocks)
    return tf.function(lambda joints: network(tf.reshape(joints, [len(joints), -1]), training=False))


def lift_train_step(side, sizes, hops=3):
    """Training step of 200 poses."""
    joints, labels = _screen_poses(sizes.poses)
    if side == "original":
        network = originals.DenseLifter(H36M17.neighbours(hops), sizes.channels, sizes.blocks)
        step = tf.function(network.train_step)
        flat = [tf.reshape(array, [sizes.poses, -1]) for array in (joints, labels)]
        return _timed(lambda: step(*flat))
    dtype = "mixed_bfloat16" if side == BFLOAT16 else "float32"
    model = LCN(channels=sizes.channels, num_layers=sizes.blocks, hops=hops, dtype=dtype)
    decay = keras.optimizers.schedules.ExponentialDecay(1e-3, 32000, 0.96)
    model.compile(FusedAdam(decay, epsilon=1e-8), loss="mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
    return _timed(lambda: step((joints, labels)))


def lift_train_step_one_hop(side, sizes):
    """Training step of 200 poses, neighbours within 1 bone."""
    return lift_train_step(side, sizes, hops=1)


def score_poses(side, sizes):
    """Evaluation of 100,000 poses, both protocols, original extrapolated from 2,000 poses."""
    rng = np.random.default_rng(0)
    intrinsics = 1145.0, 1144.0, 512.0, 515.0
    truth = rng.normal(0, 300, (sizes.scored_poses, 17, 3)) + [0, 0, 4500]
    image, box = camera_to_image(truth, intrinsics)
    image += rng.normal(0, 5, image.shape)
    depth, actions = truth[:, 0, 2], np.arange(len(truth)) % 15 + 2
    if side == "posekit":

        def score():
            return evaluate(image, truth, box, intrinsics, depth, actions).per_action()

        return _timed(score)
    count = min(len(truth), _SCORED_BY_ORIGINAL)
    parts = [array[:count] for array in (image, truth, box, depth, actions)]
    return _timed(lambda: originals.score_poses(*parts, intrinsics), count / len(truth))


def pose_pipeline(side, sizes):
    """Input pipeline, a batch of 200 of 400,000 poses."""
    rng = np.random.default_rng(0)
    arrays = [rng.random((sizes.stored_poses, 17, size), np.float32) for size in (2, 3)]
    if side == "original":
        # Fed into a session, arrays are copied into tensors.
        rows = originals.pose_batches(*(array.reshape(len(array), -1) for array in arrays), sizes.poses)
        batches = (tf.nest.map_structure(tf.constant, batch) for batch in rows)
    else:
        batches = iter(pose_batches(*arrays, sizes.poses))

    def run():
        next(batches)
        started = time.perf_counter()
        for _ in range(sizes.pose_batches):
            next(batches)
        return (time.perf_counter() - started) / sizes.pose_batches

    return run


def voxels_and_heatmaps(side, sizes):
    """Voxels and heatmaps of 21 joints from 8 depth crops of 150 x 150."""
    codec = _voxel_codec(sizes)
    batch = _depth_batch(sizes)
    batched, rng = codec.batched(), np.random.default_rng(0)
    if side == "original":
        frames = {key: value.numpy() for key, value in batch.items()}
        sizes_of = {"cubic_size": codec.cubic_size, "original": codec.original_size, "cropped": codec.cropped_size}

        def encode():
            for number in range(sizes.depth_batch):
                depth, box, camera, joints, refpoint = (
                    frames[key][number] for key in ("depth", "box", "camera", "joints", "refpoint")
                )
                depth = depth * np.float32(DEPTH_STEP["mm"])
                originals.voxels_and_heatmaps(depth, box, camera, joints, refpoint, codec.draw(rng), **sizes_of)

        return _timed_alone(encode)

    @tf.function
    def encode(seed):
        augmentation = batched.draw(seed, sizes.depth_batch)
        points = batched.points(batch["depth"], batch["box"], batch["camera"], DEPTH_STEP["mm"])
        grid = batched.joints_to_grid(batch["joints"], batch["refpoint"], augmentation)
        return batched.voxels(points, batch["refpoint"], augmentation), batched.heatmaps(grid)

    return _timed_alone(lambda: encode(tf.constant(rng.integers(1 << 31, size=2))))


def voxel_forward(side, sizes):
    """V2V-PoseNet's forward of one cube of 88 voxels."""
    voxels = _cubes(sizes, 1)
    if side == "original":
        import torch

        network, read = _torch_network(sizes)
        network.eval()
        cubes = read(voxels)
        return _timed_alone(torch.no_grad()(lambda: network(cubes)))
    model = V2VPoseNet(width=sizes.width, cube_size=sizes.cube_size)
    step = tf.function(lambda cubes: model(cubes, training=False))
    return _timed_alone(lambda: step(voxels))


def voxel_train_step(side, sizes):
    """V2V-PoseNet's training step of one cube of 88 voxels."""
    voxels = _cubes(sizes, 1)
    grid = sizes.cube_size // 2
    heatmaps = np.random.default_rng(0).random((1, grid, grid, grid, 21), np.float32)
    if side == "original":
        import torch

        network, read = _torch_network(sizes)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        cubes, labels = read(voxels), read(heatmaps)

        def step():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(network(cubes), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return _timed_alone(step)
    model = V2VPoseNet(width=sizes.width, cube_size=sizes.cube_size)
    model.compile(TorchAdam(1e-3, epsilon=1e-8), loss="mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
    batch = voxels, tf.constant(heatmaps)
    return _timed_alone(lambda: step(batch))


def voxel_train_step_batch(side, sizes):
    """V2V-PoseNet's training step of 8 depth crops, voxels and heatmaps made within."""
    trainer = VolumetricTrainer(V2VPoseNet(width=sizes.width), _voxel_codec(sizes), DEPTH_STEP["mm"])
    trainer.compile(TorchAdam(1e-3, epsilon=1e-8), jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    step, batch = tf.function(trainer.train_step), _depth_batch(sizes)
    return _timed_alone(lambda: step(batch))


def depth_pipeline(side, sizes):
    """Input pipeline, a batch of 8 depth crops of 150 x 150."""
    folder = _depth_records(sizes)
    codec = VoxelCodec(200.0)
    batches = iter(depth_batches(folder, "msra", "train", sizes.depth_batch, codec=codec, num_epochs=None))

    def run():
        next(batches)
        started = time.perf_counter()
        for _ in range(sizes.depth_batches):
            next(batches)
        return (time.perf_counter() - started) / sizes.depth_batches

    return run


def decode_one(side, sizes, people=1):
    """Decoding of the maps of 1 person, 368 x 656."""
    heatmaps, pafs = _people_maps(people, *sizes.cells)
    if side == "posekit_fast":
        return _timed_alone(lambda: decode_paf(heatmaps, pafs, mode="fast"))
    picture = np.zeros((8 * sizes.cells[0], 8 * sizes.cells[1], 3), np.uint8)
    maps = average_maps(lambda batch: (pafs[None], heatmaps[None]), picture, box_size=len(picture))
    if side == "posekit":
        return _timed_alone(lambda: decode_paf(*maps))
    maps = [part.astype(np.float64) for part in maps]
    joints = OPENPOSE18.limbs, OPENPOSE18.limb_grouping, OPENPOSE18.limb_opens
    return _timed_alone(lambda: originals.decode_people(*maps, *joints))


def decode_eight(side, sizes):
    """Decoding of the maps of 8 people, 368 x 656."""
    return decode_one(side, sizes, people=8)


def decode_twenty(side, sizes):
    """Decoding of the maps of 20 people, 368 x 656."""
    return decode_one(side, sizes, people=20)


def people_labels(side, sizes):
    """Heatmaps and fields of 10 pictures of 5 people, 368 x 368."""
    codec, cells = PafCodec(), (sizes.label_cells,) * 2
    joints = np.stack([_people_joints(sizes.label_people, *cells, seed) for seed in range(sizes.label_batch)])
    if side == "original":
        pictures = joints.tolist()

        def encode():
            for people in pictures:
                originals.people_maps(people, cells, OPENPOSE18.limbs)

        return _timed_alone(encode)
    size = tuple(codec.stride * side for side in cells)
    step = tf.function(lambda joints, present: codec.encode(joints, present, size))
    inputs = tf.constant(joints, tf.float32), tf.ones(joints.shape[:-1], tf.bool)
    return _timed_alone(lambda: step(*inputs))


def people_forward(side, sizes):
    """Forward of the network of VGG19 and six stages, 368 x 656."""
    width = sizes.network_width
    model = OpenPose(num_stages=sizes.stages, backbone_width=width, stage_width=width)
    picture = np.full((1, 8 * sizes.cells[0], 8 * sizes.cells[1], 3), 128, np.uint8)
    return _timed_alone(lambda: model.predict_on_batch(picture))


def people_frame(side, sizes):
    """A frame to 3 people with MobileNet-thin, 432 x 368, from photograph to keypoints."""
    config = openpose.Config(backbone="mobilenet_thin", box_size=sizes.frame[0])
    model = OpenPose("mobilenet_thin", num_stages=sizes.stages, backbone_width=sizes.network_width)
    heatmaps, pafs = _people_maps(3, *(side // 8 for side in sizes.frame))
    photograph = np.random.default_rng(0).integers(0, 256, (2 * sizes.frame[0], 2 * sizes.frame[1], 3), np.uint8)

    class Seeing:
        """The network with its weights untrained, and what a trained one would have found."""

        def predict_on_batch(self, batch):
            model.predict_on_batch(batch)
            return {"heatmaps": heatmaps[None], "pafs": pafs[None]}

    return _timed_alone(lambda: openpose.predict(config, Seeing(), [photograph]))


def op_mesh_reprojection(side, sizes):
    """Mesh reprojection, values and gradient."""
    silhouettes, vertices_px = _silhouettes(sizes)
    if side == "scipy_tree":
        pixels = [np.argwhere(mask[..., 0] > 0)[:, ::-1].astype(np.float32) for mask in silhouettes.numpy()]
        return _timed_alone(lambda: _tree_reprojection(pixels, vertices_px.numpy()))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(vertices_px)
            if side == "original":
                value = originals.mesh_reprojection_loss(silhouettes, vertices_px)
            else:
                value = tf.add_n(mesh_reprojection(silhouettes, vertices_px))
        return tape.gradient(value, vertices_px)

    return _timed(_chosen(side, step))


def _tree_reprojection(pixels, vertices_px):
    """Sums of both distances, and the gradient: SciPy's trees, one of the pixels and one of the vertices a picture."""
    total, gradients = 0.0, np.zeros_like(vertices_px)
    for seen, vertices, gradient in zip(pixels, vertices_px, gradients):
        nearest = scipy.spatial.cKDTree(vertices).query(seen, workers=-1)[1]
        apart = vertices[nearest] - seen
        np.add.at(gradient, nearest, np.sign(apart))
        distances, nearest = scipy.spatial.cKDTree(seen).query(vertices, workers=-1)
        gradient += (vertices - seen[nearest]) / np.maximum(distances, 1e-9)[:, None]
        total += np.abs(apart).sum() + distances.sum()
    return total, gradients


def op_gradient_penalty(side, sizes):
    """Gradient penalty of the critic on 24 bodies, value and gradients of the weights."""
    trainer = _trainer(_tiny_encoder(), sizes)
    pose, shape = _poses(6 * sizes.batch)
    posed = trainer.hmr.smpl.keypoints(pose, shape)
    parts = trainer._critic_bodies(posed["keypoints"], shape, posed["rotations"])
    real, fake = zip(*(tf.split(part, 2) for part in parts))
    bones = tf.constant(LSP14.bone_matrix())

    def nested(points):
        return [originals.kinematic_chain_space(points[0], bones), *points]

    # What is not a Keras model is differentiated by nested tapes.
    critic, derive = trainer.critic, BoneProducts(LSP14.bone_matrix())
    if side == "nested_tapes":
        critic, derive = (lambda inputs: trainer.critic(inputs)), nested

    @tf.function
    def steps():
        def body(index, total):
            moved = [part + 1e-3 * tf.cast(index, tf.float32) for part in real]
            with tf.GradientTape() as tape:
                value = gradient_penalty(critic, moved, list(fake), derive=derive, seed=[1, 2])
            gradients = tape.gradient(value, trainer.critic.trainable_variables)
            return index + 1, total + value + _first_numbers(gradients)

        return tf.while_loop(lambda index, _: index < sizes.critic_steps, body, (0, 0.0), parallel_iterations=1)

    return _timed(_chosen(side, steps), sizes.critic_steps)


def _op_locally_connected(side, sizes, hops):
    skeleton, width = H36M17, sizes.channels
    joints = skeleton.num_joints
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(sizes.poses, joints, width)), tf.float32)
    kernel = tf.constant(0.02 * rng.normal(size=(joints * width,) * 2), tf.float32)
    support = np.ones((joints, joints), bool) if hops is None else skeleton.neighbours(hops).T != 0
    mask, bias = tf.constant(support, tf.float32), tf.zeros(joints * width)
    form = "dense" if side == "dense" else None

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel, bias])
            outputs = locally_connected(inputs, kernel, mask, bias, 1.0, support, form)
        return tape.gradient(outputs, [inputs, kernel, bias], outputs)

    return _timed_alone(_chosen(side, step))


def op_locally_connected_1(side, sizes):
    """Locally connected layer, neighbours 1 bone away, forward and backward, 200 poses."""
    return _op_locally_connected(side, sizes, 1)


def op_locally_connected_2(side, sizes):
    """Locally connected layer, neighbours within 2 bones."""
    return _op_locally_connected(side, sizes, 2)


def op_locally_connected_3(side, sizes):
    """Locally connected layer, neighbours within 3 bones."""
    return _op_locally_connected(side, sizes, 3)


def op_locally_connected_full(side, sizes):
    """Locally connected layer, all joints neighbours."""
    return _op_locally_connected(side, sizes, None)


def _op_decode(side, sizes, people, mode):
    heatmaps, pafs = _people_maps(people, *sizes.cells)
    maps = [heatmaps, pafs]
    if mode == "exact" or side == "original":
        picture = np.zeros((8 * sizes.cells[0], 8 * sizes.cells[1], 3), np.uint8)
        maps = average_maps(lambda batch: (pafs[None], heatmaps[None]), picture, box_size=len(picture))
    if side == "original":
        maps = [part.astype(np.float64) for part in maps]
        joints = OPENPOSE18.limbs, OPENPOSE18.limb_grouping, OPENPOSE18.limb_opens
        return _timed_alone(lambda: originals.decode_people(*maps, *joints))
    return _timed_alone(_chosen(side, lambda: decode_paf(*maps, mode=mode)))


def op_decode_exact_1(side, sizes):
    """Decoding, exact, of maps as large as a picture of 368 x 656: 1 person."""
    return _op_decode(side, sizes, 1, "exact")


def op_decode_exact_8(side, sizes):
    """Decoding, exact: 8 people."""
    return _op_decode(side, sizes, 8, "exact")


def op_decode_exact_20(side, sizes):
    """Decoding, exact: 20 people."""
    return _op_decode(side, sizes, 20, "exact")


def op_decode_fast_1(side, sizes):
    """Decoding, fast, of the network's maps: 1 person; the original as above."""
    return _op_decode(side, sizes, 1, "fast")


def op_decode_fast_8(side, sizes):
    """Decoding, fast: 8 people."""
    return _op_decode(side, sizes, 8, "fast")


def op_decode_fast_20(side, sizes):
    """Decoding, fast: 20 people."""
    return _op_decode(side, sizes, 20, "fast")


def _op_renderer(side, height, width):
    body = _body()
    vertices = body.v_template * (1, -1, -1)
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2 + (0, 0, 3)
    focal, center, size = 1.5 * height, (width / 2, height / 2), (height, width)
    if side == "pyrender":
        return _pyrender(vertices=vertices, faces=body.faces, focal=focal, center=center, size=size)
    return _timed_alone(_chosen(side, lambda: rasterize(vertices, body.faces, focal, center, size)))


def op_renderer_batch(side, sizes):
    """Rasteriser, 16 meshes of 6282 vertices at 224 x 224, all at once; one after the other."""
    body = _body()
    vertices = body.v_template * (1, -1, -1) + np.linspace(-0.2, 0.2, 16)[:, None, None] + (0, 0, 3)
    view = body.faces, 1.5 * 224, (112, 112), (224, 224)
    if side == "one_by_one":
        return _timed_alone(lambda: [rasterize(mesh, *view) for mesh in vertices])
    return _timed_alone(_chosen(side, lambda: rasterize(vertices, *view)))


def _pyrender(**mesh):
    """Depth images by pyrender, on OSMesa unless PYOPENGL_PLATFORM names another."""
    with tempfile.TemporaryDirectory(prefix="posekit-benchmark-") as folder:
        path = pathlib.Path(folder) / "mesh.npz"
        np.savez(path, **mesh)
        command = [sys.executable, str(pathlib.Path(__file__).with_name("benchmark_pyrender.py")), str(path)]
        painter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def run():
            print(file=painter.stdin, flush=True)
            seconds, seen = painter.stdout.readline().split()
            assert int(seen), "pyrender drew nothing"
            return float(seconds)

        run()  # from now on the file is not needed
    return run


def op_renderer_224(side, sizes):
    """Rasteriser, a body in a picture of 224 x 224; pyrender draws the depth alone, of a mesh that it has already."""
    return _op_renderer(side, 224, 224)


def op_renderer_720(side, sizes):
    """Rasteriser, a body in a picture of 1280 x 720."""
    return _op_renderer(side, 720, 1280)


def _first_numbers(gradients):
    """A number that hangs on all gradients: TensorFlow leaves out what nothing needs, control dependencies or not."""
    return 1e-9 * tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients if gradient is not None])


def _chosen(side, step):
    """The step with compiled ops or, for all sides but posekit's own, without."""

    def plain():
        with native.disabled():
            return step()

    return step if side == "posekit" else plain


ROWS = {
    "ops": {
        "mesh_reprojection": Row(op_mesh_reprojection, ("original", "scipy_tree", "plain", "posekit")),
        "gradient_penalty": Row(op_gradient_penalty, ("nested_tapes", "plain", "posekit")),
        "locally_connected_1": Row(op_locally_connected_1, ("dense", "plain", "posekit")),
        "locally_connected_2": Row(op_locally_connected_2, ("dense", "plain", "posekit")),
        "locally_connected_3": Row(op_locally_connected_3, ("dense", "plain", "posekit")),
        "locally_connected_full": Row(op_locally_connected_full, ("dense", "plain", "posekit")),
        "decode_exact_1": Row(op_decode_exact_1, ("original", "plain", "posekit")),
        "decode_exact_8": Row(op_decode_exact_8, ("original", "plain", "posekit")),
        "decode_exact_20": Row(op_decode_exact_20, ("original", "plain", "posekit")),
        "decode_fast_1": Row(op_decode_fast_1, ("original", "plain", "posekit"), same_work=False),
        "decode_fast_8": Row(op_decode_fast_8, ("original", "plain", "posekit"), same_work=False),
        "decode_fast_20": Row(op_decode_fast_20, ("original", "plain", "posekit"), same_work=False),
        "renderer_224": Row(op_renderer_224, ("pyrender", "plain", "posekit"), same_work=False, needs="pyrender"),
        "renderer_batch": Row(op_renderer_batch, ("one_by_one", "plain", "posekit")),
        "renderer_720": Row(op_renderer_720, ("pyrender", "plain", "posekit"), same_work=False, needs="pyrender"),
    },
    "hmr": {
        row.__name__: Row(row)
        for row in (smpl_forward, critic_step, train_step, mesh_loss, input_pipeline, input_pipeline_large)
    },
    "lcn": {
        "forward": Row(lift, ("original", "posekit", BFLOAT16)),
        "forward_loaded": Row(lift_loaded),
        "forward_loaded_one": Row(lift_loaded_one),
        "train_step": Row(lift_train_step, ("original", "posekit", BFLOAT16)),
        "train_step_one_hop": Row(lift_train_step_one_hop),
        "evaluation": Row(score_poses, same_work=False),
        "input_pipeline": Row(pose_pipeline),
    },
    "v2v": {
        "voxels_and_heatmaps": Row(voxels_and_heatmaps),
        "forward": Row(voxel_forward, needs="torch", given_ms=458.0),
        "train_step": Row(voxel_train_step, needs="torch", given_ms=1380.0),
        "train_step_batch": Row(voxel_train_step_batch, ("posekit",)),
        "input_pipeline": Row(depth_pipeline, ("posekit",)),
    },
    "openpose": {
        "decode_1": Row(decode_one, DECODERS, same_work=False),
        "decode_8": Row(decode_eight, DECODERS, same_work=False),
        "decode_20": Row(decode_twenty, DECODERS, same_work=False),
        "labels": Row(people_labels),
        "forward": Row(people_forward, ("posekit",), given_ms=2428.0),
        "frame": Row(people_frame, ("posekit",)),
    },
}


def _people_joints(count, height, width, seed=0):
    """Joints of people who stand beside each other in rows, in pixels: `[people, joints, 2]`."""
    rng = np.random.default_rng(seed)
    pose, shape = sample_poses(rng, count), sample_shapes(rng, count, _body().num_shape)
    bodies = SMPL(_body()).keypoints(tf.constant(pose, tf.float32), tf.constant(shape, tf.float32))["keypoints"].numpy()
    points, _ = COCO_PLUS19.convert(bodies[..., :2], to=OPENPOSE18)
    points -= points.mean(1, keepdims=True)
    rows = int(np.ceil(np.sqrt(count * height / width / 2)))
    columns = -(-count // rows)
    cell = 8 * np.array([width / columns, height / rows])
    places = np.array([[number % columns + 0.5, number // columns + 0.5] for number in range(count)]) * cell
    return points * (0.8 * cell[1] / 1.8) + (places + rng.normal(0, 0.05, (count, 2)) * cell)[:, None]


@functools.cache
def _people_maps(count, height, width):
    """What a network would say of these people: heatmaps and fields, a little noisy."""
    joints = _people_joints(count, height, width)
    maps = PafCodec().encode_numpy(joints, np.ones(joints.shape[:2], bool), (8 * height, 8 * width))
    rng = np.random.default_rng(1)
    return [(part + rng.normal(0, 0.02, part.shape)).astype(np.float32) for part in maps]


@functools.cache
def _screen_poses(count):
    """Normalised joints in a picture, and poses near them."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(-0.5, 0.5, (count, 17, 2))
    labels = np.concatenate([joints, rng.normal(0, 0.3, (count, 17, 1))], axis=-1)
    return tf.constant(joints, tf.float32), tf.constant(labels, tf.float32)


def _voxel_codec(sizes):
    return VoxelCodec(200.0, original_size=sizes.cube_size * 12 // 11, cropped_size=sizes.cube_size)


def _hand_depth(rng, size=150):
    """A smooth surface with the sensor's noise on about half of a crop, in millimetres."""
    y, x = np.mgrid[:size, :size]
    shape = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), 15) > 0
    depth = 400 + 30 * np.sin(x / rng.uniform(10, 30)) + 20 * np.cos(y / rng.uniform(10, 30))
    return np.where(shape, np.rint(depth + rng.normal(size=depth.shape)), 0)


def _hand_record(rng, name):
    joints = rng.normal(0, 40, (21, 3)) + [0, 0, 400]
    return DepthRecord(
        name, encode_depth(_hand_depth(rng), "mm"), (85, 45, 235, 195), joints, np.ones(21), [[0, 0, 400]] * 9, "file",
        (241.42, -241.42, 160, 120), (320, 240), "mm", (300, 300, 300),
    )  # fmt: skip


@functools.cache
def _depth_batch(sizes):
    """What crosses the pipeline in one batch."""
    rng = np.random.default_rng(0)
    records = [_hand_record(rng, str(number)) for number in range(sizes.depth_batch)]
    columns = {"depth": np.uint16, "box": np.int32, "joints": np.float32, "valid": np.float32, "camera": np.float32}
    batch = {
        key: tf.constant(np.array([getattr(record, key) for record in records], dtype))
        for key, dtype in columns.items()
    }
    batch["refpoint"] = tf.constant([[0.0, 0.0, 400.0]] * sizes.depth_batch)
    numbers = tf.range(sizes.depth_batch, dtype=tf.int64)
    return batch | {"frame": numbers, "epoch": 0 * numbers}


@functools.cache
def _depth_records(sizes):
    """A folder with MSRA's record sets, which lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="posekit-benchmark-")
    _records_folders.append(folder)
    rng = np.random.default_rng(0)
    drawn = [_hand_record(rng, str(number)).to_example() for number in range(min(64, sizes.depth_records))]
    for subject in range(9):
        with RecordWriter(pathlib.Path(folder.name) / f"msra_p{subject}.tfrecords") as writer:
            for number in range(sizes.depth_records // 8):
                writer.write(drawn[number % len(drawn)])
    return folder.name


def _cubes(sizes, count):
    """Cubes in which as many voxels are occupied as by a hand's surface."""
    cubes = np.random.default_rng(0).random((count, *[sizes.cube_size] * 3, 1)) < 0.005
    return tf.constant(cubes, tf.float32)


def _torch_network(sizes):
    """The network in PyTorch, and a function that brings arrays into its layout."""
    import torch

    torch.manual_seed(0)
    network = originals.torch_voxel_network(width=sizes.width)

    def read(values):
        return torch.from_numpy(np.array(np.moveaxis(np.asarray(values), -1, 1), order="C"))

    return network, read


@functools.cache
def _body():
    return load_body(FLAGS.body)


def _poses(count):
    rng = np.random.default_rng(0)
    pose, shape = sample_poses(rng, count), sample_shapes(rng, count, _body().num_shape)
    return tf.constant(pose, tf.float32), tf.constant(shape, tf.float32)


def _tiny_encoder():
    return keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8)])


def _trainer(encoder, sizes, image_size=16):
    hmr = HMR(body=_body(), backbone=encoder, image_size=image_size)
    trainer = HMRTrainer(hmr, Critic())
    trainer.compile(FusedAdam(1e-4), FusedAdam(5e-4), jit_compile=False)
    return trainer


def _silhouettes(sizes):
    """Silhouettes of posed bodies, and the projections of bodies in slightly other poses."""
    rng = np.random.default_rng(1)
    pose, shape = _poses(sizes.batch)
    smpl, size = SMPL(_body()), sizes.image_size
    true = smpl(pose, shape, outputs=("vertices",))["vertices"].numpy()
    guess = smpl(pose + rng.normal(0, 0.15, pose.shape), shape, outputs=("vertices",))["vertices"].numpy()
    masks, projected = [], []
    for vertices, other in zip(true, guess):
        scale = 0.8
        for _ in range(2):
            camera = np.array([scale, *-vertices[:, :2].mean(0)], np.float32)
            px = ndc_to_px(orthographic_projection(vertices, camera), size).numpy()
            # Far away and with a focal length to match, perspective is orthographic.
            depth = 1e4 + vertices[:, 2:]
            mask = rasterize(np.concatenate([px * depth, depth], axis=1), _body().faces, 1.0, (0, 0), (size, size)).mask
            scale *= np.sqrt(sizes.silhouette_pixels / max(mask.sum(), 1))
        masks.append(mask)
        projected.append(ndc_to_px(orthographic_projection(other, camera), size).numpy() + rng.normal(0, 2, (1, 2)))
    return tf.constant(np.array(masks)[..., None], tf.float32), tf.constant(np.array(projected), tf.float32)


@functools.cache
def _records(sizes, picture_size):
    """A TFRecord file of drawn people that lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="posekit-benchmark-")
    _records_folders.append(folder)
    path = pathlib.Path(folder.name) / "drawn.tfrecords"
    rng = np.random.default_rng(0)
    with RecordWriter(path) as writer:
        for number in range(sizes.pictures):
            image, (person, *_) = sample_picture(rng, _body(), picture_size)
            silhouette = cv2.imencode(".jpg", person.mask.astype(np.uint8) * 255)[1].tobytes()
            keypoints = np.concatenate([person.keypoints_px.T, person.visible[np.newaxis]])
            encoded = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
            record = ImageRecord(encoded, *image.shape[:2], f"{number}.jpg", keypoints, silhouette=silhouette)
            writer.write(record.to_example())
    return path


_records_folders = []


def _timed(step, steps=1):
    def run():
        started = time.perf_counter()
        for tensor in tf.nest.flatten(step()):
            if tensor is not None:
                tf.convert_to_tensor(tensor).numpy()
        return (time.perf_counter() - started) / steps

    return run


def _timed_alone(step):
    """Times a step whose results need not be copied anywhere."""

    def run():
        started = time.perf_counter()
        step()
        tf.test.experimental.sync_devices()
        return time.perf_counter() - started

    return run


# Seconds of a turn of one side in which what is short runs again and again: what it takes right after another side has
# filled the caches and put the threads to sleep is chance.
_TURN_SECONDS = 0.05


def _turn(run, seconds):
    """Mean time of the runs of a turn: at least one, as many as begin within these seconds."""
    times, until = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        times.append(run())
    return np.mean(times)


def measure(row, sizes, repeats):
    """Runs all sides in turns.

    Args:
        row: Name of a row of the system in `--model`.
        sizes: `Sizes`.
        repeats: Runs of each side.

    Returns:
        Dict of side to milliseconds: lower quartile, median, upper quartile.
    """
    row = ROWS[FLAGS.model][row]
    runs = {side: row.make(side, sizes) for side in row.runnable}
    for run in runs.values():
        run()
    seconds = {side: [] for side in runs}
    for _ in range(repeats):
        for side, run in runs.items():
            seconds[side].append(_turn(run, 0 if FLAGS.quick else _TURN_SECONDS))
    return {side: (1e3 * np.percentile(values, [25, 50, 75])).tolist() for side, values in seconds.items()}


def probe(row, side, sizes):
    """Peak memory of one side in this process, above what it held before.

    Args:
        row: Name of a row of the system in `--model`.
        side: One of the row's sides.
        sizes: `Sizes`.

    Returns:
        Megabytes.
    """
    if FLAGS.model in ("hmr", "ops"):
        _body()
    if FLAGS.model == "ops":
        native.status()
    tf.function(lambda: tf.zeros([]))()
    chosen = ROWS[FLAGS.model][row]
    if side == "original" and chosen.needs:
        importlib.import_module(chosen.needs)
    before = _reset_peak_memory()
    run = chosen.make(side, sizes)
    for _ in range(3):
        run()
    return _peak_memory() - before


def _reset_peak_memory():
    """Forgets, where the system can, what was held earlier; megabytes held now."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _peak_memory()


def _peak_memory():
    """Most megabytes this process has held."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _probe_in_subprocess(row, side):
    command = [sys.executable, __file__, f"--model={FLAGS.model}", f"--body={FLAGS.body}", f"--probe={row}:{side}"]
    done = subprocess.run(command + ["--quick"] * FLAGS.quick, capture_output=True, text=True)
    if done.returncode:
        # A process killed for memory is a measurement, too.
        print(f"{row}: measuring the memory of the {side}'s formulation failed ({done.returncode})", file=sys.stderr)
        return None
    return float(done.stdout.split()[-1])


def _print_row(result):
    print(result["title"], flush=True)
    given = result.get("given", {}).get("original")
    if given:
        print(f"  {'original':<20}{given:>10.2f}   as measured elsewhere on two cores, not here")
    # What the others are compared with: the original, or else the first formulation.
    first = next(iter(result["milliseconds"]))
    original = result["milliseconds"].get("original", given)
    if original is None and len(result["milliseconds"]) > 1:
        original = result["milliseconds"][first]
    for side, median in result["milliseconds"].items():
        low, high = result["quartiles"][side]
        itself = side == "original" or (given is None and side == first)
        ratio = "" if itself or not original else f"{median / original:.2f} = 1/{original / median:.1f}"
        memory = result["megabytes"][side]
        memory = "-" if memory is None else f"{memory:.0f}"
        print(f"  {side:<20}{median:>10.2f}{f'{low:.2f} to {high:.2f}':>24}   {ratio:<16}{memory:>10}", flush=True)


def main(argv):
    """Measures the rows and prints the table.

    Args:
        argv: Command line; nothing but flags is allowed.

    Returns:
        Exit status.
    """
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; write flags as --rows=mesh_loss.")
    if FLAGS.ops:
        FLAGS.model = "ops"
    rows = ROWS[FLAGS.model]
    unknown = sorted(set(FLAGS.rows or ()) - set(rows))
    if unknown:
        raise app.UsageError(f"--rows names {unknown}; choose from {','.join(rows)}.")
    sizes, repeats = (QUICK, 1) if FLAGS.quick else (Sizes(), FLAGS.repeats)
    if FLAGS.probe:
        print(probe(*FLAGS.probe.split(":"), sizes))
        return 0
    devices = ", ".join(device.name for device in tf.config.list_logical_devices())
    print(
        f"TensorFlow {tf.__version__} on {devices}, {os.cpu_count()} cores; {_setting(sizes)}\n"
        f"{'':<22}{'median ms':>10}{'quartiles ms':>24}   {'of original':<16}{'peak MB':>10}"
    )
    if FLAGS.quick:
        print("--quick: smaller sizes than the titles tell and a single turn, which shows that all runs, not how fast.")
    with_memory = not FLAGS.quick if FLAGS.memory is None else FLAGS.memory
    results = {}
    for row in FLAGS.rows or rows:
        memory = dict.fromkeys(rows[row].runnable)
        if with_memory and rows[row].same_work:
            memory = {side: _probe_in_subprocess(row, side) for side in memory}
        times = measure(row, sizes, repeats)
        results[row] = {
            "title": rows[row].title,
            "milliseconds": {side: median for side, (_, median, _) in times.items()},
            "quartiles": {side: [low, high] for side, (low, _, high) in times.items()},
            "megabytes": memory,
        }
        if rows[row].given_ms and "original" not in times and not FLAGS.quick:
            results[row]["given"] = {"original": rows[row].given_ms}
        _print_row(results[row])
    for row, (amount, unit) in _amounts(sizes).items():
        if row in results:
            rates = [f"{side} {_rounded(1e3 * amount / ms)}" for side, ms in results[row]["milliseconds"].items()]
            print(f"{results[row]['title']}: {', '.join(rates)} {unit}")
    if FLAGS.output:
        _write_json(pathlib.Path(FLAGS.output), results)
    return 0


def _rounded(rate):
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _setting(sizes):
    if FLAGS.model == "v2v":
        return f"cubes of {sizes.cube_size} voxels, width {sizes.width}, 21 joints, batches of {sizes.depth_batch}"
    if FLAGS.model == "ops":
        threads = native.kernels().posekit_num_threads() if native.kernels() else 0
        return f"compiled ops on {threads} threads" if threads else "no compiled ops here"
    if FLAGS.model == "openpose":
        return f"maps of {sizes.cells[0]} x {sizes.cells[1]} cells, {sizes.stages} stages"
    if FLAGS.model == "lcn":
        return f"{sizes.poses} poses, {sizes.channels} channels, {sizes.blocks} blocks, neighbours within 3 bones"
    return (
        f"body {_body().name!r} of {_body().num_vertices} vertices; batch {sizes.batch}, SMPL {sizes.smpl_batch}, "
        f"{sizes.image_size} px"
    )


def _amounts(sizes):
    """What a row does in one step, as `{row: (amount, unit of the rate)}`."""
    if FLAGS.model == "ops":
        return {}
    if FLAGS.model == "hmr":
        return {row: (sizes.batch, "images/s") for row in ("input_pipeline", "input_pipeline_large")}
    if FLAGS.model == "v2v":
        batches = dict.fromkeys(("voxels_and_heatmaps", "train_step_batch", "input_pipeline"), sizes.depth_batch)
        return {row: (frames, "frames/s") for row, frames in batches.items()} | {"forward": (1, "frames/s")}
    if FLAGS.model == "openpose":
        return {"labels": (sizes.label_batch, "pictures/s"), "forward": (1, "frames/s"), "frame": (1, "frames/s")}
    wide = 17 * sizes.channels
    # With the zeros of the mask, as the original multiplies them too; a training step has three products a layer.
    gigaflops = 2e-9 * sizes.poses * (34 * wide + 2 * sizes.blocks * wide**2 + wide * 51)
    unit = "GFLOP/s, zeros of the mask counted"
    return {
        "forward": (gigaflops, unit),
        "train_step": (3 * gigaflops, unit),
        "evaluation": (sizes.scored_poses, "poses/s"),
        "input_pipeline": (sizes.poses, "poses/s"),
    }


def _write_json(path, results):
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    app.run(main)
