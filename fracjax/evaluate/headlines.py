"""The few figures that choose an epoch, and that a bundle carries along."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from fracjax import data, labels
from fracjax.engine import Scores
from fracjax.errors import DataError
from fracjax.evaluate import cases, measuring
from fracjax.figure import Figure
from fracjax.metrics import Bounded, Sample, measure, ranking


def overall(facts: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> dict[str, Figure]:
    """Measure the area under the ROC curve of studies and of images.

    Args:
        facts: Labelled images; their bytes are not needed.
        likelihoods: (n,), of their target.

    Returns:
        ``auroc_study``, over the mean likelihood of each study's images, where a study is positive
        if one of its images is; and ``auroc_image``.

    Raises:
        DataError: They are of one class, or one class is of one group.
    """
    images = cases.of_images(facts, likelihoods)
    studies = cases.of_studies(images, [fact.study_id for fact in facts])
    measured = {}
    for level in (studies, images):
        figure = measure(measuring.RANKING["auroc"], level.sample)
        if not isinstance(figure, Figure):
            raise DataError(f"nothing can be measured ({figure}); choose more images")
        measured[f"auroc_{level.level}"] = figure
    return measured


def cross_entropy(facts: Sequence[data.Example], likelihoods: NDArray[np.float32]) -> float:
    """Measure the mean cross entropy of likelihoods (n,), in nats; both classes must be there."""
    return float(log_loss([fact.label for fact in facts], likelihoods.astype(np.float64)))


def figures(
    facts: Sequence[data.Example], scores: Scores, further: Sequence[str] = ()
) -> dict[str, Figure]:
    """Measure a model, and what may mislead.

    Args:
        facts: Labelled images; their bytes are not needed.
        scores: Of them, as :func:`fracjax.evaluate.predict` gives them.
        further: The labels that ``scores.others`` are of.

    Returns:
        Those of :func:`overall`; ``sensitivity_at_90_specificity_study``; ``auroc_image_...`` over
        pairs of one body part, of the images that are not truncated, those without metal, and those
        of each body part; and ``auroc_label_...`` of each further label. Where there are too few of
        a class, the figure is left out.
    """
    images = cases.of_images(facts, scores.likelihoods)
    studies = cases.of_studies(images, [fact.study_id for fact in facts])
    parts = images.traits["body_part"]
    measured: dict[str, Figure] = overall(facts, scores.likelihoods)

    def add(name: str, sample: Sample, bounded: Bounded) -> None:
        positives = int(sample.labels.sum())
        if min(positives, len(sample) - positives) >= measuring.SMALLEST_CLASS:
            figure = measure(bounded, sample)
            if isinstance(figure, Figure):
                measured[name] = figure

    at_90, area = "sensitivity_at_90_specificity", measuring.RANKING["auroc"]
    add(f"{at_90}_study", studies.sample, measuring.RANKING[at_90])
    _, strata = np.unique(parts, return_inverse=True)
    add("auroc_image_within_body_part", images.sample, Bounded(ranking.within(strata)))
    subsets = {
        "not_truncated": images.traits["file"] == "whole",
        "without_metal": images.traits["hardware"] == "no",
        **{part: parts == part for part in sorted(set(parts.tolist()) - {""})},
    }
    for name, chosen in subsets.items():
        add(f"auroc_image_{name}", images.sample.chosen(chosen), area)
    for label, values in zip(further, scores.others.T, strict=True):
        truth = np.array([labels.value(fact, label) for fact in facts])
        known = truth != labels.UNKNOWN
        sample = Sample.of(truth[known], values[known], images.sample.groups[known])
        add(f"auroc_label_{label}", sample, area)
    return measured
