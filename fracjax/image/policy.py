"""Which DICOM objects count as radiographs, and what becomes of the doubtful ones."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from pydicom.uid import (  # type: ignore[attr-defined]  # the dictionary is not exported
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UID_dictionary,
)

from fracjax.errors import UsageError
from fracjax.image.anatomy import BodyPart
from fracjax.image.header import MODALITIES

Action = Literal["score", "set_aside"]


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What is read as a radiograph. A score depends on it, so a worklist names the one it used.

    A term that is not known raises ``UsageError``, instead of setting images aside without a word.
    Modalities may be in lower case, and an empty one is none.

    Attributes:
        modalities: Of radiographs.
        secondary_modalities: Taken where the picture is grey: converters write radiographs as
            secondary captures, often DERIVED.
        without_modality: Whether an object that names no modality, or one that nobody has defined,
            may be a radiograph.
        sop_classes: The only standard SOP classes that are read. A private or absent class does
            not decide.
        result_makers: Manufacturers whose objects are results written back, never acquired images.
        body_parts: Terms of :class:`fracjax.image.anatomy.BodyPart` that are scored; an image that
            names none may be of any. Empty: all.
        for_processing: What becomes of raw detector values. Scored, they go through a logarithm
            and a percentile window, with a note.
        without_window: What becomes of an image whose header has no usable window or LUT. Scored,
            it is shown by percentiles of its exposed region.
        max_frames: Frames of one object that are taken for as many exposures. An object of more
            is set aside whole: never is one frame scored for all.
        full_resolution: Whether all pixels are decoded where the file holds a smaller picture
            that would do. It takes several times as long, and likelihoods differ a little.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "DR", "RG")
    secondary_modalities: tuple[str, ...] = ("SC", "OT")
    without_modality: bool = True
    sop_classes: tuple[str, ...] = (
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    )
    result_makers: tuple[str, ...] = ("fracjax",)
    body_parts: tuple[str, ...] = ()
    for_processing: Action = "set_aside"
    without_window: Action = "score"
    max_frames: int = 4
    full_resolution: bool = False

    def __post_init__(self) -> None:
        for field in ("modalities", "secondary_modalities"):
            upper = tuple(term.upper() for term in getattr(self, field) if term)
            object.__setattr__(self, field, upper)
            _check_terms(field, upper, MODALITIES)
        _check_terms("body_parts", self.body_parts, frozenset(BodyPart))
        _check_terms("sop_classes", self.sop_classes, _SOP_CLASSES)
        if self.max_frames < 1:
            raise UsageError(f"max_frames={self.max_frames} is not usable; give 1 or more")


_SOP_CLASSES = frozenset(uid for uid in UID_dictionary if UID(uid).type == "SOP Class")


def _check_terms(field: str, terms: tuple[str, ...], known: frozenset[str]) -> None:
    for term in terms:
        if term not in known:
            nearest = ", ".join(get_close_matches(term, sorted(known), cutoff=0))
            raise UsageError(f"{field}={term!r} is not a known term; the nearest are {nearest}")
