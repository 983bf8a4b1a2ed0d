"""Trains a system several times with one option varied, and draws the learning curves into one picture.

    python tools/learning_curves.py --model=lcn --variants="knn=1;knn=2;knn=3;graph=full" --num_epochs=20

is the study of neighbourhoods: how well joints are lifted when each one sees its neighbours within one, two or three
hops, or all joints. Every other flag of `python -m posekit.train` is taken as there. Each variant has a run folder in
--output_dir; started again, finished runs are not trained again and unfinished ones go on.
"""

import csv
import dataclasses
import json
import pathlib
import sys

from posekit.files import write_file
from posekit.systems import SYSTEMS
from posekit.training.config import (
    Options,
    UsageError,
    import_tensorflow_quietly,
    no_more,
    option,
    run_command,
)


@dataclasses.dataclass(frozen=True)
class Command(Options):
    """Trains variants of a system and draws their learning curves."""

    variants: str = option(
        "knn=1;knn=2;knn=3;graph=full", "option=value of each variant; several options of one are joined by commas"
    )
    curve: str = option("val_joint_error", "column of log.csv to draw")
    label: str = option("", "what the curve shows, with its unit; the column's name if empty")
    output_dir: str = option("learning_curves", "folder of the runs, the numbers and the picture")
    verbose: int = option(2, "progress: 0 silent, 1 bar, 2 one line an epoch", lower=0, upper=2)


def run(name, system, config, options, rest):
    """Trains what is missing, evaluates, draws; returns the exit status."""
    from posekit.drawing3d import plot_learning_curves
    from posekit.weights import load_model, resolve

    no_more(rest)
    folder, curves, table = pathlib.Path(options.output_dir), {}, {}
    for title, changes in _variants(options.variants):
        variant = _changed(config, title, changes)
        run_dir = folder / title.replace("=", "").replace(",", "_")
        print(f"{title}: {run_dir}")
        if not _train(name, system, variant, run_dir, options.verbose):
            print(f"Interrupted; the same command goes on with {run_dir}.")
            return 130
        epochs, values = _column(run_dir / "log.csv", options.curve)
        found = resolve(str(run_dir), name)
        stored = system.Config.from_dict(found.config)
        metrics = system.evaluate(stored, load_model(system, stored, found), 0).metrics
        table[title] = {options.curve: values, **metrics}
        first, value = next(iter(metrics.items()))
        curves[f"{title}: {first} {value:.1f}"] = (epochs, values)
    write_file(folder / "learning_curves.json", (json.dumps(table, indent=2) + "\n").encode())
    plot_learning_curves(
        curves, folder / "learning_curves.png", xlabel="epoch", ylabel=options.label or options.curve, title=name
    )
    for title, values in table.items():
        print(title.ljust(16) + "  ".join(f"{key} {value:.2f}" for key, value in values.items() if _is_number(value)))
    print(f"Wrote {folder / 'learning_curves.png'} and {folder / 'learning_curves.json'}")
    return 0


def _variants(text):
    """`"knn=1;graph=full,channels=32"` -> `[("knn=1", {"knn": "1"}), …]`."""
    variants = []
    for title in filter(None, (part.strip() for part in text.split(";"))):
        pairs = [pair.split("=", 1) for pair in title.split(",")]
        if any(len(pair) != 2 for pair in pairs):
            raise UsageError(f"--variants={text}: {title!r} must be option=value; separate variants by semicolons.")
        variants.append((title, dict(pairs)))
    if not variants:
        raise UsageError("--variants is empty; give for example --variants='knn=1;knn=2'.")
    return variants


def _changed(config, title, changes):
    kinds = {field.name: field.type for field in dataclasses.fields(config)}
    unknown = sorted(set(changes) - set(kinds))
    if unknown:
        raise UsageError(f"--variants: {title!r} names unknown options {unknown}; see --help for those there are.")
    try:
        return config.replace(**{name: _value(kinds[name], text) for name, text in changes.items()})
    except (ValueError, KeyError) as error:
        raise UsageError(f"--variants: {title!r} cannot be used: {error}") from None


def _value(kind, text):
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    return tuple(text.split("+")) if kind not in (int, float, str) else kind(text)


def _train(name, system, config, run_dir, verbose):
    from posekit.training import loop
    from posekit.training.run import RunFolder

    folder = RunFolder(run_dir)
    resume = folder.checkpoint("last") is not None
    if resume:
        stored, asked = folder.load_config(type(config)).to_dict(), system.complete(config).to_dict()
        differing = [key for key, value in asked.items() if stored[key] != value and key != "num_epochs"]
        if differing:
            raise UsageError(f"{run_dir} holds a run with other {', '.join(differing)}; name another --output_dir.")
    return loop.train(name, system, config, folder, resume=resume, verbose=verbose)[1]


def _column(path, name):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or name not in rows[0]:
        raise UsageError(f"--curve={name} is not a column of {path}; it has {', '.join(rows[0] if rows else ())}.")
    return [int(row["epoch"]) for row in rows], [float(row[name]) for row in rows]


def _is_number(value):
    return isinstance(value, (int, float))


def main(argv=None):
    """Runs the command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not any(argument.startswith("--model") for argument in argv):
        argv = ["--model=lcn", *argv]
    return run_command("learning_curves", SYSTEMS, Command, run, argv)


if __name__ == "__main__":
    import_tensorflow_quietly()
    sys.exit(main())
