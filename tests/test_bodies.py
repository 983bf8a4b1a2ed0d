import io
import zipfile

import numpy as np
import pytest

from posekit import bodies
from posekit.bodies import BodyModel, load_body, load_faces, sample_body
from posekit.testing import tiny_body

ARRAYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "keypoint_regressor", "weights", "parents", "faces")


@pytest.fixture(autouse=True)
def empty_search_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSEKIT_BODY", raising=False)
    monkeypatch.delenv("POSEKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()


@pytest.fixture
def saved(tmp_path):
    body = tiny_body()
    body.save(tmp_path / "tiny.npz")
    return body, tmp_path / "tiny.npz"


def rewritten(path, target, drop=(), **changes):
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files if key not in drop}
    np.savez(target, **(arrays | changes))
    return target


def test_saving_and_loading(saved):
    body, path = saved
    again = BodyModel.load(path)
    assert (again.name, again.licence) == ("tiny", "Apache-2.0")
    for key in ARRAYS:
        np.testing.assert_array_equal(getattr(again, key), getattr(body, key))
        assert getattr(again, key).dtype == getattr(body, key).dtype
    assert (again.num_vertices, again.num_joints, again.num_shape, again.num_keypoints) == (60, 24, 10, 19)
    assert sorted(entry.name for entry in path.parent.iterdir() if entry.is_file()) == ["tiny.npz"]


def test_saving_leaves_nothing_behind_when_it_fails(tmp_path):
    with pytest.raises(ValueError, match="tiny.npz"):
        tiny_body().save(tmp_path / "tiny.h5")
    with pytest.raises(FileNotFoundError):
        tiny_body().save(tmp_path / "missing" / "tiny.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["models"]


def test_smpl_spelling_of_the_root_and_missing_texts(saved, tmp_path):
    body, path = saved
    table = np.stack([np.where(body.parents < 0, 4294967295, body.parents), np.arange(24)]).astype(np.uint32)
    file = rewritten(path, tmp_path / "other.npz", drop=("name", "licence"), kintree_table=table)
    again = BodyModel.load(file)
    np.testing.assert_array_equal(again.parents, body.parents)
    assert (again.name, again.licence) == ("other", "unknown")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_template": np.zeros((60, 2))}, "'v_template' has shape"),
        ({"shapedirs": np.zeros((59, 3, 10))}, "'shapedirs' has shape"),
        ({"posedirs": np.zeros((60, 3, 200))}, "'posedirs' has shape"),
        ({"weights": np.zeros((60, 23))}, "'weights' has shape"),
        ({"weights": np.full((60, 24), np.nan)}, "'weights' holds NaN"),
        ({"cocoplus_regressor": np.zeros((19, 61))}, "'cocoplus_regressor' has shape"),
        ({"J_regressor": np.array(["a"])}, "'J_regressor' has shape"),
        ({"f": np.array([[0, 1, 60]])}, "0..59"),
        ({"f": np.zeros((0, 3), int)}, "empty"),
        ({"f": np.zeros((4, 3), np.float32)}, "kind 'iu'"),
        ({"kintree_table": np.zeros((2, 24), int)}, "must be the root"),
        ({"kintree_table": np.stack([np.r_[-1, 5, np.zeros(22, int)], np.arange(24)])}, "after its parent"),
    ],
)
def test_wrong_arrays_are_named(saved, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        BodyModel.load(rewritten(saved[1], tmp_path / "wrong.npz", **changes))


def test_missing_entry_names_what_is_there(saved, tmp_path):
    with pytest.raises(ValueError, match=r"lacks \['weights'\].*convert_smpl"):
        BodyModel.load(rewritten(saved[1], tmp_path / "wrong.npz", drop=("weights",)))


class Marker:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_pickles_are_not_executed(saved, tmp_path):
    file = rewritten(saved[1], tmp_path / "evil.npz", weights=np.array([Marker()], object))
    with pytest.raises(ValueError, match="'weights'"):
        BodyModel.load(file)
    with pytest.raises(ValueError, match="convert_smpl.py --input=models/model.pkl"):
        load_body("models/model.pkl")
    assert not (tmp_path / "executed").exists()


def test_headers_are_checked_before_memory_is_taken(saved, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": (1 << 40, 3), "fortran_order": False, "descr": np.dtype(np.float32).str}
    )
    for content, message in ((header.getvalue(), "claims"), (b"no array", "is no array")):
        file = tmp_path / "wrong.npz"
        with zipfile.ZipFile(saved[1]) as source, zipfile.ZipFile(file, "w") as target:
            for name in source.namelist():
                target.writestr(name, content if name == "v_template.npy" else source.read(name))
        with pytest.raises(ValueError, match=f"'v_template' {message}"):
            BodyModel.load(file)


def test_broken_files(saved, tmp_path):
    data = saved[1].read_bytes()
    for content in (b"", b"text", data[: len(data) // 2]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as .npz"):
            BodyModel.load(tmp_path / "broken.npz")
    damaged = bytearray(data)
    damaged[len(data) // 3 : len(data) // 3 + 200] = bytes(200)
    (tmp_path / "broken.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match="broken.npz"):
        BodyModel.load(tmp_path / "broken.npz")


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_body("models/model.npz")
    for part in ("$POSEKIT_BODY", "smpl.is.tue.mpg.de", "tools/convert_smpl.py", "'sample'", str(tmp_path / "cache")):
        assert part in str(error.value)


def test_search_path(tmp_path, monkeypatch):
    def put(path, name):
        import dataclasses

        path.parent.mkdir(parents=True, exist_ok=True)
        dataclasses.replace(tiny_body(), name=name).save(path)

    assert load_body() is sample_body()
    put(tmp_path / "cache/posekit/bodies/cached.npz", "cached")
    assert load_body().name == "cached"
    np.savez(tmp_path / "models/a_mean_params.npz", pose=np.zeros(72), shape=np.zeros(10))
    put(tmp_path / "models/other.npz", "other")
    assert load_body().name == "other"
    put(tmp_path / "models/model.npz", "model")
    assert load_body().name == "model"
    put(tmp_path / "mine.npz", "mine")
    monkeypatch.setenv("POSEKIT_BODY", str(tmp_path / "mine.npz"))
    assert load_body().name == "mine"
    assert load_body("sample").name == "sample"
    assert load_body("other").name == "other"
    assert load_body("models/other.npz").name == "other"
    monkeypatch.setenv("POSEKIT_BODY", str(tmp_path / "gone.npz"))
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        load_body()


def test_the_fallback_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(bodies.logging, "info", lambda *args: said.append(args[0] % args[1:]))
    bodies._say_once.cache_clear()
    load_body()
    load_body()
    assert len(said) == 1 and "sample body" in said[0] and "convert_smpl" in said[0]


def test_faces_of_another_file(tmp_path):
    np.save(tmp_path / "faces.npy", np.array([[0, 1, 2], [2, 1, 3]], np.uint32))
    faces = load_faces(tmp_path / "faces.npy", 4)
    assert faces.dtype == np.int32 and faces.tolist() == [[0, 1, 2], [2, 1, 3]]
    with pytest.raises(ValueError, match="another body"):
        load_faces(tmp_path / "faces.npy", 3)
    with pytest.raises(FileNotFoundError, match="none"):
        load_faces(tmp_path / "none.npy", 3)


@pytest.mark.parametrize("kind", ["cut", "claims", "objects", "floats", "text"])
def test_faces_that_are_none(tmp_path, kind):
    path = tmp_path / "faces.npy"
    np.save(path, np.zeros((5, 3), float if kind == "floats" else np.int32))
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-4])
    elif kind == "claims":
        path.write_bytes(content.replace(b"(5, 3), }        ", b"(500000000, 3), }"))
    elif kind == "objects":
        np.save(path, np.array([[print, 1, 2]], object), allow_pickle=True)
    elif kind == "text":
        path.write_text("no faces")
    with pytest.raises(ValueError, match="faces, 3"):
        load_faces(path, 4)
