"""A critic's scores of bodies together with their slopes, the gradients with respect to the bodies.

Both players need slopes: the generator follows those of its bodies, the gradient penalty limits those of the bodies
between real and fake ones. Rows do not see each other, so one call of the critic serves everything.
"""

import tensorflow as tf

from posekit.models.hmr import Critic

_LEAK = 0.2


def judge(critic, chain, bodies):
    """Scores bodies, and prepares their slopes.

    Args:
        critic: Keras model from `[kinematic chain space, joints, shapes, rotations]` to scores `[bodies, outputs]`.
        chain: `KinematicChainSpace`.
        bodies: `[joints, shapes, rotations]`, the critic's independent inputs, `[bodies, ...]` each.

    Returns:
        `(scores, slopes)`. `slopes(rows, mean=False)` takes a slice of rows and gives the gradients of their summed
        scores with respect to kinematic chain space, joints, shapes and rotations; that of the joints includes the way
        through the kinematic chain space. With `mean` they are averaged over the rows and have one row. Scores and
        slopes are differentiable with respect to the critic's weights.
    """
    if type(critic) is Critic:
        return _judge_in_closed_form(critic, chain, bodies)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(bodies)
        inputs = [chain(bodies[0]), *bodies]
        scores = critic(inputs)
        total = tf.reduce_sum(scores)
    gradients = tape.gradient(total, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def slopes(rows, mean=False):
        return [_average(gradient[rows], mean) for gradient in gradients]

    return scores, slopes


def _judge_in_closed_form(critic, chain, bodies):
    """The same for `Critic`, whose layers are linear or piecewise linear.

    Slopes cost products of the rows asked for only, and their mean is taken before the widest products, which is less
    than half of what automatic differentiation does over all rows.
    """
    joints, shapes, rotations = bodies
    bones = chain.bones(joints)
    kcs_in = _dense(critic, "kcs_dense", _flat(tf.matmul(bones, bones, transpose_b=True)))
    joints_in = _dense(critic, "joints_dense", _flat(joints))
    skeleton = tf.concat([tf.nn.leaky_relu(kcs_in, _LEAK), tf.nn.leaky_relu(joints_in, _LEAK)], axis=1)
    shapes_1 = _dense(critic, "shapes_dense_1", shapes)
    shapes_2 = _dense(critic, "shapes_dense_2", tf.nn.relu(shapes_1))
    turns_1 = _dense(critic, "rotation_dense_1", _flat(rotations))
    turns_2 = _dense(critic, "rotation_dense_2", tf.nn.leaky_relu(turns_1, _LEAK))
    scores = [
        _dense(critic, "combined_dense", skeleton),
        _dense(critic, "shapes_dense_3", tf.nn.relu(shapes_2)),
        _dense(critic, "rotation_dense_3", tf.nn.leaky_relu(turns_2, _LEAK)),
    ]

    def slopes(rows, mean=False):
        from_kcs, from_joints = tf.split(_kernel(critic, "combined_dense")[:, 0], 2)
        at_kcs = _back(critic, "kcs_dense", _slope(kcs_in[rows], _LEAK) * from_kcs)
        at_kcs = tf.reshape(at_kcs, [-1, bones.shape[1], bones.shape[1]])
        # Each entry of the chain space holds two bones, each bone two joints.
        at_bones = tf.matmul(at_kcs + tf.linalg.matrix_transpose(at_kcs), bones[rows])
        through_kcs = tf.matmul(tf.constant(chain.skeleton.bone_matrix()), _average(at_bones, mean))
        at_joints = _back(critic, "joints_dense", _average(_slope(joints_in[rows], _LEAK) * from_joints, mean))
        at_shapes = _slope(shapes_2[rows], 0.0) * _kernel(critic, "shapes_dense_3")[:, 0]
        at_shapes = _slope(shapes_1[rows], 0.0) * _back(critic, "shapes_dense_2", at_shapes)
        at_turns = _slope(turns_2[rows], _LEAK) * _kernel(critic, "rotation_dense_3")[:, 0]
        at_turns = _slope(turns_1[rows], _LEAK) * _back(critic, "rotation_dense_2", at_turns)
        return [
            _average(at_kcs, mean),
            through_kcs + tf.reshape(at_joints, tf.shape(through_kcs)),
            _back(critic, "shapes_dense_1", _average(at_shapes, mean)),
            tf.reshape(_back(critic, "rotation_dense_1", _average(at_turns, mean)), [-1, *rotations.shape[1:]]),
        ]

    return tf.concat(scores, axis=1), slopes


def _average(rows, mean):
    return tf.reduce_mean(rows, axis=0, keepdims=True) if mean else rows


def _flat(tensor):
    return tf.reshape(tensor, [-1, tensor.shape[1:].num_elements()])


def _kernel(critic, name):
    return tf.convert_to_tensor(critic.get_layer(name).kernel)


def _dense(critic, name, inputs):
    return tf.nn.bias_add(tf.matmul(inputs, _kernel(critic, name)), critic.get_layer(name).bias)


def _back(critic, name, gradients):
    return tf.matmul(gradients, _kernel(critic, name), transpose_b=True)


def _slope(inputs, leak):
    return tf.where(inputs > 0, tf.ones_like(inputs), leak)
