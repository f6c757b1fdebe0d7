"""Values of a DICOM header, read without trusting them."""

import re
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from fracjax.image.grayscale import LookupTable
from fracjax.image.picture import Header, Reason, Rejected

_DATE = re.compile(r"(\d{4})[.]?(\d\d)[.]?(\d\d)")  # with dots before DICOM 3 (PS3.5 6.2, DA)
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")


def text(dataset: Dataset, keyword: str) -> str | None:
    """Read the first value of an element as text, without padding and control characters.

    Args:
        dataset: Where to look.
        keyword: The element's keyword.

    Returns:
        The text; ``None`` where it is absent, empty or cannot be decoded.
    """
    try:
        value = str(_first(dataset.get(keyword)) or "")
    except Exception:  # noqa: BLE001 - decoding foreign character sets raises errors of all kinds
        return None
    return "".join(c for c in value if c.isprintable()).strip() or None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Read the first value of an element as an integer; ``None`` where it is absent or empty.

    Raises:
        Exception: Whatever pydicom raises at a malformed value.
    """
    value = _first(dataset.get(keyword))
    return None if value is None or value == "" else int(value)


def required_integer(dataset: Dataset, keyword: str) -> int:
    """Read an element without which there is no picture; absence is ``Rejected`` as corrupt."""
    value = integer(dataset, keyword)
    if value is None:
        raise Rejected(Reason.CORRUPT, f"the header has no {keyword}")
    return value


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read the first value of an element as a number; ``None`` where it is absent or empty.

    Raises:
        Exception: Whatever pydicom raises at a malformed value.
    """
    value = _first(dataset.get(keyword))
    return None if value is None or value == "" else float(value)


def lookup_table(dataset: Dataset, keyword: str) -> LookupTable:
    """Read the first table of a modality or VOI LUT sequence (PS3.3 C.11.1.1.1).

    Raises:
        Exception: Whatever pydicom raises at a malformed table.
    """
    item = dataset[keyword].value[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count % 2**16 or 2**16  # 0 stands for 65,536, and US may be read as SS
    data = item["LUTData"].value
    if isinstance(data, bytes):  # OW; tables of 8 bits may be packed two entries a word
        order = "<" if dataset.original_encoding[1] else ">"
        entries: Any = np.frombuffer(data, "u1" if len(data) < 2 * count else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
    if not 1 <= bits <= 16:
        raise ValueError("a lookup table of unknown depth")
    return LookupTable(first, entries[:count], bits)


def facts(dataset: Dataset, transfer_syntax: str) -> Header:
    """Collect what a worklist needs.

    Args:
        dataset: The header.
        transfer_syntax: The syntax that the file came in.

    Returns:
        The facts; those that are absent or malformed are ``None``.
    """
    return Header(
        sop_instance_uid=text(dataset, "SOPInstanceUID"),
        series_instance_uid=text(dataset, "SeriesInstanceUID"),
        study_instance_uid=text(dataset, "StudyInstanceUID"),
        accession_number=text(dataset, "AccessionNumber"),
        study_datetime=iso_datetime(text(dataset, "StudyDate"), text(dataset, "StudyTime")),
        modality=text(dataset, "Modality"),
        body_part=text(dataset, "BodyPartExamined"),
        view_position=text(dataset, "ViewPosition"),
        laterality=text(dataset, "ImageLaterality") or text(dataset, "Laterality"),
        transfer_syntax=transfer_syntax,
    )


def iso_datetime(date: str | None, time: str | None) -> str | None:
    """Join a DICOM date and time to ISO 8601, to the precision given (PS3.5 6.2, DA and TM).

    Args:
        date: ``YYYYMMDD``, or ``YYYY.MM.DD`` of old files.
        time: ``HH``, ``HHMM``, ``HHMMSS`` or ``HHMMSS.FFFFFF``, or with colons.

    Returns:
        The date with the time, or alone where there is no valid time; ``None`` without a date.
    """
    day = _DATE.fullmatch(date or "")
    if not day:
        return None
    iso = "-".join(day.groups())
    clock = _TIME.fullmatch(time or "")
    full = iso
    if clock:
        full += "T" + ":".join(part for part in clock.groups()[:3] if part)
        full += f".{clock[4]}" if clock[4] else ""
    for candidate in (full, iso):
        try:
            # Digits of a fraction beyond three and six are what fromisoformat allows from 3.11 on.
            datetime.fromisoformat(candidate)
        except ValueError:
            continue
        return candidate
    return None


def _first(value: Any) -> Any:
    if isinstance(value, MultiValue | list | tuple):
        return value[0] if len(value) else None
    return value
