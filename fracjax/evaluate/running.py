"""From a bundle and labelled cases to an evaluation."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from fracjax import audit, data
from fracjax.calibration import Calibration, as_shown, check_prevalence
from fracjax.configs import Target
from fracjax.engine import Scorer
from fracjax.errors import DataError, UsageError
from fracjax.evaluate import site
from fracjax.evaluate.cases import Aggregation, Cases, of_images, of_studies
from fracjax.evaluate.comparing import compare
from fracjax.evaluate.evaluation import OF_A_WORKLIST, Evaluation, Threshold
from fracjax.evaluate.examples import Shown, choose
from fracjax.evaluate.locating import locate
from fracjax.evaluate.measuring import HALF, measure_all
from fracjax.evaluate.predicting import predict
from fracjax.evaluate.stress import stress
from fracjax.forward import Engine
from fracjax.metrics import reliability
from fracjax.operating import RULES, SPREADS, OperatingPoint

Stage = Callable[[str, int, int], None]
"""Is told what is being done, for how many images it is done, and of how many."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How cases are measured.

    Attributes:
        aggregation: How images become studies. Operating points and calibration are of ``mean``;
            with another there are neither.
        prevalence: What predictive values are said of; that of the cases by default.
        across_targets: Whether cases may be labelled with something else than what the model was
            trained for.
        stress: Whether images are also scored as changed in what should not matter; each of nine
            changes takes as long as scoring.
        command: What was run, for whoever wants to do it again.
    """

    aggregation: Aggregation = "mean"
    prevalence: float | None = None
    across_targets: bool = False
    stress: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        check_prevalence(self.prevalence)


@dataclass(frozen=True, eq=False)
class Evaluated:
    """An evaluation, and the cases that it is of.

    Attributes:
        evaluation: The figures.
        studies: The studies, with raw likelihoods.
        shown: Images for a person to look at; none of a worklist.
        shown_at: By which operating point these are told to be right or wrong.
    """

    evaluation: Evaluation
    studies: Cases
    shown: tuple[Shown, ...] = ()
    shown_at: str = ""


def evaluate_images(
    scorer: Scorer,
    images: data.Radiographs,
    settings: Settings = Settings(),
    *,
    against: Scorer | None = None,
    stage: Stage = lambda *_: None,
) -> Evaluated:
    """Measure a model on labelled images that it has not learned from.

    Args:
        scorer: The model.
        images: Labelled images.
        settings: How they are measured.
        against: Another model, for the same target, to compare with.
        stage: Called now and then.

    Raises:
        UsageError: A model has learned from these images, or is of another target.
        DataError: The studies are of one class.
    """
    facts = images.facts
    target = facts[0].target
    scored = []
    for model in (scorer, *([] if against is None else [against])):
        _check(model, images, target, settings)
        told = functools.partial(_told, stage, model.manifest.model_id, len(images))
        scored.append(predict(model, images, report=told))
    names = [fact.study_id for fact in facts]
    cases = of_images(facts, scored[0].likelihoods)
    studies = of_studies(cases, names, settings.aggregation)
    manifest = scorer.manifest
    remarks = [
        f"{len(images)} images make {len(studies.sample)} studies"
        + (
            ": each is its own, so nothing is said of studies of several"
            if len(images) == len(studies.sample)
            else ""
        ),
        f"likelihoods were computed by {scorer.engine}",
    ]
    unfamiliar = int((~scored[0].familiar).sum())
    if unfamiliar:
        remarks.append(
            f"{unfamiliar} images would get no likelihood in a worklist, as unlike those that "
            "the model learned from; they are among the figures"
        )
    if target != manifest.target:
        remarks.append(
            f"the labels are of {target}, and the model was trained for {manifest.target}: the "
            "figures say how far one stands for the other"
        )
    thresholds, calibration = _frozen(
        manifest.operating_points, manifest.calibration, settings, remarks
    )
    comparison = None
    if against is not None:
        others = of_studies(of_images(facts, scored[1].likelihoods), names, settings.aggregation)
        other = against.manifest
        theirs, _ = _frozen(other.operating_points, other.calibration, settings, [])
        shared = {
            name: (point.threshold, theirs[name].threshold)
            for name, point in thresholds.items()
            if name in theirs
        }
        comparison = compare(studies, others.sample.scores, shared, other.model_id)
    if len(images) != len(studies.sample):
        remarks.append(
            "operating points and calibration are of studies; figures of images apply them to "
            "single images"
        )
    shown_at = "youden" if "youden" in thresholds else HALF
    threshold = thresholds.get(shown_at, _HALF).threshold
    stresses = stress(scorer, images, scored[0], threshold, stage) if settings.stress else []
    splits = ", ".join(images.splits)
    evaluation = _evaluation(
        studies,
        cases,
        settings,
        thresholds,
        calibration,
        None,
        model_id=manifest.model_id,
        weights_sha256=manifest.weights_sha256,
        target=manifest.target,
        data=f"{images.name}/{images.version}, {splits}",
        data_sha256=images.sha256,
        remarks=remarks,
        comparison=comparison,
        stresses=tuple(stresses),
        shortcuts=audit.predictability(images, stage),
        located=locate(
            scorer,
            images,
            report=lambda done, of: stage("comparing heat maps with boxes", done, of),
        ),
    )
    shown = choose(scorer, images, scored[0].likelihoods, threshold)
    return Evaluated(evaluation, studies, tuple(shown), f"{shown_at} ({threshold:.4f})")


def evaluate_site(
    labels: Path,
    worklist: Path,
    settings: Settings = Settings(),
    traits: Sequence[str] = (),
) -> Evaluated:
    """Measure the model of a worklist by a site's own labels.

    Args:
        labels: The labels; see :func:`fracjax.evaluate.site.read`.
        worklist: Of ``fracjax score-dir``.
        settings: How they are measured; studies are the mean of their images, as ranked.
        traits: Columns of the labels that studies are told apart by.

    Raises:
        DataError: Labels or worklist cannot be read, or do not fit.
        UsageError: Another aggregation than the mean is asked for.
    """
    if settings.aggregation != "mean":
        raise UsageError("a worklist has studies as the mean of their images; leave --aggregate")
    read = site.read(labels, worklist, traits)
    footer = read.footer
    calibration = TypeAdapter(Calibration | None).validate_python(footer["calibration"])
    points: dict[str, OperatingPoint] = TypeAdapter(dict[str, OperatingPoint]).validate_python(
        footer["operating_points"]
    )
    remarks = read.remarks
    if "engine" in footer:  # not of earlier releases
        remarks.append(f"likelihoods were computed by {Engine(**footer['engine'])}")
    thresholds, calibration = _frozen(points, calibration, settings, remarks)
    evaluation = _evaluation(
        read.studies,
        None,
        settings,
        thresholds,
        calibration,
        footer["prevalence"],
        model_id=footer["model_id"],
        weights_sha256=footer["weights_sha256"],
        target=footer["target"],
        data=OF_A_WORKLIST,
        data_sha256=read.sha256,
        remarks=remarks,
        comparison=None,
        stresses=(),
        shortcuts={},
        located=None,
    )
    return Evaluated(evaluation, read.studies)


def _told(stage: Stage, model_id: str, of: int, done: int) -> None:
    stage(f"scoring by {model_id}", done, of)


def _check(model: Scorer, images: data.Radiographs, target: Target, settings: Settings) -> None:
    manifest = model.manifest
    learned = sorted(set(manifest.provenance.learned) & set(images.splits))
    if learned:
        raise UsageError(
            f"{manifest.model_id} has learned from {', '.join(learned)}, so its figures there "
            "would be false; give a split that it has not seen"
        )
    if manifest.target != target and not settings.across_targets:
        raise UsageError(
            f"{manifest.model_id} was trained for {manifest.target}, and the labels are of "
            f"{target}; give labels of {manifest.target}, or --across-targets if that is what you "
            "want to know"
        )


def _frozen(
    points: Mapping[Any, OperatingPoint],
    calibration: Calibration | None,
    settings: Settings,
    remarks: list[str],
) -> tuple[dict[str, Threshold], Calibration | None]:
    """Give what a model carries along, if it is of this aggregation."""
    if settings.aggregation != "mean":
        remarks.append("operating points and calibration are of the mean, and were not applied")
        return {}, None
    if calibration is None:
        remarks.append("the model is not calibrated: figures of likelihoods are of raw ones")
    if points:
        return {
            name: Threshold(
                point.threshold, point.low, point.high, f"{RULES[name]} ({SPREADS[name]})"
            )
            for name, point in points.items()
        }, calibration
    remarks.append("the model carries no operating points: nothing but 0.5 was applied")
    return {HALF: _HALF}, calibration


_HALF = Threshold(0.5, None, None, "a threshold that was not chosen for this model")


def _evaluation(
    studies: Cases,
    images: Cases | None,
    settings: Settings,
    thresholds: Mapping[str, Threshold],
    calibration: Calibration | None,
    shown_for: float | None,
    *,
    remarks: Sequence[str],
    **facts: Any,
) -> Evaluation:
    count, positives = len(studies.sample), int(studies.sample.labels.sum())
    if positives in (0, count):
        raise DataError(
            f"all {count} studies are {'positive' if positives else 'negative'}, so nothing can be "
            "measured; choose studies of both kinds"
        )
    values = {name: point.threshold for name, point in thresholds.items()}
    rows = []
    for cases in (studies, *([] if images is None else [images])):
        likelihoods = as_shown(cases.sample.scores, calibration, shown_for)
        rows += measure_all(cases, values, settings.prevalence, likelihoods)
    likelihoods = as_shown(studies.sample.scores, calibration, shown_for)
    bins = reliability.equal_mass(likelihoods)
    prevalence = settings.prevalence
    return Evaluation(
        aggregation=settings.aggregation,
        prevalence=float(np.mean(studies.sample.labels)) if prevalence is None else prevalence,
        thresholds=thresholds,
        calibration=calibration,
        shown_for=shown_for,
        unavoidable_ece=reliability.unavoidable_error(bins, likelihoods),
        remarks=tuple(remarks),
        rows=tuple(rows),
        command=settings.command,
        software={
            name: importlib.metadata.version(name)
            for name in ("fracjax", "jax", "numpy", "scikit-learn")
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    )
