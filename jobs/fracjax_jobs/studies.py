"""Which image belongs to which study, and what a study's images say together."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from fracjax.image import Header, Reason

MURA_STUDY = re.compile(r"XR_[A-Z]+/patient\d+/study\d+_(positive|negative)/[^/]+$")
"""A path in the layout of the MURA archive, where a folder is a study. Its label is not read."""


class GroupBy(StrEnum):
    """What makes plain images one study. DICOM files always go by their StudyInstanceUID."""

    STUDY = "study"
    """Each image is a study of its own, but for a folder of the MURA archive."""

    FOLDER = "folder"
    """All plain images in a folder are one study."""


@dataclass(slots=True)
class Study:
    """What is known of a study so far.

    Attributes:
        key: Its StudyInstanceUID, or the file key of its first image.
        header: Facts of its first DICOM image that had them.
    """

    key: str
    header: Header | None = None
    series: dict[str, None] = field(default_factory=dict)
    likelihoods: list[float] = field(default_factory=list)
    file_keys: list[str] = field(default_factory=list)
    sop_instance_uids: list[str | None] = field(default_factory=list)
    set_aside: list[Reason] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    @property
    def likelihood(self) -> float | None:
        """Mean of the likelihoods of its images, as in the MURA paper (arXiv:1712.06957, 3.1)."""
        return sum(self.likelihoods) / len(self.likelihoods) if self.likelihoods else None

    @property
    def order(self) -> list[int]:
        """Indices of its scored images, most likely first."""
        return sorted(range(len(self.likelihoods)), key=lambda i: -self.likelihoods[i])

    @property
    def top_file_key(self) -> str | None:
        """File key of its most likely image."""
        return self.file_keys[self.order[0]] if self.likelihoods else None

    def learn(self, header: Header | None) -> None:
        """Take up the facts of one more image's header."""
        if header is not None:
            self.header = self.header or header
            if header.series_instance_uid is not None:
                self.series[header.series_instance_uid] = None

    def row(self, rank: int | None, target: str, model_id: str) -> dict[str, Any]:
        """Give the study's row of the worklist (``docs/worklist.md``)."""
        header = self.header or Header()
        order = self.order
        return {
            "rank": rank,
            "status": "scored" if self.likelihoods else "not_scored",
            "likelihood": self.likelihood,
            "target": target,
            "study_key": self.key,
            "study_instance_uid": header.study_instance_uid,
            "accession_number": header.accession_number,
            "study_datetime": header.study_datetime,
            "modality": header.modality,
            "body_part": header.body_part,
            "series_instance_uids": list(self.series),
            "images_scored": len(self.likelihoods),
            "images_set_aside": len(self.set_aside),
            "image_likelihoods": [self.likelihoods[i] for i in order],
            "image_file_keys": [self.file_keys[i] for i in order],
            "top_sop_instance_uid": self.sop_instance_uids[order[0]] if order else None,
            "top_file_key": self.top_file_key,
            "set_aside_reasons": sorted({str(reason) for reason in self.set_aside}),
            "notes": sorted(self.notes),
            "model_id": model_id,
        }


def study_group(name: str, header: Header | None, group_by: GroupBy) -> str | None:
    """Name the study that an image belongs to.

    Args:
        name: The image's path within the export.
        header: Facts of its DICOM header; ``None`` for a plain image.
        group_by: The rule for images without a StudyInstanceUID.

    Returns:
        A name that images of one study share; ``None`` where the image is a study of its own.
    """
    if header is not None and header.study_instance_uid is not None:
        return f"uid:{header.study_instance_uid}"
    if group_by == GroupBy.FOLDER or MURA_STUDY.search(name):
        return f"folder:{PurePosixPath(name).parent}"
    return None


def rank(studies: Iterable[Study]) -> list[tuple[int | None, Study]]:
    """Put studies into the order of the worklist.

    A study that could not be scored has no rank, and stands before all others: a person must look
    at it, and at the end it would read as normal.

    Returns:
        Pairs of rank, from 1, and study; most likely first, ties by key.
    """
    unscored = sorted((s for s in studies if s.likelihood is None), key=lambda s: s.key)
    scored = sorted(
        (s for s in studies if s.likelihood is not None),
        key=lambda s: (-(s.likelihood or 0.0), s.key),
    )
    return [(None, study) for study in unscored] + list(enumerate(scored, start=1))
