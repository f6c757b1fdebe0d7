"""Labelled images through a model, exactly as any other image."""

from collections.abc import Callable, Sequence

import numpy as np

from fracjax import data
from fracjax.engine import Scorer, Scores


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
