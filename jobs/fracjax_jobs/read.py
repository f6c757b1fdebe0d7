"""Reads and renders one entry of an export. Runs in worker processes; imports no JAX."""

import functools
import hashlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess
from fracjax.image import (
    SMALLEST_SIDE,
    Header,
    Picture,
    ReadPolicy,
    Reason,
    Rejected,
    looks_like_dicom,
    network_input,
    read_pictures,
)
from fracjax.image.read import SNIFF_BYTES, WIDE_SNIFF_BYTES, check_kind
from fracjax.image.render import least_side, picture_in
from fracjax_jobs.walk import Entry, is_bomb, open_archive, open_regular

MAX_FILE_BYTES = 2**30
"""A larger file or member is refused: no single radiograph comes near it."""

THUMBNAIL_SIDE = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """A picture as the network will see it.

    Attributes:
        input: float32 (size, size) in 0..1.
        thumbnail: The picture shrunk by area to 16 x 16 pixels of uint8, row by row: lossy copies
            of one picture, and previews of it, have nearly the same.
        digest: SHA-256 of the input's bytes.
        header: Facts of the DICOM header; ``None`` for a plain image.
        format: ``dicom``, ``jpeg``, ``png`` or ``tiff``.
        decoder: The library that decoded the pixels.
        voi_source: Where the grey scale came from.
        polarity_source: What decided which end of it is white.
        frame: Which of several frames, from 1; ``None`` where there is but one.
        notes: What a reader of the score should know, as stable codes.
        display: uint8 (height, width), the whole picture, if it was asked for.
    """

    input: NDArray[np.float32]
    thumbnail: bytes
    digest: bytes
    header: Header | None
    format: str
    decoder: str
    voi_source: str
    polarity_source: str
    frame: int | None
    notes: tuple[str, ...]
    display: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Announced:
    """What is known of a file whose pixels are about to be decoded: its header, its frames."""

    header: Header
    frames: int


def read_entry(
    entry: Entry,
    preprocess: Preprocess,
    policy: ReadPolicy,
    announce: Callable[[Announced], None] = lambda announced: None,
    *,
    fetched: Callable[[], bytes] | None = None,
    keeps_display: bool = False,
) -> list[Reading | Rejected]:
    """Read an entry, decode it and fit it to the network. Never raises an ``Exception``.

    Args:
        entry: What to read.
        preprocess: What the network takes.
        policy: What counts as a radiograph.
        announce: Told what the header says before any pixel is decoded, should that never end.
        fetched: Gives, or raises, what :func:`fetch` has of it; by default it is fetched now.
        keeps_display: Whether the whole picture comes along, too.

    Returns:
        One outcome for each frame that is taken by itself, or one for the file.
    """
    outcomes: list[Reading | Rejected] = []
    known: tuple[Header | None, int] = (None, 1)
    try:
        wanted = None if keeps_display else least_side(preprocess)
        data = fetch(entry) if fetched is None else fetched()
        pictures = read_pictures(data, policy, wanted)
        known = pictures.header, pictures.frames
        if pictures.header is not None:
            announce(Announced(pictures.header, pictures.frames))
        for picture in pictures:
            outcomes.append(_outcome(picture, preprocess, keeps_display=keeps_display))
            known = pictures.header, pictures.frames - len(outcomes)
        return outcomes
    except Rejected as rejected:
        return [_bare(rejected)]
    except MemoryError:
        return _and_the_rest(
            outcomes, Reason.TOO_LARGE, "not enough memory to read the file", known
        )
    except Exception as error:  # noqa: BLE001 - one file never stops the job; the kind is kept
        detail = f"the reader failed ({type(error).__name__})"
        return _and_the_rest(outcomes, Reason.CORRUPT, detail, known)


def fetch(entry: Entry) -> bytes:
    """Read all of an entry, if it begins like an image.

    Raises:
        Rejected: It does not, is too large, or cannot be read.
    """
    return _read_bytes(entry, _take_all)


class _Grown(Exception):
    """A file is larger than when it was found."""


def fetch_ahead(entry: Entry) -> bytes | None:
    """Do as :func:`fetch` before a file's turn; ``None`` where it has grown since it was found.

    Raises:
        Rejected: As :func:`fetch`.
    """

    def take(file: IO[bytes], size: int, bomb: bool) -> bytes:
        if size > entry.size:
            raise _Grown
        return _take_all(file, size, bomb)

    try:
        return _read_bytes(entry, take)
    except _Grown:
        return None


def can_be_read(entry: Entry) -> bool:
    """Tell whether an entry, of a file that is as when it was found, can be read here."""
    try:
        with open_regular(entry.path) as file:
            if _stamp(file) != (entry.size, entry.mtime_ns):
                return False
        fetch(entry)
    except OSError:
        return False
    except Rejected as rejected:  # what is no image, or is damaged, could be read
        return rejected.reason != Reason.UNREADABLE
    return True


def _and_the_rest(
    outcomes: list[Reading | Rejected],
    reason: Reason,
    detail: str,
    known: tuple[Header | None, int],
) -> list[Reading | Rejected]:
    """Set aside the frames that have no outcome yet, each by itself where others have one."""
    header, left = known
    if not outcomes:
        return [Rejected(reason, detail, header, left)]
    return [*outcomes, *(Rejected(reason, detail, header) for _ in range(left))]


def kind_of(entry: Entry) -> str:
    """Tell what an entry begins like, without reading it.

    Returns:
        ``dicom`` or ``plain_image``; or the reason for which nothing more would be read.
    """
    if entry.obstacle is not None:
        return entry.obstacle
    try:
        head = _read_bytes(entry, _take_head)
    except Rejected as rejected:
        return rejected.reason
    return "dicom" if looks_like_dicom(head) else "plain_image"


def _outcome(
    picture: Picture | Rejected, preprocess: Preprocess, *, keeps_display: bool
) -> Reading | Rejected:
    """Fit one picture to the network."""
    if isinstance(picture, Rejected):
        return _bare(picture)
    if picture.header is None and min(picture.display.shape) < SMALLEST_SIDE:
        return Rejected(
            Reason.NOT_AN_IMAGE, f"a plain image with a side under {SMALLEST_SIDE} pixels"
        )
    square = network_input(picture.display, preprocess, picture.shape)
    if not np.isfinite(square).all():  # its likelihood would upset the order of all others
        return Rejected(Reason.CORRUPT, "pixels that are not finite numbers", picture.header)
    sides = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    alone = picture_in(square, picture.display, preprocess, picture.shape)
    small = cv2.resize(alone, sides, interpolation=cv2.INTER_AREA)
    return Reading(
        input=square,
        thumbnail=np.round(small * 255).astype(np.uint8).tobytes(),
        digest=hashlib.sha256(square.tobytes()).digest(),
        header=picture.header,
        format=picture.format,
        decoder=picture.decoder,
        voi_source=picture.voi_source,
        polarity_source=picture.polarity_source,
        frame=picture.frame,
        notes=picture.notes,
        display=np.rint(picture.display * 255).astype(np.uint8) if keeps_display else None,
    )


def _bare(rejected: Rejected) -> Rejected:
    """Rid a rejection of its traceback and causes, which may quote what the file holds."""
    return Rejected(rejected.reason, rejected.detail, rejected.header, rejected.frames)


_Take: TypeAlias = Callable[[IO[bytes], int, bool], bytes]
"""Takes what is wanted of an open file, of its announced size, which may be a bomb."""


def _read_bytes(entry: Entry, take: _Take) -> bytes:
    """Read what is wanted of an entry, if it begins like an image.

    Raises:
        Rejected: It does not, is too large, or cannot be read.
    """
    try:
        return _read_member(entry, take) if entry.member else _read_file(entry.path, take)
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected(Reason.UNREADABLE, "gone since it was found") from None
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, error.strerror or "cannot be read") from None


def _read_file(path: Path, take: _Take) -> bytes:
    """Read a file that stays as it is meanwhile; should it change, once more."""
    for _ in range(2):
        with open_regular(path) as file:
            before = _stamp(file)
            data: bytes | Rejected
            try:
                data = take(file, before[0], False)
            except Rejected as rejected:
                data = rejected  # which is to be believed only of a file that stays
            if _stamp(file) == before:
                if isinstance(data, Rejected):
                    raise data
                return data
    raise Rejected(Reason.UNREADABLE, "changes while it is read; run again later")


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _check_unchanged(archive: IO[bytes], found: tuple[int, int]) -> None:
    """Check an archive before a member is taken by its place, which may be another's by now."""
    if _stamp(archive) != found:
        raise Rejected(Reason.UNREADABLE, "its archive has changed since; run again later")


def _read_member(entry: Entry, take: _Take) -> bytes:
    """Read a member of an archive that is as it was when its members were found.

    Raises:
        OSError: The archive cannot be read.
        Rejected: The member does not begin like an image, or cannot be read.
    """
    try:
        found = (entry.size, entry.mtime_ns)
        outer_file, archive = _open_outer(entry.path, found)
        _check_unchanged(outer_file, found)
        *inner, index = entry.member
        for place in inner:
            archive = _open_inner(archive, place)
        member = archive.infolist()[index]
        if member.header_offset < 0:  # where bytes of the archive are missing
            raise zipfile.BadZipFile
        with archive.open(member) as file:
            return take(file, member.file_size, is_bomb(member))
    except NotImplementedError:
        detail = "an archive member compressed in a way that is not read"
        raise Rejected(Reason.UNSUPPORTED, detail) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise Rejected(Reason.CORRUPT, "a damaged archive member (bzip2)") from None
    except _DAMAGED_MEMBER as error:
        detail = f"a damaged archive member ({type(error).__name__})"
        raise Rejected(Reason.CORRUPT, detail) from None


_DAMAGED_MEMBER = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    IndexError,
    ValueError,  # a name that is not UTF-8, or a bzip2 stream
)


# Reading the table of a large archive takes long, and its members come one after another.


@functools.lru_cache(maxsize=1)
def _open_outer(path: Path, found: tuple[int, int]) -> tuple[IO[bytes], zipfile.ZipFile]:
    file = open_regular(path)
    _check_unchanged(file, found)
    return file, open_archive(file)


@functools.lru_cache(maxsize=1)
def _open_inner(archive: zipfile.ZipFile, index: int) -> zipfile.ZipFile:
    return open_archive(io.BytesIO(archive.read(archive.infolist()[index])))


def _take_head(file: IO[bytes], size: int, bomb: bool) -> bytes:
    head = file.read(SNIFF_BYTES)
    try:
        check_kind(head)
    except Rejected as rejected:
        if rejected.reason != Reason.NOT_AN_IMAGE:
            raise
        head += file.read(WIDE_SNIFF_BYTES - len(head))  # of a disc image, the beginning is empty
        check_kind(head)
    return head


def _take_all(file: IO[bytes], size: int, bomb: bool) -> bytes:
    head = _take_head(file, size, bomb)
    if size > MAX_FILE_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"{size} bytes; the limit is {MAX_FILE_BYTES}")
    if bomb:
        raise Rejected(Reason.TOO_LARGE, f"an archive member that inflates to {size} bytes")
    # No more than was announced: zipfile would inflate all that is asked for.
    return head + file.read(max(0, size + 1 - len(head)))
