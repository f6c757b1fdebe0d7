"""Real radiographs that engines must agree on, before any of them is believed.

An engine that computes something else computes it of every picture, and says nothing: a converter
that drops a padding, a library that was built for another processor. So each is asked about a few
pictures whose answers are known. The pictures are of FracAtlas (see ``NOTICE.md``), made small.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess
from fracjax.errors import ExportError
from fracjax.image import network_input, read_picture

FOLDER = Path(__file__).parent / "pictures"

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Likelihoods (n, outputs) and features (n, d) of n pictures."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far two engines may differ.

    Attributes:
        likelihood: Of any likelihood, at most.
        features: Of any feature, as a part of the largest of its picture.
    """

    likelihood: float
    features: float


ALLOWED = Bounds(1e-4, 1e-4)

ALLOWED_IN_INTEGERS = Bounds(0.02, 0.03)
"""Of 8-bit integers: where two engines round one of many sums otherwise, all after it differs."""


def pictures(preprocess: Preprocess) -> NDArray[np.float32]:
    """Read the pictures: float32 (n, size, size) in 0..1."""
    files = sorted(FOLDER.glob("*.jpg"))
    displays = [read_picture(file.read_bytes()).display for file in files]
    return np.stack([network_input(display, preprocess) for display in displays])


def check(given: Answers, wanted: Answers, who: str, allowed: Bounds = ALLOWED) -> Bounds:
    """Make sure that answers about the pictures are those that are known.

    Args:
        given: What an engine says.
        wanted: What it should say.
        who: The engine, in words.
        allowed: How far they may differ.

    Returns:
        How far they differ.

    Raises:
        ExportError: They differ by more than is allowed.
    """
    likelihood, features = (np.abs(one - other) for one, other in zip(given, wanted, strict=True))
    largest = np.abs(wanted[1]).max(axis=1, keepdims=True)
    found = Bounds(float(likelihood.max()), float((features / largest).max()))
    # Written so that a NaN is refused.
    way_out = "--engine xla" if allowed == ALLOWED else "the bundle in float32 that it lies in"
    if not (found.likelihood <= allowed.likelihood and found.features <= allowed.features):
        raise ExportError(
            f"{who} does not say of {len(largest)} known radiographs what it should: likelihoods "
            f"differ by up to {found.likelihood:.2g} ({allowed.likelihood:g} is allowed), features "
            f"by {found.features:.2g} of the largest ({allowed.features:g} is allowed); give "
            f"{way_out}, and report it"
        )
    return found
