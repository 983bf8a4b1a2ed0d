"""Shows predictions live: `python -m posekit.preview --source=0` (camera), a video, an image or a folder.

With `--model=lcn` the source is a file of 2-D keypoints, with `--model=v2v` depth: a picture, folder, stack or video.
"""

import dataclasses
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import UsageError, further_options, import_tensorflow_quietly, no_more, option, run_command
from posekit.weights import WeightsOptions, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Shows predictions. Keys: the first letter of a view, ESC quits."""

    source: str = option("0", "camera number, video, image or folder; lcn: keypoints; v2v: depth")
    output: str = option("", "write a video (.mp4, .gif) or pictures (.png, .jpg) instead of opening a window")
    view: str = option(
        "", "view to begin with; hmr: mesh, skeleton, both, rotated; lcn: both, skeleton, rotated; v2v: both, depth, "
        "3d; openpose: people, heatmaps, fields",
    )
    predict_every: int = option(0, "predict every so many frames; 0: every 5 for a camera, else every frame", lower=0,
                                aliases=("frame_ratio",))  # fmt: skip
    rotate: str = option("0", "turn frames clockwise, degrees", choices=("0", "90", "180", "270"))
    mirror: bool = option(False, "mirror frames")
    max_frames: int = option(0, "stop after so many frames; 0: no limit", lower=0)
    fps: float = option(
        0.0, "frames a second of a video or .gif; 0: as filmed, of photos 2, of depth pictures 5", lower=0.0, upper=1e3
    )


def run(name, system, config, options, rest):
    """Plays the source; returns the exit status: 0, or 3 if pictures had to be skipped."""
    from posekit.playback import check_output, play
    from posekit.predictor import at_least_one, predictor_class

    no_more(rest)
    view = getattr(system, "VIEW_ALIASES", {}).get(options.view, options.view)
    if view and view not in system.VIEWS:
        raise UsageError(f"--view={options.view} is not a view of {name}; choose from {', '.join(system.VIEWS)}.")
    check_output(options.output, options.fps)
    predictor = predictor_class(system).from_weights(name, config, options.reference)
    skipped = []
    opened = predictor.open(options.source, skipped, **further_options(system, "preview", options))
    played = play(
        predictor,
        at_least_one(opened, skipped),
        options.output,
        view=view or system.VIEWS[0],
        keys=system.KEYS,
        draw=system.drawer(),
        animate=getattr(system, "animate", None),
        every=options.predict_every,
        rotate=int(options.rotate),
        mirror=options.mirror,
        max_frames=options.max_frames,
        fps=options.fps,
    )
    print(f"{played.count} frames, {played.rate:.1f} a second, each shown {played.latency_ms:.0f} ms after reading.")
    for path in played.paths:
        print(f"Wrote {path}")
    for reason in skipped:
        print(f"posekit.preview: skipped {reason}", file=sys.stderr)
    return 3 if skipped else 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.preview", SYSTEMS, Command, run, argv, stored_with_weights)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
