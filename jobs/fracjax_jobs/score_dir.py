"""The batch job: walk, read, score, account, rank, write."""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fracjax.engine import Scorer
from fracjax.errors import UsageError
from fracjax.image import Reason
from fracjax.notice import NOTICE
from fracjax_jobs.ledger import Ledger
from fracjax_jobs.pool import default_workers, read_all
from fracjax_jobs.studies import GroupBy, Study, rank
from fracjax_jobs.tables import FILES, LINKAGE, SCHEMA_VERSION, WORKLIST, TableWriter
from fracjax_jobs.walk import Entry, walk

TOP = 10
"""Studies that the summary shows."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the job runs.

    Attributes:
        group_by: What makes plain images one study.
        workers: Processes that read and decode.
        seconds_per_file: After which reading a file is given up.
    """

    group_by: GroupBy = GroupBy.STUDY
    workers: int = 0
    seconds_per_file: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"{self.workers} workers cannot read; give 1 or more, or 0 for all")
        if not self.seconds_per_file > 0:  # of NaN, too
            raise UsageError("a file needs time to be read; give more than 0 seconds")


@dataclass(frozen=True, slots=True)
class Summary:
    """What the job did.

    Attributes:
        files_found: Files and archive members; each has one outcome.
        images_scored: Those that were scored.
        set_aside: The others, by reason.
        studies_ranked: Studies with a score.
        studies_scored_in_part: Those of them with images that could not be scored.
        studies_not_scored: Studies with images, but without a score.
        top: The first studies of the ranking.
    """

    files_found: int
    images_scored: int
    set_aside: dict[Reason, int]
    studies_ranked: int
    studies_scored_in_part: int
    studies_not_scored: int
    top: list[Study]

    @property
    def failures(self) -> int:
        """Files set aside that may have been images."""
        return sum(count for reason, count in self.set_aside.items() if reason.is_failure)


def score_dir(
    root: Path,
    out: Path,
    scorer: Scorer,
    options: Options | None = None,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Score every radiograph below a directory and write the ranked worklist.

    Beside ``out`` stand ``<stem>.files.parquet``, with the outcome of every file, and
    ``<stem>.linkage.parquet``, which alone knows their paths. Nothing is written into ``root``.

    Args:
        root: The export. It is only read.
        out: The worklist, a Parquet file. It appears whole or not at all.
        scorer: The model.
        options: How the job runs.
        report: Called with the number of files done, and of all files.

    Returns:
        What was done.

    Raises:
        UsageError: ``root`` is no directory or holds no file, or ``out`` lies in it or cannot
            be written.
    """
    options = options or Options()
    check_paths(root, out)
    entries = list(walk(root))
    if not entries:
        raise UsageError(f"{root} holds no file; give the directory of an export")
    results = read_all(
        entries,
        scorer.manifest.preprocess,
        workers=options.workers or default_workers(),
        seconds_per_file=options.seconds_per_file,
    )
    worklist_path, files_path, linkage_path = table_paths(out)
    with (
        closing(results),
        TableWriter(worklist_path, WORKLIST) as worklist,
        TableWriter(files_path, FILES) as files,
        TableWriter(linkage_path, LINKAGE) as linkage,
    ):
        ledger = Ledger(scorer, options.group_by, files, linkage, key_prefix=key_prefix(entries))
        for done, (entry, result) in enumerate(results, start=1):
            ledger.take(entry, result)
            report(done, len(entries))
        ledger.score_pending()
        ledger.check(len(entries))
        ranked = rank(ledger.studies)
        for position, study in ranked:
            worklist.append(study.row(position, scorer.manifest.target, scorer.manifest.model_id))
        scored = [study for position, study in ranked if position is not None]
        summary = Summary(
            files_found=ledger.found,
            images_scored=ledger.scored,
            set_aside=dict(ledger.set_aside.most_common()),
            studies_ranked=len(scored),
            studies_scored_in_part=sum(1 for study in scored if study.set_aside),
            studies_not_scored=len(ranked) - len(scored),
            top=scored[:TOP],
        )
        metadata = provenance(scorer, options, summary)
        # The worklist last: where it stands, the tables that explain it stand too.
        tables = (linkage, files, worklist)
        for table in tables:
            table.finish(metadata)
        for table in tables:
            table.publish()
    return summary


def table_paths(out: Path) -> tuple[Path, Path, Path]:
    """Name the worklist, and the tables of files and of linkage beside it."""
    return out, out.with_suffix(".files.parquet"), out.with_suffix(".linkage.parquet")


def key_prefix(entries: Sequence[Entry]) -> str:
    """Give the file keys of one tree a beginning that those of another do not have.

    So tables of two exports never join, whatever became of a run between them.
    """
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:6]


def check_paths(root: Path, out: Path) -> None:
    """Check that ``root`` can be read and ``out`` written, outside of it.

    Raises:
        UsageError: They cannot.
    """
    try:
        if not root.is_dir():
            what = "is not a directory" if root.exists() else "does not exist"
            raise UsageError(f"{root} {what}; give the directory of an export")
        if not out.parent.is_dir():
            raise UsageError(f"{out.parent} is not a directory; make it, or give another --out")
        inside = out.resolve().is_relative_to(root.resolve())
        directories = [path for path in table_paths(out) if path.is_dir()]
    except OSError as error:  # a name too long, a folder that must not be looked into
        raise UsageError(f"{error.filename} cannot be looked up: {error.strerror}") from None
    if inside:
        raise UsageError(f"{out} lies inside the export; nothing is written there, so give another")
    if out.suffix != ".parquet":
        raise UsageError(f"{out} is not named as a Parquet file; give a name like worklist.parquet")
    if directories:
        raise UsageError(f"{directories[0]} is a directory; remove it, or give another --out")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out.parent} cannot be written to; give another --out")


def provenance(scorer: Scorer, options: Options, summary: Summary) -> dict[str, Any]:
    """Collect what a table's footer says of how it was made."""
    manifest = scorer.manifest
    return {
        "notice": NOTICE,
        "schema_version": SCHEMA_VERSION,
        "model_id": manifest.model_id,
        "weights_sha256": manifest.weights_sha256,
        "target": manifest.target,
        "likelihood": "mean over the study's images of the model's output, not calibrated",
        "preprocess": asdict(manifest.preprocess),
        "figures": {name: asdict(figure) for name, figure in manifest.figures.items()},
        "group_by": options.group_by,
        "files_found": summary.files_found,
        "images_scored": summary.images_scored,
        "set_aside": summary.set_aside,
        "studies_ranked": summary.studies_ranked,
        "studies_scored_in_part": summary.studies_scored_in_part,
        "studies_not_scored": summary.studies_not_scored,
        "software": {
            name: importlib.metadata.version(name)
            for name in ("fracjax", "jax", "flax", "pydicom", "imagecodecs", "pillow")
        },
        "scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
