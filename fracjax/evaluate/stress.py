"""How likelihoods move when a picture changes in what should not matter."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax import data, metrics
from fracjax.augment import CORNER
from fracjax.engine import Scorer, Scores
from fracjax.evaluate.predicting import predict
from fracjax.figure import Figure, Undefined
from fracjax.metrics import Bounded, Sample, difference, measure, ranking

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Stress:
    """What one change does to a model, over images.

    Attributes:
        change: Which.
        moved: Mean absolute change of the raw likelihood.
        threshold: Raw likelihood from which on an image counts as called.
        turned: Part of images that are called otherwise than before.
        auroc: Of the changed images.
        auroc_change: That less the area of the images as they are; paired.
        turned_away: Part that would no longer get a likelihood: familiar before, and not now.
    """

    change: str
    moved: Figure | Undefined
    threshold: float
    turned: Figure | Undefined
    auroc: Figure | Undefined
    auroc_change: Figure | Undefined
    turned_away: Figure | Undefined


def without_corners(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """Black the four corners out, where L, R and other markers stand."""
    height, width = pixels.shape
    rows, columns = round(CORNER * height), round(CORNER * width)
    masked = pixels.copy()
    for row in (slice(0, rows), slice(height - rows, height)):
        for column in (slice(0, columns), slice(width - columns, width)):
            masked[row, column] = 0
    return masked


def inverted(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """Exchange black and white."""
    return 255 - pixels


def compressed(pixels: Pixels, _: np.random.Generator, *, quality: int) -> Pixels:
    """Store the picture as JPEG."""
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def windowed(pixels: Pixels, _: np.random.Generator, *, low: float, high: float) -> Pixels:
    """Show the grey levels from ``low`` to ``high``, parts of the range, from black to white."""
    stretched = (pixels / 255 - low) / (high - low)
    return np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)


def rotated(pixels: Pixels, _: np.random.Generator, *, degrees: float) -> Pixels:
    """Turn the picture about its middle; what comes in from outside is black."""
    height, width = pixels.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)), np.uint8)


def halved(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """Halve the size, and so the detail."""
    height, width = pixels.shape
    sides = max(1, width // 2), max(1, height // 2)
    return np.asarray(cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA), np.uint8)


CHANGES: Mapping[str, data.Change] = {
    "corners masked": without_corners,
    "black and white exchanged": inverted,
    "JPEG of quality 50": functools.partial(compressed, quality=50),
    "JPEG of quality 20": functools.partial(compressed, quality=20),
    "window narrower by a fifth": functools.partial(windowed, low=0.1, high=0.9),
    "window wider by a fifth": functools.partial(windowed, low=-0.1, high=1.1),
    "turned by 5 degrees": functools.partial(rotated, degrees=5),
    "turned by -5 degrees": functools.partial(rotated, degrees=-5),
    "half the size": halved,
}
"""None of these changes whether there is a fracture."""


def stress(
    scorer: Scorer,
    images: data.Radiographs,
    scores: Scores,
    threshold: float,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Stress]:
    """Score changed images, and compare.

    Args:
        scorer: The model.
        images: Labelled images.
        scores: Of the images as they are.
        threshold: From which on an image counts as called.
        report: Told what is being done, for how many images it is done, and of how many.
    """
    facts = images.facts
    labels, groups = [fact.label for fact in facts], [fact.group for fact in facts]
    sample = Sample.of(labels, scores.likelihoods, groups)
    return [
        _stress(scorer, images, sample, scores.familiar, name, change, threshold, report)
        for name, change in CHANGES.items()
    ]


def _stress(
    scorer: Scorer,
    images: data.Radiographs,
    sample: Sample,
    familiar: NDArray[np.bool_],
    name: str,
    change: data.Change,
    threshold: float,
    report: Callable[[str, int, int], None],
) -> Stress:
    told = functools.partial(_told, report, name, len(images))
    scores = predict(scorer, images, change, told)
    changed = scores.likelihoods.astype(np.float64)
    turned = (changed >= threshold) != (sample.scores >= threshold)
    other = sample.with_scores(changed)

    def mean(values: NDArray[Any]) -> Figure | Undefined:
        return metrics.mean(values, sample.groups, positives=int(sample.labels.sum()))

    return Stress(
        name,
        mean(np.abs(changed - sample.scores)),
        threshold,
        mean(turned),
        measure(Bounded(ranking.auroc), other),
        difference(ranking.auroc, other, sample.scores),
        mean(familiar & ~scores.familiar),
    )


def _told(report: Callable[[str, int, int], None], name: str, of: int, done: int) -> None:
    report(f"changing images: {name}", done, of)


def lines(stresses: Sequence[Stress]) -> list[str]:
    """Say how likelihoods move."""
    said = [
        "raw likelihoods of images that are changed in what should not matter; called from "
        f"{stresses[0].threshold:.4f} on"
    ]
    for each in stresses:
        said += [
            f"  {each.change}",
            f"    moved by, on average                   {each.moved}",
            f"    called otherwise                       {each.turned}",
            f"    AUROC                                  {each.auroc}",
            f"    AUROC, less that of the images as are  {each.auroc_change.shown('+')}",
            f"    would no longer get a likelihood       {each.turned_away}",
        ]
    return said
