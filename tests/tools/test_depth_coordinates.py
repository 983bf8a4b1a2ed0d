"""The command that turns result files from pixels to the world and back."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from posekit.data.depth_results import read_results, write_results
from posekit.geometry.depth import DATASET_CAMERAS, pixel_to_world
from posekit.metrics.depth_pose import PROTOCOLS
from posekit.testing import shared_data

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "depth_coordinates.py"


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tool():
    before = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location("depth_coordinates", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def points(dataset, frames=4):
    """Joints before the camera of a dataset, in its unit."""
    rng = np.random.default_rng(0)
    scale = 1000.0 if DATASET_CAMERAS[dataset].unit == "m" else 1.0
    joints = PROTOCOLS[dataset].skeleton.num_joints
    return rng.uniform([-100, -100, 300], [100, 100, 900], (frames, joints, 3)) / scale


@pytest.mark.parametrize("dataset", DATASET_CAMERAS)
def test_there_and_back_is_the_same(dataset, tmp_path, tool):
    world = points(dataset)
    write_results(tmp_path / "world.txt", world, decimals=6)
    assert tool.convert(tmp_path / "world.txt", tmp_path / "pixel.txt", "pixel", dataset, decimals=6) == len(world)
    tool.convert(tmp_path / "pixel.txt", tmp_path / "back.txt", "world", dataset, decimals=6)
    np.testing.assert_allclose(read_results(tmp_path / "back.txt")[0], world, atol=5e-6)


@pytest.mark.parametrize(
    ("dataset", "pixel", "world"),
    [
        ("msra", (184.142, 95.858, 500.0), (50.0, 50.0, 500.0)),
        ("icvl", (184.142, 95.858, 500.0), (50.0, -50.0, 500.0)),
        ("nyu", (378.804, 181.292, 1000.0), (100.0, 100.0, 1000.0)),
        ("hands2017", (410.958, 150.274, 500.0), (100.0, -100.0, 500.0)),
        ("itop", (260.0, 20.0, 2.0), (0.7, 0.7, 2.0)),
    ],
)
def test_datasets_have_their_directions(dataset, pixel, world, tmp_path, tool):
    count = PROTOCOLS[dataset].skeleton.num_joints
    write_results(tmp_path / "a.txt", np.tile(pixel, (1, count, 1)))
    tool.convert(tmp_path / "a.txt", tmp_path / "b.txt", "world", dataset)
    np.testing.assert_allclose(read_results(tmp_path / "b.txt")[0][0, 0], world, atol=1.1e-3)


def test_published_results_survive_both_ways(tmp_path, tool):
    """What is rounded to thousandths in the world is nearer than a hundredth of a pixel on the way back."""
    folder = shared_data() / "icvl"
    published = folder / "CVPR18_ICVL_V2V_PoseNet.txt"
    world, back = tmp_path / "world.txt", tmp_path / "back.txt"
    done = run("--dataset=icvl", "--to=world", published, world)
    assert done.returncode == 0, done.stderr
    assert "1596 frames" in done.stdout and "mm" in done.stdout
    joints, _ = read_results(published, num_joints=16)
    np.testing.assert_allclose(read_results(world)[0], pixel_to_world(joints, "icvl"), atol=5.1e-4)
    line = world.read_text().splitlines()[0].split(" ")
    assert len(line) == 48 and all(len(value.partition(".")[2]) == 3 for value in line)
    assert tool.convert(world, back, "pixel", "icvl") == 1596
    np.testing.assert_allclose(read_results(back)[0], joints, atol=5e-3)


def test_names_are_kept_and_files_may_be_replaced(tmp_path, tool):
    path = tmp_path / "results.txt"
    write_results(path, points("hands2017", 2), names=("image_1.png", "image_2.png"))
    tool.convert(path, path, "pixel", "hands2017", num_joints=21)
    joints, names = read_results(path)
    assert names == ("image_1.png", "image_2.png") and joints[..., :2].min() > 0


def test_own_cameras(tmp_path, tool):
    write_results(tmp_path / "a.txt", [[[330.0, 260.0, 1000.0]]])
    done = run("--intrinsics=100,200,320,240", "--to=world", tmp_path / "a.txt", tmp_path / "b.txt")
    assert done.returncode == 0, done.stderr
    assert read_results(tmp_path / "b.txt")[0].ravel().tolist() == [100.0, 100.0, 1000.0]
    done = run("--intrinsics=100,200,320,240", "--y_up", "--to=world", tmp_path / "a.txt", tmp_path / "b.txt")
    assert read_results(tmp_path / "b.txt")[0].ravel().tolist() == [100.0, -100.0, 1000.0]
    assert tool.camera_of("msra", ["1", "2", "3", "4"]).signed_intrinsics == (1.0, -2.0, 3.0, 4.0)
    assert tool.camera_of("msra").signed_intrinsics == DATASET_CAMERAS["msra"].signed_intrinsics


def test_what_is_wrong_is_said_in_a_line(tmp_path):
    write_results(tmp_path / "icvl.txt", points("icvl"))
    write_results(tmp_path / "behind.txt", points("msra") * [1, 1, -1])
    (tmp_path / "empty.txt").write_text("\n")
    target = tmp_path / "out.txt"
    cases = (
        (("--dataset=msra", "--to=pixel", tmp_path / "icvl.txt", target), "21 joints need 63"),
        (("--dataset=msra", "--to=pixel", tmp_path / "behind.txt", target), "turn the sign"),
        (("--dataset=msra", "--to=world", tmp_path / "behind.txt", target), "mirrored"),
        (("--dataset=icvl", "--to=pixel", tmp_path / "empty.txt", target), "no frames"),
        (("--dataset=icvl", "--to=pixel", tmp_path / "none.txt", target), "No result file"),
        (("--dataset=icvl", "--to=pixel", tmp_path / "icvl.txt", tmp_path), "folder"),
        (("--intrinsics=1,2,3", "--to=pixel", tmp_path / "icvl.txt", target), "four numbers"),
        (("--intrinsics=0,2,3,4", "--to=pixel", tmp_path / "icvl.txt", target), "focal lengths"),
        (("--intrinsics=9,1e300,3,4", "--to=pixel", tmp_path / "icvl.txt", target), "focal lengths are 1 to 1e+06"),
        (("--to=pixel", tmp_path / "icvl.txt", target), "--dataset="),
        (("--dataset=icvl", "--to=pixel", tmp_path / "icvl.txt"), "file to write"),
        (("--dataset=icvl", tmp_path / "icvl.txt", target), "--to"),
        (("--dataset=coco", "--to=pixel", tmp_path / "icvl.txt", target), "msra"),
    )
    for arguments, word in cases:
        done = run(*arguments)
        assert done.returncode == 1 and word in done.stderr + done.stdout, (arguments, done.stderr)
        assert "Traceback" not in done.stderr and not target.exists()
