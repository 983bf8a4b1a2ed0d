"""Operations behind layers, losses and codecs: neighbours, meshes, gradients, graphs, people in maps."""

import importlib

# Resolved on first use: what works on NumPy arrays does not wait for TensorFlow.
_LAZY = {
    "Decoded": "decode_paf",
    "decode_paf": "decode_paf",
    "gradient_penalty": "gradient_penalty",
    "locally_connected": "locally_connected",
    "mesh_reprojection": "mesh_reprojection",
    "nearest_neighbors": "nearest_neighbors",
}

__all__ = sorted([*_LAZY, "native"])


def __dir__():
    return sorted({*globals(), *__all__})


def __getattr__(name):
    if name in _LAZY:
        found = getattr(importlib.import_module(f"posekit.ops.{_LAZY[name]}"), name)
    elif name == "native":
        return importlib.import_module("posekit.ops.native")
    else:
        raise AttributeError(f"module 'posekit.ops' has no attribute {name!r}")
    globals()[name] = found  # importing a module of this name has put it here instead of its function
    return found
