"""From stored values to a display: the grey-scale pipeline of DICOM as functions of arrays.

PS3.4 N.2 gives the order: stored values, modality LUT, VOI LUT, presentation LUT.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

GRAY_TOLERANCE = 16 / 255
"""Part of the range by which the channels of a grey pixel may differ (chroma of lossy JPEG)."""

COLORED_PART = 0.02
"""Part of a grey picture's pixels that may be in colour: a marker, an annotation."""

_FAR = 1e30


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A modality or VOI lookup table (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Attributes:
        first: The input that the first entry is for.
        entries: Integers (n,), the outputs for ``first`` and the inputs after it.
        bits: Bits of an output; the outputs range over 0 .. 2**bits - 1.
    """

    first: int
    entries: NDArray[Any]
    bits: int


def stored_values(
    samples: NDArray[Any], bits_stored: int, high_bit: int, *, clip: bool
) -> NDArray[Any]:
    """Take the stored values out of their containers (PS3.5 8.1.1).

    Args:
        samples: Integers of any shape; signed exactly where PixelRepresentation is 1.
        bits_stored: How many bits of each sample are the value.
        high_bit: The highest of these bits, from 0.
        clip: Whether a sample outside the range is an overshoot of lossy compression, to be
            clipped. Otherwise the bits above and below are no part of the value (overlays,
            garbage).

    Returns:
        Integers of the same shape, sign-extended where signed.
    """
    unused = 8 * samples.dtype.itemsize - bits_stored
    if unused <= 0:
        return samples
    if clip:
        low = -(1 << (bits_stored - 1)) if samples.dtype.kind == "i" else 0
        return np.asarray(np.clip(samples, low, low + (1 << bits_stored) - 1))
    above = 8 * samples.dtype.itemsize - 1 - high_bit
    if samples.dtype.kind == "u" and above == unused:
        return np.asarray(np.bitwise_and(samples, (1 << bits_stored) - 1))
    # Shifting right again extends the sign of a signed type.
    return np.asarray(np.right_shift(np.left_shift(samples, above), unused))


def padding(stored: NDArray[Any], value: int, limit: int | None) -> Mask:
    """Find the pixels that pad the image to a rectangle (PS3.3 C.7.5.1.1.2).

    Args:
        stored: Stored values (h, w), before any LUT.
        value: PixelPaddingValue.
        limit: PixelPaddingRangeLimit; it lies on either side of ``value``.

    Returns:
        bool (h, w), true where the pixel is padding.
    """
    low, high = sorted((value, value if limit is None else limit))
    mask: Mask = (stored >= low) & (stored <= high)
    return mask


def rescale(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    """Apply the linear modality transform (PS3.3 C.11.1.1.2).

    Args:
        stored: Stored values (h, w).
        slope: RescaleSlope.
        intercept: RescaleIntercept.

    Returns:
        float32 (h, w).

    Raises:
        ValueError: If the values leave the range that float32 can work with.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not np.abs(values).max() < _FAR:  # true of NaN too
        raise ValueError("the modality transform overflows")
    return values


def look_up(values: NDArray[Any], table: LookupTable) -> NDArray[np.float32]:
    """Apply a lookup table; inputs outside it take its first or last entry.

    pydicom's ``apply_voi`` is not used: it holds the table's index in the type of the table's
    entries, so that an 8-bit table of more than 256 entries wraps around.

    Args:
        values: Numbers (h, w).
        table: The table.

    Returns:
        float32 (h, w) in 0 .. 2**bits - 1.

    Raises:
        ValueError: If the table has no entries.
    """
    if table.entries.size == 0:
        raise ValueError("an empty lookup table")
    index = np.rint(values - np.float32(table.first))
    last = table.entries.size - 1
    return table.entries.astype(np.float32)[np.clip(index, 0, last).astype(np.int32)]


def meeting(table: LookupTable, inputs: NDArray[Any]) -> LookupTable:
    """Take the first input of a table with the other sign, where only so it meets the inputs.

    Writers mix up US and SS, and of implicit VR it depends on PixelRepresentation which of them
    is read (PS3.3 C.11.1.1.1), whatever the inputs of the table are.

    Args:
        table: The table as read.
        inputs: Numbers (n,), or any other shape that is not empty.

    Returns:
        The table, beginning 65,536 earlier or later where that is what was meant.
    """
    low, high = float(inputs.min()), float(inputs.max())
    for first in (table.first, table.first - 2**16, table.first + 2**16):
        if first <= high and low < first + table.entries.size:
            return replace(table, first=first)
    return table


def table_sign(table: LookupTable) -> int:
    """Tell by its ends whether a lookup table turns the grey scale over: -1 if so, else 1."""
    return -1 if table.entries.size and int(table.entries[-1]) < int(table.entries[0]) else 1


def logarithm(values: NDArray[Any]) -> NDArray[np.float32]:
    """Turn raw values, proportional to the X-rays that hit the detector, into attenuation.

    The intensity behind tissue falls with the exponential of its thickness (Beer and Lambert).

    Args:
        values: Numbers (h, w).

    Returns:
        float32 (h, w), their logarithm; of values below 1, that of 1.
    """
    return np.asarray(np.log(np.maximum(values, 1), dtype=np.float32))


def window(values: NDArray[Any], center: float, width: float, function: str) -> NDArray[np.float32]:
    """Apply a window (PS3.3 C.11.2.1.2.1 and C.11.2.1.3).

    Args:
        values: Numbers (h, w), outputs of the modality transform.
        center: WindowCenter.
        width: WindowWidth.
        function: VOILUTFunction: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Returns:
        float32 (h, w) in 0..1.

    Raises:
        ValueError: If the standard does not allow the window.
    """
    # Narrower or further out, a window is damage, and its arithmetic leaves float32.
    least = 1.0 if function == "LINEAR" else 1e-6
    if not (abs(center) < _FAR and least <= width < _FAR):
        raise ValueError("not a window")
    x = values.astype(np.float32)
    match function:
        case "LINEAR":
            return _ramp(x, center - 0.5, width - 1.0)
        case "LINEAR_EXACT":
            return _ramp(x, center, width)
        case "SIGMOID":  # 1 / (1 + exp(-4 (x - c) / w)), in a form that cannot overflow
            sigmoid: NDArray[np.float32] = 0.5 + 0.5 * np.tanh(
                (x - np.float32(center)) * np.float32(2.0 / width)
            )
            return sigmoid
        case _:
            raise ValueError("an unknown VOI LUT function")


def _ramp(x: NDArray[np.float32], center: float, span: float) -> NDArray[np.float32]:
    """Overwrite ``x``: another array of this size takes longer to get than to fill."""
    if span == 0:
        return np.greater(x, center, out=x)
    x -= np.float32(center)
    x /= np.float32(span)
    x += np.float32(0.5)
    return np.clip(x, 0, 1, out=x)


def is_gray(rgb: NDArray[Any], white: int) -> bool:
    """Tell a grey picture that is stored as colour from one in colour.

    Args:
        rgb: Unsigned integers (h, w, 3).
        white: The largest value of a sample.

    Returns:
        Whether the channels agree, but for lossy compression and for marks such as an annotation.
    """
    colored = np.ptp(rgb, axis=-1) > GRAY_TOLERANCE * white
    return bool(colored.mean() <= COLORED_PART)


def gray_of_colour(rgb: NDArray[Any], bits_stored: int) -> NDArray[np.float32] | None:
    """Take the grey picture out of a colour image whose channels agree.

    Args:
        rgb: Unsigned integers (h, w, 3).
        bits_stored: Bits of a sample.

    Returns:
        float32 (h, w) in 0..1, or ``None`` where the image is in colour.
    """
    white = 2**bits_stored - 1
    if not is_gray(rgb, white):
        return None
    gray = rgb[..., 1].astype(np.float32) / np.float32(white)
    return np.asarray(np.clip(gray, 0, 1), np.float32)
