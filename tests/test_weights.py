import hashlib
import json

import pytest

from posekit import weights
from posekit.systems import SYSTEMS


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "model.weights.h5").write_bytes(b"numbers")
    (folder / "toy" / "config.json").write_text('{"model": "hmr", "num_stages": 2}')
    entry = {
        "model": "hmr",
        "file": "toy/model.weights.h5",
        "config": "toy/config.json",
        "sha256": hashlib.sha256(b"numbers").hexdigest(),
        "default": True,
    }
    (folder / "index.json").write_text(json.dumps({"toy": entry}))
    monkeypatch.setenv("POSEKIT_CHECKPOINTS", str(folder))
    monkeypatch.setenv("POSEKIT_CACHE", str(tmp_path / "cache"))
    return folder


def make_run(path, *checkpoints):
    for name in checkpoints:
        (path / "checkpoints" / name).mkdir(parents=True)
        (path / "checkpoints" / name / "model.weights.h5").write_bytes(name.encode())
    (path / "config.json").write_text('{"model": "hmr"}')
    return path


def test_by_name_and_by_default(index):
    for reference in ("toy", "default"):
        found = weights.resolve(reference, "hmr")
        assert found.path == index / "toy" / "model.weights.h5" and found.config == {"num_stages": 2}


def test_a_damaged_file_is_refused(index):
    (index / "toy" / "model.weights.h5").write_bytes(b"other")
    with pytest.raises(ValueError, match="damaged"):
        weights.resolve("toy", "hmr")


def test_a_missing_file_is_fetched_and_verified(index, tmp_path):
    (index / "toy" / "model.weights.h5").rename(tmp_path / "remote.h5")
    entries = json.loads((index / "index.json").read_text())
    entries["toy"]["url"] = (tmp_path / "remote.h5").as_uri()
    (index / "index.json").write_text(json.dumps(entries))
    found = weights.resolve("toy", "hmr")
    assert found.path.read_bytes() == b"numbers" and found.path.is_relative_to(tmp_path / "cache")
    found.path.unlink()
    (tmp_path / "remote.h5").write_bytes(b"tampered")
    with pytest.raises(ValueError, match="sha256"):
        weights.resolve("toy", "hmr")
    assert not any(file.is_file() for file in (tmp_path / "cache").rglob("*"))


def test_a_failed_download_says_what_to_do(index, tmp_path):
    (index / "toy" / "model.weights.h5").unlink()
    entries = json.loads((index / "index.json").read_text())
    entries["toy"]["url"] = (tmp_path / "gone.h5").as_uri()
    (index / "index.json").write_text(json.dumps(entries))
    with pytest.raises(OSError, match="fetch it by hand"):
        weights.resolve("toy", "hmr")


def test_run_folder_prefers_best(tmp_path):
    run = make_run(tmp_path / "run", "last", "best")
    assert weights.resolve(run, "hmr").path.read_bytes() == b"best"
    assert weights.resolve(run / "checkpoints" / "last", "hmr").path.read_bytes() == b"last"
    assert weights.resolve(run / "checkpoints" / "last" / "model.weights.h5", "hmr").config == {}


def test_run_folder_without_best_gives_last(tmp_path):
    assert weights.resolve(make_run(tmp_path / "run", "last"), "hmr").path.read_bytes() == b"last"


def test_what_is_not_there_lists_the_names(index):
    with pytest.raises(FileNotFoundError, match="known: toy"):
        weights.resolve("nothing", "hmr")


def test_file_without_configuration(tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "x.weights.h5").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="config.json"):
        weights.resolve(tmp_path / "a" / "b" / "c" / "x.weights.h5", "hmr")


def test_weights_of_another_system_are_refused(tmp_path):
    run = make_run(tmp_path / "run", "last")
    (run / "config.json").write_text('{"model": "lcn"}')
    with pytest.raises(ValueError, match="lcn"):
        weights.resolve(run, "hmr")


def test_no_default_says_what_to_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="weights=None"):
        weights.resolve("default", "hmr")


def test_damaged_index_is_named(tmp_path, monkeypatch):
    (tmp_path / "index.json").write_text("{")
    monkeypatch.setenv("POSEKIT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"index\.json"):
        weights.read_index()


@pytest.mark.parametrize("name", weights.read_index())
def test_published_weights_load_under_their_own_configuration(name):
    found = weights.resolve(name, weights.read_index()[name]["model"])
    module = SYSTEMS[found.system]()
    assert module.Config.from_dict(found.config).to_dict().keys() >= found.config.keys()
    assert weights.load_model(module, module.Config.from_dict(found.config), found).count_params() > 0
