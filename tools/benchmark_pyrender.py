"""Draws a mesh with pyrender, once for every line read, and prints the seconds that each picture took.

    python tools/benchmark_pyrender.py MESH.npz

For tools/benchmark.py --ops, in a process of its own: OSMesa and TensorFlow each bring an LLVM and do not live in one.
MESH.npz holds `vertices` [vertices, 3] in camera coordinates (x right, y down, z forward), `faces` [faces, 3], `focal`,
`center` [2] and `size` (height, width), in pixels.
"""

import os
import sys
import time

os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa")

import numpy as np


def main(path):
    """Draws the depth image, of a mesh that the renderer has already, as often as asked.

    Args:
        path: The mesh and its camera.
    """
    import pyrender
    import trimesh

    with np.load(path) as given:
        mesh = trimesh.Trimesh(given["vertices"] * (1, -1, -1), given["faces"], process=False)
        focal, middle, (height, width) = float(given["focal"]), given["center"] + 0.5, given["size"].tolist()
    scene = pyrender.Scene()
    scene.add(pyrender.Mesh.from_trimesh(mesh))
    scene.add(pyrender.IntrinsicsCamera(focal, focal, *middle, znear=0.1, zfar=100.0))
    renderer = pyrender.OffscreenRenderer(width, height)
    for _ in sys.stdin:
        started = time.perf_counter()
        depth = renderer.render(scene, flags=pyrender.RenderFlags.DEPTH_ONLY)
        print(time.perf_counter() - started, np.count_nonzero(depth), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(print(__doc__.strip()) or 1)
    main(sys.argv[1])
