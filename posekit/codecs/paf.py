"""People in a picture as heatmaps and part affinity fields, as multi-person networks learn them, and the way back.

The maps are coarser than the image by `stride`. Every joint has a map in which each person's joint is a Gaussian, the
last map is where nobody is: cell i of them lies at the pixel `stride i + (stride - 1) / 2`. Every limb has two: x and y
of the unit vector from its first joint to its second, wherever a cell is close to the limb; 0 elsewhere. Here cell i
lies at the pixel `stride i`, as in the original, by whose labels its published networks were trained; or, with
`field_cells="center"`, where the cell of the joints' maps does, as for tf-pose-estimation's networks.
"""

import dataclasses
import math
import numbers

import cv2
import numpy as np
import tensorflow as tf

from posekit.ops.decode_paf import decode_paf
from posekit.skeletons import OPENPOSE18, Skeleton

COMBINES = ("sum", "max")
OVERLAPS = ("average", "last")
FIELD_CELLS = ("corner", "center")

# Gaussians end where they fall to 1 %, or nearly so: at this exponent.
_CUTOFF = 4.6052
_MAX_PIXELS = 1 << 25  # of a network's input, or of maps as large as an image
_MAX_VALUES = 1 << 27  # of an image's maps


@dataclasses.dataclass(frozen=True)
class PafCodec:
    """The representation: its options, and both ways.

    Args:
        skeleton: `Skeleton` whose joints and limbs have the maps.
        stride: Pixels of the image per cell.
        sigma: Standard deviation of the Gaussians, in pixels of the image.
        limb_width: Distance from a limb within which cells belong to it, in cells.
        combine: Gaussians of several people: `"sum"`, not above 1, as the original; `"max"`, as the paper.
        overlap: Limbs of several people in one cell: `"average"`, as the original; `"last"`: the last person's, as
            the original's C++ server.
        field_cells: Where the cells of the fields lie: at their `"corner"`, as the original's, or at the `"center"`.

    Raises:
        ValueError: If an argument is none of these.

    Example:
        >>> import numpy as np
        >>> codec = PafCodec()
        >>> joints = np.random.default_rng(0).uniform(20, 340, (1, 18, 2))
        >>> heatmaps, pafs = codec.encode_numpy(joints, np.ones((1, 18), bool), size=(368, 368))
        >>> heatmaps.shape, pafs.shape
        ((46, 46, 19), (46, 46, 38))

    Reference:
        Cao, Simon, Wei, Sheikh: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields. CVPR 2017.
    """

    skeleton: Skeleton = OPENPOSE18
    stride: int = 8
    sigma: float = 7.0
    limb_width: float = 1.0
    combine: str = "sum"
    overlap: str = "average"
    field_cells: str = "corner"

    def __post_init__(self):
        if not isinstance(self.skeleton, Skeleton):
            raise ValueError(f"skeleton {self.skeleton!r:.60} is no Skeleton, such as posekit.skeletons.OPENPOSE18.")
        if not isinstance(self.stride, numbers.Integral) or self.stride < 1:
            raise ValueError(f"stride {self.stride!r:.60} is not a whole number of pixels above 0, such as 8.")
        for name in ("sigma", "limb_width"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
                raise ValueError(f"{name} {value!r:.60} is no length above 0, such as sigma=7, limb_width=1.")
        for name, allowed in (("combine", COMBINES), ("overlap", OVERLAPS), ("field_cells", FIELD_CELLS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(allowed)}.")

    @property
    def num_heatmaps(self):
        """Joints and the background."""
        return self.skeleton.num_joints + 1

    @property
    def num_pafs(self):
        """Two for every limb."""
        return 2 * len(self.skeleton.limbs)

    def grid(self, size):
        """`(height, width)` of the maps of an image.

        Args:
            size: `(height, width)` of the image in pixels, multiples of the stride.

        Raises:
            ValueError: If they are not, or the maps would take more than half a gigabyte.
        """
        sides = tuple(size) if np.iterable(size) else ()
        if len(sides) != 2 or not all(isinstance(side, numbers.Real) for side in sides):
            raise ValueError(f"size {size!r:.80} is not (height, width) in pixels, such as (368, 368).")
        height, width = sides
        # Numbers that are not finite leave a rest that is none.
        if not all(side >= 1 and side % self.stride == 0 for side in sides):
            raise ValueError(f"An image of {height} x {width} pixels has no whole maps; pad it to multiples of "
                             f"{self.stride}, such as with posekit.codecs.paf.pad_to_stride.")  # fmt: skip
        rows, columns = int(height) // self.stride, int(width) // self.stride
        if rows * columns * (self.num_heatmaps + self.num_pafs) > _MAX_VALUES:
            raise ValueError(
                f"Maps of an image of {height} x {width} pixels, {rows} x {columns} cells of "
                f"{self.num_heatmaps + self.num_pafs} values, are too large: {_MAX_VALUES} values are made at most. "
                "Make the image smaller, or the stride larger."
            )
        return rows, columns

    def encode_numpy(self, joints_px, present, size):
        """Joints to maps, in double precision: what `encode` is measured against.

        Args:
            joints_px: `[people, joints, 2]` x, y in pixels; there may be nobody.
            present: Bool `[people, joints]`; others count nowhere, nor do joints that are not finite.
            size: `(height, width)` of the image in pixels.

        Returns:
            `(heatmaps, pafs)`: float64 `[height / stride, width / stride, joints + 1]` and `[…, 2 limbs]`.

        Raises:
            ValueError: If a shape does not fit.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:training/label_maps.py (create_heatmap,
        create_paf).
        """
        joints, present = np.asarray(joints_px, np.float64), np.asarray(present, bool)
        self._check(joints.shape, present.shape, 3)
        height, width = self.grid(size)
        present = present & np.isfinite(joints).all(-1)
        joints = np.where(present[..., None], joints, 0.0)

        places = [(self.stride - 1) / 2 + np.arange(cells) * self.stride for cells in (width, height)]
        heatmaps = np.zeros((height, width, self.num_heatmaps))
        for joint in range(self.skeleton.num_joints):
            x, y = joints[present[:, joint], joint].T[..., None]
            apart = ((places[0] - x) ** 2)[:, None] + ((places[1] - y) ** 2)[:, :, None]
            exponent = apart / 2.0 / self.sigma / self.sigma
            gaussians = np.where(exponent > _CUTOFF, 0.0, np.exp(-exponent))
            heatmaps[..., joint] = gaussians.sum(0) if self.combine == "sum" else gaussians.max(0, initial=0.0)
        heatmaps = np.minimum(heatmaps, 1.0)
        heatmaps[..., -1] = 1.0 - heatmaps.max(-1)

        pafs = np.zeros((height, width, self.num_pafs))
        row, column = np.arange(height)[:, None], np.arange(width)
        for limb, (start, end) in enumerate(self.skeleton.limbs):
            both = present[:, start] & present[:, end]
            one, other = (self._field_place(joints[both, joint]) for joint in (start, end))
            norm = np.sqrt(((other - one) ** 2).sum(-1))
            one, other, norm = one[norm >= 1e-8], other[norm >= 1e-8], norm[norm >= 1e-8]
            direction = (other - one) / norm[:, None]
            low = np.rint(np.minimum(one, other) - self.limb_width)[..., None, None]
            high = np.rint(np.maximum(one, other) + self.limb_width)[..., None, None]
            (x, y), (along_x, along_y) = one.T[..., None, None], direction.T[..., None, None]
            inside = np.abs((column - x) * along_y - (row - y) * along_x) <= self.limb_width
            inside &= (column >= low[:, 0]) & (column < high[:, 0]) & (row >= low[:, 1]) & (row < high[:, 1])
            if self.overlap == "last":
                inside &= np.cumsum(inside[::-1], axis=0)[::-1] == 1
            count = inside.sum(0)
            fields = np.einsum("nhw,nd->hwd", inside, direction)
            pafs[..., 2 * limb : 2 * limb + 2] = fields / np.maximum(count, 1)[..., None]
        return heatmaps, pafs

    def encode(self, joints_px, present, size):
        """Joints of a batch to maps, on whatever device the batch is.

        Args:
            joints_px: `[batch, people, joints, 2]` x, y in pixels. Images with fewer people are filled up.
            present: Bool `[batch, people, joints]`, false where a joint or a person is missing.
            size: `(height, width)` of the images in pixels.

        Returns:
            `(heatmaps, pafs)`: float32 tensors `[batch, height / stride, width / stride, joints + 1]` and
            `[…, 2 limbs]`.

        Raises:
            ValueError: If a shape does not fit.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:training/label_maps.py (create_heatmap,
        create_paf).
        Differs: in single precision; a cell exactly at the edge of a Gaussian or of a limb may fall on either side.
        """
        # What is computed once a joint is so in double precision: it costs nothing, and short limbs need it.
        joints, present = tf.cast(joints_px, tf.float64), tf.cast(present, tf.bool)
        self._check(joints.shape, present.shape, 4)
        height, width = self.grid(size)
        present &= tf.reduce_all(tf.math.is_finite(joints), axis=-1)
        joints = tf.where(present[..., tf.newaxis], joints, 0.0)
        return self._heatmaps(joints, present, height, width), self._pafs(joints, present, height, width)

    def decode(self, heatmaps, pafs, mode="fast", **options):
        """Maps to people: `posekit.ops.decode_paf` with this skeleton and stride.

        Args:
            heatmaps: `[height, width, joints + 1]`, or a batch.
            pafs: `[height, width, 2 limbs]`, or a batch.
            mode: `"fast"`, `"tf_pose"`, or `"exact"` for maps as large as the image (or, with `upsampling=8`, for the
                network's own, which are enlarged as the original does).
            **options: Further arguments of `decode_paf`.

        Returns:
            `posekit.ops.Decoded`, or a list of them.

        Raises:
            ValueError: As `decode_paf`.
        """
        return decode_paf(heatmaps, pafs, mode=mode, skeleton=self.skeleton, stride=self.stride, **options)

    def flip_maps(self, heatmaps, pafs):
        """Maps of a mirrored image to maps of the image itself, and back.

        Args:
            heatmaps: `[..., height, width, joints + 1]`.
            pafs: `[..., height, width, 2 limbs]`.

        Returns:
            Both, mirrored, with left and right exchanged and fields turned round.

        Raises:
            ValueError: If a limb of the skeleton has no twin, or shapes do not fit.
        """
        joints = np.append(self.skeleton.flip_permutation, self.skeleton.num_joints)
        limbs, signs = self.skeleton.limb_flip
        channels = np.stack([2 * limbs, 2 * limbs + 1], axis=-1).ravel()
        signs = (signs[:, None] * [-1, 1]).ravel().astype(np.float32)
        heatmaps, pafs = np.asarray(heatmaps), np.asarray(pafs)
        for name, maps, depth in (("Heatmaps", heatmaps, self.num_heatmaps), ("Fields", pafs, self.num_pafs)):
            if maps.ndim < 3 or maps.shape[-1] != depth or maps.shape[:-1] != heatmaps.shape[:-1]:
                raise ValueError(
                    f"{name} of shape {maps.shape}: skeleton {self.skeleton.name!r} needs heatmaps of shape "
                    f"[..., height, width, {self.num_heatmaps}] and fields of shape [..., height, width, "
                    f"{self.num_pafs}], of the same size."
                )
        return heatmaps[..., ::-1, joints], pafs[..., ::-1, channels] * signs

    def _field_place(self, joints):
        """Joints in pixels, in cells of the fields."""
        return (joints - ((self.stride - 1) / 2 if self.field_cells == "center" else 0)) / self.stride

    def _heatmaps(self, joints, present, height, width):
        profiles = []
        for axis, cells in ((1, height), (0, width)):
            place = (self.stride - 1) / 2 + tf.range(cells, dtype=tf.float64) * self.stride
            profile = tf.exp(-tf.square(place - joints[..., axis, tf.newaxis]) / (2 * self.sigma**2))
            profiles.append(tf.cast(profile, tf.float32))
        down = tf.where(present[..., tf.newaxis], profiles[0], 0.0)
        gaussians = down[..., :, tf.newaxis] * profiles[1][..., tf.newaxis, :]
        gaussians = tf.where(gaussians < math.exp(-_CUTOFF), 0.0, gaussians)
        if self.combine == "sum":
            heatmaps = tf.minimum(tf.reduce_sum(gaussians, axis=1), 1.0)
        else:
            heatmaps = tf.maximum(tf.reduce_max(gaussians, axis=1), 0.0)
        background = 1.0 - tf.reduce_max(heatmaps, axis=1, keepdims=True)
        return tf.transpose(tf.concat([heatmaps, background], axis=1), [0, 2, 3, 1])

    def _pafs(self, joints, present, height, width):
        joints = self._field_place(tf.transpose(joints, [0, 2, 1, 3]))
        present = tf.transpose(present, [0, 2, 1])
        start, end = (list(ends) for ends in zip(*self.skeleton.limbs))
        one, other = tf.gather(joints, start, axis=1), tf.gather(joints, end, axis=1)  # [batch, limbs, people, 2]
        step = other - one
        norm = tf.sqrt(tf.reduce_sum(step * step, axis=-1))
        there = tf.gather(present, start, axis=1) & tf.gather(present, end, axis=1) & (norm >= 1e-8)
        direction = tf.math.divide_no_nan(step, norm[..., tf.newaxis])
        low = tf.round(tf.minimum(one, other) - self.limb_width)[..., tf.newaxis]
        high = tf.round(tf.maximum(one, other) + self.limb_width)[..., tf.newaxis]
        terms = []
        for axis, cells in ((0, width), (1, height)):
            place = tf.range(cells, dtype=tf.float64)
            inside = (place >= low[..., axis, :]) & (place < high[..., axis, :]) & there[..., tf.newaxis]
            apart = (place - one[..., axis, tf.newaxis]) * direction[..., 1 - axis, tf.newaxis]
            # Infinite differences, and what is no number, are not close.
            terms.append(tf.cast(tf.where(inside, apart, np.inf), tf.float32))
        close = tf.abs(terms[0][..., tf.newaxis, :] - terms[1][..., :, tf.newaxis]) <= self.limb_width
        close = tf.cast(close, tf.float32)
        if self.overlap == "last":
            later = tf.cumsum(close, axis=2, exclusive=True, reverse=True)
            close = tf.where(later > 0, 0.0, close)
        batch = tf.shape(close)[0]
        people, limbs = tf.shape(close)[2], len(start)
        parts = tf.concat([direction, tf.ones_like(direction[..., :1])], axis=-1)
        close = tf.reshape(close, [batch, limbs, people, height * width])
        sums = tf.matmul(tf.cast(parts, tf.float32), close, transpose_a=True)  # [batch, limbs, 3, cells]
        fields = sums[:, :, :2] / tf.maximum(sums[:, :, 2:], 1.0)
        return tf.transpose(tf.reshape(fields, [batch, 2 * limbs, height, width]), [0, 2, 3, 1])

    def _check(self, joints, present, axes):
        joints, present = tuple(joints), tuple(present)
        wanted = ["batch", "people", self.skeleton.num_joints, 2][4 - axes :]
        if len(joints) != axes or joints[-2:] != (self.skeleton.num_joints, 2) or len(present) != axes - 1 or any(
            one != other for one, other in zip(joints, present) if None not in (one, other)
        ):  # fmt: skip
            raise ValueError(
                f"Joints of shape {joints} and present of shape {present}: skeleton {self.skeleton.name!r} needs "
                f"{wanted} and {wanted[:-1]}."
            )


def pad_to_stride(image, stride=8, value=128):
    """Pads an image at its bottom and right until both sides are multiples of the stride.

    Args:
        image: `[height, width, channels]`.
        stride: Pixels.
        value: Of the padding.

    Returns:
        `(padded, (down, right))`: the image and how many pixels were added.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:util.py (pad_right_down_corner).
    """
    down, right = (-side % stride for side in image.shape[:2])
    return np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=value), (down, right)


def average_maps(predict, image, scales=(1.0,), box_size=368, stride=8, pad_value=128, size=None):
    """Maps of an image, averaged over several scales of it.

    Args:
        predict: Function of a float32 batch `[1, height, width, 3]` with the values of the image, that gives
            `(pafs, heatmaps)`, `[1, height / stride, width / stride, …]` each, or a dict with these names.
        image: Uint8 `[height, width, 3]`, in the channel order that `predict` takes.
        scales: The image's height is each of these times `box_size` before it is padded.
        box_size: Pixels.
        stride: Of the network.
        pad_value: Of the image's padding.
        size: `(height, width)` of the maps returned; the image's by default. Smaller ones save memory where the image
            is large.

    Returns:
        `(heatmaps, pafs)`: float32 `[height, width, …]` as large as the image (or `size`).

    Raises:
        ValueError: If the image or its scales are no images, or too large.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts).
    Differs: averages in single precision.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size or image.dtype != np.uint8:
        raise ValueError(f"An image of shape {image.shape}, type {image.dtype}; it must be uint8 [height, width, 3].")
    scales = tuple(scales)
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales are {scales}; give one or more numbers above 0, such as (0.5, 1, 1.5, 2).")
    height, width = size = tuple(image.shape[:2] if size is None else size)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"Maps of {height} x {width} pixels are too large; pass a smaller size=(height, width).")
    totals = None
    for scale in scales:
        factor = scale * box_size / image.shape[0]
        high, wide = (round(side * factor) for side in image.shape[:2])
        if high * wide > _MAX_PIXELS:
            raise ValueError(
                f"At the scale {scale:g} an image of {image.shape[0]} x {image.shape[1]} pixels has {high} x {wide}, "
                "which is too large; pass a smaller box_size or scale, or crop the image."
            )
        if not high or not wide:
            raise ValueError(
                f"At the scale {scale:g} nothing is left of an image of {image.shape[0]} x {image.shape[1]} pixels; "
                "pad the image, or pass a larger scale."
            )
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        padded, _ = pad_to_stride(small, stride, pad_value)
        maps = predict(padded[None].astype(np.float32))
        maps = [maps["heatmaps"], maps["pafs"]] if isinstance(maps, dict) else list(maps)[::-1]
        maps = [_enlarged(np.asarray(values, np.float32)[0], stride, (high, wide), size) for values in maps]
        if totals is None:
            totals = maps
        else:
            for total, values in zip(totals, maps):
                total += values
    if len(scales) > 1:
        for total in totals:
            total /= len(scales)
    return tuple(totals)


def _enlarged(maps, stride, inner, size):
    """Small maps as large as the image that they are of: without its padding, and at its own scale."""
    maps = cv2.resize(maps, None, fx=stride, fy=stride, interpolation=cv2.INTER_CUBIC)
    maps = maps[: inner[0], : inner[1]]
    if maps.shape[:2] == tuple(size):
        return np.ascontiguousarray(maps)
    return cv2.resize(maps, tuple(size)[::-1], interpolation=cv2.INTER_CUBIC)
