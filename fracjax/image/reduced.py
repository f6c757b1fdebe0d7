"""The smaller pictures that a JPEG 2000 codestream holds (ISO/IEC 15444-1, annex F).

Each level of its wavelets halves the picture, and what makes the smaller one again the larger is
most of the work. A network that looks at some hundred pixels a side needs none of that.
"""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from pydicom.uid import JPEG2000, JPEG2000Lossless

from fracjax.image import jpeg_2000

LIBRARY = "pillow"
"""The library that decodes them; it stops where the smaller picture is done."""

SYNTAXES = frozenset({JPEG2000Lossless, JPEG2000})
"""Where it is worth it. Of HTJ2K the whole picture is as quick as any other syntax; what a
block of JPEG holds is needed whole, to find damage in it (docs/performance.md)."""

OVERSHOOT = 0.5
"""Part of the range of grey levels by which a smaller picture may leave it: white letters of a real
radiograph go beyond it by 0.13 in the half, 0.27 in the quarter and 0.34 in the eighth."""


def halvings(frame: bytes, syntax: str, sides: tuple[int, int], least: int) -> int:
    """Tell how often a frame of one component can be halved.

    Args:
        frame: The codestream.
        syntax: Its transfer syntax.
        sides: Height and width of the whole picture.
        least: Pixels that its longer side must keep.

    Returns:
        How many levels may be left out; 0 where none is, or where the pixels of a smaller picture
        would not lie as :func:`spread` takes them.

    Raises:
        ValueError: The header makes no sense.
    """
    if syntax not in SYNTAXES or not frame.startswith(jpeg_2000.START):
        return 0
    size = jpeg_2000.size(frame)
    if any(size.start + size.first_tile) or size.components[0].subsampling != (1, 1):
        return 0
    count = 0
    for _ in range(jpeg_2000.levels(frame)):
        if -(-max(sides) >> (count + 1)) < least:
            break
        count += 1
    return count


def decode(frame: bytes, shape: tuple[int, int], precision: int, levels: int) -> NDArray[Any]:
    """Decode a bare codestream of one component, but for its last levels.

    Args:
        frame: The codestream.
        shape: Height and width of the whole picture.
        precision: Bits of a sample, up to 16.
        levels: How many are left out, of :func:`halvings`.

    Returns:
        uint8 or uint16 (height, width), each divided by ``2**levels`` and rounded up; int8 or int16
        where the codestream is signed.

    Raises:
        Exception: Whatever the decoder raises at a damaged codestream.
    """
    height, width = (-(-side >> levels) for side in shape)
    bits = 8 if precision <= 8 else 16
    with _Smaller(frame, (width, height), "L" if bits == 8 else "I;16", levels) as image:
        filled = np.asarray(image)
    samples = (filled >> (bits - precision)).astype(f"u{bits // 8}")  # from the container's top
    if not jpeg_2000.size(frame).components[0].signed:
        return samples
    return (samples.astype(np.int32) - (1 << (precision - 1))).astype(f"i{bits // 8}")


def is_within(samples: NDArray[Any], bits: int) -> bool:
    """Tell whether samples have ``bits`` bits, but for how far wavelets overshoot an edge."""
    least = -(1 << (bits - 1)) if samples.dtype.kind == "i" else 0
    most = least + (1 << bits) - 1
    beyond = OVERSHOOT * (most - least)
    return bool(samples.min() >= least - beyond and samples.max() <= most + beyond)


def spread(samples: NDArray[Any], shape: tuple[int, int], levels: int) -> NDArray[Any]:
    """Move the samples of a smaller picture to where equal parts of the whole one lie.

    What the wavelets keep of ``2**levels`` pixels lies at the first of them, and not amid them, and
    the last sample may stand for fewer. So the samples move by up to half a pixel, and are
    interpolated by a window as sharp as they are.

    Args:
        samples: Integers (h, w), of :func:`decode`.
        shape: Height and width of the whole picture.
        levels: How many were left out.

    Returns:
        The same shape and type.
    """
    move = np.zeros((2, 3))
    for axis, (side, count) in enumerate(zip(shape[::-1], samples.shape[::-1], strict=True)):
        # A pixel's middle in the whole picture, from the middle of the first one.
        step = side / count
        move[axis, axis], move[axis, 2] = step / 2**levels, (step - 1) / 2 / 2**levels
    moved = cv2.warpAffine(
        samples.astype(np.float32),
        move,
        samples.shape[::-1],
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    limits = np.iinfo(samples.dtype)
    return np.clip(np.rint(moved), limits.min, limits.max).astype(samples.dtype)


class _Smaller(ImageFile.ImageFile):
    """A codestream as Pillow decodes it, at a size of ours.

    Pillow's own reader rounds the smaller sides to the nearest; the standard rounds them up (B.5),
    so that every other picture would not be read.
    """

    format = "JPEG2000"

    def __init__(self, frame: bytes, size: tuple[int, int], mode: str, levels: int) -> None:
        self._wanted = size, mode, levels, len(frame)
        super().__init__(BytesIO(frame))

    def _open(self) -> None:
        self._size, self._mode, levels, length = self._wanted
        every_layer, no_file = 0, -1
        settings = ("j2k", levels, every_layer, no_file, length)
        self.tile = [ImageFile._Tile("jpeg2k", (0, 0, *self._size), 0, settings)]
