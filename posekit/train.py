"""Trains a system: `python -m posekit.train --num_epochs=120`."""

import dataclasses
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import (
    Options,
    UsageError,
    further_options,
    import_tensorflow_quietly,
    no_more,
    option,
    run_command,
    stored_in_run,
)


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Trains a system and writes a run folder: configuration, logs, TensorBoard events, checkpoints."""

    run_dir: str = option("", "run folder; empty: named after the options", aliases=("model_dir", "checkpoint_dir"))
    log_dir: str = option("logs", "folder in which run folders are made", aliases=("logs",))
    resume: bool = option(False, "continue the run in --run_dir exactly", aliases=("train_from_checkpoint",))
    dry_run: bool = option(False, "build everything, take one step, write nothing")
    verbose: int = option(1, "progress: 0 silent, 1 bar, 2 one line an epoch", lower=0, upper=2)


def stored(options, name):
    """A run that is resumed starts from its own configuration, a fresh one from the defaults."""
    return stored_in_run(options, name) if options.resume else {}


def run(name, system, config, options, rest):
    """Starts or continues the run that the options describe; returns the exit status, 130 after Ctrl-C."""
    from posekit.training import loop
    from posekit.training.run import RunFolder

    no_more(rest)
    if options.dry_run:
        for metric, value in loop.dry_run(system, config).items():
            print(f"  {metric:45s} {value:.6g}")
        print("Dry run: one step taken, nothing written.")
        return 0
    if options.resume and not options.run_dir:
        raise UsageError("--resume needs the run to continue: add --run_dir=FOLDER.")
    further = further_options(system, "train", options)
    folder = RunFolder(options.run_dir or pathlib.Path(options.log_dir) / system.run_name(config, **further))
    if options.resume and not folder.path.exists():
        raise UsageError(f"There is no run {folder.path} to resume; leave --resume out to begin one there.")
    if not options.resume and folder.checkpoint("last"):
        raise UsageError(f"{folder.path} already holds a run; add --resume to continue it, or name another --run_dir.")
    print(f"Run folder: {folder.path}")
    progress, finished = loop.train(name, system, config, folder, resume=options.resume, verbose=options.verbose)
    if not finished:
        print(f"Saved after epoch {progress.epoch}, step {progress.step}. To continue:")
        print(f"  python -m posekit.train --model={name} --run_dir={folder.path} --resume")
        return 130
    best = "" if progress.best is None else f"; best {progress.best:.5g}"
    print(f"Trained {progress.epoch} epochs ({progress.global_step} steps){best}. Next:")
    print(f"  python -m posekit.validate --run_dir={folder.path}")
    return 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.train", SYSTEMS, Command, run, argv, stored)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
