"""Reads and renders one entry of an export. Runs in worker processes; imports no JAX."""

import functools
import lzma
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Preprocess
from fracjax.image import Header, Reason, Rejected, network_input, read_picture
from fracjax.image.read import SNIFF_BYTES, check_kind
from fracjax_jobs.walk import Entry

MAX_FILE_BYTES = 2**30
"""A larger file or member is refused: no single radiograph comes near it."""

SMALLEST_SIDE = 64
"""Pixels. A smaller plain image is an icon of a viewer, or a thumbnail."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A picture as the network will see it.

    Attributes:
        input: float32 (size, size) in 0..1.
        header: Facts of the DICOM header; ``None`` for a plain image.
        format: ``dicom``, ``jpeg``, ``png`` or ``tiff``.
        decoder: The library that decoded the pixels.
        voi_source: Where the grey scale came from.
        notes: What a reader of the score should know, as stable codes.
    """

    input: NDArray[np.float32]
    header: Header | None
    format: str
    decoder: str
    voi_source: str
    notes: tuple[str, ...]


def read_entry(entry: Entry, preprocess: Preprocess) -> Reading | Rejected:
    """Read an entry, decode it and fit it to the network. Never raises for what a file holds."""
    try:
        picture = read_picture(_read_bytes(entry))
    except Rejected as rejected:
        # Without its traceback and causes, which may quote what the file holds.
        return Rejected(rejected.reason, rejected.detail, rejected.header)
    if picture.header is None and min(picture.display.shape) < SMALLEST_SIDE:
        return Rejected(
            Reason.NOT_AN_IMAGE, f"a plain image with a side under {SMALLEST_SIDE} pixels"
        )
    square = network_input(picture.display, preprocess)
    if not np.isfinite(square).all():  # its likelihood would upset the order of all others
        return Rejected(Reason.CORRUPT, "pixels that are not finite numbers", picture.header)
    return Reading(
        input=square,
        header=picture.header,
        format=picture.format,
        decoder=picture.decoder,
        voi_source=picture.voi_source,
        notes=picture.notes,
    )


def _read_bytes(entry: Entry) -> bytes:
    """Read an entry if it begins like an image.

    Raises:
        Rejected: It does not, is too large, or cannot be read.
    """
    try:
        if entry.member is None:
            # Not following a link, should one have taken the file's place since the walk.
            with os.fdopen(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return _read_image(file, os.fstat(file.fileno()).st_size)
        archive = _open_archive(entry.path)
        member = archive.infolist()[entry.member]
        if member.flag_bits & 1:
            raise Rejected(Reason.UNREADABLE, "an encrypted archive member")
        with archive.open(member) as file:
            return _read_image(file, member.file_size)
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, error.strerror or "cannot be read") from None
    except NotImplementedError:
        detail = "an archive member compressed in a way that is not read"
        raise Rejected(Reason.UNSUPPORTED, detail) from None
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


@functools.lru_cache(maxsize=1)
def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive, or go on with the last one: reading the table of a large one takes long."""
    return zipfile.ZipFile(path)


def _read_image(file: IO[bytes], size: int) -> bytes:
    head = file.read(SNIFF_BYTES)
    check_kind(head)
    if size > MAX_FILE_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"{size} bytes; the limit is {MAX_FILE_BYTES}")
    # One byte over the limit tells a member that is larger than its archive says.
    data = head + file.read(MAX_FILE_BYTES + 1 - len(head))
    if len(data) > MAX_FILE_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"more than {MAX_FILE_BYTES} bytes")
    return data
