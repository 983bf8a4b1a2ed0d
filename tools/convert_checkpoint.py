"""Turns checkpoints of the originals into posekit weights, and shows how far the outputs are apart.

    python tools/convert_checkpoint.py --from=tf1 experiment/test1/checkpoints/best/model-7798
    python tools/convert_checkpoint.py --from=torch checkpoint/epoch14.pth
    python tools/convert_checkpoint.py --from=caffe pose_iter_440000.caffemodel
    python tools/convert_checkpoint.py --from=keras model.h5
    python tools/convert_checkpoint.py --from=npy model/caffe/layers

What wrote a checkpoint tells the model: lcn (tf1), v2v (torch), openpose (caffe, keras, npy); without --from it is lcn.
Sizes are read from the checkpoint; what it does not tell (which joints are connected, residual connections, clipping;
the dataset, the size of the cube) is taken from the system's options, such as --knn=3 or --dataset=nyu. Neither Caffe
nor an old TensorFlow, Keras or PyTorch is needed. The result is a run folder:

    python -m posekit.validate --model=lcn --run_dir=converted

With --reference=FILE.npz, a file with an input and the original's output for it, the difference is printed. Nothing is
written before everything else has succeeded.
"""

import dataclasses
import importlib
import os
import pathlib
import shutil
import sys

import numpy as np

from posekit.files import read_npz
from posekit.training.config import (
    Options,
    UsageError,
    help_line,
    import_tensorflow_quietly,
    option,
    run_command,
)

# Systems, and by what their originals' checkpoints were written, the usual one first.
SOURCES = {"lcn": ("tf1",), "v2v": ("torch",), "openpose": ("caffe", "keras", "npy")}
_MODELS = {source: model for model, sources in SOURCES.items() for source in sources}
# Modules of `converters` that read them; one that reads several takes `source`.
_READERS = {"lcn": "tf1_checkpoint", "v2v": "torch_checkpoint", "openpose": "openpose_weights"}
# What a conversion writes; a folder with anything else is left alone.
_FOLDERS = ("", "checkpoints", "checkpoints/best")
_MAX_REFERENCE_BYTES = 512 << 20
_WRITTEN = {*_FOLDERS, "config.json", "checkpoints/best/model.weights.h5", "checkpoints/best/progress.json"}


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Turns a checkpoint, named on the command line, into a folder that every posekit command takes as --run_dir."""

    source: str = option(
        "",
        "what wrote it: TensorFlow 1's saver (tf1, of lcn), PyTorch (torch, of v2v), or Caffe (caffe), the Keras port "
        "(keras) or its dump of Caffe's layers (npy), all three of openpose; empty: the model's first",
        choices=("", *(source for sources in SOURCES.values() for source in sources)), aliases=("from",),
    )  # fmt: skip
    output: str = option("converted", "run folder to write")
    overwrite: bool = option(False, "replace an earlier conversion in --output")
    reference: str = option("", ".npz with an input and the original's output for it")
    reference_input: str = option("x", "name of the input in --reference")
    reference_output: str = option("pred_eval", "name of the output in --reference")


Command.__doc__ = __doc__  # the help of one model's options begins as that of all


def run(name, system, config, options, rest):
    """Converts; returns the exit status."""
    sources = SOURCES[name]
    source = options.source or sources[0]
    if source not in sources:
        other = next(model for model, kinds in SOURCES.items() if source in kinds)
        fitting = " or ".join(f"--from={kind}" for kind in sources)
        raise UsageError(f"--from={source} is of --model={other}; --model={name} reads {fitting}.")
    if len(rest) != 1:
        raise UsageError(f"Name one checkpoint, not {len(rest)}: convert_checkpoint.py --from={source} CHECKPOINT")
    output = pathlib.Path(options.output)
    _check_output(output, options.overwrite)
    reference = _read_reference(options) if options.reference else None
    # Imported on demand: the readers need the whole system.
    reader = importlib.import_module(f"converters.{_READERS[name]}")
    chosen = {"source": source} if len(sources) > 1 else {}
    config, model = reader.convert(system, config, pathlib.Path(rest[0]), **chosen)
    if reference:
        difference = _difference(reader, model, config, *reference)
        largest = np.abs(reference[1]).max()
        print(f"Largest difference from the original's output: {difference:.3g} (its largest value: {largest:.3g})")
    _write(output, name, config, model)
    print(f"Wrote {output}: {model.count_params()} parameters.")
    print(f"Next: python -m posekit.validate --model={name} --run_dir={output}")
    return 0


def _check_output(output, overwrite):
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file; name another --output.")
    there = [path for part in _FOLDERS if (output / part).is_dir() for path in (output / part).iterdir()]
    foreign = [path.name for path in there if path.relative_to(output).as_posix() not in _WRITTEN]
    if foreign:
        raise FileExistsError(
            f"{output} holds what no conversion wrote, such as {min(foreign)!r}; name another --output."
        )
    if there and not overwrite:
        raise FileExistsError(f"{output} is there already; add --overwrite, or name another --output.")


def _write(output, name, config, model):
    """Writes the run folder beside its place and moves it there, so that it is never half there."""
    from posekit.training.run import Progress, RunFolder

    output = pathlib.Path(os.path.realpath(output))
    temporary, old = (output.with_name(f".{output.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    folder = RunFolder(temporary)
    try:
        folder.create(name, config)
        folder.save("best", Progress(), model)
        if output.exists():
            os.replace(output, old)
        try:
            os.replace(temporary, output)
        except OSError:
            if old.exists():
                os.replace(old, output)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(f"Cannot write {output}: {cause.strerror or cause}. Give another --output.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_reference(options):
    keys = (options.reference_input, options.reference_output)
    arrays = read_npz(options.reference, keys, _MAX_REFERENCE_BYTES)
    for key in keys:
        if key not in arrays:
            raise ValueError(f"{options.reference} has no {key!r}; name what it has with --reference_input, _output.")
        array = arrays[key]
        if array.dtype.kind not in "fiub" or not array.ndim or not array.size or not np.isfinite(array).all():
            raise ValueError(
                f"{options.reference}: {key!r} is {array.dtype} of shape {array.shape}; it must be a batch of finite "
                "numbers."
            )
    return [arrays[key].astype(np.float32) for key in keys]


def _difference(reader, model, config, inputs, expected):
    try:
        return float(reader.difference(model, config, inputs, expected))
    except ValueError as error:
        raise ValueError(
            f"--reference: an input of shape {inputs.shape} and an output of shape {expected.shape} do not fit the "
            f"model ({str(error).splitlines()[0]})."
        ) from None


def _source_of(argv):
    """What `--from` says, before there are options; None without it."""
    for position, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--from", "--source"):
            return value if equals else "".join(argv[position + 1 : position + 2])
    return None


def _overview():
    """Help for those who have not said yet what they have."""
    lines = [__doc__.strip(), "", "options of this command:", *map(help_line, dataclasses.fields(Command))]
    lines += ["", "options of the models, by what wrote the checkpoint:"]
    lines += [f"  --from={source} --help  ({model})" for source, model in _MODELS.items()]
    return "\n".join(lines)


def main(argv=None):
    """Runs the command; returns its exit status."""
    from posekit.systems import SYSTEMS

    systems = {name: SYSTEMS[name] for name in SOURCES if name in SYSTEMS}
    argv = sys.argv[1:] if argv is None else list(argv)
    if not any(argument.startswith("--model") for argument in argv):
        source = _source_of(argv)
        if source is None and {"--help", "-h", "-help"} & set(argv):
            print(_overview())
            return 0
        # Every source is of one model; what is wrong with others is said where options are checked.
        argv = [f"--model={_MODELS.get(source, 'lcn')}", *argv]
    return run_command("convert_checkpoint", systems, Command, run, argv)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
