"""Operations behind layers, losses and codecs: neighbours, meshes and their pictures, gradients, graphs, people."""

import importlib
import sys
import types

# Resolved on first use: what works on NumPy arrays does not wait for TensorFlow.
_LAZY = {
    "Decoded": "decode_paf",
    "decode_paf": "decode_paf",
    "decode_paf_batch": "decode_paf",
    "gradient_penalty": "gradient_penalty",
    "locally_connected": "locally_connected",
    "mesh_reprojection": "mesh_reprojection",
    "native": None,
    "nearest_neighbors": "nearest_neighbors",
    "rasterize": "rasterize",
}

__all__ = sorted(_LAZY)


class _Operations(types.ModuleType):
    def __setattr__(self, name, value):
        # Importing a module puts it here under its name, which is its function's as well: that is meant.
        if _LAZY.get(name) == name and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Operations


def __dir__():
    return sorted({*globals(), *__all__})


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module 'posekit.ops' has no attribute {name!r}")
    if _LAZY[name] is None:
        return importlib.import_module(f"posekit.ops.{name}")
    return getattr(importlib.import_module(f"posekit.ops.{_LAZY[name]}"), name)
