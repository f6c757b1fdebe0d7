"""Whether a decoded picture was decoded right: what damaged JPEG data leave in the pixels.

A byte that is wrong in Huffman-coded data puts the decoder out of step, and it goes on without an
error: a JPEG picture shifts sideways or changes its brightness from one row of blocks to the next,
and ends in grey; of lossless JPEG the same line comes again and again. Every check here is for
something that no exposure shows, so that sound pictures pass, but for one of several scans with a
footer of exactly mid-grey; benchmarks/reading.py measures both.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
"""Side of a block of JPEG, pixels (ITU-T T.81, A.3)."""

TAIL_ROWS = 8
"""So many rows of exactly mid-grey at the bottom are a tail without data."""

REPEATED_ROWS = 16
"""So many rows with structure, and all the same, are a line that is repeated."""

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_MARKERS = re.compile(b"\xff[^\0\xff]")  # in coded data, 0 follows on 255 (F.1.2.3)
_MORE_DATA = bytes(range(1, 255)) * 4  # no markers, and no code repeated for ever

_SUSPECTS = 16  # boundaries between rows of blocks that are looked at closely
_NEIGHBOURS = (-4, -2, -1, 1, 2, 4)  # rows from a boundary, in the blocks above and below it
_JUMP = 3.0  # times the usual difference of neighbouring rows, from which on one is a suspect
_CONTINUES = 4.0  # times by which an offset or a shift must explain the jump
_LEAST_STEP = 0.02  # part of the range of grey levels


def fault(samples: NDArray[Any], levels: int = 0) -> str | None:
    """Find a trace of damage that any decoder may leave.

    Args:
        samples: Grey levels (h, w) as decoded, before any grey scale.
        levels: How often the picture was halved meanwhile.

    Returns:
        What is wrong, in words; ``None`` where nothing is.
    """
    rows = REPEATED_ROWS
    for _ in range(levels):
        rows = max(2, (rows - 4) // 2)  # wavelets mix two rows at either end with those beside
    return "one line of the picture is repeated" if has_repeated_lines(samples, rows) else None


def fault_of_blocks(
    samples: NDArray[Any], bits: int, stream: bytes, decode: Callable[[bytes], NDArray[Any]]
) -> str | None:
    """Find a trace of damage in a picture that was compressed in blocks (JPEG but lossless).

    Args:
        samples: As for :func:`fault`, unsigned.
        bits: Bits of a sample, with mid-grey at ``2**(bits - 1)``.
        stream: What they were decoded from, with its end marker.
        decode: How.

    Returns:
        What is wrong, in words; ``None`` where nothing is.
    """
    if has_grey_tail(samples, bits) and ends_early(samples, stream, decode):
        return "the picture ends in grey"
    if is_torn(samples):
        return "the picture is torn between two rows of blocks"
    return None


def has_grey_tail(samples: NDArray[Any], bits: int) -> bool:
    """Tell whether the last rows are all mid-grey, which is how blocks without data decode."""
    grey = 1 << (bits - 1)
    tail = samples[-TAIL_ROWS:]
    return bool(len(samples) > TAIL_ROWS and (tail == grey).all() and (samples != grey).any())


def ends_early(
    samples: NDArray[Any], stream: bytes, decode: Callable[[bytes], NDArray[Any]]
) -> bool:
    """Tell whether a decoder ran out of data, so that more of them would make another picture.

    Behind the last block that a picture needs, a decoder passes over whatever comes before the
    end marker. Where that is not the only marker in the data (of restarts, of several scans, of
    damage), the decoder may have stopped at another one, so that the answer is yes.
    """
    head, scan, data = stream.partition(_START_OF_SCAN)
    if _MARKERS.findall(data) != [_END_OF_IMAGE]:
        return True
    coded, end, rest = data.partition(_END_OF_IMAGE)
    try:
        longer = decode(b"".join((head, scan, coded, _MORE_DATA, end, rest)))
    except Exception:  # noqa: BLE001 - whatever the decoder raises
        return True
    return not np.array_equal(longer, samples)


def has_repeated_lines(samples: NDArray[Any], rows: int = REPEATED_ROWS) -> bool:
    """Tell whether a line that varies all along comes ``rows`` times in a row."""
    height = samples.shape[0]
    if height < 2 * rows:
        return False
    # Of every n-th pair of rows, so that each run of that length holds one pair.
    first = np.arange(0, height - rows, max(1, rows // 2))
    same = (samples[first] == samples[first + 1]).all(axis=1)
    for row in first[same]:
        line = samples[row]
        top = max(0, row - rows)
        around = (samples[top : row + rows] == line).all(axis=1)
        varies = np.mean(line[1:] != line[:-1]) > 0.25
        if varies and _longest_run(around) >= rows and not (samples == line).all():
            return True
    return False


def is_torn(samples: NDArray[Any]) -> bool:
    """Tell whether the picture goes on beside itself, or brighter, below a row of blocks."""
    height, width = samples.shape
    if height < 4 * BLOCK or width < 8 * BLOCK:
        return False
    low, high = (float(level) for level in np.percentile(samples[::BLOCK, ::BLOCK], (0.5, 99.5)))
    if high <= low:
        return False
    boundaries = np.arange(BLOCK, height - BLOCK, BLOCK)
    jumps = _row_differences(samples, boundaries)
    # A tear lies between two rows; the edge of a collimator is spread over several.
    usual = np.max([_row_differences(samples, boundaries + at) for at in _NEIGHBOURS], axis=0)
    excess = jumps - _JUMP * usual
    least = _LEAST_STEP * (high - low)
    worst = np.argsort(-excess)[:_SUSPECTS]
    return any(
        _continues_elsewhere(above, below, least)
        for row in boundaries[worst[excess[worst] > least / 4]]
        for above, below in _parts(samples[row - 1], samples[row])
    )


def _parts(above: NDArray[Any], below: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Two rows whole, and halves of them: damage begins anywhere in a row of blocks."""
    half = above.size // 2
    for part in (slice(None), slice(None, half), slice(half, None)):
        yield above[part].astype(np.float32), below[part].astype(np.float32)


def _continues_elsewhere(
    above: NDArray[np.float32], below: NDArray[np.float32], least: float
) -> bool:
    """Whether an offset in brightness, or a shift by blocks, makes two rows fit."""
    if min(above.std(), below.std()) < 2 * least:  # a border against a picture is no tear
        return False
    difference = below - above
    offset = np.median(difference)
    if abs(offset) > max(least, _CONTINUES * np.median(np.abs(difference - offset))):
        return True
    jump = np.abs(difference).mean()
    if jump < least:
        return False
    # With the means taken off, so that the rows fit by what is in them.
    above, below = above - above.mean(), below - below.mean()
    for shift in range(BLOCK, above.size // 2, BLOCK):
        for upper, lower in ((above[shift:], below[:-shift]), (above[:-shift], below[shift:])):
            structure = min(upper.std(), lower.std())
            misfit = np.abs(upper - lower).mean()
            if structure > 2 * least and _CONTINUES * misfit < min(jump, structure):
                return True
    return False


def _row_differences(samples: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean difference of each of some rows from the row above it."""
    above, below = samples[rows - 1].astype(np.float32), samples[rows].astype(np.float32)
    return np.asarray(np.abs(below - above).mean(axis=1), np.float32)


def _longest_run(mask: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return int((edges[1::2] - edges[::2]).max()) if edges.size else 0
