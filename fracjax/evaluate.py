"""A model's figures on labelled images."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from fracjax import data, labels, metrics
from fracjax.engine import Scorer, Scores
from fracjax.figure import Figure

SMALLEST_CLASS = 10
"""Positives and negatives under which a subset gets no figure of its own."""


def predict(
    scorer: Scorer,
    images: Sequence[data.Example],
    change: data.Change = data.unchanged,
    report: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Score labelled images, exactly as any other image is scored.

    Args:
        scorer: Of the model.
        images: Labelled images, with their bytes.
        change: What to do to the pixels of each before that.
        report: Called now and then with how many are scored.

    Returns:
        In the order of ``images``.
    """
    batches = data.inputs(
        images,
        scorer.manifest.preprocess,
        batch_size=scorer.batch_size,
        change=change,
        report=report,
    )
    scored = [scorer.score(batch) for batch in batches]
    return Scores(
        np.concatenate([scores.likelihoods for scores in scored]),
        np.concatenate([scores.distances for scores in scored]),
        np.concatenate([scores.familiar for scores in scored]),
        np.concatenate([scores.others for scores in scored]),
    )


def overall(facts: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> dict[str, Figure]:
    """Measure the area under the ROC curve of studies and of images.

    Args:
        facts: Labelled images; their bytes are not needed.
        likelihoods: (n,), of their target.

    Returns:
        ``auroc_study``, over the mean likelihood of each study's images, where a study is positive
        if one of its images is; and ``auroc_image``.
    """
    targets = np.array([fact.label for fact in facts])
    groups = np.array([fact.group for fact in facts])
    _, first, members = np.unique(
        [fact.study_id for fact in facts], return_index=True, return_inverse=True
    )
    mean = np.bincount(members, likelihoods) / np.bincount(members)
    positive = (np.bincount(members, targets) > 0).astype(int)
    return {
        "auroc_study": metrics.auroc(positive, mean, groups[first]),
        "auroc_image": metrics.auroc(targets, likelihoods, groups),
    }


def cross_entropy(facts: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> float:
    """Measure the mean cross entropy of likelihoods (n,), in nats; both classes must be there."""
    return float(log_loss([fact.label for fact in facts], likelihoods.astype(np.float64)))


def figures(
    facts: Sequence[data.Example], scores: Scores, further: Sequence[str] = ()
) -> dict[str, Figure]:
    """Measure a model, and what may mislead.

    Args:
        facts: Labelled images; their bytes are not needed.
        scores: Of them, as :func:`predict` gives them.
        further: The labels that ``scores.others`` are of.

    Returns:
        Those of :func:`overall`; ``auroc_image_...`` of the images that are not truncated, those
        without metal, and those of each body part; and ``auroc_label_...`` of each further label.
        Where there are too few of a class, the figure is left out.
    """
    targets = np.array([fact.label for fact in facts])
    groups = np.array([fact.group for fact in facts])
    measured = overall(facts, scores.likelihoods)

    def measure(
        name: str, truth: NDArray[np.int_], values: NDArray[np.float32], chosen: NDArray[np.bool_]
    ) -> None:
        positives = int((truth[chosen] == 1).sum())
        if min(positives, int(chosen.sum()) - positives) >= SMALLEST_CLASS:
            measured[name] = metrics.auroc(truth[chosen], values[chosen], groups[chosen])

    subsets = {
        "auroc_image_not_truncated": np.array([not fact.truncated for fact in facts]),
        "auroc_image_without_metal": np.array([fact.hardware == 0 for fact in facts]),
    }
    parts = np.array([fact.body_part for fact in facts])
    known = sorted(set(parts.tolist()) - {""})
    subsets |= {f"auroc_image_{part}": parts == part for part in known}
    for name, chosen in subsets.items():
        measure(name, targets, scores.likelihoods, chosen)
    for label, values in zip(further, scores.others.T, strict=True):
        truth = np.array([labels.value(fact, label) for fact in facts])
        measure(f"auroc_label_{label}", truth, values, truth != labels.UNKNOWN)
    return measured
