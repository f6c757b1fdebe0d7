"""VGG (Simonyan and Zisserman 2015, arXiv:1409.1556) with and without batch norm, NHWC."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fracjax.models.layers import HEAD, ConvBlock, ConvNet, Dropout, Layers, mean_over_picture

STAGE_WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
POOLED = 7
"""Side of what the published head sees of any picture, in cells."""

DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in each stage."""

BATCH_NORM_SUFFIX = "_bn"


class VGG(ConvNet):
    """Five stages of 3x3 convolutions, each halved by its maximum; and one of two heads.

    The published head takes the means of 7 by 7 cells through two hidden layers. At 224 pixels
    each cell is one place of the last stage.
    """

    parts: ClassVar = {"stages": 0, "hidden1": HEAD, "hidden2": HEAD, "head": HEAD}
    feature_stage: ClassVar = 4

    def __init__(
        self,
        depths: Sequence[int],
        *,
        use_norm: bool,
        head: Literal["published", "pooled"],
        outputs: int,
        dropout: float,
        layers: Layers,
    ) -> None:
        stages = []
        in_channels = 3
        for depth, width in zip(depths, STAGE_WIDTHS, strict=True):
            blocks = []
            for _ in range(depth):
                blocks.append(
                    ConvBlock(in_channels, width, use_bias=True, use_norm=use_norm, layers=layers)
                )
                in_channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.features = STAGE_WIDTHS[self.feature_stage - 1]
        self.dropout = Dropout(dropout)
        self.hidden_dropout = Dropout(dropout, place=1)
        self.is_published = head == "published"
        if self.is_published:
            self.hidden1 = layers.hidden(POOLED * POOLED * in_channels, HIDDEN)
            self.hidden2 = layers.hidden(HIDDEN, HIDDEN)
        self.head = layers.last(HIDDEN if self.is_published else in_channels, outputs)

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give maps and features, as :class:`~fracjax.models.layers.ConvNet` says."""
        means = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            means.append(mean_over_picture(x))
        return x, means[self.feature_stage - 1]

    def logits(self, maps: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Judge maps, as :class:`~fracjax.models.layers.ConvNet` says."""
        if not self.is_published:
            return super().logits(maps, keys)
        cells = adaptive_mean(maps, POOLED)
        y = nnx.relu(self.hidden1(cells.reshape(cells.shape[0], -1)))
        y = nnx.relu(self.hidden2(self.hidden_dropout(y, keys)))
        return self.head(self.dropout(y, keys))


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """Average (batch, height, width, channels) over size by size cells that cover it.

    Cell i of n reaches from floor(i h / n) to ceil((i + 1) h / n), as in PyTorch's
    ``adaptive_avg_pool2d``, so that cells overlap, or repeat, where n does not divide h.

    Returns:
        (batch, size, size, channels), in the number format of ``x``.
    """
    _, height, width, _ = x.shape
    if (height, width) == (size, size):
        return x
    averaged = jnp.einsum(
        "ih,jw,bhwc->bijc",
        *(_cells(length, size) for length in (height, width)),
        x.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return averaged.astype(x.dtype)


def _cells(length: int, size: int) -> jax.Array:
    """Give the weights (size, length) by which each cell averages one axis."""
    cell, place = np.mgrid[:size, :length]
    is_inside = (place >= cell * length // size) & (place < -(-(cell + 1) * length // size))
    return jnp.asarray(is_inside / is_inside.sum(axis=1, keepdims=True), jnp.float32)
