"""Puts the best weights of a run into checkpoints/ under a name: a small file, its configuration, an index entry.

    python -m posekit.validate --run_dir=logs/HMR_...
    python tools/publish_weights.py --run_dir=logs/HMR_... --name=hmr_sample --about="trained on ..."

Weights are stored in half precision, which every model reads back as its own precision. The numbers in the index are
those of the run's validation/metrics.json; validate the published name again to see what half precision costs.
"""

import hashlib
import json
import pathlib

import h5py
import numpy as np
from absl import app, flags

from posekit.files import replacing, write_file
from posekit.training.config import load_config
from posekit.weights import checkpoints_folder, read_index, resolve

flags.DEFINE_string("run_dir", None, "Run folder.", required=True)
flags.DEFINE_string("name", None, "Name in the index.", required=True)
flags.DEFINE_string("about", None, "What the weights were trained on, in a sentence.", required=True)
flags.DEFINE_string("licence", "Apache-2.0", "Terms of the weights.")
flags.DEFINE_bool("default", False, "Make these the weights that posekit.load takes by default.")
FLAGS = flags.FLAGS

# Of the configuration, only what describes the model is published: no paths of the machine that trained it.
_PRIVATE = ("data_dir", "mean_params", "faces", "backbone_weights")


def halve(source, target):
    """Copies a `.weights.h5` file with its float32 arrays in float16.

    Args:
        source: File to read.
        target: File to write.
    """
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                group = new.require_group(name)
                group.attrs.update(item.attrs)
            else:
                values = item[()]
                small = values.astype(np.float16) if values.dtype == np.float32 else values
                packing = {"compression": "gzip", "shuffle": True} if small.ndim else {}
                new.create_dataset(name, data=small, **packing).attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


def main(argv):
    """Publishes the run; the index is written last, so that it never names a file that is not there."""
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
    run = pathlib.Path(FLAGS.run_dir)
    system, config = load_config(run / "config.json")
    metrics_file = run / "validation" / "metrics.json"
    if not metrics_file.exists():
        raise app.UsageError(f"{metrics_file} does not exist; run: python -m posekit.validate --run_dir={run}")
    folder = checkpoints_folder() / FLAGS.name
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.weights.h5") as temporary:
        halve(resolve(run, system).path, temporary)
    kept = {name: value for name, value in config.items() if name not in _PRIVATE}
    write_file(folder / "config.json", (json.dumps({"model": system, **kept}, indent=2) + "\n").encode())
    index = read_index()
    if FLAGS.default:
        index = {name: {k: v for k, v in entry.items() if k != "default" or entry["model"] != system}
                 for name, entry in index.items()}  # fmt: skip
    index[FLAGS.name] = {
        "model": system,
        "file": f"{FLAGS.name}/model.weights.h5",
        "config": f"{FLAGS.name}/config.json",
        "sha256": hashlib.sha256((folder / "model.weights.h5").read_bytes()).hexdigest(),
        "licence": FLAGS.licence,
        "about": FLAGS.about,
        "metrics": json.loads(metrics_file.read_text())["trained"],
        **({"default": True} if FLAGS.default else {}),
    }
    write_file(checkpoints_folder() / "index.json", (json.dumps(index, indent=2) + "\n").encode())
    print(f"Published {FLAGS.name}: {(folder / 'model.weights.h5').stat().st_size / 1e6:.1f} MB in {folder}")


if __name__ == "__main__":
    app.run(main)
