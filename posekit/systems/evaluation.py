"""What an evaluation gives back, the same for every system: values, samples, curves, and how they are shown."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from posekit.drawing import save_image, side_by_side
from posekit.files import write_file
from posekit.training.config import json_text


@dataclasses.dataclass
class Evaluation:
    """Result of evaluating one model.

    Args:
        metrics: Dict from name to value; None where the data cannot tell.
        labels: Dict from name to what the table prints, with the unit.
        ranking: Dict from name of a per-image error to `([images] values, unit)`; smaller is better. Instead of a unit
            a function `error -> text`, where something else is shown than the error.
        filenames: Name of every image.
        picture: Function `index -> uint8 picture` of one image with its prediction.
        plots: Dict from file name to function `path -> None` that draws a curve or writes a result file.
        text: Further lines to print below the table.
        unit: What a sample is called.
    """

    metrics: dict
    labels: dict
    ranking: dict
    filenames: list
    picture: Callable
    plots: dict = dataclasses.field(default_factory=dict)
    text: str = ""
    unit: str = "images"


def table(results):
    """Formats evaluations beside each other.

    Args:
        results: Dict from column title to `Evaluation`.

    Returns:
        Text of several lines.
    """
    columns = list(results.values())
    width = max(map(len, columns[0].labels.values())) + 1
    count = f"{len(columns[0].filenames)} {columns[0].unit}"
    lines = [count.ljust(width) + "".join(f"{title:>14s}" for title in results)]
    for name, label in columns[0].labels.items():
        values = [column.metrics[name] for column in columns]
        shown = ["-" if value is None else f"{value:.4g}" for value in values]
        lines.append(label.ljust(width) + "".join(f"{value:>14s}" for value in shown))
    return "\n".join(lines)


def write_metrics(folder, weights, results):
    """Writes `metrics.json`; values that are not finite become null.

    Args:
        folder: Folder to write to; made where needed.
        weights: Path of the weights, or of the result file, that was evaluated.
        results: Dict from column title to `Evaluation`.

    Returns:
        Path of the file.
    """
    path = pathlib.Path(folder) / "metrics.json"
    content = {title: {value.unit: len(value.filenames), **value.metrics} for title, value in results.items()}
    write_file(path, json_text({"weights": str(weights), **content}).encode())
    return path


def write_pictures(folder, evaluation, count):
    """Writes result files, and draws the curves and the best and the worst images by every error.

    Args:
        folder: Folder to write to, there already.
        evaluation: `Evaluation`.
        count: Images of each kind, 0 for none.

    Returns:
        Paths written.

    Raises:
        ValueError: If a picture cannot be drawn; result files are written before any.
    """
    folder, written = pathlib.Path(folder), []
    # Files before pictures: what cannot be drawn must not cost the results.
    for path, write in sorted(
        ((folder / filename, write) for filename, write in evaluation.plots.items()),
        key=lambda item: item[0].suffix == ".png",
    ):
        with _drawing(path) if path.suffix == ".png" else contextlib.nullcontext():
            write(path)
        written.append(path)
    for name, (errors, unit) in evaluation.ranking.items() if count else ():
        known = np.flatnonzero(np.isfinite(errors))
        order = known[np.argsort(np.asarray(errors)[known], kind="stable")]
        for kind, chosen in (("best", order[:count]), ("worst", order[::-1][:count])):
            if not len(chosen):
                continue
            path = folder / f"{kind}_{name}.png"
            with _drawing(path):
                pictures = [evaluation.picture(i) for i in chosen]
                shown = unit if callable(unit) else lambda error, unit=unit: f"{error:.3g} {unit}"
                titles = [f"{evaluation.filenames[i]}  {shown(errors[i])}" for i in chosen]
                save_image(path, _two_columns(pictures, titles))
            written.append(path)
    return written


@contextlib.contextmanager
def _drawing(path):
    """Predictions can lie so far away that a picture of them cannot be drawn."""
    try:
        yield
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise ValueError(
            f"{path} cannot be drawn ({error}). Results and figures are written beside it; add --num_pictures=0."
        ) from error


def _two_columns(pictures, titles):
    rows = [side_by_side(pictures[i : i + 2], titles[i : i + 2]) for i in range(0, len(pictures), 2)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )
