import keras
import pytest

from posekit.systems.exporting import export


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


def test_unknown_formats_are_named(model, tmp_path):
    with pytest.raises(ValueError, match="choose one of saved_model, keras, tflite, onnx"):
        export(model, tmp_path / "out", "caffe")
