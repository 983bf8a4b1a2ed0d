"""Evaluates trained weights: `python -m posekit.validate --run_dir=logs/...`."""

import dataclasses
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import (
    UsageError,
    further_options,
    import_tensorflow_quietly,
    no_more,
    option,
    run_command,
    stored_in_run,
)
from posekit.weights import WeightsOptions, load_ensemble, load_model, resolve, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Evaluates weights on the validation sets: a table, metrics.json, pictures of the best and worst images."""

    baseline: bool = option(False, "evaluate the untrained model beside it")
    output_dir: str = option("", "folder of metrics.json and pictures; empty: validation/ in the run folder")
    num_pictures: int = option(4, "best and worst images to draw, of each", lower=0)
    results: str = option("", "score a result file instead of weights, where the system has such files")


def stored(options, name):
    """The configuration beside the weights; a result file has none."""
    return stored_in_run(options, name) if options.results else stored_with_weights(options, name)


def run(name, system, config, options, rest):
    """Evaluates, prints the table and writes the files; returns the exit status."""
    import keras

    from posekit.systems.evaluation import table, write_metrics, write_pictures

    no_more(rest)
    further = further_options(system, "validate", options)
    if options.results:
        if not hasattr(system, "evaluate_results"):
            those = [f"--model={other}" for other, load in SYSTEMS.items() if hasattr(load(), "evaluate_results")]
            raise UsageError(
                f"--results={options.results}: {name} has no result files; did you mean {' or '.join(those)}?"
            )
        evaluated = options.results
        results = {"results": system.evaluate_results(config, evaluated, options.num_pictures, **further)}
    else:
        # The untrained model is random; the same seed gives the same numbers.
        keras.utils.set_random_seed(config.seed)
        found, epochs = resolve(options.reference, name), further.pop("ensemble", 0)
        evaluated = found.path
        ensemble = load_ensemble(name, system, config, options.run_dir, epochs) if epochs else None
        model = ensemble or load_model(system, config, found)
        results = {"trained": system.evaluate(config, model, options.num_pictures, **further)}
    if options.baseline:
        results["untrained"] = system.evaluate(config, load_model(system, config, None), 0, **further)
    print(table(results))
    first = next(iter(results.values()))
    if first.text:
        print(first.text)
    run_dir = pathlib.Path(options.run_dir)
    folder = pathlib.Path(options.output_dir or (run_dir if run_dir.is_dir() else pathlib.Path()) / "validation")
    print(f"Wrote {write_metrics(folder, evaluated, results)}")
    for path in write_pictures(folder, first, options.num_pictures):
        print(f"Wrote {path}")
    return 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.validate", SYSTEMS, Command, run, argv, stored)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
