"""Distances between silhouettes and projected meshes, in both directions.

For an image with silhouette pixels s (those above 0, at their (x, y) positions) and projected vertices v:

    pixels_to_mesh   = sum over s of |s - v(s)|_1    with v(s) the vertex nearest to s in the Euclidean sense
    mesh_to_pixels   = sum over v of |v - s(v)|_2    with s(v) the pixel nearest to v

Who is nearest to whom is found without gradient (`nearest_neighbors`); the gradient with respect to the vertices goes
through the chosen pairs only, so that nothing of size pixels x vertices is kept for it.

The compiled op finds both kinds of pairs and both sums (in double precision) in one go, on all processor cores: a tree
of boxes over the vertices serves the pixels, tile by tile of the image; vertices inside the silhouette have the pixel
under them, and a tree over the outline serves the others. About (pixels + vertices) * log(vertices) work; the memory of
`nearest_neighbors`, for the vertices and the outline. Its gradient keeps the pairs, four bytes each.
"""

import tensorflow as tf

from posekit.ops import native
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
        silhouette pixel. An image with an empty silhouette, or without vertices, gives 0 and gradient 0. With a vertex
        that is not finite, `mesh_to_pixels` of its image is not finite either, nor is its own gradient;
        `pixels_to_mesh` passes it over, as far from every pixel, if there are others. Vertices beyond 1e19 pixels in
        float32 (1e154 in float64), whose squares overflow, are far from every pixel as well; which of them is the
        nearest is arbitrary then.

    Raises:
        ValueError: If a shape or dtype does not fit; or while a program for XLA is traced, which cannot compile this:
            use `jit_compile=False`.
        tf.errors.InvalidArgumentError: If batches do not fit whose sizes are known only when a graph runs.

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
    silhouettes = silhouettes if silhouettes.dtype == tf.bool else silhouettes > 0
    native.refuse_xla("mesh_reprojection")
    compiled = native.ops()
    if compiled is not None:
        return _compiled(compiled, silhouettes, vertices_px)

    vertices_px = _with_the_batch_of(vertices_px, silhouettes)
    batch, per_image = tf.shape(vertices_px)[0], tf.shape(vertices_px)[1]
    image_of_pixel, pixels = _pixels(silhouettes, vertices_px.dtype)
    counts = tf.math.bincount(image_of_pixel, minlength=batch, maxlength=batch)
    pixel_splits = tf.concat([[0], tf.cumsum(counts)], axis=0)
    vertices = tf.reshape(vertices_px, [-1, 2])
    vertex_splits = tf.range(batch + 1) * per_image
    nearest_vertex = nearest_in_rows(pixels, pixel_splits, vertices, vertex_splits)
    nearest_pixel = nearest_in_rows(vertices, vertex_splits, pixels, pixel_splits)
    # One spare row keeps the lookup valid in a batch without any silhouette pixel.
    pixels = tf.concat([pixels, tf.zeros([1, 2], pixels.dtype)], axis=0)
    target = tf.reshape(tf.gather(pixels, tf.maximum(nearest_pixel, 0)), [batch, per_image, 2])
    has_pixel = tf.reshape(nearest_pixel >= 0, [batch, per_image])
    return _sums(vertices_px, image_of_pixel, pixels[:-1], nearest_vertex, target, has_pixel)


def _with_the_batch_of(vertices_px, silhouettes):
    """The vertices; sizes that only the running graph knows are compared there."""
    if vertices_px.shape[0] is not None and silhouettes.shape[0] is not None:
        return vertices_px
    sizes = tf.shape(silhouettes), tf.shape(vertices_px)
    told = ["silhouettes of shape", sizes[0], "and vertices of shape", sizes[1], "do not fit: give one mesh per image"]
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(sizes[0][0], sizes[1][0]), told)]):
        return tf.identity(vertices_px)


def _pixels(silhouettes, dtype):
    """Image numbers `[pixels]` and positions `[pixels, 2]` of the silhouettes' pixels, one row after the other."""
    where = tf.where(silhouettes)
    return tf.cast(where[:, 0], tf.int32), tf.cast(tf.reverse(where[:, 1:], axis=[1]), dtype)


def _sums(vertices_px, image_of_pixel, pixels, nearest_vertex, target, has_pixel):
    """Both sums of every image by pairs that are known.

    Args:
        vertices_px: `[batch, vertices, 2]`.
        image_of_pixel: Int32 `[pixels]`.
        pixels: `[pixels, 2]`.
        nearest_vertex: Int32 `[pixels]` positions among the vertices of all images, -1 for none.
        target: `[batch, vertices, 2]` nearest pixels.
        has_pixel: Boolean `[batch, vertices]`, false for vertices of an image without any.

    Returns:
        `(pixels_to_mesh, mesh_to_pixels)`, both `[batch]`.
    """
    batch = tf.shape(vertices_px)[0]
    vertices = tf.concat([tf.reshape(vertices_px, [-1, 2]), tf.zeros([1, 2], vertices_px.dtype)], axis=0)
    apart = tf.abs(pixels - tf.gather(vertices, tf.maximum(nearest_vertex, 0)))
    # Selecting, not multiplying: an image without a silhouette, or without vertices, stays 0 whatever the rest is.
    apart = tf.where(nearest_vertex[:, tf.newaxis] >= 0, apart, 0)
    # Segments are summed one after the other: ten thousand float32 additions would lose the fifth digit. And squares
    # of what is far away overflow.
    apart = tf.cast(tf.reduce_sum(apart, axis=1), tf.float64)
    pixels_to_mesh = tf.cast(tf.math.unsorted_segment_sum(apart, image_of_pixel, batch), vertices_px.dtype)

    apart = tf.cast(tf.where(has_pixel[..., tf.newaxis], vertices_px - target, 0), tf.float64)
    mesh_to_pixels = tf.reduce_sum(safe_sqrt(tf.reduce_sum(tf.square(apart), axis=2)), axis=1)
    return pixels_to_mesh, tf.cast(mesh_to_pixels, vertices_px.dtype)


def _compiled(ops, silhouettes, vertices_px):
    *sums, nearest_vertex, nearest_pixel = ops.posekit_mesh_reprojection(silhouettes, vertices_px)
    for value in sums:
        value.set_shape(vertices_px.shape[:1])
    nearest_vertex.set_shape([None])
    nearest_pixel.set_shape(vertices_px.shape[:2])
    return tuple(sums)


@tf.RegisterGradient("PosekitMeshReprojection")
def _compiled_gradient(op, of_mesh, of_pixels, *_):
    silhouettes, vertices_px = op.inputs
    *_, nearest_vertex, nearest_pixel = op.outputs
    known = silhouettes, vertices_px, nearest_vertex, nearest_pixel, of_mesh, of_pixels
    # The pairs are found; what is left has a plain form for whoever has switched the compiled one off since.
    compiled = native.ops()
    gradient = _plain_gradient(*known) if compiled is None else compiled.posekit_mesh_reprojection_gradient(*known)
    gradient.set_shape(vertices_px.shape)
    return None, gradient


@tf.RegisterGradient("PosekitMeshReprojectionGradient")
def _second_gradient(op, change):
    """Of a vertex v with the pixel s, factor * (v - s) / |v - s|, and of the signs, which only their factors move."""
    silhouettes, vertices_px, nearest_vertex, nearest_pixel, _, of_pixels = op.inputs
    image_of_pixel, vertex, signs, direction, inverse = _pairs(silhouettes, vertices_px, nearest_vertex, nearest_pixel)
    along = tf.reduce_sum(direction * change, axis=2)
    across = change - direction * along[..., tf.newaxis]
    of_vertices = across * (inverse * of_pixels[:, tf.newaxis])[..., tf.newaxis]
    of_each = tf.reduce_sum(signs * tf.gather(tf.reshape(change, [-1, 2]), vertex), axis=1)
    of_each = tf.cast(of_each, tf.float64)  # as in `_sums`
    of_mesh_factors = tf.math.unsorted_segment_sum(of_each, image_of_pixel, tf.shape(vertices_px)[0])
    of_pixel_factors = tf.reduce_sum(along, axis=1)
    of_vertices.set_shape(vertices_px.shape)
    return None, of_vertices, None, None, tf.cast(of_mesh_factors, vertices_px.dtype), of_pixel_factors


def _plain_gradient(silhouettes, vertices_px, nearest_vertex, nearest_pixel, of_mesh, of_pixels):
    """What the compiled gradient computes."""
    image_of_pixel, vertex, signs, direction, _ = _pairs(silhouettes, vertices_px, nearest_vertex, nearest_pixel)
    signs *= tf.gather(of_mesh, image_of_pixel)[:, tf.newaxis]
    from_pixels = tf.math.unsorted_segment_sum(signs, vertex, tf.size(vertices_px) // 2)
    return tf.reshape(from_pixels, tf.shape(vertices_px)) + direction * of_pixels[:, tf.newaxis, tf.newaxis]


def _pairs(silhouettes, vertices_px, nearest_vertex, nearest_pixel):
    """What gradients are made of, differentiable with respect to the vertices.

    Args:
        silhouettes: Boolean `[batch, height, width]`.
        vertices_px: `[batch, vertices, 2]`.
        nearest_vertex: Int32 `[pixels]` positions within the image's vertices, -1 for none.
        nearest_pixel: Int32 `[batch, vertices]` positions y * width + x, -1 for none.

    Returns:
        Of the pixels that have a vertex: `[pairs]` images, `[pairs]` positions among the vertices of all images and
        `[pairs, 2]` signs of the way from the pixel; of the vertices, `[batch, vertices, 2]` unit vectors from their
        pixels and `[batch, vertices]` inverse distances, 0 where both coincide or there is none.
    """
    image_of_pixel, pixels = _pixels(silhouettes, vertices_px.dtype)
    paired = nearest_vertex >= 0
    image_of_pixel, pixels = tf.boolean_mask(image_of_pixel, paired), tf.boolean_mask(pixels, paired)
    vertex = tf.boolean_mask(nearest_vertex, paired) + image_of_pixel * tf.shape(vertices_px)[1]
    signs = tf.sign(tf.gather(tf.reshape(vertices_px, [-1, 2]), vertex) - pixels)
    # An image without columns has no pixel to be divided.
    width = tf.maximum(tf.shape(silhouettes)[2], 1)
    target = tf.cast(tf.stack([nearest_pixel % width, nearest_pixel // width], axis=2), vertices_px.dtype)
    apart = tf.cast(tf.where(nearest_pixel[..., tf.newaxis] >= 0, vertices_px - target, 0), tf.float64)  # as in `_sums`
    lengths = safe_sqrt(tf.reduce_sum(tf.square(apart), axis=2))
    inverse = tf.math.divide_no_nan(tf.ones_like(lengths), lengths)
    direction = tf.cast(apart * inverse[..., tf.newaxis], vertices_px.dtype)
    return image_of_pixel, vertex, signs, direction, tf.cast(inverse, vertices_px.dtype)


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
