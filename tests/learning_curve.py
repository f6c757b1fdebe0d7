"""Print the losses of a few steps, for test_parallel.py, which runs this in processes of its own.

Arguments: ``jit`` or ``pmap``, or both, which change half-way, with a comma between; then, of two
processes, a port, which of them this is, and a folder.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from fracjax import data, parallel, step
from fracjax.checkpoint import Checkpoints
from fracjax.configs import Augment, Config, Loss, Model, Optimizer, Preprocess
from fracjax.models import Network

CONFIG = Config(
    name="curve",
    preprocess=Preprocess(image_size=32),
    model=Model("small_cnn", dropout=0.2),
    augment=Augment(noise=0.05, cutout=0.2, mixup=0.3),
    loss=Loss("focal", label_smoothing=0.1),
    optimizer=Optimizer(
        batch_size=32, accumulate=2, learning_rate=1e-3, warmup=0.1, average=0.9, layer_decay=0.8
    ),
)
STEPS = 6


def samples():
    """Pictures, every second of which has a bright patch and is positive."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 128, (STEPS * 32, 32, 32)).astype(np.uint8)
    images[::2, 8:24, 8:24] = 240
    weights = np.float32([[[0, 1]], [[1, 0]]] * (len(images) // 2))
    order = data.shuffled(len(images), epochs=1, seed=0)
    return order.map(lambda index: {"image": images[index], "weights": weights[index]})


def begin(kind, config=CONFIG):
    """Make what takes the steps, and the state before them."""
    devices = parallel.create(kind)
    network = Network(config.model, axis_name=devices.axis_name)
    optimizer = step.create_optimizer(config.optimizer, network, STEPS)
    state = step.begin(network, optimizer, network.init(0), keeps_average=True)
    run = functools.partial(
        step.train_step, network, optimizer, config, axis_name=devices.axis_name
    )
    return devices, devices.compile(run), state


def go_on(devices, take, state, batches):
    """Take steps; the state after them, and the loss of each."""
    state, losses = devices.replicate(state), []
    for batch in batches:
        state = take(state, devices.share(batch), {})
        totals = devices.fetch(state.totals)
        losses.append(float(totals.loss))
        state = state._replace(totals=devices.replicate(step.no_totals()))
    return state, losses


def main(kinds, port=None, process=0, folder=None):
    """Take all steps; or half, save, load into the other way to run them, and take the rest."""
    if port is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    batches = data.batches(
        samples(),
        batch_size=CONFIG.optimizer.batch_size,
        parts=CONFIG.optimizer.accumulate,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    batches = [batches[i] for i in range(STEPS)]
    kind, _, other_kind = kinds.partition(",")
    devices, take, state = begin(kind)
    half, losses = go_on(devices, take, state, batches[: STEPS // 2])
    if not other_kind:
        _, rest = go_on(devices, take, half, batches[STEPS // 2 :])
        say(losses + rest)
        return
    with Checkpoints(Path(folder or tempfile.mkdtemp())) as checkpoints:
        checkpoints.save(STEPS // 2, devices.collect(half))
        other, take_other, fresh = begin(other_kind)
        like = other.collect(other.replicate(fresh))
        loaded = jax.device_get(checkpoints.load(STEPS // 2, like))
    _, rest = go_on(other, take_other, loaded, batches[STEPS // 2 :])
    _, same = go_on(devices, take, loaded, batches[STEPS // 2 :])
    say(losses + same, losses + rest)


def say(*curves):
    """Print the number of devices and the curves, for the test to read."""
    sys.stdout.write(json.dumps([jax.device_count(), *curves]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
