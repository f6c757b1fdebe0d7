"""ResNet with bottleneck blocks (He et al. 2016, arXiv:1512.03385), NHWC."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

DEPTHS: dict[str, tuple[int, int, int, int]] = {
    "resnet14": (1, 1, 1, 1),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Blocks in each stage. ``resnet14`` is no published network: the smallest of the shape."""

STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
FEATURE_STAGE = 3
"""The stage, from 1, whose output tells what kind of picture this is. The last one's tells less:
what does not matter for the label, such as black and white exchanged, is gone from it."""

FEATURES = EXPANSION * STAGE_WIDTHS[FEATURE_STAGE - 1]
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.9


class PointwiseConv(nnx.Linear):
    """A 1x1 convolution, written as the matrix product over channels that it is.

    XLA's weight gradient of a 1x1 convolution is slow on CPU. As a product, a full training step of
    ResNet-50 at 224 px ran 1.7 to 1.9 times as fast on two x86 cores (``benchmarks/pointwise.py``).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_channels, channels, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
        self.stride = stride

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Map (batch, height, width, in_channels) to (batch, height, width, channels), strided."""
        return super().__call__(inputs[:, :: self.stride, :: self.stride, :], out_sharding)


def _conv(in_channels: int, channels: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        in_channels,
        channels,
        (size, size),
        strides=stride,
        # Written out: "SAME" at stride 2 would pad one side only, unlike the published weights.
        padding=size // 2,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(
        channels, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, rngs=rngs
    )


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where shapes differ."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        strides: Literal["v1", "v1.5"],
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = EXPANSION * width
        first, middle = (stride, 1) if strides == "v1" else (1, stride)
        self.conv1 = PointwiseConv(in_channels, width, first, rngs=rngs)
        self.norm1 = _norm(width, rngs)
        self.conv2 = _conv(width, width, 3, middle, rngs)
        self.norm2 = _norm(width, rngs)
        self.conv3 = PointwiseConv(width, channels, rngs=rngs)
        self.norm3 = _norm(channels, rngs)
        self.is_projected = stride != 1 or in_channels != channels
        if self.is_projected:
            self.projection = PointwiseConv(in_channels, channels, stride, rngs=rngs)
            self.projection_norm = _norm(channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to 4 x width channels, strided."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        return nnx.relu(y + shortcut)


class ResNet(nnx.Module):
    """Maps normalised pictures (batch, height, width, 3) to logits and features."""

    def __init__(
        self,
        depths: Sequence[int],
        *,
        strides: Literal["v1", "v1.5"],
        outputs: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = _conv(3, STAGE_WIDTHS[0], 7, 2, rngs)
        self.stem_norm = _norm(STAGE_WIDTHS[0], rngs)
        stages = []
        channels = STAGE_WIDTHS[0]
        for index, (depth, width) in enumerate(zip(depths, STAGE_WIDTHS, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(Bottleneck(channels, width, stride, strides, rngs=rngs))
                channels = EXPANSION * width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(channels, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Score a batch; heights and widths of 32 pixels or more.

        Returns:
            Logits; and features (batch, ``FEATURES``): the mean over the picture of what
            ``FEATURE_STAGE`` puts out.
        """
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        pooled = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            pooled.append(jnp.mean(x, axis=(1, 2)))
        return self.head(pooled[-1]), pooled[FEATURE_STAGE - 1]

    def stage_of(self, path: Sequence[Any]) -> int:
        """Give the stage that a variable belongs to: 0 the stem, 1 to 4 the stages, 5 the head."""
        if path[0] == "stages":
            return 1 + int(path[1])
        return 5 if path[0] == "head" else 0
