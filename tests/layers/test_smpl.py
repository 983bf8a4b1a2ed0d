import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.bodies import BodyModel, sample_body
from posekit.layers import SMPL
from posekit.testing import check_half_precision, check_layer, load_fixture, tiny_body


def body_of(arrays):
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    return BodyModel(
        name="synthetic",
        licence="Apache-2.0",
        v_template=arrays["v_template"],
        shapedirs=arrays["shapedirs"],
        posedirs=arrays["posedirs"],
        J_regressor=arrays["J_regressor"],
        keypoint_regressor=arrays["cocoplus_regressor"],
        weights=arrays["weights"],
        parents=parents.astype(np.int32),
        faces=np.array([[0, 1, 2]], np.int32),
    )


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_smpl")


@pytest.fixture(scope="module")
def full():
    return SMPL(body_of(load_fixture("hmr_smpl_model")))


@pytest.fixture(scope="module")
def tiny():
    return SMPL(tiny_body())


def random_inputs(layer, batch=3, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.4, (batch, 3 * layer.num_joints)).astype(dtype)
    return pose, rng.normal(size=(batch, layer.num_shape)).astype(dtype)


def loop_over_vertices(body, pose, shape):
    """Formula by formula in float64, one sample."""
    turns = []
    for vector in pose.reshape(-1, 3).astype(np.float64):
        angle = np.linalg.norm(vector) or 1e-12
        x, y, z = vector / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turns.append(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
    shaped = body.v_template + body.shapedirs.astype(np.float64) @ shape
    rest = body.J_regressor.astype(np.float64) @ shaped
    feature = np.ravel([turn - np.eye(3) for turn in turns[1:]])
    moved = shaped + body.posedirs.astype(np.float64) @ feature
    frames = []
    for joint, parent in enumerate(body.parents):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = rest[joint] - (rest[parent] if joint else 0)
        frames.append(frames[parent] @ local if joint else local)
    carried = []
    for frame, at in zip(frames, rest):
        back = np.eye(4)
        back[:3, 3] = -at
        carried.append(frame @ back)
    vertices = np.empty_like(moved)
    for vertex in range(len(moved)):
        mixed = sum(weight * frame for weight, frame in zip(body.weights[vertex].astype(np.float64), carried))
        vertices[vertex] = (mixed @ np.append(moved[vertex], 1))[:3]
    return vertices, np.array([frame[:3, 3] for frame in frames]), body.keypoint_regressor @ vertices


def test_forward_equals_the_original(full, original):
    result = full(original["theta"], original["beta"])
    vertices = result["vertices"].numpy()
    np.testing.assert_allclose(vertices[0], original["verts_0"], atol=1e-5)
    np.testing.assert_allclose(vertices[4], original["verts_4"], atol=1e-5)
    np.testing.assert_allclose(vertices[:, ::29], original["verts_sub"], atol=1e-5)
    np.testing.assert_allclose(result["keypoints"], original["joints"], atol=1e-5)
    np.testing.assert_allclose(result["keypoints"][:, :14], original["joints_lsp14"], atol=1e-5)
    np.testing.assert_allclose(result["rotations"], original["Rs"], atol=1e-6)
    np.testing.assert_allclose(result["joints"], original["J_transformed"], atol=1e-5)


def test_keypoints_alone_equal_the_original(full, original):
    result = full.keypoints(original["theta"], original["beta"])
    assert set(result) == {"keypoints", "rotations"}
    np.testing.assert_allclose(result["keypoints"], original["joints_noskin"], atol=1e-5)
    np.testing.assert_allclose(result["rotations"], original["Rs"], atol=1e-6)


def test_gradients_equal_the_original(full, original):
    pose, shape = tf.constant(original["theta"]), tf.constant(original["beta"])
    with tf.GradientTape() as tape:
        tape.watch([pose, shape])
        result = full(pose, shape)
        loss = tf.reduce_sum(result["vertices"] * original["grad_coef"]) + 2 * tf.reduce_sum(result["keypoints"])
    for gradient, key in zip(tape.gradient(loss, [pose, shape]), ("dtheta", "dbeta")):
        np.testing.assert_allclose(gradient, original[key], rtol=1e-3, atol=1e-6 * np.abs(original[key]).max())


def test_against_a_loop(tiny):
    pose, shape = random_inputs(tiny)
    result = tiny(pose, shape)
    for sample in range(3):
        vertices, joints, keypoints = loop_over_vertices(tiny.body, pose[sample], shape[sample])
        np.testing.assert_allclose(result["vertices"][sample], vertices, atol=1e-5)
        np.testing.assert_allclose(result["joints"][sample], joints, atol=1e-5)
        np.testing.assert_allclose(result["keypoints"][sample], keypoints, atol=1e-5)


def test_keypoints_alone_equal_those_of_the_vertices(tiny):
    pose, shape = random_inputs(tiny)
    vertices = tiny(pose, shape)["vertices"].numpy()
    keypoints = tiny.keypoints(pose, shape)["keypoints"]
    np.testing.assert_allclose(keypoints, tiny.body.keypoint_regressor @ vertices, atol=1e-5)


def test_the_sample_body_stands_at_rest():
    smpl = SMPL("sample")
    body = sample_body()
    result = smpl(np.zeros((1, 72), np.float32), np.zeros((1, 10), np.float32))
    np.testing.assert_allclose(result["vertices"][0], body.v_template, atol=1e-5)
    np.testing.assert_allclose(result["joints"][0], body.J_regressor @ body.v_template, atol=1e-5)
    np.testing.assert_allclose(result["rotations"][0], np.tile(np.eye(3), (24, 1, 1)), atol=1e-6)


def test_turning_the_root_turns_the_body_about_it(tiny):
    shape = np.zeros((2, 10), np.float32)
    pose = np.zeros((2, 72), np.float32)
    pose[1, 0] = np.pi
    rest, turned = tiny(pose, shape)["vertices"].numpy()
    root = tiny.body.J_regressor[0] @ tiny.body.v_template
    np.testing.assert_allclose(turned - root, (rest - root) * [1, -1, -1], atol=1e-5)


def test_gradient_is_finite_at_rest(tiny):
    pose, shape = tf.zeros([1, 72]), tf.zeros([1, 10])
    with tf.GradientTape() as tape:
        tape.watch([pose, shape])
        loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in tiny(pose, shape).values()])
    for gradient in tape.gradient(loss, [pose, shape]):
        assert np.isfinite(gradient).all()


def test_numerical_gradient_in_float64():
    smpl = SMPL(tiny_body(num_vertices=24, num_shape=2), dtype="float64")
    pose, shape = random_inputs(smpl, batch=1, dtype=np.float64)
    coefficients = np.random.default_rng(1).normal(size=(24, 3))

    @tf.function  # which computes the many differences many times faster
    def loss(pose, shape):
        result = smpl(pose, shape)
        return tf.reduce_sum(result["vertices"] * coefficients) + tf.reduce_sum(result["keypoints"] ** 2)

    theory, numeric = tf.test.compute_gradient(loss, [tf.constant(pose), tf.constant(shape)])
    for one, other in zip(theory, numeric):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("vertices, joints, shapes, keypoints", [(5, 1, 1, 2), (40, 5, 3, 7), (31, 24, 16, 19)])
def test_any_dimensions(vertices, joints, shapes, keypoints):
    rng = np.random.default_rng(2)
    weights = rng.random((vertices, joints)) * (rng.random((vertices, joints)) > 0.5) + 1e-3
    body = BodyModel(
        name="odd",
        licence="Apache-2.0",
        v_template=rng.normal(size=(vertices, 3)).astype(np.float32),
        shapedirs=rng.normal(size=(vertices, 3, shapes)).astype(np.float32),
        posedirs=rng.normal(0, 0.1, (vertices, 3, 9 * (joints - 1))).astype(np.float32),
        J_regressor=rng.dirichlet(np.ones(vertices), joints).astype(np.float32),
        keypoint_regressor=rng.dirichlet(np.ones(vertices), keypoints).astype(np.float32),
        weights=(weights / weights.sum(1, keepdims=True)).astype(np.float32),
        parents=np.array([-1, *(rng.integers(0, joint) for joint in range(1, joints))], np.int32),
        faces=np.array([[0, 1, 2]], np.int32),
    )
    smpl = SMPL(body)
    pose, shape = random_inputs(smpl)
    result = smpl(pose, shape)
    expected = loop_over_vertices(body, pose[1], shape[1])
    for key, value in zip(("vertices", "joints", "keypoints"), expected):
        np.testing.assert_allclose(result[key][1], value, atol=1e-4)


def test_outputs_are_chosen(tiny):
    pose, shape = random_inputs(tiny)
    everything = tiny(pose, shape)
    assert list(everything) == ["vertices", "joints", "keypoints", "rotations"]
    for key, value in everything.items():
        alone = tiny(pose, shape, outputs=(key,))
        assert list(alone) == [key]
        np.testing.assert_allclose(alone[key], value, atol=1e-6)
        assert list(tiny(pose, shape, outputs=key)) == [key]
    with pytest.raises(ValueError, match="feet"):
        tiny(pose, shape, outputs=("feet",))


def test_wrong_sizes_are_refused(tiny):
    with pytest.raises(ValueError, match=r"\[batch, 72\]"):
        tiny(np.zeros((2, 24, 3), np.float32), np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match=r"'tiny' takes \[batch, 10\]"):
        tiny(np.zeros((2, 72), np.float32), np.zeros((2, 9), np.float32))


def test_half_precision_policies_leave_it_in_float32():
    check_half_precision(lambda: SMPL(tiny_body()), [np.zeros((1, 72), np.float32), np.zeros((1, 10), np.float32)])
    with pytest.raises(ValueError, match="'float32' or 'float64'"):
        SMPL(tiny_body(), dtype="float16")


def test_as_a_keras_layer(tiny, tmp_path, monkeypatch):
    path = tmp_path / "tiny.npz"
    tiny.body.save(path)
    monkeypatch.setenv("POSEKIT_BODY", str(path))
    check_layer(tiny, list(random_inputs(tiny)), tmp_path, tolerance=1e-5)


def test_runs_compiled_with_a_dynamic_batch(tiny):
    compiled = tf.function(
        lambda pose, shape: tiny(pose, shape),
        input_signature=[tf.TensorSpec([None, 72]), tf.TensorSpec([None, 10])],
        jit_compile=True,
    )
    for batch in (1, 4):
        pose, shape = random_inputs(tiny, batch)
        np.testing.assert_allclose(compiled(pose, shape)["vertices"], tiny(pose, shape)["vertices"], atol=1e-5)


def test_the_body_is_no_weight(tiny, tmp_path):
    assert tiny.variables == []
    pose, shape = keras.Input((72,)), keras.Input((10,))
    model = keras.Model([pose, shape], tiny(pose, shape))
    model.save_weights(tmp_path / "model.weights.h5")
    other = SMPL(tiny_body(num_vertices=80, seed=5))
    twin = keras.Model([pose, shape], other(pose, shape))
    twin.load_weights(tmp_path / "model.weights.h5")
    assert twin([np.zeros((1, 72)), np.zeros((1, 10))])["vertices"].shape == (1, 80, 3)
    assert (tmp_path / "model.weights.h5").stat().st_size < 20_000


def test_an_archive_holds_the_body(tiny, tmp_path):
    pose, shape = keras.Input((72,)), keras.Input((10,))
    model = keras.Model([pose, shape], tiny(pose, shape))
    model.save(tmp_path / "model.keras")
    inputs = random_inputs(tiny)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(list(inputs))["vertices"], model(list(inputs))["vertices"], atol=1e-6)
    layer = next(layer for layer in loaded.layers if isinstance(layer, SMPL))
    np.testing.assert_array_equal(layer.body.faces, tiny.body.faces)
    assert layer.body.licence == tiny.body.licence


def test_a_configuration_alone_needs_the_body_again(tiny, monkeypatch, tmp_path):
    config = json.loads(json.dumps(tiny.get_config()))
    assert len(str(config)) < 500
    layer = SMPL.from_config(config)
    monkeypatch.delenv("POSEKIT_BODY", raising=False)
    with pytest.raises(FileNotFoundError, match="'tiny' with 60 vertices"):
        layer(*random_inputs(tiny))
    tiny.body.save(tmp_path / "tiny.npz")
    monkeypatch.setenv("POSEKIT_BODY", str(tmp_path / "tiny.npz"))
    assert layer(*random_inputs(tiny))["vertices"].shape == (3, 60, 3)


def test_another_body_in_the_archive_is_refused(tiny, tmp_path):
    SMPL(tiny_body(num_vertices=70)).save_assets(tmp_path)
    with pytest.raises(ValueError, match="num_vertices 70 instead of 60"):
        SMPL.from_config(tiny.get_config()).load_assets(tmp_path)


def test_a_dense_regressor_and_dense_weights_work():
    body = tiny_body(num_vertices=48)
    rng = np.random.default_rng(3)
    body = dataclasses.replace(body, weights=rng.dirichlet(np.ones(24), 48).astype(np.float32))
    smpl = SMPL(body)
    pose, shape = random_inputs(smpl)
    result = smpl(pose, shape)
    expected = body.keypoint_regressor @ result["vertices"].numpy()
    np.testing.assert_allclose(result["keypoints"], expected, atol=1e-5)
