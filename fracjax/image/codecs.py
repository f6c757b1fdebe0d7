"""Decoders of compressed DICOM pixel data, as plugins of pydicom.

pydicom finds the frame in its fragments and puts the samples into an array; the plugin here turns
one frame's codestream into samples. `imagecodecs` decodes all that are decoded whole: it is free of
copyleft, covers 12-bit JPEG and HTJ2K, and survives damaged data; the damaged HTJ2K headers that it
was seen to crash at are refused first.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fracjax.image import jpeg_2000, lossless_jpeg, quality
from fracjax.image.picture import Reason, Rejected

PLUGIN = "fracjax"
"""The label under which the decoders stand in pydicom."""

LIBRARY = "imagecodecs"
"""The library that decodes all compressed syntaxes, but for what `reduced` decodes in part."""

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, and EOC of JPEG 2000
_RLE_MAX_EXPANSION = 64  # two bytes stand for at most 128 (PS3.5 G.3)


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a codestream says of itself, read without decoding."""

    height: int
    width: int
    components: int
    precision: int
    complete: bool
    """Whether the end marker is there."""


def _jpeg(frame: bytes) -> NDArray[Any]:
    # Naming one colour space for both sides switches libjpeg's conversion off: it is for pydicom
    # to convert, from what the DICOM header says. Grey images need no naming.
    space = "YCBCR" if codestream(frame, JPEGBaseline8Bit).components == 3 else None
    return np.asarray(imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space))


def _jpeg_ls(frame: bytes) -> NDArray[Any]:
    return np.asarray(imagecodecs.jpegls_decode(frame))


def _jpeg_2000(frame: bytes) -> NDArray[Any]:
    return np.asarray(imagecodecs.jpeg2k_decode(frame))


def _htj2k(frame: bytes) -> NDArray[Any]:
    # At damaged data imagecodecs cannot raise out of its C code: Python hands the error to its
    # hooks, which print it, and an array comes back that is not filled to the end.
    errors: list[object] = []

    def collect(*error: object) -> None:
        errors.append(error)

    hooks = sys.excepthook, sys.unraisablehook
    sys.excepthook = collect
    sys.unraisablehook = collect
    try:
        samples = np.asarray(imagecodecs.htj2k_decode(frame))
    finally:
        sys.excepthook, sys.unraisablehook = hooks
    if errors:
        raise ValueError("damaged HTJ2K codestream")
    return samples


def _rle(frame: bytes, pixels: int, samples: int, bytes_per_sample: int) -> bytes:
    """Decode RLE (PS3.5 annex G): one segment of PackBits for every byte plane.

    Not by pylibjpeg-rle, which panics at damaged segments: that is no ``Exception``.
    """
    count, *offsets = np.frombuffer(frame[:64], "<u4").tolist()
    if count != samples * bytes_per_sample:
        raise ValueError("the number of RLE segments does not fit the image")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((samples, pixels, bytes_per_sample), np.uint8)
    for segment, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        # A segment is padded to even length (G.3.1), and by some writers further.
        plane = imagecodecs.packbits_decode(frame[start:end], out=pixels + 16)
        sample, byte = divmod(segment, bytes_per_sample)  # the most significant byte is first
        planes[sample, :, bytes_per_sample - 1 - byte] = np.frombuffer(plane, np.uint8)[:pixels]
    return planes.tobytes()


_DECODE: dict[UID, Callable[[bytes], NDArray[Any]]] = {
    JPEGBaseline8Bit: _jpeg,
    JPEGExtended12Bit: _jpeg,
    JPEGLossless: _jpeg,
    JPEGLosslessSV1: _jpeg,
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    HTJ2KLossless: _htj2k,
    HTJ2KLosslessRPCL: _htj2k,
    HTJ2K: _htj2k,
}

_LOSSLESS_JPEG = frozenset({JPEGLossless, JPEGLosslessSV1})
_BLOCK_JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})
_LOSSY_JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
_LOSSY_WAVELET = frozenset({JPEG2000, HTJ2K})

SYNTAXES = frozenset({*_DECODE, RLELossless})
"""The compressed transfer syntaxes that are decoded."""

# The two names that pydicom asks of a plugin's module.
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("numpy", LIBRARY))


def is_available(uid: str) -> bool:
    """Whether this module decodes the transfer syntax ``uid``."""
    return uid in SYNTAXES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, as pydicom asks of a plugin.

    Args:
        src: The codestream of the frame.
        runner: pydicom's decoding options, made to fit the samples that are returned.

    Returns:
        The samples, in containers of the runner's ``bits_allocated``.

    Raises:
        Exception: Whatever the decoder raises at a damaged codestream.
    """
    syntax = runner.transfer_syntax
    if syntax == RLELossless:
        runner.set_option("planar_configuration", 1)
        pixels = runner.rows * runner.columns
        return _rle(src, pixels, runner.samples_per_pixel, runner.bits_allocated // 8)
    frame = decode(src, syntax)
    if frame.ndim == 3:
        runner.set_option("planar_configuration", 0)
        # The decoder has undone the component transform of JPEG 2000.
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    # 8-bit samples come in bytes even where the header allocates 16 bits: widen by the sign of
    # the decoded samples, and leave the sign of the stored ones to pydicom.
    container = np.dtype(f"{frame.dtype.kind}{runner.bits_allocated // 8}")
    return frame.astype(container, copy=False).tobytes()


def register() -> None:
    """Make pydicom use these decoders. Any number of calls are one; each process needs its own."""
    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))


def may_overshoot(syntax: str, signed: bool) -> bool:
    """Whether decoded samples may leave the range of the stored values, and should be clipped."""
    # JPEG and JPEG-LS keep signed values as the low bits of unsigned ones: those are not ordered.
    return syntax in _LOSSY_WAVELET or (syntax in _LOSSY_JPEG and not signed)


def check_frame(frame: bytes, syntax: str, shape: tuple[int, int, int], bits: int) -> None:
    """Reject a compressed frame that cannot be the picture of the header, without decoding it.

    Args:
        frame: The frame as stored.
        syntax: Its transfer syntax.
        shape: Rows, Columns and SamplesPerPixel.
        bits: BitsAllocated.

    Raises:
        Rejected: If the frame is truncated, or of another size than the header says.
        ValueError: If the codestream has no readable header.
    """
    if syntax == RLELossless:
        if len(frame) * _RLE_MAX_EXPANSION * 8 < math.prod(shape) * bits:
            raise Rejected(Reason.TRUNCATED, "too little RLE data for the picture")
        return
    stream = codestream(frame, syntax)
    if (stream.height, stream.width, stream.components) != shape:
        raise Rejected(Reason.CORRUPT, "the codestream and the header differ in the picture's size")
    if stream.precision > bits:
        raise Rejected(Reason.CORRUPT, "the codestream's samples do not fit BitsAllocated")
    if _DECODE[UID(syntax)] is _htj2k and not jpeg_2000.is_sound(frame):
        raise Rejected(Reason.CORRUPT, "the codestream's tiles or quantization make no sense")
    if not stream.complete:
        # JPEG decoders fill in what is missing without a word.
        raise Rejected(Reason.TRUNCATED, "the codestream has no end marker")


def decode(frame: bytes, syntax: str) -> NDArray[Any]:
    """Decode a codestream that is not RLE.

    Args:
        frame: The codestream.
        syntax: Its transfer syntax.

    Returns:
        Integers (h, w) or (h, w, samples).

    Raises:
        Exception: Whatever the decoder raises at a damaged codestream.
    """
    return _DECODE[UID(syntax)](frame)


def fault(frame: bytes | None, syntax: str, samples: NDArray[Any], levels: int = 0) -> str | None:
    """Find out whether a grey frame was damaged, though it could be decoded.

    Args:
        frame: The frame as stored, or ``None`` of native data.
        syntax: Its transfer syntax.
        samples: Integers (h, w) as decoded.
        levels: How often the picture was halved meanwhile (:mod:`fracjax.image.reduced`).

    Returns:
        What is wrong, in words; ``None`` where nothing is.
    """
    unsigned = samples.view(f"u{samples.dtype.itemsize}")  # JPEG knows no sign
    if frame is not None and syntax in _LOSSLESS_JPEG:
        return lossless_jpeg.fault(frame, unsigned) or quality.fault(unsigned)
    if frame is not None and syntax in _BLOCK_JPEG:
        bits = codestream(frame, syntax).precision
        return quality.fault(unsigned) or quality.fault_of_blocks(
            unsigned, bits, frame, lambda stream: decode(stream, syntax)
        )
    return quality.fault(unsigned, levels)


def codestream(frame: bytes, syntax: str) -> Codestream:
    """Read the size of a picture from its codestream, without decoding it.

    Args:
        frame: A JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream.
        syntax: Its transfer syntax.

    Returns:
        What the codestream announces.

    Raises:
        ValueError: If the codestream has no readable header.
    """
    # The end marker cannot occur inside entropy-coded data; encoders pad behind it.
    complete = _END_OF_IMAGE in frame.rstrip(b"\x00")[-64:]
    family = _DECODE[UID(syntax)]
    read = _jpeg_header if family in (_jpeg, _jpeg_ls) else _jpeg_2000_header
    try:
        height, width, components, precision = read(frame)
    except IndexError:
        raise ValueError("the codestream's header is cut off") from None
    return Codestream(height, width, components, precision, complete)


def _jpeg_header(frame: bytes) -> tuple[int, int, int, int]:
    """Height, width, components and precision from the frame header (ISO/IEC 10918-1 B.2.2)."""
    if not frame.startswith(_START_OF_IMAGE):
        raise ValueError("not a JPEG codestream")
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte (B.1.1.2)
            at += 1
            continue
        # SOF0..SOF15 without DHT, JPG and DAC, which share their numbers; SOF55 is JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height = int.from_bytes(frame[at + 5 : at + 7], "big")
            width = int.from_bytes(frame[at + 7 : at + 9], "big")
            return height, width, frame[at + 9], frame[at + 4]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("no frame header in the JPEG codestream")


def _jpeg_2000_header(frame: bytes) -> tuple[int, int, int, int]:
    """Height, width, components and precision from the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    size = jpeg_2000.size(frame)
    width, height = (end - start for start, end in zip(size.start, size.end, strict=True))
    return height, width, len(size.components), size.components[0].precision
