"""Values of a DICOM header, read without trusting them."""

import hashlib
import re
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from fracjax.image import anatomy
from fracjax.image.grayscale import LookupTable
from fracjax.image.picture import Header, Reason, Rejected

_DATE = re.compile(r"(\d{4})[.]?(\d\d)[.]?(\d\d)")  # with dots before DICOM 3 (PS3.5 6.2, DA)
_DATETIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?(?:[+-]\d{4})?")  # PS3.5 6.2, DT
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_DIGITS = re.compile(r"\d+")
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
MODALITIES = frozenset({*_DEFINED_MODALITIES.split(), "DR", "SC"})
"""Terms of Modality, with two that the standard does not define and many files have."""

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
_BIRTH_DATES = ("{2}{1}{0}", "{1}{2}{0}", "{3}{1}{2}", "{2}{1}{3}", "{1}{2}{3}")
"""How else people write a year (0), month (1), day (2) and year of the century (3)."""

_LEAST_DIGITS = 5
"""A shorter part of an ID, or accession number in one, is there by chance."""


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


def code(dataset: Dataset, keyword: str) -> str | None:
    """Read the first value of a code string, in upper case as it has to be (PS3.5 6.2, CS).

    Returns:
        As :func:`text`.
    """
    value = text(dataset, keyword)
    return None if value is None else value.upper()


def codes(dataset: Dataset, keyword: str) -> list[str]:
    """Read all values of a code string, in upper case; none where it is absent or empty.

    Raises:
        Exception: Whatever pydicom raises at a malformed value.
    """
    return [str(value).strip().upper() for value in values(dataset, keyword)]


def modality(dataset: Dataset) -> str | None:
    """Read the modality; ``None`` where it is absent, or a term that nobody has defined."""
    return _term(code(dataset, "Modality"), MODALITIES)


def known_syntax(uid: str) -> str | None:
    """A transfer syntax that the standard knows, as it is; ``None`` for anything else."""
    return uid if UID(uid).type == "Transfer Syntax" else None


def of_frame(dataset: Dataset, macro: str, index: int) -> Dataset:
    """Find where the elements of a functional group macro stand for one frame (PS3.3 C.7.6.16).

    Args:
        dataset: The header.
        macro: Keyword of the macro's sequence.
        index: Which frame, from 0.

    Returns:
        Its item in the frame's own functional groups, or in those that all frames share;
        ``dataset`` itself where neither has one, as in objects without functional groups.
    """
    own = _items(dataset, "PerFrameFunctionalGroupsSequence")[index : index + 1]
    shared = _items(dataset, "SharedFunctionalGroupsSequence")[:1]
    found = (item for groups in (*own, *shared) for item in _items(groups, macro))
    return next(found, dataset)


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
        is_packed = bits <= 8 and len(data) in (count, count + 1)
        entries: Any = np.frombuffer(data, "u1" if is_packed else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
    if not 1 <= bits <= 16:
        raise ValueError("a lookup table of unknown depth")
    if entries.size < count - 1:  # writers count one too many
        raise ValueError("a lookup table that is cut off")
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
    regions = [
        (
            text(item, "CodeValue") or text(item, "LongCodeValue"),
            text(item, "CodingSchemeDesignator"),
        )
        for item in _items(dataset, "AnatomicRegionSequence")
    ]
    descriptions = {keyword: text(dataset, keyword) for keyword in _DESCRIPTIONS}
    body_part, body_part_source = anatomy.resolve(regions, tagged, descriptions)
    study = text(dataset, "StudyInstanceUID")
    patient = text(dataset, "PatientID")
    accession_number, withheld = _accession_number(dataset)
    return Header(
        sop_instance_uid=_uid(text(dataset, "SOPInstanceUID")),
        series_instance_uid=_uid(text(dataset, "SeriesInstanceUID")),
        study_instance_uid=_uid(study),
        accession_number=accession_number,
        study_datetime=iso_datetime(text(dataset, "StudyDate"), text(dataset, "StudyTime")),
        acquisition_datetime=_acquisition_datetime(dataset),
        modality=modality(dataset),
        body_part_tagged=tagged if anatomy.is_term(tagged) else None,
        body_part=None if body_part is None else body_part.value,
        body_part_source=body_part_source,
        view_position=_term(code(dataset, "ViewPosition"), _VIEWS),
        laterality=_term(code(dataset, "ImageLaterality"), _SIDES)
        or _term(code(dataset, "Laterality"), _SIDES),
        transfer_syntax=known_syntax(transfer_syntax),
        # An issuer would split a patient: it is missing on some images of a study.
        patient_tag=None if patient is None else _digest(patient.casefold(), 2),
        study_tag=None if study is None or _uid(study) else _digest(study, 4),
        accession_withheld=withheld,
        has_pixels="PixelData" in dataset,
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
    """A term of a vocabulary; ``None`` for anything else."""
    return value if value in vocabulary else None


def _acquisition_datetime(dataset: Dataset) -> str | None:
    """When the image was acquired, or the nearest time to that which the header knows."""
    joined = _DATETIME.fullmatch(text(dataset, "AcquisitionDateTime") or "")
    pairs = [joined.groups()] if joined else []
    pairs += [
        (text(dataset, f"{event}Date"), text(dataset, f"{event}Time"))
        for event in ("Acquisition", "Content", "Series")
    ]
    return next(filter(None, (iso_datetime(date, time) for date, time in pairs)), None)


def _accession_number(dataset: Dataset) -> tuple[str | None, bool]:
    """The accession number, and whether it is left out because it repeats who the patient is."""
    number = text(dataset, "AccessionNumber")
    if number is None or len(number) > 64:
        return None, False
    bare = _bare(number)
    repeats = any(_repeats(one, fact) for one in bare for fact in _patient_facts(dataset))
    return (None, True) if repeats else (number, False)


def _repeats(number: str, fact: str) -> bool:
    """Whether a bare accession number is, holds or is part of a bare fact about the patient."""
    # Two letters are a word in Chinese, but chance in ASCII.
    holds = fact in number and (len(fact) >= 3 or not fact.isascii())
    return fact == number or holds or (len(number) >= _LEAST_DIGITS and number in fact)


def _patient_facts(dataset: Dataset) -> set[str]:
    """Parts of the patient's names, the IDs and the birth date in usual forms, bare."""
    found: list[str] = []
    for keyword in _PATIENT_NAMES:
        for name in _texts(dataset, keyword):
            found += [name, *name.split("="), *_NAME_SEPARATORS.split(name)]
    ids = [*_texts(dataset, "PatientID"), *_texts(dataset, "OtherPatientIDs")]
    for item in _items(dataset, "OtherPatientIDsSequence"):
        ids += _texts(item, "PatientID")
    for number in ids:
        parts = (part.lstrip("0") for part in (number, *_DIGITS.findall(number)))
        found += [number, *(part for part in parts if len(part) >= _LEAST_DIGITS)]
    for date in _texts(dataset, "PatientBirthDate"):
        found.append(date)
        if match := _DATE.fullmatch(date):
            year, month, day = match.groups()
            found += [form.format(year, month, day, year[2:]) for form in _BIRTH_DATES]
    return {bare for fact in found for bare in _bare(fact)} - {""}


def _bare(value: str) -> set[str]:
    """Letters and digits without case and accents; two spellings where there are umlauts."""
    return {"".join(words) for words in anatomy.spellings(value)}


def _digest(value: str, size: int) -> int:
    """The first bytes, ``size`` of them, of a digest of a text."""
    return int.from_bytes(hashlib.sha256(value.encode(errors="replace")).digest()[:size], "big")


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
