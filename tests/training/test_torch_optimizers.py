"""The steps of PyTorch's and Torch's optimizers, against their formulas worked in NumPy."""

import keras
import numpy as np
import pytest

from posekit.training.torch_optimizers import TorchAdam, TorchRMSprop

# As small as the gradients of a mean over millions of voxels, where epsilon counts.
GRADIENTS = np.random.default_rng(0).normal(0, 3e-8, (6, 5))
START = np.linspace(-1, 1, 5)


def run(optimizer):
    variable = keras.Variable(START.astype(np.float64), dtype="float64")
    optimizer.build([variable])
    for gradient in GRADIENTS:
        optimizer.apply_gradients([(keras.ops.convert_to_tensor(gradient, "float64"), variable)])
    return variable.numpy()


def adam():
    weights, first, second = START.copy(), 0.0, 0.0
    for step, gradient in enumerate(GRADIENTS, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights -= 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def rmsprop():
    weights, square = START.copy(), 0.0
    for gradient in GRADIENTS:
        square = 0.99 * square + 0.01 * gradient**2
        weights -= 2.5e-4 * gradient / (np.sqrt(square) + 1e-8)
    return weights


@pytest.mark.parametrize(
    ("optimizer", "other", "expected"),
    [
        (TorchAdam(1e-3, epsilon=1e-8), keras.optimizers.Adam(1e-3, epsilon=1e-8), adam),
        (TorchRMSprop(2.5e-4, rho=0.99, epsilon=1e-8), keras.optimizers.RMSprop(2.5e-4, 0.99, epsilon=1e-8), rmsprop),
    ],
)
def test_steps_are_those_of_torch_and_not_those_of_keras(optimizer, other, expected):
    np.testing.assert_allclose(run(optimizer) - START, expected() - START, rtol=1e-4)
    assert np.abs((run(other) - START) / (expected() - START) - 1).max() > 0.05


def test_saved_configuration_makes_the_same_optimizer():
    for optimizer in (TorchAdam(1e-3), TorchRMSprop(1e-3, rho=0.99)):
        assert type(keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))) is type(optimizer)


def test_what_torch_has_otherwise_is_refused():
    with pytest.raises(ValueError, match="without momentum"):
        run(TorchRMSprop(1e-3, momentum=0.9))
    with pytest.raises(ValueError, match="without amsgrad"):
        run(TorchAdam(1e-3, amsgrad=True))
