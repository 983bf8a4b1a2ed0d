import keras
import numpy as np
import pytest

from posekit.testing import load_fixture
from posekit.training.schedules import StepDecay


def test_rates_of_the_original():
    fixture = load_fixture("rmpe_schedule")
    constants = fixture["consts_json"]
    for steps in (5000, 11300):
        schedule = StepDecay(constants["base_lr"], constants["gamma"], constants["stepsize"], steps_per_epoch=steps)
        # Within an epoch too: the original sets the rate at its beginning.
        for step in (0, steps - 1):
            rates = [schedule.value(epoch * steps + step) for epoch in fixture["epochs"]]
            np.testing.assert_array_equal(rates, fixture[f"lr_ipe{steps}"])
    assert StepDecay().get_config() == {
        "learning_rate": constants["base_lr"], "gamma": constants["gamma"], "step_size": constants["stepsize"],
        "steps_per_epoch": None,
    }  # fmt: skip


def test_tensors_and_numbers_agree():
    schedule = StepDecay(0.1, 0.5, 10, steps_per_epoch=4)
    steps = range(50)
    numbers = [schedule.value(step) for step in steps]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], numbers, rtol=1e-6)
    assert [schedule.value(step) for step in (11, 12)] == [0.1, 0.05]
    assert [StepDecay(0.1, 0.5, 10).value(step) for step in (9, 10, 20)] == [0.1, 0.05, 0.025]


def test_optimizers_take_and_keep_it():
    optimizer = keras.optimizers.SGD(StepDecay(0.1, 0.5, 10))
    config = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert float(config.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "options", [{"learning_rate": -1}, {"gamma": float("nan")}, {"step_size": 0}, {"steps_per_epoch": 1.5}]
)
def test_values_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        StepDecay(**options)
