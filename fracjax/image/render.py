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
    height, width = display.shape
    scale = size / max(height, width)
    new_width = min(size, max(1, round(width * scale)))
    new_height = min(size, max(1, round(height * scale)))
    picture = display.astype(np.float32)
    if display.dtype == np.uint8:
        picture /= 255.0
    # Area averaging is free of aliasing when shrinking, which radiographs nearly always are.
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (new_width, new_height), interpolation=interpolation)
    square = np.zeros((size, size), np.float32)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = resized
    return square
