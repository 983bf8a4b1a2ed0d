"""posekit: four pose-estimation systems for TensorFlow 2 and Keras."""

import importlib

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
        return getattr(importlib.import_module(_LAZY[name]), name)
    try:
        return importlib.import_module(f"posekit.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"posekit.{name}":
            raise
        raise AttributeError(f"module 'posekit' has no attribute {name!r}") from None
