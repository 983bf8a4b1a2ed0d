import hashlib
import json
import os

import h5py
import numpy as np
import pytest

from posekit import weights
from posekit.files import cache_folder
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


def test_a_pipe_is_no_weights_file(tmp_path):
    run = make_run(tmp_path / "run", "best", "last")
    (run / "checkpoints/best/model.weights.h5").unlink()
    os.mkfifo(run / "checkpoints/best/model.weights.h5")
    assert weights.resolve(run, "hmr").path.parent.name == "last"
    with pytest.raises(FileNotFoundError, match="No weights at"):
        weights.resolve(run / "checkpoints/best", "hmr")


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


@pytest.fixture
def fetched(index, tmp_path):
    """Index whose file is fetched into the cache by a command."""
    path = tmp_path / "cache" / "weights" / "toy" / "model.weights.h5"
    path.parent.mkdir(parents=True)
    (index / "toy" / "model.weights.h5").unlink()
    with h5py.File(path, "w") as file:
        file["layers/conv/vars/0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        file["layers/conv/vars/1"] = np.zeros(3, np.float32)
    entries = json.loads((index / "index.json").read_text())
    del entries["toy"]["sha256"]
    entries["toy"] |= {"fetch": "python tools/fetch_weights.py toy", "arrays_sha256": weights.arrays_digest(path)}
    (index / "index.json").write_text(json.dumps(entries))
    return path


def test_fetched_weights_are_found_in_the_cache_whatever_the_layout_of_the_file(fetched):
    assert weights.resolve("default", "hmr").path == fetched
    with h5py.File(fetched, "r") as file:
        kernel, bias = (file[f"layers/conv/vars/{place}"][()] for place in (0, 1))
    with h5py.File(fetched, "w") as file:
        file.create_dataset("other/bias", data=bias, compression="gzip")
        file["kernel"] = kernel
    assert weights.resolve("toy", "hmr").path == fetched


def test_fetched_weights_that_are_not_there_or_damaged_are_to_be_fetched(fetched):
    with h5py.File(fetched, "r+") as file:
        file["layers/conv/vars/1"][0] = 1
    with pytest.raises(ValueError, match="Fetch it anew: python tools/fetch_weights.py toy"):
        weights.resolve("toy", "hmr")
    fetched.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="fetch_weights"):
        weights.resolve("toy", "hmr")
    fetched.unlink()
    with pytest.raises(FileNotFoundError, match="fetch it once: python tools/fetch_weights.py toy.*weights=None"):
        weights.resolve("toy", "hmr")


@pytest.mark.parametrize("name", [name for name, entry in weights.read_index().items() if entry["model"] in SYSTEMS])
def test_published_weights_load_under_their_own_configuration(name):
    entry = weights.read_index()[name]
    if "fetch" in entry and not (cache_folder() / "weights" / entry["file"]).exists():
        pytest.skip(f"not fetched here; run: {entry['fetch']}")
    found = weights.resolve(name, entry["model"])
    module = SYSTEMS[found.system]()
    assert module.Config.from_dict(found.config).to_dict().keys() >= found.config.keys()
    assert weights.load_model(module, module.Config.from_dict(found.config), found).count_params() > 0
