"""A Flax NNX module as pure functions over one flat dictionary of arrays.

The dictionary (``"stages/0/1/conv2/kernel"`` -> array) is what a step differentiates, Orbax saves
and a bundle stores; the module itself exists only while JAX traces.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fracjax.configs import Model
from fracjax.models.resnet import DEPTHS, ResNet

Variables = dict[str, jax.Array]
"""Parameters and batch statistics by path."""


def create(config: Model, *, outputs: int = 1, rngs: nnx.Rngs) -> ResNet:
    """Build a network with random weights."""
    return ResNet(DEPTHS[config.name], strides=config.strides, outputs=outputs, rngs=rngs)


class Network:
    """An architecture without its arrays.

    Attributes:
        config: The architecture.
        outputs: Number of logits.
        frozen_stages: How many leading parts (the stem, then stages) never change: their
            parameters are not trainable and their batch norm keeps its statistics.
    """

    def __init__(self, config: Model, *, outputs: int = 1, frozen_stages: int = 0) -> None:
        self.config = config
        self.outputs = outputs
        self.frozen_stages = frozen_stages
        model = nnx.eval_shape(lambda: create(config, outputs=outputs, rngs=nnx.Rngs(0)))
        self._stage_of = model.stage_of
        model.eval()
        self._eval_graph, self._template = nnx.split(model)
        model.train()
        if frozen_stages > 0:
            model.stem_norm.eval()
        for stage in list(model.stages)[: max(0, frozen_stages - 1)]:
            stage.eval()
        self._train_graph, _ = nnx.split(model)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every variable by its path."""
        return {_name(path): leaf.shape for path, leaf in nnx.to_flat_state(self._template)}

    @cached_property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that training changes."""
        return frozenset(
            _name(path)
            for path, leaf in nnx.to_flat_state(self._template)
            if isinstance(leaf, nnx.Param) and self._stage_of(path) >= self.frozen_stages
        )

    def init(self, seed: int) -> Variables:
        """Draw random weights."""
        model = create(self.config, outputs=self.outputs, rngs=nnx.Rngs(seed))
        return _flatten(nnx.state(model))

    def logits_and_features(
        self, variables: Variables, x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Score normalised pictures (batch, height, width, 3).

        Returns:
            float32 (batch, outputs), and float32 (batch, ``FEATURES``), as
            :class:`~fracjax.models.resnet.ResNet` describes them.
        """
        logits, features = nnx.merge(self._eval_graph, self._unflatten(variables))(x)
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    def train_logits(self, variables: Variables, x: jax.Array) -> tuple[jax.Array, Variables]:
        """Score as :meth:`logits_and_features`, but with batch norm on the batch's own statistics.

        Returns:
            Logits, and the variables with the running statistics moved on.
        """
        model = nnx.merge(self._train_graph, self._unflatten(variables), copy=True)
        logits, _ = model(x)
        return logits.astype(jnp.float32), _flatten(nnx.state(model))

    def _unflatten(self, variables: Variables) -> nnx.State[Any, Any]:
        flat = nnx.to_flat_state(self._template)
        return nnx.from_flat_state(
            [(path, leaf.replace(variables[_name(path)])) for path, leaf in flat]
        )


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _flatten(state: nnx.State[Any, Any]) -> Variables:
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(state)}
