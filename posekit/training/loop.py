"""One training run, for any system: devices, precision, resume, `fit`, interruption."""

import contextlib
import dataclasses

import keras
import tensorflow as tf

from posekit.training.callbacks import Interrupted, RunRecorder, check_finite
from posekit.training.config import changed_architecture
from posekit.training.run import Progress, trained_config


@contextlib.contextmanager
def precision(mixed):
    """Sets Keras's mixed-precision policy for the time of a block.

    Args:
        mixed: Whether layers compute in half precision: float16 on a GPU, bfloat16 on a CPU.
    """
    before = keras.config.dtype_policy()
    if mixed:
        half = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
        print(f"Mixed precision: {half}.")
        keras.config.set_dtype_policy(half)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def strategy_scope(name):
    """Enters a distribution strategy.

    Args:
        name: `"none"`, or `"mirrored"` for every visible GPU of this machine (or CPU device where there is none).

    Returns:
        A context manager.
    """
    if name == "none":
        return contextlib.nullcontext()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    print(f"Mirrored over {strategy.num_replicas_in_sync} device(s).")
    return strategy.scope()


def check_resumable(run, config):
    """Compares the stored configuration of a run with the one asked for.

    Args:
        run: `RunFolder` with a stored configuration.
        config: Options asked for.

    Raises:
        ValueError: If an option on which the trained weights depend differs.
    """
    stored, last = run.load_config(type(config)), run.checkpoint("last")
    if last:
        stored = trained_config(type(config), stored.to_dict(), last / "model.weights.h5")
    changes = changed_architecture(stored, config)
    if changes:
        raise ValueError(
            f"The checkpoint in {run.path} was trained with another configuration ({'; '.join(changes)}). "
            f"Resume without these flags (or set {run.config_path} back, if it was changed), or start a new --run_dir."
        )


def train(name, system, config, run, *, resume=False, verbose="auto"):
    """Trains a system into a run folder.

    Args:
        name: System name.
        system: Its module.
        config: Its options.
        run: `RunFolder`.
        resume: Whether to continue from the checkpoint `last`.
        verbose: As for Keras's `fit`.

    Returns:
        `(progress, finished)`: where the run stands, and False if it was interrupted.

    Raises:
        DivergedError: If a loss or a weight is not finite any more; the last checkpoint before that stays.
    """
    keras.utils.set_random_seed(config.seed)
    config = system.complete(config)
    if resume and run.config_path.exists():
        check_resumable(run, config)
    with precision(config.mixed_precision), strategy_scope(config.strategy):
        model = system.build_model(config)
        trainer = system.build_trainer(config, model)
    progress = Progress()
    if resume and run.checkpoint("last"):
        progress = run.restore(model, trainer)
    elif resume:
        print(f"{run.path} has no checkpoint yet: the run starts from the beginning.")
    steps = system.steps_per_epoch(config)
    if progress.step >= steps:
        progress = dataclasses.replace(progress, epoch=progress.epoch + 1, step=0)
    # Data is opened before the run folder is made, which stays away if there is something wrong with it.
    validation, data = system.validation_data(config), None
    if progress.epoch < config.num_epochs:
        data = system.train_data(config, progress.epoch, progress.step)
    run.create(name, config)
    pictures = system.recording(config, model)
    recorder = RunRecorder(run, model, steps, progress, checkpoint_every=config.checkpoint_every, **pictures)
    if config.debug_numerics:
        # From here on only: streams may read numbers that are none, such as centres that are marked unusable.
        tf.debugging.enable_check_numerics()
    fit = {"callbacks": [recorder], "validation_data": validation, "verbose": verbose, "shuffle": False}
    try:
        with system.reading(config):
            at_once = trainer.steps_per_execution
            if progress.step and data is not None:
                rest = steps - progress.step
                take_at_once(trainer, at_once, rest)
                trainer.fit(data, initial_epoch=progress.epoch, epochs=progress.epoch + 1, steps_per_epoch=rest, **fit)
                data = None
            if progress.epoch < config.num_epochs:
                take_at_once(trainer, at_once, steps)
                data = system.train_data(config, progress.epoch, 0) if data is None else data
                trainer.fit(data, initial_epoch=progress.epoch, epochs=config.num_epochs, steps_per_epoch=steps, **fit)
    except Interrupted:
        return recorder.progress, False
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(str(error.message).splitlines()[0]) from error
    finally:
        recorder.close()
    return recorder.progress, True


def take_at_once(trainer, wanted, steps):
    """Lets a trainer take several steps in one call, as many as divide an epoch: Keras would run past its end.

    Args:
        trainer: Compiled Keras model.
        wanted: Steps in one call, at most.
        steps: Steps of the epoch, or of what is left of it.
    """
    count = max(count for count in range(1, min(wanted, steps) + 1) if steps % count == 0)
    if count != trainer.steps_per_execution:
        trainer.steps_per_execution = count
        trainer.train_function = trainer.test_function = None


def dry_run(system, config):
    """Builds everything and runs one training step and one validation batch, without writing a file.

    Args:
        system: System module.
        config: Its options.

    Returns:
        Dict of losses of the step.
    """
    keras.utils.set_random_seed(config.seed)
    config = system.complete(config)
    with precision(config.mixed_precision), strategy_scope(config.strategy):
        model = system.build_model(config)
        trainer = system.build_trainer(config, model)
    data, validation = system.train_data(config, 0, 0), system.validation_data(config)
    take_at_once(trainer, trainer.steps_per_execution, 1)
    with system.reading(config):
        history = trainer.fit(
            data, steps_per_epoch=1, verbose=0, validation_data=validation, validation_steps=1, shuffle=False
        )
    values = {name: values[0] for name, values in history.history.items()}
    check_finite(values, trainer, "Look for damaged data with tools/inspect_dataset.py, or lower the learning rate.")
    return values
