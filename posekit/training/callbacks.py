"""Callbacks that tie `fit` to a run folder: logs, checkpoints, pictures, interruption."""

import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from posekit.training.run import CsvLog, DivergedError, Progress, broken_weights


class Interrupted(Exception):
    """Raised out of `fit` after an interrupt, once the state of the run has been saved."""


def check_finite(values, model, advice):
    """Stops a training that has diverged.

    Args:
        values: Dict of losses and metrics.
        model: Compiled Keras model in training.
        advice: How to go on; ends the message.

    Raises:
        DivergedError: If a value is not finite.
    """
    wrong = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
    if not wrong:
        return
    # Where losses are scaled, steps that overflow are left out and a smaller scale is tried; weights stay sound.
    scaled = isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer)
    if not scaled or broken_weights(model):
        raise DivergedError(f"The training diverged: {', '.join(wrong)}. {advice}")


class RunRecorder(keras.callbacks.Callback):
    """Logs every step and epoch, saves checkpoints, stops where losses are no numbers any more, and on Ctrl-C.

    Args:
        run: `RunFolder`.
        trained: Keras model whose weights users load; the model given to `fit` is its trainer.
        steps_per_epoch: Steps of a whole epoch.
        progress: `Progress` to continue from.
        monitor: Name of the epoch value that decides which checkpoint is best; smaller is better.
        checkpoint_every: Epochs between two `last` checkpoints.
        keep_epochs: How many epochs' weights are kept beside them, the last ones.
        image_every: Steps between two pictures, 0 for none.
        draw: Function that returns a uint8 `[height, width, 3]` RGB picture of the current state.
        validate_every: Steps between two single-batch validations, 0 for none.
        validation_batches: Iterator of batches for them.
    """

    def __init__(
        self,
        run,
        trained,
        steps_per_epoch,
        progress=None,
        *,
        monitor,
        checkpoint_every=1,
        keep_epochs=0,
        image_every=0,
        draw=None,
        validate_every=0,
        validation_batches=None,
    ):
        super().__init__()
        self.run = run
        self.trained = trained
        self.steps_per_epoch = steps_per_epoch
        self.progress = progress or Progress()
        self.monitor = monitor
        self.checkpoint_every = checkpoint_every
        self.keep_epochs = keep_epochs
        self.image_every = image_every
        self.draw = draw
        self.validate_every = validate_every
        self.validation_batches = validation_batches
        self._interrupted = threading.Event()
        self._restored_metrics = None
        self._saved_at = None
        self._open = []
        self._previous_handlers = {}

    def on_train_begin(self, logs=None):
        """Opens the logs, taken back to the step from which the run continues."""
        self._steps = CsvLog(self.run.steps_path, "step", self.progress.global_step)
        self._epochs = CsvLog(self.run.log_path, "epoch", self.progress.epoch)
        self._writer = tf.summary.create_file_writer(str(self.run.events_path))
        if self.progress.step:
            self._restored_metrics = [np.array(v.numpy()) for m in self.model.metrics for v in m.variables]
        self._open = [self._steps, self._epochs, self._writer]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def on_epoch_begin(self, epoch, logs=None):
        """Gives an epoch that continues half way the running means of its first part."""
        if self._restored_metrics is not None:
            variables = [v for metric in self.model.metrics for v in metric.variables]
            for variable, value in zip(variables, self._restored_metrics):
                variable.assign(value)
            self._restored_metrics = None
        self._epoch_started = time.perf_counter()
        self._batches_seen = 0

    def on_train_batch_end(self, batch, logs=None):
        """Logs the step, or the last one of several taken together; saves and stops if an interrupt came."""
        taken = batch + 1 - self._batches_seen
        self._batches_seen = batch + 1
        self.progress.step += taken
        self.progress.global_step += taken
        step = self.progress.global_step
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._steps.write(step, values)
        check_finite(values, self.model, self._advice())
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
            if self.validate_every and step // self.validate_every > (step - taken) // self.validate_every:
                for name, value in self._validate_one_batch().items():
                    tf.summary.scalar(f"val/{name}", value)
            pictures_due = self.image_every and step // self.image_every > (step - taken) // self.image_every
            if pictures_due or (self.image_every and step == taken):
                tf.summary.image("vis_images", self.draw()[None])
        if self._interrupted.is_set():
            self._save_last()
            raise Interrupted

    def _validate_one_batch(self):
        kept = [np.array(v.numpy()) for metric in self.model.metrics for v in metric.variables]
        values = self.model.evaluate(next(self.validation_batches), steps=1, return_dict=True, verbose=0)
        variables = [v for metric in self.model.metrics for v in metric.variables]
        for variable, value in zip(variables, kept):
            variable.assign(value)
        return values

    def on_epoch_end(self, epoch, logs=None):
        """Logs the epoch and saves checkpoints."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["seconds"] = time.perf_counter() - self._epoch_started
        self.progress.epoch, self.progress.step, self.progress.metrics = epoch + 1, 0, values
        self._epochs.write(epoch + 1, values)
        with self._writer.as_default(step=self.progress.global_step):
            for name, value in values.items():
                tf.summary.scalar(f"epoch/{name}", value)
        watched = values.get(self.monitor, values.get(self.monitor.removeprefix("val_")))
        best = self.progress.best
        if watched is not None and np.isfinite(watched) and (best is None or watched < best):
            self._check_weights()
            self.progress.best = watched
            self.run.save("best", self.progress, self.trained)
        if self.keep_epochs:
            self._check_weights()
            self.run.save_epoch(self.progress, self.trained, self.keep_epochs)
        if (epoch + 1) % self.checkpoint_every == 0:
            self._save_last()

    def _check_weights(self):
        """The last update of all may have spoilt weights without any loss that shows it."""
        if broken := broken_weights(self.trained, self.model):
            raise DivergedError(f"The training diverged: {broken[0]} holds NaN or infinity. {self._advice()}")

    def _advice(self):
        step, folder = self.progress.global_step, self.run.checkpoint("last")
        if folder is None:
            return f"That was at step {step}, before the first checkpoint: begin again with a smaller learning rate."
        return (
            f"That was at step {step}; {folder} is from before. Continue from there, with a smaller learning rate: "
            f"python -m posekit.train --run_dir={self.run.path} --resume"
        )

    def _save_last(self):
        self._check_weights()
        self.run.save("last", self.progress, self.trained, self.model)
        self._saved_at = self.progress.global_step

    def on_train_end(self, logs=None):
        """Saves the final state and closes the logs."""
        if self._saved_at != self.progress.global_step:
            self._save_last()
        self.close()

    def close(self):
        """Closes files and restores signal handlers; also needed when `fit` ended with an exception."""
        for log in self._open:
            log.close()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._open, self._previous_handlers = [], {}

    def _on_signal(self, number, frame):
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        self._interrupted.set()
        print("\nStopping after this step; press Ctrl-C again to stop at once without saving.", flush=True)
