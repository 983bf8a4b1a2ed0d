"""The systems. Each module offers the same functions; `SYSTEMS` maps a name to a loader of its module."""

import importlib

SYSTEMS = {
    "hmr": lambda: importlib.import_module("posekit.systems.hmr"),
    "lcn": lambda: importlib.import_module("posekit.systems.lcn"),
    "openpose": lambda: importlib.import_module("posekit.systems.openpose"),
    "v2v": lambda: importlib.import_module("posekit.systems.v2v"),
}
