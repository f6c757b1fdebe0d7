"""What the header says of how stored values are shown, applied to them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from fracjax.image import grayscale, header
from fracjax.image.picture import Reason, Rejected


def show(dataset: Dataset, stored: NDArray[Any]) -> tuple[NDArray[np.float32], str, bool]:
    """Show stored values in the order of PS3.4 N.2: modality, VOI, polarity.

    Args:
        dataset: The header of a monochrome image.
        stored: Integers (h, w).

    Returns:
        float32 (h, w) in 0..1; where the grey scale came from (``lut``, ``window``, ``full_range``
        or ``none``); and whether the header's was unusable and full range took its place.

    Raises:
        Rejected: If every pixel that is not padding has the same value.
        Exception: Whatever pydicom raises at a malformed header.
    """
    background = _background(dataset, stored)
    values = _modality(dataset, stored)
    ignored = False
    try:
        shown = _voi(dataset, values)
    except Exception:  # noqa: BLE001 - a malformed window is a reason to do without it
        shown, ignored = None, True
    if shown is not None:
        low, high = grayscale.value_range(shown[0], background)
        ignored = low == high
    if shown is None or ignored:
        shown = grayscale.full_range(values, background), "full_range"
        low, high = grayscale.value_range(shown[0], background)
    if low == high:
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    display, voi_source = shown
    # PS3.3 C.8.11.3.1.2: MONOCHROME1 comes with the shape INVERSE, and MONOCHROME2 with IDENTITY.
    # The two say the same thing twice, so that either or both invert once.
    shape = header.text(dataset, "PresentationLUTShape")
    if header.text(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE":
        display = 1 - display
    if background is not None:
        display[background] = 0
    return display, voi_source, ignored


def _background(dataset: Dataset, stored: NDArray[Any]) -> grayscale.Mask | None:
    """Mask of the padding (PS3.3 C.7.5.1.1.2), or ``None`` where there is none."""
    value = header.integer(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = header.integer(dataset, "PixelPaddingRangeLimit")
    kind = np.iinfo(stored.dtype)

    def as_stored(number: int) -> int:  # writers mix up US and SS
        low = int(kind.min)
        return low + (number - low) % (1 << int(kind.bits))

    mask = grayscale.padding(stored, as_stored(value), None if limit is None else as_stored(limit))
    return mask if mask.any() else None


def _modality(dataset: Dataset, stored: NDArray[Any]) -> NDArray[Any]:
    """Apply the modality LUT or the rescaling (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return grayscale.look_up(stored, header.lookup_table(dataset, "ModalityLUTSequence"))
    slope, intercept = (
        header.number(dataset, "RescaleSlope"),
        header.number(dataset, "RescaleIntercept"),
    )
    if slope is None and intercept is None:
        return stored
    return grayscale.rescale(stored, 1.0 if slope is None else slope, intercept or 0.0)


def _voi(dataset: Dataset, values: NDArray[Any]) -> tuple[NDArray[np.float32], str] | None:
    """Apply the VOI LUT, or else the window (PS3.3 C.11.2); the first one of several.

    Returns:
        float32 (h, w) in 0..1, and ``lut``, ``window``, or ``none`` for stored values that need
        neither; ``None`` where the header lacks what the values need.
    """
    if dataset.get("VOILUTSequence"):
        table = header.lookup_table(dataset, "VOILUTSequence")
        white = np.float32(2**table.bits - 1)
        return np.clip(grayscale.look_up(values, table) / white, 0, 1), "lut"
    center, width = header.number(dataset, "WindowCenter"), header.number(dataset, "WindowWidth")
    if center is None or width is None:
        if values.dtype == np.uint8 and header.integer(dataset, "BitsStored") == 8:
            # Eight bits without a window are a picture made for display already. To stretch them
            # would show it otherwise than the same picture in a PNG file.
            return values.astype(np.float32) / np.float32(255), "none"
        return None
    function = header.text(dataset, "VOILUTFunction") or "LINEAR"
    return grayscale.window(values, center, width, function.upper()), "window"
