"""One predictor for every kind of picture: `posekit.load("hmr")("photo.jpg")`."""

import itertools
import pathlib

from absl import logging

from posekit import weights as weight_files
from posekit.data.sources import Frame, as_image, open_source, read_image
from posekit.drawing import draw_people
from posekit.systems import SYSTEMS


def load(system, weights="default", **options):
    """Loads a system, ready to predict.

    Args:
        system: `"hmr"`.
        weights: A name of the index, a run folder, a `.weights.h5` file, `"default"` for the index's default, or None
            for an untrained model.
        **options: Options of the system that override those stored with the weights, such as `body="sample"`.

    Returns:
        A `Predictor`.

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
    return Predictor(system, module, config, weight_files.load_model(module, config, found), found)


class Predictor:
    """Finds people in pictures.

    Args:
        name: System name.
        module: System module.
        config: Its options.
        model: Its Keras model, with weights.
        weights: `Weights` that the model was loaded from, None if untrained.

    Call arguments:
        source: A path of an image, an RGB picture (anything that NumPy takes as an array: a tensor, a PIL image), a
            list of both; a folder, a video or a camera number.
        batch_size: Pictures predicted together.
        boxes: For one image: `[people, 4]` boxes x_min, y_min, x_max, y_max in pixels; for a list, one such array
            (or None) an image. Without boxes the whole picture is taken as one person.

    Returns:
        `People` for one image, a list of `People` for a list or a folder, an iterator of `People` for a video or
        camera. Coordinates are pixels of the picture given.
    """

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

    def __call__(self, source, *, boxes=None, batch_size=8):
        """See the class."""
        if isinstance(source, (list, tuple)):
            if boxes is not None and len(boxes) != len(source):
                raise ValueError(f"{len(boxes)} sets of boxes for {len(source)} images; give one (or None) an image.")
            frames = (_as_frame(item, index) for index, item in enumerate(source))
            return list(self.stream(frames, boxes=boxes, batch_size=batch_size))
        if hasattr(source, "__array__"):
            return next(self.stream([_as_frame(source, 0)], boxes=[boxes], batch_size=1))
        opened = open_source(source)
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
            boxes: Iterable of boxes beside it, or None.
            batch_size: Frames predicted together.

        Yields:
            `People` of every frame, with the picture and a renderer for `People.draw`.
        """
        pairs = zip(frames, itertools.repeat(None) if boxes is None else boxes)
        while batch := list(itertools.islice(pairs, batch_size)):
            images = [frame.image for frame, _ in batch]
            found = self.module.predict(self.config, self.model, images, [box for _, box in batch])
            for (frame, _), people in zip(batch, found):
                people.source = frame.name
                people.image = frame.image
                people.renderer = draw_people
                yield people


def write(people, stem, formats):
    """Writes a result in several formats.

    Args:
        people: `People` of a predictor.
        stem: Path without suffix; every format adds its own.
        formats: Of `"json"`, `"coco"`, `"openpose"`, `"npz"`, `"obj"` (one file a person, where there are meshes)
            and `"png"`.

    Returns:
        Paths written.

    Raises:
        OSError: If a file cannot be written.
    """
    written = []

    def path(suffix):
        written.append(pathlib.Path(f"{stem}{suffix}"))
        return written[-1]

    for name in formats:
        if name in ("coco", "openpose"):
            people.save(path(f".{name}.json"), style=name)
        elif name == "json":
            people.save(path(".json"))
        elif name == "npz":
            people.save_npz(path(".npz"))
        elif name == "png":
            people.draw(path(".png"))
        elif people.vertices is not None:
            for person in range(len(people)):
                people.save_obj(path(".obj" if len(people) == 1 else f"_{person}.obj"), person)
    return written


def _as_frame(item, index):
    if isinstance(item, (str, pathlib.Path)):
        return Frame(read_image(item), pathlib.Path(item).name, index)
    return Frame(as_image(item), f"image{index:06d}", index)
