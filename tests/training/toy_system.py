"""A system of a few lines, with dropout and a random data order, for tests of the training loop."""

import contextlib
import dataclasses
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from posekit.training.config import Options, option


@dataclasses.dataclass(frozen=True)
class Config(Options):
    num_epochs: int = option(4, "epochs")
    width: int = option(8, "units", architecture=True)
    activation: str = option("linear", "of the units", architecture=True)
    learning_rate: float = option(0.01, "learning rate", lower=0.0)
    seed: int = option(0, "seed")
    pause: float = option(0.0, "seconds after each step")
    mixed_precision: bool = option(False, "half")
    strategy: str = option("none", "devices")
    debug_numerics: bool = option(False, "stop at NaN")
    checkpoint_every: int = option(1, "epochs")


def run_name(config):
    return "toy"


def complete(config):
    return config


def build_model(config):
    hidden = [keras.layers.Dense(config.width, config.activation), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])


def build_trainer(config, model):
    trainer = keras.Model(model.inputs, model.outputs)
    trainer.compile(keras.optimizers.Adam(config.learning_rate), "mse")
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def steps_per_epoch(config):
    return 6


def train_data(config, epoch, step):
    def batch(position):
        x = tf.random.stateless_normal((5, 4), seed=[config.seed, position])
        return x, tf.reduce_sum(x, 1, keepdims=True)

    return tf.data.Dataset.range(epoch * 6 + step, config.num_epochs * 6).map(batch)


def validation_data(config):
    x = np.eye(4, dtype="float32")
    return tf.data.Dataset.from_tensors((x, x.sum(1, keepdims=True)))


def reading(config):
    return contextlib.nullcontext()


def recording(config, model):
    def draw():
        time.sleep(config.pause)
        return np.zeros((4, 4, 3), np.uint8)

    return {"monitor": "val_loss", "image_every": 1, "draw": draw}


if __name__ == "__main__":
    from posekit import train

    train.SYSTEMS["toy"] = lambda: sys.modules["__main__"]
    sys.exit(train.main(["--model=toy", *sys.argv[1:]]))
