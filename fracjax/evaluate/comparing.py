"""Two models on the same cases: what is better is what the interval of the difference says."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fracjax.evaluate.cases import Cases
from fracjax.evaluate.measuring import RANKING, SMALLEST_CLASS, in_words
from fracjax.figure import Figure, Undefined
from fracjax.metrics import Sample, difference, ranking
from fracjax.metrics.ranking import Floats, Labels

DECIDING = "auroc"
"""The one figure by which a model may be called better: of a dozen, one often excludes zero by
chance."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one model less that of another.

    Attributes:
        name: The statistic; the more of it, the better.
        at: The operating point, which each model has for itself; empty where none was applied.
        figure: The difference; or why there is none.
    """

    name: str
    at: str
    figure: Figure | Undefined

    @property
    def verdict(self) -> str:
        """Say ``better`` or ``worse``, of :data:`DECIDING` only and where zero is excluded."""
        if isinstance(self.figure, Undefined):
            return "undefined"
        excludes_zero = self.figure.low > 0 or self.figure.high < 0
        if self.name != DECIDING:
            return "zero is excluded" if excludes_zero else "zero is not excluded"
        if not excludes_zero:
            return "no difference shown"
        return "better" if self.figure.low > 0 else "worse"

    def __str__(self) -> str:
        name = in_words(self.name) + (f" at {self.at}" if self.at else "")
        if isinstance(self.figure, Undefined):
            return f"{name}: {self.figure}"
        return f"{name}: {self.verdict}, {self.figure.shown('+')}"


@dataclass(frozen=True, slots=True)
class Discordance:
    """Cases that one model calls rightly and the other wrongly (McNemar 1947).

    Attributes:
        at: The operating point, which each model has for itself.
        of: ``positives`` or ``negatives``.
        only_first: Cases that only the first model calls rightly.
        only_other: Cases that only the other calls rightly.
        p: Two-sided, of the exact test. It takes cases to be independent, so with several of a
            patient it is too small.
    """

    at: str
    of: str
    only_first: int
    only_other: int
    p: float

    def __str__(self) -> str:
        return (
            f"{self.of} at {self.at}: {self.only_first} called rightly by this model alone, "
            f"{self.only_other} by the other alone (exact McNemar test, p = {self.p:.2g})"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same cases.

    Attributes:
        other: The model that the evaluated one is compared with.
        differences: Of figures, the evaluated model's less the other's.
        discordance: Of calls at operating points that both have.
    """

    other: str
    differences: tuple[Difference, ...]
    discordance: tuple[Discordance, ...]

    @property
    def remark(self) -> str:
        """Say what the verdicts are worth."""
        return (
            f"{in_words(DECIDING)} decides; the other {len(self.differences) - 1} intervals, and "
            "McNemar's p, are not corrected for how many they are"
        )


def compare(
    cases: Cases,
    others: NDArray[np.float64],
    thresholds: Mapping[str, tuple[float, float]],
    other: str,
) -> Comparison:
    """Compare two models.

    Args:
        cases: With the raw likelihoods of the model that is evaluated.
        others: (n,), those of the other on the same cases.
        thresholds: By the operating point's name, each model's own threshold.
        other: The other model's name.
    """
    sample = cases.sample
    few = _too_few(sample)
    differences = [
        Difference(name, "", few or difference(bounded.statistic, sample, others))
        for name, bounded in RANKING.items()
    ]
    discordance = []
    for point, (threshold, other_threshold) in thresholds.items():
        calls = sample.scores >= threshold
        other_calls = others >= other_threshold
        for label, of, name in ((1, "positives", "sensitivity"), (0, "negatives", "specificity")):
            called_rightly = (calls == label).astype(np.float64)
            other_rightly = (other_calls == label).astype(np.float64)
            shown = sample.with_scores(called_rightly)
            figure = few or difference(_rate_of(label), shown, other_rightly)
            differences.append(Difference(name, point, figure))
            discordance.append(_mcnemar(sample, label, called_rightly, other_rightly, point, of))
    return Comparison(other, tuple(differences), tuple(discordance))


def _too_few(sample: Sample) -> Undefined | None:
    """Tell whether groups are too few to say that one model is better."""
    for label, name in ((1, "positives"), (0, "negatives")):
        groups = len(np.unique(sample.groups[sample.labels == label]))
        if groups < SMALLEST_CLASS:
            return sample.undefined(f"{name} are of {groups} groups only")
    return None


def _rate_of(label: int) -> ranking.Statistic:
    """Make the part of cases of a label that are called rightly, which scores say."""

    def statistic(labels: Labels, scores: Floats, weights: Floats) -> Floats:
        chosen = labels == label
        return ranking.divided(weights[:, chosen] @ scores[chosen], weights[:, chosen].sum(axis=1))

    return statistic


def _mcnemar(
    sample: Sample, label: int, first: Floats, other: Floats, at: str, of: str
) -> Discordance:
    chosen = sample.labels == label
    only_first = int(((first > other) & chosen).sum())
    only_other = int(((other > first) & chosen).sum())
    total = only_first + only_other
    p = 1.0 if total == 0 else float(stats.binomtest(only_first, total).pvalue)
    return Discordance(at, of, only_first, only_other, p)
