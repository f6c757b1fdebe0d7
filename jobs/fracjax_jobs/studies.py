"""Which image belongs to which study, what a study's images say together, and their order."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fracjax.image import Header, Reason, reduced
from fracjax_jobs.account import Account, Record
from fracjax_jobs.state import Image

MURA_STUDY = re.compile(r"XR_[A-Z]+/patient\d+/study\d+_(positive|negative)/[^/]+$")
"""A path in the layout of the MURA archive, where a folder is a study. Its label is not read."""

COPY_TOLERANCE = 8
"""Grey levels of 255 by which any cell of the thumbnails of two copies may differ, one of them
compressed with loss."""

MOST_PICTURES = 64
"""Different pictures under one SOPInstanceUID that others are compared with. A device that gives
all its images one UID makes more."""


_Identity: TypeAlias = tuple[str | bytes, int | None]
"""Of an image: SOP instance UID and frame; or the digest of its picture."""


_PREVIEWS = {
    Reason.PREVIEW: "a picture of what a DICOM file of the export holds",
    Reason.LIKELY_PREVIEW: "on a medium with as many DICOM images that were set aside unseen",
}
"""What is said of plain images that are not scored."""


class GroupBy(StrEnum):
    """What makes plain images one study. DICOM files always go by their StudyInstanceUID."""

    STUDY = "study"
    """Each image is a study of its own, but for a folder of the MURA archive."""

    FOLDER = "folder"
    """All plain images in a folder are one study."""


class Band(StrEnum):
    """What kind of place a study has in the worklist. The values are stable.

    They are in the order of reading: what has no score stands before all that has, since at the
    end it would read as normal.
    """

    NOT_SCORED = "not_scored"
    """It has images, but none could be scored: a person must look."""

    UNFAMILIAR = "unfamiliar"
    """Its pictures are unlike those the model learned from: a person must look."""

    OUT_OF_SCOPE = "out_of_scope"
    """Its headers name body parts that the model does not know."""

    RANKED = "ranked"
    """At least one image has a likelihood."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An image's account as it counts beside the others of its study.

    Attributes:
        image: The image.
        reason: Why it is set aside; ``None`` where it counts towards the likelihood.
        detail: The reason, in one line.
        is_lost: Whether nothing else of the export shows what could not be read here.
        concerns_study: Whether it is one of the study's images, and not one more file of such an
            image.
        notes: What a reader of the score should know, as stable codes.
    """

    image: Image
    reason: Reason | None
    detail: str | None
    is_lost: bool
    concerns_study: bool
    notes: tuple[str, ...]

    @property
    def account(self) -> Account:
        """The image's account."""
        return self.image.record.account

    @property
    def raw_likelihood(self) -> float | None:
        """Of this image; ``None`` where it is set aside."""
        return self.account.likelihood if self.reason is None else None


@dataclass(frozen=True, slots=True)
class Study:
    """What a study's images say together.

    Attributes:
        images: Its images, in the order of the walk.
        several_patients: Whether its StudyInstanceUID stands for several patients, of whom this is
            one.
    """

    images: tuple[Outcome, ...]
    several_patients: bool = False

    @property
    def scored(self) -> list[Outcome]:
        """Its scored images, most likely first."""
        scored = [image for image in self.images if image.raw_likelihood is not None]
        return sorted(scored, key=lambda image: -(image.raw_likelihood or 0.0))

    @property
    def set_aside(self) -> list[Reason]:
        """Why the other images have no score."""
        return [image.reason for image in self.images if image.reason is not None]

    @property
    def raw_likelihood(self) -> float | None:
        """Mean of the raw likelihoods of its images, as MURA does (arXiv:1712.06957, 3.1).

        As precise as the table has it, so that a threshold that was found there parts it alike.
        """
        likelihoods = [
            image.raw_likelihood for image in self.images if image.raw_likelihood is not None
        ]
        return float(np.float32(np.mean(likelihoods))) if likelihoods else None

    @property
    def band(self) -> Band:
        """Its place. Of several reasons, the one that calls loudest for a person."""
        if self.raw_likelihood is not None:
            return Band.RANKED
        reasons = set(self.set_aside)
        if reasons - {Reason.UNFAMILIAR, Reason.OUT_OF_SCOPE}:
            return Band.NOT_SCORED
        return Band.UNFAMILIAR if Reason.UNFAMILIAR in reasons else Band.OUT_OF_SCOPE

    @property
    def headers(self) -> list[Header]:
        """What its DICOM headers say."""
        headers = [image.account.header for image in self.images]
        return [header for header in headers if header is not None]

    def waiting_since(self, zone: tzinfo | None) -> datetime:
        """Since when it waits to be read: when it was acquired, or else when its file was written.

        Args:
            zone: Of the place, where its header gives no time.

        Returns:
            Local time without a zone, as DICOM gives it.
        """
        tagged = [header.acquisition_datetime or header.study_datetime for header in self.headers]
        times = [datetime.fromisoformat(time) for time in tagged if time is not None]
        written = min(image.image.written for image in self.images)
        return min(times) if times else datetime.fromtimestamp(written, zone).replace(tzinfo=None)

    def is_overdue(self, reference: datetime, max_wait: timedelta | None) -> bool:
        """Whether it is ranked, and has waited longer than ``max_wait``.

        Args:
            reference: The time at which this is asked, with the zone of the place.
            max_wait: ``None`` for any wait.
        """
        if max_wait is None or self.band != Band.RANKED:
            return False
        now = reference.replace(tzinfo=None)
        return now - self.waiting_since(reference.tzinfo) > max_wait


def study_group(name: str, folder: str, header: Header | None, group_by: GroupBy) -> str | None:
    """Name the study that an image belongs to.

    Args:
        name: The image's path within the export.
        folder: A name for its folder that does not tell it.
        header: Facts of its DICOM header; ``None`` for a plain image.
        group_by: The rule for images without a StudyInstanceUID.

    Returns:
        A name that images of one study share; ``None`` where the image is a study of its own.
    """
    if header is not None and header.study_instance_uid is not None:
        return f"uid:{header.study_instance_uid}"
    if header is not None and header.study_tag is not None:  # a UID that is none
        return f"tag:{header.study_tag}"
    if header is not None and header.sop_instance_uid is not None:  # with its copies
        return f"instance:{header.sop_instance_uid}"
    if group_by == GroupBy.FOLDER or MURA_STUDY.search(name):
        return f"folder:{folder}"
    return None


def split_patients(images: Sequence[Image]) -> list[list[Image]]:
    """Part images that share a study UID, but not a patient: a likelihood is never of two people.

    Images that name no patient go with the one that the others name, if there is but one.
    """
    by_tag: dict[int | None, list[Image]] = {}
    for image in images:
        header = image.record.account.header
        by_tag.setdefault(header.patient_tag if header else None, []).append(image)
    return [list(images)] if len(by_tag.keys() - {None}) <= 1 else list(by_tag.values())


def resolve(
    images: Sequence[Image],
    *,
    preview: Callable[[Image], Reason | None],
    is_reused: Callable[[str], bool],
) -> list[Outcome]:
    """Decide what each image of a study counts for, beside the others.

    Of the copies of a SOP instance, as in two places or two transfer syntaxes, the first counts.
    Other pictures of the same UID count all, since who mislabelled them is unknown, with a note.
    What bears no UID is known by its picture.

    Args:
        images: Images of one study, in the order of the walk.
        preview: Why a plain image is taken for the preview of a DICOM image; ``None`` if it is not.
        is_reused: Whether images of other studies or patients bear a SOP instance UID, too.
    """
    pictures: dict[_Identity, _Pictures] = {}
    unread: set[_Identity] = set()
    outcomes = []
    for image in images:
        record, identity = image.record, _identity(image)
        known = pictures.setdefault(identity, _Pictures()) if identity else _Pictures()
        reason, detail, notes = record.account.reason, record.account.detail, record.account.notes
        if record.thumbnail is not None:
            original = known.original(record)
            if original is not None:
                reason, detail = Reason.DUPLICATE, "another copy of this image counts"
                notes += ("copy_differs",) if _differs(record, original) else ()
            elif record.account.header is None and (found := preview(image)) is not None:
                reason, detail = found, _PREVIEWS[found]
            else:
                known.add(record)
        is_lost = reason is not None and reason.is_failure
        concerns_study = reason is None or reason.concerns_study
        if record.thumbnail is None and identity is not None:
            if identity in unread:  # of copies that fail alike, one counts
                is_lost = concerns_study = False
                notes += ("copy_unread",)
            unread.add(identity)
        outcomes.append(Outcome(image, reason, detail, is_lost, concerns_study, notes))
    # What became of the other images of an instance shows when all are known.
    read = {uid for (uid, _), known in pictures.items() if len(known)}
    return [_beside(outcome, pictures, read, is_reused) for outcome in outcomes]


class _Pictures:
    """The different pictures of one identity, in the order of the walk."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes | None, Record] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def original(self, record: Record) -> Record | None:
        """Find the picture that a record is a copy of."""
        exact = self._by_digest.get(record.digest)
        if exact is not None:
            return exact
        others = islice(self._by_digest.values(), MOST_PICTURES)
        return next((other for other in others if same_picture(record, other)), None)

    def add(self, record: Record) -> None:
        """Take up a picture that is a copy of none."""
        self._by_digest[record.digest] = record


def _beside(
    outcome: Outcome,
    pictures: Mapping[_Identity, _Pictures],
    read: Set[str | bytes],
    is_reused: Callable[[str], bool],
) -> Outcome:
    """Note what the other images of the same instance mean for one."""
    identity = _identity(outcome.image)
    if identity is None:
        return outcome
    # An account of a whole file has no frame, while those of its copy may have.
    is_read = len(pictures[identity]) > 0 or (identity[1] is None and identity[0] in read)
    if not is_read:
        return outcome
    if outcome.image.record.thumbnail is None:
        if outcome.reason is None or not outcome.reason.is_failure:
            return outcome
        notes = tuple(note for note in outcome.notes if note != "copy_unread")
        return replace(outcome, is_lost=False, concerns_study=False, notes=(*notes, "copy_read"))
    is_other = len(pictures[identity]) > 1 or (
        isinstance(identity[0], str) and is_reused(identity[0])
    )
    if outcome.reason != Reason.DUPLICATE and is_other:
        return replace(outcome, notes=(*outcome.notes, "uid_reused"))
    return outcome


def _differs(record: Record, original: Record) -> bool:
    """Whether a copy has other pixels, where all of both were decoded."""
    decoders = {each.account.decoder for each in (record, original)}
    is_known = len(decoders) == 1 or reduced.LIBRARY not in decoders
    return is_known and record.digest != original.digest


def same_picture(record: Record, other: Record) -> bool:
    """Whether two records are of one picture, but for lossy compression."""
    difference = _levels(record) - _levels(other)
    return bool(np.abs(difference).max() <= COPY_TOLERANCE)


def _levels(record: Record) -> NDArray[np.float64]:
    return np.frombuffer(record.thumbnail or b"", np.uint8).astype(np.float64)


def _identity(image: Image) -> _Identity | None:
    account = image.record.account
    uid = account.header.sop_instance_uid if account.header else None
    if uid is None and image.record.digest is None:
        return None
    return (image.record.digest or b"", None) if uid is None else (uid, account.frame)
