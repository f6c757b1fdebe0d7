"""A model's figures on labelled images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fracjax import data, metrics
from fracjax.engine import Scorer, Scores
from fracjax.figure import Figure

SMALLEST_CLASS = 10
"""Positives and negatives under which a subset gets no figure of its own."""


def predict(
    scorer: Scorer, images: Sequence[data.Example], change: data.Change = data.unchanged
) -> Scores:
    """Score labelled images, exactly as any other image is scored.

    Args:
        scorer: Of the model.
        images: Labelled images, with their bytes.
        change: What to do to the pixels of each before that.

    Returns:
        In the order of ``images``.
    """
    batches = data.inputs(
        images, scorer.manifest.preprocess, batch_size=scorer.batch_size, change=change
    )
    scored = [scorer.score(batch) for batch in batches]
    return Scores(
        np.concatenate([scores.likelihoods for scores in scored]),
        np.concatenate([scores.distances for scores in scored]),
        np.concatenate([scores.familiar for scores in scored]),
    )


def figures(facts: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> dict[str, Figure]:
    """Measure the area under the ROC curve of images, of studies, and of what may mislead.

    Args:
        facts: Labelled images; their bytes are not needed.
        likelihoods: (n,), as :func:`predict` gives them.

    Returns:
        ``auroc_study`` over the mean likelihood of each study's images; ``auroc_image``; and of
        the images, those that are not truncated, those without metal, and those of each body part
        with enough of both classes.
    """
    labels = np.array([fact.label for fact in facts])
    groups = np.array([fact.group for fact in facts])
    _, first, members = np.unique(
        [fact.study_id for fact in facts], return_index=True, return_inverse=True
    )
    mean = np.bincount(members, likelihoods) / np.bincount(members)
    measured = {
        "auroc_study": metrics.auroc(labels[first], mean, groups[first]),
        "auroc_image": metrics.auroc(labels, likelihoods, groups),
    }
    subsets = {
        "auroc_image_not_truncated": np.array([not fact.truncated for fact in facts]),
        "auroc_image_without_metal": np.array([fact.hardware == 0 for fact in facts]),
    }
    parts = np.array([fact.body_part for fact in facts])
    subsets |= {f"auroc_image_{part}": parts == part for part in sorted(set(parts.tolist()))}
    for name, chosen in subsets.items():
        positives = labels[chosen].sum()
        if min(positives, chosen.sum() - positives) >= SMALLEST_CLASS:
            measured[name] = metrics.auroc(labels[chosen], likelihoods[chosen], groups[chosen])
    return measured
