"""How far likelihoods are frequencies: statistics of weighted cases, for many draws.

Scores are likelihoods, 0..1; see :data:`fracjax.metrics.ranking.Statistic`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fracjax.calibration import log_odds
from fracjax.metrics.ranking import Floats, Labels, Statistic, divided

BINS = 10
"""Of equal mass, for the decomposition, the error and the diagram."""

NEWTON_STEPS = 30
"""After which a fit that has not settled is given up."""


def brier(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Give the mean squared distance of likelihood and label (Brier 1950)."""
    return _mean(np.square(scores - labels), weights)


@dataclass(frozen=True, slots=True)
class Bins:
    """Cases in bins of equal mass by their likelihood.

    Attributes:
        members: (n,), the bin of each case, from the lowest likelihood to the highest.
        count: How many bins there are.
    """

    members: NDArray[np.int_]
    count: int


def equal_mass(scores: Floats, bins: int = BINS) -> Bins:
    """Divide cases into bins of as equal a number as ties of their scores allow."""
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    _, members = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)
    return Bins(members, int(members.max()) + 1)


def expected_calibration_error(bins: Bins) -> Statistic:
    """Make the mean distance of likelihood and frequency over bins (Naeini et al. 2015).

    It is biased: perfect likelihoods do not give 0 of a finite sample. See
    :func:`unavoidable_error`.
    """

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        mass, likelihood, frequency = _binned(bins, labels, scores, weights)
        apart = np.abs(likelihood - frequency)
        return divided((mass * np.where(mass > 0, apart, 0)).sum(axis=1), mass.sum(axis=1))

    return statistic


def unavoidable_error(
    bins: Bins, scores: Floats, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Give the error that these cases would have were their likelihoods perfect.

    Returns:
        Its mean, and what one of forty exceeds. Cases are taken as independent.
    """
    rng = np.random.default_rng(seed)
    of_bin = np.eye(bins.count)[bins.members]
    errors = np.empty(draws)
    for draw in range(draws):  # each by itself: of many studies, all draws are gigabytes
        labels = rng.random(len(scores)) < scores
        errors[draw] = np.abs((labels - scores) @ of_bin).sum() / len(scores)
    return float(errors.mean()), float(np.quantile(errors, 0.975))


def miscalibration(bins: Bins) -> Statistic:
    """Make the root of the mean squared distance of likelihood and frequency over bins.

    Its square is the Brier score's ``reliability``, the less the better. With :func:`resolution`
    and :func:`uncertainty` it makes up the Brier score of likelihoods that are one in each bin:
    reliability - resolution + uncertainty (Murphy 1973). The root is a distance of likelihoods,
    of which a standard error says something where the square is next to nothing.
    """

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        mass, likelihood, frequency = _binned(bins, labels, scores, weights)
        return np.sqrt(_over_bins(mass, np.square(likelihood - frequency)))

    return statistic


def resolution(bins: Bins) -> Statistic:
    """Make how far the frequencies of bins are from that of all, squared; the more the better."""

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        mass, _, frequency = _binned(bins, labels, scores, weights)
        base = _mean(labels.astype(np.float64), weights)[:, np.newaxis]
        return _over_bins(mass, np.square(frequency - base))

    return statistic


def uncertainty(prevalence: float) -> float:
    """Give the part of the Brier score that is of the cases, not of the model."""
    return prevalence * (1 - prevalence)


def slope(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Give the slope of a logistic regression of the label on the log odds (Cox 1958).

    1 is right; below it, likelihoods are too near 0 and 1.
    """
    return _gradient(labels, log_odds(scores), weights)


def intercept(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Give what the log odds lack, at a slope of 1: calibration in the large.

    0 is right; above it, likelihoods are too low.
    """
    odds = log_odds(scores)
    added = np.zeros(len(weights))
    defined = _has_both(labels, weights)
    for _ in range(NEWTON_STEPS):
        fitted = 1 / (1 + np.exp(-(odds + added[:, np.newaxis])))
        gradient = (weights * (labels - fitted)).sum(axis=1)
        curvature = (weights * fitted * (1 - fitted)).sum(axis=1)
        move = np.clip(divided(gradient, curvature, otherwise=0), -2, 2)
        added += np.where(defined, move, 0)
        if np.abs(move[defined]).max(initial=0) < 1e-10:
            break
    return np.where(defined, added, np.nan)


def _gradient(labels: Labels, odds: Floats, weights: Floats) -> Floats:
    """Fit logistic regressions of labels on one variable, by Newton's method.

    Returns:
        (draws,), the coefficient of the variable; NaN if it fails.
    """
    # From nothing, steps fall short rather than too far.
    constant, gradient = np.zeros(len(weights)), np.zeros(len(weights))
    settled = np.zeros(len(weights), bool)
    for _ in range(NEWTON_STEPS):
        linear = np.clip(constant[:, np.newaxis] + gradient[:, np.newaxis] * odds, -50, 50)
        fitted = 1 / (1 + np.exp(-linear))
        missing = weights * (labels - fitted)
        curve = weights * fitted * (1 - fitted)
        g0, g1 = missing.sum(axis=1), missing @ odds
        h00, h01, h11 = curve.sum(axis=1), curve @ odds, curve @ np.square(odds)
        determinant = h00 * h11 - h01 * h01
        move0 = divided(h11 * g0 - h01 * g1, determinant, otherwise=0)
        move1 = divided(h00 * g1 - h01 * g0, determinant, otherwise=0)
        largest = np.maximum(np.abs(move0), np.abs(move1))
        constant, gradient = constant + move0, gradient + move1
        settled = (largest < 1e-8) & (determinant > 0)
        if settled.all():
            break
    settled &= _has_both(labels, weights)
    return np.where(settled, gradient, np.nan)


def _has_both(labels: Labels, weights: Floats) -> NDArray[np.bool_]:
    positives, total = weights @ (labels == 1), weights.sum(axis=1)
    return np.asarray((positives > 0) & (positives < total), np.bool_)


def _binned(
    bins: Bins, labels: Labels, scores: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Give mass, mean likelihood and frequency of positives, (draws, bins) each."""
    of_bin = np.eye(bins.count)[bins.members]
    mass = weights @ of_bin
    likelihood = divided((weights * scores) @ of_bin, mass)
    return mass, likelihood, divided((weights * labels) @ of_bin, mass)


def _over_bins(mass: Floats, values: Floats) -> Floats:
    return divided((mass * np.where(mass > 0, values, 0)).sum(axis=1), mass.sum(axis=1))


def _mean(values: Floats, weights: Floats) -> Floats:
    return divided(weights @ values, weights.sum(axis=1))
