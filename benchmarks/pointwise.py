"""1x1 convolutions as matrix products against ``nnx.Conv``, in one training step of ResNet-50.

    python benchmarks/pointwise.py --size 224 --batch 16

Prints the median time of each, taken in turns, and their ratio.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import jax
import numpy as np
import typer
from flax import nnx
from jax import numpy as jnp
from jax.typing import DTypeLike

from fracjax import step
from fracjax.configs import Augment, Config, Model, Preprocess
from fracjax.models import Network, layers


class Conv(nnx.Conv):
    """The peer: Flax's own convolution, in the place of ``PointwiseConv``."""

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
            (1, 1),
            stride,
            padding="VALID",
            use_bias=use_bias,
            dtype=dtype,
            rngs=rngs,
        )


def training_step(size: int, batch: int) -> Callable[[], float]:
    """Compile a training step; the result takes one and gives the seconds that it took."""
    no_change = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)
    config = Config("benchmark", preprocess=Preprocess(image_size=size), augment=no_change)
    network = Network(Model())
    optimizer = step.create_optimizer(config.optimizer, network, steps=100)
    state = step.begin(network, optimizer, network.init(seed=0), keeps_average=False)
    positive = np.arange(batch) % 2
    data = {
        "image": np.random.default_rng(0).integers(0, 256, (1, batch, size, size), np.uint8),
        "weights": np.stack([1 - positive, positive], axis=-1)[None, :, None].astype(np.float32),
    }
    take = (
        jax.jit(lambda state, data: step.train_step(network, optimizer, config, state, data, {}))
        .lower(state, data)
        .compile()
    )

    def timed() -> float:
        start = time.perf_counter()
        jax.block_until_ready(take(state, data))
        return time.perf_counter() - start

    return timed


def main(
    size: Annotated[int, typer.Option(help="Side of the input, pixels.")] = 224,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 16,
    rounds: Annotated[int, typer.Option(help="Measurements of each.")] = 5,
) -> None:
    """Measure both in turns."""
    steps = {"matrix product": training_step(size, batch)}
    pointwise, layers.PointwiseConv = layers.PointwiseConv, Conv  # type: ignore[assignment,misc]
    steps["nnx.Conv"] = training_step(size, batch)
    layers.PointwiseConv = pointwise  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, timed in steps.items():
            times[name].append(timed())
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        typer.echo(f"{name:<15} {median:7.3f} s a step, {batch / median:6.2f} images/s")
    ratio = medians["nnx.Conv"] / medians["matrix product"]
    typer.echo(f"ratio {ratio:.2f}, jax {jax.__version__}")


if __name__ == "__main__":
    typer.run(main)
