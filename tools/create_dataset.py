"""Turns raw datasets, in the layout in which they are downloaded, into the TFRecords that training reads.

    python tools/create_dataset.py --lsp --lsp_val --lsp_ext --mpii --coco --mocap --h36m --data_dir=data

Where the raw data is expected below --data_dir (every folder has a flag of its own):

    --lsp, --lsp_val   lsp_dataset/{joints.mat,images}; silhouettes in upi-s1h/data/lsp
    --lsp_ext          lspet_dataset/{joints.mat,images}; silhouettes in upi-s1h/data/lsp_extended
    --mpii             upi-s1h/data/mpii/{poses.npz,images}, as Unite the People hands it out
    --coco             coco/annotations/person_keypoints_*.json, coco/train2017, …
    --coco_people      the same files, or coco_people/ of tools/create_sample_data.py; becomes coco_people_train and
                       coco_people_val, a record a picture with all its people
    --mocap            mocap_neutrMosh/neutrSMPL_*.tfrecord; neutrMosh/neutrSMPL_*/*/*.pkl; amass/**/*.npz
    --h36m             h36m/{h36m_train.pkl,h36m_test.pkl,h36m_sh_dt_ft.pkl}, as CHUNYUWANG/lcn-pose hands them out,
                       h36m/{data_3d_h36m.npz,data_2d_h36m_*.npz} of VideoPose3D,
                       h36m/S1/MyPoseFeatures/D3_Positions/*.cdf and so on, Human3.6M's own, or
                       h36m/S1/MyPoses/3D_positions/*.h5; becomes the pose files h36m_train.h5 and h36m_test.h5

    --msra             msra/P0/1/{000000_depth.bin,joint.txt} and so on; becomes msra_p0 to msra_p8, one a person
    --icvl             icvl/Training/{labels.txt,Depth}, icvl/Testing/{test_seq_1.txt,test_seq_2.txt,Depth}
    --nyu              nyu/train/{joint_data.mat,depth_1_0000001.png} and so on, nyu/test
    --hands2017        hands2017/training/{Training_Annotation.txt,images}, hands2017/frame/{BoundingBox.txt,images}
    --itop_front       itop/ITOP_side_{train,test}_{depth_map,labels}.h5
    --itop_top         itop/ITOP_top_{train,test}_{depth_map,labels}.h5

Hands and bodies in depth pictures have centres, which V2V-PoseNet's authors hand out as center_train_refined.txt and
so on: in {folder of the dataset}/center, for ITOP in itop/center/side_view and itop/center/top_view. Where there are
none, centres are estimated, and the table says so.

Images without a silhouette are kept. A run that was interrupted continues where it was when started again, and what
is there already is not made again. Exit status: 0 if all is well, 3 if something had to be skipped (0 with
--allow_skips), 1 if a dataset could not be made, 130 if interrupted.
"""

import functools
import pathlib
import sys

from absl import app, flags
from converters import coco, coco_people, depth_frames, h36m, hands2017, icvl, itop, lsp, mocap, mpii, msra, nyu
from tqdm import tqdm

from posekit.data.depth_records import WITHOUT_PICTURE
from posekit.data.people_hdf5 import find_people_file
from posekit.data.people_records import SPLITS, people_set
from posekit.data.shards import NothingUsableError, ShardWriter
from posekit.data.tfrecord import MOCAP_FOLDER, DatasetNotFoundError, dataset_files, mocap_names
from posekit.files import print_any_text

EXIT_SKIPS = 3
EXIT_INTERRUPTED = 130
_NAMES_SHOWN = 3
_MAX_STRIDE = 1_000_000
_MAX_GIB = 1_000_000
_MAX_SIDE = 100_000
_DATASETS = (
    "lsp", "lsp_val", "lsp_ext", "mpii", "coco", "coco_people", "mocap", "h36m", "msra", "icvl", "nyu", "hands2017",
    "itop_front", "itop_top",
)  # fmt: skip

flags.DEFINE_bool("lsp", False, "Make lsp_train: the first half of Leeds Sports Pose.")
flags.DEFINE_bool("lsp_val", False, "Make lsp_val: the second half of Leeds Sports Pose.")
flags.DEFINE_bool("lsp_ext", False, "Make lsp_ext: Leeds Sports Pose, extended.")
flags.DEFINE_bool("mpii", False, "Make mpii: MPII Human Pose in Unite the People's layout.")
flags.DEFINE_bool("coco", False, "Make coco: COCO's person keypoints.")
flags.DEFINE_bool("coco_people", False, "Make coco_people_train and coco_people_val: COCO, many people in a picture.")
flags.DEFINE_bool("mocap", False, "Make motion capture for the critic: SMPL pickles, AMASS, or records as they are.")
flags.DEFINE_bool("h36m", False, "Make h36m_train and h36m_test: Human3.6M's poses, for lifting 2-D joints to 3-D.")
flags.DEFINE_bool("msra", False, "Make msra_p0 to msra_p8: MSRA's hands in depth pictures, a set for each person.")
flags.DEFINE_bool("icvl", False, "Make icvl_train and icvl_test: ICVL's hands in depth pictures.")
flags.DEFINE_bool("nyu", False, "Make nyu_train and nyu_test: NYU's hands in depth pictures.")
flags.DEFINE_bool("hands2017", False, "Make hands2017_train and hands2017_test: HANDS2017's hands in depth pictures.")
flags.DEFINE_bool("itop_front", False, "Make itop_front_train and itop_front_test: people in depth pictures.")
flags.DEFINE_bool("itop_top", False, "Make itop_top_train and itop_top_test: people in depth pictures, from above.")
for _name in ("lsp", "lsp_val", "lsp_ext", "mpii"):
    flags.DEFINE_alias(f"create_{_name}", _name)

flags.DEFINE_string("data_dir", "data", "Folder of the raw datasets.")
flags.DEFINE_string("output_dir", None, "Folder of the records; --data_dir if not given.")
flags.DEFINE_string("lsp_dir", None, "LSP's folder; {data_dir}/lsp_dataset if not given.")
flags.DEFINE_string("lsp_im", None, "LSP's images; {lsp_dir}/images if not given.")
flags.DEFINE_string("lsp_seg", None, "LSP's silhouettes; {data_dir}/upi-s1h/data/lsp if not given.")
flags.DEFINE_string("lsp_e_dir", None, "LSP-extended's folder; {data_dir}/lspet_dataset if not given.")
flags.DEFINE_string("lsp_e_im", None, "LSP-extended's images; {lsp_e_dir}/images if not given.")
flags.DEFINE_string("lsp_e_seg", None, "LSP-extended's silhouettes; {data_dir}/upi-s1h/data/lsp_extended if not given.")
flags.DEFINE_string("mpii_dir", None, "MPII's folder; {data_dir}/upi-s1h/data/mpii if not given.")
flags.DEFINE_string("mpii_poses_dir", None, "MPII's labels; {mpii_dir}/poses.npz if not given.")
flags.DEFINE_enum("mpii_visible_value", "0", ["0", "1"], "What the third row of MPII's labels holds where visible.")
flags.DEFINE_string(
    "coco_dir",
    None,
    "COCO's folder; {data_dir}/coco if not given, for --coco_people {data_dir}/coco_people if there is no real COCO.",
)
flags.DEFINE_list(
    "coco_split",
    [],
    "COCO's splits, such as train2017,val2017; the first training split that is there, else the first validation "
    "split, if not given. A validation split beside a training split becomes coco_val.",
)
flags.DEFINE_string(
    "coco_people_train", None, "COCO's split that becomes coco_people_train; the first training split that is there."
)
flags.DEFINE_string(
    "coco_people_val", None, "COCO's split that becomes coco_people_val; the first validation split that is there."
)
flags.DEFINE_enum(
    "format",
    "tfrecord",
    ["tfrecord", "hdf5"],
    "How --coco_people stores pictures: as records, or as coco_people_train.h5 in the layout of the first OpenPose on "
    "Keras, which takes about ten times the room. hdf5 goes with --coco_people alone: the others have one way.",
)
flags.DEFINE_integer("coco_min_visible", 6, "People with fewer visible joints are left out.", lower_bound=1)
flags.DEFINE_integer("coco_min_box", 60, "People whose box has no longer side, in pixels, are left out.", lower_bound=0)
flags.DEFINE_string("mocap_dir", None, "SMPL pickles; {data_dir}/neutrMosh if not given.")
flags.DEFINE_string("amass_dir", None, "AMASS's folder; {data_dir}/amass if not given.")
flags.DEFINE_integer("amass_stride", 1, "Every how many frames of an AMASS recording one is taken.", 1, _MAX_STRIDE)
flags.DEFINE_string("h36m_dir", None, "Human3.6M's folder; {data_dir}/h36m or {data_dir}/dataset if not given.")
flags.DEFINE_enum(
    "h36m_source",
    None,
    list(h36m.SOURCES),
    "Which of Human3.6M's layouts is read; the first one that is there if not given.",
)
flags.DEFINE_string(
    "h36m_detections",
    None,
    "File of 2-D detections for Human3.6M; the one in its folder if not given, none to do without.",
)
flags.DEFINE_integer("h36m_stride", 1, "Every how many frames of a Human3.6M video one is taken.", 1, _MAX_STRIDE)
flags.DEFINE_bool(
    "h36m_distortion",
    True,
    "Put the joints in the picture (joints_px) where the lens puts them; the pickles know no lens.",
)
flags.DEFINE_list("h36m_image_size", [], "Width,height of the pictures of cameras that are not Human3.6M's own.")
flags.DEFINE_float("h36m_max_gib", 8, "Largest file of Human3.6M, in GiB, that is read.", lower_bound=0)
flags.DEFINE_string("msra_dir", None, "MSRA's folder; {data_dir}/msra if not given.")
flags.DEFINE_string("icvl_dir", None, "ICVL's folder; {data_dir}/icvl if not given.")
flags.DEFINE_string("nyu_dir", None, "NYU's folder; {data_dir}/nyu if not given.")
flags.DEFINE_string("hands2017_dir", None, "HANDS2017's folder; {data_dir}/hands2017 if not given.")
flags.DEFINE_string("itop_dir", None, "ITOP's folder; {data_dir}/itop if not given.")
flags.DEFINE_string(
    "centers_dir",
    None,
    "Folder of the centre files for depth pictures, or of folders named after the datasets that hold them; those of "
    "the datasets' folders if not given.",
)
flags.DEFINE_bool("estimate_centers", False, "Estimate the centres for depth pictures, even where there are files.")
flags.DEFINE_float(
    "cubic_size",
    0,
    "Edge of the cube around the centre for which depth pictures are cut, in mm (ITOP: m); the dataset's own if 0.",
    0,
    10_000,
)
flags.DEFINE_integer(
    "original_size",
    96,
    "Voxels along the cube from which augmentation crops, where depth pictures must do for more than 96 for 88, 40 for "
    "32 or 18 for 16.",
    8,
    512,
)
flags.DEFINE_integer("cropped_size", 88, "Voxels along the network's cube that goes with --original_size.", 8, 512)
flags.DEFINE_enum(
    "silhouette_format",
    "png",
    ["png", "jpeg"],
    "How silhouettes are stored: png keeps them exactly; jpeg is the original's and leaves a faint seam around them.",
)
flags.DEFINE_integer("shard_size", 500, "Images in a file; up to twice as many make one file.", lower_bound=1)
flags.DEFINE_integer("num_workers", 0, "Processes; as many as there are processors if 0.", lower_bound=0)
flags.DEFINE_bool("overwrite", False, "Make again what is there, and replace files that this program did not write.")
flags.DEFINE_bool("allow_skips", False, "Exit with 0 even if something had to be skipped.")
FLAGS = flags.FLAGS


def main(argv):
    """Makes the chosen datasets.

    Args:
        argv: Command line without flags.

    Returns:
        Exit status.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; choose datasets with flags such as --lsp.")
    print_any_text()
    jobs = _jobs()
    summaries, failures = [], []
    try:
        for name, folder, shard_size, listing in jobs:
            try:
                summaries.extend(_make(name, folder, shard_size, listing))
            except NothingUsableError as error:
                summaries.extend([error.summary] if error.summary else [])
                failures.append(f"{name}: {error}")
            except (FileExistsError, RuntimeError) as error:
                failures.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        failures.append(f"{error.strerror}{where}" if error.strerror else f"{error}")
    except KeyboardInterrupt:
        print("\nInterrupted. Finished shards are kept: run the same command again to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    if summaries:
        print(report(summaries))
    if remark := _nothing_to_train_on({summary.name for summary in summaries}):
        print(remark)
    for failure in failures:
        print(f"ERROR {failure}", file=sys.stderr)
    if failures:
        return 1
    return EXIT_SKIPS if not FLAGS.allow_skips and any(summary.defects for summary in summaries) else 0


def report(summaries):
    """Table of what was made, and below it why things are missing.

    Args:
        summaries: List of `Summary`.

    Returns:
        Text of several lines.
    """
    header = ("dataset", "found", "written", "without silhouette", "left out by rule", "skipped", "")
    rows = [header]
    notes = []
    for summary in summaries:
        by_rule = sum(entry["count"] for entry in summary.skips.values() if entry["by_rule"])
        pictures = not summary.name.startswith("neutrSMPL_") and summary.without_silhouette is not None
        silhouettes = str(summary.without_silhouette) if pictures else "-"
        numbers = (str(summary.found), str(summary.written), silhouettes, str(by_rule), str(summary.defects))
        rows.append((summary.name, *numbers, "" if summary.fresh else "(already there)"))
        if estimated := summary.counts.get("estimated_centers"):
            notes.append(f"{summary.name}: centres estimated: {estimated} of {summary.written}")
        without = summary.counts.get(WITHOUT_PICTURE)
        if without:
            notes.append(
                f"{summary.name}: without a usable picture: {without} of {summary.written}; these are written without "
                "a centre, so that result files of all frames fit, and take no part in training"
            )
        if not summary.fresh and (summary.defects or without):
            notes.append(f"{summary.name}: files that were mended since are taken in with --overwrite")
        notes.extend(f"{summary.name}: {remark}" for remark in summary.remarks)
        for reason, entry in summary.skips.items():
            names = ", ".join(entry["first"][:_NAMES_SHOWN])
            more = ", …" if entry["count"] > _NAMES_SHOWN else ""
            kind = "left out" if entry["by_rule"] else "skipped"
            notes.append(f"{summary.name}: {kind} {entry['count']}: {reason} ({names}{more})")
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for name, *numbers, remark in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:])]
        lines.append("  ".join([name.ljust(widths[0]), *cells, remark]).rstrip())
    return "\n".join(lines + notes)


# ------------------------------------------------------------------------------------------------ the datasets


def _jobs():
    """List of (name, output folder, shard size, function that lists the raw dataset or gives its `Summary`)."""
    data_dir = pathlib.Path(FLAGS.data_dir)
    output_dir = pathlib.Path(FLAGS.output_dir or FLAGS.data_dir)
    chosen = [f"--{name}" for name in _DATASETS if FLAGS[name].value]
    if not chosen:
        raise app.UsageError(f"No dataset chosen; give any of {' '.join(f'--{name}' for name in _DATASETS)}.")
    if FLAGS.format == "hdf5" and chosen != ["--coco_people"]:
        raise app.UsageError(
            f"--format=hdf5 is for --coco_people alone, not {' '.join(chosen)}; make the others in a run of their own."
        )
    jobs = []
    for flag, part in (("lsp", "train"), ("lsp_val", "val")):
        if FLAGS[flag].value:
            jobs.append((f"lsp_{part}", lambda part=part: _lsp(part, data_dir)))
    if FLAGS.lsp_ext:
        jobs.append(("lsp_ext", lambda: _lsp_extended(data_dir)))
    if FLAGS.mpii:
        jobs.append(("mpii", lambda: _mpii(data_dir)))
    if FLAGS.coco:
        jobs.extend(_coco_jobs(pathlib.Path(FLAGS.coco_dir or data_dir / "coco")))
    if FLAGS.coco_people:
        jobs.extend(_coco_people_jobs(pathlib.Path(FLAGS.coco_dir or _coco_people_folder(data_dir)), output_dir))
    jobs = [(name, output_dir, FLAGS.shard_size, listing) for name, listing in jobs]
    if FLAGS.mocap:
        jobs.extend(_mocap_jobs(data_dir, output_dir))
    if FLAGS.h36m:
        jobs.extend(_h36m_jobs(data_dir, output_dir))
    jobs.extend((name, output_dir, FLAGS.shard_size, listing) for name, listing in _depth_jobs(data_dir))
    return jobs


def _lsp(part, data_dir):
    default = data_dir / "lsp_dataset"
    # The first original's default.
    if not default.exists() and (data_dir / "lsp" / "joints.mat").exists():
        default = data_dir / "lsp"
    return lsp.lsp(
        part,
        FLAGS.lsp_dir or default,
        images=FLAGS.lsp_im,
        silhouettes=FLAGS.lsp_seg or data_dir / "upi-s1h" / "data" / "lsp",
        silhouette_format=FLAGS.silhouette_format,
    )


def _lsp_extended(data_dir):
    return lsp.lsp_extended(
        FLAGS.lsp_e_dir or data_dir / "lspet_dataset",
        images=FLAGS.lsp_e_im,
        silhouettes=FLAGS.lsp_e_seg or data_dir / "upi-s1h" / "data" / "lsp_extended",
        silhouette_format=FLAGS.silhouette_format,
    )


def _mpii(data_dir):
    return mpii.mpii(
        FLAGS.mpii_dir or data_dir / "upi-s1h" / "data" / "mpii",
        poses=FLAGS.mpii_poses_dir,
        visible_value=int(FLAGS.mpii_visible_value),
        silhouette_format=FLAGS.silhouette_format,
    )


def _coco_jobs(folder):
    there = coco.available_splits(folder)
    splits = FLAGS.coco_split or there[:1] or ["train2017"]
    training = any(split.startswith("train") for split in there)
    names = ["coco_val" if split.startswith("val") and training else "coco" for split in splits]
    if len(set(names)) < len(names):
        raise app.UsageError(f"--coco_split={','.join(splits)} would write {names[0]} twice; give one split a run.")

    def listing(name, split):
        return coco.coco(
            folder,
            split,
            name=name,
            min_visible=FLAGS.coco_min_visible,
            min_box=FLAGS.coco_min_box,
            silhouette_format=FLAGS.silhouette_format,
        )

    return [(name, lambda name=name, split=split: listing(name, split)) for name, split in zip(names, splits)]


def _coco_people_folder(data_dir):
    """COCO itself; where it is missing or sample data, the sample data of many people, if they are there."""
    real, sample = data_dir / "coco", data_dir / "coco_people"
    return sample if sample.is_dir() and (not real.is_dir() or (real / "sample_data.json").is_file()) else real


def _coco_people_jobs(folder, output_dir):
    there = coco.available_splits(folder)
    chosen = {}
    for part in SPLITS:
        split = FLAGS[f"coco_people_{part}"].value or next((name for name in there if name.startswith(part)), None)
        if split:
            chosen[people_set(part)] = split
    chosen = chosen or {people_set("train"): "train2017"}

    def listing(name, split):
        _refuse_both_forms(name, output_dir)
        if FLAGS.format == "tfrecord":
            # Figures of validation count what is found where nobody is.
            return coco_people.coco_people(folder, split, name, keep_all=name == people_set("val"))
        raw = coco_people.coco_people(folder, split, name)
        with tqdm(total=len(raw.items), desc=name, unit="picture", disable=None) as bar:
            return coco_people.write_hdf5(raw, output_dir, FLAGS.overwrite, bar.update)

    return [(name, functools.partial(listing, name, split)) for name, split in chosen.items()]


def _nothing_to_train_on(made):
    """What to say where only the pictures of validation were there."""
    train, val = map(people_set, ("train", "val"))
    if val not in made or train in made or FLAGS.coco_people_train:
        return ""
    split = FLAGS.coco_people_val or "val2017"
    return (
        f"{train}: not made, since COCO's training split is not there. {val} is for validation; to train on pictures "
        f"of a split that is there, name it: --coco_people --coco_people_train={split}"
    )


def _refuse_both_forms(name, output_dir):
    """Training would not know which of them is meant."""
    if FLAGS.format == "tfrecord":
        other = find_people_file(output_dir, name.rpartition("_")[2])
    else:
        try:
            other = dataset_files(output_dir, name)[0]
        except DatasetNotFoundError:
            other = None
    if other is not None:
        raise FileExistsError(
            f"{other} holds this set in another form than --format={FLAGS.format}. Move it away, or choose another "
            "--output_dir."
        )


def _mocap_jobs(data_dir, output_dir):
    pickle_dir = pathlib.Path(FLAGS.mocap_dir or data_dir / "neutrMosh")
    amass_dir = pathlib.Path(FLAGS.amass_dir or data_dir / "amass")
    recordings = {item.name: item for item in mocap.find_recordings(pickle_dir, amass_dir, FLAGS.amass_stride)}
    existing = mocap_names(data_dir)
    jobs = []
    for name in sorted({*recordings, *existing}):
        foreign = name in existing and not mocap.made_here(data_dir, name)
        if name not in recordings or (foreign and not FLAGS.overwrite):
            jobs.append((name, lambda name=name: mocap.use_existing(name, data_dir, output_dir)))
        else:
            jobs.append((name, lambda name=name: _gathered(recordings[name], output_dir)))

    def nothing():
        raise NothingUsableError(
            f"There is no motion capture: neither {data_dir / MOCAP_FOLDER}/neutrSMPL_*.tfrecord, nor "
            f"{pickle_dir}/neutrSMPL_*/*/*.pkl, nor {amass_dir}/**/*.npz."
        )

    jobs = [(f"mocap {name}", listing) for name, listing in jobs] or [("mocap", nothing)]
    return [(name, output_dir / MOCAP_FOLDER, mocap.SHARD_SIZE, listing) for name, listing in jobs]


def _gathered(recordings, output_dir):
    with tqdm(total=len(recordings.files), desc=f"reading {recordings.name}", unit="file", disable=None) as bar:
        return mocap.mocap(recordings, output_dir, bar.update)


def _h36m_jobs(data_dir, output_dir):
    folder = pathlib.Path(FLAGS.h36m_dir or data_dir / "h36m")
    # The original's name for it.
    if not FLAGS.h36m_dir and not folder.exists() and (data_dir / "dataset").exists():
        folder = data_dir / "dataset"
    try:
        image_size = tuple(float(length) for length in FLAGS.h36m_image_size) or None
    except ValueError:
        image_size = ()
    if image_size is not None and (len(image_size) != 2 or not all(1 <= length <= _MAX_SIDE for length in image_size)):
        raise app.UsageError(
            f"--h36m_image_size={','.join(FLAGS.h36m_image_size)} is not width,height in pixels, 1 to {_MAX_SIDE} each."
        )
    if not 0 <= FLAGS.h36m_max_gib <= _MAX_GIB:
        raise app.UsageError(f"--h36m_max_gib={FLAGS.h36m_max_gib} is not a size of 0 to {_MAX_GIB} GiB, such as 8.")
    options = h36m.Options(
        stride=FLAGS.h36m_stride,
        distortion=FLAGS.h36m_distortion,
        image_size=image_size,
        detections=FLAGS.h36m_detections,
        max_bytes=int(FLAGS.h36m_max_gib * 2**30),
    )

    def making(split):
        with tqdm(desc=f"h36m_{split}", unit="pose", disable=None) as bar:
            return h36m.h36m(split, folder, output_dir, options, FLAGS.h36m_source, FLAGS.overwrite, bar.update)

    return [(f"h36m_{split}", output_dir, 0, lambda split=split: making(split)) for split in ("train", "test")]


def _depth_jobs(data_dir):
    """List of (name, function that lists the raw dataset) of the depth datasets chosen."""
    chosen = [name for name in depth_frames.SCENES if FLAGS[name].value]
    for name in chosen:
        own = depth_frames.SCENES[name].cubic_size
        if FLAGS.cubic_size and not 0.1 <= FLAGS.cubic_size / own <= 10:  # millimetres taken for metres
            raise app.UsageError(f"--cubic_size={FLAGS.cubic_size:g} is no cube for {name}, whose own is {own:g}.")
    if FLAGS.centers_dir and len(chosen) > 1:
        inner = [name for name in chosen if not (pathlib.Path(FLAGS.centers_dir) / name).is_dir()]
        if inner:
            raise app.UsageError(
                f"--centers_dir={FLAGS.centers_dir} has no folder {inner[0]}, and the datasets' centre files have the "
                "same names; give one dataset a run, or make a folder for each."
            )
    if FLAGS.original_size < FLAGS.cropped_size:
        raise app.UsageError(
            f"--original_size={FLAGS.original_size} is smaller than --cropped_size={FLAGS.cropped_size}; the original "
            "has 96 for 88."
        )
    cube = FLAGS.original_size, FLAGS.cropped_size
    options = depth_frames.Options(FLAGS.centers_dir, FLAGS.estimate_centers, FLAGS.cubic_size, cube)
    folder = {}
    for name in chosen:
        raw = name.split("_")[0]  # both views of ITOP lie in one folder
        folder[name] = pathlib.Path(FLAGS[f"{raw}_dir"].value or data_dir / raw)
    jobs = []
    if "msra" in chosen:
        jobs.extend(_msra_jobs(folder["msra"], options))
    for split in ("train", "test"):
        for name, listing in (("icvl", icvl.icvl), ("nyu", nyu.nyu), ("hands2017", hands2017.hands2017)):
            if name in chosen:
                make = functools.partial(listing, split, folder[name], options)
                jobs.append((f"{name}_{split}", make))
        for name in itop.VIEWS:
            if name in chosen:
                jobs.append((f"{name}_{split}", functools.partial(itop.itop, name, split, folder[name], options)))
    return jobs


def _msra_jobs(folder, options):
    try:
        labels = msra.read_all_labels(folder)  # of all persons: they tell which line of a centre file is whose
    except NothingUsableError as error:
        return [("msra", functools.partial(_failing, error))]
    return [(f"msra_p{subject}", functools.partial(msra.msra, subject, labels, options)) for subject in labels.joints]


def _failing(error):
    raise error


def _make(name, folder, shard_size, listing):
    raw = listing()
    if not hasattr(raw, "items"):
        return [raw]
    writer = ShardWriter(folder, shard_size, FLAGS.num_workers or None, FLAGS.overwrite)
    with tqdm(total=len(raw.items), desc=name, unit="record", disable=None) as bar:
        return [writer.write(raw, bar.update)]


if __name__ == "__main__":
    app.run(main)
