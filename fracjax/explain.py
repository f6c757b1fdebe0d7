"""Where a likelihood comes from: heat maps, as pure functions of a network and pictures.

A heat map says what moved the network, not where a fracture is. How far the two agree is measured
(:mod:`fracjax.evaluate.locating`), and a map that is no better than chance is called so.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fracjax import parallel
from fracjax.bundle import Arrays
from fracjax.configs import Preprocess
from fracjax.heat import Method, in_square
from fracjax.models import Network, Variables
from fracjax.step import normalise

STEPS = 16
"""Of integrated gradients, from black to the picture."""


def grad_cam(
    network: Network, preprocess: Preprocess, variables: Variables, images: jax.Array
) -> jax.Array:
    """Weigh the last stage's channels by how much they move the logit of the target.

    Grad-CAM (Selvaraju et al., arXiv:1610.02391, 3): the positive part of the weighed sum.

    Args:
        network: Its first output is the target.
        preprocess: How pictures are normalised.
        variables: Of the network.
        images: (batch, size, size), as :func:`fracjax.step.normalise` takes them.

    Returns:
        float32 (batch, size / 32, size / 32), 0 or more.
    """
    maps = network.maps(variables, normalise(images, preprocess)).astype(jnp.float32)

    def logit(maps: jax.Array) -> jax.Array:
        return network.judge(variables, maps)[:, 0].sum()

    weights = jax.grad(logit)(maps).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * maps).sum(axis=-1))


def integrated_gradients(
    network: Network, preprocess: Preprocess, variables: Variables, images: jax.Array
) -> jax.Array:
    """Add up what each pixel adds to the logit of the target on the way from a black picture.

    Integrated gradients (Sundararajan et al., arXiv:1703.01365, 3), by the midpoint rule.

    Args:
        network: Its first output is the target.
        preprocess: How pictures are normalised.
        variables: Of the network.
        images: float32 (batch, size, size) in 0..1.

    Returns:
        float32 (batch, size, size); a picture's sum is its logit less that of a black picture, but
        for the error of the rule.
    """

    def logit(images: jax.Array) -> jax.Array:
        logits, _ = network.logits_and_features(variables, normalise(images, preprocess))
        return logits[:, 0].sum()

    def add(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.grad(logit)(part * images), None

    parts = (jnp.arange(STEPS) + 0.5) / STEPS
    total, _ = jax.lax.scan(add, jnp.zeros_like(images), parts)
    return images * total / STEPS


METHODS: Mapping[Method, Callable[..., jax.Array]] = {
    "grad_cam": grad_cam,
    "integrated_gradients": integrated_gradients,
}


class Explainer:
    """Explains what a network says of pictures, one by one, by XLA."""

    def __init__(self, network: Network, preprocess: Preprocess, variables: Arrays) -> None:
        """Put a network on the devices."""
        self._network, self._preprocess = network, preprocess
        self._replicated = parallel.replicated(parallel.data_mesh())
        self._variables = jax.device_put(variables, self._replicated)
        self._methods: dict[Method, Any] = {}

    def __call__(self, inputs: NDArray[np.float32], method: Method) -> NDArray[np.float32]:
        """Tell where the likelihoods of pictures come from.

        Args:
            inputs: float32 (n, size, size) in 0..1.
            method: How it is found out.

        Returns:
            float32 (n, size, size) in 0..1, of :func:`fracjax.heat.in_square`.
        """
        if method not in self._methods:
            self._methods[method] = jax.jit(
                functools.partial(METHODS[method], self._network, self._preprocess),
                in_shardings=(self._replicated, self._replicated),
            )
        run = self._methods[method]
        heat = [np.asarray(run(self._variables, each[np.newaxis])[0]) for each in inputs]
        return np.stack([in_square(each, self._preprocess.image_size) for each in heat])
