"""Display shutters and collimators: the parts of an image that its header says not to show.

PS3.3 C.7.6.11 (Display Shutter), C.7.6.15 (Bitmap Display Shutter), C.8.7.3 (X-Ray Collimator).
Rows and columns count from 1, and the edges themselves are shown.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from pydicom import Dataset

from fracjax.image import header
from fracjax.image.grayscale import Mask

MOST_COVERED = 0.99
"""Part of an image that may be covered. More leaves nothing to look at, so that it is an error."""


def occluded(dataset: Dataset, shape: tuple[int, int]) -> Mask | None:
    """Find what display shutters and collimators cover.

    Where several shapes are given, only what all of them leave open is shown.

    Args:
        dataset: The header of an image.
        shape: Its height and width.

    Returns:
        bool (h, w), true where the image is covered; ``None`` where nothing is.

    Raises:
        Exception: Whatever pydicom raises at a malformed header.
    """
    mask = np.zeros(shape, bool)
    for opening in (
        *_openings(dataset, shape, "ShutterShape", "Shutter"),
        *_openings(dataset, shape, "CollimatorShape", "Collimator"),
    ):
        mask |= ~opening
    return mask if mask.any() else None


def _openings(dataset: Dataset, shape: tuple[int, int], kind: str, name: str) -> Iterator[Mask]:
    """What each shape of a shutter (``name`` is Shutter) or collimator (Collimator) leaves open."""
    for form in header.codes(dataset, kind):
        match form:
            case "RECTANGULAR":
                yield rectangle(
                    shape,
                    header.required_integer(dataset, f"{name}UpperHorizontalEdge"),
                    header.required_integer(dataset, f"{name}LowerHorizontalEdge"),
                    header.required_integer(dataset, f"{name}LeftVerticalEdge"),
                    header.required_integer(dataset, f"{name}RightVerticalEdge"),
                )
            case "CIRCULAR":
                row, column = map(int, header.values(dataset, f"CenterOfCircular{name}"))
                radius = header.required_integer(dataset, f"RadiusOfCircular{name}")
                yield circle(shape, row, column, radius)
            case "POLYGONAL":
                vertices = [int(v) for v in header.values(dataset, f"VerticesOfThePolygonal{name}")]
                yield polygon(shape, np.reshape(vertices, (-1, 2)))
            case "BITMAP":
                group = header.required_integer(dataset, "ShutterOverlayGroup")
                overlay = np.asarray(dataset.overlay_array(group), bool)
                yield ~overlay.reshape(-1, *overlay.shape[-2:])[0]


def rectangle(shape: tuple[int, int], top: int, bottom: int, left: int, right: int) -> Mask:
    """Mask of a rectangle; its edges are rows and columns from 1, and belong to it."""
    rows, columns = np.arange(1, shape[0] + 1), np.arange(1, shape[1] + 1)
    mask: Mask = np.outer(
        (rows >= top) & (rows <= bottom), (columns >= left) & (columns <= right)
    ).astype(bool)
    return mask


def circle(shape: tuple[int, int], row: int, column: int, radius: int) -> Mask:
    """Mask of a circle around a row and column, which count from 1."""
    rows = np.arange(1, shape[0] + 1, dtype=np.float64)[:, np.newaxis]
    columns = np.arange(1, shape[1] + 1, dtype=np.float64)
    mask: Mask = (rows - row) ** 2 + (columns - column) ** 2 <= float(radius) ** 2
    return mask


def polygon(shape: tuple[int, int], vertices: np.typing.NDArray[np.int64]) -> Mask:
    """Mask of a polygon; ``vertices`` are (n, 2) rows and columns from 1, and belong to it."""
    mask = np.zeros(shape, np.uint8)
    points = vertices[:, ::-1] - 1
    cv2.fillPoly(mask, [np.ascontiguousarray(points, np.int32)], 1)
    return mask.astype(bool)
