"""Seeded weights of the reference values: fixtures name a seed and shapes instead of holding large kernels."""

import numpy as np


def recipe_weights(shapes, seed, gain=1.0, var_lo=0.5, var_hi=1.5):
    """Weights of a Keras network by the recipe of the reference values.

    The i-th name in sorted order draws from its own legacy generator, seeded with `seed + i`: kernels are normal with
    He's variance, `gamma` is uniform in [0.5, 1.5), `moving_variance` in [var_lo, var_hi), other vectors are normal
    times 0.1.

    Args:
        shapes: Dict from the weight's name, such as `"dense/kernel:0"`, to its shape.
        seed: Seed of the first name.
        gain: Factor of the kernels.
        var_lo: Lower end of the moving variances.
        var_hi: Upper end of the moving variances.

    Returns:
        Dict from name to float32 array.
    """
    weights = {}
    for offset, name in enumerate(sorted(shapes)):
        rng, shape = np.random.RandomState(seed + offset), tuple(shapes[name])
        kind = name.split(":")[0].split("/")[-1]
        if len(shape) >= 2:
            values = gain * np.sqrt(2.0 * shape[-1] / np.prod(shape)) * rng.randn(*shape)
        elif kind == "gamma":
            values = 0.5 + rng.rand(*shape)
        elif kind == "moving_variance":
            values = var_lo + (var_hi - var_lo) * rng.rand(*shape)
        else:
            values = 0.1 * rng.randn(*shape)
        weights[name] = values.astype(np.float32)
    return weights
