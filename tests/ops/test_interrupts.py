"""Ctrl-C while compiled ops run: the process goes on, and what they compute afterwards is right."""

from compiled import needs_compiled_ops, run_python

# Signals come at any moment of a call, on whatever thread of the process the system chooses, a thread of the pool too.
# Python hands them to its own code, where they are caught.
INTERRUPTED = """
import os, signal, threading, time
import keras, numpy as np, tensorflow as tf
from posekit.bodies import sample_body
from posekit.ops import (
    decode_paf, gradient_penalty, locally_connected, mesh_reprojection, native, nearest_neighbors, rasterize,
)
from posekit.skeletons import H36M17

rng = np.random.default_rng(0)
points, references = rng.normal(size=(2, 60_000, 3)).astype(np.float32)
masks, vertices = rng.random((4, 96, 96)) < 0.5, rng.uniform(0, 96, (4, 3000, 2)).astype(np.float32)
maps = rng.random((46, 46, 57)).astype(np.float32)
body = sample_body()
shapes = (200, 17, 64), (17 * 64, 17 * 64), (17, 17), (17 * 64,)
layer = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
critic = keras.Sequential([keras.Input((100,)), *(keras.layers.Dense(300, "leaky_relu") for _ in range(4)),
                           keras.layers.Dense(1)])
samples = rng.normal(size=(2, 200, 100)).astype(np.float32)


def people():
    found = decode_paf(maps[..., :19], maps[..., 19:], mode="exact", upsampling=8)
    return found.keypoints, found.scores


def penalty():
    with tf.GradientTape() as tape:
        value = gradient_penalty(critic, [samples[0]], [samples[1]], coefficients=[np.full((200, 1), 0.5, np.float32)])
    kernels = [weight for weight in critic.trainable_weights if weight.name == "kernel"]
    return [value, *tape.gradient(value, kernels)]


def one_hop():
    inputs = tf.constant(layer[0])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = locally_connected(inputs, *layer[1:], 1.0, H36M17.neighbours(1), "compiled")
    return value, tape.gradient(value, inputs)


calls = {
    "nearest_neighbors": lambda: nearest_neighbors(points, references),
    "mesh_reprojection": lambda: mesh_reprojection(masks, vertices),
    "gradient_penalty": penalty,
    "locally_connected": one_hop,
    "decode_paf": people,
    "rasterize": lambda: [rasterize(body.v_template + (0, 0, 3), body.faces, 600.0, (360, 360), (720, 720)).depths],
}
assert set(calls) | {"decode_paf_batch"} == set(native.OPS)
armed = False


def interrupted(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt


signal.signal(signal.SIGINT, interrupted)
for name, call in calls.items():
    call()
    start = time.perf_counter()
    expected = [np.array(part) for part in call()]
    took, caught, running = time.perf_counter() - start, 0, True

    def interrupt():
        pause = np.random.default_rng(1)
        while running:
            time.sleep(pause.uniform(0.2, 1.5) * took)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    while caught < 5:
        try:
            armed = True
            until = time.monotonic() + 1 + 10 * took
            while time.monotonic() < until:  # then it was lost in code that tells nobody of exceptions
                call()
        except KeyboardInterrupt:
            caught += 1
    running = False
    thread.join()
    for one, other in zip(expected, call(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
    print(name, caught)
"""


@needs_compiled_ops
def test_interrupted_ops_neither_crash_nor_compute_something_else():
    lines = run_python(INTERRUPTED, POSEKIT_NATIVE=1, TF_NUM_INTRAOP_THREADS=4).stdout.splitlines()
    assert len(lines) == 6
