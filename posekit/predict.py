"""Predicts on pictures: `python -m posekit.predict photo.jpg --output=out`."""

import dataclasses
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import UsageError, further_options, import_tensorflow_quietly, option, run_command
from posekit.weights import WeightsOptions, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Predicts on images, folders or videos (lcn: keypoints, v2v: depth) named on the command line; writes results."""

    output: str = option("predictions", "folder of the results")
    formats: tuple[str, ...] = option(
        ("json", "npz", "obj", "png"), "what to write", choices=("json", "coco", "openpose", "npz", "obj", "png")
    )
    json_out: str = option("", "gather all pictures: a .json file of COCO's, or a folder as of OpenPose's --write_json",
                           aliases=("write_json",))  # fmt: skip
    json_style: str = option("coco", "style of --json_out", choices=("coco", "openpose"))
    box: tuple[str, ...] = option((), "x_min,y_min,x_max,y_max of the person, px, for a single image")
    batch: int = option(8, "pictures predicted together", lower=1)

    @property
    def numbers(self):
        """The box as four numbers, or None."""
        try:
            numbers = [float(value) for value in self.box]
        except ValueError:
            numbers = []
        if self.box and len(numbers) != 4:
            raise UsageError(f"--box={','.join(self.box)} must be four numbers x_min,y_min,x_max,y_max in pixels.")
        return numbers or None


def run(name, system, config, options, sources):
    """Predicts and writes; returns the exit status: 0, 3 if pictures had to be skipped, 1 if all of them had."""
    from posekit.playback import film_command
    from posekit.predictor import predictor_class

    if not sources:
        raise UsageError("Name the pictures: python -m posekit.predict photo.jpg --output=out")
    box = options.numbers
    if box and len(sources) > 1:
        raise UsageError(f"--box goes with a single image, not with {len(sources)}.")
    predictor = predictor_class(system).from_weights(name, config, options.reference)
    further, skipped, written = further_options(system, "predict", options), [], 0
    folder = predictor.results(options.output, options.formats, options.json_out, options.json_style)
    for source in sources:
        try:
            opened = predictor.open(source, skipped, **further)
            if box and opened.kind != "image":
                raise ValueError(f"--box goes with a single image, not with a {opened.kind}.")
            if opened.kind == "video" and "png" in options.formats:
                print(f"{source}: every frame becomes a picture; for one film: {film_command(name, options, source)}")
            for people in predictor.stream(opened, boxes=[[box]] if box else None, batch_size=options.batch):
                label = ascii(people.source)[1:-1] if not people.source.isprintable() else people.source
                try:
                    count = "1 person" if len(people) == 1 else f"{len(people)} people"
                    print(f"{label:.200}: {count} -> {', '.join(map(str, folder.write(people)))}")
                    written += 1
                except ValueError as error:
                    skipped.append(f"{label:.200} of {source}: {error}")
        except (ValueError, FileNotFoundError) as error:
            skipped.append(f"{source}: {error}")
    folder.close()
    for reason in skipped:
        print(f"posekit.predict: skipped {reason}", file=sys.stderr)
    return (3 if written else 1) if skipped else 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.predict", SYSTEMS, Command, run, argv, stored_with_weights)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
