"""Heat maps as pictures: over the square, over the radiograph, and as a file. Needs no JAX."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess
from fracjax.image.render import placement, shown

Method = Literal["grad_cam", "integrated_gradients"]

MOST_COVER = 0.6
"""Part of a picture that the colour of its hottest place may cover."""

SMOOTHED = 1 / 40
"""Standard deviation that integrated gradients are smoothed by, as a part of the square's side."""

NO_MARKING = "which is no marking of a finding"
"""What stands wherever a heat map does."""


def in_square(heat: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Give a heat map over the square that the network sees.

    Args:
        heat: (h, w), of one of the methods.
        size: The square's side, pixels.

    Returns:
        float32 (size, size) in 0..1, of which the hottest place is 1, unless all are 0.
    """
    positive = np.maximum(heat, 0)
    if positive.shape == (size, size):
        smooth = cv2.GaussianBlur(positive, (0, 0), SMOOTHED * size)
    else:
        smooth = cv2.resize(positive, (size, size), interpolation=cv2.INTER_LINEAR)
    hottest = float(smooth.max())
    return np.asarray(smooth / hottest if hottest > 0 else smooth, np.float32)


def on_picture(
    heat: NDArray[np.float32],
    display: NDArray[np.float32] | NDArray[np.uint8],
    preprocess: Preprocess,
) -> NDArray[np.float32]:
    """Bring a heat map from the square back to the picture that it was made of.

    Args:
        heat: (size, size), of :func:`in_square`.
        display: The picture, (height, width).
        preprocess: How it became the square.

    Returns:
        float32 (height, width) in 0..1; 0 where the network was shown nothing of the picture.
    """
    region = shown(display, preprocess)
    rows, columns = region
    sides = columns.stop - columns.start, rows.stop - rows.start
    inside = heat[placement((sides[1], sides[0]), preprocess)]
    whole = np.zeros(display.shape, np.float32)
    whole[region] = np.clip(cv2.resize(inside, sides, interpolation=cv2.INTER_LINEAR), 0, 1)
    return whole


def overlay(
    display: NDArray[np.float32],
    heat: NDArray[np.float32],
    strength: float = 1.0,
    caption: str = "",
) -> NDArray[np.uint8]:
    """Lay a heat map over a radiograph: the hotter a place, the more of its colour is there.

    Args:
        display: (height, width) in 0..1.
        heat: (height, width) in 0..1, of :func:`on_picture`.
        strength: 0..1, of the colours. A map has a hottest place however sure a network is of a
            negative, so give the likelihood.
        caption: A line below the picture, ASCII; none if it is empty.

    Returns:
        uint8 (height, width, 3), BGR; higher by the caption.
    """
    grey = np.repeat(np.rint(np.clip(display, 0, 1) * 255)[..., np.newaxis], 3, axis=2)
    levels = np.rint(heat * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO).astype(np.float32)
    part = MOST_COVER * strength * heat[..., np.newaxis]
    blended = np.rint((1 - part) * grey + part * colours).astype(np.uint8)
    return blended if not caption else np.concatenate([blended, _strip(caption, len(display[0]))])


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture (height, width, 3), BGR, as PNG."""
    _, encoded = cv2.imencode(".png", picture)
    return bytes(encoded)


def _strip(caption: str, width: int) -> NDArray[np.uint8]:
    """Write a text as wide as a picture, white on black, in as many lines as it takes."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, width / 1600)

    def length(text: str) -> int:
        (pixels, _), _ = cv2.getTextSize(text, font, scale, 1)
        return int(pixels)

    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer) > 0.96 * width:
            lines.append(word)
        else:
            lines[-1] = longer
    row = round(36 * scale)
    strip = np.zeros((row * len(lines) + row // 2, width, 3), np.uint8)
    for number, line in enumerate(lines, start=1):
        place = (int(0.02 * width), row * number)
        cv2.putText(strip, line, place, font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return strip
