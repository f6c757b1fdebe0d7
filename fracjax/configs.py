"""Typed configuration, and the named recipes that are made of it.

A recipe's docstring gives the expected result, the command and the hardware it was measured on.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fracjax.errors import UsageError

CAFFE_BGR_MEAN = (103.939, 116.779, 123.68)
"""Mean grey levels of ImageNet in BGR order, as He et al. subtracted them (arXiv:1512.03385)."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a displayed picture becomes the network's input. Stored in every bundle.

    Attributes:
        size: Side of the square input, pixels.
        channel_mean: Grey level (0..255) subtracted for each input channel of the network; a
            radiograph's one channel is given to each of them.
    """

    size: int = 288
    channel_mean: tuple[float, float, float] = CAFFE_BGR_MEAN

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096:
            raise UsageError(f"image size {self.size} is not usable; give one from 32 to 4096 pixels")


@dataclass(frozen=True, slots=True)
class Model:
    """A network.

    Attributes:
        name: Architecture.
        strides: Where a stage halves the picture: on the first 1x1 convolution (``v1``, He et
            al.) or on the 3x3 (``v1.5``, torchvision). Weights fit both; only one is right.
    """

    name: Literal["resnet14", "resnet50", "resnet101", "resnet152"] = "resnet50"
    strides: Literal["v1", "v1.5"] = "v1"
