"""Exports trained weights: `python -m posekit.export --run_dir=logs/... --format=saved_model --output=exported`."""

import dataclasses
import pathlib
import sys

from posekit.systems import SYSTEMS
from posekit.training.config import import_tensorflow_quietly, no_more, option, run_command
from posekit.weights import WeightsOptions, load_model, resolve, stored_with_weights


@dataclasses.dataclass(frozen=True)
class Command(WeightsOptions):
    """Exports a model without its training code and checks it in its own runtime against the Keras model."""

    format: str = option("saved_model", "what to write", choices=("saved_model", "keras", "tflite", "onnx"))
    output: str = option("", "file or folder to write; empty: named after system and format")
    overwrite: bool = option(False, "replace an existing output")


def run(name, system, config, options, rest):
    """Exports, checks and prints the difference; returns the exit status."""
    from posekit.systems.exporting import SUFFIXES, check, export

    no_more(rest)
    output = pathlib.Path(options.output or f"{name}{SUFFIXES[options.format]}")
    suffix = SUFFIXES[options.format]
    if suffix.startswith(".") and output.suffix != suffix:
        raise ValueError(f"--output={output} must end in {suffix} for --format={options.format}.")
    if output.exists() and not options.overwrite:
        raise FileExistsError(f"{output} exists; add --overwrite, or name another --output.")
    model = load_model(system, config, resolve(options.reference, name))
    export(model, output, options.format)
    difference = check(model, output, options.format)
    print(f"Wrote {output}; largest difference from the Keras model in its own runtime: {difference:.2g}")
    return 0


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command("posekit.export", SYSTEMS, Command, run, argv, stored_with_weights)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
