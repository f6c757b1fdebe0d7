"""What follows the last step of training: the gate, the figures, and the bundle."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fracjax import bundle, data, evaluate, gate, gate_fitting, parallel, tuning
from fracjax.augment import augment
from fracjax.card import render_card
from fracjax.configs import Config
from fracjax.dataset_facts import FACTS
from fracjax.engine import DEFAULT_BATCH_SIZE, Scorer, Scores
from fracjax.errors import DataError
from fracjax.forward import Forward
from fracjax.forward.xla import XlaForward, network_of
from fracjax.image.anatomy import scope_of
from fracjax.initial import Initial
from fracjax.notice import NOTICE

PREDICTIONS_NAME = "valid_predictions.csv"
"""In a working directory: likelihood and distance of each validation image."""

Stage = Callable[[str, int, int], None]
"""Is told what is being done, for how many images it is done, and of how many."""


def write_bundle(
    config: Config,
    variables: bundle.Arrays,
    workdir: Path,
    *,
    begin: Initial,
    learned: data.Radiographs,
    tuned_on: data.Radiographs,
    valid: data.Radiographs,
    note: str,
    averaged: tuple[bundle.Ingredient, ...] = (),
    stage: Stage = lambda *_: None,
) -> bundle.Manifest:
    """Store what a run has learned, with its gate, and its figures on images that chose nothing.

    Of several processes, all measure, so that none waits for another, and one writes.

    Args:
        config: The run.
        variables: What it has learned.
        workdir: Where the bundle and the predictions go.
        begin: What it began with.
        learned: The images it has learned from.
        tuned_on: Others, of other groups, which decide calibration and operating points; none, and
            the bundle has neither.
        valid: Others again, of other groups.
        note: What a reader of the card should know of the images.
        averaged: The models whose mean ``variables`` are.
        stage: Called now and then.

    Returns:
        The manifest of ``workdir/bundle``.
    """
    weights = bundle.encode_weights(variables)
    digest = hashlib.sha256(weights).hexdigest()
    unmeasured = bundle.Manifest(
        format=bundle.FORMAT,
        version=bundle.VERSION,
        model_id=f"{config.name}-{digest[:12]}",
        target=learned.facts[0].target,
        scope=(),
        model=config.model,
        preprocess=config.preprocess,
        weights_sha256=digest,
        gate=gate.UNFITTED,
        training=config,
        provenance=bundle.Provenance(
            dataset=f"{learned.name}/{learned.version}",
            learned=tuple(dict.fromkeys((*begin.learned, *learned.splits))),
            train_images=len(learned),
            train_positives=sum(fact.label for fact in learned.facts),
            train_groups=len({fact.group for fact in learned.facts}),
            initial_weights=begin.sha256,
            licences=tuple(dict.fromkeys((FACTS[config.data.name].licence, *begin.licences))),
            note=note,
            averaged=averaged,
        ),
        figures={},
        software={name: importlib.metadata.version(name) for name in ("fracjax", "jax", "flax")},
        created=datetime.now(UTC).date().isoformat(),
    )
    scorer = _fit_gate(unmeasured, weights, learned, stage)
    gate_facts, scores = measured_gate(scorer, valid, stage)
    manifest = dataclasses.replace(
        scorer.manifest,
        gate=gate_facts,
        figures=evaluate.figures(valid.facts, scores, config.data.labels),
        measured_on=valid.sha256,
        **tune(scorer, tuned_on, stage),
    )
    if parallel.is_first():
        _write_predictions(workdir / PREDICTIONS_NAME, manifest, valid.facts, scores)
        encoded = bundle.encode_gate(scorer.bundle.gate)
        bundle.write(workdir / "bundle", manifest, weights, encoded, render_card(manifest))
    return manifest


def fit_gate(
    source: Path,
    directory: Path,
    *,
    data_dir: Path,
    outside: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
    stage: Stage = lambda *_: None,
) -> bundle.Manifest:
    """Fit the gate of a bundle anew, as training does at its end, and write a bundle of it.

    This takes three passes over the training images and three over the validation images.

    Args:
        source: A bundle, which may be of the version that had no gate. It is left as it is.
        directory: The new bundle: the same weights and figures, with a new gate.
        data_dir: Where :func:`fracjax.data.prepare` put the data set of the bundle.
        outside: By name, network inputs (n, size, size) that are none of the model's business;
            how many of them are let through becomes part of the manifest.
        stage: Called now and then.

    Returns:
        The manifest of the new bundle.

    Raises:
        BundleError: ``source`` is missing, damaged or of an unknown version; or ``directory``
            exists.
        UsageError: ``source`` multiplies 8-bit integers.
        DataError: The data set is missing, or is not the one that the bundle was trained on.
    """
    bundle.check_free(directory)
    ungated, weights = bundle.read_without_gate(source)
    splits = ungated.training.data
    train_images, _ = training_images(ungated, data_dir)
    valid_images = data.load(splits.name, splits.valid, data_dir)
    scorer = _fit_gate(ungated, weights, train_images, stage)
    facts, _ = measured_gate(scorer, valid_images, stage, outside)
    manifest = dataclasses.replace(scorer.manifest, gate=facts)
    encoded = bundle.encode_gate(scorer.bundle.gate)
    bundle.write(directory, manifest, weights, encoded, render_card(manifest))
    return manifest


def measure(
    source: Path, directory: Path, *, data_dir: Path, stage: Stage = lambda *_: None
) -> bundle.Manifest:
    """Measure the figures of a bundle anew, as this release does, and write a bundle of it.

    Args:
        source: A bundle. It is left as it is.
        directory: The new bundle: the same weights and gate, with new figures.
        data_dir: Where :func:`fracjax.data.prepare` put the data set of the bundle.
        stage: Called now and then.

    Returns:
        The manifest of the new bundle.

    Raises:
        BundleError: ``source`` is missing, damaged or of an unknown version; or ``directory``
            exists.
        UsageError: ``source`` multiplies 8-bit integers.
        DataError: The data set is missing.
    """
    bundle.check_free(directory)
    loaded = bundle.load(source)
    bundle.check_float(loaded.manifest)
    config = loaded.manifest.training
    images = data.load(config.data.name, config.data.valid, data_dir)
    scores = evaluate.predict(Scorer(loaded), images, report=_told(stage, "measuring", images))
    manifest = dataclasses.replace(
        loaded.manifest,
        version=bundle.VERSION,
        figures=evaluate.figures(images.facts, scores, config.data.labels),
        measured_on=images.sha256,
    )
    weights = bundle.encode_weights(loaded.variables)
    bundle.write(
        directory, manifest, weights, bundle.encode_gate(loaded.gate), render_card(manifest)
    )
    return manifest


def training_images(
    manifest: bundle.Manifest, data_dir: Path
) -> tuple[data.Radiographs, data.Radiographs]:
    """Give the images that a model learned from, and those that were set apart to choose.

    Raises:
        DataError: The data set is missing, or is not the one that the model was trained on.
    """
    splits, count = manifest.training.data, manifest.provenance.train_images
    given = data.load(splits.name, splits.train, data_dir)
    learned, selecting = data.hold_out(given, splits.select, manifest.training.seed)
    if len(learned) != count:
        raise DataError(
            f"{data_dir} holds {len(learned)} training images, and {manifest.model_id} was "
            f"trained on {count}; give the data set that it came from"
        )
    return learned, selecting


def validation_images(manifest: bundle.Manifest, data_dir: Path) -> data.Radiographs:
    """Give the images that a model's figures are of.

    Raises:
        DataError: The data set is missing, or holds others.
    """
    splits = manifest.training.data
    images = data.load(splits.name, splits.valid, data_dir)
    if images.sha256 != manifest.measured_on:
        raise DataError(
            f"the validation images of {data_dir} are not those that {manifest.model_id} was "
            "measured on; give the data set that it came from"
        )
    return images


def _fit_gate(
    ungated: bundle.Manifest, weights: bytes, train_images: data.Radiographs, stage: Stage
) -> Scorer:
    """Fit a gate to a model in float32; gives the model with it."""
    variables = bundle.decode_weights(weights)
    network = network_of(ungated)
    forward = XlaForward(network, ungated.preprocess, variables, DEFAULT_BATCH_SIZE)
    arrays, facts, scope = fitted_gate(ungated, forward, train_images, stage)
    manifest = dataclasses.replace(ungated, scope=scope, gate=facts)
    return Scorer(bundle.Bundle(manifest, variables, arrays))


def fitted_gate(
    manifest: bundle.Manifest, forward: Forward, train_images: data.Radiographs, stage: Stage
) -> tuple[gate.Gate, gate.Facts, tuple[str, ...]]:
    """Fit a gate to the training images.

    Each training image counts twice: as it is, and beside white borders and with the random changes
    of training, since exports hold such pictures too. A third pass shows negatives.

    Args:
        manifest: Of the model, but for gate and scope.
        forward: Its network.
        train_images: What it has learned from.
        stage: Called now and then.

    Returns:
        The gate; what there is to say of it, but for how it was measured; and the model's scope.

    Raises:
        DataError: No gate can be fitted to so few images.
    """
    preprocess, batch_size = manifest.preprocess, DEFAULT_BATCH_SIZE

    def inputs(number: int, change: data.Change = data.unchanged) -> Iterator[NDArray[np.float32]]:
        report = _told(stage, f"fitting the gate, pass {number} of 3", train_images)
        return data.inputs(
            train_images, preprocess, batch_size=batch_size, change=change, report=report
        )

    as_they_are = [forward(batch)[1] for batch in inputs(1)]
    changes = dataclasses.replace(manifest.training.augment, cutout=0.0)  # no radiograph has holes
    augmented = jax.jit(functools.partial(augment, config=changes))
    key = jax.random.key(manifest.training.seed)

    def keys_of(batch: int, count: int) -> jax.Array:
        return jax.random.split(jax.random.fold_in(key, batch), count)

    changed = [
        forward(np.asarray(augmented(jnp.asarray(batch), keys_of(index, len(batch)))))[1]
        for index, batch in enumerate(inputs(2, gate_fitting.with_border))
    ]
    negatives = [forward(batch)[1] for batch in inputs(3, gate_fitting.inverted_with_border)]
    rows = np.concatenate([*as_they_are, *changed])
    groups = [fact.group for fact in train_images.facts]
    try:
        fitted = gate_fitting.fit(rows, np.concatenate(negatives))
        held_out = gate_fitting.held_out_distances(rows, [*groups, *groups])
    except ValueError as error:
        raise DataError(f"no gate can be fitted ({error}); train on more images") from None
    facts = gate.Facts(
        method=gate_fitting.METHOD,
        stage=network_of(manifest).feature_stage,
        quantile=gate_fitting.QUANTILE,
        threshold=float(np.quantile(held_out, gate_fitting.QUANTILE)),
        images=len(rows),
        sha256=hashlib.sha256(bundle.encode_gate(fitted)).hexdigest(),
        false_reject={},
        false_accept={},
    )
    shown = (fact.body_part for fact in train_images.facts)
    return fitted, facts, tuple(sorted(scope_of(manifest.training.data.name, shown)))


def measured_gate(
    scorer: Scorer,
    valid_images: data.Radiographs,
    stage: Stage,
    outside: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> tuple[gate.Facts, Scores]:
    """Measure a gate on images that it was not fitted to.

    Args:
        scorer: The model with its gate.
        valid_images: What it should let through as they are, and turn away as negatives.
        stage: Called now and then.
        outside: As :func:`fit_gate` takes them.

    Returns:
        What there is to say of the gate, now with these rates; and the validation images' scores.
    """
    scores, bordered_scores, inverted_scores = (
        evaluate.predict(
            scorer,
            valid_images,
            change,
            _told(stage, f"measuring, pass {number} of 3", valid_images),
        )
        for number, change in enumerate(
            (data.unchanged, gate_fitting.with_border, gate_fitting.inverted), start=1
        )
    )
    facts = dataclasses.replace(
        scorer.manifest.gate,
        false_reject={
            "validation": gate.rate(~scores.familiar),
            "validation, with white borders": gate.rate(~bordered_scores.familiar),
        },
        false_accept={
            "validation, inverted": gate.rate(inverted_scores.familiar),
            **{name: gate.rate(scorer.score(inputs).familiar) for name, inputs in outside.items()},
        },
    )
    return facts, scores


def tune(scorer: Scorer, images: data.Radiographs, stage: Stage) -> dict[str, Any]:
    """Let images decide what a manifest says of calibration and operating points."""
    if not len(images):
        return {}
    told = _told(stage, "tuning", images)
    scores = evaluate.predict(scorer, images, report=told)
    cases = evaluate.of_images(images.facts, scores.likelihoods)
    studies = evaluate.of_studies(cases, [fact.study_id for fact in images.facts]).sample
    return {
        "calibration": tuning.calibration(studies, images.sha256),
        "operating_points": tuning.operating_points(studies),
    }


def _told(stage: Stage, what: str, images: data.Radiographs) -> Callable[[int], None]:
    return lambda done: stage(what, done, len(images))


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
                *(f"likelihood_{label}" for label in manifest.training.data.labels),
                *("target", "model_id", "notice"),
            ]
        )
        columns = (scores.likelihoods, scores.distances, scores.familiar, scores.others)
        for fact, likelihood, distance, familiar, others in zip(facts, *columns, strict=True):
            rows.writerow(
                [
                    *(fact.source, fact.study_id, fact.group, fact.label),
                    *(likelihood, distance, familiar, *others),
                    *(manifest.target, manifest.model_id, NOTICE),
                ]
            )
