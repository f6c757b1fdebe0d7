"""What reading a file yields: a picture ready to render, or the reason there is none."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2**26
"""A larger picture is refused. 64 Mpx is one and a half times a stitched long-leg film (about
3,000 x 14,000); reading one takes some 26 bytes a pixel at its peak, here 1.6 GiB."""

SMALLEST_SIDE = 64
"""Pixels. A smaller picture is an icon, a thumbnail or a test pattern."""


class Reason(StrEnum):
    """Why a file was not scored. The values are stable: they stand in tables that users keep."""

    NOT_AN_IMAGE = "not_an_image"
    """Furniture of an export (DICOMDIR, viewer, text, report): expected, and no failure."""

    NOT_A_RADIOGRAPH = "not_a_radiograph"
    """A DICOM object of another kind (CT, MR, SR, PDF, ...): expected, and no failure."""

    DUPLICATE = "duplicate"
    """A second copy of a SOP instance that is already scored: expected, and no failure."""

    PREVIEW = "preview"
    """A plain image that shows what a DICOM file of the export holds: expected, and no failure."""

    LIKELY_PREVIEW = "likely_preview"
    """A plain image of a medium whose DICOM images were not read (CT, say), so that it cannot be
    compared with them: expected, and no failure."""

    OWN_RESULT = "own_result"
    """A result that this software wrote, come back in an export: expected, and no failure."""

    OUT_OF_SCOPE = "out_of_scope"
    """A radiograph of a body part that the model does not know, as its header says."""

    UNFAMILIAR = "unfamiliar"
    """A picture unlike those the model learned from, by its out-of-distribution score."""

    FOR_PROCESSING = "for_processing"
    """Raw detector values (PS3.3 C.8.11.1, Presentation Intent Type), not meant for display."""

    TOO_SMALL = "too_small"
    """A side of fewer than 64 pixels: an icon or a test pattern, no radiograph."""

    NO_WINDOW = "no_window"
    """No usable window or LUT, where the policy asks for one."""

    MULTI_FRAME = "multi_frame"
    """More frames than the policy takes for single exposures."""

    DAMAGED = "damaged"
    """The pixels decode, but the picture is torn, repeats itself or ends in grey."""

    NOT_A_FILE = "not_a_file"
    """A symbolic link, pipe or device: not opened, so that nothing outside the export is read."""

    UNREADABLE = "unreadable"
    """The file, folder or archive member could not be opened or read."""

    EMPTY = "empty"
    """The file holds no bytes."""

    CORRUPT = "corrupt"
    """The file announces itself as an image, but its header or pixels cannot be decoded."""

    TRUNCATED = "truncated"
    """The pixel data ends before the picture does."""

    UNSUPPORTED = "unsupported"
    """A valid image in a form this release does not read (an unknown transfer syntax, colour)."""

    FLAT = "flat"
    """Every pixel of the rendered picture has the same value."""

    TOO_LARGE = "too_large"
    """Decoding would take more memory than the limit allows."""

    DECODER_CRASHED = "decoder_crashed"
    """The process that decoded the file died."""

    DECODER_TIMEOUT = "decoder_timeout"
    """Decoding took longer than the limit allows."""

    @property
    def is_failure(self) -> bool:
        """Whether an image may have been lost, as against one that is not to be scored."""
        return self not in _FURNITURE | _TURNED_AWAY

    @property
    def concerns_study(self) -> bool:
        """Whether the study of such a file lacks a score for it, and has to say so."""
        return self not in _FURNITURE


_FURNITURE = frozenset(
    {
        Reason.NOT_AN_IMAGE,
        Reason.NOT_A_RADIOGRAPH,
        Reason.DUPLICATE,
        Reason.PREVIEW,
        Reason.LIKELY_PREVIEW,
        Reason.OWN_RESULT,
    }
)
"""What is no image of its own."""

_TURNED_AWAY = frozenset(
    {Reason.OUT_OF_SCOPE, Reason.UNFAMILIAR, Reason.FOR_PROCESSING, Reason.TOO_SMALL}
)
"""Why an image that can be read is not scored all the same."""


@dataclass(frozen=True, slots=True)
class Header:
    """The facts of a DICOM header that a worklist needs. Holds no name, birth date or patient ID.

    Text comes from known vocabularies, so that nobody's name can stand in it: a UID is a UID, a
    modality, view, laterality and body part are terms of the standard or synonyms of them. An
    absent, empty or unknown value is ``None``.
    """

    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    accession_number: str | None = None
    """As tagged; ``None`` where it repeats the patient's name, ID or birth date."""
    study_datetime: str | None = None
    """StudyDate and StudyTime as ISO 8601 without a zone, to the precision given."""
    acquisition_datetime: str | None = None
    """When the image was acquired, likewise."""
    modality: str | None = None
    body_part_tagged: str | None = None
    """BodyPartExamined as tagged, where it is a known term."""
    body_part: str | None = None
    """The body part as used, a :class:`fracjax.image.anatomy.BodyPart`."""
    body_part_source: str | None = None
    """The element that ``body_part`` was taken from."""
    view_position: str | None = None
    laterality: str | None = None
    transfer_syntax: str | None = None
    """Transfer syntax UID of the file, where the standard knows it."""
    patient_tag: int | None = None
    """16 bits of a digest of the patient ID, without regard to case: enough to tell two patients
    under one study UID apart, too few to find a patient by."""
    study_tag: int | None = None
    """32 bits of a digest of a StudyInstanceUID that is malformed, so that the images of such a
    study can be grouped without showing it; ``None`` where it is well-formed or absent."""
    accession_withheld: bool = False
    """Whether an accession number was left out because it repeats who the patient is."""
    has_pixels: bool = False
    """Whether there is a picture, read or not: of reports and presentation states there is none."""


class Rejected(Exception):
    """A file that yields no picture.

    Attributes:
        reason: Why.
        detail: One line, without identifiers.
        header: The facts of the DICOM header, where it could be read.
        frames: Number of frames that are set aside with it.
    """

    def __init__(
        self, reason: Reason, detail: str, header: Header | None = None, frames: int = 1
    ) -> None:
        super().__init__(reason, detail, header, frames)  # all, so that it survives pickling
        self.reason = reason
        self.detail = detail
        self.header = header
        self.frames = frames

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as a display would show it.

    Attributes:
        display: float32 (height, width) in 0..1; 0 is black and 1 is white (P-values, PS3.14).
        shape: Height and width of the file's picture, of which ``display`` may be a smaller one.
        header: Facts of the DICOM header; ``None`` for a plain image file.
        format: ``dicom``, ``jpeg``, ``png`` or ``tiff``.
        decoder: The library that decoded the pixels.
        voi_source: Where the grey scale came from: ``lut``, ``window``, ``percentile`` (of the
            exposed region), or ``none`` for a file that holds display values already.
        polarity_source: What decided which end is white: ``photometric`` (interpretation or
            presentation LUT shape), ``intensity_sign`` where the two conflict, or ``none`` for a
            plain image.
        frame: Which of several frames, from 1; ``None`` where there is but one.
        notes: What a reader of the score should know, as stable codes (``truncated_rows``).
    """

    display: NDArray[np.float32]
    shape: tuple[int, int]
    header: Header | None
    format: str
    decoder: str
    voi_source: str
    polarity_source: str
    frame: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pictures:
    """A file that is open: what is known of it before its pixels are decoded.

    Attributes:
        header: Facts of the DICOM header; ``None`` for a plain image file.
        frames: Number of outcomes.
        outcomes: One a frame, in order. A frame is decoded when it is asked for.
    """

    header: Header | None
    frames: int
    outcomes: Iterator[Picture | Rejected]

    def __iter__(self) -> Iterator[Picture | Rejected]:
        """Give the outcomes, once."""
        return self.outcomes
