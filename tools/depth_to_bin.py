"""Turns PNG pictures of depth into the `.bin` files of float32 that V2V-PoseNet's own code reads.

    python tools/depth_to_bin.py --dataset=icvl --data_dir=data

Every picture of ICVL and HANDS2017 gets its .bin beside it, of NYU in `parsed` below it, as the original's PNG2BIN.m
writes them. tools/create_dataset.py reads both kinds, so this is for the original's code, or for speed: a .bin takes
up to ten times the space and is read faster. What is there already is not made again. Exit status: 0 if all is well, 3
if pictures had to be skipped, 1 if nothing could be done, 130 if interrupted.
"""

import collections
import concurrent.futures
import itertools
import os
import pathlib
import sys

from absl import app, flags
from converters import hands2017, icvl, nyu
from converters.depth_frames import SCENES, existing_folder, picture_name, usable
from tqdm import tqdm

from posekit.data.depth_files import (
    DepthFileError,
    read_depth_png,
    read_label_names,
    write_depth_bin,
)
from posekit.data.shards import NothingUsableError, Skip, Tally

EXIT_SKIPS = 3
EXIT_INTERRUPTED = 130
CONVERTED = ("icvl", "nyu", "hands2017")
# Datasets without pictures in PNG, and what they have.
NOTHING_TO_CONVERT = {"msra": ".bin files already", "itop_front": ".h5 files", "itop_top": ".h5 files"}
_AHEAD = 256

flags.DEFINE_enum(
    "dataset",
    None,
    [*CONVERTED, *NOTHING_TO_CONVERT],
    "Dataset whose pictures are converted. The last ones have none: msra is of .bin files already, itop of .h5.",
)
flags.DEFINE_string("data_dir", "data", "Folder of the raw datasets.")
flags.DEFINE_string("dataset_dir", None, "The dataset's folder; {data_dir}/{dataset} if not given.")
flags.DEFINE_list("split", ["train", "test"], "Which parts of it are converted.")
flags.DEFINE_bool("overwrite", False, "Make .bin files again that are there.")
flags.DEFINE_integer("num_workers", 0, "Threads; as many as there are processors if 0.", 0, 1024)
FLAGS = flags.FLAGS


def main(argv):
    """Converts the pictures of one dataset.

    Args:
        argv: Command line without flags.

    Returns:
        Exit status.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; choose a dataset with --dataset.")
    if FLAGS.dataset is None:
        raise app.UsageError("No dataset chosen; give --dataset=icvl, --dataset=nyu or --dataset=hands2017.")
    if FLAGS.dataset in NOTHING_TO_CONVERT:
        print(
            f"Nothing to convert: {FLAGS.dataset} comes as {NOTHING_TO_CONVERT[FLAGS.dataset]}, which tools/"
            f"create_dataset.py --{FLAGS.dataset} and the original's code read; pictures in PNG are those of "
            f"{', '.join(CONVERTED)}.",
            file=sys.stderr,
        )
        return 1
    wrong = sorted(set(FLAGS.split) - {"train", "test"})
    if wrong or not FLAGS.split:
        raise app.UsageError(f"--split={','.join(wrong)} is not train or test.")
    folder = pathlib.Path(FLAGS.dataset_dir or pathlib.Path(FLAGS.data_dir) / FLAGS.dataset)
    status = 0
    try:
        for split in dict.fromkeys(FLAGS.split):
            status = max(status, convert(FLAGS.dataset, split, folder, FLAGS.overwrite, FLAGS.num_workers))
    except NothingUsableError as error:
        print(f"ERROR {FLAGS.dataset}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


def convert(dataset, split, folder, overwrite=False, num_workers=0):
    """Converts the pictures of one part of a dataset and prints what became of them.

    Args:
        dataset: `"icvl"`, `"nyu"` or `"hands2017"`.
        split: `"train"` or `"test"`.
        folder: Folder of the dataset.
        overwrite: Make files again that are there.
        num_workers: Threads; as many as there are processors if 0.

    Returns:
        0, or `EXIT_SKIPS` if pictures were skipped.

    Raises:
        NothingUsableError: If there is nothing to convert.
        OSError: If a file cannot be written.
    """
    scene = SCENES[dataset]
    pairs = list_pictures(dataset, split, existing_folder(folder, "dataset", f"{dataset}'s files"))
    if not pairs:
        raise NothingUsableError(f"There is no PNG picture of {split} in {folder}.")
    layout = "nyu" if dataset == "nyu" else "mm16"
    done, tally = collections.Counter(), Tally()

    def make(pair):
        source, target = pair
        whole = 4 * scene.size[0] * scene.size[1]
        if not overwrite and os.path.isfile(target) and os.path.getsize(target) == whole:
            return "there already", None
        if not os.path.lexists(source):
            return "skipped", Skip(os.path.relpath(source, folder), "missing picture")
        try:
            write_depth_bin(target, read_depth_png(source, layout, scene.size))
        except DepthFileError as error:
            return "skipped", Skip(os.path.relpath(source, folder), error.reason)
        return "made", None

    with (
        tqdm(total=len(pairs), desc=f"{dataset} {split}", unit="picture", disable=None) as bar,
        concurrent.futures.ThreadPoolExecutor(num_workers or os.cpu_count()) as pool,
    ):
        waiting, rest = collections.deque(), iter(pairs)
        # A bounded number at a time: an interrupted run ends soon, and results do not pile up.
        while True:
            waiting.extend(pool.submit(make, pair) for pair in itertools.islice(rest, _AHEAD - len(waiting)))
            if not waiting:
                break
            outcome, skip = waiting.popleft().result()
            done[outcome] += 1
            if skip:
                tally.add(skip)
            bar.update(1)
    print(f"{dataset} {split}: {done['made']} made, {done['there already']} there already, {done['skipped']} skipped")
    for reason, entry in tally.reasons.items():
        print(f"{dataset} {split}: skipped {entry['count']}: {reason} ({', '.join(entry['first'][:3])})")
    return EXIT_SKIPS if done["skipped"] else 0


def list_pictures(dataset, split, folder):
    """The pictures of one part of a dataset.

    Args:
        dataset: `"icvl"`, `"nyu"` or `"hands2017"`.
        split: `"train"` or `"test"`.
        folder: `pathlib.Path` of the dataset.

    Returns:
        List of (PNG picture, `.bin` file to make).

    Raises:
        NothingUsableError: If the text that lists them is missing or damaged.
    """
    if dataset == "nyu":
        pictures = nyu.part_folder(folder, split)
        if not pictures.is_dir():
            raise NothingUsableError(f"There is no folder {pictures}; it should hold depth_1_0000001.png and so on.")
        stems = sorted(path.stem for path in pictures.glob("depth_1_*.png"))
        return [(pictures / f"{stem}.png", pictures / "parsed" / f"{stem}.bin") for stem in stems]
    pictures = folder / ("frame" if split == "test" else "training") / "images"
    with usable():
        if dataset == "icvl":
            pictures = folder / icvl.SPLITS[split][0] / "Depth"
            files = icvl.label_files(split, folder)
            stems = [picture_name(path, name) for path in files for name in read_label_names(path)]
        else:
            path = hands2017.list_file(split, folder)
            stems = [picture_name(path, name) for name in read_label_names(path)]
    return [(pictures / f"{stem}.png", pictures / f"{stem}.bin") for stem in stems]


if __name__ == "__main__":
    app.run(main)
