"""What is known of images, as the labels that a network learns and the weights that they have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Loss
from fracjax.errors import DataError

if TYPE_CHECKING:
    from fracjax.data import Example

BODY_PART = "body_part:"
"""Begins the label that a picture shows a body part."""

UNKNOWN = -1


def value(example: "Example", label: str) -> int:
    """Tell what an image says of a label.

    Args:
        example: The image; its bytes are not needed.
        label: The image's target; ``hardware``; ``body_part:NAME``; or a finding. What is not
            among an image's findings is absent.

    Returns:
        1, 0, or :data:`UNKNOWN`.
    """
    if label == example.target:
        return example.label
    if label == "hardware":
        return example.hardware
    if label.startswith(BODY_PART):
        parts = example.body_part.split("+")
        return int(label.removeprefix(BODY_PART) in parts) if example.body_part else UNKNOWN
    return int(label in example.findings)


def known(facts: Sequence["Example"], labels: Sequence[str]) -> NDArray[np.int8]:
    """Tell what images say of several labels, as :func:`value` does; int8 (n, labels).

    Raises:
        DataError: A label is not both present and absent, so that nothing can be learned of it.
    """
    table = np.array([[value(fact, label) for label in labels] for fact in facts], np.int8)
    table = table.reshape(len(facts), len(labels))
    for column, label in enumerate(labels):
        if not {0, 1} <= set(table[:, column].tolist()):
            names = sorted(
                {"hardware"}
                | {finding for fact in facts for finding in fact.findings}
                | {BODY_PART + part for fact in facts for part in fact.body_part.split("+") if part}
            )
            raise DataError(
                f"the training images do not hold both classes of {label!r}; "
                f"they know of {', '.join(names)}"
            )
    return table


def weights(
    table: NDArray[np.int8], body_parts: Sequence[str], config: Loss
) -> NDArray[np.float32]:
    """Weigh labels as :mod:`fracjax.losses` takes them.

    Args:
        table: int8 (n, outputs) of 1, 0 and :data:`UNKNOWN`; the first output is the target.
        body_parts: n names.
        config: How rare classes are made up for.

    Returns:
        float32 (n, outputs, 2).
    """
    weighed = np.stack([table == 0, table == 1], axis=-1).astype(np.float32)
    counts = weighed.sum(axis=0)
    if config.weights != "none":
        weighed *= counts.sum(axis=1, keepdims=True) / (2 * counts)
    if config.weights == "mura":
        names = np.array(body_parts)
        for name in set(names.tolist()):
            rows = names == name
            negatives, positives = (
                int((table[rows, 0] == 0).sum()),
                int((table[rows, 0] == 1).sum()),
            )
            shares = np.array([positives, negatives], np.float32) / max(1, negatives + positives)
            weighed[rows, 0] = shares * np.stack(
                [table[rows, 0] == 0, table[rows, 0] == 1], axis=-1
            )
    return weighed
