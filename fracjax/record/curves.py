"""The curves of a run. Imports matplotlib, which is slow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from fracjax.drawing import ACCENT, MARK, VALUE, Drawing, blank, drawn
from fracjax.record.journal import CASES, HIGH, LOW, SELECTION

POINTS = 400
"""Points of a curve. A plot is about as many pixels wide."""

SMOOTHED = ("loss", "gradient_norm")
"""Training curves that come with a running mean."""

SMOOTHED_PART = 0.05
"""Part of a curve's values that the running mean is taken over."""

LOGARITHMIC = ("gradient_norm",)
"""Training curves whose height is a ratio."""

Rows = Sequence[dict[str, float]]
"""As :func:`fracjax.record.read` gives them."""

Floats = NDArray[np.float64]


class Best(NamedTuple):
    """The best epoch by the figure of the selection images that a run monitors.

    Attributes:
        epoch: Passes over the training images.
        step: Steps that were done by then.
        value: Of the figure.
        low: Lower end of its 95 % interval; NaN where the figure has none.
        high: Upper end.
        cases: Images or studies; NaN where they were not recorded.
    """

    epoch: float
    step: float
    value: float
    low: float
    high: float
    cases: float


class Thinned(NamedTuple):
    """A curve in few points. All arrays are (m,), with m <= ``POINTS``."""

    steps: Floats
    low: Floats
    mean: Floats
    high: Floats


def best_epoch(rows: Rows, monitor: str) -> Best | None:
    """Find the best epoch, the first of equals; a loss is best where it is lowest.

    Args:
        rows: The lines of a run.
        monitor: The name of a figure of the selection images.

    Returns:
        ``None`` if no row has a finite value of it.
    """
    key = SELECTION + monitor
    measured = [row for row in rows if np.isfinite(row.get(key, np.nan))]
    if not measured:
        return None
    sign = -1 if monitor == "loss" else 1
    # In single precision, as training compares them: the digits beyond are rounding.
    best = max(measured, key=lambda row: np.float32(sign * row[key]))
    low, high, cases = (best.get(key + suffix, np.nan) for suffix in (LOW, HIGH, CASES))
    return Best(best["epoch"], best["step"], best[key], low, high, cases)


def thin(steps: Floats, values: Floats) -> Thinned:
    """Reduce a curve to ``POINTS`` points, each of which stands for an equal span of steps.

    Nothing vanishes: the smallest and the largest value of each span are kept beside its mean.

    Args:
        steps: (n,), n >= 1, not decreasing.
        values: (n,), finite.
    """
    if len(steps) <= POINTS:
        return Thinned(steps, values, values, values)
    spans = np.minimum((steps - steps[0]) * POINTS // (steps[-1] - steps[0] or 1), POINTS - 1)
    _, starts, counts = np.unique(spans, return_index=True, return_counts=True)
    return Thinned(
        np.add.reduceat(steps, starts) / counts,
        np.minimum.reduceat(values, starts),
        np.add.reduceat(values, starts) / counts,
        np.maximum.reduceat(values, starts),
    )


def running_mean(values: Floats, width: int) -> Floats:
    """Average each value with its neighbours.

    Args:
        values: (n,).
        width: Values, odd; at both ends there are fewer.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(len(values))
    first = np.maximum(here - width // 2, 0)
    last = np.minimum(here + width // 2 + 1, len(values))
    means: Floats = (sums[last] - sums[first]) / (last - first)
    return means


def training_curves(rows: Rows, best: Best | None) -> list[Drawing]:
    """Draw each training figure over the steps, with the best epoch if there is one."""
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith(SELECTION))
    drawn = (_training_curve(rows, name, best) for name in names if name not in ("step", "epoch"))
    return [curve for curve in drawn if curve is not None]


def selection_curves(rows: Rows, best: Best | None) -> list[Drawing]:
    """Draw each figure of the selection images over the epochs, with its 95 % interval."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(SELECTION))
    drawn = (
        _selection_curve(rows, name, best)
        for name in names
        if not name.endswith((LOW, HIGH, CASES))
    )
    return [curve for curve in drawn if curve is not None]


def _training_curve(rows: Rows, name: str, best: Best | None) -> Drawing | None:
    steps, values = _columns(rows, "step", name)
    if len(values) == 0:
        return None
    figure, axes = _over("step")
    words = []
    curve = thin(steps, values)
    width = int(len(values) * SMOOTHED_PART) // 2 * 2 + 1
    smoothed = name in SMOOTHED and width > 1
    if len(curve.steps) < len(steps):
        axes.fill_between(curve.steps, curve.low, curve.high, color=ACCENT, alpha=0.25, linewidth=0)
        words.append(
            f"{len(values)} values, drawn in {len(curve.steps)} spans of steps: the band goes from "
            f"the smallest to the largest of each, the {'faint ' * smoothed}line is their mean."
        )
    axes.plot(
        curve.steps,
        curve.mean,
        color=ACCENT,
        alpha=0.4 if smoothed else 1,
        linewidth=1 if smoothed else 1.6,
        marker="o" if len(values) == 1 else "",
    )
    if smoothed:
        mean = thin(steps, running_mean(values, width))
        axes.plot(mean.steps, mean.mean, color=ACCENT, linewidth=1.6)
        words.append(f"Bold: the mean of {width} neighbouring values.")
    if name in LOGARITHMIC and values.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(VALUE)
        axes.minorticks_off()
        words.append("The height is logarithmic.")
    if best is not None:
        words.append(_mark(axes, best.step, best))
    return _curve(figure, name, words, _not_finite(rows, name))


def _selection_curve(rows: Rows, name: str, best: Best | None) -> Drawing | None:
    epochs, values = _columns(rows, "epoch", name)
    if len(values) == 0:
        return None
    figure, axes = _over("epoch")
    words = []
    banded, low, high = _columns(rows, "epoch", name + LOW, name + HIGH)
    if len(banded):
        axes.fill_between(banded, low, high, color=ACCENT, alpha=0.2, linewidth=0)
        _, cases = _columns(rows, "epoch", name + CASES)
        counts = " or ".join(f"{count:g}" for count in np.unique(cases))
        words.append(f"The band is the 95 % interval; n = {counts}.")
    axes.plot(epochs, values, color=ACCENT, linewidth=1.6, marker="o", markersize=3.5)
    if best is not None:
        words.append(_mark(axes, best.epoch, best))
    return _curve(figure, name, words, _not_finite(rows, name))


def _columns(rows: Rows, *names: str) -> list[Floats]:
    """Give the values of the rows that have all of some names, where all are finite."""
    table = np.array([[row[name] for name in names] for row in rows if row.keys() >= {*names}])
    table = table.reshape(-1, len(names)).astype(np.float64)
    return list(table[np.isfinite(table).all(axis=1)].T)


def _not_finite(rows: Rows, name: str) -> int:
    return sum(not np.isfinite(row[name]) for row in rows if name in row)


def _mark(axes: Axes, place: float, best: Best) -> str:
    axes.axvline(place, color=MARK, linewidth=1.2, linestyle="--")
    return f"Dashed: epoch {best.epoch:g}, the best."


def _curve(figure: Figure, name: str, words: list[str], left_out: int) -> Drawing:
    if left_out:
        words = [*words, f"Left out, as no finite numbers: {left_out}."]
    return drawn(figure, name.removeprefix(SELECTION), " ".join(words))


def _over(across: str) -> tuple[Figure, Axes]:
    """Make an empty plot over steps or epochs."""
    figure, axes = blank(across)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, axes
