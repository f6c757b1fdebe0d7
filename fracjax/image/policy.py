"""Which DICOM objects count as radiographs, and what becomes of the doubtful ones."""

from dataclasses import dataclass
from typing import Literal

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

Action = Literal["score", "set_aside"]


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What is read as a radiograph. A score depends on it, so a worklist names the one it used.

    Attributes:
        modalities: Of radiographs.
        secondary_modalities: Taken where the picture is grey: converters write radiographs as
            secondary captures, often DERIVED.
        without_modality: Whether an object that names no modality may be a radiograph.
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
