"""The bytes of a DICOM file to its elements, in bounded memory, and without a word to stderr."""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import FileDataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_has_tag
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from fracjax.image.picture import MAX_PIXELS, Reason, Rejected

MAX_BYTES = 4 * MAX_PIXELS
"""Larger pixel data, or a larger deflated object, is refused before it takes up memory."""


def looks_like_dicom(data: bytes) -> bool:
    """Whether ``data`` starts as a DICOM file does, with or without a preamble (PS3.10 7.1)."""
    if data[128:132] == b"DICM":
        return True
    return _plausible_element(data, "little") or _plausible_element(data, "big")


def _plausible_element(data: bytes, order: str) -> bool:
    """Whether ``data`` starts with an element that may be the first of a file (PS3.5 7.1)."""
    little = order == "little"
    group, element = (
        int.from_bytes(data[at : at + 2], "little" if little else "big") for at in (0, 2)
    )
    if group not in (0x0002, 0x0008) or element > 0x0018:
        return False
    if not dictionary_has_tag((group << 16) | element) and element != 0:
        return False
    if data[4:6] in (b"UL", b"OB", b"UI", b"CS", b"SH", b"DA", b"TM", b"LO"):
        return True
    # Implicit VR is little endian: a length of 32 bits instead, which is small here.
    return little and len(data) > 8 and int.from_bytes(data[4:8], "little") <= min(len(data), 256)


@contextmanager
def pydicom_silenced() -> Iterator[None]:
    """Keep pydicom's warnings and log records, which quote values, away from stderr."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def parse(data: bytes) -> tuple[FileDataset, str]:
    """Parse a file.

    Args:
        data: The whole file; of :func:`looks_like_dicom`.

    Returns:
        Its elements, and the transfer syntax that it came in.

    Raises:
        Rejected: ``not_an_image`` (a DICOMDIR), ``too_large`` or ``corrupt``.
        Exception: Whatever pydicom and zlib raise at malformed bytes.
    """
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise Rejected(Reason.NOT_AN_IMAGE, "a DICOMDIR")
    deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if deflated:
        # pydicom would inflate without a bound. A UID is padded with NUL (PS3.5 6.2).
        explicit = ExplicitVRLittleEndian.ljust(len(DeflatedExplicitVRLittleEndian), "\0")
        start = stream.tell()
        head = data[:start].replace(DeflatedExplicitVRLittleEndian.encode(), explicit.encode())
        data = head + _inflate(data[start:])
    dataset = dcmread(BytesIO(data), force=True)
    if len(dataset) == 0:
        raise Rejected(Reason.CORRUPT, "no elements after the DICOM prefix")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding  # pydicom's guess
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    syntax = DeflatedExplicitVRLittleEndian if deflated else dataset.file_meta.TransferSyntaxUID
    return dataset, str(syntax)


def _inflate(body: bytes) -> bytes:
    """Inflate the data set of a deflated file (PS3.5 A.5), up to ``MAX_BYTES``."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(body, MAX_BYTES)
    if inflater.unconsumed_tail:
        raise Rejected(Reason.TOO_LARGE, "the deflated data set is larger than the limit")
    return inflated
