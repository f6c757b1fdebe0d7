"""A Flax NNX module as pure functions over one flat dictionary of arrays.

The dictionary (``"stages/0/1/conv2/kernel"`` -> array) is what a step differentiates, Orbax saves
and a bundle stores; the module itself exists only while JAX traces.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fracjax.configs import Model
from fracjax.models import densenet, resnet, vgg
from fracjax.models.layers import ConvNet, Layers
from fracjax.models.small_cnn import SmallCNN

Variables = dict[str, jax.Array]
"""Parameters and batch statistics by path."""


def create(
    config: Model,
    *,
    outputs: int = 1,
    axis_name: str | None = None,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> ConvNet:
    """Build a network with random weights."""
    layers = Layers(config.norm_epsilon, axis_name, dtype, rngs)
    name, dropout = config.name, config.dropout
    if name == "small_cnn":
        return SmallCNN(outputs=outputs, dropout=dropout, layers=layers)
    if name in resnet.DEPTHS:
        return resnet.ResNet(
            resnet.DEPTHS[name],
            strides=config.strides,
            outputs=outputs,
            dropout=dropout,
            layers=layers,
        )
    if name in densenet.DEPTHS:
        return densenet.DenseNet(
            densenet.DEPTHS[name], outputs=outputs, dropout=dropout, layers=layers
        )
    return vgg.VGG(
        vgg.DEPTHS[name.removesuffix(vgg.BATCH_NORM_SUFFIX)],
        use_norm=name.endswith(vgg.BATCH_NORM_SUFFIX),
        head=config.head,
        outputs=outputs,
        dropout=dropout,
        layers=layers,
    )


class _OneKey:
    """Stands for ``nnx.Rngs`` where shapes alone matter.

    That one counts, and while JAX traces, the more slowly the more it has counted: a ResNet-152
    took seconds.
    """

    def params(self) -> jax.Array:
        """Give a key."""
        return jax.random.key(0)


class Network:
    """An architecture without its arrays.

    Attributes:
        config: The architecture.
        outputs: Number of logits.
        frozen_stages: How many leading parts never change: their parameters are not trainable
            and their batch norm keeps its statistics.
        features: Length of the feature vector.
        feature_stage: The stage, from 1, that the features come from.
    """

    def __init__(
        self,
        config: Model,
        *,
        outputs: int = 1,
        frozen_stages: int = 0,
        axis_name: str | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Prepare a network.

        Args:
            config: The architecture.
            outputs: Number of logits.
            frozen_stages: 0 to 5.
            axis_name: Of the ``jax.pmap`` axis whose members share the statistics of a training
                batch.
            dtype: Number format of convolutions and matrix products. Variables, statistics,
                logits and features are float32 always.
        """
        self.config = config
        self.outputs = outputs
        self.frozen_stages = frozen_stages
        model = nnx.eval_shape(
            lambda: create(
                config, outputs=outputs, axis_name=axis_name, dtype=dtype, rngs=cast(Any, _OneKey())
            )
        )
        self.features = model.features
        self.feature_stage = model.feature_stage
        self._part_of = model.part_of
        model.eval()
        self._eval_graph, self._template = nnx.split(model)
        model.train()
        for path, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm) and model.part_of(path) < frozen_stages:
                module.eval()
        self._train_graph, _ = nnx.split(model)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every variable by its path."""
        return {_name(path): leaf.shape for path, leaf in nnx.to_flat_state(self._template)}

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the variables that are parameters: all but statistics of batch norm."""
        return frozenset(
            _name(path)
            for path, leaf in nnx.to_flat_state(self._template)
            if isinstance(leaf, nnx.Param)
        )

    @cached_property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that training changes."""
        return frozenset(
            name for name in self.parameters if self.part_of(name) >= self.frozen_stages
        )

    def part_of(self, name: str) -> int:
        """Give the part that a variable belongs to: 0 to 4 as they lead, 5 the head."""
        return self._part_of(name.split("/"))

    def init(self, seed: int) -> Variables:
        """Draw random weights."""
        model = create(self.config, outputs=self.outputs, rngs=nnx.Rngs(seed))
        return _flatten(nnx.state(model))

    def logits_and_features(
        self, variables: Variables, x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Score normalised pictures (batch, height, width, 3), of 32 pixels or more each way.

        Returns:
            float32 (batch, outputs), and float32 (batch, ``features``): the mean over the picture
            of what ``feature_stage`` puts out.
        """
        model = nnx.merge(self._eval_graph, self._unflatten(variables))
        logits, features = model(x)
        return logits, features

    def maps(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Give what the head judges of normalised pictures (batch, height, width, 3).

        Returns:
            (batch, height / 32, width / 32, channels).
        """
        maps, _ = nnx.merge(self._eval_graph, self._unflatten(variables)).maps(x)
        return maps

    def judge(self, variables: Variables, maps: jax.Array) -> jax.Array:
        """Give the logits float32 (batch, outputs) of what :meth:`maps` gives."""
        logits: jax.Array = nnx.merge(self._eval_graph, self._unflatten(variables)).logits(maps)
        return logits

    def train_logits(
        self, variables: Variables, x: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """Score as :meth:`logits_and_features`, but with batch norm on the batch's own statistics.

        Args:
            variables: By name.
            x: Normalised pictures (batch, height, width, 3).
            keys: (batch,), what dropout leaves out of each picture by.

        Returns:
            Logits, and the variables with the running statistics moved on.
        """
        model = nnx.merge(self._train_graph, self._unflatten(variables), copy=True)
        logits, _ = model(x, keys)
        return logits, _flatten(nnx.state(model))

    def _unflatten(self, variables: Variables) -> nnx.State[Any, Any]:
        flat = nnx.to_flat_state(self._template)
        return nnx.from_flat_state(
            [(path, leaf.replace(variables[_name(path)])) for path, leaf in flat]
        )


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _flatten(state: nnx.State[Any, Any]) -> Variables:
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(state)}
