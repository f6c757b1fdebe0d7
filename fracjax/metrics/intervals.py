"""Statistics with their intervals: whole groups are drawn, since a patient's images are one case.

The standard error is that of a bootstrap over groups (Field and Welsh, J. R. Stat. Soc. B 69:369,
2007), times ``sqrt(G / (G - 1))`` for G groups (Hesterberg, The American Statistician 69:371, 2015,
3.2). The interval is Student's t about the logit of a part, the logarithm of a ratio, or the figure
itself, with one degree of freedom less than there are groups with the rarer label. Percentiles of
the draws are the usual choice, and cover too seldom: for 25 groups and a true area of 0.92, 82
times of 100; this one covers 97 (tests/metrics/test_intervals.py simulates it).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from fracjax.figure import Figure, Undefined
from fracjax.metrics import ranking
from fracjax.metrics.ranking import Floats, Labels, Statistic

BOOTSTRAP_SAMPLES = 2000

LEVEL = 0.95
"""Of every interval."""

PART, RATIO, ANY = (0.0, 1.0), (0.0, np.inf), (-np.inf, np.inf)
"""Bounds of statistics."""

_OfWeights = Callable[[Floats], Floats]
"""A statistic of cases that are given, of weights (draws, n): (draws,)."""

MOST_WEIGHTS = 2_000_000
"""Weights of cases in draws that are held at once: 16 MB an array."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Cases whose label is known: studies or images.

    Attributes:
        labels: (n,), 0 or 1.
        scores: (n,); higher is more likely positive.
        groups: (n,) names of patients, or of what else is no independent case.
    """

    labels: Labels
    scores: Floats
    groups: NDArray[Any]

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> "Sample":
        """Make a sample of anything that is like arrays."""
        return cls(np.asarray(labels, np.int_), np.asarray(scores, np.float64), np.asarray(groups))

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int_]) -> "Sample":
        """Give some of the cases."""
        return Sample(self.labels[rows], self.scores[rows], self.groups[rows])

    def with_scores(self, scores: Floats) -> "Sample":
        """Give the same cases as another model scores them."""
        return Sample(self.labels, scores, self.groups)

    def undefined(self, reason: str) -> Undefined:
        """Say why there is no figure of these cases."""
        groups = len(np.unique(self.groups))
        return Undefined(reason, len(self), int(self.labels.sum()), groups)


class Bounded(NamedTuple):
    """A statistic, and what it can be; infinite where there is no bound."""

    statistic: Statistic
    bounds: tuple[float, float] = PART


def measure(
    statistic: Statistic,
    sample: Sample,
    bounds: tuple[float, float] = PART,
    *,
    seed: int = 0,
) -> Figure | Undefined:
    """Measure one statistic, as :func:`measure_each` does."""
    return measure_each({"": Bounded(statistic, bounds)}, sample, seed=seed)[""]


def measure_each(
    statistics: Mapping[str, Bounded], sample: Sample, *, seed: int = 0
) -> dict[str, Figure | Undefined]:
    """Measure statistics, with the interval that the module describes.

    At a bound, as where no case is missed, draws do not vary, and would say that this is certain:
    the interval is then that of Clopper and Pearson with each group of the rarer label as one case.
    Of one such group nothing says how figures vary: the interval is all that they can be.

    Args:
        statistics: By name, with their bounds.
        sample: The cases.
        seed: Of the draws.

    Returns:
        For each name the figure; or why there is none.
    """

    def of(statistic: Statistic) -> _OfWeights:
        return lambda weights: statistic(sample.labels, sample.scores, weights)

    return _with_intervals(
        {name: (of(bounded.statistic), bounded.bounds) for name, bounded in statistics.items()},
        sample,
        seed,
    )


def difference(
    statistic: Statistic, sample: Sample, others: ArrayLike, *, seed: int = 0
) -> Figure | Undefined:
    """Measure by how much a statistic of one model is above another's, on the same cases.

    Each draw judges both models on the same cases, so what makes cases hard for both is not
    counted.

    Args:
        statistic: Of labels, scores and weights.
        sample: The cases, with the scores of the one model.
        others: (n,), the scores of the other.
        seed: Of the draws.
    """
    scores, labels = np.asarray(others, np.float64), sample.labels

    def apart(weights: Floats) -> Floats:
        return statistic(labels, sample.scores, weights) - statistic(labels, scores, weights)

    return _with_intervals({"": (apart, ANY)}, sample, seed)[""]


def mean(
    values: ArrayLike,
    groups: ArrayLike,
    bounds: tuple[float, float] = PART,
    *,
    positives: int | None = None,
    seed: int = 0,
) -> Figure | Undefined:
    """Measure the mean of a value of cases, with the interval that the module describes.

    Args:
        values: (n,), at least one.
        groups: n names.
        bounds: What a value can be.
        positives: How many of the cases have a positive label; all by default.
        seed: Of the draws.
    """
    numbers, members = np.asarray(values, np.float64), np.asarray(groups)
    count, value = len(np.unique(members)), float(numbers.mean())
    of_them = len(numbers) if positives is None else positives
    if count == 1 and np.isinf(bounds).any():
        return Undefined("all cases are of one group", len(numbers), of_them, 1)
    draws = [
        ranking.divided(weights @ numbers, weights.sum(axis=1))
        for weights in weights_of(members, seed)
    ]
    spread = float(np.std(np.concatenate(draws), ddof=1))
    low, high = _interval(value, spread * np.sqrt(count / max(1, count - 1)), bounds, count)
    return Figure(value, low, high, len(numbers), of_them, count)


def auroc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, seed: int = 0
) -> Figure | Undefined:
    """Measure the area under the ROC curve, with the interval that the module describes."""
    return measure(ranking.auroc, Sample.of(labels, scores, groups), seed=seed)


def weights_of(groups: NDArray[Any], seed: int) -> Iterator[Floats]:
    """Draw whole groups, as often as there are groups, with replacement.

    What is drawn depends on the groups and the seed alone, so that two statistics, or two models,
    are of the same draws.

    Yields:
        (draws, n): how often each case was drawn, ``BOOTSTRAP_SAMPLES`` draws in all.
    """
    names, members = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, MOST_WEIGHTS // len(groups))
    evenly = np.full(len(names), 1 / len(names))
    for start in range(0, BOOTSTRAP_SAMPLES, at_once):
        size = min(at_once, BOOTSTRAP_SAMPLES - start)
        yield rng.multinomial(len(names), evenly, size=size)[:, members].astype(np.float64)


def _with_intervals(
    statistics: Mapping[str, tuple[_OfWeights, tuple[float, float]]], sample: Sample, seed: int
) -> dict[str, Figure | Undefined]:
    """Measure statistics of weights, all of the same draws."""
    if (lack := _lack(sample)) is not None:
        return dict.fromkeys(statistics, lack)
    positives, groups = int(sample.labels.sum()), len(np.unique(sample.groups))
    rarer = min(len(np.unique(sample.groups[sample.labels == label])) for label in (0, 1))
    once = np.ones((1, len(sample)))
    draws: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weights in weights_of(sample.groups, seed):
        for name, (statistic, _) in statistics.items():
            draws[name].append(statistic(weights))
    figures: dict[str, Figure | Undefined] = {}
    for name, (statistic, bounds) in statistics.items():
        value = float(statistic(once)[0])
        if np.isnan(value):
            figures[name] = sample.undefined("there is nothing to divide by")
            continue
        if rarer == 1 and np.isinf(bounds).any():
            figures[name] = sample.undefined("one label is of one group only")
            continue
        spread = float(np.nanstd(np.concatenate(draws[name]), ddof=1))
        error = spread * np.sqrt(groups / max(1, groups - 1))
        low, high = _interval(value, error, bounds, rarer)
        figures[name] = Figure(value, low, high, len(sample), positives, groups)
    return figures


def _interval(
    value: float, error: float, bounds: tuple[float, float], groups: int
) -> tuple[float, float]:
    """Give the ends of the interval of a value with a standard error; see the module."""
    least, most = bounds
    if groups == 1:
        return least, most
    reach = float(stats.t.ppf((1 + LEVEL) / 2, groups - 1)) * error
    if np.isinf(most):
        if np.isinf(least):
            return value - reach, value + reach
        if value <= least:
            return value, value + reach
        factor = np.exp(reach / (value - least))
        return least + (value - least) / factor, least + (value - least) * factor
    part, width = (value - least) / (most - least), most - least
    certain = ((1 - LEVEL) / 2) ** (1 / groups)  # Clopper and Pearson of as many right as cases
    if np.isclose(part, 1):
        return least + width * certain, most
    if np.isclose(part, 0):
        return least, most - width * certain
    logit, reach = special.logit(part), reach / width / (part * (1 - part))
    low, high = special.expit([logit - reach, logit + reach])
    # Rounding must not put the value outside.
    return min(value, float(least + width * low)), max(value, float(least + width * high))


def _lack(sample: Sample) -> Undefined | None:
    """Tell what a sample lacks for any figure of it."""
    for label, name in ((1, "positives"), (0, "negatives")):
        if not (sample.labels == label).any():
            return sample.undefined(f"there are no {name}")
    return None
