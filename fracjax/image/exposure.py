"""The exposed region of a radiograph, and whether a grey scale shows what is in it.

Collimated and unexposed borders are black or white, and often no tag says where they are. They
hold nothing to see, and must not decide how the rest is shown. All functions are of arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax.image.grayscale import Mask

LOWEST, HIGHEST = 0.5, 99.5
"""Percentiles of the exposed region that a percentile window shows as black and white."""

NEAR = 0.04
"""Part of the range of grey levels within which values are alike. The unexposed borders of real
CR images vary by 3 %."""

SMALLEST_FIELD = 0.001
"""Part of the picture from which on an extreme area at its edge is no anatomy, but a border."""

LEAST_CONTRAST = 0.1
"""Part of the display's range that the exposed region must fill. None of the 3,228 radiographs of
FracAtlas fills less than 0.33 (benchmarks/reading.py)."""

MOST_CLIPPED = 0.75
"""Part of the exposed region that may be shown all black or all white. Of those radiographs none
has more than 0.20; but where air is noisy, it is left to the window to make it black, and of
their whole area up to 0.66 is (benchmarks/reading.py)."""

MOST_OF_ONE_LEVEL = 0.9
"""Part of the exposed region that may be shown as one grey level. Of those radiographs, one has
0.78 of air that is nearly black (benchmarks/reading.py)."""

_SAMPLE_SIDE = 1024  # pixels: statistics are taken of every n-th pixel of a larger picture
_ROUNDS = 16  # of peeling, so that no picture takes for ever
_STRIP = 32  # lines that are looked at together

_MOST_LEVELS = 2**16  # that are counted, one by one

Box = tuple[slice, slice]
"""Rows and columns."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of many pixels, in ascending order.

    A radiograph has thousands of grey levels and millions of pixels, so that what is asked of a
    sample is quicker to find of its levels.

    Attributes:
        levels: float32 (n,); of integers each value once, of other numbers as often as it occurs.
        counts: int64 (n,), how often it occurs.
    """

    levels: NDArray[np.float32]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Sample":
        """Sample all of some numbers, of any shape."""
        if values.dtype.kind in "iu" and values.size:
            low = int(values.min())
            if int(values.max()) - low < _MOST_LEVELS:
                found = np.bincount(values.ravel().astype(np.int64) - low)
                (levels,) = np.nonzero(found)
                return cls((levels + low).astype(np.float32), found[levels])
        ordered = np.sort(values.astype(np.float32, copy=False), axis=None)
        return cls(ordered, np.ones(ordered.shape, np.int64))

    def through(self, shown: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> "Sample":
        """Give what a grey scale, value by value, makes of the sample."""
        levels, counts = shown(self.levels), self.counts
        if np.any(levels[1:] < levels[:-1]):  # a table that turns it over
            order = np.argsort(levels)
            levels, counts = levels[order], counts[order]
        return Sample(levels, counts)

    def percentiles(self, *percents: float) -> list[float]:
        """Find percentiles, as :func:`numpy.percentile` does; the sample is not empty."""
        ends = np.cumsum(self.counts)
        last = int(ends[-1]) - 1
        found = []
        for percent in percents:
            place = last * (percent / 100)
            index = int(place)
            pair = np.searchsorted(ends, (index, min(index + 1, last)), side="right")
            below, above = self.levels[pair]
            step, part = float(above - below), place - index
            found.append(
                float(below) + step * part if part < 0.5 else float(above) - step * (1 - part)
            )
        return found


def exposed_box(values: NDArray[Any]) -> Box:
    """Find the exposed region, as the rows and columns that are left when borders are peeled off.

    Args:
        values: Numbers (h, w).

    Returns:
        What is left without the lines of nearly one value at the picture's sides; or, where that
        is nothing, without those of exactly one value; or else the whole.
    """
    box, inner = _peel_twice(values, None)
    return next((found for found in (inner, box) if values[found].size), _whole(values))


def exposed_sample(values: NDArray[Any], background: Mask | None) -> Sample:
    """Sample the values of the exposed region.

    Lines of one value are peeled off the picture's sides until none is left, then lines of nearly
    one value; then areas at the remaining picture's edge that are nearly its darkest or brightest
    are left out (a collimator that stands askew). A border of one value around a picture so leaves
    its sample unchanged. Where nothing would be left, all that is no background is sampled.

    Args:
        values: Numbers (h, w).
        background: bool (h, w) of pixels that are known to be no part of the picture, or ``None``.

    Returns:
        The sample; empty where all is background.
    """
    box, inner = _peel_twice(values, background)
    sampled = _picture_values(values, background, box)
    if sampled.size == 0:
        return Sample.of(_picture_values(values, background, _whole(values)))
    coarse, picture = _coarse(values, background, inner)
    if not picture.any():
        return Sample.of(sampled)
    whole = Sample.of(coarse[picture])
    low, high = whole.percentiles(0.1, 99.9)
    near = NEAR * (high - low)
    levels, exposed = coarse.astype(np.float32, copy=False), picture
    for extreme in (levels <= low + near, levels >= high - near):
        exposed = exposed & ~_fields_at_edge(extreme & picture)
    return Sample.of(coarse[exposed]) if exposed.any() else whole


def percentile_range(sample: Sample) -> tuple[float, float]:
    """Find the values that a percentile window shows as black and white.

    Args:
        sample: Of :func:`exposed_sample`.

    Returns:
        The two values. Of percentiles that are equal the range of the sample takes the place;
        where that is one value, or there is no sample, the two are equal.
    """
    if sample.levels.size == 0:
        return 0.0, 0.0
    low, high = sample.percentiles(LOWEST, HIGHEST)
    if low == high:
        return float(sample.levels[0]), float(sample.levels[-1])
    return low, high


def stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Show numbers from ``low`` to ``high``, which is larger, as float32 in 0..1."""
    shown = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.clip(shown, 0, 1, out=shown))


def is_usable(shown: Sample) -> bool:
    """Tell whether a grey scale shows the exposed region, by its sample in 0..1 as shown."""
    if shown.levels.size == 0:
        return False
    low, high = shown.percentiles(LOWEST, HIGHEST)
    grey = np.rint(shown.levels * 255).astype(np.uint8)
    parts = np.bincount(grey, shown.counts, minlength=256) / shown.counts.sum()
    return bool(
        high - low >= LEAST_CONTRAST
        and parts[0] + parts[255] <= MOST_CLIPPED
        and parts.max() <= MOST_OF_ONE_LEVEL
    )


def _whole(values: NDArray[Any]) -> Box:
    return slice(0, values.shape[0]), slice(0, values.shape[1])


def _peel_twice(values: NDArray[Any], background: Mask | None) -> tuple[Box, Box]:
    """Peel off lines of one value, then lines of nearly one; a box is empty if nothing is left."""
    box = _peel(values, background, _whole(values), 0.0)
    sampled = _picture_values(values, background, box)
    if sampled.size == 0:
        return box, box
    low, high = Sample.of(sampled).percentiles(2, 98)
    return box, _peel(values, background, box, NEAR * (high - low))


def _peel(values: NDArray[Any], background: Mask | None, box: Box, tolerance: float) -> Box:
    """Peel off the sides of ``box`` all lines whose values, but for background, are alike."""
    for _ in range(_ROUNDS):
        before = box
        for axis in (0, 1):
            picture = values[box]
            if picture.size == 0:
                return slice(0, 0), slice(0, 0)
            hidden = None if background is None else background[box]
            if axis == 1:
                picture, hidden = picture.T, None if hidden is None else hidden.T
            first, last = _outermost_varying(picture, hidden, tolerance)
            start = box[axis].start
            kept = slice(start + first, start + last)
            box = (kept, box[1]) if axis == 0 else (box[0], kept)
        if before == box:
            break
    return box


def _outermost_varying(
    lines: NDArray[Any], hidden: Mask | None, tolerance: float
) -> tuple[int, int]:
    """Find the first line whose values differ, and what follows the last one; (0, 0) if none."""
    first = _first_varying(lines, hidden, tolerance)
    if first is None:
        return 0, 0
    behind = _first_varying(lines[::-1], None if hidden is None else hidden[::-1], tolerance)
    return first, len(lines) - (behind or 0)


def _first_varying(lines: NDArray[Any], hidden: Mask | None, tolerance: float) -> int | None:
    for start in range(0, len(lines), _STRIP):  # most pictures vary in the first of them
        strip = lines[start : start + _STRIP].astype(np.float32, copy=False)
        where = True if hidden is None else ~hidden[start : start + _STRIP]
        largest = strip.max(axis=1, where=where, initial=-np.inf)
        smallest = strip.min(axis=1, where=where, initial=np.inf)
        kept = np.flatnonzero(largest - smallest > tolerance)
        if kept.size:
            return start + int(kept[0])
    return None


def _coarse(values: NDArray[Any], background: Mask | None, box: Box) -> tuple[NDArray[Any], Mask]:
    """Take every n-th pixel of a box, and which of them are no background."""
    picture = values[box]
    step = max(1, -(-max(picture.shape) // _SAMPLE_SIDE))
    coarse = picture[::step, ::step]
    if background is None:
        return coarse, np.ones(coarse.shape, bool)
    return coarse, ~background[box][::step, ::step]


def _picture_values(values: NDArray[Any], background: Mask | None, box: Box) -> NDArray[Any]:
    coarse, picture = _coarse(values, background, box)
    return coarse[picture]


def _fields_at_edge(mask: Mask) -> Mask:
    """Those connected parts of a mask that reach its edge, and are not small."""
    # The areas of a few are sooner counted than the statistics of all.
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    at_edge = np.zeros(count, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_edge[line] = True
    at_edge[0] = False  # label 0 is what the mask leaves out
    if not at_edge.any():
        return np.zeros_like(mask)
    areas = np.bincount(labels.ravel(), minlength=count)
    fields: Mask = at_edge & (areas >= SMALLEST_FIELD * mask.size)
    return np.asarray(fields.take(np.asarray(labels)))
