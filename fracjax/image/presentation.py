"""What the header says of how stored values are shown, applied to them and checked.

The order is that of the grayscale transformation sequence (PS3.4 N.2): modality LUT (PS3.3
C.11.1), VOI LUT (C.11.2), presentation LUT (C.11.6), and shutters over the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from fracjax.image import exposure, grayscale, header, shutter
from fracjax.image.grayscale import Mask
from fracjax.image.picture import Reason, Rejected
from fracjax.image.policy import ReadPolicy

_SIGNS = {"1": 1, "-1": -1}

VoiFunction = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A monochrome image as a display would show it; the attributes are those of ``Picture``."""

    display: NDArray[np.float32]
    voi_source: str
    polarity_source: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Voi:
    """What to do with the output of the modality transform, and whether the header asked for it.

    Attributes:
        apply: Numbers of any shape to float32 in 0..1; never decreasing, but for a LUT.
        source: ``lut``, ``window``, ``none`` or ``percentile``.
        ignored: Whether a window or LUT of the header was not usable.
        sign: -1 where larger values are shown darker, else 1.
    """

    apply: VoiFunction
    source: str
    ignored: bool = False
    sign: int = 1


def is_for_processing(dataset: Dataset) -> bool:
    """Whether an image holds raw detector values (PS3.3 C.8.11.1, Presentation Intent Type)."""
    return header.text(dataset, "PresentationIntentType") == "FOR PROCESSING"


def show(dataset: Dataset, stored: NDArray[Any], policy: ReadPolicy) -> Shown:
    """Show stored values in the order of PS3.4 N.2.

    Args:
        dataset: The header of a monochrome image.
        stored: Integers (h, w).
        policy: Whether an image without a usable window is shown by percentiles.

    Returns:
        The image, with the notes ``for_processing``, ``window_ignored``, ``shutter_ignored`` and
        ``polarity_conflict`` where they are due.

    Raises:
        Rejected: ``flat`` if all that is not background has the same value;
            ``no_window`` where the policy asks for a window.
        Exception: Whatever pydicom raises at a malformed header.
    """
    notes = []
    background, shutter_ignored = _background(dataset, stored)
    if shutter_ignored:
        notes.append("shutter_ignored")
    values, modality_sign = _modality(dataset, stored)
    raw = is_for_processing(dataset)
    if raw:
        notes.append("for_processing")
        if header.text(dataset, "PixelIntensityRelationship") != "LOG":
            values = grayscale.logarithm(values)
    sample = exposure.exposed_sample(values, background)
    voi = _percentile_voi(sample) if raw else _checked_voi(dataset, values, sample)
    if voi.ignored:
        notes.append("window_ignored")
    if voi.source == "percentile" and not raw and policy.without_window == "set_aside":
        raise Rejected(Reason.NO_WINDOW, "no window or lookup table that can be used")
    display = voi.apply(values)
    visible = display if background is None else display[~background]
    if visible.min() == visible.max():
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    inverted, polarity_source, conflict = _polarity(
        dataset, modality_sign * voi.sign, distrust=raw or voi.ignored
    )
    if conflict:
        notes.append("polarity_conflict")
    if inverted:
        display = 1 - display
    if background is not None:
        display[background] = 0
    return Shown(display, voi.source, polarity_source, tuple(notes))


def _background(dataset: Dataset, stored: NDArray[Any]) -> tuple[Mask | None, bool]:
    """Mask of padding, shutters and collimators, and whether the shutters' was not usable."""
    ignored = False
    try:
        covered = shutter.occluded(dataset, (stored.shape[0], stored.shape[1]))
    except Exception:  # noqa: BLE001 - a malformed shutter is a reason to do without it
        covered, ignored = None, True
    if covered is not None and covered.mean() > shutter.MOST_COVERED:
        covered, ignored = None, True
    padded = _padding(dataset, stored)
    if covered is None or padded is None:
        return (padded if covered is None else covered), ignored
    return padded | covered, ignored


def _padding(dataset: Dataset, stored: NDArray[Any]) -> Mask | None:
    """Mask of the padding (PS3.3 C.7.5.1.1.2), or ``None`` where there is none.

    Raises:
        Rejected: ``flat`` where all is padding.
    """
    value = header.integer(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = header.integer(dataset, "PixelPaddingRangeLimit")
    kind = np.iinfo(stored.dtype)

    def as_stored(number: int) -> int:  # writers mix up US and SS
        low = int(kind.min)
        return low + (number - low) % (1 << int(kind.bits))

    mask = grayscale.padding(stored, as_stored(value), None if limit is None else as_stored(limit))
    if mask.all():
        raise Rejected(Reason.FLAT, "nothing but padding")
    return mask if mask.any() else None


def _modality(dataset: Dataset, stored: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Apply the modality LUT or the rescaling (PS3.3 C.11.1); -1 where it turns the scale over."""
    if dataset.get("ModalityLUTSequence"):
        table = header.lookup_table(dataset, "ModalityLUTSequence")
        return grayscale.look_up(stored, table), grayscale.table_sign(table)
    slope, intercept = (
        header.number(dataset, "RescaleSlope"),
        header.number(dataset, "RescaleIntercept"),
    )
    if slope is None and intercept is None:
        return stored, 1
    slope = 1.0 if slope is None else slope
    return grayscale.rescale(stored, slope, intercept or 0.0), -1 if slope < 0 else 1


def _checked_voi(dataset: Dataset, values: NDArray[Any], sample: NDArray[Any]) -> _Voi:
    """Take the header's VOI LUT or window, or percentiles where it has none that is usable.

    Headers are often wrong here: windows lie outside all values, tables are constant.
    """
    try:
        voi = _voi(dataset)
        usable = voi is not None and exposure.is_usable(voi.apply(sample))
    except Exception:  # noqa: BLE001 - a malformed window is a reason to do without it
        return _percentile_voi(sample, ignored=True)
    if voi is not None:
        return voi if usable else _percentile_voi(sample, ignored=True)
    if values.dtype == np.uint8 and header.integer(dataset, "BitsStored") == 8:
        # Eight bits without a window are a picture made for display already. To stretch them
        # would show it otherwise than the same picture in a PNG file.
        return _Voi(lambda x: x.astype(np.float32) / np.float32(255), "none")
    return _percentile_voi(sample)


def _voi(dataset: Dataset) -> _Voi | None:
    """The VOI LUT of a header, or else its window (PS3.3 C.11.2); the first one of several."""
    if dataset.get("VOILUTSequence"):
        table = header.lookup_table(dataset, "VOILUTSequence")
        white = np.float32(2**table.bits - 1)
        return _Voi(
            lambda x: np.clip(grayscale.look_up(x, table) / white, 0, 1),
            "lut",
            sign=grayscale.table_sign(table),
        )
    center, width = header.number(dataset, "WindowCenter"), header.number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    function = (header.text(dataset, "VOILUTFunction") or "LINEAR").upper()
    return _Voi(lambda x: grayscale.window(x, center, width, function), "window")


def _percentile_voi(sample: NDArray[Any], *, ignored: bool = False) -> _Voi:
    low, high = exposure.percentile_range(sample)
    if low == high:
        raise Rejected(Reason.FLAT, "the exposed region has but one grey level")
    return _Voi(lambda x: exposure.stretch(x, low, high), "percentile", ignored)


def _polarity(dataset: Dataset, sign: int, *, distrust: bool) -> tuple[bool, str, bool]:
    """Decide whether to invert, once and last.

    Two parts of a header say which end is white, and either may lie. PhotometricInterpretation
    and PresentationLUTShape say the same thing twice (PS3.3 C.8.11.3.1.2: MONOCHROME1 comes with
    INVERSE, MONOCHROME2 with IDENTITY), so that either or both invert once.
    PixelIntensityRelationshipSign says whether larger values are more X-rays, which a radiograph
    shows darker. Viewers follow the first, so that an error there is seen and corrected, and
    nobody sees the second. But where what the header says of the display is not to be trusted,
    the second is left, which is about the detector alone.

    Args:
        dataset: The header of a monochrome image.
        sign: -1 where the modality and VOI transforms together turn the grey scale over, else 1.
        distrust: Whether the values are raw, or the header's window or LUT was not usable.

    Returns:
        Whether to invert, what decided, and whether the two conflict.
    """
    shape = header.text(dataset, "PresentationLUTShape")
    photometric = header.text(dataset, "PhotometricInterpretation")
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    intensity_sign = _SIGNS.get(header.text(dataset, "PixelIntensityRelationshipSign") or "")
    if intensity_sign is None or (intensity_sign * sign == 1) == inverted:
        return inverted, "photometric", False
    return (not inverted, "intensity_sign", True) if distrust else (inverted, "photometric", True)
