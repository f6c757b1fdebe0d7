"""Reads one DICOM object into a picture, or says why it yields none.

The bytes may come from anywhere. Whatever is in them, the outcome is a ``Picture`` or a
``Rejected``, nothing of the header reaches stderr or a message, and memory stays bounded.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from fracjax.image import codecs, grayscale, header, jpeg_2000, presentation, reduced
from fracjax.image.parse import MAX_BYTES, looks_like_dicom, parse, pydicom_silenced
from fracjax.image.picture import (
    MAX_PIXELS,
    SMALLEST_SIDE,
    Header,
    Picture,
    Pictures,
    Reason,
    Rejected,
)
from fracjax.image.policy import ReadPolicy

_NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colour spaces that are read (PS3.3 C.7.6.3.1.2), of three samples a pixel."""

_OVERLAYS = range(0x6000, 0x6020)
"""Groups of overlay planes (PS3.3 C.9.2)."""

DEFAULT_POLICY = ReadPolicy()

codecs.register()


def read_dicom(
    data: bytes, policy: ReadPolicy = DEFAULT_POLICY, least_side: int | None = None
) -> Picture:
    """Read the radiograph of a DICOM file that holds one frame.

    Args:
        data: The whole file.
        policy: Which objects count as radiographs.
        least_side: Pixels that are wanted of the longer side, as :func:`read_picture` takes them.

    Returns:
        The picture as a display would show it, with the facts of its header.

    Raises:
        Rejected: If the file yields no picture, or several. Nothing else is raised for any
            ``data``.
    """
    opened = _open(data, policy)
    if opened.frames > 1:
        detail = "several frames; fracjax.image.read_pictures reads them one by one"
        raise Rejected(Reason.MULTI_FRAME, detail, opened.facts, opened.frames)
    return _read_frame(opened, 0, policy, least_side)


def read_dicom_frames(
    data: bytes, policy: ReadPolicy = DEFAULT_POLICY, least_side: int | None = None
) -> Pictures:
    """Read every frame of a DICOM file as an exposure of its own.

    Silencing pydicom changes settings of the process while the file is opened and each frame is
    decoded, so calls should not run in several threads at once.

    Args:
        data: The whole file.
        policy: Which objects count as radiographs.
        least_side: Pixels that are wanted of the longer side, as :func:`read_picture` takes them.

    Returns:
        What its header says, and its frames to come.

    Raises:
        Rejected: If the whole file yields no picture. Nothing else is raised for any ``data``.
    """
    opened = _open(data, policy)

    def outcomes() -> Iterator[Picture | Rejected]:
        for index in range(opened.frames):
            try:
                yield _read_frame(opened, index, policy, least_side)
            except Rejected as rejected:
                yield rejected

    return Pictures(opened.facts, opened.frames, outcomes())


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file whose header is known and accepted, and whose pixels are not decoded yet."""

    dataset: FileDataset
    facts: Header
    frames: int


def _open(data: bytes, policy: ReadPolicy) -> _Opened:
    """Parse a file and decide whether it holds radiographs.

    Raises:
        Rejected: It does not, or cannot be read. Nothing else is raised.
    """
    if not data:
        raise Rejected(Reason.EMPTY, "no bytes")
    if not looks_like_dicom(data):
        raise Rejected(Reason.NOT_AN_IMAGE, "not a DICOM file")
    with pydicom_silenced():
        try:
            dataset, syntax = parse(data)
            with _attaching_facts(dataset, syntax):
                _check_kind(dataset, policy)
            facts = header.facts(dataset, syntax)
        except Rejected:
            raise
        except MemoryError:
            raise Rejected(Reason.TOO_LARGE, "not enough memory to read the header") from None
        except Exception as error:  # noqa: BLE001 - pydicom, fed hostile bytes
            # The message may quote the header, so only the kind of the error is passed on.
            detail = f"the header cannot be read ({type(error).__name__})"
            raise Rejected(Reason.CORRUPT, detail) from None
        with _rejecting(facts):
            if policy.body_parts and facts.body_part not in (None, *policy.body_parts):
                detail = f"the body part is {facts.body_part}, which is not scored"
                raise Rejected(Reason.OUT_OF_SCOPE, detail, frames=_frames(dataset))
            _check_intent(dataset, policy)
            _check_pixel_data(dataset)
            frames = _frames(dataset)
            if frames > policy.max_frames:
                detail = f"more than {policy.max_frames} frames"
                raise Rejected(Reason.MULTI_FRAME, detail, frames=frames)
    return _Opened(dataset, facts, frames)


def _read_frame(opened: _Opened, index: int, policy: ReadPolicy, least_side: int | None) -> Picture:
    """Decode one frame, and show it.

    Raises:
        Rejected: The frame yields no picture. Nothing else is raised.
    """
    with pydicom_silenced(), _rejecting(opened.facts):
        frame = _compressed_frame(opened, index)
        if frame is not None and least_side is not None and not policy.full_resolution:
            # Should the smaller picture be damaged, the whole one decides what is said of it.
            with suppress(Exception):
                levels = _levels_to_spare(opened.dataset, frame, least_side)
                smaller = _picture(opened, index, frame, policy, levels) if levels else None
                # Percentiles of fewer pixels, which have less noise, would show it otherwise.
                if smaller is not None and smaller.voi_source != "percentile":
                    return smaller
        return _picture(opened, index, frame, policy, 0)


@contextmanager
def _attaching_facts(dataset: FileDataset, syntax: str) -> Iterator[None]:
    """Give the facts of the header, where they can be read, to what is set aside by its kind."""
    try:
        yield
    except Rejected as rejected:
        facts = None
        if rejected.reason != Reason.NOT_AN_IMAGE:
            with suppress(Exception):
                facts = header.facts(dataset, syntax)
        raise Rejected(rejected.reason, rejected.detail, facts, rejected.frames) from None


@contextmanager
def _rejecting(facts: Header) -> Iterator[None]:
    """Turn whatever is raised over the pixels into ``Rejected``, with the facts of the header."""
    try:
        yield
    except Rejected as rejected:
        raise Rejected(rejected.reason, rejected.detail, facts, rejected.frames) from None
    except MemoryError:
        raise Rejected(Reason.TOO_LARGE, "not enough memory for the picture", facts) from None
    except Exception as error:  # noqa: BLE001 - pydicom and the decoders, fed hostile bytes
        # The message may quote the header, so only the kind of the error is passed on.
        detail = f"the pixel data cannot be decoded ({type(error).__name__})"
        raise Rejected(Reason.CORRUPT, detail, facts) from None


def _check_kind(dataset: FileDataset, policy: ReadPolicy) -> None:
    """Reject what is no radiograph."""
    if (header.text(dataset, "Manufacturer") or "").lower() in policy.result_makers:
        raise Rejected(Reason.OWN_RESULT, "a result written back, not an acquired image")
    sop_class = header.text(dataset, "SOPClassUID") or header.text(
        dataset.file_meta, "MediaStorageSOPClassUID"
    )
    if sop_class == MediaStorageDirectoryStorage or "DirectoryRecordSequence" in dataset:
        raise Rejected(Reason.NOT_AN_IMAGE, "a DICOMDIR")
    name = UID(sop_class or "").name  # the UID itself where the standard does not know it
    if sop_class not in policy.sop_classes and name != (sop_class or ""):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, f"an object of another kind: {name}")
    modality = header.modality(dataset)  # a term that nobody has defined says nothing
    accepted = (*policy.modalities, *policy.secondary_modalities)
    if (modality not in accepted) if modality else not policy.without_modality:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "the modality is not that of a radiograph")
    if not dataset.get("PixelData") and not (
        modality in policy.modalities or sop_class in policy.sop_classes
    ):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "an object without an image")


def _check_intent(dataset: FileDataset, policy: ReadPolicy) -> None:
    """Reject raw detector values (PS3.3 C.8.11.1, Presentation Intent Type), where asked for."""
    if policy.for_processing == "set_aside" and presentation.is_for_processing(dataset):
        detail = "raw detector values, not meant for display"
        raise Rejected(Reason.FOR_PROCESSING, detail, frames=_frames(dataset))


def _frames(dataset: FileDataset) -> int:
    """Count the frames as the header does, but all those that are not there as one.

    So a header that lies costs nothing, and one that tells the truth of a truncated file loses
    none of the frames that are left.
    """
    claimed = max(header.integer(dataset, "NumberOfFrames") or 1, 1)
    if claimed == 1:
        return 1
    try:
        data = dataset.get("PixelData") or b""
        if dataset.file_meta.TransferSyntaxUID in codecs.SYNTAXES:
            stream = BytesIO(data)
            parse_basic_offsets(stream)
            held, _ = parse_fragments(stream)  # a frame has one or more (PS3.5 A.4)
        else:
            held = len(data) // max(_frame_bytes(dataset), 1)
    except Exception:  # noqa: BLE001 - damaged fragments, which decoding will find again
        held = 0
    return min(claimed, held + 1)


def _frame_bytes(dataset: Dataset) -> int:
    """Bytes of one frame that is not compressed."""
    bits = math.prod(_shape(dataset)) * header.required_integer(dataset, "BitsAllocated")
    if header.code(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3  # C.7.6.3.1.2: the chrominance of every second pixel
    return (bits + 7) // 8


def _shape(dataset: Dataset) -> tuple[int, int, int]:
    """Rows, Columns and SamplesPerPixel."""
    return (
        header.required_integer(dataset, "Rows"),
        header.required_integer(dataset, "Columns"),
        header.integer(dataset, "SamplesPerPixel") or 1,
    )


def _check_pixel_data(dataset: FileDataset) -> None:
    """Reject pixel data that cannot or must not be decoded, at no cost in memory."""
    if not dataset.get("PixelData"):
        raise Rejected(Reason.TRUNCATED, "a radiograph's header without pixel data")
    syntax = dataset.file_meta.TransferSyntaxUID
    compressed = syntax in codecs.SYNTAXES
    if not compressed and syntax not in _NATIVE:
        known = header.known_syntax(syntax)
        detail = f"transfer syntax {known}" if known else "an unknown transfer syntax"
        raise Rejected(Reason.UNSUPPORTED, detail)
    if dataset["PixelData"].is_undefined_length and not compressed:
        raise Rejected(Reason.UNSUPPORTED, "compressed pixel data without a transfer syntax")
    rows, columns, samples = _shape(dataset)
    bits_allocated = header.required_integer(dataset, "BitsAllocated")
    bits_stored = header.required_integer(dataset, "BitsStored")
    if min(rows, columns, samples, bits_allocated) < 1:
        raise Rejected(Reason.CORRUPT, "an image without pixels")
    if min(rows, columns) < SMALLEST_SIDE:
        detail = f"{rows} x {columns} pixels"
        raise Rejected(Reason.TOO_SMALL, detail, frames=_frames(dataset))
    _check_photometric(dataset, samples)
    lowest = bits_stored - 1
    highest = lowest if compressed or samples > 1 else bits_allocated - 1
    if not lowest <= _high_bit(dataset) <= highest:
        raise Rejected(Reason.UNSUPPORTED, "HighBit does not fit the other bits (PS3.5 8.1.1)")
    if rows * columns > MAX_PIXELS or _frame_bytes(dataset) > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"{rows} x {columns} pixels are more than the limit")


def _check_photometric(dataset: FileDataset, samples: int) -> None:
    """Reject what PhotometricInterpretation and SamplesPerPixel say (PS3.3 C.7.6.3.1.2)."""
    photometric = header.code(dataset, "PhotometricInterpretation")
    if photometric is None:
        raise Rejected(Reason.CORRUPT, "the header has no PhotometricInterpretation")
    if (samples == 1) != (photometric in (*_MONOCHROME, _PALETTE)):
        detail = "PhotometricInterpretation and SamplesPerPixel contradict each other"
        raise Rejected(Reason.CORRUPT, detail)
    if samples != 1 and (samples != 3 or photometric not in _COLOUR):
        raise Rejected(Reason.UNSUPPORTED, "a colour space that is not read")


def _high_bit(dataset: Dataset) -> int:
    """HighBit, or what it nearly always is (PS3.5 8.1.1)."""
    high_bit = header.integer(dataset, "HighBit")
    return header.required_integer(dataset, "BitsStored") - 1 if high_bit is None else high_bit


def _compressed_frame(opened: _Opened, index: int) -> bytes | None:
    """The codestream of a frame, or ``None`` of native data.

    Raises:
        Rejected: The frame is not wholly there, or not the header's.
    """
    dataset = opened.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in codecs.SYNTAXES:
        size = (index + 1) * _frame_bytes(dataset)
        held = len(dataset.PixelData)
        if held < size:
            raise Rejected(Reason.TRUNCATED, f"{held} of {size} bytes of pixel data")
        return None
    frame = get_frame(dataset.PixelData, index, number_of_frames=opened.frames)
    codecs.check_frame(
        frame, syntax, _shape(dataset), header.required_integer(dataset, "BitsAllocated")
    )
    return frame


def _levels_to_spare(dataset: Dataset, frame: bytes, least_side: int) -> int:
    """Tell how many levels of a compressed frame need not be decoded.

    None where pixels are padded, since the smaller picture mixes padding and anatomy; where they
    are indices of a palette; nor where codestream and header differ in what a sample is, which is
    for pydicom to settle.
    """
    rows, columns, _ = _shape(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    is_monochrome = header.code(dataset, "PhotometricInterpretation") in _MONOCHROME
    if not is_monochrome or syntax not in reduced.SYNTAXES or "PixelPaddingValue" in dataset:
        return 0
    bits = header.required_integer(dataset, "BitsStored")
    is_signed = header.integer(dataset, "PixelRepresentation") == 1
    component, *_ = jpeg_2000.size(frame).components
    if not bits <= component.precision <= 16 or _high_bit(dataset) != bits - 1:
        return 0
    if component.precision > bits and any(tag.group in _OVERLAYS for tag in dataset.keys()):  # noqa: SIM118
        return 0  # their planes may lie in the bits above
    if component.signed != is_signed:
        return 0
    return reduced.halvings(frame, syntax, (rows, columns), least_side)


def _samples(opened: _Opened, index: int, frame: bytes | None, levels: int) -> NDArray[Any]:
    """Decode a frame, but for its last ``levels``."""
    dataset = opened.dataset
    if frame is not None and levels:
        rows, columns, _ = _shape(dataset)
        precision = codecs.codestream(frame, dataset.file_meta.TransferSyntaxUID).precision
        smaller = reduced.decode(frame, (rows, columns), precision, levels)
        bits = header.required_integer(dataset, "BitsStored")
        if precision > bits and not reduced.is_within(smaller, bits):
            raise ValueError("the bits above hold something, which only a whole picture is rid of")
        return smaller
    samples, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(
        dataset,
        index=index,
        decoding_plugin=codecs.PLUGIN if frame is not None else "",
        # Of native data the frames that are there are read, even where one behind them is cut off.
        number_of_frames=opened.frames if frame is not None else index + 1,  # type: ignore[arg-type]
        # pydicom would wrap the overshoot of lossy compression around.
        correct_unused_bits=False,  # type: ignore[arg-type]  # annotated without Unpack
        photometric_interpretation=header.code(dataset, "PhotometricInterpretation") or "",  # type: ignore[arg-type]
    )
    return samples


def _picture(
    opened: _Opened, index: int, frame: bytes | None, policy: ReadPolicy, levels: int
) -> Picture:
    """Decode a frame, but for its last ``levels``, and show it."""
    dataset = opened.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    samples = _samples(opened, index, frame, levels)
    is_monochrome = header.code(dataset, "PhotometricInterpretation") in _MONOCHROME
    if is_monochrome and (fault := codecs.fault(frame, syntax, samples, levels)):
        raise Rejected(Reason.DAMAGED, fault)
    if levels:
        samples = reduced.spread(samples, _shape(dataset)[:2], levels)
    stored = grayscale.stored_values(
        samples,
        header.required_integer(dataset, "BitsStored"),
        _high_bit(dataset),
        clip=levels > 0 or codecs.may_overshoot(syntax, samples.dtype.kind == "i"),
    )
    if is_monochrome:
        shown = presentation.show(dataset, stored, policy, index, step=1 << levels)
    else:
        display = _show_colour(dataset, stored, policy)
        shown = presentation.Shown(display, voi_source="none", polarity_source="none", notes=())
    decoder = "pydicom" if frame is None else reduced.LIBRARY if levels else codecs.LIBRARY
    return Picture(
        display=shown.display,
        shape=_shape(dataset)[:2],
        header=opened.facts,
        format="dicom",
        decoder=decoder,
        voi_source=shown.voi_source,
        polarity_source=shown.polarity_source,
        frame=index + 1 if opened.frames > 1 else None,
        notes=shown.notes,
    )


def _show_colour(
    dataset: Dataset, samples: NDArray[Any], policy: ReadPolicy
) -> NDArray[np.float32]:
    """Show a grey picture that is stored as colour, (h, w, 3) or palette indices (h, w)."""
    bits = header.required_integer(dataset, "BitsStored")
    if header.code(dataset, "PhotometricInterpretation") == _PALETTE:
        samples = apply_color_lut(samples, dataset)
        bits = 8 * samples.dtype.itemsize
    gray = grayscale.gray_of_colour(samples, bits)
    if gray is None:
        # What calls itself a radiograph may be one all the same; a capture in colour is none.
        is_capture = header.modality(dataset) not in policy.modalities
        reason = Reason.NOT_A_RADIOGRAPH if is_capture else Reason.UNSUPPORTED
        raise Rejected(reason, "an image in colour")
    if gray.min() == gray.max():
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    return gray
