"""The interval of an area under the ROC curve without a bootstrap, as a cross-check."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fracjax.figure import Figure
from fracjax.metrics.intervals import LEVEL, Sample
from fracjax.metrics.ranking import Floats


def delong(sample: Sample) -> Figure:
    """Measure the area under the ROC curve with DeLong's interval, for cases in groups.

    The variance is that of DeLong et al. (Biometrics 44:837, 1988), extended to groups of cases by
    Obuchowski (Biometrics 53:567, 1997); with one case a group, it is DeLong's own. The interval is
    the normal one, cut at 0 and 1, so it is too sure of areas near 1 and of few groups.

    Raises:
        ValueError: Positives or negatives are of one group only; or the area is 0 or 1, of which
            the variance would say that it is certain.
    """
    is_positive = sample.labels == 1
    positives, negatives = sample.scores[is_positive], sample.scores[~is_positive]
    owners, others = sample.groups[is_positive], sample.groups[~is_positive]
    above = _placements(positives, negatives)
    below = 1 - _placements(negatives, positives)
    area = float(above.mean())
    names = np.unique(sample.groups)
    of_positives = _sums(above - area, owners, names)
    of_negatives = _sums(below - area, others, names)
    m, n, groups = len(positives), len(negatives), len(names)
    first, second = (len(np.unique(members)) for members in (owners, others))
    if min(first, second) < 2:
        raise ValueError("the area's variance needs two groups of positives, and two of negatives")
    variance = (
        first / (first - 1) * np.square(of_positives).sum() / m**2
        + second / (second - 1) * np.square(of_negatives).sum() / n**2
        + 2 * groups / (groups - 1) * (of_positives * of_negatives).sum() / (m * n)
    )
    if variance <= 0:
        raise ValueError("no pair says how the area varies")
    half = float(stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance))
    low, high = max(0.0, area - half), min(1.0, area + half)
    return Figure(area, low, high, m + n, m, groups)


def _placements(scores: Floats, others: Floats) -> Floats:
    """Give the part of ``others`` that lies below each score, of equal ones half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left")
    reached = np.searchsorted(ordered, scores, side="right")
    return (below + reached) / 2 / len(others)


def _sums(values: Floats, members: NDArray[Any], names: NDArray[Any]) -> Floats:
    sums = np.bincount(np.searchsorted(names, members), values, minlength=len(names))
    return np.asarray(sums, np.float64)
