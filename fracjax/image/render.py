"""From a displayed picture to the network's input. One definition for training and scoring."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess


def network_input(
    display: NDArray[np.float32] | NDArray[np.uint8], preprocess: Preprocess
) -> NDArray[np.float32]:
    """Fit a picture into the square that the network sees.

    The longer side becomes ``preprocess.image_size`` and the rest of the square is black, so the
    anatomy keeps its proportions and its place does not depend on the picture's shape.

    Args:
        display: (height, width), float32 in 0..1 or uint8 in 0..255; 0 is black.
        preprocess: The size of the square.

    Returns:
        float32 (size, size) in 0..1.
    """
    size = preprocess.image_size
    rows, columns = placement(display.shape, preprocess)
    new_size = columns.stop - columns.start, rows.stop - rows.start
    picture = display.astype(np.float32)
    if display.dtype == np.uint8:
        picture /= 255.0
    # Area averaging is free of aliasing when shrinking, which radiographs nearly always are.
    interpolation = cv2.INTER_AREA if size < max(display.shape) else cv2.INTER_LINEAR
    square = np.zeros((size, size), np.float32)
    square[rows, columns] = cv2.resize(picture, new_size, interpolation=interpolation)
    return square


def placement(shape: tuple[int, ...], preprocess: Preprocess) -> tuple[slice, slice]:
    """Tell which rows and columns of the square a picture of a shape (height, width) takes."""
    size = preprocess.image_size
    sides = (min(size, max(1, round(side * size / max(shape)))) for side in shape)
    rows, columns = (slice((size - side) // 2, (size - side) // 2 + side) for side in sides)
    return rows, columns
