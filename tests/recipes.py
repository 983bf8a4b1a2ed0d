"""Seeded weights of the reference values: fixtures name a seed and shapes instead of holding large kernels."""

import numpy as np


def recipe_weights(shapes, seed, gain=1.0, var_lo=0.5, var_hi=1.5, layout="tf", transposed=()):
    """Weights of a network by the recipe of the reference values.

    The i-th name in sorted order draws from its own legacy generator, seeded with `seed + i`: kernels are normal with
    He's variance, `gamma` is uniform in [0.5, 1.5), `moving_variance` in [var_lo, var_hi), other vectors are normal
    times 0.1. PyTorch's `weight` and `running_var` stand for `gamma` and `moving_variance`, its counters are 0.

    Args:
        shapes: Dict from the weight's name, such as `"dense/kernel:0"` or `"block.0.weight"`, to its shape.
        seed: Seed of the first name.
        gain: Factor of the kernels.
        var_lo: Lower end of the moving variances.
        var_hi: Upper end of the moving variances.
        layout: `"tf"`: a kernel's outputs are its last axis; `"torch"`: its first.
        transposed: Names of PyTorch's transposed kernels, of which each output counts the inputs alone.

    Returns:
        Dict from name to float32 array.
    """
    weights = {}
    for offset, name in enumerate(sorted(shapes)):
        rng, shape = np.random.RandomState(seed + offset), tuple(shapes[name])
        kind = name.split(":")[0].replace(".", "/").split("/")[-1]
        if kind == "num_batches_tracked":
            weights[name] = np.zeros(shape, np.int64)
            continue
        if len(shape) >= 2:
            fan_in = np.prod(shape) / shape[-1 if layout == "tf" else 0]
            fan_in = shape[0] if name in transposed else fan_in
            values = gain * np.sqrt(2.0 / fan_in) * rng.randn(*shape)
        elif kind == "gamma" or (kind == "weight" and layout == "torch"):
            values = 0.5 + rng.rand(*shape)
        elif kind in ("moving_variance", "running_var"):
            values = var_lo + (var_hi - var_lo) * rng.rand(*shape)
        else:
            values = 0.1 * rng.randn(*shape)
        weights[name] = values.astype(np.float32)
    return weights
