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
import re
import sys

from posekit.files import regular_file, write_file
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
        "knn=1;knn=2;knn=3;graph=full",
        "option=value of each variant; several options of one are joined by commas, several values of an option by +",
    )
    curve: str = option("val_joint_error_px", "column of log.csv to draw")
    label: str = option("", "what the curve shows, with its unit; empty: named after the column")
    output_dir: str = option("learning_curves", "folder of the runs, the numbers and the picture")
    verbose: int = option(2, "progress: 0 silent, 1 bar, 2 one line an epoch", lower=0, upper=2)


def run(name, system, config, options, rest):
    """Trains what is missing, evaluates, draws; returns the exit status."""
    import tensorflow as tf

    from posekit.plots import plot_learning_curves
    from posekit.weights import load_model, resolve

    no_more(rest)
    # Every variant is a new model, and TensorFlow would warn that it traces functions anew.
    tf.get_logger().setLevel("ERROR")
    folder, curves, table = pathlib.Path(options.output_dir), {}, {}
    variants = {title: _changed(config, title, changes) for title, changes in _variants(options.variants)}
    run_dirs = {title: folder / re.sub(r"[^\w.+-]+", "_", title.replace("=", "")) for title in variants}
    # Nothing is trained for hours before a mistake in the last variant is found.
    _check_folder(folder, run_dirs)
    for title, variant in variants.items():
        _check_run(system, variant, run_dirs[title])
    for title, variant in variants.items():
        _check_curve(system, variant, options.curve, title, run_dirs[title] / "log.csv")
    for title, variant in variants.items():
        run_dir = run_dirs[title]
        print(f"{title}: {run_dir}")
        if not _train(name, system, variant, run_dir, options.verbose):
            print(f"Interrupted; the same command goes on with {run_dir}.")
            return 130
        epochs, values = _column(run_dir / "log.csv", options.curve)
        found = resolve(str(run_dir), name)
        stored = system.Config.from_dict(found.config)
        metrics = system.evaluate(stored, load_model(system, stored, found), 0).metrics
        table[title] = {options.curve: values, **metrics}
        curves[f"{title}: {_shown(*next(iter(metrics.items())))}"] = (epochs, values)
    write_file(folder / "learning_curves.json", (json.dumps(table, indent=2) + "\n").encode())
    label = options.label or _LABELS.get(options.curve, options.curve)
    plot_learning_curves(curves, folder / "learning_curves.png", xlabel="epoch", ylabel=label, title=name)
    width = max(map(len, table))
    for title, values in table.items():
        print("  ".join([title.ljust(width), *(_shown(*item) for item in values.items() if _is_number(item[1]))]))
    print(f"Wrote {folder / 'learning_curves.png'} and {folder / 'learning_curves.json'}")
    return 0


_WRITTEN = ("learning_curves.json", "learning_curves.png")
_LABELS = {"val_joint_error_px": "error of test joints, thousandths of the picture's width"}


def _shown(metric, value):
    """`("pa_mpjpe_mm", 51.07)` -> `"PA-MPJPE 51.1 mm"`."""
    if metric.endswith("_mm"):
        return f"{metric[:-3].upper().replace('_', '-')} {value:.1f} mm"
    return f"{metric} {value:.4g}"


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
    fields = {name: field for field in dataclasses.fields(config) for name in (field.name, *field.metadata["aliases"])}
    changes = {name.strip().lstrip("-").replace("-", "_"): text.strip() for name, text in changes.items()}
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise UsageError(f"--variants: {title!r} names unknown options {unknown}; see --help for those there are.")
    try:
        return config.replace(**{fields[name].name: _value(fields[name].type, text) for name, text in changes.items()})
    except ValueError as error:
        raise UsageError(f"--variants: {title!r} cannot be used: {error}") from None


def _value(kind, text):
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false.")
        return text.lower() == "true"
    return kind(text) if kind in (int, float, str) else tuple(text.split("+"))


def _check_run(system, config, run_dir):
    from posekit.training.run import RunFolder

    folder = RunFolder(run_dir)
    if folder.checkpoint("last") is None:
        return
    stored, asked = folder.load_config(type(config)).to_dict(), system.complete(config).to_dict()
    differing = [key for key, value in asked.items() if stored[key] != value and key != "num_epochs"]
    if differing:
        raise UsageError(f"{run_dir} holds a run with other {', '.join(differing)}; name another --output_dir.")


def _train(name, system, config, run_dir, verbose):
    from posekit.training import loop
    from posekit.training.run import RunFolder

    folder = RunFolder(run_dir)
    return loop.train(name, system, config, folder, resume=folder.checkpoint("last") is not None, verbose=verbose)[1]


def _check_folder(folder, run_dirs):
    for name in _WRITTEN:
        if (folder / name).is_dir():
            raise UsageError(f"{folder / name} is a folder, where a file is to be written; name another --output_dir.")
    titles = {}
    for title, run_dir in run_dirs.items():
        # Some file systems take both cases of a letter for one.
        other = titles.setdefault(run_dir.name.lower(), title)
        if other != title:
            raise UsageError(f"--variants: {other!r} and {title!r} would share {run_dir}; write one in another way.")


def _check_curve(system, config, name, title, log):
    from posekit.training import loop

    columns = sorted({*_rows(log)[0]} - {"epoch"} if log.exists() else {*loop.dry_run(system, config), "seconds"})
    if name not in columns:
        raise UsageError(f"--curve={name} is not a column of log.csv of {title!r}; it has {', '.join(columns)[:400]}.")
    if log.exists():
        _column(log, name)


def _column(path, name):
    rows = _rows(path)
    try:
        epochs, values = [int(row["epoch"]) for row in rows], [float(row[name]) for row in rows]
        if epochs != list(range(1, len(rows) + 1)):
            raise ValueError(f"its epochs are {str(epochs)[:60]}")
    except (ValueError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from None
    return epochs, values


def _rows(path):
    """Rows of a log, at least one; each has a value for every column."""
    try:
        with open(regular_file(path), newline="") as file:
            rows = list(csv.DictReader(file))
        # A run that was killed while writing may have left the start of a row, which goes when it is continued.
        if len(rows) > 1 and None in rows[-1].values():
            rows.pop()
        if not rows or any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has too few or too many values, or there is none")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(_damaged(path, error)) from None
    return rows


def _damaged(path, error):
    return (
        f"{path} is missing or damaged ({error!s:.200}): there is no curve to draw. Move {path.parent} away, and the "
        "same command trains this variant anew; all others stay as they are."
    )


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
