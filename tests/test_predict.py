"""The command `posekit.predict` on pictures that cannot be used; a stand-in predicts."""

import json

import cv2
import numpy as np
import pytest

from posekit import predict
from posekit.predictor import Predictor, ResultFile, ResultFolder
from posekit.results import People
from posekit.skeletons import LSP14


class Module:
    draw_people = None
    VIEWS = ("people",)

    @staticmethod
    def predict(config, model, images, boxes):
        for image in images:
            if min(image.shape[:2]) < 2:
                raise ValueError("the image has too few pixels.")
        return [People(np.zeros((1, 14, 2)), np.ones((1, 14)), LSP14, image.shape[:2]) for image in images]


@pytest.fixture
def command(monkeypatch, tmp_path):
    stand_in = classmethod(lambda cls, *arguments: Predictor("hmr", Module, None, None))
    monkeypatch.setattr(Predictor, "from_weights", stand_in)
    monkeypatch.setattr(predict, "stored_with_weights", None)
    return lambda *arguments: predict.main([f"--output={tmp_path / 'out'}", "--formats=json", *map(str, arguments)])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "other").mkdir(parents=True)
    for name, size in (("good.jpg", (8, 8)), ("good.png", (8, 8)), ("thin.png", (1, 9)), ("other/good.jpg", (8, 8))):
        cv2.imwrite(str(folder / name), np.zeros((*size, 3), np.uint8))
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:100])
    return folder


def test_pictures_that_cannot_be_used_are_named_and_the_others_predicted(command, pictures, tmp_path, capsys):
    names = [pictures / name for name in ("cut.jpg", "thin.png", "gone.jpg", "good.jpg")]
    assert command(*names) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.json"]
    said = capsys.readouterr().err
    assert all(f"skipped {name}: " in said for name in names[:3]) and said.count("skipped") == 3


def test_broken_picture_of_a_folder_is_skipped(command, pictures, tmp_path, capsys):
    (pictures / "thin.png").unlink()
    assert command(pictures) == 3
    assert "skipped" in (said := capsys.readouterr().err) and "cut.jpg is not an image" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.json", "good_2.json"]


def test_a_video_that_ends_early_is_said(command, tmp_path, capsys):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for level in range(30):
        writer.write(np.full((48, 64, 3), 8 * level, np.uint8))
    writer.release()
    assert command(path) == 0
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    assert command(path) == 3
    said = capsys.readouterr()
    frames = said.out.count("1 person")
    assert 0 < frames < 27 and f"skipped the rest of {path}: {frames} of 30 frames could be read" in said.err


def test_meshes_alone_are_not_asked_of_a_system_without(command, pictures, tmp_path, capsys):
    assert command(pictures / "good.jpg", "--formats=obj") == 1
    assert "--formats=obj: hmr finds no meshes, so nothing would be written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command(pictures / "good.jpg", "--formats=obj,json") == 0
    assert command(pictures / "good.jpg", "--formats=obj", f"--json_out={tmp_path / 'all.json'}") == 0
    assert (tmp_path / "all.json").exists()


def test_nothing_usable_fails(command, pictures):
    assert command(pictures / "cut.jpg") == 1


def test_pictures_of_one_name_do_not_overwrite_each_other(command, pictures, tmp_path):
    assert command(pictures / "good.jpg", pictures / "other" / "good.jpg", pictures / "good.png") == 0
    sources = {path.name: json.loads(path.read_text())["image"]["source"] for path in (tmp_path / "out").iterdir()}
    assert sources == {"good.json": "good.jpg", "good_2.json": "good.jpg", "good_3.json": "good.png"}


def test_videos_tell_how_to_make_one_film_of_them(command, tmp_path, capsys):
    film = cv2.VideoWriter(str(tmp_path / "my film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(3):
        film.write(np.zeros((48, 64, 3), np.uint8))
    film.release()
    assert command(tmp_path / "my film.mp4") == 0
    assert "preview" not in capsys.readouterr().out  # no pictures are asked for
    assert command(tmp_path / "my film.mp4", "--weights=mine", "--formats=json,png") == 0
    told = f"python -m posekit.preview --model=hmr --weights=mine '--source={tmp_path}/my film.mp4' --output=people.mp4"
    assert capsys.readouterr().out.count(told) == 1


@pytest.mark.parametrize("box", ["a,b,c,d", "1,2,3", "1,2,3,4,5"])
def test_box_that_is_none_shows_usage(command, pictures, capsys, box):
    assert command(pictures / "good.jpg", f"--box={box}") == 2
    assert f"--box={box} must be four numbers" in capsys.readouterr().err


def test_box_goes_with_one_image(command, pictures, capsys):
    assert command(pictures, "--box=1,2,3,4") == 1
    assert command(pictures / "good.jpg", pictures / "good.png", "--box=1,2,3,4") == 2
    assert capsys.readouterr().err.count("--box goes with a single image") == 2


def test_output_that_cannot_be_a_folder_is_named(command, pictures, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert command(pictures / "good.jpg") == 1
    assert "out" in (said := capsys.readouterr().err) and "give another --output" in said


def people_called(source):
    return People(np.zeros((1, 14, 2)), np.ones((1, 14)), LSP14, (8, 8), source=source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photo.jpg", "photo"),
        ("photo.v2.PNG", "photo.v2"),
        ("pose.0001", "pose.0001"),
        ("clip.mp4#000012", "clip.mp4_000012"),
        ("a/b\\c.jpg", "c"),
        ("caf\u00e9 \u4eba.jpg", "caf\u00e9 \u4eba"),
        ("", "picture"),
        ("..", "picture"),
        ("/", "picture"),
        (".hidden.jpg", "hidden"),
        ("../../etc/passwd", "passwd"),
        ("\ud800.jpg", "_"),
        ("a\0b.jpg", "a_b"),
        ("\x1b[31mred\n.jpg", "_[31mred_"),
        ('a<b>:"|?*', "a_b______"),
        ("a" * 500 + ".jpg", "a" * 150),
        ("\u4eba" * 200, "\u4eba" * 50),
        (None, "picture"),
    ],
)
def test_names_of_results_are_safe(tmp_path, source, name):
    (path,) = ResultFolder(tmp_path / "out", ("json",)).write(people_called(source))
    assert path == tmp_path / "out" / f"{name}.json" and path.is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_no_two_results_share_a_file(tmp_path):
    folder = ResultFolder(tmp_path, ("json", "coco"))
    sources = ("a/1.jpg", "b/1.jpg", "1_2", "1.png", "1.coco", "A", "a", "", "..")
    written = [path for source in sources for path in folder.write(people_called(source))]
    assert len(written) == len(list(tmp_path.iterdir())) == len({str(path).lower() for path in written}) == 18
    assert [path.name for path in written[:6:2]] == ["1.json", "1_2.json", "1_2_2.json"]


def test_a_picture_that_cannot_be_written_does_not_stop_the_others(command, pictures, tmp_path, monkeypatch, capsys):
    save = People.save

    def picky(people, *arguments, **options):
        if people.source == "good.jpg":
            raise ValueError("not this one")
        save(people, *arguments, **options)

    monkeypatch.setattr(People, "save", picky)
    (pictures / "thin.png").unlink(), (pictures / "cut.jpg").unlink()
    assert command(pictures) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_2.json"]
    assert f"skipped good.jpg of {pictures}: not this one" in capsys.readouterr().err


def test_all_pictures_go_into_one_file_of_coco_s_results(tmp_path):
    gathered = ResultFile(tmp_path / "results.json", "coco")
    folder = ResultFolder(tmp_path / "out", ("json",), gathered)
    for source in ("a/000000000007.jpg", "ski.jpg"):
        folder.write(people_called(source))
    assert not gathered.path.exists()  # not before it is whole
    folder.close()
    results = json.loads(gathered.path.read_text())
    assert [result["image_id"] for result in results] == [7, "ski"]
    assert all(len(result["keypoints"]) == 51 and result["category_id"] == 1 for result in results)
    with pytest.raises(ValueError, match="has the image id 7, as a/000000000007.jpg"):
        gathered.add(people_called("b/7.png"))


def test_all_pictures_go_into_a_folder_of_openpose_s_files(tmp_path):
    folder = ResultFolder(tmp_path / "out", (), ResultFile(tmp_path / "json", "openpose"))
    folder.write(people_called("ski.jpg"))
    folder.close()
    (path,) = (tmp_path / "json").iterdir()
    assert path.name == "ski_keypoints.json" and json.loads(path.read_text())["version"] == 1.3


@pytest.mark.parametrize(("path", "style"), [("results", "coco"), ("results.json", "openpose")])
def test_gathered_results_have_a_name_that_fits(tmp_path, path, style):
    with pytest.raises(ValueError, match="--json_out="):
        ResultFile(tmp_path / path, style)


def test_the_command_gathers(command, pictures, tmp_path):
    assert command(pictures / "good.jpg", f"--json_out={tmp_path / 'all.json'}") == 0
    assert [result["image_id"] for result in json.loads((tmp_path / "all.json").read_text())] == ["good"]
    argv = [pictures / "good.jpg", pictures / "other", f"--json_out={tmp_path / 'json'}", "--json_style=openpose"]
    assert command(*argv) == 0
    names = {path.name for path in (tmp_path / "json").iterdir()}
    assert names == {"good_keypoints.json", "good_2_keypoints.json"}
