"""All figures of a model on some cases: each statistic, of all cases and of each subset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fracjax.evaluate.cases import Cases, Level
from fracjax.figure import Figure, Undefined
from fracjax.metrics import (
    Bounded,
    Sample,
    decisions,
    delong,
    measure,
    measure_each,
    ranking,
    reliability,
)
from fracjax.metrics.intervals import ANY
from fracjax.metrics.ranking import Floats

SMALLEST_CLASS = 10
"""Positives and negatives under which a subset gets no figures of its own."""

HALF = "0.5"
"""The threshold of a model that was given no operating points: a raw likelihood of 0.5."""

ALL = "all"
"""The subset of all cases."""

UNCERTAINTY = decisions.at_threshold(
    decisions.Rate(decisions.prevalence, "all", then=reliability.uncertainty), threshold=0.5
)
"""Of the cases alone, whatever the threshold."""

NO_SLOPE = "likelihoods part the labels cleanly, or are all alike"
"""Why there is no slope of calibration."""

RANKING: Mapping[str, Bounded] = {
    "auroc": Bounded(ranking.auroc),
    "auprc": Bounded(ranking.auprc),
    "sensitivity_at_90_specificity": Bounded(ranking.sensitivity_at_specificity(0.90)),
    "sensitivity_at_95_specificity": Bounded(ranking.sensitivity_at_specificity(0.95)),
    "specificity_at_90_sensitivity": Bounded(ranking.specificity_at_sensitivity(0.90)),
    "specificity_at_95_sensitivity": Bounded(ranking.specificity_at_sensitivity(0.95)),
}
"""What needs no threshold that was chosen before."""

WORDS: Mapping[str, str] = {
    "auroc": "AUROC",
    "auroc_delong": "AUROC (DeLong)",
    "auroc_within_body_part": "AUROC within body parts",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "kappa": "Cohen's kappa",
    "f1": "F1",
    "sensitivity": "sensitivity (recall)",
    "majority_rate": "accuracy of the majority class",
    "ppv": "PPV",
    "npv": "NPV",
    "brier": "Brier score",
    "brier_reliability": "Brier: reliability",
    "brier_resolution": "Brier: resolution",
    "brier_uncertainty": "Brier: uncertainty",
    "ece": "ECE, 10 bins of equal mass (biased upwards)",
}
"""How statistics are named to a reader, where it is not by their own name."""


def in_words(name: str) -> str:
    """Name a statistic to a reader."""
    plain = name.replace("_at_90_", " at 90 % ").replace("_at_95_", " at 95 % ").replace("_", " ")
    return WORDS.get(name, plain)


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure, and what it is of.

    Attributes:
        name: The statistic.
        level: What a case is.
        subset: Which cases: ``all``, or ``trait: value``.
        at: The operating point; empty where none was applied.
        prevalence: What was stated that the figure is of; ``None`` for that of the cases.
        figure: The figure; or why there is none.
    """

    name: str
    level: Level
    subset: str
    at: str
    prevalence: float | None
    figure: Figure | Undefined


def measure_all(
    cases: Cases,
    thresholds: Mapping[str, float],
    prevalence: float | None = None,
    likelihoods: Floats | None = None,
) -> list[Measured]:
    """Measure all cases, and each subset.

    Args:
        cases: Studies or images.
        thresholds: By the operating point's name, of raw likelihoods.
        prevalence: What predictive values are said of; by default the cases as they are drawn.
        likelihoods: (n,), as they are shown, of which the reliability is measured; the raw ones by
            default.
    """
    rows = [*_measure_subset(cases, ALL, cases.sample, thresholds, prevalence)]
    rows += _within_body_parts(cases)
    rows += _reliability(cases, cases.sample.scores if likelihoods is None else likelihoods)
    for subset, chosen in cases.subsets().items():
        rows += _measure_subset(cases, subset, cases.sample.chosen(chosen), thresholds, prevalence)
    return rows


def _measure_subset(
    cases: Cases,
    subset: str,
    sample: Sample,
    thresholds: Mapping[str, float],
    prevalence: float | None,
) -> Iterator[Measured]:
    lack = None if subset == ALL else _lack(sample)

    def rows(
        statistics: Mapping[str, Bounded], at: str = "", of: float | None = None
    ) -> Iterator[Measured]:
        figures = dict.fromkeys(statistics, lack) if lack else measure_each(statistics, sample)
        for name, figure in figures.items():
            yield Measured(name, cases.level, subset, at, of, figure)

    yield from rows(RANKING)
    yield _cross_check(cases, subset, sample, lack)
    for point, threshold in thresholds.items():
        yield from rows(_at(decisions.RATES, threshold), point)
        predictive = decisions.PREDICTIVE
        if prevalence is not None:  # else that of the cases, which draws do not take as known
            predictive = {
                name: decisions.at_prevalence(rate, prevalence) for name, rate in predictive.items()
            }
        yield from rows(_at(predictive, threshold), point, prevalence)


def _at(rates: Mapping[str, decisions.Rate], threshold: float) -> dict[str, Bounded]:
    return {name: decisions.at_threshold(rate, threshold) for name, rate in rates.items()}


def _cross_check(cases: Cases, subset: str, sample: Sample, lack: Undefined | None) -> Measured:
    figure: Figure | Undefined
    try:
        figure = lack or delong(sample)
    except ValueError as error:
        figure = sample.undefined(str(error))
    return Measured("auroc_delong", cases.level, subset, "", None, figure)


def _within_body_parts(cases: Cases) -> Iterator[Measured]:
    """Measure what is left of the area if knowing the body part counts for nothing."""
    parts = cases.traits.get("body_part")
    if parts is None or len(np.unique(parts)) < 2:
        return
    _, strata = np.unique(parts, return_inverse=True)
    figure = measure(Bounded(ranking.within(strata)), cases.sample)
    yield Measured("auroc_within_body_part", cases.level, ALL, "", None, figure)


def _reliability(cases: Cases, likelihoods: Floats) -> Iterator[Measured]:
    sample = cases.sample.with_scores(likelihoods)
    bins = reliability.equal_mass(sample.scores)
    statistics: dict[str, Bounded] = {
        "brier": Bounded(reliability.brier),
        "brier_reliability": Bounded(reliability.miscalibration(bins), then=lambda root: root**2),
        "brier_resolution": Bounded(reliability.resolution(bins)),
        "brier_uncertainty": UNCERTAINTY,
        "ece": Bounded(reliability.expected_calibration_error(bins)),
        "calibration_slope": Bounded(reliability.slope, ANY, lack=NO_SLOPE),
        "calibration_intercept": Bounded(reliability.intercept, ANY),
    }
    for name, figure in measure_each(statistics, sample).items():
        yield Measured(name, cases.level, ALL, "", None, figure)


def _lack(sample: Sample) -> Undefined | None:
    positives = int(sample.labels.sum())
    for count, name in ((positives, "positives"), (len(sample) - positives, "negatives")):
        if count < SMALLEST_CLASS:
            said = f"there are no {name}" if count == 0 else f"there are {count} {name} only"
            return sample.undefined(said)
    return None


def find(rows: list[Measured], name: str, level: Level = "study", at: str = "") -> Measured:
    """Give the row of a figure of all cases.

    Raises:
        KeyError: There is none.
    """
    for row in rows:
        if (row.name, row.level, row.subset, row.at) == (name, level, ALL, at):
            return row
    raise KeyError(name)
