"""What an evaluation shows in pictures. Imports matplotlib, which is slow."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from fracjax.drawing import ACCENT, FAINT, INK, MARK, Drawing, blank, drawn
from fracjax.evaluate.evaluation import Threshold
from fracjax.evaluate.measuring import ALL, Measured
from fracjax.figure import Figure
from fracjax.metrics import Sample, reliability
from fracjax.metrics.ranking import Floats

SQUARE = (3.6, 3.6)
MARKERS = "osD^v"
"""One for each operating point."""


def roc(sample: Sample, thresholds: Mapping[str, Threshold], caption: str) -> Drawing:
    """Draw the ROC curve of studies, with operating points where they fall on these cases."""
    figure, axes = blank("1 - specificity", "sensitivity", SQUARE)
    false_alarms, sensitivity, _ = roc_curve(sample.labels, sample.scores, drop_intermediate=False)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    axes.plot(false_alarms, sensitivity, color=ACCENT, linewidth=1.6)
    for (name, point), marker in zip(thresholds.items(), MARKERS, strict=False):
        called = sample.scores >= point.threshold
        place = called[sample.labels == 0].mean(), called[sample.labels == 1].mean()
        _mark(axes, *place, marker, name)
    _unit_square(axes)
    axes.legend(loc="lower right", frameon=False) if thresholds else None
    return drawn(figure, "ROC", caption)


def precision_recall(sample: Sample, thresholds: Mapping[str, Threshold], caption: str) -> Drawing:
    """Draw precision over sensitivity, with operating points; faint is who knows nothing."""
    figure, axes = blank("sensitivity (recall)", "precision (PPV)", SQUARE)
    precision, recall, _ = precision_recall_curve(sample.labels, sample.scores)
    axes.axhline(sample.labels.mean(), color=FAINT, linewidth=1)
    axes.step(recall, precision, where="post", color=ACCENT, linewidth=1.6)
    for (name, point), marker in zip(thresholds.items(), MARKERS, strict=False):
        called = sample.scores >= point.threshold
        if called.any():
            place = called[sample.labels == 1].mean(), sample.labels[called].mean()
            _mark(axes, *place, marker, name)
    _unit_square(axes)
    return drawn(figure, "Precision and recall", caption)


def diagram(sample: Sample, likelihoods: Floats, caption: str) -> Drawing:
    """Draw how often studies of a likelihood, as shown, are positive, in bins of equal mass."""
    bins = reliability.equal_mass(likelihoods)
    figure, axes = blank("likelihood", "part that is positive", SQUARE)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    means, rates, lows, highs = [], [], [], []
    for number in range(bins.count):
        chosen = bins.members == number
        low, high = _wilson(int(sample.labels[chosen].sum()), int(chosen.sum()))
        means.append(likelihoods[chosen].mean())
        rates.append(sample.labels[chosen].mean())
        lows.append(low)
        highs.append(high)
    axes.vlines(means, lows, highs, color=ACCENT, linewidth=1.2)
    axes.plot(means, rates, color=ACCENT, marker="o", markersize=4, linewidth=1)
    counts, edges = np.histogram(likelihoods, bins=20, range=(0, 1))
    axes.bar(
        edges[:-1], counts / counts.max() * 0.12, width=0.05, align="edge", color=INK, alpha=0.15
    )
    _unit_square(axes)
    return drawn(figure, "Reliability", caption)


def forest(rows: Sequence[Measured], caption: str) -> Drawing:
    """Draw a figure of all cases and of each subset, with intervals."""
    shown = [(row.subset, row.figure) for row in rows if isinstance(row.figure, Figure)]
    figure, axes = blank("AUROC", size=(6.4, 0.7 + 0.26 * len(shown)))
    for place, (subset, value) in enumerate(shown):
        colour = INK if subset == ALL else ACCENT
        axes.hlines(place, value.low, value.high, color=colour, linewidth=1.6)
        axes.plot(value.value, place, color=colour, marker="s", markersize=4.5)
    for subset, value in shown[:1]:
        if subset == ALL:
            axes.axvline(value.value, color=FAINT, linewidth=1, zorder=0)
    axes.set_yticks(
        range(len(shown)),
        [f"{subset}  ({value.positives} of {value.n})" for subset, value in shown],
        parse_math=False,  # a value is a hospital's, and may hold dollars
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return drawn(figure, "AUROC of subsets", caption)


def _mark(axes: Axes, across: float, up: float, marker: str, name: str) -> None:
    axes.plot(
        across, up, marker=marker, markersize=6, color=MARK, linestyle="", label=name, zorder=3
    )


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def _wilson(positives: int, total: int) -> tuple[float, float]:
    interval = binomtest(positives, total).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)
