"""The same picture twice: candidates by perceptual hash, proved by the correlation of detail.

Radiographs of one body part look alike, so a perceptual hash alone finds too much. A candidate
counts only if its fine structure, after alignment, is that of the other picture. ``docs/audit.md``
says how the limits below were measured.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 96
"""Pixels of a thumbnail's side."""

RADIUS = 12
"""Bits of 64 by which the hashes of candidates may differ."""

MAX_CANDIDATES = 1_000_000
"""Candidates that are compared; were there more, the radius shrinks. It bounds the time."""

MIN_CORRELATION = 0.82
"""Correlation of detail from which two pictures are one."""

TURNS = (
    "as it is",
    "turned by 90 degrees",
    "turned by 180 degrees",
    "turned by 270 degrees",
    "mirrored",
    "turned by 90 degrees and mirrored",
    "turned by 180 degrees and mirrored",
    "turned by 270 degrees and mirrored",
)
"""What was done to the second picture to find the first (the dihedral group of the square)."""

_BLOCK = 4_000_000
"""Distances that are held at a time."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is kept of a picture to find it again."""

    digest: bytes
    """SHA-256 of shape and pixels."""
    hashes: NDArray[np.uint64]
    """(8,): pHash under each of :data:`TURNS`."""
    thumbnail: NDArray[np.uint8]
    """(SIDE, SIDE): squeezed to a square."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs whose hashes are close; (n,) each."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    turn: NDArray[np.uint8]
    """Index in :data:`TURNS`."""
    distance: NDArray[np.uint8]
    """Bits that differ."""
    radius: int
    """The largest distance that was looked for: less than asked if there were too many pairs."""


def sketch(pixels: NDArray[np.uint8]) -> Sketch:
    """Sketch a picture.

    The hash is pHash (Zauner, *Implementation and Benchmarking of Perceptual Image Hash
    Functions*, 2010) as package imagehash computes it.

    Args:
        pixels: (height, width) grey levels.
    """
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    thumbnail = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    bits = [
        imagehash.phash(Image.fromarray(turned(thumbnail, turn))).hash.ravel()
        for turn in range(len(TURNS))
    ]
    return Sketch(digest, np.packbits(bits, axis=1).view(np.uint64).ravel(), thumbnail)


def turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Turn a picture, and mirror it, as :data:`TURNS` says."""
    rotated = np.rot90(pixels, turn % 4)
    return np.ascontiguousarray(np.fliplr(rotated) if turn >= 4 else rotated)


def chains(digests: list[bytes], order: list[tuple[str, int, str]]) -> list[tuple[int, int]]:
    """Link pictures that have the same pixels.

    Of n copies come n - 1 pairs, each with the next in ``order``: wherever copies differ in split,
    label or group, some pair does.

    Args:
        digests: Of the pictures.
        order: Split, label and group of each.
    """
    copies: dict[bytes, list[int]] = {}
    for index in sorted(range(len(digests)), key=order.__getitem__):
        copies.setdefault(digests[index], []).append(index)
    return [pair for members in copies.values() for pair in pairwise(members)]


def candidates(
    hashes: NDArray[np.uint64], radius: int = RADIUS, limit: int = MAX_CANDIDATES
) -> Candidates:
    """Find all pairs whose hashes differ in few bits, under any turn of the second.

    Every pair is looked at, in blocks of bounded memory. If more than ``limit`` pairs are found
    the radius shrinks until they are not; below 0 nothing is left.

    Args:
        hashes: (n, turns), the first of them of the picture as it is.
        radius: Largest distance, bits.
        limit: Largest number of pairs.

    Returns:
        Pairs of indices, the first less than the second, by distance.
    """
    n = len(hashes)
    columns = np.ascontiguousarray(hashes.T)
    found = np.empty((0, 4), np.intp)
    rows = max(1, _BLOCK // max(n, 1))
    for start in range(0, n, rows):
        block = columns[0, start : start + rows, np.newaxis]
        best = np.full((len(block), n - start), 255, np.uint8)
        turn = np.zeros_like(best)
        for index, others in enumerate(columns):
            distance = np.bitwise_count(block ^ others[start:])
            turn[distance < best] = index
            np.minimum(best, distance, out=best)
        first, second = np.nonzero(np.triu(best <= max(radius, 0), 1))
        facts = turn[first, second].astype(np.intp), best[first, second].astype(np.intp)
        hits = np.stack([first + start, second + start, *facts], axis=1)
        found = np.concatenate([found, hits])
        while len(found) > limit:
            radius -= 1
            found = found[found[:, 3] <= radius]
    found = found[found[:, 3] <= radius]
    found = found[np.argsort(found[:, 3], kind="stable")]
    return Candidates(
        found[:, 0],
        found[:, 1],
        found[:, 2].astype(np.uint8),
        found[:, 3].astype(np.uint8),
        radius,
    )


def correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Compare the fine structure of two pictures, as they lie and after alignment.

    The alignment is an affine map that maximises the enhanced correlation coefficient (Evangelidis
    and Psarakis, IEEE TPAMI 30:1858, 2008). Grey levels are matched where the pictures overlap, so
    that brightness, contrast and gamma do not count. Detail is what a Gaussian takes away, divided
    by its local spread: a border or a large bright region counts no more than bone texture.

    Args:
        one: (SIDE, SIDE) thumbnail.
        other: (SIDE, SIDE) thumbnail, turned as its hash was.

    Returns:
        -1..1: the larger of both correlations; 0 for pictures without detail.
    """
    everywhere = np.ones(one.shape, np.uint8)
    as_they_lie = _detail_correlation(one, other, everywhere > 0)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)
    try:
        _, affine = cv2.findTransformECC(
            one, other, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, criteria, everywhere, 5
        )
    except cv2.error:  # it does not converge: the pictures are nothing alike, or flat
        return as_they_lie
    if not 0.5 < np.linalg.det(affine[:, :2]) < 2:  # no small crop
        return as_they_lie
    flags, size = cv2.WARP_INVERSE_MAP, (one.shape[1], one.shape[0])
    covered = cv2.warpAffine(everywhere, affine, size, flags=flags | cv2.INTER_NEAREST)
    overlap = cv2.erode(covered, np.ones((7, 7), np.uint8), borderValue=0) > 0
    if overlap.mean() < 0.5:
        return as_they_lie
    aligned = cv2.warpAffine(
        other, affine, size, flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return max(as_they_lie, _detail_correlation(one, aligned.astype(np.uint8), overlap))


def _detail_correlation(
    one: NDArray[np.uint8], other: NDArray[np.uint8], where: NDArray[np.bool_]
) -> float:
    matched = _match_levels(other, other[where], one[where])
    x = _detail(one.astype(np.float32))[where]
    y = _detail(matched)[where]
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y) + 1e-6))


def _match_levels(
    pixels: NDArray[np.uint8], source: NDArray[np.uint8], wanted: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Map grey levels so that the histogram of ``source`` becomes that of ``wanted``."""
    have, want = (np.cumsum(np.bincount(part, minlength=256)) for part in (source, wanted))
    table = np.interp(have / have[-1], want / want[-1], np.arange(256)).astype(np.float32)
    return np.asarray(table[pixels], np.float32)


def _detail(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    fine = pixels - cv2.GaussianBlur(pixels, (0, 0), 2)
    spread = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4))
    # 4 grey levels: noise of an empty background is not detail.
    return np.asarray(fine / (spread + 4), np.float32)
