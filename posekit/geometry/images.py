"""Batched image operations in TensorFlow: crops of resized images, edge padding, blur, projective warps.

Images are `[batch, height, width, channels]`; `[height, width, channels]` and, where said, `[height, width]` work too.
Places in an image are (x, y) in pixels, and pixel (0, 0) has its centre there.
"""

import tensorflow as tf

_INTERPOLATIONS = ("nearest", "bilinear")
_FILL_MODES = ("constant", "reflect", "wrap", "nearest")
_PADDINGS = ("REFLECT", "CONSTANT", "SYMMETRIC")


def pad_edge(images, margin):
    """Extends images on all sides by repeating their edge pixels.

    Args:
        images: `[..., height, width, channels]`, any dtype.
        margin: Pixels to add on each side, of any size.

    Returns:
        `[..., height + 2 margin, width + 2 margin, channels]`.

    Follows: maxpit/human-pose-estimation src/data_loader.py, data_utils.py:pad_image_edge.
    """
    images = tf.convert_to_tensor(images)
    shape = tf.shape(images)
    rows = tf.clip_by_value(tf.range(-margin, shape[-3] + margin), 0, shape[-3] - 1)
    columns = tf.clip_by_value(tf.range(-margin, shape[-2] + margin), 0, shape[-2] - 1)
    return tf.gather(tf.gather(images, rows, axis=-3), columns, axis=-2)


def resized_crop(image, resized_size, start, crop_size, window_start=(0, 0), image_size=None, flip=False):
    """Cuts a crop out of a resized, edge-extended image without making either.

    The same pixels as `tf.image.resize(image, resized_size)` (bilinear), `pad_edge` by any margin, and a slice; but
    only the crop is computed, and only the part of the image under it need be there.

    Args:
        image: `[height, width, channels]`, any numeric dtype: the whole image, or the window of it under the crop.
        resized_size: Int32 (height, width) of the resized image.
        start: Int32 (y, x) of the crop's first pixel in the resized image; may lie outside.
        crop_size: Int32 (height, width) of the crop.
        window_start: Int32 (y, x) in the whole image of the first pixel of `image`.
        image_size: Int32 (height, width) of the whole image; that of `image` if None.
        flip: Boolean scalar; mirrors the crop left to right.

    Returns:
        Float32 `[*crop_size, channels]` on the scale of the input values.
    """
    image = tf.convert_to_tensor(image)
    image_size = tf.shape(image)[:2] if image_size is None else tf.convert_to_tensor(image_size)
    resized_size, start = tf.convert_to_tensor(resized_size), tf.convert_to_tensor(start)
    columns = start[1] + tf.range(crop_size[1])
    columns = tf.where(flip, columns[::-1], columns)
    top, bottom, down = _bilinear_samples(start[0] + tf.range(crop_size[0]), resized_size[0], image_size[0])
    left, right, across = _bilinear_samples(columns, resized_size[1], image_size[1])
    top, bottom = top - window_start[0], bottom - window_start[0]
    left, right = left - window_start[1], right - window_start[1]
    # Gathering rows copies long runs, gathering columns single pixels: turning the picture twice costs less.
    rows = _mix(tf.gather(image, top), tf.gather(image, bottom), down[:, None, None])
    turned = tf.transpose(rows, [1, 0, 2])
    return tf.transpose(_mix(tf.gather(turned, left), tf.gather(turned, right), across[:, None, None]), [1, 0, 2])


def crop_window(image_size, resized_size, start, crop_size, margin=0):
    """The part of an image that `resized_crop` reads.

    Args:
        image_size: Int32 (height, width) of the whole image.
        resized_size: Int32 (height, width) of the resized image.
        start: Int32 (y, x) of the crop's first pixel in the resized image.
        crop_size: Int32 (height, width) of the crop.
        margin: Pixels to add on every side where the image has them.

    Returns:
        Int32 `[4]`: (y, x, height, width), never empty and never outside the image.
    """
    image_size, resized_size, start, crop_size = map(tf.convert_to_tensor, (image_size, resized_size, start, crop_size))
    ends = tf.stack([start, start + crop_size - 1])
    first, second, _ = _bilinear_samples(ends, resized_size, image_size)
    low = tf.maximum(first[0] - margin, 0)
    high = tf.minimum(second[1] + margin, image_size - 1)
    return tf.concat([low, high - low + 1], axis=0)


def gaussian_filter2d(images, filter_shape=(3, 3), sigma=1.0, padding="REFLECT", constant_values=0.0):
    """Blurs images with a Gaussian.

    Args:
        images: `[batch, height, width, channels]`, `[height, width, channels]` or `[height, width]`; integers are
            blurred in float32 and truncated back.
        filter_shape: Kernel size in pixels, one number or (height, width). An even size reaches one pixel further to
            the right and to the bottom.
        sigma: Standard deviation in pixels, one number or (vertical, horizontal), not negative.
        padding: What lies outside the image: `"REFLECT"`, `"CONSTANT"` or `"SYMMETRIC"`.
        constant_values: Value outside the image with `"CONSTANT"`.

    Returns:
        Blurred images, same shape and dtype.

    Raises:
        ValueError: If an argument is not one of those allowed.

    Follows: tensorflow/addons tensorflow_addons/image/filters.py:gaussian_filter2d.
    """
    padding = _choice("padding", str(padding).upper(), _PADDINGS)
    size = _pair("filter_shape", filter_shape, int, minimum=1)
    deviation = _pair("sigma", sigma, float, minimum=0.0)
    images = tf.convert_to_tensor(images)
    batch = _as_batch(images)
    values = batch if images.dtype.is_floating else tf.cast(batch, tf.float32)
    if size != (1, 1):
        before = [(length - 1) // 2 for length in size]
        pads = [[0, 0], *([b, length - 1 - b] for b, length in zip(before, size)), [0, 0]]
        values = tf.pad(values, pads, padding, tf.cast(constant_values, values.dtype))
        channels = tf.shape(values)[-1]
        for axis in range(2):
            kernel = _gaussian_kernel(size[axis], deviation[axis], values.dtype)
            kernel = tf.reshape(kernel, (-1, 1, 1, 1) if axis == 0 else (1, -1, 1, 1))
            kernel = tf.tile(kernel, [1, 1, channels, 1])
            values = tf.nn.depthwise_conv2d(values, kernel, (1, 1, 1, 1), "VALID")
    return tf.ensure_shape(tf.reshape(tf.cast(values, images.dtype), tf.shape(images)), images.shape)


def projective_transform(
    images, transforms, interpolation="nearest", fill_mode="constant", output_shape=None, fill_value=0.0
):
    """Warps images: output pixel (x, y) takes the value at ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k).

    Here k = c0 x + c1 y + 1.

    Args:
        images: `[batch, height, width, channels]`, `[height, width, channels]` or `[height, width]`; uint8, int32,
            int64, float16, float32 or float64.
        transforms: `[8]` or `[batch, 8]`, each (a0, a1, a2, b0, b1, b2, c0, c1).
        interpolation: `"nearest"` or `"bilinear"`.
        fill_mode: What lies outside the image: `"constant"`, `"reflect"` (mirrored at the border), `"wrap"`
            or `"nearest"` (edge pixel repeated).
        output_shape: (height, width) of the result; that of the images if None.
        fill_value: Value outside the image with `"constant"`.

    Returns:
        Warped images of the same rank and dtype; differentiable in the images.

    Raises:
        ValueError: If an argument is not one of those allowed.

    Follows: tensorflow/addons tensorflow_addons/image/transform_ops.py:transform.
    """
    interpolation = _choice("interpolation", str(interpolation).lower(), _INTERPOLATIONS)
    fill_mode = _choice("fill_mode", str(fill_mode).lower(), _FILL_MODES)
    images = tf.convert_to_tensor(images)
    batch = _as_batch(images)
    transforms = tf.convert_to_tensor(transforms, tf.float32)
    if transforms.shape.rank not in (1, 2) or transforms.shape[-1] != 8:
        raise ValueError(f"Transforms must have shape [8] or [batch, 8], got {transforms.shape}.")
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=batch,
        transforms=tf.reshape(transforms, [-1, 8]),
        output_shape=tf.shape(batch)[1:3] if output_shape is None else tf.cast(output_shape, tf.int32),
        fill_value=fill_value,
        interpolation=interpolation.upper(),
        fill_mode=fill_mode.upper(),
    )
    if images.shape.rank == 4:
        return warped
    return warped[0] if images.shape.rank == 3 else warped[0, :, :, 0]


def rotation_transforms(angles, image_size):
    """Transforms that rotate images about their middle, for `projective_transform`.

    Args:
        angles: Scalar or `[batch]`, radians, counter-clockwise as seen on the screen.
        image_size: (height, width) of the images.

    Returns:
        Float32 `[batch, 8]` (`[1, 8]` for a scalar).

    Follows: tensorflow/addons tensorflow_addons/image/transform_ops.py:angles_to_projective_transforms.
    """
    angles = tf.reshape(tf.cast(angles, tf.float32), [-1])
    height, width = (tf.cast(image_size[axis], tf.float32) - 1.0 for axis in range(2))
    cos, sin, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    x_offset = (width - (cos * width - sin * height)) / 2.0
    y_offset = (height - (sin * width + cos * height)) / 2.0
    return tf.stack([cos, -sin, x_offset, sin, cos, y_offset, zero, zero], axis=1)


def rotate(images, angles, interpolation="nearest", fill_mode="constant", fill_value=0.0):
    """Rotates images about their middle.

    Args:
        images: `[batch, height, width, channels]`, `[height, width, channels]` or `[height, width]`.
        angles: Scalar or `[batch]`, radians, counter-clockwise as seen on the screen.
        interpolation: As in `projective_transform`.
        fill_mode: As in `projective_transform`.
        fill_value: As in `projective_transform`.

    Returns:
        Rotated images, same shape and dtype.

    Follows: tensorflow/addons tensorflow_addons/image/transform_ops.py:rotate.
    """
    images = tf.convert_to_tensor(images)
    size = tf.shape(_as_batch(images))[1:3]
    return projective_transform(images, rotation_transforms(angles, size), interpolation, fill_mode, None, fill_value)


def transform_points(points, transforms):
    """Moves points along with the images that `projective_transform` warps.

    Args:
        points: Float32 `[batch, points, 2]` x, y in pixels of the input images.
        transforms: `[8]` or `[batch, 8]`, as given to `projective_transform`.

    Returns:
        Float32 `[batch, points, 2]` x, y in pixels of the warped images.
    """
    transforms = tf.reshape(tf.convert_to_tensor(transforms, tf.float32), [-1, 8])
    # The transforms lead from output to input, so points need the inverse.
    forward = tf.reshape(tf.pad(transforms, [[0, 0], [0, 1]], constant_values=1.0), [-1, 3, 3])
    points = tf.pad(tf.convert_to_tensor(points, tf.float32), [[0, 0], [0, 0], [0, 1]], constant_values=1.0)
    moved = tf.matmul(points, tf.linalg.inv(forward), transpose_b=True)
    return moved[..., :2] / moved[..., 2:]


def _bilinear_samples(positions, resized_length, length):
    """Source rows around each row of a resized image: first, second, and the weight of the second.

    Clamping comes before mapping because it is the resized image whose edge is repeated.
    """
    positions = tf.clip_by_value(positions, 0, resized_length - 1)
    scale = tf.cast(length, tf.float32) / tf.cast(resized_length, tf.float32)
    source = (tf.cast(positions, tf.float32) + 0.5) * scale - 0.5
    below = tf.floor(source)
    first = tf.cast(below, tf.int32)
    # Rounding can push the last sample of a very long side past its end.
    first_inside = tf.clip_by_value(first, 0, length - 1)
    return first_inside, tf.clip_by_value(first + 1, 0, length - 1), source - below


def _mix(first, second, weight):
    first = tf.cast(first, tf.float32)
    return first + (tf.cast(second, tf.float32) - first) * weight


def _gaussian_kernel(size, deviation, dtype):
    positions = tf.cast(tf.range(-(size // 2) + (size + 1) % 2, size // 2 + 1), dtype)
    if deviation == 0:
        return tf.cast(positions == 0, dtype)
    return tf.nn.softmax(-tf.square(positions) / (2.0 * deviation**2))


def _as_batch(images):
    rank = images.shape.rank
    if rank not in (2, 3, 4):
        raise ValueError(
            "Images must have shape [height, width], [height, width, channels] or [batch, height, width, channels], "
            f"got {images.shape}."
        )
    if rank == 2:
        images = images[..., None]
    return images if rank == 4 else images[None]


def _choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def _pair(name, value, kind, minimum):
    pair = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if len(pair) != 2 or any(kind(number) != number or number < minimum for number in pair):
        raise ValueError(f"{name} must be one number or two, each at least {minimum}, got {value!r}.")
    return tuple(kind(number) for number in pair)
