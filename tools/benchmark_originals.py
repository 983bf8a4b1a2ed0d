"""The originals' formulations, written anew in today's libraries, for `tools/benchmark.py` to compare with.

Each function computes what posekit computes, in the way the original computes it: skinning weights tiled over the
batch, one joint after the other along the kinematic chain, a mesh for every stage and every real body, kinematic chain
space between all samples, one call of the critic a group of samples, one backward pass a critic input, and whole
pixels x vertices matrices; for lifted poses, dense kernels clipped and masked in every call, one pose scored after the
other, and indices popped from a queue; for depth crops, voxels and every joint's volume one frame after the other in
NumPy, and the network in PyTorch where that is installed; for people in photographs, labels one cell after the other,
and maps as large as the picture that are smoothed and searched as a whole. They are compared for speed and memory only;
posekit itself never uses them.
"""

import collections
import itertools
import math

import numpy as np
import scipy.ndimage
import tensorflow as tf

from posekit.skeletons import COCO_PLUS19


class TiledSMPL:
    """SMPL with 4 x 4 transforms for every vertex, made from weights tiled over the batch.

    Args:
        body: `BodyModel`.

    Follows: maxpit/human-pose-estimation:src/tf_smpl/batch_smpl.py.
    """

    def __init__(self, body):
        self.parents = [int(parent) for parent in body.parents]
        self.template = tf.constant(body.v_template)
        self.shapes = tf.constant(body.shapedirs.reshape(-1, body.num_shape).T)
        self.poses = tf.constant(body.posedirs.reshape(3 * body.num_vertices, -1).T)
        self.joint_regressor = tf.constant(body.J_regressor.T)
        self.keypoint_regressor = tf.constant(body.keypoint_regressor.T)
        self.weights = tf.constant(body.weights)

    def __call__(self, pose, shape):
        """Vertices, keypoints and rotations.

        Args:
            pose: `[batch, 3 * joints]`.
            shape: `[batch, num_shape]`.

        Returns:
            `(vertices, keypoints, rotations)`.
        """
        batch, joints = tf.shape(pose)[0], len(self.parents)
        shaped = tf.reshape(tf.matmul(shape, self.shapes), [batch, -1, 3]) + self.template
        rest = _regress(shaped, self.joint_regressor)
        rotations = tf.reshape(_rodrigues(tf.reshape(pose, [-1, 3])), [batch, joints, 3, 3])
        feature = tf.reshape(rotations[:, 1:] - tf.eye(3), [batch, 9 * (joints - 1)])
        posed = tf.reshape(tf.matmul(feature, self.poses), [batch, -1, 3]) + shaped
        transforms = self._chain(rotations, rest)
        tiled = tf.reshape(tf.tile(self.weights, [batch, 1]), [batch, -1, joints])
        each = tf.reshape(tf.matmul(tiled, tf.reshape(transforms, [batch, joints, 16])), [batch, -1, 4, 4])
        homogeneous = tf.concat([posed, tf.ones_like(posed[..., :1])], axis=2)
        vertices = tf.matmul(each, homogeneous[..., tf.newaxis])[:, :, :3, 0]
        return vertices, _regress(vertices, self.keypoint_regressor), rotations

    def _chain(self, rotations, rest):
        batch = tf.shape(rest)[0]

        def transform(rotation, translation):
            upper = tf.pad(rotation, [[0, 0], [0, 1], [0, 0]])
            column = tf.concat([translation, tf.ones([batch, 1, 1])], axis=1)
            return tf.concat([upper, column], axis=2)

        rest = rest[..., tf.newaxis]
        results = [transform(rotations[:, 0], rest[:, 0])]
        for joint, parent in list(enumerate(self.parents))[1:]:
            local = transform(rotations[:, joint], rest[:, joint] - rest[:, parent])
            results.append(tf.matmul(results[parent], local))
        results = tf.stack(results, axis=1)
        homogeneous = tf.concat([rest, tf.zeros_like(rest[:, :, :1])], axis=2)
        start = tf.pad(tf.matmul(results, homogeneous), [[0, 0], [0, 0], [0, 0], [3, 0]])
        return results - start


def _regress(points, regressor):
    return tf.stack([tf.matmul(points[:, :, axis], regressor) for axis in range(3)], axis=2)


def _rodrigues(axis_angle):
    angle = tf.norm(axis_angle + 1e-8, axis=1, keepdims=True)
    axis = (axis_angle / angle)[..., tf.newaxis]
    angle = angle[..., tf.newaxis]
    x, y, z = tf.unstack(axis[..., 0], axis=1)
    zero = tf.zeros_like(x)
    cross = tf.reshape(tf.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1), [-1, 3, 3])
    outer = tf.matmul(axis, axis, transpose_b=True)
    return tf.cos(angle) * tf.eye(3) + (1 - tf.cos(angle)) * outer + tf.sin(angle) * cross


def kinematic_chain_space(joints, bone_matrix):
    """Kinematic chain space as the diagonal of the products between all samples.

    Args:
        joints: `[batch, at least 14, 3]`.
        bone_matrix: `[14, bones]`.

    Returns:
        `[batch, bones, bones]`.
    """
    bones = tf.einsum("njd,jb->ndb", joints[:, : bone_matrix.shape[0]], bone_matrix)
    between_all = tf.tensordot(tf.transpose(bones, [0, 2, 1]), bones, axes=[[2], [1]])
    diagonal = tf.linalg.diag_part(tf.transpose(between_all, [1, 3, 0, 2]))
    return tf.transpose(diagonal, [2, 0, 1])


def critic_gradients(critic, bone_matrix, real, fake, coefficients):
    """Loss of the critic with its gradient penalty, and the gradients of its weights.

    Args:
        critic: Posekit's `Critic`: the layers are the same.
        bone_matrix: `[14, bones]`.
        real: `[joints, shapes, rotations]` of real samples.
        fake: The same of fake samples.
        coefficients: Interpolation coefficients of the three.

    Returns:
        `(loss, gradients, fake scores)`.
    """
    with tf.GradientTape(persistent=True) as tape:
        real_scores = critic([kinematic_chain_space(real[0], bone_matrix), *real])
        fake_scores = critic([kinematic_chain_space(fake[0], bone_matrix), *fake])
        mixed = [c * a + (1 - c) * b for c, a, b in zip(coefficients, real, fake)]
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(mixed)
            chain = kinematic_chain_space(mixed[0], bone_matrix)
            inner.watch(chain)
            scores = critic([chain, *mixed])
        penalty = 0.0
        for source in (chain, *mixed):
            gradient = tf.reduce_mean(inner.gradient(scores, source), axis=0)
            penalty += tf.square(1 - tf.sqrt(tf.reduce_sum(tf.square(gradient))))
        loss = tf.reduce_sum(tf.reduce_mean(fake_scores - real_scores, axis=0)) + 10 * penalty
    return loss, tape.gradient(loss, critic.trainable_variables), fake_scores


def mesh_reprojection_loss(silhouettes, vertices_px):
    """The silhouette loss with whole distance matrices, one image after the other.

    Args:
        silhouettes: `[batch, height, width, 1]`, static batch.
        vertices_px: `[batch, vertices, 2]`.

    Returns:
        Scalar.
    """
    total = 0.0
    for silhouette, vertices in zip(tf.unstack(silhouettes), tf.unstack(vertices_px)):
        pixels = tf.reverse(tf.cast(tf.where(silhouette[..., 0] > 0), tf.float32), axis=[1])
        squares = tf.reduce_sum(pixels**2, axis=1)[:, tf.newaxis] + tf.reduce_sum(vertices**2, axis=1)[tf.newaxis]
        distances = squares - 2 * tf.matmul(pixels, vertices, transpose_b=True)
        to_vertex = tf.gather(vertices, tf.argmin(distances, axis=1))
        to_pixel = tf.gather(pixels, tf.argmin(distances, axis=0))
        total += tf.reduce_sum(tf.abs(pixels - to_vertex)) + tf.reduce_sum(tf.norm(vertices - to_pixel, axis=1))
    return total / (3 + vertices_px.shape[1])


class FusedAdam:
    """Adam as TensorFlow 1 and the Keras of 2.0 ran it: one kernel a variable.

    Args:
        variables: Variables to update, of TensorFlow or Keras.
        learning_rate: Step size, or a function that gives it for a step.
        epsilon: What is added to the root of the squared gradients' mean.
    """

    def __init__(self, variables, learning_rate, epsilon=1e-7):
        self.variables, self.learning_rate, self.epsilon = variables, learning_rate, epsilon
        self.moments = [[tf.Variable(tf.zeros(v.shape)) for v in variables] for _ in range(2)]
        self.step = tf.Variable(0.0)

    def apply(self, gradients):
        """Updates the variables.

        Args:
            gradients: One for each variable.
        """
        step = self.step.assign_add(1.0)
        powers = {"beta1_power": 0.9**step, "beta2_power": 0.999**step}
        rate = self.learning_rate(step - 1) if callable(self.learning_rate) else self.learning_rate
        for variable, mean, square, gradient in zip(self.variables, *self.moments, gradients):
            handle = variable.handle if isinstance(variable, tf.Variable) else variable.value.handle
            tf.raw_ops.ResourceApplyAdam(
                var=handle, m=mean.handle, v=square.handle, grad=gradient, lr=rate,
                beta1=0.9, beta2=0.999, epsilon=self.epsilon, **powers,
            )  # fmt: skip


class TwoPlayerStep:
    """The training step without encoder and silhouette loss: three stages, a mesh in each, and the critic.

    Args:
        hmr: Posekit's `HMR`: the regressor's layers are the same.
        critic: Posekit's `Critic`.
        bone_matrix: `[14, bones]`.
    """

    def __init__(self, hmr, critic, bone_matrix):
        self.smpl = TiledSMPL(hmr.body)
        self.regressor, self.mean, self.num_stages = hmr.regressor, hmr.mean_theta, hmr.num_stages
        self.critic, self.bone_matrix = critic, bone_matrix
        self.generator_variables = [self.mean, *hmr.regressor.trainable_variables]
        self.generator_adam = FusedAdam(self.generator_variables, 1e-4)
        self.critic_adam = FusedAdam(critic.trainable_variables, 5e-4)

    def __call__(self, features, keypoints, pose, shape):
        """One step.

        Args:
            features: `[batch, features]` of the encoder.
            keypoints: `[batch, 19, 3]`.
            pose: `[batch * stages, 72]` of real bodies.
            shape: `[batch * stages, 10]`.

        Returns:
            Losses of generator and critic.
        """
        batch = features.shape[0]
        _, real_keypoints, real_rotations = self.smpl(pose, shape)
        real = [real_keypoints[:, :14], shape, real_rotations[:, 1:]]
        with tf.GradientTape() as tape:
            theta = tf.tile(self.mean[tf.newaxis], [batch, 1])
            stages, losses = [], []
            for stage in range(self.num_stages):
                theta += self.regressor(tf.concat([features, theta], axis=1), training=stage == self.num_stages - 1)
                camera = theta[:, tf.newaxis, :3]
                _, joints, rotations = self.smpl(theta[:, 3:75], theta[:, 75:])
                projected = camera[..., :1] * (joints[..., :2] + camera[..., 1:])
                visible = keypoints[..., 2:] * tf.ones_like(projected)
                wrong = tf.reduce_sum(visible * tf.abs(keypoints[..., :2] - projected))
                loss = 60 * wrong / tf.cast(tf.math.count_nonzero(visible), tf.float32)
                fake = [joints[:, :14], theta[:, 75:], rotations[:, 1:]]
                scores = self.critic([kinematic_chain_space(fake[0], self.bone_matrix), *fake])
                losses.append(loss - 0.01 * tf.reduce_sum(tf.reduce_mean(scores, axis=0)))
                stages.append(fake)
            generator_loss = losses[-1]
        gradients = tape.gradient(generator_loss, self.generator_variables)
        fake = [tf.stop_gradient(tf.concat(parts, axis=0)) for parts in zip(*stages)]
        coefficients = [tf.random.uniform(tf.shape(part)) for part in real]
        critic_loss, critic_gradients_, _ = critic_gradients(self.critic, self.bone_matrix, real, fake, coefficients)
        self.generator_adam.apply(gradients)
        self.critic_adam.apply(critic_gradients_)
        return generator_loss, critic_loss


def image_batches(path, batch_size, image_size=224, trans_max=20, scale_min=0.8, scale_max=1.23):
    """Batches of augmented pictures: whole pictures decoded, resized and surrounded by copies of their edge.

    Args:
        path: TFRecord file.
        batch_size: Pictures in a batch.
        image_size: Edge of the crops in pixels.
        trans_max: Largest jitter of the centre in pixels.
        scale_min: Smallest scale.
        scale_max: Largest scale.

    Returns:
        Endless `tf.data.Dataset` of `(images, silhouettes, keypoints)`.

    Follows: maxpit/human-pose-estimation:src/data_loader.py and src/util/data_utils.py.
    """
    margin = image_size // 2
    border = margin + trans_max + 50
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/seg_gt": tf.io.FixedLenFeature([], tf.string),
        "image/center": tf.io.FixedLenFeature([2, 1], tf.int64),
        "image/x": tf.io.FixedLenFeature([1, 14], tf.float32),
        "image/y": tf.io.FixedLenFeature([1, 14], tf.float32),
        "image/visibility": tf.io.FixedLenFeature([1, 14], tf.int64),
        "image/face_pts": tf.io.FixedLenFeature([1, 15], tf.float32, default_value=[[0.0] * 15]),
    }

    def with_border(picture):
        top, bottom = tf.tile(picture[:1], [border, 1, 1]), tf.tile(picture[-1:], [border, 1, 1])
        picture = tf.concat([top, picture, bottom], axis=0)
        left, right = tf.tile(picture[:, :1], [1, border, 1]), tf.tile(picture[:, -1:], [1, border, 1])
        return tf.concat([left, picture, right], axis=1)

    def element(serialized):
        record = tf.io.parse_single_example(serialized, features)
        image = tf.image.convert_image_dtype(tf.image.decode_jpeg(record["image/encoded"], channels=3), tf.float32)
        silhouette = tf.image.convert_image_dtype(tf.image.decode_jpeg(record["image/seg_gt"], channels=1), tf.float32)
        visibility = tf.cast(record["image/visibility"], tf.float32)
        body = tf.concat([record["image/x"], record["image/y"], visibility], axis=0)
        face = tf.transpose(tf.reshape(record["image/face_pts"], [5, 3]))
        keypoints = tf.concat([body, face], axis=1)
        center = tf.cast(tf.reshape(record["image/center"], [2]), tf.int32)
        center += tf.random.uniform([2], -trans_max, trans_max, tf.int32)

        scale = tf.random.uniform([], scale_min, scale_max)
        size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
        image, silhouette = tf.image.resize(image, size), tf.image.resize(silhouette, size)
        center = tf.cast(tf.cast(center, tf.float32) * scale, tf.int32) + border
        image, silhouette = with_border(image), with_border(silhouette)

        start = center - margin
        image, silhouette = (
            picture[start[1] : start[1] + image_size, start[0] : start[0] + image_size]
            for picture in (image, silhouette)
        )
        shift = tf.cast(border - start, tf.float32)
        x, y, visible = keypoints[0] * scale + shift[0], keypoints[1] * scale + shift[1], keypoints[2]

        def flipped():
            sides = [tf.gather(row, COCO_PLUS19.flip_permutation) for row in (image_size - x - 1, y, visible)]
            return tf.reverse(image, [1]), tf.reverse(silhouette, [1]), *sides

        image, silhouette, x, y, visible = tf.cond(
            tf.random.uniform([]) < 0.5, flipped, lambda: (image, silhouette, x, y, visible)
        )
        keypoints = tf.stack([2 * x / image_size - 1, 2 * y / image_size - 1, visible], axis=1) * visible[:, tf.newaxis]
        image = tf.ensure_shape((image - 0.5) * 2, [image_size, image_size, 3])
        return image, tf.ensure_shape(silhouette, [image_size, image_size, 1]), keypoints

    records = tf.data.TFRecordDataset(path).shuffle(10000).repeat()
    return records.map(element, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


class DenseLifter:
    """The locally connected network as dense layers whose kernels are clipped and masked in every call.

    Args:
        neighbours: `[joints, joints]`, which joints are whose neighbours.
        channels: Features of a joint.
        num_blocks: Blocks of two layers.
        in_features: Numbers of an input joint.
        dropout: Rate of dropout in training.

    Follows: CHUNYUWANG/lcn-pose:network/models_att.py.
    """

    def __init__(self, neighbours, channels=64, num_blocks=3, in_features=2, dropout=0.25):
        self.mask = tf.constant(neighbours.T, tf.float32)
        self.joints, self.channels, self.dropout = len(neighbours), channels, dropout
        widths = [in_features, *[channels] * (2 * num_blocks + 1), 3]
        sizes = [self.joints * width for width in widths]

        def draw(*shape):
            return tf.Variable(tf.random.truncated_normal(shape) * np.sqrt(2 / shape[0]))

        self.kernels = [draw(rows, columns) for rows, columns in zip(sizes, sizes[1:])]
        self.biases = [draw(columns) for columns in sizes[1:]]
        hidden = range(2 * num_blocks + 1)
        self.gammas, self.betas = ([tf.Variable(fill([channels])) for _ in hidden] for fill in (tf.ones, tf.zeros))
        self.means, self.variances = ([tf.Variable(fill([channels])) for _ in hidden] for fill in (tf.zeros, tf.ones))
        self.variables = self.kernels + self.biases + self.gammas + self.betas
        self.adam = FusedAdam(self.variables, lambda step: 1e-3 * 0.96 ** (step / 32000), epsilon=1e-8)
        self.loss_average = tf.Variable(0.0)

    def __call__(self, joints, training):
        """Lifts joints.

        Args:
            joints: `[batch, joints * in_features]`.
            training: Whether batch normalisation and dropout are in training mode.

        Returns:
            `[batch, joints * 3]`.
        """
        features = self._hidden(joints, 0, training)
        for number in range(1, len(self.kernels) - 1, 2):
            features += self._hidden(self._hidden(features, number, training), number + 1, training)
        offset = tf.reshape(self._linear(features, -1), [-1, self.joints, 3])
        start = tf.reshape(joints, [-1, self.joints, joints.shape[1] // self.joints])
        pose = tf.concat([start[..., :2] + offset[..., :2], offset[..., 2:]], axis=2)
        return tf.reshape(pose, [-1, self.joints * 3])

    def train_step(self, joints, labels):
        """One step.

        Args:
            joints: `[batch, joints * in_features]`.
            labels: `[batch, joints * 3]`.

        Returns:
            The running mean of the loss.
        """
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(joints, training=True) - labels))
        self.adam.apply(tape.gradient(loss, self.variables))
        return self.loss_average.assign_sub(0.1 * (self.loss_average - loss))

    def _linear(self, features, number):
        kernel = tf.clip_by_norm(self.kernels[number], 1)
        blocks = [self.joints, kernel.shape[0] // self.joints, self.joints, kernel.shape[1] // self.joints]
        mask = tf.reshape(self.mask, [self.joints, 1, self.joints, 1])
        return tf.matmul(features, tf.reshape(tf.reshape(kernel, blocks) * mask, kernel.shape)) + self.biases[number]

    def _hidden(self, features, number, training):
        features = tf.reshape(self._linear(features, number), [-1, self.joints, self.channels])
        mean, variance = self.means[number], self.variances[number]
        if training:
            mean, variance = tf.nn.moments(features, [0, 1])
            for running, value in ((self.means[number], mean), (self.variances[number], variance)):
                running.assign_sub(0.01 * (running - value))
        features = tf.nn.batch_normalization(features, mean, variance, self.betas[number], self.gammas[number], 1e-3)
        features = tf.nn.leaky_relu(tf.reshape(features, [-1, self.joints * self.channels]))
        return tf.nn.dropout(features, self.dropout) if training else features


def score_poses(image, truth, boxes, depths, actions, intrinsics):
    """Errors by action under both protocols, one pose after the other.

    Args:
        image: `[poses, joints, 3]` predictions in the picture's frame.
        truth: `[poses, joints, 3]` in the camera's frame.
        boxes: `[poses, 4]`.
        depths: `[poses]`.
        actions: `[poses]`, 2 to 16.
        intrinsics: `(fx, fy, cx, cy)`.

    Returns:
        Mean errors of actions 2 to 16 and of all, for protocols 1 and 2: two lists of 16.

    Follows: CHUNYUWANG/lcn-pose:evaluate.py and tools/tools.py.
    """
    fx, fy, cx, cy = intrinsics
    tables = []
    for aligned in (False, True):
        errors = []
        for pose, target, box, depth in zip(image, truth, boxes, depths):
            z = pose[:, 2] / ((box[2] - box[0] + 1) / 2000.0) + depth
            pose = np.stack([(pose[:, 0] - cx) / fx * z, (pose[:, 1] - cy) / fy * z, z], axis=1)
            if aligned:
                pose = _aligned(pose, target)
            errors.append(np.sqrt(np.square(pose - target).sum(axis=1)))
        errors = np.array(errors)
        table = [np.mean(errors[actions == action]) for action in range(2, 17)]
        tables.append([*table, np.mean(table)])
    return tables


def _aligned(pose, target):
    center = target.mean(axis=0)
    pose, target = pose - pose.mean(axis=0), target - center
    size = np.sqrt(np.square(target).sum())
    pose, target = pose / np.sqrt(np.square(pose).sum()), target / size
    u, s, v = np.linalg.svd(target.T @ pose)
    return size * s.sum() * pose @ (v.T @ u.T) + center


def pose_batches(inputs, labels, batch_size):
    """Batches of poses whose numbers are popped one by one from a shuffled queue.

    Args:
        inputs: `[poses, ...]`.
        labels: `[poses, ...]`.
        batch_size: Poses in a batch.

    Yields:
        `(inputs, labels)` of a batch.

    Follows: CHUNYUWANG/lcn-pose:network/models_att.py:fit.
    """
    queue = collections.deque()
    while True:
        if len(queue) < batch_size:
            queue.extend(np.random.permutation(len(inputs)))
        rows = [queue.popleft() for _ in range(batch_size)]
        yield inputs[rows], labels[rows]


def voxels_and_heatmaps(
    depth, box, intrinsics, joints, refpoint, augmentation, cubic_size=200.0, original=96, cropped=88, pool=2, sigma=1.7
):
    """One frame's voxels, and a Gaussian computed at every voxel of every joint's volume.

    Args:
        depth: `[height, width]` crop, in the world's unit.
        box: Left, top, right, bottom of the crop.
        intrinsics: fx, fy (negative where the world's y points up), cx, cy.
        joints: `[joints, 3]` in the world.
        refpoint: `[3]`.
        augmentation: Size in percent, angle in radians, and `[3]` translation in voxels.
        cubic_size: Edge of the cube in the world.
        original: Voxels along the edge of the cube before it is cropped.
        cropped: Voxels along the edge of the network's cube.
        pool: Voxels of the cube per voxel of the heatmaps.
        sigma: Of the Gaussians, in voxels of the heatmaps.

    Returns:
        `(voxels, heatmaps)`: `[1, x, y, z]` and `[joints, x, y, z]`, float64.

    Follows: dragonbook/V2V-PoseNet-pytorch:datasets/msra_hand.py, src/v2v_util.py.
    """
    fx, fy, cx, cy = intrinsics
    new_size, angle, translation = augmentation
    columns, rows = np.meshgrid(np.arange(box[0], box[2]) + 1.0, np.arange(box[1], box[3]) + 1.0)
    points = np.stack([(columns - cx) * depth / fx, (rows - cy) * depth / fy, depth], axis=-1)[depth > 0]

    def place(world):
        coords = ((world - refpoint) / (cubic_size / 2) + 1) * (cropped / 2) + (original - cropped) / 2
        coords = (coords - original / 2) * (new_size / 100)
        x, y = coords[:, 0].copy(), coords[:, 1].copy()
        coords[:, 0] = x * np.cos(angle) - y * np.sin(angle)
        coords[:, 1] = x * np.sin(angle) + y * np.cos(angle)
        return coords + original / 2 - translation

    coords = place(points).astype(np.int64)
    coords = coords[((coords >= 0) & (coords < cropped)).all(axis=1)]
    voxels = np.zeros((cropped, cropped, cropped))
    voxels[coords[:, 0], coords[:, 1], coords[:, 2]] = 1
    centers = place(joints) / pool
    size = cropped // pool
    grids = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    heatmaps = np.zeros((len(joints), size, size, size))
    for number, center in enumerate(centers):
        halves = [np.power((grid + 0.5 - at) / sigma, 2) / 2 for grid, at in zip(grids, center)]
        heatmaps[number] = np.exp(-(halves[0] + halves[1] + halves[2]))
    return voxels[np.newaxis], heatmaps


def torch_voxel_network(num_joints=21, width=16):
    """The network in PyTorch; what it computes is `V2VPoseNet`'s heatmap head.

    Args:
        num_joints: Joints.
        width: Channels of the first layer.

    Returns:
        `torch.nn.Module` from `[batch, 1, x, y, z]` to `[batch, joints, x / 2, y / 2, z / 2]`.

    Raises:
        ImportError: If PyTorch is not installed.

    Follows: dragonbook/V2V-PoseNet-pytorch:src/v2v_model.py.
    """
    from torch import nn

    def convolution(start, end, size):
        return [nn.Conv3d(start, end, size, padding=size // 2), nn.BatchNorm3d(end)]

    def basic(start, end, size):
        return nn.Sequential(*convolution(start, end, size), nn.ReLU())

    def upsample(start, end):
        return nn.Sequential(nn.ConvTranspose3d(start, end, 2, stride=2), nn.BatchNorm3d(end), nn.ReLU())

    class Sum(nn.Module):
        """Adds what two branches make of the same features."""

        def __init__(self, first, second, last):
            super().__init__()
            self.first, self.second, self.last = first, second, last

        def forward(self, features):
            return self.last(self.first(features) + self.second(features))

    def residual(start, end):
        branch = nn.Sequential(*convolution(start, end, 3), nn.ReLU(), *convolution(end, end, 3))
        skip = nn.Identity() if start == end else nn.Sequential(*convolution(start, end, 1))
        return Sum(branch, skip, nn.ReLU())

    double, fourfold, eightfold = 2 * width, 4 * width, 8 * width
    inner = nn.Sequential(
        nn.MaxPool3d(2), residual(fourfold, eightfold), residual(eightfold, eightfold), residual(eightfold, eightfold),
        upsample(eightfold, fourfold),
    )  # fmt: skip
    outer = nn.Sequential(
        nn.MaxPool3d(2), residual(double, fourfold), Sum(inner, residual(fourfold, fourfold), nn.Identity()),
        residual(fourfold, fourfold), upsample(fourfold, double),
    )  # fmt: skip
    return nn.Sequential(
        basic(1, width, 7), nn.MaxPool3d(2), residual(width, double), residual(double, double),
        residual(double, double), Sum(outer, residual(double, double), nn.Identity()), residual(double, double),
        basic(double, double, 1), basic(double, double, 1), nn.Conv3d(double, num_joints, 1),
    )  # fmt: skip


def people_maps(people, size, limbs, stride=8, sigma=7.0, thickness=1.0):
    """Heatmaps and part affinity fields, one cell after the other.

    Args:
        people: For each person a list of joints, `(x, y)` in pixels or None.
        size: Cells of the maps, `(height, width)`.
        limbs: Pairs of numbers of joints.
        stride: Pixels per cell.
        sigma: Of the Gaussians, in pixels.
        thickness: Half the width of limbs, in cells.

    Returns:
        `(heatmaps, pafs)`: `[height, width, joints + 1]` and `[height, width, 2 limbs]`, float64.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:training/label_maps.py.
    """
    height, width = size
    heatmaps = np.zeros((height, width, len(people[0]) + 1))
    pafs, counts = np.zeros((height, width, 2 * len(limbs))), np.zeros((height, width, len(limbs)), np.uint8)
    for person in people:
        for channel, joint in enumerate(person):
            if joint is None:
                continue
            for row, column in itertools.product(range(height), range(width)):
                dx = (stride - 1) / 2 + stride * column - joint[0]
                dy = (stride - 1) / 2 + stride * row - joint[1]
                exponent = (dx * dx + dy * dy) / 2 / sigma / sigma
                if exponent > 4.6052:
                    continue
                heatmaps[row, column, channel] += math.exp(-exponent)
                if heatmaps[row, column, channel] > 1:
                    heatmaps[row, column, channel] = 1
    heatmaps[:, :, -1] = np.clip(1 - heatmaps.max(axis=2), 0, 1)
    for person in people:
        for channel, (first, second) in enumerate(limbs):
            if person[first] is None or person[second] is None:
                continue
            start, end = ([value / stride for value in person[joint]] for joint in (first, second))
            along = [b - a for a, b in zip(start, end)]
            length = math.hypot(*along)
            if length < 1e-8:
                continue
            ux, uy = (part / length for part in along)
            low = [max(0, round(min(pair) - thickness)) for pair in zip(start, end)]
            high = [min(side, round(max(pair) + thickness)) for side, pair in zip((width, height), zip(start, end))]
            for row, column in itertools.product(range(low[1], high[1]), range(low[0], high[0])):
                if abs((column - start[0]) * uy - (row - start[1]) * ux) > thickness:
                    continue
                seen = counts[row, column, channel]
                for axis, part in enumerate((ux, uy)):
                    before = pafs[row, column, 2 * channel + axis]
                    pafs[row, column, 2 * channel + axis] = (before * seen + part) / (seen + 1)
                counts[row, column, channel] += 1
    return heatmaps, pafs


def decode_people(heatmaps, pafs, limbs, grouping, opens, peak_threshold=0.1, field_threshold=0.05):
    """People in maps as large as the picture, each of them smoothed as a whole, pair of joints after pair.

    Args:
        heatmaps: `[height, width, joints + 1]`.
        pafs: `[height, width, 2 limbs]`.
        limbs: Pairs of numbers of joints.
        grouping: Numbers of limbs in the order in which people are put together.
        opens: Whether each of these may begin a person.
        peak_threshold: Smallest smoothed peak.
        field_threshold: Smallest product of field and direction.

    Returns:
        `(peaks, people)`: `[peaks, 4]` x, y, score and number, and `[people, joints + 2]`: numbers of the peaks, -1
        where there is none, the sum of scores, and the number of joints.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts).
    """
    joints = heatmaps.shape[-1] - 1
    peaks, number = [], 0
    for joint in range(joints):
        smooth = scipy.ndimage.gaussian_filter(heatmaps[:, :, joint], sigma=3)
        highest = smooth > peak_threshold
        for axis in (0, 1):
            for step in (1, -1):
                beside = np.zeros_like(smooth)
                there, here = [slice(None)] * 2, [slice(None)] * 2
                there[axis], here[axis] = (slice(None, -1), slice(1, None))[::step]
                beside[tuple(there)] = smooth[tuple(here)]
                highest &= smooth >= beside
        found = [(x, y, heatmaps[y, x, joint]) for y, x in zip(*np.nonzero(highest))]
        peaks.append([(*peak, number + place) for place, peak in enumerate(found)])
        number += len(found)
    everything = np.array([peak for some in peaks for peak in some]).reshape(-1, 4)
    people = []
    for limb, may_open in zip(grouping, opens):
        first, second = limbs[limb]
        for a, b, score in _limb_connections(peaks[first], peaks[second], pafs[..., 2 * limb : 2 * limb + 2],
                                             field_threshold):  # fmt: skip
            owners = [person for person in people if person[first] == a or person[second] == b]
            if len(owners) == 1:
                if owners[0][second] != b:
                    owners[0][second] = b
                    owners[0][-1] += 1
                    owners[0][-2] += everything[b, 2] + score
            elif len(owners) >= 2:
                one, other = owners[:2]
                if ((one[:-2] >= 0) & (other[:-2] >= 0)).any():
                    one[second] = b
                    one[-1] += 1
                    one[-2] += everything[b, 2] + score
                else:
                    one[:-2] += other[:-2] + 1
                    one[-2:] += other[-2:]
                    one[-2] += score
                    people = [person for person in people if person is not other]
            elif may_open:
                person = np.full(joints + 2, -1.0)
                person[[first, second]] = a, b
                person[-2:] = everything[[a, b], 2].sum() + score, 2
                people.append(person)
    whole = [person for person in people if person[-1] >= 4 and person[-2] / person[-1] >= 0.4]
    return everything, np.array(whole).reshape(-1, joints + 2)


def _limb_connections(starts, ends, field, threshold, points=10):
    """The best pairs `(number, number, score)`, each joint in one of them at most."""
    pairs = []
    for i, j in itertools.product(range(len(starts)), range(len(ends))):
        along = np.subtract(ends[j][:2], starts[i][:2])
        length = math.hypot(*along)
        if length == 0:
            continue
        places = zip(*(np.linspace(starts[i][axis], ends[j][axis], points) for axis in (0, 1)))
        seen = np.array([field[int(round(y)), int(round(x))] for x, y in places])
        products = seen @ (along / length)
        score = products.mean() + min(0.5 * field.shape[0] / length - 1, 0)
        if np.count_nonzero(products > threshold) > 0.8 * points and score > 0:
            pairs.append((i, j, score))
    chosen, taken = [], (set(), set())
    for i, j, score in sorted(pairs, key=lambda pair: pair[2], reverse=True):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            chosen.append((starts[i][3], ends[j][3], score))
            if len(chosen) >= min(len(starts), len(ends)):
                break
    return chosen
