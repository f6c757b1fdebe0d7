"""A site's own labels, joined with the worklist that they are of."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fracjax.errors import DataError, UsageError
from fracjax.evaluate.cases import Cases
from fracjax.metrics import Sample

NAMES = ("study_key", "study_instance_uid", "accession_number")
"""Columns that a label's study may be named by, the first that is there."""

LABEL, PATIENT = "label", "patient"

MOST_VALUES = 30
"""Of a column that figures are told apart by. A column of more may name patients."""

FEWEST_PATIENTS = 5
"""Of a value, else it is among the others: rarer ones may say who it is."""

OTHERS = "others"
"""The value of cases whose own is rare."""

SCHEMA_VERSION = 2
"""Of the worklists that can be read."""


@dataclass(frozen=True, eq=False)
class Site:
    """Labelled studies of a worklist.

    Attributes:
        studies: Those that have a likelihood.
        unscored: For each band without a score, how many labelled studies stand there, and how many
            of them are positive.
        missing: How many labels are of no study of the worklist, and how many of them positive.
        unlabelled: Lines without a label.
        has_patients: Whether the labels name patients; if not, each study is a group of its own.
        footer: What the worklist says of how it was made.
        sha256: Digest of the labels' file.
    """

    studies: Cases
    unscored: Mapping[str, tuple[int, int]]
    missing: tuple[int, int]
    unlabelled: int
    has_patients: bool
    footer: Mapping[str, Any]
    sha256: str

    @property
    def remarks(self) -> list[str]:
        """Say what a reader of any figure of these studies must know."""
        said = [
            f"labelled studies without a likelihood ({band}): {count}, {positives} positive; they "
            "are in no figure, and before all others in the worklist"
            for band, (count, positives) in self.unscored.items()
        ]
        missing, positives = self.missing
        if missing:
            said.append(
                f"labels of studies that the worklist lacks: {missing}, {positives} positive"
            )
        if self.unlabelled:
            said.append(f"lines without a label, which count for nothing: {self.unlabelled}")
        if not self.has_patients:
            said.append(
                "the labels name no patients, so each study is taken for one: intervals are too "
                "narrow, and guarantees too sure, if patients have several"
            )
        return said


def read(labels: Path, worklist: Path, traits: Sequence[str] = ()) -> Site:
    """Read labels, and the likelihoods that a worklist has of their studies.

    Args:
        labels: A table, UTF-8, with one of the columns :data:`NAMES`; ``label``, 0, 1 or, where it
            is not known, nothing; and if several studies are of one patient, ``patient``: any name
            for each.
        worklist: Of ``fracjax score-dir``.
        traits: Further columns of the labels that cases may be told apart by. Values of fewer
            patients than ``FEWEST_PATIENTS`` become :data:`OTHERS`.

    Raises:
        DataError: One of them cannot be read, a label is neither 0 nor 1, or a study is named
            twice, or by a name that several studies of the worklist have; or none has a likelihood.
        UsageError: A trait would name patients.
    """
    footer, table = _read_worklist(worklist)
    _check_traits(traits)
    name, rows, unlabelled, sha256 = _read_labels(labels, traits)
    places: dict[str, list[int]] = {}
    for place, value in enumerate(table[name].to_pylist()):
        if value is not None:
            places.setdefault(value, []).append(place)
    found: list[int] = []
    kept: list[dict[str, str]] = []
    for line, row in rows.items():
        matches = places.get(row[name], [])
        if len(matches) > 1:
            raise DataError(
                f"line {line} of {labels} names {len(matches)} studies by one {name}; "
                "name them by study_key"
            )
        if matches:
            found += matches
            kept.append(row)
    if not found:
        raise DataError(
            f"no {name} of {labels} is in {worklist}; give the worklist that they are of, or name "
            f"studies by another of {', '.join(NAMES)}"
        )
    chosen = table.take(found)
    likelihoods = np.array(chosen["raw_likelihood"].to_pylist(), np.float64)  # None is NaN
    scored = ~np.isnan(likelihoods)
    if not scored.any():
        raise DataError(
            f"none of the {len(kept)} studies that {labels} and {worklist} share has a likelihood; "
            "label studies that have one"
        )
    truth = np.array([int(row[LABEL]) for row in kept])
    has_patients = PATIENT in kept[0]
    groups = np.array([row[PATIENT] if has_patients else row[name] for row in kept])
    body_parts = ["+".join(sorted(parts)) for parts in chosen["body_parts"].to_pylist()]
    values = {
        "body_part": np.array(body_parts, np.str_),
        **{trait: _common(np.array([row[trait] for row in kept]), groups) for trait in traits},
    }
    bands = np.array(chosen["band"].to_pylist())
    unscored = {
        band: (int((bands == band).sum()), int(truth[bands == band].sum()))
        for band in sorted(set(bands[~scored].tolist()))
    }
    sample = Sample(truth, likelihoods, groups).chosen(scored)
    return Site(
        Cases("study", sample, {trait: column[scored] for trait, column in values.items()}),
        unscored,
        missing=(
            len(rows) - len(kept),
            sum(row[LABEL] == "1" for row in rows.values()) - int(truth.sum()),
        ),
        unlabelled=unlabelled,
        has_patients=has_patients,
        footer=footer,
        sha256=sha256,
    )


def _common(values: NDArray[np.str_], groups: NDArray[Any]) -> NDArray[np.str_]:
    """Put values that few patients have together; none stays none."""
    rare = [
        value
        for value in set(values.tolist()) - {""}
        if len(set(groups[values == value].tolist())) < FEWEST_PATIENTS
    ]
    return np.array([OTHERS if value in rare else value for value in values.tolist()], np.str_)


def _check_traits(traits: Sequence[str]) -> None:
    """Refuse columns of which each value is a patient's or a study's own, or is the label."""
    for trait in traits:
        if trait in (*NAMES, PATIENT, LABEL):
            raise UsageError(
                f"figures are not told apart by {trait}, which would name each of its values in "
                "the report; give --by another column"
            )


def _read_worklist(path: Path) -> tuple[dict[str, Any], pa.Table]:
    try:
        table = pq.read_table(path)
        footer = json.loads((pq.read_metadata(path).metadata or {})[b"fracjax"])
        version = footer["schema_version"]
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{path} cannot be read: {reason or 'it is damaged'}") from None
    except (pa.ArrowException, KeyError, ValueError):
        raise DataError(
            f"{path} is no worklist; give a table that 'fracjax score-dir' wrote"
        ) from None
    if version != SCHEMA_VERSION or "band" not in table.column_names:
        raise DataError(
            f"{path} is no worklist of schema version {SCHEMA_VERSION}; run 'fracjax score-dir' "
            "again"
        )
    return footer, table


def _read_labels(
    path: Path, traits: Sequence[str]
) -> tuple[str, dict[int, dict[str, str]], int, str]:
    """Give the column that names studies, rows by line, lines without a label, and the digest."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text; save the labels as CSV in UTF-8") from None
    reader = csv.DictReader(text.splitlines())
    known = {name.lower(): name for name in (*NAMES, LABEL, PATIENT)}
    columns = [known.get(name.strip().lower(), name.strip()) for name in reader.fieldnames or []]
    if columns.count("") > 1:
        raise DataError(f"{path} has {columns.count('')} columns without a name; remove them")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} names a column twice; leave one of them out")
    reader.fieldnames = columns
    named = [name for name in NAMES if name in columns]
    lacking = [name for name in (LABEL, *traits) if name not in columns]
    if not named or lacking:
        lack = ", ".join(lacking) or f"one of {', '.join(NAMES)}"
        way_out = (
            "separate columns by commas"
            if len(columns) == 1 and any(mark in columns[0] for mark in ";\t")
            else f"its first line has to name columns, and has {len(columns)} others"
        )
        raise DataError(f"{path} has no column {lack}; {way_out}")
    rows: dict[int, dict[str, str]] = {}
    unlabelled = 0
    seen: set[str] = set()
    try:
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise DataError(f"line {line} of {path} has not as many cells as the first line")
            row = {column: cell.strip() for column, cell in row.items()}  # noqa: PLW2901
            if not row[LABEL]:
                unlabelled += 1
                continue
            row[LABEL] = row[LABEL].removesuffix(".0")
            if row[LABEL] not in ("0", "1"):
                raise DataError(
                    f"line {line} of {path} has a label that is neither 0 nor 1; write 1 or 0, "
                    "and nothing where it is not known"
                )
            if not row[named[0]]:
                raise DataError(f"line {line} of {path} names no study; fill in {named[0]}")
            if row[named[0]] in seen:
                raise DataError(f"line {line} of {path} names a study for the second time")
            if PATIENT in row and not row[PATIENT]:
                raise DataError(f"line {line} of {path} names no patient; name all, or none")
            seen.add(row[named[0]])
            rows[line] = row
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}") from None
    if not rows:
        raise DataError(f"{path} has no labels; write a line for each study")
    for trait in traits:
        values = {row[trait] for row in rows.values()}
        if len(values) > MOST_VALUES:
            raise UsageError(
                f"{trait} has {len(values)} values, and figures are told apart by "
                f"{MOST_VALUES} at most; give --by another column"
            )
    return named[0], rows, unlabelled, hashlib.sha256(data).hexdigest()
