"""Predicts on pictures: `python -m posekit.predict photo.jpg --output=out`."""

import dataclasses
import os
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import UsageError, option, run_command
from posekit.weights import WeightsOptions, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Predicts on images, folders or videos named on the command line and writes results beside each name."""

    output: str = option("predictions", "folder of the results")
    formats: tuple[str, ...] = option(
        ("json", "npz", "obj", "png"), "what to write", choices=("json", "coco", "openpose", "npz", "obj", "png")
    )
    box: tuple[str, ...] = option((), "x_min,y_min,x_max,y_max of the person, px, for a single image")
    batch: int = option(8, "pictures predicted together", lower=1)


def run(name, system, config, options, sources):
    """Predicts and writes; returns the exit status."""
    from posekit.predictor import Predictor, write

    if not sources:
        raise UsageError("Name the pictures: python -m posekit.predict photo.jpg --output=out")
    box = [[float(value) for value in options.box]] if options.box else None
    predictor = Predictor.from_weights(name, config, options.reference)
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        found = predictor(source, boxes=box, batch_size=options.batch)
        for people in [found] if hasattr(found, "keypoints_px") else found:
            stem = pathlib.Path(people.source).stem if "#" not in people.source else people.source.replace("#", "_")
            written = write(people, folder / stem, options.formats)
            print(f"{people.source}: {len(people)} people -> {', '.join(map(str, written))}")
    return 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.predict", SYSTEMS, Command, run, argv, stored_with_weights)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
