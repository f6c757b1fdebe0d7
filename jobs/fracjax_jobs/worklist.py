"""From the state of a run to its tables: a function of the state, whatever way led to it.

Rows pass through spools on disk, so that no tree is too large for the memory.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from fracjax import interrupt
from fracjax.bundle import Manifest
from fracjax.calibration import in_words
from fracjax.engine import calibrated, called
from fracjax.image import Header, Reason
from fracjax.notice import NOTICE
from fracjax.triage import Band as TriageBand
from fracjax.triage import Triage
from fracjax_jobs import previews
from fracjax_jobs.identifiers import Identifiers
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.spool import Spool
from fracjax_jobs.state import Image, State
from fracjax_jobs.studies import (
    Band,
    Outcome,
    Study,
    resolve,
    split_patients,
)
from fracjax_jobs.tables import (
    FILES,
    LINKAGE,
    WORKLIST,
    CsvWriter,
    TableWriter,
    discard_partial,
)

TOP = 10
"""Studies that a summary shows."""

_PLACES = {band: place for place, band in enumerate(Band)}


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the tables of a worklist lie, and its state."""

    worklist: Path

    @property
    def files(self) -> Path:
        """The outcome of every file."""
        return self.worklist.with_suffix(".files.parquet")

    @property
    def linkage(self) -> Path:
        """The path of every file."""
        return self.worklist.with_suffix(".linkage.parquet")

    @property
    def csv(self) -> Path:
        """The worklist for a spreadsheet."""
        return self.worklist.with_suffix(".csv")

    @property
    def state(self) -> Path:
        """What the run has done so far."""
        return self.worklist.with_suffix(".state")

    @property
    def all(self) -> tuple[Path, ...]:
        """Each of them."""
        return (self.worklist, self.files, self.linkage, self.csv, self.state)


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the tables show what the state holds. No score depends on it.

    Attributes:
        identifiers: What stands for study UIDs and accession numbers.
        max_wait: After which a study is read next, whatever its likelihood; ``None`` for never.
        csv: Whether the worklist is written for a spreadsheet, too.
        prevalence: Part of positives in the population that likelihoods are said of; ``None`` for
            that of the studies that the model was calibrated on.
        site: Bands that a site has found by studies that it has labelled.
    """

    identifiers: Identifiers = field(default_factory=Identifiers)
    max_wait: timedelta | None = None
    csv: bool = False
    prevalence: float | None = None
    site: Triage | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """Heat maps that were written.

    Attributes:
        pictures: How many.
        failed: File keys of those that could not be read again, as when their file has gone.
    """

    pictures: int
    failed: tuple[str, ...]


@dataclass(slots=True)
class Summary:
    """What the tables say, in numbers.

    Attributes:
        files_found: Files and archive members.
        images_scored: Images, each frame counted, that have a likelihood.
        set_aside: The other files and frames, by reason.
        lost: Those of them that may be lost images, by reason.
        studies: By band.
        studies_in_part: Ranked ones with images that were set aside.
        studies_overdue: Ranked ones that have waited too long.
        top: Rows of the first ranked studies.
        triage: Ranked ones by a site's band; none where no bands were given.
        likelihood: What it is, in words.
        engine: What computed it, in words.
        heatmaps: What heat maps were written; ``None`` if none were asked for.
        is_news: Whether a table differs from that of an earlier run.
    """

    files_found: int = 0
    images_scored: int = 0
    set_aside: Counter[Reason] = field(default_factory=Counter)
    lost: Counter[Reason] = field(default_factory=Counter)
    studies: Counter[Band] = field(default_factory=Counter)
    studies_in_part: int = 0
    studies_overdue: int = 0
    triage: Counter[TriageBand] = field(default_factory=Counter)
    top: list[dict[str, Any]] = field(default_factory=list)
    likelihood: str = ""
    engine: str = ""
    heatmaps: Written | None = None
    is_news: bool = False

    @property
    def failures(self) -> int:
        """Images that may be lost."""
        return self.lost.total()

    def counts(self) -> dict[str, Any]:
        """Give what a footer or a log says of it."""
        return {
            "files_found": self.files_found,
            "images_scored": self.images_scored,
            "set_aside": {str(reason): n for reason, n in sorted(self.set_aside.items())},
            "failures": self.failures,
            "studies": {str(band): self.studies[band] for band in Band},
            "studies_in_part": self.studies_in_part,
            "studies_overdue": self.studies_overdue,
        }


def write_tables(
    state: State,
    inventory: Inventory,
    manifest: Manifest,
    paths: Paths,
    presentation: Presentation,
    provenance: Mapping[str, Any],
) -> Summary:
    """Write the worklist and the tables beside it. They appear together, the worklist last.

    Args:
        state: With an account of every file of ``inventory``.
        inventory: The files, in the order that they are registered in.
        manifest: The model's.
        paths: Where the tables are written.
        presentation: How they show what the state holds.
        provenance: What their footers say beside the counts.

    Raises:
        UsageError: A table cannot be written.
        SystemExit: A signal has come. The tables are those of before.
        RuntimeError: The accounts do not add up, which is a defect of this program.
    """
    summary = Summary(likelihood=in_words(manifest.calibration, presentation.prevalence))
    with ExitStack() as stack:
        for path in paths.all:
            discard_partial(path)
        spools = _Spools(*(stack.enter_context(Spool()) for _ in range(3)))
        _sort(state, manifest, presentation, spools)
        linkage = stack.enter_context(TableWriter(paths.linkage, LINKAGE))
        files = stack.enter_context(TableWriter(paths.files, FILES))
        worklist = stack.enter_context(TableWriter(paths.worklist, WORKLIST))
        csv = stack.enter_context(CsvWriter(paths.csv)) if presentation.csv else None

        scored_in_studies = 0
        for row in _ranked(spools.studies):
            worklist.append(row)
            if csv is not None:
                csv.append(row)
            band = Band(row["band"])
            scored_in_studies += row["images_scored"]
            summary.studies[band] += 1
            summary.studies_in_part += band == Band.RANKED and row["images_set_aside"] > 0
            summary.studies_overdue += row["is_overdue"]
            if row["triage"] is not None:
                summary.triage[row["triage"]] += 1
            if band == Band.RANKED and len(summary.top) < TOP:
                summary.top.append(row)

        for entry, linked in zip(inventory, map(json.loads, spools.linkage), strict=True):
            summary.files_found += 1
            name = entry.name.encode(errors="backslashreplace").decode()
            linkage.append(linked | {"path": name})

        for row in map(json.loads, spools.files):
            files.append(row)
            if row["reason"] is None:
                summary.images_scored += 1
            else:
                reason = Reason(row["reason"])
                summary.set_aside[reason] += row["frames"]
                if row["is_failure"]:
                    summary.lost[reason] += row["frames"]

        frames = summary.images_scored + summary.set_aside.total()
        if summary.images_scored != scored_in_studies or frames != state.frames():
            raise RuntimeError(
                f"{summary.images_scored} images scored, but {scored_in_studies} in studies; "
                f"{frames} frames of {state.frames()}: no worklist is written"
            )
        footer = {**provenance, **summary.counts()}
        for table in (linkage, files, worklist):
            table.finish(footer)
        if csv is not None:
            csv.finish()
        interrupt.check()
        # The worklist last: where it stands, the tables that explain it stand too.
        for written in (linkage, files, csv, worklist):
            if written is not None:
                summary.is_news |= written.publish()
    state.finish()
    return summary


@dataclass(frozen=True, slots=True)
class _Spools:
    """Rows on their way into their tables.

    Attributes:
        studies: In the order of reading.
        files: By file key and frame. Not in the order of the walk, which is that of the paths and
            so tells of names.
        linkage: In the order of the walk.
    """

    studies: Spool
    files: Spool
    linkage: Spool


def _sort(state: State, manifest: Manifest, presentation: Presentation, spools: _Spools) -> None:
    """Put each study into its place, and each outcome into that of its file."""
    identifiers = presentation.identifiers
    previews.find(state)
    state.find_reused_uids()
    for _, same_study in groupby(state.images(of_study=True), lambda image: image.record.study):
        interrupt.check()
        patients = split_patients(list(same_study))
        for images in patients:
            resolved = resolve(
                images,
                preview=lambda image: state.preview(image.number),
                is_reused=state.is_reused,
            )
            study = Study(
                tuple(outcome for outcome in resolved if outcome.concerns_study),
                several_patients=len(patients) > 1,
            )
            key = _study_key(state, images, identifiers, is_part=len(patients) > 1)
            for outcome in resolved:
                # A preview is no image of any study.
                is_preview = outcome.reason in (Reason.PREVIEW, Reason.LIKELY_PREVIEW)
                of_study = None if is_preview else key
                _put_outcome(spools, state, outcome, of_study, identifiers)
            if study.images:
                _put_study(spools.studies, state, study, key, manifest, presentation)
    for image in state.images(of_study=False):
        account = image.record.account
        outcome = Outcome(
            image,
            account.reason,
            account.detail,
            is_lost=account.reason is not None and account.reason.is_failure,
            concerns_study=False,
            notes=account.notes,
        )
        _put_outcome(spools, state, outcome, None, identifiers)


def _put_study(
    studies: Spool,
    state: State,
    study: Study,
    key: str,
    manifest: Manifest,
    presentation: Presentation,
) -> None:
    """Put a study into its place in the order of reading."""
    reference = datetime.fromisoformat(state.reference)
    is_overdue = study.is_overdue(reference, presentation.max_wait)
    waits = study.waiting_since(reference.tzinfo).isoformat() if is_overdue else "~"  # after digits
    place = (_PLACES[study.band], waits, -(study.raw_likelihood or 0.0), key)
    row = _study_row(state, study, key, presentation, manifest)
    studies.put(place, json.dumps(row | {"is_overdue": is_overdue}))


def _ranked(studies: Spool) -> Iterator[dict[str, Any]]:
    """Give the rows of the worklist in its order, with their ranks."""
    rank = 0
    for text in studies:
        row = json.loads(text)
        if row["band"] == Band.RANKED:
            rank += 1
            row["rank"] = rank
        yield row


def _put_outcome(
    spools: _Spools,
    state: State,
    outcome: Outcome,
    study_key: str | None,
    identifiers: Identifiers,
) -> None:
    image, account = outcome.image, outcome.account
    header = account.header or Header()
    file_key = _file_key(state, image, identifiers)
    row = {
        "file_key": file_key,
        "frame": account.frame,
        "frames": account.frames,
        "outcome": "scored" if outcome.reason is None else "set_aside",
        "reason": outcome.reason,
        "detail": outcome.detail,
        "is_failure": outcome.is_lost,
        "study_key": study_key,
        "sop_instance_uid": identifiers.show(header.sop_instance_uid),
        "raw_likelihood": outcome.raw_likelihood,
        "distance": account.distance,
        "body_part": header.body_part,
        "body_part_source": header.body_part_source,
        "view_position": header.view_position,
        "laterality": header.laterality,
        "format": account.format,
        "transfer_syntax": header.transfer_syntax,
        "decoder": account.decoder,
        "voi_source": account.voi_source,
        "polarity_source": account.polarity_source,
        "notes": list(outcome.notes),
        "scored_at": account.scored_at,
    }
    spools.files.put((file_key, account.frame or 0, 0, 0), json.dumps(row))
    if account.frame not in (None, 1):  # one row a file
        return
    linked = {
        "file_key": file_key,
        "study_key": study_key,
        "study_instance_uid": header.study_instance_uid,
        "accession_number": header.accession_number,
        "sop_instance_uid": header.sop_instance_uid,
    }
    spools.linkage.put((image.position, 0, 0, 0), json.dumps(linked))


def _file_key(state: State, image: Image, identifiers: Identifiers) -> str:
    """Name a file. Hashed where identifiers are: its number is its place among the paths."""
    return identifiers.show(state.file_key(image.number)) or ""


def _study_key(
    state: State, images: Sequence[Image], identifiers: Identifiers, *, is_part: bool
) -> str:
    """Name a study: by its UID, by the key of its oldest file, or where it is part, by both."""
    oldest = _file_key(state, min(images, key=lambda image: image.number), identifiers)
    headers = (image.record.account.header for image in images)
    uid = next((header.study_instance_uid for header in headers if header is not None), None)
    if uid is None:
        return oldest
    shown = identifiers.show(uid) or ""
    return f"{shown}/{oldest}" if is_part else shown


def _study_row(
    state: State, study: Study, key: str, presentation: Presentation, manifest: Manifest
) -> dict[str, Any]:
    """Give a study's row of the worklist (``docs/worklist.md``), but for its rank."""
    identifiers, site, raw = presentation.identifiers, presentation.site, study.raw_likelihood
    headers, scored = study.headers, study.scored
    top = scored[0] if scored else None
    top_header = top.account.header if top else None

    def shown(name: str) -> str | None:
        return identifiers.show(_first(headers, name))

    times = [header.acquisition_datetime for header in headers if header.acquisition_datetime]
    notes = {note for image in study.images for note in image.notes}
    if study.several_patients:
        notes.add("several_patients")
    if any(header.accession_withheld for header in headers):
        notes.add("accession_withheld")
    return {
        "rank": None,
        "band": study.band,
        "likelihood": None if raw is None else calibrated(manifest, raw, presentation.prevalence),
        "raw_likelihood": raw,
        "target": manifest.target,
        "calls": [] if raw is None else list(called(manifest, raw)),
        "triage": None if raw is None or site is None else site.band(raw),
        "study_key": key,
        "study_instance_uid": shown("study_instance_uid"),
        "accession_number": shown("accession_number"),
        "study_datetime": identifiers.time(_first(headers, "study_datetime")),
        "acquisition_datetime": identifiers.time(min(times, default=None)),
        "modality": _first(headers, "modality"),
        "body_parts": _each(headers, "body_part"),
        "body_parts_tagged": _each(headers, "body_part_tagged"),
        "series_instance_uids": [
            identifiers.show(uid) for uid in _each(headers, "series_instance_uid")
        ],
        "images_found": sum(image.account.frames for image in study.images),
        "images_scored": len(scored),
        "images_set_aside": sum(
            image.account.frames for image in study.images if image.reason is not None
        ),
        "image_raw_likelihoods": [image.raw_likelihood for image in scored],
        "image_file_keys": [_file_key(state, image.image, identifiers) for image in scored],
        "top_sop_instance_uid": (
            identifiers.show(top_header.sop_instance_uid) if top_header else None
        ),
        "top_file_key": _file_key(state, top.image, identifiers) if top else None,
        "top_frame": top.account.frame if top else None,
        "reasons": sorted({str(reason) for reason in study.set_aside}),
        "notes": sorted(notes),
        "model_id": manifest.model_id,
        "weights_sha256": manifest.weights_sha256,
        "scored_at": max((image.account.scored_at or "" for image in scored), default=None),
        "notice": NOTICE,
    }


def _each(headers: Sequence[Header], name: str) -> list[str]:
    """Give the values of a fact, each once, in the order of the images."""
    return list(dict.fromkeys(value for h in headers if (value := getattr(h, name)) is not None))


def _first(headers: Sequence[Header], name: str) -> str | None:
    return next(iter(_each(headers, name)), None)
