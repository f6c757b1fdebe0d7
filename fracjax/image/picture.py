"""What reading a file yields: a picture ready to render, or the reason there is none."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2**26
"""A larger picture is refused. 64 Mpx is one and a half times a stitched long-leg film (about
3,000 x 14,000); reading one takes some 26 bytes a pixel at its peak, here 1.6 GiB."""


class Reason(StrEnum):
    """Why a file was not scored. The values are stable: they stand in tables that users keep."""

    NOT_AN_IMAGE = "not_an_image"
    """Furniture of an export (DICOMDIR, viewer, text, report): expected, and no failure."""

    NOT_A_RADIOGRAPH = "not_a_radiograph"
    """A DICOM object of another kind (CT, MR, SR, PDF, ...): expected, and no failure."""

    DUPLICATE = "duplicate"
    """A second copy of a SOP instance that is already scored: expected, and no failure."""

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
    """A valid image in a form this release does not score (multi-frame, unknown syntax)."""

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
        """Whether an image may have been lost, as against something that never was one."""
        return self not in (Reason.NOT_AN_IMAGE, Reason.NOT_A_RADIOGRAPH, Reason.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Header:
    """The facts of a DICOM header that a worklist needs. Holds no name, birth date or patient ID.

    Text fields are stripped; an absent or empty value is ``None``.
    """

    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    accession_number: str | None = None
    study_datetime: str | None = None
    """StudyDate and StudyTime as ISO 8601 without a zone, to the precision given."""
    modality: str | None = None
    body_part: str | None = None
    """BodyPartExamined as tagged."""
    view_position: str | None = None
    laterality: str | None = None
    transfer_syntax: str | None = None
    """Transfer syntax UID of the file."""


class Rejected(Exception):
    """A file that yields no picture.

    Attributes:
        reason: Why.
        detail: One line, without identifiers.
        header: The facts of the DICOM header, where it could be read.
    """

    def __init__(self, reason: Reason, detail: str, header: Header | None = None) -> None:
        super().__init__(reason, detail, header)  # all, so that it survives pickling
        self.reason = reason
        self.detail = detail
        self.header = header

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as a display would show it.

    Attributes:
        display: float32 (height, width) in 0..1; 0 is black and 1 is white (P-values, PS3.14).
        header: Facts of the DICOM header; ``None`` for a plain image file.
        format: ``dicom``, ``jpeg``, ``png`` or ``tiff``.
        decoder: The library that decoded the pixels.
        voi_source: Where the grey scale came from: ``lut``, ``window``, ``full_range``, or
            ``none`` for a file that holds display values already.
        notes: What a reader of the score should know, as stable codes (``truncated_rows``).
    """

    display: NDArray[np.float32]
    header: Header | None
    format: str
    decoder: str
    voi_source: str
    notes: tuple[str, ...] = ()
