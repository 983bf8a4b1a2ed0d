"""Exports of models, each checked in its own runtime."""

import os
import pathlib
import re
import shutil
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from posekit.ops import native

SUFFIXES = {"saved_model": "_saved_model", "keras": ".keras", "tflite": ".tflite", "onnx": ".onnx"}


def export(model, output, form):
    """Writes a model so that it appears whole or not at all.

    Args:
        model: Keras model with one input.
        output: File or folder.
        form: A key of `SUFFIXES`.

    Raises:
        ValueError: If the form is unknown, or cannot hold the model's operations.
        FileExistsError: If the output is a folder that is not an earlier export; such a folder is never replaced.
        OSError: If packages for the form are missing, or the output cannot be written.
    """
    if form not in SUFFIXES:
        raise ValueError(f"format={form!r}: choose one of {', '.join(SUFFIXES)}.")
    output = pathlib.Path(output)
    if output.is_dir() and not (form == "saved_model" and (output / "saved_model.pb").is_file()):
        raise FileExistsError(f"{output} is a folder, but no SavedModel that could be replaced; name another --output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.stem}.{os.getpid()}{SUFFIXES[form]}")
    try:
        with native.disabled():  # what is exported runs where posekit is not
            _WRITERS[form](model, temporary)
        if output.is_dir():
            shutil.rmtree(output)
        os.replace(temporary, output)
    except tf.errors.OpError as error:
        raise OSError(
            f"Cannot write {output}: {error.message}. Free some space there, or name another --output."
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def check(model, output, form):
    """Runs an export in its own runtime beside the Keras model.

    Args:
        model: The Keras model.
        output: What `export` wrote.
        form: Its form.

    Returns:
        Largest absolute difference over all outputs.
    """
    shape = (1, *(side or _ANY_SIDE for side in model.inputs[0].shape[1:]))
    inputs = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = _named(model.predict_on_batch(inputs))
    found = _RUNNERS[form](str(output), inputs)
    if set(found) == set(expected):
        pairs = [(found[name], expected[name]) for name in expected]
    else:
        pairs = [_matching(value, expected) for value in found.values()]
    return max(float(np.max(np.abs(np.asarray(a) - b))) for a, b in pairs)


_ANY_SIDE = 64  # of the input, where the model takes any


def _named(outputs):
    """Models of a single output give it without a name."""
    return outputs if isinstance(outputs, dict) else {"output": outputs}


def _matching(value, expected):
    """Runtimes that rename outputs keep their shapes; the closest of that shape is the one."""
    same = [other for other in expected.values() if other.shape == value.shape]
    return value, min(same, key=lambda other: float(np.max(np.abs(other - value))))


def _write_saved_model(model, path):
    model.export(str(path), format="tf_saved_model", verbose=False)


def _write_keras(model, path):
    model.save(path)


def _write_tflite(model, path):
    # Known without the better part of a minute that a conversion takes.
    _check_tflite({_NOT_IN_TFLITE.get(type(layer)) for layer in _layers(model)} - {None})
    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        # Asked for its own operations only, the converter would print pages about the first that it lacks.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        content = converter.convert()
    _check_tflite({name.decode() for name in re.findall(rb"Flex([A-Z]\w{2,})\0", content)})
    path.write_bytes(content)


def _layers(model):
    """All layers, those inside others too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _check_tflite(lacking):
    if lacking:
        *others, last = (form for form in SUFFIXES if form != "tflite")
        raise ValueError(
            f"TFLite cannot hold this model: its runtime lacks the operations {', '.join(sorted(lacking))}. "
            f"Take --format={', '.join(others)} or {last}."
        )


def _write_onnx(model, path):
    try:
        import tf2onnx
    except ImportError:
        raise OSError("ONNX needs two more packages: pip install 'posekit[export]'") from None
    # TensorFlow has no public name for it.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32, name=model.inputs[0].name)
    function = tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(spec)
    # Freezing also turns captured arrays, such as those of a body, into constants, which the converter leaves open.
    frozen = convert_variables_to_constants_v2(function)
    tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[tensor.name for tensor in frozen.inputs],
        output_names=[tensor.name for tensor in frozen.outputs],
        opset=17,
        output_path=str(path),
    )


def _run_saved_model(path, inputs):
    loaded = tf.saved_model.load(path)
    return {name: value.numpy() for name, value in _named(loaded.serve(inputs)).items()}


def _run_keras(path, inputs):
    return _named(keras.models.load_model(path).predict_on_batch(inputs))


def _run_tflite(path, inputs):
    with warnings.catch_warnings():
        # TensorFlow announces that the interpreter moves to a package of its own.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_path=path)
    details = interpreter.get_input_details()[0]
    if tuple(details["shape"]) != inputs.shape:
        interpreter.resize_tensor_input(details["index"], inputs.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], inputs)
    interpreter.invoke()
    return {item["name"]: interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()}


def _run_onnx(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs})))


_NOT_IN_TFLITE = {keras.layers.MaxPooling3D: "MaxPool3D", keras.layers.AveragePooling3D: "AvgPool3D"}
_WRITERS = {
    "saved_model": _write_saved_model,
    "keras": _write_keras,
    "tflite": _write_tflite,
    "onnx": _write_onnx,
}
_RUNNERS = {"saved_model": _run_saved_model, "keras": _run_keras, "tflite": _run_tflite, "onnx": _run_onnx}
