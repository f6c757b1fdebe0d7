"""The batch job: find, read, score, account, rank, write."""

import functools
import hashlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fracjax import interrupt
from fracjax.calibration import in_words
from fracjax.engine import Scorer, check_calibrated
from fracjax.errors import UsageError
from fracjax.image import ReadPolicy
from fracjax.notice import NOTICE
from fracjax.triage import check_model
from fracjax_jobs import heatmaps
from fracjax_jobs.claims import software
from fracjax_jobs.heatmaps import Wanted
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.ledger import Ledger
from fracjax_jobs.pool import Limits
from fracjax_jobs.read import kind_of
from fracjax_jobs.restart import set_aside
from fracjax_jobs.scoring import Done, score_here
from fracjax_jobs.state import State, Task
from fracjax_jobs.studies import GroupBy
from fracjax_jobs.tables import SCHEMA_VERSION
from fracjax_jobs.worklist import Paths, Presentation, Summary, write_tables

_Score: TypeAlias = Callable[
    [Scorer, Iterable[Task], ReadPolicy, Limits], Generator[list[Done], None, None]
]
"""Reads files and scores their pictures, somewhere."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the job runs.

    Attributes:
        group_by: What makes plain images one study.
        policy: What is read as a radiograph. Where it names no body parts, those of the model's
            scope are scored.
        limits: What reading one file may cost.
        presentation: How the tables show what was found.
        restart: Whether the state of an earlier run is put out of the way.
        heatmaps: Heat maps to be written beside the worklist; ``None`` for none.
        cluster: What spreads the work over several machines; ``None`` for this one alone.
    """

    group_by: GroupBy = GroupBy.STUDY
    policy: ReadPolicy = field(default_factory=ReadPolicy)
    limits: Limits = field(default_factory=Limits)
    presentation: Presentation = field(default_factory=Presentation)
    restart: bool = False
    heatmaps: Wanted | None = None
    cluster: Literal["ray"] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        found: Files found; all of them, once they are listed.
        done: Files that have their outcome, those of earlier runs too.
        known: Files whose outcome an earlier run has found.
        is_listing: Whether the export is still being walked.
    """

    found: int
    done: int = 0
    known: int = 0
    is_listing: bool = False


def score_dir(
    root: Path,
    out: Path,
    scorer: Scorer,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Score every radiograph below a directory and write the ranked worklist.

    Beside ``out`` stand the tables of :class:`fracjax_jobs.worklist.Paths`, and a state that the
    same call goes on from, whatever has ended it: it scores nothing twice. Nothing is written into
    ``root``.

    Args:
        root: The export. It is only read.
        out: The worklist, a Parquet file. It appears whole or not at all.
        scorer: The model.
        options: How the job runs.
        report: Called as the job goes on.

    Returns:
        What the tables say.

    Raises:
        UsageError: ``root`` is no directory or holds no file, ``out`` lies in it or cannot be
            written, beside it lies the state of a run under other conditions, or likelihoods are
            to be said of a population, or banded, that the model does not allow; or there is no
            such cluster.
        JobError: The state is damaged, reading processes do not start, or nodes of a cluster are
            not alike, do not see the export, or are gone.
        SystemExit: A signal has come. What was read till then is scored and kept.
    """
    options = options or Options()
    check_paths(root, out)
    paths = Paths(out)
    if paths.csv.exists() and not options.presentation.csv:
        raise UsageError(
            f"{paths.csv} is of an earlier run, and would not match the new worklist; remove it, "
            "or give --csv"
        )
    manifest = scorer.manifest
    check_calibrated(manifest, options.presentation.prevalence)
    if options.heatmaps is not None:
        heatmaps.check_directory(options.heatmaps, root)
    if options.presentation.site is not None:
        check_model(options.presentation.site, manifest)
    policy = options.policy
    if not policy.body_parts:
        policy = replace(policy, body_parts=manifest.scope)
    with interrupt.deferred(), ExitStack() as stack:
        score = stack.enter_context(_place(root, options.cluster))
        inventory = stack.enter_context(Inventory(root))

        def listed(found: int) -> None:
            report(Progress(found, is_listing=True))
            interrupt.check()

        inventory.scan(listed)
        if len(inventory) == 0:
            raise UsageError(f"{root} holds no file; give the directory of an export")
        claim = conditions(root, scorer, policy, options.group_by)
        if options.restart:
            set_aside(paths.state, claim)
        state = stack.enter_context(State(paths.state))
        state.begin(
            claim,
            key_prefix=inventory.digest[:6],
            reference=datetime.now().astimezone().isoformat(timespec="seconds"),
            given={
                "seconds_per_file": options.limits.seconds_per_file,
                "bytes_per_worker": options.limits.bytes_per_worker,
            },
            restart=options.restart,
        )
        state.register(inventory)
        known = state.done()
        ledger = Ledger(options.group_by, state)
        done = known
        report(Progress(len(inventory), done, known))

        with closing(score(scorer, state.tasks(inventory), policy, options.limits)) as scored:
            for some in scored:
                ledger.take(some)
                done += len(some)
                report(Progress(len(inventory), done, known))
        summary = write_tables(
            state,
            inventory,
            manifest,
            paths,
            options.presentation,
            provenance(scorer, claim, options.presentation, state.reference),
        )
        summary.engine = str(scorer.engine)
        if options.heatmaps is not None:
            summary.heatmaps = heatmaps.write(
                options.heatmaps, paths, inventory, scorer, policy, options.limits
            )
        return summary


def count(root: Path) -> Counter[str]:
    """Count what lies in an export by its first bytes, without reading or scoring it.

    Raises:
        JobError: There is no room for the list of files.
    """
    with Inventory(root) as inventory:
        inventory.scan(lambda found: interrupt.check())
        return Counter(str(kind_of(entry)) for entry in inventory)


def check_paths(root: Path, out: Path) -> None:
    """Check that ``root`` can be read and ``out`` written, outside of it.

    Raises:
        UsageError: They cannot.
    """
    if out.suffix != ".parquet" or out.stem == "":
        raise UsageError(f"{out} is not named as a Parquet file; give a name like worklist.parquet")
    if out.with_suffix("").suffix in (".files", ".linkage"):
        raise UsageError(f"{out} is named as a table beside a worklist; give another name")
    try:
        if not root.is_dir():
            what = "is not a directory" if root.exists() else "does not exist"
            raise UsageError(f"{root} {what}; give the directory of an export")
        if not out.parent.is_dir():
            raise UsageError(f"{out.parent} is not a directory; make it, or give another --out")
        inside = out.resolve().is_relative_to(root.resolve())
        directories = [path for path in Paths(out).all if path.is_dir()]
    except OSError as error:  # a name too long, a folder that must not be looked into
        raise UsageError(f"{error.filename} cannot be looked up: {error.strerror}") from None
    if inside:
        raise UsageError(f"{out} lies inside the export; nothing is written there, so give another")
    if directories:
        raise UsageError(f"{directories[0]} is a directory; remove it, or give another --out")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out.parent} cannot be written to; give another --out")


def conditions(root: Path, scorer: Scorer, policy: ReadPolicy, group_by: GroupBy) -> dict[str, Any]:
    """Collect all that a score depends on, and of which export it is.

    Scores made under other conditions never stand in one worklist.
    """
    manifest = scorer.manifest
    return {
        "export": _digest(os.fsdecode(root.resolve()))[:16],
        "model_id": manifest.model_id,
        "weights_sha256": manifest.weights_sha256,
        "bundle": _digest(asdict(manifest)),
        "engine": asdict(scorer.engine),
        "preprocess": asdict(manifest.preprocess),
        "policy": asdict(policy),
        "group_by": group_by,
        "software": software(),
    }


def provenance(
    scorer: Scorer, claim: dict[str, Any], presentation: Presentation, reference: str
) -> dict[str, Any]:
    """Collect what a table's footer says of how it was made, beside the counts.

    Nothing in it is of one run alone, so that a run which finds nothing new writes the same bytes.
    """
    manifest = scorer.manifest
    max_wait, calibration = presentation.max_wait, manifest.calibration
    # Without the export: from its digest, a path that names a patient could be guessed.
    configuration = {name: value for name, value in claim.items() if name != "export"}
    return {
        "notice": NOTICE,
        "schema_version": SCHEMA_VERSION,
        "target": manifest.target,
        "raw_likelihood": "mean over the study's images of the model's output",
        "likelihood": f"the raw one, {in_words(calibration, presentation.prevalence)}",
        "prevalence": presentation.prevalence,
        "calibration": None if calibration is None else asdict(calibration),
        "operating_points": {
            name: asdict(point) for name, point in manifest.operating_points.items()
        },
        "site": None if presentation.site is None else asdict(presentation.site),
        **configuration,
        "preprocess_sha256": _digest(claim["preprocess"]),
        "policy_sha256": _digest(claim["policy"]),
        "configuration_sha256": _digest(configuration),
        "figures": {name: asdict(figure) for name, figure in manifest.figures.items()},
        "gate": asdict(manifest.gate),
        "identifiers": presentation.identifiers.mode,
        "max_wait_hours": None if max_wait is None else max_wait.total_seconds() / 3600,
        "reference_time": reference,
    }


@contextmanager
def _place(root: Path, cluster: str | None) -> Iterator[_Score]:
    """Make ready to read and score here, or on the nodes of a cluster."""
    if cluster is None:
        yield score_here
        return
    if importlib.util.find_spec("ray") is None:
        raise UsageError('Ray is not installed; pip install "fracjax[ray]" on every machine')
    from fracjax_jobs.cluster import joined, score_on_nodes

    with joined():
        yield functools.partial(score_on_nodes, root.resolve())


def _digest(value: Any) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True).encode(errors="surrogateescape")
    ).hexdigest()
