"""Runs the main job end to end on sample data: `make demo`.

Sample data -> TFRecords -> training -> validation -> preview and prediction, each through the command a user types.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
from absl import app, flags
from scipy.io import loadmat

from posekit.data.sources import read_image
from posekit.drawing import save_image

ROOT = pathlib.Path(__file__).resolve().parent.parent

flags.DEFINE_string("output_dir", "demo", "folder for data, run and pictures")
flags.DEFINE_integer("num_images", 240, "sample images of each dataset", lower_bound=16)
flags.DEFINE_integer("num_epochs", 4, "epochs to train", lower_bound=1)
flags.DEFINE_string("backbone_weights", "hmr_sample", "where the encoder comes from: name, run folder, file or none")
FLAGS = flags.FLAGS


def step(title, *command):
    """Prints a command, runs it, and stops the demo if it fails."""
    shown = [os.path.relpath(part) if os.path.isabs(part) and os.path.exists(part) else part for part in command]
    print(f"\n== {title}\n$ {shlex.join(['python', *shown])}", flush=True)
    started = time.perf_counter()
    status = subprocess.run([sys.executable, *command], cwd=os.getcwd()).returncode
    if status:
        sys.exit(f"The demo stopped: the command above ended with status {status}.")
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def centred_photos(dataset, folder, count=6, size=224):
    """Cuts validation pictures around their person, as somebody would who photographs one.

    Args:
        dataset: Folder of the sample data, in LSP's layout.
        folder: Folder to write to.
        count: Number of pictures, from the end of the dataset: none of them is trained on.
        size: Their height and width in pixels.

    Returns:
        Paths of the pictures.
    """
    joints = loadmat(dataset / "joints.mat")["joints"]
    files = sorted((dataset / "images").glob("*.jpg"))
    paths = []
    for index in range(len(files) - count, len(files)):
        image, half = read_image(files[index]), size // 2
        x, y = np.round(joints[:2, :, index].mean(1)).astype(int)
        padded = np.pad(image, ((size, size), (size, size), (0, 0)), "edge")
        paths.append(folder / f"{files[index].stem}.png")
        save_image(paths[-1], padded[y + half : y + half + size, x + half : x + half + size])
    return paths


def main(argv):
    """Runs all steps."""
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
    out = pathlib.Path(FLAGS.output_dir)
    data, run = out / "data", out / "run"
    if not (data / "lsp_train.tfrecords").exists():
        sets = ["--lsp", "--lsp_ext", "--mocap"]
        sample = [str(ROOT / "tools/create_sample_data.py"), f"--data_dir={data}", f"--num_images={FLAGS.num_images}"]
        step("Sample data: people made by code, in the datasets' own layout", *sample, *sets)
    records = [str(ROOT / "tools/create_dataset.py"), "--lsp", "--lsp_val", "--lsp_ext", "--mocap"]
    step("Dataset -> TFRecords", *records, f"--data_dir={data}")
    shutil.rmtree(run, ignore_errors=True)
    training = [f"--data_dir={data}", f"--run_dir={run}", f"--num_epochs={FLAGS.num_epochs}"]
    encoder = ["--backbone=MobileNetV3Small", f"--backbone_weights={FLAGS.backbone_weights}", "--freeze_backbone"]
    losses = ["--use_mesh_repro_loss", "--loss_3d_weight=30", "--generator_lr=0.0005", "--dropout=0.2"]
    step("Training", "-m", "posekit.train", *training, *encoder, *losses, "--body=sample", "--verbose=2")
    step("Validation, beside the untrained model", "-m", "posekit.validate", f"--run_dir={run}", "--baseline")
    photos = centred_photos(data / "lsp_dataset", out / "photos")
    print("\nFour short epochs are rough; what follows uses the weights of checkpoints/, which posekit.load takes.")
    preview = ["-m", "posekit.preview", f"--source={photos[0]}", "--view=both"]
    step("Preview", *preview, f"--output={out / 'preview.png'}")
    predict = ["-m", "posekit.predict", *map(str, photos)]
    step("Prediction", *predict, f"--output={out / 'predictions'}")
    print("\nPictures to look at:")
    for folder in (out, run / "validation", out / "predictions"):
        for path in sorted(folder.glob("*.png")):
            print(f"  {path}")


if __name__ == "__main__":
    app.run(main)
