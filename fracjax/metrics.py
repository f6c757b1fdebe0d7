"""Figures, each with its number of cases and an interval."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from fracjax.figure import Figure

BOOTSTRAP_SAMPLES = 2000

MOST_WEIGHTS = 2_000_000
"""Weights of images in draws that are held at once: 16 MB an array."""


def auroc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> Figure:
    """Measure the area under the ROC curve with a group-bootstrap interval.

    The interval is the percentile bootstrap over groups (Field and Welsh, 2007): whole groups are
    drawn, since images of one patient are not independent cases.

    Args:
        labels: (n,), 0 or 1, both present.
        scores: (n,); higher is more likely positive.
        groups: n names.
        seed: Of the draws.

    Raises:
        ValueError: Only one class is present.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    draws = _group_draws(labels, scores, groups, seed)
    return _figure(float(roc_auc_score(labels, scores)), draws, labels, groups)


def auroc_difference(
    labels: ArrayLike, scores: ArrayLike, others: ArrayLike, groups: ArrayLike, *, seed: int = 0
) -> Figure:
    """Measure by how much the area under the ROC curve of one model is above another's.

    The interval is that of :func:`auroc`; each draw judges both models on the same images, so that
    what makes images hard for both is not counted.

    Args:
        labels: (n,), 0 or 1, both present.
        scores: (n,) of the one model.
        others: (n,) of the other.
        groups: n names.
        seed: Of the draws.

    Raises:
        ValueError: Only one class is present.
    """
    labels, scores, others = np.asarray(labels), np.asarray(scores), np.asarray(others)
    draws = _group_draws(labels, scores, groups, seed) - _group_draws(labels, others, groups, seed)
    value = float(roc_auc_score(labels, scores) - roc_auc_score(labels, others))
    return _figure(value, draws, labels, groups)


def _figure(
    value: float, draws: NDArray[np.float64], labels: NDArray[Any], groups: ArrayLike
) -> Figure:
    low, high = np.quantile(draws, [0.025, 0.975])
    cases, positives = len(labels), int(labels.sum())
    return Figure(value, float(low), float(high), cases, positives, len(np.unique(groups)))


def _group_draws(
    labels: NDArray[Any], scores: NDArray[Any], groups: ArrayLike, seed: int
) -> NDArray[np.float64]:
    """Measure the area for draws of whole groups, (``BOOTSTRAP_SAMPLES``,).

    A draw weighs each image by how often its group was drawn. The area is then the part of pairs
    of a positive and a negative that are in order, of equal scores half (Hanley and McNeil 1982):
    sums over the sorted scores, which NumPy forms for many draws at once: of 651 images, in 0.16 s
    where calling scikit-learn for each took 4.5 s. Which groups are drawn does not depend on the
    scores.

    Raises:
        ValueError: Only one class is present.
    """
    if not 0 < labels.sum() < len(labels):
        raise ValueError("the area under the ROC curve needs both classes")
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    is_positive, members = labels[order] == 1, members[order]
    _, starts = np.unique(scores[order], return_index=True)
    at_once = max(1, MOST_WEIGHTS // len(labels))
    draws: list[NDArray[np.float64]] = []
    missing = BOOTSTRAP_SAMPLES
    while missing > 0:
        drawn = rng.integers(len(names), size=(min(at_once, missing), len(names)))
        counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        weights = counts[:, members].astype(np.float64)
        positives = np.add.reduceat(weights * is_positive, starts, axis=1)
        negatives = np.add.reduceat(weights * ~is_positive, starts, axis=1)
        in_order = (positives * (np.cumsum(negatives, axis=1) - negatives / 2)).sum(axis=1)
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        draws.append(in_order[pairs > 0] / pairs[pairs > 0])  # a draw of one class has none
        missing -= len(draws[-1])
    return np.concatenate(draws)
