"""Distances between silhouettes and projected meshes, in both directions.

For an image with silhouette pixels s (those above 0, at their (x, y) positions) and projected vertices v:

    pixels_to_mesh   = sum over s of |s - v(s)|_1    with v(s) the vertex nearest to s in the Euclidean sense
    mesh_to_pixels   = sum over v of |v - s(v)|_2    with s(v) the pixel nearest to v

Who is nearest to whom is found without gradient (`nearest_neighbors`); the gradient with respect to the vertices goes
through the chosen pairs only, so that nothing of size pixels x vertices is kept for it.
"""

import tensorflow as tf

from posekit.ops.nearest_neighbors import nearest_in_rows, safe_sqrt


def mesh_reprojection(silhouettes, vertices_px):
    """Measures how far silhouettes and projected vertices lie apart, both ways.

    Args:
        silhouettes: `[batch, height, width]` or `[batch, height, width, 1]`, any real dtype or boolean; every
            pixel above 0 belongs to the silhouette.
        vertices_px: `[batch, vertices, 2]` float32 or float64 pixel positions (x, y); vertices outside the image count
            as well.

    Returns:
        `(pixels_to_mesh, mesh_to_pixels)`, both `[batch]` in the dtype of `vertices_px`: the summed L1 distances from
        silhouette pixels to their nearest vertex and the summed Euclidean distances from vertices to their nearest
        silhouette pixel. An image with an empty silhouette gives 0 and gradient 0. A vertex that is not finite makes
        its image's value not finite.

    Raises:
        ValueError: If a shape or dtype does not fit.

    Example:
        >>> image = tf.constant([[0.0, 0.0], [0.0, 1.0]])[tf.newaxis]
        >>> [float(value[0]) for value in mesh_reprojection(image, tf.constant([[[4.0, 5.0]]]))]
        [7.0, 5.0]

    Reference:
        Follows: maxpit/human-pose-estimation:mesh_reprojection_loss.
        Differs: exact neighbours; finite gradient where a vertex lies exactly on a pixel; empty silhouettes allowed.
    """
    silhouettes, vertices_px = tf.convert_to_tensor(silhouettes), tf.convert_to_tensor(vertices_px)
    _check(silhouettes, vertices_px)
    if silhouettes.shape.rank == 4:
        silhouettes = tf.squeeze(silhouettes, axis=3)
    batch, per_image = tf.shape(vertices_px)[0], tf.shape(vertices_px)[1]

    where = tf.where(silhouettes if silhouettes.dtype == tf.bool else silhouettes > 0)
    image_of_pixel = tf.cast(where[:, 0], tf.int32)
    pixels = tf.cast(tf.reverse(where[:, 1:], axis=[1]), vertices_px.dtype)
    counts = tf.math.bincount(image_of_pixel, minlength=batch, maxlength=batch)
    pixel_splits = tf.concat([[0], tf.cumsum(counts)], axis=0)
    vertices = tf.reshape(vertices_px, [-1, 2])
    vertex_splits = tf.range(batch + 1) * per_image

    nearest_vertex = nearest_in_rows(pixels, pixel_splits, vertices, vertex_splits)
    apart = tf.reduce_sum(tf.abs(pixels - tf.gather(vertices, nearest_vertex)), axis=1)
    # Segments are summed one after the other: ten thousand float32 additions would lose the fifth digit.
    pixels_to_mesh = tf.math.unsorted_segment_sum(tf.cast(apart, tf.float64), image_of_pixel, batch)
    pixels_to_mesh = tf.cast(pixels_to_mesh, vertices_px.dtype)

    nearest_pixel = nearest_in_rows(vertices, vertex_splits, pixels, pixel_splits)
    # One spare row keeps the lookup valid in a batch without any silhouette pixel.
    pixels = tf.concat([pixels, tf.zeros([1, 2], pixels.dtype)], axis=0)
    target = tf.reshape(tf.gather(pixels, tf.maximum(nearest_pixel, 0)), [batch, per_image, 2])
    has_pixel = tf.reshape(nearest_pixel >= 0, [batch, per_image, 1])
    # Selecting, not multiplying: an image without a silhouette stays 0 whatever its vertices are.
    apart = tf.where(has_pixel, vertices_px - target, 0)
    mesh_to_pixels = tf.reduce_sum(safe_sqrt(tf.reduce_sum(tf.square(apart), axis=2)), axis=1)
    return pixels_to_mesh, mesh_to_pixels


def _check(silhouettes, vertices_px):
    if vertices_px.dtype not in (tf.float32, tf.float64):
        raise ValueError(f"vertices_px has dtype {vertices_px.dtype.name}; allowed are float32 and float64. Cast it.")
    shape = silhouettes.shape
    if shape.rank not in (3, 4) or (shape.rank == 4 and shape[3] != 1):
        raise ValueError(
            f"silhouettes has shape {shape}; it must be [batch, height, width] or [batch, height, width, 1]."
        )
    if vertices_px.shape.rank != 3 or vertices_px.shape[2] != 2:
        raise ValueError(f"vertices_px has shape {vertices_px.shape}; it must be [batch, vertices, 2].")
    if not shape[:1].is_compatible_with(vertices_px.shape[:1]):
        raise ValueError(f"{shape[0]} silhouettes do not fit {vertices_px.shape[0]} meshes; give one per image.")
