"""From a displayed picture to the network's input. One definition for training and scoring."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess
from fracjax.image.exposure import Box, exposed_box, exposed_sample, percentile_range, stretch

TILES = (8, 8)
"""Into how many parts contrast-limited equalisation divides a picture, as Zuiderveld 1994 does."""


def network_input(
    display: NDArray[np.float32] | NDArray[np.uint8],
    preprocess: Preprocess,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Fit a picture into the square that the network sees.

    Borders are cropped first, then the grey scale is stretched, the picture resized, and its
    histogram equalised: each if ``preprocess`` says so. With ``fit="letterbox"`` the longer side
    becomes ``preprocess.image_size`` and the rest of the square is black, so the anatomy keeps its
    proportions and its place does not depend on the picture's shape.

    Args:
        display: (height, width), float32 in 0..1 or uint8 in 0..255; 0 is black.
        preprocess: The size of the square, and what is done besides.
        shape: Height and width of the whole picture, where ``display`` is a smaller one of it
            (:func:`least_side`), whose proportions are rounded.

    Returns:
        float32 (size, size) in 0..1.
    """
    size = preprocess.image_size
    levels = _levels(display)
    picture = levels[shown(levels, preprocess)]
    if preprocess.window == "percentile":
        low, high = percentile_range(exposed_sample(levels, None))
        picture = stretch(picture, low, high) if low < high else picture
    rows, columns = placement(_whole(picture.shape, display.shape, shape), preprocess)
    new_size = columns.stop - columns.start, rows.stop - rows.start
    # Area averaging is free of aliasing when shrinking, which radiographs nearly always are.
    interpolation = cv2.INTER_AREA if size < max(picture.shape) else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(picture, new_size, interpolation=interpolation), np.float32)
    square = np.zeros((size, size), np.float32)
    square[rows, columns] = _equalise(resized, preprocess.clahe) if preprocess.clahe else resized
    return square


def least_side(preprocess: Preprocess) -> int | None:
    """Tell how many pixels of a picture's longer side are enough for :func:`network_input`.

    Twice those of the square, so that it is still shrunk by averaging.

    Returns:
        Pixels; ``None`` where all are wanted: only a part of the picture is shown, or the grey
        scale is stretched by percentiles, which fewer pixels, with less noise, would move.
    """
    is_whole = preprocess.border == "keep" and preprocess.fit == "letterbox"
    is_enough = is_whole and preprocess.window == "display"
    return 2 * preprocess.image_size if is_enough else None


def shown(display: NDArray[np.float32] | NDArray[np.uint8], preprocess: Preprocess) -> Box:
    """Tell which rows and columns of a picture the square shows.

    They lie in those of the square that :func:`placement` tells for their shape; both together
    map a place in the square to one in the picture.
    """
    rows, columns = slice(0, display.shape[0]), slice(0, display.shape[1])
    if preprocess.border == "crop":
        rows, columns = exposed_box(_levels(display))
    if preprocess.fit == "crop":
        side = min(rows.stop - rows.start, columns.stop - columns.start)
        rows, columns = _middle(rows, side), _middle(columns, side)
    return rows, columns


def picture_in(
    square: NDArray[np.float32],
    display: NDArray[np.float32] | NDArray[np.uint8],
    preprocess: Preprocess,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Take the picture out of the square that :func:`network_input` made of it."""
    part = display[shown(display, preprocess)].shape
    return square[placement(_whole(part, display.shape, shape), preprocess)]


def placement(shape: tuple[int, ...], preprocess: Preprocess) -> Box:
    """Tell which rows and columns of the square it takes to show a shape (height, width)."""
    size = preprocess.image_size
    sides = (min(size, max(1, round(side * size / max(shape)))) for side in shape)
    rows, columns = (_middle(slice(0, size), side) for side in sides)
    return rows, columns


def _whole(
    part: tuple[int, ...], display: tuple[int, ...], shape: tuple[int, int] | None
) -> tuple[int, ...]:
    """Tell how many pixels of the whole picture a part of its smaller one stands for."""
    if shape is None:
        return part
    sides = zip(part, shape, display, strict=True)
    return tuple(round(side * whole / smaller) for side, whole, smaller in sides)


def _middle(line: slice, length: int) -> slice:
    start = line.start + (line.stop - line.start - length) // 2
    return slice(start, start + length)


def _levels(display: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give grey levels as float32 in 0..1."""
    levels = display.astype(np.float32, copy=False)
    if display.dtype == np.uint8:
        levels /= 255.0
    return levels


def _equalise(picture: NDArray[np.float32], clip: float) -> NDArray[np.float32]:
    """Equalise the histogram in 8 bits: tiles of a small picture do not fill the bins of 16."""
    if not np.isfinite(picture).all():
        return picture  # no level would stand for such a number, which its reader must see
    equaliser = cv2.createCLAHE(clipLimit=clip, tileGridSize=TILES)
    levels = equaliser.apply(np.rint(picture * 255).astype(np.uint8))
    return _levels(np.asarray(levels, np.uint8))
