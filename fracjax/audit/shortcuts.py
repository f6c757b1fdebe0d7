"""How well the label is predicted by what is no anatomy: size, file, source, border, corners."""

import io
import math
import re
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from fracjax.figure import Figure
from fracjax.metrics import Bounded, Sample, measure, ranking

FOLDS = 5

FEWEST_GROUPS = 10
"""Groups with each label under which nothing is measured."""

SMALL_EFFECT, MEDIUM_EFFECT = 0.556, 0.638
"""AUROCs of Cohen's d = 0.2 and 0.5, by Phi(d / sqrt 2) (Rice and Harris, Law and Human Behavior
29:615, 2005, table 1)."""

FEWEST_MARKED = 10
"""Images of one value under which it is not looked at whether their label is always the same."""

MARK_CHANCE = 0.01
"""Chance, over all values looked at, of calling one a mark that is none."""

CORNER = 0.15
"""Side of a corner, as a part of the picture's."""

FLAT = 8
"""Grey levels within which a row or column is flat: the noise of JPEG."""

_LABEL_WORDS = re.compile(
    r"(?<![a-z])(?:(?:non|not|no|un|ab)[-_ ]?)?"
    r"(?:fractured?|fractures|positives?|negatives?|normal|pos|neg|healthy|broken)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of an image without looking at its anatomy."""

    width: int
    height: int
    file_kind: str
    """Format, mode, and what tells one JPEG writer from another."""
    border: tuple[float, ...]
    """Flat part of the picture at top, bottom, left and right, 0..1; median and spread of the grey
    levels of its outermost pixels."""
    corners: tuple[float, ...]
    """Mean, spread and 99th percentile of the grey levels of each corner: an L or R stands out."""
    compression: float
    """Bytes of the file for each pixel."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that the label may be predicted from."""

    name: str
    columns: NDArray[np.float64]
    """(n, columns); negative where unknown. Names are numbers by :func:`codes`."""


def traits(encoded: bytes, pixels: NDArray[np.uint8]) -> Traits:
    """Describe an image file.

    Args:
        encoded: The file.
        pixels: (height, width) grey levels that it decodes to.
    """
    height, width = pixels.shape
    ring = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    flat_rows, flat_columns = (pixels.max(axis) - pixels.min(axis) <= FLAT for axis in (1, 0))
    ends = (flat_rows, flat_rows[::-1], flat_columns, flat_columns[::-1])
    flat_parts = [1.0 if flat.all() else float(np.argmin(flat)) / len(flat) for flat in ends]
    return Traits(
        width,
        height,
        file_kind(encoded),
        (*flat_parts, float(np.median(ring)), float(ring.std())),
        _corners(pixels),
        len(encoded) / pixels.size,
    )


def _corners(pixels: NDArray[np.uint8]) -> tuple[float, ...]:
    height, width = pixels.shape
    rows, columns = (max(1, round(CORNER * side)) for side in (height, width))
    found: list[float] = []
    for row in (slice(0, rows), slice(height - rows, height)):
        for column in (slice(0, columns), slice(width - columns, width)):
            corner = pixels[row, column]
            found += [corner.mean(), corner.std(), float(np.percentile(corner, 99))]
    return tuple(map(float, found))


def file_kind(encoded: bytes) -> str:
    """Name a file's format, mode and, of a JPEG, its quantisation tables (ITU-T T.81, B.2.4.1)."""
    image = Image.open(io.BytesIO(encoded))
    kind = f"{image.format} {image.mode}"
    tables = getattr(image, "quantization", None)
    if tables:
        kind += f" tables {zlib.crc32(repr(sorted(tables.items())).encode()):08x}"
    return kind + (" progressive" if image.info.get("progressive") else "")


def source_pattern(source: str) -> str:
    """Reduce a path to its folders and manner of naming.

    Numbers become ``#``. Words that name a label are dropped: a folder ``positive`` is how the
    label was filed, and no picture shows it.
    """
    return re.sub(r"[0-9]+", "#", _LABEL_WORDS.sub("", source))


def numbers(source: str) -> list[float]:
    """Give the last three numbers of a path, the last first; -1 where it has fewer."""
    found = [float(number) for number in re.findall(r"[0-9]+", source)[:-4:-1]]
    return found + [-1.0] * (3 - len(found))


def codes(names: list[str]) -> NDArray[np.float64]:
    """Number names by how common they are, the commonest 0: (n, 1)."""
    ranks = {name: rank for rank, (name, _) in enumerate(Counter(names).most_common())}
    return np.array([[float(ranks[name])] for name in names])


def predictability(
    feature: Feature, labels: NDArray[np.int64], parts: list[str], groups: list[str]
) -> Figure | None:
    """Measure how well a feature predicts the label of images of the same body part.

    A small decision tree learns the label from the feature and the body part, and predicts the
    groups that it did not learn from. Pairs of a positive and a negative are compared
    only within a body part and fold: the covariate-adjusted area under the ROC curve (Janes and
    Pepe, Biometrika 96:371, 2009), so that neither the imbalance of body parts nor the folds' own
    levels count.

    Args:
        feature: Of n images.
        labels: (n,), 0 or 1.
        parts: n body parts.
        groups: n groups.

    Returns:
        The area with its bootstrap interval over groups; ``None`` if the feature is the same
        everywhere, or too few groups have each label.
    """
    if all(len(np.unique(column)) < 2 for column in feature.columns.T):
        return None
    members = np.array(groups)
    if min(len(np.unique(members[labels == label])) for label in (0, 1)) < FEWEST_GROUPS:
        return None
    part_codes = codes(parts)
    rows = np.concatenate([feature.columns, part_codes], axis=1)
    scores, folds = np.zeros(len(labels)), np.zeros(len(labels), int)
    cut = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (learned, held_out) in enumerate(cut.split(rows, labels, members)):
        model = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=10, random_state=0)
        model.fit(rows[learned], labels[learned])
        scores[held_out] = model.predict_proba(rows[held_out])[:, 1]
        folds[held_out] = fold
    _, strata = np.unique(part_codes.ravel() * FOLDS + folds, return_inverse=True)
    figure = measure(Bounded(ranking.within(strata)), Sample(labels, scores, members))
    return figure if isinstance(figure, Figure) else None


@dataclass(frozen=True, slots=True)
class Mark:
    """A value whose images all have one label."""

    feature: str
    value: str
    label: int
    images: tuple[int, ...]
    """Indices."""
    expected: float
    """Images among them that would have the other label, by their body parts."""


def marks(values: dict[str, list[str]], labels: NDArray[np.int64], parts: list[str]) -> list[Mark]:
    """Find values whose images all have one label, though by their body parts they should not.

    The chance of that is the product of the images' own, taken as independent, and is judged with
    Bonferroni's correction. A value that all images have is none.

    Args:
        values: For each feature, the value of each of n images; empty where unknown.
        labels: (n,), 0 or 1.
        parts: n body parts.
    """
    _, of_part = np.unique(parts, return_inverse=True)
    rate = (np.bincount(of_part, labels) / np.bincount(of_part))[of_part]
    alike: dict[tuple[str, str], list[int]] = {}
    for feature, column in values.items():
        for index, value in enumerate(column):
            if value:
                alike.setdefault((feature, value), []).append(index)
    looked_at = {
        key: rows for key, rows in alike.items() if FEWEST_MARKED <= len(rows) < len(labels)
    }
    found = []
    for (feature, value), rows in looked_at.items():
        shown = set(labels[rows].tolist())
        if len(shown) > 1:
            continue
        label = shown.pop()
        same = rate[rows] if label else 1 - rate[rows]
        if np.log(same).sum() < math.log(MARK_CHANCE / len(looked_at)):
            found.append(Mark(feature, value, label, tuple(rows), float((1 - same).sum())))
    return sorted(found, key=lambda mark: -len(mark.images))
