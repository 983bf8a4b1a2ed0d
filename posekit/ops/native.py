"""Which implementation of every op runs, and on what device.

All ops are plain TensorFlow: complete, differentiable, on CPU and GPU, with nothing to compile.
"""

import tensorflow as tf

OPS = ("nearest_neighbors", "mesh_reprojection", "gradient_penalty", "locally_connected")


def status():
    """Tells for every op what runs when it is called, and where.

    Returns:
        List of dicts with the keys `"op"`, `"implementation"` (`"plain"`: TensorFlow's own kernels), `"device"` (the
        device type on which TensorFlow places it by default) and `"reason"`.

    Example:
        >>> from posekit.ops import native
        >>> native.status()[0]["implementation"]
        'plain'
    """
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    reason = "no compiled kernel exists for this op; it runs on TensorFlow's own"
    return [{"op": op, "implementation": "plain", "device": device, "reason": reason} for op in OPS]
