"""Silhouette losses: how well a projected mesh covers the person in the picture."""

import tensorflow as tf

from posekit.ops.mesh_reprojection import mesh_reprojection

NORMALIZATIONS = ("original", "points")


def mesh_reprojection_loss(silhouettes, vertices_px, normalization="original", weights=None):
    """Distances between silhouette pixels and their nearest vertices, and back; see `posekit.ops.mesh_reprojection`.

    Args:
        silhouettes: `[batch, height, width, 1]`; pixels above 0 belong to the person. An image without any gives 0.
        vertices_px: `[batch, vertices, 2]` projected vertices (x, y) in pixels.
        normalization: `"original"`: the sum over the batch, divided by `3 + vertices`. `"points"`: each image's sum
            divided by its number of silhouette pixels plus vertices, then the mean over the images that count.
        weights: `[batch]` weight of each image, 0 for images that have no silhouette; images of weight 0 cost no
            time. All 1 by default.

    Returns:
        Scalar; 0 where no image counts.

    Raises:
        ValueError: If `normalization` is unknown or a shape does not fit.

    Follows: maxpit/human-pose-estimation:mesh_reprojection_loss.
    Differs: the number of vertices comes from the input; images without a silhouette are allowed.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization is {normalization!r}; choose from {list(NORMALIZATIONS)}.")
    silhouettes, vertices_px = tf.convert_to_tensor(silhouettes), tf.convert_to_tensor(vertices_px)
    batch = tf.shape(vertices_px)[0]
    if weights is None:
        weights = tf.ones([batch], vertices_px.dtype)
    weights = tf.ensure_shape(tf.cast(weights, vertices_px.dtype), vertices_px.shape[:1])
    counts = tf.not_equal(weights, 0)
    by_image = [batch] + [1] * (silhouettes.shape.rank - 1)
    silhouettes = tf.logical_and(silhouettes > 0, tf.reshape(counts, by_image))
    to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices_px)
    if normalization == "original":
        return tf.reduce_sum(weights * (to_mesh + to_pixels)) / (3 + vertices_px.shape[1])
    pixels = tf.math.count_nonzero(tf.reshape(silhouettes, [batch, -1]), axis=1, dtype=tf.int32)
    points = tf.cast(pixels + vertices_px.shape[1], vertices_px.dtype)
    weights = tf.where(pixels > 0, weights, tf.zeros_like(weights))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * (to_mesh + to_pixels) / points), tf.reduce_sum(weights))
