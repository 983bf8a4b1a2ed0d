"""posekit: four pose-estimation systems for TensorFlow 2 and Keras."""

import importlib
import os

# TensorFlow's notices, such as that there is no GPU: errors reach Python as exceptions. Only counts before TensorFlow
# is imported; export TF_CPP_MIN_LOG_LEVEL=0 to see them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"

# Resolved on first use, so that `import posekit` does not wait for TensorFlow.
_LAZY = {
    "load": "posekit.predictor",
    "Predictor": "posekit.predictor",
    "Skeleton": "posekit.skeletons",
}

__all__ = ["Predictor", "Skeleton", "load"]


def __dir__():
    return sorted({*globals(), *_LAZY})


def __getattr__(name):
    if name in _LAZY:
        if name != "Skeleton":
            importlib.import_module("posekit.training.config").import_tensorflow_quietly()
        return getattr(importlib.import_module(_LAZY[name]), name)
    try:
        return importlib.import_module(f"posekit.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"posekit.{name}":
            raise
        raise AttributeError(f"module 'posekit' has no attribute {name!r}") from None
