"""ResNet (He et al. 2016, arXiv:1512.03385), NHWC: basic blocks, and bottlenecks of both kinds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from flax import nnx

from fracjax.models.layers import HEAD, ConvNet, Dropout, Layers, mean_over_picture, stem_pool

STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""Channels that a bottleneck puts out, for each one of its 3x3 convolution."""


@dataclass(frozen=True, slots=True)
class Depths:
    """Blocks in each stage, and whether they are bottlenecks."""

    blocks: tuple[int, int, int, int]
    is_bottleneck: bool = True


DEPTHS = {
    "resnet14": Depths((1, 1, 1, 1)),
    "resnet18": Depths((2, 2, 2, 2), is_bottleneck=False),
    "resnet34": Depths((3, 4, 6, 3), is_bottleneck=False),
    "resnet50": Depths((3, 4, 6, 3)),
    "resnet101": Depths((3, 4, 23, 3)),
    "resnet152": Depths((3, 8, 36, 3)),
}
"""``resnet14`` is no published network: the smallest of its shape."""


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where shapes differ."""

    def __init__(self, in_channels: int, width: int, stride: int, layers: Layers) -> None:
        self.conv1 = layers.conv(in_channels, width, 3, stride)
        self.norm1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3)
        self.norm2 = layers.norm(width)
        self.is_projected = stride != 1 or in_channels != width
        if self.is_projected:
            self.projection = layers.pointwise(in_channels, width, stride)
            self.projection_norm = layers.norm(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to ``width`` channels, strided."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        return nnx.relu(y + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where shapes differ.

    The convolutions have biases, as in Keras's weights and unlike torchvision's. Where batch norm
    follows, a bias adds nothing to what can be learned.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        strides: Literal["v1", "v1.5"],
        layers: Layers,
    ) -> None:
        channels = EXPANSION * width
        first, middle = (stride, 1) if strides == "v1" else (1, stride)
        self.conv1 = layers.pointwise(in_channels, width, first, use_bias=True)
        self.norm1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3, middle, use_bias=True)
        self.norm2 = layers.norm(width)
        self.conv3 = layers.pointwise(width, channels, use_bias=True)
        self.norm3 = layers.norm(channels)
        self.is_projected = stride != 1 or in_channels != channels
        if self.is_projected:
            self.projection = layers.pointwise(in_channels, channels, stride, use_bias=True)
            self.projection_norm = layers.norm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to 4 x width channels, strided."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        return nnx.relu(y + shortcut)


class ResNet(ConvNet):
    """A stem, four stages of blocks, and one linear layer on the mean over the picture."""

    parts: ClassVar = {"stem": 0, "stem_norm": 0, "stages": 1, "head": HEAD}
    feature_stage: ClassVar = 3

    def __init__(
        self,
        depths: Depths,
        *,
        strides: Literal["v1", "v1.5"],
        outputs: int,
        dropout: float,
        layers: Layers,
    ) -> None:
        self.stem = layers.conv(3, STAGE_WIDTHS[0], 7, 2, use_bias=depths.is_bottleneck)
        self.stem_norm = layers.norm(STAGE_WIDTHS[0])
        stages = []
        widths = [STAGE_WIDTHS[0]]  # channels before the stages, and after each of them
        for index, (depth, width) in enumerate(zip(depths.blocks, STAGE_WIDTHS, strict=True)):
            blocks: list[BasicBlock | Bottleneck] = []
            channels = EXPANSION * width if depths.is_bottleneck else width
            for block in range(depth):
                in_channels = channels if block > 0 else widths[-1]
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(
                    Bottleneck(in_channels, width, stride, strides, layers)
                    if depths.is_bottleneck
                    else BasicBlock(in_channels, width, stride, layers)
                )
            widths.append(channels)
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.features = widths[self.feature_stage]
        self.dropout = Dropout(dropout)
        self.head = layers.last(widths[-1], outputs)

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give maps and features, as :class:`~fracjax.models.layers.ConvNet` says."""
        x = stem_pool(nnx.relu(self.stem_norm(self.stem(x))))
        means = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            means.append(mean_over_picture(x))
        return x, means[self.feature_stage - 1]
