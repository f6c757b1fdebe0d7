"""Reads one DICOM object into a picture, or says why it yields none.

The bytes may come from anywhere. Whatever is in them, the outcome is a ``Picture`` or a
``Rejected``, nothing of the header reaches stderr or a message, and memory stays bounded.
"""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_has_tag
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from fracjax.image import codecs, grayscale, header, presentation
from fracjax.image.picture import MAX_PIXELS, Header, Picture, Reason, Rejected

MAX_BYTES = 4 * MAX_PIXELS
"""Larger pixel data, or a larger deflated object, is refused before it takes up memory."""

_SECONDARY_CAPTURE = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})


@dataclass(frozen=True, slots=True)
class RadiographPolicy:
    """Which DICOM objects count as radiographs."""

    modalities: frozenset[str] = frozenset({"CR", "DX", "DR", "RG"})
    secondary_modalities: frozenset[str] = frozenset({"SC", "OT"})
    """Taken where grey: converters write radiographs as secondary captures, often DERIVED."""
    without_modality: bool = True
    """Whether an object that names no modality may be a radiograph."""
    sop_classes: frozenset[str] = _SECONDARY_CAPTURE | {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
    }
    """The only standard SOP classes that are read. A private or absent class does not decide."""
    result_makers: frozenset[str] = frozenset({"fracjax"})
    """Manufacturers whose objects are results written back, never acquired images."""


RADIOGRAPHS = RadiographPolicy()

codecs.register()


def looks_like_dicom(data: bytes) -> bool:
    """Whether ``data`` starts as a DICOM file does, with or without a preamble (PS3.10 7.1)."""
    if data[128:132] == b"DICM":
        return True
    return _plausible_element(data, "little") or _plausible_element(data, "big")


def read_dicom(data: bytes, policy: RadiographPolicy = RADIOGRAPHS) -> Picture:
    """Read a radiograph from a DICOM file.

    Silencing pydicom changes settings of the process for the time of the call, so calls should
    not run in several threads at once.

    Args:
        data: The whole file.
        policy: Which objects count as radiographs.

    Returns:
        The picture as a display would show it, with the facts of its header.

    Raises:
        Rejected: If the file yields no picture. Nothing else is raised for any ``data``.
    """
    if not data:
        raise Rejected(Reason.EMPTY, "no bytes")
    if not looks_like_dicom(data):
        raise Rejected(Reason.NOT_AN_IMAGE, "not a DICOM file")
    with _pydicom_silenced():
        try:
            dataset, syntax = _parse(data)
            _check_kind(dataset, policy)
            facts = header.facts(dataset, syntax)
            try:
                _check_pixel_data(dataset)
                return _picture(dataset, facts, policy)
            except Rejected as rejected:
                raise Rejected(rejected.reason, rejected.detail, facts) from None
            except MemoryError:
                detail = "not enough memory to decode the picture"
                raise Rejected(Reason.TOO_LARGE, detail, facts) from None
            except Exception as error:  # noqa: BLE001 - pydicom and the decoders, as below
                detail = f"the pixel data cannot be decoded ({type(error).__name__})"
                raise Rejected(Reason.CORRUPT, detail, facts) from None
        except Rejected:
            raise
        except MemoryError:
            raise Rejected(Reason.TOO_LARGE, "not enough memory to read the header") from None
        except Exception as error:  # noqa: BLE001 - pydicom, fed hostile bytes
            # The message may quote the header, so only the kind of the error is passed on.
            detail = f"the header cannot be read ({type(error).__name__})"
            raise Rejected(Reason.CORRUPT, detail) from None


@contextmanager
def _pydicom_silenced() -> Iterator[None]:
    """Keep pydicom's warnings and log records, which quote values, away from stderr."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _plausible_element(data: bytes, order: str) -> bool:
    """Whether ``data`` starts with an element that may be the first of a file (PS3.5 7.1)."""
    little = order == "little"
    group, element = (
        int.from_bytes(data[at : at + 2], "little" if little else "big") for at in (0, 2)
    )
    if group not in (0x0002, 0x0008) or element > 0x0018:
        return False
    if not dictionary_has_tag((group << 16) | element) and element != 0:
        return False
    if data[4:6] in (b"UL", b"OB", b"UI", b"CS", b"SH", b"DA", b"TM", b"LO"):
        return True
    # Implicit VR is little endian: a length of 32 bits instead, which is small here.
    return little and len(data) > 8 and int.from_bytes(data[4:8], "little") <= min(len(data), 256)


def _parse(data: bytes) -> tuple[FileDataset, str]:
    """Parse a file, and find out the transfer syntax that it came in."""
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise Rejected(Reason.NOT_AN_IMAGE, "a DICOMDIR")
    deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if deflated:
        # pydicom would inflate without a bound. A UID is padded with NUL (PS3.5 6.2).
        explicit = ExplicitVRLittleEndian.ljust(len(DeflatedExplicitVRLittleEndian), "\0")
        start = stream.tell()
        head = data[:start].replace(DeflatedExplicitVRLittleEndian.encode(), explicit.encode())
        data = head + _inflate(data[start:])
    dataset = dcmread(BytesIO(data), force=True)
    if len(dataset) == 0:
        raise Rejected(Reason.CORRUPT, "no elements after the DICOM prefix")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding  # pydicom's guess
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    syntax = DeflatedExplicitVRLittleEndian if deflated else dataset.file_meta.TransferSyntaxUID
    return dataset, str(syntax)


def _inflate(body: bytes) -> bytes:
    """Inflate the data set of a deflated file (PS3.5 A.5), up to ``MAX_BYTES``."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(body, MAX_BYTES)
    if inflater.unconsumed_tail:
        raise Rejected(Reason.TOO_LARGE, "the deflated data set is larger than the limit")
    return inflated


def _check_kind(dataset: FileDataset, policy: RadiographPolicy) -> None:
    """Reject what is no radiograph."""
    sop_class = header.text(dataset, "SOPClassUID") or header.text(
        dataset.file_meta, "MediaStorageSOPClassUID"
    )
    if sop_class == MediaStorageDirectoryStorage or "DirectoryRecordSequence" in dataset:
        raise Rejected(Reason.NOT_AN_IMAGE, "a DICOMDIR")
    name = UID(sop_class or "").name  # the UID itself where the standard does not know it
    if sop_class not in policy.sop_classes and name != (sop_class or ""):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, f"an object of another kind: {name}")
    modality = header.text(dataset, "Modality")
    accepted = policy.modalities | policy.secondary_modalities
    if (modality not in accepted) if modality else not policy.without_modality:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "the modality is not that of a radiograph")
    if (header.text(dataset, "Manufacturer") or "").lower() in policy.result_makers:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a result written back, not an acquired image")
    if not dataset.get("PixelData") and not (
        modality in policy.modalities or sop_class in policy.sop_classes
    ):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "an object without an image")


def _check_pixel_data(dataset: FileDataset) -> None:
    """Reject pixel data that cannot or must not be decoded, at no cost in memory."""
    if not dataset.get("PixelData"):
        raise Rejected(Reason.TRUNCATED, "a radiograph's header without pixel data")
    if (header.integer(dataset, "NumberOfFrames") or 1) > 1:
        raise Rejected(Reason.UNSUPPORTED, "more than one frame")
    syntax = dataset.file_meta.TransferSyntaxUID
    compressed = syntax in codecs.SYNTAXES
    if not compressed and syntax not in _NATIVE:
        uid = syntax if re.fullmatch(r"[0-9.]{1,64}", syntax) else "(not a UID)"
        raise Rejected(Reason.UNSUPPORTED, f"transfer syntax {uid}")
    if dataset["PixelData"].is_undefined_length and not compressed:
        raise Rejected(Reason.UNSUPPORTED, "compressed pixel data without a transfer syntax")
    rows, columns = (
        header.required_integer(dataset, "Rows"),
        header.required_integer(dataset, "Columns"),
    )
    samples = header.integer(dataset, "SamplesPerPixel") or 1
    bits_allocated = header.required_integer(dataset, "BitsAllocated")
    bits_stored = header.required_integer(dataset, "BitsStored")
    if min(rows, columns, samples, bits_allocated) < 1:
        raise Rejected(Reason.CORRUPT, "an image without pixels")
    if header.integer(dataset, "HighBit") not in (None, bits_stored - 1):
        raise Rejected(Reason.UNSUPPORTED, "HighBit is not BitsStored - 1 (PS3.5 8.1.1)")
    size = (rows * columns * samples * bits_allocated + 7) // 8
    if rows * columns > MAX_PIXELS or size > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"{rows} x {columns} pixels are more than the limit")
    data = dataset.PixelData
    if not compressed:
        if header.text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
            size = size * 2 // 3  # C.7.6.3.1.2: the chrominance of every second pixel
        if len(data) < size:
            raise Rejected(Reason.TRUNCATED, f"{len(data)} of {size} bytes of pixel data")
        return
    frame = get_frame(data, 0, number_of_frames=1)
    codecs.check_frame(frame, syntax, (rows, columns, samples), bits_allocated)


def _picture(dataset: FileDataset, facts: Header, policy: RadiographPolicy) -> Picture:
    """Decode the pixel data, and show it."""
    actual = dataset.file_meta.TransferSyntaxUID
    samples, _ = get_decoder(actual).as_array(
        dataset,
        index=0,
        decoding_plugin=codecs.PLUGIN if actual in codecs.SYNTAXES else "",
        # pydicom would wrap the overshoot of lossy compression around.
        correct_unused_bits=False,  # type: ignore[arg-type]  # annotated without Unpack
    )
    notes: tuple[str, ...] = ()
    if header.text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        notes = ("for_processing",)
    photometric = header.text(dataset, "PhotometricInterpretation") or ""
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        clip = codecs.may_overshoot(actual, samples.dtype.kind == "i")
        stored = grayscale.stored_values(
            samples, header.required_integer(dataset, "BitsStored"), clip=clip
        )
        display, voi_source, ignored = presentation.show(dataset, stored)
        notes += ("window_ignored",) if ignored else ()
    else:
        voi_source = "none"
        display = _show_colour(dataset, samples, policy)
    return Picture(
        display=display,
        header=facts,
        format="dicom",
        decoder=codecs.LIBRARY if actual in codecs.SYNTAXES else "pydicom",
        voi_source=voi_source,
        notes=notes,
    )


def _show_colour(
    dataset: Dataset, samples: NDArray[Any], policy: RadiographPolicy
) -> NDArray[np.float32]:
    """Show a grey picture that is stored as colour, (h, w, 3) or palette indices (h, w)."""
    bits = header.required_integer(dataset, "BitsStored")
    if header.text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        samples = apply_color_lut(samples, dataset)
        bits = 8 * samples.dtype.itemsize
    gray = grayscale.gray_of_colour(samples, bits)
    if gray is None:
        # What calls itself a radiograph may be one all the same; a capture in colour is none.
        is_capture = header.text(dataset, "Modality") not in policy.modalities
        reason = Reason.NOT_A_RADIOGRAPH if is_capture else Reason.UNSUPPORTED
        raise Rejected(reason, "an image in colour")
    if gray.min() == gray.max():
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    return gray
