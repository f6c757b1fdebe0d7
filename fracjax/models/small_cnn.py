"""A small network that learns from random weights, on a laptop, in minutes."""

from typing import ClassVar

import jax
from flax import nnx

from fracjax.models.layers import HEAD, ConvBlock, ConvNet, Dropout, Layers, mean_over_picture

STAGE_WIDTHS = (16, 32, 64, 128, 256)
"""Each stage halves the picture and doubles the channels, so that all stages cost about alike."""


class SmallCNN(ConvNet):
    """Five stages of two 3x3 convolutions with batch norm, and one linear layer on the mean.

    It has 1.2 million parameters, most of them in the last stage, and some 5 % of the work of a
    ResNet-50: the first of a stage's convolutions halves the picture, so that nothing is computed
    at full size. Batch norm lets it learn without weights to begin with; the second convolution
    makes a place of the last stage see 187 pixels, rather than 63, each way. Like the large
    networks it ends at a thirty-second of the picture's size.
    """

    parts: ClassVar = {"stages": 0, "head": HEAD}
    feature_stage: ClassVar = 4

    def __init__(self, *, outputs: int, dropout: float, layers: Layers) -> None:
        stages = []
        in_channels = 3
        for width in STAGE_WIDTHS:
            stages.append(
                nnx.List(
                    [
                        ConvBlock(
                            before, width, stride, use_bias=False, use_norm=True, layers=layers
                        )
                        for before, stride in ((in_channels, 2), (width, 1))
                    ]
                )
            )
            in_channels = width
        self.stages = nnx.List(stages)
        self.features = STAGE_WIDTHS[self.feature_stage - 1]
        self.dropout = Dropout(dropout)
        self.head = layers.last(in_channels, outputs)

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give maps and features, as :class:`~fracjax.models.layers.ConvNet` says."""
        means = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            means.append(mean_over_picture(x))
        return x, means[self.feature_stage - 1]
