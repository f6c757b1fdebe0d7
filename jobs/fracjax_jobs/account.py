"""The outcome of one file or frame, as a run keeps it."""

from dataclasses import dataclass

from fracjax.image import Header, Reason


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a file, or of one frame of it.

    Attributes:
        frame: Which of several frames, from 1; ``None`` where it speaks for the whole file.
        frames: Frames that it speaks for.
        reason: Why it was set aside; ``None`` where it was scored.
        detail: The reason, in one line without identifiers.
        header: Facts of the DICOM header; ``None`` for a plain image, or none at all.
        format: ``dicom``, ``jpeg``, ``png`` or ``tiff``; this and the next three are ``None``
            where no picture could be read.
        decoder: The library that decoded the pixels.
        voi_source: Where the grey scale came from.
        polarity_source: What decided which end is white.
        notes: What a reader of the score should know, as stable codes.
        likelihood: 0..1, of what the model's target names; ``None`` where set aside.
        distance: How unlike the pictures that the model learned from, in the unit of the model's
            gate; ``None`` where no picture could be read.
        scored_at: When, in UTC, ISO 8601; ``None`` where no picture could be read.
    """

    frame: int | None = None
    frames: int = 1
    reason: Reason | None = None
    detail: str | None = None
    header: Header | None = None
    format: str | None = None
    decoder: str | None = None
    voi_source: str | None = None
    polarity_source: str | None = None
    notes: tuple[str, ...] = ()
    likelihood: float | None = None
    distance: float | None = None
    scored_at: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An account, with what its picture is recognised by.

    Attributes:
        account: The outcome.
        study: A name that images of one study share; ``None`` for what is of no study.
        thumbnail: 16 x 16 grey levels; this and the next are ``None`` where no picture was read.
        digest: SHA-256 of the network's input.
    """

    account: Account
    study: str | None = None
    thumbnail: bytes | None = None
    digest: bytes | None = None
