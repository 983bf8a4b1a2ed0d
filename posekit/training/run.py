"""The run folder: what a training run writes, and how it continues after any interruption.

    config.json             the configuration; later commands read it back
    log.csv                 one row per epoch
    steps.csv               one row per training step, or per call of several
    events/                 TensorBoard
    checkpoints/last/       model.weights.h5, training.h5 (critic, optimizers, random state), progress.json
    checkpoints/best/       model.weights.h5, progress.json

Checkpoints are folders that appear whole: they are written beside their final name and renamed. A run that was
killed continues from `last` and repeats, bit for bit, what it would have done without the interruption.
"""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil

import h5py
import numpy as np

from posekit.files import load_weights, replacing
from posekit.training.config import architecture, json_text, load_config, save_config


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    Args:
        epoch: Epochs finished.
        step: Steps finished in the epoch that follows them.
        global_step: Steps finished in all.
        best: Best monitored value so far, None before the first validation.
        metrics: Values of the last finished epoch.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    best: float | None = None
    metrics: dict = dataclasses.field(default_factory=dict)


class DivergedError(ValueError):
    """Weights or losses that are no numbers any more: the training cannot go on from there."""


# Begins the names of the epochs' checkpoints.
_EPOCH = "epoch_"


class RunFolder:
    """A training run on disk.

    Args:
        path: The folder; `create` makes it.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.config_path = self.path / "config.json"
        self.log_path = self.path / "log.csv"
        self.steps_path = self.path / "steps.csv"
        self.events_path = self.path / "events"
        self._record = None

    def create(self, system, config):
        """Makes the folder and writes the configuration.

        Args:
            system: System name.
            config: Its options.

        Raises:
            OSError: If the folder cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            save_config(self.config_path, system, config)
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}); give another --run_dir.") from error
        # Weights carry it, so that no change of config.json makes another network of them.
        self._record = architecture(config)

    def load_config(self, config_class):
        """Reads the configuration back.

        Args:
            config_class: `Options` class of the system.

        Returns:
            The options.

        Raises:
            FileNotFoundError: If the folder holds no run.
        """
        if not self.config_path.exists():
            raise FileNotFoundError(
                f"{self.path} holds no run (no config.json). Name a folder that `python -m posekit.train` wrote."
            )
        return config_class.from_dict(load_config(self.config_path)[1])

    def checkpoint(self, name):
        """Finds a checkpoint folder, finishing a replacement that was cut off between its two renames.

        Args:
            name: `"last"` or `"best"`.

        Returns:
            Path of the folder, or None where there is none.
        """
        final, old = self.checkpoints / name, self.checkpoints / f".{name}.old"
        if not final.exists() and old.exists():
            os.replace(old, final)
        return final if final.exists() else None

    def save(self, name, progress, model, trainer=None):
        """Writes a checkpoint so that it appears whole or not at all.

        Args:
            name: `"last"`, `"best"` or of an epoch.
            progress: `Progress` to store.
            model: Keras model whose weights users load.
            trainer: Keras model that trains it; with it the checkpoint can resume training.

        Raises:
            OSError: If the disk is full or the folder cannot be written; the earlier checkpoint stays.
        """
        self.checkpoint(name)
        temporary, final, old = (self.checkpoints / n for n in (f".{name}.tmp", name, f".{name}.old"))
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        variables = training_variables(trainer, model) if trainer is not None else []
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        _require_space(self.checkpoints, [*model.weights, *variables])
        temporary.mkdir()
        try:
            model.save_weights(temporary / "model.weights.h5")
            if self._record:
                _write_record(temporary / "model.weights.h5", self._record)
            if trainer is not None:
                save_variables(temporary / "training.h5", variables)
            (temporary / "progress.json").write_text(json_text(dataclasses.asdict(progress)))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
        shutil.rmtree(old, ignore_errors=True)

    def save_epoch(self, progress, model, keep):
        """Writes the checkpoint of an epoch and removes those that are too old.

        Args:
            progress: `Progress`, at the end of the epoch.
            model: Keras model whose weights users load.
            keep: How many epochs' checkpoints stay.

        Raises:
            OSError: As `save`.
        """
        self.save(f"{_EPOCH}{progress.epoch:04d}", progress, model)
        for _, folder in self.epochs()[:-keep]:
            shutil.rmtree(folder, ignore_errors=True)

    def epochs(self):
        """Finds the checkpoints of epochs.

        Returns:
            List of `(epoch, folder)`, oldest first.
        """
        numbers = {folder: folder.name.removeprefix(_EPOCH) for folder in self.checkpoints.glob(f"{_EPOCH}*")}
        return sorted((int(number), folder) for folder, number in numbers.items() if number.isdecimal())

    def restore(self, model, trainer):
        """Loads the checkpoint `last` into a model and its trainer.

        Args:
            model: Keras model whose weights the checkpoint holds.
            trainer: Keras model that trains it.

        Returns:
            The stored `Progress`.

        Raises:
            ValueError: If the checkpoint is damaged or belongs to another configuration.
        """
        folder = self.checkpoint("last")
        progress = _read_progress(folder / "progress.json")
        load_weights(model, folder / "model.weights.h5")
        load_variables(folder / "training.h5", training_variables(trainer, model))
        if broken := broken_weights(model, trainer):
            raise DivergedError(
                f"{folder} holds values that are not finite, in {broken[0]} and {len(broken) - 1} other weights: the "
                f"training diverged; {_START_ANEW}."
            )
        return progress


def broken_weights(*models):
    """Finds weights that hold NaN or infinity.

    Args:
        *models: Keras models.

    Returns:
        List of paths of weights, without repetitions.
    """
    weights = {id(weight): weight for model in models for weight in model.weights}
    return [weight.path for weight in weights.values() if not np.isfinite(weight.numpy()).all()]


def trained_config(config_class, values, path):
    """Tells with which configuration weights were trained.

    Args:
        config_class: `Options` class of the system.
        values: Dict of the options in the configuration file beside the weights.
        path: The weights file. Where it says with which architecture it was trained, this counts: a configuration file
            may have been changed or exchanged.

    Returns:
        The options.

    Raises:
        ValueError: If what it says cannot be understood.
    """
    record = _read_record(path)
    try:
        return config_class.from_dict({**values, **record})
    except ValueError as error:
        raise ValueError(
            f"{path} was trained with options that this posekit does not have or allow: {error} Use the version that "
            "trained it."
        ) from None


_RECORD = "posekit_architecture"


def _write_record(path, record):
    with h5py.File(path, "r+") as file:
        file.attrs[_RECORD] = np.bytes_(json.dumps(record).encode())


def _read_record(path):
    """What `_write_record` wrote; empty for files without it, and for those that cannot be read at all."""
    try:
        with h5py.File(path, "r") as file:
            if _RECORD not in file.attrs:
                return {}
            attribute = file.attrs.get_id(_RECORD)
            # Texts of any length lie elsewhere in the file, and HDF5 may follow damaged references for ever.
            text = file.attrs[_RECORD] if attribute.shape == () and attribute.dtype.kind == "S" else b""
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return {}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: its attribute {_RECORD!r} is no JSON; restore or train it.") from None


def training_variables(trainer, model):
    """Variables that training needs beside the model's weights: critic, optimizers, metrics, random state.

    Args:
        trainer: Keras model with `optimizers`, or with one `optimizer`.
        model: The model whose weights are stored apart.

    Returns:
        List of Keras variables in a stable order.
    """
    optimizers = getattr(trainer, "optimizers", None) or [trainer.optimizer]
    variables = list(trainer.variables)
    for part in (*trainer.metrics, *optimizers):
        # Learning rates come from the configuration, so that a run can continue with another one.
        variables += [variable for variable in part.variables if variable.name != "learning_rate"]
    taken = {id(weight) for weight in model.weights}
    return [variable for variable in variables if not (id(variable) in taken or taken.add(id(variable)))]


def save_variables(path, variables):
    """Writes variables to HDF5, in order, with their paths.

    Args:
        path: File to write.
        variables: Keras variables.
    """
    with h5py.File(path, "w") as file:
        for position, variable in enumerate(variables):
            dataset = file.create_dataset(f"{position:05d}", data=np.asarray(variable.numpy()))
            dataset.attrs["name"] = _plain_name(variable)


def load_variables(path, variables):
    """Reads variables written by `save_variables`.

    Args:
        path: File to read.
        variables: Keras variables, in the same order.

    Raises:
        ValueError: If number, names or shapes differ: the file belongs to another configuration.
    """
    try:
        with h5py.File(path, "r") as file:
            values = _matching_values(file, variables)
    except (OSError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_START_ANEW}.") from error
    except ValueError as error:
        raise ValueError(
            f"{path} {error}: it belongs to another configuration; resume with the flags of that run, or start a new "
            "--run_dir."
        ) from None
    for variable, value in zip(variables, values):
        variable.assign(value)


_START_ANEW = "start a new --run_dir; checkpoints/best of the run can still be used by validate and predict"


def _matching_values(file, variables):
    if len(file) != len(variables):
        raise ValueError(f"holds {len(file)} variables, this training has {len(variables)}")
    values = []
    for position, variable in enumerate(variables):
        dataset = file[f"{position:05d}"]
        stored, name, shape = str(dataset.attrs["name"]), _plain_name(variable), tuple(variable.shape)
        if stored != name or dataset.shape != shape:
            raise ValueError(f"holds {stored!r} {dataset.shape} where this training has {name!r} {shape}")
        values.append(dataset[()])
    return values


def _read_progress(path):
    try:
        progress = Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_START_ANEW}.") from error
    counts = (progress.epoch, progress.step, progress.global_step)
    if not all(type(count) is int and count >= 0 for count in counts) or type(progress.best) not in (float, type(None)):
        raise ValueError(f"{path} is damaged (its counts are {counts}, its best {progress.best!r}); {_START_ANEW}.")
    return progress


def _require_space(folder, variables):
    """HDF5 fails badly on a full disk, so there must be room before it begins."""
    needed = int(1.2 * sum(np.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e6:.0f} MB free, a checkpoint needs {needed / 1e6:.0f} MB; make room, then "
            "continue with --resume."
        )


def _plain_name(variable):
    """Name without the counters by which Keras tells apart the models built in one process."""
    return re.sub(r"_\d+", "", variable.name)


class CsvLog:
    """A CSV file of numbers that can be taken back to an earlier row.

    Args:
        path: File to write.
        key: First column, an increasing number.
        keep: Rows whose key is larger than this are dropped from an existing file.
    """

    def __init__(self, path, key, keep):
        self.path = pathlib.Path(path)
        self.key = key
        self.columns = None
        rows = self._rows() if self.path.exists() else []
        rows = [row for row in rows if int(row[key]) <= keep]
        if rows:
            self.columns = list(rows[0])
            with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
        elif self.path.exists():
            self.path.unlink()
        self._file = None

    def _rows(self):
        with open(self.path, newline="") as file:
            rows = list(csv.DictReader(file))
        # A run that was killed while writing may have left the start of a row.
        return [row for row in rows if None not in row.values() and (row.get(self.key) or "").isdigit()]

    def write(self, key, values):
        """Appends a row.

        Args:
            key: Value of the first column.
            values: Dict of numbers; columns are fixed by the first row of the file.
        """
        if self._file is None:
            fresh = not self.path.exists()
            self._file = open(self.path, "a", newline="")
            if fresh:
                self.columns = [self.key, *values]
                csv.writer(self._file).writerow(self.columns)
        row = {self.key: key, **{name: repr(float(value)) for name, value in values.items()}}
        csv.writer(self._file).writerow([row.get(name, "") for name in self.columns])
        self._file.flush()

    def close(self):
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
