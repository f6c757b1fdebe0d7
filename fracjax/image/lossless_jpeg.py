"""Whether a decoded picture of lossless JPEG is the one that the encoder saw (ITU-T T.81 annex H).

A wrong byte puts the decoder out of step, and it goes on without an error, for ever wrong by what
it misread. But the coding leaves nothing open: from the samples follow the differences that were
coded, and from these the number of bits. So two things tell damage for certain: a sample that has
more bits than the encoder was given, and data that are shorter or longer than the samples need.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILL = 2  # bytes that an encoder may leave behind its data, for all that the standard says
_ROWS = 64  # at a time, to bound memory
_CATEGORIES = 17  # SSSS of a difference: its number of bits (H.1.2.2)


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan of one component.

    Attributes:
        precision: Bits of a sample (P).
        predictor: 1 to 7 (Ss, table H.1).
        point_transform: By how many bits samples were shifted down (Pt).
        lengths: Integers (17,), bits of the code of each category; 0 where it has none.
        size: Bytes of coded data, without stuffing.
    """

    precision: int
    predictor: int
    point_transform: int
    lengths: NDArray[np.int64]
    size: int


def fault(frame: bytes, samples: NDArray[Any]) -> str | None:
    """Find out whether samples are what a codestream holds.

    Args:
        frame: A lossless JPEG codestream with a frame header (SOF3).
        samples: Unsigned integers (h, w), decoded from it.

    Returns:
        What is wrong, in words; ``None`` where nothing is, and where the form of the codestream
        (restart intervals, several components) is not followed.
    """
    scan = read_scan(frame)
    if scan is None:
        return None
    if samples.max() >> scan.precision:
        return "the decoded samples have more bits than the codestream's"
    size = (bits_needed(samples, scan) + 7) // 8
    if not size <= scan.size <= size + _FILL:
        return "the coded data do not fit the decoded samples"
    return None


def bits_needed(samples: NDArray[Any], scan: Scan) -> int:
    """Count the bits that coding takes.

    Args:
        samples: Unsigned integers (h, w).
        scan: How they are coded.

    Returns:
        Number of bits; that of a category without a code is counted as 0.
    """
    counts = np.zeros(_CATEGORIES, np.int64)
    for top in range(0, samples.shape[0], _ROWS):
        rows = samples[max(top - 1, 0) : top + _ROWS].astype(np.int32) >> scan.point_transform
        predicted = _predict(rows, scan)
        first = min(top, 1)  # the row above these has been counted
        difference = (rows - predicted)[first:]
        wrapped = (difference + 0x8000) % 0x10000 - 0x8000  # modulo 2**16 (H.1.2.1)
        categories = np.frexp(np.abs(wrapped).astype(np.float64))[1]
        counts += np.bincount(categories.ravel(), minlength=_CATEGORIES)
    magnitude_bits = np.arange(_CATEGORIES)
    magnitude_bits[16] = 0  # 32,768 needs none
    return int((counts * (scan.lengths + magnitude_bits)).sum())


def _predict(rows: NDArray[np.int32], scan: Scan) -> NDArray[np.int32]:
    """Predict each sample from its neighbours (H.1.2.1); of the first row as if none preceded."""
    predicted = np.empty_like(rows)
    left, above, corner = rows[1:, :-1], rows[:-1, 1:], rows[:-1, :-1]
    predicted[0, 0] = 1 << (scan.precision - scan.point_transform - 1)
    predicted[0, 1:] = rows[0, :-1]
    predicted[1:, 0] = rows[:-1, 0]
    match scan.predictor:
        case 1:
            predicted[1:, 1:] = left
        case 2:
            predicted[1:, 1:] = above
        case 3:
            predicted[1:, 1:] = corner
        case 4:
            predicted[1:, 1:] = left + above - corner
        case 5:
            predicted[1:, 1:] = left + ((above - corner) >> 1)
        case 6:
            predicted[1:, 1:] = above + ((left - corner) >> 1)
        case _:
            predicted[1:, 1:] = (left + above) >> 1
    return predicted


def read_scan(frame: bytes) -> Scan | None:
    """Read how a codestream is coded (B.2); ``None`` where :func:`fault` does not follow it.

    Raises:
        IndexError: If the codestream ends before its data begin.
    """
    tables: dict[int, NDArray[np.int64]] = {}
    precision = 0
    at = 2
    while True:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte (B.1.1.2)
            at += 1
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        segment = frame[at + 4 : end]
        match marker:
            case 0xC4:
                tables |= _code_lengths(segment)
            case 0xC3:
                precision = segment[0]
            case 0xDD if any(segment):
                return None
            case 0xDA:
                break
        at = end
    components, table, predictor = segment[0], segment[2] >> 4, segment[3]
    if components != 1 or not precision or not 1 <= predictor <= 7 or table not in tables:
        return None
    # Before a marker there may be bytes to fill (B.1.1.2); those in the data have a 0 stuffed
    # behind them (F.1.2.3).
    coded = frame[end : frame.rfind(b"\xff\xd9")].rstrip(b"\xff")
    size = len(coded) - coded.count(b"\xff\x00")
    return Scan(precision, predictor, segment[5] & 15, tables[table], size)


def _code_lengths(segment: bytes) -> dict[int, NDArray[np.int64]]:
    """Bits of the code of each category, from a segment of Huffman tables (B.2.4.2)."""
    tables = {}
    while len(segment) > 17:
        counts = list(segment[1:17])
        values = list(segment[17 : 17 + sum(counts)])
        lengths = np.zeros(_CATEGORIES, np.int64)
        for value, length in zip(values, np.repeat(np.arange(1, 17), counts), strict=False):
            if value < _CATEGORIES:
                lengths[value] = length
        tables[segment[0]] = lengths
        segment = segment[17 + sum(counts) :]
    return tables
