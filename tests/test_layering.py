"""Imports go down only, floor by floor, and nothing hides in rooms without a name."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOORS = (
    ("files", "skeletons", "results", "bodies", "sample_body"),
    ("geometry",),
    ("ops",),
    ("layers", "losses", "drawing", "drawing3d", "drawing_depth", "drawing_people", "plots"),
    ("codecs", "models", "metrics"),  # some metrics decode what they measure
    ("data",),
    ("training",),
    ("systems", "weights"),
    ("predictor", "playback"),
    ("train", "validate", "preview", "predict", "export"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FREE = {"__init__", "testing"}
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc"}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    names = {module.split(".")[1] for module in imported_modules(path) if module.startswith("posekit.")}
    return {name for name in names if name in FLOOR_OF}


LIBRARY = sorted((ROOT / "posekit").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    room = path.relative_to(ROOT / "posekit").parts[0].removesuffix(".py")
    if room in FREE:
        return
    assert room in FLOOR_OF, f"{path} is on no floor; add it to FLOORS"
    for other in rooms_imported(path):
        assert FLOOR_OF[other] <= FLOOR_OF[room], f"{path} imports {other}, which is a floor above"
    if room in ("data", "models"):
        assert {"data": "models", "models": "data"}[room] not in rooms_imported(path)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_commands_parse_flags(path):
    if "absl.flags" in set(imported_modules(path)):
        assert FLOOR_OF.get(path.stem) == len(FLOORS) - 1 or path.parts[-2:] == ("training", "config.py")


@pytest.mark.parametrize("name", FLOORS[-1])
def test_commands_are_one_screen(name):
    assert len((ROOT / "posekit" / f"{name}.py").read_text().splitlines()) <= 80


def test_no_rooms_without_a_name():
    for path in [*ROOT.glob("posekit/**/*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        assert path.stem not in FORBIDDEN_NAMES
