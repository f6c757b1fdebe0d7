"""Our side of ``benchmarks/training.py``, which runs it with its settings as JSON."""

import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fracjax import data, labels, parallel, step
from fracjax.configs import Augment, Config, Loss, Model, Optimizer, Preprocess
from fracjax.errors import FracjaxError
from fracjax.models import Network

UNCHANGED = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)


def configure(settings: dict[str, Any]) -> Config:
    """Make the run that is measured."""
    return Config(
        "benchmark",
        preprocess=Preprocess(image_size=settings["size"]),
        model=Model("resnet50", strides="v1.5", norm_epsilon=1e-5),
        optimizer=Optimizer(
            algorithm=settings["algorithm"],
            batch_size=settings["batch"],
            precision=settings["precision"],
        ),
    )


class Trainer:
    """A network in training on the device, whose steps are timed."""

    def __init__(self, config: Config) -> None:
        self.devices = parallel.create("jit")
        self._config = config
        self._network = Network(config.model, dtype=config.optimizer.precision)
        self._optimizer = step.create_optimizer(config.optimizer, self._network, steps=1000)
        begin = step.begin(
            self._network, self._optimizer, self._network.init(0), keeps_average=False
        )
        self._state = self.devices.replicate(begin)

    def compiled(self, augment: Augment) -> Callable[..., step.TrainState]:
        """Make a step with some augmentation."""
        config = dataclasses.replace(self._config, augment=augment)
        return self.devices.compile(
            functools.partial(step.train_step, self._network, self._optimizer, config)
        )

    def rate(
        self,
        take: Callable[..., step.TrainState],
        batches: Iterator[Any],
        resident: Any,
        *,
        skip: int,
        steps: int,
    ) -> float:
        """Give the images a second of some steps, after others that are not counted.

        Args:
            take: Of :meth:`compiled`.
            batches: On the device.
            resident: As the step takes it.
            skip: Steps that are not counted; the first one compiles.
            steps: Steps that are.
        """
        self._take(take, itertools.islice(batches, skip), resident)
        begin = time.perf_counter()
        self._take(take, itertools.islice(batches, steps), resident)
        return steps * self._config.optimizer.batch_size / (time.perf_counter() - begin)

    def _take(
        self, take: Callable[..., step.TrainState], batches: Iterator[Any], resident: Any
    ) -> None:
        for batch in batches:
            self._state = take(self._state, batch, resident)
        jax.block_until_ready(self._state)


def reading_rate(batches: Iterator[Any], settings: dict[str, Any]) -> float:
    """Give the images a second that are read, decoded and rendered, with no training beside it."""
    for _ in itertools.islice(batches, settings["ahead"]):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(batches, settings["read_steps"]):
        pass
    return float(settings["read_steps"] * settings["batch"] / (time.perf_counter() - begin))


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Give images a second, by what is done."""
    config = configure(settings)
    size, batch_size, steps = settings["size"], settings["batch"], settings["steps"]
    trainer = Trainer(config)
    positive = np.arange(batch_size) % 2
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (1, batch_size, size, size), np.uint8),
        "weights": np.stack([1 - positive, positive], axis=-1)[None, :, None].astype(np.float32),
    }
    take = trainer.compiled(Augment())
    rates = {
        name: trainer.rate(
            program,
            itertools.repeat(trainer.devices.share(batch)),
            {},
            skip=settings["warm_up"],
            steps=steps,
        )
        for name, program in (("plain", trainer.compiled(UNCHANGED)), ("augmented", take))
    }
    if settings["data_dir"] is None:
        return rates

    folder = Path(settings["data_dir"])
    images = data.load("frac_atlas", data.splits("frac_atlas", folder), folder)
    table = labels.known(images.facts, ("fracture",))
    weights = labels.weights(table, [fact.body_part for fact in images.facts], Loss())
    window = settings["ahead"] + settings["read_steps"]
    epochs = math.ceil(max(window, settings["warm_up"] + steps) * batch_size / len(images))
    order = data.shuffled(len(images), epochs=epochs, seed=0)

    def batches(samples: Any) -> Iterator[Any]:
        return data.prefetched(data.batches(samples, batch_size=batch_size))

    def shared(samples: Any) -> Iterator[Any]:
        return map(trainer.devices.share, batches(samples))

    samples = data.samples(order, images, weights, config.preprocess)
    rates["reading"] = reading_rate(batches(samples), settings)
    rates["streamed"] = trainer.rate(
        take, shared(samples), {}, skip=settings["ahead"], steps=settings["read_steps"]
    )
    resident = trainer.devices.replicate(data.resident(images, weights, config.preprocess))
    rates["resident"] = trainer.rate(
        take, shared(data.indices(order)), resident, skip=settings["warm_up"], steps=steps
    )
    return rates


def main() -> None:
    """Measure, and print."""
    try:
        rates = measure(json.loads(sys.argv[1]))
    except FracjaxError as error:
        sys.exit(str(error))
    device = jax.devices()[0]
    version = device.client.platform_version.splitlines()[-1]
    told = {
        "rates": rates,
        "device": device.device_kind,
        "software": f"jax {jax.__version__} ({version}), flax {importlib.metadata.version('flax')}",
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
