"""The training run, read from top to bottom."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from orbax.checkpoint import v1 as ocp

from fracjax import bundle, data, evaluate, initial, parallel, step
from fracjax.card import render_card
from fracjax.configs import Config
from fracjax.engine import Scorer
from fracjax.errors import DataError, TrainingError, UsageError
from fracjax.losses import balanced_class_weights
from fracjax.models import Network
from fracjax.notice import NOTICE

CHECKPOINTS_KEPT = 2
LOSSES_BETWEEN_READS = 10
"""Steps between two looks at the loss: each look waits for the device."""

CLAIM_NAME = "config.json"
"""In a working directory: which run it belongs to."""

PREDICTIONS_NAME = "valid_predictions.csv"
"""In a working directory: the likelihood of each validation image."""

LICENCES = {
    "frac_atlas": (
        "FracAtlas, Abedeen et al. 2023, CC BY 4.0, https://doi.org/10.6084/m9.figshare.22363012"
    ),
    "mura": "MURA, Stanford University School of Medicine, research use agreement",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for whoever shows it."""

    step: int
    steps: int
    epoch: float
    loss: float
    images_per_second: float


def fit(
    config: Config,
    workdir: Path,
    *,
    data_dir: Path,
    initial_weights: Path | None = None,
    note: str = "",
    report: Callable[[Progress], None] = lambda _: None,
) -> bundle.Manifest:
    """Train as ``config`` says and write the bundle ``workdir/bundle``.

    A run that was interrupted goes on from its newest checkpoint. The model is the state after
    the last step; the validation splits choose nothing, so their figures are fair.

    Args:
        config: The recipe.
        workdir: Checkpoints, predictions on the validation images, and the bundle go here.
        data_dir: Where :func:`fracjax.data.prepare` put the data set.
        initial_weights: What to begin with: a file of ImageNet weights, another bundle, or
            ``None`` for random weights.
        note: What a reader of the model card should know of the images.
        report: Called every few steps.

    Returns:
        The manifest of the bundle, with the measured figures.

    Raises:
        DataError: The data set is missing or too small, or its splits share a group.
        UsageError: ``workdir`` holds a run of another configuration or other images; or random
            weights would be frozen.
        TrainingError: The loss is no longer a number.
        WeightsError: ``initial_weights`` does not fit the network.
        BundleError: As a bundle, it is damaged or does not fit the network.
    """
    if config.optimizer.frozen_stages > 0 and initial_weights is None:
        raise UsageError(
            f"optimizer.frozen_stages={config.optimizer.frozen_stages} would freeze random "
            "weights; give --weights, or set it to 0"
        )
    network = Network(config.model, frozen_stages=config.optimizer.frozen_stages)
    begin = initial.read(initial_weights, network, config.data)
    train_images = data.load(config.data.name, config.data.train, data_dir)
    valid_images = data.load(config.data.name, config.data.valid, data_dir)
    claim = json.dumps(
        {
            "config": dataclasses.asdict(config),
            "initial_weights": begin.sha256,
            "train_images": train_images.sha256,
            "valid_images": valid_images.sha256,
        },
        indent=2,
    )
    _check_claim(workdir / CLAIM_NAME, claim)
    if (workdir / "bundle").exists():
        logger.info("%s is finished; its bundle stands", workdir)
        return bundle.load(workdir / "bundle").manifest

    # ---- Data: which images, what they mean, how often each class occurs.
    data.check_disjoint(train_images, valid_images)
    labels = np.array([fact.label for fact in train_images.facts])
    if len(set(labels)) < 2:
        raise DataError("the training splits hold one class only; choose others")
    if len({fact.label for fact in valid_images.facts}) < 2:
        raise DataError("the validation splits hold one class only; choose others")
    class_weights = balanced_class_weights(int((labels == 0).sum()), int(labels.sum()))
    epoch_steps = len(train_images) // config.optimizer.batch_size
    if epoch_steps == 0:
        raise DataError(
            f"{len(train_images)} training images do not fill a batch of "
            f"{config.optimizer.batch_size}; give a smaller optimizer.batch_size"
        )
    steps = epoch_steps * config.optimizer.epochs
    batches = data.train_batches(
        train_images,
        config.preprocess,
        batch_size=config.optimizer.batch_size,
        epochs=config.optimizer.epochs,
        seed=config.seed,
    )

    # ---- State and step, on every local device.
    mesh = parallel.data_mesh()
    parallel.check_batch_size(config.optimizer.batch_size, mesh)
    optimizer = step.create_optimizer(config.optimizer, steps)
    variables = network.init(config.seed) | begin.variables
    parameters = {name: variables[name] for name in network.trainable}
    state = step.TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(parameters))
    state = jax.device_put(state, parallel.replicated(mesh))
    take_step = jax.jit(
        functools.partial(step.train_step, network, optimizer, config, class_weights),
        in_shardings=(parallel.replicated(mesh), parallel.sharded(mesh)),
        out_shardings=parallel.replicated(mesh),
        donate_argnums=0,
    )

    # ---- The loop. Batch i is a function of the seed, so the step is the whole position.
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / CLAIM_NAME).write_text(claim, encoding="utf-8")
    with ocp.training.Checkpointer(
        (workdir / "checkpoints").absolute(),
        preservation_policy=ocp.training.preservation_policies.LatestN(CHECKPOINTS_KEPT),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
    ) as checkpoints:
        if checkpoints.latest is not None:
            state = step.TrainState(*checkpoints.load(checkpoints.latest, tuple(state)))
            logger.info("resuming at step %d of %d", int(state.step), steps)
        first = int(state.step)
        clock = time.perf_counter()
        losses = []
        for index, batch in enumerate(data.prefetched(batches[first:steps]), start=first):
            state, loss = take_step(state, jax.device_put(batch, parallel.sharded(mesh)))
            losses.append(loss)
            epoch_ends = (index + 1) % epoch_steps == 0
            if epoch_ends or len(losses) == LOSSES_BETWEEN_READS:
                mean_loss = float(np.mean(jax.device_get(losses)))
                if not math.isfinite(mean_loss):
                    raise TrainingError(
                        f"the loss is {mean_loss} at step {index + 1}; train in another --workdir "
                        "with a lower optimizer.learning_rate"
                    )
                elapsed = time.perf_counter() - clock
                rate = len(losses) * config.optimizer.batch_size / elapsed
                report(Progress(index + 1, steps, (index + 1) / epoch_steps, mean_loss, rate))
                losses = []
                if epoch_ends:
                    checkpoints.save(index + 1, tuple(state))
                clock = time.perf_counter()

    # ---- The model as it will be stored, and its figures on images that chose nothing.
    weights = bundle.encode_weights(jax.device_get(state.variables))
    digest = hashlib.sha256(weights).hexdigest()
    learned = (f"{config.data.name}:{split}" for split in config.data.train)
    unmeasured = bundle.Manifest(
        format=bundle.FORMAT,
        version=bundle.VERSION,
        model_id=f"{config.name}-{digest[:12]}",
        target=train_images[0].target,
        model=config.model,
        preprocess=config.preprocess,
        weights_sha256=digest,
        training=config,
        provenance=bundle.Provenance(
            dataset=f"{train_images.name}/{train_images.version}",
            learned=tuple(dict.fromkeys((*begin.learned, *learned))),
            train_images=len(train_images),
            train_positives=int(labels.sum()),
            train_groups=len({fact.group for fact in train_images.facts}),
            initial_weights=begin.sha256,
            licences=tuple(dict.fromkeys((LICENCES[config.data.name], *begin.licences))),
            note=note,
        ),
        figures={},
        software={name: importlib.metadata.version(name) for name in ("fracjax", "jax", "flax")},
        created=datetime.now(UTC).date().isoformat(),
    )
    stored = bundle.Bundle(unmeasured, bundle.decode_weights(weights))
    likelihoods = evaluate.predict(Scorer(stored), valid_images)
    manifest = dataclasses.replace(
        unmeasured, figures=evaluate.figures(valid_images.facts, likelihoods)
    )
    _write_predictions(workdir / PREDICTIONS_NAME, manifest, valid_images.facts, likelihoods)
    bundle.write(workdir / "bundle", manifest, weights, render_card(manifest))
    return manifest


def _check_claim(path: Path, claim: str) -> None:
    """Make sure that a working directory belongs to no other run."""
    if path.exists() and path.read_text(encoding="utf-8") != claim:
        raise UsageError(
            f"{path.parent} holds a run of another configuration or other images; give another "
            f"--workdir, or the settings in its {path.name}"
        )


def _write_predictions(
    path: Path,
    manifest: bundle.Manifest,
    facts: Sequence[data.Example],
    likelihoods: NDArray[np.float32],
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["source", "study_id", "group", "label", "likelihood", "target", "model_id", "notice"]
        )
        for fact, likelihood in zip(facts, likelihoods, strict=True):
            rows.writerow(
                [
                    *(fact.source, fact.study_id, fact.group, fact.label, likelihood),
                    *(manifest.target, manifest.model_id, NOTICE),
                ]
            )
