import os
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import posekit
from posekit.data.sources import Source
from posekit.predictor import Predictor, at_least_one, write
from posekit.results import People
from posekit.skeletons import LSP14
from posekit.systems import hmr
from posekit.testing import tiny_body


def predict(config, model, images, boxes):
    """One person a box, whose joints all lie at the mean colour of the picture; notes the size of each batch."""
    config.append(len(images))
    people = []
    for image, these in zip(images, boxes):
        points = np.full((1 if these is None else len(these), 14, 2), image.mean())
        people.append(People(points, np.ones(points.shape[:2]), LSP14, image.shape[:2]))
    return people


@pytest.fixture
def predictor():
    return Predictor("toy", types.SimpleNamespace(predict=predict), config=[], model=None)


def grey(level, size=(40, 60)):
    return np.full((*size, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    for level in (10, 20, 30):
        cv2.imwrite(str(tmp_path / f"{level}.png"), grey(level))
    return tmp_path


def levels(people):
    return [float(one.keypoints_px.mean()) for one in people]


def test_every_kind_of_picture_gives_its_people(predictor, folder):
    pictures = grey(20), tf.constant(grey(20)), Image.fromarray(grey(20)), Image.fromarray(grey(20)[..., 0])
    for source in (folder / "20.png", str(folder / "20.png"), *pictures):
        people = predictor(source)
        assert isinstance(people, People) and levels([people]) == [20.0]
        np.testing.assert_array_equal(people.image, grey(20))
    assert predictor(folder / "20.png").source == "20.png"


def test_lists_and_folders_go_through_in_batches(predictor, folder):
    assert levels(predictor(folder, batch_size=2)) == [10, 20, 30]
    assert predictor.config == [2, 1]
    palette = Image.fromarray(grey(30)).convert("P")
    palette.putpalette([90, 90, 90] * 256)
    assert levels(predictor([palette, grey(5)])) == [90, 5]
    people = predictor([grey(5), folder / "10.png"])
    assert levels(people) == [5, 10] and [one.source for one in people] == ["image000000", "10.png"]
    assert predictor([]) == []


def test_arrays_of_pictures_are_lists_of_them(predictor):
    several = np.stack([grey(5), grey(7), grey(9)])
    for source in (several, tf.constant(several), several[:0]):
        people = predictor(source, batch_size=2)
        assert levels(people) == [5, 7, 9][: len(source)]
    assert [one.source for one in predictor(several)] == ["image000000", "image000001", "image000002"]
    with pytest.raises(ValueError, match="1 sets of boxes for 3 images"):
        predictor(several, boxes=[[[0, 0, 5, 5]]])


def test_boxes_go_with_their_pictures(predictor, folder):
    two = [[0, 0, 10, 10], [5, 5, 20, 20]]
    assert len(predictor(grey(1), boxes=two)) == 2
    assert [len(people) for people in predictor([grey(1), grey(2)], boxes=[two, None])] == [2, 1]
    with pytest.raises(ValueError, match="1 sets of boxes for 2 images"):
        predictor([grey(1), grey(2)], boxes=[two])
    with pytest.raises(ValueError, match="is a folder"):
        predictor(folder, boxes=two)


def found_in(size, offset=0.0):
    points = np.random.default_rng(0).uniform(5, 35, (1, 14, 2)) + offset
    return People(points, np.ones((1, 14)), LSP14, size)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"people": found_in((80, 120))}, ValueError, "picture of 120 x 80 pixels, but image000000 has 60 x 40"),
        ({"people": found_in((40, 60), 200)}, ValueError, "lies outside image000000, 60 x 40"),
        ({"people": found_in((40, 60), (-36, 0))}, ValueError, "lies outside"),
        ({"people": 3}, TypeError, "people=3: give the People"),
        ({"people": [found_in((40, 60))]}, TypeError, "for a list of pictures a list"),
        ({"boxes": [[60, 0, 90, 10]]}, ValueError, "The box 60, 0, 90, 10 lies outside"),
        ({"boxes": [[0, -9, 9, -2]]}, ValueError, "lies outside"),
        ({"boxes": [[0, np.nan, 9, 9]]}, ValueError, "lies outside"),
        ({"boxes": [[1, 2, 3]]}, TypeError, "boxes=.*give .people, 4. x_min"),
        ({"boxes": 3}, TypeError, "boxes=3: give"),
    ],
)
def test_people_and_boxes_belong_to_the_picture(predictor, given, error, words):
    with pytest.raises(error, match=words):
        predictor(grey(1), **given)
    assert predictor.config == []  # nothing was predicted


def test_lists_take_lists_of_people(predictor):
    people = found_in((40, 60))
    assert [len(found) for found in predictor([grey(1)] * 3, people=[people, None, people[:0]])] == [1, 1, 0]
    assert len(predictor(np.stack([grey(1)] * 2), people=[people, None])) == 2
    for wrong in (people, 3, [people, 3, None]):
        with pytest.raises(TypeError, match="give"):
            predictor([grey(1)] * 3, people=wrong)


def test_results_draw_and_write_themselves(predictor, tmp_path):
    people = predictor(grey(20))
    written = write(people, tmp_path / "out", ("json", "coco", "openpose", "npz", "obj", "png"))
    assert [path.name for path in written] == ["out.json", "out.coco.json", "out.openpose.json", "out.npz", "out.png"]
    assert all(path.stat().st_size for path in written)
    assert (cv2.imread(str(tmp_path / "out.png")) != 20).any()


def test_people_are_drawn_in_the_views_of_their_system(predictor, tmp_path):
    predictor.module.draw = lambda people, image, view: np.full_like(image, len(view))
    people = predictor(grey(20))
    assert (people.draw(tmp_path / "out.png", view="seven") == 5).all()
    assert (cv2.imread(str(tmp_path / "out.png")) == 5).all()
    assert (people.draw(skeleton=False) == 20).all() and (people.draw() != 20).any()


def test_unknown_systems_and_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="'smpl' is unknown; choose one of hmr"):
        posekit.load("smpl")
    with pytest.raises(FileNotFoundError, match="Give a run folder"):
        posekit.load("hmr", weights=tmp_path / "none")


def test_import_posekit_waits_for_nothing():
    script = "import sys, posekit; print([m for m in ('tensorflow', 'keras', 'cv2', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert {"load", "Predictor", "Skeleton"} <= set(dir(posekit))


def test_tensorflows_notices_are_only_shown_where_they_are_asked_for():
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    script = "import os, posekit; {}; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    options = {"capture_output": True, "text": True, "check": True}
    found = subprocess.run([sys.executable, "-c", script.format("posekit.load")], env=environment, **options)
    assert (found.stdout, found.stderr) == ("3\n", "")
    environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
    found = subprocess.run([sys.executable, "-c", script.format("pass")], env=environment, **options)
    assert found.stdout == "1\n"


def test_a_source_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="not a single picture"):
        list(at_least_one(Source("folder", iter(()), None, None), []))


def test_where_another_system_found_nobody_there_are_no_meshes(tmp_path):
    image, nobody = grey(9), People(np.zeros((0, 14, 2)), np.zeros((0, 14)), LSP14, (40, 60))
    model = types.SimpleNamespace(body=tiny_body())
    people = Predictor("hmr", hmr, hmr.Config(), model)(image, people=nobody)
    assert len(people) == 0 and people.vertices.shape == (0, model.body.num_vertices, 3) and people.theta.shape[1] == 85
    assert (people.draw(tmp_path / "out.png") == image).all()
    people.save(tmp_path / "out.json")
