"""DenseNet (Huang et al. 2017, arXiv:1608.06993), NHWC. MURA's own baseline is a DenseNet-169."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fracjax.models.layers import HEAD, ConvNet, Dropout, Layers, mean_over_picture, stem_pool

STEM_WIDTH = 64
GROWTH = 32
"""Channels that each dense layer adds."""

BOTTLENECK = 4
"""Channels between its two convolutions, for each one that it adds."""

DEPTHS = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
}
"""Dense layers in each stage."""


class DenseLayer(nnx.Module):
    """Adds ``GROWTH`` channels to its input: batch norm, rectifier and convolution, twice."""

    def __init__(self, in_channels: int, layers: Layers) -> None:
        self.norm1 = layers.norm(in_channels)
        self.conv1 = layers.pointwise(in_channels, BOTTLENECK * GROWTH)
        self.norm2 = layers.norm(BOTTLENECK * GROWTH)
        self.conv2 = layers.conv(BOTTLENECK * GROWTH, GROWTH, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to in_channels + ``GROWTH`` channels."""
        y = self.conv1(nnx.relu(self.norm1(x)))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """Halves channels and picture between two stages."""

    def __init__(self, in_channels: int, layers: Layers) -> None:
        self.norm = layers.norm(in_channels)
        self.conv = layers.pointwise(in_channels, in_channels // 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to half of each but the batch."""
        y = self.conv(nnx.relu(self.norm(x)))
        pooled: jax.Array = nnx.avg_pool(y, (2, 2), strides=(2, 2))
        return pooled


class Stage(nnx.Module):
    """Dense layers, after a transition in all stages but the first."""

    def __init__(self, in_channels: int, depth: int, *, is_first: bool, layers: Layers) -> None:
        self.is_first = is_first
        if not is_first:
            self.transition = Transition(in_channels, layers)
            in_channels //= 2
        self.layers = nnx.List(
            [DenseLayer(in_channels + index * GROWTH, layers) for index in range(depth)]
        )
        self.channels = in_channels + depth * GROWTH

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to ``channels`` channels."""
        if not self.is_first:
            x = self.transition(x)
        for layer in self.layers:
            x = layer(x)
        return x


class DenseNet(ConvNet):
    """A stem, four stages, and one linear layer on the mean over the picture."""

    parts: ClassVar = {"stem": 0, "stem_norm": 0, "stages": 1, "norm": HEAD - 1, "head": HEAD}
    feature_stage: ClassVar = 3

    def __init__(
        self, depths: Sequence[int], *, outputs: int, dropout: float, layers: Layers
    ) -> None:
        self.stem = layers.conv(3, STEM_WIDTH, 7, 2)
        self.stem_norm = layers.norm(STEM_WIDTH)
        stages: list[Stage] = []
        channels = STEM_WIDTH
        for index, depth in enumerate(depths):
            stages.append(Stage(channels, depth, is_first=index == 0, layers=layers))
            channels = stages[-1].channels
        self.stages = nnx.List(stages)
        self.features = stages[self.feature_stage - 1].channels
        self.norm = layers.norm(channels)
        self.dropout = Dropout(dropout)
        self.head = layers.last(channels, outputs)

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give maps and features, as :class:`~fracjax.models.layers.ConvNet` says."""
        x = stem_pool(nnx.relu(self.stem_norm(self.stem(x))))
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(mean_over_picture(x))
        return nnx.relu(self.norm(x)), means[self.feature_stage - 1]
