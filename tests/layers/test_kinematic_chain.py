import numpy as np
import pytest
import tensorflow as tf

from posekit.layers import KinematicChainSpace
from posekit.skeletons import COCO17, LSP14, Skeleton
from posekit.testing import check_layer, load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_critic")


def test_bone_matrix_equals_the_original(original):
    np.testing.assert_array_equal(LSP14.bone_matrix(), original["C"])


def test_kcs_equals_the_original(original):
    layer = KinematicChainSpace()
    np.testing.assert_allclose(layer(original["joints"]), original["kcs"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(original["joints"][:, :14]), original["kcs"], rtol=1e-5, atol=1e-5)
    lengths = layer.bone_lengths(original["joints"], squared=True)
    np.testing.assert_allclose(lengths, original["bone_diag"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.bone_lengths(original["joints"]), np.sqrt(original["bone_diag"]), rtol=1e-5)


def test_by_hand():
    skeleton = Skeleton("elbow", ("a", "b", "c"), (("a", "b"), ("b", "c")))
    joints = np.array([[[0, 0, 2], [0, 0, 0], [3, 0, 0]]], np.float32)
    layer = KinematicChainSpace(skeleton)
    np.testing.assert_allclose(layer(joints)[0], [[4, 0], [0, 9]])
    np.testing.assert_allclose(layer.bone_lengths(joints)[0], [2, 3])


def test_place_and_rotation_do_not_matter():
    joints = np.random.default_rng(0).normal(size=(2, 14, 3)).astype(np.float32)
    turned = joints[..., [1, 2, 0]] + np.float32([3, 1, -2])
    np.testing.assert_allclose(KinematicChainSpace()(turned), KinematicChainSpace()(joints), atol=1e-5)


def test_length_of_a_bone_without_length_has_a_finite_gradient():
    joints = tf.zeros([1, 14, 3])
    with tf.GradientTape() as tape:
        tape.watch(joints)
        lengths = KinematicChainSpace().bone_lengths(joints)
    assert np.isfinite(tape.gradient(lengths, joints)).all()


def test_too_few_joints_are_refused():
    with pytest.raises(ValueError, match="at least 14"):
        KinematicChainSpace()(np.zeros((2, 13, 3), np.float32))
    with pytest.raises(ValueError, match="choose from"):
        KinematicChainSpace("LSP15")


@pytest.mark.parametrize("skeleton", [LSP14, "COCO17", COCO17], ids=["default", "name", "other"])
def test_as_a_keras_layer(skeleton, tmp_path):
    joints = np.random.default_rng(1).normal(size=(3, 17, 3)).astype(np.float32)
    check_layer(KinematicChainSpace(skeleton), [joints], tmp_path)
