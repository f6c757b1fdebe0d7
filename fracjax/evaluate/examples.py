"""Images that a model called rightly and wrongly, with heat maps: for a person to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax import data
from fracjax.configs import DataSet
from fracjax.engine import Scorer
from fracjax.heat import on_picture, overlay
from fracjax.image import network_input

Kind = Literal["missed", "false alarm", "found", "rightly silent"]

KINDS: tuple[Kind, ...] = ("missed", "false alarm", "found", "rightly silent")

OF_EACH = 3

SIDE = 560
"""Of the longer side of a picture in the page, pixels."""

OWN: DataSet = "own_images"
"""The data set whose paths are not shown."""

BOX_COLOUR = (120, 230, 120)


@dataclass(frozen=True, slots=True)
class Shown:
    """An image beside itself with its heat map.

    Attributes:
        kind: How it was called at the threshold.
        source: Its file in a published data set; empty of one's own, where it may name a patient.
        likelihood: Raw, 0..1.
        plain: JPEG of the image, with its marked boxes.
        heated: JPEG of the image with the heat map.
    """

    kind: Kind
    source: str
    likelihood: float
    plain: bytes
    heated: bytes


def choose(
    scorer: Scorer, images: data.Radiographs, likelihoods: NDArray[np.float32], threshold: float
) -> Iterator[Shown]:
    """Choose the surest of each kind, wrong ones first.

    Args:
        scorer: The model.
        images: Labelled images.
        likelihoods: (n,), raw, of them.
        threshold: From which on an image counts as called positive.
    """
    positive = np.array([fact.label for fact in images.facts]) == 1
    called = likelihoods >= threshold
    members = {
        "missed": positive & ~called,
        "false alarm": ~positive & called,
        "found": positive & called,
        "rightly silent": ~positive & ~called,
    }
    for kind in KINDS:
        rows = np.flatnonzero(members[kind])
        sign = 1 if kind in ("missed", "rightly silent") else -1
        for row in rows[np.argsort(sign * likelihoods[rows], kind="stable")][:OF_EACH].tolist():
            source = "" if images.name == OWN else images[row].source
            yield _shown(scorer, images[row], kind, float(likelihoods[row]), source)


def _shown(
    scorer: Scorer, example: data.Example, kind: Kind, likelihood: float, source: str
) -> Shown:
    preprocess = scorer.manifest.preprocess
    pixels = example.pixels()
    heat = scorer.explain(network_input(pixels, preprocess)[np.newaxis])[0]
    display = np.asarray(pixels / np.float32(255), np.float32)
    plain = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    heated = overlay(display, on_picture(heat, pixels, preprocess), likelihood)
    return Shown(
        kind,
        source,
        likelihood,
        _jpeg(_with_boxes(_small(plain), example.boxes)),
        _jpeg(_small(heated)),
    )


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, sides, interpolation=cv2.INTER_AREA), np.uint8)


def _with_boxes(picture: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    marked = picture.copy()
    for top, left, bottom, right in boxes.tolist():
        corners = (int(left * width), int(top * height)), (int(right * width), int(bottom * height))
        cv2.rectangle(marked, *corners, BOX_COLOUR, 2)
    return marked


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(encoded)
