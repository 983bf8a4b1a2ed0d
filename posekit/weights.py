"""Weights by name or path: the index of checkpoints, run folders, verified files."""

import dataclasses
import hashlib
import json
import os
import pathlib
import urllib.request

from posekit.files import cache_folder, load_weights, replacing
from posekit.training.config import Options, changed_architecture, load_config, option
from posekit.training.run import RunFolder, broken_weights, trained_config

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Weights:
    """A local, verified weight file and the configuration of the model that it fits.

    Args:
        name: Name in the index, or the path.
        path: `.weights.h5` file.
        system: System name.
        config: Dict of the system's options.
        about: The index entry (licence, numbers, training data), empty for a file of one's own.
    """

    name: str
    path: pathlib.Path
    system: str
    config: dict
    about: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class WeightsOptions(Options):
    """Options of every command that uses trained weights."""

    run_dir: str = option("", "run folder with the weights", aliases=("checkpoint_dir",))
    weights: str = option("", "weights file, or name of the index, instead of a run folder")
    checkpoint: str = option(
        "best", "which weights of the run: of the best validation, or of the end",
        choices=("best", "last", "final"), aliases=("checkpoints",),
    )  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint != "best" and (self.weights or not self.run_dir):
            raise ValueError(f"--checkpoint={self.checkpoint} chooses among the weights of a run; name it: --run_dir=…")

    @property
    def reference(self):
        """What `resolve` looks up: the weights, else the run folder, else the index's default."""
        if self.checkpoint != "best":
            return str(pathlib.Path(self.run_dir) / "checkpoints" / "last")
        return self.weights or self.run_dir or "default"


def stored_with_weights(options, name):
    """Reads the configuration stored beside the weights that a command names.

    Args:
        options: `WeightsOptions`.
        name: System name.

    Returns:
        Dict of options.
    """
    return resolve(options.reference, name).config


def load_model(module, config, found):
    """Builds a system's model and loads weights into it.

    Args:
        module: System module.
        config: Its options.
        found: `Weights`, or None for an untrained model.

    Returns:
        The Keras model.

    Raises:
        ValueError: If the file does not fit the model, or was trained with other options of its architecture.
    """
    if found is None:
        return module.build_model(config, pretrained=False)
    changes = changed_architecture(trained_config(type(config), found.config, found.path), config)
    if changes:
        raise ValueError(
            f"{found.path} was trained with another configuration ({'; '.join(changes)}). Leave these options out; if "
            "none was given, the config.json of these weights was changed: set it back."
        )
    model = module.build_model(config, pretrained=False)
    load_weights(model, found.path)
    if broken := broken_weights(model):
        raise ValueError(
            f"{found.path} holds values that are not finite, in {broken[0]} and {len(broken) - 1} other weights: the "
            "training diverged. Use an earlier checkpoint, or train with a smaller learning rate."
        )
    return model


def load_ensemble(name, module, config, run_dir, count):
    """Builds one model for each of the last epochs of a run.

    Args:
        name: System name.
        module: Its module.
        config: Its options.
        run_dir: Run folder that kept checkpoints of its epochs.
        count: How many.

    Returns:
        List of Keras models, oldest epoch first.

    Raises:
        FileNotFoundError: If the run has fewer epochs' checkpoints.
    """
    if not run_dir:
        raise FileNotFoundError(f"--ensemble={count} takes epochs of a run: name it with --run_dir=FOLDER.")
    epochs = RunFolder(run_dir).epochs()
    if len(epochs) < count:
        raise FileNotFoundError(
            f"--ensemble={count} needs the checkpoints of {count} epochs; --run_dir={run_dir} has {len(epochs)}. Train "
            f"with --keep_epochs={count} or more, or give a smaller --ensemble."
        )
    return [load_model(module, config, resolve(str(folder), name)) for _, folder in epochs[-count:]]


def checkpoints_folder():
    """Folder with `index.json`: `$POSEKIT_CHECKPOINTS`, else `checkpoints/` of the source tree."""
    return pathlib.Path(os.environ.get("POSEKIT_CHECKPOINTS", _REPOSITORY / "checkpoints"))


def read_index():
    """Reads the index of published weights.

    Returns:
        Dict from name to entry; empty where no index is installed.

    Raises:
        ValueError: If the index is damaged.
    """
    path = checkpoints_folder() / "index.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from the source tree.") from None


def resolve(reference, system):
    """Finds weights.

    Args:
        reference: A name of the index, a run folder, a checkpoint folder of a run, a `.weights.h5` file with a
            `config.json` beside it, or `"default"` for the system's default entry of the index.
        system: System that the weights must belong to.

    Returns:
        `Weights`.

    Raises:
        FileNotFoundError: If nothing is found; the message lists the names.
        ValueError: If the file does not match its checksum or belongs to another system.
    """
    index = read_index()
    if reference == "default":
        names = [name for name, entry in index.items() if entry["model"] == system and entry.get("default")]
        if not names:
            raise FileNotFoundError(
                f"No default weights for {system!r} in {checkpoints_folder() / 'index.json'}; pass weights=PATH of a "
                "run folder or file, or weights=None for an untrained model."
            )
        reference = names[0]
    if reference in index:
        found = _from_index(reference, index[reference])
    else:
        found = _from_path(pathlib.Path(reference), index)
    if found.system != system:
        raise ValueError(f"{found.name} holds weights of {found.system!r}, not of {system!r}.")
    return found


def _from_index(name, entry):
    folder = checkpoints_folder()
    path = folder / entry["file"]
    if not path.exists() and (entry.get("url") or entry.get("fetch")):
        path = cache_folder() / "weights" / entry["file"]
        if not path.exists() and entry.get("url"):
            _download(entry["url"], path, entry["sha256"])
    if not path.exists():
        what = "restore it from the source tree"
        if entry.get("fetch"):
            what = f"fetch it once: {entry['fetch']}. For an untrained model pass weights=None"
        raise FileNotFoundError(f"The file of {name!r}, {path}, is missing; {what}.")
    if entry.get("fetch"):
        _verify_arrays(path, entry["arrays_sha256"], entry["fetch"])
    else:
        _verify(path, entry["sha256"])
    system, config = load_config(folder / entry["config"])
    return Weights(name, path, system, config, entry)


def arrays_digest(path):
    """Digest of the arrays of an HDF5 file, whatever their names and the layout of the file.

    Args:
        path: `.weights.h5` file. Files written by different versions of Keras have the same digest if their weights are
            the same.

    Returns:
        Text of 64 hexadecimal digits.

    Raises:
        OSError: If the file is no HDF5.
    """
    import h5py

    digests = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            values = item[()]
            header = f"{values.dtype.str} {values.shape}".encode()
            digests.append(hashlib.sha256(header + values.tobytes()).digest())

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _from_path(path, index):
    if path.is_dir():
        run = path if (path / "checkpoints").is_dir() else path.parent.parent
        folders = [path / "checkpoints" / "best", path / "checkpoints" / "last"] if run == path else [path]
        files = [folder / "model.weights.h5" for folder in folders]
        config = run / "config.json"
    else:
        files = [path]
        candidates = [parent / "config.json" for parent in list(path.parents)[:3]]
        config = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        names = ", ".join(sorted(index)) or "none"
        raise FileNotFoundError(
            f"No weights at {path}. Give a run folder, a .weights.h5 file, or a name of the index (known: {names})."
        )
    if not config.exists():
        raise FileNotFoundError(f"{file} has no config.json beside it, which tells what model it fits; copy it there.")
    system, values = load_config(config)
    return Weights(str(path), file, system, values)


def _download(url, path, sha256):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            with urllib.request.urlopen(url, timeout=60) as response, open(temporary, "wb") as file:
                while block := response.read(1 << 20):
                    file.write(block)
            _verify(temporary, sha256)
    except OSError as error:
        raise OSError(f"Downloading {url} failed ({error}); fetch it by hand and save it as {path}.") from None


def _verify_arrays(path, sha256, fetch):
    try:
        found = arrays_digest(path)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({str(error)[:200]}). Delete it and fetch it anew: {fetch}") from None
    if found != sha256:
        raise ValueError(f"{path} is damaged: its arrays have sha256 {found}, not {sha256}. Fetch it anew: {fetch}")


def _verify(path, sha256):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: sha256 {digest.hexdigest()}, not {sha256}. Delete it and fetch it anew.")
