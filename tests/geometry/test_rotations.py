import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.transform import Rotation

from posekit.geometry import rotations
from posekit.skeletons import SMPL24
from posekit.testing import load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_lbs")


def test_axis_angle_to_matrix_equals_the_original(original):
    np.testing.assert_allclose(rotations.axis_angle_to_matrix(original["theta"]), original["R"], atol=1e-6)


def test_axis_angle_gradient_equals_the_original(original):
    theta = tf.constant(original["theta"])
    with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = tf.reduce_sum(rotations.axis_angle_to_matrix(theta) * original["grad_coef"])
    np.testing.assert_allclose(tape.gradient(loss, theta), original["dtheta"], rtol=1e-4, atol=1e-6)


def test_skew_equals_the_original(original):
    np.testing.assert_allclose(rotations.skew(original["theta"]), original["skew"], atol=1e-6)


def test_pose_feature_equals_the_original(original):
    matrices = rotations.axis_angle_to_matrix(original["pose72"].reshape(3, 24, 3))
    np.testing.assert_allclose(rotations.pose_feature(matrices), original["lrotmin"], atol=1e-6)


@pytest.mark.parametrize("rotate_base", [False, True])
def test_rigid_transform_chain_equals_the_original(original, rotate_base):
    joints, transforms = rotations.rigid_transform_chain(
        original["grt_Rs"], original["grt_Js"], original["parents"], rotate_base=rotate_base
    )
    np.testing.assert_allclose(joints, original[f"grt_newJ_rb{int(rotate_base)}"], atol=1e-5)
    np.testing.assert_allclose(transforms, original[f"grt_A_rb{int(rotate_base)}"], atol=1e-5)


def test_a_quarter_turn_about_z_turns_x_into_y():
    matrix = rotations.axis_angle_to_matrix(np.array([[0, 0, np.pi / 2]]))[0]
    np.testing.assert_allclose(matrix.numpy() @ [1, 0, 0], [0, 1, 0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", [0.0, -1e-8, 1e-20])
def test_jacobian_is_finite_at_the_singular_point(vector, dtype):
    theta = tf.fill([2, 3], tf.constant(vector, dtype))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        matrix = rotations.axis_angle_to_matrix(theta)
    np.testing.assert_allclose(matrix, np.tile(np.eye(3), (2, 1, 1)), atol=1e-7)
    jacobian = tape.jacobian(matrix, theta).numpy()
    assert np.isfinite(jacobian).all()
    if vector == 0:
        # Near the identity a rotation is its skew matrix.
        generator = rotations.skew(np.eye(3, dtype=dtype)).numpy()
        np.testing.assert_allclose(np.moveaxis(jacobian[0, :, :, 0], -1, 0), generator, atol=1e-6)


def test_numerical_gradient():
    theta = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    theory, numeric = tf.test.compute_gradient(rotations.axis_angle_to_matrix, [theta])
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-7)


def test_leading_axes_are_free():
    vectors = np.random.default_rng(1).normal(size=(2, 5, 4, 3))
    expected = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(2, 5, 4, 3, 3)
    np.testing.assert_allclose(rotations.axis_angle_to_matrix(vectors), expected, atol=1e-6)
    assert rotations.axis_angle_to_matrix(np.zeros((0, 24, 3))).shape == (0, 24, 3, 3)


def test_matrix_to_axis_angle_inverts():
    rng = np.random.default_rng(2)
    axes = rng.normal(size=(300, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    angles = np.concatenate([rng.uniform(0, np.pi, 200), np.full(50, np.pi - 1e-6), rng.uniform(0, 1e-5, 50)])
    vectors = axes * angles[:, None]
    back = rotations.matrix_to_axis_angle(Rotation.from_rotvec(vectors).as_matrix())
    np.testing.assert_allclose(back, vectors, atol=1e-7)


def test_matrix_to_axis_angle_at_half_turns_and_rest():
    vectors = np.concatenate([np.pi * np.eye(3), np.zeros((1, 3))])
    matrices = Rotation.from_rotvec(vectors).as_matrix().round(12)
    np.testing.assert_allclose(np.abs(rotations.matrix_to_axis_angle(matrices)), vectors, atol=1e-7)


def test_matrix_to_axis_angle_gradient_is_finite_and_right_at_rest():
    matrix = tf.constant(np.eye(3)[None])
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        vector = rotations.matrix_to_axis_angle(matrix)
    jacobian = tape.jacobian(vector, matrix).numpy()[0, :, 0]
    np.testing.assert_allclose(jacobian, 0.5 * rotations.skew(np.eye(3)).numpy(), atol=1e-12)


def test_chain_against_a_loop_over_joints():
    rng = np.random.default_rng(3)
    matrices = Rotation.from_rotvec(rng.normal(size=(2 * 24, 3))).as_matrix().reshape(2, 24, 3, 3)
    joints = rng.normal(size=(2, 24, 3))
    posed, transforms = rotations.rigid_transform_chain(matrices, joints, SMPL24.parents)
    for sample in range(2):
        world, place = [None] * 24, [None] * 24
        for joint, parent in enumerate(SMPL24.parents):
            if parent < 0:
                world[joint], place[joint] = matrices[sample, joint], joints[sample, joint]
                continue
            world[joint] = world[parent] @ matrices[sample, joint]
            place[joint] = world[parent] @ (joints[sample, joint] - joints[sample, parent]) + place[parent]
        np.testing.assert_allclose(posed[sample], place, atol=1e-6)
        rest = np.concatenate([joints[sample], np.ones((24, 1))], axis=1)
        carried = np.einsum("jrc,jc->jr", transforms[sample], rest)[:, :3]
        np.testing.assert_allclose(carried, place, atol=1e-6)


def test_chain_of_one_joint_and_of_an_odd_tree():
    posed, transforms = rotations.rigid_transform_chain(np.eye(3)[None, None], np.ones((1, 1, 3)), [-1])
    np.testing.assert_allclose(posed, np.ones((1, 1, 3)))
    np.testing.assert_allclose(transforms[0, 0], np.eye(4), atol=1e-12)
    parents = [-1, 0, 1, 0, 3, 1, 0]
    joints = np.arange(21.0).reshape(1, 7, 3)
    posed, _ = rotations.rigid_transform_chain(np.tile(np.eye(3), (1, 7, 1, 1)), joints, parents)
    np.testing.assert_allclose(posed, joints, atol=1e-12)


@pytest.mark.parametrize("parents", [[0, 0], [-1, 2, 0], [-1, -1], []])
def test_wrong_parents_are_refused(parents):
    with pytest.raises(ValueError, match="tree rooted at joint 0"):
        rotations.rigid_transform_chain(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3)), parents)


def test_runs_compiled_with_a_dynamic_batch():
    @tf.function(input_signature=[tf.TensorSpec([None, 24, 3]), tf.TensorSpec([None, 24, 3])], jit_compile=True)
    def chain(pose, joints):
        return rotations.rigid_transform_chain(rotations.axis_angle_to_matrix(pose), joints, SMPL24.parents)

    for batch in (1, 3):
        assert chain(tf.ones([batch, 24, 3]), tf.ones([batch, 24, 3]))[1].shape == (batch, 24, 4, 4)


def test_symbolic_tensors_pass():
    pose = keras.Input((24, 3))
    assert rotations.axis_angle_to_matrix(pose).shape == (None, 24, 3, 3)
