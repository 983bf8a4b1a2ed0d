"""Many people in a picture through the commands: training, measures, files, films, people for the other systems."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

import posekit
from posekit import predict, preview, train, validate, weights
from posekit.data.people_hdf5 import PeopleHdf5Writer
from posekit.data.people_records import PeopleRecord
from posekit.data.sources import read_image
from posekit.data.tfrecord import RecordWriter
from posekit.skeletons import COCO17, OPENPOSE18
from posekit.systems import openpose
from posekit.testing import shared_data

ROOT = pathlib.Path(__file__).resolve().parents[1]

SIZE = (112, 144)
SMALL = [
    "--model=openpose", "--backbone_width=0.05", "--stage_width=0.05", "--num_stages=2", "--backbone_weights=none",
    "--batch_size=2", "--image_size=64", "--shift_max=6", "--verbose=0", "--log_img_step=4",
    "--sigma=4",
]  # fmt: skip
# With these, a network that has learned next to nothing finds somebody almost anywhere.
ANYBODY = {"peak_threshold": 1e-6, "paf_threshold": 0.0, "min_parts": 1, "min_score": 1e-6, "box_size": 112}
FLAGS = [f"--{name}={value}" for name, value in ANYBODY.items()]


def record(number):
    """A figure of limbs on grey; the third picture has a second one."""
    rng = np.random.default_rng(number)
    image = np.full((*SIZE, 3), 110, np.uint8)
    body = rng.uniform(-3, 3, (17, 2)) + np.stack([np.tile([-6.0, 6.0], 9)[:17], np.linspace(-40, 40, 17)], -1)
    people = np.stack([body + (45 + 20 * person + number, 56) for person in range(2 if number == 2 else 1)])
    for person in people:
        for start, end in COCO17.bones:
            cv2.line(image, person[start].astype(int).tolist(), person[end].astype(int).tolist(), (200, 60, 40), 3)
    joints = np.concatenate([people, np.full((len(people), 17, 1), 2)], -1)
    low = people.min(1)
    return PeopleRecord(
        cv2.imencode(".png", image)[1].tobytes(), *SIZE, joints, np.concatenate([low, people.max(1) - low], -1),
        np.ones(len(people)), filename=f"{number:012d}.png", image_id=number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    hdf5 = folder / "hdf5"
    hdf5.mkdir()
    for split, count in (("train", 5), ("val", 3)):
        with (
            RecordWriter(folder / f"coco_people_{split}.tfrecords") as writer,
            PeopleHdf5Writer(hdf5 / f"{split}_dataset.h5", validation=split == "val") as samples,
        ):
            for number in range(count):
                writer.write(record(number).to_example())
                samples.append(record(number))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two epochs of two steps with the original's optimizer, the second one resumed, on the original's HDF5."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert train.main([*SMALL, f"--data_dir={data}", f"--run_dir={folder}", "--num_epochs=1"]) == 0
    resumed = [f"--run_dir={folder}", "--resume", "--num_epochs=2", "--verbose=0", "--run_eagerly"]
    resumed.append(f"--data_dir={data / 'hdf5'}")
    assert train.main(resumed) == 0
    return folder


@pytest.fixture(scope="module")
def load(run):
    """The trained network."""
    return posekit.load("openpose", run, **ANYBODY)


def test_training_writes_losses_of_all_maps_and_pictures(run):
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    stages = [f"stage{number}_{branch}" for number in (1, 2) for branch in ("L1", "L2")]
    for row in rows:
        total = sum(float(row[name]) for name in stages)
        assert total < float(row["loss"]) < 1.2 * total + 5  # and the weights
        assert all(float(row[f"val_{name}"]) > 0 for name in stages)
    with open(run / "steps.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "openpose" and config["backbone_width"] == 0.05
    assert b"vis_images" in next((run / "events").iterdir()).read_bytes()


def test_training_without_data_or_server_says_what_to_do(data, tmp_path, capsys):
    argv = [*SMALL, "--nouse_validation", "--dry_run"]
    assert train.main([*argv, f"--data_dir={data}", "--data_service=localhost:9"]) == 1
    assert "python tools/dataset_server.py" in capsys.readouterr().err
    assert train.main([*argv, f"--data_dir={tmp_path}"]) == 1
    assert "create_dataset" in capsys.readouterr().err


def test_a_file_of_training_is_no_validation(data, capsys):
    argv = [*SMALL, f"--data_dir={data / 'hdf5' / 'train_dataset.h5'}", "--dry_run", "--run_eagerly"]
    assert train.main([*argv, "--nouse_validation"]) == 0
    assert train.main(argv) == 1
    assert "holds the training set" in capsys.readouterr().err


def test_fine_tuning_takes_over_what_fits(run, load):
    options = {"backbone_width": 0.05, "stage_width": 0.05, "num_stages": 2}
    own = {"joints": ("nose", "neck"), "limbs": ("neck:nose",)}
    config = openpose.Config(**options, **own, backbone_weights=str(run))
    model = openpose.build_model(config)
    first, last = "conv3_2", "Mconv7_stage2_L2"
    for trained, fresh in zip(load.model.get_layer(first).weights, model.get_layer(first).weights):
        np.testing.assert_array_equal(trained, fresh)
    assert model.get_layer(last).weights[0].shape[-1] == 3
    with pytest.raises(ValueError, match="--backbone=vgg19, not mobilenet_thin"):
        openpose.build_model(openpose.Config(backbone="mobilenet_thin", backbone_weights=str(run)))
    with pytest.raises(ValueError, match="no layer in common"):
        openpose.build_model(config.replace(backbone_width=0.3, stage_width=0.3))


def test_validation_prints_and_writes_coco_s_measures(run, data, tmp_path, capsys):
    argv = [f"--run_dir={run}", f"--output_dir={tmp_path}", "--num_pictures=1", f"--data_dir={data}", *FLAGS]
    argv += ["--flip_test", "--scales=1,0.5"]
    assert validate.main(argv) == 0
    printed = capsys.readouterr().out
    assert "AP (OKS 0.50 to 0.95)" in printed and "decoding, ms a picture" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())["trained"]
    assert metrics["people_labelled"] == 4 and 0 <= metrics["ap"] <= 1 and metrics["network_ms"] > 0
    assert {"results.json", "best_oks.png", "worst_oks.png"} <= {path.name for path in tmp_path.iterdir()}
    # The file that was written gives the same figures again.
    argv = ["--model=openpose", f"--results={tmp_path / 'results.json'}", f"--data_dir={data}", "--num_pictures=0"]
    assert validate.main([*argv, f"--output_dir={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["results"]
    assert {name: metrics[name] for name in again} == again
    scores = [sorted(result["score"] for result in json.loads((folder / "results.json").read_text()))
              for folder in (tmp_path, tmp_path / "again")]  # fmt: skip
    assert scores[0] == scores[1] and len(scores[0]) == metrics["people_found"]  # the file's own, untouched


@pytest.mark.parametrize("form", ["tfrecord", "hdf5"])
def test_real_photographs_through_records_training_and_measures(form, tmp_path):
    coco = shared_data() / "coco"
    command = [sys.executable, str(ROOT / "tools" / "create_dataset.py"), "--coco_people", f"--coco_dir={coco}"]
    command += [f"--data_dir={tmp_path}", "--coco_people_train=val2017", f"--format={form}", "--num_workers=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    argv = [*SMALL, "--num_stages=1", "--batch_size=12", "--num_epochs=1"]
    assert train.main([*argv, f"--data_dir={tmp_path}", f"--run_dir={run}"]) == 0
    with open(run / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert np.isfinite([float(row[name]) for name in ("loss", "val_loss")]).all()
    with open(run / "steps.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    argv = [f"--run_dir={run}", f"--output_dir={run}", "--num_pictures=0", "--box_size=64", f"--data_dir={tmp_path}"]
    # Every size of a picture has the network compiled again.
    assert validate.main([*argv, *["--max_images=3"] * (form == "hdf5")]) == 0
    measures = json.loads((run / "metrics.json").read_text())["trained"]
    assert 0 <= measures["ap"] <= 1
    if form == "tfrecord":
        truth = json.loads((coco / "annotations" / "person_keypoints_val2017.json").read_text())
        people = [person for person in truth["annotations"] if person["num_keypoints"] and not person["iscrowd"]]
        assert (measures["images"], measures["people_labelled"]) == (len(truth["images"]), len(people)) == (16, 36)
    else:
        assert measures["images"] == 3


def test_results_that_are_right_have_the_highest_measures(data, tmp_path, capsys):
    truth = [
        {"image_id": number, "category_id": 1, "keypoints": person.ravel().tolist(), "score": 1.0}
        for number in range(3)
        for person in record(number).joints
    ]
    path = tmp_path / "results.json"
    argv = ["--model=openpose", f"--results={path}", f"--data_dir={data}", f"--output_dir={tmp_path}"]
    path.write_text(json.dumps(truth))
    assert validate.main([*argv, "--num_pictures=1"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert metrics["ap"] == metrics["ar"] == 1.0
    path.write_text(json.dumps([*truth, {**truth[0], "image_id": 77}]))
    assert validate.main(argv) == 1
    assert "picture '77'" in capsys.readouterr().err


def test_pictures_of_every_kind(load, tmp_path):
    image = record(2).pixels()
    Image.fromarray(image).save(tmp_path / "rgb.png")
    Image.fromarray(image).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(image).convert("RGBA").save(tmp_path / "rgba.png")
    cv2.imwrite(str(tmp_path / "deep.png"), image[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "turned.jpg", exif=exif, quality=98)
    found = {people.source: people for people in load(tmp_path)}
    plain = load(tmp_path / "rgb.png")
    assert all(people.image_size == SIZE for people in found.values())
    np.testing.assert_array_equal(plain.keypoints_px, load(image).keypoints_px)
    for name in ("rgba.png", "deep.png"):
        np.testing.assert_allclose(found[name].keypoints_px, plain.keypoints_px, atol=0.5)
    assert load(np.zeros((1, 1, 3), np.uint8)).image_size == (1, 1)


def test_predict_writes_every_format_without_meshes(run, tmp_path, capsys):
    pictures = tmp_path / "in"
    pictures.mkdir()
    for number in range(2):
        cv2.imwrite(str(pictures / f"{number + 5:012d}.png"), record(number).pixels()[..., ::-1])
    (pictures / "broken.png").write_bytes(b"no picture")
    argv = [f"--run_dir={run}", f"--output={tmp_path / 'out'}", *FLAGS]
    argv += ["--formats=json,npz,obj,png,coco,openpose", str(pictures)]
    assert predict.main(argv) == 3
    assert "broken.png" in capsys.readouterr().err
    stem = tmp_path / "out" / "000000000005"
    names = {path.name.removeprefix(stem.name) for path in stem.parent.glob(f"{stem.name}*")}
    assert names == {".json", ".npz", ".png", ".coco.json", ".openpose.json"}
    people = json.loads((stem.parent / f"{stem.name}.json").read_text())["people"]
    coco = json.loads((stem.parent / f"{stem.name}.coco.json").read_text())
    frame = json.loads((stem.parent / f"{stem.name}.openpose.json").read_text())["people"]
    assert len(people) == len(coco) == len(frame) > 0
    assert coco[0]["image_id"] == 5 and len(coco[0]["keypoints"]) == 51 and len(coco[0]["bbox"]) == 4
    assert len(frame[0]["pose_keypoints_2d"]) == 54
    assert read_image(stem.parent / f"{stem.name}.png").shape == (*SIZE, 3)
    assert predict.main([*argv[:-1], "--box=1,1,9,9", str(next(pictures.glob("*5.png")))]) == 1
    assert "finds the people itself" in capsys.readouterr().err


def test_preview_of_picture_folder_and_film(run, tmp_path, capsys):
    image = record(2).pixels()
    (tmp_path / "in").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), image[..., ::-1])
    film = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, SIZE[::-1])
    for _ in range(4):
        film.write(image[..., ::-1])
    film.release()
    argv = [f"--run_dir={run}", *FLAGS, "--scales=0.5"]
    for view in (*openpose.VIEWS, "pafs"):
        folder = tmp_path / "in"
        assert preview.main([*argv, f"--source={folder}", f"--view={view}", f"--output={tmp_path / view}.png"]) == 0
        assert read_image(tmp_path / f"{view}_000001.png").shape == (*SIZE, 3)
    argv += [f"--source={tmp_path / 'in.mp4'}", f"--output={tmp_path / 'out.mp4'}", "--mirror", "--frame_ratio=2"]
    assert preview.main(argv) == 0
    assert "4 frames" in capsys.readouterr().out and (tmp_path / "out.mp4").stat().st_size > 0
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((tmp_path / "in.mp4").read_bytes()[:300])
    assert preview.main([*argv, f"--source={broken}"]) == 1


def test_weights_that_are_not_fetched_say_how(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="python tools/fetch_weights.py mobilenet_thin"):
        posekit.load("openpose")
    assert predict.main(["--model=openpose", "photo.jpg"]) == 1
    assert "python tools/fetch_weights.py mobilenet_thin" in capsys.readouterr().err


def test_people_feed_the_other_systems(load):
    """Joints of a standing person, as openpose finds them: a box for meshes, and joints to lift."""
    joints = np.array([
        (50, 12), (50, 24), (40, 24), (36, 40), (34, 55), (60, 24), (64, 40), (66, 55), (44, 58), (43, 80), (42, 102),
        (56, 58), (57, 80), (58, 102), (48, 10), (52, 10), (45, 11), (55, 11),
    ], np.float64)  # fmt: skip
    image = record(0).pixels()
    people = load(image)
    assert people.skeleton == OPENPOSE18 and people.boxes is not None
    people = posekit.results.People(joints[None], np.ones((1, 18)), OPENPOSE18, image.shape[:2], image=image)
    lifted = posekit.load("lcn", weights=None, channels=4, num_layers=1)(people)
    assert lifted.joints3d.shape == (1, 17, 3) and np.isfinite(lifted.joints3d).all()
    small = {"backbone": "MobileNet", "image_size": 64, "num_stages": 1, "body": "sample"}
    meshes = posekit.load("hmr", weights=None, **small)(image, people=people)
    assert meshes.vertices is not None and len(meshes) == 1
    # The body stands where the joints are.
    middle = np.nanmean(meshes.keypoints_px[0], axis=0)
    assert np.linalg.norm(middle - joints.mean(0)) < 30
