"""Random weights that anybody makes alike by a tensor's name, with NumPy alone."""

import zlib

import numpy as np

BLOCK = 65537
"""Larger tensors repeat this many values. It is prime, so no two rows are the same."""

PICTURES = (2, 72, 104, 3)


def random_tensor(name, shape):
    """Fill a tensor, in PyTorch's layout or in Keras's, so that signals neither grow nor vanish."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = int(np.prod(shape))
    if len(shape) > 1:
        is_torch = name.endswith("weight")
        fan_in = count // (shape[0] if is_torch else shape[-1])
        block = rng.standard_normal(min(count, BLOCK), np.float32) * np.sqrt(2 / fan_in)
        return np.resize(block.astype(np.float32), shape)
    if name.endswith(("running_var", "moving_variance")):
        return rng.uniform(0.7, 1.5, shape).astype(np.float32)
    if name.endswith(("weight", "gamma")):
        return rng.uniform(0.5, 1.0, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def pictures(*shape):
    """Make normalised pictures (batch, height, width, 3)."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
