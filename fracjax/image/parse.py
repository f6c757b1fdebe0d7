"""The bytes of a DICOM file to its elements, in bounded memory, and without a word to stderr."""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Literal

from pydicom import FileDataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_has_tag, dictionary_VR
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

_PREFIX = b"DICM"
_LONGEST_FIRST = 256  # bytes of a first element in implicit VR


def looks_like_dicom(data: bytes) -> bool:
    """Whether ``data`` starts as a DICOM file does (PS3.10 7.1), or as what is left of one.

    The preamble may be stripped, with or without the prefix behind it, or the file meta
    information too.
    """
    if data[128:132] == _PREFIX:
        return True
    start = len(_PREFIX) if data.startswith(_PREFIX) else 0
    return _is_first_element(data[start:], "little") or _is_first_element(data[start:], "big")


def _is_first_element(data: bytes, order: Literal["little", "big"]) -> bool:
    """Whether ``data`` starts with an element that may be the first of a file (PS3.5 7.1)."""
    tag = _tag_at(data, 0, order)
    if tag >> 16 not in (0x0002, 0x0008):
        return False
    if tag & 0xFFFF == 0:
        representations = "UL"  # a group length (PS3.5 7.2)
    elif dictionary_has_tag(tag):
        representations = dictionary_VR(tag)
    else:
        return False
    if data[4:6].decode("ascii", "replace") in representations.split(" or "):
        return True
    if order == "big":
        return False
    # Implicit VR is little endian: a length of 32 bits instead, which is small here, and then the
    # next element.
    following = 8 + int.from_bytes(data[4:8], "little")
    if following == 8 == len(data) or following - 8 > min(len(data), _LONGEST_FIRST):
        return False
    if following + 4 > len(data):
        return True
    return tag < _tag_at(data, following, order) < 0x0011_0000


def _tag_at(data: bytes, at: int, order: Literal["little", "big"]) -> int:
    """The tag of an element: its group, and its number in that."""
    group, element = (int.from_bytes(data[start : start + 2], order) for start in (at, at + 2))
    return (group << 16) | element


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
    if data.startswith(_PREFIX) and data[128:132] != _PREFIX:  # its preamble was stripped
        data = bytes(128) + data
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == _PREFIX else 0)
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
