"""Which plain images are previews: pictures of what a DICOM file of the export holds.

Media keep such pictures for browsers and viewers, and converters write them beside their source.
To score them, too, would put one picture into the worklist twice, once without its identifiers.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fracjax import interrupt
from fracjax.image import Reason
from fracjax_jobs.state import Place, State

CORRELATION = {Place.SIBLING: 0.95, Place.FILE_SET: 0.98}
"""Pearson's r of the thumbnails of a picture and its preview, which may have another window, or be
its negative. On a medium of m images, a picture of its own is taken for a preview with a chance of
about m in 180,000: so often the thumbnails of two radiographs of FracAtlas correlate by 0.98."""

MOST_SIBLINGS = 256
"""DICOM images of one name that are looked at: members of an archive may all have the same."""

_CHUNK = 4096

_Item = TypeVar("_Item")


def find(state: State) -> None:
    """Find the previews among the plain pictures of a state, and mark them there.

    A plain picture is a preview if a DICOM image beside it has its name, and shows the same or was
    set aside for what it is; or if it shows the same as a DICOM image of its medium. Of a medium
    that has DICOM images whose pictures were not read, such as CT, plain pictures that match none
    are likely to be theirs, if there are no more of them, and nothing else that failed to be read.
    """
    state.forget_previews()
    for value in state.places(Place.SIBLING):
        interrupt.check()
        if state.unseen(Place.SIBLING, value):
            numbers = [number for number, _ in state.plain_pictures(Place.SIBLING, value)]
            state.mark_previews(numbers, Reason.PREVIEW)
        else:
            _mark_matching(state, Place.SIBLING, value, most=MOST_SIBLINGS)
    for value in state.places(Place.FILE_SET):
        interrupt.check()
        _mark_matching(state, Place.FILE_SET, value)
        if state.unread(Place.FILE_SET, value):
            continue  # a picture of what could not be read may be all that there is of it
        unmatched = sum(1 for _ in state.plain_pictures(Place.FILE_SET, value))
        if unmatched <= state.unseen(Place.FILE_SET, value):
            numbers = [number for number, _ in state.plain_pictures(Place.FILE_SET, value)]
            state.mark_previews(numbers, Reason.LIKELY_PREVIEW)


def likeness(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure how much each picture shows what one of the others does.

    Args:
        pictures: Thumbnails (n, d).
        others: Thumbnails (m, d).

    Returns:
        float32 (n,) in 0..1: the largest absolute correlation with any of the others; 0 of a
        picture of one grey level.
    """
    products = np.abs(_standardised(pictures) @ _standardised(others).T)
    return np.asarray(products.max(axis=1, initial=0.0), np.float32)


def _mark_matching(state: State, place: Place, value: bytes, most: int | None = None) -> None:
    for plain in _chunks(state.plain_pictures(place, value)):
        pictures = _thumbnails(thumbnail for _, thumbnail in plain)
        best = np.zeros(len(plain), np.float32)
        for dicom in _chunks(islice(state.dicom_thumbnails(place, value), most)):
            best = np.maximum(best, likeness(pictures, _thumbnails(dicom)))
        matching = [plain[at][0] for at in np.flatnonzero(best >= CORRELATION[place])]
        state.mark_previews(matching, Reason.PREVIEW)


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    for first in rest:
        yield [first, *islice(rest, _CHUNK - 1)]


def _thumbnails(blobs: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.stack([np.frombuffer(blob, np.uint8) for blob in blobs])


def _standardised(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    levels = thumbnails.astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(levels, axis=1, keepdims=True)
    return np.asarray(levels / np.maximum(norms, 1e-6), np.float32)
