"""Figures, each with its number of cases and an interval."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from fracjax.figure import Figure

BOOTSTRAP_SAMPLES = 2000


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
    if not 0 < labels.sum() < len(labels):
        raise ValueError("the area under the ROC curve needs both classes")
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(members == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    while len(draws) < BOOTSTRAP_SAMPLES:
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        if 0 < labels[drawn].sum() < len(drawn):
            draws.append(roc_auc_score(labels[drawn], scores[drawn]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Figure(
        float(roc_auc_score(labels, scores)),
        float(low),
        float(high),
        len(labels),
        int(labels.sum()),
        len(names),
    )
