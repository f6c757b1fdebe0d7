"""How often a threshold decides rightly: statistics of weighted cases, for many draws.

Each takes labels (n,), scores (n,), of which those of ``threshold`` or more are called positive,
and weights (draws, n); see :data:`fracjax.metrics.ranking.Statistic`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fracjax.metrics.ranking import Floats, Labels, Statistic, divided


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


def majority_rate(counts: Counts) -> Floats:
    """Give the accuracy of whoever calls all cases by the commoner class, and sees no picture."""
    return divided(np.maximum(counts.positives, counts.negatives), counts.total)


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


def false_alarms_per_true_alarm(counts: Counts) -> Floats:
    """Give how many wrong alarms come with a right one, at the prevalence of the cases."""
    return divided(counts.false_positives, counts.true_positives)


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


def at_prevalence(
    rate: Callable[[Counts], Floats], prevalence: float
) -> Callable[[Counts], Floats]:
    """Make a rate that it would be where positives are a given part of all cases.

    This takes sensitivity and specificity to be the same there.

    Args:
        rate: Of counts.
        prevalence: Above 0, below 1.
    """

    def moved(counts: Counts) -> Floats:
        in_positives = divided(np.full_like(counts.total, prevalence), counts.positives)
        in_negatives = divided(np.full_like(counts.total, 1 - prevalence), counts.negatives)
        return rate(
            Counts(
                counts.true_positives * in_positives,
                counts.false_positives * in_negatives,
                counts.true_negatives * in_negatives,
                counts.false_negatives * in_positives,
            )
        )

    return moved


RATES: Mapping[str, Callable[[Counts], Floats]] = {
    "accuracy": accuracy,
    "majority_rate": majority_rate,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "false_positive_rate": false_positive_rate,
    "precision": precision,
    "f1": f1,
    "mcc": matthews,
    "kappa": kappa,
}
"""What is said of a threshold's decisions. ``sensitivity`` is the recall."""

PREDICTIVE: Mapping[str, Callable[[Counts], Floats]] = {
    "ppv": precision,
    "npv": negative_predictive_value,
    "false_alarms_per_true_alarm": false_alarms_per_true_alarm,
}
"""What depends on the prevalence, and is said of one that is stated."""


def at_threshold(rate: Callable[[Counts], Floats], threshold: float) -> Statistic:
    """Make a statistic of a rate of counts where scores of ``threshold`` or more are positive."""

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        return rate(count(labels, scores, weights, threshold))

    return statistic
