"""Trains a system: `python -m posekit.train --num_epochs=120`."""

import dataclasses
import os
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import Options, UsageError, option, parse


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Trains a system and writes a run folder: configuration, logs, TensorBoard events, checkpoints."""

    run_dir: str = option("", "run folder; empty: named after the options", aliases=("model_dir", "checkpoint_dir"))
    log_dir: str = option("logs", "folder in which run folders are made", aliases=("logs",))
    resume: bool = option(False, "continue the run in --run_dir exactly", aliases=("train_from_checkpoint",))
    dry_run: bool = option(False, "build everything, take one step, write nothing")
    verbose: int = option(1, "progress: 0 silent, 1 bar, 2 one line an epoch", lower=0, upper=2)


def main(argv=None):
    """Runs the command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit status: 0 finished, 1 error, 2 usage, 130 interrupted and saved.
    """
    try:
        name, system, config, options, extra = parse(sys.argv[1:] if argv is None else argv, SYSTEMS, Command)
        if extra:
            raise UsageError(f"Unexpected arguments {extra}; options are written --name=value. See --help.")
        return run_command(name, system, config, options)
    except UsageError as error:
        print(f"posekit.train: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"posekit.train: {error}", file=sys.stderr)
        return 1


def run_command(name, system, config, options):
    """Starts or continues the run that the options describe; returns the exit status."""
    from posekit.training import loop
    from posekit.training.run import RunFolder

    if options.dry_run:
        for metric, value in loop.dry_run(system, config).items():
            print(f"  {metric:45s} {value:.6g}")
        print("Dry run: one step taken, nothing written.")
        return 0
    run = RunFolder(options.run_dir or pathlib.Path(options.log_dir) / system.run_name(config))
    if options.resume and not options.run_dir:
        raise UsageError("--resume needs the run to continue: add --run_dir=FOLDER.")
    if not options.resume and run.checkpoint("last"):
        raise UsageError(f"{run.path} already holds a run; add --resume to continue it, or name another --run_dir.")
    print(f"Run folder: {run.path}")
    progress, finished = loop.train(name, system, config, run, resume=options.resume, verbose=options.verbose)
    if not finished:
        print(f"Saved after epoch {progress.epoch}, step {progress.step}. To continue:")
        print(f"  python -m posekit.train --model={name} --run_dir={run.path} --resume")
        return 130
    best = "-" if progress.best is None else f"{progress.best:.5g}"
    print(f"Trained {progress.epoch} epochs ({progress.global_step} steps); best {best}. Next:")
    print(f"  python -m posekit.validate --run_dir={run.path}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
