"""The training run, read from top to bottom."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from orbax.checkpoint import v1 as ocp

from fracjax import bundle, data, initial, metrics, parallel, step
from fracjax.card import render_card
from fracjax.configs import Config, Preprocess
from fracjax.errors import DataError, UsageError
from fracjax.figure import Figure
from fracjax.losses import balanced_class_weights
from fracjax.models import Network

CHECKPOINTS_KEPT = 2
SMALLEST_CLASS = 10
"""Positives and negatives under which a subset gets no figure of its own."""

LOSSES_BETWEEN_READS = 10
"""Steps between two looks at the loss: each look waits for the device."""

CLAIM_NAME = "config.json"
"""In a working directory: which run it belongs to."""

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
        report: Called every few steps.

    Returns:
        The manifest of the bundle, with the measured figures.

    Raises:
        DataError: The data set is missing or too small, or its splits share a group.
        UsageError: ``workdir`` holds a run of another configuration.
        WeightsError: ``initial_weights`` does not fit the network.
        BundleError: As a bundle, it is damaged or does not fit the network.
    """
    network = Network(config.model, frozen_stages=config.optimizer.frozen_stages)
    begin = initial.read(initial_weights, network, config.data)
    claim = json.dumps(
        {"config": dataclasses.asdict(config), "initial_weights": begin.sha256}, indent=2
    )
    _check_claim(workdir / CLAIM_NAME, claim)
    if (workdir / "bundle").exists():
        logger.info("%s is finished; its bundle stands", workdir)
        return bundle.load(workdir / "bundle").manifest

    # ---- Data: which images, what they mean, how often each class occurs.
    train_images = data.load(config.data.name, config.data.train, data_dir)
    valid_images = data.load(config.data.name, config.data.valid, data_dir)
    data.check_disjoint(train_images, valid_images)
    labels = np.array([example.label for example in train_images])
    if len(set(labels)) < 2:
        raise DataError("the training splits hold one class only; choose others")
    if len({example.label for example in valid_images}) < 2:
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
        for index, batch in enumerate(_prefetch(batches[first:steps]), start=first):
            state, loss = take_step(state, jax.device_put(batch, parallel.sharded(mesh)))
            losses.append(loss)
            if len(losses) == LOSSES_BETWEEN_READS or index + 1 == steps:
                mean_loss = float(np.mean(jax.device_get(losses)))
                elapsed = time.perf_counter() - clock
                rate = len(losses) * config.optimizer.batch_size / elapsed
                report(Progress(index + 1, steps, (index + 1) / epoch_steps, mean_loss, rate))
                clock, losses = time.perf_counter(), []
            if (index + 1) % epoch_steps == 0:
                checkpoints.save(index + 1, tuple(state))

    # ---- The model as it will be stored, and its figures on images that chose nothing.
    weights = bundle.encode_weights(jax.device_get(state.variables))
    stored = bundle.decode_weights(weights)
    likelihoods = predict(network, config.preprocess, stored, valid_images)
    _write_predictions(workdir / "valid_predictions.csv", valid_images, likelihoods)
    manifest = bundle.Manifest(
        format=bundle.FORMAT,
        version=bundle.VERSION,
        model_id=f"{config.name}-{hashlib.sha256(weights).hexdigest()[:12]}",
        target=train_images[0].target,
        model=config.model,
        preprocess=config.preprocess,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        training=config,
        provenance=bundle.Provenance(
            dataset=f"{train_images.name}/{train_images.version}",
            train_images=len(train_images),
            train_positives=int(labels.sum()),
            train_groups=len({example.group for example in train_images}),
            initial_weights=begin.sha256,
            licences=tuple(dict.fromkeys((LICENCES[config.data.name], *begin.licences))),
        ),
        figures=evaluate(valid_images, likelihoods),
        software={name: importlib.metadata.version(name) for name in ("fracjax", "jax", "flax")},
        created=datetime.now(UTC).date().isoformat(),
    )
    bundle.write(workdir / "bundle", manifest, weights, render_card(manifest))
    return manifest


def predict(
    network: Network,
    preprocess: Preprocess,
    variables: bundle.Arrays,
    images: data.Radiographs,
    *,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Score labelled images.

    Returns:
        float32 (n,): the likelihood of a positive label, 0..1, in the order of ``images``.
    """
    take = jax.jit(functools.partial(step.score, network, preprocess))
    logits = [
        take(variables, batch["image"])
        for batch in data.valid_batches(images, preprocess, batch_size=batch_size)
    ]
    return np.asarray(jax.nn.sigmoid(jnp.concatenate(logits)))[: len(images)]


def evaluate(images: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> dict[str, Figure]:
    """Measure the area under the ROC curve of images, of studies, and of what may mislead.

    Args:
        images: Labelled images.
        likelihoods: (n,), as :func:`predict` gives them.

    Returns:
        ``auroc_study`` over the mean likelihood of each study's images; ``auroc_image``; and of
        the images, those that are not truncated, those without metal, and those of each body part
        with enough of both classes.
    """
    labels = np.array([example.label for example in images])
    groups = np.array([example.group for example in images])
    _, first, members = np.unique(
        [example.study_id for example in images], return_index=True, return_inverse=True
    )
    mean = np.bincount(members, likelihoods) / np.bincount(members)
    figures = {
        "auroc_study": metrics.auroc(labels[first], mean, groups[first]),
        "auroc_image": metrics.auroc(labels, likelihoods, groups),
    }
    subsets = {
        "auroc_image_not_truncated": np.array([not example.truncated for example in images]),
        "auroc_image_without_metal": np.array([example.hardware == 0 for example in images]),
    }
    parts = np.array([example.body_part for example in images])
    subsets |= {f"auroc_image_{part}": parts == part for part in sorted(set(parts.tolist()))}
    for name, chosen in subsets.items():
        positives = labels[chosen].sum()
        if min(positives, chosen.sum() - positives) >= SMALLEST_CLASS:
            figures[name] = metrics.auroc(labels[chosen], likelihoods[chosen], groups[chosen])
    return figures


def _prefetch(batches: grain.MapDataset) -> Iterator[data.Batch]:
    """Decode ahead of the device, in threads: the image libraries release the interpreter."""
    threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _check_claim(path: Path, claim: str) -> None:
    """Make sure that a working directory belongs to no other run."""
    if path.exists() and path.read_text(encoding="utf-8") != claim:
        raise UsageError(
            f"{path.parent} holds a run of another configuration; give another --workdir, "
            f"or the settings in its {path.name}"
        )


def _write_predictions(
    path: Path, images: Sequence[data.Example], likelihoods: NDArray[np.float32]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "study_id", "group", "label", "likelihood"])
        for example, likelihood in zip(images, likelihoods, strict=True):
            rows.writerow(
                [example.source, example.study_id, example.group, example.label, likelihood]
            )
