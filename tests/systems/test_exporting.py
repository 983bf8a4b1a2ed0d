import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.models import LCN
from posekit.ops import native
from posekit.systems import exporting
from posekit.systems.exporting import check, export


@pytest.fixture
def model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"sum": keras.ops.sum(inputs, -1)})


@pytest.mark.parametrize("form", ["saved_model", "keras"])
def test_folders_that_are_no_export_are_not_replaced(model, tmp_path, form):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no SavedModel"):
        export(model, tmp_path, form)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_earlier_export_is_replaced(model, tmp_path):
    for _ in range(2):
        export(model, tmp_path / "exported", "saved_model")
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert (tmp_path / "exported" / "saved_model.pb").is_file()


@pytest.mark.parametrize("form", ["keras", "tflite"])
def test_models_of_pictures_of_any_size_are_checked(tmp_path, form):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, strides=2)(inputs))
    output = tmp_path / f"any{exporting.SUFFIXES[form]}"
    export(model, output, form)
    assert check(model, output, form) < 1e-5


def test_unknown_formats_are_named(model, tmp_path):
    with pytest.raises(ValueError, match="choose one of saved_model, keras, tflite, onnx"):
        export(model, tmp_path / "out", "caffe")


def test_full_disk_is_an_error_of_the_output(model, tmp_path, monkeypatch):
    def write(model, path):
        path.mkdir()
        (path / "half").write_text("half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setitem(exporting._WRITERS, "saved_model", write)
    with pytest.raises(OSError, match="out: No space left on device. Free some space"):
        export(model, tmp_path / "out", "saved_model")
    assert not list(tmp_path.iterdir())


def test_what_tflite_lacks_is_named_and_leaves_nothing_behind(tmp_path):
    inputs = keras.Input((4, 4, 4, 1))
    pooled = keras.Model(inputs, keras.ops.max_pool(inputs, 2))
    message = "its runtime lacks the operations MaxPool3D. Take --format=saved_model, keras or onnx"
    with pytest.raises(ValueError, match=message):
        export(pooled, tmp_path / "out.tflite", "tflite")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out.tflite").write_text("an earlier one")
    with pytest.raises(ValueError, match=message):
        export(pooled, tmp_path / "out.tflite", "tflite")
    assert (tmp_path / "out.tflite").read_text() == "an earlier one"


def test_what_tflite_lacks_is_known_before_it_is_built(tmp_path, monkeypatch):
    inputs = keras.Input((4, 4, 4, 1))
    nested = keras.Model(inputs, keras.layers.MaxPooling3D()(inputs))
    monkeypatch.setattr(exporting, "_write_saved_model", None)
    with pytest.raises(ValueError, match="lacks the operations MaxPool3D"):
        export(keras.Model(inputs, nested(inputs)), tmp_path / "out.tflite", "tflite")


def test_an_exported_model_has_no_compiled_ops(tmp_path):
    model = LCN(num_layers=1, channels=8)
    joints = np.zeros((1, *model.inputs[0].shape[1:]), np.float32)
    graph = tf.function(model).get_concrete_function(joints).graph.as_graph_def()
    assert (native.ops() is not None) == (b"PosekitLocallyConnected" in graph.SerializeToString())
    export(model, tmp_path / "ours", "saved_model")
    model.export(str(tmp_path / "keras"), verbose=False)
    for folder in ("ours", "keras"):
        assert b"Posekit" not in (tmp_path / folder / "saved_model.pb").read_bytes()
