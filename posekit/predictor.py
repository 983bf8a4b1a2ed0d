"""Predictors: for pictures, as in `posekit.load("hmr")("photo.jpg")`, for 2-D keypoints and for depth pictures."""

import dataclasses
import itertools
import json
import pathlib
import re

import numpy as np
from absl import logging

from posekit import weights as weight_files
from posekit.data.depth_sources import FARTHEST_MM, DepthFrame, open_depth
from posekit.data.depth_sources import SUFFIXES as DEPTH_SUFFIXES
from posekit.data.keypoint_files import MAX_PX, KeypointFrame, checked_size, named_skeleton, read_keypoints
from posekit.data.sources import IMAGE_SUFFIXES, Frame, Source, as_image, open_source, read_image
from posekit.drawing import draw_people, save_image, uint8_image
from posekit.files import check_place, write_file
from posekit.geometry.depth import DepthCamera, dataset_camera
from posekit.results import People
from posekit.skeletons import H36M17, SKELETONS
from posekit.systems import SYSTEMS


def load(system, weights="default", **options):
    """Loads a system, ready to predict.

    Args:
        system: `"hmr"`, `"lcn"`, `"openpose"` or `"v2v"`.
        weights: A name of the index, a run folder, a `.weights.h5` file, `"default"` for the index's default, or None
            for an untrained model.
        **options: Options of the system that override those stored with the weights, such as `body="sample"`.

    Returns:
        A `Predictor`, for `"lcn"` a `Lifter`, for `"v2v"` a `DepthPredictor`.

    Raises:
        ValueError: If the system is unknown or the weights do not fit.
        FileNotFoundError: If the weights are not found.

    Example:
        >>> people = posekit.load("hmr")("ski.jpg")  # doctest: +SKIP
        >>> people.draw("out.png")  # doctest: +SKIP
    """
    if system not in SYSTEMS:
        raise ValueError(f"System {system!r} is unknown; choose one of {', '.join(SYSTEMS)}.")
    module = SYSTEMS[system]()
    if weights is None:
        logging.warning("No weights given: the model is untrained and its predictions mean nothing.")
    found = weight_files.resolve(weights, system) if weights is not None else None
    stored = found.config if found else {}
    config = module.Config.from_dict({**stored, **options})
    model = weight_files.load_model(module, config, found)
    return predictor_class(module)(system, module, config, model, found)


def predictor_class(module):
    """Tells which predictor a system takes.

    Args:
        module: System module.

    Returns:
        `Predictor`, `Lifter` or `DepthPredictor`.
    """
    return {"pictures": Predictor, "keypoints": Lifter, "depth": DepthPredictor}[module.INPUT]


class _Loaded:
    """What every kind of predictor keeps of the system that it was loaded from."""

    def __init__(self, name, module, config, model, weights=None):
        self.name = name
        self.module = module
        self.config = config
        self.model = model
        self.weights = weights

    @classmethod
    def from_weights(cls, name, config, reference):
        """Makes a predictor from a configuration and weights.

        Args:
            name: System name.
            config: Options of the system.
            reference: What `posekit.weights.resolve` looks up.

        Returns:
            The `Predictor`.
        """
        module, found = SYSTEMS[name](), weight_files.resolve(reference, name)
        return cls(name, module, config, weight_files.load_model(module, config, found), found)

    def results(self, path, formats, gather="", style="coco"):
        """Makes a folder for what is predicted.

        Args:
            path: As for `ResultFolder`.
            formats: As there.
            gather: The path of a `ResultFile` that takes all of it too; empty for none.
            style: As there.

        Returns:
            A `ResultFolder`.

        Raises:
            ValueError: If nothing would be written: meshes alone, which only some systems find. As `ResultFile`.
            OSError: If the folder cannot be made.
        """
        if set(formats) == {"obj"} and not gather and "mesh" not in self.module.VIEWS:
            raise ValueError(
                f"--formats=obj: {self.name} finds no meshes, so nothing would be written; choose of json, coco, "
                "openpose, npz and png."
            )
        return ResultFolder(path, formats, ResultFile(gather, style) if gather else None)

    def _draw(self, people, image, path=None, view=None, **options):
        """Draws one of the system's views for `People.draw`, the first by default."""
        picture = self.module.draw(people, image, **({} if view is None else {"view": view}), **options)
        if path is not None:
            save_image(path, picture)
        return picture


class Predictor(_Loaded):
    """Finds people in pictures.

    Args:
        name: System name.
        module: System module.
        config: Its options.
        model: Its Keras model, with weights.
        weights: `Weights` that the model was loaded from, None if untrained.

    Call arguments:
        source: A path of an image, an RGB picture (a PIL image, or what NumPy takes as an array, such as a tensor), a
            list of both, or an array `[pictures, height, width, 3]`; a folder, a video or a camera number.
        batch_size: Pictures predicted together.
        boxes: For one image: `[people, 4]` boxes x_min, y_min, x_max, y_max in pixels; for a list, one such array
            (or None) an image. Without boxes, human mesh recovery takes the whole picture as one person; openpose
            finds the people itself and takes no boxes.
        people: Instead of boxes: `People` that another system found in this picture, such as openpose; for a list,
            one (or None) an image. The boxes are those of their joints.

    Returns:
        `People` for one image, a list of `People` for a list or a folder, an iterator of `People` for a video or
        camera. Coordinates are pixels of the picture given.
    """

    def open(self, source, skipped=None):
        """Opens pictures.

        Args:
            source: As for `posekit.data.sources.open_source`.
            skipped: As there.

        Returns:
            A `Source` of `Frame`.
        """
        return open_source(source, skipped)

    def __call__(self, source, *, boxes=None, people=None, batch_size=8):
        """See the class."""
        if len(getattr(source, "shape", ())) == 4:
            source = list(np.asarray(source))
        if people is not None:
            if boxes is not None:
                raise ValueError("Give boxes= or people=, not both.")
            listed = isinstance(source, (list, tuple))
            if not isinstance(people, (list, tuple) if listed else People):
                raise TypeError(
                    f"people={people!r:.60}: give the People that a predictor found in the picture, and for a list of "
                    "pictures a list of them."
                )
            boxes = people
        if isinstance(source, (list, tuple)):
            if boxes is not None and len(boxes) != len(source):
                raise ValueError(f"{len(boxes)} sets of boxes for {len(source)} images; give one (or None) an image.")
            frames = (_as_frame(item, index) for index, item in enumerate(source))
            return list(self.stream(frames, boxes=boxes, batch_size=batch_size))
        opened = self.open(source)
        if opened.kind == "image":
            return next(self.stream(opened, boxes=[boxes], batch_size=1))
        if boxes is not None:
            raise ValueError(f"boxes= goes with images; {source} is a {opened.kind}. Pass a list of images instead.")
        people = self.stream(opened, batch_size=1 if opened.kind == "camera" else batch_size)
        return list(people) if opened.kind == "folder" else people

    def stream(self, frames, *, boxes=None, batch_size=8):
        """Predicts frame after frame.

        Args:
            frames: Iterable of `Frame`.
            boxes: Iterable of boxes, or of `People` of these pictures, beside it; or None.
            batch_size: Frames predicted together.

        Yields:
            `People` of every frame, with the picture and a renderer for `People.draw`.

        Raises:
            TypeError: If what is beside a frame is something else.
            ValueError: If it is of another picture.
        """
        pairs = zip(frames, itertools.repeat(None) if boxes is None else boxes)
        for batch in _batches(pairs, batch_size):
            images = [frame.image for frame, _ in batch]
            found = self.module.predict(self.config, self.model, images, list(itertools.starmap(_boxes_in, batch)))
            for (frame, _), people in zip(batch, found):
                people.source = frame.name
                people.image = frame.image
                people.renderer = getattr(self.module, "render", self._draw)
                yield people

    def _draw(self, people, image, path=None, view=None, **options):
        if view is None or image is None:
            return draw_people(people, image, path, **options)
        return super()._draw(people, uint8_image(image), path, view, **options)


def _boxes_in(frame, boxes):
    """Boxes of people in a frame; refuses those of another picture."""
    height, width = frame.image.shape[:2]
    if isinstance(boxes, People):
        if tuple(boxes.image_size) != (height, width):
            raise ValueError(
                f"The People were found in a picture of {boxes.image_size[1]} x {boxes.image_size[0]} pixels, but "
                f"{frame.name:.200} has {width} x {height}; give those of the same picture."
            )
        boxes = people_boxes(boxes)
    if boxes is None:
        return None
    try:
        given = np.reshape(np.asarray(boxes, np.float64), (-1, 4))
    except (TypeError, ValueError):
        raise TypeError(f"boxes={boxes!r:.80}: give [people, 4] x_min, y_min, x_max, y_max in pixels.") from None
    for box in given:
        if not (box[:2] < (width, height)).all() or not (box[2:] > -1).all():
            raise ValueError(
                f"The box {', '.join(f'{edge:g}' for edge in box)} lies outside {frame.name:.200}, {width} x {height} "
                "pixels; give x_min, y_min, x_max, y_max of a person in this picture."
            )
    return given


def people_boxes(people, min_score=0.2):
    """Boxes around people, for systems that look at one person at a time.

    Args:
        people: `People`, or None.
        min_score: Joints with a lower score are left out, where two others span a person.

    Returns:
        Float64 `[people, 4]` x_min, y_min, x_max, y_max in pixels; None for None.

    Raises:
        TypeError: If it is something else.
        ValueError: If the joints of a person do not span anything.

    Example:
        >>> from posekit.skeletons import COCO17
        >>> joints = np.tile([[10.0, 20.0], [40.0, 90.0]], (9, 1))[None, :17]
        >>> people_boxes(People(joints, np.ones((1, 17)), COCO17, (100, 100))).tolist()
        [[10.0, 20.0, 40.0, 90.0]]
    """
    if people is None:
        return None
    if not isinstance(people, People):
        raise TypeError(f"people={people!r:.60}: give the People that a predictor found, for a list one an image.")
    boxes = np.zeros((len(people), 4))
    for index, (points, scores) in enumerate(zip(people.keypoints_px.astype(np.float64), people.scores)):
        there = np.isfinite(points).all(-1) & (scores > 0)
        for chosen in (there & (scores >= min_score), there):
            if chosen.any() and (np.ptp(points[chosen], axis=0) > 0).all():
                boxes[index] = *points[chosen].min(0), *points[chosen].max(0)
                break
        else:
            raise ValueError(f"The joints of person {index} do not span a box; leave this person out.")
    return boxes


def _batches(items, size):
    """Lists of so many items, the last one of what is left."""
    if not isinstance(size, (int, np.integer)) or size < 1:
        raise ValueError(f"batch_size={size!r:.40}: give a whole number of 1 or more, such as 8.")
    items = iter(items)
    while batch := list(itertools.islice(items, min(int(size), _MAX_BATCH))):
        yield batch


_MAX_BATCH = 1 << 20


class Lifter(_Loaded):
    """Lifts 2-D keypoints of people to 3-D.

    Args:
        name: System name.
        module: System module.
        config: Its options.
        model: Its Keras model, with the weights that lifting uses from then on.
        weights: `Weights` that the model was loaded from, None if untrained.

    Call arguments:
        keypoints: `[joints, 2]` x and y in pixels of one person, or `[people, joints, 2]`; with a third column, the
            confidence, which is 0 where a joint was not found (so is NaN). Or `People` that another system found; or
            the path of a file with keypoints (see `posekit.data.keypoint_files.read_keypoints`); or a list of these.
        image_size: `(width, height)` of the picture in pixels; `People` and most files bring their own.
        skeleton: Joints of arrays and of files that do not name them: a `Skeleton` or its name. By default
            `"H36M17"` for 17 joints, and otherwise the known skeleton of that many joints.
        placement: `"person"` moves and scales people to where the training poses stand, and suits any picture;
            `"image"` takes them where they are in the picture, as the original does, and suits pictures framed like
            Human3.6M's.
        batch_size: Pictures lifted together.

    Returns:
        `People` for one picture; for a file or a list, a list of `People` of all pictures. `joints3d` is in metres
        relative to the pelvis, camera axes (x right, y down, z away from the camera), in the order of `H36M17`, scaled
        to the body size of the training poses; NaN where hips and shoulders were not found. `keypoints_px` are the
        joints that were lifted, with the score 0 where one had to be guessed.

    Raises:
        ValueError: If joints, sizes or the image size do not fit.

    Example:
        >>> lift = posekit.load("lcn")  # doctest: +SKIP
        >>> people = lift(keypoints_px, image_size=(1920, 1080), skeleton="COCO17")  # doctest: +SKIP
        >>> people.joints3d.shape  # doctest: +SKIP
        (1, 17, 3)
    """

    def __init__(self, name, module, config, model, weights=None):
        super().__init__(name, module, config, model, weights)
        self.network = module.network(model)

    def open(self, source, skipped=None, *, skeleton=None, image_size=None, placement="person"):
        """Opens a file or folder of keypoints.

        Args:
            source: As for `posekit.data.keypoint_files.read_keypoints`.
            skipped: Accepted for the sake of `Predictor.open`; a keypoint file is read whole or refused.
            skeleton: As in the call.
            image_size: As in the call.
            placement: As in the call.

        Returns:
            A `Source` of `KeypointFrame`, which `stream` and `play` take.
        """
        if str(source) == "0":
            raise ValueError(f"{self.name} takes 2-D keypoints, not a camera: --source=keypoints.json")
        frames = read_keypoints(source, skeleton=skeleton or None, image_size=image_size or None)
        for frame in frames:
            frame.placement = _checked_placement(placement)
        several = len(frames) > 1
        return Source("folder" if several else "image", frames, len(frames), _KEYPOINT_FPS if several else None)

    def __call__(self, keypoints, *, image_size=None, skeleton=None, placement="person", batch_size=256):
        """See the class."""
        if isinstance(keypoints, KeypointFrame):
            return next(self.stream([keypoints]))
        placement = _checked_placement(placement)
        listed = isinstance(keypoints, (list, tuple)) and all(map(_is_a_picture, keypoints))
        frames = []
        for index, item in enumerate(keypoints if listed else [keypoints]):
            if isinstance(item, (str, pathlib.Path)):
                frames += self.open(item, skeleton=skeleton, image_size=image_size, placement=placement)
                continue
            people = item if isinstance(item, People) else _as_people(item, image_size, skeleton)
            if people is item:
                _check_places(people.keypoints_px, people.scores)
            name = people.source or f"image{index:06d}"
            frames.append(KeypointFrame(name, people, placement=placement))
        people = list(self.stream(frames, batch_size=batch_size))
        return people if listed or isinstance(keypoints, (str, pathlib.Path)) else people[0]

    def stream(self, frames, *, boxes=None, batch_size=256):
        """Lifts the people of one picture after another.

        Args:
            frames: Iterable of `KeypointFrame`.
            boxes: Accepted for the sake of `Predictor.stream`; must be None.
            batch_size: Pictures lifted together.

        Yields:
            `People` of every picture, with a renderer for `People.draw`.

        Raises:
            ValueError: If there are boxes.
        """
        if boxes is not None:
            raise ValueError(f"Boxes go with pictures; {self.name} lifts keypoints. Leave the box out.")
        for batch in _batches(frames, batch_size):
            placements = [frame.placement for frame in batch]
            found = self.module.predict(self.config, self.network, [frame.people for frame in batch], placements)
            for frame, people in zip(batch, found):
                people.source = frame.name
                if people.image is None:
                    people.image = frame.image
                people.renderer = self._draw
                yield people


_KEYPOINT_FPS = 25.0
PLACEMENTS = ("person", "image")


def _checked_placement(placement):
    if placement not in PLACEMENTS:
        raise ValueError(f"placement={placement!r}: choose one of {', '.join(PLACEMENTS)}.")
    return placement


def _is_a_picture(item):
    """Whether an item of a list is a picture of its own, not a row of an array."""
    return isinstance(item, (str, pathlib.Path, People)) or (hasattr(item, "__array__") and np.ndim(item) > 1)


def _as_people(keypoints, image_size, skeleton):
    """2-D `People` of an array."""
    try:
        points = np.asarray(keypoints)
    except ValueError:
        raise ValueError(
            "Keypoints must be numbers in rows of one length, [joints, 2 or 3] or [people, joints, 2 or 3]; for "
            "several pictures give a list of arrays, of files or of People, and nothing else among them."
        ) from None
    if points.dtype.kind not in "fiu" or points.ndim not in (2, 3) or points.shape[-1] not in (2, 3):
        raise ValueError(
            f"Keypoints of shape {points.shape} and type {points.dtype} cannot be lifted; give numbers "
            "[joints, 2 or 3] or [people, joints, 2 or 3]: x, y in pixels, and the confidence if there is one."
        )
    points = points.astype(np.float64)[(None,) * (3 - points.ndim)]
    unnamed, skeleton = skeleton is None, named_skeleton(skeleton) or _only_skeleton(points.shape[1])
    if points.shape[1] != skeleton.num_joints:
        raise ValueError(
            f"Keypoints of shape {np.shape(keypoints)} do not fit {skeleton.name}, which has {skeleton.num_joints} "
            "joints; pass skeleton= with their own."
        )
    if image_size is None:
        raise ValueError("Pass the size of the picture: image_size=(width, height) in pixels.")
    width, height = checked_size(image_size)
    known = np.isfinite(points).all(-1)
    scores = known * 1.0 if points.shape[-1] == 2 else np.where(known, np.clip(points[..., 2], 0.0, 1.0), 0.0)
    known = scores > 0
    keypoints_px = np.where(known[..., None], points[..., :2], np.nan)
    if known.any() and max(width, height) > 16 and np.abs(keypoints_px[known]).max() <= 2:
        raise ValueError("All coordinates lie between -2 and 2 and seem to be normalised; give pixels of the picture.")
    if unnamed and skeleton is H36M17 and _looks_like_coco(keypoints_px):
        raise ValueError(
            "The first five joints lie close together, as in a face: these seem to be COCO's 17 joints, not "
            "Human3.6M's. Pass skeleton='COCO17', or skeleton='H36M17' if they are not."
        )
    _check_places(keypoints_px, scores)
    return People(keypoints_px, scores, skeleton, (height, width))


def _check_places(points, scores):
    """Refuses joints that lie where no picture is, and people without extent."""
    known = np.isfinite(points).all(-1) & (scores > 0)
    for person, joint in np.argwhere(known & (np.abs(points).max(-1, initial=0) > MAX_PX))[:1]:
        raise ValueError(
            f"Joint {joint} of person {person} lies at {points[person, joint].tolist()}, farther out than {MAX_PX:g} "
            "pixels. Give pixels of the picture, and NaN or the confidence 0 where a joint was not found."
        )
    low = points.min(1, where=known[..., None], initial=np.inf)
    high = points.max(1, where=known[..., None], initial=-np.inf)
    for person in np.flatnonzero((known.sum(-1) > 2) & (low == high).all(-1))[:1]:
        raise ValueError(
            f"All joints of person {person} lie on one point, {low[person].tolist()}; give the place of each, and NaN "
            "or the confidence 0 where one was not found."
        )


def _looks_like_coco(points):
    """COCO begins with the face; Human3.6M with the pelvis and the right leg, which spans much of the body."""
    points = points[np.isfinite(points).all((-2, -1))]
    face, body = np.ptp(points[:, :5], axis=-2).max(-1), np.ptp(points, axis=-2).max(-1)
    return len(points) > 0 and np.mean(face < 0.2 * body) > 0.5


def _only_skeleton(count):
    """The network's own joints, or the only known skeleton of that many."""
    fitting = [skeleton for skeleton in SKELETONS.values() if skeleton.num_joints == count]
    if count == H36M17.num_joints:
        logging.log_first_n(
            logging.WARNING, "17 joints are taken as Human3.6M's (H36M17); for COCO's pass skeleton='COCO17'.", 1
        )
        return H36M17
    if len(fitting) != 1:
        known = ", ".join(f"{name} ({skeleton.num_joints})" for name, skeleton in SKELETONS.items())
        raise ValueError(f"{count} joints: pass skeleton=; known are {known}, or make a Skeleton of your own.")
    return fitting[0]


class DepthPredictor(_Loaded):
    """Finds the joints of a hand or a body in depth pictures.

    Args:
        name: System name.
        module: System module.
        config: Its options.
        model: Its Keras model, with weights.
        weights: `Weights` that the model was loaded from, None if untrained.

    Call arguments:
        source: `[height, width]` depths (an array or tensor), 0 where nothing was measured, or a stack
            `[frames, height, width]`; the path of a depth picture, a folder, a stack or a depth video, see
            `posekit.data.depth_sources`; or a list of pictures and paths. Also a `DepthFrame` of `open`.
        intrinsics: `(fx, fy, cx, cy)` of the depth camera in pixels, its `[3, 3]` matrix, or a `DepthCamera`. By
            default the camera of the dataset that the network was trained on, for pictures of its size only.
        center: `[3]` millimetres, camera axes (x right, y down, z away): about the middle of the hand or body; for
            several pictures also one of each. By default it is estimated: the nearest surface of its size.
        depth_scale: Millimetres that a value of 1 stands for, such as 1000 for metres; by default 1, in `.h5` 1000.
        layout: Of PNG files: `"mm16"`, or `"nyu"`, whose depth is green x 256 + blue.
        size: `(width, height)` of `.bin` files without a header.
        left_hand: Whether the hand is a left one. The datasets show right hands; a left one is looked at in a mirror.
        batch_size: Pictures predicted together.

    Returns:
        `People` of one hand or body, or of none where nothing was found, for one picture; a list of `People` for a
        list, a folder or a stack in memory; an iterator of `People` for a stack in a file or a video. `joints3d` is in
        metres, camera axes.

    Raises:
        ValueError: If a picture is none of depths, or the only one and empty; if the camera is not known or cannot be
            that of the picture, or a centre lies behind it or too far away; or if a `DepthFrame`, which is in
            millimetres already, comes with options of reading.
        TypeError: If an option is unknown.

    Example:
        >>> hand = posekit.load("v2v")(depth_mm, intrinsics=(475.1, 475.1, 315.9, 245.3))  # doctest: +SKIP
        >>> hand.joints3d.shape  # doctest: +SKIP
        (1, 21, 3)
    """

    def open(
        self,
        source,
        skipped=None,
        *,
        intrinsics=None,
        center=None,
        depth_scale=None,
        layout="mm16",
        size=None,
        left_hand=False,
    ):
        """Opens depth pictures.

        Args:
            source: As in the call.
            skipped: As for `posekit.data.depth_sources.open_depth`.
            intrinsics: As in the call, and so are the rest.
            center: See there.
            depth_scale: See there; 0 is the default, too.
            layout: See there.
            size: See there.
            left_hand: See there.

        Returns:
            A `Source` of `DepthFrame`, which `stream` and `play` take.
        """
        # What is no number is refused there.
        if isinstance(depth_scale, (int, float)) and depth_scale == 0:
            depth_scale = None
        opened = open_depth(source, skipped, layout=layout, size=size, depth_scale=depth_scale)
        camera, centers = _own_camera(intrinsics), _centers(center, opened.length)
        mirrored = _checked_hand(left_hand)

        def frames():
            for frame in opened:
                known = camera or self._dataset_camera(frame)
                center = centers(frame.index)
                yield dataclasses.replace(frame, camera=_sized(known, frame), center=center, left_hand=mirrored)

        return Source(opened.kind, frames(), opened.length, opened.fps)

    def __call__(self, source, *, batch_size=8, **options):
        """See the class."""
        unknown = [name for name in options if name not in _DEPTH_OPTIONS]
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: no option; these are: {', '.join(_DEPTH_OPTIONS)}, batch_size.")
        if isinstance(source, DepthFrame):
            return next(self.stream([_placed(source, **options)], batch_size=batch_size))
        opened = self.open(source, **options)
        people = self.stream(opened, batch_size=batch_size)
        if opened.kind == "image":
            return next(people)
        return people if opened.kind == "video" and isinstance(source, (str, pathlib.Path)) else list(people)

    def stream(self, frames, *, boxes=None, batch_size=8):
        """Predicts frame after frame.

        Args:
            frames: Iterable of `DepthFrame`.
            boxes: Accepted for the sake of `Predictor.stream`; must be None.
            batch_size: Frames predicted together.

        Yields:
            `People` of every frame, with the depth as their image and a renderer for `People.draw`.

        Raises:
            ValueError: If there are boxes.
        """
        if boxes is not None:
            raise ValueError(f"Boxes go with pictures of people; {self.name} takes a center=. Leave the box out.")
        for batch in _batches(frames, batch_size):
            cameras = [_sized(frame.camera or self._dataset_camera(frame), frame) for frame in batch]
            centers = [None if frame.center is None else _checked_center(frame.center) for frame in batch]
            depths, left_hands = [frame.depth for frame in batch], [frame.left_hand for frame in batch]
            found = self.module.predict(self.config, self.model, depths, cameras, centers, left_hands)
            for frame, people in zip(batch, found):
                people.source = frame.name
                people.image = frame.depth
                people.renderer = self._draw
                if not len(people):
                    logging.log_first_n(logging.WARNING, _NOTHING_FOUND, 3, frame.name)
                yield people

    def _dataset_camera(self, frame):
        camera = dataset_camera(self.config.dataset)
        if frame.depth.shape != (camera.height, camera.width):
            height, width = frame.depth.shape
            raise ValueError(
                f"{frame.name} has {width} x {height} pixels, which are not those of the dataset "
                f"{self.config.dataset}; pass the depth camera: intrinsics=(fx, fy, cx, cy), --intrinsics=fx,fy,cx,cy."
            )
        return camera


_DEPTH_OPTIONS = ("intrinsics", "center", "depth_scale", "layout", "size", "left_hand")
_NOTHING_FOUND = (
    "%s: nothing found at the distances of the dataset that the network was trained on. Say where the hand or body is: "
    "center=(x, y, z), --center=x,y,z in millimetres, y down."
)


def _own_camera(intrinsics):
    """`DepthCamera` of four numbers, or None."""
    if intrinsics is None or isinstance(intrinsics, DepthCamera):
        return intrinsics
    if isinstance(intrinsics, (list, tuple)) and not intrinsics:
        return None
    numbers = _numbers(intrinsics)
    if numbers.shape == (3, 3):  # a camera's matrix
        if not np.allclose(numbers[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], [0, 0, 0, 0, 1], rtol=0, atol=1e-6):
            raise ValueError(
                f"intrinsics={numbers.tolist()}: the camera's matrix must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; "
                "divide it by its last number, and rectify pictures of a camera with skew."
            )
        numbers = numbers[[0, 1, 0, 1], [0, 1, 2, 2]]
    if numbers.shape != (4,):
        raise ValueError(f"intrinsics={intrinsics!r:.80}: give fx, fy, cx, cy in pixels, such as (475, 475, 320, 240).")
    return DepthCamera(*numbers.tolist())


def _placed(frame, *, intrinsics=None, center=None, left_hand=None, **reading):
    """A `DepthFrame` with another camera, centre or hand, where there are any."""
    if reading:
        raise ValueError(
            f"{', '.join(reading)}: a DepthFrame holds millimetres and takes intrinsics=, center= and left_hand= only; "
            "the rest goes with files and arrays, in the call or in open()."
        )
    camera, chosen = _own_camera(intrinsics), _centers(center, 1)(0)
    return dataclasses.replace(
        frame,
        camera=frame.camera if camera is None else _sized(camera, frame),
        center=frame.center if chosen is None else chosen,
        left_hand=frame.left_hand if left_hand is None else _checked_hand(left_hand),
    )


def _sized(camera, frame):
    """A camera for a frame's size, in millimetres with y down."""
    height, width = frame.depth.shape
    lens, low, high = (camera.fx, camera.fy, camera.cx, camera.cy), *_FOCAL_PX
    reach = _CENTER_SIDES * max(width, height)
    if not (low <= min(lens[:2]) and max(lens[:2]) <= high and max(map(abs, lens[2:])) <= reach):
        raise ValueError(
            f"{frame.name}: intrinsics fx, fy, cx, cy = {', '.join(f'{number:g}' for number in lens)} are no camera's "
            f"of {width} x {height} pixels; focal lengths are {low:g} to {high:g} and the principal point within "
            f"{reach:g}, all in pixels."
        )
    return dataclasses.replace(camera, width=width, height=height, y_up=False, unit="mm")


def _checked_hand(left_hand):
    if not isinstance(left_hand, (bool, np.bool_)):
        raise ValueError(
            f"left_hand={left_hand!r:.80}: give True or False; where hands differ, predict left and right ones apart."
        )
    return bool(left_hand)


def _centers(center, count):
    """Function from a frame's index to its centre, or None."""
    if center is None or (isinstance(center, (list, tuple)) and not center):
        return lambda index: None
    listed = isinstance(center, (list, tuple)) and any(item is None or np.ndim(item) for item in center)
    several = listed or np.ndim(center) == 2
    rows = [None if item is None else _checked_center(item) for item in (center if several else [center])]
    if several and count is not None and len(rows) != count:
        raise ValueError(f"{len(rows)} centers for {count} depth pictures; give one (or None) for each, or one in all.")
    if not several:
        return lambda index: rows[0]
    return lambda index: rows[index] if index < len(rows) else None  # videos may be longer than they say


def _checked_center(center):
    """Float64 `[3]` millimetres before the camera."""
    numbers = _numbers(center)
    if numbers.shape != (3,) or not np.isfinite(numbers).all() or numbers[2] <= 0:
        given = numbers.tolist() if numbers.size else center
        raise ValueError(
            f"center={given!r:.80}: give x, y, z in millimetres, x to the right, y down and z, above 0, away from the "
            "camera."
        )
    if numbers[2] < 20:
        raise ValueError(
            f"center={numbers.tolist()} lies {numbers[2]:g} mm from the camera; give millimetres, not metres."
        )
    if np.abs(numbers).max() > FARTHEST_MM:
        raise ValueError(
            f"center={numbers.tolist()} lies farther away than {FARTHEST_MM / 1000:g} m; give x, y, z in millimetres."
        )
    return numbers


_FOCAL_PX = 10.0, 1e5
# Pictures may be crops: so many of their sides the principal point may lie away.
_CENTER_SIDES = 20


def _numbers(values):
    """Float64 array; empty where these are no numbers."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)


class ResultFolder:
    """Writes the results of many pictures into a folder, each under a name of its own that never leads elsewhere.

    Args:
        path: The folder, made where needed.
        formats: Of `"json"`, `"coco"`, `"openpose"`, `"npz"`, `"obj"` (one file a person, where there are meshes),
            `"png"` and `"keypoints"`, OpenPose's format under its own name.
        gathered: `ResultFile` that takes all of them too, or None.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(self, path, formats, gathered=None):
        self.path, self.formats, self.gathered = pathlib.Path(path), formats, gathered
        self._taken, self._numbers = set(), {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{path} cannot be made a folder ({error.strerror}); give another --output.") from None

    def write(self, people):
        """Writes one picture's people.

        Args:
            people: `People` of a predictor.

        Returns:
            Paths written.

        Raises:
            ValueError: If a format cannot hold them.
            OSError: If a file cannot be written.
        """
        written = write(people, self.path / self._stem(people.source or ""), self.formats)
        if self.gathered:
            self.gathered.add(people)
        return written

    def close(self):
        """Writes what was gathered."""
        if self.gathered:
            self.gathered.close()

    def _stem(self, source):
        stem = _file_stem(source)
        # Pictures of the same name from several folders, or of several formats; some systems tell no A from an a.
        for number in itertools.count(self._numbers.get(stem, 1)):
            chosen = stem if number == 1 else f"{stem}_{number}"
            files = {f"{chosen}{suffix}".casefold() for suffix in _SUFFIXES.values()}
            if not files & self._taken:
                self._taken |= files
                self._numbers[stem] = number + 1
                return chosen


class ResultFile:
    """Gathers the people of many pictures as one JSON file of COCO's, or as a folder of OpenPose's.

    Args:
        path: The file, which is written at the end, or the folder.
        style: `"coco"` or `"openpose"`.

    Raises:
        ValueError: If a file's name is given for a folder, or the other way round.
        OSError: If it cannot be written.
    """

    def __init__(self, path, style):
        self.path, self.style = pathlib.Path(path), style
        is_file = self.path.suffix.lower() == ".json"
        if style == "coco" and not is_file:
            raise ValueError(f"--json_out={path}: COCO's results are one file, such as --json_out=results.json.")
        if style == "openpose" and is_file:
            raise ValueError(
                f"--json_out={path}: OpenPose's results are a file a picture; give a folder, such as --json_out=json, "
                "or --json_style=coco."
            )
        self._results, self._ids = [], {}
        if style == "openpose":
            self._folder = ResultFolder(path, ("keypoints",))
        else:
            check_place(self.path)

    def add(self, people):
        """Takes one picture's people.

        Args:
            people: `People` of a predictor.

        Raises:
            ValueError: If another picture has the same id in COCO's results, or the format cannot hold them.
            OSError: If a file cannot be written.
        """
        if self.style == "openpose":
            self._folder.write(people)
            return
        results = people.coco_results()
        number = results[0]["image_id"] if results else None
        if number is not None and number in self._ids:
            raise ValueError(f"it has the image id {number!r}, as {self._ids[number]}; rename one of them")
        self._ids[number] = people.source
        self._results += results

    def close(self):
        """Writes COCO's file."""
        if self.style == "coco":
            write_file(self.path, (json.dumps(self._results, allow_nan=False) + "\n").encode())


_SUFFIXES = {
    "json": ".json", "coco": ".coco.json", "openpose": ".openpose.json", "npz": ".npz", "obj": ".obj", "png": ".png",
    "keypoints": "_keypoints.json",
}  # fmt: skip
_MAX_STEM_BYTES = 150  # file systems take 255 for a whole name


def _file_stem(source):
    """What the files of a picture are called: its name without folder and format, as every file system takes it."""
    name = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    suffix = pathlib.PurePath(name).suffix
    name = name.removesuffix(suffix) if suffix.lower() in (*IMAGE_SUFFIXES, *DEPTH_SUFFIXES) else name
    name = re.sub(r"#(\d{6})$", r"_\1", name)  # frames of videos
    name = "".join(letter if letter.isprintable() and letter not in '<>:"|?*' else "_" for letter in name)
    return name.strip(". ").encode()[:_MAX_STEM_BYTES].decode(errors="ignore") or "picture"


def write(people, stem, formats):
    """Writes a result in several formats.

    Args:
        people: `People` of a predictor.
        stem: Path without suffix; every format adds its own.
        formats: As for `ResultFolder`.

    Returns:
        Paths written.

    Raises:
        ValueError: If a format cannot hold them.
        OSError: If a file cannot be written.
    """
    written = []
    for name in formats:
        path = pathlib.Path(f"{stem}{_SUFFIXES[name]}")
        if name == "obj":
            meshes = 0 if people.vertices is None else len(people)
            paths = [path] if meshes == 1 else [pathlib.Path(f"{stem}_{person}.obj") for person in range(meshes)]
            for person, path in enumerate(paths):
                people.save_obj(path, person)
            written += paths
            continue
        if name == "npz":
            people.save_npz(path)
        elif name == "keypoints":
            people.save(path, "openpose")
        elif name == "png":
            people.draw(path)
        else:
            people.save(path, style=name)
        written.append(path)
    return written


def at_least_one(source, skipped):
    """Lets a source end in an error if all of its pictures had to be skipped, which leaves nothing to show.

    Args:
        source: `Source` that was opened with `skipped`.
        skipped: List that takes what is wrong with pictures that cannot be used.

    Returns:
        `Source` of the same frames; it raises a `ValueError` at its end where there were none at all.
    """

    def frames():
        frame = None
        for frame in source:
            yield frame
        if frame is None and skipped:
            several = f"None of {len(skipped)} pictures can be used; the first: " if len(skipped) > 1 else ""
            raise ValueError(several + skipped[0])
        if frame is None:
            raise ValueError("There is not a single picture in it.")

    return Source(source.kind, frames(), source.length, source.fps)


def _as_frame(item, index):
    if isinstance(item, (str, pathlib.Path)):
        return Frame(read_image(item), pathlib.Path(item).name, index)
    return Frame(as_image(item), f"image{index:06d}", index)
