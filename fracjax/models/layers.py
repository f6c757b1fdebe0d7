"""The layers that all architectures are built from, NHWC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

BATCH_NORM_MOMENTUM = 0.9

PARTS = 6
"""Parts of every network: five that lead, and the head."""

HEAD = PARTS - 1


class ConvNet(nnx.Module):
    """What all networks have in common: they map normalised pictures to logits and features.

    Attributes:
        parts: For the first word of a variable's name, the part it belongs to: 0 to 4, then
            ``HEAD``. Each entry of ``stages`` is a part of its own, from the one given here.
        feature_stage: The stage, from 1, that the features come from: the last but one. The last
            one's tell less of what kind of picture this is: what does not matter for the label,
            such as black and white exchanged, is gone from it.
        features: How many there are.
        dropout: Of the head's inputs.
        head: The last linear layer.
    """

    parts: ClassVar[Mapping[str, int]]
    feature_stage: ClassVar[int]
    features: int
    dropout: "Dropout"
    head: nnx.Linear

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Score normalised pictures; heights and widths of 32 pixels or more.

        Args:
            x: float32 (batch, height, width, 3).
            keys: (batch,), what dropout leaves out of each picture by in a training step.

        Returns:
            float32 logits (batch, outputs); and float32 features (batch, ``features``): the mean
            over the picture of what ``feature_stage`` puts out.
        """
        maps, features = self.maps(x)
        return self.logits(maps, keys), features

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give what the head judges, (batch, height / 32, width / 32, channels); and features."""
        raise NotImplementedError

    def logits(self, maps: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Judge maps by their mean over the picture: float32 logits (batch, outputs)."""
        judged: jax.Array = self.head(self.dropout(mean_over_picture(maps), keys))
        return judged

    def part_of(self, path: Sequence[Any]) -> int:
        """Give the part that a variable or a module belongs to."""
        first, *rest = path
        return self.parts[first] + (int(rest[0]) if first == "stages" else 0)


class BatchNorm(nnx.BatchNorm):
    """Batch norm in float32, whatever the format of its input, which it gives back."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Normalise (..., channels)."""
        normalised: jax.Array = super().__call__(x, *args, **kwargs)
        return normalised.astype(x.dtype)


class Dropout(nnx.Dropout):
    """Dropout by a key of each picture, so that a batch loses alike on any number of devices.

    Attributes:
        place: Which of a network's dropouts this is; each leaves out others.
    """

    def __init__(self, rate: float, place: int = 0) -> None:
        super().__init__(rate)
        self.place = place

    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:  # type: ignore[override]
        """Leave out part of (batch, n) by keys (batch,), and make the rest the larger."""
        if self.deterministic or self.rate == 0 or keys is None:
            return x

        def kept(key: jax.Array) -> jax.Array:
            key = jax.random.fold_in(key, self.place)
            return jax.random.bernoulli(key, 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(kept)(keys), x / (1 - self.rate), 0)


class PointwiseConv(nnx.Linear):
    """A 1x1 convolution, written as the matrix product over channels that it is.

    XLA's weight gradient of a 1x1 convolution is slow on CPU. As a product, a full training step of
    ResNet-50 at 224 px ran 1.7 to 1.9 times as fast on two x86 cores (``benchmarks/pointwise.py``).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        use_bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_channels,
            channels,
            use_bias=use_bias,
            dtype=dtype,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.stride = stride

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Map (batch, height, width, in_channels) to (batch, height, width, channels), strided."""
        for axis in (1, 2):
            inputs = jax.lax.slice_in_dim(inputs, 0, None, self.stride, axis)
        return super().__call__(inputs, out_sharding)


@dataclass(frozen=True, slots=True)
class Layers:
    """Makes layers with what those of one network have in common.

    Attributes:
        norm_epsilon: What batch norm adds to the variance.
        axis_name: Of the mapped axis whose members share the statistics of a training batch.
        dtype: Number format of convolutions and matrix products. Parameters are float32.
        rngs: Where random weights come from.
    """

    norm_epsilon: float
    axis_name: str | None
    dtype: DTypeLike
    rngs: nnx.Rngs

    def conv(
        self, in_channels: int, channels: int, size: int, stride: int = 1, *, use_bias: bool = False
    ) -> nnx.Conv:
        """Make a convolution of an odd size, padded alike on all sides."""
        return nnx.Conv(
            in_channels,
            channels,
            (size, size),
            strides=stride,
            # Written out: "SAME" at stride 2 would pad one side only, unlike the published weights.
            padding=size // 2,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=nnx.initializers.he_normal(),
            rngs=self.rngs,
        )

    def pointwise(
        self, in_channels: int, channels: int, stride: int = 1, *, use_bias: bool = False
    ) -> PointwiseConv:
        """Make a 1x1 convolution."""
        return PointwiseConv(
            in_channels, channels, stride, use_bias=use_bias, dtype=self.dtype, rngs=self.rngs
        )

    def norm(self, channels: int) -> BatchNorm:
        """Make a batch norm."""
        return BatchNorm(
            channels,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=self.norm_epsilon,
            axis_name=self.axis_name,
            rngs=self.rngs,
        )

    def hidden(self, inputs: int, outputs: int) -> nnx.Linear:
        """Make a layer of a head that is not its last."""
        return nnx.Linear(
            inputs,
            outputs,
            dtype=self.dtype,
            kernel_init=nnx.initializers.he_normal(),
            rngs=self.rngs,
        )

    def last(self, inputs: int, outputs: int) -> nnx.Linear:
        """Make the last layer of a head, which computes in float32 on every device."""
        return nnx.Linear(
            inputs,
            outputs,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,  # or accelerators round its inputs to fewer bits
            rngs=self.rngs,
        )


class ConvBlock(nnx.Module):
    """A 3x3 convolution, batch norm or none, and a rectifier."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        use_bias: bool,
        use_norm: bool,
        layers: Layers,
    ) -> None:
        self.conv = layers.conv(in_channels, channels, 3, stride, use_bias=use_bias)
        self.use_norm = use_norm
        if use_norm:
            self.norm = layers.norm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, in_channels) to (..., channels), strided."""
        x = self.conv(x)
        return nnx.relu(self.norm(x) if self.use_norm else x)


def mean_over_picture(x: jax.Array) -> jax.Array:
    """Average (batch, height, width, channels) to float32 (batch, channels)."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def stem_pool(x: jax.Array) -> jax.Array:
    """Halve a picture by the 3x3 maximum, as ResNet's and DenseNet's stems do."""
    pooled: jax.Array = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return pooled
