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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from orbax.checkpoint import v1 as ocp

from fracjax import bundle, data, evaluate, gate, initial, parallel, step
from fracjax.augment import augment
from fracjax.card import render_card
from fracjax.configs import Config
from fracjax.engine import DEFAULT_BATCH_SIZE, Forward, Scorer, Scores
from fracjax.errors import DataError, TrainingError, UsageError
from fracjax.image.anatomy import SCOPES
from fracjax.losses import balanced_class_weights
from fracjax.models import FEATURE_STAGE, Network
from fracjax.notice import NOTICE

CHECKPOINTS_KEPT = 2
LOSSES_BETWEEN_READS = 10
"""Steps between two looks at the loss: each look waits for the device."""

CLAIM_NAME = "config.json"
"""In a working directory: which run it belongs to."""

PREDICTIONS_NAME = "valid_predictions.csv"
"""In a working directory: likelihood and distance of each validation image."""

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
    the last step; the validation splits choose nothing, so their figures are fair. At the end the
    gate is fitted, which takes three more passes over the training images.

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
    if len({fact.group for fact in train_images.facts}) < 2:
        raise DataError("the training splits hold one group only; choose more splits")
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

    # ---- The model as it will be stored, its gate, and figures on images that chose nothing.
    weights = bundle.encode_weights(jax.device_get(state.variables))
    digest = hashlib.sha256(weights).hexdigest()
    learned = (f"{config.data.name}:{split}" for split in config.data.train)
    unmeasured = bundle.Manifest(
        format=bundle.FORMAT,
        version=bundle.VERSION,
        model_id=f"{config.name}-{digest[:12]}",
        target=train_images[0].target,
        scope=(),
        model=config.model,
        preprocess=config.preprocess,
        weights_sha256=digest,
        gate=gate.UNFITTED,
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
    gated, scores = _fit_gate(unmeasured, weights, train_images, valid_images)
    figures = evaluate.figures(valid_images.facts, scores.likelihoods)
    manifest = dataclasses.replace(gated.manifest, figures=figures)
    _write_predictions(workdir / PREDICTIONS_NAME, manifest, valid_images.facts, scores)
    encoded = bundle.encode_gate(gated.gate)
    bundle.write(workdir / "bundle", manifest, weights, encoded, render_card(manifest))
    return manifest


def fit_gate(
    source: Path,
    directory: Path,
    *,
    data_dir: Path,
    outside: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> bundle.Manifest:
    """Fit the gate of a bundle anew, as training does at its end, and write a bundle of it.

    This takes three passes over the training images and three over the validation images.

    Args:
        source: A bundle, which may be of the version that had no gate. It is left as it is.
        directory: The new bundle: the same weights and figures, with a new gate.
        data_dir: Where :func:`fracjax.data.prepare` put the data set of the bundle.
        outside: By name, network inputs (n, size, size) that are none of the model's business;
            how many of them are let through becomes part of the manifest.

    Returns:
        The manifest of the new bundle.

    Raises:
        BundleError: ``source`` is missing, damaged or of an unknown version; or ``directory``
            exists.
        DataError: The data set is missing, or is not the one that the bundle was trained on.
    """
    ungated, weights = bundle.read_without_gate(source)
    splits = ungated.training.data
    train_images = data.load(splits.name, splits.train, data_dir)
    valid_images = data.load(splits.name, splits.valid, data_dir)
    if len(train_images) != ungated.provenance.train_images:
        raise DataError(
            f"{data_dir} holds {len(train_images)} training images, and {ungated.model_id} was "
            f"trained on {ungated.provenance.train_images}; give the data set that it came from"
        )
    gated, _ = _fit_gate(ungated, weights, train_images, valid_images, outside)
    encoded = bundle.encode_gate(gated.gate)
    bundle.write(directory, gated.manifest, weights, encoded, render_card(gated.manifest))
    return gated.manifest


def _fit_gate(
    ungated: bundle.Manifest,
    weights: bytes,
    train_images: data.Radiographs,
    valid_images: data.Radiographs,
    outside: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> tuple[bundle.Bundle, Scores]:
    """Fit a gate to the training images, and measure it on others.

    Each training image counts twice: as it is, and beside white borders and with the random changes
    of training, since exports hold such pictures too. A third pass shows negatives.

    Returns:
        The bundle with its gate, and the scores of the validation images.
    """
    variables = bundle.decode_weights(weights)
    preprocess, batch_size = ungated.preprocess, DEFAULT_BATCH_SIZE
    forward = Forward(Network(ungated.model), preprocess, variables, batch_size)
    inputs = functools.partial(data.inputs, train_images, preprocess, batch_size=batch_size)
    as_they_are = [forward(batch)[1] for batch in inputs()]
    augmented = jax.jit(functools.partial(augment, config=ungated.training.augment))
    key = jax.random.key(ungated.training.seed)
    changed = [
        forward(np.asarray(augmented(jnp.asarray(batch), jax.random.fold_in(key, index))))[1]
        for index, batch in enumerate(inputs(change=gate.with_border))
    ]
    negatives = [forward(batch)[1] for batch in inputs(change=gate.inverted_with_border)]
    rows = np.concatenate([*as_they_are, *changed])
    groups = [fact.group for fact in train_images.facts]
    try:
        fitted = gate.fit(rows, np.concatenate(negatives))
        held_out = gate.held_out_distances(rows, [*groups, *groups])
    except ValueError as error:
        raise DataError(f"no gate can be fitted ({error}); train on more images") from None
    facts = gate.Facts(
        method=gate.METHOD,
        stage=FEATURE_STAGE,
        quantile=gate.QUANTILE,
        threshold=float(np.quantile(held_out, gate.QUANTILE)),
        images=len(rows),
        sha256=hashlib.sha256(bundle.encode_gate(fitted)).hexdigest(),
        false_reject={},
        false_accept={},
    )
    scope = tuple(sorted(SCOPES[ungated.training.data.name]))
    gated = bundle.Bundle(dataclasses.replace(ungated, scope=scope, gate=facts), variables, fitted)

    scorer = Scorer(gated)
    scores = evaluate.predict(scorer, valid_images)
    bordered_scores = evaluate.predict(scorer, valid_images, gate.with_border)
    inverted_scores = evaluate.predict(scorer, valid_images, gate.inverted)
    measured = dataclasses.replace(
        facts,
        false_reject={
            "validation": gate.rate(~scores.familiar),
            "validation, with white borders": gate.rate(~bordered_scores.familiar),
        },
        false_accept={
            "validation, inverted": gate.rate(inverted_scores.familiar),
            **{name: gate.rate(scorer.score(inputs).familiar) for name, inputs in outside.items()},
        },
    )
    manifest = dataclasses.replace(gated.manifest, gate=measured)
    return dataclasses.replace(gated, manifest=manifest), scores


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
    scores: Scores,
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                *("source", "study_id", "group", "label", "likelihood", "distance", "familiar"),
                *("target", "model_id", "notice"),
            ]
        )
        for fact, likelihood, distance, familiar in zip(
            facts, scores.likelihoods, scores.distances, scores.familiar, strict=True
        ):
            rows.writerow(
                [
                    *(fact.source, fact.study_id, fact.group, fact.label),
                    *(likelihood, distance, familiar, manifest.target, manifest.model_id, NOTICE),
                ]
            )
