"""Values of a DICOM header, read without trusting them."""

import hashlib
import re
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from fracjax.image import anatomy
from fracjax.image.grayscale import LookupTable
from fracjax.image.picture import Header, Reason, Rejected

_DATE = re.compile(r"(\d{4})[.]?(\d\d)[.]?(\d\d)")  # with dots before DICOM 3 (PS3.5 6.2, DA)
_DATETIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?(?:[+-]\d{4})?")  # PS3.5 6.2, DT
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_NAME_SEPARATORS = re.compile(r"[\s^=,.-]+")

_DEFINED_MODALITIES = (  # PS3.3 C.7.3.1.1.1, with the retired ones
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM "
    "HC HD IO IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS "
    "OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN "
    "RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC "
    "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF"
)
_DEFINED_VIEWS = "AP PA LL RL RLD LLD RLO LLO"  # PS3.3 C.8.1.1 and C.8.11.5
_OTHER_VIEWS = (  # of mammography (C.8.11.7), of positioning, and what vendors write
    "ML LM CC MLO LMO XCCL XCCM FB SIO ISO CV AT LAT LATERAL OBL OBLIQUE AX AXIAL FRONTAL "
    "TANGENTIAL LAO RAO LPO RPO DP PD TL AP_OBL PA_OBL AP_LAT SUNRISE SKYLINE MORTISE TUNNEL INLET "
    "OUTLET FROG LORDOTIC"
)
_MODALITIES = frozenset({*_DEFINED_MODALITIES.split(), "DR", "SC"})
_VIEWS = frozenset({*_DEFINED_VIEWS.split(), *_OTHER_VIEWS.split()})
_SIDES = frozenset("RLUB")  # PS3.3 C.7.3.1.1, C.8.3.1, C.8.11.1: right, left, unpaired, both

_DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionDeviceProcessingDescription",
    "PerformedProcedureStepDescription",
    "StudyDescription",
    "RequestedProcedureDescription",
)
"""Texts that may name the body part; those of one image or series come first."""

_PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")


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


def values(dataset: Dataset, keyword: str) -> list[Any]:
    """Read all values of an element; none where it is absent or empty.

    Raises:
        Exception: Whatever pydicom raises at a malformed value.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


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

    What is collected has a grammar or a vocabulary, and nothing else gets through: software writes
    names into elements of every kind.

    Args:
        dataset: The header.
        transfer_syntax: The syntax that the file came in.

    Returns:
        The facts; those that are absent, malformed or unknown are ``None``.
    """
    tagged = text(dataset, "BodyPartExamined")
    codes = [
        (
            text(item, "CodeValue") or text(item, "LongCodeValue"),
            text(item, "CodingSchemeDesignator"),
        )
        for item in _items(dataset, "AnatomicRegionSequence")
    ]
    descriptions = {keyword: text(dataset, keyword) for keyword in _DESCRIPTIONS}
    body_part, body_part_source = anatomy.resolve(codes, tagged, descriptions)
    return Header(
        sop_instance_uid=_uid(text(dataset, "SOPInstanceUID")),
        series_instance_uid=_uid(text(dataset, "SeriesInstanceUID")),
        study_instance_uid=_uid(text(dataset, "StudyInstanceUID")),
        accession_number=_accession_number(dataset),
        study_datetime=iso_datetime(text(dataset, "StudyDate"), text(dataset, "StudyTime")),
        acquisition_datetime=_acquisition_datetime(dataset),
        modality=_term(text(dataset, "Modality"), _MODALITIES),
        body_part_tagged=tagged if anatomy.is_term(tagged) else None,
        body_part=None if body_part is None else body_part.value,
        body_part_source=body_part_source,
        view_position=_term(text(dataset, "ViewPosition"), _VIEWS),
        laterality=_term(text(dataset, "ImageLaterality"), _SIDES)
        or _term(text(dataset, "Laterality"), _SIDES),
        transfer_syntax=_uid(transfer_syntax),
        patient_tag=_patient_tag(dataset),
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


def _uid(value: str | None) -> str | None:
    """A UID (PS3.5 9.1), with the leading zeros in components that some software writes."""
    return value if value and len(value) <= 64 and _UID.fullmatch(value) else None


def _term(value: str | None, vocabulary: frozenset[str]) -> str | None:
    """A term of a vocabulary, in upper case as a CS has to be (PS3.5 6.2)."""
    term = (value or "").upper()
    return term if term in vocabulary else None


def _acquisition_datetime(dataset: Dataset) -> str | None:
    """When the image was acquired, or the nearest time to that which the header knows."""
    joined = _DATETIME.fullmatch(text(dataset, "AcquisitionDateTime") or "")
    pairs = [joined.groups()] if joined else []
    pairs += [
        (text(dataset, f"{event}Date"), text(dataset, f"{event}Time"))
        for event in ("Acquisition", "Content", "Series")
    ]
    return next(filter(None, (iso_datetime(date, time) for date, time in pairs)), None)


def _accession_number(dataset: Dataset) -> str | None:
    """The accession number, unless it repeats who the patient is."""
    number = text(dataset, "AccessionNumber")
    if number is None or len(number) > 64:
        return None
    bare = _bare(number)
    for fact in _patient_facts(dataset):
        # Two letters are a word in Chinese, but chance in ASCII.
        if fact == bare or (fact in bare and (len(fact) >= 3 or not fact.isascii())):
            return None
    return number


def _patient_facts(dataset: Dataset) -> set[str]:
    """Parts of the patient's names, IDs and the birth date, bare."""
    found: list[str] = []
    for keyword in _PATIENT_NAMES:
        for name in _texts(dataset, keyword):
            found += [name, *name.split("="), *_NAME_SEPARATORS.split(name)]
    for keyword in ("PatientID", "OtherPatientIDs", "PatientBirthDate"):
        found += _texts(dataset, keyword)
    for item in _items(dataset, "OtherPatientIDsSequence"):
        found += _texts(item, "PatientID")
    return {_bare(fact) for fact in found} - {""}


def _bare(value: str) -> str:
    """Letters and digits without case."""
    return "".join(c for c in value.casefold() if c.isalnum())


def _patient_tag(dataset: Dataset) -> int | None:
    """Sixteen bits of a digest of issuer and patient ID."""
    patient = text(dataset, "PatientID")
    if patient is None:
        return None
    issuer = text(dataset, "IssuerOfPatientID") or ""
    digest = hashlib.sha256(f"{issuer}|{patient}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:2], "big")


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or cannot be read."""
    try:
        return [item for item in dataset.get(keyword) or () if isinstance(item, Dataset)]
    except Exception:  # noqa: BLE001 - as in text
        return []


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    """All values of an element as text; none where it is absent or cannot be decoded."""
    try:
        return [str(value) for value in values(dataset, keyword) if value]
    except Exception:  # noqa: BLE001 - as in text
        return []


def _first(value: Any) -> Any:
    if isinstance(value, MultiValue | list | tuple):
        return value[0] if len(value) else None
    return value
