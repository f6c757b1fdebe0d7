"""How often a threshold decides rightly: statistics of weighted cases, for many draws.

Each takes labels (n,), scores (n,), of which those of ``threshold`` or more are called positive,
and weights (draws, n); see :data:`fracjax.metrics.ranking.Statistic`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fracjax.metrics.intervals import APART, PART, Bounded
from fracjax.metrics.ranking import Floats, Labels, divided


class Counts(NamedTuple):
    """The confusion matrix of each draw, (draws,) each."""

    true_positives: Floats
    false_positives: Floats
    true_negatives: Floats
    false_negatives: Floats

    @property
    def positives(self) -> Floats:
        """Cases with a positive label."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> Floats:
        """Cases with a negative label."""
        return self.true_negatives + self.false_positives

    @property
    def total(self) -> Floats:
        """All cases."""
        return self.positives + self.negatives


def count(labels: Labels, scores: Floats, weights: Floats, threshold: float) -> Counts:
    """Count the cases that are called positive and negative, rightly and wrongly."""
    called, is_positive = scores >= threshold, labels == 1
    cells = (
        called & is_positive,
        called & ~is_positive,
        ~called & ~is_positive,
        ~called & is_positive,
    )
    return Counts(*(weights @ cell.astype(np.float64) for cell in cells))


def accuracy(counts: Counts) -> Floats:
    """Give the part of cases that are called rightly."""
    return divided(counts.true_positives + counts.true_negatives, counts.total)


def prevalence(counts: Counts) -> Floats:
    """Give the part of cases that are positive."""
    return divided(counts.positives, counts.total)


def majority_rate(prevalence: float) -> float:
    """Give the accuracy of whoever calls all cases by the commoner class, and sees no picture."""
    return max(prevalence, 1 - prevalence)


def balanced_accuracy(counts: Counts) -> Floats:
    """Give the mean of sensitivity and specificity."""
    return (sensitivity(counts) + specificity(counts)) / 2


def sensitivity(counts: Counts) -> Floats:
    """Give the part of positives that are called positive: the recall."""
    return divided(counts.true_positives, counts.positives)


def specificity(counts: Counts) -> Floats:
    """Give the part of negatives that are called negative."""
    return divided(counts.true_negatives, counts.negatives)


def false_positive_rate(counts: Counts) -> Floats:
    """Give the part of negatives that are called positive."""
    return divided(counts.false_positives, counts.negatives)


def precision(counts: Counts) -> Floats:
    """Give the part of alarms that are right: the PPV at the prevalence of the cases."""
    return divided(counts.true_positives, counts.true_positives + counts.false_positives)


def negative_predictive_value(counts: Counts) -> Floats:
    """Give the part of silences that are right, at the prevalence of the cases."""
    return divided(counts.true_negatives, counts.true_negatives + counts.false_negatives)


def false_alarms_per_true_alarm(ppv: float) -> float:
    """Give how many wrong alarms come with a right one; infinitely many if none is right."""
    return (1 - ppv) / ppv if ppv > 0 else math.inf


def f1(counts: Counts) -> Floats:
    """Give the harmonic mean of precision and sensitivity."""
    wrong = counts.false_positives + counts.false_negatives
    defined = np.where(counts.positives > 0, 2 * counts.true_positives + wrong, 0)
    return divided(2 * counts.true_positives, defined)


def matthews(counts: Counts) -> Floats:
    """Give Matthews' correlation coefficient; 0 where all calls are alike, as scikit-learn does."""
    called = counts.true_positives + counts.false_positives
    silent = counts.true_negatives + counts.false_negatives
    covariance = (
        counts.true_positives * counts.true_negatives
        - counts.false_positives * counts.false_negatives
    )
    spread = np.sqrt(called * silent * counts.positives * counts.negatives)
    both = counts.positives * counts.negatives > 0
    return np.where(both, divided(covariance, spread, otherwise=0), np.nan)


def kappa(counts: Counts) -> Floats:
    """Give Cohen's kappa of calls and labels (Cohen 1960)."""
    called = counts.true_positives + counts.false_positives
    silent = counts.total - called
    chance = divided(called * counts.positives + silent * counts.negatives, np.square(counts.total))
    both = np.where(counts.positives * counts.negatives > 0, 1 - chance, 0)
    return divided(accuracy(counts) - chance, both)


class Rate(NamedTuple):
    """A rate of a threshold's decisions.

    Attributes:
        of: What it is, of counts.
        divides_by: The cases that it is a part of, ``either`` those with a positive label or call;
            empty of one that needs both labels.
        bounds: What it can be.
        times: What its own odds are of those of that part of the cases.
        odds: By which power of the odds of a positive its own odds grow, 1 or -1; 0 for none.
        prevalence: That it is said of; ``None`` for that of the cases.
        then: What is told of it instead of itself, as ``Bounded.then`` says.
    """

    of: Callable[[Counts], Floats]
    divides_by: Literal["", "all", "positives", "negatives", "called", "silent", "either"] = ""
    bounds: tuple[float, float] = PART
    times: float = 1.0
    odds: int = 0
    prevalence: float | None = None
    then: Callable[[float], float] | None = None


RATES: Mapping[str, Rate] = {
    "accuracy": Rate(accuracy, "all"),
    "majority_rate": Rate(prevalence, "all", then=majority_rate),
    "balanced_accuracy": Rate(balanced_accuracy),
    "sensitivity": Rate(sensitivity, "positives"),
    "specificity": Rate(specificity, "negatives"),
    "false_positive_rate": Rate(false_positive_rate, "negatives"),
    "precision": Rate(precision, "called"),
    # Of cases that are positive or called so, a part p are both; its odds are 2 p / (1 - p).
    "f1": Rate(f1, "either", times=2),
    "mcc": Rate(matthews, bounds=APART),
    "kappa": Rate(kappa, bounds=APART),
}
"""What is said of a threshold's decisions. ``sensitivity`` is the recall."""

PREDICTIVE: Mapping[str, Rate] = {
    "ppv": Rate(precision, "called", odds=1),
    "npv": Rate(negative_predictive_value, "silent", odds=-1),
    "false_alarms_per_true_alarm": Rate(
        precision, "called", odds=1, then=false_alarms_per_true_alarm
    ),
}
"""What depends on the prevalence, and is said of one that is stated."""

_LACKS = {
    "called": "nothing was called positive",
    "silent": "everything was called positive",
}


def at_prevalence(rate: Rate, prevalence: float) -> Rate:
    """Make a rate that it would be where positives are a given part of all cases.

    This takes sensitivity and specificity to be the same there.

    Args:
        rate: The rate.
        prevalence: Above 0, below 1.
    """

    def moved(counts: Counts) -> Floats:
        in_positives = divided(np.full_like(counts.total, prevalence), counts.positives)
        in_negatives = divided(np.full_like(counts.total, 1 - prevalence), counts.negatives)
        return rate.of(
            Counts(
                counts.true_positives * in_positives,
                counts.false_positives * in_negatives,
                counts.true_negatives * in_negatives,
                counts.false_negatives * in_positives,
            )
        )

    return rate._replace(of=moved, prevalence=prevalence)


def at_threshold(rate: Rate, threshold: float) -> Bounded:
    """Make a statistic of a rate where scores of ``threshold`` or more are called positive."""

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        return rate.of(count(labels, scores, weights, threshold))

    def divides_by(labels: Labels, scores: Floats) -> NDArray[np.bool_]:
        chosen: Mapping[str, NDArray[np.bool_]] = {
            "all": np.ones(len(labels), bool),
            "positives": labels == 1,
            "negatives": labels == 0,
            "called": scores >= threshold,
            "silent": scores < threshold,
            "either": (labels == 1) | (scores >= threshold),
        }
        return chosen[rate.divides_by]

    def odds_moved(labels: Labels) -> float:
        if rate.prevalence is None:
            return rate.times
        there, here = (part / (1 - part) for part in (rate.prevalence, labels.mean()))
        return rate.times * float((there / here) ** rate.odds)

    lack = _LACKS.get(rate.divides_by, "nothing is left to divide by")
    return Bounded(
        statistic,
        rate.bounds,
        divides_by if rate.divides_by else None,
        lack,
        odds_moved,
        rate.then,
        endless="no alarm was right",
    )
