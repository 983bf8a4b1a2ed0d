"""Small bodies, pictures and reference values for tests, shipped so that users can test their own code too."""

import json
import os
import pathlib

import numpy as np

from posekit.bodies import BodyModel
from posekit.skeletons import COCO_PLUS19, SMPL24

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = _REPOSITORY / "tests" / "fixtures"


def tiny_body(num_vertices=60, num_shape=10, seed=0):
    """A body of a few dozen random vertices around a plausible 24-joint skeleton.

    Args:
        num_vertices: Vertices, at least 24 (every joint gets some).
        num_shape: Shape coefficients.
        seed: Seed of the random arrays.

    Returns:
        A `BodyModel` with 24 joints and 19 keypoints; its faces are arbitrary triangles.
    """
    rng = np.random.default_rng(seed)
    # fmt: off
    rest = np.array([
        [0, 0, 0], [.06, -.08, 0], [-.06, -.08, 0], [0, .1, 0], [.1, -.45, 0], [-.1, -.45, 0], [0, .24, 0],
        [.09, -.85, -.03], [-.09, -.85, -.03], [0, .3, 0], [.11, -.9, .09], [-.11, -.9, .09], [0, .5, 0],
        [.08, .42, 0], [-.08, .42, 0], [0, .6, .03], [.18, .45, 0], [-.18, .45, 0], [.44, .44, 0], [-.44, .44, 0],
        [.69, .45, 0], [-.69, .45, 0], [.78, .44, 0], [-.78, .44, 0],
    ], np.float32)
    # fmt: on
    owner = np.arange(num_vertices) % SMPL24.num_joints
    template = rest[owner] + rng.normal(0, 0.04, (num_vertices, 3))
    one_hot = np.eye(SMPL24.num_joints)
    weights = one_hot[owner] + 0.3 * one_hot[np.maximum(0, np.array(SMPL24.parents)[owner])]
    regressor = one_hot[owner].T
    keypoints = rng.random((COCO_PLUS19.num_joints, num_vertices)) ** 8

    def rows_to_one(matrix):
        return (matrix / matrix.sum(-1, keepdims=True)).astype(np.float32)

    return BodyModel(
        name="tiny",
        licence="Apache-2.0",
        v_template=template.astype(np.float32),
        shapedirs=rng.normal(0, 0.01, (num_vertices, 3, num_shape)).astype(np.float32),
        posedirs=rng.normal(0, 0.002, (num_vertices, 3, 9 * (SMPL24.num_joints - 1))).astype(np.float32),
        J_regressor=rows_to_one(regressor),
        keypoint_regressor=rows_to_one(keypoints),
        weights=rows_to_one(weights),
        parents=np.array(SMPL24.parents, np.int32),
        faces=rng.permuted(np.tile(np.arange(num_vertices), (2 * num_vertices, 1)), axis=1)[:, :3].astype(np.int32),
    )


def load_fixture(name, directory=None):
    """Reads one reference fixture of the source tree.

    Args:
        name: Fixture name without suffix, such as `"hmr_lbs"`.
        directory: Folder with the `.npz` files and `manifest.json`; the source tree's `tests/fixtures` by default.

    Returns:
        Dict of arrays; entries that the manifest marks as JSON come decoded.

    Raises:
        FileNotFoundError: If the fixture is not there.
    """
    directory = pathlib.Path(directory or FIXTURES)
    path = directory / f"{name}.npz"
    if not path.exists():
        there = sorted(p.stem for p in directory.glob("*.npz"))
        raise FileNotFoundError(f"No fixture {path}; available: {there}. Fixtures come with a source checkout only.")
    keys = json.loads((directory / "manifest.json").read_text())["fixtures"].get(name, {}).get("keys", {})
    with np.load(path, allow_pickle=False) as archive:
        return {
            key: json.loads(bytes(archive[key]).decode()) if keys.get(key, {}).get("json") else archive[key]
            for key in archive.files
        }


def shared_data():
    """Folder of small real datasets beside the source tree; skips the calling test where there is none.

    Returns:
        `pathlib.Path`: `$POSEKIT_SHARED_DATA`, else `../shared/data` beside the source checkout.
    """
    import pytest

    folder = pathlib.Path(os.environ.get("POSEKIT_SHARED_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real sample data not found at {folder} (set POSEKIT_SHARED_DATA)")
    return folder
