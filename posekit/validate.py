"""Evaluates trained weights: `python -m posekit.validate --run_dir=logs/...`."""

import dataclasses
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import import_tensorflow_quietly, no_more, option, run_command
from posekit.weights import WeightsOptions, load_model, resolve, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Evaluates weights on the validation sets: a table, metrics.json, pictures of the best and worst images."""

    baseline: bool = option(False, "evaluate the untrained model beside it")
    output_dir: str = option("", "folder of metrics.json and pictures; empty: validation/ in the run folder")
    num_pictures: int = option(4, "best and worst images to draw, of each", lower=0)


def run(name, system, config, options, rest):
    """Evaluates, prints the table and writes the files; returns the exit status."""
    import keras

    from posekit.systems.evaluation import table, write_metrics, write_pictures

    no_more(rest)
    # The untrained model is random; the same seed gives the same numbers.
    keras.utils.set_random_seed(config.seed)
    found = resolve(options.reference, name)
    results = {"trained": system.evaluate(config, load_model(system, config, found), options.num_pictures)}
    if options.baseline:
        results["untrained"] = system.evaluate(config, load_model(system, config, None), 0)
    print(table(results))
    run_dir = pathlib.Path(options.run_dir)
    folder = pathlib.Path(options.output_dir or (run_dir if run_dir.is_dir() else pathlib.Path()) / "validation")
    print(f"Wrote {write_metrics(folder, found, results)}")
    for path in write_pictures(folder, results["trained"], options.num_pictures):
        print(f"Wrote {path}")
    return 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.validate", SYSTEMS, Command, run, argv, stored_with_weights)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
