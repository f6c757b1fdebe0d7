"""Scored images as cases: the study is the unit, and the image beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fracjax.data import Example
from fracjax.labels import UNKNOWN
from fracjax.metrics import Sample

Level = Literal["study", "image"]

Aggregation = Literal["mean", "max", "noisy_or"]
"""How the likelihoods of a study's images become the study's.

``mean`` is what the worklist ranks by (Rajpurkar et al., arXiv:1712.06957, 3.1); ``noisy_or`` is 1
minus the product of 1 - likelihood.
"""

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

YES_NO = {0: "no", 1: "yes", UNKNOWN: ""}

Texts = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Cases:
    """Labelled cases with their raw likelihoods, and what they may be told apart by.

    Attributes:
        level: What a case is.
        sample: Labels, raw likelihoods and groups.
        traits: For each trait, the value of each case; empty where unknown.
    """

    level: Level
    sample: Sample
    traits: Mapping[str, Texts]

    def subsets(self) -> dict[str, NDArray[np.bool_]]:
        """Give the cases that share a value of a trait, as ``trait: value``, unless all do."""
        found = {}
        for trait, values in self.traits.items():
            for value in sorted(set(values.tolist()) - {""}):
                chosen = values == value
                if not chosen.all():
                    found[f"{trait}: {value}"] = chosen
        return found


def of_images(facts: Sequence[Example], likelihoods: NDArray[np.float32]) -> Cases:
    """Take each image for a case.

    Args:
        facts: Labelled images; their bytes are not needed.
        likelihoods: (n,), raw, of their target.
    """
    traits = {
        "body_part": [fact.body_part for fact in facts],
        "view": [fact.view for fact in facts],
        "hardware": [YES_NO[fact.hardware] for fact in facts],
        "file": ["truncated" if fact.truncated else "whole" for fact in facts],
    }
    if any("cast" in fact.findings for fact in facts):  # a data set that labels casts
        traits["cast"] = ["yes" if "cast" in fact.findings else "no" for fact in facts]
    return Cases(
        "image",
        Sample.of([fact.label for fact in facts], likelihoods, [fact.group for fact in facts]),
        {name: np.array(values, np.str_) for name, values in traits.items()},
    )


def of_studies(images: Cases, studies: Sequence[str], aggregation: Aggregation = "mean") -> Cases:
    """Put images together to studies.

    A study is positive if one of its images is. It has a trait's values of all its images.

    Args:
        images: The images.
        studies: The study of each.
        aggregation: How likelihoods become one.
    """
    sample = images.sample
    _, first, members = np.unique(studies, return_index=True, return_inverse=True)
    traits = {}
    for name, values in images.traits.items():
        shown: list[set[str]] = [set() for _ in first]
        for study, value in zip(members.tolist(), values.tolist(), strict=True):
            shown[study] |= {value} - {""}
        traits[name] = np.array([_together(values) for values in shown], np.str_)
    return Cases(
        "study",
        Sample(
            (np.bincount(members, sample.labels) > 0).astype(np.int_),
            aggregate(sample.scores, members, aggregation),
            sample.groups[first],
        ),
        traits,
    )


def aggregate(
    likelihoods: NDArray[np.float64], members: NDArray[np.int_], aggregation: Aggregation
) -> NDArray[np.float64]:
    """Put likelihoods of images together to those of studies.

    Args:
        likelihoods: (n,), 0..1.
        members: (n,), the study of each, from 0, of which none is empty.
        aggregation: The way.

    Returns:
        (studies,), 0..1.
    """
    if aggregation == "mean":
        return np.asarray(np.bincount(members, likelihoods) / np.bincount(members), np.float64)
    combined = np.zeros(int(members.max()) + 1)
    if aggregation == "max":
        np.maximum.at(combined, members, likelihoods)
        return combined
    combined[:] = 1
    np.multiply.at(combined, members, 1 - likelihoods)
    return 1 - combined


def _together(values: set[str]) -> str:
    """Name what a study's images show; of yes and no, it is yes."""
    if values == {"yes", "no"}:
        return "yes"
    return "+".join(sorted(values))
