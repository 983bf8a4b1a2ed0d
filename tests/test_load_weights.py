import keras
import numpy as np
import pytest

from posekit.files import load_weights


def model(*widths):
    inputs = keras.Input((3,))
    outputs = inputs
    for width in widths:
        outputs = keras.layers.Dense(width)(outputs)
    return keras.Model(inputs, outputs, name="toy")


def test_weights_come_back(tmp_path):
    first, second = model(4, 2), model(4, 2)
    first.save_weights(tmp_path / "a.weights.h5")
    load_weights(second, tmp_path / "a.weights.h5")
    for one, other in zip(first.get_weights(), second.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("widths", [(4, 3), (4,), (4, 2, 2)])
def test_another_model_is_refused(tmp_path, widths):
    model(4, 2).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"a\.weights\.h5 does not fit 'toy'"):
        load_weights(model(*widths), tmp_path / "a.weights.h5")


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_damaged_files_are_refused(tmp_path, kept):
    path = tmp_path / "a.weights.h5"
    model(4, 2).save_weights(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(model(4, 2), path)


def test_damage_inside_files_is_refused(tmp_path):
    path, rng = tmp_path / "a.weights.h5", np.random.default_rng(0)
    model(4, 2).save_weights(path)
    data, refused = path.read_bytes(), 0
    for _ in range(20):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=60):
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_weights(model(4, 2), path)
        except ValueError as error:
            refused += "or is damaged" in str(error)
    assert refused > 5


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        load_weights(model(4), tmp_path / "none.weights.h5")
