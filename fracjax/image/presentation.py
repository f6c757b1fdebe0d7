"""What the header says of how stored values are shown, applied to them and checked.

The order is that of the grayscale transformation sequence (PS3.4 N.2): modality LUT (PS3.3
C.11.1), VOI LUT (C.11.2), presentation LUT (C.11.6), and shutters over the result.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from fracjax.image import exposure, grayscale, header, shutter
from fracjax.image.exposure import Sample
from fracjax.image.grayscale import Mask
from fracjax.image.picture import Reason, Rejected
from fracjax.image.policy import ReadPolicy

_SIGNS = {"1": 1, "-1": -1}
_CONTRADICTIONS = {("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")}
"""PhotometricInterpretation and PresentationLUTShape that do not go together."""

_SPARSE = 16  # of so many rows and columns, one nearly always tells that values differ

VoiFunction = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A monochrome image as a display would show it; the attributes are those of ``Picture``."""

    display: NDArray[np.float32]
    voi_source: str
    polarity_source: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Modality:
    """The output of the modality transform (PS3.3 C.11.1).

    Attributes:
        values: Numbers (h, w).
        sign: -1 where the transform turns the grey scale over, else 1.
        is_applied: Whether there is a transform; else ``values`` are the stored ones.
        ignored: Whether that of the header was not usable.
    """

    values: NDArray[Any]
    sign: int = 1
    is_applied: bool = True
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class _Voi:
    """What to do with the output of the modality transform, and whether the header asked for it.

    Attributes:
        apply: Numbers of any shape to float32 in 0..1; never decreasing, but for a LUT.
        source: ``lut``, ``window``, ``none`` or ``percentile``.
        ignored: Whether a window or LUT of the header that comes before was not usable.
        sign: -1 where larger values are shown darker, else 1.
    """

    apply: VoiFunction
    source: str
    ignored: bool = False
    sign: int = 1


class _Malformed(Exception):
    """A part of a header that the picture is shown without."""


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever a malformed part of a header raises into ``_Malformed``."""
    try:
        yield
    except MemoryError:  # no fault of the header: the picture must not be shown without it
        raise
    except Exception:  # noqa: BLE001 - pydicom and numpy, fed hostile values
        raise _Malformed from None


def is_for_processing(dataset: Dataset) -> bool:
    """Whether an image holds raw detector values (PS3.3 C.8.11.1, Presentation Intent Type)."""
    return header.code(dataset, "PresentationIntentType") == "FOR PROCESSING"


def show(
    dataset: Dataset, stored: NDArray[Any], policy: ReadPolicy, index: int = 0, step: int = 1
) -> Shown:
    """Show stored values in the order of PS3.4 N.2.

    Args:
        dataset: The header of a monochrome image.
        stored: Integers (h, w).
        policy: Whether an image without a usable window is shown by percentiles.
        index: Which frame of the object it is, from 0.
        step: Of how many rows and columns of the header ``stored`` holds one.

    Returns:
        The image, with the notes ``shutter_ignored``, ``padding_ignored``, ``modality_ignored``,
        ``for_processing``, ``window_ignored`` and ``polarity_conflict`` where they are due.

    Raises:
        Rejected: ``flat`` if all that is not background has the same value;
            ``no_window`` where the policy asks for a window.
        Exception: Whatever pydicom raises at a malformed header.
    """
    background, notes = _background(dataset, stored, step)
    modality = _checked_modality(
        header.of_frame(dataset, "PixelValueTransformationSequence", index), stored, background
    )
    values = modality.values
    if modality.ignored:
        notes.append("modality_ignored")
    raw = is_for_processing(dataset)
    if raw:
        notes.append("for_processing")
        if header.code(dataset, "PixelIntensityRelationship") != "LOG":
            values = grayscale.logarithm(values)
    sample = exposure.exposed_sample(values, background)
    if raw:
        voi = _percentile_voi(sample)
    else:
        # Eight bits without a window are a picture made for display already. To stretch them
        # would show it otherwise than the same picture in a PNG file.
        is_display = (
            not modality.is_applied
            and stored.dtype.kind == "u"
            and header.integer(dataset, "BitsStored") == 8
        )
        voi = _checked_voi(
            header.of_frame(dataset, "FrameVOILUTSequence", index), sample, is_display=is_display
        )
    if voi.ignored:
        notes.append("window_ignored")
    if voi.source == "percentile" and not raw and policy.without_window == "set_aside":
        raise Rejected(Reason.NO_WINDOW, "no window or lookup table that can be used")
    display = voi.apply(values)
    if _is_constant(display, background):
        raise Rejected(Reason.FLAT, "every pixel has the same value")
    inverted, polarity_source, conflict = _polarity(
        dataset,
        modality.sign * voi.sign,
        distrust=raw or (voi.ignored and voi.source == "percentile"),
    )
    if conflict:
        notes.append("polarity_conflict")
    if inverted:
        display = 1 - display
    if background is not None:
        display[background] = 0
    return Shown(display, voi.source, polarity_source, tuple(notes))


def _background(dataset: Dataset, stored: NDArray[Any], step: int) -> tuple[Mask | None, list[str]]:
    """Mask of padding, shutters and collimators, and notes of what was not usable.

    Raises:
        Rejected: ``flat`` where there is nothing else.
    """
    notes = []
    try:
        with _reading():
            covered = _covered(dataset, stored, step)
    except _Malformed:
        covered = None
        notes.append("shutter_ignored")
    if covered is not None and covered.mean() > shutter.MOST_COVERED:
        covered = None
        notes.append("shutter_ignored")
    try:
        with _reading():
            value = header.integer(dataset, "PixelPaddingValue")
            limit = header.integer(dataset, "PixelPaddingRangeLimit")
    except _Malformed:
        value = limit = None
        notes.append("padding_ignored")
    padded = None if value is None else _padding(stored, value, limit)
    masks = [mask for mask in (padded, covered) if mask is not None and mask.any()]
    background = np.logical_or.reduce(masks) if masks else None
    if background is not None and background.all():
        raise Rejected(Reason.FLAT, "nothing but padding")
    return background, notes


def _covered(dataset: Dataset, stored: NDArray[Any], step: int) -> Mask | None:
    """Mask of shutters and collimators, whose header counts the rows of the whole image."""
    if step == 1:
        return shutter.occluded(dataset, (stored.shape[0], stored.shape[1]))
    rows, columns = (header.required_integer(dataset, name) for name in ("Rows", "Columns"))
    covered = shutter.occluded(dataset, (rows, columns))
    if covered is None:
        return None
    amid = (
        np.minimum(np.arange(count) * step + step // 2, side - 1)
        for count, side in zip(stored.shape, covered.shape, strict=True)
    )
    return covered[np.ix_(*amid)]


def _padding(stored: NDArray[Any], value: int, limit: int | None) -> Mask:
    """Mask of the padding (PS3.3 C.7.5.1.1.2)."""
    kind = np.iinfo(stored.dtype)

    def as_stored(number: int) -> int:  # writers mix up US and SS
        low = int(kind.min)
        return low + (number - low) % (1 << int(kind.bits))

    return grayscale.padding(stored, as_stored(value), None if limit is None else as_stored(limit))


def _visible(values: NDArray[Any], background: Mask | None) -> NDArray[Any]:
    return values if background is None else values[~background]


def _is_constant(values: NDArray[Any], background: Mask | None) -> bool:
    sparse = values[::_SPARSE, ::_SPARSE]
    seen = _visible(sparse, None if background is None else background[::_SPARSE, ::_SPARSE])
    if seen.size and seen.min() != seen.max():  # as in nearly all pictures
        return False
    visible = _visible(values, background)
    return bool(visible.min() == visible.max())


def _checked_modality(dataset: Dataset, stored: NDArray[Any], background: Mask | None) -> _Modality:
    """Apply the modality transform, or do without one that cannot be right.

    Headers are often wrong here: a slope is 0, a table is empty.
    """
    try:
        with _reading():
            modality = _modality(dataset, stored, background)
    except _Malformed:
        return _Modality(stored, is_applied=False, ignored=True)
    if modality.is_applied and _is_constant(modality.values, background):
        return _Modality(stored, is_applied=False, ignored=True)
    return modality


def _modality(dataset: Dataset, stored: NDArray[Any], background: Mask | None) -> _Modality:
    """Apply the modality LUT or the rescaling (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        table = header.lookup_table(dataset, "ModalityLUTSequence")
        table = grayscale.meeting(table, _visible(stored, background))
        return _Modality(grayscale.look_up(stored, table), sign=grayscale.table_sign(table))
    slope, intercept = (
        header.number(dataset, "RescaleSlope"),
        header.number(dataset, "RescaleIntercept"),
    )
    slope = 1.0 if slope is None else slope
    if slope == 1 and not intercept:
        return _Modality(stored, is_applied=False)
    return _Modality(
        grayscale.rescale(stored, slope, intercept or 0.0), sign=-1 if slope < 0 else 1
    )


def _checked_voi(dataset: Dataset, sample: Sample, *, is_display: bool) -> _Voi:
    """Take the header's first VOI LUT or window that is usable, or percentiles if none is.

    Headers are often wrong here: windows lie outside all values, tables are constant.

    Args:
        dataset: Where the VOI stands.
        sample: Of the exposed region's outputs of the modality transform.
        is_display: Whether they are display values already, should the header have no VOI.
    """
    ignored = False
    for read in (_tables, _windows):
        try:
            with _reading():
                candidates = list(read(dataset, sample))
        except _Malformed:
            candidates = []
            ignored = True
        for voi in candidates:
            if _is_usable(voi, sample):
                return replace(voi, ignored=ignored)
            ignored = True
    if is_display and not ignored:
        return _Voi(lambda x: x.astype(np.float32) / np.float32(255), "none")
    return _percentile_voi(sample, ignored=ignored)


def _is_usable(voi: _Voi, sample: Sample) -> bool:
    try:
        with _reading():
            return exposure.is_usable(sample.through(voi.apply))
    except _Malformed:  # a window that the standard does not allow
        return False


def _tables(dataset: Dataset, sample: Sample) -> Iterator[_Voi]:
    """The first VOI LUT of a header (PS3.3 C.11.2.1.1), if it has any."""
    if dataset.get("VOILUTSequence"):
        table = header.lookup_table(dataset, "VOILUTSequence")
        table = grayscale.meeting(table, sample.levels)
        white = np.float32(2**table.bits - 1)
        yield _Voi(
            lambda x: np.clip(grayscale.look_up(x, table) / white, 0, 1),
            "lut",
            sign=grayscale.table_sign(table),
        )


def _windows(dataset: Dataset, sample: Sample) -> Iterator[_Voi]:
    """The windows of a header in their order (PS3.3 C.11.2.1.2)."""
    function = (header.code(dataset, "VOILUTFunction") or "LINEAR").replace(" ", "_")
    centers, widths = (header.values(dataset, f"Window{part}") for part in ("Center", "Width"))
    for center, width in zip(centers, widths, strict=False):
        if "" not in (center, width) and None not in (center, width):
            yield _window(float(center), float(width), function)


def _window(center: float, width: float, function: str) -> _Voi:
    return _Voi(lambda x: grayscale.window(x, center, width, function), "window")


def _percentile_voi(sample: Sample, *, ignored: bool = False) -> _Voi:
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
    nobody sees the second. But where the first contradicts itself, or what the header says of
    the display is not to be trusted, the second is left, which is about the detector alone.

    Args:
        dataset: The header of a monochrome image.
        sign: -1 where the modality and VOI transforms together turn the grey scale over, else 1.
        distrust: Whether the values are raw, or none of the header's windows and LUTs is usable.

    Returns:
        Whether to invert, what decided, and whether any of the three conflict.
    """
    shape = header.code(dataset, "PresentationLUTShape")
    photometric = header.code(dataset, "PhotometricInterpretation")
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    is_contradiction = (photometric, shape) in _CONTRADICTIONS
    intensity_sign = _SIGNS.get(header.text(dataset, "PixelIntensityRelationshipSign") or "")
    if intensity_sign is None:
        return inverted, "photometric", is_contradiction
    inverts = intensity_sign * sign == 1
    if is_contradiction:
        return inverts, "intensity_sign", True
    if inverts == inverted:
        return inverted, "photometric", False
    return (inverts, "intensity_sign", True) if distrust else (inverted, "photometric", True)
