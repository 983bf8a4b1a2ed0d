"""Converts result files of the depth datasets between pixels and the world.

    python tools/depth_coordinates.py --dataset=icvl --to=world result.txt result_world.txt
    python tools/depth_coordinates.py --dataset=itop_front --to=pixel result.txt result_pixel.txt
    python tools/depth_coordinates.py --intrinsics=475.1,475.1,315.9,245.3 --to=pixel world.txt pixel.txt

A line holds a frame: x, y and depth of every joint, after the image's name where the file has names, which are kept.
The cameras are those with which the datasets' voxels are made, as in the originals' pixel2world.py and world2pixel.py.
Exit status: 0, or 1 with one line that says what is wrong and what to type next.

Follows: mks0601/V2V-PoseNet_RELEASE vis/icvl/pixel2world.py, vis/itop/world2pixel.py.
"""

import pathlib
import sys

import numpy as np
from absl import app, flags

from posekit.data.depth_results import read_results, write_results
from posekit.files import check_place
from posekit.geometry.depth import DepthCamera, dataset_camera, pixel_to_world, world_to_pixel
from posekit.metrics.depth_pose import dataset_protocol

DATASETS = ("msra", "icvl", "nyu", "hands2017", "itop", "itop_front", "itop_top")
_FOCAL_PX = 1.0, 1e6

flags.DEFINE_enum("dataset", None, DATASETS, "Dataset of the file: its camera, and how many joints a line must have.")
flags.DEFINE_enum("to", None, ("world", "pixel"), "What to write.", required=True)
flags.DEFINE_list("intrinsics", None, "fx,fy,cx,cy in pixels of a camera of your own, instead of the dataset's.")
flags.DEFINE_bool("y_up", None, "Whether the world's y points up; as the dataset has it, otherwise down.")
flags.DEFINE_integer("decimals", 3, "Digits after the point: 3 as mks0601 writes, 4 as dragonbook.", 0, 9)
FLAGS = flags.FLAGS


def main(argv):
    """Converts one file.

    Args:
        argv: Command line without flags: the program, the file to read and the file to write.

    Returns:
        Exit status.
    """
    if len(argv) != 3:
        raise app.UsageError(f"Name a file to read and a file to write, not {len(argv) - 1} files.")
    if FLAGS.dataset is None and FLAGS.intrinsics is None:
        raise app.UsageError(f"Name the camera: --dataset={'|'.join(DATASETS)}, or --intrinsics=fx,fy,cx,cy.")
    source, target = map(pathlib.Path, argv[1:])
    try:
        camera = camera_of(FLAGS.dataset, FLAGS.intrinsics, FLAGS.y_up)
        check_place(target)
        num_joints = dataset_protocol(FLAGS.dataset).skeleton.num_joints if FLAGS.dataset else None
        count = convert(source, target, FLAGS.to, camera, num_joints, FLAGS.decimals)
    except (ValueError, OSError) as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    print(f"Wrote {target}: {count} frames, x, y and depth in {_unit(FLAGS.to, camera)}.")
    return 0


def convert(source, target, to, camera, num_joints=None, decimals=3):
    """Converts a result file.

    Args:
        source: File to read.
        target: File to write; may be the same.
        to: `"world"` if the file holds pixels with depths, `"pixel"` if it holds points in the world.
        camera: `DepthCamera` or the name of a dataset.
        num_joints: Joints that a line must have; any number by default.
        decimals: Digits after the point.

    Returns:
        Number of frames.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no result file, a joint lies behind the camera, or it has no depth and is to be a pixel.
        OSError: If the target cannot be written.
    """
    joints, names = read_results(source, num_joints=num_joints)
    if not len(joints):
        raise ValueError(f"{source} holds no frames.")
    behind = np.flatnonzero((joints[..., 2] < 0).any(1))
    if to == "world" and len(behind):  # 0 stands for joints without labels
        raise ValueError(
            f"{source}: {len(behind)} frames have joints with a depth below 0, first number {behind[0] + 1}; they "
            "would come out mirrored. MSRA's own label files hold -z, and the world already: turn the sign."
        )
    bad = np.flatnonzero((joints[..., 2] <= 0).any(1))
    if to == "pixel" and len(bad):
        raise ValueError(
            f"{source}: {len(bad)} frames have joints with a depth of 0 or less, first number {bad[0] + 1}; no pixel "
            "shows these. MSRA's own label files hold -z: turn the sign."
        )
    converted = (pixel_to_world if to == "world" else world_to_pixel)(joints, camera)
    write_results(target, converted, names, decimals)
    return len(joints)


def camera_of(dataset=None, intrinsics=None, y_up=None):
    """The camera asked for.

    Args:
        dataset: Its name, or None.
        intrinsics: Texts fx, fy, cx, cy that stand for the dataset's, or None.
        y_up: Whether the world's y points up; None for the dataset's direction, or down.

    Returns:
        `DepthCamera`.

    Raises:
        ValueError: If the intrinsics are not four numbers of a camera.
    """
    known = dataset_camera(dataset) if dataset else None
    if y_up is None:
        y_up = known is not None and known.y_up
    values = known and (known.fx, known.fy, known.cx, known.cy)
    if intrinsics is not None:
        try:
            values = [float(value) for value in intrinsics]
        except ValueError:
            values = []
        if len(values) != 4:
            raise ValueError(f"--intrinsics={','.join(intrinsics)} must be four numbers: fx,fy,cx,cy in pixels.")
        # What comes out of other numbers is rounded to 0, or has hundreds of digits.
        if 0 < min(values[:2]) < _FOCAL_PX[0] or max(map(abs, values)) > _FOCAL_PX[1]:
            raise ValueError(
                f"--intrinsics={','.join(intrinsics)} are no camera's: focal lengths are {_FOCAL_PX[0]:g} to "
                f"{_FOCAL_PX[1]:g} pixels, and the principal point lies within {_FOCAL_PX[1]:g} pixels."
            )
    size = (known.width, known.height) if known else (640, 480)
    return DepthCamera(*values, y_up, *size, unit=known.unit if known else "mm")


def _unit(to, camera):
    return camera.unit if to == "world" else f"pixels and {camera.unit}"


if __name__ == "__main__":
    app.run(main)
