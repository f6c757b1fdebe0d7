"""Plain image files (JPEG, PNG, TIFF) to pictures, by Pillow."""

import contextlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from fracjax.image import exposure, quality
from fracjax.image.grayscale import is_gray
from fracjax.image.picture import MAX_PIXELS, Picture, Reason, Rejected

FORMATS = {"JPEG": "jpeg", "PNG": "png", "TIFF": "tiff"}

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""First bytes of JPEG, PNG, TIFF and BigTIFF."""

LARGEST_LEVEL = 1e30
"""Beyond it, the arithmetic on the levels of a floating-point file leaves float32."""

DECODER = "pillow"

SOFTWARE = "fracjax"
"""How the name of the software begins in pictures that this one writes."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright that was stored with an EXIF orientation."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""PhotometricInterpretation (TIFF 6.0, section 3): its tag, and the value of an inverted scale."""


def looks_like_raster(data: bytes) -> bool:
    """Tell by the first bytes whether ``data`` is a JPEG, PNG or TIFF file."""
    return data.startswith(SIGNATURES)


def read_raster(data: bytes) -> Picture:
    """Decode a JPEG, PNG or TIFF file to one grey picture.

    EXIF orientation is applied. Of a truncated JPEG the intact rows are kept, with the note
    ``truncated_rows``. A 16-bit file carries no window, so it is shown by
    percentiles of its exposed region.

    Raises:
        Rejected: ``corrupt``, ``truncated``, ``too_large``, ``unsupported`` (several frames),
            ``flat``, ``damaged``, ``not_a_radiograph`` (a colour picture), or
            ``own_result``.
    """
    pixels, file_format, notes = decode_gray(data)
    if pixels.min() == pixels.max():
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    damage = quality.fault(pixels)
    if not damage and file_format == "jpeg" and not notes:
        damage = quality.fault_of_blocks(pixels, 8, data, lambda stream: decode_gray(stream)[0])
    if damage:
        raise Rejected(Reason.DAMAGED, damage)
    if pixels.dtype == np.uint8:
        display, voi_source = pixels.astype(np.float32) / np.float32(255), "none"
    else:
        low, high = exposure.percentile_range(exposure.exposed_sample(pixels, None))
        if low == high:
            raise Rejected(Reason.FLAT, "the exposed region has but one grey level")
        display, voi_source = exposure.stretch(pixels, low, high), "percentile"
    shape = display.shape[0], display.shape[1]
    return Picture(display, shape, None, file_format, DECODER, voi_source, "none", notes=notes)


def decode_gray(
    data: bytes,
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], str, tuple[str, ...]]:
    """Decode a plain image file to its grey levels as stored.

    Returns:
        Pixels (height, width), uint8 for files of up to 8 bits a channel and float32 for deeper
        ones, where 0 need not be black; the file's format; and notes (``truncated_rows``).

    Raises:
        Rejected: As :func:`read_raster`, but for ``flat``.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit, checked before any pixel is decoded, replaces Pillow's warning.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_LARGE, f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's parsers raise many types on hostile bytes
        raise Rejected(Reason.CORRUPT, "the image header cannot be parsed") from error
    if image.width * image.height > MAX_PIXELS:
        raise Rejected(Reason.TOO_LARGE, f"{image.width} x {image.height} pixels")
    if frames > 1:
        raise Rejected(Reason.UNSUPPORTED, f"{frames} frames in one file")
    file_format = FORMATS[str(image.format)]
    if _is_own_result(image):
        raise Rejected(Reason.OWN_RESULT, "a picture that this software wrote")
    try:
        image.load()
    except Exception as error:  # as above
        if file_format != "jpeg" or "truncated" not in str(error):
            raise Rejected(Reason.CORRUPT, "the pixels cannot be decoded") from error
        return _decode_intact_rows(data), file_format, ("truncated_rows",)
    pixels = _to_gray(_upright(image, image))
    if pixels.dtype != np.uint8 and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        pixels = -pixels  # Pillow does so itself, but only up to 8 bits
    return pixels, file_format, ()


def _is_own_result(image: Image.Image) -> bool:
    """Whether the software that a file names is this one: a heat map or figure, no exposure."""
    named = [image.info.get("Software")]  # a text chunk of PNG (ISO/IEC 15948, 11.3.4)
    with contextlib.suppress(Exception):  # Pillow's parser of EXIF, on hostile bytes
        named.append(image.getexif().get(ExifTags.Base.Software))  # tag 305 of TIFF, too
    return any(str(name or "").lower().startswith(SOFTWARE) for name in named)


def _decode_intact_rows(data: bytes) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Decode a truncated baseline JPEG and crop it to the rows that are wholly there.

    libjpeg decodes the block in which the data ends to garbage, and fills those after it with
    mid-grey (all coefficients zero). So a row of MCUs (ITU-T T.81, A.2) is known to be complete
    once the next one has begun: its first 8x8 block is not exactly mid-grey.
    """
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if image.info.get("progressive"):
        raise Rejected(Reason.TRUNCATED, "a progressive JPEG ends early, so no row is complete")
    # Only Pillow's JPEG class has "layer", and it carries no types.
    mcu_rows = 8 * max(component[2] for component in image.layer)  # type: ignore[attr-defined]
    parser = ImageFile.Parser()
    parser.feed(data + b"\xff\xd9")
    decoded = parser.close()
    pixels = np.asarray(decoded.convert("L"))
    starts = range(0, pixels.shape[0], mcu_rows)
    intact = max(
        (top for top in starts if (pixels[top : top + mcu_rows, :8] != 128).any()), default=0
    )
    if intact == 0:
        raise Rejected(Reason.TRUNCATED, "no complete row of pixels")
    return _to_gray(_upright(decoded.crop((0, 0, decoded.width, intact)), image))


def _upright(picture: Image.Image, opened: Image.Image) -> Image.Image:
    """Turn a picture as the EXIF data of its opened file say; damaged, they say nothing."""
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - Pillow's parser of EXIF, on hostile bytes
        orientation = None
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _to_gray(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Reduce a decoded image of any mode to (height, width) grey levels.

    Raises:
        Rejected: ``not_a_radiograph`` for a picture with real colour.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32)
        if not (np.abs(levels) < LARGEST_LEVEL).all():  # of NaN, too
            raise Rejected(Reason.CORRUPT, "pixels that are no grey levels")
        return levels
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode == "LAB":
        raise Rejected(Reason.UNSUPPORTED, "pixels in the Lab colour space")
    channels = np.asarray(image.convert("RGB"))
    if not is_gray(channels, 255):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a colour picture")
    return np.asarray(image.convert("L"))
