"""Turns checkpoints of the originals into posekit weights, and shows how far the outputs are apart.

    python tools/convert_checkpoint.py --model=lcn --from=tf1 experiment/test1/checkpoints/best/model-7798

Sizes are read from the checkpoint; what it does not tell (which joints are connected, residual connections, clipping)
is taken from the system's options, such as --knn=3. The result is a run folder:

    python -m posekit.validate --model=lcn --run_dir=converted

With --reference=FILE.npz, a file with an input and the original's output for it, the difference is printed.
"""

import dataclasses
import importlib
import pathlib
import sys

import numpy as np

from posekit.files import read_npz
from posekit.training.config import (
    Options,
    UsageError,
    import_tensorflow_quietly,
    option,
    run_command,
)


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Turns a checkpoint, named on the command line, into a folder that every posekit command takes as --run_dir."""

    source: str = option("tf1", "what wrote it: tf1 is TensorFlow 1's saver", choices=("tf1",), aliases=("from",))
    output: str = option("converted", "run folder to write")
    overwrite: bool = option(False, "replace an earlier conversion in --output")
    reference: str = option("", ".npz with an input and the original's output for it")
    reference_input: str = option("x", "name of the input in --reference")
    reference_output: str = option("pred_eval", "name of the output in --reference")


def run(name, system, config, options, rest):
    """Converts; returns the exit status."""
    from posekit.training.run import Progress, RunFolder

    if len(rest) != 1:
        raise UsageError(f"Name one checkpoint, not {len(rest)}: convert_checkpoint.py --from=tf1 CHECKPOINT")
    folder = RunFolder(options.output)
    if folder.path.exists() and any(folder.path.iterdir()) and not options.overwrite:
        raise FileExistsError(f"{folder.path} is there already; add --overwrite, or name another --output.")
    # Imported on demand: the readers need the whole system.
    reader = importlib.import_module(f"converters.{options.source}_checkpoint")
    config, model = reader.convert(system, config, pathlib.Path(rest[0]))
    reference = _read_reference(options) if options.reference else None
    folder.create(name, config)
    folder.save("best", Progress(), model)
    print(f"Wrote {folder.path}: {model.count_params()} parameters.")
    if reference:
        difference, size = _difference(model, *reference)
        print(f"Largest difference from the original's output: {difference:.3g} (its largest value: {size:.3g})")
    print(f"Next: python -m posekit.validate --model={name} --run_dir={folder.path}")
    return 0


def _read_reference(options):
    arrays = read_npz(options.reference, (options.reference_input, options.reference_output))
    return [np.asarray(arrays[key], np.float32) for key in (options.reference_input, options.reference_output)]


def _difference(model, inputs, expected):
    """The original's arrays may have their joints and coordinates in one axis."""
    try:
        inputs = inputs.reshape(len(inputs), *model.inputs[0].shape[1:])
        found = model.predict_on_batch(inputs).reshape(expected.shape)
    except ValueError as error:
        raise ValueError(
            f"--reference: an input of shape {inputs.shape} and an output of shape {expected.shape} do not fit the "
            f"model, which maps [batch, {', '.join(map(str, model.inputs[0].shape[1:]))}] ({error})."
        ) from None
    return float(np.abs(found - expected).max()), float(np.abs(expected).max())


def main(argv=None):
    """Runs the command; returns its exit status."""
    from posekit.systems import SYSTEMS

    systems = {"lcn": SYSTEMS["lcn"]}
    argv = sys.argv[1:] if argv is None else list(argv)
    if not any(argument.startswith("--model") for argument in argv):
        argv = ["--model=lcn", *argv]
    return run_command("convert_checkpoint", systems, Command, run, argv)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
