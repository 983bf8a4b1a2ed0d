"""Runs the main job of a system end to end on sample data: `make demo`, or `make demo MODEL=lcn`, `v2v` or `openpose`.

Sample data -> records -> training -> validation -> preview and prediction, each through the command a user types. An
interrupted demo goes on where it was: data that are there are used, and a training of the same options is resumed.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
from absl import app, flags
from matplotlib.cbook import get_sample_data
from PIL import Image
from scipy.io import loadmat

from posekit.bodies import sample_body
from posekit.codecs.screen_pose import camera_to_image
from posekit.data.sources import read_image
from posekit.data.synthetic_motion import FRAME_RATE, SHORTEST, Actor, sample_cameras, sample_recording
from posekit.data.synthetic_people import sample_people_picture
from posekit.files import cache_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent

flags.DEFINE_enum("model", "hmr", ["hmr", "lcn", "v2v", "openpose"], "system to show")
flags.DEFINE_string("output_dir", "demo", "folder for data, run and pictures; all systems but hmr have their own in it")
flags.DEFINE_integer("num_images", 240, "hmr: sample images of each dataset", lower_bound=16)
flags.DEFINE_integer("num_poses", 20000, "lcn: sample poses, a fifth of them to test", lower_bound=6000)
flags.DEFINE_integer("frames_per_gesture", 6, "v2v: sample frames of each gesture of each person", lower_bound=2)
flags.DEFINE_integer("num_people_images", 80, "openpose: sample pictures of several people", lower_bound=8)
flags.DEFINE_list("photographs", [], "openpose: photographs of your own to find people in, besides sample pictures")
flags.DEFINE_integer(
    "num_epochs", None, "epochs to train; 4 for hmr and openpose, 12 for lcn and 8 for v2v if not given", lower_bound=1
)
flags.DEFINE_string("backbone_weights", "hmr_sample", "hmr: where the encoder comes from: name, run, file or none")
FLAGS = flags.FLAGS

INTERRUPTED = 130
# About, on two processor cores that do nothing else.
MINUTES = {"hmr": 3, "lcn": 4, "v2v": 3, "openpose": 3}


def step(title, *command, may_fail=False):
    """Prints a command, runs it, and stops the demo if it fails, unless it may; tells whether it has succeeded."""
    shown = [os.path.relpath(part) if os.path.isabs(part) and os.path.exists(part) else part for part in command]
    print(f"\n== {title}\n$ {shlex.join(['python', *shown])}", flush=True)
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *command]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # The terminal's Ctrl-C has reached the command too, which needs a moment to save what it has.
            process.wait()
            status = INTERRUPTED
    if status == INTERRUPTED:
        print("The demo was interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(status)
    if status and not may_fail:
        sys.exit(f"The demo stopped: the command above ended with status {status}.")
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    return not status


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
    folder.mkdir(parents=True, exist_ok=True)
    joints = loadmat(dataset / "joints.mat")["joints"]
    files = sorted((dataset / "images").glob("*.jpg"))
    paths = []
    for index in range(len(files) - count, len(files)):
        image, half = read_image(files[index]), size // 2
        x, y = np.round(joints[:2, :, index].mean(1)).astype(int)
        padded = np.pad(image, ((size, size), (size, size), (0, 0)), "edge")
        paths.append(folder / f"{files[index].stem}.png")
        Image.fromarray(padded[y + half : y + half + size, x + half : x + half + size]).save(paths[-1])
    return paths


def walk(path, seconds=6):
    """Writes where somebody's joints are in the pictures of a camera while they walk around: nobody of the datasets.

    Args:
        path: `.npz` file to write, with `keypoints` of `H36M17`, 25 times a second.
        seconds: How long.

    Returns:
        Width and height of the pictures in pixels.
    """
    rng = np.random.default_rng(5)
    camera = sample_cameras(rng)[0]
    somebody = Actor(sample_body(), np.zeros(sample_body().num_shape))
    joints_mm = 1000 * sample_recording(rng, somebody, "Walking", int(SHORTEST * FRAME_RATE))
    joints_cam_mm = camera.see(joints_mm[: int(seconds * FRAME_RATE) : 2])
    joints_image, _ = camera_to_image(joints_cam_mm, (*camera.f, *camera.c))
    np.savez_compressed(path, keypoints=joints_image[..., :2])
    return camera.size


def mesh_recovery(out):
    """Bodies from pictures.

    Args:
        out: Folder for data, run and pictures.
    """
    data, run = out / "data", out / "run"
    sets = ["--lsp", "--lsp_ext", "--mocap", f"--num_images={FLAGS.num_images}"]
    sample_data(out, "lsp_train.tfrecords", "people made by code, in the datasets' own layout", *sets)
    records = [str(ROOT / "tools/create_dataset.py"), "--lsp", "--lsp_val", "--lsp_ext", "--mocap"]
    step("Dataset -> TFRecords", *records, f"--data_dir={data}")
    training = [f"--data_dir={data}", f"--num_epochs={FLAGS.num_epochs or 4}"]
    encoder = ["--backbone=MobileNetV3Small", f"--backbone_weights={FLAGS.backbone_weights}", "--freeze_backbone"]
    losses = ["--use_mesh_repro_loss", "--loss_3d_weight=30", "--generator_lr=0.0005", "--dropout=0.2"]
    train_and_validate(run, *training, *encoder, *losses, "--body=sample")
    photos = centred_photos(data / "lsp_dataset", out / "photos")
    print("\nFour short epochs are rough; what follows uses the weights of checkpoints/, which posekit.load takes.")
    preview = ["-m", "posekit.preview", f"--source={photos[0]}", "--view=both"]
    step("Preview", *preview, f"--output={out / 'preview.png'}")
    predict = ["-m", "posekit.predict", *map(str, photos)]
    step("Prediction", *predict, f"--output={out / 'predictions'}")


def lifting(out):
    """3-D joints from 2-D joints.

    Args:
        out: Folder for data, run and pictures.
    """
    data, run = out / "data", out / "run"
    poses = ["--h36m", f"--num_h36m_poses={FLAGS.num_poses}"]
    sample_data(out, "h36m_train.h5", "people who move, in the layout of Human3.6M's pickles", *poses)
    step("Dataset -> pose files", str(ROOT / "tools/create_dataset.py"), "--h36m", f"--data_dir={data}")
    # So few steps are too few for running statistics with the original's momentum.
    training = [f"--data_dir={data}", f"--num_epochs={FLAGS.num_epochs or 12}", "--batch_norm_momentum=0.9"]
    train_and_validate(run, "--model=lcn", *training)
    preview = ["-m", "posekit.preview", f"--run_dir={run}"]
    pose = f"--source={data / 'h36m_test.h5'}#{POSE}"
    step("Preview of a test pose, walking around it", *preview, pose, f"--output={out / 'pose.gif'}")
    width, height = walk(out / "walk.npz")
    joints = [f"--source={out / 'walk.npz'}", "--skeleton=H36M17", f"--image_size={width},{height}"]
    step("Preview of joints from a file, of somebody who walks", *preview, *joints, f"--output={out / 'walk.mp4'}")
    predict = ["-m", "posekit.predict", f"--run_dir={run}", f"{data / 'h36m_test.h5'}#{POSE}", "--formats=json,png"]
    step("Prediction", *predict, f"--output={out / 'predictions'}")


# Somebody who sits on a chair.
POSE = 1000


def depth_to_joints(out):
    """3-D joints of a hand from one depth picture.

    Args:
        out: Folder for data, run and pictures.
    """
    data, run = out / "data", out / "run"
    frames = ["--msra", f"--msra_frames_per_gesture={FLAGS.frames_per_gesture}"]
    sample_data(out, "msra_p8.tfrecords", "depth pictures of hands, in MSRA's layout", *frames)
    step("Dataset -> records of depth crops", str(ROOT / "tools/create_dataset.py"), "--msra", f"--data_dir={data}")
    # The original's cube has 88 voxels and 16 channels; its batch of 12 frames takes half a minute on two cores.
    small = ["--head=integral", "--cropped_size=24", "--original_size=27", "--width=8", "--batch_size=8"]
    quick = [f"--num_epochs={FLAGS.num_epochs or 8}", "--learning_rate=0.002", "--nouse_validation"]
    training = [f"--data_dir={data}", *quick, *small]
    train_and_validate(run, "--model=v2v", *training)
    print(f"\nPredicting the mean pose of the training frames: {mean_pose_error(data):.1f} mm")
    hands = data / "msra" / "P3" / "4"
    preview = ["-m", "posekit.preview", f"--run_dir={run}"]
    step("Preview of a folder of depth pictures", *preview, f"--source={hands}", f"--output={out / 'hands.mp4'}")
    first = str(sorted(hands.glob("*_depth.bin"))[0])
    step("Preview of one of them, walking around it", *preview, f"--source={first}", f"--output={out / 'hand.gif'}")
    # This run is short; the weights in checkpoints/ have learnt longer.
    predict = ["-m", "posekit.predict", "--model=v2v", first, "--formats=json,png"]
    step("Prediction, with the weights that come with posekit", *predict, f"--output={out / 'predictions'}")


def mean_pose_error(data_dir):
    """Mean error of one pose for all frames: the mean of the training joints relative to the centre.

    Args:
        data_dir: Folder of the records of MSRA.

    Returns:
        Millimetres, over the joints of the test frames.
    """
    from posekit.data.depth_pipeline import read_frames  # with TensorFlow, which --help does not wait for

    train, test = (read_frames(data_dir, "msra", split) for split in ("train", "test"))
    mean_pose = np.nanmean(train.joints - train.refpoints[:, None], axis=0)
    return np.linalg.norm(test.joints - test.refpoints[:, None] - mean_pose, axis=-1).mean()


def many_people(out):
    """The joints of all people in a photograph.

    Args:
        out: Folder for data, run and pictures.
    """
    data, run = out / "data", out / "run"
    weights = "openpose_mobilenet_thin"
    fetching = str(ROOT / "tools/fetch_weights.py"), "mobilenet_thin"
    there = (cache_folder() / "weights" / weights / "model.weights.h5").exists()
    if not there and not step("Weights trained on COCO", *fetching, may_fail=True):
        weights = "openpose_sample"
        print("They could not be fetched; the demo goes on with those in checkpoints/, which know made-up people best.")
    number = f"--num_people_images={FLAGS.num_people_images}"
    sample_data(out, "coco_people_train.tfrecords", "people made by code, in COCO's layout", "--coco_people", number)
    step("Dataset -> records", str(ROOT / "tools/create_dataset.py"), "--coco_people", f"--data_dir={data}")
    # People of the sample pictures differ from those of photographs: a few steps, with two of the six stages.
    small = ["--backbone=mobilenet_thin", f"--backbone_weights={weights}", "--num_stages=2", "--image_size=184"]
    small += ["--field_cells=center"] if weights == "openpose_mobilenet_thin" else []
    training = [f"--data_dir={data}", f"--num_epochs={FLAGS.num_epochs or 4}", *small, "--batch_size=8"]
    rates = ["--optimizer=adam", "--learning_rate=0.00003", "--weight_decay=0", "--nouse_validation"]
    # An untrained network sees joints everywhere, which takes long to sort out.
    train_and_validate(run, "--model=openpose", *training, *rates, baseline=False)
    predict = ["-m", "posekit.predict", "--model=openpose"]
    pictures = sorted((data / "coco_people" / "val2017").glob("*.jpg"))[:4]
    trained = [f"--run_dir={run}", *map(str, pictures)]
    step("People in sample pictures, by what was trained", *predict, *trained, f"--output={out / 'predictions'}")
    # Matplotlib brings one photograph of a person: Grace Hopper's portrait, in the public domain.
    photographs = FLAGS.photographs or [str(get_sample_data("grace_hopper.jpg", asfileobj=False))]
    theirs = [f"--weights={weights}", "--min_score=0.5", *photographs]
    step("People in photographs (yours: make demo MODEL=openpose PHOTOS=a.jpg,b.jpg)", *predict, *theirs,
         f"--output={out / 'photographs'}")  # fmt: skip
    film = pan(out / "street.mp4")
    preview = ["-m", "posekit.preview", "--model=openpose", f"--weights={weights}", f"--source={film}"]
    step("Preview of a video", *preview, f"--output={out / 'people.mp4'}")


def pan(path, seconds=3, size=(360, 480)):
    """Writes a video: a camera that turns along a row of people, nobody of the datasets.

    Args:
        path: `.mp4` file to write.
        seconds: How long.
        size: Height and width of its frames.

    Returns:
        The path.
    """
    height, width = size
    street = sample_people_picture(np.random.default_rng(3), sample_body(), (height, 3 * width), num_people=7).image
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (width, height))
    for left in np.linspace(0, 2 * width, 25 * seconds).astype(int):
        writer.write(np.ascontiguousarray(street[:, left : left + width, ::-1]))
    writer.release()
    return path


def sample_data(out, record, what, *options):
    """Makes sample data, unless an earlier demo has turned some into records already.

    Args:
        out: Folder of the demo.
        record: A file of records that is written last.
        what: What the data are.
        *options: Of `create_sample_data.py`.
    """
    data = out / "data"
    if (data / record).exists():
        print(f"\n== Sample data: those in {data} are used; remove {out} to begin anew.")
        return
    # What was trained there has seen other data.
    shutil.rmtree(out / "run", ignore_errors=True)
    step(f"Sample data: {what}", str(ROOT / "tools/create_sample_data.py"), f"--data_dir={data}", *options)


def train_and_validate(run, *options, baseline=True):
    """Trains, or goes on with an earlier demo's training, and validates what was learnt.

    Args:
        run: The run folder.
        *options: Of the training.
        baseline: Whether to compare with an untrained model.
    """
    training = ["-m", "posekit.train", f"--run_dir={run}", *options, "--verbose=2"]
    if trains_the_same(run, options):
        step("Training: the run of an earlier demo goes on", *training, "--resume")
    else:
        shutil.rmtree(run, ignore_errors=True)
        step("Training", *training)
    validation = ["-m", "posekit.validate", f"--run_dir={run}"]
    if baseline:
        step("Validation, beside the untrained model", *validation, "--baseline")
    else:
        step("Validation", *validation)


def trains_the_same(run, options):
    """Tells whether a run folder holds a training of these options, finished or not.

    Args:
        run: The run folder.
        options: Of the training.

    Returns:
        Whether it does, and has a checkpoint to go on from.
    """
    if not (run / "config.json").exists():
        return False
    # On demand: what reads configurations imports TensorFlow, for which a fresh demo need not wait.
    from posekit.systems import SYSTEMS
    from posekit.train import Command
    from posekit.training.config import import_tensorflow_quietly, load_config, parse

    import_tensorflow_quietly()
    from posekit.training.run import RunFolder

    try:
        name, system, config, _, _ = parse(list(options), SYSTEMS, Command, command_name="train")
        stored_name, values = load_config(run / "config.json")
        same = stored_name == name and system.Config.from_dict(values) == system.complete(config)
    except (ValueError, OSError):
        return False
    return same and RunFolder(run).checkpoint("last") is not None


def main(argv):
    """Runs all steps."""
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
    out = pathlib.Path(FLAGS.output_dir)
    print(f"This takes about {MINUTES[FLAGS.model]} minutes on two idle cores, and longer on a busy machine.")
    if FLAGS.model == "hmr":
        mesh_recovery(out)
    else:
        out = out / FLAGS.model
        {"lcn": lifting, "v2v": depth_to_joints, "openpose": many_people}[FLAGS.model](out)
    print("\nPictures to look at:")
    for folder in (out, out / "run" / "validation", out / "predictions", out / "photographs"):
        for path in sorted(path for path in folder.glob("*") if path.suffix in (".png", ".gif", ".mp4")):
            print(f"  {path}")


if __name__ == "__main__":
    app.run(main)
