"""What studies that tune a model decide: its calibration and its operating points."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from fracjax.calibration import Calibration, Method, log_odds
from fracjax.figure import Figure, Undefined
from fracjax.metrics import Sample, decisions, intervals, measure
from fracjax.metrics.ranking import Floats, Labels
from fracjax.operating import Name, OperatingPoint

FOLDS = 5

FEWEST_OF_A_CLASS = 20
"""Positives and negatives under which nothing is fitted."""

LEAST = 0.95
"""The sensitivity of ``high_sensitivity``, and the specificity of ``high_specificity``."""


class Fitted(NamedTuple):
    """What a method finds; see :class:`Calibration`."""

    scale: float = 1.0
    offset: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


def calibration(sample: Sample, sha256: str) -> Calibration | None:
    """Fit each method to studies, and choose the one that does best on groups held out.

    Args:
        sample: Studies, with raw likelihoods as scores.
        sha256: Digest of their images and labels.

    Returns:
        The calibration; ``None`` if fewer than ``FEWEST_OF_A_CLASS`` studies, or fewer than
        ``FOLDS`` groups, have one of the labels.
    """
    if not _is_enough(sample):
        return None
    losses = {method: _held_out_loss(method, sample) for method in _METHODS}
    best = min(losses, key=lambda method: losses[method])
    return replace(_calibrated(best, sample), sha256=sha256, log_losses=losses)


def _is_enough(sample: Sample) -> bool:
    chosen = [sample.labels == label for label in (0, 1)]
    return all(
        rows.sum() >= FEWEST_OF_A_CLASS and len(np.unique(sample.groups[rows])) >= FOLDS
        for rows in chosen
    )


def _calibrated(method: Method, sample: Sample) -> Calibration:
    return Calibration(
        method,
        *_METHODS[method](sample),
        prevalence=float(sample.labels.mean()),
        studies=len(sample),
        positives=int(sample.labels.sum()),
        groups=len(np.unique(sample.groups)),
        sha256="",
        log_losses={},
    )


def _held_out_loss(method: Method, sample: Sample) -> float:
    cut = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    likelihoods = np.empty(len(sample))
    for learned, held_out in cut.split(sample.scores, sample.labels, sample.groups):
        fitted = _calibrated(method, sample.chosen(learned))
        likelihoods[held_out] = fitted(sample.scores[held_out])
    return float(log_loss(sample.labels, likelihoods))


def _temperature(sample: Sample) -> Fitted:
    odds = log_odds(sample.scores)

    def loss(log_scale: float) -> float:
        return float(log_loss(sample.labels, special.expit(np.exp(log_scale) * odds)))

    found = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    return Fitted(scale=float(np.exp(found.x)))


def _platt(sample: Sample) -> Fitted:
    # The least penalty that keeps a sample whose classes part cleanly from infinite odds.
    model = LogisticRegression(C=1e3).fit(log_odds(sample.scores)[:, np.newaxis], sample.labels)
    # Order must stay, so a sample that speaks against the model makes all likelihoods alike.
    scale = max(float(model.coef_[0, 0]), 0.0)
    if scale == 0:
        return Fitted(0.0, float(special.logit(sample.labels.mean())))
    return Fitted(scale, float(model.intercept_[0]))


def _isotonic(sample: Sample) -> Fitted:
    # No finite sample shows that something never happens: one more case of the other kind.
    certain = 1 / (len(sample) + 2)
    model = IsotonicRegression(y_min=certain, y_max=1 - certain, out_of_bounds="clip")
    model.fit(sample.scores, sample.labels)
    knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return Fitted(knots=tuple(knots))


_METHODS: Mapping[Method, Callable[[Sample], Fitted]] = {
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}


# Operating points


def operating_points(sample: Sample) -> dict[Name, OperatingPoint]:
    """Choose thresholds by studies that tune a model.

    Of a quantile the interval is that of order statistics (David and Nagaraja, Order Statistics,
    3rd ed., 7.1), with as many cases as groups; percentiles of a bootstrap never leave the cases
    that are there, and of 20 positives cover 65 times of 100. Of Youden's point there is the
    bootstrap's spread alone, which is no interval.

    Args:
        sample: Studies, with raw likelihoods as scores.

    Returns:
        A point for each of :data:`fracjax.operating.RULES`; none at all where there is no
        calibration either.
    """
    if not _is_enough(sample):
        return {}
    points: dict[Name, OperatingPoint] = {}
    for name, rule in _CHOOSE.items():
        threshold = rule(sample.labels, sample.scores, np.ones(len(sample)))
        sensitivity, specificity = (
            _figure(rate, threshold, sample) for rate in ("sensitivity", "specificity")
        )
        if name == "youden":
            low, high = _spread(rule, sample)
        else:
            label, level = (1, 1 - LEAST) if name == "high_sensitivity" else (0, LEAST)
            low, high = quantile_interval(sample.chosen(sample.labels == label), level)
        points[name] = OperatingPoint(float(threshold), low, high, sensitivity, specificity)
    return points


def quantile_interval(sample: Sample, level: float) -> tuple[float, float]:
    """Give the 95 % interval of a quantile of scores, 0..1; open ends are 0 and 1.

    Args:
        sample: Cases of one label.
        level: Of the quantile, 0..1.
    """
    ordered = np.sort(sample.scores)
    groups = len(np.unique(sample.groups))
    ranks = np.arange(1, groups + 1)
    below = stats.binom.cdf(ranks - 1, groups, level)  # that fewer than so many lie below it
    tail = (1 - intervals.LEVEL) / 2

    def at(rank: int) -> float:
        return float(ordered[max(0, math.ceil(rank / groups * len(ordered)) - 1)])

    lower, upper = ranks[below <= tail], ranks[below >= 1 - tail]
    return at(lower[-1]) if len(lower) else 0.0, at(upper[0]) if len(upper) else 1.0


def _spread(rule: Callable[[Labels, Floats, Floats], float], sample: Sample) -> tuple[float, float]:
    drawn = [
        rule(sample.labels, sample.scores, row)
        for weights in intervals.weights_of(sample.groups, seed=0)
        for row in weights
        if 0 < row @ sample.labels < row.sum()
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _figure(rate: str, threshold: float, sample: Sample) -> Figure:
    figure = measure(decisions.at_threshold(decisions.RATES[rate], threshold), sample)
    if isinstance(figure, Undefined):
        raise AssertionError("both labels are there, so both rates are defined")
    return figure


def _curve(labels: Labels, scores: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Give false-positive rates, sensitivities and thresholds, which fall; the first calls none."""
    kept = weights > 0
    return roc_curve(  # type: ignore[no-any-return]
        labels[kept], scores[kept], sample_weight=weights[kept], drop_intermediate=False
    )


def _high_sensitivity(labels: Labels, scores: Floats, weights: Floats) -> float:
    _, sensitivity, thresholds = _curve(labels, scores, weights)
    return float(thresholds[np.argmax(sensitivity >= LEAST - 1e-9)])


def _high_specificity(labels: Labels, scores: Floats, weights: Floats) -> float:
    false_alarms, _, thresholds = _curve(labels, scores, weights)
    lowest = int(np.flatnonzero(false_alarms <= 1 - LEAST + 1e-9)[-1])
    # A threshold of no case would be infinite: then nothing is called.
    return float(min(thresholds[lowest], np.nextafter(1.0, 2.0)))


def _youden(labels: Labels, scores: Floats, weights: Floats) -> float:
    false_alarms, sensitivity, thresholds = _curve(labels, scores, weights)
    return float(min(thresholds[np.argmax(sensitivity - false_alarms)], np.nextafter(1.0, 2.0)))


_CHOOSE: Mapping[Name, Callable[[Labels, Floats, Floats], float]] = {
    "high_sensitivity": _high_sensitivity,
    "high_specificity": _high_specificity,
    "youden": _youden,
}
